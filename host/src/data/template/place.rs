//! Where each turn of a conversation stands in its rendered text, found by rendering again, never by searching for what
//! the turn says: templates trim, cut, repeat and escape it, and write more for a turn than its content.
//!
//! One more rendering has marks around every content (and at its spans). Where the text without the marks is the same, they
//! tell where contents stand. A turn with more than a content (tool calls, reasoning) is what the text has more than a
//! rendering in which that turn is a bare message, as Axolotl has it (`prompt_strategies/chat_template.py`): every other such
//! turn is made bare in one rendering, the rest in a second, and each is compared between the marks around it. So a
//! conversation takes a handful of renderings, however long it is; only turns that this leaves open take their own.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;

use plugin_runtime::types::Conversation;
use serde_json::Value;

use super::{ChatTemplate, OUTPUT_LIMIT, Rendered, TemplateError, Turn, WORK_LIMIT, messages, tools};

/// Marks are characters of the Supplementary Private Use Areas from here on, which no template handles specially.
const FIRST_MARK: u32 = 0xf_0000;
/// As many as the first of the two areas has.
const MARKS: usize = 65_534;
/// Bytes that rendering a message takes at least, for the budget.
const MESSAGE_WORK: usize = 64;

impl ChatTemplate {
    /// Renders a conversation for training. `needed` tells which turns must be found: those of which something is learned.
    ///
    /// # Errors
    /// [`TemplateError`]: the template refuses the conversation, or a needed turn cannot be found in the text.
    pub fn render(&self, conversation: &Conversation, needed: &[bool]) -> Result<Rendered, TemplateError> {
        let bytes: usize = conversation.messages.iter().map(|message| message.content.len()).sum();
        if bytes > OUTPUT_LIMIT {
            return Err(TemplateError::TooLong(bytes));
        }
        let tools = tools(conversation)?;
        let mut messages = messages(conversation)?;
        let this = self.of(conversation);
        let text = this.text(&mut messages, tools.as_ref(), false)?;
        // Found are all turns that marks show, and those of `needed` in any case.
        let finder = Finder::new(this, conversation, &messages, tools.as_ref(), &text);
        let (turns, unwritten) = finder.turns(needed)?;
        Ok(Rendered { text, turns, unwritten })
    }
}

/// How a message is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// As it is.
    ItIs,
    /// With marks around its content and at its spans.
    Marked,
    /// With marks inside the white space around its content: for templates that trim.
    Trimmed,
    /// Role and marks, nothing else.
    Bare,
    /// With marks for its content, and its other fields.
    Emptied,
    /// With a mark behind its content.
    Ended,
}

/// A rendering without its marks, and where they were.
struct Marked {
    text: String,
    /// By mark; how often it was there, and where last.
    marks: Vec<(usize, usize)>,
}

impl Marked {
    /// The place of a mark that is there once.
    fn at(&self, mark: usize) -> Option<usize> {
        self.marks.get(mark).filter(|(times, _)| *times == 1).map(|&(_, at)| at)
    }

    fn is_there(&self, mark: usize) -> bool {
        self.marks.get(mark).is_some_and(|(times, _)| *times > 0)
    }
}

struct Finder<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    messages: &'a [Value],
    tools: Option<&'a Value>,
    text: &'a str,
    /// For each message, bytes of its content that are marked: start, end, then start and end of each span.
    points: Vec<Vec<usize>>,
    /// For each message, the mark of its first point.
    marks: Vec<usize>,
    /// Marks can be told from the text.
    can_mark: bool,
    work: Cell<usize>,
}

impl<'a> Finder<'a> {
    fn new(
        template: &'a ChatTemplate,
        conversation: &'a Conversation,
        messages: &'a [Value],
        tools: Option<&'a Value>,
        text: &'a str,
    ) -> Self {
        let (mut points, mut marks, mut count) = (Vec::new(), Vec::new(), 0);
        for message in &conversation.messages {
            let mut own = vec![0, message.content.len()];
            if !message.spans.is_empty() {
                let mut bytes: Vec<usize> = message.content.char_indices().map(|(at, _)| at).collect();
                bytes.push(message.content.len());
                let byte = |character: u32| bytes.get(character as usize).copied().unwrap_or(message.content.len());
                own.extend(message.spans.iter().flat_map(|span| [byte(span.start), byte(span.end)]));
            }
            marks.push(count);
            count += own.len();
            points.push(own);
        }
        let is_mark = |character| mark_of(character).is_some();
        let can_mark = count <= MARKS && !text.chars().any(is_mark);
        Self { template, conversation, messages, tools, text, points, marks, can_mark, work: Cell::new(0) }
    }

