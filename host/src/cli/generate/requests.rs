//! What is asked: texts, and conversations as the rows of a dataset have them. A conversation is read by the same plugin as
//! in training (`chat_template`), so that tools, calls, parts and the names of roles reach the template in the same way.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;

use plugin_runtime::types::{Conversation, Message, Sample, Text};
use serde_json::{Map, Value};

use super::super::open_plugins;
use crate::data::template::ChatTemplate;
use crate::data::tokenizer::{Tokenizer, TokenizerError};
use crate::diagnostic::{Diagnostic, Failure, Place};

/// Bytes of requests: more are a mistake.
const LIMIT: u64 = 1 << 30;
/// Rows given to the plugin at a time.
const BATCH: usize = 256;
/// Columns of a conversation that need a template.
const OF_CONVERSATIONS: [&str; 3] = ["messages", "tools", "system"];
/// What requests to servers have and a row of a dataset has not: it would be dropped without a word.
const REFUSED: [&str; 23] = [
    "add_generation_prompt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "do_sample",
    "functions",
    "max_completion_tokens",
    "max_new_tokens",
    "max_tokens",
    "min_p",
    "n",
    "num_return_sequences",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "stop_strings",
    "stream",
    "temperature",
    "tool_choice",
    "top_k",
    "top_p",
];

/// One thing to answer.
#[derive(Debug)]
pub(super) enum Request {
    /// A text.
    Text(String),
    /// A conversation as a row, and where it stands.
    Row(String, Place),
}

