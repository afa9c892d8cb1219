//! JSON Schema 2020-12, as far as a document can be judged by itself: no other documents, dynamic references or
//! `unevaluated…`. What is not known is refused when a schema is read, never passed over. `format` says nothing about
//! validity, as the standard has it; lists under `items` with `additionalItems` are those of earlier drafts.
//!
//! The usual crate (`jsonschema`) would add 5 MB to the program and minutes to its build. Held against the standard's own test
//! suite (`tests/fixtures/json-schema`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Number, Value};

/// Steps that judging one value may take: places of the value times what a schema says about each.
const STEPS: u64 = 1_000_000;
/// Schemas within each other, while one value is judged: a reference to itself would go on for ever.
const DEPTH: u32 = 300;
/// Bytes of a compiled pattern.
const PATTERN_LIMIT: usize = 1 << 20;

/// A schema that was read, and whose every keyword is known.
#[derive(Debug)]
pub(crate) struct Schema {
    root: Value,
    patterns: BTreeMap<String, Regex>,
}

/// What the value of a keyword must be.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Schema,
    /// A schema, or schemas in a list.
    SchemaOrList,
    List,
    ByName,
    ByPattern,
    /// Lists of names by name.
    NamesByName,
    Names,
    Types,
    Number,
    Positive,
    Count,
    Flag,
    Pattern,
    Reference,
    Values,
    /// Says nothing about validity, or is a value of any kind.
    Any,
}

#[rustfmt::skip]
const KEYWORDS: &[(&str, Shape)] = &[
    ("$ref", Shape::Reference), ("$defs", Shape::ByName), ("definitions", Shape::ByName),
    ("type", Shape::Types), ("enum", Shape::Values), ("const", Shape::Any),
    ("multipleOf", Shape::Positive), ("maximum", Shape::Number), ("exclusiveMaximum", Shape::Number),
    ("minimum", Shape::Number), ("exclusiveMinimum", Shape::Number),
    ("maxLength", Shape::Count), ("minLength", Shape::Count), ("pattern", Shape::Pattern),
    ("prefixItems", Shape::List), ("items", Shape::SchemaOrList), ("additionalItems", Shape::Schema),
    ("contains", Shape::Schema), ("minContains", Shape::Count), ("maxContains", Shape::Count),
    ("maxItems", Shape::Count), ("minItems", Shape::Count), ("uniqueItems", Shape::Flag),
    ("properties", Shape::ByName), ("patternProperties", Shape::ByPattern), ("additionalProperties", Shape::Schema),
    ("propertyNames", Shape::Schema), ("required", Shape::Names), ("maxProperties", Shape::Count),
    ("minProperties", Shape::Count), ("dependentRequired", Shape::NamesByName), ("dependentSchemas", Shape::ByName),
    ("allOf", Shape::List), ("anyOf", Shape::List), ("oneOf", Shape::List), ("not", Shape::Schema),
    ("if", Shape::Schema), ("then", Shape::Schema), ("else", Shape::Schema),
    ("$schema", Shape::Any), ("$comment", Shape::Any), ("title", Shape::Any), ("description", Shape::Any),
    ("default", Shape::Any), ("examples", Shape::Any), ("deprecated", Shape::Any), ("readOnly", Shape::Any),
    ("writeOnly", Shape::Any), ("format", Shape::Any), ("contentEncoding", Shape::Any),
    ("contentMediaType", Shape::Any), ("contentSchema", Shape::Any),
];

const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

impl Schema {
    /// Reads a schema; what is wrong or not known comes with the keyword's place.
    pub(crate) fn new(root: Value) -> Result<Self, String> {
        let mut schema = Self { root: Value::Null, patterns: BTreeMap::new() };
        let mut targets = Vec::new();
        schema.read(&root, "", &mut targets)?;
        // References may lead to what no keyword holds.
        let mut seen = BTreeSet::new();
        while let Some((at, target)) = targets.pop() {
            if seen.insert(target.clone()) {
                let found =
                    root.pointer(&target).ok_or_else(|| format!("`{at}` refers to `#{target}`, which is not there"))?;
                schema.read(found, &target, &mut targets)?;
            }
        }
        schema.root = root;
        Ok(schema)
    }

