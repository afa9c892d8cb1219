//! Generation from the command line.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::{Project, finish};

#[test]
fn a_prompt_gets_an_answer_and_the_same_one_again() {
    let project = Project::new();
    let arguments = ["generate", "--model", "model", "--raw", "--prompt", "The", "--max-new-tokens", "8"];
    let first = project.success(&arguments).stdout;
    assert!(!first.trim().is_empty());
    assert_eq!(first, project.success(&arguments).stdout);
    let sampled = |seed: &str| {
        let mut all = arguments.to_vec();
        all.extend(["--do-sample", "--temperature", "2.0", "--seed", seed]);
        project.success(&all).stdout
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

#[test]
fn lines_of_stdin_each_get_one() {
    let project = Project::new();
    let ask = |text: &str| {
        let mut command =
            project.command(&["generate", "--model", "model", "--raw", "--json", "--max-new-tokens", "4"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        finish(child)
    };
    let outcome = ask("{\"prompt\": \"The\"}\n\n{\"prompt\": \"A\"}\n");
    assert_eq!((outcome.status, outcome.stdout.lines().count()), (0, 2), "{}", outcome.stderr);
    let outcome = ask("{\"prompt\": \"The\"}\nnonsense\n");
    assert_eq!(outcome.status, 1);
    let message: serde_json::Value = serde_json::from_str(outcome.stdout.trim()).unwrap();
    assert_eq!((&message["file"], &message["line"]), (&"stdin".into(), &2.into()));
}

#[test]
fn what_cannot_be_generated_is_said() {
    let project = Project::new();
    insta::assert_snapshot!(project.failure(&["generate", "--model", "nowhere", "--prompt", "x"]));
    insta::assert_snapshot!(project.failure(&["generate", "--model", "model", "--adapter", "model", "--prompt", "x"]));
    insta::assert_snapshot!(project.failure(&["generate", "--model", "model", "--prompt", "x", "--top-p", "2"]));
    insta::assert_snapshot!(project.failure(&["generate", "--model", "model"]));
}

/// A template that shows everything that a conversation can have.
const TEMPLATE: &str = "{% if tools %}{{ tools[0].function.name * 9 }}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name * 9 }}{% endif %}{% endfor %}";

fn ask(project: &Project, lines: &str, more: &[&str]) -> crate::support::Outcome {
    let mut arguments = vec!["generate", "--model", "model", "--json", "--max-new-tokens", "12"];
    arguments.extend(more);
    let mut child = project.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    finish(child)
}

fn completions(outcome: &crate::support::Outcome) -> Vec<String> {
    assert_eq!(outcome.status, 0, "{}{}", outcome.stdout, outcome.stderr);
    let lines = outcome.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| line["completion"].as_str().unwrap().to_owned()).collect()
}

fn with_template() -> Project {
    let project = Project::new();
    project.own_model();
    project.write("model/chat_template.jinja", TEMPLATE);
    project
}

#[test]
fn a_conversation_is_read_as_a_row_of_training_is() {
    let project = with_template();
    let lines = concat!(
        r#"{"messages": [{"role": "user", "content": "x"}]}"#,
        "\n",
        r#"{"messages": [{"role": "human", "content": [{"type": "text", "text": "x"}]}], "id": 7}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "weather"}}]}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]}"#,
        "\n",
        r#"{"prompt": "x"}"#,
        "\n",
    );
    let all = completions(&ask(&project, lines, &[]));
    assert_eq!((&all[0], &all[0]), (&all[1], &all[4]), "names of roles, parts");
    assert!(all[0] != all[2] && all[0] != all[3] && all[2] != all[3], "{all:?}");
    project.write("q.json", lines.lines().nth(2).unwrap());
    let of_file = project.success(&["generate", "--model", "model", "--max-new-tokens", "12", "--messages", "q.json"]);
    assert_eq!(of_file.stdout.trim_end(), all[2].trim_end());
}

#[test]
fn what_a_request_asks_in_vain_is_said() {
    let project = with_template();
    let reason = |line: &str, more: &[&str]| {
        let outcome = ask(&project, line, more);
        assert_eq!(outcome.status, 1, "{}", outcome.stdout);
        let message: serde_json::Value = serde_json::from_str(outcome.stdout.trim()).unwrap();
        format!("{} | {}", message["message"].as_str().unwrap(), message["why"].as_str().unwrap_or_default())
    };
    insta::assert_snapshot!(reason(r#"{"messages": [{"role": "user", "content": "x"}], "temperature": 0.1}"#, &[]), @"a line of stdin is not a request | `temperature` is not read from a request; sampling is set on the command line");
    insta::assert_snapshot!(reason(r#"{"messages": []}"#, &[]), @"`messages` is an empty list |");
    insta::assert_snapshot!(reason(r#"{"messages": [{"role": "user", "content": "x"}], "tools": 1}"#, &[]), @"`tools` must be a list of tool definitions |");
    insta::assert_snapshot!(reason(r#"{"messages": [{"role": "user", "content": "x"}]}"#, &["--raw"]), @"the model has no chat template for messages |");
    project.write("q.json", "[]");
    insta::assert_snapshot!(project.failure(&["generate", "--model", "model", "--messages", "q.json"]), @r#"
error[data::bad-row]: `messages` is an empty list
 --> q.json:1:1
"#);
    project.write("q.json", r#"{"tools": []}"#);
    insta::assert_snapshot!(project.failure(&["generate", "--model", "model", "--messages", "q.json"]), @r#"
error[data::bad-row]: the file is not a conversation
 --> q.json:1:1
why:  it needs `messages`, and no `prompt`
help: write a list of messages, `[{"role": "user", "content": "…"}]`, or `{"messages": […], "tools": […]}`
"#);
}

#[test]
fn a_template_of_its_own_is_used_for_tools() {
    let project = Project::new();
    project.own_model();
    let lines = concat!(
        r#"{"messages": [{"role": "user", "content": "x"}]}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"function": {"name": "f"}}]}"#,
        "\n",
    );
    let with = |tool_use: &str| {
        let templates = serde_json::json!({ "default": "{{ messages[0].content }}", "tool_use": tool_use });
        let config = serde_json::json!({ "eos_token": "</s>", "chat_template": templates });
        project.write("model/tokenizer_config.json", config.to_string());
        completions(&ask(&project, lines, &[]))
    };
    let same = with("{{ messages[0].content }}");
    assert_eq!(same[0], same[1]);
    let other = with("The cat sat on {{ messages[0].content }}");
    assert_eq!(same[0], other[0]);
    assert_ne!(same[1], other[1]);
}

#[test]
fn the_models_own_settings_hold_where_no_flag_does() {
    let project = Project::new();
    project.own_model();
    let write = |config: serde_json::Value| project.write("model/generation_config.json", config.to_string());
    let ask = |more: &[&str]| {
        let mut arguments = vec!["generate", "--model", "model", "--raw", "--prompt", "The", "--json"];
        arguments.extend(more);
        let outcome = project.success(&arguments);
        let last = outcome.stdout.lines().last().unwrap().to_owned();
        (serde_json::from_str::<serde_json::Value>(&last).unwrap(), outcome.stderr)
    };
    write(serde_json::json!({ "eos_token_id": [2], "max_new_tokens": 3 }));
    let (plain, said) = ask(&[]);
    assert_eq!((&plain["completion_tokens"], said.as_str()), (&3.into(), ""));
    assert_eq!(ask(&["--max-new-tokens", "5"]).0["completion_tokens"], 5);
    write(serde_json::json!({ "do_sample": true, "temperature": 1.5, "top_p": 0.9, "max_new_tokens": 3 }));
    insta::assert_snapshot!(ask(&["--top-p", "0.5"]).1, @"sampling as `model/generation_config.json` says: do_sample true, temperature 1.5; `--do-sample=false` takes the likeliest token");
    let (likeliest, said) = ask(&["--do-sample=false"]);
    assert_eq!((likeliest["completion"].clone(), said.as_str()), (plain["completion"].clone(), ""));
    // Every token ends the text.
    write(serde_json::json!({ "eos_token_id": (0..1152).collect::<Vec<u32>>() }));
    let (ended, _) = ask(&[]);
    assert_eq!((&ended["finished"], &ended["completion_tokens"]), (&true.into(), &0.into()));
    write(serde_json::json!({ "eos_token_id": "x" }));
    insta::assert_snapshot!(project.failure(&["generate", "--model", "model", "--raw", "--prompt", "The"]), @r#"
error[model::config]: `model/generation_config.json` is not a valid generation config: `eos_token_id` is "x", not a token id or a list of them
help: mend the file, or delete it: `config.json` says enough
"#);
    write(serde_json::json!({ "num_beams": 4, "max_new_tokens": 1 }));
    let outcome = project.success(&["generate", "--model", "model", "--raw", "--prompt", "The", "--top-k", "3"]);
    insta::assert_snapshot!(outcome.stderr, @r#"
warning[model::generation]: `model/generation_config.json` asks for what `host generate` does not have
why:  num_beams: 4 is left out; transformers would write another text

warning[cli::no-effect]: `--top-k` has no effect: the likeliest token is taken
help: add `--do-sample`
"#);
}

#[test]
fn a_file_of_prompts_gets_a_file_of_answers() {
    let project = Project::new();
    project.write("prompts.jsonl", "{\"prompt\": \"The\"}\n\n{\"prompt\": \"A\"}\n{\"prompt\": \"In\", \"id\": 7}\n");
    let arguments = ["generate", "--model", "model", "--raw", "--prompts", "prompts.jsonl", "--max-new-tokens", "4"];
    let ask = |more: &[&str]| {
        let outcome = project.success(&[&arguments[..], more].concat());
        let text = project.read("answers.jsonl");
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        (lines.collect::<Vec<_>>(), outcome.stdout)
    };
    let (answers, printed) = ask(&["--output", "answers.jsonl"]);
    assert_eq!(printed, "");
    let indices: Vec<u64> = answers.iter().map(|answer| answer["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert!(answers.iter().all(|answer| answer["completion_tokens"] == 4 && answer.get("sequence").is_none()));
    // The same as on stdout.
    let outcome = project.success(&[&arguments[..], &["--json"]].concat());
    for (line, answer) in outcome.stdout.lines().zip(&answers) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["completion"], &line["index"]), (&answer["completion"], &answer["index"]));
    }
    let sampled = ["--output", "answers.jsonl", "--do-sample", "--temperature", "3", "--num-return-sequences", "3"];
    let (several, _) = ask(&sampled);
    let places: Vec<(u64, u64)> =
        several.iter().map(|one| (one["index"].as_u64().unwrap(), one["sequence"].as_u64().unwrap())).collect();
    assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]);
    assert_ne!(several[0]["completion"], several[1]["completion"]);
    assert_eq!(several, ask(&sampled).0);
}

#[test]
fn what_is_wrong_with_a_file_of_prompts_is_said() {
    let project = Project::new();
    let fail = |more: &[&str]| project.failure(&[&["generate", "--model", "model", "--raw"], more].concat());
    insta::assert_snapshot!(fail(&["--prompts", "nowhere.jsonl"]));
    project.write("prompts.jsonl", "{\"prompt\": \"The\"}\n{\"text\": \"A\"}\n");
    insta::assert_snapshot!(fail(&["--prompts", "prompts.jsonl"]));
    project.write("prompts.jsonl", "\n");
    insta::assert_snapshot!(fail(&["--prompts", "prompts.jsonl"]));
    project.write("prompts.jsonl", "{\"prompt\": \"The\"}\n");
    insta::assert_snapshot!(fail(&["--prompts", "prompts.jsonl", "--output", "nowhere/answers.jsonl"]));
    insta::assert_snapshot!(fail(&["--prompts", "prompts.jsonl", "--min-p", "2"]));
    insta::assert_snapshot!(fail(&["--prompts", "prompts.jsonl", "--output", "./prompts.jsonl"]));
    assert_eq!(project.read("prompts.jsonl"), "{\"prompt\": \"The\"}\n");
}

#[test]
fn an_answer_ends_before_a_stop() {
    let project = Project::new();
    let arguments = ["generate", "--model", "model", "--raw", "--prompt", "The", "--max-new-tokens", "12"];
    let whole = project.success(&arguments).stdout;
    let whole = whole.trim_end_matches('\n');
    let characters: Vec<char> = whole.chars().collect();
    let stop: String = characters[characters.len() / 2..characters.len() / 2 + 2].iter().collect();
    let before = whole.split_once(&stop).unwrap().0;
    let stopped =
        |more: &[&str]| project.success(&[&arguments[..], &["--stop", "not there", "--stop", &stop], more].concat());
    // As it is streamed, and as a whole.
    assert_eq!(stopped(&[]).stdout, format!("{before}\n"));
    let answer: serde_json::Value = serde_json::from_str(stopped(&["--json"]).stdout.trim()).unwrap();
    assert_eq!((&answer["completion"], &answer["finished"]), (&before.into(), &true.into()));
    assert_eq!(project.success(&[&arguments[..], &["--stop", "not there"]].concat()).stdout, format!("{whole}\n"));
}
