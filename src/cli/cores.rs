//! Whether there are the cores that a pipeline names. `plan` does not ask: it may be for another machine.

use super::exit_code::Exit;
use super::output;
use crate::plan::{Cpus, Plan, Stage};

/// Prints which cores of `cpus` are not among the `usable` ones, for each stage.
///
/// # Errors
/// How the program should end if there are such.
pub fn check(plan: &Plan, usable: &[u32]) -> Result<(), Exit> {
    let problems: Vec<String> = plan.stages.iter().filter_map(|stage| problem(plan, stage, usable)).collect();
    problems.iter().for_each(|problem| output::complain(problem));
    if problems.is_empty() { Ok(()) } else { Err(Exit::Environment) }
}

fn problem(plan: &Plan, stage: &Stage, usable: &[u32]) -> Option<String> {
    let Cpus::Only(cores) = stage.cpus() else { return None };
    let missing: Vec<u32> = cores.iter().copied().filter(|core| !usable.contains(core)).collect();
    if missing.is_empty() {
        return None;
    }
    let words = if missing.len() == 1 { "core" } else { "cores" };
    Some(format!(
        "stage `{}`: its workers are to run on {words} {}, which this process may not use; it may use {}\n  stage defined at {}:{}",
        stage.name,
        ranges(&missing),
        ranges(usable),
        stage.file.as_ref().unwrap_or(&plan.file).display(),
        stage.line
    ))
}

/// `0-3, 8` of ascending numbers.
fn ranges(numbers: &[u32]) -> String {
    let follows = |one: &u32, next: &u32| one + 1 == *next;
    let range = |numbers: &[u32]| match numbers {
        [first, .., last] => format!("{first}-{last}"),
        numbers => numbers.iter().map(u32::to_string).collect(),
    };
    numbers.chunk_by(follows).map(range).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_a_range() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(ranges(&[3]), "3");
    }
}
