//! [`Supply`]: how much may come out of a stage, guessed from the files behind it.
//!
//! A guess decides what may wait or be kept in memory (the defaults of queues, the limits of queries), never what comes out. So it
//! may be wrong: then a producer waits, a query spills, or the error names `memory:`. Where a stage does not work on files alone
//! there is no guess, and the defaults are those for data of any size.

use super::queue::{Capacity, Cut};
use super::stage::{CommandMode, Read, Sql, Stage, StageKind};
use crate::format::Format;
use crate::sql::Growth;

/// What the files of a source hold, as far as can be told without reading them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSizes {
    pub files: u64,
    /// Bytes, decompressed.
    pub bytes: u64,
    /// Bytes of a row, on average, where they are known.
    pub row: Option<u64>,
    /// Bytes of pages that are open at once: one of every column of a row group.
    pub pages: u64,
}

/// Bytes of a row as text if nobody has looked: few, so that there may be many rows.
const ROW: u64 = 8;
/// Bytes that columns add to a row which are not in the files: of where it comes from, and of the folders of its file.
const ORIGIN: u64 = 64;
const PARTITIONS: u64 = 24;
/// Rows are not all alike: some batches are larger than others.
const UNEVEN: u64 = 2;
/// A function or a command makes more of what it gets: of all of it, and of single batches.
const MADE_BYTES: u64 = 2;
const MADE_BATCH: u64 = 8;
/// Whoever asks for batches of so few rows expects much of each: a file that it names, say.
const FEW_ROWS: u32 = 1024;
/// Rows of a join, for each row of its inputs.
const JOINED: u64 = 2;

/// The most memory of a query over whole streams before it spills, bytes.
const MOST_QUERY_MEMORY: u64 = 256 << 20;
/// The least, and for each operator that keeps rows. Behind a function there is more, as it may make anything out of little.
const LEAST_QUERY_MEMORY: u64 = 4 << 20;
const LEAST_OPERATOR_MEMORY: u64 = 2 << 20;
const LEAST_QUERY_MEMORY_OF_MADE: u64 = 16 << 20;
/// How often a query keeps its inputs at least: sorted copies, tables of a join, groups.
const KEPT: u64 = 3;

/// What may come out of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    pub batches: u64,
    pub rows: u64,
    /// Bytes of all batches together.
    pub bytes: u64,
    /// Bytes of the largest batch.
    pub largest: u64,
    /// Bytes of a row, on average, where they are known.
    pub row: Option<u64>,
    /// Whether a function or a command is behind it.
    pub made: bool,
    /// Of a source: bytes of its files that are open at once, beside its batches.
    pub pages: u64,
}

impl Supply {
    /// Of a stage whose inputs are known. `None` if there is nothing to guess by.
    pub fn of(kind: &StageKind, cut: Cut, inputs: &[Option<Self>], files: Option<FileSizes>) -> Option<Self> {
        match kind {
            StageKind::Read(read) => Some(Self::of_files(read, cut, files?)),
            StageKind::Command(command) if command.mode == CommandMode::Once => None,
            _ if inputs.is_empty() => None,
            StageKind::Sql(sql) => Self::sum(inputs)?.queried(sql),
            StageKind::Python(_) | StageKind::Command(_) if cut.rows.get() < FEW_ROWS => None,
            StageKind::Python(_) | StageKind::Command(_) => Some(Self::sum(inputs)?.worked_on()),
            StageKind::Write(_) | StageKind::Expect(_) => Self::sum(inputs),
        }
    }

    fn of_files(read: &Read, cut: Cut, sizes: FileSizes) -> Self {
        // What a byte of the file takes in memory: short numbers and empty fields take more than as text, keys of objects nothing.
        let in_memory = match read.format {
            Format::Csv | Format::Tsv | Format::Parquet => 2,
            Format::Jsonl | Format::Json | Format::Lines | Format::Arrow | Format::Binary | Format::Bytes => 1,
        };
        let FileSizes { bytes, pages, .. } = sizes;
        let rows = bytes / sizes.row.unwrap_or(ROW).max(1) + 1;
        let added = if read.origin { ORIGIN } else { 0 } + if read.partitions.is_some() { PARTITIONS } else { 0 };
        let row = sizes.row.map(|row| row.saturating_mul(in_memory).saturating_add(added));
        let bytes = bytes.saturating_mul(in_memory).saturating_add(rows.saturating_mul(added));
        let cut = Self { batches: 1, rows, bytes, largest: bytes, row, made: false, pages }.cut(cut);
        // A file's last batch may be smaller than the cut.
        Self { batches: cut.batches.saturating_add(sizes.files), ..cut }
    }

