//! The kinds of stages with their defaults applied, here and nowhere else. What cannot be resolved is a diagnostic.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::link::{CommandShape, Link};
use super::queue::{Cut, GivenCapacity};
use super::stage::{
    Call, ColumnType, Command, CommandLine, CommandMode, Convention, Cpus, Python, PythonTarget, Read, StageKind,
    Start, WorkerLimits, Write, WriteTarget,
};
use super::template::{LoneBrace, Template};
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use crate::format::{Compression, Dialect, Encoding, Format, Nulls, column_type};
use crate::spec::model::{
    CommandModeSpec, CommandSpec, CompressionSpec, ConventionSpec, CpusSpec, EncodingSpec, FormatSpec, FromSpec,
    MaxWorkersSpec, OutputsSpec, PartitionBySpec, PathsSpec, PipeFormatSpec, PythonOptions, PythonSpec, QueueSpec,
    ReadOptions, ReadSpec, SizeSpec, SpreadSpec, StartSpec, WorkersSpec, WriteModeSpec, WriteOptions, WriteSpec,
};
use crate::spec::tree::Node;
use crate::spec::{Document, Sharing, StageDraft, pattern};

/// The least that `memory` can be, and why: an interpreter that has imported pyarrow and numpy takes half of it.
const SMALLEST_MEMORY: (u64, &str) = (64 << 20, "a worker takes before its first batch");
/// The least for a query.
const SMALLEST_QUERY_MEMORY: (u64, &str) = (1 << 20, "a query takes for its first rows");

