//! `"…" % values`: Python's printf-style formatting.

use std::iter::Peekable;
use std::str::Chars;

use super::error::{Result, error};
use super::limits::Budget;
use super::markup::escaped;
use super::numbers::{Align, FloatStyle, float_digits, integer_digits, integer_of, pad, size};
use super::text::{repr, text_of};
use super::value::{Object, Text, Value};

/// What one `%` in a format asks for.
#[derive(Default)]
struct Field {
    alternate: bool,
    zero: bool,
    left: bool,
    space: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

/// The values that are still to be written.
struct Values<'a> {
    given: &'a Value,
    one: Option<&'a Value>,
    many: &'a [Value],
}

impl<'a> Values<'a> {
    fn next(&mut self) -> Result<&'a Value> {
        if let Some(value) = self.one.take() {
            return Ok(value);
        }
        let (first, rest) =
            self.many.split_first().ok_or_else(|| error("`%` has fewer values than its format asks for"))?;
        self.many = rest;
        Ok(first)
    }

    fn named(&self, name: &str, budget: &Budget) -> Result<&'a Value> {
        match self.given {
            Value::Dict(dict) => match dict.get(&Value::text(name), budget)? {
                Some(value) => Ok(value),
                None => Err(error(format!("`%({name})` in a format names no key of the dictionary"))),
            },
            other => Err(other.unfit("`%(…)` in a format takes a dictionary")),
        }
    }

    /// A width or a precision that is itself a value.
    fn size(&mut self) -> Result<i128> {
        let value = self.next()?;
        value.as_integer().ok_or_else(|| value.unfit("`*` in a format takes an integer"))
    }
}

/// `format % value`.
pub(super) fn format(format: &Text, value: &Value, budget: &Budget) -> Result<Value> {
    budget.read(format.text.len())?;
    let (one, many): (_, &[Value]) = match value {
        Value::Tuple(items) => (None, &items.items),
        _ => (Some(value), &[]),
    };
    // Of what has items by key, none need be used.
    let all_used = match value {
        Value::Dict(_) | Value::List(_) | Value::Undefined(_) => false,
        Value::Object(object) => !matches!(**object, Object::Range(_)),
        _ => true,
    };
    let mut values = Values { given: value, one, many };
    let mut out = String::new();
    let mut characters = format.text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        budget.work(4)?;
        let written = directive(&mut characters, &mut values, format.is_markup, budget)?;
        budget.fits(out.len() + written.len())?;
        out.push_str(&written);
    }
    budget.text(out.len())?;
    if all_used && (values.one.is_some() || !values.many.is_empty()) {
        return Err(error("`%` has more values than its format asks for"));
    }
    Ok(if format.is_markup { Value::markup(out) } else { Value::text(out) })
}

/// What the directive behind a `%` writes.
fn directive(
    characters: &mut Peekable<Chars<'_>>,
    values: &mut Values<'_>,
    is_markup: bool,
    budget: &Budget,
) -> Result<String> {
    let mut named = None;
    if characters.next_if_eq(&'(').is_some() {
        let (mut name, mut open) = (String::new(), 1);
        loop {
            let character = characters.next().ok_or_else(|| error("`%(` in a format has no `)`"))?;
            open += i32::from(character == '(') - i32::from(character == ')');
            if open == 0 {
                break;
            }
            name.push(character);
        }
        named = Some(values.named(&name, budget)?);
    }
    let mut field = Field::default();
    while let Some(flag) = characters.next_if(|c| matches!(c, '#' | '0' | '-' | ' ' | '+')) {
        match flag {
            '#' => field.alternate = true,
            '0' => field.zero = true,
            '-' => field.left = true,
            ' ' => field.space = true,
            _ => field.plus = true,
        }
    }
    if characters.next_if_eq(&'*').is_some() {
        let width = values.size()?;
        field.left = field.left || width < 0;
        field.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    } else {
        field.width = digits(characters)?.unwrap_or(0);
    }
    if characters.next_if_eq(&'.').is_some() {
        field.precision = Some(if characters.next_if_eq(&'*').is_some() {
            usize::try_from(values.size()?.max(0)).unwrap_or(usize::MAX)
        } else {
            digits(characters)?.unwrap_or(0)
        });
    }
    characters.next_if(|c| matches!(c, 'h' | 'l' | 'L'));
    let conversion = characters.next().ok_or_else(|| error("a format ends within `%`"))?;
    if conversion == '%' {
        return Ok("%".into());
    }
    let value = match named {
        Some(value) => value,
        None => values.next()?,
    };
    write(conversion, value, &field, is_markup, budget)
}

