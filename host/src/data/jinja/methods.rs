//! Attributes and methods of Python's types that Jinja2's immutable sandbox lets a template reach.

use std::sync::Arc;

use super::error::{Result, error};
use super::interpreter::Interpreter;
use super::iterate::iterate;
use super::operators::{equal, slice_places};
use super::strings;
use super::value::{Args, Dict, Object, Value, View};

/// What a name is on a value.
pub(super) enum Attribute {
    Value(Value),
    Method,
    /// There in Python, but kept from templates.
    Refused,
    None,
}

/// Methods that change what they are called on.
const LIST_CHANGES: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const DICT_CHANGES: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// What `name` is on a value that is neither a namespace nor a loop.
pub(super) fn attribute_of(of: &Value, name: &str) -> Attribute {
    if name.starts_with("__") && name.ends_with("__") {
        return Attribute::Refused;
    }
    match of {
        Value::Text(text) => {
            if strings::METHODS.contains(&name) || text.is_markup && matches!(name, "striptags" | "unescape") {
                Attribute::Method
            } else {
                Attribute::None
            }
        }
        Value::List(_) => match name {
            "index" | "count" | "copy" => Attribute::Method,
            name if LIST_CHANGES.contains(&name) => Attribute::Refused,
            _ => Attribute::None,
        },
        Value::Tuple(items) => match name {
            "grouper" if items.is_group => Attribute::Value(items.items[0].clone()),
            "list" if items.is_group => Attribute::Value(items.items[1].clone()),
            "index" | "count" => Attribute::Method,
            _ => Attribute::None,
        },
        Value::Dict(_) => match name {
            "get" | "items" | "keys" | "values" | "copy" | "fromkeys" => Attribute::Method,
            name if DICT_CHANGES.contains(&name) => Attribute::Refused,
            _ => Attribute::None,
        },
        Value::Bool(_) | Value::Integer(_) => {
            let number = of.as_integer().unwrap_or_default();
            match name {
                "real" | "numerator" => Attribute::Value(Value::Integer(number)),
                "imag" => Attribute::Value(Value::Integer(0)),
                "denominator" => Attribute::Value(Value::Integer(1)),
                "bit_length" | "bit_count" | "conjugate" => Attribute::Method,
                _ => Attribute::None,
            }
        }
        Value::Float(number) => match name {
            "real" => Attribute::Value(Value::Float(*number)),
            "imag" => Attribute::Value(Value::Float(0.0)),
            "is_integer" | "conjugate" => Attribute::Method,
            _ => Attribute::None,
        },
        Value::Object(object) => match (&**object, name) {
            (Object::Function("dict"), "fromkeys")
            | (Object::Cycler { .. }, "next" | "reset")
            | (Object::Range(_), "index" | "count") => Attribute::Method,
            (Object::Range(range), "start") => Attribute::Value(Value::Integer(range.start)),
            (Object::Range(range), "stop") => Attribute::Value(Value::Integer(range.stop)),
            (Object::Range(range), "step") => Attribute::Value(Value::Integer(range.step)),
            (Object::Cycler { items, at }, "current") => Attribute::Value(items.items[at.get()].clone()),
            (Object::Macro(value), "name") => Attribute::Value(Value::text(value.definition.name.clone())),
            (Object::Macro(value), "caller") => Attribute::Value(Value::Bool(value.definition.reads.caller)),
            (Object::Macro(value), "catch_kwargs") => Attribute::Value(Value::Bool(value.definition.reads.kwargs)),
            (Object::Macro(value), "catch_varargs") => Attribute::Value(Value::Bool(value.definition.reads.varargs)),
            (Object::Macro(value), "arguments") => {
                let names = value.definition.parameters.iter().cloned().map(Value::text).collect();
                Value::tuple(names).map_or(Attribute::None, Attribute::Value)
            }
            _ => Attribute::None,
        },
        Value::Undefined(_) | Value::None => Attribute::None,
    }
}

