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
