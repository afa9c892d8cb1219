//! Chat templates: a conversation in, the text that the model reads out, with the part that each turn wrote.
//!
//! Templates are Jinja as transformers runs them (`trim_blocks`, `lstrip_blocks`, Python methods, `raise_exception`,
//! `strftime_now`, `tojson`), rendered by minijinja with a fuel budget, so that no template can hang a run.
//! A turn's own text is found by rendering once more with that turn replaced and comparing: it holds for any template
//! and needs no marks in it. `{% generation %}` blocks are accepted; who is trained is the strategy's decision.

use std::collections::BTreeMap;
use std::ops::Range;

use minijinja::value::Serde;
use minijinja::{Environment, Value};
use plugin_runtime::types::{Conversation, Message};

use super::jinja::{self, describe};

pub use super::jinja::Now;

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
    special_tokens: BTreeMap<String, String>,
    /// The model's template for conversations with tools, where it has one of its own (`tool_use`).
    with_tools: Option<Box<ChatTemplate>>,
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
    /// would otherwise make the training data depend on the day. A template sees `special_tokens` as variables, by name.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>, now: Now) -> Result<Self, TemplateError> {
        let environment = jinja::environment(source, now).map_err(TemplateError::Syntax)?;
        Ok(Self { source: source.to_owned(), environment, special_tokens: special_tokens.clone(), with_tools: None })
    }

    /// Has conversations with tools rendered by `other`, as transformers does where a model has a template `tool_use`.
    #[must_use]
    pub fn with_tools(self, other: Option<Self>) -> Self {
        Self { with_tools: other.map(Box::new), ..self }
    }

    /// The template for this conversation.
    fn of(&self, conversation: &Conversation) -> &Self {
        self.with_tools.as_deref().filter(|_| conversation.tools_json.is_some()).unwrap_or(self)
    }

    /// The template's text as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation for training: the text and where each turn's content stands in it.
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TemplateError> {
        let this = self.of(conversation);
        let tools = tools(conversation)?;
        let messages =
            conversation.messages.iter().map(|message| fields(message, None)).collect::<Result<Vec<_>, _>>()?;
        let text = this.run(&messages, tools.as_ref(), false)?;
        let mut turns = Vec::with_capacity(messages.len());
        for (index, message) in conversation.messages.iter().enumerate() {
            turns.push(if message.content.is_empty() {
                0..0
            } else {
                let mut marked = messages.clone();
                marked[index] = fields(message, Some(STAND_IN))?;
                // A template may look into the content (`startswith`, `split`): then the stand-in can make it fail,
                // and the turn's place is where the content itself stands.
                let other = this.run(&marked, tools.as_ref(), false).unwrap_or_default();
                place_of(&text, &other, &message.content, turns.last())
            });
        }
        Ok(Rendered { text, turns })
    }

    /// Renders the messages and the words that open the assistant's next turn: what a model is given to answer.
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let messages =
            conversation.messages.iter().map(|message| fields(message, None)).collect::<Result<Vec<_>, _>>()?;
        self.of(conversation).run(&messages, tools(conversation)?.as_ref(), true)
    }

    fn run(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        open_turn: bool,
    ) -> Result<String, TemplateError> {
        let template =
            self.environment.get_template(jinja::NAME).map_err(|error| TemplateError::Syntax(describe(&error)))?;
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            tools => tools.map(|tools| Value::from(Serde(tools))),
            add_generation_prompt => open_turn,
            ..Value::from_serialize(&self.special_tokens)
        };
        let text = template.render(context).map_err(|error| TemplateError::Render(describe(&error)))?;
        if text.len() > OUTPUT_LIMIT { Err(TemplateError::TooLong(text.len())) } else { Ok(text) }
    }
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
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.into(), token.into()));
        ChatTemplate::new(source, &BTreeMap::from(tokens), Now(1_790_000_000)).unwrap()
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
}