impl Interpreter<'_> {
    /// Calls a method. That the value has it is known.
    pub(super) fn method(&self, of: &Value, name: &Arc<str>, args: Args) -> Result<Value> {
        match of {
            Value::Text(text) => strings::method(self, text, name, args),
            Value::List(items) | Value::Tuple(items) => match &**name {
                "copy" => {
                    let [] = args.places("copy", 0)?;
                    Ok(of.clone())
                }
                "count" => {
                    let [wanted] = args.places("count", 1)?;
                    self.count(&items.items, wanted.as_ref())
                }
                _ => {
                    let [wanted, start, stop] = args.places("index", 1)?;
                    self.index(&items.items, wanted.as_ref(), [start.as_ref(), stop.as_ref()])
                }
            },
            Value::Dict(dict) => self.dict_method(of, dict, name, args),
            Value::Bool(_) | Value::Integer(_) => {
                let [] = args.places(name, 0)?;
                let number = of.as_integer().unwrap_or_default();
                Ok(Value::Integer(match &**name {
                    "bit_length" => i128::from(128 - number.unsigned_abs().leading_zeros()),
                    "bit_count" => i128::from(number.unsigned_abs().count_ones()),
                    _ => number,
                }))
            }
            Value::Float(number) => {
                let [] = args.places(name, 0)?;
                Ok(match &**name {
                    "is_integer" => Value::Bool(number.is_finite() && number.fract() == 0.0),
                    _ => of.clone(),
                })
            }
            Value::Object(object) => match &**object {
                Object::Loop(_) => self.loop_method(object, name, args),
                Object::Function("dict") => self.dict_of_keys(args),
                Object::Cycler { items, at } => {
                    let [] = args.places(name, 0)?;
                    if **name == *"reset" {
                        at.set(0);
                        return Ok(Value::None);
                    }
                    let current = at.get();
                    at.set((current + 1) % items.items.len());
                    Ok(items.items[current].clone())
                }
                Object::Range(_) => {
                    let items = self.collect(of)?;
                    let [wanted] = args.places(name, 1)?;
                    if **name == *"count" {
                        return self.count(&items, wanted.as_ref());
                    }
                    self.index(&items, wanted.as_ref(), [None, None])
                }
                _ => Err(error(format!("`{name}` cannot be called"))),
            },
            _ => Err(error(format!("`{name}` cannot be called"))),
        }
    }

    fn count(&self, items: &[Value], wanted: Option<&Value>) -> Result<Value> {
        let wanted = wanted.unwrap_or(&Value::None);
        let mut count = 0;
        for item in items {
            count += i128::from(equal(item, wanted, self.budget)?);
        }
        Ok(Value::Integer(count))
    }

    fn index(&self, items: &[Value], wanted: Option<&Value>, [start, stop]: [Option<&Value>; 2]) -> Result<Value> {
        let wanted = wanted.unwrap_or(&Value::None);
        let (start, _, count) = slice_places(items.len(), [start, stop, None])?;
        for (index, item) in items.iter().enumerate().skip(start as usize).take(count) {
            if equal(item, wanted, self.budget)? {
                return Ok(Value::Integer(index as i128));
            }
        }
        Err(error("`index` finds no such item"))
    }

    fn dict_method(&self, of: &Value, dict: &std::rc::Rc<Dict>, name: &str, args: Args) -> Result<Value> {
        let view = |view| Value::object(Object::View(view, dict.clone()));
        if name == "get" {
            let [key, default] = args.places("get", 1)?;
            let key = key.unwrap_or(Value::None);
            return Ok(match dict.get(&key, self.budget)? {
                Some(value) => value.clone(),
                None => default.unwrap_or(Value::None),
            });
        }
        if name == "fromkeys" {
            return self.dict_of_keys(args);
        }
        let [] = args.places(name, 0)?;
        Ok(match name {
            "items" => view(View::Items),
            "keys" => view(View::Keys),
            "values" => view(View::Values),
            _ => of.clone(),
        })
    }

    fn dict_of_keys(&self, args: Args) -> Result<Value> {
        let [keys, value] = args.places("fromkeys", 1)?;
        let (keys, value) = (keys.unwrap_or(Value::None), value.unwrap_or(Value::None));
        let mut dict = Dict::default();
        let mut cursor = iterate(&keys)?;
        while let Some(key) = self.advance(&mut cursor)? {
            dict.set(key, value.clone(), self.budget)?;
        }
        Ok(Value::dict(dict))
    }
}
