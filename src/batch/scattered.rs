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
                array = array.null_count(node.nulls as usize).null_bit_buffer(Some(validity));
            }
            for _ in 0..buffers_of(data_type)? {
                array = array.add_buffer(self.buffer()?);
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

/// Number of buffers beside the validity.
fn buffers_of(data_type: &DataType) -> Result<usize, ArrowError> {
    match data_type {
        DataType::Struct(_) | DataType::FixedSizeList(..) => Ok(0),
        DataType::Boolean | DataType::FixedSizeBinary(_) | DataType::List(_) | DataType::LargeList(_) => Ok(1),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => Ok(2),
        primitive if primitive.is_primitive() => Ok(1),
        other => Err(invalid(&format!("a column of type {other} cannot be scattered"))),
    }
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