    fn turns(&self, needed: &[bool]) -> Result<(Vec<Turn>, BTreeSet<String>), TemplateError> {
        let mut turns = vec![Turn::default(); self.messages.len()];
        let mut unwritten = BTreeSet::new();
        let all = self.same_text(|_| As::Marked)?;
        let (all, how) = match all {
            Some(all) => (Some(all), As::Marked),
            None => (self.same_text(|_| As::Trimmed)?, As::Trimmed),
        };
        let mut open = BTreeSet::new();
        if let Some(all) = &all {
            for (index, turn) in turns.iter_mut().enumerate() {
                let content = &self.conversation.messages[index].content;
                let (start, end) = (self.marks[index], self.marks[index] + 1);
                let is_blank = content.trim().is_empty();
                if !is_blank && !all.is_there(start) && !all.is_there(end) {
                    unwritten.insert(self.conversation.messages[index].role.clone());
                }
                let place = all.at(start).zip(all.at(end)).filter(|(start, end)| start <= end);
                match place {
                    Some((start, end)) => {
                        turn.bytes = start..end;
                        let is_sure = how == As::Marked || self.is_trimmed(content, start..end);
                        if needed[index] && (self.has_more(index) || !is_sure) {
                            open.insert(index);
                        }
                    }
                    None if needed[index] => drop(open.insert(index)),
                    None => {}
                }
                if place.is_some() {
                    turn.spans = self.spans(index, &turn.bytes, Some(all))?;
                }
            }
            self.between_marks(all, how, &mut open, &mut turns)?;
        } else {
            open.extend((0..turns.len()).filter(|&index| needed[index]));
        }
        for index in open {
            turns[index] = self.alone(index)?;
        }
        Ok((turns, unwritten))
    }

    /// The white space around a content is not around what stands in the text, so the template took it away. Where it is,
    /// it may be the template's own: only a rendering with this turn's marks alone shows that.
    fn is_trimmed(&self, content: &str, bytes: Range<usize>) -> bool {
        let front = &content[..content.len() - content.trim_start().len()];
        let back = &content[content.trim_end().len()..];
        (front.is_empty() || !self.text[..bytes.start].ends_with(front))
            && (back.is_empty() || !self.text[bytes.end..].starts_with(back))
    }

    /// The template may write more for this turn than its content.
    fn has_more(&self, index: usize) -> bool {
        self.conversation.messages[index].content.is_empty()
            || self.messages[index].as_object().is_some_and(|fields| fields.len() > 2)
    }

    /// Finds turns with more than a content, every other at a time; what is found is no longer open.
    fn between_marks(
        &self,
        all: &Marked,
        how: As,
        open: &mut BTreeSet<usize>,
        turns: &mut [Turn],
    ) -> Result<(), TemplateError> {
        let wanted: Vec<usize> = open.iter().copied().filter(|&index| self.has_more(index)).collect();
        for round in 0..2 {
            let bare: BTreeSet<usize> = wanted.iter().copied().skip(round).step_by(2).collect();
            let Some(other) = self.marked(|index| if bare.contains(&index) { As::Bare } else { how })? else {
                continue;
            };
            let Some(places) = self.compare(all, &other, &bare) else { continue };
            for (index, bytes) in places {
                turns[index].spans = self.spans(index, &bytes, Some(all))?;
                turns[index].bytes = bytes;
                open.remove(&index);
            }
        }
        Ok(())
    }

