//! What is expected of rows, checked batch by batch on the threads of this process.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};

use super::planned::Planned;
use crate::batch::{Batch, is_open};
use crate::format::column_type;
use crate::plan::{Expect, OnError, Verdict};
use crate::run::executor::resident::{failure, sql_failure};
use crate::run::scheduler::{Failure, Scope};
use crate::sql::{RowWise, Settings};

/// Each with what is said of a row that is not so.
pub(super) struct Checks {
    conditions: Vec<(RowWise, String)>,
    not_null: Vec<(usize, String)>,
}

/// The rows of a batch that are as they must be, and why the others are not, by their places.
pub(super) struct Checked {
    pub batch: Batch,
    pub failed: Vec<(u64, Failure)>,
}

/// The rows of a batch, checked.
///
/// # Errors
/// If the rows cannot be checked, or one is not as it must be and the run may not go on without it.
pub(super) fn check(
    planned: &Planned<Checks>,
    expect: &Expect,
    on_error: OnError,
    settings: &Settings,
    batch: &Batch,
    sequence: u64,
) -> Result<Checked, Failure> {
    let records = batch.records().map_err(|error| failure(Scope::Output, Verdict::Exception, error.to_string()))?;
    let columns = records.schema();
    let checks = planned.of(&columns, || Checks::new(expect, settings, &columns))?;
    let said = checks.said_of(&records, sequence)?;
    let mut failed = Vec::new();
    for (row, said) in said.iter().enumerate() {
        if let Some(said) = said {
            let failure = failure(Scope::Rows, Verdict::Contract, (*said).to_owned());
            if on_error == OnError::Fail {
                return Err(failure);
            }
            failed.push((row as u64, failure));
        }
    }
    if failed.is_empty() {
        return Ok(Checked { batch: batch.clone(), failed });
    }
    let kept: BooleanArray = said.iter().map(|said| Some(said.is_none())).collect();
    let records = filter_record_batch(&records, &kept)
        .map_err(|error| failure(Scope::Internal, Verdict::Exception, error.to_string()))?;
    let rows = said.iter().enumerate().filter(|(_, said)| said.is_none()).map(|(row, _)| row);
    let origin = batch.origin().take(rows);
    Ok(Checked { batch: Batch::new(records, origin), failed })
}

impl Checks {
    fn new(expect: &Expect, settings: &Settings, schema: &SchemaRef) -> Result<Self, Failure> {
        let broken = |message: String| failure(Scope::Opening, Verdict::Contract, message);
        let missing = |name: &str| broken(format!("there is no column `{name}`, and `expect` names it"));
        for (name, wanted) in &expect.schema {
            let field = schema.field_with_name(name).map_err(|_| missing(name))?;
            if field.data_type() != wanted && !is_open(field.data_type()) {
                let (is, wanted) = (column_type::name(field.data_type()), column_type::name(wanted));
                return Err(broken(format!("the column `{name}` is {is}, and `expect` wants {wanted}")));
            }
        }
        let column = |name: &String| {
            let at = Schema::index_of(schema, name).map_err(|_| missing(name))?;
            Ok((at, format!("`{name}` is null")))
        };
        let condition = |condition: &crate::plan::Condition| {
            let query = &condition.sql.query;
            let planned = RowWise::plan(query, &query.tables()[0], Arc::clone(schema), settings);
            Ok((planned.map_err(|error| sql_failure(&error))?, format!("it is not true that {}", condition.text)))
        };
        Ok(Self {
            conditions: expect.conditions.iter().map(condition).collect::<Result<_, Failure>>()?,
            not_null: expect.not_null.iter().map(column).collect::<Result<_, Failure>>()?,
        })
    }

    /// Of each row, what is wrong with it first.
    fn said_of(&self, records: &RecordBatch, sequence: u64) -> Result<Vec<Option<&str>>, Failure> {
        let mut said = vec![None; records.num_rows()];
        for (at, text) in &self.not_null {
            // An array of nulls alone has them only logically.
            let nulls = records.column(*at).logical_nulls();
            if let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) {
                note(&mut said, text, |row| nulls.is_null(row));
            }
        }
        for (query, text) in &self.conditions {
            let (holds, _) = query.apply(records.clone(), sequence).map_err(|error| sql_failure(&error))?;
            let holds = holds.column(0).as_boolean();
            if holds.true_count() < holds.len() {
                note(&mut said, text, |row| !holds.value(row));
            }
        }
        Ok(said)
    }
}

fn note<'t>(said: &mut [Option<&'t str>], text: &'t str, is_wrong: impl Fn(usize) -> bool) {
    for (row, said) in said.iter_mut().enumerate() {
        if said.is_none() && is_wrong(row) {
            *said = Some(text);
        }
    }
}
