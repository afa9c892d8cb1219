//! Rows as the model sees them, and what of a conversation is learned.

use serde_json::Value;

use crate::support::{CONFIG, Project};

/// ChatML without its tokens, with calls and thoughts as templates write them.
const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}(think {{ m.reasoning_content }}){% endif %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}(call {{ c.function | tojson }}){% endfor %}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

const CALLS: &str = r#"{"messages": [{"role": "user", "content": "Rain in Oslo?"}, {"role": "assistant", "content": null, "reasoning_content": "look", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}}]}, {"role": "tool", "content": "Sun"}, {"role": "assistant", "content": "No."}]}
"#;

fn project(rows: &str, more: &str) -> Project {
    let project = Project::new();
    project.write("train.jsonl", rows);
    project.write("chat.jinja", TEMPLATE);
    let config = CONFIG.replace("type: alpaca\n", &format!("type: chat_template\n{more}"));
    project.write("host.yml", config + "chat_template: jinja\nchat_template_jinja: chat.jinja\n");
    project
}

/// What is learned of the first sample, as its lines show it.
fn learned(more: &str) -> Vec<String> {
    let shown = project(CALLS, more).success(&["preprocess", "host.yml", "--show", "1"]).stdout;
    let lines = shown.lines().filter_map(|line| line.strip_prefix("  learned | "));
    lines.map(ToOwned::to_owned).collect()
}

#[test]
fn a_conversation_is_shown_with_what_is_learned_of_it() {
    let project = project(CALLS, "");
    let outcome = project.success(&["preprocess", "host.yml", "--show"]);
    insta::assert_snapshot!(outcome.stdout);
    let words = outcome.stderr.replace(project.path(".cache").to_str().unwrap(), "CACHE");
    insta::assert_snapshot!(regex::Regex::new("prepared/[0-9a-f]+").unwrap().replace(&words, "prepared/…"));
}

#[test]
fn ends_of_turns_are_learned_as_train_on_eos_says() {
    let call = r#"(think look)(call {"name": "weather", "arguments": {"city": "Oslo"}})"#;
    assert_eq!(learned(""), [format!("{call}</s>"), "No.</s>".into()]);
    assert_eq!(learned("    train_on_eos: turn\n"), [format!("{call}</s>"), "No.</s>".into()]);
    assert_eq!(learned("    train_on_eos: none\n"), [call.to_owned(), "No.".into()]);
    assert_eq!(learned("    train_on_eos: last\n"), [call.to_owned(), "No.</s>".into()]);
    let all = ["</s>".to_owned(), format!("{call}</s>"), "</s>".into(), "No.</s>".into()];
    assert_eq!(learned("    train_on_eos: all\n"), all);
}

#[test]
fn labels_are_those_of_transformers() {
    let outcome = project(CALLS, "").success(&["preprocess", "host.yml", "--show", "1", "--json"]);
    let events: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((events[0]["event"].as_str(), events[1]["event"].as_str()), (Some("sample"), Some("preprocess")));
    let (ids, labels) = (events[0]["input_ids"].as_array().unwrap(), events[0]["labels"].as_array().unwrap());
    assert_eq!(ids.len(), labels.len());
    let learned = ids.iter().zip(labels).filter(|(id, label)| id == label).count();
    assert_eq!(events[0]["trained_tokens"], learned);
    assert_eq!(labels.iter().filter(|label| **label == -100).count(), ids.len() - learned);
    assert!(events[0]["text"].as_str().unwrap().starts_with("[user]Rain in Oslo?</s>\n[assistant](think look)"));
    assert_eq!(events[1]["trained_tokens"], learned);
}

#[test]
fn each_token_can_be_shown() {
    let shown = project(CALLS, "").success(&["preprocess", "host.yml", "--show", "1", "--tokens"]).stdout;
    let joined: String = shown.lines().skip(1).filter_map(|line| line.get(21..)).collect();
    assert!(joined.contains("(call {\"name\": \"weather\""), "{shown}");
}

#[test]
fn what_is_cut_off_is_not_shown() {
    let project = project(CALLS, "");
    let cut = "excess_length_strategy: truncate\nsequence_len: 40\n";
    project.write("host.yml", project.read("host.yml").replace("sequence_len: 128\n", cut));
    let shown = project.success(&["preprocess", "host.yml", "--show", "--json"]).stdout;
    let sample: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert_eq!(sample["tokens"], 40);
    let text = sample["text"].as_str().unwrap();
    assert!(text.starts_with("[user]Rain") && !text.contains("Sun"), "{text}");
    let shown = project.success(&["preprocess", "host.yml", "--show"]).stdout;
    assert!(shown.contains("[user]Rain in Oslo?") && !shown.contains("Sun"), "{shown}");
}

#[test]
fn rows_are_left_out_for_their_true_reason() {
    let rows = r#"{"messages": [{"role": "User", "content": "q"}, {"role": "Assistant", "content": "a"}]}
{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
"#;
    let said = project(rows, "").success(&["preprocess", "host.yml"]).stderr;
    let expected = "left out  1 row: no message has a role that is learned; the roles are `Assistant`, `User`; the first is train.jsonl, line 1";
    assert!(said.contains(expected), "{said}");
    let alone = project(rows.lines().next().unwrap(), "").failure(&["preprocess", "host.yml"]);
    insta::assert_snapshot!(alone);
}

#[test]
fn messages_that_the_template_does_not_write_are_told() {
    let row = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "function", "content": "r"}, {"role": "assistant", "content": "a"}]}"#;
    let project = project(row, "");
    project.write("chat.jinja", TEMPLATE.replace("messages %}", "messages if m.role != 'function' %}"));
    let said = project.success(&["preprocess", "host.yml"]).stderr;
    assert!(
        said.contains("1 row: the chat template leaves out the content of messages with the role `function`"),
        "{said}"
    );
}

#[test]
fn a_conversation_longer_than_any_sequence_is_left_out() {
    let long = format!(
        r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "{}"}}]}}"#,
        "word ".repeat(4 << 20)
    );
    let rows = format!("{long}\n{CALLS}");
    let said = project(&rows, "").success(&["preprocess", "host.yml"]).stderr;
    assert!(said.contains("left out  1 row: longer than `sequence_len`"), "{said}");
}