    /// What each of `bare` wrote into the text, if all else is the same in both.
    fn compare(&self, all: &Marked, other: &Marked, bare: &BTreeSet<usize>) -> Option<Vec<(usize, Range<usize>)>> {
        let anchor = |mark: usize| all.at(mark).zip(other.at(mark));
        let mut places = Vec::with_capacity(bare.len());
        // Where the part behind the last segment begins, in both.
        let mut rest = (0, 0);
        for &index in bare {
            let mut earlier = (0..index).rev().take_while(|earlier| !bare.contains(earlier));
            let before = earlier.find_map(|earlier| anchor(self.marks[earlier] + 1));
            let mut later = (index + 1..self.messages.len()).take_while(|later| !bare.contains(later));
            let after = later.find_map(|later| anchor(self.marks[later]));
            let first = bare.first() == Some(&index);
            let last = bare.last() == Some(&index);
            let start = before.or(first.then_some((0, 0)))?;
            let end = after.or(last.then_some((self.text.len(), other.text.len())))?;
            if start.0 < rest.0 || start.1 < rest.1 || end.0 < start.0 || end.1 < start.1 {
                return None;
            }
            if self.text[rest.0..start.0] != other.text[rest.1..start.1] {
                return None;
            }
            let at = other.at(self.marks[index]).filter(|at| (start.1..=end.1).contains(at)).map(|at| at - start.1);
            let (full, bare) = (&self.text[start.0..end.0], &other.text[start.1..end.1]);
            let found = difference(full, bare, at);
            let bytes = found.start + start.0..found.end + start.0;
            places.push((index, self.after_opening(index, bytes, at.is_some_and(|at| found.start < at)).ok()?));
            rest = end;
        }
        (self.text[rest.0..] == other.text[rest.1..]).then_some(places)
    }

    /// A turn whose own words begin before its bare form's: those of its reasoning, that the template opens for all turns.
    /// They begin where a model that is asked to go on has to begin.
    fn after_opening(
        &self,
        index: usize,
        bytes: Range<usize>,
        begins_earlier: bool,
    ) -> Result<Range<usize>, TemplateError> {
        if !begins_earlier || self.conversation.messages[index].role != "assistant" {
            return Ok(bytes);
        }
        let opening = self.rendered(&self.messages[..index], true)?;
        let opening = opening.filter(|opening| opening.len() <= bytes.start && self.text.starts_with(opening.as_str()));
        Ok(opening.map_or(bytes.start, |opening| opening.len())..bytes.end)
    }

    /// Finds one turn by renderings of its own.
    fn alone(&self, index: usize) -> Result<Turn, TemplateError> {
        let message = &self.conversation.messages[index];
        let only = |how: As| move |other: usize| if other == index { how } else { As::ItIs };
        let (start, end) = (self.marks[index], self.marks[index] + 1);
        let mut marked = None;
        for how in [As::Marked, As::Trimmed] {
            marked = self.same_text(only(how))?;
            if let Some(marked) = &marked {
                let place = marked.at(start).zip(marked.at(end)).filter(|(start, end)| start <= end);
                if let Some((start, end)) = place.filter(|_| !self.has_more(index)) {
                    return self.turn(index, start..end, Some(marked));
                }
                break;
            }
        }
        let marked = marked.as_ref();
        // Other fields than these cannot be what a turn says.
        let is_harmless = !message.content.is_empty() && self.has_only_names(index);
        let ways: &[As] = if is_harmless { &[As::Bare, As::Emptied] } else { &[As::Bare] };
        for &how in ways {
            if let Some(other) = self.marked(only(how))? {
                let at = other.at(start);
                let found = difference(self.text, &other.text, at);
                let begins_earlier = at.is_some_and(|at| found.start < at);
                let bytes = self.after_opening(index, found, begins_earlier)?;
                // A template that writes the same whatever the content is: that is its turn all the same.
                let gain =
                    if bytes.is_empty() && !message.content.trim().is_empty() { self.gain(index)? } else { None };
                return gain.map_or_else(|| self.turn(index, bytes, marked), Ok);
            }
        }
        // A template that looks for something at the start of the content: the end can be marked all the same.
        if let Some(marked) = self.same_text(only(As::Ended))?.filter(|_| is_harmless || !self.has_more(index))
            && let Some(end) = marked.at(end)
        {
            let content = [message.content.as_str(), message.content.trim_start()];
            if let Some(content) = content.iter().find(|content| self.text[..end].ends_with(**content)) {
                return self.turn(index, end - content.len()..end, None);
            }
        }
        // A template that refuses the bare message.
        if let Some(turn) = self.gain(index)? {
            return Ok(Turn { spans: self.spans(index, &turn.bytes, marked)?, ..turn });
        }
        Err(TemplateError::Unplaced { index, role: message.role.clone() })
    }

