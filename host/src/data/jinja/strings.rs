//! Methods of Python's `str`. Places count characters, not bytes.

use std::sync::Arc;

use super::call::{integer_or, size_of, text_argument};
use super::characters::{
    ends_line, is_alphabetic, is_cased, is_decimal, is_digit, is_identifier, is_numeric, is_printable, is_space,
    is_title, push_folded, push_title,
};
use super::error::{Result, error};
use super::interpreter::Interpreter;
use super::limits::Budget;
use super::markup::{html_of, unescape};
use super::text::text_of;
use super::value::{Args, Text, Value};

/// The methods that there are. `encode`, `translate` and `maketrans` work on bytes and tables, which no template has.
pub(super) const METHODS: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// `text.name(…)`
pub(super) fn method(interpreter: &Interpreter<'_>, of: &Text, name: &str, args: Args) -> Result<Value> {
    let budget = interpreter.budget;
    let text = &*of.text;
    // A method reads all of the text at least once.
    budget.read(text.len())?;
    let same_kind = |out: String| {
        budget.text(out.len())?;
        Ok(if of.is_markup { Value::markup(out) } else { Value::text(out) })
    };
    match name {
        "format" => return super::format::format(interpreter, text, &args),
        "format_map" => {
            let [values] = args.places(name, 1)?;
            let values = values.unwrap_or(Value::None);
            let Value::Dict(dict) = &values else { return Err(values.unfit("`format_map` takes a dictionary")) };
            let mut named = Args::default();
            for (key, value) in dict.entries() {
                named.named.extend(key.as_text().map(|key| (key.clone(), value.clone())));
            }
            return super::format::format(interpreter, text, &named);
        }
        "split" | "rsplit" => return split(interpreter, text, name, args),
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"], 0)?;
            let keep = integer_or(keep.as_ref(), 0, "`keepends` of `splitlines`")?;
            let lines = lines(text, keep != 0);
            return texts(lines, budget);
        }
        "join" => {
            let [items] = args.places(name, 1)?;
            let mut parts = Vec::new();
            for item in interpreter.collect(&items.unwrap_or(Value::None))? {
                parts.push(if of.is_markup {
                    html_of(&item, budget)?
                } else {
                    text_argument(&item, "an item that `join` joins")?
                });
            }
            return same_kind(interpreter.join(text, &parts)?);
        }
        "replace" => {
            let [old, new, count] = args.places(name, 2)?;
            let old = text_argument(&old.unwrap_or(Value::None), "the first argument of `replace`")?;
            let new = text_argument(&new.unwrap_or(Value::None), "the second argument of `replace`")?;
            let count = integer_or(count.as_ref(), -1, "the count of `replace`")?;
            return same_kind(replace(text, &old, &new, count, budget)?);
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"], 0)?;
            let size = size_of(&size.unwrap_or(Value::Integer(8)), "the size of a tab")?;
            return same_kind(expand_tabs(text, size, budget)?);
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = args.places(name, 1)?;
            let width = size_of(&width.unwrap_or(Value::None), "a width")?;
            let fill = match fill {
                None => ' ',
                Some(fill) => one_character(&fill)?,
            };
            return same_kind(justify(text, name, width, fill, budget)?);
        }
        "zfill" => {
            let [width] = args.places(name, 1)?;
            let width = size_of(&width.unwrap_or(Value::None), "a width")?;
            let sign = usize::from(text.starts_with(['+', '-']));
            let (sign, digits) = text.split_at(sign);
            let out = justify(digits, "rjust", width.saturating_sub(sign.len()), '0', budget)?;
            return same_kind(sign.to_owned() + &out);
        }
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = args.places(name, 0)?;
            return same_kind(strip(text, name, characters.as_ref(), budget)?.to_owned());
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = args.places(name, 1)?;
            let affix = text_argument(&affix.unwrap_or(Value::None), "the argument")?;
            let rest = if name == "removeprefix" { text.strip_prefix(&*affix) } else { text.strip_suffix(&*affix) };
            return same_kind(rest.unwrap_or(text).to_owned());
        }
        "partition" | "rpartition" => {
            let [separator] = args.places(name, 1)?;
            let separator = text_argument(&separator.unwrap_or(Value::None), "a separator")?;
            if separator.is_empty() {
                return Err(error("the separator is empty"));
            }
            let found = if name == "partition" { text.find(&*separator) } else { text.rfind(&*separator) };
            let parts = match found {
                Some(at) => [&text[..at], &*separator, &text[at + separator.len()..]],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            budget.text(text.len())?;
            return Value::tuple(parts.into_iter().map(Value::text).collect());
        }
        "startswith" | "endswith" => return affixed(text, name, args, budget),
        "find" | "rfind" | "index" | "rindex" | "count" => return search(text, name, args, budget),
        _ => {}
    }
    let [] = args.places(name, 0)?;
    match name {
        "upper" => same_kind(text.to_uppercase()),
        "lower" => same_kind(text.to_lowercase()),
        "capitalize" => same_kind(capitalize(text)),
        "title" => same_kind(title(text)),
        "swapcase" => same_kind(swap_case(text)),
        "casefold" => {
            let mut out = String::new();
            text.chars().for_each(|character| push_folded(&mut out, character));
            same_kind(out)
        }
        "striptags" => super::markup::strip_tags(text, budget).map(Value::text),
        "unescape" => unescape(text).map(Value::text),
        _ => property(text, name).map(Value::Bool),
    }
}

