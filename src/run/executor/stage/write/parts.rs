//! [`Parts`]: rows into the files of a folder, by the values of some columns.
//!
//! Which rows lie in which file depends on the rows alone. They are cut into pieces of a fixed size, and the rows of a piece are written file by
//! file. If there are more files than may be open, or more rows than may wait in them, one is closed; what comes for its folder after
//! that goes to a new part. That costs files, not memory: rows that are sorted by these columns make one for each value.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};

use super::output::Output;
use crate::batch::{Cutter, Origin, Rows};
use crate::format::{Compression, EncodeError, EncodeMode, FileEncoder, Format, hive};
use crate::plan::{Folder, Write};

/// Writes the files of one folder.
pub(super) struct Parts {
    folder: PathBuf,
    format: Format,
    compression: Compression,
    header: bool,
    extension: String,
    /// The names and the places of the columns that name folders.
    by: Vec<(String, usize)>,
    /// The places of the others, and what they are.
    kept: Vec<usize>,
    schema: SchemaRef,
    cutter: Cutter,
    /// Open files, by their folders within the folder.
    open: BTreeMap<String, Part>,
    /// The number of the next part of every folder within the folder.
    next: BTreeMap<String, u64>,
    /// Groups of rows that were written.
    turn: u64,
    bytes: u64,
    limits: Limits,
}

/// What open files may take.
pub(super) struct Limits {
    /// Bytes of rows that are sorted together.
    pub(super) sorted_bytes: NonZeroU64,
    pub(super) files: usize,
    /// Bytes of rows that wait in files.
    pub(super) held_bytes: usize,
}

impl Limits {
    pub(super) fn of(compression: Compression) -> Self {
        Self {
            sorted_bytes: NonZeroU64::new(Folder::SORTED_BYTES).expect("not zero"),
            files: usize::try_from(Folder::most_open(compression)).unwrap_or(usize::MAX),
            held_bytes: usize::try_from(Folder::HELD_BYTES).unwrap_or(usize::MAX),
        }
    }
}

struct Part {
    encoder: FileEncoder<Output>,
    /// When it was last written to.
    turn: u64,
}

/// The rows of a piece that go to one folder.
type Groups = Vec<(String, Vec<u32>)>;

impl Parts {
    /// For rows of `schema`, into a folder that is there and empty.
    pub(super) fn new(
        folder: PathBuf,
        write: &Write,
        by: &[String],
        schema: &SchemaRef,
        limits: Limits,
    ) -> Result<Self, EncodeError> {
        let place = |name: &String| {
            let unknown = || EncodeError::NoColumn {
                column: name.clone(),
                found: schema.fields().iter().map(|field| field.name().clone()).collect(),
            };
            let place = schema.index_of(name).map_err(|_| unknown())?;
            let data_type = schema.field(place).data_type();
            if is_value(data_type) { Ok((name.clone(), place)) } else { Err(no_folder(name, data_type)) }
        };
        let by = by.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let kept: Vec<usize> =
            (0..schema.fields().len()).filter(|at| by.iter().all(|(_, place)| place != at)).collect();
        if kept.is_empty() && !by.is_empty() {
            return Err(EncodeError::NothingLeft);
        }
        let mut extension = write.format.extensions().first().copied().unwrap_or_default().to_owned();
        if write.format != Format::Parquet {
            extension.push_str(write.compression.ending());
        }
        Ok(Self {
            folder,
            format: write.format,
            compression: write.compression,
            header: write.header,
            extension,
            schema: Arc::new(schema.project(&kept)?),
            by,
            kept,
            cutter: Cutter::new(NonZeroU32::MAX, limits.sorted_bytes),
            open: BTreeMap::new(),
            next: BTreeMap::new(),
            turn: 0,
            bytes: 0,
            limits,
        })
    }

    pub(super) fn write(&mut self, records: RecordBatch) -> Result<(), EncodeError> {
        let origin = Origin::unknown(records.num_rows());
        let pieces = self.cutter.push(records, origin);
        pieces.into_iter().try_for_each(|(piece, _)| self.write_piece(&piece))
    }

    /// Completes all files, which are on disk then, and tells their bytes.
    pub(super) fn finish(mut self) -> Result<u64, EncodeError> {
        if let Some((piece, _)) = self.cutter.finish() {
            self.write_piece(&piece)?;
        }
        if self.by.is_empty() && self.next.is_empty() {
            // Without rows there are columns all the same.
            self.open(String::new())?;
        }
        while let Some((folder, part)) = self.open.pop_first() {
            self.close(&folder, part)?;
        }
        Ok(self.bytes)
    }

