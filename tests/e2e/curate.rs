//! `host curate`: what it leaves out, what it writes, what it refuses.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::support::{CONFIG, Outcome, Project, lines};

/// A text of `count` words that no other number has.
fn text(number: usize, count: usize) -> String {
    (0..count).map(|word| format!("w{}", (number * 131 + word * 17) % 9973)).collect::<Vec<_>>().join(" ")
}

fn row(instruction: &str, output: &str) -> Value {
    json!({ "instruction": instruction, "input": "", "output": output })
}

/// Twelve plain rows, then one of each kind that is left out.
fn rows() -> Vec<Value> {
    let mut rows: Vec<Value> = (0..12).map(|number| row(&text(number, 12), &text(number + 500, 40))).collect();
    // 12: the first with other spaces and case.
    rows.push(row(&text(0, 12).to_uppercase(), &format!("  {}!", text(500, 40).replace(' ', ", "))));
    // 13: the second with another last word.
    rows.push(row(&text(1, 12), &format!("{} end", text(501, 39))));
    // 14: a row of the evaluation, inside another text.
    rows.push(row(&format!("Please: {}", text(900, 20)), &text(777, 20)));
    rows
}

fn project(curation: &str) -> Project {
    let project = Project::new();
    write_rows(&project, "train.jsonl", &rows());
    write_rows(&project, "eval.jsonl", &[row(&text(900, 20), &text(901, 10))]);
    let datasets = "test_datasets:\n  - path: eval.jsonl\n    type: alpaca\n";
    project.write("host.yml", format!("{CONFIG}{datasets}{curation}"));
    project
}

fn write_rows(project: &Project, name: &str, rows: &[Value]) {
    project.write(name, rows.iter().map(|row| format!("{row}\n")).collect::<String>());
}

const ALL: &str = "curation:\n  decontaminate: true\n";

/// The reasons that rows are left out for, by row.
fn dropped(project: &Project) -> Vec<(u64, String)> {
    let lines = lines(&project.path("out/curated/dropped.jsonl"));
    lines.iter().map(|line| (line["row"].as_u64().unwrap(), line["reason"].as_str().unwrap().to_owned())).collect()
}

