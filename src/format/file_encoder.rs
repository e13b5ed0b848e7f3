//! [`FileEncoder`]: batches to the bytes of one file.

use std::collections::VecDeque;
use std::io::{BufWriter, IntoInnerError, Write};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::ipc::writer::{FileWriter, StreamWriter};

use super::compression::{BlockWriter, Compressor};
use super::deferred::{Deferred, in_the_making};
use super::error::EncodeError;
use super::parquet_file::ParquetWriter;
use super::{Compression, Format, csv, jsonl, lines, raw_bytes};
use crate::batch::{Cutter, Origin, Text};

/// How batches of Parquet and Arrow files are cut, whatever the cut of the batches that come in.
const ROWS: NonZeroU32 = NonZeroU32::new(8192).expect("not zero");
const BYTES: NonZeroU64 = NonZeroU64::new(8 << 20).expect("not zero");
/// The same for [`EncodeMode::Memory`].
const MEMORY_BYTES: NonZeroU64 = NonZeroU64::new(16 << 20).expect("not zero");

/// Bytes that are held back of a file that is not compressed.
const BUFFER: usize = 256 << 10;

/// Whether bytes may be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeMode {
    /// The bytes depend on the rows alone, not on how they are cut into batches.
    File,
    /// As a file, in few batches: each costs those who map it about 20 µs.
    Memory,
    /// Every batch is passed on at once, if the format and compression can do that; Arrow is written as a stream.
    Stream,
}

/// Writes batches of one schema in a format. The schema must be settled for Parquet and Arrow.
///
/// Encoding goes on elsewhere, on the threads of rayon, so an encoder must not be used on one of them. An error may be that of an
/// earlier batch.
pub struct FileEncoder<W: Write + Send> {
    body: Body<W>,
    cutter: Cutter,
    mode: EncodeMode,
    /// The schema as the file has it, where that is another one than that of the batches.
    stored: Option<SchemaRef>,
}

enum Body<W: Write + Send> {
    Text(TextFile<W>),
    Parquet(Box<ParquetWriter<W>>),
    ArrowFile(Box<FileWriter<Output<W>>>),
    ArrowStream(Box<StreamWriter<Output<W>>>),
}

impl<W: Write + Send> FileEncoder<W> {
    /// Starts a file. `header`: whether CSV begins with the names of the columns.
    pub fn new(
        output: W,
        format: Format,
        header: bool,
        compression: Compression,
        schema: &SchemaRef,
        mode: EncodeMode,
    ) -> Result<Self, EncodeError> {
        let stored = match (format, mode) {
            (Format::Arrow, EncodeMode::File | EncodeMode::Memory) => Some(stored_schema(schema, decoded)),
            (Format::Parquet, _) => {
                Some(stored_schema(schema, with_unit)).filter(|stored| has_other_types(stored, schema))
            }
            _ => None,
        };
        let schema = stored.as_ref().unwrap_or(schema);
        let body = match format {
            Format::Parquet => Body::Parquet(Box::new(ParquetWriter::new(output, schema.clone(), compression)?)),
            Format::Arrow => {
                let output = Output::new(output, compression)?;
                match mode {
                    EncodeMode::File | EncodeMode::Memory => {
                        Body::ArrowFile(Box::new(FileWriter::try_new(output, schema)?))
                    }
                    EncodeMode::Stream => Body::ArrowStream(Box::new(StreamWriter::try_new(output, schema)?)),
                }
            }
            Format::Binary => unreachable!("the plan refuses to write it"),
            Format::Csv | Format::Tsv | Format::Jsonl | Format::Json | Format::Lines | Format::Bytes => {
                let mut output = Output::new(output, compression)?;
                output.write_all(&encode_text(format, header, &RecordBatch::new_empty(schema.clone()))?)?;
                if format == Format::Json {
                    output.write_all(b"[")?;
                }
                Body::Text(TextFile { format, output, has_rows: false, under_way: VecDeque::new() })
            }
        };
        let cutter = match mode {
            EncodeMode::Memory => Cutter::new(NonZeroU32::MAX, MEMORY_BYTES),
            EncodeMode::File | EncodeMode::Stream => Cutter::new(ROWS, BYTES),
        };
        Ok(Self { body, cutter, mode, stored })
    }

