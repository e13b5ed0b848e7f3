//! The kinds of stages with their defaults applied, here and nowhere else. What cannot be resolved is a diagnostic.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::command_shape::CommandShape;
use super::link::Link;
use super::queue::{Cut, GivenCapacity};
use super::stage::{
    Call, ColumnType, Command, CommandLine, CommandMode, Convention, Cpus, Port, Python, PythonTarget, StageKind,
    Start, WorkerLimits, Write, WriteMode, WriteTarget,
};
use super::template::{LoneBrace, Template};
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use crate::format::{Compression, Format, column_type};
use crate::spec::expect::EXPECT;
use crate::spec::model::{
    ColumnsSpec, CommandModeSpec, CommandSpec, ConventionSpec, CpusSpec, MaxWorkersSpec, OutputsSpec, PipeFormatSpec,
    PortsSpec, PythonOptions, PythonSpec, QueueSpec, SizeSpec, SpreadSpec, StartSpec, WorkersSpec,
};
use crate::spec::tree::Node;
use crate::spec::{Checks, Document, Sharing, StageDraft, pattern};

/// The least that `memory` can be, and why: an interpreter that has imported pyarrow and numpy takes half of it.
const SMALLEST_MEMORY: (u64, &str) = (64 << 20, "a worker takes before its first batch");
/// The least for a query.
const SMALLEST_QUERY_MEMORY: (u64, &str) = (1 << 20, "a query takes for its first rows");

/// Resolves the parts of one stage and collects what is wrong with them.
pub struct Resolver<'a> {
    pub document: &'a Document,
    pub draft: &'a StageDraft,
    pub problems: &'a mut Vec<Diagnostic>,
}

