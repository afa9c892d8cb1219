//! YAML as a JSON tree, read by `serde_yaml`. Three things are kept from stopping at the first problem: duplicate keys
//! (the position pass tells them), numbers that are not finite (noted with their path), and tags (looked through).

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::positions::{MERGE, join, join_index};

/// A number that is not finite, with its config path and the way YAML writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotFinite {
    pub(super) path: String,
    pub(super) text: &'static str,
}

/// Reads one document. Numbers that are not finite are listed and stand as null in the tree.
pub(super) fn read(text: &str) -> Result<(Value, Vec<NotFinite>), serde_yaml::Error> {
    let odd = RefCell::new(Vec::new());
    let value = Node { path: String::new(), odd: &odd }.deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok((value, odd.into_inner()))
}

/// A YAML value as JSON. Errors are words for the user.
pub(super) fn from_yaml(text: &str) -> Result<Value, String> {
    let (value, odd) = read(text).map_err(|error| error.to_string())?;
    match odd.first() {
        Some(NotFinite { text, .. }) => Err(format!("`{text}` is not a finite number")),
        None => Ok(value),
    }
}

struct Node<'a> {
    path: String,
    odd: &'a RefCell<Vec<NotFinite>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    // Larger than any count: as a float it fails the range check of its key, with a caret.
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Number::from_f64(value as f64).map_or(Value::Null, Value::Number))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Number::from_f64(value as f64).map_or(Value::Null, Value::Number))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        if let Some(number) = Number::from_f64(value) {
            return Ok(Value::Number(number));
        }
        let text = match value {
            value if value.is_nan() => ".nan",
            value if value < 0.0 => "-.inf",
            _ => ".inf",
        };
        self.odd.borrow_mut().push(NotFinite { path: self.path, text });
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) =
            entries.next_element_seed(Node { path: join_index(&self.path, list.len()), odd: self.odd })?
        {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let ignored = RefCell::new(Vec::new());
        while let Some(key) = entries.next_key_seed(Node { path: String::new(), odd: &ignored })? {
            let key = match key {
                Value::String(text) => text,
                // The position pass tells what such a key is.
                Value::Array(_) | Value::Object(_) => "?".to_owned(),
                other => other.to_string(),
            };
            // What is merged stands in this very mapping.
            let path = if key == MERGE { self.path.clone() } else { join(&self.path, &key) };
            let value = entries.next_value_seed(Node { path, odd: self.odd })?;
            // The first of two wins; the position pass tells both.
            map.entry(key).or_insert(value);
        }
        // YAML 1.1's merge: own keys win, then the first mapping of a list. The position pass tells what is no mapping.
        let merged = match map.remove(MERGE) {
            Some(Value::Array(list)) => list,
            Some(one) => vec![one],
            None => Vec::new(),
        };
        for one in merged {
            let Value::Object(one) = one else { continue };
            for (key, value) in one {
                map.entry(key).or_insert(value);
            }
        }
        Ok(Value::Object(map))
    }

    // A tagged value reads as an enum: its tag is the variant. The position pass tells the tag.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let ignored = RefCell::new(Vec::new());
        let (_, content) = data.variant_seed(Node { path: String::new(), odd: &ignored })?;
        content.newtype_variant_seed(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_have_the_types_of_yaml_1_2() {
        let text = "a: 1e-5\nb: yes\nc: 0x10\nd: 010\ne: ~\nf: -3\ng: 'true'\nh: 340282366920938463463374607431768211455\n1: k\ntrue: l\n";
        let (value, odd) = read(text).expect("valid");
        assert_eq!(
            value,
            json!({"a": 1e-5, "b": "yes", "c": 16, "d": "010", "e": null, "f": -3, "g": "true", "h": 3.402_823_669_209_385e38, "1": "k", "true": "l"})
        );
        assert!(odd.is_empty());
    }

    #[test]
    fn one_problem_does_not_hide_the_rest() {
        let (value, odd) = read("a: 1\na: 2\nb: [1, .nan, {c: -.inf}]\nd: !x 5\ne: !y {f: .inf}\n").expect("valid");
        assert_eq!(value, json!({"a": 1, "b": [1, null, {"c": null}], "d": 5, "e": {"f": null}}));
        let odd: Vec<_> = odd.iter().map(|odd| (odd.path.as_str(), odd.text)).collect();
        assert_eq!(odd, [("b[1]", ".nan"), ("b[2].c", "-.inf"), ("e.f", ".inf")]);
    }
}