    /// Writes lines. Where they are the format, they are written as they are.
    pub fn write_lines(&mut self, text: &Text) -> Result<(), EncodeError> {
        match &mut self.body {
            Body::Text(file) if file.format == Format::Lines => file.write_lines(text)?,
            _ => return self.write(&text.records()?),
        }
        if self.mode == EncodeMode::Stream { self.flush() } else { Ok(()) }
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        if self.cuts_again() {
            let batch = match &self.stored {
                Some(schema) => cast_to(batch, schema)?,
                None => batch.clone(),
            };
            let origin = Origin::unknown(batch.num_rows());
            for (batch, _) in self.cutter.push(batch, origin) {
                self.encode(&batch.records()?)?;
            }
        } else {
            self.encode(batch)?;
        }
        if self.mode == EncodeMode::Stream { self.flush() } else { Ok(()) }
    }

    /// Waits for what is under way of what was written, so that no more is held back than [`FileEncoder::held`] says, and a buffer.
    pub fn settle(&mut self) -> Result<(), EncodeError> {
        match &mut self.body {
            Body::Text(file) => file.drain(0),
            Body::Parquet(writer) => writer.write_full(),
            Body::ArrowFile(_) | Body::ArrowStream(_) => Ok(()),
        }
    }

    /// Bytes of the rows that are held back until there are more of them. That depends on the rows alone.
    pub fn held(&self) -> usize {
        let in_group = if let Body::Parquet(writer) = &self.body { writer.group_bytes() } else { 0 };
        self.cutter.held_bytes() + in_group
    }

    /// Writes the end of the file and returns the output.
    pub fn finish(mut self) -> Result<W, EncodeError> {
        if let Some((batch, _)) = self.cutter.finish() {
            self.encode(&batch.records()?)?;
        }
        match self.body {
            Body::Text(file) => file.finish(),
            Body::Parquet(writer) => writer.finish(),
            Body::ArrowFile(writer) => Ok(writer.into_inner()?.finish()?),
            Body::ArrowStream(writer) => Ok(writer.into_inner()?.finish()?),
        }
    }

