//! `host check --fix`: the certain edits of findings, made in the config's text. In come the findings of a check, out
//! comes the new text, with what it mends and what it has to leave alone.

use crate::checkpoint::directory::replace_file;
use crate::config::{Choice as _, ConfigSource, FILE_LIMIT, LrScheduler, edit, is_within};
use crate::diagnostic::{Diagnostic, Edit, Failure};

/// Keys that an edit of a rule may change, which is a stranger's: numbers, switches and words of the trainer's own. None of
/// them names a file, a model, or a plugin.
const OPEN: &[&str] = &[
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "adapter",
    "batch_size",
    "bf16",
    "cosine_min_lr_ratio",
    "default_system_message",
    "eot_tokens",
    "eval_batch_size",
    "eval_max_new_tokens",
    "eval_sample_packing",
    "eval_steps",
    "eval_strategy",
    "evals_per_epoch",
    "excess_length_strategy",
    "float32",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "learning_rate",
    "logging_steps",
    "lora_alpha",
    "lora_alpha_pattern",
    "lora_dropout",
    "lora_fan_in_fan_out",
    "lora_r",
    "lora_rank_pattern",
    "lora_target_linear",
    "lora_target_modules",
    "loss_watchdog_patience",
    "loss_watchdog_threshold",
    "lr_scheduler",
    "max_grad_norm",
    "max_steps",
    "micro_batch_size",
    "num_epochs",
    "num_generation_samples",
    "optimizer",
    "peft_layers_to_transform",
    "peft_use_dora",
    "peft_use_rslora",
    "sample_packing",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "saves_per_epoch",
    "seed",
    "sequence_len",
    "shuffle_merged_datasets",
    "tf32",
    "train_on_inputs",
    "unfrozen_parameters",
    "val_set_size",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
];

/// True for an edit that a rule may make.
fn is_open(edit: &Edit) -> bool {
    let path = edit.path();
    let key = path.split(['.', '[']).next().unwrap_or(path);
    let names_plugin = key == "lr_scheduler"
        && matches!(edit, Edit::Set { value, .. } if LrScheduler::parse(value.trim_matches(['"', '\''])).is_none());
    // What a model is told is no business of a rule.
    let says = key == "default_system_message" && matches!(edit, Edit::Set { .. });
    OPEN.contains(&key) && !names_plugin && !says
}

/// What `--fix` would do.
#[derive(Debug)]
pub struct Fixes {
    /// The config with every edit made.
    pub text: String,
    /// Findings that this mends, by their index.
    pub mended: Vec<usize>,
    /// Findings that have edits and stay, each with the reason.
    pub left: Vec<(usize, String)>,
}

impl Fixes {
    /// True if a rule wants some of it.
    pub fn is_of_rule(&self, found: &[Diagnostic]) -> bool {
        self.mended.iter().any(|&index| found[index].code.starts_with("rule::"))
    }

    /// What changes, as lines that go and lines that come.
    pub fn difference(&self, source: &ConfigSource) -> String {
        let (old, new): (Vec<&str>, Vec<&str>) = (source.text.lines().collect(), self.text.lines().collect());
        let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(old, new)| old == new).count();
        let start = same(&mut old.iter().zip(&new));
        let end = same(&mut old[start..].iter().rev().zip(new[start..].iter().rev()));
        let gone = old[start..old.len() - end].iter().map(|line| format!("- {line}\n"));
        let come = new[start..new.len() - end].iter().map(|line| format!("+ {line}\n"));
        gone.chain(come).collect()
    }

    /// Makes the edits of all findings, in their order. All edits of a finding are made, or none; where two findings
    /// want to change one thing, the first one has its way.
    pub fn new(source: &ConfigSource, found: &[Diagnostic]) -> Self {
        let mut fixes = Self { text: source.text.clone(), mended: Vec::new(), left: Vec::new() };
        let mut changed: Vec<String> = Vec::new();
        for (index, finding) in found.iter().enumerate().filter(|(_, finding)| !finding.fix.is_empty()) {
            match edited(source, &fixes.text, finding, &changed) {
                Ok(text) => {
                    fixes.text = text;
                    fixes.mended.push(index);
                    changed.extend(finding.fix.iter().map(affected));
                }
                Err(reason) => fixes.left.push((index, reason)),
            }
        }
        fixes
    }
}

