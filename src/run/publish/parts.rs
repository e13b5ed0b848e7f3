//! [`further_parts`]: the files of a staged folder as further parts of a folder that may be there.

use std::path::{Path, PathBuf};

use super::durable::entries;
use super::error::PublishError;
use super::journal::{How, Output};

/// An output for each file in `staged`, with a name that no part in its folder below `target` has.
pub(super) fn further_parts(staged: &Path, target: &Path) -> Result<Vec<Output>, PublishError> {
    let mut outputs = Vec::new();
    let mut open = vec![(staged.to_owned(), target.to_owned())];
    while let Some((staged, target)) = open.pop() {
        let first = if target.is_dir() { next_part(&target)? } else { 0 };
        for entry in entries(&staged)? {
            let name = entry.file_name().unwrap_or_default();
            if entry.is_dir() {
                open.push((entry.clone(), target.join(name)));
                continue;
            }
            let name = name.to_string_lossy();
            let (number, ending) = name.strip_prefix("part-").and_then(|rest| rest.split_once('.')).unwrap_or_default();
            let number = first.saturating_add(number.parse().unwrap_or(0));
            let target = target.join(format!("part-{number}.{ending}"));
            outputs.push(Output { staged: entry, target, how: How::New });
        }
    }
    outputs.sort_by(|one, other| one.target.cmp(&other.target));
    Ok(outputs)
}

/// A number above those of all parts in a folder, whoever has made them.
fn next_part(folder: &Path) -> Result<u64, PublishError> {
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("part-")?;
        let digits = name.find(|character: char| !character.is_ascii_digit()).map_or(name, |end| &name[..end]);
        digits.parse::<u64>().ok()
    };
    Ok(entries(folder)?.iter().filter_map(number).max().map_or(0, |last| last.saturating_add(1)))
}
