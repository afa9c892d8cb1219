//! What the files beside `tokenizer.json` say: the names of the special tokens, tokens to be added, the chat templates.
//! Where several of them say something, the same one wins as for `AutoTokenizer` of transformers 5
//! (`PreTrainedTokenizerBase._from_pretrained`).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use intake::JSON_BYTES;

use super::error::{TokenizerError, read};

/// transformers' `SPECIAL_TOKENS_ATTRIBUTES`, in its order.
pub(super) const ATTRIBUTES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Bytes of a chat template.
const TEMPLATE_BYTES: u64 = 1 << 20;
/// Templates beside the main one.
const TEMPLATES: usize = 64;

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Special tokens by the name that templates have for them, in the order in which transformers adds them.
    pub(super) named: Vec<(String, String)>,
    /// `extra_special_tokens`, or `additional_special_tokens` as it was called.
    pub(super) extra: Vec<String>,
    /// Tokens that are added or changed, by their place in `added_tokens_decoder` or `added_tokens.json`.
    pub(super) added: Vec<AddedToken>,
    /// Chat templates by name; the only one is `default`.
    pub(super) templates: BTreeMap<String, String>,
    /// `add_bos_token` and `add_eos_token`, as written.
    pub(super) wanted: [Option<bool>; 2],
    /// Special tokens in a text are texts.
    pub(super) split_special_tokens: bool,
    /// Names that two files have different tokens for: name, the token that holds, its file, the other token, its file.
    pub(super) disagreements: Vec<[String; 5]>,
}

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Reads the files of a directory. `is_known` tells the ids that `tokenizer.json` has an added token for, `is_byte_level`
/// its kind.
pub(super) fn read_names(
    directory: &Path,
    is_known: impl Fn(u32) -> bool,
    is_byte_level: bool,
    overrides: &BTreeMap<u32, String>,
) -> Result<Names, TokenizerError> {
    let path = directory.join(CONFIG);
    let config = object(&path)?.unwrap_or_default();
    let mut names = Names::default();
    let invalid = |path: &Path, reason: String| TokenizerError::Invalid { path: path.to_owned(), reason };
    let defaults = class_defaults(directory, &config, is_byte_level);
    for attribute in ATTRIBUTES {
        let token = match config.get(attribute) {
            None => defaults.iter().find(|(name, _)| *name == attribute).map(|(_, token)| (*token).to_owned()),
            Some(value) => token_text(attribute, value).map_err(|reason| invalid(&path, reason))?,
        };
        names.named.extend(token.map(|token| (attribute.to_owned(), token)));
    }
    // `image_token` and the like: names of the model's own.
    for (key, value) in config.iter().filter(|(key, _)| is_own_name(key)) {
        if let Ok(Some(token)) = token_text(key, value) {
            names.named.push((key.clone(), token));
        }
    }
    let mut extra = extra_tokens(&path, &config, &mut names)?;
    if let Some(decoder) = config.get("added_tokens_decoder") {
        names.added = decoder_tokens(decoder, overrides).map_err(|reason| invalid(&path, reason))?;
        // The map is not read then; what it says differently is worth a word all the same.
        let map = object(&directory.join(MAP)).ok().flatten().unwrap_or_default();
        for attribute in ["bos_token", "eos_token"] {
            let other = map.get(attribute).and_then(|value| token_text(attribute, value).ok().flatten());
            let own = names.named.iter().find(|(name, _)| name == attribute).map(|(_, token)| token.clone());
            if let Some((own, other)) = own.zip(other).filter(|(own, other)| own != other) {
                names.disagreements.push([attribute.into(), own, CONFIG.into(), other, MAP.into()]);
            }
        }
    } else {
        // Without it the files are those of an older version, which wrote the map as well: the map wins.
        let map_path = directory.join(MAP);
        let map = object(&map_path)?.unwrap_or_default();
        for (key, value) in map.iter().filter(|(key, _)| ATTRIBUTES.contains(&key.as_str()) || is_own_name(key)) {
            let token = match token_text(key, value) {
                Ok(token) => token,
                Err(_) if is_own_name(key) => continue,
                Err(reason) => return Err(invalid(&map_path, reason)),
            };
            let of_config = names.named.iter().find(|(name, _)| name == key).map(|(_, token)| token.clone());
            if let (Some(token), Some(other)) = (&token, of_config.filter(|other| Some(other) != token.as_ref())) {
                names.disagreements.push([key.clone(), token.clone(), MAP.into(), other, CONFIG.into()]);
            }
            set(&mut names.named, key, token);
        }
        // Under its new name a list is joined to that of the config, under the old one it only stands for a missing one.
        let is_read = extra.is_empty() || map.contains_key("extra_special_tokens");
        let of_map = if is_read { extra_tokens(&map_path, &map, &mut names)? } else { Vec::new() };
        for token in of_map {
            if !extra.contains(&token) {
                extra.push(token);
            }
        }
        let special: Vec<&String> = names.named.iter().map(|(_, token)| token).chain(&extra).collect();
        let added = object(&directory.join(ADDED))?.unwrap_or_default();
        let mut by_id: Vec<(u32, &String)> = added
            .iter()
            .map(|(token, id)| (id.as_u64().and_then(|id| u32::try_from(id).ok()), token))
            .filter_map(|(id, token)| Some((id?, token)))
            .filter(|(id, _)| !is_known(*id))
            .collect();
        by_id.sort_unstable();
        names.added =
            by_id.into_iter().map(|(_, token)| AddedToken::from(token.clone(), special.contains(&token))).collect();
    }
    names.extra = extra;
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    names.wanted = [flag("add_bos_token"), flag("add_eos_token")];
    names.split_special_tokens = flag("split_special_tokens").unwrap_or(false);
    names.templates = templates(directory, &path, config.get("chat_template"))?;
    Ok(names)
}

