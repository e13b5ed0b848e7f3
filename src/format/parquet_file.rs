//! How Parquet files are written.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use crossbeam_channel::{Receiver, bounded};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::Compression;
use super::deferred::in_the_making;
use super::dictionary_choice;
use super::error::EncodeError;
use super::strand::{Bound, Place, Strand};
use crate::batch::value_bytes;

/// Rows of a row group, and bytes of values after which it ends early. Much smaller groups would each try a dictionary for columns
/// that are no good for one, up to its limit of 1 MiB.
const GROUP_ROWS: usize = 1 << 20;
const GROUP_BYTES: usize = 64 << 20;

/// Writes batches into row groups whose ends depend on the rows alone, provided that the batches do.
///
/// The columns of a row group are encoded side by side on the threads of the process, a few batches at a time; a finished row
/// group is written when the one after it is complete.
pub(super) struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    schema: SchemaRef,
    /// Row groups that were started.
    groups: usize,
    /// The row group that is being filled: a strand for each column.
    filling: Option<Vec<Strand<Encoding>>>,
    /// The columns of the row group before it.
    full: Option<Vec<Receiver<Encoded>>>,
    under_way: Bound,
    group_rows: usize,
    group_bytes: usize,
}

/// The leaves of a column that is being encoded. After an error nothing more is done.
type Encoding = Result<Vec<ArrowColumnWriter>, ParquetError>;

type Encoded = Result<Vec<ArrowColumnChunk>, ParquetError>;

