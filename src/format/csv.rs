//! CSV and TSV: records to batches, batches to text.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::dialect::Nulls;
use super::error::{EncodeError, Problem, RecordError};
use super::inference::Guess;
use super::malformed::{self, Sifted};
use super::records::{Records, Texts};
use super::text_decoder::InChunk;
use super::text_value::parse_cells;

/// Turns records into batches, with the types that were declared or inferred. Fields that stand for missing values are nulls.
#[derive(Debug)]
pub(super) struct CsvDecoder {
    columns: Vec<CsvColumn>,
    nulls: Nulls,
    schema: SchemaRef,
}

#[derive(Debug)]
struct CsvColumn {
    name: String,
    /// Place of its fields in a record.
    field: usize,
    data_type: DataType,
    is_declared: bool,
}

impl CsvDecoder {
    /// Columns in the order of the file. A declared column that the file does not have is an error.
    pub(super) fn new(names: &[String], nulls: &Nulls, declared: &[(String, DataType)]) -> Result<Self, Problem> {
        let missing: Vec<_> =
            declared.iter().map(|(name, _)| name).filter(|name| !names.contains(name)).cloned().collect();
        if !missing.is_empty() {
            return Err(Problem::MissingColumn { missing, found: names.to_vec() });
        }
        let columns = names.iter().enumerate().map(|(field, name)| {
            match declared.iter().find(|(declared, _)| declared == name) {
                Some((_, data_type)) if data_type.is_nested() => {
                    Err(Problem::Unsupported { column: name.clone(), data_type: data_type.clone() })
                }
                Some((_, data_type)) => {
                    Ok(CsvColumn { name: name.clone(), field, data_type: data_type.clone(), is_declared: true })
                }
                None => Ok(CsvColumn { name: name.clone(), field, data_type: DataType::Null, is_declared: false }),
            }
        });
        let columns = columns.collect::<Result<_, _>>()?;
        let mut decoder = Self { columns, nulls: nulls.clone(), schema: Arc::new(Schema::empty()) };
        decoder.update_schema();
        Ok(decoder)
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Infers the open columns from the first `rows` rows of `chunks`.
    pub(super) fn infer(&mut self, chunks: &[&Records], rows: usize) {
        for column in &mut self.columns {
            let field = column.field;
            if column.is_open() {
                let sample = chunks.iter().flat_map(|chunk| (0..chunk.len()).map(move |row| cell(chunk, row, field)));
                let values = sample.take(rows).filter_map(|cell| self.nulls.value(cell));
                column.data_type = guess(values).data_type();
            }
        }
        self.update_schema();
    }

    /// Leaves out all columns but these.
    pub(super) fn keep(&mut self, columns: &[usize]) {
        self.columns.retain(|column| columns.contains(&column.field));
        self.update_schema();
    }

    /// Infers by those records of a sample that can be decoded.
    pub(super) fn infer_by_good_records(&mut self, sample: &[&Records], rows: usize) -> Result<(), InChunk> {
        let good = sample.iter().enumerate().map(|(at, chunk)| {
            let sifted = malformed::sift(chunk, |records| self.decode(records));
            Ok(malformed::without(chunk, &sifted.map_err(|error| (at, error))?.left_out))
        });
        let good = good.collect::<Result<Vec<_>, InChunk>>()?;
        self.infer(&good.iter().collect::<Vec<_>>(), rows);
        Ok(())
    }

    /// Decodes those records that can be decoded, and lets them decide the types of columns that are open.
    pub(super) fn sift(&mut self, records: &Records) -> Result<Sifted, RecordError> {
        let mut sifted = malformed::sift(records, |records| self.decode(records))?;
        if !self.is_settled() {
            let (good, before) = (malformed::without(records, &sifted.left_out), self.schema());
            self.infer(&[&good], good.len());
            if self.schema != before {
                sifted.batch = self.decode(&good)?;
            }
        }
        Ok(sifted)
    }

    /// Lets records decide the types of columns that are open.
    pub(super) fn settle(&mut self, records: &Records) -> Result<(), RecordError> {
        if !self.is_settled() {
            texts(records)?;
            self.infer(&[records], records.len());
        }
        Ok(())
    }

    /// Returns whether every column has its type.
    pub(super) fn is_settled(&self) -> bool {
        self.columns.iter().all(|column| !column.is_open())
    }

    /// Decodes records, those of open columns as nulls.
    pub(super) fn decode(&self, records: &Records) -> Result<RecordBatch, RecordError> {
        let texts = texts(records)?;
        let arrays = self.columns.iter().map(|column| column.decode(texts, &self.nulls, records.len()));
        let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        Ok(RecordBatch::try_new_with_options(self.schema(), arrays, &options)
            .expect("columns have the types of the schema"))
    }

    fn update_schema(&mut self) {
        let unchanged = self.schema.fields().len() == self.columns.len()
            && self
                .schema
                .fields()
                .iter()
                .zip(&self.columns)
                .all(|(field, column)| *field.data_type() == column.data_type);
        if !unchanged {
            let fields = self.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true));
            self.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        }
    }
}

impl CsvColumn {
    fn is_open(&self) -> bool {
        self.data_type == DataType::Null && !self.is_declared
    }

    fn decode(&self, texts: Texts, nulls: &Nulls, rows: usize) -> Result<ArrayRef, RecordError> {
        if self.is_open() {
            return Ok(new_null_array(&DataType::Null, rows));
        }
        let cells = texts.column(self.field).map(|cell| nulls.value(cell));
        parse_cells(cells, &self.data_type, !self.is_declared).map_err(|record| RecordError {
            record,
            problem: Problem::Misfit {
                column: self.name.clone(),
                value: super::lines::quoted(texts.field(record, self.field)),
                expected: self.data_type.clone(),
            },
        })
    }
}

fn texts(records: &Records) -> Result<Texts<'_>, RecordError> {
    records.texts().map_err(|record| RecordError { record, problem: Problem::NotUtf8 })
}

/// The type of values, of which none is missing: one that is empty is text.
fn guess<'a>(cells: impl Iterator<Item = &'a str>) -> Guess {
    let mut guess = Guess::Open;
    for cell in cells {
        guess = guess.merge(if cell.is_empty() { Guess::Text } else { Guess::of(cell) });
        if guess == Guess::Text {
            break;
        }
    }
    guess
}

/// A cell as text; text that is not UTF-8 counts as text like any other while types are inferred, and fails when decoded.
fn cell(records: &Records, row: usize, column: usize) -> &str {
    std::str::from_utf8(records.field(row, column)).unwrap_or("\u{fffd}")
}

/// Appends rows as CSV. Nulls and empty strings are empty fields, binary values are hexadecimal.
pub(super) fn encode(batch: &RecordBatch, delimiter: u8, header: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let schema = batch.schema_ref();
    if let Some(field) = schema.fields().iter().find(|field| field.data_type().is_nested()) {
        let (column, data_type) = (field.name().clone(), field.data_type().clone());
        return Err(EncodeError::Unsupported { column, data_type, format: "CSV" });
    }
    if schema.fields().is_empty() {
        return if batch.num_rows() == 0 { Ok(()) } else { Err(EncodeError::NoColumns { rows: batch.num_rows() }) };
    }
    arrow::csv::WriterBuilder::new().with_header(header).with_delimiter(delimiter).build(out).write(batch)?;
    Ok(())
}
