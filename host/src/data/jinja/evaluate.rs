//! Evaluates expressions.

use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Arguments, Constant, Expression, ExpressionKind};
use super::error::{Error, Result, error};
use super::interpreter::Interpreter;
use super::methods::{Attribute, attribute_of};
use super::operators;
use super::text::text_of;
use super::value::{Args, Dict, Object, Scope, Value};

impl Interpreter<'_> {
    /// The value of an expression.
    pub(super) fn evaluate(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.work(1)?;
        let result = match &expression.kind {
            ExpressionKind::Constant(constant) => Ok(Self::constant(constant)),
            ExpressionKind::Name(name) => self.variable(name, scope),
            ExpressionKind::Binary(..) => self.deeper(|| self.chain(expression, scope)),
            kind => self.deeper(|| self.compound(kind, scope)),
        };
        result.map_err(|error| error.at(expression.line))
    }

    fn constant(constant: &Constant) -> Value {
        match constant {
            Constant::None => Value::None,
            Constant::Bool(value) => Value::Bool(*value),
            Constant::Integer(value) => Value::Integer(*value),
            Constant::Float(value) => Value::Float(*value),
            Constant::Text(text) => Value::text(text.clone()),
        }
    }

    /// `a + b + c …`, which leans to the left: without a level for each operand.
    fn chain(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value> {
        let mut pending = Vec::new();
        let mut first = expression;
        while let ExpressionKind::Binary(operator, left, right) = &first.kind {
            pending.push((*operator, right, first.line));
            first = left;
        }
        let mut value = self.evaluate(first, scope)?;
        while let Some((operator, right, line)) = pending.pop() {
            let right = self.evaluate(right, scope)?;
            value = operators::binary(operator, &value, &right, self.budget).map_err(|error| error.at(line))?;
        }
        Ok(value)
    }

    fn all(&self, expressions: &[Expression], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        self.budget.items(expressions.len())?;
        expressions.iter().map(|expression| self.evaluate(expression, scope)).collect()
    }

    fn compound(&self, kind: &ExpressionKind, scope: &Rc<Scope>) -> Result<Value> {
        match kind {
            ExpressionKind::Constant(constant) => Ok(Self::constant(constant)),
            ExpressionKind::Name(name) => self.variable(name, scope),
            ExpressionKind::List(items) => Value::list(self.all(items, scope)?),
            ExpressionKind::Tuple(items) => Value::tuple(self.all(items, scope)?),
            ExpressionKind::Dict(items) => {
                let mut dict = Dict::default();
                for (key, value) in items {
                    dict.set(self.evaluate(key, scope)?, self.evaluate(value, scope)?, self.budget)?;
                }
                Ok(Value::dict(dict))
            }
            ExpressionKind::Attribute(of, name) => self.attribute(&self.evaluate(of, scope)?, name),
            ExpressionKind::Item(of, key) => {
                let of = self.evaluate(of, scope)?;
                self.subscript(&of, &self.evaluate(key, scope)?)
            }
            ExpressionKind::Slice(of, bounds) => {
                let of = self.evaluate(of, scope)?;
                let bound =
                    |bound: &Option<Expression>| bound.as_ref().map(|bound| self.evaluate(bound, scope)).transpose();
                let bounds = [bound(&bounds[0])?, bound(&bounds[1])?, bound(&bounds[2])?];
                operators::slice(&of, bounds.each_ref().map(Option::as_ref), self.budget)
            }
            ExpressionKind::Call(callee, arguments) => {
                let callee = self.evaluate(callee, scope)?;
                self.call(&callee, self.arguments(arguments, scope)?)
            }
            ExpressionKind::Filter(of, name, arguments) => {
                let of = match of {
                    Some(of) => self.evaluate(of, scope)?,
                    None => self.blocks.borrow().last().cloned().unwrap_or(Value::None),
                };
                self.filter(name, &of, self.arguments(arguments, scope)?)
            }
            ExpressionKind::Test(of, name, arguments) => {
                let of = self.evaluate(of, scope)?;
                Ok(Value::Bool(self.test(name, &of, self.arguments(arguments, scope)?)?))
            }
            ExpressionKind::Not(of) => Ok(Value::Bool(!self.evaluate(of, scope)?.is_true())),
            ExpressionKind::Negative(of) => operators::negative(&self.evaluate(of, scope)?),
            ExpressionKind::Positive(of) => operators::positive(&self.evaluate(of, scope)?),
            ExpressionKind::Binary(operator, left, right) => {
                let left = self.evaluate(left, scope)?;
                operators::binary(*operator, &left, &self.evaluate(right, scope)?, self.budget)
            }
            ExpressionKind::And(operands) => self.first(operands, false, scope),
            ExpressionKind::Or(operands) => self.first(operands, true, scope),
            ExpressionKind::Compare(first, others) => self.compare(first, others, scope),
            ExpressionKind::Concat(operands) => operators::concat(&self.all(operands, scope)?, self.budget),
            ExpressionKind::If(test, then, otherwise) => {
                if self.evaluate(test, scope)?.is_true() {
                    return self.evaluate(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.evaluate(otherwise, scope),
                    None => Ok(Value::undefined("the test of an inline `if` does not hold, and it has no `else`")),
                }
            }
        }
    }

    /// The first operand whose truth is `wanted`, or the last one.
    fn first(&self, operands: &[Expression], wanted: bool, scope: &Rc<Scope>) -> Result<Value> {
        let mut value = Value::None;
        for operand in operands {
            value = self.evaluate(operand, scope)?;
            if value.is_true() == wanted {
                break;
            }
        }
        Ok(value)
    }

    fn compare(
        &self,
        first: &Expression,
        others: &[(super::ast::Comparison, Expression)],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        use super::ast::Comparison::{In, NotIn};
        let mut left = self.evaluate(first, scope)?;
        for (comparison, other) in others {
            let right = self.evaluate(other, scope)?;
            let holds = match comparison {
                In => self.is_in(&right, &left)?,
                NotIn => !self.is_in(&right, &left)?,
                other => operators::compare(*other, &left, &right, self.budget)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// The values of a call's arguments.
    pub(super) fn arguments(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Args> {
        let mut args = Args { positional: self.all(&arguments.positional, scope)?, named: Vec::new() };
        for (name, value) in &arguments.named {
            args.named.push((name.clone(), self.evaluate(value, scope)?));
        }
        if let Some(list) = &arguments.list {
            args.positional.extend(self.collect(&self.evaluate(list, scope)?)?);
        }
        if let Some(dict) = &arguments.dict {
            let value = self.evaluate(dict, scope)?;
            let Value::Dict(dict) = &value else { return Err(value.unfit("`**` in a call takes a dictionary")) };
            self.budget.items(dict.len())?;
            self.budget.work(dict.len() * arguments.named.len() / 16)?;
            for (key, value) in dict.entries() {
                let name = key.as_text().ok_or_else(|| key.unfit("the names of arguments are texts"))?;
                if arguments.named.iter().any(|(other, _)| other == name) {
                    return Err(error(format!("the argument `{name}` is given twice")));
                }
                args.named.push((name.clone(), value.clone()));
            }
        }
        Ok(args)
    }

    /// `of.name`: an attribute as Python has it, or else what a dictionary has under that key.
    pub(super) fn attribute(&self, of: &Value, name: &Arc<str>) -> Result<Value> {
        if let Value::Undefined(reason) = of {
            return Err(error(&**reason));
        }
        if let Some(value) = self.own_attribute(of, name)? {
            return Ok(value);
        }
        if let Value::Dict(dict) = of
            && let Some(value) = dict.get_text(name)
        {
            return Ok(value.clone());
        }
        Ok(missing(of, name))
    }

    /// `of[key]`: an item, or else an attribute.
    pub(super) fn subscript(&self, of: &Value, key: &Value) -> Result<Value> {
        if let Some(value) = operators::item(of, key, self.budget)? {
            return Ok(value);
        }
        if let Value::Text(name) = key {
            if let Some(value) = self.own_attribute(of, &name.text)? {
                return Ok(value);
            }
            return Ok(missing(of, &name.text));
        }
        Ok(missing(of, &text_of(key, self.budget)?))
    }

    /// An attribute that Python's own type has.
    pub(super) fn own_attribute(&self, of: &Value, name: &Arc<str>) -> Result<Option<Value>> {
        if let Value::Object(object) = of {
            match &**object {
                Object::Namespace(attributes) => return Ok(attributes.borrow().get_text(name).cloned()),
                Object::Loop(_) => return self.loop_attribute(object, name),
                _ => {}
            }
        }
        Ok(match attribute_of(of, name) {
            Attribute::Value(value) => Some(value),
            Attribute::Method => Some(Value::method(of, name)?),
            Attribute::Refused => Some(Value::undefined(format!(
                "`{name}` of a value of type `{}` is not open to templates",
                of.type_name()
            ))),
            Attribute::None => None,
        })
    }

    /// `of.a.b` by a path, as the filters `map`, `sort` and their like take it: `"a.b"`, or a number.
    pub(super) fn path(&self, of: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
        let mut value = of.clone();
        let step = |value: &Value, key: &Value| {
            let found = self.subscript(value, key)?;
            Ok::<_, Error>(match (&found, default) {
                (Value::Undefined(_), Some(default)) if !matches!(default, Value::None) => default.clone(),
                _ => found,
            })
        };
        match path {
            Value::Text(text) => {
                for part in text.text.split('.') {
                    let key = match part.parse::<i128>() {
                        Ok(number) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::Integer(number),
                        _ => Value::text(part),
                    };
                    value = step(&value, &key)?;
                }
                Ok(value)
            }
            Value::None => Ok(value),
            other => step(&value, other),
        }
    }
}

fn missing(of: &Value, name: &str) -> Value {
    match of {
        Value::Dict(_) => Value::undefined(format!("`{name}` is undefined: the dictionary has no such key")),
        Value::Undefined(reason) => Value::Undefined(reason.clone()),
        other => Value::undefined(format!("`{name}` is undefined: a value of type `{}` has none", other.type_name())),
    }
}
