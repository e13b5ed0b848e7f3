//! What stages share: `resources` and `uses`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Something that stages share: a number of units, a rate, or devices.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ResourceSpec {
    /// So many units, which are given back.
    Units(#[schemars(range(min = 1, max = 1_000_000_000))] u32),
    /// So much in a time.
    Rate(RateSpec),
    /// Units that are told apart.
    Devices(DevicesSpec),
}

/// So much in a time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct RateSpec {
    /// How much in how long, like `100/min`: a number, and `s`, `min`, `h` or `d`.
    #[schemars(schema_with = "crate::spec::schema::rate", example = &"100/min", example = &"5/s")]
    pub rate: String,
    /// How many attempts may have it at once, besides: each gives its slots back when it has ended. Without it, as many as the rate allows.
    #[schemars(range(min = 1, max = 1_000_000_000), example = &4)]
    pub slots: Option<u32>,
    /// How much may be taken at once after a time in which nothing was. Without it, what comes in 100 ms, but at least 1.
    #[schemars(range(min = 1, max = 1_000_000_000), example = &10)]
    pub burst: Option<u32>,
}

/// Units that are told apart, such as GPUs: who has some of them is told which. It has exactly one of `units` and `ids`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct DevicesSpec {
    /// The environment variable that has the ids, with commas between them.
    #[schemars(example = &"CUDA_VISIBLE_DEVICES")]
    pub env: String,
    /// How many: their ids are 0, 1, 2, and so on.
    #[schemars(range(min = 1, max = 1024), example = &2)]
    pub units: Option<u32>,
    /// Their ids.
    #[schemars(length(min = 1, max = 1024), example = &[0, 3])]
    pub ids: Option<Vec<DeviceIdSpec>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum DeviceIdSpec {
    /// A number.
    Number(#[schemars(range(min = 0, max = 1_000_000_000))] u32),
    /// Any other text.
    Text(String),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum UsesSpec {
    /// One of this resource.
    One(String),
    /// One of each.
    Many(#[schemars(length(min = 1))] Vec<String>),
    /// So much of each.
    Units(#[schemars(schema_with = "crate::spec::schema::named::<UseSpec>")] BTreeMap<String, UseSpec>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum UseSpec {
    /// So much for each attempt.
    Units(#[schemars(range(min = 1, max = 1_000_000_000))] u32),
    /// So much, for each attempt or for each row.
    Options(UseOptions),
}

/// How much is taken.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct UseOptions {
    /// How much.
    #[schemars(range(min = 1, max = 1_000_000_000), example = &2, extend("default" = 1))]
    pub units: Option<u32>,
    /// For what.
    #[schemars(example = &"row")]
    pub per: PerSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PerSpec {
    /// For each attempt of a batch.
    Attempt,
    /// For each row that an attempt is given (of rates).
    Row,
}
