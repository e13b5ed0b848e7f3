//! How Parquet files are written.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::Compression;
use super::error::EncodeError;
use crate::batch::value_bytes;

/// Rows of a row group, and bytes of values after which it ends early.
const GROUP_ROWS: usize = 128 << 10;
const GROUP_BYTES: usize = 64 << 20;

/// Writes batches into row groups whose ends depend on the rows alone, provided that the batches do.
pub(super) struct ParquetWriter<W: Write + Send> {
    writer: ArrowWriter<W>,
    group_rows: usize,
    group_bytes: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// `compression` is that of the pages.
    pub(super) fn new(output: W, schema: SchemaRef, compression: Compression) -> Result<Self, EncodeError> {
        let codec = match compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Gzip => Codec::GZIP(GzipLevel::default()),
            Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        };
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_max_row_group_row_count(None)
            .set_created_by(concat!("millpond ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = ArrowWriter::try_new(output, schema, Some(properties))?;
        Ok(Self { writer, group_rows: 0, group_bytes: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        self.writer.write(batch)?;
        self.group_rows += batch.num_rows();
        self.group_bytes += value_bytes(batch, 0..batch.num_rows());
        if self.group_rows >= GROUP_ROWS || self.group_bytes >= GROUP_BYTES {
            self.writer.flush()?;
            self.group_rows = 0;
            self.group_bytes = 0;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<W, EncodeError> {
        Ok(self.writer.into_inner()?)
    }
}
