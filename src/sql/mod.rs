//! SQL over Arrow batches: the only module that names DataFusion.

/// A query whose syntax has been checked.
#[derive(Clone, Debug)]
pub struct Query;
impl Query {
    pub fn parse(_: &str) -> Result<Self, ()> { Ok(Self) }
}
