//! Dictionaries: entries in the order of their insertion, found by keys that Python takes for equal.

use std::rc::Rc;
use std::sync::Arc;

use super::{Dict, Key, Object, Value, deeper};
use crate::data::jinja::error::{Result, error};
use crate::data::jinja::limits::Budget;

impl Key {
    /// The key that a value is, or the error that Python raises for lists and dictionaries.
    pub(in crate::data::jinja) fn of(value: &Value, budget: &Budget) -> Result<Self> {
        Ok(match value {
            Value::Undefined(_) => Self::Undefined,
            Value::None => Self::None,
            Value::Bool(value) => Self::Integer(i128::from(*value)),
            Value::Integer(value) => Self::Integer(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e38 => Self::Integer(*value as i128),
            Value::Float(value) => Self::Float(value.to_bits()),
            Value::Text(text) => {
                budget.read(text.text.len())?;
                Self::Text(text.text.clone())
            }
            Value::Tuple(items) => {
                budget.items(items.items.len() * 2)?;
                Self::Tuple(items.items.iter().map(|item| Self::of(item, budget)).collect::<Result<_>>()?)
            }
            Value::Object(object) if !matches!(**object, Object::View(..)) => Self::Object(Rc::as_ptr(object).addr()),
            other => return Err(error(format!("a value of type `{}` cannot be a key", other.type_name()))),
        })
    }
}

impl Dict {
    /// Entries up to which keys are compared one by one.
    const FEW: usize = 8;

    pub(in crate::data::jinja) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in crate::data::jinja) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    fn place(&self, key: &Key) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(key).copied(),
            None => self.keys.iter().position(|other| other == key),
        }
    }

    pub(in crate::data::jinja) fn get_key(&self, key: &Key) -> Option<&Value> {
        self.place(key).map(|place| &self.entries[place].1)
    }

    pub(in crate::data::jinja) fn get(&self, key: &Value, budget: &Budget) -> Result<Option<&Value>> {
        Ok(self.get_key(&Key::of(key, budget)?))
    }

    pub(in crate::data::jinja) fn get_text(&self, key: &Arc<str>) -> Option<&Value> {
        self.get_key(&Key::Text(key.clone()))
    }

    /// Sets a key, which keeps its place if it is there.
    pub(in crate::data::jinja) fn set(&mut self, key: Value, value: Value, budget: &Budget) -> Result<()> {
        let hashed = Key::of(&key, budget)?;
        self.depth = deeper(self.depth, [&key, &value])?;
        if let Some(place) = self.place(&hashed) {
            self.entries[place].1 = value;
            return Ok(());
        }
        budget.items(2)?;
        let place = self.entries.len();
        if let Some(places) = &mut self.places {
            places.insert(hashed.clone(), place);
        }
        self.keys.push(hashed);
        self.entries.push((key, value));
        if self.places.is_none() && self.entries.len() > Self::FEW {
            self.places = Some(self.keys.iter().cloned().enumerate().map(|(place, key)| (key, place)).collect());
        }
        Ok(())
    }

    /// A copy of the entries, as `dict(other)` makes it.
    pub(in crate::data::jinja) fn copy(&self, budget: &Budget) -> Result<Self> {
        budget.items(self.len() * 2)?;
        Ok(Self {
            entries: self.entries.clone(),
            keys: self.keys.clone(),
            places: self.places.clone(),
            depth: self.depth,
        })
    }

    /// Empties it, so that what it holds is let go.
    pub(in crate::data::jinja) fn clear(&mut self) {
        *self = Self::default();
    }
}
