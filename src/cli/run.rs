//! `millpond run`.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::args::{DiagnosticFormat, Progress, RunArgs};
use super::exit_code::Exit;
use super::load::{self, Extent};
use super::plan::unseen_sources;
use super::resume::{self, Earlier, Purpose};
use super::summary_file::{SummaryFile, append, write_own};
use super::{cores, debug, dry_run, env, hooks, output, watch};
use crate::diagnostic::{Diagnostic, SourceText};
use crate::environment::usable_cores;
use crate::plan::{Asked, Moment, Plan, Stage, StageId, StageKind, Verdict, WhichFiles, WriteMode};
use crate::report::{self, Reporter, RunSummary, Style};
use crate::run::executor::{ChaosOptions, PythonHost, Surroundings};
use crate::run::publish::{Ended, RecordedOutcome, RunRecord};
use crate::run::{self, Ending, Outcome, RunError, Scope, Signals};
use crate::spec::model::FormatSpec;
use crate::spec::{Completeness, Given};

/// Bytes of stack of a thread for native work: address space, of which only what is used is memory. Long expressions in queries
/// are deep trees.
const NATIVE_STACK: usize = 64 << 20;

/// The file that a step of a workflow of GitHub adds to what is shown of it.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

pub fn run(args: &RunArgs) -> Exit {
    if args.watch {
        return watch::watch(args);
    }
    if args.dry_run {
        return dry_run::dry_run(args);
    }
    let settled = match args.debug.then(|| debug::settled(args)).transpose() {
        Ok(settled) => settled,
        Err(exit) => return exit,
    };
    let args = settled.as_ref().unwrap_or(args);
    let asked = args.until.as_ref().map(|stage| Asked {
        of: stage.clone(),
        limit: None,
        to: "-".to_owned(),
        format: FormatSpec::Jsonl,
    });
    run_of(args, asked.as_ref().map_or(Extent::Whole, Extent::Until))
}

/// Runs as much of the pipeline as is asked for.
pub fn run_of(args: &RunArgs, extent: Extent<'_>) -> Exit {
    match prepared_run(args, extent) {
        Ok(exit) | Err(exit) => exit,
    }
}

/// The plan of a run that is not begun.
///
/// # Errors
/// How the program should end if there is none.
pub fn planned(args: &RunArgs) -> Result<Plan, Exit> {
    let given = load::given(&args.params, Completeness::Full)?;
    let mut plan = load::plan_of(&args.file, &given, &args.workers, Extent::Whole, &mut |problems, source| {
        tell(args, problems, source)
    })?;
    load::keep_to_memory(&mut plan, &args.workers)?;
    cores::check(&plan, &usable_cores())?;
    Ok(plan)
}

/// Prints what is wrong or odd about the file. Standard output is for sinks.
fn tell(args: &RunArgs, problems: &[Diagnostic], source: &SourceText) {
    match args.format {
        DiagnosticFormat::Human => output::report(problems, source),
        format if problems.is_empty() && format != DiagnosticFormat::Sarif => {}
        format => output::eprint(&output::for_programs(format, problems, source)),
    }
}

/// Prints that there is no place for temporary files.
pub fn exit_on_shortage(error: &std::io::Error) -> Exit {
    output::failed(&format!("there is no place for temporary files: {error}"))
}

