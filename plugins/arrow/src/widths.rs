//! What the bytes of a batch's buffers are multiples of: offsets are whole numbers, which the crate takes for granted.

use arrow_ipc::RecordBatch;
use arrow_schema::{DataType, Fields};

/// What each buffer of a batch with these columns is a multiple of, in their order, as far as that is known: a type with a
/// number of buffers of its own ends it.
pub(crate) fn widths(fields: &Fields) -> Vec<u64> {
    let mut widths = Vec::new();
    for field in fields {
        if !add(field.data_type(), &mut widths) {
            break;
        }
    }
    widths
}

/// The same of the values of a dictionary, by a column that uses it.
pub(crate) fn widths_of_values(column: &DataType) -> Vec<u64> {
    let mut widths = Vec::new();
    if let DataType::Dictionary(_, values) = column {
        add(values, &mut widths);
    }
    widths
}

fn add(kind: &DataType, widths: &mut Vec<u64>) -> bool {
    // The first is which rows have a value.
    match kind {
        DataType::Null => true,
        DataType::Utf8 | DataType::Binary => {
            widths.extend([1, 4, 1]);
            true
        }
        DataType::LargeUtf8 | DataType::LargeBinary => {
            widths.extend([1, 8, 1]);
            true
        }
        DataType::List(field) | DataType::Map(field, _) => {
            widths.extend([1, 4]);
            add(field.data_type(), widths)
        }
        DataType::LargeList(field) => {
            widths.extend([1, 8]);
            add(field.data_type(), widths)
        }
        DataType::FixedSizeList(field, _) => {
            widths.push(1);
            add(field.data_type(), widths)
        }
        DataType::Struct(fields) => {
            widths.push(1);
            fields.iter().all(|field| add(field.data_type(), widths))
        }
        DataType::Dictionary(keys, _) => {
            widths.extend([1, keys.primitive_width().unwrap_or(1) as u64]);
            true
        }
        kind if kind.is_primitive() => {
            widths.extend([1, kind.primitive_width().unwrap_or(1) as u64]);
            true
        }
        DataType::Boolean | DataType::FixedSizeBinary(_) => {
            widths.extend([1, 1]);
            true
        }
        _ => false,
    }
}

/// What buffers begin at multiples of, by the format.
const ALIGNMENT: i64 = 8;

/// True if the buffers of a batch begin where they may and are as many bytes as their types allow.
pub(crate) fn fit(batch: RecordBatch<'_>, widths: &[u64]) -> bool {
    batch.buffers().is_none_or(|buffers| {
        if buffers.iter().any(|buffer| buffer.offset() % ALIGNMENT != 0) {
            return false;
        }
        let sizes = buffers.iter().map(|buffer| u64::try_from(buffer.length()).unwrap_or(u64::MAX));
        sizes.zip(widths).all(|(size, width)| size % width == 0)
    })
}
