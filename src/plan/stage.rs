//! [`Stage`]: one compiled stage and its kinds. No `Option` here stands for "use the default".

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::checkpoint::Checkpoint;
use super::expect::Expect;
use super::failing::{Budget, OnError, Retry, Timeout};
use super::location::Location;
use super::log_level::LogLevel;
use super::plan::{EdgeId, StageId};
use super::queue::Cut;
use super::recycle::Recycle;
use super::resource::Use;
use super::supply::Supply;
use super::task::TaskFiles;
use super::template::Template;
use crate::format::{Compression, Dialect, Encoding, Format};
use crate::sql::UsedColumns;

/// Name under which an input of a `sql` stage is known in the query.
pub type TableName = String;

#[derive(Clone, Debug)]
pub struct Stage {
    pub id: StageId,
    pub name: String,
    /// The name in the file, if a `foreach` made the stage.
    pub foreach: Option<String>,
    pub description: Option<String>,
    pub kind: StageKind,
    /// A `sql` stage has an input per table; another stage has one input or none.
    pub inputs: Vec<Input>,
    /// The outputs: one named `out`, or those that `ports` declares; then `rejected` where the stage can reject rows. Sinks and tasks
    /// without output have none.
    pub ports: Vec<Port>,
    pub workers: WorkerLimits,
    /// Bytes of its own that a worker of the stage may have, where `None` is without a limit; of a query over whole streams, what
    /// it may keep before it spills, which is always known.
    pub memory: Option<NonZeroU64>,
    /// Of stages whose attempts are in workers and processes.
    pub timeout: Option<Timeout>,
    /// When a worker of the stage is replaced.
    pub recycle: Recycle,
    /// `None` is what the run says ([`super::Plan::log_level`]).
    pub log_level: Option<LogLevel>,
    pub retry: Retry,
    pub on_error: OnError,
    /// How many rows may fail if the run goes on without them.
    pub budget: Budget,
    /// How a source cuts its rows. Other stages are cut at their incoming edges ([`super::Edge::cut`]).
    pub cut: Cut,
    pub order: Order,
    /// The params that it sees, if these are not those of the plan.
    pub params: Option<Arc<BTreeMap<String, serde_json::Value>>>,
    /// Environment variables of the stage's processes, on top of the inherited ones.
    pub env: BTreeMap<String, String>,
    /// Working directory of the stage's processes, absolute.
    pub cwd: PathBuf,
    /// Stages that must have ended before this one starts, without duplicates.
    pub after: Vec<StageId>,
    /// Whether a stage waits for its end.
    pub is_awaited: bool,
    /// Whether finished batches are kept, so that a later run need not do them again. Only of stages that work batch by batch in workers
    /// or processes, and keep no state.
    pub checkpoint: Option<Checkpoint>,
    /// What its attempts take of the plan's resources.
    pub uses: Vec<Use>,
    /// What each of its workers has of them for its life, as what a process is told of devices cannot be told anew.
    pub holds: Vec<Use>,
    /// What may come out of it, where the files behind it tell.
    pub supply: Option<Supply>,
    /// The file that it stands in, absolute, if that is not the plan's.
    pub file: Option<PathBuf>,
    /// 1-based line of the stage's name in its file, for messages at run time.
    pub line: u32,
}

/// In which order the rows of a stage go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// That of its input, where one member comes after the other.
    Preserve,
    /// Batches go on as they are done, and members of an input are read as they have something.
    Any,
}

