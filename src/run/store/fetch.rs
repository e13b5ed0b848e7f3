//! [`Objects`]: objects as files of this machine, in the order in which they are read.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::GetOptions;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::background::Background;
use super::error::StoreError;
use super::interrupt::Interrupt;
use super::{Object, Store, generic, timely};

/// Bytes of one request.
const PIECE: u64 = 8 << 20;
/// Requests that are on their way at once, of all objects.
const REQUESTS: usize = 8;
/// Objects that are fetched before they are asked for, and their bytes together: besides one that is larger.
const AHEAD: usize = 16;
const AHEAD_BYTES: u64 = 256 << 20;

/// Fetches each object as a whole into a file without a name, a few ahead of who reads them. Clones are the same.
#[derive(Clone, Debug)]
pub struct Objects(Arc<Inner>);

/// One of them.
#[derive(Clone, Debug)]
pub struct Fetched {
    objects: Objects,
    at: usize,
}

#[derive(Debug)]
struct Inner {
    list: Vec<(Store, Object)>,
    /// Where the files lie.
    folder: PathBuf,
    slots: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The object that is fetched next.
    next: usize,
    /// Those before it that nobody has taken yet.
    begun: VecDeque<(usize, JoinHandle<Result<File, StoreError>>)>,
}

impl Objects {
    /// Fetches nothing before it is asked for the first.
    pub fn new(list: Vec<(Store, Object)>, folder: PathBuf) -> Self {
        let slots = Arc::new(Semaphore::new(REQUESTS));
        Self(Arc::new(Inner { list, folder, slots, state: Mutex::default() }))
    }

    /// Each of them, in order.
    pub fn each(&self) -> impl Iterator<Item = Fetched> + '_ {
        (0..self.0.list.len()).map(|at| Fetched { objects: self.clone(), at })
    }
}

impl Fetched {
    pub fn size(&self) -> u64 {
        self.objects.0.list[self.at].1.size
    }

    /// The object as a file, when it is there in full; objects are taken in order, and those that were passed over are forgotten. `interrupt`
    /// ends the wait.
    ///
    /// # Errors
    /// If it could not be fetched, or after an interrupt.
    pub fn take(&self, interrupt: &Interrupt) -> Result<File, StoreError> {
        let inner = &self.objects.0;
        let background = Arc::clone(&inner.list[self.at].0.background);
        let fetching = {
            let mut state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.begun.front().is_some_and(|(at, _)| *at < self.at) {
                state.begun.pop_front().into_iter().for_each(|(_, passed)| passed.abort());
            }
            if state.begun.front().is_none_or(|(at, _)| *at != self.at) {
                state.begun.drain(..).for_each(|(_, other)| other.abort());
                state.next = self.at;
            }
            inner.begin(&mut state, &background);
            state.begun.pop_front().expect("it has just begun").1
        };
        match background.run(interrupt.unless(fetching)) {
            Some(Ok(file)) => file,
            Some(Err(ended)) => Err(StoreError::Disk(ended.into())),
            None => Err(StoreError::Interrupted),
        }
    }
}

