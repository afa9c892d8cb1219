//! Digits as Python's formatting writes them: what `%` and `str.format` share.

use super::error::{Result, error};
use super::limits::Budget;

/// No float has more digits behind its point than this.
const FLOAT_DIGITS: usize = 1100;

/// The integer part of a float.
pub(super) fn integer_of(number: f64) -> Result<i128> {
    if number.is_finite() && number.abs() < 1.7e38 {
        Ok(number.trunc() as i128)
    } else {
        Err(error(format!("`{number}` is no integer of up to 128 bits")))
    }
}

/// How a float is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FloatStyle {
    /// `f`: digits behind the point.
    Fixed,
    /// `e`: an exponent.
    Exponent,
    /// `g`: whichever is shorter.
    General,
}

/// The digits of a float without its sign. `alternate` keeps the point and the zeros that could be left out.
pub(super) fn float_digits(
    value: f64,
    style: FloatStyle,
    precision: usize,
    alternate: bool,
    budget: &Budget,
) -> Result<String> {
    let value = value.abs();
    if value.is_nan() {
        return Ok("nan".into());
    }
    if value.is_infinite() {
        return Ok("inf".into());
    }
    budget.text(precision.saturating_add(400))?;
    let padded = |text: String, precision: usize| {
        let missing = precision.saturating_sub(FLOAT_DIGITS);
        text + &"0".repeat(missing)
    };
    Ok(match style {
        FloatStyle::Fixed => {
            let mut out = padded(format!("{value:.*}", precision.min(FLOAT_DIGITS)), precision);
            if alternate && precision == 0 {
                out.push('.');
            }
            out
        }
        FloatStyle::Exponent => {
            let text = format!("{value:.*e}", precision.min(FLOAT_DIGITS));
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let mut digits = padded(digits.to_owned(), precision);
            if alternate && precision == 0 {
                digits.push('.');
            }
            digits + &exponent_text(exponent.parse().unwrap_or(0))
        }
        FloatStyle::General => {
            let precision = precision.max(1);
            let text = format!("{value:.*e}", (precision - 1).min(FLOAT_DIGITS));
            let exponent: i64 = text.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
            if exponent >= -4 && exponent < precision as i64 {
                let behind = (precision as i64 - 1 - exponent).max(0) as usize;
                let fixed = float_digits(value, FloatStyle::Fixed, behind, alternate, budget)?;
                if alternate { fixed } else { without_zeros(&fixed) }
            } else {
                let text = float_digits(value, FloatStyle::Exponent, precision - 1, alternate, budget)?;
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
                let digits = if alternate { digits.to_owned() } else { without_zeros(digits) };
                format!("{digits}e{exponent}")
            }
        }
    })
}

fn exponent_text(exponent: i32) -> String {
    format!("e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn without_zeros(digits: &str) -> String {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.').to_owned() } else { digits.to_owned() }
}

/// The digits of an integer without its sign, in base 2, 8, 10 or 16.
pub(super) fn integer_digits(value: i128, base: u32) -> String {
    let value = value.unsigned_abs();
    match base {
        2 => format!("{value:b}"),
        8 => format!("{value:o}"),
        16 => format!("{value:x}"),
        _ => value.to_string(),
    }
}

/// Digits with a separator after each `size` of them from the right, at least `width` characters wide with zeros.
pub(super) fn grouped(digits: &str, separator: char, size: usize, width: usize) -> String {
    let is_digit = |c: char| c.is_ascii_digit() || size == 4 && c.is_ascii_hexdigit();
    let end = digits.find(|c: char| !is_digit(c)).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut whole: Vec<char> = whole.chars().rev().collect();
    let wide = |count: usize| count + count.saturating_sub(1) / size;
    while wide(whole.len()) + rest.len() < width {
        whole.push('0');
    }
    let mut out = String::new();
    for (index, digit) in whole.iter().enumerate() {
        if index > 0 && index % size == 0 {
            out.push(separator);
        }
        out.push(*digit);
    }
    out.chars().rev().collect::<String>() + rest
}

/// Where a text stands in a wider field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    Center,
    /// The fill stands between the sign and the digits.
    Inside,
}

/// `sign` and `digits` in a field of `width` characters.
pub(super) fn pad(sign: &str, digits: &str, fill: char, align: Align, width: usize, budget: &Budget) -> Result<String> {
    let count = sign.chars().count() + digits.chars().count();
    let missing = width.saturating_sub(count);
    budget.text(missing.saturating_mul(fill.len_utf8()).saturating_add(sign.len() + digits.len()))?;
    let fills = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(match align {
        Align::Left => format!("{sign}{digits}{}", fills(missing)),
        Align::Right => format!("{}{sign}{digits}", fills(missing)),
        Align::Center => format!("{}{sign}{digits}{}", fills(missing / 2), fills(missing - missing / 2)),
        Align::Inside => format!("{sign}{}{digits}", fills(missing)),
    })
}

/// A width or a precision in a format.
pub(super) fn size(digits: &str) -> Result<usize> {
    digits.parse().map_err(|_| error(format!("the width or precision `{digits}` in a format is too large")))
}
