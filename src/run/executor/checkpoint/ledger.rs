//! [`Ledger`]: a file to which records are appended, found again by their digests.
//!
//! A record is a header of 96 bytes and its payload. Numbers are little-endian:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | `MPck` |
//! | 4 | 4 | version, 1 |
//! | 8 | 8 | bytes of the payload |
//! | 16 | 8 | when it was last needed, in seconds since 1970 |
//! | 24 | 32 | digest |
//! | 56 | 32 | BLAKE3 of the payload |
//! | 88 | 8 | the first bytes of the BLAKE3 of all before |
//!
//! A header that is not right ends the file: it was being written when the run died, or is damaged, and what follows cannot be found. A
//! payload that is not right is as if it were not there. So nothing that is read is ever wrong, and the worst that can be lost is work.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::digest::BatchDigest;
use super::lock::{Lock, LockError, by};
use crate::run::fail_point::reach;
use crate::run::publish::folder_bytes;

/// In the state folder.
const FOLDER: &str = "checkpoints";
const FILE: &str = "batches";
const LOCK: &str = "lock";
/// In the state folder: what is being removed.
const REMOVED: &str = "checkpoints.removed";

const MAGIC: &[u8; 4] = b"MPck";
const VERSION: u32 = 1;
const HEADER: usize = 96;

/// A file that is larger is cut down to half of that when it is opened: what was needed last stays.
const MOST_BYTES: u64 = 16 << 30;
/// What nobody has needed for so long goes when the file is opened and has much of it.
const MOST_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How old the time in a record may be before it is renewed when the record is needed.
const AGE_STEP: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "another run{} uses the checkpoints in {}: wait until it has ended, or give this one a `--state-dir` of its own",
        by(holder.as_ref()), folder.display()
    )]
    Held { folder: PathBuf, holder: Option<String> },
    #[error(
        "a run{} uses the checkpoints in {}, so that they cannot be removed: wait until it has ended",
        by(holder.as_ref()), folder.display()
    )]
    Used { folder: PathBuf, holder: Option<String> },
    #[error("cannot {what} the checkpoints in {}: {source}", path.display())]
    System { what: &'static str, path: PathBuf, source: io::Error },
}

/// The ledger of a state folder, while this run holds it.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    inner: Mutex<Inner>,
    _lock: Lock,
}

#[derive(Debug)]
struct Inner {
    file: File,
    /// Where the next record goes.
    end: u64,
    records: HashMap<BatchDigest, Place>,
    now: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of the header.
    at: u64,
    length: u64,
    checksum: [u8; 32],
    needed: u64,
}

