//! Edits of a config's text: one key set, removed or renamed, everything else (comments, order, quoting, line ends) as
//! it was. In comes the text, out comes the new one, or why it must be done by hand.
//!
//! Where to cut follows from the parser's events; that the cut was right is never assumed. The new text is parsed, and
//! its tree must be the old tree with exactly this edit made.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

use super::positions::{Flaw, Positions, end_of_quoted, is_within, join, join_index};
use super::tree;
use super::tree::from_yaml;
use crate::diagnostic::Edit;

/// Characters of a value that is set. The longest that a rule needs is a word or a number.
const VALUE_LIMIT: usize = 1000;

/// Why a text was not edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The file does not have it.
    #[error("`{0}` is not in the file")]
    Absent(String),
    /// An anchor, an alias or a merge key is involved.
    #[error("an anchor, an alias or a merge key is involved in `{0}`")]
    Shared(String),
    /// Which of the two is meant?
    #[error("`{0}` is set twice")]
    Twice(String),
    /// A rename onto a key that is there already.
    #[error("there is a `{0}` already")]
    Taken(String),
    /// A key inside something that has no keys.
    #[error("`{0}` is not a mapping")]
    NotMapping(String),
    /// A value that cannot stand in one line.
    #[error("the new value of `{0}` does not fit in a line")]
    Value(String),
    /// The text cannot be cut here, or not with the intended result.
    #[error("the text around `{0}` cannot be changed safely")]
    Unclear(String),
}

/// The text with `edit` made. Any other difference between the trees of the two texts is an error.
pub fn edit(text: &str, edit: &Edit) -> Result<String, EditError> {
    let path = edit.path();
    let unclear = || EditError::Unclear(path.to_owned());
    let positions = Positions::of(text).map_err(|_| unclear())?;
    let unusable = |flaw: &Flaw| {
        matches!(flaw, Flaw::SecondDocument | Flaw::TooDeep | Flaw::TooLarge | Flaw::RecursiveAlias { .. })
    };
    if path.is_empty() || positions.is_empty || positions.flaws.iter().any(|(_, flaw)| unusable(flaw)) {
        return Err(unclear());
    }
    let (before, odd) = tree::read(text).map_err(|_| unclear())?;
    let root = Layout::of(text).ok_or_else(unclear)?;
    let mut intended = before;
    let attempts = match edit {
        Edit::Set { value, .. } => {
            let (new, spellings) = spellings(value).ok_or_else(|| EditError::Value(path.to_owned()))?;
            let texts = spellings.iter().map(|value| set(text, &root, path, value)).collect::<Result<Vec<_>, _>>()?;
            set_in_tree(&mut intended, "", path, &new).ok_or_else(unclear)?;
            texts
        }
        Edit::Remove { .. } => {
            let text = remove(text, &root, path)?;
            with_parent(&mut intended, "", path, &mut |parent, step| match (parent, step) {
                (Value::Object(map), Step::Key(key)) => map.remove(key).is_some(),
                (Value::Array(list), Step::Index(index)) => {
                    list.remove(index);
                    true
                }
                _ => false,
            })
            .ok_or_else(unclear)?;
            vec![text]
        }
        Edit::Rename { to, .. } => {
            let text = rename(text, &root, path, to)?;
            with_parent(&mut intended, "", path, &mut |parent, step| match (parent, step) {
                (Value::Object(map), Step::Key(key)) => {
                    map.remove(key).is_some_and(|value| map.insert(to.clone(), value).is_none())
                }
                _ => false,
            })
            .ok_or_else(unclear)?;
            vec![text]
        }
    };
    let is_right = |new: &String| {
        let Ok(positions_after) = Positions::of(new) else { return false };
        // A number that is not finite stands as null in the tree, so their count must hold as well.
        positions_after.flaws.len() == positions.flaws.len()
            && tree::read(new).is_ok_and(|(after, odd_after)| after == intended && odd_after.len() <= odd.len())
    };
    attempts.into_iter().find(is_right).ok_or_else(unclear)
}

