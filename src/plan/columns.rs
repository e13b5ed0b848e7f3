//! [`KnownColumns`]: the columns of ports, as far as they can be known before a run.
//!
//! They are known where the pipeline's file says them (`returns`, `lines`), or the files that are read; and of queries over such tables,
//! which are planned here as a run would plan them. A column whose type is not known has the type `Null`, as one without values has in a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::compile::Settings;
use super::expect::Expect;
use super::link::{After, Link};
use super::ports::ports;
use super::queue::Cut;
use super::resolve::Resolver;
use super::stage::{ColumnType, Command, CommandMode, Port, Python, Read, Sql, StageKind};
use crate::batch::{self, LINE};
use crate::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::format::{Format, bytes_schema, column_type, has_bytes};
use crate::spec::expect::{EXPECT, ROWS};
use crate::spec::sub_pipeline::params;
use crate::spec::{Document, StageDraft};
use crate::sql::{self, Checker, Misfit, MisfitKind};

/// Sources that are looked at: a run reads all of them, but `plan` is to answer at once.
const MOST_SOURCES: usize = 256;

/// The columns of ports.
#[derive(Default)]
pub struct KnownColumns {
    /// Of each stage in the order of the file, by the names of its ports.
    by_stage: Vec<BTreeMap<String, SchemaRef>>,
}

impl KnownColumns {
    pub fn of(&self, stage: usize, port: &str) -> Option<&SchemaRef> {
        self.by_stage.get(stage)?.get(port)
    }

    pub fn of_link(&self, link: &Link) -> Option<&SchemaRef> {
        self.of(link.from, &link.port)
    }
}

/// What there is to look at. Slices have an entry for each stage in the order of the file, but for `links` and `afters`.
pub struct Look<'a> {
    pub document: &'a Document,
    pub links: &'a [Link],
    /// Indices of the links into every stage.
    pub into: &'a [Vec<usize>],
    pub afters: &'a [After],
    pub kinds: &'a [Option<&'a StageKind>],
    pub cuts: &'a [Cut],
    pub settings: &'a Settings,
}