impl Stage {
    /// The key that makes the stage what it is.
    pub fn kind_word(&self) -> &'static str {
        match self.kind {
            StageKind::Read(_) => "read",
            StageKind::Write(_) => "write",
            StageKind::Sql(_) => "sql",
            StageKind::Python(_) => "python",
            StageKind::Command(_) => "command",
            StageKind::Expect(_) => "expect",
        }
    }

    /// The stage of the file that it belongs to, or its own name: what is added to show rows, or to count them off, has a colon in its name.
    pub fn written_name(&self) -> &str {
        self.name.split_once(':').map_or(&self.name, |(of, _)| of)
    }

    /// Whether it was added to show rows of a stage, or to count them off.
    pub fn is_added(&self) -> bool {
        self.name.contains(':')
    }

    /// Whether it is a sink whose output is published when it has ended, as a stage waits for that, and not when the run has.
    pub fn publishes_early(&self) -> bool {
        self.is_awaited && matches!(&self.kind, StageKind::Write(write) if write.published().is_some())
    }

    /// The place of the port `rejected` among the stage's.
    pub fn rejected_port(&self) -> Option<usize> {
        self.ports.iter().position(|port| port.name == Port::REJECTED)
    }

    /// What a port is called by who reads from it.
    pub fn port_word(&self, port: usize) -> &str {
        match (&self.kind, self.ports[port].name.as_str()) {
            (StageKind::Expect(_), Port::REJECTED) => Port::UNEXPECTED,
            (_, name) => name,
        }
    }

    /// The stage of the file whose rows it rejects.
    pub fn rejects_of(&self) -> &str {
        match &self.kind {
            StageKind::Expect(expect) => &expect.of,
            _ => &self.name,
        }
    }

    /// Of a task that is not run again where nothing has changed: what it reads and makes.
    pub fn task_files(&self) -> Option<&TaskFiles> {
        match &self.kind {
            StageKind::Command(command) => command.files.as_ref(),
            _ => None,
        }
    }

    /// Whether the stage keeps state from batch to batch: per key (`partition_by`), or over the whole stream (`as: stream`).
    pub fn has_state(&self) -> bool {
        matches!(&self.kind, StageKind::Python(python) if !python.partition_by.is_empty() || python.is_stream())
    }

    /// Whether it keeps something that all workers can look up.
    pub fn is_shared(&self) -> bool {
        self.shared_as().is_some()
    }

    /// The name under which workers look up what it keeps.
    pub fn shared_as(&self) -> Option<&str> {
        match &self.kind {
            StageKind::Write(Write { target: WriteTarget::Shared(name), .. }) => Some(name),
            _ => None,
        }
    }

    /// Whether it makes an object that is shared, and no rows.
    pub fn makes_object(&self) -> bool {
        matches!(&self.kind, StageKind::Python(python) if python.convention == Some(Convention::Object))
    }

    /// Whether all that the stage keeps is kept per key.
    pub fn has_keys(&self) -> bool {
        matches!(&self.kind, StageKind::Python(python) if !python.partition_by.is_empty())
    }

    /// Returns whether rows that are lines of text may come to the stage as the text that they are.
    pub fn takes_lines(&self) -> bool {
        match &self.kind {
            StageKind::Write(write) => write.format == Format::Lines,
            StageKind::Command(command) => command.mode != CommandMode::Row && command.input == Some(Format::Lines),
            _ => false,
        }
    }

    /// What the workers of a Python stage are like.
    pub fn worker_traits(&self) -> WorkerTraits<'_> {
        let Self { env, cwd, memory, holds, recycle, .. } = self;
        WorkerTraits { env, cwd, memory: *memory, holds, recycle: *recycle, start: self.start(), cpus: self.cpus() }
    }

    /// On which cores the stage's workers may run.
    pub fn cpus(&self) -> &Cpus {
        match &self.kind {
            StageKind::Python(python) => &python.cpus,
            _ => &Cpus::Any,
        }
    }

    /// How the stage's workers are started.
    pub fn start(&self) -> Start {
        match &self.kind {
            StageKind::Python(python) => python.start,
            _ => Start::default(),
        }
    }

    /// Returns whether the stage's work is done by worker processes and not in the coordinator.
    pub fn runs_in_workers(&self) -> bool {
        matches!(self.kind, StageKind::Python(_) | StageKind::Command(_))
    }
}

/// What workers have to have in common to take each other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkerTraits<'s> {
    env: &'s BTreeMap<String, String>,
    cwd: &'s PathBuf,
    memory: Option<NonZeroU64>,
    holds: &'s [Use],
    recycle: Recycle,
    start: Start,
    cpus: &'s Cpus,
}

/// One input of a stage: the concatenation of its members in this order.
#[derive(Clone, Debug)]
pub struct Input {
    pub table: TableName,
    pub members: Vec<EdgeId>,
}

/// One output of a stage and the edges that every one of its batches goes to.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: String,
    pub edges: Vec<EdgeId>,
    /// Its columns, if they are known before a run. The type of a column is `Null` where that is not known.
    pub columns: Option<SchemaRef>,
}

impl Port {
    pub const MAIN: &'static str = "out";
    pub const REJECTED: &'static str = "rejected";
    /// How `from` names the rejected rows of the stage that checks what the rows of a stage must be like.
    pub const UNEXPECTED: &'static str = "unexpected";
    /// What is kept of the updates of the run's state that came with a batch: no port, as nobody can read from it.
    pub const STATE: &'static str = "_state";
}

