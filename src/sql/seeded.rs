//! `random()` and `uuid()` whose values follow from the run's seed, never from timing.
//!
//! Each call in the text of a query gets a key of its own from the seed, the stage and its place. A query over a stream
//! numbers the rows that it sees from there; a query over single batches derives one more key from the batch's number.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::context::Settings;

/// The functions as a query finds them by name; [`bind`] gives each call its key.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    [Kind::Random, Kind::Uuid].map(|kind| Arc::new(Seeded::new(kind, 0).into())).into()
}

/// Gives each call its key.
pub(super) fn bind(plan: LogicalPlan, settings: &Settings) -> Result<LogicalPlan> {
    let base = settings.stage.bytes().fold(mix(settings.seed), |key, byte| mix(key ^ u64::from(byte)));
    let mut calls = 0;
    let bound = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| expr.transform_up(|expr| Ok(bind_call(expr, base, &mut calls))))
    })?;
    Ok(bound.data)
}

fn bind_call(expr: Expr, base: u64, calls: &mut u64) -> Transformed<Expr> {
    let Expr::ScalarFunction(call) = &expr else { return Transformed::no(expr) };
    let Some(seeded) = call.func.inner().downcast_ref::<Seeded>() else { return Transformed::no(expr) };
    *calls += 1;
    let bound = Seeded::new(seeded.kind, mix(base.wrapping_add(*calls)));
    Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(bound.into()), call.args.clone())))
}

/// Whether an expression contains a seeded call.
pub(super) fn is_in(expr: &Arc<dyn PhysicalExpr>) -> bool {
    seeded(expr).is_some() || expr.children().into_iter().any(is_in)
}

/// Returns the expression for batch number `sequence`.
pub(super) fn for_batch(expr: Arc<dyn PhysicalExpr>, sequence: u64) -> Result<Arc<dyn PhysicalExpr>> {
    let bound = expr.transform_up(|expr| {
        let Some((call, seeded)) = seeded(&expr) else { return Ok(Transformed::no(expr)) };
        let function = Seeded::new(seeded.kind, mix(seeded.key ^ mix(sequence)));
        Ok(Transformed::yes(Arc::new(ScalarFunctionExpr::new(
            call.name(),
            Arc::new(function.into()),
            call.args().to_vec(),
            call.return_field(&arrow::datatypes::Schema::empty())?,
            Arc::new(call.config_options().clone()),
        )) as Arc<dyn PhysicalExpr>))
    })?;
    Ok(bound.data)
}

fn seeded(expr: &Arc<dyn PhysicalExpr>) -> Option<(&ScalarFunctionExpr, &Seeded)> {
    let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
    Some((call, call.fun().inner().downcast_ref::<Seeded>()?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Random,
    Uuid,
}

#[derive(Debug)]
struct Seeded {
    kind: Kind,
    key: u64,
    /// Values given so far.
    given: AtomicU64,
    signature: Signature,
    aliases: Vec<String>,
}

impl Seeded {
    fn new(kind: Kind, key: u64) -> Self {
        let aliases = match kind {
            Kind::Random => vec!["rand".to_owned()],
            Kind::Uuid => Vec::new(),
        };
        Self { kind, key, given: AtomicU64::new(0), signature: Signature::nullary(Volatility::Volatile), aliases }
    }

    /// Sixty-four random bits for each of `numbers`.
    fn bits(&self, number: u64) -> u64 {
        mix(self.key.wrapping_add(number.wrapping_mul(GOLDEN)))
    }
}

impl PartialEq for Seeded {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.key) == (other.kind, other.key)
    }
}

impl Eq for Seeded {}

impl Hash for Seeded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind, self.key).hash(state);
    }
}

impl ScalarUDFImpl for Seeded {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Random => "random",
            Kind::Uuid => "uuid",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Random => DataType::Float64,
            Kind::Uuid => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows as u64;
        let first = self.given.fetch_add(rows, Ordering::Relaxed);
        let numbers = first..first + rows;
        let values: ArrayRef = match self.kind {
            Kind::Random => Arc::new(Float64Array::from_iter_values(numbers.map(|number| unit(self.bits(number))))),
            Kind::Uuid => Arc::new(StringArray::from_iter_values(
                numbers.map(|number| uuid(self.bits(2 * number), self.bits(2 * number + 1))),
            )),
        };
        Ok(ColumnarValue::Array(values))
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// One step of SplitMix64: a small change of the input changes every bit of the output.
fn mix(value: u64) -> u64 {
    let mut bits = value.wrapping_add(GOLDEN);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A number in `[0, 1)` from the 53 bits that a float holds.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// A version 4 UUID.
fn uuid(high: u64, low: u64) -> String {
    let high = (high & !0xF000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_version_and_variant() {
        let text = uuid(u64::MAX, u64::MAX);
        assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0, 0), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn random_numbers_fill_the_unit_interval() {
        let numbers: Vec<f64> = (0..10_000).map(|number| unit(Seeded::new(Kind::Random, 7).bits(number))).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
