//! Iteration: over values that hold items, and over iterators that filters make and that give each item once.

use std::sync::Arc;

use super::error::{Result, error};
use super::interpreter::Interpreter;
use super::limits::TEXT_BYTES;
use super::value::{Cursor, Mapping, Object, Scope, Value, View};

/// Starts to iterate over a value.
pub(super) fn iterate(value: &Value) -> Result<Cursor> {
    Ok(match value {
        Value::Undefined(_) => Cursor::Done,
        Value::Text(text) => Cursor::Characters(text.text.clone(), 0),
        Value::List(items) | Value::Tuple(items) => Cursor::Items(items.clone(), 0),
        Value::Dict(dict) => Cursor::View(View::Keys, dict.clone(), 0),
        Value::Object(object) => match &**object {
            Object::Range(range) => Cursor::Range(*range, 0),
            Object::View(view, dict) => Cursor::View(*view, dict.clone(), 0),
            Object::Iterator { .. } | Object::Loop(_) => Cursor::Shared(object.clone()),
            _ => return Err(value.unfit("a loop takes a list or another thing with items")),
        },
        other => return Err(other.unfit("a loop takes a list or another thing with items")),
    })
}

/// An iterator over items that are there.
pub(super) fn made(items: Vec<Value>) -> Result<Value> {
    let list = Value::list(items)?;
    let Value::List(items) = &list else { return Ok(Value::None) };
    Value::iterator(Cursor::Items(items.clone(), 0), std::slice::from_ref(&list))
}

impl Interpreter<'_> {
    /// The next item.
    pub(super) fn advance(&self, cursor: &mut Cursor) -> Result<Option<Value>> {
        self.budget.work(1)?;
        match cursor {
            Cursor::Done => Ok(None),
            Cursor::Items(items, at) => {
                *at += 1;
                Ok(items.items.get(*at - 1).cloned())
            }
            Cursor::Characters(text, at) => {
                let Some(character) = text[*at..].chars().next() else { return Ok(None) };
                self.budget.items(1)?;
                *at += character.len_utf8();
                Ok(Some(Value::text(character.to_string())))
            }
            Cursor::Range(range, at) => {
                *at += 1;
                Ok((*at <= range.len()).then(|| Value::Integer(range.get(*at - 1))))
            }
            Cursor::View(view, dict, at) => {
                *at += 1;
                let Some((key, value)) = dict.entries().get(*at - 1) else { return Ok(None) };
                Ok(Some(match view {
                    View::Keys => key.clone(),
                    View::Values => value.clone(),
                    View::Items => Value::tuple(vec![key.clone(), value.clone()])?,
                }))
            }
            Cursor::Made(items) => Ok(items.next()),
            Cursor::Shared(object) => match &**object {
                Object::Iterator { cursor, .. } => {
                    let mut own = cursor
                        .try_borrow_mut()
                        .map_err(|_| error("an iterator is read while it makes its next item"))?;
                    self.deeper(|| self.advance(&mut own))
                }
                Object::Loop(_) => {
                    let item = self.next_of_loop(object)?;
                    item.map(|item| Value::tuple(vec![item, Value::Object(object.clone())])).transpose()
                }
                _ => Ok(None),
            },
            Cursor::Map(from, mapping) => {
                let Some(item) = self.advance(from)? else { return Ok(None) };
                Ok(Some(match mapping {
                    Mapping::Attribute(path, default) => self.path(&item, path, default.as_ref())?,
                    Mapping::Filter(name, args) => self.filter(name, &item, (**args).clone())?,
                }))
            }
            Cursor::Select { from, attribute, test, wanted } => {
                while let Some(item) = self.advance(from)? {
                    let tested = match attribute {
                        Some(path) => self.path(&item, path, None)?,
                        None => item.clone(),
                    };
                    let holds = match test {
                        Some((name, args)) => self.test(name, &tested, (**args).clone())?,
                        None => tested.is_true(),
                    };
                    if holds == *wanted {
                        return Ok(Some(item));
                    }
                }
                Ok(None)
            }
            Cursor::Tested { from, node, scope } => {
                while let Some(item) = self.advance(from)? {
                    let inner = Scope::within(scope);
                    self.assign(&node.target, item.clone(), &inner)?;
                    if let Some(test) = &node.test
                        && self.evaluate(test, &inner)?.is_true()
                    {
                        return Ok(Some(item));
                    }
                }
                Ok(None)
            }
        }
    }

    /// All items of a value.
    pub(super) fn collect(&self, value: &Value) -> Result<Vec<Value>> {
        if let Value::List(items) | Value::Tuple(items) = value {
            self.budget.items(items.items.len())?;
            return Ok(items.items.clone());
        }
        let mut cursor = iterate(value)?;
        self.rest(&mut cursor)
    }

    /// All items that are left.
    pub(super) fn rest(&self, cursor: &mut Cursor) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        while let Some(item) = self.advance(cursor)? {
            self.budget.items(1)?;
            items.push(item);
        }
        Ok(items)
    }

    /// `item in container`, of iterators too.
    pub(super) fn is_in(&self, container: &Value, item: &Value) -> Result<bool> {
        if let Value::Object(object) = container
            && matches!(**object, Object::Iterator { .. })
        {
            let mut cursor = iterate(container)?;
            while let Some(other) = self.advance(&mut cursor)? {
                if super::operators::equal(&other, item, self.budget)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        super::operators::contains(container, item, self.budget)
    }

    /// The texts of items with a separator between them.
    pub(super) fn join(&self, separator: &str, texts: &[Arc<str>]) -> Result<String> {
        let length =
            texts.iter().fold(separator.len().saturating_mul(texts.len()), |sum, text| sum.saturating_add(text.len()));
        if length > TEXT_BYTES {
            self.budget.text(length)?;
        }
        let joined = texts.join(separator);
        self.budget.text(joined.len())?;
        Ok(joined)
    }
}
