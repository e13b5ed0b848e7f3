//! Code in Python and what it needs: `python` of a stage and of the pipeline.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What the workers need from Python. Requirements are installed once into a cached virtual environment; `interpreter` or
/// `venv` names one that exists instead.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct PythonEnvironmentSpec {
    /// Packages as pip reads them, or the path of a requirements file.
    #[schemars(example = &"requirements.txt")]
    pub requirements: Option<RequirementsSpec>,
    /// Folders that modules are imported from, relative to this file.
    #[serde(default)]
    #[schemars(example = &["."], extend("default" = ["."]))]
    pub path: Vec<String>,
    /// A Python interpreter to use as it is, or to build the environment with when there are `requirements`.
    #[schemars(example = &"/usr/bin/python3.12", extend("default" = "python3"))]
    pub interpreter: Option<String>,
    /// A virtual environment to use as it is.
    #[schemars(example = &".venv")]
    pub venv: Option<String>,
    /// How much the workers give way to other programs, as `nice` has it: added to the niceness of millpond itself.
    #[schemars(range(min = 0, max = 19), example = &5, extend("default" = 0))]
    pub nice: Option<u8>,
    /// How many threads numerical libraries may use in each worker (`OMP_NUM_THREADS` and its like). Without it, the cores divided by the workers.
    #[schemars(range(min = 1, max = 1024), example = &2)]
    pub threads: Option<u32>,
    /// How the workers of all stages that do not say it themselves are started.
    #[schemars(extend("default" = "template"))]
    pub start: Option<StartSpec>,
    /// On which cores the workers of all stages may run that do not say it themselves. Without it, wherever millpond itself may.
    #[schemars(example = &"spread", example = &[0, 1])]
    pub cpus: Option<CpusSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum CpusSpec {
    /// Each worker on one core.
    Spread(SpreadSpec),
    /// The numbers of the cores, as Linux counts them from 0.
    Only(#[schemars(length(min = 1), inner(range(max = 1023)))] Vec<u32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpreadSpec {
    /// Each worker on one core, that with the fewest workers when it starts.
    Spread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartSpec {
    /// Forked from a process that has imported pyarrow and numpy, which takes milliseconds.
    Template,
    /// An interpreter of its own, for libraries that do not survive a fork. Takes as long as Python and its imports do.
    Exec,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum RequirementsSpec {
    /// Path of a requirements file.
    File(String),
    /// Packages as pip reads them.
    List(Vec<String>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum PythonSpec {
    /// `module:name` of a function or a class.
    Call(#[schemars(schema_with = "crate::spec::schema::call")] String),
    /// The function, and how it is called.
    Options(Box<PythonOptions>),
}

/// A Python function or class, `module:name`, run in worker processes. Without `from` it is a generator.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct PythonOptions {
    /// `module:name` of a function or a class.
    #[schemars(schema_with = "crate::spec::schema::call", example = &"sentiment:Scorer")]
    pub call: String,
    /// What the function gets and gives. Without it, from the annotation of its first parameter.
    #[serde(rename = "as")]
    #[schemars(example = &"row")]
    pub convention: Option<ConventionSpec>,
    /// Keyword arguments for the function or for the class's constructor.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::any_map", example = &serde_json::json!({ "model": "models/small.bin" }))]
    pub with: Option<Map<String, Value>>,
    /// Columns of the output and their types. Without it, those of the first batch.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::columns")]
    pub returns: Option<Map<String, Value>>,
    /// Names of several outputs, read with `from: stage.port`: the function gives a dict of port and rows. A mapping says the columns of
    /// each port and their types, as `returns` does for a stage with one output.
    #[schemars(example = &["good", "doubtful"], example = &serde_json::json!({ "good": { "id": "int64" }, "doubtful": {} }))]
    pub ports: Option<PortsSpec>,
    /// How the workers of this stage are started. Without it, as `python: { start: … }` of the pipeline says.
    pub start: Option<StartSpec>,
    /// On which cores the workers of this stage may run. Without it, as `python: { cpus: … }` of the pipeline says.
    #[schemars(example = &"spread", example = &[0, 1])]
    pub cpus: Option<CpusSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum PortsSpec {
    /// Their names.
    Names(#[schemars(schema_with = "crate::spec::schema::ports")] Vec<String>),
    /// Their columns, by their names.
    Columns(#[schemars(schema_with = "crate::spec::schema::columns_by_port")] Map<String, Value>),
}

impl PortsSpec {
    /// In the order of the file.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Names(names) => names.iter().map(String::as_str).collect(),
            Self::Columns(columns) => {
                columns.keys().map(String::as_str).filter(|name| !name.starts_with("x-")).collect()
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConventionSpec {
    /// One row as a dict; gives a dict, `None` to drop it, or an iterable of dicts.
    Row,
    /// The rows of a batch as a list of dicts; gives a list of dicts.
    Rows,
    /// A batch as a `pyarrow.RecordBatch`; gives one, a `pyarrow.Table`, or several.
    Arrow,
    /// A batch as a `pandas.DataFrame`; gives one.
    Pandas,
    /// A batch as a `polars.DataFrame`; gives one.
    Polars,
    /// A batch as a dict of numpy arrays; gives one.
    Numpy,
    /// An iterator of all batches (`pyarrow.RecordBatch`); yields batches. It may keep state from its first row to its last.
    Stream,
}