/// The text with all edits of a finding, or why it has to stay as it is.
fn edited(source: &ConfigSource, text: &str, finding: &Diagnostic, changed: &[String]) -> Result<String, String> {
    let is_rule = finding.code.starts_with("rule::");
    let mut text = text.to_owned();
    for wanted in &finding.fix {
        let path = wanted.path();
        if is_rule && !is_open(wanted) {
            return Err(format!("a rule may not change `{path}`: only what names no file, model or plugin"));
        }
        if source.is_overridden(path) {
            return Err(format!("`{path}` comes from `--set`, not from the file"));
        }
        let affected = affected(wanted);
        if changed.iter().any(|other| is_within(&affected, other) || is_within(other, &affected)) {
            return Err(format!("another fix changes `{path}`"));
        }
        text = edit(&text, wanted).map_err(|error| format!("{error}; it has to be mended by hand"))?;
    }
    Ok(text)
}

/// The path whose meaning an edit changes: without an entry, the whole list counts differently.
fn affected(edit: &Edit) -> String {
    let path = edit.path();
    match (edit, path.strip_suffix(']').and_then(|rest| rest.rsplit_once('['))) {
        (Edit::Remove { .. }, Some((list, _))) => list.to_owned(),
        _ => path.to_owned(),
    }
}

/// Puts the new text into the config file, which must still be the one that was read. A link stays a link.
pub fn write(source: &ConfigSource, text: &str) -> Result<(), Failure> {
    const MARK: &str = "\u{feff}";
    let shown = source.path.display();
    let unwritable = |why: String| {
        Diagnostic::error("config::unwritable", format!("the config `{shown}` cannot be changed"))
            .why(why)
            .note("nothing was written")
    };
    let io = |error: std::io::Error| unwritable(error.to_string());
    let target = source.path.canonicalize().map_err(io)?;
    let metadata = target.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(unwritable("it is not a regular file".to_owned()).into());
    }
    if metadata.permissions().readonly() {
        return Err(unwritable("it is read-only".to_owned()).into());
    }
    let old = intake::read_text(&target, FILE_LIMIT).map_err(io)?;
    let mark = if old.starts_with(MARK) { MARK } else { "" };
    if old[mark.len()..] != source.text {
        return Err(unwritable("it was changed by someone else in the meantime".to_owned())
            .help("run the command again")
            .into());
    }
    replace_file(&target, format!("{mark}{text}").as_bytes()).map_err(|error| unwritable(error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::examine;

    const TEXT: &str =
        "# mine\nplugins:\n  - {name: \"acme:x\", sha256: \"00\"}\nrules: [\"acme:x\"]\nlora_r: 8 # rank\n";

    fn finding(code: &str, path: &str) -> Diagnostic {
        Diagnostic::error(code, "wrong").fix(Edit::Set { path: path.to_owned(), value: "1".to_owned() })
    }

    #[test]
    fn a_rule_cannot_reach_files_and_plugins() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("host.yml");
        std::fs::write(&path, TEXT).expect("write");
        let source = examine(&path, &[]).loaded.expect("a config, with problems").source;
        let shut = [
            "plugins",
            "plugins[0].sha256",
            "plugins[0].grants",
            "rules",
            "rules[0]",
            "datasets[0].path",
            "output_dir",
            "base_model",
            "lora_model_dir",
            "eval_reward_funcs",
            "chat_template_jinja",
            "lr_scheduler",
        ];
        for path in shut {
            let found = [finding("rule::X", path)];
            let fixes = Fixes::new(&source, &found);
            assert_eq!((fixes.text.as_str(), fixes.mended.len(), fixes.left.len()), (TEXT, 0, 1), "{path}");
            assert!(fixes.left[0].1.contains("no file, model or plugin"), "{}", fixes.left[0].1);
        }
        let found = [finding("rule::X", "lora_r"), finding("config::unknown-value", "plugins[0].sha256")];
        let fixes = Fixes::new(&source, &found);
        assert_eq!(fixes.text, TEXT.replace("lora_r: 8", "lora_r: 1").replace("\"00\"", "1"));
        assert!(fixes.is_of_rule(&found));
        let difference = fixes.difference(&source);
        assert!(
            difference.contains("- lora_r: 8 # rank\n+ ") && difference.ends_with("+ lora_r: 1 # rank\n"),
            "{difference}"
        );
    }
}