fn digits(characters: &mut Peekable<Chars<'_>>) -> Result<Option<usize>> {
    let mut text = String::new();
    while let Some(digit) = characters.next_if(char::is_ascii_digit) {
        text.push(digit);
    }
    if text.is_empty() { Ok(None) } else { size(&text).map(Some) }
}

fn write(conversion: char, value: &Value, field: &Field, is_markup: bool, budget: &Budget) -> Result<String> {
    let sign = |negative: bool| match (negative, field.plus, field.space) {
        (true, ..) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        _ => "",
    };
    let number = |sign: &str, digits: &str| {
        let (fill, align) = match (field.left, field.zero) {
            (true, _) => (' ', Align::Left),
            (false, true) => ('0', Align::Inside),
            (false, false) => (' ', Align::Right),
        };
        pad(sign, digits, fill, align, field.width, budget)
    };
    let side = if field.left { Align::Left } else { Align::Right };
    match conversion {
        's' | 'r' | 'a' => {
            let text = match conversion {
                's' => text_of(value, budget)?,
                'r' => repr(value, budget)?.into(),
                _ => ascii(&repr(value, budget)?).into(),
            };
            let text = if is_markup { escaped(value, text, budget)? } else { text };
            let text = match field.precision {
                Some(precision) => text.chars().take(precision).collect(),
                None => text.into_owned(),
            };
            pad("", &text, ' ', side, field.width, budget)
        }
        'c' => {
            let character = match value {
                Value::Text(text) if text.text.chars().count() == 1 => text.text.to_string(),
                other => other
                    .as_integer()
                    .and_then(|code| u32::try_from(code).ok().and_then(char::from_u32))
                    .ok_or_else(|| other.unfit("`%c` takes a character"))?
                    .to_string(),
            };
            pad("", &character, ' ', side, field.width, budget)
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let integer = match value {
                Value::Float(number) if matches!(conversion, 'd' | 'i' | 'u') && number.is_finite() => {
                    integer_of(*number)?
                }
                other => other
                    .as_integer()
                    .ok_or_else(|| other.unfit(&format!("`%{conversion}` in a format takes an integer")))?,
            };
            let (base, prefix) = match conversion {
                'o' => (8, "0o"),
                'x' => (16, "0x"),
                'X' => (16, "0X"),
                _ => (10, ""),
            };
            let mut digits = integer_digits(integer, base);
            if let Some(precision) = field.precision {
                digits = pad("", &digits, '0', Align::Right, precision, budget)?;
            }
            if conversion == 'X' {
                digits = digits.to_uppercase();
            }
            let prefix = if field.alternate { prefix } else { "" };
            number(&format!("{}{prefix}", sign(integer < 0)), &digits)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let float =
                value.as_float().ok_or_else(|| value.unfit(&format!("`%{conversion}` in a format takes a number")))?;
            let style = match conversion {
                'f' | 'F' => FloatStyle::Fixed,
                'e' | 'E' => FloatStyle::Exponent,
                _ => FloatStyle::General,
            };
            let mut digits = float_digits(float, style, field.precision.unwrap_or(6), field.alternate, budget)?;
            if conversion.is_ascii_uppercase() {
                digits = digits.to_uppercase();
            }
            number(sign(float.is_sign_negative() && !float.is_nan()), &digits)
        }
        other => Err(error(format!("`%{other}` is not a conversion of a format"))),
    }
}

/// A text with everything beyond ASCII escaped, as Python's `ascii` writes it.
pub(super) fn ascii(text: &str) -> String {
    text.chars()
        .map(|character| match character as u32 {
            0..=0x7f => character.to_string(),
            code @ 0x80..=0xff => format!("\\x{code:02x}"),
            code @ 0x100..=0xffff => format!("\\u{code:04x}"),
            code => format!("\\U{code:08x}"),
        })
        .collect()
}