    fn read(&mut self, schema: &Value, at: &str, targets: &mut Vec<(String, String)>) -> Result<(), String> {
        let keywords = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(keywords) => keywords,
            _ => return Err(format!("`#{at}` must be a schema: an object, true or false")),
        };
        for (keyword, value) in keywords {
            let at = format!("{at}/{keyword}");
            let wrong = |what: &str| Err(format!("`#{at}` must be {what}"));
            let Some((_, shape)) = KEYWORDS.iter().find(|(known, _)| known == keyword) else {
                // The document's own name; within it, a name would change what references mean.
                if (keyword == "$id" && at == "/$id") || keyword.starts_with("x-") {
                    continue;
                }
                return Err(format!("`#{at}` is not known here"));
            };
            match (shape, value) {
                (Shape::Any, _)
                | (Shape::Number, Value::Number(_))
                | (Shape::Flag, Value::Bool(_))
                | (Shape::Values, Value::Array(_)) => {}
                (Shape::Positive, Value::Number(number)) if number.as_f64().is_some_and(|number| number > 0.0) => {}
                (Shape::Positive, _) => return wrong("a number above 0"),
                (Shape::Count, value) if count(value).is_some() => {}
                (Shape::Count, _) => return wrong("a whole number, 0 or more"),
                (Shape::Number, _) => return wrong("a number"),
                (Shape::Flag, _) => return wrong("true or false"),
                (Shape::Values, _) => return wrong("a list"),
                (Shape::SchemaOrList | Shape::List, Value::Array(list)) => {
                    for (index, schema) in list.iter().enumerate() {
                        self.read(schema, &format!("{at}/{index}"), targets)?;
                    }
                }
                (Shape::List, _) => return wrong("a list of schemas"),
                (Shape::Schema | Shape::SchemaOrList, schema) => self.read(schema, &at, targets)?,
                (Shape::ByName | Shape::ByPattern, Value::Object(schemas)) => {
                    for (name, schema) in schemas {
                        if matches!(shape, Shape::ByPattern) {
                            self.pattern(name, &at)?;
                        }
                        let name = name.replace('~', "~0").replace('/', "~1");
                        self.read(schema, &format!("{at}/{name}"), targets)?;
                    }
                }
                (Shape::ByName | Shape::ByPattern, _) => return wrong("schemas by name"),
                (Shape::Names, value) if names(value) => {}
                (Shape::Names, _) => return wrong("a list of names"),
                (Shape::NamesByName, Value::Object(lists)) if lists.values().all(names) => {}
                (Shape::NamesByName, _) => return wrong("lists of names by name"),
                (Shape::Types, value) => {
                    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
                    if !value.as_array().map_or_else(|| is_type(value), |list| list.iter().all(is_type)) {
                        return Err(format!("`#{at}` must be of {}", TYPES.join(", ")));
                    }
                }
                (Shape::Pattern, Value::String(pattern)) => self.pattern(pattern, &at)?,
                (Shape::Pattern, _) => return wrong("a regular expression"),
                (Shape::Reference, value) => match value.as_str().and_then(pointer) {
                    Some(target) => targets.push((at, target)),
                    None => return wrong("a place of this schema, as `#/$defs/name`"),
                },
            }
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str, at: &str) -> Result<(), String> {
        let regex = RegexBuilder::new(pattern).size_limit(PATTERN_LIMIT).build();
        let regex = regex.map_err(|error| format!("`#{at}`: `{pattern}` cannot be read: {error}"))?;
        self.patterns.insert(pattern.to_owned(), regex);
        Ok(())
    }

    /// Judges a value: the first thing that is wrong with it, in words.
    pub(crate) fn judge(&self, value: &Value) -> Result<(), String> {
        let mut judge = Judge { schema: self, steps: STEPS };
        match judge.value(&self.root, value, &Place::Root, DEPTH) {
            Ok(()) => Ok(()),
            Err(Problem::Wrong(words)) => Err(words),
            Err(Problem::Limit(words)) => Err(words.to_owned()),
        }
    }
}

/// A whole number that is not negative; `2.0` is one too.
fn count(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|number| (0.0..9e15).contains(number) && number.fract() == 0.0);
    value.as_u64().or_else(|| format!("{}", float()?).parse().ok())
}

fn names(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
}

