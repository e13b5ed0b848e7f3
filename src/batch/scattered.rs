//! [`Scattered`]: a batch each of whose buffers lies in a segment of its own, or beside its description in a frame.
//!
//! A column that a function passes on, or an array that it made in shared memory, is referred to where it lies. The layout of the
//! description is in `docs/protocol.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use super::ipc;
use super::pool::Lease;
use super::segment::SegmentId;

/// Most rows of an array: nothing that is added or multiplied overflows.
const MOST: u64 = 1 << 40;

/// What a buffer lies in, as the sender of a frame says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A segment that the sender has announced.
    Sender(u32),
    /// A segment that the receiver has announced, and of which the sender has a lease.
    Receiver(SegmentId),
}

#[derive(Debug)]
pub struct Scattered {
    nodes: Vec<Node>,
    places: Vec<Place>,
    leases: Vec<Arc<Lease>>,
    /// Small buffers.
    inline: Buffer,
}

/// One array: rows, and how many of them are null.
#[derive(Clone, Copy, Debug)]
struct Node {
    rows: u64,
    nulls: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index in `leases`; `None` if the buffer is in `inline`.
    lease: Option<usize>,
    offset: u64,
    length: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ScatteredError {
    #[error("the description of a batch is cut off")]
    CutOff,
    #[error("a buffer lies outside of what it should lie in")]
    Outside,
}

impl Scattered {
    /// Reads the description at the start of `bytes`, behind which the inline buffers are. `lease` gives leases of what they refer
    /// to.
    ///
    /// # Errors
    /// If the bytes are no description, a buffer lies outside of its segment, or `lease` fails.
    pub fn read<E: From<ScatteredError>>(
        bytes: &[u8],
        mut lease: impl FnMut(Holder) -> Result<Arc<Lease>, E>,
    ) -> Result<Self, E> {
        let mut words = Words(bytes);
        let (nodes, places) = (words.u32()?, words.u32()?);
        let nodes = (0..nodes).map(|_| Ok(Node { rows: words.u64()?, nulls: words.u64()? }));
        let nodes = nodes.collect::<Result<_, ScatteredError>>()?;
        let mut described = Vec::new();
        for _ in 0..places {
            described.push((words.u64()?, words.u64()?, words.u32()?, words.u32()?));
        }
        let inline = Buffer::from(words.0);
        let (mut leases, mut known) = (Vec::new(), BTreeMap::new());
        let mut places = Vec::with_capacity(described.len());
        for (offset, length, segment, holder) in described {
            let holder = match holder {
                0 => None,
                1 => Some(Holder::Sender(segment)),
                2 => Some(Holder::Receiver(SegmentId(segment))),
                _ => return Err(ScatteredError::Outside.into()),
            };
            let lease = match holder {
                None => None,
                Some(holder) => Some(match known.get(&holder) {
                    Some(&index) => index,
                    None => {
                        leases.push(lease(holder)?);
                        *known.entry(holder).or_insert(leases.len() - 1)
                    }
                }),
            };
            let size = lease.map_or(inline.len(), |index: usize| leases[index].segment().len()) as u64;
            if offset.checked_add(length).is_none_or(|end| end > size) {
                return Err(ScatteredError::Outside.into());
            }
            places.push(Place { lease, offset, length });
        }
        Ok(Self { nodes, places, leases, inline })
    }

    /// What the batch lies in.
    pub fn leases(&self) -> &[Arc<Lease>] {
        &self.leases
    }

    /// The description, for a process that knows the segments by their ids, and the inline buffers.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.nodes.len() * 16 + self.places.len() * 24 + self.inline.len());
        bytes.extend_from_slice(&length(self.nodes.len()));
        bytes.extend_from_slice(&length(self.places.len()));
        for node in &self.nodes {
            bytes.extend_from_slice(&node.rows.to_le_bytes());
            bytes.extend_from_slice(&node.nulls.to_le_bytes());
        }
        for place in &self.places {
            bytes.extend_from_slice(&place.offset.to_le_bytes());
            bytes.extend_from_slice(&place.length.to_le_bytes());
            let segment = place.lease.map_or(0, |lease| self.leases[lease].segment().id().0);
            bytes.extend_from_slice(&segment.to_le_bytes());
            bytes.extend_from_slice(&u32::from(place.lease.is_some()).to_le_bytes());
        }
        bytes.extend_from_slice(&self.inline);
        bytes
    }

    /// The rows; their columns are views of what the buffers lie in. Everything is checked, as it comes from another process.
    ///
    /// # Errors
    /// If the buffers do not make columns of the schema.
    pub fn decode(&self, schema: SchemaRef, rows: usize) -> Result<RecordBatch, ArrowError> {
        let mut decoder = Decoder { scattered: self, node: 0, place: 0 };
        let columns = schema.fields().iter().map(|field| Ok(make_array(decoder.array(field.data_type())?)));
        let columns = columns.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
        RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
    }