/// `isalpha` and its like.
fn property(text: &str, name: &str) -> Result<bool> {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    Ok(match name {
        "isalnum" => all(|c| is_alphabetic(c) || is_numeric(c) || is_digit(c)),
        "isalpha" => all(is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isidentifier" => is_identifier(text),
        "islower" => is_case(text, false),
        "isnumeric" => all(is_numeric),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        "istitle" => is_titled(text),
        "isupper" => is_case(text, true),
        _ => return Err(error(format!("`{name}` cannot be called"))),
    })
}

/// `str.isupper`, or `str.islower`.
pub(super) fn is_case(text: &str, upper: bool) -> bool {
    let wrong = |c: char| is_title(c) || if upper { c.is_lowercase() } else { c.is_uppercase() };
    let right = |c: char| if upper { c.is_uppercase() } else { c.is_lowercase() };
    !text.chars().any(wrong) && text.chars().any(right)
}

fn is_titled(text: &str) -> bool {
    let (mut is_cased_before, mut any) = (false, false);
    for character in text.chars() {
        if character.is_uppercase() || is_title(character) {
            if is_cased_before {
                return false;
            }
            (is_cased_before, any) = (true, true);
        } else if character.is_lowercase() {
            if !is_cased_before {
                return false;
            }
            any = true;
        } else {
            is_cased_before = false;
        }
    }
    any
}

/// `str.capitalize`
pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    if let Some(first) = characters.next() {
        push_title(&mut out, first);
        // The whole text is lowered, so that a sigma knows what stands before it.
        let lowered = text.to_lowercase();
        let first_len: usize = first.to_lowercase().map(char::len_utf8).sum();
        out.push_str(lowered.get(first_len..).unwrap_or_default());
    }
    out
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut is_cased_before = false;
    let characters: Vec<char> = text.chars().collect();
    for (index, &character) in characters.iter().enumerate() {
        if !is_cased_before {
            push_title(&mut out, character);
        } else if character == 'Σ' {
            let ends = !characters[index + 1..].iter().find(|c| **c != '\'').is_some_and(|c| is_cased(*c));
            out.push(if ends { 'ς' } else { 'σ' });
        } else {
            out.extend(character.to_lowercase());
        }
        is_cased_before = is_cased(character);
    }
    out
}

fn swap_case(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, character| {
        if character.is_uppercase() {
            out.extend(character.to_lowercase());
        } else if character.is_lowercase() {
            out.extend(character.to_uppercase());
        } else {
            out.push(character);
        }
        out
    })
}

/// `str.splitlines`
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends_line) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A list of texts.
pub(super) fn texts<'a>(parts: impl IntoIterator<Item = &'a str>, budget: &Budget) -> Result<Value> {
    let mut out = Vec::new();
    for part in parts {
        budget.items(1)?;
        budget.text(part.len())?;
        out.push(Value::text(part));
    }
    Value::list(out)
}

fn split(interpreter: &Interpreter<'_>, text: &str, name: &str, args: Args) -> Result<Value> {
    let [separator, count] = args.bind(name, ["sep", "maxsplit"], 0)?;
    let count = integer_or(count.as_ref(), -1, "the count of a split")?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let from_right = name == "rsplit";
    let mut parts: Vec<&str> = match separator {
        None | Some(Value::None) => split_blanks(text, count, from_right),
        Some(separator) => {
            let separator = text_argument(&separator, "a separator")?;
            if separator.is_empty() {
                return Err(error("the separator is empty"));
            }
            match (count.checked_add(1), from_right) {
                (Some(parts), false) => text.splitn(parts, &*separator).collect(),
                (Some(parts), true) => text.rsplitn(parts, &*separator).collect(),
                (None, false) => text.split(&*separator).collect(),
                (None, true) => text.rsplit(&*separator).collect(),
            }
        }
    };
    if from_right {
        parts.reverse();
    }
    texts(parts, interpreter.budget)
}

/// Words between blanks; those of a split from the right come in reverse.
fn split_blanks(text: &str, count: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            return parts;
        }
        if parts.len() == count {
            parts.push(rest);
            return parts;
        }
        if from_right {
            let start = rest.char_indices().rfind(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
            parts.push(&rest[start..]);
            rest = &rest[..start];
        } else {
            let end = rest.find(is_space).unwrap_or(rest.len());
            parts.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
}

/// `str.replace`
pub(super) fn replace(text: &str, old: &str, new: &str, count: i128, budget: &Budget) -> Result<String> {
    budget.read(text.len())?;
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() }.min(limit);
    let grown = found.saturating_mul(new.len()).saturating_add(text.len());
    // The old text is taken away too, so this is more than what is made where both are long.
    budget.text(grown - found.saturating_mul(old.len()).min(grown))?;
    Ok(text.replacen(old, new, found))
}

