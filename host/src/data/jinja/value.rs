//! The values that a template computes with: Python's, as far as a template can meet them. Values hold one another in
//! circles (a macro its scope, an iterator the arguments of its filter), so all their types are in this file; what can be
//! done with dictionaries, scopes and arguments is in files of their own.

mod arguments;
mod dict;
mod scope;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{For, Macro};
use super::error::{Result, error};
use super::limits::{Budget, VALUE_DEPTH};

/// A value.
#[derive(Clone)]
pub(super) enum Value {
    /// What is not there, with the reason in words.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    Object(Rc<Object>),
}

/// A `str`, or markupsafe's `Markup`, which the filters `escape` and `safe` make.
#[derive(Clone)]
pub(super) struct Text {
    pub(super) text: Arc<str>,
    pub(super) is_markup: bool,
}

/// Items of a list or a tuple.
#[expect(clippy::struct_field_names, reason = "items of items")]
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    depth: u16,
    /// Whether it is a pair that `groupby` makes, which has names for its two items.
    pub(super) is_group: bool,
}

/// Values with an identity, or that no literal makes.
pub(super) enum Object {
    Namespace(RefCell<Dict>),
    Macro(MacroValue),
    /// A function that every template can call, by name.
    Function(&'static str),
    /// A method with the value that it is a method of.
    Method(Value, Arc<str>),
    Loop(RefCell<Loop>),
    Cycler {
        items: Rc<Items>,
        at: Cell<usize>,
    },
    Joiner {
        separator: Value,
        is_used: Cell<bool>,
    },
    /// What can be iterated over once.
    Iterator {
        cursor: RefCell<Cursor>,
        depth: u16,
    },
    Range(Range),
    View(View, Rc<Dict>),
}

/// `dict.keys()` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// A macro with the scope that it was defined in.
pub(super) struct MacroValue {
    pub(super) definition: Arc<Macro>,
    pub(super) scope: Rc<Scope>,
}

/// `range(start, stop, step)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

/// A `dict`: entries in the order of their insertion.
#[derive(Default)]
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    keys: Vec<Key>,
    /// Where each key is, once there are many.
    places: Option<HashMap<Key, usize>>,
    depth: u16,
}

/// A key as Python compares it: `1`, `1.0` and `true` are the same one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Undefined,
    Integer(i128),
    /// The bits of a number that is no integer.
    Float(u64),
    Text(Arc<str>),
    Tuple(Vec<Key>),
    /// An object's address.
    Object(usize),
}

/// Variables of one block.
#[derive(Default)]
pub(super) struct Scope {
    few: RefCell<Vec<(Arc<str>, Value)>>,
    /// Those beyond the first few.
    more: RefCell<HashMap<Arc<str>, Value>>,
    around: Option<Rc<Scope>>,
    /// Scopes around this one.
    pub(super) depth: usize,
}

/// The arguments of a call.
#[derive(Clone, Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

/// A place in what is iterated over.
pub(super) enum Cursor {
    /// Nothing more.
    Done,
    Items(Rc<Items>, usize),
    Characters(Arc<str>, usize),
    Range(Range, i128),
    View(View, Rc<Dict>, usize),
    /// Items made at once.
    Made(std::vec::IntoIter<Value>),
    /// Another iterator, or a loop.
    Shared(Rc<Object>),
    /// The filter `map`.
    Map(Box<Cursor>, Mapping),
    /// The filters `select`, `reject` and their like: kept are the items for which the test says what is wanted.
    Select {
        from: Box<Cursor>,
        attribute: Option<Value>,
        test: Option<(Arc<str>, Rc<Args>)>,
        wanted: bool,
    },
    /// `{% for … if test %}`
    Tested {
        from: Box<Cursor>,
        node: Arc<For>,
        scope: Rc<Scope>,
    },
}

/// What `map` makes of an item.
pub(super) enum Mapping {
    Attribute(Value, Option<Value>),
    Filter(Arc<str>, Rc<Args>),
}

/// What `loop` knows.
pub(super) struct Loop {
    pub(super) over: Value,
    pub(super) cursor: Cursor,
    /// Whether the items are counted by reading them all, because a test leaves some out.
    pub(super) is_tested: bool,
    pub(super) length: Option<usize>,
    pub(super) index0: i128,
    pub(super) after: Peeked,
    pub(super) current: Option<Value>,
    pub(super) before: Option<Value>,
    pub(super) changed: Option<Vec<Value>>,
    pub(super) depth0: i128,
    pub(super) recursion: Option<(Arc<For>, Rc<Scope>)>,
    /// Levels of values that it holds.
    pub(super) depth: u16,
}

/// The item behind the current one.
#[derive(Clone, Default)]
pub(super) enum Peeked {
    #[default]
    Unknown,
    None,
    Item(Value),
}

impl Range {
    pub(super) fn len(self) -> i128 {
        let distance =
            if self.step > 0 { self.stop.saturating_sub(self.start) } else { self.start.saturating_sub(self.stop) };
        if distance <= 0 { 0 } else { (distance - 1) / self.step.saturating_abs() + 1 }
    }

    pub(super) fn get(self, index: i128) -> i128 {
        self.start + index * self.step
    }
}

/// The depth of something that holds `values`, at least `depth`.
fn deeper<'a>(depth: u16, values: impl IntoIterator<Item = &'a Value>) -> Result<u16> {
    let depth = values.into_iter().fold(depth, |most, value| most.max(value.depth() + 1));
    if depth > VALUE_DEPTH {
        return Err(error(format!("its values nest deeper than {VALUE_DEPTH} levels")));
    }
    Ok(depth)
}

