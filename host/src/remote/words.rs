//! What is said where something of the hub cannot be had.

use hub::{HubError, Kind, Repository};

use super::choice::Unchosen;
use super::files::NoWeights;
use crate::config::nearest;
use crate::diagnostic::Diagnostic;

/// Names that a message lists; the others are counted.
const NAMED: usize = 12;

/// How to be let in.
const LOG_IN: &str = "make a token at https://huggingface.co/settings/tokens and set `HF_TOKEN`, or `hf auth login`";

/// What is said of a repository that cannot be had.
pub(super) fn failed(error: HubError, repository: &Repository) -> Diagnostic {
    let message = error.to_string();
    let missing = || {
        let (code, what) = match repository.kind() {
            Kind::Model => ("model::missing", "model directory"),
            Kind::Dataset => ("data::missing-file", "file or directory"),
        };
        Diagnostic::error(code, format!("there is no {what} `{repository}`")).why(message.clone())
    };
    let of_hub = |code: &str| Diagnostic::error(code, message.clone());
    match error {
        HubError::Offline { .. } => missing().help("fetch it once without `HF_HUB_OFFLINE`, or name a directory"),
        HubError::Unreachable { .. } => {
            missing().help("see to the network (`HF_ENDPOINT` names another hub), or name a directory")
        }
        HubError::NoRepository { page, has_token, .. } => {
            let private = if has_token { "the token must be allowed to read it" } else { LOG_IN };
            missing().help(format!("see that {page} is the page that is meant; if it is private: {private}"))
        }
        HubError::NoRevision { page, .. } => {
            of_hub("hub::revision").help(format!("branches and tags are at {page}/tree/main"))
        }
        HubError::Revision { .. } => of_hub("hub::revision").help("write a branch, a tag or a commit, such as `main`"),
        HubError::Gated { page, has_token: true, .. } => {
            of_hub("hub::gated").help(format!("ask for access at {page}, with the account that the token is of"))
        }
        HubError::Gated { page, .. } => of_hub("hub::gated").help(format!("ask for access at {page}; then {LOG_IN}")),
        HubError::Token { .. } => of_hub("hub::token").help(LOG_IN),
        HubError::TooMany { .. } => of_hub("hub::busy").help("wait some minutes; with a token there is more room"),
        HubError::Room { .. } => of_hub("hub::room").help("make room, or set `HF_HUB_CACHE` to a larger disk"),
        HubError::Corrupt { .. } => {
            of_hub("hub::corrupt").help("try again; what had arrived of it has been thrown away where it was wrong")
        }
        HubError::Setting { name, .. } => {
            of_hub("hub::setting").help(format!("set `{name}` to another value, or unset it"))
        }
        HubError::Cache { .. } => of_hub("hub::cache").help("`HF_HUB_CACHE` names another place"),
        HubError::NoFile { .. } | HubError::Status { .. } | HubError::Invalid { .. } => {
            of_hub("hub::answer").help("try again later; `HF_ENDPOINT` says which hub is asked")
        }
    }
}

/// What is said of a repository without weights that can be used.
pub(super) fn no_weights(repository: &Repository, page: &str, missing: NoWeights) -> Diagnostic {
    match missing {
        NoWeights::Index(error) => error.into(),
        NoWeights::Pickled(file) => {
            let message =
                format!("`{repository}` has its weights in a pickle file (`{file}`); only safetensors are read");
            Diagnostic::error("model::pickle", message).why("a pickle file can run code when it is read").help(format!(
                "see {page}/tree/main for a revision with safetensors, or convert it and name the directory"
            ))
        }
        NoWeights::None => {
            let message = format!("`{repository}` has neither `model.safetensors` nor `model.safetensors.index.json`");
            Diagnostic::error("model::weights", message).help(format!("see {page}/tree/main for what it has"))
        }
    }
}

/// What is said of a card that cannot be read.
pub(super) fn bad_card(repository: &Repository, page: &str, reason: String) -> Diagnostic {
    let message = format!("the card of `{repository}` does not say which files are meant");
    let help = format!("see {page}; `revision` names another state of it");
    Diagnostic::error("hub::card", message).why(reason).help(help)
}

/// What is said without a network of files that are not in the cache.
pub(super) fn not_cached(repository: &Repository, files: &[String]) -> Diagnostic {
    let count = if files.len() == 1 { "1 file".to_owned() } else { format!("{} files", files.len()) };
    let message = format!("{count} of `{repository}` cannot be fetched: `HF_HUB_OFFLINE` is set");
    let why = format!("not in the cache: {}", listed(files));
    Diagnostic::error("data::missing-file", message).why(why).help("fetch it once without `HF_HUB_OFFLINE`")
}

