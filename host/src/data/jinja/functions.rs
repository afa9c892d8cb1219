//! Functions that every template can call.

use std::rc::Rc;
use std::sync::Arc;

use super::error::{Result, error};
use super::interpreter::Interpreter;
use super::iterate::iterate;
use super::limits::RANGE_ITEMS;
use super::strftime::strftime;
use super::text::text_of;
use super::value::{Args, Dict, Object, Range, Scope, Value};

/// The function with this name.
pub(super) fn named(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 8] =
        ["range", "dict", "lipsum", "cycler", "joiner", "namespace", "raise_exception", "strftime_now"];
    NAMES.into_iter().find(|known| *known == name)
}

impl Interpreter<'_> {
    /// A variable, or a function that every template has.
    pub(super) fn variable(&self, name: &Arc<str>, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.work(scope.depth / 8)?;
        if let Some(value) = scope.get(name) {
            return Ok(value);
        }
        Ok(match named(name) {
            Some(function) => Value::object(Object::Function(function)),
            None => Value::undefined(format!("`{name}` is undefined")),
        })
    }

    /// Calls a function by its name.
    pub(super) fn function(&self, name: &str, args: Args) -> Result<Value> {
        match name {
            "range" => range(args),
            "dict" => Ok(Value::dict(self.make_dict("dict", args)?)),
            "namespace" => self.namespace(self.make_dict("namespace", args)?),
            "cycler" => {
                if let Some((argument, _)) = args.named.first() {
                    return Err(error(format!("`cycler` has no argument `{argument}`")));
                }
                if args.positional.is_empty() {
                    return Err(error("`cycler` takes at least one value"));
                }
                Value::cycler(args.positional)
            }
            "joiner" => {
                let [separator] = args.bind("joiner", ["sep"], 0)?;
                let separator = separator.unwrap_or_else(|| Value::text(", "));
                Ok(Value::object(Object::Joiner { separator, is_used: false.into() }))
            }
            "raise_exception" => {
                let [message] = args.bind("raise_exception", ["message"], 1)?;
                Err(error(text_of(&message.unwrap_or(Value::None), self.budget)?))
            }
            "strftime_now" => {
                let [format] = args.bind("strftime_now", ["format"], 1)?;
                let format = format.unwrap_or(Value::None);
                let format = format.as_text().ok_or_else(|| format.unfit("`strftime_now` takes a text"))?;
                let text = strftime(self.now, format, self.budget)?;
                self.budget.text(text.len())?;
                Ok(Value::text(text))
            }
            _ => Err(error(format!("`{name}` gives random text, which training data must not depend on"))),
        }
    }

    /// `dict(other, name=value)`, where `other` is a dictionary or pairs.
    fn make_dict(&self, function: &str, args: Args) -> Result<Dict> {
        let mut given = args.positional.into_iter();
        let mut dict = match given.next() {
            None => Dict::default(),
            Some(Value::Dict(other)) => other.copy(self.budget)?,
            Some(pairs) => {
                let mut dict = Dict::default();
                let mut cursor = iterate(&pairs)?;
                while let Some(pair) = self.advance(&mut cursor)? {
                    match &self.collect(&pair)?[..] {
                        [key, value] => dict.set(key.clone(), value.clone(), self.budget)?,
                        items => return Err(error(format!("`{function}` takes pairs, not {} items", items.len()))),
                    }
                }
                dict
            }
        };
        if given.next().is_some() {
            return Err(error(format!("`{function}` takes at most one value without a name")));
        }
        for (name, value) in args.named {
            dict.set(Value::text(name), value, self.budget)?;
        }
        Ok(dict)
    }
}

fn range(args: Args) -> Result<Value> {
    let [first, second, third] = args.places("range", 1)?;
    let number = |value: Option<Value>, default: i128| match value {
        None => Ok(default),
        Some(value) => {
            let number = value.as_integer().ok_or_else(|| value.unfit("`range` takes integers"))?;
            if number.unsigned_abs() > 1 << 100 { Err(error("`range` takes smaller integers")) } else { Ok(number) }
        }
    };
    let (start, stop) = match second {
        Some(stop) => (number(first, 0)?, number(Some(stop), 0)?),
        None => (0, number(first, 0)?),
    };
    let step = number(third, 1)?;
    if step == 0 {
        return Err(error("the step of `range` is 0"));
    }
    let range = Range { start, stop, step };
    if range.len() > RANGE_ITEMS {
        return Err(error(format!("`range` has {} items; templates may have {RANGE_ITEMS}", range.len())));
    }
    Ok(Value::object(Object::Range(range)))
}