fn event(outcome: &Outcome) -> Value {
    serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn rows_are_left_out_with_their_reasons() {
    let project = project(ALL);
    let outcome = project.success(&["curate", "host.yml"]);
    assert!(outcome.stdout.contains("rows      15\nkept      12\n"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("host train out/curated/train.yml"), "{}", outcome.stdout);
    let reasons = [(12, "exact_duplicate"), (13, "near_duplicate"), (14, "contaminated")];
    assert_eq!(dropped(&project), reasons.map(|(row, reason)| (row, reason.to_owned())));
    let lines = lines(&project.path("out/curated/dropped.jsonl"));
    assert_eq!(lines[0]["duplicate_of"], json!({ "row": 0, "position": "train.jsonl, line 1" }));
    assert!(lines[1]["most_like"]["row"] == 1 && lines[1]["similarity"].as_f64().unwrap() > 0.8, "{}", lines[1]);
    assert_eq!(lines[2]["span"], text(900, 20));
    assert_eq!(lines[2]["evaluation"], "eval.jsonl, line 1");
    // The rows as they came, in their order.
    let kept: String = project.read("train.jsonl").split_inclusive('\n').take(12).collect();
    let values = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(values(&project.read("out/curated/kept.jsonl")), values(&kept));
    let page = project.read("out/curated/index.html");
    assert!(page.contains(&format!("<mark>{}</mark>", text(900, 20))) && page.contains("<svg"));
}

#[test]
fn the_control_is_as_large_and_the_same_every_time() {
    let project = project(&format!("{ALL}  keep: 0.5\n"));
    let first = event(&project.success(&["curate", "host.yml", "--json"]));
    assert_eq!((&first["kept"], &first["dropped"]["not_drawn"]), (&json!(6), &json!(6)));
    let control = project.read("out/curated/control.jsonl");
    let (all, kept) = (project.read("train.jsonl"), project.read("out/curated/kept.jsonl"));
    assert_eq!((control.lines().count(), kept.lines().count()), (6, 6));
    assert_eq!(control.lines().collect::<BTreeSet<_>>().len(), 6);
    assert!(control.lines().all(|line| all.contains(line)));
    project.success(&["curate", "host.yml", "--output", "other"]);
    assert_eq!((project.read("other/control.jsonl"), project.read("other/kept.jsonl")), (control.clone(), kept));
    project.success(&["curate", "host.yml", "--output", "seeded", "--set", "seed=7"]);
    assert_ne!(project.read("seeded/control.jsonl"), control);
}

#[test]
fn what_is_written_can_be_trained() {
    let project = project(ALL);
    project.success(&["curate", "host.yml", "--set", "sequence_len=256"]);
    project.success(&["train", "out/curated/train.yml"]);
    let run: Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
    assert_eq!(run["status"], "finished");
    project.success(&["check", "out/curated/control.yml"]);
    let control: String = project.read("out/curated/control.yml");
    assert!(control.contains("output_dir: out-control\n") && control.contains("sequence_len: 256\n"), "{control}");
    // Nothing of the run is in the way of the next curation.
    project.success(&["curate", "host.yml"]);
}

#[test]
fn datasets_of_different_types_have_files_of_their_own() {
    let project = project("");
    write_rows(&project, "more.jsonl", &[json!({ "text": text(3000, 30) })]);
    let more =
        "  - path: more.jsonl\n    type: completion\n  - path: train.jsonl\n    split: train[:2]\n    type: alpaca\n";
    project.write("host.yml", CONFIG.replace("    type: alpaca\n", &format!("    type: alpaca\n{more}")));
    let done = event(&project.success(&["curate", "host.yml", "--json"]));
    assert_eq!((&done["rows"], &done["dropped"]["exact_duplicate"]), (&json!(18), &json!(3)));
    assert_eq!(project.read("out/curated/kept-1.jsonl").lines().count(), 1);
    assert_eq!(project.read("out/curated/kept-0.jsonl").lines().count(), 13);
    let rows = |file: &str| project.read(&format!("out/curated/{file}")).lines().count();
    assert_eq!(rows("control-0.jsonl") + rows("control-1.jsonl"), 14);
    project.success(&["check", "out/curated/train.yml"]);
}

#[test]
fn a_hostile_row_is_only_text() {
    let project = project("");
    let hostile = format!("<script>alert(1)</script><img src=x onerror=alert(2)> \u{202e} {}", text(5, 30));
    write_rows(&project, "train.jsonl", &[row(&hostile, "&amp;"), row(&hostile, "&amp;"), row(&text(1, 9), "x")]);
    let outcome = project.success(&["curate", "host.yml"]);
    assert!(!outcome.stdout.contains("script"));
    let page = project.read("out/curated/index.html");
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&amp;amp;"), "{page}");
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains('\u{202e}'));
}

#[test]
fn rows_are_left_out_by_what_they_look_like_and_by_some_columns() {
    let project = project("curation:\n  text: [output]\n  heuristics: {min_words: 3, max_mean_word_length: 20}\n");
    let long = "a".repeat(90);
    let some = [
        row(&text(1, 9), "yes"),
        row(&text(2, 9), "one two three"),
        row(&text(3, 9), "one, two, three"),
        row(&text(4, 9), &format!("{long} {long} {long}")),
    ];
    write_rows(&project, "train.jsonl", &some);
    project.success(&["curate", "host.yml"]);
    let reasons = [(0, "heuristic"), (2, "exact_duplicate"), (3, "heuristic")];
    assert_eq!(dropped(&project), reasons.map(|(row, reason)| (row, reason.to_owned())));
    let lines = lines(&project.path("out/curated/dropped.jsonl"));
    assert_eq!((&lines[0]["rule"], &lines[0]["because"]), (&json!("min_words"), &json!("1 word")));
    let messages = project.failure(&["curate", "host.yml", "--set", "curation.text=[otput]"]);
    assert!(messages.contains("curation::no-column") && messages.contains("`otput`"), "{messages}");
}

#[test]
fn rows_in_other_languages_are_left_out() {
    let project = project("curation:\n  heuristics: {languages: [en, fr]}\n");
    let german = "Der Ausschuss wird sich in der nächsten Woche wieder treffen, um über die Vorschläge zu entscheiden.";
    let some = [
        row("Summarize the text.", "The committee will meet again next week to decide which proposals are accepted."),
        row("Fasse den Text zusammen.", german),
        row("Übersetze ins Deutsche: yes", "Ja."),
        row(
            "Résume le texte.",
            "Le comité se réunira de nouveau la semaine prochaine pour décider quelles propositions accepter.",
        ),
        row("Kürze.", &"<b>".repeat(3)),
    ];
    write_rows(&project, "train.jsonl", &some);
    project.success(&["curate", "host.yml"]);
    assert_eq!(dropped(&project), [(1, "heuristic".to_owned())]);
    let lines = lines(&project.path("out/curated/dropped.jsonl"));
    assert_eq!((&lines[0]["rule"], &lines[0]["because"]), (&json!("languages"), &json!("looks like German (de)")));
    assert!(project.read("out/curated/index.html").contains("<code>languages</code>: looks like German (de)"));
    // Where the other language is wanted, it stays.
    project.success(&["curate", "host.yml", "--set", "curation.heuristics.languages=[fr, de]"]);
    assert_eq!(dropped(&project), [(0, "heuristic".to_owned())]);
}

#[test]
fn an_uncurated_config_is_not_trained() {
    let project = project(ALL);
    for command in [&["train", "host.yml"][..], &["preprocess", "host.yml"], &["check", "host.yml", "--plan"]] {
        let outcome = project.host(command);
        assert_eq!(outcome.status, 1, "{command:?}");
        let told = outcome.stderr;
        assert!(told.contains("curation::not-applied") && told.contains("`host curate host.yml`"), "{told}");
        assert!(told.contains("host.yml:13:1") && told.contains("host train out/curated/train.yml"), "{told}");
    }
    project.success(&["check", "host.yml"]);
    assert!(!project.path("out").exists());
}

#[test]
fn what_others_wrote_stays() {
    let project = project(ALL);
    fs::create_dir_all(project.path("mine")).unwrap();
    project.write("mine/notes.md", "mine");
    let messages = project.failure(&["curate", "host.yml", "--output", "mine"]);
    assert!(messages.contains("curation::foreign"), "{messages}");
    project.success(&["curate", "host.yml"]);
    project.write("out/curated/notes.md", "mine");
    let messages = project.failure(&["curate", "host.yml"]);
    assert!(messages.contains("curation::foreign") && messages.contains("`notes.md`"), "{messages}");
    assert_eq!((project.read("mine/notes.md"), project.read("out/curated/notes.md")), ("mine".into(), "mine".into()));
    // A file is nobody's directory.
    assert!(project.failure(&["curate", "host.yml", "--output", "host.yml"]).contains("curation::foreign"));
    let left: Vec<_> = fs::read_dir(project.path("")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".tmp-")), "{left:?}");
}