/// From `--prompt`, `--messages`, `--prompts` or stdin; one of the three at most.
pub(super) fn read(
    prompt: Option<&str>,
    messages: Option<&Path>,
    prompts: Option<&Path>,
) -> Result<Vec<Request>, Failure> {
    match (prompt, messages, prompts) {
        (Some(prompt), _, _) => Ok(vec![Request::Text(prompt.to_owned())]),
        (None, Some(path), _) => read_file(path),
        (None, None, Some(path)) => read_lines(path),
        (None, None, None) if std::io::stdin().is_terminal() => {
            Err(Diagnostic::error("cli::no-prompt", "there is nothing to answer")
                .help("give `--prompt TEXT`, `--messages FILE`, `--prompts FILE`, or JSON lines on stdin")
                .into())
        }
        (None, None, None) => read_stdin(),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("data::unreadable", format!("`{}` cannot be read", path.display())).why(error.to_string())
}

/// A JSON object per line, of a file.
fn read_lines(path: &Path) -> Result<Vec<Request>, Failure> {
    let text = intake::read_text(path, LIMIT).map_err(|error| unreadable(path, &error))?;
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let requests = requests(lines, path)?;
    if requests.is_empty() {
        let diagnostic = Diagnostic::error("cli::no-prompt", format!("`{}` has no prompts", path.display()));
        return Err(diagnostic.help(r#"write one JSON object per line: `{"prompt": "…"}`"#).into());
    }
    Ok(requests)
}

fn read_file(path: &Path) -> Result<Vec<Request>, Failure> {
    let text = intake::read_text(path, LIMIT).map_err(|error| unreadable(path, &error))?;
    let bad = |place: Place, why: String| {
        Diagnostic::error("data::bad-row", "the file is not a conversation").at(place).why(why).help(
            r#"write a list of messages, `[{"role": "user", "content": "…"}]`, or `{"messages": […], "tools": […]}`"#,
        )
    };
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| bad(Place::in_text(path, &text, error.line(), error.column().max(1), 1), error.to_string()))?;
    let place = Place::new(path, 1, 1);
    let row = match value {
        Value::Array(messages) => Map::from_iter([("messages".to_owned(), Value::Array(messages))]),
        Value::Object(row) if row.contains_key("messages") && !row.contains_key("prompt") => row,
        Value::Object(_) => return Err(bad(place, "it needs `messages`, and no `prompt`".to_owned()).into()),
        _ => return Err(bad(place, "it is neither a list nor an object".to_owned()).into()),
    };
    refuse(&row).map_err(|why| bad(place.clone(), why))?;
    Ok(vec![Request::Row(Value::Object(row).to_string(), place)])
}

fn read_stdin() -> Result<Vec<Request>, Failure> {
    let requests = requests(std::io::stdin().lock().take(LIMIT).lines(), "stdin".as_ref())?;
    if requests.is_empty() {
        let diagnostic = Diagnostic::error("cli::no-prompt", "stdin is empty");
        return Err(diagnostic.help("give `--prompt TEXT`, or JSON lines on stdin").into());
    }
    Ok(requests)
}

/// What lines ask, those of `source`; empty ones ask nothing.
fn requests(lines: impl Iterator<Item = std::io::Result<String>>, source: &Path) -> Result<Vec<Request>, Failure> {
    let what = if source == Path::new("stdin") { "a line of stdin" } else { "a line of the file" };
    let mut requests = Vec::new();
    for (index, line) in lines.enumerate() {
        let place = Place::new(source, index + 1, 1);
        let bad = |why: String| {
            Diagnostic::error("data::bad-row", format!("{what} is not a request"))
                .at(place.clone())
                .why(why)
                .help(r#"write one JSON object per line: `{"prompt": "…"}` or `{"messages": [{"role": "user", "content": "…"}]}`"#)
        };
        let line = line.map_err(|error| bad(error.to_string()))?;
        if !line.trim().is_empty() {
            requests.push(request(&line, &place).map_err(bad)?);
        }
    }
    Ok(requests)
}

fn request(line: &str, place: &Place) -> Result<Request, String> {
    let mut row: Map<String, Value> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    row.retain(|_, value| !value.is_null());
    refuse(&row)?;
    match (row.remove("prompt"), row.contains_key("messages")) {
        (Some(Value::String(prompt)), false) => {
            if !OF_CONVERSATIONS.iter().any(|key| row.contains_key(*key)) {
                return Ok(Request::Text(prompt));
            }
            row.insert("messages".to_owned(), serde_json::json!([{ "role": "user", "content": prompt }]));
            Ok(Request::Row(Value::Object(row).to_string(), place.clone()))
        }
        (Some(_), false) => Err("`prompt` must be a text".to_owned()),
        (None, true) => Ok(Request::Row(Value::Object(row).to_string(), place.clone())),
        _ => Err("it needs either `prompt` or `messages`".to_owned()),
    }
}

fn refuse(row: &Map<String, Value>) -> Result<(), String> {
    match REFUSED.iter().find(|key| row.contains_key(**key)) {
        Some(key) => Err(format!("`{key}` is not read from a request; sampling is set on the command line")),
        None => Ok(()),
    }
}

/// The tokens that the model is given for each request.
pub(super) fn tokens(
    requests: Vec<Request>,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<Vec<Vec<u32>>, Failure> {
    let mut conversations = conversations(&requests, template)?.into_iter();
    let ids = |text: &str| -> Result<Vec<u32>, TokenizerError> {
        Ok(tokenizer.encode(text)?.into_iter().map(|token| token.id).collect())
    };
    let mut all = Vec::with_capacity(requests.len());
    for request in requests {
        let conversation = match request {
            Request::Row(..) => conversations.next(),
            Request::Text(ref prompt) => template.map(|_| user(prompt)),
        };
        all.push(match (conversation, template, request) {
            (Some(conversation), Some(template), _) => ids(&template.prompt(&conversation)?)?,
            (_, _, Request::Text(prompt)) => {
                let (plain, prefix) = (ids(&prompt)?, &tokenizer.affixes().prefix);
                if plain.starts_with(prefix) { plain } else { [prefix.as_slice(), &plain].concat() }
            }
            (_, _, Request::Row(_, place)) => return Err(no_template().at(place).into()),
        });
    }
    Ok(all)
}

/// Reads the rows among the requests, in their order.
fn conversations(requests: &[Request], template: Option<&ChatTemplate>) -> Result<Vec<Conversation>, Failure> {
    let rows = requests.iter().filter_map(|request| match request {
        Request::Row(row, place) => Some((row.clone(), place)),
        Request::Text(_) => None,
    });
    let (rows, places): (Vec<String>, Vec<&Place>) = rows.unzip();
    let Some(first) = places.first() else { return Ok(Vec::new()) };
    if template.is_none() {
        return Err(no_template().at((*first).clone()).into());
    }
    let plugins = open_plugins(&[])?;
    let mut strategy = plugins.strategy("chat_template", "{}")?;
    let mut conversations = Vec::with_capacity(rows.len());
    for (rows, places) in rows.chunks(BATCH).zip(places.chunks(BATCH)) {
        for (sample, place) in strategy.render(rows)?.into_iter().zip(places) {
            let bad = |message: String| Diagnostic::error("data::bad-row", message).at((*place).clone());
            match sample {
                Ok(Some(Sample::Supervised(Text::Conversation(conversation)))) => conversations.push(conversation),
                Err(error) => return Err(bad(error.message).into()),
                Ok(_) => return Err(bad("the row is no conversation".to_owned()).into()),
            }
        }
    }
    Ok(conversations)
}

fn no_template() -> Diagnostic {
    Diagnostic::error("data::template", "the model has no chat template for messages")
        .help("give the text itself with `--prompt`, and no `--raw` where there is a template")
}

/// What a user asks.
fn user(content: &str) -> Conversation {
    let message = Message {
        role: "user".to_owned(),
        content: content.to_owned(),
        train: None,
        spans: Vec::new(),
        extra_json: None,
    };
    Conversation { messages: vec![message], tools_json: None, train_on_eos: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, String> {
        request(line, &Place::new("stdin", 1, 1))
    }

    fn row(line: &str) -> Value {
        match read(line) {
            Ok(Request::Row(row, _)) => serde_json::from_str(&row).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_reaches_the_plugin_as_a_row_does() {
        assert!(matches!(read(r#"{"prompt": "x", "id": 7}"#), Ok(Request::Text(text)) if text == "x"));
        let line = r#"{"messages": [{"from": "human"}], "tools": [1], "system": "s", "more": 2}"#;
        assert_eq!(row(line), serde_json::from_str::<Value>(line).unwrap());
        assert_eq!(
            row(r#"{"prompt": "x", "tools": [1]}"#),
            serde_json::json!({"tools": [1], "messages": [{"role": "user", "content": "x"}]})
        );
    }

    #[test]
    fn what_would_be_dropped_is_refused() {
        let reason = |line: &str| read(line).unwrap_err();
        assert!(
            reason(r#"{"messages": [], "temperature": 0}"#).starts_with("`temperature` is not read from a request")
        );
        assert_eq!(reason(r#"{"prompt": "x", "messages": []}"#), "it needs either `prompt` or `messages`");
        assert_eq!(reason(r#"{"text": "x"}"#), "it needs either `prompt` or `messages`");
        assert_eq!(reason(r#"{"prompt": 1}"#), "`prompt` must be a text");
        assert!(reason("nonsense").contains("expected"));
    }
}
