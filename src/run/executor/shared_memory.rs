//! [`SharedMemory`]: something that all workers can look up (`shared` in the pipeline), once in memory: an Arrow file in a sealed memfd.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde_json::json;

use super::frame::{Frame, Kind};
use crate::batch::{Segment, SegmentId};

#[derive(Debug)]
pub struct SharedMemory {
    name: String,
    segment: Segment,
    /// Made where it is asked for, as it takes its time.
    digest: OnceLock<[u8; 32]>,
}

impl SharedMemory {
    /// A file in memory that can be written until it is sealed.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn file() -> io::Result<File> {
        Ok(memfd_create("millpond-shared", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
    }

    /// Seals what was written: nobody can change it any more, whoever has its descriptor.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new(name: &str, file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // What is no batch has no number among segments.
        let segment = Segment::adopt(SegmentId(0), file.into(), length).map_err(io::Error::other)?;
        Ok(Self { name: name.to_owned(), segment, digest: OnceLock::new() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The frame that tells a worker of it: a pickled object, or a table.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn frame(&self, is_object: bool) -> io::Result<Frame> {
        let mut frame = Frame::new(Kind::Shared).with_text(&json!({"name": self.name, "object": is_object}));
        frame.length = self.segment.len() as u64;
        frame.fds = vec![self.segment.fd().try_clone_to_owned()?];
        Ok(frame)
    }

    /// A digest of the names and contents of several.
    pub fn digest_of_all(all: &[&Self]) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        for memory in all {
            hash.update(&(memory.name.len() as u64).to_le_bytes());
            hash.update(memory.name.as_bytes());
            hash.update(memory.digest.get_or_init(|| {
                let content = memory.segment.sealed().expect("it was sealed when it was made");
                *blake3::hash(content).as_bytes()
            }));
        }
        *hash.finalize().as_bytes()
    }
}