fn prepared_run(args: &RunArgs, extent: Extent<'_>) -> Result<Exit, Exit> {
    let earlier = resume::asked_for(args)?;
    let given = match earlier.as_ref().map(|earlier| &earlier.record) {
        Some(earlier) => Given {
            current_dir: earlier.current_dir.clone(),
            ..load::surroundings(
                earlier.set.clone(),
                earlier.seed,
                args.params.secrets_file.as_deref(),
                Completeness::Full,
            )?
        },
        None => load::given(&args.params, Completeness::Full)?,
    };
    let mut tell = |problems: &[Diagnostic], source: &SourceText| tell(args, problems, source);
    let mut plan = load::plan_of(&args.file, &given, &args.workers, extent, &mut tell)?;
    let has_checkpoint = plan.stages.iter().any(|stage| stage.checkpoint.is_some());
    let appends = |stage: &&Stage| matches!(&stage.kind, StageKind::Write(write) if write.mode == WriteMode::Append);
    if let Some(Earlier { purpose: Purpose::Correct, .. }) = &earlier
        && let Some(stage) = plan.stages.iter().find(appends)
    {
        output::complain(&format!(
            "--rejected: the stage `{}` appends what comes to it, and those rows would come again that are there already; let it write to a \
             file of its own (`mode: overwrite`)",
            stage.name
        ));
        return Err(Exit::Usage);
    }
    let reads_new = |stage: &&Stage| matches!(&stage.kind, StageKind::Read(read) if read.which != WhichFiles::All);
    if let Some(Earlier { purpose: Purpose::Correct, .. }) = &earlier
        && let Some(stage) = plan.stages.iter().find(reads_new)
    {
        output::complain(&format!(
            "--rejected: the stage `{}` reads only new files (`only_new`), and those of that run are known now; remove the key for this run",
            stage.name
        ));
        return Err(Exit::Usage);
    }
    if let Some(Earlier { purpose: Purpose::Correct, .. }) = &earlier
        && !has_checkpoint
    {
        output::complain(&format!(
            "--rejected: no stage of `{}` has `checkpoint`, so that nothing is kept of the rows that were not rejected",
            plan.name
        ));
        return Err(Exit::Usage);
    }
    if let Some(Earlier { purpose: Purpose::Resume, id, .. }) = &earlier
        && !has_checkpoint
        && plan.stages.iter().all(|stage| stage.task_files().is_none())
    {
        output::warn(&format!(
            "no stage of `{}` has `checkpoint` or is a task with files, so that nothing of the run {id} is kept: all is done again",
            plan.name
        ));
    }
    match extent {
        Extent::Whole | Extent::Sample { .. } => {}
        // Nobody is to be told that a trial has failed; what it has left is tidied up.
        Extent::Until(_) | Extent::Rows(_) => plan.hooks.retain(|hook| hook.moment == Moment::Finally),
    }
    plan.log_level = args.log_level;
    plan.hooks.iter_mut().for_each(|hook| hook.plan.log_level = args.log_level);
    if args.debug {
        debug::go_to_foreground(&mut plan)?;
    }
    load::keep_to_memory(&mut plan, &args.workers)?;
    cores::check(&plan, &usable_cores())?;
    let forced = forced(args, &plan)?;
    let python = if plan.needs_python() { Some(python(&plan)?) } else { None };
    let signals = Signals::watch(args.timeout).map_err(|error| {
        output::complain(&format!("signals cannot be watched: {error}"));
        Exit::Internal
    })?;
    let cores = load::settings(&args.workers).cores;
    let chaos = args.chaos.map(|seed| ChaosOptions { seed, rate: args.chaos_rate });
    let now = SystemTime::now();
    let record = RunRecord {
        pipeline: plan.name.clone(),
        file: load::identity(&args.file)?,
        set: given.set,
        current_dir: given.current_dir,
        seed: given.seed,
        started: now,
        now: earlier.as_ref().map_or(now, |earlier| earlier.record.now),
        resumes: earlier
            .as_ref()
            .filter(|earlier| earlier.purpose == Purpose::Resume)
            .map(|earlier| earlier.id.clone()),
        corrects: earlier.as_ref().and_then(|earlier| match earlier.purpose {
            Purpose::Correct => Some(earlier.id.clone()),
            // What that one has not corrected is still to be.
            Purpose::Resume => earlier.record.corrects.clone(),
        }),
        is_trial: !matches!(extent, Extent::Whole) && !has_files(&plan),
    };
    let corrects = record.corrects.as_ref().and_then(|id| Some(earlier?.folder.with_file_name(id)));
    let surroundings =
        Surroundings { python, cores, chaos, forced, corrects, now: record.now, started: record.started };
    let _terminal = args.debug.then(debug::Terminal::now);
    Ok(carry_out(args, plan, &record, surroundings, &signals))
}

