//! Where each key and value of a config stands: a pass over the parser's events that keeps positions and no values.
//!
//! Values come from `serde_yaml` alone; this pass adds what it cannot tell: line and column of every path
//! (`datasets[0].path`), both places of a duplicate key, the start of a second document, tags and merge keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

/// Entries that a config may have once its aliases are written out. The largest example config has a few hundred.
const ENTRY_LIMIT: usize = 20_000;
/// Levels of nesting. No key of the schema needs more than six; a plugin's own config may need some.
const DEPTH_LIMIT: usize = 64;

/// Brackets that are open at once.
const BRACKET_LIMIT: usize = 1000;
/// Bytes that all values may have once aliases are written out.
const BYTES_LIMIT: usize = 8 << 20;
/// Flaws that are told.
const FLAW_LIMIT: usize = 50;
/// Columns up to which the end of a quoted text is looked for.
const COLUMN_LIMIT: usize = 10_000;

/// A stretch of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Characters; 1 where it goes on in the next line.
    pub len: usize,
}

impl Spot {
    fn of(span: Span) -> Self {
        let same_line = span.start.line() == span.end.line();
        let len = if same_line { span.end.col().saturating_sub(span.start.col()) } else { 1 };
        Self { line: span.start.line(), column: span.start.col() + 1, len: len.max(1) }
    }
}

/// Where one entry of a mapping or a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its key; none in a sequence.
    pub key: Option<Spot>,
    /// Its value; where a value starts on a later line than its key, the key stands for it in messages.
    pub value: Spot,
    /// The value is a mapping or a sequence.
    pub is_container: bool,
}

/// Something that is valid YAML and still cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A key that its mapping already has: the path, this place, the first place.
    Duplicate { path: String, first: Spot },
    /// A second document starts here.
    SecondDocument,
    /// `<<` with something else than a mapping or a list of mappings.
    MergeKey { path: String },
    /// A tag (`!python/object`), which could only mean something that a config must not do.
    Tag { path: String, tag: String },
    /// A mapping or a sequence as a key.
    ComplexKey { path: String },
    /// More nesting than any config needs.
    TooDeep,
    /// Aliases that write out to more than any config needs.
    TooLarge,
    /// An alias inside the very value that it stands for.
    RecursiveAlias { path: String },
}

/// The result of the pass.
#[derive(Debug, Default)]
pub(super) struct Positions {
    entries: BTreeMap<String, Entry>,
    /// What is wrong, in file order.
    pub flaws: Vec<(Spot, Flaw)>,
    /// Characters that no YAML document starts with were all that is there: nothing or only comments.
    pub is_empty: bool,
}

impl Positions {
    /// Reads positions from `text`. An error is the parser's: then there are no positions at all.
    pub(super) fn of(text: &str) -> Result<Self, ScanError> {
        let mut pass = Pass::default();
        pass.out.is_empty = true;
        // Each bracket that is open is looked at again with every character behind it.
        if let Some(spot) = too_deep(text) {
            pass.flaw(spot, Flaw::TooDeep);
            pass.out.is_empty = false;
            return Ok(pass.out);
        }
        let lines: Vec<&str> = text.lines().collect();
        for event in Parser::new_from_str(text) {
            let (event, span) = event?;
            let mut spot = Spot::of(span);
            if let Event::Scalar(_, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted, ..) = event {
                spot.len = quoted_len(&lines, spot).unwrap_or(spot.len);
            }
            if !pass.take(&event, spot) || pass.out.flaws.len() >= FLAW_LIMIT {
                break;
            }
        }
        let Pass { mut out, merged, .. } = pass;
        if !merged.is_empty() {
            out.entries.retain(|path, _| !merged.iter().any(|merge| is_within(path, merge)));
        }
        out.flaws.sort_by_key(|(spot, _)| *spot);
        Ok(out)
    }

    /// The entry at a config path.
    pub(super) fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// All paths, in alphabetical order, for tests. The whole document is the empty path.
    #[cfg(test)]
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}

