//! [`TextDecoder`]: records to batches, with types from a sample.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Format;
use super::csv::CsvDecoder;
use super::dialect::Nulls;
use super::error::{Problem, RecordError};
use super::jsonl::{self, JsonlDecoder};
use super::malformed::{self, Sifted};
use super::records::Records;
use crate::batch::Columns;

/// Rows from which the types of columns are inferred.
pub const SAMPLE_ROWS: usize = 4096;

/// Bytes of text after which a sample ends early, so that long rows do not have to be held by the thousand.
pub const SAMPLE_BYTES: usize = 8 << 20;

/// Decodes the records of one format in sequence. It is made from a sample, and given all records, those of the sample
/// included, in order: a column that is all null in the sample has the `Null` type until a value comes.
#[derive(Debug)]
pub struct TextDecoder {
    decoder: Decoder,
}

#[derive(Debug)]
enum Decoder {
    Csv(CsvDecoder),
    Jsonl(JsonlDecoder),
}

/// Why no decoder could be made from a sample.
#[derive(Debug)]
pub enum SampleError {
    /// The declared columns do not fit the header.
    Columns(Problem),
    /// Index of a chunk, and what is wrong in it.
    Record(usize, RecordError),
}

/// Index of a chunk of a sample, and what is wrong in it.
pub(super) type InChunk = (usize, RecordError);

impl From<InChunk> for SampleError {
    fn from((chunk, error): InChunk) -> Self {
        Self::Record(chunk, error)
    }
}

impl TextDecoder {
    /// Infers the columns that are not `declared` from the first [`SAMPLE_ROWS`] records of `sample`. `header` names the
    /// columns of CSV, and `nulls` its missing values; neither is used for other text.
    pub fn from_sample(
        format: Format,
        header: &[String],
        nulls: &Nulls,
        declared: &[(String, DataType)],
        sample: &[&Records],
    ) -> Result<Self, SampleError> {
        match format {
            Format::Csv | Format::Tsv => Self::csv(header, nulls, declared, |decoder| {
                decoder.infer(sample, SAMPLE_ROWS);
                Ok(())
            }),
            Format::Jsonl | Format::Json => Self::jsonl(JsonlDecoder::new(sample, SAMPLE_ROWS, declared)),
            _ => unreachable!("nothing to decode"),
        }
    }

    /// The same by those records of the sample that can be read.
    ///
    /// # Errors
    /// If the declared columns do not fit the header.
    pub fn from_good_records(
        format: Format,
        header: &[String],
        nulls: &Nulls,
        declared: &[(String, DataType)],
        sample: &[&Records],
    ) -> Result<Self, SampleError> {
        match format {
            Format::Csv | Format::Tsv => {
                Self::csv(header, nulls, declared, |decoder| decoder.infer_by_good_records(sample, SAMPLE_ROWS))
            }
            Format::Jsonl | Format::Json => Self::jsonl(JsonlDecoder::of_good_records(sample, SAMPLE_ROWS, declared)),
            _ => unreachable!("nothing to decode"),
        }
    }

    fn csv(
        header: &[String],
        nulls: &Nulls,
        declared: &[(String, DataType)],
        infer: impl FnOnce(&mut CsvDecoder) -> Result<(), InChunk>,
    ) -> Result<Self, SampleError> {
        let mut decoder = CsvDecoder::new(header, nulls, declared).map_err(SampleError::Columns)?;
        infer(&mut decoder)?;
        Ok(Self { decoder: Decoder::Csv(decoder) })
    }

    fn jsonl(inferred: Result<JsonlDecoder, InChunk>) -> Result<Self, SampleError> {
        Ok(Self { decoder: Decoder::Jsonl(inferred?) })
    }

    /// Whether one of the records can tell of the columns.
    pub fn can_tell_columns(format: Format, records: &Records) -> bool {
        match format {
            Format::Jsonl | Format::Json => (0..records.len()).any(|record| jsonl::is_object(records.field(record, 0))),
            _ => !records.is_empty(),
        }
    }

