//! Jinja2's filters by name, and those of numbers.

use std::sync::Arc;

use super::call::{integer_or, text_argument};
use super::error::{Result, error};
use super::interpreter::Interpreter;
use super::json::tojson;
use super::markup::{escape, escape_value, strip_tags};
use super::numbers::integer_of;
use super::percent;
use super::strings::{capitalize, justify, replace, soft_text, strip};
use super::text::text_of;
use super::value::{Args, Dict, Text, Value};

const FILTERS: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Whether there is a filter with this name.
pub(super) fn is_filter(name: &str) -> bool {
    FILTERS.contains(&name)
}

/// A flag that an argument gives.
pub(super) fn is_set(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_true)
}

impl Interpreter<'_> {
    /// Applies a filter by its name.
    pub(super) fn filter(&self, name: &str, value: &Value, args: Args) -> Result<Value> {
        let budget = self.budget;
        match name {
            "abs" => {
                let [] = args.places(name, 0)?;
                absolute(value)
            }
            "attr" => {
                let [attribute] = args.bind(name, ["name"], 1)?;
                let attribute = text_argument(&attribute.unwrap_or(Value::None), "the name of an attribute")?;
                if let Value::Undefined(reason) = value {
                    return Err(error(&**reason));
                }
                Ok(self.own_attribute(value, &attribute)?.unwrap_or_else(|| {
                    Value::undefined(format!("a value of type `{}` has no attribute `{attribute}`", value.type_name()))
                }))
            }
            "count" | "length" => {
                let [] = args.places(name, 0)?;
                self.length(value)
            }
            "d" | "default" => {
                let [default, boolean] = args.bind(name, ["default_value", "boolean"], 0)?;
                if value.is_undefined() || is_set(boolean.as_ref()) && !value.is_true() {
                    return Ok(default.unwrap_or_else(|| Value::text("")));
                }
                Ok(value.clone())
            }
            "e" | "escape" => {
                let [] = args.places(name, 0)?;
                escape_value(value, budget)
            }
            "forceescape" => {
                let [] = args.places(name, 0)?;
                Ok(Value::markup(escape(&text_of(value, budget)?, budget)?))
            }
            "safe" => {
                let [] = args.places(name, 0)?;
                Ok(Value::markup(soft_text(value, budget)?))
            }
            "string" => {
                let [] = args.places(name, 0)?;
                Ok(if value.as_text().is_some() { value.clone() } else { Value::text(soft_text(value, budget)?) })
            }
            "format" => {
                let format = self.soft(value)?;
                let values = match (args.positional.is_empty(), args.named.is_empty()) {
                    (_, true) => Value::tuple(args.positional)?,
                    (true, false) => {
                        let mut dict = Dict::default();
                        for (name, value) in args.named {
                            dict.set(Value::text(name), value, budget)?;
                        }
                        Value::dict(dict)
                    }
                    _ => return Err(error("`format` takes values either in order or by name")),
                };
                percent::format(&format, &values, budget)
            }
            "float" => {
                let [default] = args.bind(name, ["default"], 0)?;
                if value.is_undefined() {
                    return Err(value.unfit(""));
                }
                Ok(match to_float(value) {
                    Some(number) => Value::Float(number),
                    None => default.unwrap_or(Value::Float(0.0)),
                })
            }
            "int" => {
                let [default, base] = args.bind(name, ["default", "base"], 0)?;
                let base = integer_or(base.as_ref(), 10, "the base of a number")?;
                Ok(to_integer(value, base)?.map_or_else(|| default.unwrap_or(Value::Integer(0)), Value::Integer))
            }
            "round" => {
                let [precision, method] = args.bind(name, ["precision", "method"], 0)?;
                let precision = integer_or(precision.as_ref(), 0, "the precision of `round`")?;
                round(value, precision, method.as_ref())
            }
            "filesizeformat" => {
                let [binary] = args.bind(name, ["binary"], 0)?;
                let bytes = to_float(value).ok_or_else(|| value.unfit("`filesizeformat` takes a number"))?;
                file_size(bytes, is_set(binary.as_ref())).map(Value::text)
            }
            "tojson" => tojson(value, args, budget),
            "random" => Err(error("`random` gives another item each time, which training data must not depend on")),
            "urlize" => Err(error("the filter `urlize` is not supported: it makes links for HTML pages")),
            "batch" | "dictsort" | "first" | "groupby" | "items" | "join" | "last" | "list" | "map" | "max" | "min"
            | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "slice" | "sort" | "sum" | "unique" => {
                self.sequence_filter(name, value, args)
            }
            _ => self.text_filter(name, value, args),
        }
    }

    /// The text of a value as most filters take it, HTML if it is.
    pub(super) fn soft(&self, value: &Value) -> Result<Text> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Ok(Text { text: soft_text(other, self.budget)?, is_markup: false }),
        }
    }

    fn length(&self, value: &Value) -> Result<Value> {
        if let Some(text) = value.as_text() {
            self.budget.read(text.len())?;
        }
        if let Value::Object(object) = value
            && let Some(length) = self.loop_attribute(object, &Arc::from("length"))?
        {
            return Ok(length);
        }
        let length = value.len().ok_or_else(|| {
            value.unfit("`length` takes a text, a list or a dictionary; `| list` makes a list of an iterator")
        })?;
        Ok(Value::Integer(length as i128))
    }

    fn text_filter(&self, name: &str, value: &Value, args: Args) -> Result<Value> {
        let budget = self.budget;
        let text = self.soft(value)?;
        budget.read(text.text.len())?;
        let same_kind = |out: String| {
            budget.text(out.len())?;
            Ok(if text.is_markup { Value::markup(out) } else { Value::text(out) })
        };
        match name {
            "upper" | "lower" | "capitalize" => {
                let [] = args.places(name, 0)?;
                same_kind(match name {
                    "upper" => text.text.to_uppercase(),
                    "lower" => text.text.to_lowercase(),
                    _ => capitalize(&text.text),
                })
            }
            "trim" => {
                let [characters] = args.bind(name, ["chars"], 0)?;
                same_kind(strip(&text.text, "strip", characters.as_ref(), budget)?.to_owned())
            }
            "center" => {
                let [width] = args.bind(name, ["width"], 0)?;
                let width = super::call::size_of(&width.unwrap_or(Value::Integer(80)), "the width of `center`")?;
                same_kind(justify(&text.text, name, width, ' ', budget)?)
            }
            "striptags" => {
                let [] = args.places(name, 0)?;
                Ok(Value::text(strip_tags(&text.text, budget)?))
            }
            "replace" => {
                let [old, new, count] = args.bind(name, ["old", "new", "count"], 2)?;
                let count = count.filter(|count| !matches!(count, Value::None));
                let count = integer_or(count.as_ref(), -1, "the count of `replace`")?;
                let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
                let (old, new) = (soft_text(&old, budget)?, soft_text(&new, budget)?);
                Ok(Value::text(replace(&text.text, &old, &new, count, budget)?))
            }
            _ => self.wording(name, value, &text, args),
        }
    }
}

