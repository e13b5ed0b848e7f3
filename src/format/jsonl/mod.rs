//! JSON lines: records to batches, batches to text.

mod builder;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde_json::Value;

use self::builder::{Builder, Misfit, Names};
use super::error::{EncodeError, Problem, RecordError};
use super::inference::{Conflict, Shape};
use super::malformed::{self, Sifted};
use super::records::Records;
use super::text_decoder::InChunk;

/// Turns lines into batches. Each line is one object; a key that is missing is a null.
#[derive(Clone, Debug)]
pub(super) struct JsonlDecoder {
    /// All columns that lines have, also those that are left out.
    columns: Vec<(String, Shape)>,
    index: HashMap<String, usize>,
    /// Whether each column is left out.
    unused: Vec<bool>,
    /// The columns as they are known so far.
    fields: Fields,
    /// The fields that are not left out.
    schema: SchemaRef,
}

impl JsonlDecoder {
    /// Infers the columns from the first `rows` rows of `chunks`: in order of their first appearance, then the
    /// declared ones that did not appear. The error is the index of a chunk and what is wrong with one of its records.
    pub(super) fn new(chunks: &[&Records], rows: usize, declared: &[(String, DataType)]) -> Result<Self, InChunk> {
        let mut decoder = Self::empty();
        let sample =
            chunks.iter().enumerate().flat_map(|(at, chunk)| (0..chunk.len()).map(move |row| (at, chunk, row)));
        for (at, chunk, record) in sample.take(rows) {
            let observed = parse(chunk.field(record, 0)).and_then(|object| decoder.observe(&object, declared));
            observed.map_err(|problem| (at, RecordError { record, problem }))?;
        }
        decoder.add_declared(declared);
        Ok(decoder)
    }

    /// The same, but records that are malformed, do not fit what is declared, or do not fit those before them decide nothing.
    pub(super) fn of_good_records(
        chunks: &[&Records],
        rows: usize,
        declared: &[(String, DataType)],
    ) -> Result<Self, InChunk> {
        let objects = |records: &Records| -> Vec<_> {
            (0..records.len()).filter_map(|record| parse(records.field(record, 0)).ok()).collect()
        };
        let mut of_declared = Self::empty();
        for key in
            chunks.iter().flat_map(|chunk| objects(chunk)).flat_map(|object| object.into_iter()).map(|(key, _)| key)
        {
            if !of_declared.index.contains_key(&key) {
                of_declared.add(&key, declared_shape(&key, declared));
            }
        }
        of_declared.update_schema();
        let of_declared = of_declared.without_open();
        let mut decoder = Self::empty();
        let mut left = rows;
        for (at, chunk) in chunks.iter().enumerate() {
            let sifted = malformed::sift(chunk, |records| of_declared.decode_settled(records));
            let left_out = sifted.map_err(|error| (at, error))?.left_out;
            for object in objects(&malformed::without(chunk, &left_out)).into_iter().take(left) {
                // One that does not fit those before it is found when it is decoded.
                left -= usize::from(decoder.observe(&object, declared).is_ok());
            }
        }
        decoder.add_declared(declared);
        Ok(decoder)
    }

    fn empty() -> Self {
        Self {
            columns: Vec::new(),
            index: HashMap::new(),
            unused: Vec::new(),
            fields: Fields::empty(),
            schema: Arc::new(Schema::empty()),
        }
    }

    fn add_declared(&mut self, declared: &[(String, DataType)]) {
        for (name, data_type) in declared {
            if !self.index.contains_key(name) {
                self.add(name, Shape::declared(data_type));
            }
        }
        self.update_schema();
    }

