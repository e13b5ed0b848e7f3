//! The command line as it is typed.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan::{LogLevel, Plan};

/// The state folder, beside a pipeline file.
pub const STATE: &str = ".millpond";

/// Runs data pipelines that are written down in YAML.
#[derive(Debug, Parser)]
#[command(name = "millpond", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a pipeline.
    Run(RunArgs),
    /// Check pipeline files without running anything.
    Validate(ValidateArgs),
    /// Run unit tests of pipelines: given rows for some stages, and what others make of them. Nothing else is read, and nothing written.
    Test(TestArgs),
    /// Print the first rows of a stage, and do no more for it than they need. No sink is written.
    Show(ShowArgs),
    /// Print the compiled plan: stages, queues and their bounds.
    Plan(PlanArgs),
    /// Print the graph of the stages.
    Graph(GraphArgs),
    /// Make a pipeline to begin with, with data and a workflow. Without a template, list the templates.
    Init(InitArgs),
    /// Explain the code of an error or a warning, with an example of what is wrong.
    Explain(ExplainArgs),
    /// Print the JSON Schema of pipeline files, of test files, or of what a run writes.
    Schema(SchemaArgs),
    /// Runs that have been, and what they have left behind.
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Python environments of pipelines.
    #[command(subcommand)]
    Env(EnvCommand),
}

#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List runs, newest first.
    List(RunsListArgs),
    /// Remove the folders of finished runs, with their events, logs and rejected rows. Runs that are going on stay, and so does what the
    /// next run has to finish or undo.
    ///
    /// Without --keep and --older-than, the newest 20 stay. With both, a run goes that is neither among the newest nor young.
    Prune(RunsPruneArgs),
}

/// Whose runs.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// A pipeline file: only its runs, and those in `.millpond` beside it. Without it, all runs in `.millpond` in the current directory.
    pub file: Option<PathBuf>,
    /// The folder for what runs leave behind, if it is another one.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RunsListArgs {
    #[command(flatten)]
    pub runs: RunsArgs,
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct RunsPruneArgs {
    #[command(flatten)]
    pub runs: RunsArgs,
    /// How many of the newest finished runs stay.
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Only runs that began longer ago than this, such as `12h` or `7d`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// Also remove the finished batches that stages with `checkpoint` have kept, of all pipelines that use the state folder.
    #[arg(long)]
    pub checkpoints: bool,
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Build the environment that a pipeline needs.
    Build(EnvBuildArgs),
    /// List the environments that were built, the one that was used last first.
    List(EnvListArgs),
    /// Remove environments that nobody has used for long. They are built again when a pipeline needs them.
    Prune(EnvPruneArgs),
    /// Write the packages that the requirements of a pipeline are resolved to into `NAME.lock.txt` beside it. Runs install these from then on.
    Lock(EnvBuildArgs),
    /// Print the folder in which Python finds the package `millpond`: for `PYTHONPATH`, where functions are unit-tested.
    Pythonpath,
}

#[derive(Debug, Args)]
pub struct EnvListArgs {
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,
}

