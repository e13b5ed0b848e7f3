//! [`Output`]: a file and how much was written to it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};

/// Bytes after which the system is asked to begin to write them to the disk. At the end all are waited for, and only then may they be
/// published.
const BEGIN_SYNC: u64 = 32 << 20;

/// A file and how much was written to it.
pub(super) struct Output {
    pub(super) file: File,
    pub(super) bytes: u64,
    /// How much of it is on its way to the disk.
    begun: u64,
}

impl Output {
    pub(super) fn new(file: File) -> Self {
        Self { file, bytes: 0, begun: 0 }
    }

    fn begin_sync(&mut self) {
        let Some(length) = NonZeroU64::new(self.bytes - self.begun).filter(|length| length.get() >= BEGIN_SYNC) else {
            return;
        };
        // Linux begins to write what it is told is not needed, and drops from memory only what was written before. What is no file
        // cannot take the advice, and needs none.
        let _ = fadvise(&self.file, self.begun, Some(length), Advice::DontNeed);
        self.begun = self.bytes;
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        self.begin_sync();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
