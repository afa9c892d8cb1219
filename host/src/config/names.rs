//! The nearest of a list of names, for "did you mean".

/// The name closest to `wrong`, if one is close enough to be what was meant.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    names
        .into_iter()
        // Names of a stranger's file may be megabytes, which are never near and take time to compare.
        .filter(|name| name.len() / 8 <= wrong.len())
        .map(|name| (strsim::normalized_damerau_levenshtein(&wrong, &name.to_lowercase()), name))
        .filter(|(closeness, _)| *closeness >= 0.65)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// The same where it can be nothing else: at most two typing mistakes away, and no other name as near.
pub(super) fn certain<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    const MISTAKES: usize = 2;
    let wrong = wrong.to_lowercase();
    let mistakes = |name: &str| strsim::damerau_levenshtein(&wrong, &name.to_lowercase());
    let name = nearest(&wrong, names.clone())?;
    let least = mistakes(name);
    let is_alone = names.into_iter().all(|other| other == name || mistakes(other) > least);
    (least <= MISTAKES && is_alone).then_some(name)
}

/// `a`, `b` or `c`, each in backticks.
pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_find_their_name_and_other_words_do_not() {
        let names = ["micro_batch_size", "eval_batch_size", "batch_size", "learning_rate", "seed"];
        assert_eq!(nearest("micro_batchsize", names), Some("micro_batch_size"));
        assert_eq!(nearest("Learning_Rate", names), Some("learning_rate"));
        assert_eq!(nearest("sede", names), Some("seed"));
        assert_eq!(nearest("wandb", names), None);
        // In time that does not go by its length times that of the wrong one.
        assert_eq!(nearest(&"x".repeat(1000), [&*"x".repeat(20 << 20)]), None);
    }

    #[test]
    fn a_name_is_certain_only_where_no_other_could_be_meant() {
        let names = ["bf16", "fp16", "learning_rate", "lora_alpha", "eval_steps", "eval_size"];
        assert_eq!(certain("lerning_rate", names), Some("learning_rate"));
        assert_eq!(certain("eval_step", names), Some("eval_steps"));
        assert_eq!(certain("f16", names), None, "one letter from two names");
        assert_eq!((nearest("lora_alphabet", names), certain("lora_alphabet", names)), (Some("lora_alpha"), None));
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(one_of(["a"]), "`a`");
        assert_eq!(one_of(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
