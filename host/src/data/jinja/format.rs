//! `str.format` and the format specifications that it takes.

use std::sync::Arc;

use super::error::{Result, error};
use super::interpreter::Interpreter;
use super::limits::Budget;
use super::numbers::{Align, FloatStyle, float_digits, grouped, integer_digits, pad, size};
use super::percent::ascii;
use super::text::{float, repr, text_of};
use super::value::{Args, Value};

/// `text.format(…)`.
pub(super) fn format(interpreter: &Interpreter<'_>, text: &str, args: &Args) -> Result<Value> {
    let mut formatter = Formatter { interpreter, args, next: Some(0) };
    let mut out = String::new();
    formatter.write(&mut out, text, 0)?;
    interpreter.budget.text(out.len())?;
    Ok(Value::text(out))
}

struct Formatter<'a, 'b> {
    interpreter: &'a Interpreter<'b>,
    args: &'a Args,
    /// The number of the next field without a name; nothing once fields are numbered.
    next: Option<usize>,
}

impl Formatter<'_, '_> {
    fn write(&mut self, out: &mut String, text: &str, depth: usize) -> Result<()> {
        if depth > 2 {
            return Err(error("the fields of a format nest too deeply"));
        }
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            self.interpreter.budget.fits(out.len())?;
            let brace = rest.as_bytes()[at];
            if rest.as_bytes().get(at + 1) == Some(&brace) {
                out.push(brace as char);
                rest = &rest[at + 2..];
                continue;
            }
            if brace == b'}' {
                return Err(error("a format has a single `}`"));
            }
            let field = &rest[at + 1..];
            let mut open = 1;
            let end = field.find(|character| {
                open += i32::from(character == '{') - i32::from(character == '}');
                open == 0
            });
            let end = end.ok_or_else(|| error("a format has a `{` without its `}`"))?;
            self.field(out, &field[..end], depth)?;
            rest = &field[end + 1..];
        }
        out.push_str(rest);
        self.interpreter.budget.fits(out.len())
    }

    /// One field: its name, `!` and a conversion, `:` and a specification.
    fn field(&mut self, out: &mut String, field: &str, depth: usize) -> Result<()> {
        self.interpreter.budget.work(8 + self.args.named.len() / 16)?;
        let mut in_brackets = false;
        let name_end = field
            .find(|character| {
                match character {
                    '[' => in_brackets = true,
                    ']' => in_brackets = false,
                    _ => {}
                }
                !in_brackets && matches!(character, '!' | ':')
            })
            .unwrap_or(field.len());
        let (name, mut rest) = field.split_at(name_end);
        let mut value = self.value(name)?;
        if let Some(conversion) = rest.strip_prefix('!') {
            let budget = self.interpreter.budget;
            let letter = conversion.chars().next().unwrap_or(' ');
            value = Value::text(match letter {
                's' => text_of(&value, budget)?.into_owned(),
                'r' => repr(&value, budget)?,
                'a' => ascii(&repr(&value, budget)?),
                other => return Err(error(format!("`!{other}` is not a conversion of a format"))),
            });
            rest = &conversion[letter.len_utf8()..];
        }
        let specification = match rest.strip_prefix(':') {
            Some(specification) => specification,
            None if rest.is_empty() => "",
            None => return Err(error("a format has something between `!` and `:`")),
        };
        let mut expanded = String::new();
        self.write(&mut expanded, specification, depth + 1)?;
        out.push_str(&format_value(&value, &expanded, self.interpreter.budget)?);
        self.interpreter.budget.fits(out.len())
    }

    /// The value that a field names: `0`, `name`, `name.attribute`, `name[key]`.
    fn value(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let number = if first.is_empty() {
            let number =
                self.next.ok_or_else(|| error("a format mixes numbered fields and fields without a number"))?;
            self.next = Some(number + 1);
            Some(number)
        } else if first.bytes().all(|byte| byte.is_ascii_digit()) {
            if self.next.is_some_and(|next| next > 0) {
                return Err(error("a format mixes numbered fields and fields without a number"));
            }
            self.next = None;
            Some(size(first)?)
        } else {
            None
        };
        let mut value = match number {
            Some(number) => self.args.positional.get(number).cloned(),
            None => self.args.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value.clone()),
        }
        .ok_or_else(|| error(format!("`format` has no value for the field `{name}`")))?;
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let end = inside.find(']').ok_or_else(|| error("a format has a `[` without its `]`"))?;
                let key = &inside[..end];
                let key = match key.parse::<i128>() {
                    Ok(number) if key.bytes().all(|byte| byte.is_ascii_digit()) => Value::Integer(number),
                    _ => Value::text(key),
                };
                value = self.interpreter.subscript(&value, &key)?;
                rest = &inside[end + 1..];
            } else if let Some(attribute) = rest.strip_prefix('.') {
                let end = attribute.find(['.', '[']).unwrap_or(attribute.len());
                value = self.interpreter.attribute(&value, &Arc::from(&attribute[..end]))?;
                rest = &attribute[end..];
            } else {
                return Err(error("only `.` and `[` follow `]` in a format"));
            }
        }
        Ok(value)
    }
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
struct Specification {
    fill: char,
    align: Option<Align>,
    /// Whether the fill is a `0` before the width, which puts it behind a number's sign.
    is_zero: bool,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

fn specification(text: &str) -> Result<Specification> {
    let align_of = |character: &char| match character {
        '<' => Some(Align::Left),
        '>' => Some(Align::Right),
        '^' => Some(Align::Center),
        '=' => Some(Align::Inside),
        _ => None,
    };
    let invalid = || error(format!("`{text}` is not a specification of a format"));
    let characters: Vec<char> = text.chars().collect();
    let mut at = 0;
    let (mut fill, mut align) = (None, None);
    if let Some(found) = characters.get(1).and_then(align_of) {
        (fill, align, at) = (Some(characters[0]), Some(found), 2);
    } else if let Some(found) = characters.first().and_then(align_of) {
        (align, at) = (Some(found), 1);
    }
    let mut take = |wanted: &[char]| {
        let found = characters.get(at).copied().filter(|character| wanted.contains(character));
        at += usize::from(found.is_some());
        found
    };
    let sign = take(&['+', '-', ' ']);
    let alternate = take(&['#']).is_some();
    let is_zero = fill.is_none() && take(&['0']).is_some();
    if is_zero {
        fill = Some('0');
    }
    let mut number = || {
        let mut digits = String::new();
        while let Some(digit) = take(&['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
            digits.push(digit);
        }
        if digits.is_empty() { Ok(None) } else { size(&digits).map(Some) }
    };
    let width = number()?.unwrap_or(0);
    let grouping = take(&[',', '_']);
    let mut precision = None;
    if take(&['.']).is_some() {
        let mut digits = String::new();
        while let Some(digit) = take(&['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
            digits.push(digit);
        }
        precision = Some(size(&digits).map_err(|_| invalid())?);
    }
    let kind = characters.get(at).copied();
    if characters.len() > at + 1 {
        return Err(invalid());
    }
    let fill = fill.unwrap_or(' ');
    Ok(Specification { fill, align, is_zero, sign, alternate, width, grouping, precision, kind })
}

/// Python's `format(value, specification)`.
pub(super) fn format_value(value: &Value, text: &str, budget: &Budget) -> Result<String> {
    if text.is_empty() {
        return Ok(text_of(value, budget)?.into_owned());
    }
    let wanted = specification(text)?;
    let invalid =
        || error(format!("`{text}` is not a specification that a value of type `{}` takes", value.type_name()));
    match value {
        Value::Text(own) => {
            if !matches!(wanted.kind, None | Some('s'))
                || wanted.grouping.is_some()
                || wanted.sign.is_some()
                || wanted.alternate
                || wanted.align == Some(Align::Inside)
            {
                return Err(invalid());
            }
            let shown: String = match wanted.precision {
                Some(precision) => own.text.chars().take(precision).collect(),
                None => own.text.to_string(),
            };
            let align = wanted.align.unwrap_or(Align::Left);
            pad("", &shown, wanted.fill, align, wanted.width, budget)
        }
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => number(value, &wanted, budget)?.ok_or_else(invalid),
        _ => Err(invalid()),
    }
}

fn number(value: &Value, wanted: &Specification, budget: &Budget) -> Result<Option<String>> {
    if wanted.kind == Some('n') && wanted.grouping.is_some() {
        return Ok(None);
    }
    let integer = value.as_integer();
    let as_float = integer.is_none() || matches!(wanted.kind, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'));
    let (negative, digits, prefix, size) = if as_float {
        let Some(number) = value.as_float() else { return Ok(None) };
        let (style, precision) = match wanted.kind {
            Some('e' | 'E') => (FloatStyle::Exponent, wanted.precision.unwrap_or(6)),
            Some('f' | 'F' | '%') => (FloatStyle::Fixed, wanted.precision.unwrap_or(6)),
            Some('g' | 'G' | 'n') => (FloatStyle::General, wanted.precision.unwrap_or(6)),
            None => (FloatStyle::General, wanted.precision.unwrap_or(0)),
            Some(_) => return Ok(None),
        };
        let digits = match (wanted.kind, wanted.precision) {
            (None, None) => {
                let digits = float(number.abs());
                match digits.split_once('e') {
                    Some((first, exponent)) if wanted.alternate && !first.contains('.') => {
                        format!("{first}.e{exponent}")
                    }
                    _ => digits,
                }
            }
            (None, Some(precision)) => {
                // Like `g`, with a digit behind the point, and an exponent one digit earlier.
                let plain = float_digits(number, style, precision, wanted.alternate, budget)?;
                let exponent = format!("{:.*e}", precision.clamp(1, 1100) - 1, number.abs());
                let exponent: i64 = exponent.split_once('e').and_then(|(_, text)| text.parse().ok()).unwrap_or(0);
                if exponent == precision.max(1) as i64 - 1 && number != 0.0 {
                    let (precision, alternate) = (precision.max(1) - 1, wanted.alternate);
                    let text = float_digits(number, FloatStyle::Exponent, precision, alternate, budget)?;
                    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
                    if digits.contains('.') && !alternate {
                        format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
                    } else {
                        text
                    }
                } else if plain.bytes().all(|byte| byte.is_ascii_digit()) {
                    plain + ".0"
                } else {
                    plain
                }
            }
            (Some('%'), _) => float_digits(number * 100.0, style, precision, wanted.alternate, budget)? + "%",
            _ => float_digits(number, style, precision, wanted.alternate, budget)?,
        };
        let digits = if matches!(wanted.kind, Some('E' | 'F' | 'G')) { digits.to_uppercase() } else { digits };
        (number.is_sign_negative() && !number.is_nan(), digits, "", 3)
    } else {
        let Some(number) = integer else { return Ok(None) };
        if wanted.precision.is_some() {
            return Ok(None);
        }
        let (base, prefix, size) = match wanted.kind {
            None | Some('d' | 'n') => (10, "", 3),
            Some('b') => (2, "0b", 4),
            Some('o') => (8, "0o", 4),
            Some('x') => (16, "0x", 4),
            Some('X') => (16, "0X", 4),
            Some('c') => {
                if wanted.sign.is_some() || wanted.alternate || wanted.grouping.is_some() {
                    return Ok(None);
                }
                let character = u32::try_from(number).ok().and_then(char::from_u32);
                let Some(character) = character else { return Ok(None) };
                let align = wanted.align.unwrap_or(Align::Right);
                return pad("", &character.to_string(), wanted.fill, align, wanted.width, budget).map(Some);
            }
            Some(_) => return Ok(None),
        };
        if wanted.grouping == Some(',') && base != 10 {
            return Ok(None);
        }
        let digits = integer_digits(number, base);
        let digits = if wanted.kind == Some('X') { digits.to_uppercase() } else { digits };
        (number < 0, digits, if wanted.alternate { prefix } else { "" }, size)
    };
    let sign = match (negative, wanted.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let sign = format!("{sign}{prefix}");
    let align = wanted.align.unwrap_or(if wanted.is_zero { Align::Inside } else { Align::Right });
    let digits = match wanted.grouping {
        Some(separator) => {
            let zeros = if align == Align::Inside && wanted.fill == '0' { wanted.width } else { 0 };
            budget.text(zeros)?;
            grouped(&digits, separator, size, zeros.saturating_sub(sign.len()))
        }
        None => digits,
    };
    pad(&sign, &digits, wanted.fill, align, wanted.width, budget).map(Some)
}
