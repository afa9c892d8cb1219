//! `host check --fix`: what is mended in the file, what is told, and what is left alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::support::{CONFIG, Outcome, Project};

/// The config after `--fix`, below what the command said.
fn fixed(text: &str, arguments: &[&str]) -> String {
    let project = Project::new();
    project.write("host.yml", text);
    let outcome = fix(&project, arguments);
    assert_eq!(outcome.stdout, "", "messages go to stderr");
    format!("{}status {}\n\n{}", outcome.stderr, outcome.status, project.read("host.yml"))
}

fn fix(project: &Project, arguments: &[&str]) -> Outcome {
    project.host(&[&["check", "host.yml", "--fix"], arguments].concat())
}

const G1: &str = "\
unfrozen_parameters: ['model\\.layers\\.1\\.']   # the upper half
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: true         # PyTorch's default
  # nothing else goes here
";

#[test]
fn a_value_that_a_rule_knows() {
    insta::assert_snapshot!(fixed(&format!("# my run\n{CONFIG}{G1}"), &[]));
}

#[test]
fn a_key_that_a_rule_wants_gone() {
    insta::assert_snapshot!(fixed(
        &format!("{CONFIG}\n# chat\ndefault_system_message: Be brief.   # for nobody\nseed: 7\n"),
        &[]
    ));
}

#[test]
fn a_misspelled_key() {
    insta::assert_snapshot!(fixed(&CONFIG.replace("learning_rate:", "'lerning_rate' :"), &[]));
}

#[test]
fn words_numbers_and_names_of_other_trainers() {
    let text = CONFIG
        .replace("micro_batch_size: 4", "per_device_train_batch_size: 4")
        .replace("learning_rate: 1e-3", "learning_rate: \"1e-3\"   # a rate");
    insta::assert_snapshot!(fixed(
        &format!(
            "{text}lr_scheduler: cosin\nsample_packing: yes\nadapter: lora\nlora_target_modules: [q_proj, v_prj]\n"
        ),
        &[]
    ));
}

#[test]
fn several_at_once_and_one_that_stays() {
    let text = CONFIG.replace("max_steps", "max_step");
    insta::assert_snapshot!(fixed(&format!("{text}{G1}sede: 1\nquantum: true\nsequence_length: 64\n"), &[]));
}

#[test]
fn an_alias_is_left_to_its_author() {
    let aliased =
        G1.replace("kwargs:\n  use_reentrant: true         #", "kwargs: &kwargs\n  use_reentrant: true         #");
    insta::assert_snapshot!(fixed(&format!("{CONFIG}{aliased}"), &[]));
}

#[test]
fn a_value_of_the_command_line_is_not_in_the_file() {
    insta::assert_snapshot!(fixed(CONFIG, &["--set", "lr_scheduler=cosin", "--set", "sede=1"]));
}

#[test]
fn what_a_fix_brings_to_light_is_fixed_too() {
    insta::assert_snapshot!(fixed(&CONFIG.replace("learning_rate: 1e-3", "lerning_rate: '1e-3'   # a rate"), &[]));
}

#[test]
fn of_two_fixes_for_one_key_the_first_wins() {
    insta::assert_snapshot!(fixed(&CONFIG.replace("learning_rate", "lerning_rate: 1e-4\nlearnin_rate"), &[]));
}

#[test]
fn without_the_flag_nothing_changes_and_the_last_line_says_what_could() {
    let project = Project::new();
    let text = format!("{CONFIG}{G1}sede: 1\nquantum: true\n");
    project.write("host.yml", &text);
    let messages = project.failure(&["check", "host.yml"]);
    assert_eq!(messages.lines().last(), Some("host.yml: 3 errors, no warnings; 2 of them can be fixed with --fix"));
    assert_eq!(project.read("host.yml"), text);
}

#[test]
fn programs_get_the_edits_and_an_event_for_each_fix() {
    let project = Project::new();
    let text = format!("{CONFIG}{G1}sede: 1\ndefault_system_message: Be brief.\n");
    project.write("host.yml", text);
    let fixes = |outcome: &Outcome| -> Vec<String> {
        let events = outcome.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.filter_map(|event| Some(format!("{} {} {}", event["event"], event["code"], event.get("fix")?))).collect()
    };
    insta::assert_snapshot!(fixes(&project.host(&["check", "host.yml", "--json"])).join("\n"));
    let outcome = fix(&project, &["--json"]);
    insta::assert_snapshot!(outcome.stdout);
    assert_eq!((outcome.status, fixes(&outcome).len()), (0, 3));
}

#[test]
fn line_ends_byte_order_mark_permissions_and_links_stay() {
    let project = Project::new();
    let text = format!("\u{feff}{CONFIG}sede: 1 # ü").replace('\n', "\r\n");
    project.write("real.yml", &text);
    fs::set_permissions(project.path("real.yml"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::remove_file(project.path("host.yml")).unwrap();
    symlink("real.yml", project.path("host.yml")).unwrap();
    assert_eq!(fix(&project, &[]).status, 0);
    assert_eq!(project.read("real.yml"), text.replace("sede", "seed"));
    assert!(project.path("host.yml").is_symlink());
    assert_eq!(fs::metadata(project.path("real.yml")).unwrap().permissions().mode() & 0o777, 0o640);
    let left: Vec<_> = fs::read_dir(project.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".tmp-")), "{left:?}");
}

#[test]
fn a_good_config_and_a_read_only_one_are_not_written() {
    let project = Project::new();
    let time = || fs::metadata(project.path("host.yml")).unwrap().modified().unwrap();
    let before = time();
    assert_eq!(fix(&project, &[]).stderr, "host.yml: no errors, no warnings\n");
    assert_eq!(time(), before);
    project.write("host.yml", format!("{CONFIG}sede: 1\n"));
    fs::set_permissions(project.path("host.yml"), fs::Permissions::from_mode(0o444)).unwrap();
    let outcome = fix(&project, &[]);
    assert_eq!(outcome.status, 1);
    insta::assert_snapshot!(outcome.stderr);
    assert_eq!(project.read("host.yml"), format!("{CONFIG}sede: 1\n"));
}
