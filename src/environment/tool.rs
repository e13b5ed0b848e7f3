//! Running the programs that build environments.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::error::EnvironmentError;

/// How much of a program's output an error shows: its end is where the reason is.
const SHOWN_LINES: usize = 20;

/// Variables that would make Python or pip work elsewhere than in the environment that is built.
const REMOVED_VARIABLES: &[&str] = &["PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "VIRTUAL_ENV"];

/// Runs a program to its end, and gives each line that it prints to `line`. A status other than 0 is an error with the
/// last lines.
pub(super) fn run(command: &mut Command, line: &mut dyn FnMut(String)) -> Result<(), EnvironmentError> {
    for name in REMOVED_VARIABLES {
        command.env_remove(name);
    }
    let described = describe(command);
    let failed =
        |status: String, output: String| EnvironmentError::Failed { command: described.clone(), status, output };
    let mut last = VecDeque::new();
    let status = stream(command, &mut |text| {
        if last.len() == SHOWN_LINES {
            last.pop_front();
        }
        last.push_back(text.clone());
        line(text);
    })
    .map_err(|error| failed("not started".to_owned(), error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(status.to_string(), Vec::from(last).join("\n")))
}

/// Standard output and standard error share one pipe, so that their lines keep their order.
fn stream(command: &mut Command, line: &mut dyn FnMut(String)) -> io::Result<std::process::ExitStatus> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds the pipe's write ends; only without them does reading end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        line(String::from_utf8_lossy(&bytes).trim_end().to_owned());
        bytes.clear();
    }
    child.wait()
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_streams_come_in_order() {
        let mut lines = Vec::new();
        run(&mut shell("echo a; echo b >&2; printf '\\377'"), &mut |line| lines.push(line)).expect("it succeeds");
        assert_eq!(lines, ["a", "b", "\u{fffd}"]);
    }

    #[test]
    fn a_failure_shows_the_last_lines() {
        let error = run(&mut shell("seq 100; exit 3"), &mut |_| {}).expect_err("it fails");
        let text = error.to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("\n81\n") && text.ends_with("\n100") && !text.contains("\n80\n"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = run(&mut Command::new("/no/such/program"), &mut |_| {}).expect_err("it cannot start");
        assert!(error.to_string().starts_with("`/no/such/program` failed (not started)"));
    }
}
