//! A template's source as tokens, by the rules of Jinja2's lexer with `trim_blocks` and `lstrip_blocks`.

use super::characters::{is_identifier, is_space};
use super::error::{Error, Result, error};
use super::limits::SOURCE_BYTES;

/// A token and the line that it starts on.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: u32,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text outside of tags.
    Data(String),
    /// `{{`
    VariableBegin,
    /// `}}`
    VariableEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    Name(String),
    Text(String),
    Integer(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longest first.
const OPERATORS: [&str; 27] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";", "!",
];

/// The source with `\n` for every line end, as Jinja2 reads it and as Python reads it from a file.
pub(in crate::data) fn with_line_ends(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// All tokens of `source`, [`Kind::End`] last.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>> {
    if source.len() > SOURCE_BYTES {
        return Err(error(format!("it has {} bytes; the limit is {SOURCE_BYTES}", source.len())));
    }
    let mut source = with_line_ends(source);
    // Jinja2 leaves one line end out at the very end.
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, starts_line: true, tokens: Vec::new() };
    lexer.run()?;
    let line = lexer.line;
    lexer.tokens.push(Token { kind: Kind::End, line });
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// Whether what was read last ended a line, so that a tag may be the first thing on its line.
    starts_line: bool,
    tokens: Vec<Token>,
}