fn absolute(value: &Value) -> Result<Value> {
    match value {
        Value::Float(number) => Ok(Value::Float(number.abs())),
        other => match other.as_integer().map(i128::checked_abs) {
            Some(Some(number)) => Ok(Value::Integer(number)),
            Some(None) => Err(error("a number is larger than 128 bits")),
            None => Err(other.unfit("`abs` takes a number")),
        },
    }
}

/// Python's `float(value)`, of numbers and texts.
fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Text(text) => {
            let digits = plain_number(&text.text)?;
            let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
            // Rust reads what Python reads.
            digits.parse().ok().filter(|_| !unsigned.is_empty())
        }
        other => other.as_float(),
    }
}

/// A number without the blanks around it and the underscores between its digits; digits of other scripts as ASCII.
fn plain_number(text: &str) -> Option<String> {
    let text = text.trim_matches(super::characters::is_space);
    let mut out = String::new();
    let mut before = ' ';
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '_' {
            let next = characters.peek().copied().unwrap_or(' ');
            if !before.is_alphanumeric() || !next.is_alphanumeric() {
                return None;
            }
        } else if !character.is_ascii() && super::characters::is_decimal(character) {
            // Decimals come in runs of ten that begin with zero.
            let mut value = 0;
            let mut code = character as u32;
            while value < 10 && char::from_u32(code - 1).is_some_and(super::characters::is_decimal) {
                code -= 1;
                value += 1;
            }
            out.push(char::from(b'0' + (value % 10) as u8));
        } else {
            out.push(character);
        }
        before = character;
    }
    Some(out)
}

