//! The command line as it is typed.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::plan::Plan;

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
    /// Print the compiled plan: stages, queues and their bounds.
    Plan(PlanArgs),
    /// Print the graph of the stages.
    Graph(GraphArgs),
    /// Print the JSON Schema of pipeline files.
    Schema,
    /// Python environments of pipelines.
    #[command(subcommand)]
    Env(EnvCommand),
}

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Build the environment that a pipeline needs.
    Build(EnvBuildArgs),
}

#[derive(Debug, Args)]
pub struct EnvBuildArgs {
    /// The pipeline file.
    pub file: PathBuf,
    #[command(flatten)]
    pub params: ParamArgs,
}

/// What sets params.
#[derive(Debug, Args)]
pub struct ParamArgs {
    /// Set a param of the pipeline; a relative path is relative to the current directory.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Seed of every random choice (`run.seed`).
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// What the machine may give to a run.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Attempts that may run at once. Without it, the number of cores that may be used.
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroU32>,
    /// The most memory that the run may take, such as 2GiB: queues and queries make do with less. If that is not enough, there is no run.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<bytesize::ByteSize>,
}

#[derive(Debug, Args)]
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
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Debug, Args)]
pub struct StateArgs {
    /// Folder for what runs leave behind. Without it, `.millpond` beside the pipeline file.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl StateArgs {
    pub fn folder(&self, plan: &Plan) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| plan.folder.join(".millpond"))
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
    /// The pipeline files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub params: ParamArgs,
    #[arg(long, value_enum, default_value_t = DiagnosticFormat::Human)]
    pub format: DiagnosticFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiagnosticFormat {
    Human,
    Json,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The pipeline file.
    pub file: PathBuf,
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
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
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