#[derive(Clone, Debug)]
pub enum StageKind {
    Read(Read),
    Write(Write),
    Sql(Sql),
    Python(Python),
    Command(Command),
    /// Not written as a stage: checks the rows of one.
    Expect(Expect),
}

/// Arrow type of a declared column, kept as the word the user wrote (`int64`, `string`, ...) and resolved by
/// [`crate::format::column_type`].
pub type ColumnType = arrow::datatypes::DataType;

/// A source of files. Their places may be patterns; `-` is standard input.
#[derive(Clone, Debug)]
pub struct Read {
    pub paths: Vec<Location>,
    /// The folder of the pipeline, from which rows tell the paths of files.
    pub folder: PathBuf,
    pub stdin: bool,
    pub format: Format,
    /// `None`: from each file's extension.
    pub compression: Option<Compression>,
    /// Declared columns; these are not inferred.
    pub schema: Vec<(String, ColumnType)>,
    /// The columns that folders in the paths of files stand for.
    pub partitions: Option<Partitions>,
    /// Whether rows have the columns [`Read::ORIGIN`].
    pub origin: bool,
    pub which: WhichFiles,
    /// CSV only.
    pub dialect: Dialect,
    /// Of text.
    pub encoding: Encoding,
    /// Whether malformed records are left out; otherwise they are errors. Of text but lines.
    pub leaves_out_malformed: bool,
    /// If not all rows are wanted: how many. Only where malformed records are left out; elsewhere a query counts them.
    pub first_rows: Option<u64>,
    /// The columns that the consumers use; `None` is all.
    pub used: Option<UsedColumns>,
    /// Parquet only: the consumers, if all of them are queries over this source alone that have a `WHERE`. Row groups in which no
    /// row can pass any of these conditions are not read.
    pub filtered_by: Vec<StageId>,
}

/// Which of the files of a source are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhichFiles {
    All,
    /// Those that no run has noted. `are_noted`: whether this run notes them when it is published.
    New {
        are_noted: bool,
    },
}

/// Which folders `column=value` are columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// All that the paths of the files have.
    Found,
    Declared(Vec<(String, ColumnType)>),
}

impl Read {
    /// The file of a row, and its number in that.
    pub const ORIGIN: [(&str, ColumnType); 2] = [("_file", ColumnType::Utf8), ("_row", ColumnType::UInt64)];

    /// Whether some of the files are in an object store.
    pub fn has_store(&self) -> bool {
        self.paths.iter().any(|path| path.store().is_some())
    }

    /// The columns of rows that the files themselves do not have; `None` if it takes a look at their paths to tell.
    pub fn added(&self) -> Option<Vec<(String, ColumnType)>> {
        let mut added = match &self.partitions {
            None => Vec::new(),
            Some(Partitions::Declared(columns)) => columns.clone(),
            Some(Partitions::Found) => return None,
        };
        added.extend(self.added_origin());
        Some(added)
    }

    /// The columns of [`Read::ORIGIN`], if rows have them.
    pub fn added_origin(&self) -> impl Iterator<Item = (String, ColumnType)> {
        let columns = Self::ORIGIN.map(|(name, data_type)| (name.to_owned(), data_type));
        columns.into_iter().filter(|_| self.origin)
    }
}

#[derive(Clone, Debug)]
pub struct Write {
    pub target: WriteTarget,
    pub format: Format,
    pub compression: Compression,
    /// Whether CSV begins with the names of the columns.
    pub header: bool,
    pub mode: WriteMode,
}

/// What becomes of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// It is replaced.
    Overwrite,
    /// It stays, and ends the run.
    New,
    /// Rows come behind it: in the file, or as further parts of the folder.
    Append,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteTarget {
    File(Location),
    Folder(Folder),
    Stdout,
    /// Memory that all workers can map, under this name.
    Shared(String),
    /// Nowhere: that there are rows is what is wrong.
    Nothing,
}

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    pub path: Location,
    /// Columns whose values name the folders in it, one in the other, and which the files do not have. Without any, the files lie in the folder
    /// itself.
    pub partition_by: Vec<String>,
}

impl Folder {
    /// Bytes of rows that are put into the order of their files together. Rows that come in any order are written in few parts.
    pub const SORTED_BYTES: u64 = 32 << 20;
    /// Bytes of rows that open files may hold back together, as row groups that are not complete.
    pub const HELD_BYTES: u64 = 64 << 20;
    /// Files that are open at once, and memory that these may take to pack what is written.
    const MOST_OPEN: u64 = 32;
    const PACKING_BYTES: u64 = 256 << 20;