/// Where a reference leads within its document: `#/$defs/a%20b`.
fn pointer(reference: &str) -> Option<String> {
    let escaped = reference.strip_prefix('#').filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            (digit(rest.next())? * 16 + digit(rest.next())?) as u8
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

enum Problem {
    Wrong(String),
    Limit(&'static str),
}

/// Where in the value something is wrong.
enum Place<'a> {
    Root,
    Entry(&'a Place<'a>, usize),
    Member(&'a Place<'a>, &'a str),
}

impl Place<'_> {
    fn write(&self, text: &mut String) {
        match self {
            Self::Root => {}
            Self::Entry(parent, index) => {
                parent.write(text);
                let _ = write!(text, "/{index}");
            }
            Self::Member(parent, name) => {
                parent.write(text);
                let _ = write!(text, "/{}", name.chars().take(40).collect::<String>());
            }
        }
    }

    fn wrong(&self, words: impl AsRef<str>) -> Problem {
        let mut text = String::new();
        self.write(&mut text);
        let place = if text.is_empty() { "the value".to_owned() } else { format!("`{text}`") };
        Problem::Wrong(format!("{place} {}", words.as_ref()))
    }
}

struct Judge<'a> {
    schema: &'a Schema,
    steps: u64,
}

type Judged = Result<(), Problem>;