impl Ledger {
    /// Opens the ledger of a state folder for a run that starts at `now`.
    ///
    /// # Errors
    /// If another run holds it, or it cannot be read.
    pub fn open(state_dir: &Path, now: SystemTime) -> Result<Self, LedgerError> {
        let folder = state_dir.join(FOLDER);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError::System { what, path, source }
        };
        let lock = hold(&folder)?;
        let path = folder.join(FILE);
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open().map_err(failed("open", &path))?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (records, end) = scan(&file).map_err(failed("read", &path))?;
        // What lies behind a torn record would be in the way of the next one.
        file.set_len(end).map_err(failed("write", &path))?;
        let inner = Inner { file, end, records, now };
        let inner = if inner.is_too_large() { inner.cut_down(&path).map_err(failed("write", &path))? } else { inner };
        Ok(Self { path, inner: Mutex::new(inner), _lock: lock })
    }

    /// How many records there are of each name that `name` finds in the beginning of a payload, of which `bytes` tells the length by its first
    /// eight bytes. Does not disturb a run that holds the ledger.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn count(
        state_dir: &Path,
        bytes: impl Fn([u8; 8]) -> u64,
        name: impl Fn(&[u8]) -> Option<String>,
    ) -> Result<HashMap<String, u64>, LedgerError> {
        let path = state_dir.join(FOLDER).join(FILE);
        let failed = |source| LedgerError::System { what: "read", path: path.clone(), source };
        let mut counts = HashMap::new();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(counts),
            Err(error) => return Err(failed(error)),
        };
        let (records, _) = scan(&file).map_err(failed)?;
        for place in records.values().filter(|place| place.length >= 8) {
            let mut first = [0; 8];
            file.read_exact_at(&mut first, place.at + HEADER as u64).map_err(failed)?;
            // A payload may be damaged, and then say anything.
            let Ok(length) = usize::try_from(bytes(first).min(place.length)) else { continue };
            let mut beginning = vec![0; length];
            file.read_exact_at(&mut beginning, place.at + HEADER as u64).map_err(failed)?;
            if let Some(name) = name(&beginning) {
                *counts.entry(name).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Removes the ledger of a state folder and all that lies beside it, and returns how many bytes that was. Nothing is removed if `is_dry`.
    ///
    /// # Errors
    /// If a run holds it, or it cannot be removed.
    pub fn remove(state_dir: &Path, is_dry: bool) -> Result<u64, LedgerError> {
        let (folder, removed) = (state_dir.join(FOLDER), state_dir.join(REMOVED));
        let failed = |source| LedgerError::System { what: "remove", path: folder.clone(), source };
        let mut bytes = 0;
        if folder.is_dir() {
            let lock = hold(&folder).map_err(|error| match error {
                LedgerError::Held { folder, holder } => LedgerError::Used { folder, holder },
                error => error,
            })?;
            bytes = folder_bytes(&folder).map_err(failed)?;
            if !is_dry {
                remove_removed(&removed).and_then(|()| fs::rename(&folder, &removed)).map_err(failed)?;
            }
            drop(lock);
        }
        if !is_dry {
            remove_removed(&removed).map_err(failed)?;
        }
        Ok(bytes)
    }

    /// The payload of the newest record with this digest, if there is one that is undamaged.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get(&self, digest: &BatchDigest) -> Result<Option<Vec<u8>>, LedgerError> {
        let (file, place) = {
            let inner = self.inner();
            let Some(place) = inner.records.get(digest).copied() else { return Ok(None) };
            (inner.file.try_clone().map_err(|source| self.failed("read", source))?, place)
        };
        let mut payload = vec![0; usize::try_from(place.length).unwrap_or(usize::MAX)];
        match file.read_exact_at(&mut payload, place.at + HEADER as u64) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        }
        if *blake3::hash(&payload).as_bytes() != place.checksum {
            self.inner().records.remove(digest);
            return Ok(None);
        }
        self.inner().is_needed(digest).map_err(|source| self.failed("write", source))?;
        Ok(Some(payload))
    }

    /// Adds a record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&self, digest: BatchDigest, payload: &[u8]) -> Result<(), LedgerError> {
        let checksum = *blake3::hash(payload).as_bytes();
        self.inner().add(digest, payload, checksum).map_err(|source| self.failed("write", source))
    }

    /// Of all records.
    pub fn digests(&self) -> Vec<BatchDigest> {
        self.inner().records.keys().copied().collect()
    }

    /// Sees to it that the records survive a loss of power.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn sync(&self) -> Result<(), LedgerError> {
        self.inner().file.sync_data().map_err(|source| self.failed("write", source))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A record is in the index only when it is in the file.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> LedgerError {
        LedgerError::System { what, path: self.path.clone(), source }
    }
}

/// What [`Ledger::remove`] has put there; it is nobody's any more.
fn remove_removed(removed: &Path) -> io::Result<()> {
    match fs::remove_dir_all(removed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Locks the folder for this process, or says who has done so. Creates it if it is not there.
fn hold(folder: &Path) -> Result<Lock, LedgerError> {
    let path = folder.join(LOCK);
    Lock::take(&path).map_err(|error| match error {
        LockError::Held(holder) => LedgerError::Held { folder: folder.to_owned(), holder },
        LockError::System(source) => LedgerError::System { what: "lock", path, source },
    })
}

/// Reads all headers, and tells where the last whole record ends.
fn scan(file: &File) -> io::Result<(HashMap<BatchDigest, Place>, u64)> {
    let size = file.metadata()?.len();
    let mut records = HashMap::new();
    let mut at = 0;
    let mut header = [0; HEADER];
    while at + HEADER as u64 <= size {
        file.read_exact_at(&mut header, at)?;
        let Some((digest, place)) = decode(&header, at) else { break };
        let Some(end) = (at + HEADER as u64).checked_add(place.length).filter(|end| *end <= size) else { break };
        records.insert(digest, place);
        at = end;
    }
    Ok((records, at))
}

fn encode(digest: &BatchDigest, place: &Place) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&VERSION.to_le_bytes());
    header[8..16].copy_from_slice(&place.length.to_le_bytes());
    header[16..24].copy_from_slice(&place.needed.to_le_bytes());
    header[24..56].copy_from_slice(&digest.0);
    header[56..88].copy_from_slice(&place.checksum);
    let checksum = blake3::hash(&header[..88]);
    header[88..].copy_from_slice(&checksum.as_bytes()[..8]);
    header
}