#[derive(Debug, Args)]
pub struct EnvPruneArgs {
    /// Only environments that nobody has used for so long, such as `12h` or `7d`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30d")]
    pub unused_for: Duration,
    /// All of them, but for those in use.
    #[arg(long, conflicts_with = "unused_for")]
    pub all: bool,
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct EnvBuildArgs {
    /// The pipeline file.
    pub file: PathBuf,
    #[command(flatten)]
    pub params: ParamArgs,
}

/// What sets params.
#[derive(Clone, Debug, Args)]
pub struct ParamArgs {
    /// Set a param of the pipeline; a relative path is relative to the current directory.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// A file with the secrets that the pipeline uses (`${{ secrets.NAME }}`), a line `NAME=value` each. Others are environment variables.
    #[arg(long, value_name = "FILE")]
    pub secrets_file: Option<PathBuf>,
    /// A file with params, as a mapping in YAML or JSON. It is as if each was given with --set, in front of those that are: what --set says counts, and
    /// a relative path is relative to the current directory.
    #[arg(long, value_name = "FILE")]
    pub params_file: Option<PathBuf>,
    /// Seed of every random choice (`run.seed`).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// What the machine may give to a run.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// Attempts that may run at once. Without it, the number of cores that may be used.
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroU32>,
    /// The most memory that the run may take, such as 2GiB: queues and queries make do with less. If that is not enough, there is no run.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<bytesize::ByteSize>,
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The pipeline file.
    pub file: PathBuf,
    #[command(flatten)]
    pub params: ParamArgs,
    #[command(flatten)]
    pub workers: WorkerArgs,
    /// How progress is shown.
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
    /// Does what this stage does, and of the others only what it needs: a sink is written, and the rows of any other stage (or `stage.port`) are
    /// printed as JSON lines. No other sink is written.
    #[arg(long, value_name = "STAGE")]
    pub until: Option<String>,
    /// Runs nothing: prints the plan, and checks that sinks could be written and that there is the Python environment.
    #[arg(long, conflicts_with_all = ["until", "resume", "rejected", "force", "chaos"])]
    pub dry_run: bool,
    /// Of a dry run: runs the pipeline on the first N rows of each source, and prints what its sinks would get. Nothing is published, and tasks and
    /// hooks are not carried out.
    #[arg(long, value_name = "N", requires = "dry_run")]
    pub sample: Option<NonZeroU64>,
    /// Runs again whenever the pipeline file, its modules, its inputs or other code that it names has changed, whether the run before has succeeded
    /// or failed. Ctrl-C ends.
    #[arg(long, conflicts_with_all = ["resume", "rejected"])]
    pub watch: bool,
    /// Runs the code of stages in the foreground, so that it can be talked to: `breakpoint()`, `input()` and, after an exception, the debugger have
    /// the terminal. One worker at a time, no time limits of stages, and the first failure ends the run.
    #[arg(long, conflicts_with_all = ["watch", "chaos", "dry_run"])]
    pub debug: bool,
    /// How long the run may take, such as `90s` or `2h`. Then it is ended as an interrupt would end it, and has failed.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Writes what the run came to, as JSON, also if it has failed. `millpond schema --of summary` describes it.
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// How mistakes in the file are told, on standard error.
    #[arg(long, value_enum, default_value_t = DiagnosticFormat::Human)]
    pub format: DiagnosticFormat,
    /// What is told of what Python code logs, where its stage has no `log_level`.
    #[arg(long, default_value = LogLevel::default().word(), value_parser = log_level())]
    pub log_level: LogLevel,
    /// Injects faults, to see that the pipeline survives them: workers are killed and replaced, attempts are lost, late, or hang. Which ones
    /// follows from this number.
    #[arg(long, value_name = "SEED")]
    pub chaos: Option<u64>,
    /// Part of the attempts that are hit by --chaos.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1, value_parser = fraction, requires = "chaos")]
    pub chaos_rate: f64,
    /// A stage with `checkpoint` whose finished batches do not count: all of them are done again. Or a task that is run although nothing has changed.
    /// May be repeated.
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
    /// Goes on with a run of this pipeline that has not succeeded, with its params, its seed, and its start as what `now()` says: what stages
    /// with `checkpoint` have done is not done again. RUN is the beginning of an id; without it, the newest run is meant.
    #[arg(long, value_name = "RUN", num_args = 0..=1, conflicts_with_all = ["set", "params_file", "seed"])]
    pub resume: Option<Option<String>>,
    /// Does again what a run of this pipeline has rejected or skipped, and nothing that it has done well, although code has changed since: with the params, the seed and the
    /// `now()` of that run. What stages with `checkpoint` have kept of the other rows is taken as it is. RUN is the beginning of an id; without
    /// it, the newest run is meant.
    #[arg(long, value_name = "RUN", num_args = 0..=1, conflicts_with_all = ["set", "params_file", "seed", "resume"])]
    pub rejected: Option<Option<String>>,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// Test files (`NAME.test.yaml`), pipelines that have one beside them, or folders. Without any, all test files in the current folder and
    /// below.
    pub files: Vec<PathBuf>,
    /// Only tests with this in their name.
    #[arg(long, value_name = "PART")]
    pub filter: Option<String>,
    /// Writes what came into the test files, where it is not what was expected: rows, counts and files with rows.
    #[arg(long)]
    pub update: bool,
    /// Runs no more tests after the first that fails.
    #[arg(long)]
    pub fail_fast: bool,
    /// Writes what came of the tests as XML, as CI servers read it from JUnit.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    #[command(flatten)]
    pub workers: WorkerArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The pipeline file.
    pub file: PathBuf,
    /// The stage, or `stage.port`.
    pub stage: String,
    /// So many rows.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=u64::from(u32::MAX)))]
    pub limit: u64,
    #[arg(long, value_enum, default_value_t = RowsFormat::Table)]
    pub format: RowsFormat,
    #[command(flatten)]
    pub params: ParamArgs,
    #[command(flatten)]
    pub workers: WorkerArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RowsFormat {
    /// Columns with their types, for people.
    Table,
    Jsonl,
    Csv,
}

#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// Folder for what runs leave behind. Without it, `.millpond` beside the pipeline file.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl StateArgs {
    pub fn folder(&self, plan: &Plan) -> PathBuf {
        self.in_folder(&plan.folder)
    }

