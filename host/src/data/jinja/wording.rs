//! Filters that lay text out or write it for another place: indents, lines, titles, addresses.

use super::call::{integer_or, size_of, text_argument};
use super::characters::{is_alphabetic, is_digit, is_numeric, is_space};
use super::error::{Result, error};
use super::filters::is_set;
use super::interpreter::Interpreter;
use super::limits::Budget;
use super::markup::html_of;
use super::strings::{lines, soft_text};
use super::text::repr;
use super::value::{Args, Dict, Text, Value};

impl Interpreter<'_> {
    /// The rest of the filters of text.
    pub(super) fn wording(&self, name: &str, value: &Value, text: &Text, args: Args) -> Result<Value> {
        let budget = self.budget;
        match name {
            "title" => {
                let [] = args.places(name, 0)?;
                let out = title(&text.text);
                budget.text(out.len())?;
                Ok(Value::text(out))
            }
            "indent" => {
                let [width, first, blank] = args.bind(name, ["width", "first", "blank"], 0)?;
                value.as_text().ok_or_else(|| value.unfit("`indent` takes a text"))?;
                let indent = match width {
                    Some(Value::Text(indent)) => indent.text,
                    width => {
                        let width = size_of(&width.unwrap_or(Value::Integer(4)), "the width of `indent`")?;
                        budget.text(width)?;
                        " ".repeat(width).into()
                    }
                };
                let out = indented(&text.text, &indent, is_set(first.as_ref()), is_set(blank.as_ref()), budget)?;
                Ok(if text.is_markup { Value::markup(out) } else { Value::text(out) })
            }
            "truncate" => {
                if value.as_text().is_none() && !value.is_undefined() {
                    return Err(value.unfit("`truncate` takes a text"));
                }
                let [length, kill, end, leeway] = args.bind(name, ["length", "killwords", "end", "leeway"], 0)?;
                let length = integer_or(length.as_ref(), 255, "the length of `truncate`")?;
                let end = end.map_or_else(|| Ok("...".into()), |end| text_argument(&end, "`end` of `truncate`"))?;
                let leeway = leeway.filter(|leeway| !matches!(leeway, Value::None));
                let leeway = integer_or(leeway.as_ref(), 5, "`leeway` of `truncate`")?;
                let kept = length - end.chars().count() as i128;
                if kept < 0 || leeway < 0 {
                    return Err(error("`truncate` takes a length that is not below that of its `end`"));
                }
                if text.text.chars().count() as i128 <= length.saturating_add(leeway) {
                    return Ok(value.clone());
                }
                budget.text(text.text.len())?;
                let mut out: String = text.text.chars().take(kept as usize).collect();
                if !is_set(kill.as_ref())
                    && let Some(at) = out.rfind(' ')
                {
                    out.truncate(at);
                }
                Ok(Value::text(out + &end))
            }
            "wordcount" => {
                let [] = args.places(name, 0)?;
                let (mut count, mut within) = (0, false);
                for character in text.text.chars() {
                    count += i128::from(is_word(character) && !within);
                    within = is_word(character);
                }
                Ok(Value::Integer(count))
            }
            "wordwrap" => {
                value.as_text().ok_or_else(|| value.unfit("`wordwrap` takes a text"))?;
                let parameters = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
                let [width, long, between, hyphens] = args.bind(name, parameters, 0)?;
                let width = integer_or(width.as_ref(), 79, "the width of `wordwrap`")?;
                let between = match between {
                    None | Some(Value::None) => "\n".into(),
                    Some(between) => text_argument(&between, "`wrapstring` of `wordwrap`")?,
                };
                let (long, hyphens) = (long.is_none_or(|long| long.is_true()), hyphens.is_none_or(|it| it.is_true()));
                let Some(width) = usize::try_from(width).ok().filter(|width| *width > 0) else {
                    return Err(error("the width of `wordwrap` is 1 or more"));
                };
                let mut out = Vec::new();
                for line in lines(&text.text, false) {
                    budget.items(1)?;
                    let wrapped = wrap(line, width, long, hyphens, budget)?.join(&*between);
                    out.push(wrapped.into());
                }
                Ok(Value::text(self.join(&between, &out)?))
            }
            "urlencode" => {
                let [] = args.places(name, 0)?;
                self.url_encode(value)
            }
            "xmlattr" => {
                let [space] = args.bind(name, ["autospace"], 0)?;
                let Value::Dict(dict) = value else { return Err(value.unfit("`xmlattr` takes a dictionary")) };
                let out = attributes(dict, budget)?;
                let space = space.is_none_or(|space| space.is_true()) && !out.is_empty();
                Ok(Value::text(if space { format!(" {out}") } else { out }))
            }
            "pprint" => {
                let [] = args.places(name, 0)?;
                pretty(value, budget)
            }
            _ => Err(error(format!("no filter has the name `{name}`"))),
        }
    }

    fn url_encode(&self, value: &Value) -> Result<Value> {
        let budget = self.budget;
        let pairs = match value {
            Value::Dict(dict) => dict.entries().to_vec(),
            Value::List(_) | Value::Tuple(_) | Value::Object(_) => {
                let mut pairs = Vec::new();
                for pair in self.collect(value)? {
                    match &self.collect(&pair)?[..] {
                        [key, value] => pairs.push((key.clone(), value.clone())),
                        _ => return Err(error("`urlencode` takes a text, a dictionary or pairs")),
                    }
                }
                pairs
            }
            other => return Ok(Value::text(quote(&soft_text(other, budget)?, false, budget)?)),
        };
        let mut out = Vec::new();
        for (key, value) in pairs {
            let (key, value) = (soft_text(&key, budget)?, soft_text(&value, budget)?);
            out.push(format!("{}={}", quote(&key, true, budget)?, quote(&value, true, budget)?).into());
        }
        Ok(Value::text(self.join("&", &out)?))
    }
}

