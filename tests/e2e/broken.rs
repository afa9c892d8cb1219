//! Forty-five configs, each wrong in its own way, and what `host check` says about them: each wording is a snapshot that is read
//! like code. Numbers of rows are those of the list of wrong inputs that this program was made against.

use crate::support::{CONFIG, Project};

/// `host check` of [`CONFIG`] with lines after it.
fn more(lines: &str) -> String {
    bytes(format!("{CONFIG}{lines}"))
}

/// The same with something else instead of a part of it.
fn other(part: &str, instead: &str) -> String {
    assert!(CONFIG.contains(part), "{part}");
    bytes(CONFIG.replace(part, instead))
}

fn bytes(config: impl AsRef<[u8]>) -> String {
    let project = Project::new();
    project.write("host.yml", config);
    project.failure(&["check", "host.yml"])
}

/// Each line is a test: a name, and what was said.
macro_rules! broken {
    ($($name:ident: $said:expr;)*) => { $(
        #[test]
        fn $name() {
            insta::assert_snapshot!($said);
        }
    )* };
}

// The text itself (32, 33).
broken! {
    a_key_of_nothing: more("quantum: true\n");
    a_key_with_a_typing_mistake: other("sequence_len", "sequence_length");
    a_key_set_twice: more("seed: 1\nadapter:\nseed: 2\n");
    a_key_twice_inside_a_dataset: other("    type: alpaca", "    type: alpaca\n    path: other.jsonl");
    an_entry_that_is_indented_wrongly: other("    type: alpaca", "      type: alpaca");
    a_key_that_slid_into_a_dataset: other("sequence_len: 128", "    sequence_len: 128");
    a_tab_in_front_of_a_key: other("    type", "\ttype");
    a_nul_in_a_value: other("alpaca", "alp\0aca");
    utf_16_with_a_mark: bytes([&b"\xff\xfe"[..], &CONFIG.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()].concat());
    latin_1: bytes([CONFIG.as_bytes(), b"wandb_name: caf\xe9\n"].concat());
    a_mark_and_line_ends_of_windows_do_not_move_the_caret: bytes(format!("\u{feff}{CONFIG}sede: 1\n").replace('\n', "\r\n"));
    nothing_but_a_comment: bytes("# to be written\n");
    a_list_instead_of_keys: bytes("- base_model: model\n- adapter: lora\n");
    a_second_document: more("---\nseed: 1\n");
    a_merge_key_of_something_that_is_no_mapping: more("<<: [1]\n");
    an_alias_of_nothing: more("special_tokens: *mine\n");
    an_alias_bomb: more(&alias_bomb());
    brackets_without_end: more(&format!("rules: {}\n", "[".repeat(2000)));
    a_quote_without_end: other("alpaca", "\"alpaca");
}

fn alias_bomb() -> String {
    let mut text = "special_tokens:\n  a0: &a0 [x]\n".to_owned();
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 9].join(", ");
        text += &format!("  a{level}: &a{level} [{inner}]\n");
    }
    text
}

// Values (34).
broken! {
    numbers_that_are_none: other("learning_rate: 1e-3", "learning_rate: .nan\nweight_decay: .inf\nadam_epsilon: 1e400");
    numbers_out_of_range: other("micro_batch_size: 4", "micro_batch_size: 0\nweight_decay: -0.1\nwarmup_ratio: 1.5\nadam_beta2: 1.0");
    a_batch_that_overflows: other("micro_batch_size: 4", "micro_batch_size: 4294967295\ngradient_accumulation_steps: 4294967295");
    a_whole_number_with_a_fraction: other("max_steps: 4", "max_steps: 4.5");
    a_number_in_quotes: other("learning_rate: 1e-3", "learning_rate: \"1e-3\"");
    yes_for_true: more("sample_packing: yes\ntrain_on_inputs: \"off\"\n");
    words_that_are_not_on_the_list: more("optimizer: lion9000\nlr_scheduler: cosin\nsave_strategy: worst\n");
    a_list_where_a_number_belongs: other("sequence_len: 128", "sequence_len: [128]");
    a_pattern_that_is_no_regular_expression: more("unfrozen_parameters: ['model.layers.(1']\n");
}

// What does not go together (35).
broken! {
    ranks_without_an_adapter: more("lora_r: 8\nlora_alpha: 16\n");
    an_adapter_without_its_keys: more("adapter: lora\nlora_target_modules: [q_proj, w_proj]\n");
    two_evaluations_two_warm_ups_two_cadences: more(
        "val_set_size: 4\ntest_datasets:\n  - {path: eval.jsonl, type: alpaca}\nwarmup_steps: 1\nwarmup_ratio: 0.1\nsave_steps: 2\nsave_strategy: epoch\n"
    );
    a_frozen_part_and_the_reentrant_kind: more(
        "unfrozen_parameters: ['model\\.layers\\.1\\.']\ngradient_checkpointing: true\ngradient_checkpointing_kwargs: {use_reentrant: true}\n"
    );
    parameters_and_tokens_that_the_model_does_not_have: more("unfrozen_parameters: ['^model.layer.1']\neot_tokens: ['<|im_end|>']\n");
    longer_than_the_model_reads: other("sequence_len: 128", "sequence_len: 4096");
    a_warm_up_longer_than_the_run: more("warmup_steps: 40\n");
    plugins_that_nobody_has: other("type: alpaca", "type: {name: \"acme:dialogue\", config: {field: turns}}\n    row_filters: [curat]");
    a_plugin_that_is_asked_for_what_it_does_not_know: other("type: alpaca", "type: {name: alpaca, config: {field_instruction: 7, colour: red}}");
    a_pin_that_does_not_hold: more("plugins:\n  - {name: alpaca, sha256: \"00\", limits: {memory_mb: 0}}\n");
}

// Other trainers' keys (36).
broken! {
    keys_of_axolotl_that_are_not_here: more(
        "load_in_4bit: true\nskip_prepare_dataset: true\ndeepspeed: zero3.json\nflash_attention: true\nwandb_project: mine\nplugins: [axolotl.integrations.liger.LigerPlugin]\n"
    );
    keys_of_the_trainer_of_transformers: more("per_device_train_batch_size: 2\nnum_train_epochs: 3\nwarmup_steps: 1\nmax_seq_length: 64\n");
    a_model_of_the_hub: other("base_model: model", "base_model: meta-llama/Llama-3.2-1B");
}

// Paths and secrets (37, 38).
broken! {
    a_path_that_a_shell_would_expand: other("output_dir: out", "output_dir: $HOME/out");
    the_output_is_the_model: other("output_dir: out", "output_dir: model");
    the_data_is_not_there: other("train.jsonl", "../data/train.jsonl");
    a_secret: more("hf_token: hf_abcdefghijklmnop\nwandb_api_key: \"0123456789\"\n");
}