/// A value, and the ways to write it: as it was given where that is plain, and as JSON, which YAML reads everywhere.
fn spellings(yaml: &str) -> Option<(Value, Vec<String>)> {
    let yaml = yaml.trim();
    if yaml.chars().count() > VALUE_LIMIT {
        return None;
    }
    let value = from_yaml(yaml).ok()?;
    let is_plain = !yaml.is_empty() && !yaml.contains(|c: char| c.is_control() || "#&*!|>%@`".contains(c));
    let json = value.to_string();
    Some((value, if is_plain { vec![yaml.to_owned(), json] } else { vec![json] }))
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Changes the mapping or list that holds `path`. None where there is none, or `change` says no.
fn with_parent(
    at: &mut Value,
    at_path: &str,
    path: &str,
    change: &mut dyn FnMut(&mut Value, Step<'_>) -> bool,
) -> Option<()> {
    let (child_path, key, index) = match &*at {
        Value::Object(map) => {
            let key = map.keys().find(|key| is_within(path, &join(at_path, key)))?.clone();
            (join(at_path, &key), key, 0)
        }
        Value::Array(list) => {
            let index = (0..list.len()).find(|index| is_within(path, &join_index(at_path, *index)))?;
            (join_index(at_path, index), String::new(), index)
        }
        _ => return None,
    };
    if child_path == path {
        let step = if at.is_array() { Step::Index(index) } else { Step::Key(&key) };
        return change(at, step).then_some(());
    }
    let child = if at.is_array() { at.get_mut(index) } else { at.get_mut(&key) };
    with_parent(child?, &child_path, path, change)
}

fn set_in_tree(at: &mut Value, at_path: &str, path: &str, new: &Value) -> Option<()> {
    if at_path == path {
        *at = new.clone();
        return Some(());
    }
    match at {
        Value::Object(map) => {
            if let Some(key) = map.keys().find(|key| is_within(path, &join(at_path, key))).cloned() {
                return set_in_tree(map.get_mut(&key)?, &join(at_path, &key), path, new);
            }
        }
        Value::Array(list) => {
            let index = (0..list.len()).find(|index| is_within(path, &join_index(at_path, *index)))?;
            return set_in_tree(list.get_mut(index)?, &join_index(at_path, index), path, new);
        }
        Value::Null => *at = Value::Object(Map::new()),
        _ => return None,
    }
    let keys = missing_keys(at_path, path)?;
    let (first, deeper) = keys.split_first()?;
    let value = deeper.iter().rev().fold(new.clone(), |value, key| Value::from_iter([((*key).to_owned(), value)]));
    at.as_object_mut()?.insert((*first).to_owned(), value);
    Some(())
}

/// The keys that lead from `from` to `path`; none where one of them is an index or an odd key.
fn missing_keys<'a>(from: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let rest = path.strip_prefix(from)?;
    let rest = if from.is_empty() { rest } else { rest.strip_prefix('.')? };
    let keys: Vec<&str> = rest.split('.').collect();
    keys.iter().all(|key| join("", key) == *key).then_some(keys)
}

/// A node of the text: where it stands in bytes, and what is in it.
#[derive(Debug)]
struct Node {
    /// From its first character (of its anchor or tag, if it has one) to its last one that is not a space or a line end.
    range: Range<usize>,
    kind: Kind,
    is_anchored: bool,
}

#[derive(Debug)]
enum Kind {
    /// A key without a value, an empty list entry. It stands where a value would be written.
    Empty,
    Scalar,
    /// `|` or `>`; the range has its lines without the header.
    BlockScalar,
    Alias,
    Mapping {
        flow: bool,
        pairs: Vec<Pair>,
    },
    Sequence {
        flow: bool,
        entries: Vec<Node>,
    },
}

#[derive(Debug)]
struct Pair {
    name: String,
    key: Range<usize>,
    value: Node,
}

impl Node {
    fn is_shared(&self) -> bool {
        self.is_anchored
            || match &self.kind {
                Kind::Alias => true,
                Kind::Mapping { pairs, .. } => pairs.iter().any(|pair| pair.name == "<<" || pair.value.is_shared()),
                Kind::Sequence { entries, .. } => entries.iter().any(Node::is_shared),
                Kind::Empty | Kind::Scalar | Kind::BlockScalar => false,
            }
    }

    fn is_flow(&self) -> bool {
        matches!(self.kind, Kind::Mapping { flow: true, .. } | Kind::Sequence { flow: true, .. })
    }

    fn is_block_container(&self) -> bool {
        matches!(self.kind, Kind::Mapping { flow: false, .. } | Kind::Sequence { flow: false, .. })
    }

    /// Where its entries begin and end; the key belongs to an entry.
    fn entries(&self) -> Vec<Range<usize>> {
        match &self.kind {
            Kind::Mapping { pairs, .. } => pairs.iter().map(|pair| pair.key.start..pair.value.range.end).collect(),
            Kind::Sequence { entries, .. } => entries.iter().map(|entry| entry.range.clone()).collect(),
            _ => Vec::new(),
        }
    }

    fn child(&self, index: usize) -> Option<&Node> {
        match &self.kind {
            Kind::Mapping { pairs, .. } => pairs.get(index).map(|pair| &pair.value),
            Kind::Sequence { entries, .. } => entries.get(index),
            _ => None,
        }
    }
}

/// Builds nodes from events.
struct Layout<'a> {
    text: &'a str,
    /// Byte of each character, and the end: the parser counts characters.
    bytes: Vec<usize>,
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Layout<'a> {
    /// The root of the document; none for a text whose keys are not all plain words.
    fn of(text: &'a str) -> Option<Node> {
        let bytes = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut layout = Self { text, bytes, events: Parser::new_from_str(text) };
        loop {
            let (event, span) = layout.next()?;
            if !matches!(event, Event::Nothing | Event::StreamStart | Event::DocumentStart(_)) {
                return layout.node(&event, span);
            }
        }
    }

    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        self.events.next()?.ok()
    }

    fn range(&self, span: Span) -> Option<Range<usize>> {
        Some(*self.bytes.get(span.start.index())?..*self.bytes.get(span.end.index())?)
    }

    fn node(&mut self, event: &Event<'a>, span: Span) -> Option<Node> {
        let mut range = self.range(span)?;
        let content = past_properties(self.text, range.start);
        let opens_flow = self.text[content..].starts_with(['{', '[']);
        let node = match event {
            Event::Alias(_) => Node { range, kind: Kind::Alias, is_anchored: false },
            Event::Scalar(value, style, anchor, tag) => {
                let is_empty = value.is_empty() && *style == ScalarStyle::Plain && tag.is_none() && *anchor == 0;
                let kind = match style {
                    _ if is_empty => Kind::Empty,
                    ScalarStyle::Literal | ScalarStyle::Folded => Kind::BlockScalar,
                    _ => Kind::Scalar,
                };
                range.end = match style {
                    _ if is_empty => range.start,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => end_of_quoted(self.text, content)?,
                    _ => self.trimmed(&range),
                };
                Node { range, kind, is_anchored: *anchor != 0 }
            }
            Event::SequenceStart(anchor, _) => {
                let mut entries = Vec::new();
                let end = loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break self.range(span)?.start;
                    }
                    entries.push(self.node(&event, span)?);
                };
                range.end = if opens_flow {
                    past_bracket(self.text, end)?
                } else {
                    entries.last().map_or(range.end, |entry| entry.range.end)
                };
                Node { range, kind: Kind::Sequence { flow: opens_flow, entries }, is_anchored: *anchor != 0 }
            }
            Event::MappingStart(anchor, _) => {
                let mut pairs = Vec::new();
                let end = loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        break self.range(span)?.start;
                    }
                    pairs.push(self.pair(&event, span)?);
                };
                range.end = if opens_flow {
                    past_bracket(self.text, end)?
                } else {
                    pairs.last().map_or(range.end, |pair| pair.value.range.end)
                };
                Node { range, kind: Kind::Mapping { flow: opens_flow, pairs }, is_anchored: *anchor != 0 }
            }
            _ => return None,
        };
        Some(node)
    }

    fn pair(&mut self, event: &Event<'a>, span: Span) -> Option<Pair> {
        let Event::Scalar(name, ..) = event else { return None };
        let name = name.to_string();
        let key = self.node(event, span)?.range;
        let (event, span) = self.next()?;
        let mut value = self.node(&event, span)?;
        if matches!(value.kind, Kind::Empty) {
            let at = after_colon(self.text, key.end).unwrap_or(key.end);
            value.range = at..at;
        }
        Some(Pair { name, key, value })
    }

    fn trimmed(&self, range: &Range<usize>) -> usize {
        range.start + self.text[range.clone()].trim_end_matches([' ', '\t', '\r', '\n']).len()
    }
}

