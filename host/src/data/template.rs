//! Chat templates: a conversation in, the text that the model reads out, with the part that the template wrote for each
//! turn.
//!
//! Templates are Jinja as transformers runs them (`jinja`), within limits, so that no template can hang a run. Where a turn
//! stands is found by rendering again with marks in it (`place`): it holds for any template and needs nothing of it.
//! `{% generation %}` blocks are accepted; who is trained is the strategy's decision.

mod built_in;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use plugin_runtime::types::{Conversation, Message};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::jinja;
use super::tokenizer::Tokenizer;
use crate::digest::hex;

pub use super::jinja::Now;
pub use built_in::built_in;

/// Bytes that one rendering may produce.
const OUTPUT_LIMIT: usize = 16 << 20;
/// Bytes that all renderings of one conversation may produce together: finding its turns takes some.
const WORK_LIMIT: usize = 512 << 20;

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
    #[error("one conversation makes a text of {0} bytes; the limit is {OUTPUT_LIMIT}")]
    TooLong(usize),
    /// A field of a message or the tool list is not the JSON that it must be.
    #[error("{0}")]
    BadMessage(String),
    /// A turn that is learned, in a text that does not show where it is.
    #[error("the place of message {} (role `{role}`) in the text of the chat template cannot be found", index + 1)]
    Unplaced {
        /// Which message, from 0.
        index: usize,
        /// Its role.
        role: String,
    },
    /// Finding the turns took too many renderings.
    #[error("the turns of a conversation of {messages} messages cannot be found in {WORK_LIMIT} bytes of renderings")]
    TooMuchWork {
        /// Messages that it has.
        messages: usize,
    },
}

/// A compiled template with the model's special tokens.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    now: Now,
    template: jinja::Template,
    /// Special tokens by the names that templates have for them.
    special_tokens: BTreeMap<String, Value>,
    /// The model's template for conversations with tools, where it has one of its own (`tool_use`).
    with_tools: Option<Box<ChatTemplate>>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// For each message, where it stands.
    pub turns: Vec<Turn>,
    /// Roles of messages with a content that is nowhere in the text.
    pub unwritten: BTreeSet<String>,
}

/// Where a message stands in the rendered text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// Bytes that the template wrote for it: its content, its tool calls, its reasoning; not its header and its end. Empty
    /// where there are none.
    pub bytes: Range<usize>,
    /// For each of its spans, the bytes that those characters of its content became; empty where they were cut away.
    pub spans: Vec<Range<usize>>,
    /// The end of the turn is among `bytes`, at their end.
    pub holds_end: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `now` is what `strftime_now` reads: frozen for a run, because a template that prints the date
    /// would otherwise make the training data depend on the day. A template sees `special_tokens` as variables, by name.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>, now: Now) -> Result<Self, TemplateError> {
        let template = jinja::Template::new(source, now).map_err(|error| TemplateError::Syntax(error.to_string()))?;
        Ok(Self {
            source: jinja::with_line_ends(source),
            now,
            template,
            special_tokens: special_tokens.iter().map(|(name, token)| (name.clone(), token.as_str().into())).collect(),
            with_tools: None,
        })
    }

    /// The model's own template; conversations with tools are rendered by its template `tool_use`, where it has one, as
    /// transformers does it. None for a model without a template that is the default.
    pub fn own(tokenizer: &Tokenizer, now: Now) -> Result<Option<Self>, TemplateError> {
        let Some(source) = tokenizer.chat_template() else { return Ok(None) };
        let special_tokens = tokenizer.special_tokens();
        let compile = |source: &str| Self::new(source, &special_tokens, now);
        let with_tools = tokenizer.chat_templates().get("tool_use").map(|source| compile(source)).transpose()?;
        Ok(Some(Self { with_tools: with_tools.map(Box::new), ..compile(source)? }))
    }

    /// The template for this conversation.
    fn of(&self, conversation: &Conversation) -> &Self {
        self.with_tools.as_deref().filter(|_| conversation.tools_json.is_some()).unwrap_or(self)
    }

    /// SHA-256 of all that the text of a conversation depends on beside the conversation.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for template in std::iter::once(self).chain(self.with_tools.as_deref()) {
            hasher.update((template.source.len() as u64).to_le_bytes());
            hasher.update(&template.source);
            hasher.update(format!("{:?}", template.special_tokens));
            if template.source.contains("strftime_now") {
                hasher.update(template.now.0.to_le_bytes());
            }
        }
        hex(&hasher.finalize())
    }

    /// The template's text with `\n` for every line end, as transformers reads it too.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. A content that is missing, as of a turn that only calls tools, is an empty one where the
    /// template adds it to a text without looking.
    fn text(&self, messages: &mut [Value], tools: Option<&Value>, open_turn: bool) -> Result<String, TemplateError> {
        let text = self.run(messages, tools, open_turn);
        let without: Vec<usize> =
            (0..messages.len()).filter(|&index| messages[index].get("content").is_none()).collect();
        if text.is_ok() || without.is_empty() {
            return text;
        }
        for index in without {
            messages[index]["content"] = "".into();
        }
        self.run(messages, tools, open_turn).or(text)
    }

    /// Renders the messages and the words that open the assistant's next turn: what a model is given to answer.
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let (mut messages, tools) = (messages(conversation)?, tools(conversation)?);
        self.of(conversation).text(&mut messages, tools.as_ref(), true)
    }

    fn run(&self, messages: &[Value], tools: Option<&Value>, open_turn: bool) -> Result<String, TemplateError> {
        let open_turn = Value::Bool(open_turn);
        // What transformers always passes, `documents` among it; a special token that the tokenizer lacks is undefined.
        let mut variables = vec![
            ("tools", tools.unwrap_or(&Value::Null)),
            ("documents", &Value::Null),
            ("add_generation_prompt", &open_turn),
        ];
        variables.extend(self.special_tokens.iter().map(|(name, token)| (name.as_str(), token)));
        let text =
            self.template.render(messages, &variables).map_err(|error| TemplateError::Render(error.to_string()))?;
        if text.len() > OUTPUT_LIMIT { Err(TemplateError::TooLong(text.len())) } else { Ok(text) }
    }
}