fn decode(header: &[u8; HEADER], at: u64) -> Option<(BatchDigest, Place)> {
    let number = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("eight bytes"));
    let digest = |from: usize| -> [u8; 32] { header[from..from + 32].try_into().expect("32 bytes") };
    let is_whole = header[..4] == *MAGIC
        && header[4..8] == VERSION.to_le_bytes()
        && header[88..] == blake3::hash(&header[..88]).as_bytes()[..8];
    let place = Place { at, length: number(8), needed: number(16), checksum: digest(56) };
    is_whole.then(|| (BatchDigest(digest(24)), place))
}

impl Inner {
    fn add(&mut self, digest: BatchDigest, payload: &[u8], checksum: [u8; 32]) -> io::Result<()> {
        let place = Place { at: self.end, length: payload.len() as u64, checksum, needed: self.now };
        // The payload first: a header stands only before a payload that is there.
        self.file.write_all_at(payload, place.at + HEADER as u64)?;
        reach("checkpoint.payload_written");
        self.file.write_all_at(&encode(&digest, &place), place.at)?;
        self.end += HEADER as u64 + place.length;
        self.records.insert(digest, place);
        reach("checkpoint.recorded");
        Ok(())
    }

    fn is_needed(&mut self, digest: &BatchDigest) -> io::Result<()> {
        let Some(place) = self.records.get_mut(digest) else { return Ok(()) };
        if self.now < place.needed + AGE_STEP.as_secs() {
            return Ok(());
        }
        place.needed = self.now;
        self.file.write_all_at(&encode(digest, place), place.at)
    }

    fn is_old(&self, place: &Place) -> bool {
        place.needed + MOST_AGE.as_secs() < self.now
    }

    fn is_too_large(&self) -> bool {
        let bytes = |place: &Place| HEADER as u64 + place.length;
        let fresh: u64 = self.records.values().filter(|place| !self.is_old(place)).map(bytes).sum();
        self.end > MOST_BYTES || (self.end > 1 << 20 && fresh < self.end / 2)
    }

    /// Writes what is to stay to a new file, which replaces the old one when it is whole.
    fn cut_down(self, path: &Path) -> io::Result<Self> {
        let mut kept: Vec<(BatchDigest, Place)> = self
            .records
            .iter()
            .filter(|(_, place)| !self.is_old(place))
            .map(|(digest, place)| (*digest, *place))
            .collect();
        kept.sort_by_key(|(_, place)| std::cmp::Reverse((place.needed, place.at)));
        let mut room = MOST_BYTES / 2;
        kept.retain(|(_, place)| {
            let bytes = HEADER as u64 + place.length;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let draft = path.with_extension("new");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&draft)?;
        let mut new = Self { file, end: 0, records: HashMap::new(), now: self.now };
        let mut payload = Vec::new();
        for (digest, place) in kept.into_iter().rev() {
            payload.resize(usize::try_from(place.length).unwrap_or(usize::MAX), 0);
            self.file.read_exact_at(&mut payload, place.at + HEADER as u64)?;
            new.add(digest, &payload, place.checksum)?;
            if let Some(new_place) = new.records.get_mut(&digest) {
                new_place.needed = place.needed;
                new.file.write_all_at(&encode(&digest, new_place), new_place.at)?;
            }
        }
        new.file.sync_all()?;
        fs::rename(&draft, path)?;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::super::lock::is_at;
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    /// Tests beside this one start processes, which hold all locks of this one until they are their programs.
    fn open(folder: &Path, now: SystemTime) -> Ledger {
        let until = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match Ledger::open(folder, now) {
                Err(LedgerError::Held { .. }) if std::time::Instant::now() < until => std::thread::yield_now(),
                opened => return opened.expect("it can be read"),
            }
        }
    }

    fn digest(number: u8) -> BatchDigest {
        BatchDigest([number; 32])
    }

    fn payload(number: u8) -> Vec<u8> {
        (0..=number).cycle().take(usize::from(number) * 3 + 1).collect()
    }

    fn removed(folder: &Path, is_dry: bool) -> u64 {
        loop {
            match Ledger::remove(folder, is_dry) {
                Err(LedgerError::Used { .. }) => std::thread::yield_now(),
                removed => return removed.expect("it can be removed"),
            }
        }
    }

    fn written(count: u8) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ledger = open(folder.path(), NOW);
        (0..count).for_each(|number| ledger.add(digest(number), &payload(number)).expect("there is room"));
        let path = ledger.path.clone();
        (folder, path)
    }

    fn found(folder: &Path, count: u8) -> Vec<u8> {
        let ledger = open(folder, NOW);
        let found = |number: &u8| {
            let got = ledger.get(&digest(*number)).expect("it can be read");
            assert!(got.is_none() || got == Some(payload(*number)), "a wrong payload");
            got.is_some()
        };
        (0..count).filter(found).collect()
    }