impl Inner {
    fn begin(&self, state: &mut State, background: &Background) {
        let mut bytes: u64 = state.begun.iter().map(|(at, _)| self.list[*at].1.size).sum();
        while let Some((store, object)) = self.list.get(state.next) {
            let has_room = state.begun.len() < AHEAD && bytes.saturating_add(object.size) <= AHEAD_BYTES;
            // The first one is asked for.
            if !state.begun.is_empty() && !has_room {
                break;
            }
            bytes += object.size;
            let fetching = fetch(store.clone(), object.clone(), self.folder.clone(), Arc::clone(&self.slots));
            state.begun.push_back((state.next, background.handle().spawn(fetching)));
            state.next += 1;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.begun.drain(..).for_each(|(_, fetching)| fetching.abort());
    }
}

async fn fetch(store: Store, object: Object, folder: PathBuf, slots: Arc<Semaphore>) -> Result<File, StoreError> {
    let file = tempfile::tempfile_in(&folder).map_err(StoreError::Disk)?;
    let starts = (0..object.size).step_by(usize::try_from(PIECE).expect("a small number"));
    let pieces = starts.map(|start| {
        let piece = start..object.size.min(start + PIECE);
        fetch_piece(&store, &object, piece, &file, &slots)
    });
    futures::stream::iter(pieces).buffer_unordered(REQUESTS).try_collect::<()>().await?;
    Ok(file)
}

async fn fetch_piece(
    store: &Store,
    object: &Object,
    piece: Range<u64>,
    file: &File,
    slots: &Semaphore,
) -> Result<(), StoreError> {
    use object_store::Error as E;
    let _slot = slots.acquire().await.expect("nobody closes it");
    let refused = |error: E| match error {
        E::Precondition { .. } => StoreError::Replaced,
        E::NotFound { .. } => StoreError::Gone,
        error => store.error(&error),
    };
    let options =
        GetOptions { if_match: object.tag.clone(), range: Some(piece.clone().into()), ..GetOptions::default() };
    let answer = timely(store.objects.get_opts(&object.path, options)).await.map_err(refused)?;
    if answer.meta.size != object.size {
        return Err(StoreError::Replaced);
    }
    let mut bytes = answer.into_stream();
    let mut at = piece.start;
    while let Some(bytes) = timely(bytes.try_next()).await.map_err(refused)? {
        file.write_all_at(&bytes, at).map_err(StoreError::Disk)?;
        at += bytes.len() as u64;
    }
    if at == piece.end { Ok(()) } else { Err(refused(generic("an answer has ended too early".to_owned()))) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    fn content(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().expect("a file");
        file.read_to_end(&mut bytes).expect("a file");
        bytes
    }

    #[test]
    fn objects_come_whole_and_in_order() {
        let store = Store::in_memory("s3://bucket/p");
        let folder = tempfile::tempdir().expect("a folder");
        let sizes = [0, 1, usize::try_from(PIECE).expect("small"), usize::try_from(PIECE * 2).expect("small") + 7];
        let all: Vec<Vec<u8>> =
            sizes.iter().map(|size| (0..*size).map(|at| u8::try_from(at % 251).expect("small")).collect()).collect();
        for (at, bytes) in all.iter().enumerate() {
            store.write(&format!("{at}"), bytes.clone()).expect("there is room");
        }
        let list = store.list(&store.url().path, &Interrupt::default()).expect("it answers");
        assert_eq!(list.iter().map(|object| object.size).collect::<Vec<_>>(), sizes.map(|size| size as u64));
        let objects =
            Objects::new(list.into_iter().map(|object| (store.clone(), object)).collect(), folder.path().into());
        for (fetched, bytes) in objects.each().zip(&all) {
            assert!(content(fetched.take(&Interrupt::default()).expect("it is there")) == *bytes);
        }
        // Passed over, and once more from the beginning.
        for at in [1, 3, 0, 0] {
            let fetched = objects.each().nth(at).expect("there are four");
            assert!(content(fetched.take(&Interrupt::default()).expect("it is there")) == all[at]);
        }
        assert_eq!(folder.path().read_dir().expect("a folder").count(), 0, "files have names");
    }

    #[test]
    fn what_was_replaced_or_removed_is_not_mixed() {
        let store = Store::in_memory("s3://bucket/p");
        store.write("a", vec![1; 10]).expect("there is room");
        let folder = tempfile::tempdir().expect("a folder");
        let take = |object: Object| {
            let objects = Objects::new(vec![(store.clone(), object)], folder.path().into());
            objects.each().next().expect("one").take(&Interrupt::default())
        };
        let object = store.look(&store.below("a")).expect("it answers").expect("it is there");
        store.write("a", vec![2; 10]).expect("there is room");
        assert!(matches!(take(object.clone()), Err(StoreError::Replaced)));
        store.remove(std::slice::from_ref(&object.path)).expect("it answers");
        assert!(matches!(take(object), Err(StoreError::Gone)));
    }

    #[test]
    fn a_wait_can_be_interrupted() {
        let store = Store::in_memory("s3://bucket/p");
        store.write("a", vec![1; 10]).expect("there is room");
        let object = store.look(&store.below("a")).expect("it answers").expect("it is there");
        let folder = tempfile::tempdir().expect("a folder");
        let objects = Objects::new(vec![(store, object)], folder.path().into());
        // Nothing is fetched as long as others have all slots.
        let _slots = objects.0.slots.try_acquire_many(u32::try_from(REQUESTS).expect("small")).expect("nobody has one");
        let interrupt = Interrupt::default();
        interrupt.set();
        let taken = objects.each().next().expect("one").take(&interrupt);
        assert!(matches!(taken, Err(StoreError::Interrupted)), "{taken:?}");
    }
}