fn is_word(character: char) -> bool {
    character == '_' || is_alphabetic(character) || is_numeric(character) || is_digit(character)
}

/// Words with a capital first. Words begin at the start and after blanks, hyphens and opening brackets.
fn title(text: &str) -> String {
    let separates = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let ends = |c: char| separates(c) != separates(first);
        let (item, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        out.extend(first.to_uppercase());
        out.push_str(&item[first.len_utf8()..].to_lowercase());
        rest = behind;
    }
    out
}

fn indented(text: &str, indent: &str, first: bool, blank: bool, budget: &Budget) -> Result<String> {
    // The line end at the end makes a last empty line count.
    let text = format!("{text}\n");
    let lines = lines(&text, false);
    budget.text(lines.len().saturating_mul(indent.len() + 1).saturating_add(text.len()))?;
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(indent);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// A text for an address, as `urllib.parse.quote` writes it.
fn quote(text: &str, in_query: bool, budget: &Budget) -> Result<String> {
    budget.text(text.len() * 3)?;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte as char),
            b'/' if !in_query => out.push('/'),
            b' ' if in_query => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

fn attributes(dict: &Dict, budget: &Budget) -> Result<String> {
    let mut out = String::new();
    for (key, value) in dict.entries() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let name = text_argument(key, "the name of an attribute")?;
        let is_wrong = |c: char| c.is_ascii_whitespace() || matches!(c, '\u{b}' | '/' | '>' | '=');
        if name.contains(is_wrong) {
            return Err(error(format!("`{name}` is not a name that an attribute can have")));
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&format!("{}=\"{}\"", html_of(key, budget)?, html_of(value, budget)?));
        budget.fits(out.len())?;
    }
    budget.text(out.len())?;
    Ok(out)
}

/// What Python's `pprint.pformat` writes, where that is one line.
fn pretty(value: &Value, budget: &Budget) -> Result<Value> {
    const WIDTH: usize = 80;
    let text = repr(&sorted(value, budget)?, budget)?;
    if text.chars().count() > WIDTH {
        return Err(error(format!(
            "`pprint` of a value of more than {WIDTH} characters is not supported; use `tojson`"
        )));
    }
    Ok(Value::text(text))
}

/// The same value with the keys of its dictionaries in order, as `pprint` writes them.
fn sorted(value: &Value, budget: &Budget) -> Result<Value> {
    budget.work(1)?;
    let all = |items: &[Value]| {
        budget.items(items.len())?;
        items.iter().map(|item| sorted(item, budget)).collect::<Result<Vec<_>>>()
    };
    match value {
        Value::List(items) => Value::list(all(&items.items)?),
        Value::Tuple(items) => Value::tuple(all(&items.items)?),
        Value::Dict(dict) => {
            let mut entries = dict.entries().to_vec();
            if entries.iter().any(|(key, _)| key.as_text().is_none()) {
                return Err(error("`pprint` takes dictionaries whose keys are texts"));
            }
            entries.sort_by(|(one, _), (other, _)| one.as_text().cmp(&other.as_text()));
            let mut dict = Dict::default();
            for (key, value) in entries {
                dict.set(key, sorted(&value, budget)?, budget)?;
            }
            Ok(Value::dict(dict))
        }
        other => Ok(other.clone()),
    }
}