    #[test]
    fn records_are_found_again_and_the_last_one_counts() {
        let (folder, _) = written(9);
        assert_eq!(found(folder.path(), 12), (0..9).collect::<Vec<_>>());
        let ledger = open(folder.path(), NOW);
        ledger.add(digest(3), b"new").expect("there is room");
        assert_eq!(ledger.get(&digest(3)).expect("readable"), Some(b"new".to_vec()));
        drop(ledger);
        let ledger = open(folder.path(), NOW);
        assert_eq!(ledger.get(&digest(3)).expect("readable"), Some(b"new".to_vec()));
    }

    #[test]
    fn the_second_to_open_it_is_told_who_has_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = open(folder.path(), NOW);
        let message = Ledger::open(folder.path(), NOW).expect_err("it is held").to_string();
        assert!(message.contains(&format!("(process {})", std::process::id())), "{message}");
        drop(first);
        drop(open(folder.path(), NOW));
    }

    #[test]
    fn what_somebody_holds_is_not_removed() {
        let (folder, path) = written(9);
        let size = fs::metadata(&path).expect("it is there").len();
        let ledger = open(folder.path(), NOW);
        for is_dry in [true, false] {
            let message = Ledger::remove(folder.path(), is_dry).expect_err("it is held").to_string();
            assert!(message.contains(&format!("a run (process {})", std::process::id())), "{message}");
        }
        drop(ledger);
        assert!(removed(folder.path(), true) >= size);
        assert_eq!(found(folder.path(), 9).len(), 9);
        // Left by one that was killed while it removed it.
        fs::create_dir(folder.path().join(REMOVED)).expect("a folder in ours");
        assert!(removed(folder.path(), false) >= size);
        assert_eq!(fs::read_dir(folder.path()).expect("ours").count(), 0);
        assert_eq!(removed(folder.path(), false), 0);
        assert_eq!(found(folder.path(), 9), Vec::<u8>::new());
    }

    #[test]
    fn a_lock_that_was_removed_locks_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let holding = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (folder, holding) = (&folder, &holding);
                scope.spawn(move || {
                    for _ in 0..500 {
                        if thread == 0 {
                            let _ = Ledger::remove(folder.path(), false);
                        } else if let Ok(ledger) = Ledger::open(folder.path(), NOW) {
                            assert_eq!(holding.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                            assert!(is_at(&ledger.inner().file, &ledger.path).expect("it is there"));
                            holding.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn whatever_byte_is_wrong_no_payload_is() {
        let (folder, path) = written(9);
        let good = fs::read(&path).expect("it is there");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&path, &bad).expect("ours");
            // What comes before the damage is there; and more can be added after it.
            let left = found(folder.path(), 9);
            assert!(left.len() < 9, "byte {at} counts for nothing");
            let ledger = open(folder.path(), NOW);
            ledger.add(digest(77), b"more").expect("there is room");
            drop(ledger);
            let ledger = open(folder.path(), NOW);
            assert_eq!(ledger.get(&digest(77)).expect("readable"), Some(b"more".to_vec()), "after byte {at}");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).expect("ours");
            let left = found(folder.path(), 9);
            assert_eq!(left, (0..u8::try_from(left.len()).expect("few")).collect::<Vec<_>>(), "cut at {length}");
        }
    }

    #[test]
    fn what_is_old_goes_when_there_is_much_of_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ledger = open(folder.path(), NOW);
        let large = vec![7; 1 << 20];
        (0..4).for_each(|number| ledger.add(digest(number), &large).expect("there is room"));
        drop(ledger);
        let weeks = |number: u64| NOW + Duration::from_secs(number * 7 * 24 * 3600);
        // One of them is needed in the meantime.
        let ledger = open(folder.path(), weeks(3));
        assert!(ledger.get(&digest(2)).expect("readable").is_some());
        drop(ledger);
        let ledger = open(folder.path(), weeks(6));
        assert_eq!(
            [1, 2, 3].map(|number| ledger.get(&digest(number)).expect("readable").is_some()),
            [false, true, false]
        );
        assert!(fs::metadata(&ledger.path).expect("it is there").len() < 2 << 20);
    }

    proptest! {
        #[test]
        fn any_file_can_be_opened(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            fs::create_dir_all(folder.path().join(FOLDER)).expect("a folder in ours");
            fs::write(folder.path().join(FOLDER).join(FILE), bytes).expect("ours");
            prop_assert_eq!(found(folder.path(), 3), Vec::<u8>::new());
        }
    }
}