/// Where a path leads in the text.
struct Found<'n> {
    /// The mapping or list, and which of its entries.
    parent: &'n Node,
    index: usize,
    node: &'n Node,
    key: Option<Range<usize>>,
    parent_path: String,
}

enum Walk<'n> {
    Found(Found<'n>),
    /// The way ends at this node.
    Ends {
        node: &'n Node,
        path: String,
        in_flow: bool,
        key: Option<Range<usize>>,
    },
}

fn walk<'n>(root: &'n Node, path: &str) -> Result<Walk<'n>, EditError> {
    let (mut node, mut at, mut in_flow, mut key) = (root, String::new(), false, None);
    loop {
        if node.is_anchored || matches!(node.kind, Kind::Alias) {
            return Err(EditError::Shared(path.to_owned()));
        }
        in_flow |= node.is_flow();
        let children: Vec<(usize, String, Option<Range<usize>>)> = match &node.kind {
            Kind::Mapping { pairs, .. } => {
                if pairs.iter().any(|pair| pair.name == "<<") {
                    return Err(EditError::Shared(path.to_owned()));
                }
                let pairs = pairs.iter().enumerate();
                pairs.map(|(index, pair)| (index, join(&at, &pair.name), Some(pair.key.clone()))).collect()
            }
            Kind::Sequence { entries, .. } => {
                (0..entries.len()).map(|index| (index, join_index(&at, index), None)).collect()
            }
            _ => Vec::new(),
        };
        let mut on_the_way = children.into_iter().filter(|(_, child, _)| is_within(path, child));
        let Some((index, child_path, child_key)) = on_the_way.next() else {
            return Ok(Walk::Ends { node, path: at, in_flow, key });
        };
        if on_the_way.next().is_some() {
            return Err(EditError::Twice(child_path));
        }
        let Some(child) = node.child(index) else { return Err(EditError::Unclear(path.to_owned())) };
        if child_path == path {
            return Ok(Walk::Found(Found { parent: node, index, node: child, key: child_key, parent_path: at }));
        }
        (node, at, key) = (child, child_path, child_key);
    }
}

