//! Calls: arguments, macros, methods and functions.

use std::rc::Rc;
use std::sync::Arc;

use super::ast::Macro;
use super::error::{Result, error};
use super::interpreter::Interpreter;
use super::value::{Args, Dict, MacroValue, Object, Scope, Value};

/// An integer argument, or `default` where it is not given.
pub(super) fn integer_or(value: Option<&Value>, default: i128, what: &str) -> Result<i128> {
    match value {
        None => Ok(default),
        Some(value) => value.as_integer().ok_or_else(|| value.unfit(&format!("{what} is an integer"))),
    }
}

/// A size that an argument gives: what is negative is 0.
pub(super) fn size_of(value: &Value, what: &str) -> Result<usize> {
    let number = value.as_integer().ok_or_else(|| value.unfit(&format!("{what} is an integer")))?;
    Ok(usize::try_from(number.max(0)).unwrap_or(usize::MAX))
}

/// A text that an argument gives.
pub(super) fn text_argument(value: &Value, what: &str) -> Result<Arc<str>> {
    value.as_text().cloned().ok_or_else(|| value.unfit(&format!("{what} is a text")))
}

impl Interpreter<'_> {
    /// Calls a value.
    pub(super) fn call(&self, callee: &Value, args: Args) -> Result<Value> {
        let Value::Object(object) = callee else {
            return Err(match callee {
                Value::Undefined(reason) => error(&**reason),
                other => error(format!("a value of type `{}` cannot be called", other.type_name())),
            });
        };
        match &**object {
            Object::Macro(value) => self.call_macro(value, args),
            Object::Function(name) => self.function(name, args),
            Object::Method(of, name) => self.method(of, name, args),
            Object::Loop(_) => self.recurse(object, args),
            Object::Joiner { separator, is_used } => {
                let [] = args.places("joiner", 0)?;
                Ok(if is_used.replace(true) { separator.clone() } else { Value::text("") })
            }
            _ => Err(error(format!("a value of type `{}` cannot be called", callee.type_name()))),
        }
    }

    /// Calls a macro, whose result is the text that it writes.
    fn call_macro(&self, value: &MacroValue, args: Args) -> Result<Value> {
        let Macro { name, parameters, defaults, body, reads } = &*value.definition;
        let scope = Scope::within(&value.scope);
        self.budget.work(args.named.len() * parameters.len() / 16)?;
        let Args { positional, mut named } = args;
        let mut take = |wanted: &str| {
            let place = named.iter().position(|(name, _)| **name == *wanted)?;
            Some(named.remove(place).1)
        };
        let mut given = positional.into_iter();
        let mut missing = Vec::new();
        for (index, parameter) in parameters.iter().enumerate() {
            match given.next().or_else(|| take(parameter)) {
                Some(value) => scope.set(parameter, value),
                None => missing.push(index),
            }
        }
        for index in missing {
            let parameter = &parameters[index];
            let default = (index + defaults.len()).checked_sub(parameters.len()).map(|place| &defaults[place]);
            let value = match default {
                Some(default) => self.evaluate(default, &scope)?,
                None => Value::undefined(format!("the parameter `{parameter}` of the macro `{name}` is not given")),
            };
            scope.set(parameter, value);
        }
        let is_parameter = |wanted: &str| parameters.iter().any(|parameter| **parameter == *wanted);
        if reads.caller && !is_parameter("caller") {
            let caller = take("caller").unwrap_or_else(|| Value::undefined("no `caller` is defined"));
            scope.set(&"caller".into(), caller);
        }
        if reads.kwargs && !is_parameter("kwargs") {
            let mut rest = Dict::default();
            for (name, value) in named {
                rest.set(Value::text(name), value, self.budget)?;
            }
            scope.set(&"kwargs".into(), Value::dict(rest));
        } else if let Some((argument, _)) = named.first() {
            return Err(error(format!("the macro `{name}` has no argument `{argument}`")));
        }
        if reads.varargs && !is_parameter("varargs") {
            scope.set(&"varargs".into(), Value::tuple(given.collect())?);
        } else if given.next().is_some() {
            return Err(error(format!("the macro `{name}` takes at most {} arguments", parameters.len())));
        }
        let text = self.calling(|| self.captured(|| self.run(body, &scope).map(|_| ())))?;
        Ok(Value::text(text))
    }

    /// The value of a macro that is defined in `scope`.
    pub(super) fn macro_value(&self, definition: &Arc<Macro>, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.items(8)?;
        self.keep_scope(scope);
        Ok(Value::object(Object::Macro(MacroValue { definition: definition.clone(), scope: scope.clone() })))
    }
}