impl Look<'_> {
    /// Finds the columns of all ports, and what is wrong with queries over them. `order` is a topological one; without one, less is found.
    pub fn columns(&self, order: Option<&[usize]>, problems: &mut Vec<Diagnostic>) -> KnownColumns {
        let stages = self.document.stages.len();
        let in_file: Vec<usize> = (0..stages).collect();
        let mut known = KnownColumns { by_stage: vec![BTreeMap::new(); stages] };
        let mut checker = None;
        let mut looked_at = 0;
        let mut waits = vec![false; stages];
        self.afters.iter().for_each(|after| waits[after.to] = true);
        for &at in order.unwrap_or(&in_file) {
            let Some(kind) = self.kinds[at] else { continue };
            if matches!(kind, StageKind::Sql(_) | StageKind::Write(_)) {
                problems.extend(self.unlike_inputs(at, &known));
            }
            let main = match kind {
                StageKind::Read(read) => self.of_read(read, self.cuts[at], waits[at], &mut looked_at),
                StageKind::Sql(sql) => self.of_query(at, sql, &known, &mut checker, problems),
                StageKind::Command(command) => {
                    problems.extend(self.no_bytes(at, command, &known));
                    self.of_command(at, command, &known)
                }
                StageKind::Expect(expect) => self.of_expect(at, expect, &known, &mut checker, problems),
                StageKind::Python(_) | StageKind::Write(_) => None,
            };
            if let StageKind::Python(Python { returns, .. }) = kind {
                known.by_stage[at].extend(returns.iter().map(|(port, columns)| (port.clone(), declared(columns))));
            }
            let has = ports(&self.document.stages[at]).unwrap_or_default();
            let rejected = match kind {
                _ if !has.contains(&Port::REJECTED) => None,
                StageKind::Read(_) => Some(malformed_columns()),
                _ => self.input(at, &known),
            };
            let rejected = rejected.map(|input| rejected_columns(&input));
            let columns = [(Port::MAIN, main), (Port::REJECTED, rejected)];
            for (port, columns) in columns.into_iter().filter(|(port, _)| has.contains(port)) {
                known.by_stage[at].extend(columns.map(|columns| (port.to_owned(), columns)));
            }
        }
        known
    }

    /// `waits`: whether what is in front of the source may change its files.
    fn of_read(&self, read: &Read, cut: Cut, waits: bool, looked_at: &mut usize) -> Option<SchemaRef> {
        let is_csv = matches!(read.format, Format::Csv | Format::Tsv);
        let of_files = match read.format {
            Format::Lines => Some(vec![(LINE.to_owned(), DataType::Utf8)]),
            _ if is_csv && !read.dialect.header && !read.schema.is_empty() => Some(read.schema.clone()),
            _ => None,
        };
        if let (Some(mut columns), Some(added)) = (of_files, read.added()) {
            columns.extend(added);
            return Some(declared(&columns));
        }
        if waits || *looked_at == MOST_SOURCES {
            return None;
        }
        let columns = (self.settings.columns)(read, cut);
        *looked_at += usize::from(columns.is_some());
        columns
    }

    fn of_command(&self, at: usize, command: &Command, known: &KnownColumns) -> Option<SchemaRef> {
        if !command.returns.is_empty() {
            return Some(declared(&command.returns));
        }
        match (command.mode, command.output) {
            (CommandMode::Row, _) => row_command_columns(&*self.input(at, known)?).ok(),
            (_, Some(Format::Lines)) => Some(declared(&[(LINE.to_owned(), DataType::Utf8)])),
            (_, Some(Format::Bytes)) => Some(bytes_schema()),
            _ => None,
        }
    }

    /// What comes to a command that is given bytes, and is none.
    fn no_bytes(&self, at: usize, command: &Command, known: &KnownColumns) -> Option<Diagnostic> {
        let columns = self.input(at, known).filter(|_| command.input == Some(Format::Bytes))?;
        let message = match &columns.fields()[..] {
            [field] if has_bytes(field.data_type()) || batch::is_open(field.data_type()) => return None,
            [field] => {
                let word = column_type::name(field.data_type());
                format!("the column `{}` is {word}, and `input: bytes` is for binary and text", field.name())
            }
            fields => {
                let names = fields.iter().map(|field| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ");
                format!("`input: bytes` is for rows with one column; there are {names}")
            }
        };
        let draft = &self.document.stages[at];
        let span = draft.span(&["command", "input"]);
        let help = "select the column whose values the program is to read, with a `sql` stage in front";
        Some(Diagnostic::new(Code::PlanUnexpectedType, span, message).help(help.to_owned()).through(draft.alias))
    }

    /// The columns that come to a stage that is no query.
    fn input(&self, at: usize, known: &KnownColumns) -> Option<SchemaRef> {
        union(self.into[at].iter().map(|&link| known.of_link(&self.links[link])))
    }

    /// Members of one input that do not have the same columns. Only rows that come of both end a run, so that this is a warning.
    fn unlike_inputs(&self, at: usize, known: &KnownColumns) -> Option<Diagnostic> {
        let draft = &self.document.stages[at];
        let links = self.into[at].iter().map(|&link| &self.links[link]);
        let is_query = draft.kind() == Some("sql");
        let mut first: BTreeMap<&str, (&Link, BTreeSet<&str>)> = BTreeMap::new();
        for link in links {
            let Some(columns) = known.of_link(link) else { continue };
            let names: BTreeSet<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
            let table = if is_query { link.table.as_str() } else { "" };
            let (other, expected) = first.entry(table).or_insert_with(|| (link, names.clone()));
            let Some(name) = expected.symmetric_difference(&names).next() else { continue };
            let shown = |link: &Link| match link.port.as_str() {
                Port::MAIN => self.document.stages[link.from].name.clone(),
                port => format!("{}.{port}", self.document.stages[link.from].name),
            };
            let (with, without) = if names.contains(name) { (link, *other) } else { (*other, link) };
            let (with, without) = (shown(with), shown(without));
            let message = format!("`{with}` has a column `{name}` and `{without}` has none, but both are one input");
            let help = "a run ends when rows of both have come: make them alike in front of this stage";
            let problem = Diagnostic::new(Code::PlanUnlikeInputs, link.span, message).help(help.to_owned());
            // One name may stand for both.
            let is_elsewhere = other.span != link.span;
            let problem = if is_elsewhere { problem.related(other.span, "the other one") } else { problem };
            return Some(problem.through(draft.alias));
        }
        None
    }

    fn of_query(
        &self,
        at: usize,
        sql: &Sql,
        known: &KnownColumns,
        checker: &mut Option<Checker>,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<SchemaRef> {
        let columns_of = |table: &str| {
            let members = self.into[at].iter().map(|&link| &self.links[link]).filter(|link| link.table == table);
            union(members.map(|link| known.of_link(link)))
        };
        // An input that the query does not read, and a table that is no input, have their own diagnostics.
        let is_read = |&link: &usize| sql.query.tables().contains(&self.links[link].table);
        if !self.into[at].iter().all(is_read) {
            return None;
        }
        let names = sql.query.tables().iter().map(String::as_str);
        let tables = names.map(|name| Some((name, columns_of(name)?))).collect::<Option<Vec<_>>>()?;
        let draft = &self.document.stages[at];
        match self.planned(draft, sql, &tables, checker) {
            Ok(columns) => columns,
            Err(misfit) => {
                Resolver { document: self.document, draft, problems }.report_misfit(&sql.query, &misfit);
                None
            }
        }
    }

    /// The columns of a query over tables; an error if it cannot be run over them.
    fn planned(
        &self,
        draft: &StageDraft,
        sql: &Sql,
        tables: &[(&str, SchemaRef)],
        checker: &mut Option<Checker>,
    ) -> Result<Option<SchemaRef>, Box<Misfit>> {
        let Some(settings) = self.settings_of(draft, sql) else { return Ok(None) };
        if checker.is_none() {
            *checker = Checker::new(&settings);
        }
        let Some(checker) = checker.as_ref() else { return Ok(None) };
        // Columns have no types as long as they have no values.
        let is_open = tables.iter().any(|(name, schema)| has_open_columns(sql, name, schema));
        // The fields of a struct would become columns, with their names.
        if is_open && sql.query.sql().to_lowercase().contains("unnest") {
            return Ok(None);
        }
        match checker.columns(&sql.query, tables, &settings) {
            Ok(columns) if is_open => {
                let is_known = |table: &str, column: &str| {
                    let (_, schema) = tables.iter().find(|(name, _)| *name == table)?;
                    Some(!batch::is_open(schema.field_with_name(column).ok()?.data_type()))
                };
                let is_known = |table: &str, column: &str| is_known(table, column).unwrap_or(false);
                let known = checker.types_known(&sql.query, tables, &settings, &is_known);
                Ok(columns.map(|columns| with_types(&columns, known.as_deref().unwrap_or_default())))
            }
            Ok(columns) => Ok(columns),
            // Types may not be what they seem.
            Err(misfit) if is_open && misfit.kind == MisfitKind::Other => Ok(None),
            Err(misfit) => Err(misfit),
        }
    }

    /// What is expected of rows whose columns are known.
    fn of_expect(
        &self,
        at: usize,
        expect: &Expect,
        known: &KnownColumns,
        checker: &mut Option<Checker>,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<SchemaRef> {
        let columns = self.input(at, known)?;
        let draft = &self.document.stages[at];
        for (number, condition) in expect.conditions.iter().enumerate() {
            let tables = [(ROWS, Arc::clone(&columns))];
            if let Err(misfit) = self.planned(draft, &condition.sql, &tables, checker) {
                let mut resolver = Resolver { document: self.document, draft, problems };
                let Some(node) = resolver.condition_node(number).cloned() else { continue };
                resolver.report_misfit_in(&node, node.as_str().unwrap_or_default(), 1, &misfit);
            }
        }
        let mut resolver = Resolver { document: self.document, draft, problems };
        let names = || columns.fields().iter().map(|field| field.name().as_str());
        let wanted = expect.schema.iter().map(|(name, data_type)| ("schema", name, Some(data_type)));
        for (key, name, data_type) in wanted.chain(expect.not_null.iter().map(|name| ("not_null", name, None))) {
            let span = resolver.column_span(&[EXPECT, key], name);
            match (columns.field_with_name(name), data_type) {
                (Err(_), _) => {
                    let message = format!("there is no column `{name}`");
                    resolver.report_at(Code::PlanUnknownColumn, span, None, message).help = did_you_mean(name, names());
                }
                (Ok(field), Some(wanted)) if !batch::is_open(field.data_type()) && field.data_type() != wanted => {
                    let is = column_type::name(field.data_type());
                    let message =
                        format!("the column `{name}` is {is}, and `expect` wants {}", column_type::name(wanted));
                    resolver.report_at(Code::PlanUnexpectedType, span, None, message);
                }
                (Ok(_), _) => {}
            }
        }
        Some(columns)
    }

    /// `None` if a param of the query has no value.
    fn settings_of(&self, draft: &StageDraft, sql: &Sql) -> Option<sql::Settings> {
        let params = params(self.document, draft).iter();
        let params: BTreeMap<_, _> =
            params.filter_map(|param| Some((param.name.clone(), param.value.clone()?))).collect();
        sql.query.parameters().iter().all(|name| params.contains_key(name)).then(|| sql::Settings {
            stage: draft.name.clone(),
            params,
            seed: self.document.seed,
            // Only values depend on it.
            started: SystemTime::UNIX_EPOCH,
            memory_limit: usize::MAX,
            spill_folder: PathBuf::new(),
            spill_limit: 0,
        })
    }
}

/// The columns of an input, by those of its members; types in which these differ are not known. `None` if one is not known, or others
/// have other names.
fn union<'a>(members: impl Iterator<Item = Option<&'a SchemaRef>>) -> Option<SchemaRef> {
    let members = members.collect::<Option<Vec<_>>>()?;
    let (first, others) = members.split_first()?;
    others.iter().try_fold(Arc::clone(first), |columns, other| {
        let pairs = || columns.fields().iter().zip(other.fields());
        let same = columns.fields().len() == other.fields().len() && pairs().all(|(a, b)| a.name() == b.name());
        same.then(|| {
            let fields = pairs().map(|(a, b)| if a == b { Arc::clone(a) } else { open(a.name()) });
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        })
    })
}

/// Whether the query uses a column of the table whose type is not known.
fn has_open_columns(sql: &Sql, table: &str, schema: &Schema) -> bool {
    let used = sql.query.columns(table);
    let is_used = |name: &str| used.is_none_or(|used| used.needed.contains(name) || used.perhaps.contains(name));
    schema.fields().iter().any(|field| batch::is_open(field.data_type()) && is_used(field.name()))
}

/// The columns with those of their types that are known.
fn with_types(schema: &Schema, known: &[bool]) -> SchemaRef {
    let field = |(at, field): (usize, &Arc<Field>)| match known.get(at) {
        Some(true) => Arc::clone(field),
        _ => open(field.name()),
    };
    Arc::new(Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>()))
}