impl Judge<'_> {
    fn spend(&mut self, steps: usize) -> Judged {
        self.steps =
            self.steps.checked_sub(steps as u64).ok_or(Problem::Limit("there is too much in it to be judged"))?;
        Ok(())
    }

    fn value(&mut self, schema: &Value, value: &Value, at: &Place<'_>, depth: u32) -> Judged {
        self.spend(1)?;
        let depth = depth.checked_sub(1).ok_or(Problem::Limit("the schema refers to itself without end"))?;
        let keywords = match schema {
            Value::Object(keywords) => keywords,
            Value::Bool(false) => return Err(at.wrong("is not allowed")),
            _ => return Ok(()),
        };
        if let Some(target) = keywords.get("$ref").and_then(Value::as_str).and_then(pointer) {
            let root: &Value = &self.schema.root;
            let target = root.pointer(&target).unwrap_or(&Value::Bool(true));
            self.value(target, value, at, depth)?;
        }
        plain(keywords, value, at)?;
        match value {
            Value::Number(number) => numeric(keywords, number, at)?,
            Value::String(text) => self.text(keywords, text, at)?,
            Value::Array(list) => self.list(keywords, list, at, depth)?,
            Value::Object(object) => self.object(keywords, object, at, depth)?,
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(keywords, value, at, depth)
    }

    /// Whether a value is one of a schema; what a limit ends is an error all the same.
    fn fits(&mut self, schema: &Value, value: &Value, at: &Place<'_>, depth: u32) -> Result<bool, Problem> {
        match self.value(schema, value, at, depth) {
            Ok(()) => Ok(true),
            Err(Problem::Wrong(_)) => Ok(false),
            Err(limit) => Err(limit),
        }
    }

    fn combined(&mut self, keywords: &Map<String, Value>, value: &Value, at: &Place<'_>, depth: u32) -> Judged {
        let list = |name: &str| keywords.get(name).and_then(Value::as_array);
        for schema in list("allOf").into_iter().flatten() {
            self.value(schema, value, at, depth)?;
        }
        if let Some(schemas) = list("anyOf") {
            let mut is_any = false;
            for schema in schemas {
                is_any = is_any || self.fits(schema, value, at, depth)?;
            }
            if !is_any {
                return Err(at.wrong("fits none of `anyOf`"));
            }
        }
        if let Some(schemas) = list("oneOf") {
            let mut fitting = 0;
            for schema in schemas {
                fitting += usize::from(self.fits(schema, value, at, depth)?);
            }
            if fitting != 1 {
                return Err(at.wrong(format!("fits {fitting} of `oneOf`")));
            }
        }
        if let Some(schema) = keywords.get("not") {
            if self.fits(schema, value, at, depth)? {
                return Err(at.wrong("fits `not`"));
            }
        }
        if let Some(condition) = keywords.get("if") {
            let branch = if self.fits(condition, value, at, depth)? { "then" } else { "else" };
            if let Some(schema) = keywords.get(branch) {
                self.value(schema, value, at, depth)?;
            }
        }
        Ok(())
    }

    fn text(&mut self, keywords: &Map<String, Value>, text: &str, at: &Place<'_>) -> Judged {
        let limit = |name: &str| keywords.get(name).and_then(count);
        if limit("maxLength").is_some() || limit("minLength").is_some() {
            self.spend(text.len() / 64)?;
            let length = text.chars().count() as u64;
            if limit("maxLength").is_some_and(|most| length > most) {
                return Err(at.wrong(format!("has {length} characters, more than `maxLength`")));
            }
            if limit("minLength").is_some_and(|least| length < least) {
                return Err(at.wrong(format!("has {length} characters, less than `minLength`")));
            }
        }
        if let Some(pattern) = keywords.get("pattern").and_then(Value::as_str) {
            if !self.matches(pattern, text)? {
                return Err(at.wrong(format!("does not match `{pattern}`")));
            }
        }
        Ok(())
    }

    fn matches(&mut self, pattern: &str, text: &str) -> Result<bool, Problem> {
        self.spend(1 + text.len() / 8)?;
        Ok(self.schema.patterns.get(pattern).is_some_and(|regex| regex.is_match(text)))
    }

    fn list(&mut self, keywords: &Map<String, Value>, list: &[Value], at: &Place<'_>, depth: u32) -> Judged {
        let limit = |name: &str| keywords.get(name).and_then(count);
        let length = list.len() as u64;
        if limit("maxItems").is_some_and(|most| length > most) {
            return Err(at.wrong(format!("has {length} entries, more than `maxItems`")));
        }
        if limit("minItems").is_some_and(|least| length < least) {
            return Err(at.wrong(format!("has {length} entries, less than `minItems`")));
        }
        let items = keywords.get("items");
        let (first, others) = match items.and_then(Value::as_array) {
            Some(first) => (Some(first), keywords.get("additionalItems")),
            None => (keywords.get("prefixItems").and_then(Value::as_array), items),
        };
        for (index, entry) in list.iter().enumerate() {
            if let Some(schema) = first.and_then(|first| first.get(index)).or(others) {
                self.value(schema, entry, &Place::Entry(at, index), depth)?;
            }
        }
        if let Some(schema) = keywords.get("contains") {
            let mut contained = 0;
            for (index, entry) in list.iter().enumerate() {
                contained += u64::from(self.fits(schema, entry, &Place::Entry(at, index), depth)?);
            }
            if contained < limit("minContains").unwrap_or(1)
                || limit("maxContains").is_some_and(|most| contained > most)
            {
                return Err(at.wrong(format!("has {contained} entries of `contains`")));
            }
        }
        if keywords.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen = BTreeSet::new();
            for (index, entry) in list.iter().enumerate() {
                let mut text = String::new();
                canonical(entry, &mut text);
                self.spend(1 + text.len() / 16)?;
                if !seen.insert(text) {
                    return Err(Place::Entry(at, index).wrong("stood there before, against `uniqueItems`"));
                }
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        keywords: &Map<String, Value>,
        object: &Map<String, Value>,
        at: &Place<'_>,
        depth: u32,
    ) -> Judged {
        let limit = |name: &str| keywords.get(name).and_then(count);
        let map = |name: &str| keywords.get(name).and_then(Value::as_object);
        let size = object.len() as u64;
        if limit("maxProperties").is_some_and(|most| size > most) {
            return Err(at.wrong(format!("has {size} members, more than `maxProperties`")));
        }
        if limit("minProperties").is_some_and(|least| size < least) {
            return Err(at.wrong(format!("has {size} members, less than `minProperties`")));
        }
        has_all(object, keywords.get("required"), at)?;
        for (name, needed) in map("dependentRequired").into_iter().flatten() {
            if object.contains_key(name) {
                has_all(object, Some(needed), at)?;
            }
        }
        let (own, by_pattern, others) =
            (map("properties"), map("patternProperties"), keywords.get("additionalProperties"));
        for (name, member) in object {
            self.spend(1)?;
            let place = Place::Member(at, name);
            let mut is_known = false;
            if let Some(schema) = own.and_then(|own| own.get(name)) {
                is_known = true;
                self.value(schema, member, &place, depth)?;
            }
            for (pattern, schema) in by_pattern.into_iter().flatten() {
                if self.matches(pattern, name)? {
                    is_known = true;
                    self.value(schema, member, &place, depth)?;
                }
            }
            if let Some(schema) = others.filter(|_| !is_known) {
                self.value(schema, member, &place, depth)?;
            }
            if let Some(schema) = keywords.get("propertyNames") {
                let is_fine = self.fits(schema, &Value::String(name.clone()), &place, depth)?;
                if !is_fine {
                    return Err(place.wrong("has a name against `propertyNames`"));
                }
            }
        }
        for (name, schema) in map("dependentSchemas").into_iter().flatten() {
            if object.contains_key(name) {
                self.value(schema, &Value::Object(object.clone()), at, depth)?;
            }
        }
        Ok(())
    }
}

fn has_all(object: &Map<String, Value>, names: Option<&Value>, at: &Place<'_>) -> Judged {
    let mut names = names.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    match names.find(|name| !object.contains_key(*name)) {
        Some(name) => Err(at.wrong(format!("has no `{name}`"))),
        None => Ok(()),
    }
}

/// What may be said of values of every kind.
fn plain(keywords: &Map<String, Value>, value: &Value, at: &Place<'_>) -> Judged {
    if let Some(types) = keywords.get("type") {
        let names = types.as_array().map_or(std::slice::from_ref(types), Vec::as_slice);
        if !names.iter().filter_map(Value::as_str).any(|name| is_of(value, name)) {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            return Err(at.wrong(format!("is not of type {}", names.join(" or "))));
        }
    }
    if let Some(values) = keywords.get("enum").and_then(Value::as_array) {
        if !values.iter().any(|other| equal(value, other)) {
            return Err(at.wrong("is not one of `enum`"));
        }
    }
    if keywords.get("const").is_some_and(|other| !equal(value, other)) {
        return Err(at.wrong("is not the `const`"));
    }
    Ok(())
}

fn is_of(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Object(_) => name == "object",
        Value::Array(_) => name == "array",
        Value::String(_) => name == "string",
        Value::Number(number) => {
            name == "number" || (name == "integer" && number.as_f64().is_some_and(|number| number.fract() == 0.0))
        }
    }
}