/// What is said of a dataset that is a script.
pub(super) fn script(repository: &Repository, script: &str, converted: &str) -> Diagnostic {
    let message = format!("`{repository}` has a script in place of files with rows (`{script}`)");
    let help = format!(
        "write `revision: {converted}`: there the hub keeps what it made of many scripts; or name `data_files`"
    );
    Diagnostic::error("hub::script", message).why("code of a dataset is never run").help(help)
}

/// What is said of files that are meant and not read.
pub(super) fn left_out(repository: &Repository, files: &[String]) -> Option<Diagnostic> {
    let count = if files.len() == 1 { "1 file is".to_owned() } else { format!("{} files are", files.len()) };
    let message = format!("of `{repository}`, {count} not read: {}", listed(files));
    let why =
        "the loader of a dataset reads files of one format, that of most of them; packed ones only as `.gz` and `.zst`";
    let help = "name another with `ds_type`, or the files that are meant with `data_files`";
    (!files.is_empty()).then(|| Diagnostic::warning("hub::left-out", message).why(why).help(help))
}

/// What is said where no files can be chosen, and the key that it is about.
pub(super) fn unchosen(unchosen: Unchosen, repository: &Repository, page: &str) -> (&'static str, Diagnostic) {
    let of = |code: &str, message: String| Diagnostic::error(code, message);
    let closest = |wrong: &str, there: &[String]| {
        let name = nearest(wrong, there.iter().map(String::as_str)).or(there.first().map(String::as_str));
        name.map(ToOwned::to_owned)
    };
    let files = format!("its files are at {page}/tree/main");
    match unchosen {
        Unchosen::NoSubset { name, there } => {
            let diagnostic = of("hub::config", format!("`{repository}` has no config `{name}`"));
            let help = closest(&name, &there).map_or(files, |name| format!("write `name: {name}`"));
            ("name", diagnostic.why(format!("it has {}", listed(&there))).help(help))
        }
        Unchosen::Which { there } => {
            let message = format!("`{repository}` has several configs, and none of them is the default");
            let help = there.first().map_or(files, |name| format!("name one: `name: {name}`"));
            ("path", of("hub::config", message).why(format!("they are {}", listed(&there))).help(help))
        }
        Unchosen::TwoDefaults { first, second } => {
            let message = format!("`{repository}` has two default configs, `{first}` and `{second}`");
            ("path", of("hub::config", message).help(format!("name one: `name: {first}`")))
        }
        Unchosen::NoSplit { subset, split, there } => {
            let diagnostic = of("hub::split", format!("`{repository}` has no split `{split}`"));
            if there.is_empty() {
                return ("split", diagnostic.why(format!("its config `{subset}` has no files")).help(files));
            }
            let help = closest(&split, &there).map_or(files, |name| format!("write `split: {name}`"));
            ("split", diagnostic.why(format!("its config `{subset}` has {}", listed(&there))).help(help))
        }
        Unchosen::SplitName { split } => {
            let message = format!("files of `{repository}` are of a split `{split}`, which is no name of one");
            let help = format!("name the files: `data_files: 'data/{split}-*'`");
            ("path", of("hub::split", message).why("a name has letters, digits and `_`").help(help))
        }
        Unchosen::Pattern { pattern, reason } => {
            let message = format!("the pattern `{pattern}` of files of `{repository}` {reason}");
            ("data_files", of("hub::pattern", message).help(format!("name files with `data_files`; {files}")))
        }
        Unchosen::NoFile { file } => {
            ("data_files", of("hub::files", format!("`{repository}` has no file `{file}`")).help(files))
        }
        Unchosen::NoFiles { split, patterns } => {
            let message = format!("`{repository}` has no file of the split `{split}`");
            let why = format!("they would be called {}", listed(&patterns));
            ("data_files", of("hub::files", message).why(why).help(files))
        }
        Unchosen::TooMany { limit, what } => {
            let message = format!("`{repository}` has more than {limit} {what} for this entry");
            ("data_files", of("hub::files", message).help("name fewer with `data_files`"))
        }
        Unchosen::NoRows { split, there } => {
            let message = format!("`{repository}` has no file with rows that can be read in the split `{split}`");
            let why = "read are .parquet, .arrow, .jsonl, .json, .csv, .tsv and .txt, also packed as .gz or .zst";
            let there = format!("it has {}", listed(&there));
            ("path", of("hub::files", message).why(why).note(there).help(files))
        }
    }
}

/// The first of many names, each in backticks.
fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    shown.join(", ") + &more
}