/// The Python of the workers. To build an environment takes long: what cannot be read ends the run before.
fn python(plan: &Plan) -> Result<PythonHost, Exit> {
    if env::is_missing(plan)
        && let Some((stage, why)) = unseen_sources(plan).next()
    {
        return Err(output::failed(&format!("stage `{}` could not read its input: {why}", stage.written_name())));
    }
    env::python_host(plan)
}

/// The stages that `--force` names.
fn forced(args: &RunArgs, plan: &Plan) -> Result<BTreeSet<StageId>, Exit> {
    let find = |name: &String| {
        let stage = plan.stages.iter().find(|stage| stage.name == *name);
        let problem = match stage {
            None => format!("--force: there is no stage `{name}`"),
            Some(stage) if stage.checkpoint.is_none() && stage.task_files().is_none() => {
                format!(
                    "--force: the stage `{name}` keeps no batches and is no task with files, so that all of it is done in every run"
                )
            }
            Some(stage) => return Ok(stage.id),
        };
        output::complain(&problem);
        Err(Exit::Usage)
    };
    args.force.iter().map(find).collect()
}

fn carry_out(args: &RunArgs, plan: Plan, record: &RunRecord, surroundings: Surroundings, signals: &Signals) -> Exit {
    let state_dir = args.state.folder(&plan);
    let summary_file = match args.summary.as_deref().map(|path| SummaryFile::create(path, &plan)).transpose() {
        Ok(file) => file,
        Err(error) => return output::failed(&error),
    };
    let shown = Arc::new(plan.clone());
    let reporter = match Reporter::start(Arc::clone(&shown), style(args.progress)) {
        Ok(reporter) => reporter,
        Err(error) => return complain(&RunError::System(error)),
    };
    let mut tell = |event| reporter.tell(event);
    let opened =
        run::ask_stores(&plan, signals).and_then(|()| run::open(&plan, &state_dir, record, &surroundings, &mut tell));
    let mut run = match opened {
        Ok(run) => run,
        Err(RunError::Interrupted) => {
            output::complain(&RunError::Interrupted.to_string());
            return Exit::of_signal(signals);
        }
        Err(error) => return complain(&error),
    };
    let began = Instant::now();
    let hooks_surroundings = surroundings.clone();
    let result = run::run(plan, &mut run, surroundings, signals, &mut tell);
    let mut exit = match &result {
        Ok(outcome) => exit_of(&shown, outcome, signals),
        Err(error) => exit_of_error(error),
    };
    let recorded = recorded(exit, result.as_ref().ok(), began.elapsed());
    let noted = run.end(&recorded);
    let mut ended = hooks::EndedRun {
        folder: run.folder(),
        ended: recorded.ended,
        exit,
        failed_stage: result.as_ref().ok().and_then(|outcome| hooks::failed_stage(&shown, outcome)),
        message: result.as_ref().err().map(ToString::to_string),
        summary: None,
    };
    match result {
        Ok(outcome) => {
            let message = if exit == Exit::Success { None } else { report::failure(&shown, &outcome) };
            let text = if exit == Exit::Success && outcome.ending != Ending::Succeeded {
                String::new()
            } else {
                report::summary(&shown, &outcome)
            };
            ended.message.clone_from(&message);
            let summary = RunSummary::new(&shown, &outcome, exit.code(), message.as_deref());
            // Before anything is shown: the records wait for nobody who reads it. What is published is published: if the run's own cannot be
            // written, the exit code stays.
            let own = run.folder().join("summary.json");
            match write_own(&own, &summary.text()) {
                Ok(()) => ended.summary = Some(own),
                Err(error) => output::complain(&error.to_string()),
            }
            let asked_for = summary_file.map_or(Ok(()), |file| file.write(&summary.text()));
            reporter.end(summary, message.is_some(), text);
            if let Some(path) = std::env::var_os(STEP_SUMMARY).filter(|path| !path.is_empty())
                && let Err(error) = append(path.as_ref(), &report::markdown(&shown, &outcome))
            {
                output::warn(&format!("{STEP_SUMMARY}: {error}"));
            }
            if let Err(error) = asked_for {
                let failed = output::failed(&error);
                exit = if exit == Exit::Success { failed } else { exit };
            }
        }
        Err(error) => drop(complain(&error)),
    }
    if let Err(error) = noted {
        output::complain(&format!("`millpond runs` will not know how the run has ended: {error}"));
    }
    if record.is_trial {
        return exit;
    }
    let after = hooks::carry_out(&shown.hooks, &ended, record, &hooks_surroundings, signals, args.progress);
    if exit == Exit::Success { after } else { exit }
}

