//! What is said where something of the hub cannot be had.

use hub::{HubError, Repository};

use super::files::NoWeights;
use crate::diagnostic::Diagnostic;

/// How to be let in.
const LOG_IN: &str = "make a token at https://huggingface.co/settings/tokens and set `HF_TOKEN`, or `hf auth login`";

/// What is said of a model with this name.
pub(super) fn failed(error: HubError, name: &str) -> Diagnostic {
    let message = error.to_string();
    let missing =
        || Diagnostic::error("model::missing", format!("there is no model directory `{name}`")).why(message.clone());
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