    fn write_piece(&mut self, piece: &Rows) -> Result<(), EncodeError> {
        let records = piece.records()?;
        let groups = self.groups(&records)?;
        let rows = records.project(&self.kept)?;
        let is_one = groups.len() == 1;
        let mut touched = Vec::with_capacity(groups.len());
        for (folder, places) in groups {
            if !self.open.contains_key(&folder) {
                // What a closed file had to do is done; the others go on meanwhile.
                while self.open.len() >= self.limits.files {
                    self.close_one(|part| (part.turn, 0))?;
                }
                self.open(folder.clone())?;
            }
            self.turn += 1;
            let part = self.open.get_mut(&folder).expect("it is open");
            part.turn = self.turn;
            part.encoder.write(&if is_one {
                rows.clone()
            } else {
                take_record_batch(&rows, &UInt32Array::from(places))?
            })?;
            touched.push(folder);
        }
        for folder in touched {
            if let Some(part) = self.open.get_mut(&folder) {
                part.encoder.settle()?;
            }
        }
        while self.open.len() > 1
            && self.open.values().map(|part| part.encoder.held()).sum::<usize>() > self.limits.held_bytes
        {
            self.close_one(|part| (u64::MAX - part.encoder.held() as u64, part.turn))?;
        }
        Ok(())
    }

    /// The rows by the folders that they go to, in the order in which these appear first.
    fn groups(&self, records: &RecordBatch) -> Result<Groups, EncodeError> {
        let texts = self.by.iter().map(|(name, place)| Ok((name.as_str(), texts(records, *place)?)));
        let texts = texts.collect::<Result<Vec<_>, EncodeError>>()?;
        let mut groups = Groups::new();
        let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut key = Vec::new();
        for row in 0..u32::try_from(records.num_rows()).expect("a piece has a bound") {
            key.clear();
            for (_, values) in &texts {
                match value(values, row) {
                    None => key.push(0),
                    Some(value) => {
                        key.push(1);
                        key.extend_from_slice(&value.len().to_le_bytes());
                        key.extend_from_slice(value.as_bytes());
                    }
                }
            }
            let at = match known.get(&key) {
                Some(at) => *at,
                None => {
                    known.insert(key.clone(), groups.len());
                    groups.push((folder_of(&texts, row), Vec::new()));
                    groups.len() - 1
                }
            };
            groups[at].1.push(row);
        }
        Ok(groups)
    }

    fn open(&mut self, folder: String) -> Result<(), EncodeError> {
        let next = self.next.entry(folder.clone()).or_default();
        let path = self.folder.join(&folder).join(format!("part-{next}.{}", self.extension));
        *next += 1;
        if *next == 1 {
            fs::create_dir_all(self.folder.join(&folder)).map_err(|error| in_path(&path, &error))?;
        }
        let file = File::create_new(&path).map_err(|error| in_path(&path, &error))?;
        let encoder = FileEncoder::new(
            Output::new(file),
            self.format,
            self.header,
            self.compression,
            &self.schema,
            EncodeMode::File,
        )?;
        self.open.insert(folder, Part { encoder, turn: self.turn });
        Ok(())
    }

    /// Closes the file for which `rank` is least.
    fn close_one(&mut self, rank: impl Fn(&Part) -> (u64, u64)) -> Result<(), EncodeError> {
        let least = self.open.iter().min_by_key(|(_, part)| rank(part)).map(|(folder, _)| folder.clone());
        let Some((folder, part)) = least.and_then(|folder| self.open.remove_entry(&folder)) else { return Ok(()) };
        self.close(&folder, part)
    }

    fn close(&mut self, folder: &str, part: Part) -> Result<(), EncodeError> {
        let mut output = part.encoder.finish()?;
        output.flush()?;
        output.file.sync_all().map_err(|error| in_path(Path::new(folder), &error))?;
        self.bytes += output.bytes;
        Ok(())
    }
}

/// Says where it was that the system failed. The staged folder is nothing that anybody knows.
fn in_path(path: &Path, error: &std::io::Error) -> EncodeError {
    let known = path.components().filter_map(|part| part.as_os_str().to_str());
    let shown: Vec<&str> = known.filter(|part| part.contains('=') || part.starts_with("part-")).collect();
    EncodeError::Io(std::io::Error::new(error.kind(), format!("{}: {error}", shown.join("/"))))
}

fn is_value(data_type: &DataType) -> bool {
    let is_binary = matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
    );
    match data_type {
        DataType::Dictionary(_, value) => is_value(value),
        DataType::Duration(_) | DataType::Interval(_) => false,
        other => !other.is_nested() && !is_binary,
    }
}

fn no_folder(column: &str, data_type: &DataType) -> EncodeError {
    EncodeError::NoFolder { column: column.to_owned(), data_type: data_type.clone() }
}

/// The values of a column as text, as they are read back.
fn texts(records: &RecordBatch, place: usize) -> Result<StringArray, EncodeError> {
    Ok(cast(records.column(place), &DataType::Utf8)?.as_string::<i32>().clone())
}

fn value(values: &StringArray, row: u32) -> Option<&str> {
    values.is_valid(row as usize).then(|| values.value(row as usize))
}

fn folder_of(texts: &[(&str, StringArray)], row: u32) -> String {
    let mut path = String::new();
    for (name, values) in texts {
        if !path.is_empty() {
            path.push('/');
        }
        hive::write_folder(name, value(values, row), &mut path);
    }
    path
}
