//! [`Added`]: the columns of rows that are not in their files: what the folders of these say, and where each row comes from.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions, StringBuilder, UInt32Array, UInt64Builder,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use super::error::ReadError;
use super::partitions::PartitionValues;
use crate::batch::{Batch, ConformError, Cutter, FileId, FileTable, Origin, Source as Place};
use crate::plan::{Cut, Read};
use crate::sql::UsedColumns;

/// Adds columns to batches behind those of the files, by the origin of their rows.
pub(super) struct Added {
    folder: PathBuf,
    table: FileTable,
    cut: Cut,
    /// What the consumers use, of all columns.
    used: Option<UsedColumns>,
    partitions: Option<Arc<PartitionValues>>,
    /// All of them, also if nobody uses them.
    fields: Vec<FieldRef>,
    /// The file that was asked for last.
    last: Option<(FileId, Facts)>,
    /// Bytes of the longest text that is added to a row.
    longest: usize,
}

/// What is the same in all rows of a file.
#[derive(Clone)]
struct Facts {
    shown: Arc<str>,
    place: Option<u32>,
}

impl Added {
    /// `None` if the files have all columns.
    pub(super) fn new(read: &Read, cut: Cut, paths: &[PathBuf], table: &FileTable) -> Result<Option<Self>, ReadError> {
        let partitions = read.partitions.as_ref().map(|partitions| PartitionValues::of(read, partitions, paths));
        let partitions = partitions.transpose()?.map(Arc::new);
        let mut fields = partitions.as_ref().map(|partitions| partitions.fields.clone()).unwrap_or_default();
        fields.extend(read.added_origin().map(|(name, data_type)| Arc::new(Field::new(name, data_type, true))));
        if fields.is_empty() {
            return Ok(None);
        }
        let texts = partitions.iter().flat_map(|partitions| &partitions.values);
        let texts = texts.filter_map(|values| values.as_string_opt::<i32>());
        let longest = texts.flat_map(|values| values.iter().flatten().map(str::len));
        // A byte that is no text is shown as three.
        let longest = longest.chain(paths.iter().map(|path| path.as_os_str().len() * 3)).max().unwrap_or(0);
        let (folder, table, used) = (read.folder.clone(), table.clone(), read.used.clone());
        Ok(Some(Self { folder, table, cut, used, partitions, fields, last: None, longest }))
    }

    pub(super) fn fields(&self) -> &[FieldRef] {
        &self.fields
    }

    pub(super) fn partitions(&self) -> Option<&Arc<PartitionValues>> {
        self.partitions.as_ref()
    }

