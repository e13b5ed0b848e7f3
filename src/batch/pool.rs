//! [`SegmentPool`]: recycles the segments that this process writes.
//!
//! Making a segment costs ten to thirty times as much as writing to one that is mapped already, so segments are kept. The one that
//! was used last is used first, as it is most likely still in the caches.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::segment::{Segment, SegmentError, SegmentId};

/// Bytes of free segments that are kept for later; more are given back to the system.
pub const KEPT_BYTES: u64 = 64 << 20;

/// Gives out segments to write a batch to. Clones share one pool.
#[derive(Clone, Debug, Default)]
pub struct SegmentPool {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Arc<Segment>>,
    free_bytes: u64,
    next: u32,
    /// Segments that were given back to the system since somebody asked.
    dropped: Vec<SegmentId>,
}

impl SegmentPool {
    /// Takes the next id for a segment of this run, whoever made the segment.
    pub fn next_id(&self) -> SegmentId {
        let mut state = self.state();
        state.next += 1;
        SegmentId(state.next)
    }

    /// Writes `parts` one after the other to the start of a free segment, and leases it out.
    ///
    /// # Errors
    /// [`SegmentError`] if a new segment is needed and cannot be made.
    pub fn write<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Arc<Lease>, SegmentError> {
        let parts: Vec<_> = parts.into_iter().collect();
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let segment = match self.take(bytes) {
            Some(segment) => segment,
            None => Arc::new(Segment::create(self.next_id(), bytes)?),
        };
        segment.write(&parts);
        let pool = self.clone();
        Ok(Arc::new(Lease::new(segment, Box::new(move |segment| pool.put(segment)))))
    }

    /// Segments that were given back to the system since the last call: whoever has mapped them may forget them.
    pub fn dropped(&self) -> Vec<SegmentId> {
        std::mem::take(&mut self.state().dropped)
    }

    fn take(&self, bytes: u64) -> Option<Arc<Segment>> {
        let mut state = self.state();
        // At most four times as large as needed, so that a small batch does not sit in a large segment.
        let fits = |segment: &Arc<Segment>| {
            let length = segment.len() as u64;
            length >= bytes && (length <= bytes.saturating_mul(4) || length == super::segment::SMALLEST_SEGMENT)
        };
        let at = state.free.iter().rposition(fits)?;
        let segment = state.free.remove(at);
        state.free_bytes -= segment.len() as u64;
        Some(segment)
    }

    fn put(&self, segment: Arc<Segment>) {
        let mut state = self.state();
        state.free_bytes += segment.len() as u64;
        state.free.push(segment);
        while state.free_bytes > KEPT_BYTES && state.free.len() > 1 {
            let oldest = state.free.remove(0);
            state.free_bytes -= oldest.len() as u64;
            state.dropped.push(oldest.id());
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A right to read a segment: it is not written again before the last clone of this lease's `Arc` is gone.
pub struct Lease {
    segment: Option<Arc<Segment>>,
    give_back: Box<dyn Fn(Arc<Segment>) + Send + Sync>,
}

// A lease is given back whole or not at all; a panic elsewhere leaves nothing half done in it.
impl std::panic::RefUnwindSafe for Lease {}

impl Lease {
    /// `give_back` is called with the segment when the lease ends.
    pub fn new(segment: Arc<Segment>, give_back: Box<dyn Fn(Arc<Segment>) + Send + Sync>) -> Self {
        Self { segment: Some(segment), give_back }
    }

    pub fn segment(&self) -> &Arc<Segment> {
        self.segment.as_ref().expect("taken in `drop` only")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(segment) = self.segment.take() {
            (self.give_back)(segment);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({:?})", self.segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_used_again_only_after_its_last_lease() {
        let pool = SegmentPool::default();
        let first = pool.write([&b"first"[..]]).expect("memory");
        let id = first.segment().id();
        let second = pool.write([&b"second"[..]]).expect("memory");
        assert_ne!(second.segment().id(), id);
        let held = Arc::clone(&first);
        drop(first);
        assert_ne!(pool.write([&b"third"[..]]).expect("memory").segment().id(), id);
        drop(held);
        assert_eq!(pool.write([&b"fourth"[..]]).expect("memory").segment().id(), id);
    }
}