/// What later runs are told.
fn recorded(exit: Exit, outcome: Option<&Outcome>, took: Duration) -> RecordedOutcome {
    RecordedOutcome {
        ended: match exit {
            Exit::Success => Ended::Succeeded,
            Exit::HungUp | Exit::Interrupted | Exit::Terminated => Ended::Interrupted,
            _ => Ended::Failed,
        },
        exit_code: exit.code(),
        duration: outcome.map_or(took, |outcome| outcome.duration),
        rows_rejected: outcome.map(|outcome| outcome.stages.iter().map(|account| account.rows_failed()).sum()),
    }
}

/// Prints why there is no outcome, and says how the program ends.
pub fn complain(error: &RunError) -> Exit {
    output::complain(&error.to_string());
    let exit = exit_of_error(error);
    if matches!(error, RunError::System(_)) && exit == Exit::InputOutput {
        output::complain(
            "raise the limit (`ulimit -n` of descriptors, `ulimit -u` of processes and threads), or run with fewer `--workers`",
        );
    }
    exit
}

fn exit_of_error(error: &RunError) -> Exit {
    match error {
        RunError::Publish(_) | RunError::Checkpoints(_) => Exit::InputOutput,
        RunError::System(error) if is_shortage(error) => Exit::InputOutput,
        RunError::System(_) => Exit::Internal,
        RunError::Interrupted => Exit::Interrupted,
    }
}

/// Whether the system has no more descriptors for this process, or for anybody, or no more processes or threads.
fn is_shortage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::AGAIN].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Native work of a run uses as many threads as there are cores; its number does not depend on `--workers`.
pub fn set_native_threads(cores: NonZeroU32) {
    // Fails if the pool exists already, and then it has the right size.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(cores.get() as usize).stack_size(NATIVE_STACK).build_global();
}

pub fn style(progress: Progress) -> Style {
    match progress {
        Progress::Auto if std::io::stderr().is_terminal() => Style::Live,
        Progress::Auto | Progress::Plain => Style::Plain,
        Progress::Json => Style::Json,
        Progress::None => Style::None,
    }
}

/// How the program ends after a run.
pub fn exit_of(plan: &Plan, outcome: &Outcome, signals: &Signals) -> Exit {
    match &outcome.ending {
        Ending::Succeeded => Exit::Success,
        Ending::Failed(failure) => match failure.failure.scope {
            Scope::Rows | Scope::Opening if failure.failure.verdict == Verdict::Contract => Exit::BudgetExceeded,
            Scope::Rows | Scope::Opening => Exit::StageFailed,
            Scope::Budget => Exit::BudgetExceeded,
            Scope::Input | Scope::Output => Exit::InputOutput,
            // As `head` does it: who closes standard output has seen enough. Files that were not published are another matter.
            Scope::ClosedPipe if !has_files(plan) => Exit::Success,
            Scope::ClosedPipe => Exit::InputOutput,
            Scope::Internal => Exit::Internal,
        },
        Ending::TookTooLong(_) => Exit::StageFailed,
        Ending::CommitFailed(_) => Exit::InputOutput,
        Ending::Interrupted => Exit::of_signal(signals),
        Ending::AccountsDiffer(_) | Ending::Stuck(_) => Exit::Internal,
    }
}

fn has_files(plan: &Plan) -> bool {
    let is_file = |kind: &StageKind| matches!(kind, StageKind::Write(write) if write.published().is_some());
    plan.stages.iter().any(|stage| is_file(&stage.kind))
}