    fn buffer(&self, place: Place) -> Buffer {
        match place.lease {
            Some(lease) => ipc::leased_buffer(&self.leases[lease], place.offset, place.length),
            None => Some(self.inline.slice_with_length(place.offset as usize, place.length as usize)),
        }
        .expect("checked when it was read")
    }
}

/// Puts columns together, in the order in which they were taken apart.
struct Decoder<'a> {
    scattered: &'a Scattered,
    node: usize,
    place: usize,
}

impl Decoder<'_> {
    fn array(&mut self, data_type: &DataType) -> Result<ArrayData, ArrowError> {
        let node = *self.scattered.nodes.get(self.node).ok_or_else(|| invalid("a column is missing"))?;
        self.node += 1;
        if node.rows > MOST || node.nulls > node.rows {
            return Err(invalid("a column has more rows than there can be"));
        }
        let mut array = ArrayData::builder(data_type.clone()).len(node.rows as usize).align_buffers(true);
        if *data_type != DataType::Null {
            let validity = self.buffer()?;
            if node.nulls > 0 {
                // Arrow takes this for granted.
                if (validity.len() as u64) < node.rows.div_ceil(8) {
                    return Err(invalid("a column has fewer marks of null than rows"));
                }
                array = array.null_count(node.nulls as usize).null_bit_buffer(Some(validity));
            }
            for width in widths_of(data_type)? {
                let buffer = self.buffer()?;
                if !buffer.len().is_multiple_of(width) {
                    return Err(invalid("a column ends within a value"));
                }
                array = array.add_buffer(buffer);
            }
        }
        for child in children_of(data_type) {
            array = array.add_child_data(self.array(child)?);
        }
        array.build()
    }

    fn buffer(&mut self) -> Result<Buffer, ArrowError> {
        let place = *self.scattered.places.get(self.place).ok_or_else(|| invalid("a buffer is missing"))?;
        self.place += 1;
        Ok(self.scattered.buffer(place))
    }
}

/// Of each buffer beside the validity, the bytes of a value.
fn widths_of(data_type: &DataType) -> Result<Vec<usize>, ArrowError> {
    Ok(match data_type {
        DataType::Struct(_) | DataType::FixedSizeList(..) => vec![],
        DataType::Boolean | DataType::FixedSizeBinary(_) => vec![1],
        DataType::List(_) => vec![4],
        DataType::LargeList(_) => vec![8],
        DataType::Utf8 | DataType::Binary => vec![4, 1],
        DataType::LargeUtf8 | DataType::LargeBinary => vec![8, 1],
        other => match other.primitive_width() {
            Some(width) => vec![width],
            None => return Err(invalid(&format!("a column of type {other} cannot be scattered"))),
        },
    })
}

fn children_of(data_type: &DataType) -> Vec<&DataType> {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            vec![field.data_type()]
        }
        _ => Vec::new(),
    }
}

/// Reads little-endian numbers off the front.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn u32(&mut self) -> Result<u32, ScatteredError> {
        self.next().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ScatteredError> {
        self.next().map(u64::from_le_bytes)
    }

    fn next<const N: usize>(&mut self) -> Result<[u8; N], ScatteredError> {
        let (word, rest) = self.0.split_first_chunk().ok_or(ScatteredError::CutOff)?;
        self.0 = rest;
        Ok(*word)
    }
}

fn length(count: usize) -> [u8; 4] {
    u32::try_from(count).expect("as many as were read").to_le_bytes()
}