    /// What of the columns in the files is used.
    pub(super) fn used_of_files(&self) -> Option<UsedColumns> {
        let mut used = self.used.clone()?;
        used.needed.retain(|name| !self.has(name));
        used.perhaps.retain(|name| !self.has(name));
        Some(used)
    }

    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name() == name)
    }

    /// The columns of rows, of which the files have these.
    pub(super) fn schema(&self, of_files: &SchemaRef) -> SchemaRef {
        let all: Fields = of_files.fields().iter().chain(&self.fields).cloned().collect();
        let all = Schema::new(all);
        Arc::new(self.chosen(&all).and_then(|places| all.project(&places).ok()).unwrap_or(all))
    }

    /// The places of the columns that are used; `None` if it is all.
    fn chosen(&self, all: &Schema) -> Option<Vec<usize>> {
        self.used.as_ref()?.choose(all.fields().iter().map(|field| field.name().as_str()))
    }

    /// The rows of a batch with all that is used, in as many batches as they are now; at least one.
    pub(super) fn add(&mut self, batch: &Batch) -> Result<VecDeque<Batch>, ReadError> {
        let records = batch.records().map_err(|_| self.too_long(batch.origin()))?;
        if records.num_rows() == 0 {
            let rows = self.add_to(&records, batch.origin())?;
            return Ok(VecDeque::from([Batch::new(rows, batch.origin().clone())]));
        }
        // A column of text holds no more than 2 GiB.
        let most = (i32::MAX as usize / self.longest.max(1)).max(1);
        let mut cutter = Cutter::new(self.cut.rows, self.cut.bytes);
        let mut batches = Vec::new();
        for start in (0..records.num_rows()).step_by(most) {
            let count = most.min(records.num_rows() - start);
            let origin = batch.origin().slice(start..start + count);
            let rows = self.add_to(&records.slice(start, count), &origin)?;
            batches.extend(cutter.push(rows, origin));
        }
        batches.extend(cutter.finish());
        Ok(batches.into_iter().map(|(rows, origin)| Batch::new(rows, origin)).collect())
    }

    fn add_to(&mut self, records: &RecordBatch, origin: &Origin) -> Result<RecordBatch, ReadError> {
        let of_files = records.schema();
        if let Some(field) = self.fields.iter().find(|field| of_files.index_of(field.name()).is_ok()) {
            return Err(ReadError::Taken { path: self.first_file(origin), column: field.name().clone() });
        }
        let all: Fields = of_files.fields().iter().chain(&self.fields).cloned().collect();
        let all = Arc::new(Schema::new(all));
        let places = self.chosen(&all).unwrap_or_else(|| (0..all.fields().len()).collect());
        let mut columns = Vec::with_capacity(places.len());
        for &place in &places {
            columns.push(match place.checked_sub(of_files.fields().len()) {
                None => Arc::clone(records.column(place)),
                Some(added) => self.column(added, origin)?,
            });
        }
        let schema = Arc::new(all.project(&places).expect("places of its own"));
        let options = RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options).expect("columns of its fields and rows"))
    }

    fn column(&mut self, at: usize, origin: &Origin) -> Result<ArrayRef, ReadError> {
        let of_folders = self.partitions.as_ref().map_or(0, |partitions| partitions.fields.len());
        let is_row = *self.fields[at].data_type() == DataType::UInt64;
        match at.checked_sub(of_folders) {
            None => self.folder_values(at, origin),
            Some(_) if is_row => Ok(row_numbers(origin)),
            Some(_) => Ok(self.file_names(origin)),
        }
    }

    fn folder_values(&mut self, at: usize, origin: &Origin) -> Result<ArrayRef, ReadError> {
        let mut places = Vec::with_capacity(origin.len());
        for (rows, source) in origin.parts() {
            let place = source.file().and_then(|file| self.facts(file)?.place);
            places.extend(std::iter::repeat_n(place, rows));
        }
        let partitions = self.partitions.as_ref().expect("the column is theirs");
        take(&partitions.values[at], &UInt32Array::from(places), None).map_err(|_| self.too_long(origin))
    }

    fn too_long(&self, origin: &Origin) -> ReadError {
        let row = origin.place(0).map_or(1, |place| place.first);
        ReadError::Conform { path: self.first_file(origin), row, source: ConformError::TooLong }
    }

    fn first_file(&self, origin: &Origin) -> PathBuf {
        origin.files().first().and_then(|file| self.table.path(*file)).unwrap_or_default()
    }

    fn file_names(&mut self, origin: &Origin) -> ArrayRef {
        let mut names = StringBuilder::new();
        for (rows, source) in origin.parts() {
            let shown = source.file().and_then(|file| self.facts(file)).map(|facts| facts.shown);
            (0..rows).for_each(|_| names.append_option(shown.as_deref()));
        }
        Arc::new(names.finish())
    }

    fn facts(&mut self, file: FileId) -> Option<Facts> {
        if let Some((last, facts)) = &self.last
            && *last == file
        {
            return Some(facts.clone());
        }
        let path = self.table.path(file)?;
        let place = self.partitions.as_ref().and_then(|partitions| partitions.place(&path));
        let facts = Facts { shown: shown(&path, &self.folder), place };
        self.last = Some((file, facts.clone()));
        Some(facts)
    }
}

/// As rejected rows show it: from the folder of the pipeline, so that it does not depend on where that lies.
fn shown(path: &Path, folder: &Path) -> Arc<str> {
    path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into()
}

fn row_numbers(origin: &Origin) -> ArrayRef {
    let mut numbers = UInt64Builder::with_capacity(origin.len());
    for (rows, source) in origin.parts() {
        match source {
            Place::Consecutive { first, .. } => (first..first + rows as u64).for_each(|row| numbers.append_value(row)),
            Place::Listed { rows, .. } => numbers.append_slice(rows),
            Place::Unknown | Place::Within { .. } => numbers.append_nulls(rows),
        }
    }
    Arc::new(numbers.finish())
}
