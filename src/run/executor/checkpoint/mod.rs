//! Checkpoints: what came of the batches of a stage is kept, so that a later run need not do them again.
//!
//! What a batch gives is known by a [`BatchDigest`] made of all that decides it: the rows and their places, the code, and all else that the stage
//! is given ([`Fingerprint`]); never of its position, of times, or of how the run is carried out. The [`Ledger`] is one file of checksummed
//! records in the state folder, which one run at a time holds.

mod code;
mod digest;
mod fingerprint;
mod ledger;
mod lock;
mod partial;
mod record;
mod share;
mod task;

use std::path::Path;
use std::time::SystemTime;

use crate::batch::{FileId, Origin};

pub use digest::BatchDigest;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use ledger::{Ledger, LedgerError};
pub use lock::Lock;
pub use partial::Partial;
pub use record::Record;
pub use share::{Share, ShareError, Shared, Shares};
pub use task::{Findings, TaskError, lock, look, made, note, outlook};

/// How many records of a ledger can be read, for tests that write what they like into its file.
///
/// # Errors
/// If the file cannot be read.
pub fn sound_records(state_dir: &Path) -> Result<usize, LedgerError> {
    let ledger = Ledger::open(state_dir, SystemTime::UNIX_EPOCH)?;
    let mut sound = 0;
    for digest in ledger.digests() {
        sound += usize::from(ledger.get(&digest)?.is_some_and(|payload| is_record(&payload)));
    }
    Ok(sound)
}

/// Whether the bytes are a record, for tests that send what they like.
pub fn is_record(bytes: &[u8]) -> bool {
    Record::decode(bytes, &Origin::consecutive(FileId(0), 1, 1000)).is_ok()
}