/// Sets, replaces or removes a name; a new one comes last.
pub(super) fn set(named: &mut Vec<(String, String)>, name: &str, token: Option<String>) {
    let at = named.iter().position(|(known, _)| known == name);
    match (at, token) {
        (Some(at), Some(token)) => named[at].1 = token,
        (Some(at), None) => drop(named.remove(at)),
        (None, Some(token)) => named.push((name.to_owned(), token)),
        (None, None) => {}
    }
    // transformers adds the tokens in this order, and their ids follow it.
    named.sort_by_key(|(name, _)| ATTRIBUTES.iter().position(|known| known == name).unwrap_or(ATTRIBUTES.len()));
}

fn is_own_name(key: &str) -> bool {
    key.ends_with("_token") && !ATTRIBUTES.contains(&key)
}

/// A special token is a text or an object with its text; null is none.
fn token_text(name: &str, value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Object(object) => match object.get("content") {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            _ => Err(format!("`{name}` has no `content`")),
        },
        other => Err(format!("`{name}` is {other}, not a text")),
    }
}

/// `extra_special_tokens`: a list, or an object of names for templates. `additional_special_tokens` is its older name.
fn extra_tokens(path: &Path, config: &Map<String, Value>, names: &mut Names) -> Result<Vec<String>, TokenizerError> {
    let is_empty = |value: &&Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        value => value.is_null(),
    };
    let own = config.get("extra_special_tokens").filter(|value| !is_empty(value)).map(|v| ("extra_special_tokens", v));
    let old = config.get("additional_special_tokens").filter(|value| !is_empty(value));
    let Some((key, value)) = own.or(old.map(|value| ("additional_special_tokens", value))) else {
        return Ok(Vec::new());
    };
    let invalid = |reason: String| TokenizerError::Invalid { path: path.to_owned(), reason };
    match value {
        Value::Array(list) => {
            let texts: Result<Vec<_>, _> = list.iter().map(|value| token_text(key, value)).collect();
            Ok(texts.map_err(invalid)?.into_iter().flatten().collect())
        }
        Value::Object(object) => {
            for (name, value) in object {
                let token = token_text(name, value).map_err(invalid)?;
                set(&mut names.named, name, token);
            }
            Ok(Vec::new())
        }
        other => Err(invalid(format!("`{key}` is {other}, not a list"))),
    }
}