#[test]
fn wrong_values_are_told_at_their_place() {
    let project = project("");
    for (curation, wanted) in [
        ("curation: {near_duplicates: {threshold: 1.5}}", "`curation.near_duplicates.threshold` must be from 0.1 to 1"),
        ("curation: {near_duplicates: {treshold: 0.7}}", "did you mean `threshold`?"),
        ("curation: {near_duplicates: 3}", "a mapping, `true` or `false`"),
        ("curation: {decontaminate: {ngram: 3}}", "from 5 to 100"),
        ("curation: {decontaminate: {against: [none.jsonl]}}", "there is no file or directory `none.jsonl`"),
        ("curation: {keep: 0}", "1 or more, or a share between 0 and 1"),
        ("curation: {exact_duplicates: false, near_duplicates: false}", "leaves nothing out"),
        ("curation: {heuristics: {min_words: 9, max_words: 3}}", "no row has both"),
        ("curation: {heuristics: {languages: [en, deu]}}", "did you mean `de` (German)?"),
        ("curation: {heuristics: {languages: qq}}", "a code of ISO 639-1, such as `en` (English)"),
        ("curation: {heuristics: {languages: [de, ex]}}", "`el` (Greek), `en` (English), `eo` (Esperanto)"),
        ("curation: {heuristics: {languages: []}}", "`languages` names no language"),
        ("curation: {dedup: true}", "unknown key `curation.dedup`"),
    ] {
        let datasets = "test_datasets: [{path: eval.jsonl, type: alpaca}]\n";
        project.write("host.yml", format!("{CONFIG}{datasets}{curation}\n"));
        for command in ["check", "curate"] {
            let messages = project.failure(&[command, "host.yml"]);
            assert!(messages.contains(wanted) && messages.contains("host.yml:11:"), "{curation}\n{messages}");
        }
    }
    project.write("host.yml", format!("{CONFIG}curation: {{decontaminate: true}}\n"));
    assert!(project.failure(&["curate", "host.yml"]).contains("has no evaluation to look for"));
    assert!(!project.path("out").exists());
}
