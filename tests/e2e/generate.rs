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
