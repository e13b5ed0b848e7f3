//! [`Origin`]: which source row every row of a batch comes from.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Index into the run's table of source files. Each source registers the files that it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u32);

/// A source row: its file, and its 1-based number in that file, or the range of numbers that it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: FileId,
    pub first: u64,
    pub last: u64,
}

/// Where the rows of a batch come from, run-length encoded, in the order of the rows. Slicing and concatenating batches
/// slices and concatenates their origins. Unknown origins (generated rows) are pieces too, so that lengths always agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    rows: usize,
    source: Source<List>,
}

/// Where the rows of a part come from. `L` are the numbers of rows that do not follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source<L> {
    Unknown,
    /// Row `i` of the part is source row `first + i`.
    Consecutive {
        file: FileId,
        first: u64,
    },
    /// Row `i` of the part is source row `rows[i]`.
    Listed {
        file: FileId,
        rows: L,
    },
    /// Every row of the part comes from somewhere in `first..=last`.
    Within {
        file: FileId,
        first: u64,
        last: u64,
    },
}

impl<L> Source<L> {
    pub fn file(&self) -> Option<FileId> {
        match self {
            Self::Unknown => None,
            Self::Consecutive { file, .. } | Self::Listed { file, .. } | Self::Within { file, .. } => Some(*file),
        }
    }

    /// The same with another file, if there is one, and with its list in another form.
    ///
    /// # Errors
    /// Those of `to_file`.
    pub fn map<M, E>(
        self,
        to_file: impl FnOnce(FileId) -> Result<FileId, E>,
        to_list: impl FnOnce(L) -> M,
    ) -> Result<Source<M>, E> {
        Ok(match self {
            Self::Unknown => Source::Unknown,
            Self::Consecutive { file, first } => Source::Consecutive { file: to_file(file)?, first },
            Self::Listed { file, rows } => Source::Listed { file: to_file(file)?, rows: to_list(rows) },
            Self::Within { file, first, last } => Source::Within { file: to_file(file)?, first, last },
        })
    }
}

/// Numbers of rows, which slices share.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    rows: Arc<[u64]>,
    offset: usize,
}

impl Origin {
    /// The parts in order, with their numbers of rows, for whoever writes them down.
    pub fn parts(&self) -> impl Iterator<Item = (usize, Source<&[u64]>)> {
        self.pieces.iter().map(|piece| {
            let source = match &piece.source {
                Source::Unknown => Source::Unknown,
                Source::Consecutive { file, first } => Source::Consecutive { file: *file, first: *first },
                Source::Listed { file, rows } => {
                    Source::Listed { file: *file, rows: &rows.rows[rows.offset..rows.offset + piece.rows] }
                }
                Source::Within { file, first, last } => Source::Within { file: *file, first: *first, last: *last },
            };
            (piece.rows, source)
        })
    }

    /// Appends a part of `rows` rows. A list has as many.
    pub fn push(&mut self, rows: usize, source: Source<Vec<u64>>) {
        let list = |rows: Vec<u64>| List { rows: rows.into(), offset: 0 };
        let Ok(source) = source.map(Ok::<_, std::convert::Infallible>, list);
        self.extend(Self::single(rows, source));
    }

    /// The files, in the order in which they appear first.
    pub fn files(&self) -> Vec<FileId> {
        let mut files = Vec::new();
        for file in self.pieces.iter().filter_map(|piece| piece.source.file()) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }

    /// Rows that come from no file.
    pub fn unknown(rows: usize) -> Self {
        Self::single(rows, Source::Unknown)
    }

    /// `rows` consecutive source rows, the first of which has the 1-based number `first`.
    pub fn consecutive(file: FileId, first: u64, rows: usize) -> Self {
        Self::single(rows, Source::Consecutive { file, first })
    }

    fn single(rows: usize, source: Source<List>) -> Self {
        let pieces = if rows == 0 { Vec::new() } else { vec![Piece { rows, source }] };
        Self { pieces }
    }

