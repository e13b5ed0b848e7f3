//! [`Condition`]: what every row fulfils.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use arrow::array::RecordBatch;
use serde_json::Value as Json;

use crate::spec::expect::ROWS;
use crate::sql::{Query, RowWise, Settings, SqlError};

/// A condition in SQL over one row.
#[derive(Clone, Debug)]
pub struct Condition {
    query: Query,
    text: String,
}

impl Condition {
    /// # Errors
    /// Why the text is no condition over one row.
    pub fn parse(text: &str) -> Result<Self, String> {
        // On a line of its own, so that a comment at its end ends there.
        let sql = format!("SELECT * FROM {ROWS} WHERE (\n{text}\n) IS NOT TRUE");
        let query = Query::parse(&sql).map_err(|error| error.message)?;
        if query.is_row_wise() {
            Ok(Self { query, text: text.to_owned() })
        } else {
            Err("it needs more than one row: write a `sql` stage, and expect its rows".to_owned())
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The params that it names.
    pub fn params(&self) -> &[String] {
        self.query.parameters()
    }

    /// The rows that do not fulfil it.
    ///
    /// # Errors
    /// If it cannot be evaluated for these rows.
    pub fn broken_by(
        &self,
        rows: &RecordBatch,
        params: &BTreeMap<String, Json>,
        now: SystemTime,
    ) -> Result<RecordBatch, SqlError> {
        let settings = Settings {
            stage: ROWS.to_owned(),
            params: params.clone(),
            seed: 0,
            started: now,
            memory_limit: usize::MAX,
            spill_folder: PathBuf::new(),
            spill_limit: 0,
        };
        let planned = RowWise::plan(&self.query, ROWS, rows.schema(), &settings)?;
        Ok(planned.apply(rows.clone(), 0)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_condition_over_one_row_is_refused() {
        assert!(Condition::parse("a > 1 -- enough").is_ok());
        assert!(Condition::parse("a > ").is_err());
        assert!(Condition::parse("a > (SELECT max(a) FROM rows)").is_err());
    }
}
