//! Reading a few columns of a row without building the rest of it: for strategies whose columns are named in their config,
//! several times as fast as a map of all values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::strategy::RowError;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column<'a> {
    /// There is no such column.
    Missing,
    /// `null`.
    Null,
    /// A text.
    Text(Cow<'a, str>),
    /// Anything else, by its name: `a number`, `a list`.
    Other(&'static str),
}

impl Column<'_> {
    /// The text; none where there is none. Other values are an error about the column `name`.
    ///
    /// # Errors
    /// A value that is no text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, RowError> {
        match self {
            Self::Missing | Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            Self::Other(what) => Err(RowError {
                message: format!("`{name}` must be a text, found {what}"),
                field: Some(name.to_owned()),
            }),
        }
    }
}

/// The columns of a row (a JSON object) with these names, in the order of the names. The last of several columns of one
/// name counts, as in any JSON object.
///
/// # Errors
/// A row that is not a JSON object.
pub fn columns<'a, const N: usize>(row: &'a str, names: [&str; N]) -> Result<[Column<'a>; N], RowError> {
    let mut deserializer = serde_json::Deserializer::from_str(row);
    let failed = |error: serde_json::Error| RowError {
        message: crate::config::without_position(&error.to_string()),
        field: None,
    };
    let columns = deserializer.deserialize_map(Object { names }).map_err(failed)?;
    deserializer.end().map_err(failed)?;
    Ok(columns)
}

struct Object<'n, const N: usize> {
    names: [&'n str; N],
}

impl<'de, const N: usize> Visitor<'de> for Object<'_, N> {
    type Value = [Column<'de>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row, which is a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut columns = [const { Column::Missing }; N];
        while let Some(key) = map.next_key_seed(Key)? {
            match self.names.iter().position(|name| **name == *key) {
                Some(index) => columns[index] = map.next_value_seed(Value)?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        for later in 1..N {
            if let Some(earlier) = self.names[..later].iter().position(|name| *name == self.names[later]) {
                columns[later] = columns[earlier].clone();
            }
        }
        Ok(columns)
    }
}

/// A text, borrowed from the row where it has no escapes.
struct Key;

impl<'de> serde::de::DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

struct Value;

impl<'de> serde::de::DeserializeSeed<'de> for Value {
    type Value = Column<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Column<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Column::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Column::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Column::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Column::Other("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Column::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Column::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Column::Other("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Column::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Column::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Column<'_> {
        Column::Text(Cow::Borrowed(text))
    }

    #[test]
    fn columns_come_by_name_whatever_else_is_there() {
        let row = r#"{"b": "two", "x": {"a": ["no"]}, "a": "o\nne", "n": null, "l": [1], "t": true, "b": "three"}"#;
        let found = columns(row, ["a", "b", "n", "l", "t", "z", "a"]).unwrap();
        let wanted = [
            text("o\nne"),
            text("three"),
            Column::Null,
            Column::Other("a list"),
            Column::Other("true or false"),
            Column::Missing,
            text("o\nne"),
        ];
        assert_eq!(found, wanted);
        assert!(matches!(&found[1], Column::Text(Cow::Borrowed(_))));
        assert_eq!(found[3].text("l").unwrap_err().message, "`l` must be a text, found a list");
    }

    #[test]
    fn what_is_no_object_is_told() {
        for row in ["3", "[]", "{\"a\": 1} x", "{\"a\": ", ""] {
            assert!(columns(row, ["a"]).is_err(), "{row}");
        }
        let message = columns("3", ["a"]).unwrap_err().message;
        assert_eq!(message, "invalid type: integer `3`, expected a row, which is a JSON object");
    }
}