/// The template's view of the messages.
fn messages(conversation: &Conversation) -> Result<Vec<Value>, TemplateError> {
    conversation.messages.iter().map(fields).collect()
}

/// The template's view of a message: role, content and the extra fields. As in transformers 5, fields of null are not there,
/// and reasoning goes by the names that templates have for it (`_normalize_chat_messages`, `_alias_reasoning_fields`).
fn fields(message: &Message) -> Result<Value, TemplateError> {
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let mut object = serde_json::Map::new();
    object.insert("role".into(), message.role.clone().into());
    object.insert("content".into(), message.content.clone().into());
    if let Some(extra) = &message.extra_json {
        let extra: serde_json::Map<String, Value> = serde_json::from_str(extra).map_err(|error| {
            TemplateError::BadMessage(format!("the extra fields of a message are not a JSON object: {error}"))
        })?;
        for (key, value) in extra {
            if key == "content" && value.is_null() && message.content.is_empty() {
                object.shift_remove(&key);
            } else if !value.is_null() {
                object.entry(key).or_insert(value);
            }
        }
    }
    if let Some(reasoning) = REASONING.iter().find_map(|name| object.get(*name)).cloned() {
        object.entry("thinking").or_insert_with(|| reasoning.clone());
        object.insert("reasoning_content".into(), reasoning);
    }
    Ok(object.into())
}

fn tools(conversation: &Conversation) -> Result<Option<Value>, TemplateError> {
    let Some(tools) = &conversation.tools_json else { return Ok(None) };
    let tools: Value = serde_json::from_str(tools)
        .map_err(|error| TemplateError::BadMessage(format!("the tools of a conversation are not JSON: {error}")))?;
    if tools.is_array() {
        Ok(Some(tools))
    } else {
        Err(TemplateError::BadMessage("the tools of a conversation are not a JSON array".into()))
    }
}

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

    fn rendered(source: &str, messages: Vec<Message>) -> Result<Rendered, TemplateError> {
        let needed = vec![true; messages.len()];
        template(source).render(&conversation(messages), &needed)
    }

    #[test]
    fn generation_blocks_print_their_body() {
        let source = "{% for m in messages %}{%- generation %}{{ m.content }}{% endgeneration -%} {% endfor %}";
        assert_eq!(rendered(source, vec![message("a", "x")]).unwrap().text, "x");
    }

    #[test]
    fn special_tokens_are_variables() {
        let source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ 'x' if pad_token is defined }}";
        assert_eq!(template(source).prompt(&conversation(vec![message("user", "q")])).unwrap(), "<s>q</s>");
    }

    /// What Jinja2 makes of the templates that Axolotl 0.19 has under these names.
    #[test]
    fn templates_by_name_write_what_axolotls_write() {
        let long =
            || vec![message("system", "s"), message("user", "q"), message("assistant", " a "), message("user", "r")];
        let asked =
            |name: &str, messages: Vec<Message>| template(built_in(name).unwrap()).prompt(&conversation(messages));
        assert_eq!(
            asked("gemma", vec![message("user", " q \n")]).unwrap(),
            "<s><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n"
        );
        assert!(asked("gemma", long()).is_err());
        assert_eq!(
            asked("gemma3", long()).unwrap(),
            "<s><start_of_turn>user\ns\n\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n<start_of_turn>user\nr<end_of_turn>\n<start_of_turn>model\n"
        );
        assert_eq!(
            asked("phi_3", long()).unwrap(),
            "<s><|system|>\ns<|end|>\n<|user|>\nq<|end|>\n<|assistant|>\n a <|end|>\n<|user|>\nr<|end|>\n<|assistant|>\n"
        );
        assert_eq!(
            asked("phi_35", long()).unwrap(),
            "<|system|>\ns<|end|>\n<|user|>\nq<|end|>\n<|assistant|>\n a <|end|>\n<|user|>\nr<|end|>\n<|assistant|>\n"
        );
        let turns = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n a <|im_end|>\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(asked("qwen_25", long()).unwrap(), format!("<|im_start|>system\ns<|im_end|>\n{turns}"));
        let own =
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n";
        assert_eq!(asked("qwen_25", long()[1..].to_vec()).unwrap(), format!("{own}{turns}"));
        assert_eq!(asked("qwen3", long()[1..].to_vec()).unwrap(), format!("{turns}<think>\n\n"));
        let thought = vec![message("user", "q"), message("assistant", "<think>\nt\n</think>\n\na")];
        let written = rendered(built_in("qwen3").unwrap(), thought).unwrap().text;
        assert!(written.ends_with("<|im_start|>assistant\n<think>\nt\n</think>\n\na<|im_end|>\n"), "{written}");
        let spans = rendered(built_in("phi_3").unwrap(), long()[..3].to_vec()).unwrap();
        assert!(spans.text.ends_with("<|assistant|>\n a <|end|>\n"), "{spans:?}");
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
        let error = rendered("{{ raise_exception('roles must alternate') }}", vec![message("user", "q")]).unwrap_err();
        assert_eq!(error.to_string(), "the chat template failed: roles must alternate (line 1 of the template)");
    }

    #[test]
    fn an_endless_template_stops() {
        let source = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(matches!(rendered(source, vec![message("user", "q")]), Err(TemplateError::Render(_))));
    }
}
