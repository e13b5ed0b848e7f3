//! [`FileEncoder`]: batches to the bytes of one file.

use std::io::Write;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::ipc::writer::{FileWriter, StreamWriter};

use super::compression::{BlockWriter, Compressor};
use super::error::EncodeError;
use super::parquet_file::ParquetWriter;
use super::{Compression, Format, csv, jsonl, lines};
use crate::batch::{Cutter, Origin};

/// How batches of Parquet and Arrow files are cut, whatever the cut of the batches that come in.
const ROWS: NonZeroU32 = NonZeroU32::new(8192).expect("not zero");
const BYTES: NonZeroU64 = NonZeroU64::new(8 << 20).expect("not zero");

/// Whether bytes may be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeMode {
    /// The bytes depend on the rows alone, not on how they are cut into batches.
    File,
    /// Every batch is passed on at once, if the format and compression can do that; Arrow is written as a stream.
    Stream,
}

/// Writes batches of one schema in a format. The schema must be settled for Parquet and Arrow.
pub struct FileEncoder<W: Write + Send> {
    body: Body<W>,
    cutter: Cutter,
    mode: EncodeMode,
    /// The schema without dictionaries: an Arrow file has one dictionary per column, and which one a batch has depends on how
    /// its rows were cut.
    decoded: Option<SchemaRef>,
}

enum Body<W: Write + Send> {
    Text { format: Format, delimiter: u8, at_start: bool, buffer: Vec<u8>, output: Output<W> },
    Parquet(Box<ParquetWriter<W>>),
    ArrowFile(Box<FileWriter<Output<W>>>),
    ArrowStream(Box<StreamWriter<Output<W>>>),
}

impl<W: Write + Send> FileEncoder<W> {
    /// Starts a file. CSV begins with a header.
    pub fn new(
        output: W,
        format: Format,
        compression: Compression,
        schema: &SchemaRef,
        mode: EncodeMode,
    ) -> Result<Self, EncodeError> {
        let decoded = match (format, mode) {
            (Format::Arrow, EncodeMode::File) => Some(without_dictionaries(schema)),
            _ => None,
        };
        let schema = decoded.as_ref().unwrap_or(schema);
        let body = match format {
            Format::Parquet => Body::Parquet(Box::new(ParquetWriter::new(output, schema.clone(), compression)?)),
            Format::Arrow => {
                let output = Output::new(output, compression, mode)?;
                match mode {
                    EncodeMode::File => Body::ArrowFile(Box::new(FileWriter::try_new(output, schema)?)),
                    EncodeMode::Stream => Body::ArrowStream(Box::new(StreamWriter::try_new(output, schema)?)),
                }
            }
            Format::Csv | Format::Tsv | Format::Jsonl | Format::Lines => Body::Text {
                format,
                delimiter: if format == Format::Tsv { b'\t' } else { b',' },
                at_start: true,
                buffer: Vec::new(),
                output: Output::new(output, compression, mode)?,
            },
        };
        let mut encoder = Self { body, cutter: Cutter::new(ROWS, BYTES), mode, decoded: None };
        encoder.encode(&RecordBatch::new_empty(schema.clone()))?;
        encoder.decoded = decoded;
        Ok(encoder)
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        if self.cuts_again() {
            let batch = match &self.decoded {
                Some(schema) => cast_to(batch, schema)?,
                None => batch.clone(),
            };
            let origin = Origin::unknown(batch.num_rows());
            for (batch, _) in self.cutter.push(batch, origin) {
                self.encode(&batch)?;
            }
        } else {
            self.encode(batch)?;
        }
        if self.mode == EncodeMode::Stream { self.flush() } else { Ok(()) }
    }

    /// Writes the end of the file and returns the output.
    pub fn finish(mut self) -> Result<W, EncodeError> {
        if let Some((batch, _)) = self.cutter.finish() {
            self.encode(&batch)?;
        }
        match self.body {
            Body::Text { output, .. } => Ok(output.finish()?),
            Body::Parquet(writer) => writer.finish(),
            Body::ArrowFile(writer) => Ok(writer.into_inner()?.finish()?),
            Body::ArrowStream(writer) => Ok(writer.into_inner()?.finish()?),
        }
    }

    fn cuts_again(&self) -> bool {
        match &self.body {
            Body::Text { .. } | Body::ArrowStream(_) => false,
            Body::Parquet(_) | Body::ArrowFile(_) => true,
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        match &mut self.body {
            Body::Text { format, delimiter, at_start, buffer, output } => {
                buffer.clear();
                match format {
                    Format::Jsonl => jsonl::encode(batch, buffer)?,
                    Format::Lines => lines::encode(batch, buffer)?,
                    _ => csv::encode(batch, *delimiter, *at_start, buffer)?,
                }
                *at_start = false;
                output.write_all(buffer)?;
            }
            Body::Parquet(writer) if batch.num_rows() > 0 => writer.write(batch)?,
            Body::ArrowFile(writer) if batch.num_rows() > 0 => writer.write(batch)?,
            Body::ArrowStream(writer) if batch.num_rows() > 0 => writer.write(batch)?,
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EncodeError> {
        match &mut self.body {
            Body::Text { output, .. } => output.flush()?,
            Body::ArrowStream(writer) => writer.flush()?,
            Body::Parquet(_) | Body::ArrowFile(_) => {}
        }
        Ok(())
    }
}

fn without_dictionaries(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| decoded_field(field)).collect::<Fields>();
    Arc::new(Schema::new(fields))
}

fn decoded_field(field: &Field) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        DataType::List(item) => DataType::List(decoded_field(item)),
        DataType::LargeList(item) => DataType::LargeList(decoded_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| decoded_field(field)).collect()),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

fn cast_to(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, EncodeError> {
    let cast_column = |(column, field): (&ArrayRef, &FieldRef)| match field.data_type() {
        same if same == column.data_type() => Ok(Arc::clone(column)),
        other => cast(column, other),
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(cast_column).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// Where the bytes go: in fixed blocks, or at once if they are not compressed.
enum Output<W: Write> {
    Blocks(Box<BlockWriter<Compressor<W>>>),
    Direct(W),
}

impl<W: Write> Output<W> {
    fn new(output: W, compression: Compression, mode: EncodeMode) -> std::io::Result<Self> {
        Ok(match (mode, compression) {
            (EncodeMode::Stream, Compression::None) => Self::Direct(output),
            _ => Self::Blocks(Box::new(BlockWriter::new(Compressor::new(output, compression)?))),
        })
    }

    fn finish(self) -> std::io::Result<W> {
        match self {
            Self::Blocks(blocks) => blocks.finish()?.finish(),
            Self::Direct(output) => Ok(output),
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Blocks(blocks) => blocks.write(bytes),
            Self::Direct(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Blocks(blocks) => blocks.flush(),
            Self::Direct(output) => output.flush(),
        }
    }
}