    /// Number of rows described.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.rows).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The origin of the rows in `range`.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut pieces = Vec::new();
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + piece.rows;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                pieces.push(piece.slice(from - start, to - from));
            }
            start = end;
        }
        Self { pieces }
    }

    /// Appends the origin of rows that follow.
    pub fn extend(&mut self, other: Self) {
        for piece in other.pieces {
            match self.pieces.last_mut() {
                Some(last) if last.continues_with(&piece) => last.rows += piece.rows,
                _ => self.pieces.push(piece),
            }
        }
    }

    /// The origin of the rows at `indices`, in that order. A filter or a one-to-many function gives these.
    pub fn take(&self, indices: impl IntoIterator<Item = usize>) -> Self {
        let mut ends = Vec::with_capacity(self.pieces.len());
        let mut end = 0;
        for piece in &self.pieces {
            end += piece.rows;
            ends.push(end);
        }
        let mut taken = Builder::default();
        for index in indices {
            let at = ends.partition_point(|&end| end <= index);
            let Some(piece) = self.pieces.get(at) else {
                taken.push(None);
                continue;
            };
            taken.push(piece.place(index - (ends[at] - piece.rows)));
        }
        taken.finish()
    }

    /// The origin of `rows` rows that were made from this batch as a whole, so that each may come from any of its rows.
    pub fn blur(&self, rows: usize) -> Self {
        let mut places = self.pieces.iter().map(Piece::range);
        let Some(Some(mut whole)) = places.next() else { return Self::unknown(rows) };
        for place in places {
            match place {
                Some(place) if place.file == whole.file => {
                    whole.first = whole.first.min(place.first);
                    whole.last = whole.last.max(place.last);
                }
                // Rows of several files have no single range.
                _ => return Self::unknown(rows),
            }
        }
        Self::single(rows, Source::Within { file: whole.file, first: whole.first, last: whole.last })
    }

    /// The source row (or range of source rows) of one row, if it comes from a file.
    pub fn place(&self, row: usize) -> Option<Place> {
        let mut start = 0;
        for piece in &self.pieces {
            if row < start + piece.rows {
                return piece.place(row - start);
            }
            start += piece.rows;
        }
        None
    }

    /// Bytes that this origin keeps in memory beyond its pieces.
    pub fn bytes(&self) -> usize {
        self.pieces
            .iter()
            .map(|piece| if matches!(piece.source, Source::Listed { .. }) { piece.rows * 8 } else { 0 })
            .sum()
    }
}

impl Piece {
    fn slice(&self, from: usize, rows: usize) -> Self {
        let source = match &self.source {
            Source::Consecutive { file, first } => Source::Consecutive { file: *file, first: first + from as u64 },
            Source::Listed { file, rows: List { rows, offset } } => {
                Source::Listed { file: *file, rows: List { rows: Arc::clone(rows), offset: offset + from } }
            }
            other => other.clone(),
        };
        Self { rows, source }
    }

    fn continues_with(&self, next: &Self) -> bool {
        match (&self.source, &next.source) {
            (Source::Unknown, Source::Unknown) => true,
            (Source::Consecutive { file, first }, Source::Consecutive { file: other, first: following }) => {
                file == other && first + self.rows as u64 == *following
            }
            (a @ Source::Within { .. }, b @ Source::Within { .. }) => a == b,
            _ => false,
        }
    }

    fn place(&self, row: usize) -> Option<Place> {
        match &self.source {
            Source::Unknown => None,
            Source::Consecutive { file, first } => Some(exact(*file, first + row as u64)),
            Source::Listed { file, rows } => Some(exact(*file, rows.rows[rows.offset + row])),
            Source::Within { file, first, last } => Some(Place { file: *file, first: *first, last: *last }),
        }
    }

    fn range(&self) -> Option<Place> {
        match &self.source {
            Source::Unknown => None,
            Source::Consecutive { file, first } => {
                Some(Place { file: *file, first: *first, last: first + self.rows as u64 - 1 })
            }
            Source::Listed { file, rows: List { rows, offset } } => {
                let rows = &rows[*offset..offset + self.rows];
                let (first, last) = (rows.iter().min()?, rows.iter().max()?);
                Some(Place { file: *file, first: *first, last: *last })
            }
            Source::Within { file, first, last } => Some(Place { file: *file, first: *first, last: *last }),
        }
    }
}