fn decoder_tokens(decoder: &Value, overrides: &BTreeMap<u32, String>) -> Result<Vec<AddedToken>, String> {
    let Value::Object(decoder) = decoder else {
        return Err(format!("`added_tokens_decoder` is {decoder}, not an object"));
    };
    let mut tokens = Vec::with_capacity(decoder.len());
    for (id, token) in decoder {
        let name = format!("added_tokens_decoder.{id}");
        let number: u32 = id.parse().map_err(|_| format!("`{name}` is not named by a token id"))?;
        let content = token.as_object().and_then(|token| token.get("content")).and_then(Value::as_str);
        let content = content.ok_or_else(|| format!("`{name}` has no `content`"))?;
        let content = overrides.get(&number).map_or(content, String::as_str);
        let flag = |key: &str| token.get(key).and_then(Value::as_bool);
        let made = AddedToken::from(content, flag("special").unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false));
        let made = if let Some(normalized) = flag("normalized") { made.normalized(normalized) } else { made };
        tokens.push((number, made));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// Special tokens that a tokenizer class has where the file names none: the arguments of its `__init__`. Models of the
/// type `mistral`, and byte-level ones that say `LlamaTokenizer`, are loaded without their class.
fn class_defaults(
    directory: &Path,
    config: &Map<String, Value>,
    is_byte_level: bool,
) -> &'static [(&'static str, &'static str)] {
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let defaults: &[_] = match class.strip_suffix("Fast").unwrap_or(class) {
        "LlamaTokenizer" | "CodeLlamaTokenizer" if !is_byte_level => {
            &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
        }
        "GPT2Tokenizer" => {
            &[("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")]
        }
        "Qwen2Tokenizer" => {
            &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")]
        }
        "GPTNeoXTokenizer" => &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|padding|>"),
        ],
        _ => return &[],
    };
    let model = object(&directory.join("config.json")).ok().flatten().unwrap_or_default();
    let is_mistral = model.get("model_type").and_then(Value::as_str) == Some("mistral");
    if is_mistral { &[] } else { defaults }
}

/// The templates that files of their own have, else those of the config: one text, an object of texts by name, or a list
/// of `{name, template}`.
fn templates(
    directory: &Path,
    config: &Path,
    field: Option<&Value>,
) -> Result<BTreeMap<String, String>, TokenizerError> {
    let mut templates = BTreeMap::new();
    let main = directory.join("chat_template.jinja");
    if let Some(text) = template_file(&main)? {
        templates.insert("default".to_owned(), text);
    }
    let beside = directory.join("additional_chat_templates");
    for entry in std::fs::read_dir(&beside).into_iter().flatten().flatten().take(TEMPLATES) {
        let path = entry.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(ToOwned::to_owned);
        if let (Some(name), true) = (name, path.extension().is_some_and(|extension| extension == "jinja"))
            && let Some(text) = template_file(&path)?
        {
            templates.insert(name, text);
        }
    }
    if !templates.is_empty() {
        return Ok(templates);
    }
    let invalid = || TokenizerError::Invalid {
        path: config.to_owned(),
        reason: "`chat_template` is neither a text, nor texts by name, nor a list of `{name, template}`".to_owned(),
    };
    match field {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => drop(templates.insert("default".to_owned(), text.clone())),
        Some(Value::Object(named)) => {
            for (name, text) in named {
                templates.insert(name.clone(), text.as_str().ok_or_else(invalid)?.to_owned());
            }
        }
        Some(Value::Array(list)) => {
            for named in list {
                let text = |key: &str| named.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
                let (name, template) = text("name").zip(text("template")).ok_or_else(invalid)?;
                templates.insert(name, template);
            }
        }
        Some(_) => return Err(invalid()),
    }
    Ok(templates)
}

fn template_file(path: &Path) -> Result<Option<String>, TokenizerError> {
    let Some(bytes) = read(path, TEMPLATE_BYTES)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|error| TokenizerError::Invalid { path: path.to_owned(), reason: error.to_string() })
}

/// A JSON object, or none where there is no such file.
pub(super) fn object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let Some(bytes) = read(path, JSON_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| TokenizerError::Invalid { path: path.to_owned(), reason: error.to_string() })
}