fn find<'n>(root: &'n Node, path: &str) -> Result<Found<'n>, EditError> {
    match walk(root, path)? {
        Walk::Found(found) => Ok(found),
        Walk::Ends { .. } => Err(EditError::Absent(path.to_owned())),
    }
}

fn set(text: &str, root: &Node, path: &str, value: &str) -> Result<String, EditError> {
    let (node, at, in_flow, key) = match walk(root, path)? {
        Walk::Found(found) if found.node.is_shared() => return Err(EditError::Shared(path.to_owned())),
        Walk::Found(found) => return write_value(text, found.node, found.key, path, value),
        Walk::Ends { node, path, in_flow, key } => (node, path, in_flow, key),
    };
    let unclear = || EditError::Unclear(path.to_owned());
    let keys = missing_keys(&at, path).ok_or_else(|| EditError::Absent(path.to_owned()))?;
    let in_braces = || {
        let (first, deeper) = keys.split_first()?;
        let value = deeper.iter().rev().fold(value.to_owned(), |value, key| format!("{{{}: {value}}}", key_text(key)));
        Some(format!("{}: {value}", key_text(first)))
    };
    match &node.kind {
        Kind::Mapping { flow: true, pairs } => {
            let entry = in_braces().ok_or_else(unclear)?;
            let Some(last) = pairs.last() else {
                return Ok(spliced(text, node.range.clone(), &format!("{{{entry}}}")));
            };
            let end = last.value.range.end;
            Ok(spliced(text, end..end, &format!(", {entry}")))
        }
        Kind::Mapping { flow: false, pairs } => {
            let (first, last) = pairs.first().zip(pairs.last()).ok_or_else(unclear)?;
            let indent = column(text, first.key.start);
            let end = end_of_line(text, last.value.range.end).ok_or_else(unclear)?;
            Ok(with_lines(text, past_deeper_comments(text, end, indent), indent, &keys, value))
        }
        Kind::Empty if !in_flow && key.is_some() => {
            let indent = key.map_or(0, |key| column(text, key.start)) + 2;
            let end = end_of_line(text, node.range.end).ok_or_else(unclear)?;
            Ok(with_lines(text, end, indent, &keys, value))
        }
        Kind::Scalar if ["~", "null", "Null", "NULL"].contains(&&text[node.range.clone()]) => {
            Ok(spliced(text, node.range.clone(), &format!("{{{}}}", in_braces().ok_or_else(unclear)?)))
        }
        _ => Err(EditError::NotMapping(at)),
    }
}

