//! [`BatchDigest`]: what decides what comes of a batch, as a digest.

use std::path::Path;

use crate::batch::{Batch, BatchError, FileTable, Origin, Rows, Source, ipc};

/// A digest (BLAKE3) of a stage's fingerprint and of a batch: its columns, its rows, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchDigest(pub [u8; 32]);

impl BatchDigest {
    /// Paths of files are taken relative to `folder`, so that a pipeline may move.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back, or one of its columns cannot be encoded.
    pub fn of(fingerprint: &[u8; 32], batch: &Batch, files: &FileTable, folder: &Path) -> Result<Self, BatchError> {
        let mut hash = Hash::new();
        hash.add(fingerprint);
        match batch.contents()? {
            Rows::Lines(text) => {
                hash.add(b"lines");
                hash.number(text.len() as u64);
                text.parts().for_each(|part| hash.continues(part));
            }
            Rows::Columns(records) => {
                let records = ipc::without_dictionaries(&records)?;
                hash.add(b"columns");
                hash.add(&ipc::encode_schema(&records.schema())?);
                let message = ipc::encode(&records)?;
                hash.number(message.size() as u64);
                message.parts().for_each(|part| hash.continues(part));
            }
        }
        add_origin(&mut hash, batch.origin(), files, folder);
        Ok(Self(hash.finish()))
    }

    /// The digest of the batch that is the same as `times` others before it in its run. So each stands for itself, and draws random numbers of
    /// its own.
    #[must_use]
    pub fn again(self, times: u64) -> Self {
        if times == 0 {
            return self;
        }
        let mut hash = Hash::new();
        hash.add(&self.0);
        hash.number(times);
        Self(hash.finish())
    }

    /// A number in the place of the batch's position: functions that draw random numbers, and names that are made of it, are then the same
    /// wherever the batch stands.
    pub fn number(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        // Below 2^53, so that it is a number to whatever reads it as JSON.
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 11
    }
}

fn add_origin(hash: &mut Hash, origin: &Origin, files: &FileTable, folder: &Path) {
    for (rows, source) in origin.parts() {
        hash.number(rows as u64);
        if let Some(path) = source.file().and_then(|file| files.path(file)) {
            hash.add(path.strip_prefix(folder).unwrap_or(&path).as_os_str().as_encoded_bytes());
        }
        match source {
            Source::Unknown => hash.add(b"unknown"),
            Source::Consecutive { first, .. } => hash.number(first),
            Source::Listed { rows, .. } => rows.iter().for_each(|row| hash.number(*row)),
            Source::Within { first, last, .. } => {
                hash.number(first);
                hash.number(last);
            }
        }
    }
}

/// Puts values together so that neighbours stay apart: `ab`, `c` is not `a`, `bc`.
pub struct Hash(blake3::Hasher);

impl Hash {
    pub fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    pub fn add(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.continues(value);
    }

    pub fn number(&mut self, number: u64) {
        self.continues(&number.to_le_bytes());
    }

    /// A part of a value of which the length has been said.
    fn continues(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