fn numeric(keywords: &Map<String, Value>, number: &Number, at: &Place<'_>) -> Judged {
    let bound = |name: &str| keywords.get(name).and_then(Value::as_number).map(|bound| compared(number, bound));
    let wrong = |name: &str| Err(at.wrong(format!("is beyond `{name}`")));
    if bound("maximum") == Some(Ordering::Greater) {
        return wrong("maximum");
    }
    if bound("minimum") == Some(Ordering::Less) {
        return wrong("minimum");
    }
    if matches!(bound("exclusiveMaximum"), Some(Ordering::Greater | Ordering::Equal)) {
        return wrong("exclusiveMaximum");
    }
    if matches!(bound("exclusiveMinimum"), Some(Ordering::Less | Ordering::Equal)) {
        return wrong("exclusiveMinimum");
    }
    if let Some(divisor) = keywords.get("multipleOf").and_then(Value::as_number) {
        let is_multiple = if let (Some(number), Some(divisor)) = (whole(number), whole(divisor)) {
            number % divisor == 0
        } else {
            let quotient = number.as_f64().unwrap_or(f64::NAN) / divisor.as_f64().unwrap_or(f64::NAN);
            // The error of a division grows with its result.
            (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().clamp(1.0, 1e6)
        };
        if !is_multiple {
            return Err(at.wrong(format!("is no multiple of {divisor}")));
        }
    }
    Ok(())
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn compared(a: &Number, b: &Number) -> Ordering {
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return a.cmp(&b);
    }
    let (a, b) = (a.as_f64().unwrap_or_default(), b.as_f64().unwrap_or_default());
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

/// The same value: `1` and `1.0` are, members of objects have no order.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compared(a, b) == Ordering::Equal,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}

/// A text that equal values share, and no others.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or_default();
            // Beyond this, doubles are no longer all whole numbers.
            let is_whole = float.fract() == 0.0 && float.abs() < 9e15;
            let _ = match (whole(number), is_whole) {
                (Some(whole), _) => write!(text, "{whole}"),
                (None, true) => write!(text, "{}", float as i64),
                (None, false) => write!(text, "{float:e}"),
            };
        }
        Value::Array(list) => {
            text.push('[');
            for entry in list {
                canonical(entry, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(object) => {
            text.push('{');
            for (name, member) in object.iter().collect::<BTreeMap<_, _>>() {
                let _ = write!(text, "{name:?}:");
                canonical(member, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::String(own) => {
            let _ = write!(text, "{own:?}");
        }
        other => text.push_str(&other.to_string()),
    }
}
