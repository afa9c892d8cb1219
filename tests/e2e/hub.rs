//! Models by their names on the hub: what is fetched when, what a run remembers, and what is said where there is none.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::hub_server::{COMMIT, Reply, Repositories, Server};
use crate::support::{CONFIG, Outcome, Project, finish};

/// A project whose model is on a hub alone.
fn project() -> Project {
    let project = Project::new();
    fs::remove_file(project.path("model")).unwrap();
    project.write("host.yml", CONFIG.replace("base_model: model", "base_model: org/tiny"));
    project
}

/// The files of the quickstart's model, and some that nobody has asked for.
fn files() -> BTreeMap<String, Vec<u8>> {
    let directory = crate::support::root().join("configs/quickstart/model");
    let mut files = BTreeMap::from([
        ("README.md".to_owned(), b"# a card".to_vec()),
        ("modeling_tiny.py".to_owned(), b"print('hello')".to_vec()),
        ("pytorch_model.bin".to_owned(), vec![0; 100]),
    ]);
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        files.insert(entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    }
    files
}

fn serve(files: BTreeMap<String, Vec<u8>>) -> Server {
    let all = Repositories::default().with("models/org/tiny", files);
    Server::new(move |request| all.answer(request, None))
}

fn command(project: &Project, server: &Server, arguments: &[&str]) -> Command {
    let mut command = project.command(arguments);
    command.env("HF_ENDPOINT", &server.address).env_remove("HF_HUB_OFFLINE");
    command
}

pub(crate) fn run(project: &Project, server: &Server, arguments: &[&str]) -> Outcome {
    finish(command(project, server, arguments).spawn().unwrap())
}

pub(crate) fn failure(project: &Project, server: &Server, arguments: &[&str]) -> String {
    let outcome = run(project, server, arguments);
    assert_eq!(outcome.status, 1, "{}{}", outcome.stdout, outcome.stderr);
    outcome.stderr.replace(&server.address, "http://hub")
}

/// What was asked for, without the revision.
fn asked(server: &Server) -> Vec<String> {
    let name =
        |path: &str| path.rsplit('/').next().unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    server.requests().iter().map(|request| name(&request.path)).collect()
}

#[test]
fn a_check_reads_headers_and_a_run_brings_the_weights() {
    let (project, server) = (project(), serve(files()));
    let checked = run(&project, &server, &["check", "host.yml", "--plan"]);
    assert_eq!(checked.status, 0, "{}", checked.stderr);
    let of_weights: Vec<_> =
        server.requests().into_iter().filter(|request| request.path.ends_with("model.safetensors")).collect();
    assert!(of_weights.iter().all(|request| request.range().is_some_and(|(start, end)| start == 0 && end.is_some())));
    assert!(!of_weights.is_empty());
    let snapshot = project.path(".hf/hub/models--org--tiny/snapshots").join(COMMIT);
    assert!(snapshot.join("config.json").is_file() && !snapshot.join("model.safetensors").exists());

    let trained = run(&project, &server, &["train", "host.yml"]);
    assert_eq!(trained.status, 0, "{}", trained.stderr);
    let names = asked(&server);
    for other in ["README.md", "modeling_tiny.py", "pytorch_model.bin"] {
        assert!(!names.iter().any(|name| name == other) && !snapshot.join(other).exists(), "{other} was fetched");
    }
    let record: Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
    assert_eq!(record["hub"][0]["name"], "org/tiny");
    assert_eq!(record["hub"][0]["commit"], COMMIT);

    // The same model from a directory gives the same weights, and what is here needs no network.
    let offline = project.success(&["train", "host.yml", "--set", "output_dir=again"]);
    assert!(!offline.stderr.contains("fetching"), "{}", offline.stderr);
    let trained = |output: &str| fs::read(project.path(output).join("model.safetensors")).unwrap();
    assert_eq!(trained("again"), trained("out"));
    project.success(&["generate", "--model", "org/tiny", "--prompt", "hello", "--max-new-tokens", "4"]);

    // A commit is asked for by nobody.
    let before = server.requests().len();
    let set = format!("revision_of_model={COMMIT}");
    assert_eq!(run(&project, &server, &["check", "host.yml", "--set", &set]).status, 0);
    assert_eq!(server.requests().len(), before);
}

#[test]
fn weights_that_do_not_fit_are_found_before_they_are_fetched() {
    let project = project();
    let mut all = files();
    let config = String::from_utf8(all["config.json"].clone()).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = 9.into();
    all.insert("config.json".to_owned(), config.to_string().into_bytes());
    let server = serve(all);
    let messages = failure(&project, &server, &["train", "host.yml"]);
    assert!(messages.contains("error[model::weights]") && messages.contains("is missing from"), "{messages}");
    assert!(!project.path(".hf/hub/models--org--tiny/snapshots").join(COMMIT).join("model.safetensors").exists());
}

#[test]
fn what_cannot_be_had_is_said() {
    let said = |reply: Reply| {
        let server = Server::new(move |_| reply.clone());
        failure(&project(), &server, &["check", "host.yml"])
    };
    insta::assert_snapshot!("gated", said(Reply::new(401, "").header("x-error-code", "GatedRepo")));
    insta::assert_snapshot!("not_found", said(Reply::new(404, "").header("x-error-code", "RepoNotFound")));
    insta::assert_snapshot!("no_revision", said(Reply::new(404, "").header("x-error-code", "RevisionNotFound")));
    insta::assert_snapshot!("nonsense", said(Reply::new(200, "<html>")));
    let mut pickled = files();
    pickled.remove("model.safetensors");
    insta::assert_snapshot!("pickled", failure(&project(), &serve(pickled), &["check", "host.yml"]));
    let project = project();
    let outcome = project.host(&["check", "host.yml"]);
    assert_eq!(outcome.status, 1);
    insta::assert_snapshot!("offline", outcome.stderr);
}

#[test]
fn weights_that_arrive_broken_are_not_trained() {
    let project = project();
    let all = Repositories::default().with("models/org/tiny", files());
    let server = Server::new(move |request| {
        let mut reply = all.answer(request, None);
        // The beginning is right: a check goes well.
        if request.path.ends_with("model.safetensors") && request.range().is_none() {
            *reply.body.last_mut().unwrap() ^= 1;
        }
        reply
    });
    assert_eq!(run(&project, &server, &["check", "host.yml"]).status, 0);
    let messages = failure(&project, &server, &["train", "host.yml"]);
    assert!(messages.contains("error[hub::corrupt]") && messages.contains("its digest is"), "{messages}");
    assert!(!project.path("out").exists());
}

#[test]
fn a_hub_that_is_away_is_done_without() {
    let (project, server) = (project(), serve(files()));
    assert_eq!(run(&project, &server, &["train", "host.yml"]).status, 0);
    let mut command = project.command(&["check", "host.yml"]);
    command.env("HF_ENDPOINT", "http://127.0.0.1:9").env_remove("HF_HUB_OFFLINE");
    let outcome = finish(command.spawn().unwrap());
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("warning[hub::unreachable]"), "{}", outcome.stderr);
}

#[test]
fn a_revision_of_a_directory_is_told_to_have_no_effect() {
    let project = Project::new();
    let checked = project.success(&["check", "host.yml", "--set", "revision_of_model=v1"]);
    assert!(checked.stderr.contains("warning[hub::revision]"), "{}", checked.stderr);
}
