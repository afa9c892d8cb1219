//! Chat templates: a conversation in, the text that the model reads out, with the part that each turn wrote.
//!
//! Templates are Jinja as transformers runs them (`trim_blocks`, `lstrip_blocks`, Python methods, `raise_exception`,
//! `strftime_now`, `tojson`), rendered by minijinja with a fuel budget, so that no template can hang a run.
//! A turn's own text is found by rendering once more with that turn replaced and comparing: it holds for any template
//! and needs no marks in it. `{% generation %}` blocks are accepted; who is trained is the strategy's decision.

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value};
use plugin_runtime::types::{Conversation, Message};
use serde::Serialize;

/// Steps of the template engine that one rendering may take.
const FUEL: u64 = 5_000_000;
/// Bytes that one rendering may produce.
const OUTPUT_LIMIT: usize = 1 << 20;
/// Stands in for a turn's content while its place is found. Private-use characters, which no template handles specially.
const STAND_IN: &str = "\u{e000}turn\u{e001}";

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template is not valid Jinja.
    #[error("the chat template is not valid: {0}")]
    Syntax(String),
    /// The template refused these messages, or used something that does not exist.
    #[error("the chat template failed: {0}")]
    Render(String),
    /// The rendering is larger than any sequence could be.
    #[error("the chat template wrote {0} bytes for one conversation; the limit is {OUTPUT_LIMIT}")]
    TooLong(usize),
    /// A field of a message or the tool list is not the JSON that it must be.
    #[error("{0}")]
    BadMessage(String),
}

/// A compiled template with the model's special tokens.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// For each message, the bytes of `text` that its content became; empty where the template left it out.
    pub turns: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Compiles `source`. `now` is what `strftime_now` reads: frozen for a run, because a template that prints the date
    /// would otherwise make the training data depend on the day.
    pub fn new(source: &str, bos_token: &str, eos_token: &str, now: Now) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplateError::Syntax(describe(&error)))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |format: String| now.format(&format));
        environment.add_filter("tojson", to_json);
        let compiled = without_generation_tags(source);
        environment
            .add_template_owned("chat_template", compiled)
            .map_err(|error| TemplateError::Syntax(describe(&error)))?;
        Ok(Self {
            source: source.to_owned(),
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    /// The template's text as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation for training: the text and where each turn's content stands in it.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TemplateError> {
        let tools = tools(conversation)?;
        let messages =
            conversation.messages.iter().map(|message| fields(message, None)).collect::<Result<Vec<_>, _>>()?;
        let text = self.run(&messages, tools.as_ref(), false)?;
        let mut turns = Vec::with_capacity(messages.len());
        for (index, message) in conversation.messages.iter().enumerate() {
            turns.push(if message.content.is_empty() {
                0..0
            } else {
                let mut marked = messages.clone();
                marked[index] = fields(message, Some(STAND_IN))?;
                // A template may look into the content (`startswith`, `split`): then the stand-in can make it fail,
                // and the turn's place is where the content itself stands.
                let other = self.run(&marked, tools.as_ref(), false).unwrap_or_default();
                place_of(&text, &other, &message.content, turns.last())
            });
        }
        Ok(Rendered { text, turns })
    }

    /// Renders the messages and the words that open the assistant's next turn: what a model is given to answer.
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let messages =
            conversation.messages.iter().map(|message| fields(message, None)).collect::<Result<Vec<_>, _>>()?;
        self.run(&messages, tools(conversation)?.as_ref(), true)
    }

    fn run(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        open_turn: bool,
    ) -> Result<String, TemplateError> {
        let template =
            self.environment.get_template("chat_template").map_err(|error| TemplateError::Syntax(describe(&error)))?;
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            tools => tools.map(|tools| Value::from(Serde(tools))),
            add_generation_prompt => open_turn,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        };
        let text = template.render(context).map_err(|error| TemplateError::Render(describe(&error)))?;
        if text.len() > OUTPUT_LIMIT { Err(TemplateError::TooLong(text.len())) } else { Ok(text) }
    }
}

/// The moment that `strftime_now` prints: seconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now(pub u64);

