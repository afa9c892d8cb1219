//! The room from the outside: a file in, a config or all its problems out.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::positions::Positions;
use super::*;

const MINIMAL: &str = "base_model: tiny\nlearning_rate: 1e-3\ndatasets:\n  - path: a.jsonl\n    type: alpaca\n";

fn examined(text: &str, overrides: &[&str]) -> Examined {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("host.yml");
    std::fs::write(&path, text).expect("write");
    let overrides: Vec<String> = overrides.iter().map(|&set| set.to_owned()).collect();
    examine(&path, &overrides)
}

fn loaded(text: &str, overrides: &[&str]) -> LoadedConfig {
    let examined = examined(text, overrides);
    assert!(!examined.has_errors(), "{:#?}", examined.problems);
    examined.loaded.expect("a config")
}

/// `line:column code message`, one a line.
fn problems(text: &str, overrides: &[&str]) -> String {
    let lines = examined(text, overrides).problems.into_iter().map(|problem| {
        let place = problem.place.map_or_else(|| "-".to_owned(), |place| format!("{}:{}", place.line, place.column));
        format!("{place} {} {} {}\n", problem.severity.name(), problem.code, problem.message)
    });
    lines.collect()
}

#[test]
fn a_small_config_has_every_default() {
    let loaded = loaded(MINIMAL, &[]);
    let config = &loaded.config;
    assert_eq!((config.base_model.as_str(), config.tokenizer_config.as_str()), ("tiny", "tiny"));
    assert!((config.learning_rate - 1e-3).abs() < 1e-12);
    assert_eq!((config.micro_batch_size, config.gradient_accumulation_steps, config.eval_batch_size), (1, 1, 1));
    assert_eq!((config.eval_strategy, config.save_strategy), (Cadence::No, SaveStrategy::Epoch));
    assert_eq!(config.datasets[0].ds_type, PluginRef::named("jsonl"));
    assert_eq!(
        loaded.given,
        ["base_model", "learning_rate", "datasets", "datasets[0]", "datasets[0].path", "datasets[0].type"]
    );
}

#[test]
fn batch_keys_follow_from_each_other() {
    let sizes = |more: &str| {
        let config = loaded(&format!("{MINIMAL}{more}"), &[]).config;
        (config.micro_batch_size, config.gradient_accumulation_steps, config.eval_batch_size)
    };
    assert_eq!(sizes("micro_batch_size: 2\nbatch_size: 8\n"), (2, 4, 2));
    assert_eq!(sizes("gradient_accumulation_steps: 4\nbatch_size: 8\n"), (2, 4, 2));
    assert_eq!(sizes("batch_size: 8\n"), (1, 8, 1));
    assert_eq!(sizes("micro_batch_size: 2\neval_batch_size: 5\n"), (2, 1, 5));
}

#[test]
fn the_resolved_config_is_a_config_with_the_same_meaning() {
    let text = format!(
        "{MINIMAL}    ds_type: json\n    roles: {{user: [human, user]}}\n  - path: b.jsonl\n    type: {{field_instruction: q, format: \"{{instruction}}\"}}\n\
         adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\nval_set_size: 0.1\neval_steps: 0.25\nbatch_size: 6\nmicro_batch_size: 3\n\
         rules: [acme:house, {{name: axolotl-compat, severity: {{D16: off}}}}]\neval_reward_funcs: [exact-match]\n\
         plugins: [{{name: acme:house, version: \"0.2\", limits: {{memory_mb: 64}}}}]\nspecial_tokens: {{pad_token: <pad>}}\n"
    );
    let first = loaded(&text, &[]);
    let again = loaded(&first.to_yaml(), &[]);
    assert_eq!(first.config, again.config);
    assert_eq!(first.config.datasets[1].strategy.name, "alpaca");
}