/// What opens a tag.
#[derive(Clone, Copy, PartialEq)]
enum Opening {
    Raw,
    Block,
    Comment,
    Variable,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) -> Result<()> {
        while let Some((start, opening)) = self.next_opening() {
            let mut after = start + 2;
            let sign = self.source[after..].chars().next().filter(|c| matches!(c, '-' | '+'));
            after += usize::from(sign.is_some());
            self.data(start, sign, opening != Opening::Variable);
            let line = self.line;
            match opening {
                Opening::Variable => {
                    self.push(Kind::VariableBegin, after);
                    self.inside(true)?;
                }
                Opening::Block => {
                    self.push(Kind::BlockBegin, after);
                    self.inside(false)?;
                }
                Opening::Comment => {
                    self.advance(after);
                    let Some(length) = self.rest().find("#}") else {
                        return Err(error("a comment `{#` has no end `#}`").at(line));
                    };
                    let text = &self.rest()[..length];
                    // `-#}` takes the blanks behind it, `+#}` keeps the line end.
                    let sign = text.chars().next_back().filter(|c| matches!(c, '-' | '+'));
                    self.close(self.at + length + 2, sign);
                }
                Opening::Raw => self.raw(after)?,
            }
        }
        self.data(self.source.len(), None, false);
        Ok(())
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// The next `{%`, `{{` or `{#`, and whether it is `{% raw %}`.
    fn next_opening(&self) -> Option<(usize, Opening)> {
        let bytes = self.source.as_bytes();
        let mut at = self.at;
        loop {
            at += self.source[at..].find('{')?;
            match bytes.get(at + 1) {
                Some(b'{') => return Some((at, Opening::Variable)),
                Some(b'#') => return Some((at, Opening::Comment)),
                Some(b'%') => {
                    let inside = &self.source[at + 2..];
                    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside);
                    let opening = if word_then_end(inside, "raw").is_some() { Opening::Raw } else { Opening::Block };
                    return Some((at, opening));
                }
                _ => at += 1,
            }
        }
    }

    /// The text up to `end` as data, its blanks before a tag taken away as the tag's sign says.
    fn data(&mut self, end: usize, sign: Option<char>, strips_line: bool) {
        let text = &self.source[self.at..end];
        let mut kept = text;
        if sign == Some('-') {
            kept = text.trim_end_matches(is_space);
        } else if sign.is_none() && strips_line {
            let line_start = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = !text[line_start..].is_empty() && text[line_start..].chars().all(is_space);
            if (line_start > 0 || self.starts_line) && blank {
                kept = &text[..line_start];
            }
        }
        if !kept.is_empty() {
            self.tokens.push(Token { kind: Kind::Data(kept.to_owned()), line: self.line });
        }
        self.advance(end);
    }

    fn advance(&mut self, to: usize) {
        let text = &self.source[self.at..to];
        self.line += text.bytes().filter(|byte| *byte == b'\n').count() as u32;
        if !text.is_empty() {
            self.starts_line = text.ends_with('\n');
        }
        self.at = to;
    }

    fn push(&mut self, kind: Kind, to: usize) {
        self.tokens.push(Token { kind, line: self.line });
        self.advance(to);
    }

    /// Goes behind the end of a block or a comment, which is at `end`, and takes the blanks that its sign says.
    fn close(&mut self, end: usize, sign: Option<char>) {
        let rest = &self.source[end..];
        let taken = match sign {
            Some('-') => rest.len() - rest.trim_start_matches(is_space).len(),
            Some(_) => 0,
            None => usize::from(rest.starts_with('\n')),
        };
        self.advance(end + taken);
    }

    /// From behind `{%` of `{% raw %}`: its text as data up to `{% endraw %}`.
    fn raw(&mut self, after: usize) -> Result<()> {
        let line = self.line;
        let inside = &self.source[after..];
        let Some((length, sign)) = word_then_end(inside, "raw") else {
            return Err(error("`{% raw %}` is not closed").at(line));
        };
        // Unlike other blocks, this one keeps the line end behind it.
        self.close(after + length, Some(if sign == Some('-') { '-' } else { '+' }));
        let mut from = self.at;
        loop {
            let Some(found) = self.source[from..].find("{%") else {
                return Err(error("`{% raw %}` has no `{% endraw %}`").at(line));
            };
            let start = from + found;
            let sign = self.source[start + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let inside = start + 2 + usize::from(sign.is_some());
            if let Some((length, end_sign)) = word_then_end(&self.source[inside..], "endraw") {
                self.data(start, sign, true);
                self.advance(inside);
                self.close(inside + length, end_sign);
                return Ok(());
            }
            from = start + 2;
        }
    }

    /// The tokens of a tag up to its end.
    fn inside(&mut self, variable: bool) -> Result<()> {
        let mut open: Vec<char> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                // The parser says what is missing.
                return Ok(());
            };
            if open.is_empty() {
                if variable {
                    if rest.starts_with("-}}") || rest.starts_with("}}") {
                        let sign = (first == '-').then_some('-');
                        let end = self.at + if sign.is_some() { 3 } else { 2 };
                        self.tokens.push(Token { kind: Kind::VariableEnd, line: self.line });
                        self.close(end, Some(sign.unwrap_or('+')));
                        return Ok(());
                    }
                } else if rest.starts_with("-%}") || rest.starts_with("+%}") || rest.starts_with("%}") {
                    let sign = (first != '%').then_some(first);
                    self.tokens.push(Token { kind: Kind::BlockEnd, line: self.line });
                    self.close(self.at + if sign.is_some() { 3 } else { 2 }, sign);
                    return Ok(());
                }
            }
            if is_space(first) {
                let length = rest.len() - rest.trim_start_matches(is_space).len();
                self.advance(self.at + length);
            } else if first.is_ascii_digit() {
                let before = self.source[..self.at].chars().next_back();
                let (kind, length) = number(rest, before == Some('.')).map_err(|error| error.at(self.line))?;
                self.push(kind, self.at + length);
            } else if first.is_alphanumeric() || first == '_' {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                let name = &rest[..length];
                if !is_identifier(name) {
                    return Err(error(format!("`{name}` is not a name")).at(self.line));
                }
                self.push(Kind::Name(name.to_owned()), self.at + length);
            } else if first == '\'' || first == '"' {
                let (text, length) = string(rest).map_err(|error| error.at(self.line))?;
                self.push(Kind::Text(text), self.at + length);
            } else if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
                if *operator == "!" {
                    return Err(error("unexpected character `!`").at(self.line));
                }
                self.balance(&mut open, operator)?;
                self.push(Kind::Operator(operator), self.at + operator.len());
            } else {
                return Err(error(format!("unexpected character `{}`", first.escape_debug())).at(self.line));
            }
        }
    }

    fn balance(&self, open: &mut Vec<char>, operator: &str) -> Result<()> {
        if let Some(end) = [("(", ')'), ("[", ']'), ("{", '}')].iter().find(|(start, _)| *start == operator) {
            open.push(end.1);
            return Ok(());
        }
        let Some(closing) = operator.chars().next().filter(|c| matches!(c, ')' | ']' | '}')) else { return Ok(()) };
        match open.pop() {
            Some(expected) if expected == closing => Ok(()),
            Some(expected) => Err(error(format!("unexpected `{closing}`, expected `{expected}`")).at(self.line)),
            None => Err(error(format!("unexpected `{closing}`")).at(self.line)),
        }
    }
}