fn exact(file: FileId, row: u64) -> Place {
    Place { file, first: row, last: row }
}

/// Collects places one by one into as few pieces as possible.
#[derive(Default)]
struct Builder {
    origin: Origin,
    listed: Option<(FileId, Vec<u64>)>,
}

impl Builder {
    fn push(&mut self, place: Option<Place>) {
        match place {
            Some(place) if place.first == place.last => match &mut self.listed {
                Some((file, rows)) if *file == place.file => rows.push(place.first),
                _ => {
                    self.flush();
                    self.listed = Some((place.file, vec![place.first]));
                }
            },
            Some(Place { file, first, last }) => {
                self.flush();
                self.origin.extend(Origin::single(1, Source::Within { file, first, last }));
            }
            None => {
                self.flush();
                self.origin.extend(Origin::unknown(1));
            }
        }
    }

    fn flush(&mut self) {
        let Some((file, rows)) = self.listed.take() else { return };
        let consecutive = rows.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let piece = if consecutive {
            Origin::consecutive(file, rows[0], rows.len())
        } else {
            Origin::single(rows.len(), Source::Listed { file, rows: List { rows: rows.into(), offset: 0 } })
        };
        self.origin.extend(piece);
    }

    fn finish(mut self) -> Origin {
        self.flush();
        self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId(3);

    fn rows(origin: &Origin) -> Vec<Option<(u64, u64)>> {
        (0..origin.len()).map(|row| origin.place(row).map(|place| (place.first, place.last))).collect()
    }

    #[test]
    fn a_slice_of_consecutive_rows_keeps_their_numbers() {
        let origin = Origin::consecutive(FILE, 10, 5).slice(1..3);
        assert_eq!(rows(&origin), [Some((11, 11)), Some((12, 12))]);
    }

    #[test]
    fn neighbours_join_into_one_piece() {
        let mut origin = Origin::consecutive(FILE, 1, 2);
        origin.extend(Origin::consecutive(FILE, 3, 2));
        assert_eq!(origin, Origin::consecutive(FILE, 1, 4));
    }

    #[test]
    fn take_follows_a_filter_and_a_repeat() {
        let mut origin = Origin::consecutive(FILE, 1, 3);
        origin.extend(Origin::unknown(1));
        let taken = origin.take([0, 2, 2, 3]);
        assert_eq!(rows(&taken), [Some((1, 1)), Some((3, 3)), Some((3, 3)), None]);
        assert_eq!(rows(&taken.slice(1..3)), [Some((3, 3)), Some((3, 3))]);
    }

    #[test]
    fn parts_make_the_same_origin() {
        let mut origin = Origin::consecutive(FILE, 5, 9).take([0, 2, 7, 8]);
        origin.extend(Origin::consecutive(FileId(1), 3, 4).slice(1..3));
        origin.extend(Origin::unknown(2));
        origin.extend(Origin::consecutive(FILE, 1, 2).blur(3));
        let origin = origin.slice(1..10);
        let mut made = Origin::default();
        for (rows, source) in origin.parts() {
            let Ok(source) = source.map(Ok::<_, std::convert::Infallible>, <[u64]>::to_vec);
            made.push(rows, source);
        }
        assert_eq!(rows(&made), rows(&origin));
        assert_eq!(origin.files(), [FILE, FileId(1)]);
    }

    #[test]
    fn blur_names_the_range_of_one_file_and_nothing_for_two() {
        let mut origin = Origin::consecutive(FILE, 5, 3).take([0, 2]);
        assert_eq!(rows(&origin.blur(1)), [Some((5, 7))]);
        origin.extend(Origin::consecutive(FileId(4), 1, 1));
        assert_eq!(rows(&origin.blur(1)), [None]);
    }
}
