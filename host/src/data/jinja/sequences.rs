//! Filters of lists and of other things with items.

use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use super::ast::Operator;
use super::call::{integer_or, size_of};
use super::error::{Result, error};
use super::filters::is_set;
use super::interpreter::Interpreter;
use super::iterate::{iterate, made};
use super::operators::{binary, equal, order};
use super::strings::soft_text;
use super::value::{Args, Cursor, Key, Mapping, Object, Value};

impl Interpreter<'_> {
    pub(super) fn sequence_filter(&self, name: &str, value: &Value, args: Args) -> Result<Value> {
        match name {
            "list" => {
                let [] = args.places(name, 0)?;
                Value::list(self.collect(value)?)
            }
            "first" => {
                let [] = args.places(name, 0)?;
                let first = self.advance(&mut iterate(value)?)?;
                Ok(first.unwrap_or_else(|| Value::undefined("there is no first item: the list is empty")))
            }
            "last" => {
                let [] = args.places(name, 0)?;
                is_reversible(value)?;
                let last = self.collect(value)?.pop();
                Ok(last.unwrap_or_else(|| Value::undefined("there is no last item: the list is empty")))
            }
            "reverse" => {
                let [] = args.places(name, 0)?;
                if let Value::Text(text) = value {
                    self.budget.text(text.text.len())?;
                    return Ok(Value::text(text.text.chars().rev().collect::<String>()));
                }
                let mut items = self.collect(value)?;
                items.reverse();
                if is_reversible(value).is_ok() { made(items) } else { Value::list(items) }
            }
            "items" => {
                let [] = args.places(name, 0)?;
                match value {
                    Value::Undefined(_) => made(Vec::new()),
                    Value::Dict(dict) => Value::iterator(
                        Cursor::View(super::value::View::Items, dict.clone(), 0),
                        std::slice::from_ref(value),
                    ),
                    other => Err(other.unfit("`items` takes a dictionary")),
                }
            }
            "join" => {
                let [separator, attribute] = args.bind(name, ["d", "attribute"], 0)?;
                let separator = separator.unwrap_or_else(|| Value::text(""));
                let separator = soft_text(&separator, self.budget)?;
                let mut texts = Vec::new();
                let mut cursor = iterate(value)?;
                while let Some(item) = self.advance(&mut cursor)? {
                    let item = match &attribute {
                        None | Some(Value::None) => item,
                        Some(path) => self.path(&item, path, None)?,
                    };
                    self.budget.items(1)?;
                    texts.push(soft_text(&item, self.budget)?);
                }
                Ok(Value::text(self.join(&separator, &texts)?))
            }
            "sum" => {
                let [attribute, start] = args.bind(name, ["attribute", "start"], 0)?;
                let mut sum = start.unwrap_or(Value::Integer(0));
                if sum.as_text().is_some() {
                    return Err(error("`sum` does not add texts; `join` joins them"));
                }
                let mut cursor = iterate(value)?;
                while let Some(item) = self.advance(&mut cursor)? {
                    let item = match &attribute {
                        None | Some(Value::None) => item,
                        Some(path) => self.path(&item, path, None)?,
                    };
                    sum = binary(Operator::Add, &sum, &item, self.budget)?;
                }
                Ok(sum)
            }
            "min" | "max" => {
                let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
                self.extreme(name, value, is_set(case_sensitive.as_ref()), attribute)
            }
            "unique" => {
                let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
                let mut seen = std::collections::HashSet::new();
                let mut kept = Vec::new();
                for item in self.collect(value)? {
                    let key = self.key(&item, attribute.as_ref(), None, is_set(case_sensitive.as_ref()))?;
                    if seen.insert(Key::of(&key, self.budget)?) {
                        kept.push(item);
                    }
                }
                made(kept)
            }
            "sort" => {
                let [reverse, case_sensitive, attribute] =
                    args.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
                let paths = match &attribute {
                    Some(Value::Text(text)) => text.text.split(',').map(|path| Some(Value::text(path))).collect(),
                    other => vec![other.clone()],
                };
                let mut keyed = Vec::new();
                for item in self.collect(value)? {
                    let key =
                        paths.iter().map(|path| self.key(&item, path.as_ref(), None, is_set(case_sensitive.as_ref())));
                    keyed.push((Value::list(key.collect::<Result<_>>()?)?, item));
                }
                self.sort(&mut keyed, integer_or(reverse.as_ref(), 0, "`reverse` of `sort`")? != 0)?;
                Value::list(keyed.into_iter().map(|(_, item)| item).collect())
            }
            "dictsort" => self.sort_dict(value, args),
            "groupby" => self.group(value, args),
            "batch" | "slice" => self.portions(name, value, args),
            _ => self.lazy(name, value, args),
        }
    }

    /// `map`, `select` and their like, which make their items only as they are asked for.
    fn lazy(&self, name: &str, value: &Value, mut args: Args) -> Result<Value> {
        if !value.is_true() {
            return made(Vec::new());
        }
        let from = Box::new(iterate(value)?);
        let keep = std::slice::from_ref(value);
        if name == "map" {
            let mapping = if args.positional.is_empty() && args.named.iter().any(|(name, _)| **name == *"attribute") {
                let [attribute, default] = args.bind(name, ["attribute", "default"], 1)?;
                Mapping::Attribute(attribute.unwrap_or(Value::None), default)
            } else {
                if args.positional.is_empty() {
                    return Err(error("`map` takes the name of a filter, or `attribute`"));
                }
                let filter = soft_text(&args.positional.remove(0), self.budget)?;
                Mapping::Filter(filter, Rc::new(args))
            };
            return Value::iterator(Cursor::Map(from, mapping), keep);
        }
        let mut attribute = None;
        if name.ends_with("attr") {
            if args.positional.is_empty() {
                return Err(error(format!("`{name}` takes the name of an attribute")));
            }
            attribute = Some(args.positional.remove(0));
        }
        let test: Option<(Arc<str>, Rc<Args>)> = if args.positional.is_empty() {
            None
        } else {
            Some((soft_text(&args.positional.remove(0), self.budget)?, Rc::new(args)))
        };
        Value::iterator(Cursor::Select { from, attribute, test, wanted: name.starts_with("select") }, keep)
    }

    /// What an item is compared by.
    fn key(
        &self,
        item: &Value,
        attribute: Option<&Value>,
        default: Option<&Value>,
        case_sensitive: bool,
    ) -> Result<Value> {
        let value = match attribute {
            None => item.clone(),
            Some(path) => self.path(item, path, default)?,
        };
        match &value {
            Value::Text(text) if !case_sensitive => {
                self.budget.text(text.text.len())?;
                Ok(Value::text(text.text.to_lowercase()))
            }
            _ => Ok(value),
        }
    }

    /// Sorts by keys, equal ones in their order.
    fn sort(&self, keyed: &mut [(Value, Value)], reverse: bool) -> Result<()> {
        let mut failed = None;
        keyed.sort_by(|(one, _), (other, _)| {
            if failed.is_some() {
                return Ordering::Equal;
            }
            match order(one, other, self.budget) {
                Ok(order) if reverse => order.reverse(),
                Ok(order) => order,
                Err(error) => {
                    failed = Some(error);
                    Ordering::Equal
                }
            }
        });
        failed.map_or(Ok(()), Err)
    }

    fn extreme(&self, name: &str, value: &Value, case_sensitive: bool, attribute: Option<Value>) -> Result<Value> {
        let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
        let mut best: Option<(Value, Value)> = None;
        let mut cursor = iterate(value)?;
        while let Some(item) = self.advance(&mut cursor)? {
            let key = self.key(&item, attribute.as_ref(), None, case_sensitive)?;
            let better = match &best {
                None => true,
                Some((best, _)) => order(&key, best, self.budget)? == wanted,
            };
            if better {
                best = Some((key, item));
            }
        }
        Ok(best.map_or_else(|| Value::undefined(format!("`{name}` of an empty list")), |(_, item)| item))
    }

    fn sort_dict(&self, value: &Value, args: Args) -> Result<Value> {
        let [case_sensitive, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
        let Value::Dict(dict) = value else { return Err(value.unfit("`dictsort` takes a dictionary")) };
        let by_value = match &by {
            None => false,
            Some(Value::Text(text)) if &*text.text == "key" => false,
            Some(Value::Text(text)) if &*text.text == "value" => true,
            Some(_) => return Err(error("`dictsort` sorts by key or by value")),
        };
        self.budget.items(dict.len() * 3)?;
        let mut keyed = Vec::new();
        for (key, value) in dict.entries() {
            let by = self.key(if by_value { value } else { key }, None, None, is_set(case_sensitive.as_ref()))?;
            keyed.push((by, Value::tuple(vec![key.clone(), value.clone()])?));
        }
        self.sort(&mut keyed, integer_or(reverse.as_ref(), 0, "`reverse` of `dictsort`")? != 0)?;
        Value::list(keyed.into_iter().map(|(_, item)| item).collect())
    }

    fn group(&self, value: &Value, args: Args) -> Result<Value> {
        let [attribute, default, case_sensitive] =
            args.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
        let case_sensitive = is_set(case_sensitive.as_ref());
        let mut keyed = Vec::new();
        for item in self.collect(value)? {
            keyed.push((self.key(&item, attribute.as_ref(), default.as_ref(), case_sensitive)?, item));
        }
        self.sort(&mut keyed, false)?;
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for (key, item) in keyed {
            match groups.last_mut() {
                Some((last, items)) if equal(last, &key, self.budget)? => items.push(item),
                _ => groups.push((key, vec![item])),
            }
        }
        let mut out = Vec::new();
        for (_, items) in groups {
            // The name of a group is that of its first item, as it is written there.
            let grouper = self.key(&items[0], attribute.as_ref(), default.as_ref(), true)?;
            out.push(Value::group(grouper, Value::list(items)?)?);
        }
        Value::list(out)
    }

    /// `batch` and `slice`.
    fn portions(&self, name: &str, value: &Value, args: Args) -> Result<Value> {
        let size = if name == "batch" { "linecount" } else { "slices" };
        let [count, fill] = args.bind(name, [size, "fill_with"], 1)?;
        let count = count.unwrap_or(Value::None);
        let fill = fill.filter(|fill| !matches!(fill, Value::None));
        let wanted = integer_or(Some(&count), 0, "a number of items")?;
        let count = size_of(&count, "a number of items")?;
        let mut items = self.collect(value)?;
        let mut out = Vec::new();
        if name == "batch" {
            if wanted < 1 && items.len() > 1 {
                return Err(error("`batch` takes a number of items from 1"));
            }
            while !items.is_empty() {
                let rest = items.split_off(count.max(1).min(items.len()));
                let mut portion = std::mem::replace(&mut items, rest);
                if let Some(fill) = &fill {
                    let missing = count.saturating_sub(portion.len());
                    self.budget.items(missing)?;
                    portion.extend(std::iter::repeat_n(fill.clone(), missing));
                }
                out.push(Value::list(portion)?);
            }
        } else {
            if wanted == 0 {
                return Err(error("`slice` into 0 parts divides by zero"));
            }
            self.budget.items(count)?;
            let (each, longer) = (items.len() / count.max(1), items.len() % count.max(1));
            for part in 0..count {
                let rest = items.split_off((each + usize::from(part < longer)).min(items.len()));
                let mut portion = std::mem::replace(&mut items, rest);
                if let Some(fill) = &fill
                    && part >= longer
                {
                    portion.push(fill.clone());
                }
                out.push(Value::list(portion)?);
            }
        }
        made(out)
    }
}

/// Whether Python's `reversed` takes a value.
fn is_reversible(value: &Value) -> Result<()> {
    match value {
        Value::Object(object) if !matches!(**object, Object::Range(_) | Object::View(..)) => {
            Err(value.unfit("`last` takes a list; `| list` makes one of an iterator"))
        }
        _ => Ok(()),
    }
}
