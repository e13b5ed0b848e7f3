//! What Arrow takes for granted of a message and panics over otherwise. Messages come from other processes, so all of it is checked.

use arrow::datatypes::{DataType, Schema, UnionMode};
use arrow::error::ArrowError;
use arrow::ipc::{self, Endianness, IntervalUnit, MetadataVersion, Precision, TimeUnit, Type};

use super::invalid;

/// Most rows of an array: nothing that is added or multiplied overflows.
const MOST: i64 = 1 << 40;

/// # Errors
/// If a type is not one of Arrow's.
pub(super) fn schema(schema: ipc::Schema<'_>) -> Result<(), ArrowError> {
    if schema.endianness() != Endianness::Little {
        return Err(invalid("the numbers are not little-endian"));
    }
    let fields = schema.fields().ok_or_else(|| invalid("the schema has no list of columns"))?;
    fields.iter().try_for_each(field)
}

fn field(of: ipc::Field<'_>) -> Result<(), ArrowError> {
    if !has_sound_type(of) || !has_sound_index(of) {
        let name = of.name().unwrap_or_default();
        return Err(invalid(&format!("the type of `{name}` is not known")));
    }
    of.children().into_iter().flatten().try_for_each(field)
}

fn has_sound_index(field: ipc::Field<'_>) -> bool {
    let Some(dictionary) = field.dictionary() else { return true };
    dictionary.indexType().is_some_and(is_sound_int)
}

fn is_sound_int(int: ipc::Int<'_>) -> bool {
    matches!(int.bitWidth(), 8 | 16 | 32 | 64)
}

fn has_sound_type(field: ipc::Field<'_>) -> bool {
    let children: Vec<ipc::Field<'_>> = field.children().into_iter().flatten().collect();
    match field.type_type() {
        Type::Null
        | Type::Bool
        | Type::Utf8
        | Type::LargeUtf8
        | Type::Utf8View
        | Type::Binary
        | Type::LargeBinary
        | Type::BinaryView
        | Type::Struct_ => true,
        Type::Int => field.type_as_int().is_some_and(is_sound_int),
        Type::FixedSizeBinary => field.type_as_fixed_size_binary().is_some_and(|binary| binary.byteWidth() >= 0),
        Type::FloatingPoint => field
            .type_as_floating_point()
            .is_some_and(|float| matches!(float.precision(), Precision::HALF | Precision::SINGLE | Precision::DOUBLE)),
        Type::Decimal => field.type_as_decimal().is_some_and(is_sound_decimal),
        Type::Date => field
            .type_as_date()
            .is_some_and(|date| matches!(date.unit(), ipc::DateUnit::DAY | ipc::DateUnit::MILLISECOND)),
        Type::Time => field.type_as_time().is_some_and(|time| {
            matches!(
                (time.bitWidth(), time.unit()),
                (32, TimeUnit::SECOND | TimeUnit::MILLISECOND) | (64, TimeUnit::MICROSECOND | TimeUnit::NANOSECOND)
            )
        }),
        Type::Timestamp => field.type_as_timestamp().is_some_and(|timestamp| is_unit(timestamp.unit())),
        Type::Duration => field.type_as_duration().is_some_and(|duration| is_unit(duration.unit())),
        Type::Interval => field.type_as_interval().is_some_and(|interval| {
            matches!(interval.unit(), IntervalUnit::YEAR_MONTH | IntervalUnit::DAY_TIME | IntervalUnit::MONTH_DAY_NANO)
        }),
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => children.len() == 1,
        Type::FixedSizeList => {
            children.len() == 1 && field.type_as_fixed_size_list().is_some_and(|list| list.listSize() >= 0)
        }
        Type::Map => {
            let is_entry = |entry: &ipc::Field<'_>| {
                entry.type_type() == Type::Struct_ && entry.children().is_some_and(|both| both.len() == 2)
            };
            field.type_as_map().is_some() && matches!(children.as_slice(), [entry] if is_entry(entry))
        }
        Type::RunEndEncoded => {
            let are_ends = |ends: &ipc::Field<'_>| {
                ends.dictionary().is_none()
                    && ends.type_as_int().is_some_and(|int| int.is_signed() && matches!(int.bitWidth(), 16 | 32 | 64))
            };
            matches!(children.as_slice(), [ends, _] if are_ends(ends))
        }
        Type::Union => field.type_as_union().is_some_and(|union| is_sound_union(union, children.len())),
        _ => false,
    }
}

fn is_unit(unit: TimeUnit) -> bool {
    matches!(unit, TimeUnit::SECOND | TimeUnit::MILLISECOND | TimeUnit::MICROSECOND | TimeUnit::NANOSECOND)
}

fn is_sound_decimal(decimal: ipc::Decimal<'_>) -> bool {
    let most = match decimal.bitWidth() {
        32 => 9,
        64 => 18,
        128 => 38,
        256 => 76,
        _ => return false,
    };
    (1..=most).contains(&decimal.precision()) && i8::try_from(decimal.scale()).is_ok()
}

fn is_sound_union(union: ipc::Union<'_>, children: usize) -> bool {
    let has_sound_ids = match union.typeIds() {
        None => children <= 128,
        Some(ids) => {
            let mut ids: Vec<i32> = ids.iter().collect();
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            ids.len() == count && count == children && ids.iter().all(|id| (0..128).contains(id))
        }
    };
    has_sound_ids && matches!(union.mode(), ipc::UnionMode::Dense | ipc::UnionMode::Sparse)
}