impl Now {
    /// The parts of strftime that chat templates use; anything else is an error rather than a wrong date.
    fn format(self, format: &str) -> Result<String, Error> {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
        let days = self.0 / 86_400;
        let (year, month, day) = civil_from_days(days as i64);
        let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
        let seconds = self.0 % 86_400;
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            match characters.next() {
                Some('Y') => out.push_str(&year.to_string()),
                Some('m') => out.push_str(&format!("{month:02}")),
                Some('d') => out.push_str(&format!("{day:02}")),
                Some('B') => out.push_str(month_name),
                Some('b') => out.push_str(&month_name[..3]),
                Some('A') => out.push_str(day_name),
                Some('a') => out.push_str(&day_name[..3]),
                Some('H') => out.push_str(&format!("{:02}", seconds / 3600)),
                Some('M') => out.push_str(&format!("{:02}", seconds / 60 % 60)),
                Some('S') => out.push_str(&format!("{:02}", seconds % 60)),
                Some('%') => out.push('%'),
                other => {
                    let shown = other.map_or_else(|| "%".to_owned(), |letter| format!("%{letter}"));
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        format!("strftime_now does not know `{shown}`"),
                    ));
                }
            }
        }
        Ok(out)
    }
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The template's view of a message: role, content and the extra fields.
fn fields(message: &Message, content: Option<&str>) -> Result<serde_json::Value, TemplateError> {
    let mut object = serde_json::Map::new();
    object.insert("role".into(), message.role.clone().into());
    object.insert("content".into(), content.unwrap_or(&message.content).into());
    if let Some(extra) = &message.extra_json {
        let extra: serde_json::Map<String, serde_json::Value> = serde_json::from_str(extra).map_err(|error| {
            TemplateError::BadMessage(format!("the extra fields of a message are not a JSON object: {error}"))
        })?;
        for (key, value) in extra {
            object.entry(key).or_insert(value);
        }
    }
    Ok(object.into())
}

fn tools(conversation: &Conversation) -> Result<Option<serde_json::Value>, TemplateError> {
    let Some(tools) = &conversation.tools_json else { return Ok(None) };
    let tools: serde_json::Value = serde_json::from_str(tools)
        .map_err(|error| TemplateError::BadMessage(format!("the tools of a conversation are not JSON: {error}")))?;
    if tools.is_array() {
        Ok(Some(tools))
    } else {
        Err(TemplateError::BadMessage("the tools of a conversation are not a JSON array".into()))
    }
}

/// Where `content` stands in `text`, given the same rendering with a stand-in: what the two do not share.
/// Templates that trim the content leave less than all of it; the range covers what is really there.
fn place_of(text: &str, other: &str, content: &str, previous: Option<&Range<usize>>) -> Range<usize> {
    let after = previous.map_or(0, |range| range.end);
    if let Some(at) = other.find(STAND_IN) {
        let tail = &other[at + STAND_IN.len()..];
        if text.starts_with(&other[..at]) && text.ends_with(tail) && at + tail.len() <= text.len() {
            return at..text.len() - tail.len();
        }
    }
    for wanted in [content, content.trim()] {
        if let Some(at) = text[after..].find(wanted) {
            return after + at..after + at + wanted.len();
        }
    }
    0..0
}

