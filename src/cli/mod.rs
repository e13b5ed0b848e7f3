//! The command line: the only place that prints, reads the environment and picks exit codes. One file per command.

mod args;
mod cgroup;
mod cores;
mod debug;
mod dry_run;
mod env;
mod exit_code;
mod explain;
mod graph;
mod hooks;
mod init;
mod load;
mod output;
mod params_file;
mod params_help;
mod plan;
mod resume;
mod run;
mod runs;
mod schema;
mod secrets_file;
mod show;
mod summary_file;
mod test;
mod validate;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::run::executor::{GUARDIAN_ARGUMENT, guard};
use args::{Cli, Command, EnvCommand, RunsCommand};
pub use exit_code::Exit;

/// Runs the command line `args`, the program's name first, and says how the program should end.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|argument| argument == GUARDIAN_ARGUMENT) {
        // Started by a run, not by people: see `run/executor/guardian`.
        return if guard().is_ok() { Exit::Success } else { Exit::Internal }.into();
    }
    end_on_panic();
    dispatch(args).into()
}

/// A panic of the main thread is the end, at once: what it has begun would wait for it for ever while it unwinds. The guardian ends what a
/// run has started. Panics of other threads are told to the main one, as failures.
#[allow(clippy::disallowed_methods, reason = "destructors are what would not end")]
fn end_on_panic() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        show(panic);
        if std::thread::current().name() == Some("main") {
            std::process::exit(Exit::Internal.code().into());
        }
    }));
}

fn dispatch(args: Vec<OsString>) -> Exit {
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(message) => {
            let is_answer = matches!(message.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A closed standard output or error leaves nobody to tell.
            let _ = message.print();
            if message.kind() == ErrorKind::DisplayHelp {
                params_help::print(&args);
            }
            return if is_answer { Exit::Success } else { Exit::Usage };
        }
    };
    // Before anything starts the pool with threads of another size: queries are compiled and run on it.
    run::set_native_threads(load::cores());
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Validate(args) => validate::validate(&args),
        Command::Test(args) => test::test(&args),
        Command::Show(args) => show::show(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Graph(args) => graph::graph(&args),
        Command::Init(args) => init::init(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Schema(args) => schema::schema(&args),
        Command::Runs(RunsCommand::List(args)) => runs::list(&args),
        Command::Runs(RunsCommand::Prune(args)) => runs::prune(&args),
        Command::Env(EnvCommand::Build(args)) => env::build(&args),
        Command::Env(EnvCommand::List(args)) => env::list(&args),
        Command::Env(EnvCommand::Prune(args)) => env::prune(&args),
        Command::Env(EnvCommand::Lock(args)) => env::lock(&args),
        Command::Env(EnvCommand::Pythonpath) => env::pythonpath(),
    }
}