impl<W: Write + Send> ParquetWriter<W> {
    /// `compression` is that of the pages.
    pub(super) fn new(output: W, schema: SchemaRef, compression: Compression) -> Result<Self, EncodeError> {
        let codec = match compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Gzip => Codec::GZIP(GzipLevel::default()),
            Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
            Compression::Snappy => Codec::SNAPPY,
            Compression::Bzip2 | Compression::Xz => {
                return Err(ParquetError::NYI("pages that are compressed with bzip2 or xz".to_owned()).into());
            }
        };
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_max_row_group_row_count(None)
            .set_created_by(concat!("millpond ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = ArrowWriter::try_new(output, Arc::clone(&schema), Some(properties))?;
        let (file, _) = writer.into_serialized_writer()?;
        Ok(Self {
            file,
            schema,
            groups: 0,
            filling: None,
            full: None,
            under_way: Bound::new(in_the_making()),
            group_rows: 0,
            group_bytes: 0,
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        if self.filling.is_none() {
            self.filling = Some(self.start_group(batch)?);
        }
        let place = Arc::new(self.under_way.enter());
        let strands = self.filling.iter().flatten();
        for ((strand, field), column) in strands.zip(self.schema.fields()).zip(batch.columns()) {
            let (field, column, place) = (Arc::clone(field), Arc::clone(column), Arc::clone(&place));
            strand.then(move |writers| append(writers, &field, &column, place));
        }
        self.group_rows += batch.num_rows();
        self.group_bytes += value_bytes(batch, 0..batch.num_rows());
        if self.group_rows >= GROUP_ROWS || self.group_bytes >= GROUP_BYTES { self.end_group() } else { Ok(()) }
    }

    pub(super) fn finish(mut self) -> Result<W, EncodeError> {
        self.end_group()?;
        self.write_full()?;
        Ok(self.file.into_inner()?)
    }

    /// Bytes of values in the row group that is being filled.
    pub(super) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    fn start_group(&mut self, first: &RecordBatch) -> Result<Vec<Strand<Encoding>>, EncodeError> {
        // Columns are written with the properties of a file; each row group gets its own by way of a file that nobody keeps.
        let properties = Arc::new(for_group(self.file.properties(), first));
        let root = self.file.schema_descr().root_schema_ptr();
        let group = SerializedFileWriter::new(std::io::sink(), root, properties)?;
        let columns = ArrowRowGroupWriterFactory::new(&group, Arc::clone(&self.schema));
        let leaves = columns.create_column_writers(self.groups)?;
        self.groups += 1;
        let mut columns: Vec<Vec<_>> = self.schema.fields().iter().map(|_| Vec::new()).collect();
        for (at, leaf) in leaves.into_iter().enumerate() {
            columns[self.file.schema_descr().get_column_root_idx(at)].push(leaf);
        }
        Ok(columns.into_iter().map(|leaves| Strand::new(Ok(leaves))).collect())
    }

    /// Has the columns finished, and meanwhile writes those of the row group before.
    fn end_group(&mut self) -> Result<(), EncodeError> {
        (self.group_rows, self.group_bytes) = (0, 0);
        let Some(filling) = self.filling.take() else { return Ok(()) };
        let ends = filling.into_iter().map(|strand| {
            let (sender, receiver) = bounded(1);
            strand.then(move |writers| {
                // After an error nobody waits for the other columns.
                let _ = sender
                    .send(writers.and_then(|writers| writers.into_iter().map(ArrowColumnWriter::close).collect()));
                Ok(Vec::new())
            });
            receiver
        });
        let ends = ends.collect();
        self.write_full()?;
        self.full = Some(ends);
        Ok(())
    }

    /// Writes the row group before the one that is being filled, as soon as it is encoded.
    pub(super) fn write_full(&mut self) -> Result<(), EncodeError> {
        let Some(full) = self.full.take() else { return Ok(()) };
        let mut group = self.file.next_row_group()?;
        for column in full {
            for leaf in column.recv().expect("encoding does not panic")? {
                leaf.append_to_row_group(&mut group)?;
            }
        }
        group.close()?;
        Ok(())
    }
}

/// The properties for a row group that begins with these rows.
fn for_group(properties: &WriterProperties, first: &RecordBatch) -> WriterProperties {
    let mut properties = properties.clone().into_builder();
    for (field, column) in first.schema_ref().fields().iter().zip(first.columns()) {
        if !dictionary_choice::is_worth_trying(column) {
            let path = ColumnPath::new(vec![field.name().clone()]);
            properties = properties.set_column_dictionary_enabled(path, false);
        }
    }
    properties.build()
}

/// Appends values to a column; `place` is free when the last column has got them.
fn append(writers: Encoding, field: &Field, column: &ArrayRef, place: Arc<Place>) -> Encoding {
    let mut writers = writers?;
    for (writer, leaf) in writers.iter_mut().zip(compute_leaves(field, column)?) {
        writer.write(&leaf)?;
    }
    drop(place);
    Ok(writers)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray, StructArray};
    use arrow::datatypes::DataType;

    use super::*;

    fn batch(start: i64, rows: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start + rows));
        let texts: ArrayRef = Arc::new(StringArray::from_iter(
            (start..start + rows).map(|row| (row % 7 != 0).then(|| format!("text {}", row % 1000))),
        ));
        let floats: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|row| (row * 31 % 97) as f64)));
        let fields = vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)];
        let nested: ArrayRef =
            Arc::new(StructArray::new(fields.into(), vec![Arc::clone(&numbers), Arc::clone(&texts)], None));
        let columns = [("n", numbers), ("s", nested), ("t", texts), ("f", floats)];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    /// What the library writes on one thread.
    fn sequential(batches: &[RecordBatch]) -> Vec<u8> {
        let writer = ParquetWriter::new(Vec::new(), batches[0].schema(), Compression::Zstd).unwrap();
        let properties = for_group(writer.file.properties(), &batches[0]);
        let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
        let mut rows = 0;
        for batch in batches {
            writer.write(batch).unwrap();
            rows += batch.num_rows();
            if rows >= GROUP_ROWS {
                writer.flush().unwrap();
                rows = 0;
            }
        }
        writer.into_inner().unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_one_thread() {
        for count in [1, 16, 40] {
            let batches: Vec<_> = (0..count).map(|at| batch(at * 8192, 8192)).collect();
            let mut writer = ParquetWriter::new(Vec::new(), batches[0].schema(), Compression::Zstd).unwrap();
            for batch in &batches {
                writer.write(batch).unwrap();
            }
            assert!(writer.finish().unwrap() == sequential(&batches), "{count} batches");
        }
    }
}
