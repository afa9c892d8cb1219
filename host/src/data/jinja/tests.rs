//! Jinja2's tests: what stands behind `is`.

use std::rc::Rc;

use super::ast::{Comparison, Operator};
use super::error::{Result, error};
use super::filters::is_filter;
use super::interpreter::Interpreter;
use super::operators::{binary, compare};
use super::strings::is_case;
use super::text::text_of;
use super::value::{Args, Object, Value};

const TESTS: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Whether there is a test with this name.
pub(super) fn is_test(name: &str) -> bool {
    TESTS.contains(&name)
}

impl Interpreter<'_> {
    /// Applies a test by its name.
    pub(super) fn test(&self, name: &str, value: &Value, args: Args) -> Result<bool> {
        let comparison = match name {
            "==" | "eq" | "equalto" => Some(Comparison::Equal),
            "!=" | "ne" => Some(Comparison::NotEqual),
            ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
            ">=" | "ge" => Some(Comparison::GreaterOrEqual),
            "<" | "lt" | "lessthan" => Some(Comparison::Less),
            "<=" | "le" => Some(Comparison::LessOrEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            let [other] = args.places(name, 1)?;
            return compare(comparison, value, &other.unwrap_or(Value::None), self.budget);
        }
        let remainder = |by: &Value, wanted: i128| {
            let rest = binary(Operator::Modulo, value, by, self.budget)?;
            compare(Comparison::Equal, &rest, &Value::Integer(wanted), self.budget)
        };
        match name {
            "divisibleby" => {
                let [by] = args.bind(name, ["num"], 1)?;
                return remainder(&by.unwrap_or(Value::None), 0);
            }
            "sameas" => {
                let [other] = args.bind(name, ["other"], 1)?;
                return Ok(is_same(value, &other.unwrap_or(Value::None)));
            }
            "in" => {
                let [container] = args.bind(name, ["seq"], 1)?;
                return self.is_in(&container.unwrap_or(Value::None), value);
            }
            _ => {}
        }
        let [] = args.places(name, 0)?;
        Ok(match name {
            "odd" => remainder(&Value::Integer(2), 1)?,
            "even" => remainder(&Value::Integer(2), 0)?,
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "filter" | "test" if matches!(value, Value::List(_) | Value::Dict(_)) => {
                return Err(value.unfit(&format!("the test `{name}` takes a name")));
            }
            "filter" => value.as_text().is_some_and(|name| is_filter(name)),
            "test" => value.as_text().is_some_and(|name| is_test(name)),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "false" => matches!(value, Value::Bool(false)),
            "true" => matches!(value, Value::Bool(true)),
            "integer" => matches!(value, Value::Integer(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "lower" => is_case(&text_of(value, self.budget)?, false),
            "upper" => is_case(&text_of(value, self.budget)?, true),
            "string" => value.as_text().is_some(),
            "mapping" => matches!(value, Value::Dict(_)),
            "sequence" => match value {
                Value::Undefined(_) | Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
                Value::Object(object) => matches!(**object, Object::Range(_)),
                _ => false,
            },
            "iterable" => match value {
                Value::Object(object) => {
                    matches!(**object, Object::Range(_) | Object::View(..) | Object::Iterator { .. } | Object::Loop(_))
                }
                Value::None | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => false,
                _ => true,
            },
            "callable" => match value {
                // Jinja2's undefined value has a call that raises its error.
                Value::Undefined(_) => true,
                Value::Object(object) => matches!(
                    **object,
                    Object::Macro(_)
                        | Object::Function(_)
                        | Object::Method(..)
                        | Object::Joiner { .. }
                        | Object::Loop(_)
                ),
                _ => false,
            },
            "escaped" => matches!(value, Value::Text(text) if text.is_markup),
            _ => return Err(error(format!("no test has the name `{name}`"))),
        })
    }
}

/// Python's `is`. Equal numbers and texts are the same one here, as Python's small ones are.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::None, Value::None) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::Integer(one), Value::Integer(other)) => one == other,
        (Value::Text(one), Value::Text(other)) => one.text == other.text && one.is_markup == other.is_markup,
        (Value::List(one), Value::List(other)) | (Value::Tuple(one), Value::Tuple(other)) => Rc::ptr_eq(one, other),
        (Value::Dict(one), Value::Dict(other)) => Rc::ptr_eq(one, other),
        (Value::Object(one), Value::Object(other)) => Rc::ptr_eq(one, other),
        _ => false,
    }
}
