//! `host schema`, `host doctor` and `host completions`.

use serde_json::Value;

use crate::support::{CONFIG, Project};

#[test]
fn the_schema_is_for_editors_and_for_programs() {
    let project = Project::new();
    let printed: Value = serde_json::from_str(&project.success(&["schema"]).stdout).unwrap();
    let event: Value = serde_json::from_str(&project.success(&["schema", "--json"]).stdout).unwrap();
    assert_eq!((&event["event"], &event["v"], &event["schema"]), (&"schema".into(), &1.into(), &printed));
    let validator = jsonschema::draft202012::new(&printed).unwrap();
    let config: Value = serde_yaml::from_str(CONFIG).unwrap();
    assert!(validator.is_valid(&config));
    // What a run writes down can be read again, and by editors too.
    project.success(&["train", "host.yml", "--set", "max_steps=1"]);
    let resolved: Value = serde_yaml::from_str(&project.read("out/config.resolved.yml")).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&resolved).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let page = project.success(&["schema", "--markdown"]).stdout;
    assert!(page.contains("| **`base_model`** | text |"));
}

#[test]
fn shells_complete_the_commands() {
    let project = Project::new();
    let script = project.success(&["completions", "bash"]).stdout;
    assert!(script.contains("_host") && script.contains("generate"), "{script}");
    assert_eq!(project.host(&["completions", "tcsh-of-my-own"]).status, 2);
}

#[test]
fn the_doctor_says_what_there_is() {
    let project = Project::new();
    let event: Value = serde_json::from_str(&project.success(&["doctor", "--json"]).stdout).unwrap();
    assert_eq!(
        (&event["event"], &event["device"], &event["plugin_api"]),
        (&"doctor".into(), &"cpu".into(), &"0.1".into())
    );
    assert!(event["cores"].as_u64().unwrap() > 0);
    assert_eq!(event["capabilities"]["LlamaForCausalLM"]["lora"], "yes");
    let text = project.success(&["doctor"]).stdout;
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected = ["host", "system", "device", "cpu", "memory", "disk", "cache", "plugins", "trains", "gpu", "cuda"];
    assert_eq!(names[..expected.len()], expected);
    let page = project.success(&["doctor", "--capabilities"]).stdout;
    assert!(
        page.contains("\n**attention's projections with a bias** (model: `attention_bias`)\n\n- yes: Llama"),
        "{page}"
    );
}