impl Resolver<'_> {
    /// The stage's kind, if it has exactly one that can be read. `links` are the stage's own.
    pub fn kind(&mut self, links: &[&Link]) -> Option<StageKind> {
        let kind = self.draft.kind()?;
        if self.draft.is_lost(kind) {
            // Types are wrong whatever else is.
            let schema = self.draft.spec.expect.as_ref().filter(|_| kind == EXPECT).and_then(|it| it.schema.as_ref());
            self.columns(&[EXPECT, "schema"], schema);
            return None;
        }
        let written = match (&self.draft.sharing, &self.draft.checks) {
            (Sharing::Sink(shared), _) => Some((WriteTarget::Shared(shared.clone()), Format::Arrow)),
            // That format takes any columns.
            (_, Some(Checks::Duplicates(_))) => Some((WriteTarget::Nothing, Format::Jsonl)),
            _ => None,
        };
        if let Some((target, format)) = written {
            let (compression, header, mode) = (Compression::None, true, WriteMode::Overwrite);
            return Some(StageKind::Write(Write { target, format, compression, header, mode }));
        }
        let spec = &self.draft.spec;
        match kind {
            "read" => self.read(spec.read.as_ref()?).map(StageKind::Read),
            "write" => self.write(spec.write.as_ref()?).map(StageKind::Write),
            "sql" => self.sql(spec.sql.as_ref()?, links).map(StageKind::Sql),
            "python" => self.python(spec.python.as_ref()?).map(StageKind::Python),
            EXPECT => self.expect(spec.expect.as_ref()?).map(StageKind::Expect),
            _ => self.command(spec.command.as_ref()?).map(StageKind::Command),
        }
    }

    pub(super) fn report(&mut self, code: Code, keys: &[&str], message: impl Into<String>) -> &mut Diagnostic {
        let node = self.draft.find(keys);
        let span = node.map_or(self.draft.name_span, |node| node.span);
        self.report_at(code, span, node.and_then(|node| node.alias), message)
    }

    pub(super) fn report_at(
        &mut self,
        code: Code,
        span: Span,
        alias: Option<Span>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let mut problem = Diagnostic::new(code, span, message).through(alias.or(self.draft.alias));
        if self.document.is_default(span) {
            problem = problem.related(self.draft.name_span, format!("the stage `{}` takes it", self.draft.name));
        }
        self.problems.push(problem);
        self.problems.last_mut().expect("just pushed")
    }

    pub(super) fn columns(&mut self, keys: &[&str], columns: Option<&Map<String, Value>>) -> Vec<(String, ColumnType)> {
        let mut typed = Vec::new();
        for (name, word) in columns.into_iter().flatten() {
            let word = word.as_str().unwrap_or_default();
            if let Some(data_type) = column_type::parse(word) {
                typed.push((name.clone(), data_type));
                continue;
            }
            let node = self.draft.find(keys).and_then(|node| node.get(name));
            let (span, alias) = node.map_or((self.draft.span(keys), None), |node| (node.span, node.alias));
            let message = format!("the column `{name}` has the type `{word}`, which does not exist");
            let meant = column_type::elsewhere(word).map(|ours| format!("did you mean `{ours}`?"));
            self.report_at(Code::PlanBadColumnType, span, alias, message).help =
                meant.or_else(|| did_you_mean(word, column_type::words()));
        }
        typed
    }

    fn python(&mut self, spec: &PythonSpec) -> Option<Python> {
        let short;
        let options = match spec {
            PythonSpec::Options(options) => options,
            PythonSpec::Call(call) => {
                short = PythonOptions { call: call.clone(), ..PythonOptions::default() };
                &short
            }
        };
        let returns = self.returns(options);
        let Some(call) = call(&options.call) else {
            let message = format!("`{}` does not name a function or a class", options.call);
            let of_file = options.call.split_once(".py:").map(|(file, name)| (file.replace('/', "."), name));
            self.report(Code::PlanBadCall, &["python", "call"], message).help = Some(match of_file {
                Some((module, name)) => {
                    format!("write the name of the module, and not that of its file: `{module}:{name}`")
                }
                None => "write `module:name`, such as `cleaning:normalise`".to_owned(),
            });
            return None;
        };
        if options.convention == Some(ConventionSpec::Stream) && !self.draft.has("from") {
            let message = "a stage without `from` gets no rows, so `as: stream` has no meaning for it";
            self.report(Code::PlanBadOption, &["python", "as"], message).help =
                Some("remove it: a source is a generator, which yields rows or batches as it is".to_owned());
        }
        let is_made = self.draft.sharing == Sharing::Source && !self.draft.has("from");
        let last = call.name.rsplit('.').next().unwrap_or_default().trim_start_matches('_');
        let is_class = last.starts_with(char::is_uppercase);
        Some(Python {
            call,
            convention: options.convention.map(convention).or(is_made.then_some(Convention::Object)),
            with: options.with.clone().unwrap_or_default(),
            returns,
            has_ports: options.ports.is_some(),
            is_source: !self.draft.has("from"),
            concurrency: self.draft.spec.concurrency.and_then(NonZeroU32::new),
            partition_by: self.partition_by(),
            target: if is_class { PythonTarget::Class } else { PythonTarget::Function },
            start: options.start.or(self.document.python.start).map(start).unwrap_or_default(),
            cpus: options.cpus.as_ref().or(self.document.python.cpus.as_ref()).map(cpus).unwrap_or_default(),
        })
    }

    /// The declared columns of each port.
    fn returns(&mut self, options: &PythonOptions) -> BTreeMap<String, Vec<(String, ColumnType)>> {
        const RETURNS: [&str; 2] = ["python", "returns"];
        const PORTS: [&str; 2] = ["python", "ports"];
        let mut returns = BTreeMap::new();
        if let Some(columns) = &options.returns {
            returns.insert(Port::MAIN.to_owned(), self.columns(&RETURNS, Some(columns)));
        }
        let Some(ports) = &options.ports else { return returns };
        if options.returns.is_some() {
            let message = "`returns` has no meaning for a stage with `ports`";
            let help = "write the columns with the ports: `ports: { name: { column: type } }`";
            self.report(Code::PlanBadOption, &RETURNS, message).help = Some(help.to_owned());
        }
        if !self.draft.has("from") {
            let message = "a stage without `from` has one output, so `ports` has no meaning for it";
            let help = "remove it, and let a stage behind this one tell the rows apart";
            self.report(Code::PlanBadOption, &PORTS, message).help = Some(help.to_owned());
        }
        let names = ports.names();
        for (at, name) in names.iter().enumerate().filter(|(_, name)| !pattern::is_name(name)) {
            let items = self.draft.find(&PORTS).map(Node::items).unwrap_or_default();
            let span = items.get(at).map_or(self.draft.span(&PORTS), |item| item.span);
            self.report_at(Code::SpecBadName, span, None, format!("`{name}` cannot be the name of a port")).help =
                Some("a name has small letters, digits and `_`, and begins with a letter".to_owned());
        }
        if names.contains(&Port::REJECTED) {
            let message = "a port cannot be named `rejected`: that is where rows go that are rejected";
            self.report(Code::PlanBadOption, &PORTS, message);
        }
        if let Some(at) = (1..names.len()).find(|&at| names[..at].contains(&names[at])) {
            self.report(Code::PlanBadOption, &PORTS, format!("`ports` names `{}` twice", names[at]));
        }
        if let PortsSpec::Columns(of_ports) = ports {
            for name in names {
                let columns = of_ports.get(name).and_then(Value::as_object).filter(|columns| !columns.is_empty());
                if let Some(columns) = columns {
                    returns.insert(name.to_owned(), self.columns(&["python", "ports", name], Some(columns)));
                }
            }
        }
        returns
    }

    /// The columns of the key, each once.
    fn partition_by(&mut self) -> Vec<String> {
        self.key_columns(&["partition_by"], self.draft.spec.partition_by.as_ref())
    }

    /// The columns that the value of `keys` names, which are to be different ones.
    pub(super) fn key_columns(&mut self, keys: &[&str], columns: Option<&ColumnsSpec>) -> Vec<String> {
        let Some(columns) = columns.map(ColumnsSpec::names) else { return Vec::new() };
        if let Some(at) = (1..columns.len()).find(|&at| columns[..at].contains(&columns[at])) {
            let message = format!("`partition_by` names the column `{}` twice", columns[at]);
            let items = self.draft.find(keys).map(Node::items).unwrap_or_default();
            let span = items.get(at).map_or(self.draft.span(keys), |item| item.span);
            self.report_at(Code::PlanBadOption, span, None, message);
        }
        columns.to_vec()
    }

    fn command(&mut self, spec: &CommandSpec) -> Option<Command> {
        let returns = match spec {
            CommandSpec::Argv(_) => Vec::new(),
            CommandSpec::Options(options) => self.columns(&["command", "returns"], options.returns.as_ref()),
        };
        let line = match spec {
            CommandSpec::Argv(argv) => CommandLine::Argv(argv.clone()),
            CommandSpec::Options(options) => match (&options.run, &options.shell) {
                (Some(argv), None)
                    if options.mode == Some(CommandModeSpec::Row)
                        || matches!(options.outputs, Some(OutputsSpec::Named(_))) =>
                {
                    CommandLine::Row(self.templates(argv)?)
                }
                (Some(argv), None) => CommandLine::Argv(argv.clone()),
                (None, Some(script)) => CommandLine::Shell(script.clone()),
                // The schema has said so.
                (Some(_), Some(_)) | (None, None) => return None,
            },
        };
        let shape = CommandShape::of(self.draft)?;
        if shape.mode == CommandModeSpec::Once && shape.input != PipeFormatSpec::None {
            self.report(Code::PlanBadOption, &["command", "input"], "a command that runs once gets no rows");
        }
        match shape.mode {
            CommandModeSpec::Row => self.row_command(),
            CommandModeSpec::Stream => self.stream_command(shape),
            CommandModeSpec::Batch | CommandModeSpec::Once => {}
        }
        if shape.output == PipeFormatSpec::Bytes && !returns.is_empty() {
            let message = "a command with `output: bytes` gives the column `bytes`, and no others";
            self.report(Code::PlanBadOption, &["command", "returns"], message);
        }
        let files = self.task_files(spec, shape, &line);
        Some(Command {
            line,
            files,
            mode: match shape.mode {
                CommandModeSpec::Batch => CommandMode::Batch,
                CommandModeSpec::Stream => CommandMode::Stream,
                CommandModeSpec::Row => CommandMode::Row,
                CommandModeSpec::Once => CommandMode::Once,
            },
            input: pipe_format(shape.input),
            output: pipe_format(shape.output),
            returns,
        })
    }

    fn templates(&mut self, argv: &[String]) -> Option<Vec<Template>> {
        let parsed = argv.iter().enumerate().map(|(at, argument)| {
            Template::parse(argument).map_err(|brace| {
                let brace = if brace == LoneBrace::Open { "{" } else { "}" };
                let item = self.draft.find(&["command", "run"]).and_then(|node| node.items().get(at));
                let span = item.map_or(self.draft.name_span, |item| item.span);
                let message = format!("the argument `{argument}` has a `{brace}` without its partner");
                self.report_at(Code::PlanBadOption, span, item.and_then(|item| item.alias), message).help =
                    Some(format!(
                        "`{{name}}` stands for a row's value or an output; write `{brace}{brace}` for the brace itself"
                    ));
            })
        });
        let parsed: Vec<_> = parsed.collect();
        parsed.into_iter().collect::<Result<_, ()>>().ok()
    }

    /// What has no meaning for a command that is run for each row.
    fn row_command(&mut self) {
        let has = |key: &str| self.draft.node.get("command").is_some_and(|command| command.get(key).is_some());
        let meaningless: Vec<&str> = ["input", "output", "returns"].into_iter().filter(|key| has(key)).collect();
        for key in meaningless {
            let message = format!("a command in mode `row` has no `{key}`");
            let help =
                "it gets the row in its arguments and gives it with `stdout`, `stderr`, `exit_code` and `seconds`";
            self.report(Code::PlanBadOption, &["command", key], message).help = Some(help.to_owned());
        }
        if self.draft.has("batch") {
            let span = self.draft.key_span("batch");
            self.report_at(Code::PlanBadOption, span, None, "a command in mode `row` gets one row at a time");
        }
    }

    /// Lines are what the output of a command that lives on is told apart by.
    fn stream_command(&mut self, shape: CommandShape) {
        for (key, format) in [("input", shape.input), ("output", shape.output)] {
            if !matches!(format, PipeFormatSpec::Lines | PipeFormatSpec::Jsonl) {
                let message = format!("a command in mode `stream` has an `{key}` of a line for each row");
                let help =
                    "write `lines` or `jsonl`; `mode: batch` takes every format, and as many rows as the program gives";
                self.report(Code::PlanBadOption, &["command", key], message).help = Some(help.to_owned());
            }
        }
    }

    /// `default` is the plan's number of workers, `cores` what `auto` means.
    pub fn workers(&mut self, default: NonZeroU32, cores: NonZeroU32) -> WorkerLimits {
        let max = |spec: &MaxWorkersSpec| match spec {
            MaxWorkersSpec::Count(count) => NonZeroU32::new(*count).unwrap_or(default),
            MaxWorkersSpec::Auto(_) => cores,
        };
        match &self.draft.spec.workers {
            None => WorkerLimits { min: 0, max: default },
            Some(WorkersSpec::Max(count)) => WorkerLimits { min: 0, max: NonZeroU32::new(*count).unwrap_or(default) },
            Some(WorkersSpec::Auto(_)) => WorkerLimits { min: 0, max: cores },
            Some(WorkersSpec::Limits(limits)) => {
                let min = limits.min.unwrap_or(0);
                if let Some(MaxWorkersSpec::Count(max)) = &limits.max
                    && min > *max
                {
                    let message = format!("`min: {min}` is more than `max: {max}`");
                    self.report(Code::PlanBadOption, &["workers", "min"], message);
                }
                let max = limits.max.as_ref().map_or(default, max);
                WorkerLimits { min, max: NonZeroU32::new(min).map_or(max, |min| max.max(min)) }
            }
        }
    }

    /// The memory that the stage asks for. `kind` is what `Resolver::kind` gave.
    pub fn memory(&mut self, kind: Option<&StageKind>) -> Option<NonZeroU64> {
        let spec = self.draft.spec.memory.as_ref()?;
        let limit = self.size(&["memory"], spec)?;
        let least = match (self.draft.kind(), kind) {
            (None | Some("python"), _) => SMALLEST_MEMORY,
            (Some("sql"), Some(StageKind::Sql(sql))) if sql.row_wise => {
                let message = "the query works on one batch at a time and keeps nothing, so `memory` has no meaning";
                self.no_memory(message, "remove it; it is for queries over whole streams: joins, aggregates, sorts");
                return Some(limit);
            }
            (Some("sql"), _) => SMALLEST_QUERY_MEMORY,
            (Some(kind), _) => {
                let message = format!("a `{kind}` stage has no workers of its own, so `memory` has no meaning");
                self.no_memory(&message, "remove it; only `python` and `sql` stages have `memory`");
                return Some(limit);
            }
        };
        if limit.get() < least.0 {
            let message = format!("{limit} bytes are less than {}", least.1);
            let help = format!("write at least `{}`", bytesize::ByteSize::b(least.0).to_string().replace(".0 ", ""));
            self.report(Code::PlanBadOption, &["memory"], message).help = Some(help);
        }
        Some(limit)
    }

    fn no_memory(&mut self, message: &str, help: &str) {
        let span = self.draft.key_span("memory");
        self.report_at(Code::PlanBadOption, span, None, message).help = Some(help.to_owned());
    }

    /// The cut that the stage asks for.
    pub fn cut(&mut self) -> Option<Cut> {
        let default = Cut::default();
        let given = self.draft.spec.batch.as_ref();
        let bytes = given.and_then(|given| self.size(&["batch", "bytes"], given.bytes.as_ref()?));
        if CommandShape::of(self.draft).is_some_and(|shape| shape.mode == CommandModeSpec::Row) {
            return Some(Cut { rows: NonZeroU32::MIN, ..default });
        }
        let rows = given?.rows.and_then(NonZeroU32::new);
        Some(Cut { rows: rows.unwrap_or(default.rows), bytes: bytes.unwrap_or(default.bytes), at_files: false })
    }

    /// The bounds that the stage asks for.
    pub fn capacity(&mut self) -> GivenCapacity {
        let Some(QueueSpec { batches, bytes }) = self.draft.spec.queue.as_ref() else {
            return GivenCapacity::default();
        };
        let bytes = bytes.as_ref().and_then(|bytes| self.size(&["queue", "bytes"], bytes));
        GivenCapacity { batches: batches.and_then(NonZeroU32::new), bytes }
    }

    fn size(&mut self, keys: &[&str], size: &SizeSpec) -> Option<NonZeroU64> {
        let bytes = match size {
            SizeSpec::Bytes(bytes) => NonZeroU64::new(*bytes),
            SizeSpec::Text(text) => {
                let size = pattern::is_size(text).then(|| text.parse::<bytesize::ByteSize>().ok()).flatten();
                size.and_then(|size| NonZeroU64::new(size.as_u64()))
            }
        };
        if let (None, SizeSpec::Text(text)) = (bytes, size) {
            let message = format!("`{text}` is not a size");
            self.report(Code::PlanBadSize, keys, message).help =
                Some("write a positive number of bytes, or one with a unit, such as `64MiB`".to_owned());
        }
        bytes
    }

    pub fn cwd(&self) -> PathBuf {
        self.draft.spec.cwd.as_ref().map_or_else(|| self.folder().to_owned(), |cwd| self.absolute(cwd))
    }

    pub(super) fn check_patterns(&mut self, keys: &[&str], paths: &[String]) {
        for path in paths {
            if let Err(error) = glob::Pattern::new(path) {
                self.report(Code::PlanBadOption, keys, format!("`{path}` is not a glob pattern: {}", error.msg));
            }
        }
    }

    pub(super) fn absolute(&self, path: &str) -> PathBuf {
        absolute(self.folder(), path)
    }

    /// The folder of the file that the stage stands in.
    fn folder(&self) -> &Path {
        self.draft.scope.as_ref().map_or(&self.document.folder, |scope| scope.folder())
    }
}