    /// What the text gains by the message, behind the words that open an assistant's turn; its end is among it. A template
    /// may write otherwise what stands further ahead, once more follows: so texts are compared from the last content on.
    fn gain(&self, index: usize) -> Result<Option<Turn>, TemplateError> {
        if self.conversation.messages[index].role != "assistant" {
            return Ok(None);
        }
        let last = (0..index).rev().find(|&last| !self.conversation.messages[last].content.trim().is_empty());
        // Without such a content, from the start on.
        for (last, way) in [(last, As::Marked), (last, As::Trimmed), (None, As::ItIs)] {
            let how = |other: usize| if last == Some(other) { way } else { As::ItIs };
            let Some(whole) = self.same_text(how)? else { continue };
            let opening = self.marked_up_to(index, true, how)?;
            let with = self.marked_up_to(index + 1, false, how)?;
            let Some((opening, with)) = opening.zip(with) else { continue };
            // Behind the last content, of each.
            let end = |marked: &Marked| last.map_or(Some(0), |last| marked.at(self.marks[last] + 1));
            let Some(((from, opened), written)) = end(&whole).zip(end(&opening)).zip(end(&with)) else { continue };
            let (rest, opened, written) = (&self.text[from..], &opening.text[opened..], &with.text[written..]);
            if rest.starts_with(written) && written.starts_with(opened) && written.len() > opened.len() {
                let bytes = from + opened.len()..from + written.len();
                // Its content is not in it, and so none of its spans.
                let spans = vec![bytes.end..bytes.end; self.conversation.messages[index].spans.len()];
                return Ok(Some(Turn { bytes, spans, holds_end: true }));
            }
        }
        Ok(None)
    }

    /// The fields beside role and content are names and numbers, as those of a tool's result.
    fn has_only_names(&self, index: usize) -> bool {
        let Value::Object(fields) = &self.messages[index] else { return false };
        fields.iter().all(|(name, value)| {
            let is_said = ["reasoning", "think", "thought"].iter().any(|word| name.contains(word));
            !is_said && !value.is_object() && !value.is_array()
        })
    }

    fn turn(&self, index: usize, bytes: Range<usize>, marked: Option<&Marked>) -> Result<Turn, TemplateError> {
        let spans = self.spans(index, &bytes, marked)?;
        Ok(Turn { bytes, spans, holds_end: false })
    }

    /// The spans of a turn. A point that the template cut away is where what is left begins or ends.
    fn spans(
        &self,
        index: usize,
        bytes: &Range<usize>,
        marked: Option<&Marked>,
    ) -> Result<Vec<Range<usize>>, TemplateError> {
        let points = &self.points[index];
        let message = &self.conversation.messages[index];
        if message.spans.is_empty() {
            return Ok(Vec::new());
        }
        let mut known: Vec<(usize, usize)> = if let Some(marked) = marked {
            let places = points.iter().enumerate();
            places.filter_map(|(number, &point)| Some((point, marked.at(self.marks[index] + number)?))).collect()
        } else {
            // Marks change what the template does: what is left of the content tells, where it is there as it was.
            let left = &self.text[bytes.clone()];
            let cut = if message.content.ends_with(left) {
                message.content.len() - left.len()
            } else if message.content.starts_with(left) {
                0
            } else {
                return Err(TemplateError::Unplaced { index, role: message.role.clone() });
            };
            points.iter().map(|&point| (point, bytes.start + point.saturating_sub(cut).min(left.len()))).collect()
        };
        known.sort_unstable();
        let place = |point: usize| {
            let at = known.partition_point(|known| known.0 < point);
            let here = known.get(at).filter(|known| known.0 == point).map(|known| known.1);
            (at.checked_sub(1).map(|before| known[before].1), here, known.get(at).map(|known| known.1))
        };
        // A point that is not there was cut away: with all before it, with all behind it, or from between two others.
        let start = |point: usize| match place(point) {
            (_, Some(at), _) => at,
            (None, ..) => bytes.start,
            (Some(_), _, after) => after.unwrap_or(bytes.end),
        };
        let end = |point: usize| match place(point) {
            (_, Some(at), _) => at,
            (_, _, None) => bytes.end,
            (before, _, Some(_)) => before.unwrap_or(bytes.start),
        };
        let range = |pair: &[usize]| start(pair[0])..end(pair[1]).max(start(pair[0]));
        Ok(points[2..].chunks_exact(2).map(range).collect())
    }

    /// A rendering that is the text, once the marks are taken out.
    fn same_text(&self, how: impl Fn(usize) -> As) -> Result<Option<Marked>, TemplateError> {
        Ok(self.marked(how)?.filter(|marked| marked.text == self.text))
    }

