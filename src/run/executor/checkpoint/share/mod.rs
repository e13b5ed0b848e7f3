//! [`Share`]: a place in which several people, or jobs, keep what came of batches: one entry for each. It is a folder or an object store.
//!
//! An entry is named after its digest, with a slash behind the first two digits. It holds the BLAKE3 of its digest and its payload, and the payload.
//! Nobody sees half of one, and whoever comes last wins, with the same content.

mod folder;
mod shares;

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::digest::BatchDigest;
use crate::run::store::{Store, StoreError};
use folder::Folder;

pub use shares::Shares;

const CHECKSUM: usize = 32;

#[derive(Clone, Debug)]
pub enum Share {
    Folder(Folder),
    Store(Store),
}

/// What there is for a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    Payload(Vec<u8>),
    Nothing,
    /// An entry that is damaged, or that somebody else has put there: its path or URL.
    Unsound(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    #[error("cannot {what} the checkpoints in {}: {source}", path.display())]
    Folder { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {what} the checkpoints in {url}: {source}")]
    Store { what: &'static str, url: String, source: StoreError },
    #[error("no threads could be started that wait for stores: {0}")]
    Threads(io::Error),
}

impl Share {
    /// # Errors
    /// If the entry is there and cannot be read, or nobody can say whether it is there.
    pub fn get(&self, digest: &BatchDigest) -> Result<Shared, ShareError> {
        let name = name(digest);
        let entry = match self {
            Self::Folder(folder) => folder.read(&name)?.map(Bytes::from),
            Self::Store(store) => store.read(&name).map_err(|error| failed("read", store, error))?,
        };
        let Some(entry) = entry else { return Ok(Shared::Nothing) };
        let payload = entry.split_first_chunk::<CHECKSUM>().filter(|(sum, payload)| **sum == checksum(digest, payload));
        Ok(payload.map_or_else(|| Shared::Unsound(self.place(&name)), |(_, payload)| Shared::Payload(payload.to_vec())))
    }

    /// # Errors
    /// If it cannot be written.
    pub fn add(&self, digest: &BatchDigest, payload: &[u8]) -> Result<(), ShareError> {
        let name = name(digest);
        let entry = [checksum(digest, payload).as_slice(), payload].concat();
        match self {
            Self::Folder(folder) => folder.write(&name, &entry),
            Self::Store(store) => store.write(&name, entry).map_err(|error| failed("write", store, error)),
        }
    }

    /// Where an entry is, for people.
    fn place(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.path(name).display().to_string(),
            Self::Store(store) => format!("{}/{name}", store.url()),
        }
    }
}

fn failed(what: &'static str, store: &Store, source: StoreError) -> ShareError {
    ShareError::Store { what, url: store.url().to_string(), source }
}

fn name(digest: &BatchDigest) -> String {
    let digits = blake3::Hash::from_bytes(digest.0).to_hex();
    format!("{}/{}", &digits[..2], &digits[2..])
}

fn checksum(digest: &BatchDigest, payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&digest.0).update(payload);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What is told is the same wherever entries are; `put` puts other bytes into their place.
    fn tells_what_is_unsound(share: &Share, mut put: impl FnMut(&str, &[u8])) {
        let (one, other) = (BatchDigest([1; 32]), BatchDigest([2; 32]));
        assert_eq!(share.get(&one).expect("readable"), Shared::Nothing);
        share.add(&one, b"payload").expect("there is room");
        share.add(&one, b"payload").expect("there is room");
        assert_eq!(share.get(&one).expect("readable"), Shared::Payload(b"payload".to_vec()));
        let good = [checksum(&one, b"payload").as_slice(), b"payload"].concat();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            for bad in [bad, good[..at].to_vec()] {
                put(&name(&one), &bad);
                assert_eq!(share.get(&one).expect("readable"), Shared::Unsound(share.place(&name(&one))));
            }
        }
        put(&name(&one), &good);
        assert_eq!(share.get(&one).expect("readable"), Shared::Payload(b"payload".to_vec()));
        // Another's entry under this name.
        put(&name(&other), &good);
        assert_eq!(share.get(&other).expect("readable"), Shared::Unsound(share.place(&name(&other))));
    }

    #[test]
    fn what_is_unsound_is_told_from_what_is_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let share = Folder(folder.path().join("share"));
        tells_what_is_unsound(&Share::Folder(share.clone()), |name, bytes| {
            std::fs::create_dir_all(share.path(name).parent().expect("a folder")).expect("ours");
            std::fs::write(share.path(name), bytes).expect("ours");
        });
        let store = Store::in_memory("s3://bucket/prefix");
        tells_what_is_unsound(&Share::Store(store.clone()), |name, bytes| {
            store.write(name, bytes.to_vec()).expect("there is room");
        });
    }

    #[test]
    fn many_may_write_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let share = Share::Folder(Folder(folder.path().to_owned()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..50 {
                        let digest = BatchDigest([number; 32]);
                        share.add(&digest, &[number; 1000]).expect("there is room");
                        assert_eq!(share.get(&digest).expect("readable"), Shared::Payload(vec![number; 1000]));
                    }
                });
            }
        });
        let files = |folder: &Path| folder.read_dir().expect("a folder").count();
        assert_eq!(files(folder.path()), 50);
        let inner = folder.path().read_dir().expect("a folder").map(|entry| files(&entry.expect("an entry").path()));
        assert!(inner.into_iter().all(|count| count == 1), "drafts are left");
    }
}