/// Writes `value` in the place of a node.
fn write_value(
    text: &str,
    node: &Node,
    key: Option<Range<usize>>,
    path: &str,
    value: &str,
) -> Result<String, EditError> {
    let unclear = || EditError::Unclear(path.to_owned());
    // Where the mark before the value (`:`, `-`) ends.
    let mark = || match &key {
        Some(key) => after_colon(text, key.end),
        None => dash(text, node.range.start).map(|dash| dash + 1),
    };
    match &node.kind {
        Kind::Empty => Ok(spliced(text, node.range.clone(), &format!(" {value}"))),
        Kind::BlockScalar => Ok(spliced(text, mark().ok_or_else(unclear)?..node.range.end, &format!(" {value}"))),
        _ if node.is_block_container() && line_start(text, node.range.start) > mark().ok_or_else(unclear)? => {
            // The key's line stays, with its comment; the lines of the value go.
            let mark = mark().ok_or_else(unclear)?;
            let end = next_line(text, end_of_line(text, node.range.end).ok_or_else(unclear)?);
            let shorter = spliced(text, line_start(text, node.range.start)..end, "");
            Ok(spliced(&shorter, mark..mark, &format!(" {value}")))
        }
        _ => Ok(spliced(text, node.range.clone(), value)),
    }
}

fn remove(text: &str, root: &Node, path: &str) -> Result<String, EditError> {
    let Found { parent, index, node, parent_path, .. } = find(root, path)?;
    if node.is_shared() {
        return Err(EditError::Shared(path.to_owned()));
    }
    let unclear = || EditError::Unclear(path.to_owned());
    let mut entries = parent.entries();
    let empty = if matches!(parent.kind, Kind::Mapping { .. }) { "{}" } else { "[]" };
    if entries.len() == 1 {
        if parent_path.is_empty() && !parent.is_flow() {
            let end = end_of_line(text, parent.range.end).ok_or_else(unclear)?;
            return Ok(spliced(text, line_start(text, parent.range.start)..end, empty));
        }
        let key = if parent_path.is_empty() { None } else { find(root, &parent_path)?.key };
        return write_value(text, parent, key, path, empty);
    }
    if parent.is_flow() {
        return remove_in_flow(text, &entries, index).ok_or_else(unclear);
    }
    if matches!(parent.kind, Kind::Sequence { .. }) {
        for entry in &mut entries {
            entry.start = dash(text, entry.start).ok_or_else(unclear)?;
        }
    }
    let entry = entries[index].clone();
    let start = line_start(text, entry.start);
    let end = end_of_line(text, entry.end).ok_or_else(unclear)?;
    if is_blank(&text[start..entry.start]) {
        return Ok(without_lines(text, start, end));
    }
    // The first entry of a mapping in a list stands behind the dash: the next one moves up, unless something is between.
    let next = entries.get(index + 1).ok_or_else(unclear)?;
    let between = next_line(text, end)..line_start(text, next.start);
    let until = if between.is_empty() { next.start } else { end };
    let from = if between.is_empty() { entry.start } else { start + text[start..entry.start].trim_end().len() };
    Ok(spliced(text, from..until, ""))
}

/// One of several entries between braces or brackets, with its comma.
fn remove_in_flow(text: &str, entries: &[Range<usize>], index: usize) -> Option<String> {
    let entry = &entries[index];
    let start = line_start(text, entry.start);
    let after = text[entry.end..].strip_prefix(',').unwrap_or(&text[entry.end..]);
    let after_at = text.len() - after.len();
    if is_blank(&text[start..entry.start])
        && let Some(end) = end_of_line(text, after_at)
    {
        // It has its lines to itself. Before a closing bracket, the comma of the entry before may stay.
        return Some(without_lines(text, start, end));
    }
    let cut = match entries.get(index + 1) {
        Some(next) => entry.start..next.start,
        None => entries[index - 1].end..entry.end,
    };
    let outside = match entries.get(index + 1) {
        Some(_) => &text[entry.end..cut.end],
        None => &text[cut.start..entry.start],
    };
    (!outside.contains('#')).then(|| spliced(text, cut, ""))
}

fn rename(text: &str, root: &Node, path: &str, to: &str) -> Result<String, EditError> {
    let Found { parent, key, .. } = find(root, path)?;
    let Kind::Mapping { pairs, .. } = &parent.kind else { return Err(EditError::Absent(path.to_owned())) };
    if pairs.iter().any(|pair| pair.name == to) {
        return Err(EditError::Taken(to.to_owned()));
    }
    let key = key.ok_or_else(|| EditError::Unclear(path.to_owned()))?;
    let new = match text[key.clone()].chars().next() {
        Some(quote @ ('"' | '\'')) if key_text(to) == to => format!("{quote}{to}{quote}"),
        _ => key_text(to),
    };
    Ok(spliced(text, key, &new))
}