    /// A rendering with marks; none where the template refuses it.
    fn marked(&self, how: impl Fn(usize) -> As) -> Result<Option<Marked>, TemplateError> {
        self.marked_up_to(self.messages.len(), false, how)
    }

    /// The same of the first messages alone.
    fn marked_up_to(
        &self,
        end: usize,
        open_turn: bool,
        how: impl Fn(usize) -> As,
    ) -> Result<Option<Marked>, TemplateError> {
        if !self.can_mark {
            return Ok(None);
        }
        let messages: Vec<Value> = (0..end).map(|index| self.message(index, how(index))).collect();
        let Some(text) = self.rendered(&messages, open_turn)? else { return Ok(None) };
        let mut marked = Marked { text: String::with_capacity(text.len()), marks: Vec::new() };
        for character in text.chars() {
            match mark_of(character) {
                Some(mark) => {
                    if marked.marks.len() <= mark {
                        marked.marks.resize(mark + 1, (0, 0));
                    }
                    marked.marks[mark] = (marked.marks[mark].0 + 1, marked.text.len());
                }
                None => marked.text.push(character),
            }
        }
        Ok(Some(marked))
    }

    fn message(&self, index: usize, how: As) -> Value {
        let content = self.conversation.messages[index].content.as_str();
        let first = self.marks[index];
        let (start, end) = match how {
            As::Trimmed => {
                let start = content.len() - content.trim_start().len();
                (start, start + content.trim().len())
            }
            _ => (0, content.len()),
        };
        let new = match how {
            As::ItIs => return self.messages[index].clone(),
            As::Marked | As::Trimmed if content[start..end].is_empty() => return self.messages[index].clone(),
            As::Marked | As::Trimmed => {
                let mut points: Vec<(usize, usize)> = self.points[index]
                    .iter()
                    .enumerate()
                    .map(|(number, &point)| (point.clamp(start, end), first + number))
                    .collect();
                points.sort_by_key(|&(point, _)| point);
                let mut new = String::with_capacity(content.len() + 4 * points.len());
                let mut written = 0;
                for (point, number) in points {
                    new.push_str(&content[written..point]);
                    new.push(mark(number));
                    written = point;
                }
                new + &content[written..]
            }
            As::Bare | As::Emptied => String::from_iter([mark(first), mark(first + 1)]),
            As::Ended => format!("{content}{}", mark(first + 1)),
        };
        let mut message = self.messages[index].clone();
        if let Value::Object(fields) = &mut message {
            if how == As::Bare {
                fields.retain(|name, _| name == "role");
            }
            fields.insert("content".to_owned(), new.into());
        }
        message
    }

    /// A rendering of some messages; none where the template refuses them.
    fn rendered(&self, messages: &[Value], open_turn: bool) -> Result<Option<String>, TemplateError> {
        let work = self.work.get() + self.text.len() + MESSAGE_WORK * messages.len();
        self.work.set(work);
        if work > WORK_LIMIT {
            return Err(TemplateError::TooMuchWork { messages: self.messages.len() });
        }
        Ok(self.template.run(messages, self.tools, open_turn).ok())
    }
}

fn mark(number: usize) -> char {
    char::from_u32(FIRST_MARK + number as u32).unwrap_or('\u{f0000}')
}

fn mark_of(character: char) -> Option<usize> {
    (character as u32).checked_sub(FIRST_MARK).map(|number| number as usize)
}

/// What `full` has that `other` has not, where they differ in one place. At `at` of `other` stood what they differ in.
fn difference(full: &str, other: &str, at: Option<usize>) -> Range<usize> {
    let (full_bytes, other_bytes) = (full.as_bytes(), other.as_bytes());
    let front = at.unwrap_or(other.len());
    let same = |(a, b): &(&u8, &u8)| a == b;
    let mut start = full_bytes.iter().zip(&other_bytes[..front]).take_while(same).count();
    while !full.is_char_boundary(start) {
        start -= 1;
    }
    let back = &other_bytes[at.unwrap_or(start.min(other.len()))..];
    let mut tail = full_bytes[start..].iter().rev().zip(back.iter().rev()).take_while(same).count();
    while !full.is_char_boundary(full.len() - tail) {
        tail -= 1;
    }
    start..full.len() - tail
}

#[cfg(test)]
mod tests;
