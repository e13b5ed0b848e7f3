//! [`Upload`]: what will be an object when it is completed, and is nothing for anybody before.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::PartId;
use object_store::path::Path;

use super::error::StoreError;
use super::{Object, Store, timely};

/// Bytes of a part of an upload: stores want at least 5 MiB, all of the same size but the last.
const PART: u64 = 8 << 20;
/// Parts that an upload may have.
const MOST_PARTS: u64 = 10_000;
/// Parts that are on their way at once.
const AT_ONCE: usize = 4;

/// An upload that has begun, and nothing of a file yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The name of the object in the bucket.
    pub path: Path,
    /// What the store calls the upload.
    pub id: String,
}

/// What the store has of an upload: all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedParts {
    pub upload: Upload,
    /// What the store calls the parts, in order.
    pub parts: Vec<String>,
    /// Bytes.
    pub size: u64,
}

impl Store {
    /// Begins what will be an object.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub fn begin_upload(&self, path: Path) -> Result<Upload, StoreError> {
        let id = self.wait_for(self.uploads.create_multipart(&path)).map_err(|error| self.error(&error))?;
        Ok(Upload { path, id })
    }

    /// Sends all of a file.
    ///
    /// # Errors
    /// If the store does not answer, or refuses, or the file cannot be read.
    pub fn upload(&self, upload: Upload, file: &File) -> Result<UploadedParts, StoreError> {
        let size = file.metadata().map_err(StoreError::Disk)?.len();
        let part = part_size(size);
        let starts = (0..size).step_by(usize::try_from(part).unwrap_or(usize::MAX));
        let parts = starts.enumerate().map(|(number, start)| {
            let upload = &upload;
            async move {
                let _slot = self.background.parts.acquire().await.expect("nobody closes it");
                let mut bytes = vec![0; usize::try_from(part.min(size - start)).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut bytes, start).map_err(StoreError::Disk)?;
                let sent = self.uploads.put_part(&upload.path, &upload.id, number, Bytes::from(bytes).into());
                let sent = timely(sent).await.map_err(|error| self.error(&error))?;
                Ok::<_, StoreError>(sent.content_id)
            }
        });
        let parts = futures::stream::iter(parts).buffered(AT_ONCE).try_collect();
        let parts = self.background.run(parts)?;
        Ok(UploadedParts { upload, parts, size })
    }

    /// Makes an object of what was uploaded, in the place of what is there. Doing it again does no harm. `before` is the object
    /// that it takes the place of, if there was one.
    ///
    /// # Errors
    /// If the store does not answer, or refuses, and the object is not there.
    pub fn complete(&self, uploaded: &UploadedParts, before: Option<&Object>) -> Result<(), StoreError> {
        let UploadedParts { upload: Upload { path, id }, parts, size } = uploaded;
        let parts = parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
        let Err(error) = self.wait_for(self.uploads.complete_multipart(path, id, parts)) else { return Ok(()) };
        // It may have been completed before, and whoever did it may not have heard of it.
        match self.look(path)? {
            Some(there) if there.size == *size && !before.is_some_and(|before| before.is_same(&there)) => Ok(()),
            _ => Err(self.error(&error)),
        }
    }

    /// Gives an upload up, which may be gone already.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub fn abort(&self, upload: &Upload) -> Result<(), StoreError> {
        self.if_there(self.wait_for(self.uploads.abort_multipart(&upload.path, &upload.id))).map(drop)
    }
}

/// Bytes of each part but the last.
fn part_size(size: u64) -> u64 {
    let least = size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20);
    least.max(PART)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn parts_are_few_enough() {
        for size in [0, 1, PART, 100 << 30, 5 << 40] {
            assert!(size.div_ceil(part_size(size)) <= MOST_PARTS);
            assert!(part_size(size) >= PART);
        }
    }

    #[test]
    fn an_upload_is_an_object_when_it_is_completed() {
        let store = Store::in_memory("s3://bucket/p");
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..PART * 2 + 5).map(|at| u8::try_from(at % 251).expect("small")).collect();
        file.write_all(&bytes).expect("there is room");
        let path = store.url().path.clone().join("a");
        let uploaded = store.upload(store.begin_upload(path.clone()).expect("it answers"), &file).expect("it answers");
        assert_eq!((uploaded.parts.len(), uploaded.size), (3, bytes.len() as u64));
        assert_eq!(store.read("a").expect("it answers"), None);
        store.complete(&uploaded, None).expect("it answers");
        assert!(store.read("a").expect("it answers").expect("it is there") == bytes);
        // Once more, as after a crash.
        store.complete(&uploaded, None).expect("it is there");
        // What was there before is not what was uploaded.
        let there = store.look(&path).expect("it answers").expect("it is there");
        assert!(store.complete(&uploaded, Some(&there)).is_err());
    }
}
