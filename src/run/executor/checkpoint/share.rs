//! [`Share`]: a folder in which several people, or jobs, keep what came of batches: one file for each.
//!
//! A file is named after its digest, in folders of the first two digits. It holds the BLAKE3 of its digest and its payload, and the payload. Files are
//! written beside their names and renamed, so that nobody sees half of one, and whoever comes last wins, with the same content.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::digest::BatchDigest;
use super::ledger::LedgerError;

const CHECKSUM: usize = 32;

#[derive(Clone, Debug)]
pub struct Share {
    folder: PathBuf,
}

/// What there is for a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    Payload(Vec<u8>),
    Nothing,
    /// A file that is damaged, or that somebody else has put there.
    Unsound(PathBuf),
}

impl Share {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// # Errors
    /// If the file is there and cannot be read.
    pub fn get(&self, digest: &BatchDigest) -> Result<Shared, LedgerError> {
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Shared::Nothing),
            Err(source) => return Err(LedgerError::System { what: "read", path, source }),
        };
        let payload = bytes.split_first_chunk::<CHECKSUM>().filter(|(sum, payload)| **sum == checksum(digest, payload));
        Ok(payload.map_or(Shared::Unsound(path), |(_, payload)| Shared::Payload(payload.to_vec())))
    }

    /// # Errors
    /// If it cannot be written.
    pub fn add(&self, digest: &BatchDigest, payload: &[u8]) -> Result<(), LedgerError> {
        let path = self.path(digest);
        self.write(&path, digest, payload).map_err(|source| LedgerError::System { what: "write", path, source })
    }

    fn write(&self, path: &Path, digest: &BatchDigest, payload: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        let mut draft = tempfile::Builder::new().prefix(".new-").permissions(permissions()).tempfile_in(folder)?;
        let file: &mut File = draft.as_file_mut();
        file.write_all(&checksum(digest, payload))?;
        file.write_all(payload)?;
        draft.persist(path)?;
        Ok(())
    }

    fn path(&self, digest: &BatchDigest) -> PathBuf {
        let name = blake3::Hash::from_bytes(digest.0).to_hex();
        self.folder.join(&name[..2]).join(&name[2..])
    }
}

/// Others are to read it, as far as the umask lets them.
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

fn checksum(digest: &BatchDigest, payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&digest.0).update(payload);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unsound_is_told_from_what_is_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let share = Share::new(folder.path().join("share"));
        let (one, other) = (BatchDigest([1; 32]), BatchDigest([2; 32]));
        assert_eq!(share.get(&one).expect("readable"), Shared::Nothing);
        share.add(&one, b"payload").expect("there is room");
        share.add(&one, b"payload").expect("there is room");
        assert_eq!(share.get(&one).expect("readable"), Shared::Payload(b"payload".to_vec()));
        let good = fs::read(share.path(&one)).expect("it is there");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            for bad in [bad, good[..at].to_vec()] {
                fs::write(share.path(&one), bad).expect("ours");
                assert_eq!(share.get(&one).expect("readable"), Shared::Unsound(share.path(&one)));
            }
        }
        // Another's file under this name.
        fs::create_dir_all(share.path(&other).parent().expect("a folder")).expect("ours");
        fs::write(share.path(&other), good).expect("ours");
        assert_eq!(share.get(&other).expect("readable"), Shared::Unsound(share.path(&other)));
    }

    #[test]
    fn many_may_write_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let share = Share::new(folder.path().to_owned());
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