/// Whether `inside`, the text behind `{%`, is only `word` and the end of the block: then the length of both, and the
/// sign at the end.
fn word_then_end(inside: &str, word: &str) -> Option<(usize, Option<char>)> {
    let rest = inside.trim_start_matches(is_space).strip_prefix(word)?.trim_start_matches(is_space);
    let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
    let rest = rest[usize::from(sign.is_some())..].strip_prefix("%}")?;
    Some((inside.len() - rest.len(), sign))
}

/// A number at the start of `text` and its length.
fn number(text: &str, after_dot: bool) -> Result<(Kind, usize)> {
    let digits = |from: usize, base: u32| {
        let mut end = from;
        let bytes = text.as_bytes();
        loop {
            let next = if bytes.get(end) == Some(&b'_') { end + 1 } else { end };
            if bytes.get(next).is_some_and(|byte| (*byte as char).is_digit(base)) && (next == end || end > from) {
                end = next + 1;
            } else {
                return end;
            }
        }
    };
    let too_large = || error("a number in the template is larger than 128 bits");
    for (prefix, base) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if text.len() > 2 && text.is_char_boundary(2) && text[..2].eq_ignore_ascii_case(prefix) && digits(2, base) > 2 {
            let end = digits(2, base);
            let value = i128::from_str_radix(&text[2..end].replace('_', ""), base).map_err(|_| too_large())?;
            return Ok((Kind::Integer(value), end));
        }
    }
    let mut end = digits(0, 10);
    let mut is_float = false;
    if !after_dot {
        if text[end..].starts_with('.') && digits(end + 1, 10) > end + 1 {
            end = digits(end + 1, 10);
            is_float = true;
        }
        if text[end..].starts_with(['e', 'E']) {
            let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
            if digits(end + 1 + sign, 10) > end + 1 + sign {
                end = digits(end + 1 + sign, 10);
                is_float = true;
            }
        }
    }
    let plain = text[..end].replace('_', "");
    let kind = if is_float {
        Kind::Float(plain.parse().map_err(|_| error(format!("`{plain}` is not a number")))?)
    } else if plain.len() > 1 && plain.starts_with('0') && plain.bytes().any(|byte| byte != b'0') {
        return Err(error(format!("`{plain}`: a number does not start with 0")));
    } else {
        Kind::Integer(plain.parse().map_err(|_| too_large())?)
    };
    Ok((kind, end))
}

/// A quoted text at the start of `source`, its escapes resolved as Python's, and its length.
fn string(source: &str) -> Result<(String, usize)> {
    let mut characters = source.char_indices();
    let quote = characters.next().map(|(_, quote)| quote);
    let mut text = String::new();
    while let Some((at, character)) = characters.next() {
        if Some(character) == quote {
            return Ok((text, at + 1));
        }
        if character != '\\' {
            text.push(character);
            continue;
        }
        let Some((at, escaped)) = characters.next() else { break };
        let length = match escaped {
            '\n' => continue,
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'N' => return Err(error("`\\N{…}` in a text is not supported; write the character itself")),
            '0'..='7' => {
                let digits: String = source[at..].chars().take(3).take_while(|c| c.is_digit(8)).collect();
                let code = u32::from_str_radix(&digits, 8).unwrap_or_default();
                text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                for _ in 1..digits.len() {
                    characters.next();
                }
                continue;
            }
            other => {
                match other {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'a' => text.push('\u{7}'),
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    'v' => text.push('\u{b}'),
                    '\\' | '\'' | '"' => text.push(other),
                    _ => text.extend(['\\', other]),
                }
                continue;
            }
        };
        let digits: String = source[at + 1..].chars().take(length).collect();
        let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == length && !digits.contains('+'));
        let Some(code) = code else { return Err(bad_escape(escaped, &digits)) };
        text.push(char::from_u32(code).ok_or_else(|| bad_escape(escaped, &digits))?);
        for _ in 0..length {
            characters.next();
        }
    }
    Err(error("a text has no closing quote"))
}

fn bad_escape(letter: char, digits: &str) -> Error {
    error(format!("`\\{letter}{}` is no character", digits.escape_debug()))
}
