//! [`Expectation`]: what a test expects of the rows of one stage or port.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use arrow::array::RecordBatch;
use serde_json::Value as Json;

use super::condition::Condition;
use super::diff::{self, Diff, Paint};
use super::table::{Table, TableError};
use crate::report::counted;
use crate::spec::Test;
use crate::spec::model::{CountSpec, ExpectOptions};

/// How far floats may be apart that are equal.
const TOLERANCE: f64 = 1e-9;

/// What is expected of the rows of one stage or port.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// A stage, `stage.port`, or a sink.
    pub of: String,
    options: ExpectOptions,
    condition: Option<Condition>,
    /// The folder of the test file.
    folder: PathBuf,
}

/// Something that is not as expected.
#[derive(Clone, Debug)]
pub enum Fault {
    /// In words, with rows where there are any.
    Words(String),
    Rows(Box<Diff>),
}

impl Fault {
    pub fn text(&self, paint: Paint) -> String {
        match self {
            Self::Words(text) => text.clone(),
            Self::Rows(diff) => format!("{}\n{}", diff.summary(), diff.text(paint)),
        }
    }
}

impl Expectation {
    /// What a test expects, in the order of its file.
    ///
    /// # Errors
    /// The stage whose condition is none, and why.
    pub fn all(test: &Test, folder: &Path) -> Result<Vec<Self>, (String, String)> {
        let stages = test.node.get("expect").map(|node| node.entries()).unwrap_or_default();
        let expected = stages.iter().filter_map(|entry| {
            let options = test.spec.expect.as_ref()?.get(&entry.key.name)?.options();
            Some((entry.key.name.clone(), options))
        });
        expected
            .map(|(of, options)| {
                let condition = options.condition.as_deref().map(Condition::parse).transpose();
                let condition = condition.map_err(|message| (of.clone(), message))?;
                Ok(Self { of, options, condition, folder: folder.to_owned() })
            })
            .collect()
    }

    /// Params that its condition names.
    pub fn params(&self) -> &[String] {
        self.condition.as_ref().map(Condition::params).unwrap_or_default()
    }

    /// The golden file.
    pub fn file(&self) -> Option<PathBuf> {
        self.options.file.as_ref().map(|file| self.folder.join(file))
    }

    pub fn options(&self) -> &ExpectOptions {
        &self.options
    }

    /// What is left of it when all that can be updated has been.
    #[must_use]
    pub fn after_update(&self) -> Self {
        let options = ExpectOptions { condition: self.options.condition.clone(), ..ExpectOptions::default() };
        Self { options, ..self.clone() }
    }

    /// Whether the rows that are written in the test are not those that came.
    pub fn differs(&self, actual: &Table) -> bool {
        self.options.rows.as_ref().is_some_and(|rows| !self.compare(Table::written(rows), actual).is_empty())
    }

    /// Whether the rows of the golden file are not those that came, or it is not there.
    pub fn differs_from_file(&self, actual: &Table) -> bool {
        self.file().is_some_and(|path| !self.compare_with_file(&path, actual).is_empty())
    }

    /// What is not as expected of the rows that came.
    ///
    /// # Errors
    /// If they cannot be compared.
    pub fn faults(
        &self,
        batch: &RecordBatch,
        params: &BTreeMap<String, Json>,
        now: SystemTime,
    ) -> Result<Vec<Fault>, TableError> {
        let mut faults = Vec::new();
        let count = batch.num_rows() as u64;
        if let Some(expected) = self.options.count.filter(|expected| !expected.allows(count)) {
            let rows = if matches!(expected, CountSpec::Exactly(1)) { "row" } else { "rows" };
            faults.push(Fault::Words(format!("{expected} {rows} expected, {count} came\n")));
        }
        let actual = Table::of(batch)?;
        if let Some(rows) = &self.options.rows {
            faults.extend(self.compare(Table::written(rows), &actual));
        }
        if let Some(path) = self.file() {
            faults.extend(self.compare_with_file(&path, &actual));
        }
        faults.extend(self.broken_condition(batch, params, now)?);
        Ok(faults)
    }

    fn compare_with_file(&self, path: &Path, actual: &Table) -> Vec<Fault> {
        let golden = match Table::read(path, actual) {
            Ok(golden) => golden,
            Err(error) => return vec![Fault::Words(format!("`{}`: {error}\n", path.display()))],
        };
        let lacks = actual.names().filter(|name| golden.column(name).is_none());
        let lacks: Vec<String> = lacks.map(|name| format!("`{name}`")).collect();
        let mut faults = Vec::new();
        if !lacks.is_empty() && !golden.columns.is_empty() {
            faults.push(Fault::Words(format!("columns that the file lacks: {}\n", lacks.join(", "))));
        }
        faults.extend(self.compare(golden, actual));
        faults
    }

    fn compare(&self, expected: Table, actual: &Table) -> Vec<Fault> {
        // Where there are no rows, a stage may have no columns to tell of.
        let missing = expected.names().filter(|name| actual.column(name).is_none() && !actual.rows.is_empty());
        let missing: Vec<String> = missing.map(|name| format!("`{name}`")).collect();
        if !missing.is_empty() {
            let there: Vec<String> = actual.names().map(|name| format!("`{name}`")).collect();
            let noun = if missing.len() == 1 { "there is no column" } else { "there are no columns" };
            return vec![Fault::Words(format!("{noun} {}, but {}\n", missing.join(", "), there.join(", ")))];
        }
        // Without a row, nothing says which columns are meant.
        let expected = match expected.rows.is_empty() && expected.columns.is_empty() {
            true => Table { rows: Vec::new(), columns: actual.columns.clone() },
            false => expected,
        };
        let tolerance = self.options.tolerance.unwrap_or(TOLERANCE);
        let diff = Diff::of(expected, actual, self.options.order.unwrap_or_default(), tolerance);
        diff.map(|diff| Fault::Rows(Box::new(diff))).into_iter().collect()
    }

    fn broken_condition(
        &self,
        batch: &RecordBatch,
        params: &BTreeMap<String, Json>,
        now: SystemTime,
    ) -> Result<Option<Fault>, TableError> {
        let Some(condition) = self.condition.as_ref().filter(|_| batch.num_rows() > 0) else { return Ok(None) };
        let text = condition.text().trim();
        Ok(match condition.broken_by(batch, params, now) {
            Ok(broken) if broken.num_rows() == 0 => None,
            Ok(broken) => {
                let count = counted(broken.num_rows() as u64, "row");
                let verb = if broken.num_rows() == 1 { "does" } else { "do" };
                let rows = diff::rows(&Table::of(&broken)?);
                Some(Fault::Words(format!("{count} of {} {verb} not fulfil `{text}`\n{rows}", batch.num_rows())))
            }
            Err(error) => Some(Fault::Words(format!("`{text}` cannot be evaluated: {error}\n"))),
        })
    }
}
