//! [`file_sizes`]: how much the files of a source hold, by their sizes and a look at the first.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::paths::{self, Found};
use crate::format::{Compression, Format, decompress};
use crate::plan::{FileSizes, Read};
use crate::run::store::Interrupt;

/// Bytes of text in which rows are counted.
const SAMPLE: u64 = 256 << 10;
/// Bytes of a page, as most programs write them.
const PAGE: u64 = 1 << 20;
/// What a column takes that is being read, beside its page.
const OPEN_COLUMN: u64 = 72 << 10;
/// Bytes for one byte of a compressed file that could not be looked into.
const UNPACKED: u64 = 8;

/// What a source would read now; `None` if one of its files is a pipe, or cannot be found.
pub fn file_sizes(read: &Read) -> Option<FileSizes> {
    if read.stdin || read.has_store() {
        return None;
    }
    let paths = paths::expand(read, &Interrupt::default()).ok()?;
    let bytes = paths.iter().map(Found::size).sum::<Option<u64>>()?;
    let first = &paths.first()?.name;
    if read.format == Format::Binary {
        let files = paths.len() as u64;
        return Some(FileSizes { files, bytes, row: Some(bytes.div_ceil(files).max(1)), pages: 0 });
    }
    let compression = read.compression.unwrap_or_else(|| Compression::of(first));
    let sample = match read.format {
        Format::Parquet => of_parquet(first),
        _ => of_text(first, compression),
    };
    let sample = sample.ok().filter(|sample| sample.packed > 0).unwrap_or(Sample {
        packed: 1,
        bytes: if compression == Compression::None { 1 } else { UNPACKED },
        rows: 0,
        pages: 0,
    });
    let all = u128::from(bytes) * u128::from(sample.bytes) / u128::from(sample.packed);
    Some(FileSizes {
        files: paths.len() as u64,
        bytes: u64::try_from(all).unwrap_or(u64::MAX),
        // Without the end of a line nothing is known but that the row is long.
        row: (sample.rows > 0 && read.format != Format::Arrow).then(|| sample.bytes.div_ceil(sample.rows)),
        pages: sample.pages,
    })
}

/// The beginning of a file, or all of it.
struct Sample {
    /// Bytes of the file, and what they hold.
    packed: u64,
    bytes: u64,
    rows: u64,
    /// Bytes of pages that are open at once.
    pages: u64,
}

fn of_text(path: &Path, compression: Compression) -> io::Result<Sample> {
    let packed = Arc::new(AtomicU64::new(0));
    let file = Counted { file: File::open(path)?, read: Arc::clone(&packed) };
    let mut sample = Vec::new();
    decompress(file, compression)?.take(SAMPLE).read_to_end(&mut sample)?;
    Ok(Sample {
        packed: packed.load(Ordering::Relaxed),
        bytes: sample.len() as u64,
        rows: sample.iter().filter(|byte| **byte == b'\n').count() as u64,
        pages: 0,
    })
}

fn of_parquet(path: &Path) -> io::Result<Sample> {
    let file = File::open(path)?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).map_err(io::Error::other)?;
    let metadata = metadata.metadata();
    let groups = metadata.row_groups().iter();
    let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    // Values that repeat take almost nothing in the file, and their width in memory.
    let least = 8 * rows.saturating_mul(metadata.file_metadata().schema_descr().num_columns() as u64);
    let bytes = groups.map(|group| u64::try_from(group.total_byte_size()).unwrap_or(0)).sum::<u64>();
    let pages = metadata.row_groups().iter().map(|group| {
        let columns = group.columns().iter().map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(0));
        columns.map(|bytes| bytes.min(PAGE) + OPEN_COLUMN).sum::<u64>()
    });
    let pages = pages.max().unwrap_or(0);
    Ok(Sample { packed: file.metadata()?.len(), bytes: bytes.max(least), rows, pages })
}

/// A file of which is known how much was read.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl io::Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use super::*;

    fn sizes(paths: &[PathBuf]) -> Option<FileSizes> {
        file_sizes(&Read {
            paths: paths.iter().cloned().map(crate::plan::Location::Local).collect(),
            stdin: false,
            folder: PathBuf::new(),
            format: Format::Csv,
            compression: None,
            schema: Vec::new(),
            dialect: crate::format::Dialect::default(),
            encoding: crate::format::Encoding::Utf8,
            partitions: None,
            origin: false,
            which: crate::plan::WhichFiles::All,
            leaves_out_malformed: false,
            first_rows: None,
            used: None,
            filtered_by: Vec::new(),
        })
    }

    #[test]
    fn rows_are_counted_in_the_first_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = folder.path().join("a.csv");
        let second = folder.path().join("b.csv");
        std::fs::write(&first, "a,b\n1,2\n3,4\n").expect("a file");
        std::fs::write(&second, [b'x'; 1000]).expect("a file");
        assert_eq!(sizes(&[first, second.clone()]), Some(FileSizes { files: 2, bytes: 1012, row: Some(4), pages: 0 }));
        assert_eq!(sizes(&[second]), Some(FileSizes { files: 1, bytes: 1000, row: None, pages: 0 }));
    }

    #[test]
    fn compressed_files_are_looked_into() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = folder.path().join("a.csv.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&b"1234567\n".repeat(1000)).expect("memory");
        std::fs::write(&good, encoder.finish().expect("memory")).expect("a file");
        assert_eq!(sizes(&[good]), Some(FileSizes { files: 1, bytes: 8000, row: Some(8), pages: 0 }));
        let bad = folder.path().join("b.csv.gz");
        std::fs::write(&bad, [0; 100]).expect("a file");
        assert_eq!(sizes(&[bad]), Some(FileSizes { files: 1, bytes: 800, row: None, pages: 0 }));
    }

    #[test]
    fn what_is_no_file_has_no_size() {
        assert_eq!(sizes(&["/dev/null".into()]), None);
        assert_eq!(sizes(&["/nonexistent/a.csv".into()]), None);
    }
}