#[test]
fn overrides_replace_values_and_problems_name_the_command_line() {
    let loaded = loaded(
        MINIMAL,
        &["datasets[0].path=b.jsonl", "gradient_checkpointing_kwargs.use_reentrant=true", "seed=7", "seed=8"],
    );
    assert_eq!(loaded.config.datasets[0].path, "b.jsonl");
    assert_eq!(loaded.config.gradient_checkpointing_kwargs.use_reentrant, Some(true));
    assert_eq!(loaded.config.seed, 8);
    assert!(loaded.is_given("gradient_checkpointing_kwargs.use_reentrant"));
    let place = loaded.source.place("seed").expect("a place");
    assert_eq!((place.file.as_path(), place.line, place.column), (Path::new("command line"), 4, 12));
    insta::assert_snapshot!(problems(MINIMAL, &["micro_batch_size=0", "sede=1", "learning_rate"]), @"
    1:24 error config::out-of-range `micro_batch_size` must be 1 or more, found `0`
    2:12 error config::unknown-key unknown key `sede`
    3:7 error config::bad-override `learning_rate` has no `=`
    ");
}

#[test]
fn plugins_stand_where_their_jobs_are_named() {
    let text = format!(
        "{MINIMAL}lr_scheduler: {{name: wsd, config: {{num_decay_steps: 5}}}}\nrow_filters:\n  - curate\n  - {{name: curate, min_score: 0.5}}\nrun_health: loss-watch\n"
    );
    let found = loaded(&text, &[]);
    assert_eq!(found.config.row_filters[1].min_score, Some(0.5));
    assert_eq!(found.entry_path("row_filters", 1), "row_filters[1]");
    assert_eq!(found.entry_path("run_health", 0), "run_health");
    assert_eq!(
        [&found.to_json()["lr_scheduler"], &found.to_json()["row_filters"], &found.to_json()["run_health"]],
        [
            &json!({"name": "wsd", "config": {"num_decay_steps": 5}}),
            &json!([{"name": "curate"}, {"name": "curate", "min_score": 0.5}]),
            &json!(["loss-watch"])
        ]
    );
    // What was written is what a config file would say again.
    assert_eq!(loaded(&found.to_yaml(), &[]).config, found.config);

    let scheduler = |word: &str| loaded(&format!("{MINIMAL}lr_scheduler: {word}\n"), &[]).config.lr_scheduler;
    assert_eq!(scheduler("linear"), Scheduler::BuiltIn(LrScheduler::Linear));
    assert_eq!(scheduler("wsd"), Scheduler::Plugin(PluginRef::named("wsd")));
    assert_eq!(scheduler("'acme:steps'"), Scheduler::Plugin(PluginRef::named("acme:steps")));

    let text = format!(
        "{MINIMAL}lr_scheduler: {{name: cosine}}\nrow_filters: [{{name: curate, min_scor: 1}}, 3]\nrun_health: [{{config: {{}}}}]\n"
    );
    insta::assert_snapshot!(problems(&text, &[]), @r"
    6:22 error config::unknown-value `cosine` is not a plugin and takes no config
    7:30 error config::unknown-key unknown key `row_filters[0].min_scor`
    7:44 error config::wrong-type `row_filters[1]` must be the name of a plugin or `{name: …, config: …}`, found `3`
    8:14 error config::missing-key `run_health[0].name` is missing
    ");
    let axolotls = examined(&format!("{MINIMAL}lr_scheduler: warmup_stable_decay\n"), &[]).problems;
    assert!(axolotls[0].help.as_ref().is_some_and(|help| help.contains("name: wsd")), "{axolotls:?}");
}

#[test]
fn a_reward_says_what_an_error_costs() {
    let text = format!(
        "{MINIMAL}eval_reward_funcs:\n  - exact-match\n  - {{name: code-tests, config: {{mode: all}}, on_error: zero}}\n"
    );
    let found = loaded(&text, &[]);
    let costs: Vec<OnError> = found.config.eval_reward_funcs.iter().map(|reward| reward.on_error).collect();
    assert_eq!(costs, [OnError::Fail, OnError::Zero]);
    assert_eq!(
        found.to_json()["eval_reward_funcs"],
        json!(["exact-match", {"name": "code-tests", "config": {"mode": "all"}, "on_error": "zero"}])
    );
    assert_eq!(loaded(&found.to_yaml(), &[]).config, found.config);
}

#[test]
fn a_device_and_a_precision_are_words_of_their_own() {
    for (written, device) in [
        ("auto", DeviceChoice::Auto),
        ("cpu", DeviceChoice::Cpu),
        ("cuda", DeviceChoice::Cuda(0)),
        ("cuda:1", DeviceChoice::Cuda(1)),
    ] {
        let found = loaded(&format!("{MINIMAL}device: {written}\n"), &[]);
        assert_eq!(found.config.device, device);
        assert_eq!(loaded(&found.to_yaml(), &[]).config, found.config);
    }
    insta::assert_snapshot!(problems(&format!("{MINIMAL}device: cuda:x\nbf16: true\nfloat32: true\n"), &[]), @r"
    6:9 error config::unknown-value `cuda:x` is not a value of `device`
    8:10 error config::conflict `bf16: true` and `float32: true` exclude each other
    ");
}

/// What Axolotl's examples have and is not needed here: the run is the same or better, and is told.
#[test]
fn what_is_done_otherwise_here_is_told() {
    let text = format!(
        "{MINIMAL}tf32: true\noptimizer: adamw_bnb_8bit\ntrust_remote_code: true\nevals_per_epoch: 0\nplugins:\n  - axolotl.integrations.liger.LigerPlugin\n  - axolotl.integrations.kd.KDPlugin\n"
    );
    insta::assert_snapshot!(problems(&text, &[]), @r"
    6:7 note config::no-effect `tf32` has no effect here
    7:12 warning config::no-effect `optimizer: adamw_bnb_8bit`, but the state of AdamW is kept in 32 bits here
    8:1 note config::no-effect `trust_remote_code` has no effect here
    11:5 note config::no-effect Axolotl's `axolotl.integrations.liger.LigerPlugin` has no effect here
    12:5 error config::unsupported-value Axolotl's `axolotl.integrations.kd.KDPlugin` is Python, which is never run here
    ");
    let paged = examined(&format!("{MINIMAL}optimizer: paged_adamw_32bit\n"), &[]);
    assert_eq!(paged.problems[0].severity, Severity::Note);
    assert_eq!(paged.loaded.unwrap().config.optimizer, Optimizer::AdamwTorchFused);
}

#[test]
fn the_watchdog_over_the_loss_is_a_plugin() {
    let watched = |more: &str| loaded(&format!("{MINIMAL}{more}"), &[]);
    let found = watched("loss_watchdog_threshold: 5.0\nloss_watchdog_patience: 2\n");
    assert_eq!(
        found.to_json()["run_health"],
        json!([{"name": "loss-watch", "config": {"threshold": 5.0, "patience": 2}}])
    );
    assert_eq!(loaded(&found.to_yaml(), &[]).config, found.config);
    let alone = examined(&format!("{MINIMAL}loss_watchdog_patience: 2\n"), &[]);
    assert!(alone.problems[0].message.contains("has no effect without `loss_watchdog_threshold`"));
    assert!(alone.loaded.unwrap().config.run_health.is_empty());
}

#[test]
fn old_names_of_message_fields_are_taken() {
    let text = "base_model: m\nlearning_rate: 1e-4\ndatasets:\n  - path: a\n    type: chat_template\n    message_field_role: from\n    message_field_content: value\n    message_property_mappings: {content: text}\n";
    let found = examined(text, &[]);
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    assert_eq!(found.problems[0].code, "config::old-name");
    assert_eq!(found.problems[1].code, "config::conflict");
    let mappings = &found.loaded.unwrap().config.datasets[0].message_property_mappings;
    assert_eq!((mappings["role"].as_str(), mappings["content"].as_str()), ("from", "text"));
}

#[test]
fn every_problem_comes_at_once_in_file_order() {
    let text = "base_model: tiny
micro_batchsize: 2
learning_rate: -1
num_epochs: .nan
micro_batch_size: 0
sequence_len: two
seed: 1.5
sample_packing: yes
optimizer: lion_8bit
lr_scheduler: cosin
load_in_4bit: true
load_in_8bit: false
flash_attention: true
wandb_project:
lr: 3
lora_r: 8
hf_token: hf_abc
weight_decay: 1e400
warmup_ratio: 1.5
gradient_accumulation_steps: 99999999999999999999999
output_dir: ~/out
unfrozen_parameters: ['model\\.layers\\.(', 'embed_tokens.weight$[:32000]', '[[:alpha:]]']
chat_template: jinja
datasets:
  - path: a.jsonl
    typ: alpaca
    learning_rate: 3
    split: test[
  - alpaca
type: alpaca
seed: 2
";
    insta::assert_snapshot!(problems(text, &[]), @r"
    2:1 error config::unknown-key unknown key `micro_batchsize`
    3:16 error config::out-of-range `learning_rate` must be above 0, found `-1`
    4:13 error config::not-finite `num_epochs` must be a finite number, found `.nan`
    5:19 error config::out-of-range `micro_batch_size` must be 1 or more, found `0`
    6:15 error config::wrong-type `sequence_len` must be a whole number, found the string `two`
    7:7 error config::wrong-type `seed` must be a whole number, found `1.5`
    8:17 error config::wrong-type `sample_packing` must be `true` or `false`, found the string `yes`
    9:12 error config::unsupported-value `optimizer: lion_8bit` is not supported
    10:15 error config::unknown-value `cosin` is not a value of `lr_scheduler`
    11:15 error config::conflict `load_in_4bit: true` without an `adapter`
    13:1 note config::no-effect `flash_attention` has no effect here
    15:1 error config::unknown-key unknown key `lr`
    16:1 error config::conflict `lora_r` without `adapter`
    17:1 error config::secret `hf_token` looks like a secret
    18:15 error config::wrong-type `weight_decay` must be a number, found the string `1e400`
    19:15 error config::out-of-range `warmup_ratio` must be from 0 to 1, found `1.5`
    20:30 error config::out-of-range `gradient_accumulation_steps` must be a number of at most 64 bits, found `1e+23`
    21:13 error config::unexpanded-path `~` is not expanded in `output_dir`
    22:23 error config::bad-pattern `model\.layers\.(` is not a regular expression
    23:16 error config::conflict `chat_template: jinja` without a template
    25:5 error config::missing-key `datasets[0].type` is missing
    26:5 error config::unknown-key unknown key `datasets[0].typ`
    27:5 error config::unknown-key unknown key `datasets[0].learning_rate`
    28:12 error config::unknown-value `test[` is no split: write it like `train`, `train[:1%]` or `train[100:200]`
    29:5 error config::wrong-type `datasets[1]` must be a mapping, found the string `alpaca`
    30:1 error config::unknown-key unknown key `type`
    31:1 error config::duplicate-key `seed` is set twice
    ");
}

#[test]
fn keys_that_ask_for_nothing_are_accepted() {
    let text = format!(
        "{MINIMAL}wandb_project:\nload_in_8bit: false\nfsdp: []\nfsdp_config:\ndeepspeed:\nspecial_tokens:\ndebug:\ndataset_prepared_path:\n"
    );
    assert_eq!(problems(&text, &[]), "");
}

#[test]
fn places_fall_back_to_what_was_written() {
    let loaded = loaded(MINIMAL, &[]);
    let of = |path: &str| loaded.source.nearest_place(path).map(|place| (place.line, place.column));
    assert_eq!(of("datasets[0].path"), Some((4, 11)));
    assert_eq!(of("datasets[0].type.config.field"), Some((5, 11)));
    assert_eq!(of("datasets[0].ds_type"), Some((4, 5)));
    assert_eq!(of("micro_batch_size"), None);
    let diagnostic = loaded.locate(Diagnostic::error("rule::X", "x"), "micro_batch_size");
    assert_eq!(diagnostic.notes, ["`micro_batch_size` is not set; its default counts (`1`)"]);
}

/// Paths of every value in a tree, as the position pass names them.
fn paths(value: &Value, path: &str, out: &mut BTreeSet<String>) {
    out.insert(path.to_owned());
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| paths(value, &join_index(path, index), out));
        }
        Value::Object(map) => map.iter().for_each(|(key, value)| paths(value, &join(path, key), out)),
        _ => {}
    }
}

fn assert_passes_agree(text: &str) {
    let (value, _) = tree::read(text).expect("valid YAML");
    let positions = Positions::of(text).expect("valid YAML");
    let mut expected = BTreeSet::new();
    paths(&value, "", &mut expected);
    assert_eq!(positions.paths().map(str::to_owned).collect::<BTreeSet<_>>(), expected, "{text}");
    for path in positions.paths() {
        let entry = positions.get(path).expect("listed");
        let line = text.lines().nth(entry.value.line - 1).unwrap_or_default();
        if let Some(key) = entry.key {
            let shown: String =
                text.lines().nth(key.line - 1).unwrap_or_default().chars().skip(key.column - 1).take(key.len).collect();
            let name = shown.trim_matches(['"', '\'']);
            assert!(path.ends_with(name) || path.contains(name), "{path}: {shown}");
        }
        assert!(entry.value.column <= line.chars().count() + 1, "{path}: {entry:?} in {line:?}");
    }
}

#[test]
fn merge_keys_are_applied_and_what_they_bring_has_its_place() {
    let text = "base_model: tiny\nlearning_rate: 1e-3\ndatasets:\n  - &one\n    path: a.jsonl\n    type: alpaca\n  - <<: *one\n    path: b.jsonl\n\
        test_datasets:\n  - <<: [{type: {name: alpaca}}, *one]\n    field: 1\n";
    let tree = tree::read(text).expect("valid").0;
    assert_eq!(tree["datasets"][1], json!({"path": "b.jsonl", "type": "alpaca"}));
    assert_eq!(tree["test_datasets"][0], json!({"path": "a.jsonl", "type": {"name": "alpaca"}, "field": 1}));
    assert_passes_agree(text);
    let loaded = loaded(&text.replace("    field: 1\n", ""), &[]);
    let of = |path: &str| loaded.source.nearest_place(path).map(|place| (place.line, place.column));
    assert_eq!(of("datasets[1].type"), Some((6, 11)), "where it was written");
    assert_eq!(of("datasets[1].path"), Some((8, 11)));
    assert_eq!(of("test_datasets[0].type.name"), Some((10, 24)));
    for text in [
        "a: &x {b: 1, c: {d: 2}}\ne: &y {<<: *x, b: 3}\nf:\n  <<: *y\n  c: 4\n",
        "<<: {a: 1}\nb: {<<: []}\n",
        "a: {<<: {}}\n",
        "a:\n  <<: &x {b: &y {c: 1}}\nd: *x\ne: *y\nf: [*x, {<<: *y}]\n",
    ] {
        assert_passes_agree(text);
    }
    assert!(problems("seed: 1\n<<: 3\n", &[]).contains("2:1 error config::merge-key"));
}

#[test]
fn the_two_passes_agree_on_every_config_of_the_repository() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("configs/") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|end| end == "yml" || end == "yaml") {
            assert_passes_agree(&std::fs::read_to_string(&path).expect("text"));
            seen += 1;
        }
    }
    assert!(seen > 0, "no config in {}", folder.display());
}

/// Trees of the kinds of values that configs have.
fn config_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e6_f64..1e6).prop_map(Value::from),
        "[a-zA-Z0-9 _./#:'\"\\-{}\\[\\]<>|*&!%@ü日]{0,12}".prop_map(Value::from),
        "[a-z ]{0,6}\n[a-z ]{0,6}\n".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z_.:]{1,10}", inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_two_passes_agree_on_generated_configs(root in prop::collection::btree_map("[a-z_]{1,12}", config_value(), 1..8)) {
        let text = serde_yaml::to_string(&root).expect("serializable");
        let value = tree::read(&text).expect("valid YAML").0;
        let positions = Positions::of(&text);
        // Where the position parser refuses what the value parser takes, messages come without carets: allowed, and rare.
        if let Ok(positions) = positions {
            let mut expected = BTreeSet::new();
            paths(&value, "", &mut expected);
            let found: BTreeSet<String> = positions.paths().map(str::to_owned).collect();
            prop_assert_eq!(found, expected, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", lines in prop::collection::vec("[ \\-a-z:\\[\\]{}&*!|>'\"#\t]{0,20}", 0..12)) {
        let _ = examined(&text, &[]);
        let _ = examined(&lines.join("\n"), &[&lines.join("=")]);
    }
}
