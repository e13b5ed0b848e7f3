//! [`PartitionValues`]: what the folders in the paths of files say of their rows.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};

use super::error::ReadError;
use crate::format::{hive, parse_cells};
use crate::plan::{Partitions, Read};

/// The columns that folders `column=value` stand for, with a value for each file.
#[derive(Debug)]
pub(super) struct PartitionValues {
    pub(super) fields: Vec<FieldRef>,
    /// In the order of the fields, each with the values of all files.
    pub(super) values: Vec<ArrayRef>,
    /// The places of the files in these.
    places: HashMap<PathBuf, u32>,
}

/// The values of one file, by their columns.
type Found = Vec<(String, Option<String>)>;

impl PartitionValues {
    /// Of the files of a source, of which there is at least one.
    ///
    /// # Errors
    /// If a path does not have all folders, or a value is not of its type.
    pub(super) fn of(read: &Read, partitions: &Partitions, paths: &[PathBuf]) -> Result<Self, ReadError> {
        let found: Vec<Found> = paths.iter().map(|path| folders(read, path)).collect();
        let columns: Vec<(String, DataType)> = match partitions {
            Partitions::Declared(columns) => columns.clone(),
            Partitions::Found => inferred(paths, &found)?,
        };
        let mut values = Vec::with_capacity(columns.len());
        for (column, data_type) in &columns {
            let mut texts = Vec::with_capacity(found.len());
            for (path, found) in paths.iter().zip(&found) {
                // The folder that is nearest to the file.
                let value = found.iter().rfind(|(name, _)| name == column).map(|(_, value)| value.as_deref());
                texts.push(value.ok_or_else(|| no_folder(path, column))?);
            }
            let parsed = parse_cells(texts.iter().copied(), data_type, false);
            values.push(parsed.map_err(|at| ReadError::PartitionValue {
                path: paths[at].clone(),
                column: column.clone(),
                value: texts[at].unwrap_or_default().to_owned(),
                data_type: data_type.clone(),
            })?);
        }
        let fields = columns.into_iter().map(|(name, data_type)| Arc::new(Field::new(name, data_type, true))).collect();
        let places = paths.iter().cloned().zip(0..).collect();
        Ok(Self { fields, values, places })
    }

    pub(super) fn place(&self, path: &Path) -> Option<u32> {
        self.places.get(path).copied()
    }

    /// The values of a file, one each.
    pub(super) fn of_file(&self, path: &Path) -> Vec<(FieldRef, ArrayRef)> {
        let Some(place) = self.place(path) else { return Vec::new() };
        let values = self.values.iter().map(|values| values.slice(place as usize, 1));
        self.fields.iter().cloned().zip(values).collect()
    }
}

/// What the folders of a path say: of those below the folder of the pipeline, if the file lies in that.
fn folders(read: &Read, path: &Path) -> Found {
    let below = path.strip_prefix(&read.folder).unwrap_or(path);
    let folders = below.parent().into_iter().flat_map(Path::components);
    let names = folders.filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    names.filter_map(hive::read_folder).collect()
}

/// The columns of the first file, which all others must have; whole numbers if all of their values are.
fn inferred(paths: &[PathBuf], found: &[Found]) -> Result<Vec<(String, DataType)>, ReadError> {
    let (Some(first), Some(path)) = (found.first(), paths.first()) else { return Ok(Vec::new()) };
    if first.is_empty() {
        return Err(ReadError::NoPartitions { path: path.clone() });
    }
    let has = |found: &Found, name: &String| found.iter().any(|(other, _)| other == name);
    for (path, found) in paths.iter().zip(found) {
        if let Some((column, _)) = first.iter().find(|(name, _)| !has(found, name)) {
            return Err(no_folder(path, column));
        }
        if let Some((column, _)) = found.iter().find(|(name, _)| !has(first, name)) {
            return Err(no_folder(&paths[0], column));
        }
    }
    let mut columns: Vec<(String, DataType)> = Vec::new();
    for (name, _) in first {
        if columns.iter().any(|(other, _)| other == name) {
            continue;
        }
        let mut values = found.iter().filter_map(|found| found.iter().rfind(|(other, _)| other == name)?.1.as_ref());
        let is_known = values.clone().next().is_some();
        let is_number = |value: &String| value.parse::<i64>().is_ok_and(|number| number.to_string() == *value);
        columns.push((name.clone(), if is_known && values.all(is_number) { DataType::Int64 } else { DataType::Utf8 }));
    }
    Ok(columns)
}

fn no_folder(path: &Path, column: &str) -> ReadError {
    ReadError::NoPartition { path: path.to_owned(), column: column.to_owned() }
}
