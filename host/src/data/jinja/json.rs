//! `tojson` as transformers defines it: Python's `json.dumps`.

use std::fmt::Write as _;
use std::sync::Arc;

use super::error::{Result, error};
use super::limits::{Budget, TEXT_BYTES};
use super::text::float;
use super::value::{Args, Value};

/// The filter: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, args: Args, budget: &Budget) -> Result<Value> {
    let [ensure_ascii, indent, separators, sort_keys] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], 0)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.text),
        Some(other) => {
            let width = other.as_integer().ok_or_else(|| other.unfit("`indent` of `tojson` is a number or a text"))?;
            let width = usize::try_from(width).unwrap_or(0);
            budget.text(width)?;
            Some(Arc::from(" ".repeat(width)))
        }
    };
    let separators = match separators {
        None | Some(Value::None) => None,
        Some(Value::List(items) | Value::Tuple(items)) => match &items.items[..] {
            [Value::Text(item), Value::Text(key)] => Some((item.text.clone(), key.text.clone())),
            _ => return Err(error("`separators` of `tojson` are two texts")),
        },
        Some(other) => return Err(other.unfit("`separators` of `tojson` are two texts")),
    };
    let between = if indent.is_some() { "," } else { ", " };
    let (between, colon) = separators.unwrap_or_else(|| (between.into(), ": ".into()));
    let mut writer = Writer {
        out: String::new(),
        budget,
        ensure_ascii: ensure_ascii.is_some_and(|value| value.is_true()),
        sort_keys: sort_keys.is_some_and(|value| value.is_true()),
        indent,
        between,
        colon,
    };
    writer.value(value, 0)?;
    budget.text(writer.out.len())?;
    Ok(Value::text(writer.out))
}

struct Writer<'a> {
    out: String,
    budget: &'a Budget,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<Arc<str>>,
    between: Arc<str>,
    colon: Arc<str>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, level: usize) -> Result<()> {
        self.budget.work(1)?;
        if self.out.len() > TEXT_BYTES {
            return Err(error(format!("`tojson` makes a text of more than {TEXT_BYTES} bytes")));
        }
        match value {
            Value::None => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Integer(value) => _ = write!(self.out, "{value}"),
            Value::Float(value) => self.out.push_str(&json_float(*value)),
            Value::Text(text) => self.string(&text.text)?,
            Value::List(items) | Value::Tuple(items) => {
                if items.items.is_empty() {
                    self.out.push_str("[]");
                    return Ok(());
                }
                self.out.push('[');
                for (index, item) in items.items.iter().enumerate() {
                    self.separator(index, level + 1)?;
                    self.value(item, level + 1)?;
                }
                self.line(level)?;
                self.out.push(']');
            }
            Value::Dict(dict) => {
                if dict.len() == 0 {
                    self.out.push_str("{}");
                    return Ok(());
                }
                let mut entries: Vec<_> = dict.entries().iter().collect();
                if self.sort_keys {
                    self.sort(&mut entries)?;
                }
                self.out.push('{');
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.separator(index, level + 1)?;
                    match key {
                        Value::Text(text) => self.string(&text.text)?,
                        Value::None => self.out.push_str("\"null\""),
                        Value::Bool(value) => _ = write!(self.out, "\"{value}\""),
                        Value::Integer(value) => _ = write!(self.out, "\"{value}\""),
                        Value::Float(value) => _ = write!(self.out, "\"{}\"", json_float(*value)),
                        other => return Err(other.unfit("a key in JSON is a text or a number")),
                    }
                    self.out.push_str(&self.colon);
                    self.value(value, level + 1)?;
                }
                self.line(level)?;
                self.out.push('}');
            }
            Value::Undefined(reason) => {
                return Err(error(format!("`tojson` cannot write what is not there: {reason}")));
            }
            Value::Object(_) => {
                return Err(error(format!("`tojson` cannot write a value of type `{}`", value.type_name())));
            }
        }
        Ok(())
    }

    fn sort(&self, entries: &mut [&(Value, Value)]) -> Result<()> {
        self.budget.work(entries.len() * 16)?;
        let mut failed = None;
        entries.sort_by(|(one, _), (other, _)| {
            super::operators::order(one, other, self.budget).unwrap_or_else(|error| {
                failed.get_or_insert(error);
                std::cmp::Ordering::Equal
            })
        });
        failed.map_or(Ok(()), Err)
    }

    fn separator(&mut self, index: usize, level: usize) -> Result<()> {
        if index > 0 {
            self.out.push_str(&self.between);
        }
        self.line(level)
    }

    /// A new line with its indent, where there is one.
    fn line(&mut self, level: usize) -> Result<()> {
        if let Some(indent) = &self.indent {
            self.budget.read(indent.len() * level)?;
            if self.out.len() + indent.len() * level > TEXT_BYTES {
                return Err(error(format!("`tojson` makes a text of more than {TEXT_BYTES} bytes")));
            }
            self.out.push('\n');
            for _ in 0..level {
                self.out.push_str(indent);
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<()> {
        self.budget.read(text.len())?;
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => _ = write!(self.out, "\\u{:04x}", character as u32),
                _ if self.ensure_ascii && character > '~' => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        float(value)
    }
}
