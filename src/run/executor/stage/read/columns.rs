//! [`columns`]: the columns that a source would give, by a look at its files.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::Source;
use crate::batch::{Columns, FileTable};
use crate::format::SAMPLE_ROWS;
use crate::plan::{Cut, Read};

/// The columns of what a source with this cut would read now, all of them, as a run infers them from the same rows. `None` if nobody can tell:
/// a file is a pipe, or cannot be read, which a run says when its turn comes.
pub fn columns(read: &Read, cut: Cut) -> Option<SchemaRef> {
    // A decoder that panics does so in the run, too, which says so.
    catch_unwind(AssertUnwindSafe(|| look(read, cut))).ok()?
}

/// Why nothing can be told of a source, though it reads files that could be looked at; `None` if something can, or of pipes.
pub fn unseen(read: &Read, cut: Cut) -> Option<String> {
    if read.stdin || read.has_store() {
        return None;
    }
    let mut source = match Source::open(read, cut, true, &FileTable::default()) {
        Ok(source) => source,
        Err(error) => return Some(error.to_string()),
    };
    source.known_size()?;
    // A decoder that panics does so in the run, too, which says so.
    catch_unwind(AssertUnwindSafe(|| source.look())).ok()?.err().map(|error| error.to_string())
}

fn look(read: &Read, cut: Cut) -> Option<SchemaRef> {
    // A sample ends with the batch in which it is full, and nobody looks at the rows behind it.
    let rows = cut.rows.min(NonZeroU32::new(u32::try_from(SAMPLE_ROWS).ok()?)?);
    let all = Read { used: None, ..read.clone() };
    // Only a run asks stores: a file that somebody has sent may be looked at.
    if all.stdin || all.has_store() {
        return None;
    }
    let mut source = Source::open(&all, Cut { rows, ..cut }, true, &FileTable::default()).ok()?;
    source.known_size()?;
    let columns = source.look().ok()??;
    Columns::from_first().conform(RecordBatch::new_empty(columns)).ok().map(|empty| empty.schema())
}
