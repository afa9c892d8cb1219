//! Texts with names in braces, read as Python's `str.format` reads them: `{name}` stands for a value, `{{` and `}}` for the
//! braces themselves.

/// A text with names in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(String),
}

impl Format {
    /// Reads a format.
    ///
    /// # Errors
    /// In words: a brace that stands alone, or a name that is not one.
    pub fn new(format: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let (mut text, mut rest) = (String::new(), format);
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            text.push_str(before);
            if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                text.push_str(&from[..1]);
                rest = after;
                continue;
            }
            let Some((name, after)) = from.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
                return Err(format!("a single `{}`", &from[..1]));
            };
            if name.is_empty() || name.contains(['{', ':', '!', '.', '[']) {
                return Err(format!("`{{{name}}}` is not a name in braces"));
            }
            pieces.extend((!text.is_empty()).then(|| Piece::Text(std::mem::take(&mut text))));
            pieces.push(Piece::Name(name.to_owned()));
            rest = after;
        }
        text.push_str(rest);
        pieces.extend((!text.is_empty()).then_some(Piece::Text(text)));
        Ok(Self { pieces })
    }

    /// The same, with no other names than these.
    ///
    /// # Errors
    /// In words, another name too.
    pub fn of(format: &str, names: &[&str]) -> Result<Self, String> {
        let format = Self::new(format)?;
        if let Some(name) = format.names().find(|name| !names.contains(name)) {
            let known: Vec<String> = names.iter().map(|name| format!("`{{{name}}}`")).collect();
            let one_of = if names.len() > 1 { "one of " } else { "" };
            return Err(format!("`{{{name}}}` is not {one_of}{}", known.join(", ")));
        }
        Ok(format)
    }

    /// The names, in their order, each as often as it is there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Name(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The name is in it.
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// The text with each name replaced by what `value` gives for it. Braces in a value stay as they are.
    pub fn fill<T: AsRef<str>>(&self, mut value: impl FnMut(&str) -> T) -> String {
        let filled = self.try_fill::<T, std::convert::Infallible>(|name| Ok(value(name)));
        filled.unwrap_or_else(|never| match never {})
    }

    /// The same where there may be no value.
    ///
    /// # Errors
    /// What `value` says of the first name without one.
    pub fn try_fill<T: AsRef<str>, E>(&self, mut value: impl FnMut(&str) -> Result<T, E>) -> Result<String, E> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(own) => text.push_str(own),
                Piece::Name(name) => text.push_str(value(name)?.as_ref()),
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_values_and_braces_for_themselves() {
        let format = Format::new("{a}: {{{b}}} {a}").unwrap();
        assert_eq!(format.names().collect::<Vec<_>>(), ["a", "b", "a"]);
        assert_eq!(format.fill(|name| format!("<{name}>{{b}}")), "<a>{b}: {<b>{b}} <a>{b}");
        assert!(format.has("b") && !format.has("c"));
        let missing: Result<String, &str> = format.try_fill(|name| if name == "a" { Ok("x") } else { Err("no b") });
        assert_eq!(missing, Err("no b"));
    }

    #[test]
    fn what_python_would_not_take_is_refused() {
        let told = |format: &str| Format::of(format, &["a", "b"]).unwrap_err();
        assert_eq!(told("{c}"), "`{c}` is not one of `{a}`, `{b}`");
        assert_eq!(told("x {"), "a single `{`");
        assert_eq!(told("x } y"), "a single `}`");
        assert_eq!(told("{}"), "`{}` is not a name in braces");
        assert_eq!(told("{a:>4}"), "`{a:>4}` is not a name in braces");
    }
}