fn invalid(problem: &str) -> ArrowError {
    ArrowError::IpcError(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, FixedSizeListArray, Float64Array, Int64Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::{Field, Float64Type, Int64Type, Schema};
    use proptest::prelude::*;

    use super::super::SegmentPool;
    use super::*;

    /// Columns of all kinds.
    fn table(rows: usize) -> RecordBatch {
        let valid = |row: usize| !row.is_multiple_of(5);
        let numbers = Int64Array::from_iter((0..rows).map(|row| valid(row).then_some(row as i64)));
        let text = StringArray::from_iter((0..rows).map(|row| valid(row).then(|| "x".repeat(row % 7))));
        let lists = (0..rows).map(|row| valid(row).then(|| vec![Some(row as i64); row % 4]));
        let vectors = Float64Array::from_iter_values((0..rows * 2).map(|value| value as f64));
        let item = Arc::new(Field::new("item", DataType::Float64, true));
        let fields = vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)];
        let structs = StructArray::new(fields.into(), vec![Arc::new(numbers.clone()), Arc::new(text.clone())], None);
        let columns: [(&str, ArrayRef); 6] = [
            ("numbers", Arc::new(numbers)),
            ("text", Arc::new(text)),
            ("flags", Arc::new(arrow::array::BooleanArray::from_iter((0..rows).map(|row| Some(row % 3 == 0))))),
            ("lists", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
            ("vectors", Arc::new(FixedSizeListArray::new(item, 2, Arc::new(vectors), None))),
            ("structs", Arc::new(structs)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
            .expect("one length")
    }

    /// Takes an array without offset apart, as a worker does.
    fn take(array: &ArrayData, nodes: &mut Vec<Node>, buffers: &mut Vec<Buffer>) {
        nodes.push(Node { rows: array.len() as u64, nulls: array.null_count() as u64 });
        buffers.push(array.nulls().map_or_else(|| Buffer::from(&[]), |nulls| nulls.buffer().clone()));
        buffers.extend(array.buffers().iter().cloned());
        array.child_data().iter().for_each(|child| take(child, nodes, buffers));
    }

    /// A description of `table` whose buffers lie in `lease`, and the lease.
    fn described(table: &RecordBatch) -> (Vec<u8>, Arc<Lease>) {
        let (mut nodes, mut buffers) = (Vec::new(), Vec::new());
        table.columns().iter().for_each(|column| take(&column.to_data(), &mut nodes, &mut buffers));
        let padding = [0; 64];
        let padded = buffers
            .iter()
            .flat_map(|buffer| [buffer.as_slice(), &padding[..buffer.len().next_multiple_of(64) - buffer.len()]]);
        let lease = SegmentPool::default().write(padded).expect("memory");
        let (mut offset, mut places) = (0, Vec::new());
        for buffer in &buffers {
            places.push(Place { lease: Some(0), offset, length: buffer.len() as u64 });
            offset += buffer.len().next_multiple_of(64) as u64;
        }
        let leases = vec![Arc::clone(&lease)];
        (Scattered { nodes, places, leases, inline: Buffer::from(&[]) }.to_vec(), lease)
    }

    fn read(bytes: &[u8], lease: &Arc<Lease>) -> Result<Scattered, ScatteredError> {
        Scattered::read(bytes, |_| Ok::<_, ScatteredError>(Arc::clone(lease)))
    }

    #[test]
    fn columns_are_read_where_they_lie() {
        let table = table(100);
        let (bytes, lease) = described(&table);
        let scattered = read(&bytes, &lease).expect("a description");
        assert_eq!(scattered.leases().len(), 1);
        let decoded = scattered.decode(table.schema(), 100).expect("what was taken apart");
        assert_eq!(decoded, table);
        let start = lease.segment().address(0, 1).expect("in range").as_ptr() as usize;
        let vectors = decoded.column(4).as_fixed_size_list().values().as_primitive::<Float64Type>();
        assert!((start..start + lease.segment().len()).contains(&(vectors.values().as_ptr() as usize)));
        assert_eq!(scattered.to_vec(), bytes);
    }

    #[test]
    fn small_buffers_travel_beside_the_description() {
        let values: Vec<u8> = [7_i64, 8, 9].iter().flat_map(|value| value.to_le_bytes()).collect();
        let place = |length| Place { lease: None, offset: 0, length };
        let nodes = vec![Node { rows: 3, nulls: 0 }];
        let bytes =
            Scattered { nodes, places: vec![place(0), place(24)], leases: Vec::new(), inline: values.into() }.to_vec();
        let no_lease = |_| Err(ScatteredError::Outside);
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let decoded =
            Scattered::read(&bytes, no_lease).expect("a description").decode(schema, 3).expect("three numbers");
        assert_eq!(decoded.column(0).as_primitive::<Int64Type>().values(), &[7, 8, 9]);
        assert!(matches!(Scattered::read(&bytes[..bytes.len() - 1], no_lease), Err(ScatteredError::Outside)));
    }

    #[test]
    fn a_column_that_is_missing_or_of_another_length_is_an_error() {
        let table = table(10);
        let (bytes, lease) = described(&table);
        let scattered = read(&bytes, &lease).expect("a description");
        assert!(scattered.decode(table.schema(), 11).is_err());
        let more = Schema::new([table.schema().fields().to_vec(), table.schema().fields().to_vec()].concat());
        assert!(scattered.decode(Arc::new(more), 10).is_err());
        let views = Schema::new(vec![Field::new("v", DataType::Utf8View, true)]);
        assert!(scattered.decode(Arc::new(views), 10).is_err());
    }

    proptest! {
        /// A worker can send anything: whatever it is, reading it ends with a batch or an error.
        #[test]
        fn hostile_descriptions_are_errors(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let table = table(50);
            let (mut bytes, lease) = described(&table);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(scattered) = read(&bytes, &lease)
                && let Ok(batch) = scattered.decode(table.schema(), 50)
            {
                let shown = format!("{batch:?}");
                prop_assert!(!shown.is_empty());
            }
        }

        #[test]
        fn garbage_is_no_description(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (_, lease) = described(&table(1));
            if let Ok(scattered) = read(&bytes, &lease) {
                let _ = scattered.decode(table(1).schema(), 1);
            }
        }
    }
}
