//! One column's values as JSON.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DecimalType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};
use serde_json::Value;

use crate::key;
use crate::times::{date, instant, time};

/// Why a value is none of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Bytes that are no text.
    Bytes,
    /// No date or time that there is.
    Time,
    /// A type that is not read.
    Unreadable,
}

/// A column.
pub(crate) struct Values<'a>(&'a ArrayRef);

impl<'a> Values<'a> {
    pub(crate) fn of(array: &'a ArrayRef) -> Self {
        Self(array)
    }

    /// Writes the value of a row.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Problem> {
        let array = self.0;
        if array.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match array.data_type() {
            DataType::Null => out.extend_from_slice(b"null"),
            DataType::Boolean => show(out, array.as_boolean().value(row)),
            DataType::Int8 => show(out, primitive::<Int8Type>(array, row)),
            DataType::Int16 => show(out, primitive::<Int16Type>(array, row)),
            DataType::Int32 => show(out, primitive::<Int32Type>(array, row)),
            DataType::Int64 => show(out, primitive::<Int64Type>(array, row)),
            DataType::UInt8 => show(out, primitive::<UInt8Type>(array, row)),
            DataType::UInt16 => show(out, primitive::<UInt16Type>(array, row)),
            DataType::UInt32 => show(out, primitive::<UInt32Type>(array, row)),
            DataType::UInt64 => show(out, primitive::<UInt64Type>(array, row)),
            DataType::Float16 => float(out, primitive::<Float16Type>(array, row).to_f64()),
            DataType::Float32 => float(out, f64::from(primitive::<Float32Type>(array, row))),
            DataType::Float64 => float(out, primitive::<Float64Type>(array, row)),
            DataType::Utf8 => text(out, array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => text(out, array.as_string::<i64>().value(row)),
            DataType::Utf8View => text(out, array.as_string_view().value(row)),
            DataType::Binary => bytes(out, array.as_binary::<i32>().value(row))?,
            DataType::LargeBinary => bytes(out, array.as_binary::<i64>().value(row))?,
            DataType::BinaryView => bytes(out, array.as_binary_view().value(row))?,
            DataType::FixedSizeBinary(_) => bytes(out, array.as_fixed_size_binary().value(row))?,
            DataType::Decimal32(_, scale) => decimal::<Decimal32Type>(out, array, row, *scale),
            DataType::Decimal64(_, scale) => decimal::<Decimal64Type>(out, array, row, *scale),
            DataType::Decimal128(_, scale) => decimal::<Decimal128Type>(out, array, row, *scale),
            DataType::Decimal256(_, scale) => decimal::<Decimal256Type>(out, array, row, *scale),
            DataType::Date32 => told(out, date(primitive::<Date32Type>(array, row).into()))?,
            DataType::Date64 => told(out, date(primitive::<Date64Type>(array, row).div_euclid(86_400_000)))?,
            DataType::Time32(TimeUnit::Second) => told(out, time(primitive::<Time32SecondType>(array, row).into(), 0))?,
            DataType::Time32(_) => told(out, time(primitive::<Time32MillisecondType>(array, row).into(), 3))?,
            DataType::Time64(TimeUnit::Microsecond) => {
                told(out, time(primitive::<Time64MicrosecondType>(array, row), 6))?;
            }
            DataType::Time64(_) => told(out, time(primitive::<Time64NanosecondType>(array, row), 9))?,
            DataType::Timestamp(unit, zone) => {
                let (parts, digits) = match unit {
                    TimeUnit::Second => (primitive::<TimestampSecondType>(array, row), 0),
                    TimeUnit::Millisecond => (primitive::<TimestampMillisecondType>(array, row), 3),
                    TimeUnit::Microsecond => (primitive::<TimestampMicrosecondType>(array, row), 6),
                    TimeUnit::Nanosecond => (primitive::<TimestampNanosecondType>(array, row), 9),
                };
                told(out, instant(parts, digits, zone.is_some()))?;
            }
            DataType::List(_) => list(out, &array.as_list::<i32>().value(row))?,
            DataType::LargeList(_) => list(out, &array.as_list::<i64>().value(row))?,
            DataType::FixedSizeList(..) => list(out, &array.as_fixed_size_list().value(row))?,
            DataType::Struct(fields) => {
                let columns = array.as_struct().columns();
                for (index, (field, column)) in fields.iter().zip(columns).enumerate() {
                    out.extend_from_slice(key(index, field.name()).as_bytes());
                    Values(column).write(row, out)?;
                }
                if columns.is_empty() {
                    out.push(b'{');
                }
                out.push(b'}');
            }
            DataType::Map(..) => {
                let entries = array.as_map().value(row);
                out.push(b'[');
                for entry in 0..entries.len() {
                    out.extend_from_slice(if entry > 0 { b",[" } else { b"[" });
                    for (index, column) in entries.columns().iter().enumerate() {
                        if index > 0 {
                            out.push(b',');
                        }
                        Values(column).write(entry, out)?;
                    }
                    out.push(b']');
                }
                out.push(b']');
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let key = index(dictionary.keys(), row).filter(|&key| key < dictionary.values().len());
                Values(dictionary.values()).write(key.ok_or(Problem::Unreadable)?, out)?;
            }
            _ => return Err(Problem::Unreadable),
        }
        Ok(())
    }
}

/// The key of a row of a dictionary's keys.
fn index(keys: &dyn Array, row: usize) -> Option<usize> {
    match keys.data_type() {
        DataType::Int8 => keys.as_primitive::<Int8Type>().value(row).try_into().ok(),
        DataType::Int16 => keys.as_primitive::<Int16Type>().value(row).try_into().ok(),
        DataType::Int32 => keys.as_primitive::<Int32Type>().value(row).try_into().ok(),
        DataType::Int64 => keys.as_primitive::<Int64Type>().value(row).try_into().ok(),
        DataType::UInt8 => Some(keys.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Some(keys.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => keys.as_primitive::<UInt32Type>().value(row).try_into().ok(),
        DataType::UInt64 => keys.as_primitive::<UInt64Type>().value(row).try_into().ok(),
        _ => None,
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

fn show(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    out.extend_from_slice(value.to_string().as_bytes());
}

fn float(out: &mut Vec<u8>, value: f64) {
    // Numbers that are not finite have no JSON: null.
    out.extend_from_slice(Value::from(value).to_string().as_bytes());
}

fn text(out: &mut Vec<u8>, value: &str) {
    // Writing to a vector does not fail.
    let _ = serde_json::to_writer(out, value);
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) -> Result<(), Problem> {
    text(out, std::str::from_utf8(value).map_err(|_| Problem::Bytes)?);
    Ok(())
}

fn decimal<T: DecimalType>(out: &mut Vec<u8>, array: &ArrayRef, row: usize, scale: i8) {
    text(out, &T::format_decimal(primitive::<T>(array, row), T::MAX_PRECISION, scale));
}

fn told(out: &mut Vec<u8>, value: Option<String>) -> Result<(), Problem> {
    text(out, &value.ok_or(Problem::Time)?);
    Ok(())
}

fn list(out: &mut Vec<u8>, values: &ArrayRef) -> Result<(), Problem> {
    out.push(b'[');
    for index in 0..values.len() {
        if index > 0 {
            out.push(b',');
        }
        Values(values).write(index, out)?;
    }
    out.push(b']');
    Ok(())
}