/// # Errors
/// If an array is longer than its buffers, or a buffer lies outside of the `body`, which has so many bytes.
pub(super) fn batch(
    batch: ipc::RecordBatch<'_>,
    schema: &Schema,
    version: MetadataVersion,
    body: usize,
) -> Result<(), ArrowError> {
    if batch.compression().is_some() {
        return Err(invalid("the batch is compressed"));
    }
    if !(0..=MOST).contains(&batch.length()) {
        return Err(invalid("the batch has more rows than there can be"));
    }
    let (Some(nodes), Some(buffers)) = (batch.nodes(), batch.buffers()) else {
        return Err(invalid("the batch has no list of columns"));
    };
    let nodes: Vec<Node> = nodes.iter().map(node).collect::<Result<_, _>>()?;
    let buffers: Vec<usize> = buffers.iter().map(|buffer| length_in(buffer, body)).collect::<Result<_, _>>()?;
    let views = batch.variadicBufferCounts().into_iter().flatten();
    let mut columns = Columns { version, nodes: nodes.into_iter(), buffers: buffers.into_iter(), views };
    schema.fields().iter().try_for_each(|field| columns.column(field.data_type()))?;
    columns.views.next().map_or(Ok(()), |_| Err(invalid("there are more columns of views than the schema has")))
}

struct Node {
    rows: usize,
    nulls: usize,
}

fn node(node: &ipc::FieldNode) -> Result<Node, ArrowError> {
    if !(0..=MOST).contains(&node.length()) || !(0..=node.length()).contains(&node.null_count()) {
        return Err(invalid("a column has more rows than there can be"));
    }
    Ok(Node { rows: node.length() as usize, nulls: node.null_count() as usize })
}

/// The length of a buffer that lies in a body of so many bytes.
fn length_in(buffer: &ipc::Buffer, body: usize) -> Result<usize, ArrowError> {
    let (offset, length) = (usize::try_from(buffer.offset()).ok(), usize::try_from(buffer.length()).ok());
    let length =
        length.filter(|length| offset.and_then(|offset| offset.checked_add(*length)).is_some_and(|end| end <= body));
    length.ok_or_else(|| invalid("a buffer lies outside of the body"))
}

/// Goes over the columns in the order in which they are read.
struct Columns<N, B, V> {
    version: MetadataVersion,
    nodes: N,
    /// The length of each.
    buffers: B,
    /// Of each column of views, the number of its buffers of values.
    views: V,
}

impl<N: Iterator<Item = Node>, B: ExactSizeIterator<Item = usize>, V: Iterator<Item = i64>> Columns<N, B, V> {
    fn column(&mut self, data_type: &DataType) -> Result<(), ArrowError> {
        let Node { rows, nulls } = self.nodes.next().ok_or_else(|| invalid("a column is missing"))?;
        match data_type {
            DataType::Null | DataType::RunEndEncoded(..) => {}
            DataType::Union(_, mode) => {
                if self.version < MetadataVersion::V5 {
                    self.at_least(0)?;
                }
                self.at_least(rows)?;
                if *mode == UnionMode::Dense {
                    self.at_least(rows * 4)?;
                }
            }
            _ => self.at_least(if nulls > 0 { rows.div_ceil(8) } else { 0 })?,
        }
        let widths = self.widths(data_type)?;
        widths.into_iter().try_for_each(|width| self.values_of(width))?;
        match data_type {
            DataType::List(child)
            | DataType::LargeList(child)
            | DataType::ListView(child)
            | DataType::LargeListView(child)
            | DataType::FixedSizeList(child, _)
            | DataType::Map(child, _) => self.column(child.data_type()),
            DataType::Struct(children) => children.iter().try_for_each(|child| self.column(child.data_type())),
            DataType::Union(children, _) => children.iter().try_for_each(|(_, child)| self.column(child.data_type())),
            DataType::RunEndEncoded(ends, values) => {
                self.column(ends.data_type())?;
                self.column(values.data_type())
            }
            _ => Ok(()),
        }
    }

    /// Of each buffer beside the validity, the bytes of a value. Those of a union are slices of their own.
    fn widths(&mut self, data_type: &DataType) -> Result<Vec<usize>, ArrowError> {
        Ok(match data_type {
            DataType::Null
            | DataType::RunEndEncoded(..)
            | DataType::Union(..)
            | DataType::Struct(_)
            | DataType::FixedSizeList(..) => vec![],
            DataType::Utf8 | DataType::Binary => vec![4, 1],
            DataType::LargeUtf8 | DataType::LargeBinary => vec![8, 1],
            DataType::List(_) | DataType::Map(..) => vec![4],
            DataType::LargeList(_) => vec![8],
            DataType::ListView(_) => vec![4, 4],
            DataType::LargeListView(_) => vec![8, 8],
            DataType::Utf8View | DataType::BinaryView => {
                let count = self.views.next().and_then(|count| usize::try_from(count).ok());
                let count = count.filter(|count| *count <= self.buffers.len());
                let count = count.ok_or_else(|| invalid("a column of views has fewer buffers than it says"))?;
                [vec![16], vec![1; count]].concat()
            }
            DataType::Dictionary(key, _) => vec![key.primitive_width().unwrap_or(1)],
            other => vec![other.primitive_width().unwrap_or(1)],
        })
    }

    fn values_of(&mut self, width: usize) -> Result<(), ArrowError> {
        let length = self.buffers.next().ok_or_else(|| invalid("a buffer is missing"))?;
        if length.is_multiple_of(width) { Ok(()) } else { Err(invalid("a column ends within a value")) }
    }

    fn at_least(&mut self, bytes: usize) -> Result<(), ArrowError> {
        let length = self.buffers.next().ok_or_else(|| invalid("a buffer is missing"))?;
        if length < bytes { Err(invalid("a column has more rows than its buffers")) } else { Ok(()) }
    }
}
