//! A plugin's config schema: a JSON Schema in its manifest, against which the user's config is held before the plugin is
//! created, so that everything wrong with a config is said at once.
//!
//! A schema comes from a stranger, so it is bounded: its size, what its references unfold to, and its patterns, which run
//! in linear time. It cannot refer to anything outside itself.

use std::collections::BTreeMap;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use jsonschema::{JsonType, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

use crate::error::{PluginError, one_line};

/// Bytes that a schema may have.
const SIZE_LIMIT: usize = 64 << 10;
/// Parts that a schema may have once every reference is replaced by what it names.
const PARTS_LIMIT: u64 = 20_000;
/// Problems of one config that are told.
const SHOWN: usize = 20;
/// Bytes of a compiled pattern.
const PATTERN_LIMIT: usize = 1 << 20;

/// Something in a config that its schema does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Path into the config; empty for the config as a whole.
    pub(crate) path: String,
    /// It is about the key at the end of the path, not about its value.
    pub(crate) is_key: bool,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Refuses what is no schema, and one that would cost too much to use.
pub(crate) fn check(schema: &Value) -> Result<(), String> {
    let size = schema.to_string().len();
    if size > SIZE_LIMIT {
        return Err(format!("it has {size} bytes; the limit is {SIZE_LIMIT}"));
    }
    if !schema.is_object() {
        return Err("it is not a JSON object".to_owned());
    }
    Unfolding { root: schema, known: BTreeMap::new(), open: Vec::new() }.parts(schema)?;
    compile(schema).map(drop)
}

/// What a config has that its schema does not allow, in the order of the schema.
pub(crate) fn violations(schema: &Value, config: &Value) -> Result<Vec<Violation>, String> {
    let validator = compile(schema)?;
    Ok(validator.iter_errors(config).flat_map(|error| explain(schema, config, &error)).take(SHOWN).collect())
}

fn compile(schema: &Value) -> Result<Validator, String> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_LIMIT).dfa_size_limit(PATTERN_LIMIT);
    jsonschema::options()
        .with_pattern_options(patterns)
        .offline()
        .build(schema)
        .map_err(|error| one_line(&format!("{error} (at `{}`)", error.instance_path()), 300))
}

/// Counts what a schema unfolds to, and finds references that lead out of it or back to themselves.
struct Unfolding<'a> {
    root: &'a Value,
    known: BTreeMap<&'a str, u64>,
    open: Vec<&'a str>,
}

impl<'a> Unfolding<'a> {
    fn parts(&mut self, schema: &'a Value) -> Result<u64, String> {
        let mut sum = 1_u64;
        match schema {
            Value::Object(object) => {
                for (key, value) in object {
                    sum = sum.saturating_add(match (key.as_str(), value) {
                        ("$ref", Value::String(target)) => self.target(target)?,
                        ("$id" | "$anchor" | "$dynamicRef" | "$dynamicAnchor" | "$recursiveRef", Value::String(_)) => {
                            return Err(format!("it uses `{key}`; name parts of it with `$ref: \"#/$defs/NAME\"`"));
                        }
                        _ => self.parts(value)?,
                    });
                }
            }
            Value::Array(list) => {
                for value in list {
                    sum = sum.saturating_add(self.parts(value)?);
                }
            }
            _ => {}
        }
        if sum > PARTS_LIMIT {
            return Err(format!("its references unfold to more than {PARTS_LIMIT} parts"));
        }
        Ok(sum)
    }

    fn target(&mut self, target: &'a str) -> Result<u64, String> {
        let shown = one_line(target, 80);
        if let Some(parts) = self.known.get(target) {
            return Ok(*parts);
        }
        if self.open.contains(&target) {
            return Err(format!("`$ref: \"{shown}\"` leads back to itself"));
        }
        let Some(pointer) = target.strip_prefix("#/") else {
            return Err(if target == "#" {
                "`$ref: \"#\"` leads back to itself".to_owned()
            } else {
                format!("`$ref: \"{shown}\"` leads out of the schema; only `#/…` is possible")
            });
        };
        let found = self.root.pointer(&format!("/{pointer}"));
        let found = found.ok_or_else(|| format!("`$ref: \"{shown}\"` names nothing"))?;
        self.open.push(target);
        let parts = self.parts(found)?;
        self.open.pop();
        self.known.insert(target, parts);
        Ok(parts)
    }
}

