//! How Python writes values: `str`, `repr` and its floats.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::characters::is_printable;
use super::error::{Result, error};
use super::limits::{Budget, TEXT_BYTES, VALUE_DEPTH};
use super::value::{Dict, Object, Value, View};

/// Python's `str(value)`.
pub(super) fn text_of<'a>(value: &'a Value, budget: &Budget) -> Result<Cow<'a, str>> {
    match value {
        Value::Text(text) => Ok(Cow::Borrowed(&text.text)),
        Value::Undefined(_) => Ok(Cow::Borrowed("")),
        other => {
            let mut out = String::new();
            write_repr(&mut out, other, budget, 0)?;
            budget.text(out.len())?;
            Ok(Cow::Owned(out))
        }
    }
}

/// Python's `repr(value)`.
pub(super) fn repr(value: &Value, budget: &Budget) -> Result<String> {
    let mut out = String::new();
    write_repr(&mut out, value, budget, 0)?;
    budget.text(out.len())?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, budget: &Budget, depth: u16) -> Result<()> {
    budget.work(1)?;
    if out.len() > TEXT_BYTES || depth > VALUE_DEPTH {
        return Err(error("it prints a value that is too large or holds itself"));
    }
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
        Value::Integer(value) => _ = write!(out, "{value}"),
        Value::Float(value) => out.push_str(&float(*value)),
        Value::Text(text) if text.is_markup => {
            out.push_str("Markup(");
            write_quoted(out, &text.text);
            out.push(')');
        }
        Value::Text(text) => {
            budget.read(text.text.len())?;
            write_quoted(out, &text.text);
        }
        Value::List(items) => {
            out.push('[');
            write_items(out, &items.items, budget, depth)?;
            out.push(']');
        }
        Value::Tuple(items) => {
            out.push('(');
            write_items(out, &items.items, budget, depth)?;
            out.push_str(if items.items.len() == 1 { ",)" } else { ")" });
        }
        Value::Dict(dict) => write_dict(out, dict, budget, depth)?,
        Value::Object(object) => match &**object {
            Object::Namespace(attributes) => {
                out.push_str("<Namespace ");
                write_dict(out, &attributes.borrow(), budget, depth)?;
                out.push('>');
            }
            Object::Macro(value) => _ = write!(out, "<Macro {}>", quoted(&value.definition.name)),
            Object::Range(range) => {
                _ = write!(out, "range({}, {}", range.start, range.stop);
                if range.step != 1 {
                    _ = write!(out, ", {}", range.step);
                }
                out.push(')');
            }
            Object::View(view, dict) => {
                out.push_str(match view {
                    View::Keys => "dict_keys([",
                    View::Values => "dict_values([",
                    View::Items => "dict_items([",
                });
                for (index, (key, value)) in dict.entries().iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { ", " });
                    match view {
                        View::Keys => write_repr(out, key, budget, depth + 1)?,
                        View::Values => write_repr(out, value, budget, depth + 1)?,
                        View::Items => {
                            out.push('(');
                            write_repr(out, key, budget, depth + 1)?;
                            out.push_str(", ");
                            write_repr(out, value, budget, depth + 1)?;
                            out.push(')');
                        }
                    }
                }
                out.push_str("])");
            }
            _ => {
                let name = value.type_name();
                return Err(error(format!(
                    "it prints a value of type `{name}`, for which Python writes an address; add `| list` to print its items"
                )));
            }
        },
    }
    Ok(())
}

fn write_items(out: &mut String, items: &[Value], budget: &Budget, depth: u16) -> Result<()> {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(out, item, budget, depth + 1)?;
    }
    Ok(())
}

fn write_dict(out: &mut String, dict: &Dict, budget: &Budget, depth: u16) -> Result<()> {
    out.push('{');
    for (index, (key, value)) in dict.entries().iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(out, key, budget, depth + 1)?;
        out.push_str(": ");
        write_repr(out, value, budget, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

/// Python's `repr` of a text.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::new();
    write_quoted(&mut out, text);
    out
}

fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            _ if is_printable(character) => out.push(character),
            _ => {
                let code = character as u32;
                _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `repr` of a float: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e16.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || value == 0.0 {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