const SNAPPY_IS_FOR_PAGES: &str = "`snappy` compresses the pages of parquet files that are written, and nothing else";

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
            return None;
        }
        if let Sharing::Sink(shared) = &self.draft.sharing {
            let target = WriteTarget::Shared(shared.clone());
            let (format, compression) = (Format::Arrow, Compression::None);
            return Some(StageKind::Write(Write { target, format, compression, header: true, is_new: false }));
        }
        let spec = &self.draft.spec;
        match kind {
            "read" => self.read(spec.read.as_ref()?).map(StageKind::Read),
            "write" => self.write(spec.write.as_ref()?).map(StageKind::Write),
            "sql" => self.sql(spec.sql.as_ref()?, links).map(StageKind::Sql),
            "python" => self.python(spec.python.as_ref()?).map(StageKind::Python),
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

    fn read(&mut self, spec: &ReadSpec) -> Option<Read> {
        let short;
        let options = match spec {
            ReadSpec::Options(options) => options,
            ReadSpec::Path(path) => {
                short = ReadOptions {
                    path: PathsSpec::One(path.clone()),
                    format: None,
                    compression: None,
                    schema: None,
                    delimiter: None,
                    header: None,
                    quote: None,
                    nulls: None,
                    encoding: None,
                };
                &short
            }
        };
        let schema = self.columns(&["read", "schema"], options.schema.as_ref());
        let paths = options.path.all();
        let stdin = paths.iter().any(|path| path == "-");
        if stdin && paths.len() > 1 {
            self.report(
                Code::PlanBadOption,
                &["read", "path"],
                "standard input (`-`) cannot be read together with files",
            );
            return None;
        }
        if !self.are_local("read", paths) {
            return None;
        }
        let format = self.format(&["read", "path"], options.format, paths)?;
        if stdin && format == Format::Parquet {
            let message = "parquet cannot be read from standard input, as it is read from its end";
            self.report(Code::PlanBadOption, &["read", "format"], message);
        }
        if matches!(options.compression, Some(CompressionSpec::Snappy)) {
            self.report(Code::PlanBadOption, &["read", "compression"], SNAPPY_IS_FOR_PAGES);
        }
        if format == Format::Binary {
            if stdin {
                let message = "binary reads files, one for each row, and no standard input";
                self.report(Code::PlanBadOption, &["read", "format"], message);
            }
            if options.schema.is_some() {
                let message = "binary has the columns `path` and `bytes`, and no others";
                self.report(Code::PlanBadOption, &["read", "schema"], message);
            }
        }
        let dialect = self.dialect(options, format);
        if options.encoding.is_some() && !format.is_text() {
            self.report(Code::PlanBadOption, &["read", "encoding"], "only text has an `encoding`");
        }
        self.check_patterns(&["read", "path"], paths);
        Some(Read {
            paths: if stdin { Vec::new() } else { paths.iter().map(|path| self.absolute(path)).collect() },
            stdin,
            folder: self.document.folder.clone(),
            format,
            compression: options.compression.map(compression),
            schema,
            dialect,
            encoding: options.encoding.map_or(Encoding::Utf8, encoding),
            used: None,
            filtered_by: Vec::new(),
        })
    }

    fn dialect(&mut self, options: &ReadOptions, format: Format) -> Dialect {
        self.check_csv("read", "header", options.header.is_some(), format);
        self.check_csv("read", "quote", options.quote.is_some(), format);
        self.check_csv("read", "nulls", options.nulls.is_some(), format);
        let delimiter = self.delimiter(options, format);
        Dialect {
            delimiter,
            header: options.header.unwrap_or(true),
            quote: self.quote(options, delimiter),
            nulls: options.nulls.clone().map_or_else(Nulls::default, Nulls::new),
        }
    }

    fn quote(&mut self, options: &ReadOptions, delimiter: u8) -> Option<u8> {
        let default = Some(Dialect::QUOTE);
        let problem = match options.quote.as_deref().map(|quote| (quote, quote.as_bytes())) {
            None => return default,
            Some(("none", _)) => return None,
            Some((_, [byte])) if *byte == delimiter => "the delimiter cannot be the quote as well".to_owned(),
            Some((_, [byte])) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => return Some(*byte),
            Some((quote, _)) => format!("`{quote}` cannot be a quote: it must be one ASCII character, or `none`"),
        };
        self.report(Code::PlanBadOption, &["read", "quote"], problem);
        default
    }

    fn delimiter(&mut self, options: &ReadOptions, format: Format) -> u8 {
        let default = if format == Format::Tsv { b'\t' } else { b',' };
        let Some(delimiter) = &options.delimiter else { return default };
        if format != Format::Csv {
            self.report(Code::PlanBadOption, &["read", "delimiter"], "only csv has a `delimiter`");
            return default;
        }
        match delimiter.as_bytes() {
            [byte] if !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
            _ => {
                let message = format!("`{delimiter}` cannot be a delimiter: it must be one ASCII character");
                self.report(Code::PlanBadOption, &["read", "delimiter"], message);
                default
            }
        }
    }

    fn write(&mut self, spec: &WriteSpec) -> Option<Write> {
        let (path, format, given, header, mode) = match spec {
            WriteSpec::Path(path) => (path, None, None, None, None),
            WriteSpec::Options(WriteOptions { path, format, compression, header, mode }) => {
                (path, *format, *compression, *header, *mode)
            }
        };
        if !self.are_local("write", std::slice::from_ref(path)) || !self.names_a_file(path, format) {
            return None;
        }
        let format = self.format(&["write", "path"], format, std::slice::from_ref(path))?;
        if format == Format::Binary {
            self.report(Code::PlanBadOption, &["write", "format"], "binary is only for `read`");
        }
        self.check_csv("write", "header", header.is_some(), format);
        let target = if path == "-" { WriteTarget::Stdout } else { WriteTarget::File(self.absolute(path)) };
        if target == WriteTarget::Stdout && format == Format::Parquet {
            let message = "parquet cannot be written to standard output";
            self.report(Code::PlanBadOption, &["write", "format"], message).help =
                Some("use `format: arrow`".to_owned());
        }
        if target == WriteTarget::Stdout && mode.is_some() {
            self.report(Code::PlanBadOption, &["write", "mode"], "standard output replaces nothing, and has no `mode`");
        }
        let (_, extension) = split_compression(path);
        // Pages of parquet are compressed unless the file says otherwise.
        let implied = if format == Format::Parquet { Compression::Zstd } else { extension };
        let compression = given.map_or(implied, compression);
        if format != Format::Parquet && compression == Compression::Snappy {
            self.report(Code::PlanBadOption, &["write", "compression"], SNAPPY_IS_FOR_PAGES);
        }
        if format == Format::Parquet && matches!(compression, Compression::Bzip2 | Compression::Xz) {
            let message = "the pages of parquet files are compressed with `zst`, `gz` or `snappy`";
            self.report(Code::PlanBadOption, &["write", "compression"], message);
        }
        if format == Format::Parquet && extension != Compression::None {
            let message = "a parquet file compresses its own pages and is not compressed as a whole";
            self.report(Code::PlanBadOption, &["write", "path"], message).help =
                Some("end the path in `.parquet`, and choose the codec with `compression`".to_owned());
        }
        let is_new = mode == Some(WriteModeSpec::Error);
        Some(Write { target, format, compression, header: header.unwrap_or(true), is_new })
    }

    fn check_csv(&mut self, kind: &str, key: &str, is_given: bool, format: Format) {
        if is_given && !matches!(format, Format::Csv | Format::Tsv) {
            let message = match key {
                "nulls" => "only csv and tsv have `nulls`".to_owned(),
                _ => format!("only csv and tsv have a `{key}`"),
            };
            self.report(Code::PlanBadOption, &[kind, key], message);
        }
    }

    /// The format that is given, or else the one that all paths' extensions name.
    fn format(&mut self, keys: &[&str], given: Option<FormatSpec>, paths: &[String]) -> Option<Format> {
        if let Some(given) = given {
            return Some(format(given));
        }
        let mut formats = paths.iter().map(|path| from_extension(path));
        let first = formats.next().flatten();
        if first.is_some() && formats.all(|format| format == first) {
            return first;
        }
        let message = match paths {
            [path] if path == "-" => "standard input and output need a `format`".to_owned(),
            [path] => format!("the extension of `{path}` does not say how its rows are written"),
            _ => "the extensions of these paths do not say one format for all".to_owned(),
        };
        let binary = if keys.first() == Some(&"read") { ", binary" } else { "" };
        let help = format!("add `format:` with one of csv, tsv, jsonl, json, parquet, arrow, lines{binary}");
        self.report(Code::PlanUnknownFormat, keys, message).help = Some(help);
        None
    }

    fn columns(&mut self, keys: &[&str], columns: Option<&Map<String, Value>>) -> Vec<(String, ColumnType)> {
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
                short = PythonOptions {
                    call: call.clone(),
                    convention: None,
                    with: None,
                    returns: None,
                    start: None,
                    cpus: None,
                };
                &short
            }
        };
        let returns = self.columns(&["python", "returns"], options.returns.as_ref());
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
            is_source: !self.draft.has("from"),
            concurrency: self.draft.spec.concurrency.and_then(NonZeroU32::new),
            partition_by: self.partition_by(),
            target: if is_class { PythonTarget::Class } else { PythonTarget::Function },
            start: options.start.or(self.document.python.start).map(start).unwrap_or_default(),
            cpus: options.cpus.as_ref().or(self.document.python.cpus.as_ref()).map(cpus).unwrap_or_default(),
        })
    }

    /// The columns of the key, each once.
    fn partition_by(&mut self) -> Vec<String> {
        let columns = match &self.draft.spec.partition_by {
            None => return Vec::new(),
            Some(PartitionBySpec::One(column)) => std::slice::from_ref(column),
            Some(PartitionBySpec::Many(columns)) => columns,
        };
        if let Some(at) = (1..columns.len()).find(|&at| columns[..at].contains(&columns[at])) {
            let message = format!("`partition_by` names the column `{}` twice", columns[at]);
            let items = self.draft.find(&["partition_by"]).map(Node::items).unwrap_or_default();
            let span = items.get(at).map_or(self.draft.span(&["partition_by"]), |item| item.span);
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
        self.draft.spec.cwd.as_ref().map_or_else(|| self.document.folder.clone(), |cwd| self.absolute(cwd))
    }

    pub(super) fn check_patterns(&mut self, keys: &[&str], paths: &[String]) {
        for path in paths {
            if let Err(error) = glob::Pattern::new(path) {
                self.report(Code::PlanBadOption, keys, format!("`{path}` is not a glob pattern: {}", error.msg));
            }
        }
    }

    /// Whether paths are those of files of this machine.
    fn are_local(&mut self, kind: &str, paths: &[String]) -> bool {
        let Some((at, path)) = paths.iter().enumerate().find(|(_, path)| scheme(path).is_some()) else { return true };
        let scheme = scheme(path).unwrap_or_default();
        let node = self.draft.find(&[kind, "path"]);
        let node = node.map(|node| node.items().get(at).unwrap_or(node));
        let (span, alias) = node.map_or((self.draft.name_span, None), |node| (node.span, node.alias));
        let help = match (scheme, kind) {
            ("file", _) => "write the path alone".to_owned(),
            (_, "read") => "let a `command` stage fetch it to a file, and make this stage `after` that one".to_owned(),
            _ => "write a file, and copy it when the run has ended".to_owned(),
        };
        let message = format!("`{path}` is a URL, and `{kind}` takes paths of files alone");
        self.report_at(Code::PlanBadOption, span, alias, message).help = Some(help);
        false
    }

    /// Whether the path of a sink ends in the name of a file.
    fn names_a_file(&mut self, path: &str, format: Option<FormatSpec>) -> bool {
        let last = path.rsplit('/').next().unwrap_or_default();
        if !matches!(last, "" | "." | "..") {
            return true;
        }
        let folder = path.strip_suffix(last).unwrap_or(path);
        let slash = if last.is_empty() { "" } else { "/" };
        let of_format = format.and_then(|given| self::format(given).extensions().first().copied());
        let extension = of_format.unwrap_or("csv");
        let message = format!("`{path}` names a folder, and a stage writes one file");
        let input = match &self.draft.spec.from {
            Some(FromSpec::One(name)) => name.replace('.', "_"),
            _ => self.draft.name.clone(),
        };
        self.report(Code::PlanBadOption, &["write", "path"], message).help =
            Some(format!("name the file, such as `{folder}{last}{slash}{input}.{extension}`"));
        false
    }

    pub(super) fn absolute(&self, path: &str) -> PathBuf {
        absolute(&self.document.folder, path)
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

/// The scheme of a URL.
fn scheme(path: &str) -> Option<&str> {
    let (scheme, _) = path.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.'));
    is_scheme.then_some(scheme)
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

fn split_compression(path: &str) -> (&str, Compression) {
    let endings = [
        (".gz", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".bz2", Compression::Bzip2),
        (".xz", Compression::Xz),
    ];
    endings
        .into_iter()
        .find_map(|(ending, compression)| Some((path.strip_suffix(ending)?, compression)))
        .unwrap_or((path, Compression::None))
}

fn from_extension(path: &str) -> Option<Format> {
    let (path, _) = split_compression(path);
    let name = path.rsplit('/').next()?;
    let (_, extension) = name.rsplit_once('.')?;
    match extension.to_ascii_lowercase().as_str() {
        "csv" => Some(Format::Csv),
        "tsv" => Some(Format::Tsv),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "json" => Some(Format::Json),
        "parquet" => Some(Format::Parquet),
        "arrow" => Some(Format::Arrow),
        "txt" | "log" => Some(Format::Lines),
        _ => None,
    }
}

fn format(spec: FormatSpec) -> Format {
    match spec {
        FormatSpec::Csv => Format::Csv,
        FormatSpec::Tsv => Format::Tsv,
        FormatSpec::Jsonl => Format::Jsonl,
        FormatSpec::Json => Format::Json,
        FormatSpec::Parquet => Format::Parquet,
        FormatSpec::Arrow => Format::Arrow,
        FormatSpec::Lines => Format::Lines,
        FormatSpec::Binary => Format::Binary,
    }
}

fn pipe_format(spec: PipeFormatSpec) -> Option<Format> {
    match spec {
        PipeFormatSpec::Lines => Some(Format::Lines),
        PipeFormatSpec::Jsonl => Some(Format::Jsonl),
        PipeFormatSpec::Csv => Some(Format::Csv),
        PipeFormatSpec::Tsv => Some(Format::Tsv),
        PipeFormatSpec::Arrow => Some(Format::Arrow),
        PipeFormatSpec::None => None,
    }
}

fn compression(spec: CompressionSpec) -> Compression {
    match spec {
        CompressionSpec::None => Compression::None,
        CompressionSpec::Gz => Compression::Gzip,
        CompressionSpec::Zst => Compression::Zstd,
        CompressionSpec::Bz2 => Compression::Bzip2,
        CompressionSpec::Xz => Compression::Xz,
        CompressionSpec::Snappy => Compression::Snappy,
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

fn encoding(spec: EncodingSpec) -> Encoding {
    match spec {
        EncodingSpec::Utf8 => Encoding::Utf8,
        EncodingSpec::Latin1 => Encoding::Latin1,
        EncodingSpec::Windows1252 => Encoding::Windows1252,
        EncodingSpec::Utf16 => Encoding::Utf16,
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
