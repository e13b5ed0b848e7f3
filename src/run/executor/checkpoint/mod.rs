//! Checkpoints: what came of the batches of a stage is kept, so that a later run need not do them again.
//!
//! What a batch gives is known by a [`BatchDigest`] made of all that decides it: the rows and their places, the code, and all else that the stage
//! is given ([`Fingerprint`]); never of its position, of times, or of how the run is carried out. The [`Ledger`] is one file of checksummed
//! records in the state folder, which one run at a time holds.

mod code;
mod digest;
mod fingerprint;
mod ledger;
mod record;
mod share;
mod task;

pub use digest::BatchDigest;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use ledger::{Ledger, LedgerError};
pub use record::Record;
pub use share::{Share, Shared};
pub use task::{Findings, TaskError, look, note, outlook};
