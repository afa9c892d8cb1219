//! Chat templates: a stranger's program, which the host runs itself.

use std::collections::BTreeMap;

use host::data::template::{ChatTemplate, Now, Rendered};
use plugin_runtime::types::{Conversation, Message, TrainSpan};
use serde_json::Value;

use crate::{files, told};

/// The moment that templates see.
pub(crate) const NOW: Now = Now(1_790_000_000);

/// Writes every content as it is.
const PLAIN: &str = "{% for message in messages %}[{{ message.role }}]\n{{ message.content }}<end>\n{% endfor %}";

/// A template, and a conversation as JSON: `{"messages": [{"role": …, "content": …, "spans": [[0, 2, true]], …}], "tools": […]}`.
pub(crate) fn template(bytes: &[u8]) {
    let [source, conversation] = files(bytes);
    let (Ok(source), Ok(value)) = (std::str::from_utf8(source), serde_json::from_slice(conversation)) else { return };
    let conversation = read(&value);
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.into(), token.into()));
    let needed = vec![true; conversation.messages.len()];
    let compile = |source: &str| ChatTemplate::new(source, &BTreeMap::from(tokens.clone()), NOW);
    match compile(source) {
        Ok(template) => {
            match template.render(&conversation, &needed) {
                Ok(rendered) => placed(&rendered, &conversation),
                Err(error) => told(error),
            }
            if let Err(error) = template.prompt(&conversation) {
                told(error);
            }
        }
        Err(error) => told(error),
    }
    // What a plain template makes of it is known.
    let plain = compile(PLAIN).expect("a template");
    let is_plain = conversation.messages.iter().all(|message| message.extra_json.is_none());
    if let (true, Ok(rendered)) = (is_plain, plain.render(&conversation, &needed)) {
        placed(&rendered, &conversation);
        for (turn, message) in rendered.turns.iter().zip(&conversation.messages) {
            assert_eq!(&rendered.text[turn.bytes.clone()], message.content, "{conversation:?}");
        }
    }
}

/// Turns and spans are parts of the text, in the order in which they came.
fn placed(rendered: &Rendered, conversation: &Conversation) {
    assert_eq!(rendered.turns.len(), conversation.messages.len());
    for (turn, message) in rendered.turns.iter().zip(&conversation.messages) {
        assert!(rendered.text.get(turn.bytes.clone()).is_some(), "{turn:?} of {:?}", rendered.text);
        // A turn that the template does not write has no place.
        assert!(turn.spans.len() == message.spans.len() || turn.bytes.is_empty());
        for span in &turn.spans {
            assert!(rendered.text.get(span.clone()).is_some(), "{span:?} of {:?}", rendered.text);
        }
    }
}

fn read(value: &Value) -> Conversation {
    let messages = value["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tools = value.get("tools").map(Value::to_string);
    Conversation { messages: messages.iter().map(message).collect(), tools_json: tools, train_on_eos: None }
}

fn message(value: &Value) -> Message {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let content = text("content");
    let length = content.chars().count() as u32;
    let span = |span: &Value| {
        let number = |index: usize| span[index].as_u64().unwrap_or(0).min(u64::from(length)) as u32;
        let (start, end) = (number(0).min(number(1)), number(0).max(number(1)));
        TrainSpan { start, end, train: span[2].as_bool().unwrap_or(true) }
    };
    let spans = value["spans"].as_array().into_iter().flatten().map(span).collect();
    let extra = value.as_object().map(|object| {
        let known = ["role", "content", "spans"];
        let extra = object.iter().filter(|(key, _)| !known.contains(&key.as_str()));
        extra.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>()
    });
    let extra_json = extra.filter(|extra| !extra.is_empty()).map(|extra| Value::Object(extra).to_string());
    Message { role: text("role"), content, train: None, spans, extra_json }
}
