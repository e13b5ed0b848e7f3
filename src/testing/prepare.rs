//! [`Prepared`]: a test that can be run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use serde_json::{Map, Value as Json};

use super::check::{self, given_path};
use super::expectation::Expectation;
use super::given;
use super::table::{TableError, read_arrow};
use crate::batch;
use crate::diagnostic::{Code, Diagnostic, SourceText, did_you_mean};
use crate::format::column_type;
use crate::plan::{self, Compiled, KnownTypes, Plan, Port, Settings, StageKind, declared_columns, put_under_test};
use crate::spec::model::{FailsSpec, GivenOptions};
use crate::spec::{Document, Given, Test, TestFile};

/// A test that can be run: the part of the pipeline that it is about, with files in the place of what reaches beyond it.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub plan: Plan,
    pub expected: Vec<Expectation>,
    pub fails: Option<FailsSpec>,
    /// Stages and ports (`stage.port`) whose rows are given.
    pub given: BTreeSet<String>,
    pub now: SystemTime,
    folder: PathBuf,
}

/// Why a test cannot be run.
#[derive(Debug)]
pub enum Failed {
    /// What is wrong with the test.
    Test(Vec<Diagnostic>),
    /// The pipeline cannot be run with these rows and params.
    Pipeline(Vec<Diagnostic>),
    /// Its files cannot be written.
    System(std::io::Error),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Diagnostic> for Failed {
    fn from(problem: Diagnostic) -> Self {
        Self::Test(vec![problem])
    }
}

impl Prepared {
    /// Writes what a test gives to `folder`, and compiles what it is about. `copies`: whether golden files are to be made anew.
    ///
    /// # Errors
    /// Why it cannot be run.
    pub fn new(
        file: &TestFile,
        test: &Test,
        pipeline: &Arc<SourceText>,
        surroundings: &Given,
        settings: &Settings,
        folder: &Path,
        copies: bool,
    ) -> Result<Self, Failed> {
        let mut document = check::document(file, test, pipeline, surroundings).map_err(Failed::Test)?;
        std::fs::create_dir_all(folder.join("given"))?;
        std::fs::create_dir_all(folder.join("out"))?;
        write_given(file, test, &document, settings, folder)?;
        let parts = check::under_test(file, test, &document, folder, copies);
        if let Err(errors) = put_under_test(&mut document, &parts) {
            return Err(Failed::Test(errors.iter().map(|error| check::diagnostic(test, error)).collect()));
        }
        let Compiled { plan, .. } = plan::compile(&document, settings).map_err(Failed::Pipeline)?;
        check_params(test, &plan)?;
        let expected = Expectation::all(test, file.source.folder()).map_err(|(of, message)| {
            Diagnostic::new(Code::TestBadExpectation, test.key_span(&["expect", &of]), message)
        })?;
        Ok(Self {
            plan,
            expected,
            fails: test.spec.fails.clone(),
            given: test.spec.given.iter().flatten().map(|(of, _)| of.clone()).collect(),
            now: check::now(file)?,
            folder: folder.to_owned(),
        })
    }

    /// The rows that a run has left of what is expected.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn rows(&self, of: &str) -> Result<RecordBatch, TableError> {
        self.with_short_places(read_arrow(&self.folder.join("out").join(format!("{of}.rows.arrow")))?)
    }

    /// A text in which rows that were given come from their stage, and not from a file.
    pub fn with_short_paths(&self, text: &str) -> String {
        text.replace(&self.given_prefix(), "")
    }

    fn given_prefix(&self) -> String {
        given_path(&self.folder, "").to_string_lossy().into_owned()
    }

    /// The same for what rejected rows tell of where they came from.
    fn with_short_places(&self, batch: RecordBatch) -> Result<RecordBatch, TableError> {
        let Ok(at) = batch.schema().index_of("_file") else { return Ok(batch) };
        let Some(files) = batch.column(at).as_any().downcast_ref::<StringArray>() else { return Ok(batch) };
        let prefix = self.given_prefix();
        let short = |file: Option<&str>| file.map(|file| file.strip_prefix(&prefix).unwrap_or(file).to_owned());
        let files: StringArray = files.iter().map(short).collect();
        let mut columns = batch.columns().to_vec();
        columns[at] = Arc::new(files);
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }

    /// A golden file that a run has made anew.
    pub fn copy(&self, expected: &Expectation) -> Option<PathBuf> {
        let file = expected.file()?;
        Some(self.folder.join("out").join(format!("{}.{}", expected.of, file.file_name()?.to_string_lossy())))
    }

    /// Why nothing comes of a stage that is expected to give rows.
    pub fn left_out(&self, of: &str) -> Option<String> {
        let stage = of.split('.').next().unwrap_or(of);
        let sink = format!("{of}:0");
        if self.plan.stages.iter().any(|stage| stage.name == sink) {
            return None;
        }
        let find = |name: &str| self.plan.left_out.iter().find(|left_out| left_out.stage == name);
        let why = find(stage).or_else(|| find(&sink)).map(|left_out| left_out.reason.words());
        Some(format!("`{stage}` is left out: {}\n", why.unwrap_or_default()))
    }
}

