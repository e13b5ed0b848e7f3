//! `millpond run --debug`: stages run in the foreground, where a debugger can be talked to.

use std::num::NonZeroU32;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::args::{Progress, RunArgs};
use super::exit_code::Exit;
use super::output;
use crate::plan::{Plan, Stage, StageKind, WriteTarget};

/// The arguments with what follows from `--debug`: one worker, and no progress that would be drawn over a prompt.
///
/// # Errors
/// If others do not go together with it.
pub fn settled(args: &RunArgs) -> Result<RunArgs, Exit> {
    if args.workers.workers.is_some_and(|workers| workers > NonZeroU32::MIN) {
        return refuse("there is one terminal, and so one worker at a time: leave out `--workers`");
    }
    let progress = match args.progress {
        Progress::Json => return refuse("the terminal is for people, and `--progress json` for programs"),
        Progress::Auto => Progress::None,
        progress => progress,
    };
    let mut settled = RunArgs { progress, ..args.clone() };
    settled.workers.workers = Some(NonZeroU32::MIN);
    Ok(settled)
}

/// Has the stages of a plan run in the foreground.
///
/// # Errors
/// If one of them has standard input or output for rows.
pub fn go_to_foreground(plan: &mut Plan) -> Result<(), Exit> {
    for stage in &plan.stages {
        if let Some(what) = uses_stdio(stage) {
            return refuse(&format!("the stage `{}` {what}, which is the terminal's; let it be a file", stage.name));
        }
    }
    plan.go_to_foreground();
    Ok(())
}

fn uses_stdio(stage: &Stage) -> Option<&'static str> {
    match &stage.kind {
        StageKind::Read(read) if read.stdin => Some("reads standard input"),
        StageKind::Write(write) if write.target == WriteTarget::Stdout => Some("writes to standard output"),
        _ => None,
    }
}

fn refuse<T>(why: &str) -> Result<T, Exit> {
    output::complain(&format!("--debug: {why}"));
    Err(Exit::Usage)
}

/// The terminal as it was. A stage that is killed at a prompt would leave one that shows nothing of what is typed.
pub struct Terminal(Option<Termios>);

impl Terminal {
    pub fn now() -> Self {
        Self(tcgetattr(rustix::stdio::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let stdin = rustix::stdio::stdin();
        // Whoever is in the background would be stopped for setting what is as it should be.
        if let (Some(before), Ok(now)) = (&self.0, tcgetattr(stdin))
            && (now.local_modes, now.input_modes, now.output_modes)
                != (before.local_modes, before.input_modes, before.output_modes)
        {
            // If the terminal has gone, there is nothing to put right.
            let _ = tcsetattr(stdin, OptionalActions::Drain, before);
        }
    }
}