    /// The columns of the sample, in order.
    pub fn columns(&self) -> Vec<String> {
        self.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// From now on decodes these columns alone, given by their places in ascending order. Values of the others are not looked at;
    /// records must be well-formed all the same.
    pub fn keep(&mut self, columns: &[usize]) {
        match &mut self.decoder {
            Decoder::Csv(csv) => csv.keep(columns),
            Decoder::Jsonl(jsonl) => jsonl.keep(columns),
        }
    }

    /// Decodes the records that follow. They decide the types of columns that no value has decided before.
    pub fn decode(&mut self, records: &Records) -> Result<RecordBatch, RecordError> {
        match &mut self.decoder {
            Decoder::Csv(csv) => csv.settle(records)?,
            Decoder::Jsonl(jsonl) => return jsonl.decode(records),
        }
        self.decode_settled(records)
    }

    /// Decodes those of the records that follow that can be read. They decide as in [`Self::decode`].
    ///
    /// # Errors
    /// If records that can be read apart from each other cannot be together.
    pub fn sift(&mut self, records: &Records) -> Result<Sifted, RecordError> {
        match &mut self.decoder {
            Decoder::Csv(csv) => csv.sift(records),
            Decoder::Jsonl(jsonl) => jsonl.sift(records),
        }
    }

    /// The same once the decoder [is settled](Self::is_settled): any records, in any order, on any thread.
    ///
    /// # Errors
    /// As for [`Self::sift`].
    pub fn sift_settled(&self, records: &Records) -> Result<Sifted, RecordError> {
        malformed::sift(records, |records| self.decode_settled(records))
    }

    /// Whether the types of all columns are known, so that no records change how others are decoded.
    pub fn is_settled(&self) -> bool {
        match &self.decoder {
            Decoder::Csv(csv) => csv.is_settled(),
            Decoder::Jsonl(jsonl) => jsonl.is_settled(),
        }
    }

    /// Decodes records once the decoder [is settled](Self::is_settled): any, in any order, on any thread.
    pub fn decode_settled(&self, records: &Records) -> Result<RecordBatch, RecordError> {
        match &self.decoder {
            Decoder::Csv(csv) => csv.decode(records),
            Decoder::Jsonl(jsonl) => jsonl.decode_settled(records),
        }
    }

    /// The columns as they are known so far.
    pub fn schema(&self) -> SchemaRef {
        match &self.decoder {
            Decoder::Csv(csv) => csv.schema(),
            Decoder::Jsonl(jsonl) => jsonl.schema(),
        }
    }
}

/// The names of the columns of CSV without a header: the declared ones, or `column_1`, `column_2`, ...
pub fn headerless(width: usize, declared: &[(String, DataType)]) -> Vec<String> {
    if declared.is_empty() {
        (1..=width).map(|column| format!("column_{column}")).collect()
    } else {
        declared.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// A schema of declared columns, all nullable.
pub(super) fn declared_schema(declared: &[(String, DataType)]) -> Schema {
    let fields = declared.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true));
    Schema::new(fields.collect::<Vec<_>>())
}

/// The columns of a file that carries its own types, with those of `declared` that it has to be cast to.
pub fn declare(schema: &Schema, declared: &[(String, DataType)]) -> Result<Columns, Problem> {
    let found = || schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let missing: Vec<_> =
        declared.iter().map(|(name, _)| name).filter(|name| schema.index_of(name).is_err()).cloned().collect();
    if !missing.is_empty() {
        return Err(Problem::MissingColumn { missing, found: found() });
    }
    let columns: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| match declared.iter().find(|(name, _)| name == field.name()) {
            Some((name, data_type)) => (name.clone(), data_type.clone()),
            None => (field.name().clone(), field.data_type().clone()),
        })
        .collect();
    Ok(Columns::declared(&columns))
}
