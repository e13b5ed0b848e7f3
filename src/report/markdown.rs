//! [`markdown`]: the end of a run as the page of a continuous integration shows it.

use std::fmt::Write;

use super::summary::{accounts, failure, remarks};
use super::words::duration;
use crate::plan::Plan;
use crate::run::{Ending, Outcome};

/// Bytes of a message. GitHub shows nothing at all of a summary that is larger than 1 MiB.
const MESSAGE_BYTES: usize = 64 << 10;
/// Bytes of the table and of what stands below it, each.
const PART_BYTES: usize = 256 << 10;

/// How the run ended, the failure if there is one, the accounts, and what there is to say beside them.
pub fn markdown(plan: &Plan, outcome: &Outcome) -> String {
    let ending = match outcome.ending {
        Ending::Succeeded => "succeeded",
        Ending::Interrupted => "was interrupted",
        _ => "failed",
    };
    let mut text = format!("### {} {ending} after {}\n\n", code(&plan.name), duration(outcome.duration));
    if let Some(message) = failure(plan, outcome) {
        let _ = write!(text, "{}\n\n", fenced(cut(&message, MESSAGE_BYTES)));
    }
    let [header, stages @ ..] = &accounts(plan, outcome)[..] else { return text };
    let line = |cells: &[String; 7]| format!("| {} |\n", cells.join(" | "));
    text += &line(header);
    text += "|---|---:|---:|---:|---:|---:|---|\n";
    let mut table = String::new();
    for (at, cells) in stages.iter().enumerate() {
        if table.len() > PART_BYTES {
            let _ = writeln!(table, "| … and {} more | | | | | | |", stages.len() - at);
            break;
        }
        table += &line(cells);
    }
    text += &table;
    let remarks = remarks(plan, outcome);
    if !remarks.is_empty() {
        let _ = write!(text, "\n{}\n", fenced(cut(remarks.trim_end(), PART_BYTES)));
    }
    text.push('\n');
    text
}

/// The beginning of a text.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Text that is shown as it is.
fn fenced(text: &str) -> String {
    let fence = "`".repeat(longest_run_of_backticks(text).max(2) + 1);
    format!("{fence}text\n{text}\n{fence}")
}

fn code(text: &str) -> String {
    let fence = "`".repeat(longest_run_of_backticks(text) + 1);
    let text = text.replace('\n', " ");
    // A space at both ends belongs to the fence, where the text itself begins or ends with one of its signs.
    if text.starts_with('`') || text.ends_with('`') {
        format!("{fence} {text} {fence}")
    } else {
        format!("{fence}{text}{fence}")
    }
}

fn longest_run_of_backticks(text: &str) -> usize {
    text.split(|letter| letter != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_fence() {
        assert_eq!(fenced("a\n````\n# b"), "`````text\na\n````\n# b\n`````");
        assert_eq!(fenced("a"), "```text\na\n```");
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("`a"), "`` `a ``");
        assert_eq!(cut("äb", 1), "");
    }
}