/// The lines of Python's `textwrap.wrap`.
fn wrap(text: &str, width: usize, break_long: bool, on_hyphens: bool, budget: &Budget) -> Result<Vec<String>> {
    let characters: Vec<char> = text.chars().collect();
    budget.items(characters.len())?;
    let mut chunks = chunks(&characters, on_hyphens);
    chunks.reverse();
    let is_blank = |chunk: &[char]| chunk.iter().all(|c| is_space(*c));
    let mut out: Vec<String> = Vec::new();
    while let Some(next) = chunks.last() {
        budget.work(1)?;
        if is_blank(next) && !out.is_empty() {
            chunks.pop();
        }
        let mut line: Vec<&[char]> = Vec::new();
        let mut length = 0;
        while let Some(chunk) = chunks.pop_if(|chunk| length + chunk.len() <= width) {
            length += chunk.len();
            line.push(chunk);
        }
        if let Some(chunk) = chunks.pop_if(|chunk| chunk.len() > width) {
            if break_long {
                let left = width - length;
                let mut end = left;
                if on_hyphens
                    && let Some(hyphen) = chunk[..left].iter().rposition(|c| *c == '-')
                    && chunk[..hyphen].iter().any(|c| *c != '-')
                {
                    end = hyphen + 1;
                }
                line.push(&chunk[..end]);
                chunks.push(&chunk[end..]);
            } else if line.is_empty() {
                line.push(chunk);
            } else {
                chunks.push(chunk);
            }
        }
        line.pop_if(|chunk| is_blank(chunk));
        if !line.is_empty() {
            out.push(line.concat().into_iter().collect());
        }
    }
    Ok(out)
}

/// Words, blanks and dashes between which a line may end.
fn chunks(text: &[char], on_hyphens: bool) -> Vec<&[char]> {
    let is_blank = |c: char| matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ');
    let at = |place: usize| text.get(place).copied();
    let is_letter = |c: Option<char>| c.is_some_and(|c| is_word(c) && !is_digit_or_number(c));
    let before_dash = |place: usize| {
        place > 0 && at(place - 1).is_some_and(|c| is_word(c) || matches!(c, '!' | '"' | '\'' | '&' | '.' | ',' | '?'))
    };
    // The end of a run of two or more hyphens that a word follows.
    let dash_end = |place: usize| {
        let end = (place..text.len()).find(|place| text[*place] != '-').unwrap_or(text.len());
        (end >= place + 2 && at(end).is_some_and(is_word)).then_some(end)
    };
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let end = if is_blank(text[start]) {
            (start..text.len()).find(|place| !is_blank(text[*place])).unwrap_or(text.len())
        } else if !on_hyphens {
            (start..text.len()).find(|place| is_blank(text[*place])).unwrap_or(text.len())
        } else if let Some(end) = dash_end(start).filter(|_| before_dash(start)) {
            end
        } else {
            let mut place = start + 1;
            loop {
                match at(place) {
                    None => break place,
                    Some(c) if is_blank(c) => break place,
                    Some('-') => {
                        let behind = place.checked_sub(1).and_then(at);
                        let two_letters = place >= 2 && is_letter(behind) && is_letter(at(place - 2));
                        let letter_hyphen =
                            place >= 3 && is_letter(behind) && at(place - 2) == Some('-') && is_letter(at(place - 3));
                        let next = if at(place + 2) == Some('-') { at(place + 3) } else { at(place + 2) };
                        if (two_letters || letter_hyphen) && is_letter(at(place + 1)) && is_letter(next) {
                            break place + 1;
                        }
                        if before_dash(place) && dash_end(place).is_some() {
                            break place;
                        }
                        place += 1;
                    }
                    Some(_) => place += 1,
                }
            }
        };
        chunks.push(&text[start..end]);
        start = end;
    }
    chunks
}

fn is_digit_or_number(character: char) -> bool {
    super::characters::is_decimal(character)
}
