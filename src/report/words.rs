//! Numbers, durations and names for people.

use std::time::Duration;

use crate::plan::{Plan, StageId};
use crate::run::Speaker;

/// `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Names that are told one by one.
const MOST_NAMES: usize = 20;

/// The names, or the first of them and how many more there are.
pub fn some(names: &[String]) -> String {
    match names.len().checked_sub(MOST_NAMES) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MOST_NAMES].join(", ")),
    }
}

/// `1 row`, `2 rows`.
pub fn counted(number: u64, word: &str) -> String {
    let plural = if word.ends_with("ch") { format!("{word}es") } else { format!("{word}s") };
    format!("{} {}", count(number), if number == 1 { word } else { &plural })
}

/// `0.4 s`, `12 s`, `3 min 20 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

/// The letters of the widest cell of each column.
pub(super) fn widths(rows: &[impl AsRef<[String]>]) -> Vec<usize> {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let width = |column: usize| rows.iter().map(|row| row.as_ref()[column].chars().count()).max().unwrap_or(0);
    (0..columns).map(width).collect()
}

/// Lines of cells in columns as wide as their widest cell. All rows have the same number of cells.
pub fn table<R: AsRef<[String]>>(rows: &[R], is_number: impl Fn(usize) -> bool) -> String {
    let widths = widths(rows);
    let line = |row: &R| {
        let cells =
            row.as_ref().iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match is_number(column) {
                false => format!("{cell:<width$}"),
                true => format!("{cell:>width$}"),
            });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// What a stage is called in the file.
pub fn written(plan: &Plan, id: StageId) -> &str {
    plan.stage(id).written_name()
}

pub fn stage(plan: &Plan, id: StageId) -> &str {
    &plan.stage(id).name
}

/// Who wrote a line: `score (worker 3)`.
pub fn speaker(plan: &Plan, speaker: &Speaker) -> String {
    match speaker {
        Speaker::Worker { worker, stage: Some(id) } => format!("{} (worker {})", stage(plan, *id), worker.0),
        Speaker::Worker { worker, .. } if worker.0 == u32::MAX => "python".to_owned(),
        Speaker::Worker { worker, stage: None } => format!("worker {}", worker.0),
        Speaker::Command { stage: id } => stage(plan, *id).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_words_agree() {
        assert_eq!([count(7), count(1000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "row"), counted(0, "row"), counted(2, "batch")], ["1 row", "0 rows", "2 batches"]);
    }
}
