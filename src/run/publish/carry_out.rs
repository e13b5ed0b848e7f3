//! [`carry_out`]: brings an output that is in the journal to its place.

use std::path::Path;

use super::durable::{append, create_folders, parent, rename, rename_new, replace_folder, sync_folder};
use super::error::PublishError;
use super::journal::{How, Output};

/// Publishes an output, and says whether there was something left to do. Doing it again, also after a crash in the middle of it, does no harm.
/// `run` is the folder of the run.
pub(super) fn carry_out(output: &Output, run: &Path) -> Result<bool, PublishError> {
    let Output { staged, target, how } = output;
    // A staged output that is gone is in its place already; the folder of that may not have been synced. If that is gone, too, somebody has
    // removed what was published.
    if !staged.exists() {
        if parent(target).is_dir() {
            sync_folder(parent(target))?;
        }
        return Ok(false);
    }
    match *how {
        How::Replace => rename(staged, target),
        How::New => create_folders(parent(target)).and_then(|()| rename_new(staged, target)),
        How::Folder { inode } => replace_folder(staged, target, inode, &run.join(format!("cleared-{inode}"))),
        How::Append { length, .. } => append(staged, target, length),
        How::Parts => unreachable!("the parts stand in the journal, each for itself"),
    }?;
    Ok(true)
}