fn expand_tabs(text: &str, size: usize, budget: &Budget) -> Result<String> {
    let tabs = text.bytes().filter(|byte| *byte == b'\t').count();
    budget.text(tabs.saturating_mul(size).saturating_add(text.len()))?;
    let mut out = String::new();
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' => {
                let blanks = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            '\n' | '\r' => {
                out.push(character);
                column = 0;
            }
            _ => {
                out.push(character);
                column += 1;
            }
        }
    }
    Ok(out)
}

/// `str.center`, `str.ljust` and `str.rjust`
pub(super) fn justify(text: &str, name: &str, width: usize, fill: char, budget: &Budget) -> Result<String> {
    let missing = width.saturating_sub(text.chars().count());
    budget.text(missing.saturating_mul(fill.len_utf8()).saturating_add(text.len()))?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // An odd rest goes to the left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let mut out: String = std::iter::repeat_n(fill, left).collect();
    out.push_str(text);
    out.extend(std::iter::repeat_n(fill, missing - left));
    Ok(out)
}

/// `str.strip`, `str.lstrip` and `str.rstrip`
pub(super) fn strip<'a>(text: &'a str, name: &str, characters: Option<&Value>, budget: &Budget) -> Result<&'a str> {
    let characters = match characters {
        None | Some(Value::None) => None,
        Some(value) => Some(text_argument(value, "what is stripped")?),
    };
    if let Some(characters) = &characters {
        budget.work(characters.len().saturating_mul(text.len().min(4096)) / 64)?;
    }
    let is_stripped = |character: char| match &characters {
        None => is_space(character),
        Some(characters) => characters.contains(character),
    };
    Ok(match name {
        "lstrip" => text.trim_start_matches(is_stripped),
        "rstrip" => text.trim_end_matches(is_stripped),
        _ => text.trim_matches(is_stripped),
    })
}

fn one_character(value: &Value) -> Result<char> {
    let text = text_argument(value, "a fill")?;
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(character), None) => Ok(character),
        _ => Err(error("a fill is one character")),
    }
}

/// The bytes between two places that count characters, and the place where they start; nothing where the start is
/// behind the end.
fn part<'a>(text: &'a str, start: Option<&Value>, stop: Option<&Value>) -> Result<Option<(&'a str, usize)>> {
    let len = text.chars().count();
    let (start, stop) = bounds(len, start, stop)?;
    if start > stop || start > len as i128 {
        return Ok(None);
    }
    let byte = |place: i128| text.char_indices().nth(place as usize).map_or(text.len(), |(at, _)| at);
    Ok(Some((&text[byte(start)..byte(stop)], start as usize)))
}

fn affixed(text: &str, name: &str, args: Args, budget: &Budget) -> Result<Value> {
    let [affix, start, stop] = args.places(name, 1)?;
    let affix = affix.unwrap_or(Value::None);
    let affixes = match &affix {
        Value::Tuple(items) => items.items.clone(),
        _ => vec![affix],
    };
    budget.work(affixes.len())?;
    let part = part(text, start.as_ref(), stop.as_ref())?;
    for affix in affixes {
        let affix = text_argument(&affix, &format!("the argument of `{name}`"))?;
        if let Some((part, _)) = part
            && if name == "startswith" { part.starts_with(&*affix) } else { part.ends_with(&*affix) }
        {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn search(text: &str, name: &str, args: Args, budget: &Budget) -> Result<Value> {
    let [wanted, start, stop] = args.places(name, 1)?;
    let wanted = text_argument(&wanted.unwrap_or(Value::None), &format!("the argument of `{name}`"))?;
    budget.read(text.len())?;
    let part = part(text, start.as_ref(), stop.as_ref())?;
    if name == "count" {
        let count =
            part.map_or(
                0,
                |(part, _)| {
                    if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(&*wanted).count() }
                },
            );
        return Ok(Value::Integer(count as i128));
    }
    let found = part.and_then(|(part, start)| {
        let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) };
        at.map(|at| start + part[..at].chars().count())
    });
    match found {
        Some(place) => Ok(Value::Integer(place as i128)),
        None if name.ends_with("find") => Ok(Value::Integer(-1)),
        None => Err(error(format!("`{name}` does not find the text"))),
    }
}

/// The text of a value as most filters take it.
pub(super) fn soft_text(value: &Value, budget: &Budget) -> Result<Arc<str>> {
    match value {
        Value::Text(text) => Ok(text.text.clone()),
        other => Ok(text_of(other, budget)?.into()),
    }
}

/// Where a search in a text of `len` characters starts and ends, by optional arguments as Python's `find` has them.
fn bounds(len: usize, start: Option<&Value>, stop: Option<&Value>) -> Result<(i128, i128)> {
    let place = |value: Option<&Value>, default: i128| {
        let value = value.filter(|value| !matches!(value, Value::None));
        let number = integer_or(value, default, "the place of a search")?;
        Ok::<_, super::error::Error>(if number < 0 { (number.saturating_add(len as i128)).max(0) } else { number })
    };
    Ok((place(start, 0)?, place(stop, len as i128)?.min(len as i128)))
}
