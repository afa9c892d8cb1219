//! Variables: each loop, macro and block has a scope, and sees those around it.

use std::rc::Rc;
use std::sync::Arc;

use super::{Scope, Value};

/// Variables up to which names are compared one by one: most scopes have two or three.
const FEW: usize = 8;

impl Scope {
    /// A scope within `around`.
    pub(in crate::data::jinja) fn within(around: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { around: Some(around.clone()), depth: around.depth + 1, ..Self::default() })
    }

    pub(in crate::data::jinja) fn set(&self, name: &Arc<str>, value: Value) {
        let mut few = self.few.borrow_mut();
        if let Some((_, place)) = few.iter_mut().find(|(other, _)| other == name) {
            *place = value;
        } else if few.len() < FEW {
            few.push((name.clone(), value));
        } else {
            self.more.borrow_mut().insert(name.clone(), value);
        }
    }

    pub(in crate::data::jinja) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            let few = scope.few.borrow();
            if let Some((_, value)) = few.iter().find(|(other, _)| **other == *name) {
                return Some(value.clone());
            }
            if few.len() == FEW
                && let Some(value) = scope.more.borrow().get(name)
            {
                return Some(value.clone());
            }
            scope = scope.around.as_deref()?;
        }
    }

    /// Lets go of all variables. A macro refers to the scope that it stands in, which would keep both for good.
    pub(in crate::data::jinja) fn clear(&self) {
        self.few.take();
        self.more.take();
    }
}
