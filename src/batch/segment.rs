//! [`Segment`]: a piece of shared memory (memfd) that one side writes and others map read-only.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use thiserror::Error;

/// A segment in this run. Ids of segments that workers made are given by the coordinator too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

/// Sizes are powers of two from this one.
pub const SMALLEST_SEGMENT: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum SegmentError {
    #[error("no shared memory left for {bytes} bytes: {source}")]
    Exhausted { bytes: u64, source: io::Error },
    #[error("shared memory could not be {verb}: {source}")]
    System { verb: &'static str, source: io::Error },
    #[error("a worker announced a segment of {announced} bytes that is not sealed or has {real} bytes")]
    NotSealed { announced: u64, real: u64 },
}

/// Shared memory, mapped for the life of this value.
pub struct Segment {
    id: SegmentId,
    fd: OwnedFd,
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is plain memory that lives as long as the segment. Who may write it when is decided by the pool: a
// segment is written only while nobody holds a lease on it.
unsafe impl Send for Segment {}
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a segment of at least `bytes` bytes for this process to write.
    ///
    /// # Errors
    /// [`SegmentError::Exhausted`] if there is no memory for it: it is all allocated here, not at the first touch.
    pub fn create(id: SegmentId, bytes: u64) -> Result<Self, SegmentError> {
        let length = bytes.next_power_of_two().max(SMALLEST_SEGMENT);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("millpond-batch", flags).map_err(|errno| system("created", errno))?;
        fallocate(&fd, FallocateFlags::empty(), 0, length)
            .map_err(|errno| SegmentError::Exhausted { bytes: length, source: errno.into() })?;
        let segment = Self::map(id, fd, length, ProtFlags::READ | ProtFlags::WRITE)?;
        // Mapped writable already: from now on nobody else can map it so.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        fcntl_add_seals(&segment.fd, seals).map_err(|errno| system("sealed", errno))?;
        Ok(segment)
    }

    /// Maps a segment that a worker made, read-only.
    ///
    /// # Errors
    /// If its size can change or is not what was announced: reading it could end this process.
    pub fn adopt(id: SegmentId, fd: OwnedFd, announced: u64) -> Result<Self, SegmentError> {
        let seals = fcntl_get_seals(&fd).map_err(|errno| system("inspected", errno))?;
        let real = fstat(&fd).map_err(|errno| system("inspected", errno))?.st_size;
        let real = u64::try_from(real).unwrap_or(0);
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) || real != announced {
            return Err(SegmentError::NotSealed { announced, real });
        }
        Self::map(id, fd, announced, ProtFlags::READ)
    }

    fn map(id: SegmentId, fd: OwnedFd, length: u64, protection: ProtFlags) -> Result<Self, SegmentError> {
        let length = usize::try_from(length).map_err(|_| system("mapped", Errno::NOMEM))?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, &fd, 0) };
        let address = address.map_err(|errno| system("mapped", errno))?;
        let address = NonNull::new(address.cast()).ok_or_else(|| system("mapped", Errno::NOMEM))?;
        Ok(Self { id, fd, address, length })
    }

    pub fn id(&self) -> SegmentId {
        self.id
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The address of the byte at `offset`; `None` unless `length` bytes from there lie in the segment.
    pub fn address(&self, offset: u64, length: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(length)?;
        if end > self.length as u64 {
            return None;
        }
        // SAFETY: `offset` lies within the mapping.
        Some(unsafe { self.address.add(offset as usize) })
    }

    /// The content, if nobody can change it any more.
    pub fn sealed(&self) -> Option<&[u8]> {
        let seals = fcntl_get_seals(&self.fd).ok()?;
        // SAFETY: the mapping lives as long as `self`, and as it is sealed nobody writes it.
        let bytes = || unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.length) };
        seals.contains(SealFlags::WRITE).then(bytes)
    }

    /// The number at the start of the segment, which its writer may change at any time.
    pub fn number(&self) -> Option<u64> {
        let address = self.address(0, 8)?;
        // SAFETY: eight bytes of the mapping, aligned as its start is; nobody of this process writes them.
        Some(unsafe { AtomicU64::from_ptr(address.as_ptr().cast()) }.load(Ordering::Relaxed))
    }

    /// Copies `parts` to the start of the segment, one after the other. The caller is the segment's writer and knows that nobody
    /// reads it.
    pub(super) fn write(&self, parts: &[&[u8]]) {
        let mut at = 0;
        for part in parts {
            assert!(at + part.len() <= self.length, "the pool gave a segment that is too small");
            // SAFETY: the destination lies in the mapping (just checked), which is ours to write.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), self.address.as_ptr().add(at), part.len()) };
            at += part.len();
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, and nothing can refer to it any more: leases hold the segment.
        let unmapped = unsafe { munmap(self.address.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "unmapping a mapping cannot fail");
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Segment({}, {} bytes)", self.id.0, self.length)
    }
}

fn system(verb: &'static str, errno: Errno) -> SegmentError {
    SegmentError::System { verb, source: errno.into() }
}