impl Value {
    /// Levels of values that this one holds. Namespaces and macros end it: the rendering empties them at its end.
    pub(super) fn depth(&self) -> u16 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) => dict.depth,
            Self::Object(object) => match &**object {
                Object::Method(of, _) => of.depth() + 1,
                Object::Cycler { items, .. } => items.depth,
                Object::Joiner { separator, .. } => separator.depth() + 1,
                Object::Iterator { depth, .. } => *depth,
                Object::View(_, dict) => dict.depth + 1,
                Object::Loop(state) => state.try_borrow().map_or(0, |state| state.depth),
                _ => 0,
            },
            _ => 0,
        }
    }

    pub(super) fn undefined(reason: impl Into<Arc<str>>) -> Self {
        Self::Undefined(reason.into())
    }

    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(Text { text: text.into(), is_markup: false })
    }

    pub(super) fn markup(text: impl Into<Arc<str>>) -> Self {
        Self::Text(Text { text: text.into(), is_markup: true })
    }

    /// A list. Whoever makes the items has asked the budget for them.
    pub(super) fn list(items: Vec<Self>) -> Result<Self> {
        let depth = deeper(1, &items)?;
        Ok(Self::List(Rc::new(Items { items, depth, is_group: false })))
    }

    pub(super) fn tuple(items: Vec<Self>) -> Result<Self> {
        let depth = deeper(1, &items)?;
        Ok(Self::Tuple(Rc::new(Items { items, depth, is_group: false })))
    }

    /// A pair of `groupby`.
    pub(super) fn group(grouper: Self, list: Self) -> Result<Self> {
        let items = vec![grouper, list];
        let depth = deeper(1, &items)?;
        Ok(Self::Tuple(Rc::new(Items { items, depth, is_group: true })))
    }

    pub(super) fn dict(dict: Dict) -> Self {
        Self::Dict(Rc::new(dict))
    }

    pub(super) fn object(object: Object) -> Self {
        Self::Object(Rc::new(object))
    }

    /// An iterator over what `cursor` gives, which reads from `from`.
    pub(super) fn iterator(cursor: Cursor, from: &[Self]) -> Result<Self> {
        Ok(Self::object(Object::Iterator { cursor: RefCell::new(cursor), depth: deeper(1, from)? }))
    }

    pub(super) fn method(of: &Self, name: &Arc<str>) -> Result<Self> {
        deeper(1, [of])?;
        Ok(Self::object(Object::Method(of.clone(), name.clone())))
    }

    pub(super) fn cycler(items: Vec<Self>) -> Result<Self> {
        let depth = deeper(1, &items)?;
        let items = Rc::new(Items { items, depth, is_group: false });
        Ok(Self::object(Object::Cycler { items, at: Cell::new(0) }))
    }

    /// The name of its type as Python's messages have it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Integer(_) => "int",
            Self::Float(_) => "float",
            Self::Text(text) if text.is_markup => "Markup",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Object(object) => match &**object {
                Object::Namespace(_) => "Namespace",
                Object::Macro(_) => "Macro",
                Object::Function(_) => "function",
                Object::Method(..) => "method",
                Object::Loop(_) => "LoopContext",
                Object::Cycler { .. } => "Cycler",
                Object::Joiner { .. } => "Joiner",
                Object::Iterator { .. } => "generator",
                Object::Range(_) => "range",
                Object::View(View::Keys, _) => "dict_keys",
                Object::View(View::Values, _) => "dict_values",
                Object::View(View::Items, _) => "dict_items",
            },
        }
    }

    /// What Python's `bool` says.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Integer(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.items.is_empty(),
            Self::Dict(dict) => dict.len() > 0,
            Self::Object(object) => match &**object {
                Object::Range(range) => range.len() > 0,
                Object::View(_, dict) => dict.len() > 0,
                _ => true,
            },
        }
    }

    /// What Python's `len` says, where a value has one without being read.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::Undefined(_) => 0,
            Self::Text(text) => text.text.chars().count(),
            Self::List(items) | Self::Tuple(items) => items.items.len(),
            Self::Dict(dict) => dict.len(),
            Self::Object(object) => match &**object {
                Object::Range(range) => range.len() as usize,
                Object::View(_, dict) => dict.len(),
                _ => return None,
            },
            _ => return None,
        })
    }

    /// The text of a `str` or `Markup`.
    pub(super) fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) => Some(&text.text),
            _ => None,
        }
    }

    /// An integer, or a `bool`, which is one in Python.
    pub(super) fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// A number as a float.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_integer().map(|value| value as f64),
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// The error of using something that is not there, or of a type that does not fit.
    pub(super) fn unfit(&self, wanted: &str) -> super::error::Error {
        match self {
            Self::Undefined(reason) => error(&**reason),
            other => error(format!("{wanted}, not a value of type `{}`", other.type_name())),
        }
    }

    /// A list out of JSON.
    pub(super) fn from_json_list(items: &[serde_json::Value], budget: &Budget) -> Result<Self> {
        budget.items(items.len())?;
        Self::list(items.iter().map(|item| Self::from_json(item, budget)).collect::<Result<_>>()?)
    }

    /// A value out of JSON.
    pub(super) fn from_json(json: &serde_json::Value, budget: &Budget) -> Result<Self> {
        Ok(match json {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => {
                let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                match integer {
                    Some(value) => Self::Integer(value),
                    None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
                }
            }
            serde_json::Value::String(text) => {
                budget.text(text.len())?;
                Self::text(text.as_str())
            }
            serde_json::Value::Array(items) => Self::from_json_list(items, budget)?,
            serde_json::Value::Object(entries) => {
                let mut dict = Dict { depth: 1, ..Dict::default() };
                for (key, value) in entries {
                    dict.set(Self::text(key.as_str()), Self::from_json(value, budget)?, budget)?;
                }
                Self::dict(dict)
            }
        })
    }
}