/// The filter `int`: nothing where its default stands.
fn to_integer(value: &Value, base: i128) -> Result<Option<i128>> {
    match value {
        Value::Undefined(reason) => Err(error(&**reason)),
        Value::Text(text) => {
            if !(base == 0 || (2..=36).contains(&base)) {
                return to_float(value).filter(|number| number.is_finite()).map(integer_of).transpose();
            }
            let digits = plain_number(&text.text);
            if let Some(number) = digits.and_then(|digits| parse_integer(&digits, base as u32)) {
                return number.map(Some);
            }
            to_float(value).filter(|number| number.is_finite()).map(integer_of).transpose()
        }
        Value::Float(number) if number.is_nan() => Ok(None),
        Value::Float(number) => integer_of(*number).map(Some),
        other => Ok(other.as_integer()),
    }
}

/// Python's `int(text, base)`: nothing for a text that is no number, an error for one that is too large.
fn parse_integer(text: &str, base: u32) -> Option<Result<i128>> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match (base, lower.get(..2)) {
        (0 | 16, Some("0x")) => (16, &lower[2..]),
        (0 | 8, Some("0o")) => (8, &lower[2..]),
        (0 | 2, Some("0b")) => (2, &lower[2..]),
        (0, _) if lower.starts_with('0') && lower.bytes().any(|byte| byte != b'0') => return None,
        (0, _) => (10, &*lower),
        (base, _) => (base, &*lower),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).map_err(|_| error("a number is larger than 128 bits"));
    Some(number.map(|number| if negative { -number } else { number }))
}

fn round(value: &Value, precision: i128, method: Option<&Value>) -> Result<Value> {
    let method = match method {
        None => "common",
        Some(Value::Text(text)) if matches!(&*text.text, "common" | "ceil" | "floor") => &text.text,
        Some(_) => return Err(error("the method of `round` is common, ceil or floor")),
    };
    if precision.unsigned_abs() > 400 {
        return Err(error("the precision of `round` is beyond 400 digits"));
    }
    let precision = precision as i32;
    if method != "common" {
        let number = value.as_float().ok_or_else(|| value.unfit("`round` takes a number"))?;
        let scale = 10f64.powi(precision);
        let scaled = number * scale;
        return Ok(Value::Float(if method == "ceil" { scaled.ceil() } else { scaled.floor() } / scale));
    }
    if let Some(number) = value.as_integer() {
        let Some(scale) = (precision < 0).then(|| 10i128.checked_pow(precision.unsigned_abs())) else {
            return Ok(Value::Integer(number));
        };
        let Some(scale) = scale else { return Ok(Value::Integer(0)) };
        let (below, rest) = (number.div_euclid(scale), number.rem_euclid(scale));
        let up = rest * 2 > scale || rest * 2 == scale && below % 2 != 0;
        return Ok(Value::Integer((below + i128::from(up)) * scale));
    }
    let number = value.as_float().ok_or_else(|| value.unfit("`round` takes a number"))?;
    if !number.is_finite() || number == 0.0 {
        return Ok(Value::Float(number));
    }
    if precision >= 0 {
        let text = format!("{number:.*}", precision as usize);
        return Ok(Value::Float(text.parse().unwrap_or(number)));
    }
    let scale = 10f64.powi(-precision);
    let scaled = number / scale;
    Ok(Value::Float(scaled.round_ties_even() * scale))
}

fn file_size(bytes: f64, binary: bool) -> Result<String> {
    const UNITS: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let base = if binary { 1024.0 } else { 1000.0 };
    if bytes.to_bits() == 1.0_f64.to_bits() {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", integer_of(bytes)?));
    }
    let mut unit = base;
    let mut at = 0;
    while at < UNITS.len() - 1 && bytes >= unit * base {
        unit *= base;
        at += 1;
    }
    let letter = if binary { UNITS[at].to_uppercase() + "iB" } else { format!("{}B", UNITS[at]) };
    Ok(format!("{:.1} {letter}", bytes / unit))
}