    /// The state folder of a pipeline that lies in `folder`.
    pub fn in_folder(&self, folder: &Path) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| folder.join(STATE))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// Live on a terminal, plain elsewhere.
    Auto,
    /// A line per event.
    Plain,
    /// A JSON object per event.
    Json,
    None,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The pipeline files, and test files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub params: ParamArgs,
    #[arg(long, value_enum, default_value_t = DiagnosticFormat::Human)]
    pub format: DiagnosticFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiagnosticFormat {
    /// Drawn with the lines that they are about.
    Human,
    /// A list of objects.
    Json,
    /// SARIF 2.1.0, as code scanning takes it.
    Sarif,
    /// Annotations for workflows of GitHub.
    Github,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Of which files.
    #[arg(long, value_enum, default_value_t = SchemaOf::Pipeline)]
    pub of: SchemaOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// Pipeline files.
    Pipeline,
    /// What `run --summary` writes.
    Summary,
    /// What `plan --format json` prints.
    Plan,
    /// Test files.
    Test,
    /// Pipeline files, as a page of Markdown for people.
    Reference,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// What to begin with, such as `words`.
    pub template: Option<String>,
    /// Where to. Without it, a folder with the name of the template.
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The code, such as `plan::cycle` or `cycle`. Without it, all codes are listed.
    pub code: Option<String>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The pipeline file.
    pub file: PathBuf,
    /// `human` draws the plan and the mistakes in the file, `json` is both as one document (`millpond schema --of plan`); `sarif` and `github` are
    /// the mistakes alone.
    #[arg(long, value_enum, default_value_t = DiagnosticFormat::Human)]
    pub format: DiagnosticFormat,
    #[command(flatten)]
    pub params: ParamArgs,
    #[command(flatten)]
    pub workers: WorkerArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Debug, Args)]
pub struct GraphArgs {
    /// The pipeline file.
    pub file: PathBuf,
    #[command(flatten)]
    pub params: ParamArgs,
    #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
    pub format: GraphFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    Text,
    Mermaid,
    /// For Graphviz.
    Dot,
    /// A picture.
    Svg,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn log_level() -> impl TypedValueParser<Value = LogLevel> {
    PossibleValuesParser::new(LogLevel::ALL.map(LogLevel::word))
        .map(|word| LogLevel::ALL.into_iter().find(|level| level.word() == word).expect("one of them"))
}

fn fraction(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("it must be between 0 and 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_value_may_contain_an_equals_sign() {
        assert_eq!(assignment("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(assignment("=b").is_err());
    }
}
