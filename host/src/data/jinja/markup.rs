//! Text that counts as HTML: what the filters `escape` and `safe` make, and how other text joins it.

use std::borrow::Cow;
use std::sync::Arc;

use super::characters::is_space;
use super::error::{Result, error};
use super::limits::Budget;
use super::text::text_of;
use super::value::{Text, Value};

/// A text with HTML's characters as entities, as markupsafe writes them.
pub(super) fn escape(text: &str, budget: &Budget) -> Result<String> {
    let longer: usize = text
        .bytes()
        .map(|byte| match byte {
            b'&' | b'"' | b'\'' => 5,
            b'<' | b'>' => 4,
            _ => 1,
        })
        .sum();
    budget.text(longer)?;
    let mut out = String::with_capacity(longer);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// The filter `escape`.
pub(super) fn escape_value(value: &Value, budget: &Budget) -> Result<Value> {
    match value {
        Value::Text(text) if text.is_markup => Ok(value.clone()),
        other => Ok(Value::markup(escape(&text_of(other, budget)?, budget)?)),
    }
}

/// The text of a value that joins HTML: escaped unless it is HTML itself.
pub(super) fn html_of(value: &Value, budget: &Budget) -> Result<Arc<str>> {
    match escape_value(value, budget)? {
        Value::Text(text) => Ok(text.text),
        _ => Ok("".into()),
    }
}

/// `left + right` of texts: HTML if one of them is.
pub(super) fn join_texts(texts: [&Text; 2], budget: &Budget) -> Result<Value> {
    let is_markup = texts.iter().any(|text| text.is_markup);
    let [one, other] = texts;
    if is_markup {
        let part = |text: &Text| if text.is_markup { Ok(text.text.to_string()) } else { escape(&text.text, budget) };
        let (one, other) = (part(one)?, part(other)?);
        budget.text(one.len() + other.len())?;
        return Ok(Value::markup(one + &other));
    }
    budget.text(one.text.len() + other.text.len())?;
    let mut out = String::with_capacity(one.text.len() + other.text.len());
    out.push_str(&one.text);
    out.push_str(&other.text);
    Ok(Value::text(out))
}

/// `text` of `value` as it joins HTML.
pub(super) fn escaped<'a>(value: &Value, text: Cow<'a, str>, budget: &Budget) -> Result<Cow<'a, str>> {
    match value {
        Value::Text(own) if own.is_markup => Ok(text),
        _ => Ok(Cow::Owned(escape(&text, budget)?)),
    }
}

/// A text without its tags, as markupsafe's `striptags` leaves it.
pub(super) fn strip_tags(text: &str, budget: &Budget) -> Result<String> {
    budget.text(text.len())?;
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let end = if rest[start..].starts_with("<!--") {
            rest[start + 4..].find("-->").map(|at| start + 4 + at + 3)
        } else {
            rest[start..].find('>').map(|at| start + at + 1)
        };
        let Some(end) = end else { break };
        out.push_str(&rest[..start]);
        rest = &rest[end..];
    }
    out.push_str(rest);
    let words: Vec<&str> = out.split(is_space).filter(|word| !word.is_empty()).collect();
    unescape(&words.join(" "))
}

/// A text with HTML's entities as characters. Of the named ones, those that everyone uses; others are an error.
pub(super) fn unescape(text: &str) -> Result<String> {
    const NAMED: [(&str, char); 6] =
        [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\''), ("nbsp", '\u{a0}')];
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '#').unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let code = name.strip_prefix('#').map(|digits| match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => digits.parse(),
        });
        let found = match code {
            Some(Ok(code)) => char::from_u32(code).filter(|c| !c.is_control()),
            Some(Err(_)) => None,
            None => NAMED.iter().find(|(known, _)| *known == name).map(|(_, character)| *character),
        };
        match (found, behind.strip_prefix(';')) {
            (Some(character), Some(behind)) => {
                out.push(character);
                rest = behind;
            }
            _ if name.is_empty() => out.push('&'),
            _ => {
                return Err(error(format!("`&{name}` is an HTML entity that templates here do not know")));
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}