/// A key as it is written: in quotes where it could be read as something else.
fn key_text(key: &str) -> String {
    let is_word = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        && from_yaml(key).is_ok_and(|value| value.is_string());
    if is_word { key.to_owned() } else { Value::from(key).to_string() }
}

fn spliced(text: &str, range: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..range.start], &text[range.end..])
}

/// The text with new lines after the line that ends at `end`: `keys` one inside the other, then the value.
fn with_lines(text: &str, end: usize, indent: usize, keys: &[&str], value: &str) -> String {
    let line_break = line_break_of(text, end);
    let mut new = String::new();
    for (depth, key) in keys.iter().enumerate() {
        new += &format!("{line_break}{}{}:", " ".repeat(indent + 2 * depth), key_text(key));
    }
    spliced(text, end..end, &format!("{new} {value}"))
}

/// The text without the lines from `start` to `end`; a last line that had no line break leaves none behind.
fn without_lines(text: &str, start: usize, end: usize) -> String {
    if end < text.len() {
        return spliced(text, start..next_line(text, end), "");
    }
    let before = &text[..start];
    let before = before.strip_suffix('\n').unwrap_or(before);
    before.strip_suffix('\r').unwrap_or(before).to_owned()
}

/// Past the comments below a line that are indented more than `indent`: they belong to what is above them.
fn past_deeper_comments(text: &str, mut end: usize, indent: usize) -> usize {
    loop {
        let start = next_line(text, end);
        let line_end = start + text[start..].find(['\n', '\r']).unwrap_or(text.len() - start);
        let line = &text[start..line_end];
        let own = line.len() - line.trim_start_matches(' ').len();
        if start == end || own <= indent || !line.trim_start().starts_with('#') {
            return end;
        }
        end = line_end;
    }
}

/// The end of the line, if only spaces and a comment stand between `at` and it.
fn end_of_line(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    let line = &rest[..rest.find(['\n', '\r']).unwrap_or(rest.len())];
    let after_space = line.trim_start_matches([' ', '\t']);
    let is_comment = after_space.starts_with('#') && after_space.len() < line.len();
    (after_space.is_empty() || is_comment).then_some(at + line.len())
}

/// The start of the line after the one that ends at `end`.
fn next_line(text: &str, end: usize) -> usize {
    let rest = &text[end..];
    let line_break = if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with(['\n', '\r'])) };
    end + line_break
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind(['\n', '\r']).map_or(0, |line_break| line_break + 1)
}

/// The line break at `end`, or else the first of the text.
fn line_break_of(text: &str, end: usize) -> &str {
    let at = if end < text.len() { Some(end) } else { text.find(['\n', '\r']) };
    at.map(|at| &text[at..next_line(text, at)]).filter(|found| !found.is_empty()).unwrap_or("\n")
}

/// Characters between the start of the line and `at`.
fn column(text: &str, at: usize) -> usize {
    text[line_start(text, at)..at].chars().count()
}

fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c == ' ')
}

/// Past the colon that follows a key on its line.
fn after_colon(text: &str, key_end: usize) -> Option<usize> {
    let rest = text[key_end..].trim_start_matches([' ', '\t']);
    rest.starts_with(':').then(|| text.len() - rest.len() + 1)
}

/// Past the anchor and the tag of a node that starts at `at`.
fn past_properties(text: &str, mut at: usize) -> usize {
    while text[at..].starts_with(['&', '!']) {
        let rest = &text[at..];
        let after = rest.trim_start_matches(|c: char| !c.is_whitespace()).trim_start();
        at = text.len() - after.len();
    }
    at
}

/// Past the bracket that closes a flow collection, where `at` is behind its last entry.
fn past_bracket(text: &str, at: usize) -> Option<usize> {
    let mut rest = &text[at..];
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if rest.starts_with('#') {
            rest = &rest[rest.find(['\n', '\r'])?..];
        } else {
            return rest.starts_with(['}', ']']).then(|| text.len() - rest.len() + 1);
        }
    }
}

/// The dash before a list entry.
fn dash(text: &str, entry_start: usize) -> Option<usize> {
    let before = text[..entry_start].trim_end_matches([' ', '\t', '\r', '\n']);
    before.ends_with('-').then(|| before.len() - 1)
}

#[cfg(test)]
mod tests;