    /// How many files may be open at once.
    pub fn most_open(compression: Compression) -> u64 {
        (Self::PACKING_BYTES / compression.packing().max(1)).clamp(1, Self::MOST_OPEN)
    }
}

impl Write {
    /// Where it lies, if it is published.
    pub fn published(&self) -> Option<&Location> {
        match &self.target {
            WriteTarget::File(path) => Some(path),
            WriteTarget::Folder(folder) => Some(&folder.path),
            WriteTarget::Stdout | WriteTarget::Shared(_) | WriteTarget::Nothing => None,
        }
    }
}

/// A query whose syntax has been checked and whose tables are the stage's inputs.
#[derive(Clone, Debug)]
pub struct Sql {
    pub query: crate::sql::Query,
    /// Whether every output row depends on one input row only, so that batches can be worked on one by one.
    pub row_wise: bool,
}

#[derive(Clone, Debug)]
pub struct Python {
    pub call: Call,
    /// `None`: inferred in the worker from the first parameter's annotation.
    pub convention: Option<Convention>,
    /// Keyword arguments for the function or the class's constructor.
    pub with: serde_json::Map<String, serde_json::Value>,
    /// Declared output columns, of each port that has any.
    pub returns: BTreeMap<String, Vec<(String, ColumnType)>>,
    /// Whether it has several outputs: its function gives a dict of them.
    pub has_ports: bool,
    /// A stage without inputs: the function is a generator.
    pub is_source: bool,
    /// For how many rows of a batch a worker may call the function at once. `None` is what the worker thinks fit for the function.
    pub concurrency: Option<NonZeroU32>,
    /// The columns of its key, if rows are routed by one; else none.
    pub partition_by: Vec<String>,
    /// `class` keeps its instances in workers of its own.
    pub target: PythonTarget,
    pub start: Start,
    pub cpus: Cpus,
}

/// On which cores workers may run, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cpus {
    /// Where the coordinator may.
    #[default]
    Any,
    /// Each worker on one core.
    Spread,
    /// On these, of which there is one at least.
    Only(BTreeSet<u32>),
}

/// How a worker is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// Forked from the template.
    #[default]
    Template,
    /// An interpreter of its own.
    Exec,
}

impl Python {
    pub fn is_stream(&self) -> bool {
        self.convention == Some(Convention::Stream) && !self.is_source
    }
}

/// `module:name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub module: String,
    pub name: String,
}

/// What a Python function gets and gives (`as:`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    Row,
    Rows,
    Arrow,
    Pandas,
    Polars,
    Numpy,
    Stream,
    /// Of a source that is called once: any object, kept as it is pickled. What a row is has no meaning then.
    Object,
    /// Of a hook, which is called once: what it gives is dropped.
    Task,
}

/// Whether `call` names a function or a class: by its spelling, as nothing is imported before the run (`CamelCase` or a
/// leading capital is a class); the worker finds out what it really is and calls it accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PythonTarget {
    Function,
    Class,
}

#[derive(Clone, Debug)]
pub struct Command {
    pub line: CommandLine,
    pub mode: CommandMode,
    /// How a batch is written to the child's standard input; `None` gives it an empty one.
    pub input: Option<Format>,
    /// How the child's standard output is read; `None` sends it to the log.
    pub output: Option<Format>,
    /// Declared output columns.
    pub returns: Vec<(String, ColumnType)>,
    /// Of a task that is not run again where nothing has changed.
    pub files: Option<TaskFiles>,
}

impl Command {
    /// Whether it is one process, whose output is read while it runs.
    pub fn is_source(&self) -> bool {
        self.mode == CommandMode::Once && self.output.is_some()
    }
}

#[derive(Clone, Debug)]
pub enum CommandLine {
    /// Program and arguments; no shell is involved.
    Argv(Vec<String>),
    /// Program and arguments with the values of a row's columns in them, or with the paths of outputs.
    Row(Vec<Template>),
    /// A script for `bash -euo pipefail`; params, and columns in mode `row`, reach it as environment variables.
    Shell(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandMode {
    /// One process per batch.
    Batch,
    /// Processes that are fed batch after batch; one line out for each line in.
    Stream,
    /// One process per row, without input.
    Row,
    /// One process per run, without input.
    Once,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerLimits {
    pub min: u32,
    pub max: NonZeroU32,
}