/// A problem in words, with the path that it is about.
fn explain(schema: &Value, config: &Value, error: &ValidationError<'_>) -> Vec<Violation> {
    use ValidationErrorKind as Kind;
    let (path, name) = place(config, error);
    let this = if name.is_empty() { "the config".to_owned() } else { format!("`{}`", one_line(&name, 80)) };
    let found = || format!("found {}", shown(error.instance()));
    let around = parent(schema, error);
    let message = match error.kind() {
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let known = around.and_then(|around| around.get("properties")).and_then(Value::as_object);
            return unexpected.iter().map(|key| unknown_key(&path, key, known)).collect();
        }
        Kind::Required { property } => {
            let property = property.as_str().unwrap_or_default();
            let help = about(property, around.and_then(|around| around.get("properties")?.get(property)));
            let message = format!("`{}` is missing", one_line(property, 80));
            return vec![Violation { path, is_key: false, message, help }];
        }
        Kind::Type { kind } => {
            let kinds: Vec<&str> = match kind {
                TypeKind::Single(kind) => vec![kind_words(*kind)],
                TypeKind::Multiple(kinds) => kinds.into_iter().map(kind_words).collect(),
            };
            format!("{this} must be {}, {}", one_of(&kinds), found())
        }
        Kind::Enum { options } => {
            let options: Vec<String> = options.as_array().into_iter().flatten().map(shown).collect();
            format!("{this} must be {}, {}", one_of(&options), found())
        }
        Kind::Constant { expected_value } => format!("{this} must be {}, {}", shown(expected_value), found()),
        Kind::Minimum { limit } => format!("{this} must be at least {limit}, {}", found()),
        Kind::ExclusiveMinimum { limit } => format!("{this} must be more than {limit}, {}", found()),
        Kind::Maximum { limit } => format!("{this} must be at most {limit}, {}", found()),
        Kind::ExclusiveMaximum { limit } => format!("{this} must be less than {limit}, {}", found()),
        Kind::MultipleOf { multiple_of } => format!("{this} must be a multiple of {multiple_of}, {}", found()),
        Kind::MinLength { limit: 1 } | Kind::MinItems { limit: 1 } => format!("{this} is empty"),
        Kind::MinLength { limit } => format!("{this} must have at least {limit} characters, {}", found()),
        Kind::MaxLength { limit } => format!("{this} must have at most {limit} characters"),
        Kind::MinItems { limit } => format!("{this} must have at least {limit} entries"),
        Kind::MaxItems { limit } => format!("{this} must have at most {limit} entries"),
        Kind::UniqueItems => format!("{this} has an entry twice"),
        Kind::Pattern { pattern } => format!("{this} must match `{}`, {}", one_line(pattern, 120), found()),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => {
            format!("{this} has none of the shapes that it may have, {}", found())
        }
        _ => format!("{this}: {}", one_line(&error.to_string(), 300)),
    };
    vec![Violation { path, is_key: false, message, help: about(&name, around) }]
}

fn unknown_key(path: &str, key: &str, known: Option<&Map<String, Value>>) -> Violation {
    let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let near = names.iter().map(|name| (strsim::normalized_damerau_levenshtein(key, name), name));
    let near = near.filter(|(closeness, _)| *closeness >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0));
    let help = match near {
        Some((_, near)) => Some(format!("did you mean `{}`?", one_line(near, 80))),
        None if names.is_empty() => None,
        None => Some(format!("it has {}", one_line(&names.join(", "), 500))),
    };
    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    Violation { path, is_key: true, message: format!("unknown key `{}`", one_line(key, 80)), help }
}

/// The config path that a problem is about (`roles[1].name`), and the last key of it.
fn place(config: &Value, error: &ValidationError<'_>) -> (String, String) {
    let (mut path, mut name, mut value) = (String::new(), String::new(), config);
    for segment in error.instance_path().segments() {
        let key = match &segment {
            LocationSegment::Property(key) => key.to_string(),
            LocationSegment::Index(index) => index.to_string(),
        };
        let next = if value.is_array() {
            path += &format!("[{key}]");
            name += &format!("[{key}]");
            key.parse::<usize>().ok().and_then(|index| value.get(index))
        } else {
            path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            name.clone_from(&key);
            value.get(&key)
        };
        value = next.unwrap_or(&Value::Null);
    }
    (path, name)
}