    fn cuts_again(&self) -> bool {
        match &self.body {
            Body::Text(_) | Body::ArrowStream(_) => false,
            Body::Parquet(_) | Body::ArrowFile(_) => true,
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        match &mut self.body {
            Body::Text(file) => file.write(batch, if self.mode == EncodeMode::File { in_the_making() } else { 0 })?,
            Body::Parquet(writer) if batch.num_rows() > 0 => writer.write(batch)?,
            Body::ArrowFile(writer) if batch.num_rows() > 0 => writer.write(batch)?,
            Body::ArrowStream(writer) if batch.num_rows() > 0 => writer.write(batch)?,
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EncodeError> {
        match &mut self.body {
            Body::Text(file) => file.output.flush()?,
            Body::ArrowStream(writer) => writer.flush()?,
            Body::Parquet(_) | Body::ArrowFile(_) => {}
        }
        Ok(())
    }
}

/// Text is encoded on other threads, batch by batch, and written in order.
struct TextFile<W: Write> {
    format: Format,
    output: Output<W>,
    /// Whether anything but a header has been written.
    has_rows: bool,
    under_way: VecDeque<Deferred<Result<Vec<u8>, EncodeError>>>,
}

impl<W: Write> TextFile<W> {
    /// Writes a batch, or one that came before it: at most `held_back` are under way after it. An error may be that of an
    /// earlier batch.
    fn write(&mut self, batch: &RecordBatch, held_back: usize) -> Result<(), EncodeError> {
        if held_back == 0 {
            return self.put(&encode_text(self.format, false, batch)?);
        }
        let (format, batch) = (self.format, batch.clone());
        self.under_way.push_back(Deferred::start(move || encode_text(format, false, &batch)));
        self.drain(held_back)
    }

    fn write_lines(&mut self, text: &Text) -> Result<(), EncodeError> {
        self.drain(0)?;
        for part in text.parts() {
            self.output.write_all(part)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<W, EncodeError> {
        self.drain(0)?;
        if self.format == Format::Json {
            self.output.write_all(if self.has_rows { b"\n]\n" } else { b"]\n" })?;
        }
        Ok(self.output.finish()?)
    }

    /// Writes encoded rows. Those of JSON have a comma in front of each, which the first of a file does not need.
    fn put(&mut self, rows: &[u8]) -> Result<(), EncodeError> {
        if rows.is_empty() {
            return Ok(());
        }
        let is_first = !std::mem::replace(&mut self.has_rows, true);
        let rows = if is_first && self.format == Format::Json { &rows[1..] } else { rows };
        Ok(self.output.write_all(rows)?)
    }

    fn drain(&mut self, held_back: usize) -> Result<(), EncodeError> {
        while self.under_way.len() > held_back {
            let Some(text) = self.under_way.pop_front() else { break };
            self.put(&text.wait()?)?;
        }
        Ok(())
    }
}

fn encode_text(format: Format, header: bool, batch: &RecordBatch) -> Result<Vec<u8>, EncodeError> {
    let mut text = Vec::new();
    match format {
        Format::Jsonl => jsonl::encode(batch, &mut text)?,
        Format::Json => {
            let mut lines = Vec::new();
            jsonl::encode(batch, &mut lines)?;
            for object in lines.split_inclusive(|byte| *byte == b'\n') {
                text.extend_from_slice(b",\n");
                text.extend_from_slice(object.strip_suffix(b"\n").unwrap_or(object));
            }
        }
        Format::Lines => lines::encode(batch, &mut text)?,
        Format::Bytes => raw_bytes::encode(batch, &mut text)?,
        Format::Tsv => csv::encode(batch, b'\t', header, &mut text)?,
        _ => csv::encode(batch, b',', header, &mut text)?,
    }
    Ok(text)
}

/// The type that a file has in the place of one that is not nested.
type StoredType = fn(&DataType) -> DataType;

/// Without dictionaries: an Arrow file has one dictionary per column, and which one a batch has depends on how its rows were cut.
fn decoded(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        other => other.clone(),
    }
}

/// Parquet has no times in seconds, and no dates in milliseconds: other programs would read numbers.
fn with_unit(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Time32(TimeUnit::Second) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Date64 => DataType::Date32,
        other => other.clone(),
    }
}

fn stored_schema(schema: &SchemaRef, stored: StoredType) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| stored_field(field, stored)).collect::<Fields>();
    Arc::new(Schema::new(fields))
}

fn has_other_types(one: &Schema, other: &Schema) -> bool {
    one.fields().iter().zip(other.fields()).any(|(one, other)| one.data_type() != other.data_type())
}

fn stored_field(field: &Field, stored: StoredType) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(stored_field(item, stored)),
        DataType::LargeList(item) => DataType::LargeList(stored_field(item, stored)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| stored_field(field, stored)).collect()),
        other => stored(other),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

fn cast_to(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, EncodeError> {
    let cast_column = |(column, field): (&ArrayRef, &FieldRef)| match field.data_type() {
        same if same == column.data_type() => Ok(Arc::clone(column)),
        other => cast_with_options(column, other, &CastOptions { safe: false, ..CastOptions::default() }),
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(cast_column).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// Where the bytes go: in fixed blocks, or as they come if they are not compressed.
enum Output<W: Write> {
    Blocks(Box<BlockWriter<Compressor<W>>>),
    /// What is written at once and is larger than the buffer goes around it.
    Plain(BufWriter<W>),
}

impl<W: Write> Output<W> {
    fn new(output: W, compression: Compression) -> std::io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(BufWriter::with_capacity(BUFFER, output)),
            _ => Self::Blocks(Box::new(BlockWriter::new(Compressor::new(output, compression)?))),
        })
    }

    fn finish(self) -> std::io::Result<W> {
        match self {
            Self::Blocks(blocks) => blocks.finish()?.finish(),
            Self::Plain(output) => output.into_inner().map_err(IntoInnerError::into_error),
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Blocks(blocks) => blocks.write(bytes),
            Self::Plain(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Blocks(blocks) => blocks.flush(),
            Self::Plain(output) => output.flush(),
        }
    }
}