/// Joins a path of the file to the file's folder, without `.` and doubled separators. `..` stays: it has a meaning of its own
/// behind a symbolic link.
pub fn absolute(folder: &Path, path: &str) -> PathBuf {
    folder.join(path).components().collect()
}

/// The value of an environment variable, which is text whatever is written.
pub fn variable(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn call(text: &str) -> Option<Call> {
    let (module, name) = text.split_once(':')?;
    let is_path = |path: &str| path.split('.').all(is_identifier);
    let is_file = module.ends_with(".py");
    (is_path(module) && is_path(name) && !is_file).then(|| Call { module: module.to_owned(), name: name.to_owned() })
}

fn is_identifier(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
        && word.chars().all(|character| character.is_alphanumeric() || character == '_')
}

fn pipe_format(spec: PipeFormatSpec) -> Option<Format> {
    match spec {
        PipeFormatSpec::Lines => Some(Format::Lines),
        PipeFormatSpec::Jsonl => Some(Format::Jsonl),
        PipeFormatSpec::Json => Some(Format::Json),
        PipeFormatSpec::Csv => Some(Format::Csv),
        PipeFormatSpec::Tsv => Some(Format::Tsv),
        PipeFormatSpec::Arrow => Some(Format::Arrow),
        PipeFormatSpec::Bytes => Some(Format::Bytes),
        PipeFormatSpec::None => None,
    }
}

fn cpus(spec: &CpusSpec) -> Cpus {
    match spec {
        CpusSpec::Spread(SpreadSpec::Spread) => Cpus::Spread,
        CpusSpec::Only(cores) => Cpus::Only(cores.iter().copied().collect()),
    }
}

fn start(spec: StartSpec) -> Start {
    match spec {
        StartSpec::Template => Start::Template,
        StartSpec::Exec => Start::Exec,
    }
}

fn convention(spec: ConventionSpec) -> Convention {
    match spec {
        ConventionSpec::Row => Convention::Row,
        ConventionSpec::Rows => Convention::Rows,
        ConventionSpec::Arrow => Convention::Arrow,
        ConventionSpec::Pandas => Convention::Pandas,
        ConventionSpec::Polars => Convention::Polars,
        ConventionSpec::Numpy => Convention::Numpy,
        ConventionSpec::Stream => Convention::Stream,
    }
}

/// The node of a stage's query.
pub(super) fn query_node(draft: &StageDraft) -> Option<&Node> {
    draft.find(&["sql", "query"])
}