/// `{% generation %}` is a transformers extension that marks assistant text and prints nothing: an always-true block.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}") else { break };
        let tag = &rest[open + 2..open + close];
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..open + 2]);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        out.push_str("%}");
        rest = &rest[open + close + 2..];
    }
    out.push_str(rest);
    out
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=…)`, as transformers defines the filter.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if ensure_ascii == Some(true) || sort_keys == Some(true) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "tojson supports neither ensure_ascii=true nor sort_keys=true",
        ));
    }
    let mut bytes = Vec::new();
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonSpacing)).map_err(failed)?;
        }
    }
    String::from_utf8(bytes).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// `json.dumps` writes `", "` and `": "` between parts where serde_json writes nothing.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The reason without minijinja's own file name; the line is kept.
fn describe(error: &Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    match error.line() {
        Some(line) => format!("{reason} (line {line} of the template)"),
        None => reason,
    }
}

/// A template by the name that `chat_template` uses.
pub fn built_in(name: &str) -> Option<&'static str> {
    match name {
        "chatml" => Some(CHATML),
        "llama3" => Some(LLAMA3),
        "alpaca" => Some(ALPACA),
        _ => None,
    }
}

/// OpenAI's ChatML, as most models that use it have it.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Llama 3's headers, without the date and tool preamble of 3.1.
const LLAMA3: &str = "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

/// Stanford Alpaca's headings for conversations.
const ALPACA: &str = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% else %}{{ raise_exception('the alpaca template knows the roles system, user and assistant') }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}";

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into(), train: None, spans: vec![], extra_json: None }
    }

    fn conversation(messages: Vec<Message>) -> Conversation {
        Conversation { messages, tools_json: None, train_on_eos: None }
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, "<s>", "</s>", Now(1_790_000_000)).unwrap()
    }

    #[test]
    fn finds_each_turn_even_when_the_contents_repeat() {
        let rendered = template(CHATML)
            .render(&conversation(vec![message("user", "hi"), message("assistant", "hi"), message("user", "hi")]))
            .unwrap();
        let parts: Vec<_> = rendered.turns.iter().map(|range| &rendered.text[range.clone()]).collect();
        assert_eq!(parts, ["hi", "hi", "hi"]);
        assert!(rendered.turns.windows(2).all(|pair| pair[0].end < pair[1].start));
        assert_eq!(
            rendered.text,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        );
    }

    #[test]
    fn a_template_that_trims_gives_the_trimmed_range() {
        let rendered = template("{% for m in messages %}[{{ m['content'].strip() }}]{% endfor %}")
            .render(&conversation(vec![message("user", "  a b \n")]))
            .unwrap();
        assert_eq!(rendered.text, "[a b]");
        assert_eq!((rendered.turns.len(), &rendered.turns[0]), (1, &(1..4)));
    }

    #[test]
    fn a_template_that_looks_into_the_content_still_finds_it() {
        let source = "{% for m in messages %}{% if not m.content.startswith('ok') %}{{ raise_exception('must start with ok') }}{% endif %}<{{ m.content }}>{% endfor %}";
        let rendered = template(source).render(&conversation(vec![message("user", "ok go")])).unwrap();
        assert_eq!(&rendered.text[rendered.turns[0].clone()], "ok go");
    }

    #[test]
    fn generation_blocks_print_their_body() {
        let source = "{% for m in messages %}{%- generation %}{{ m.content }}{% endgeneration -%} {% endfor %}";
        assert_eq!(template(source).render(&conversation(vec![message("a", "x")])).unwrap().text, "x");
    }

    #[test]
    fn opens_the_assistant_turn() {
        assert_eq!(
            template(CHATML).prompt(&conversation(vec![message("user", "q")])).unwrap(),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn what_the_template_refuses_is_its_own_words() {
        let error = template("{{ raise_exception('roles must alternate') }}")
            .render(&conversation(vec![message("user", "q")]))
            .unwrap_err();
        assert_eq!(error.to_string(), "the chat template failed: roles must alternate (line 1 of the template)");
    }

    #[test]
    fn an_endless_template_stops() {
        let source = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(
            template(source).render(&conversation(vec![message("user", "q")])),
            Err(TemplateError::Render(_))
        ));
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let source = "{{ {'a': [1, 'é<'], 'b': none} | tojson }}";
        assert_eq!(template(source).prompt(&conversation(vec![])).unwrap(), r#"{"a": [1, "é<"], "b": null}"#);
    }

    #[test]
    fn the_date_is_the_frozen_one() {
        // 1 790 000 000 s after 1970 is Monday, 21 September 2026, 14:13:20 UTC.
        let source = "{{ strftime_now('%A %d %B %Y %H:%M:%S') }}";
        assert_eq!(template(source).prompt(&conversation(vec![])).unwrap(), "Monday 21 September 2026 14:13:20");
    }
}
