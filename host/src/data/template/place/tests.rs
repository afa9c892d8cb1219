use std::collections::BTreeMap;

use plugin_runtime::types::{Message, TrainSpan};
use serde_json::json;

use super::*;
use crate::data::template::Now;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
/// Calls behind the content, as many templates have them.
const CALLS: &str = "{% for m in messages %}<{{ m.role }}>{% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}[call {{ c.function | tojson }}]{% endfor %}</end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

fn message(role: &str, content: &str, extra: Value) -> Message {
    let extra_json = Some(extra).filter(|extra| !extra.is_null()).map(|extra| extra.to_string());
    Message { role: role.into(), content: content.into(), train: None, spans: vec![], extra_json }
}

fn plain(role: &str, content: &str) -> Message {
    message(role, content, Value::Null)
}

fn call(city: &str) -> Message {
    let calls = json!([{"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}]);
    message("assistant", "", json!({"tool_calls": calls, "content": null}))
}

fn render(source: &str, messages: Vec<Message>) -> Result<Rendered, TemplateError> {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    let template = ChatTemplate::new(source, &tokens, Now(0)).unwrap();
    let needed: Vec<bool> = messages.iter().map(|message| message.role != "system").collect();
    template.render(&Conversation { messages, tools_json: None, train_on_eos: None }, &needed)
}

/// What the template wrote for each turn.
fn turns(source: &str, messages: Vec<Message>) -> Vec<String> {
    let rendered = render(source, messages).unwrap();
    rendered.turns.iter().map(|turn| rendered.text[turn.bytes.clone()].to_owned()).collect()
}

#[test]
fn contents_that_repeat_are_told_apart() {
    let rendered = render(CHATML, vec![plain("user", "hi"), plain("assistant", "hi"), plain("user", "hi")]).unwrap();
    let starts: Vec<usize> = rendered.turns.iter().map(|turn| turn.bytes.start).collect();
    assert_eq!(starts, [17, 52, 82]);
    assert!(rendered.turns.iter().all(|turn| &rendered.text[turn.bytes.clone()] == "hi"));
}

#[test]
fn a_call_is_all_that_the_template_writes_for_it() {
    let messages = vec![plain("user", "Oslo?"), call("Oslo"), plain("tool", "Sunny"), plain("assistant", "Sun.")];
    let text = r#"[call {"name": "weather", "arguments": {"city": "Oslo"}}]"#;
    assert_eq!(turns(CALLS, messages), ["Oslo?", text, "Sunny", "Sun."]);
}

#[test]
fn a_call_beside_a_content_and_one_at_the_end_are_found() {
    let both = |content: &str, city: &str| Message { content: content.into(), ..call(city) };
    let messages = vec![plain("user", "q"), both("Wait.", "A"), call("B"), plain("tool", "r"), call("A")];
    let text = |city: &str| format!(r#"[call {{"name": "weather", "arguments": {{"city": "{city}"}}}}]"#);
    let expected = ["q".into(), format!("Wait.{}", text("A")), text("B"), "r".into(), text("A")];
    assert_eq!(turns(CALLS, messages), expected);
}

#[test]
fn reasoning_begins_where_the_model_begins_to_write() {
    // Qwen 3: every answer has a thought, an empty one too.
    let source = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}</end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let thought = message("assistant", "4", json!({"reasoning_content": "2 and 2"}));
    assert_eq!(turns(source, vec![plain("user", "2+2?"), thought]), ["2+2?", "<think>\n2 and 2\n</think>\n\n4"]);
    assert_eq!(turns(source, vec![plain("user", "2+2?"), plain("assistant", "4")]), ["2+2?", "4"]);
}

#[test]
fn what_templates_do_to_contents_does_not_matter() {
    for (source, expected) in [
        ("{% for m in messages %}[{{ m.content.strip() }}]{% endfor %}", ["a b", "c"]),
        ("{% for m in messages %}[{{ m.content | upper }}]{% endfor %}", [" A B \n", "C"]),
        ("{% for m in messages %}[{{ m.content | tojson }}]{% endfor %}", [r" a b \n", "c"]),
        ("{% for m in messages %}[{{ m.content }}={{ m.content }}]{% endfor %}", [" a b \n= a b \n", "c=c"]),
        // One of them alone is trimmed.
        ("{% for m in messages %}[{{ m.content | trim if loop.last else m.content }}]{% endfor %}", [" a b \n", "c"]),
    ] {
        assert_eq!(turns(source, vec![plain("user", " a b \n"), plain("assistant", "c")]), expected, "{source}");
    }
    let trims_last = "{% for m in messages %}[{{ m.content | trim if loop.last else m.content }}]{% endfor %}";
    assert_eq!(turns(trims_last, vec![plain("user", " a "), plain("assistant", " b ")]), [" a ", "b"]);
}

#[test]
fn a_template_that_looks_into_the_content_still_shows_it() {
    let source = "{% for m in messages %}{% if not m.content.startswith('ok') %}{{ raise_exception('must start with ok') }}{% endif %}<{{ m.content }}>{% endfor %}";
    assert_eq!(turns(source, vec![plain("user", "ok ok"), plain("assistant", "ok")]), ["ok ok", "ok"]);
}

#[test]
fn a_template_that_refuses_the_bare_message_shows_the_gain_of_the_whole_one() {
    let source = "{% for m in messages %}{% if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}{{ raise_exception('no call') }}{% endif %}<{{ m.role }}>{{ m.content or '' }}{{ (m.tool_calls or '') | string | length if m.tool_calls else '' }}</end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let rendered = render(source, vec![plain("user", "q"), call("Oslo"), plain("tool", "r")]).unwrap();
    let turn = &rendered.turns[1];
    assert!(turn.holds_end && rendered.text[turn.bytes.clone()].ends_with("</end>\n"), "{rendered:?}");
    assert!(!rendered.text[turn.bytes.clone()].contains("<assistant>"));
}

#[test]
fn what_is_written_further_ahead_once_more_follows_does_not_matter() {
    // Mistral: the system message goes in front of the last message of a user, if nothing follows it.
    let source = "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ messages[0].content ~ ' ' if loop.last }}{{ m.content }}[/INST]{% elif m.role == 'assistant' and m.tool_calls is defined %}[CALLS]{{ m.tool_calls[0].function.name }}</s>{% elif m.role == 'assistant' %}{{ m.content }}</s>{% elif m.role == 'tool' %}{% if messages[loop.index0 - 1].tool_calls is not defined %}{{ raise_exception('no call') }}{% endif %}[R]{{ m.content }}[/R]{% endif %}{% endfor %}";
    let messages =
        vec![plain("system", "s"), plain("user", "q"), call("A"), plain("tool", "r"), plain("assistant", "a")];
    assert_eq!(turns(source, messages), ["", "q", "[CALLS]weather</s>", "r", "a"]);
}

#[test]
fn a_turn_that_is_the_same_for_every_content_is_what_the_text_gains() {
    let source = "{% for m in messages %}<{{ m.role }}>ok</end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    assert_eq!(turns(source, vec![plain("user", "q"), plain("assistant", "a")]), ["", "ok</end>\n"]);
}

#[test]
fn a_turn_that_cannot_be_found_is_an_error() {
    let source = "{% if messages | length != 2 or messages[1].content != 'x' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}";
    let error = render(source, vec![plain("user", "q"), plain("assistant", "x")]).unwrap_err();
    assert!(matches!(error, TemplateError::Unplaced { index: 1, .. }), "{error}");
}

#[test]
fn what_is_not_written_is_told() {
    let source = "{% for m in messages %}{% if m.role != 'function' %}[{{ m.content }}]{% endif %}{% endfor %}";
    let rendered = render(source, vec![plain("user", "q"), plain("function", "r"), plain("assistant", "a")]).unwrap();
    assert_eq!(rendered.unwritten.iter().collect::<Vec<_>>(), ["function"]);
    assert!(rendered.turns[1].bytes.is_empty());
}

#[test]
fn spans_follow_what_is_left_of_the_content() {
    let source = "{% for m in messages %}[{{ m.content.split('</think>')[-1] }}]{% endfor %}";
    let span = |start, end| TrainSpan { start, end, train: true };
    let cut =
        Message { spans: vec![span(0, 18), span(18, 21), span(7, 10)], ..plain("assistant", "<think>red</think>red") };
    let rendered = render(source, vec![plain("user", "q"), cut]).unwrap();
    assert_eq!(rendered.text, "[q][red]");
    let spans: Vec<&str> = rendered.turns[1].spans.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(spans, ["", "red", ""]);
    // A boundary inside of what the template looks for.
    let inside = Message { spans: vec![span(0, 13), span(13, 20)], ..plain("assistant", "<think>red</think>red") };
    let rendered = render(source, vec![plain("user", "q"), inside]).unwrap();
    let spans: Vec<&str> = rendered.turns[1].spans.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(spans, ["", "re"]);
}

#[test]
fn a_missing_content_is_missing_unless_the_template_adds_to_it() {
    let looks =
        "{% for m in messages %}{% if m.content is defined %}{{ m.content }}{% else %}[call]{% endif %}{% endfor %}";
    assert_eq!(turns(looks, vec![plain("user", "q"), call("A")]), ["q", "[call]"]);
    let adds = "{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}";
    assert_eq!(render(adds, vec![plain("user", "q"), call("A")]).unwrap().text, "<q><>");
}

#[test]
fn reasoning_goes_by_the_names_that_templates_have_for_it() {
    let source = "{% for m in messages %}{{ m.reasoning_content }}={{ m.thinking }}={{ m.content }}{% endfor %}";
    let thought = |name: &str| message("assistant", "a", json!({name: "t", "name": null}));
    for name in ["reasoning_content", "thinking", "reasoning"] {
        assert_eq!(turns(source, vec![thought(name)]), ["t=t=a"]);
    }
}

#[test]
fn a_long_conversation_takes_a_handful_of_renderings() {
    let mut messages = Vec::new();
    for round in 0..300 {
        messages.extend([plain("user", "q"), call(&format!("c{round}")), plain("tool", "r"), plain("assistant", "a")]);
    }
    let conversation = Conversation { messages, tools_json: None, train_on_eos: None };
    let template = ChatTemplate::new(CALLS, &BTreeMap::new(), Now(0)).unwrap();
    let mut messages = super::super::messages(&conversation).unwrap();
    let text = template.text(&mut messages, None, false).unwrap();
    let finder = Finder::new(&template, &conversation, &messages, None, &text);
    let (turns, _) = finder.turns(&vec![true; messages.len()]).unwrap();
    assert!(turns.iter().all(|turn| !turn.bytes.is_empty()));
    let renderings = finder.work.get() / (text.len() + MESSAGE_WORK * messages.len());
    assert!(renderings <= 4, "{renderings}");
}