/// The first bracket of too many that are open at once. Brackets in texts count too; none has a thousand that stay open.
fn too_deep(text: &str) -> Option<Spot> {
    let mut depth = 0_usize;
    for (index, line) in text.lines().enumerate() {
        for (column, character) in line.chars().enumerate() {
            match character {
                '[' | '{' => depth += 1,
                ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > BRACKET_LIMIT {
                return Some(Spot { line: index + 1, column: column + 1, len: 1 });
            }
        }
    }
    None
}

/// Characters of a quoted text without its anchor or tag, where it ends on its line.
fn quoted_len(lines: &[&str], spot: Spot) -> Option<usize> {
    if spot.column > COLUMN_LIMIT {
        return None;
    }
    let line = lines.get(spot.line - 1)?;
    let (start, _) = line.char_indices().nth(spot.column - 1)?;
    Some(line[start..end_of_quoted(line, start)?].chars().count())
}

/// The byte past the closing quote of what starts at `start`. The parser's own end may be that of a comment behind it.
pub(super) fn end_of_quoted(text: &str, start: usize) -> Option<usize> {
    let mut characters = text[start..].char_indices().peekable();
    let (_, quote) = characters.next().filter(|(_, c)| matches!(c, '\'' | '"'))?;
    while let Some((at, c)) = characters.next() {
        if c == '\\' && quote == '"' {
            characters.next();
        } else if c == quote && !(quote == '\'' && characters.next_if(|(_, next)| *next == quote).is_some()) {
            return Some(start + at + 1);
        }
    }
    None
}

/// `parent.key`, or `parent["odd key"]` where a plain key could be misread.
pub fn join(parent: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '/' | '<'));
    match (parent.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (_, false) => format!("{parent}[{key:?}]"),
    }
}

/// `parent[index]`.
pub fn join_index(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// True if `path` is `parent` or stands inside it.
pub fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || parent.is_empty() || rest.starts_with(['.', '[']))
}

#[derive(Default)]
struct Pass {
    out: Positions,
    frames: Vec<Frame>,
    /// Anchor → path of its value, and whether that value is complete.
    anchors: HashMap<usize, (String, bool)>,
    documents: usize,
    /// Path of a plain value → its bytes, and those of all.
    sizes: BTreeMap<String, usize>,
    bytes: usize,
    /// Path of a mapping that is complete → its keys.
    keys: BTreeMap<String, Vec<String>>,
    /// Paths of merge keys. What stands there goes when all is read: an alias may still name something in it.
    merged: BTreeSet<String>,
}

/// The merge key of YAML 1.1, which PyYAML applies and so do we.
pub(super) const MERGE: &str = "<<";

struct Frame {
    path: String,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    Mapping {
        seen: HashMap<String, Spot>,
        key: Option<(String, Spot)>,
    },
    Sequence {
        next: usize,
    },
    /// Inside a key that is itself a container: nothing in it has a path.
    KeyContainer,
}