    /// One that leaves out all columns that wait for a value, also inside of them.
    fn without_open(&self) -> Self {
        let mut without = self.clone();
        for (unused, (_, shape)) in without.unused.iter_mut().zip(&without.columns) {
            *unused |= crate::batch::is_open(&shape.data_type());
        }
        without.update_schema();
        without
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Leaves out all columns but these.
    pub(super) fn keep(&mut self, columns: &[usize]) {
        self.unused = (0..self.columns.len()).map(|at| !columns.contains(&at)).collect();
        self.update_schema();
    }

    pub(super) fn decode(&mut self, records: &Records) -> Result<RecordBatch, RecordError> {
        match self.try_decode(records) {
            // A value has come for an open column: the rows at hand decide its type.
            Err(Failure::Open(_)) => {
                self.settle(records)?;
                self.decode_settled(records)
            }
            Err(Failure::Record(error)) => Err(error),
            Ok(batch) => Ok(batch),
        }
    }

    /// Decodes those records that can be decoded, and lets them decide what is still open.
    pub(super) fn sift(&mut self, records: &Records) -> Result<Sifted, RecordError> {
        if let Ok(batch) = self.try_decode(records) {
            return Ok(Sifted { batch, left_out: Vec::new() });
        }
        let settled = self.without_open();
        let left_out = malformed::sift(records, |records| settled.decode_settled(records))?.left_out;
        let rest = malformed::without(records, &left_out);
        self.settle_by_those_that_fit(&rest);
        let sifted = malformed::sift(&rest, |records| {
            self.try_decode(records).map_err(|failure| match failure {
                Failure::Record(error) => error,
                Failure::Open(record) => RecordError { record, problem: self.misfit_of(records.field(record, 0)) },
            })
        })?;
        Ok(Sifted { left_out: malformed::and_of_the_rest(left_out, sifted.left_out), ..sifted })
    }

    /// Returns whether no column, nor anything inside one, still waits for its first value.
    pub(super) fn is_settled(&self) -> bool {
        self.schema.fields().iter().all(|field| !crate::batch::is_open(field.data_type()))
    }

    /// Decodes records that have no value for an open column.
    pub(super) fn decode_settled(&self, records: &Records) -> Result<RecordBatch, RecordError> {
        self.try_decode(records).map_err(|failure| match failure {
            Failure::Record(error) => error,
            Failure::Open(_) => unreachable!("columns with values have been settled"),
        })
    }

    fn add(&mut self, name: &str, shape: Shape) -> usize {
        self.index.insert(name.to_owned(), self.columns.len());
        self.columns.push((name.to_owned(), shape));
        self.unused.push(false);
        self.columns.len() - 1
    }

    /// Widens the columns by the values of one record of the sample; not if one of them does not fit.
    fn observe(
        &mut self,
        object: &serde_json::Map<String, Value>,
        declared: &[(String, DataType)],
    ) -> Result<(), Problem> {
        let mut widened = Vec::with_capacity(object.len());
        for (key, value) in object {
            let known = self.index.get(key).copied();
            let shape = match known.map(|at| &self.columns[at].1) {
                Some(Shape::Fixed(_)) => continue,
                Some(shape) => shape.clone(),
                None => declared_shape(key, declared),
            };
            let merged = match shape {
                Shape::Fixed(_) => Ok(shape),
                open => Shape::of(value).and_then(|found| open.merge(found)),
            };
            widened.push((known, key, merged.map_err(|conflict| mixed(key, conflict))?));
        }
        for (known, key, shape) in widened {
            match known {
                Some(at) => self.columns[at].1 = shape,
                None => drop(self.add(key, shape)),
            }
        }
        Ok(())
    }

    /// Lets the records decide what is still open.
    fn settle(&mut self, records: &Records) -> Result<(), RecordError> {
        let mut found: Vec<_> = self.columns.iter().map(|_| Shape::Open).collect();
        for record in 0..records.len() {
            let object = parse(records.field(record, 0)).map_err(|problem| RecordError { record, problem })?;
            for (key, value) in &object {
                let Some(&at) = self.index.get(key).filter(|at| !self.unused[**at]) else { continue };
                let merged =
                    Shape::of(value).and_then(|shape| std::mem::replace(&mut found[at], Shape::Open).merge(shape));
                match merged {
                    Ok(shape) => found[at] = shape,
                    // A column that is settled already says by itself which value does not fit it.
                    Err(conflict) if crate::batch::is_open(&self.columns[at].1.data_type()) => {
                        return Err(RecordError { record, problem: mixed(key, conflict) });
                    }
                    Err(_) => {}
                }
            }
        }
        self.settle_to(found);
        Ok(())
    }

    /// The same, but records that do not fit those before them decide nothing.
    fn settle_by_those_that_fit(&mut self, records: &Records) {
        let mut found: Vec<_> = self.columns.iter().map(|(_, shape)| shape.clone()).collect();
        for record in 0..records.len() {
            let Ok(object) = parse(records.field(record, 0)) else { continue };
            let used = object.iter().filter_map(|(key, value)| Some((*self.index.get(key)?, value)));
            let used = used.filter(|(at, _)| !self.unused[*at]);
            let merged = used.map(|(at, value)| Ok((at, found[at].clone().merge(Shape::of(value)?)?)));
            let Ok(merged) = merged.collect::<Result<Vec<_>, Conflict>>() else { continue };
            merged.into_iter().for_each(|(at, shape)| found[at] = shape);
        }
        self.settle_to(found);
    }

    fn settle_to(&mut self, found: Vec<Shape>) {
        for ((_, shape), found) in self.columns.iter_mut().zip(found) {
            *shape = std::mem::replace(shape, Shape::Open).settle(found);
        }
        self.update_schema();
    }

    /// Why a record does not fit columns of which it could have decided the types.
    fn misfit_of(&self, line: &[u8]) -> Problem {
        let misfit = |(key, value): (&String, &Value)| {
            let shape = self.index.get(key).map_or(Shape::Open, |at| self.columns[*at].1.clone());
            let conflict = Shape::of(value).and_then(|found| shape.merge(found)).err()?;
            Some(mixed(key, conflict))
        };
        let found = parse(line).map(|object| object.iter().find_map(misfit));
        let unclear = || Problem::Json { message: "its values do not fit those of earlier rows".to_owned() };
        found.unwrap_or_else(Some).unwrap_or_else(unclear)
    }

    fn try_decode(&self, records: &Records) -> Result<RecordBatch, Failure> {
        records.texts().map_err(|record| Failure::Record(RecordError { record, problem: Problem::NotUtf8 }))?;
        let mut builders = self.builders(records.len());
        for record in 0..records.len() {
            builder::append_record(records.field(record, 0), self.names(), &mut builders).map_err(
                |misfit| match misfit {
                    Misfit::Open => Failure::Open(record),
                    Misfit::Problem(problem) => Failure::Record(RecordError { record, problem }),
                },
            )?;
        }
        let mut columns = Vec::with_capacity(builders.len());
        let used = builders.into_iter().zip(&self.columns).zip(&self.unused).filter(|(_, unused)| !**unused);
        for ((builder, (name, _)), _) in used {
            columns.push(builder.finish().map_err(|unfit| self.blame(records, name, unfit))?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        Ok(RecordBatch::try_new_with_options(self.schema(), columns, &options)
            .expect("builders have the types of the schema"))
    }

    /// Finds the record whose text does not parse as the declared type: a nested value's index says nothing about it.
    fn blame(&self, records: &Records, column: &str, unfit: builder::Unfit) -> Failure {
        let at = self.index[column];
        let record = (0..records.len()).find(|record| {
            let mut builders = self.builders(1);
            let appended = builder::append_record(records.field(*record, 0), self.names(), &mut builders);
            appended.is_ok() && builders.swap_remove(at).finish().is_err()
        });
        let problem = Problem::Misfit { column: column.to_owned(), value: unfit.value, expected: unfit.expected };
        Failure::Record(RecordError { record: record.unwrap_or(0), problem })
    }

    fn names(&self) -> Names<'_> {
        Names { fields: &self.fields, index: &self.index }
    }

    /// A builder for each column, also for those that are left out.
    fn builders(&self, capacity: usize) -> Vec<Builder> {
        let columns = self.fields.iter().zip(&self.unused);
        let builder = |(field, unused): (&FieldRef, &bool)| {
            if *unused { Builder::Unused(0) } else { Builder::new(field.data_type(), capacity) }
        };
        columns.map(builder).collect()
    }

    fn update_schema(&mut self) {
        let fields = self.columns.iter().map(|(name, shape)| Field::new(name, shape.data_type(), true));
        self.fields = fields.collect();
        let used = self.fields.iter().zip(&self.unused).filter(|(_, unused)| !**unused);
        self.schema = Arc::new(Schema::new(used.map(|(field, _)| Arc::clone(field)).collect::<Fields>()));
    }
}

enum Failure {
    /// A value has come for a column whose type is open, in this record.
    Open(usize),
    Record(RecordError),
}

fn declared_shape(name: &str, declared: &[(String, DataType)]) -> Shape {
    let declared = declared.iter().find(|(other, _)| other == name);
    declared.map_or(Shape::Open, |(_, data_type)| Shape::declared(data_type))
}

fn mixed(column: &str, conflict: Conflict) -> Problem {
    Problem::Mixed { column: column.to_owned(), settled: conflict.settled, found: conflict.found }
}

/// Whether a line is an object, so that it says which columns there are.
pub(super) fn is_object(line: &[u8]) -> bool {
    parse(line).is_ok()
}

fn parse(line: &[u8]) -> Result<serde_json::Map<String, Value>, Problem> {
    serde_json::from_slice(line).map_err(|error| json_problem(&error))
}

/// The parser's message. Its line number is left out where it is 1, as it always is in a file of lines.
fn json_problem(error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    let bare = message.split(" at line ").next().unwrap_or(&message);
    let line = if error.line() > 1 { format!("line {} of it, ", error.line()) } else { String::new() };
    Problem::Json { message: format!("not a JSON object: {bare} ({line}column {})", error.column()) }
}

/// Appends one object per row, nulls included. NaN and infinities are null, decimals are strings, binary values are
/// strings of hexadecimal digits.
pub(super) fn encode(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let schema = batch.schema_ref();
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let written = written_type(field.data_type());
        let column: ArrayRef = if written == *field.data_type() { Arc::clone(column) } else { cast(column, &written)? };
        fields.push(Field::new(field.name(), written, true));
        columns.push(column);
    }
    if let Some(field) = fields.iter().find(|field| !is_writable(field.data_type())) {
        let (column, data_type) = (field.name().clone(), field.data_type().clone());
        return Err(EncodeError::Unsupported { column, data_type, format: "JSON" });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, arrow::json::writer::LineDelimited>(out);
    writer.write(&batch)?;
    writer.finish()?;
    Ok(())
}

/// The type as which values are written: decimals become strings, wherever they are.
fn written_type(data_type: &DataType) -> DataType {
    let inside = |field: &Field| Arc::new(field.clone().with_data_type(written_type(field.data_type())));
    match data_type {
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            DataType::Utf8
        }
        DataType::List(field) => DataType::List(inside(field)),
        DataType::LargeList(field) => DataType::LargeList(inside(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(inside(field), *size),
        DataType::Map(field, sorted) => DataType::Map(inside(field), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| inside(field)).collect()),
        DataType::Dictionary(key, value) => DataType::Dictionary(key.clone(), Box::new(written_type(value))),
        other => other.clone(),
    }
}

fn is_writable(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Interval(_) | DataType::Union(..))
}