/// Params that queries name need values.
fn check_params(test: &Test, plan: &Plan) -> Result<(), Failed> {
    let missing = plan.stages.iter().find_map(|stage| match &stage.kind {
        StageKind::Sql(sql) => {
            let missing = sql.query.parameters().iter().find(|name| !plan.params.contains_key(*name))?;
            Some((&stage.name, missing))
        }
        _ => None,
    });
    let Some((stage, name)) = missing else { return Ok(()) };
    let message = format!("the query of `{stage}` needs the param `{name}`, which has no value");
    let problem = Diagnostic::new(Code::ParamMissing, test.name_span, message);
    Err(problem.help(format!("add `params: {{ {name}: … }}`")).into())
}

fn write_given(
    file: &TestFile,
    test: &Test,
    document: &Document,
    settings: &Settings,
    folder: &Path,
) -> Result<(), Failed> {
    let mut known: Option<BTreeMap<(String, String), SchemaRef>> = None;
    for (of, given) in test.spec.given.iter().flatten() {
        let options = given.options();
        if let Some(path) = &options.file {
            let path = file.source.folder().join(path);
            // A pipe would be waited for.
            let is_readable = std::fs::metadata(&path).and_then(|file| match file.is_file() || file.is_dir() {
                true => std::fs::File::open(&path).map(drop),
                false => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file")),
            });
            if let Err(error) = is_readable {
                let message = format!("cannot read `{}`: {error}", path.display());
                return Err(Diagnostic::new(Code::TestBadRows, test.span(&["given", of, "file"]), message).into());
            }
            continue;
        }
        let types = match &options.schema {
            Some(schema) => declared(schema),
            None => {
                let known = known.get_or_insert_with(|| plan::known_columns(document, settings));
                types_of(document, known, of)
            }
        };
        write_rows(test, of, &options, &types, folder)?;
    }
    Ok(())
}

fn write_rows(test: &Test, of: &str, options: &GivenOptions, types: &KnownTypes, folder: &Path) -> Result<(), Failed> {
    let rows = options.rows.as_deref().unwrap_or_default();
    let nodes = test.rows("given", of).map(|node| node.items()).unwrap_or_default();
    let span = |row: usize, column: &str| {
        let node = nodes.get(row);
        node.and_then(|node| node.entry(column)).map_or(test.key_span(&["given", of]), |entry| entry.key.span)
    };
    let is_known = |name: &str| types.columns.iter().any(|(known, _)| known == name);
    for (at, row) in rows.iter().enumerate() {
        if let Some(name) = row.keys().find(|name| types.are_all && !is_known(name)) {
            let help = did_you_mean(name, types.columns.iter().map(|(name, _)| name.as_str()));
            let message = format!("`{of}` gives no column `{name}`");
            let problem = Diagnostic::new(Code::TestBadRows, span(at, name), message);
            let help = help.unwrap_or_else(|| "with `schema`, other columns can be given".to_owned());
            return Err(problem.help(help).into());
        }
    }
    if types.columns.is_empty() && rows.iter().all(Map::is_empty) {
        let message = format!("it is not known which columns `{of}` has");
        let problem = Diagnostic::new(Code::TestBadRows, test.key_span(&["given", of]), message);
        return Err(problem.help(format!("write `{of}: {{ rows: […], schema: {{ column: type }} }}`")).into());
    }
    let batch = given::batch(rows, types).map_err(|error| {
        let row = match &error {
            TableError::Decode(crate::format::DecodeError::Record { row, .. }) => row - 1,
            _ => 0,
        };
        let node = nodes.get(row).map_or(test.key_span(&["given", of]), |node| node.span);
        let message = format!("these rows cannot be those of `{of}`: {error}");
        let help = "types are those that the pipeline is known to give; `schema` gives others";
        Diagnostic::new(Code::TestBadRows, node, message).help(help.to_owned())
    })?;
    given::write(&batch, &given_path(folder, of))
        .map_err(|error| Failed::System(std::io::Error::other(error.to_string())))
}

fn declared(schema: &Map<String, Json>) -> KnownTypes {
    let typed = |(name, word): (&String, &Json)| Some((name.clone(), column_type::parse(word.as_str()?)?));
    KnownTypes { columns: schema.iter().filter_map(typed).collect(), are_all: false }
}

/// The columns that the pipeline is known to give in this place.
fn types_of(document: &Document, known: &BTreeMap<(String, String), SchemaRef>, of: &str) -> KnownTypes {
    let (stage, port) = of.split_once('.').unwrap_or((of, Port::MAIN));
    let Some(schema) = known.get(&(stage.to_owned(), port.to_owned())) else {
        return if port == Port::MAIN { declared_columns(document, stage) } else { KnownTypes::default() };
    };
    let open = |data_type: &DataType| if batch::is_open(data_type) { DataType::Null } else { data_type.clone() };
    let columns = schema.fields().iter().map(|field| (field.name().clone(), open(field.data_type())));
    KnownTypes { columns: columns.collect(), are_all: true }
}