/// The part of the schema that holds the broken keyword.
fn parent<'a>(schema: &'a Value, error: &ValidationError<'_>) -> Option<&'a Value> {
    let (parent, _) = error.schema_path().as_str().rsplit_once('/')?;
    schema.pointer(parent)
}

/// What the schema's author says about a part of the config.
fn about(name: &str, schema: Option<&Value>) -> Option<String> {
    let text = one_line(schema?.get("description")?.as_str()?, 300);
    Some(if name.is_empty() { text } else { format!("`{}`: {text}", one_line(name, 80)) })
}

/// `a, b or c`.
fn one_of<T: AsRef<str>>(words: &[T]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

fn kind_words(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "nothing",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::String => "a text",
        JsonType::Array => "a list",
        JsonType::Object => "a mapping",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) => format!("`{}`", one_line(text, 80)),
        other => format!("`{other}`"),
    }
}

/// A violation as the plugin's own word about its config.
pub(crate) fn problem(plugin: &str, violation: Violation) -> PluginError {
    PluginError {
        help: violation.help,
        config_path: Some(one_line(&violation.path, 200)),
        is_key: violation.is_key,
        ..PluginError::new("plugin::bad-config", format!("plugin `{plugin}`: {}", violation.message)).plugin(plugin)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_wrong_is_said_at_once_with_its_path() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["field"],
            "properties": {
                "field": {"type": "string", "minLength": 1, "description": "column with the text"},
                "mode": {"enum": ["words", "letters"]},
                "roles": {"type": "array", "items": {"$ref": "#/$defs/role"}},
                "share": {"type": "number", "minimum": 0, "maximum": 1},
            },
            "$defs": {"role": {"type": "object", "properties": {"name": {"type": "string"}}}},
        });
        check(&schema).unwrap();
        let config = json!({"mode": "lines", "roles": [{"name": "a"}, {"name": 3}], "share": 2, "feild": "x", "3": 1});
        let found = violations(&schema, &config).unwrap();
        let mut found: Vec<(&str, &str, Option<&str>)> = found
            .iter()
            .map(|violation| (violation.path.as_str(), violation.message.as_str(), violation.help.as_deref()))
            .collect();
        found.sort_unstable();
        let all = Some("it has field, mode, roles, share");
        assert_eq!(
            found,
            [
                ("", "`field` is missing", Some("`field`: column with the text")),
                ("3", "unknown key `3`", all),
                ("feild", "unknown key `feild`", Some("did you mean `field`?")),
                ("mode", "`mode` must be `words` or `letters`, found `lines`", None),
                ("roles[1].name", "`name` must be a text, found `3`", None),
                ("share", "`share` must be at most 1, found `2`", None),
            ]
        );
        assert_eq!(violations(&schema, &json!({"field": "x"})).unwrap(), []);
    }

    #[test]
    fn what_would_cost_too_much_or_leads_out_is_refused() {
        let wrong = |schema: Value| check(&schema).unwrap_err();
        assert_eq!(wrong(json!(true)), "it is not a JSON object");
        assert!(wrong(json!({"type": "strnig"})).contains("strnig"));
        assert!(wrong(json!({"$ref": "https://example.org/x"})).contains("leads out of the schema"));
        assert!(wrong(json!({"$ref": "#"})).contains("leads back to itself"));
        assert!(wrong(json!({"$id": "https://example.org/x"})).contains("`$id`"));
        assert!(wrong(json!({"$ref": "#/$defs/a"})).contains("names nothing"));
        let around = json!({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}});
        assert!(wrong(around).contains("leads back to itself"));
        let mut defs = Map::new();
        for level in 0..40 {
            let next = json!({"$ref": format!("#/$defs/l{}", level + 1)});
            defs.insert(format!("l{level}"), json!({"allOf": [next, next]}));
        }
        defs.insert("l40".to_owned(), json!({}));
        assert!(wrong(json!({"$defs": defs})).contains("unfold to more than"));
        assert!(wrong(json!({"description": "x".repeat(SIZE_LIMIT)})).contains("the limit is"));
        assert!(wrong(json!({"pattern": "(a{1000}){1000}"})).contains("a{1000}"));
        assert!(wrong(json!({"$schema": "https://example.org/other", "type": "string"})).contains("example.org"));
        check(&json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "pattern": "^a+$"})).unwrap();
    }
}
