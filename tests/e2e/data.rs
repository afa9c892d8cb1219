//! Bad data: the row's place, and nothing trained.

use crate::support::{CONFIG, Project};

fn train(data: impl AsRef<[u8]>) -> String {
    let project = Project::new();
    project.write("train.jsonl", data);
    project.train_failure(str::to_owned)
}

const GOOD: &str = "{\"instruction\": \"Say hi.\", \"input\": \"\", \"output\": \"hi\"}\n";

#[test]
fn a_missing_file() {
    let project = Project::new();
    std::fs::remove_file(project.path("train.jsonl")).unwrap();
    insta::assert_snapshot!(project.train_failure(str::to_owned));
}

#[test]
fn a_broken_line() {
    insta::assert_snapshot!(train(format!("{GOOD}{GOOD}{{\"instruction\": \"x\", \"output\"\n{GOOD}")));
}

#[test]
fn a_missing_field() {
    insta::assert_snapshot!(train(format!("{GOOD}{{\"instruction\": \"x\", \"answer\": \"y\"}}\n")));
}

#[test]
fn many_bad_rows_are_counted() {
    insta::assert_snapshot!(train("3\n".repeat(9)));
}

#[test]
fn an_empty_file() {
    insta::assert_snapshot!(train("\n\n"));
}

#[test]
fn no_row_is_short_enough() {
    let project = Project::new();
    insta::assert_snapshot!(project.train_failure(|config| config.replace("sequence_len: 128", "sequence_len: 4")));
}

#[test]
fn another_format() {
    insta::assert_snapshot!(train(b"PAR1\x00\x00"));
}

#[test]
fn a_template_with_windows_line_ends_gives_the_same_tokens() {
    let project = Project::new();
    project.write(
        "train.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n",
    );
    let template = "{%- for m in messages %}\n{{ m.role + '\n' }}{{ m.content }}</s>\n{% endfor %}\n\n";
    let config =
        CONFIG.replace("alpaca", "chat_template").replace("_size: 4", "_size: 1").replace("steps: 4", "steps: 1")
            + "chat_template_jinja: t.jinja\n";
    let digest = |text: &str| {
        project.write("t.jinja", text);
        project.write("host.yml", &config);
        project.success(&["train", "host.yml", "--overwrite"]);
        let run: serde_json::Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
        run["data_sha256"].clone()
    };
    let unix = digest(template);
    assert_eq!(unix, digest(&template.replace('\n', "\r\n")));
    // transformers takes one line end from what it reads, so the file keeps them all.
    assert_eq!(project.read("out/chat_template.jinja"), template);
}

#[test]
fn a_conversation_without_a_chat_template() {
    let project = Project::new();
    project.write(
        "train.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n",
    );
    insta::assert_snapshot!(project.train_failure(|config| config.replace("alpaca", "chat_template")));
    // With one, it trains.
    project.write(
        "host.yml",
        CONFIG.replace("alpaca", "chat_template")
            + "chat_template: alpaca\nmicro_batch_size: 1\nmax_steps: 1\n".split_once('\n').unwrap().0,
    );
    project.success(&["train", "host.yml", "--overwrite"]);
}