impl Pass {
    /// False: stop reading.
    fn take(&mut self, event: &Event<'_>, spot: Spot) -> bool {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.flaw(spot, Flaw::SecondDocument);
                    return false;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.documents == 1 && !(text.is_empty() && *style == ScalarStyle::Plain) {
                    self.out.is_empty = false;
                }
                return self.scalar(text, *anchor, tag.as_deref(), spot);
            }
            Event::MappingStart(anchor, tag) => {
                self.out.is_empty = false;
                return self.open(*anchor, tag.as_deref(), spot, Kind::Mapping { seen: HashMap::new(), key: None });
            }
            Event::SequenceStart(anchor, tag) => {
                self.out.is_empty = false;
                return self.open(*anchor, tag.as_deref(), spot, Kind::Sequence { next: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                if let Some(frame) = self.frames.pop() {
                    self.anchors.entry(frame.anchor).and_modify(|anchor| anchor.1 = true);
                    if let Kind::Mapping { mut seen, .. } = frame.kind {
                        let merge = seen.remove(MERGE);
                        let mut names = seen.into_keys().collect();
                        let fits = merge.is_none_or(|spot| self.merge(&frame.path, spot, &mut names));
                        self.keys.insert(frame.path, names);
                        return fits;
                    }
                }
            }
            Event::Alias(anchor) => return self.alias(*anchor, spot),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        true
    }

    fn flaw(&mut self, spot: Spot, flaw: Flaw) {
        self.out.flaws.push((spot, flaw));
    }

    fn scalar(&mut self, text: &str, anchor: usize, tag: Option<&Tag>, spot: Spot) -> bool {
        if let Some(Frame { path, kind: Kind::Mapping { seen, key: key @ None }, .. }) = self.frames.last_mut() {
            let full = join(path, text);
            let first = seen.get(text).copied();
            seen.entry(text.to_owned()).or_insert(spot);
            *key = Some((text.to_owned(), spot));
            if let Some(first) = first {
                self.flaw(spot, Flaw::Duplicate { path: full, first });
            }
            return true;
        }
        let Some((path, key)) = self.next_path() else { return true };
        self.check_tag(&path, tag, spot);
        self.anchors.insert(anchor, (path.clone(), true));
        self.size(path.clone(), text.len(), spot) && self.insert(path, Entry { key, value: spot, is_container: false })
    }

    fn open(&mut self, anchor: usize, tag: Option<&Tag>, spot: Spot, kind: Kind) -> bool {
        if self.frames.len() >= DEPTH_LIMIT {
            self.flaw(spot, Flaw::TooDeep);
            return false;
        }
        let is_key = matches!(self.frames.last(), Some(Frame { kind: Kind::Mapping { key: None, .. }, .. }));
        let Some((path, key)) = (if is_key { None } else { self.next_path() }) else {
            if let Some(Frame { path, kind: Kind::Mapping { key, .. }, .. }) = self.frames.last_mut() {
                let path = path.clone();
                *key = Some(("?".to_owned(), spot));
                self.flaw(spot, Flaw::ComplexKey { path });
            }
            self.frames.push(Frame { path: String::new(), anchor: 0, kind: Kind::KeyContainer });
            return true;
        };
        self.check_tag(&path, tag, spot);
        self.anchors.insert(anchor, (path.clone(), false));
        // A block collection starts at its first entry and has no width of its own.
        let value = Spot { len: 1, ..spot };
        self.frames.push(Frame { path: path.clone(), anchor, kind });
        self.insert(path, Entry { key, value, is_container: true })
    }

    fn alias(&mut self, anchor: usize, spot: Spot) -> bool {
        if let Some(Frame { kind: Kind::Mapping { key: key @ None, .. }, .. }) = self.frames.last_mut() {
            *key = Some(("*".to_owned(), spot));
            return true;
        }
        let Some((path, key)) = self.next_path() else { return true };
        let Some((target, complete)) = self.anchors.get(&anchor).cloned() else { return true };
        if !complete {
            self.flaw(spot, Flaw::RecursiveAlias { path });
            return false;
        }
        // The alias has a place of its own; of a key that is there twice, the first one keeps its.
        let Some(aliased) = self.out.entries.get(&target).copied() else { return true };
        let size = self.sizes.get(&target).copied().unwrap_or(0);
        self.size(path.clone(), size, spot)
            && self.insert(path.clone(), Entry { key, value: spot, ..aliased })
            && self.copy(&target, &path)
    }

    /// Puts what stands at `from`, and inside it, at `to` as well.
    fn copy(&mut self, from: &str, to: &str) -> bool {
        fn within<'a, T>(near: impl Iterator<Item = (&'a String, T)>, from: &str, to: &str) -> Vec<(String, T)> {
            let inside = near.take_while(|(at, _)| at.starts_with(from)).filter(|(at, _)| is_within(at, from));
            inside.map(|(at, value)| (format!("{to}{}", &at[from.len()..]), value)).collect()
        }
        let start = from.to_owned();
        let keys = within(self.keys.range(start.clone()..).map(|(at, keys)| (at, keys.clone())), from, to);
        let merged = within(self.merged.range(start.clone()..).map(|at| (at, ())), from, to);
        let entries = within(self.out.entries.range(start..).map(|(at, entry)| (at, *entry)), from, to);
        self.keys.extend(keys);
        // An alias of what is merged is not itself merged: only what is merged inside it is.
        self.merged.extend(merged.into_iter().map(|(at, ())| at).filter(|at| at != to));
        let sizes = within(self.sizes.range(from.to_owned()..).map(|(at, bytes)| (at, *bytes)), from, to);
        let spot = entries.first().map_or(Spot { line: 1, column: 1, len: 1 }, |(_, entry)| entry.value);
        sizes.into_iter().filter(|(at, _)| at != to).all(|(at, bytes)| self.size(at, bytes, spot))
            && entries.into_iter().all(|(at, entry)| self.insert(at, entry))
    }

    /// Puts what stands under the merge key of the mapping `path` into it: its own keys (`names`) win, then the first mapping
    /// of a list. What is merged has its place where it was written.
    fn merge(&mut self, path: &str, spot: Spot, names: &mut Vec<String>) -> bool {
        let from = join(path, MERGE);
        let sources: Vec<String> = if self.out.entries.contains_key(&join_index(&from, 0)) {
            (0..ENTRY_LIMIT)
                .map(|index| join_index(&from, index))
                .take_while(|at| self.out.entries.contains_key(at))
                .collect()
        } else {
            vec![from.clone()]
        };
        if sources.iter().any(|source| !self.keys.contains_key(source)) {
            self.flaw(spot, Flaw::MergeKey { path: from.clone() });
        }
        let mut fits = true;
        for source in sources {
            for name in self.keys.get(&source).cloned().unwrap_or_default() {
                if !names.contains(&name) {
                    fits = fits && self.copy(&join(&source, &name), &join(path, &name));
                    names.push(name);
                }
            }
        }
        self.merged.insert(from);
        fits
    }

    /// Path of the value that comes next, and where its key stands. None inside a key.
    fn next_path(&mut self) -> Option<(String, Option<Spot>)> {
        match self.frames.last_mut() {
            None => Some((String::new(), None)),
            Some(Frame { path, kind, .. }) => match kind {
                Kind::Mapping { key, .. } => key.take().map(|(key, spot)| (join(path, &key), Some(spot))),
                Kind::Sequence { next } => {
                    *next += 1;
                    Some((join_index(path, *next - 1), None))
                }
                Kind::KeyContainer => None,
            },
        }
    }

    /// Counts the bytes of a value.
    fn size(&mut self, path: String, bytes: usize, spot: Spot) -> bool {
        self.sizes.insert(path, bytes);
        self.bytes += bytes;
        if self.bytes > BYTES_LIMIT {
            self.flaw(spot, Flaw::TooLarge);
        }
        self.bytes <= BYTES_LIMIT
    }

    fn check_tag(&mut self, path: &str, tag: Option<&Tag>, spot: Spot) {
        let Some(tag) = tag else { return };
        let core = tag.is_yaml_core_schema()
            && matches!(tag.suffix.as_str(), "str" | "int" | "float" | "bool" | "null" | "map" | "seq");
        if !core {
            let handle = if tag.is_yaml_core_schema() { "!!" } else { &tag.handle };
            let tag = format!("{handle}{}", tag.suffix);
            self.flaw(spot, Flaw::Tag { path: path.to_owned(), tag });
        }
    }

    fn insert(&mut self, path: String, entry: Entry) -> bool {
        if self.out.entries.len() >= ENTRY_LIMIT {
            self.flaw(entry.value, Flaw::TooLarge);
            return false;
        }
        self.out.entries.entry(path).or_insert(entry);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(line: usize, column: usize, len: usize) -> Spot {
        Spot { line, column, len }
    }

    #[test]
    fn keys_and_values_have_lines_and_columns() {
        let text = "base_model: tiny\ndatasets:\n  - path: 'a b'\n    type: {name: x}\nlora_target_modules: [q, k]\n";
        let positions = Positions::of(text).expect("valid");
        let of = |path| *positions.get(path).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!(of("base_model"), Entry { key: Some(spot(1, 1, 10)), value: spot(1, 13, 4), is_container: false });
        assert_eq!(of("datasets[0].path").value, spot(3, 11, 5));
        assert_eq!(of("datasets[0].type.name").key, Some(spot(4, 12, 4)));
        assert_eq!(of("lora_target_modules[1]").value, spot(5, 26, 1));
        assert_eq!(of("datasets[0]").value.line, 3);
        assert!(positions.flaws.is_empty() && !positions.is_empty);
    }

    #[test]
    fn a_quoted_text_ends_with_its_quote() {
        let text = "'seed' : \"ä ' \\\"b\"   # c\nx: 'it''s' # d\ny: \"over\n  two\"\n";
        let positions = Positions::of(text).expect("valid");
        let of = |path| *positions.get(path).unwrap_or_else(|| panic!("no {path}"));
        assert_eq!((of("seed").key, of("seed").value), (Some(spot(1, 1, 6)), spot(1, 10, 9)));
        assert_eq!(of("x").value, spot(2, 4, 7));
        assert_eq!(of("y").value.line, 3);
    }

    #[test]
    fn flaws_come_in_file_order() {
        let text = "a: 1\nb: &x {c: 1}\na: 2\nd:\n  <<: [*x, 3]\ne: !py 1\n? [k]\n: 1\n---\nz: 1\n";
        let positions = Positions::of(text).expect("valid");
        let found: Vec<_> = positions.flaws.iter().map(|(spot, flaw)| (spot.line, flaw.clone())).collect();
        assert_eq!(
            found,
            [
                (3, Flaw::Duplicate { path: "a".to_owned(), first: spot(1, 1, 1) }),
                (5, Flaw::MergeKey { path: "d.<<".to_owned() }),
                (6, Flaw::Tag { path: "e".to_owned(), tag: "!py".to_owned() }),
                (7, Flaw::ComplexKey { path: String::new() }),
                (9, Flaw::SecondDocument),
            ]
        );
    }

    #[test]
    fn an_alias_has_its_own_place_and_its_content_the_anchors() {
        let positions = Positions::of("a: &x\n  k: 1\nb: *x\n").expect("valid");
        assert_eq!(positions.get("b").map(|entry| entry.value), Some(spot(3, 4, 2)));
        assert_eq!(positions.get("b.k").map(|entry| entry.value), Some(spot(2, 6, 1)));
    }

    #[test]
    fn bombs_are_found_early() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..11 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            text += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        let positions = Positions::of(&text).expect("valid");
        assert!(matches!(positions.flaws.as_slice(), [(_, Flaw::TooLarge)]), "{:?}", positions.flaws);
        let deep: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(matches!(Positions::of(&deep).expect("valid").flaws.as_slice(), [(_, Flaw::TooDeep)]));
        let brackets = Positions::of(&"[".repeat(200_000)).expect("valid");
        assert!(matches!(brackets.flaws.as_slice(), [(_, Flaw::TooDeep)]));
        let long = format!("a: &x {}\nb: [{}]\n", "x".repeat(500_000), vec!["*x"; 1000].join(", "));
        assert!(matches!(Positions::of(&long).expect("valid").flaws.as_slice(), [(_, Flaw::TooLarge)]));
        let twice = Positions::of(&"a: 1\n".repeat(100_000)).expect("valid");
        assert_eq!(twice.flaws.len(), FLAW_LIMIT);
        let own = Positions::of("a: &x\n  b: *x\n").expect("valid");
        assert!(matches!(own.flaws.as_slice(), [(_, Flaw::RecursiveAlias { .. })]));
    }

    #[test]
    fn nothing_but_comments_is_empty() {
        for text in ["", "# a\n", "---\n", "\n\n"] {
            assert!(Positions::of(text).expect("valid").is_empty, "{text:?}");
        }
        assert!(!Positions::of("''").expect("valid").is_empty);
    }

    #[test]
    fn odd_keys_are_quoted_in_paths() {
        assert_eq!(join("roles", "a.b"), r#"roles["a.b"]"#);
        assert!(is_within("a.b[0]", "a.b") && is_within("a", "") && !is_within("ab", "a"));
    }
}