    fn sum(inputs: &[Option<Self>]) -> Option<Self> {
        let none = Self { batches: 0, rows: 0, bytes: 0, largest: 0, row: Some(0), made: false, pages: 0 };
        inputs.iter().try_fold(none, |sum, input| {
            let input = (*input)?;
            Some(Self {
                batches: sum.batches.saturating_add(input.batches),
                rows: sum.rows.saturating_add(input.rows),
                bytes: sum.bytes.saturating_add(input.bytes),
                largest: sum.largest.max(input.largest),
                row: sum.row.zip(input.row).map(|(one, other)| one.max(other)),
                made: sum.made || input.made,
                pages: 0,
            })
        })
    }

    fn worked_on(self) -> Self {
        let most = Cut::default().bytes.get().max(self.largest);
        Self {
            rows: self.rows.saturating_mul(MADE_BYTES),
            bytes: self.bytes.saturating_mul(MADE_BYTES),
            largest: self.largest.saturating_mul(MADE_BATCH).min(most),
            row: None,
            made: true,
            ..self
        }
    }

    fn queried(self, sql: &Sql) -> Option<Self> {
        let factor = match sql.query.growth() {
            Growth::None => 1,
            Growth::Joined => JOINED,
            Growth::Unbounded => return None,
        };
        let row = self.row.map(|row| row.saturating_mul(factor));
        let all = Self { bytes: self.bytes.saturating_mul(factor), row, ..self };
        Some(if sql.row_wise {
            all
        } else {
            Self { rows: self.rows.saturating_mul(factor), ..all }.cut(Cut::default())
        })
    }

    /// The same rows in batches of `cut`.
    fn cut(self, cut: Cut) -> Self {
        let batches = self.rows / u64::from(cut.rows.get()) + self.bytes / cut.bytes + 1;
        let rows = self.row.map(|row| row.saturating_mul(UNEVEN).saturating_mul(u64::from(cut.rows.get())));
        let largest = self.bytes.min(cut.bytes.get()).min(rows.unwrap_or(u64::MAX));
        Self { batches: batches.min(self.rows.max(1)), largest, ..self }
    }

    /// As it comes over an edge.
    pub fn over_edge(self, cut: Option<Cut>) -> Self {
        cut.map_or(self, |cut| self.cut(cut))
    }

    /// Bytes that a stage might want to have waiting: as many batches as a queue holds, or all.
    fn wanted(self, batches: u64) -> u64 {
        let all = if self.made { self.bytes.max(self.batches.saturating_mul(self.largest)) } else { self.bytes };
        all.min(batches.saturating_mul(self.largest))
    }

    /// Whether all that comes fits into so many bytes.
    pub fn fits(self, bytes: u64) -> bool {
        self.bytes.max(self.batches.saturating_mul(self.largest)) <= bytes
    }
}

/// The memory of a query over whole streams, unless its stage says otherwise.
pub fn query_memory(sql: &Sql, inputs: &[Option<Supply>]) -> u64 {
    if sql.query.growth() == Growth::Unbounded {
        return MOST_QUERY_MEMORY;
    }
    let Some(supply) = Supply::sum(inputs) else { return MOST_QUERY_MEMORY };
    let least = if supply.made { LEAST_QUERY_MEMORY_OF_MADE } else { LEAST_QUERY_MEMORY };
    let operators = sql.query.blocking_operators();
    let least = least.max(operators.saturating_mul(LEAST_OPERATOR_MEMORY)).min(MOST_QUERY_MEMORY);
    supply.bytes.saturating_mul(KEPT.max(operators)).clamp(least, MOST_QUERY_MEMORY)
}

/// The bytes that may wait in front of a stage, unless it says otherwise. `at_once` is how many batches of the edge are made or worked
/// on at once.
pub fn queue_bytes(supply: Option<Supply>, cut: Option<Cut>, at_once: u32) -> u64 {
    let at_once = u64::from(at_once);
    let largest = cut.map_or(0, |cut| cut.bytes.get()).max(Cut::default().bytes.get());
    let most = largest.saturating_mul(at_once + 2).min(Capacity::MOST_BYTES.get());
    let batches = u64::from(Capacity::DEFAULT_BATCHES.get()) + at_once;
    supply.map_or(most, |supply| supply.wanted(batches).clamp(Capacity::LEAST_BYTES, most))
}

/// How many batches a stage works on at once.
pub fn at_once(stage: &Stage, workers: u32) -> u32 {
    let parallel = match &stage.kind {
        StageKind::Read(_) | StageKind::Write(_) => false,
        StageKind::Sql(sql) => sql.row_wise,
        StageKind::Expect(_) => true,
        // Without keys, a state sees one batch after the other.
        StageKind::Python(python) => !python.is_source && (stage.has_keys() || !stage.has_state()),
        StageKind::Command(command) => command.mode != CommandMode::Once,
    };
    if parallel { workers.min(stage.workers.max.get()) } else { 1 }
}