fn open(name: &str) -> Arc<Field> {
    Arc::new(Field::new(name, DataType::Null, true))
}

fn declared(columns: &[(String, ColumnType)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What a row gains of a command in mode `row`.
fn gained_of_command() -> [Field; 4] {
    [
        Field::new("stdout", DataType::Utf8, true),
        Field::new("stderr", DataType::Utf8, true),
        Field::new("exit_code", DataType::Int64, true),
        Field::new("seconds", DataType::Float64, true),
    ]
}

/// The columns that a command in mode `row` makes of these.
///
/// # Errors
/// The name of a column of the input that the command would give.
pub fn row_command_columns(input: &Schema) -> Result<SchemaRef, String> {
    if let Some(field) = gained_of_command().iter().find(|field| input.index_of(field.name()).is_ok()) {
        return Err(field.name().clone());
    }
    let fields = input.fields().iter().map(|field| field.as_ref().clone()).chain(gained_of_command());
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// What a rejected row gains.
fn gained_of_rejected() -> [Field; 7] {
    [
        Field::new("_stage", DataType::Utf8, true),
        Field::new("_verdict", DataType::Utf8, true),
        Field::new("_message", DataType::Utf8, true),
        Field::new("_traceback", DataType::Utf8, true),
        Field::new("_attempts", DataType::UInt32, true),
        Field::new("_file", DataType::Utf8, true),
        Field::new("_row", DataType::UInt64, true),
    ]
}

/// The columns of a row that could not be read, before it is rejected.
pub fn malformed_columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, true)]))
}

/// The columns of the rejected rows of a stage with these input columns. A column that comes rejected a second time keeps the name of
/// the first.
pub fn rejected_columns(input: &Schema) -> SchemaRef {
    let kept = input.fields().iter().filter(|field| !is_gained_by_rejected(field.name()));
    let kept = kept.map(|field| field.as_ref().clone());
    Arc::new(Schema::new(kept.chain(gained_of_rejected()).collect::<Vec<_>>()))
}

/// Whether a rejected row gains a column of this name.
pub fn is_gained_by_rejected(name: &str) -> bool {
    gained_of_rejected().iter().any(|field| field.name() == name)
}
