//! Expected values are those of `AutoTokenizer.from_pretrained` of transformers 5.24 (tokenizers 0.23.3) on the same files:
//! a byte-level tokenizer of one token a byte and the added tokens 256 to 261.

use serde_json::{Map, Value, json};

use super::*;

/// Characters that byte-level tokenizers have for the bytes 0 to 255 (`bytes_to_unicode`).
fn byte_characters() -> Vec<char> {
    let mut next = 256;
    (0..256u32)
        .map(|byte| match byte {
            33..=126 | 161..=172 | 174..=255 => char::from_u32(byte).unwrap(),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

fn tokenizer_json(post_processor: &Value) -> Value {
    let names = ["<pad>", "</s>", "<|im_start|>", "<|im_end|>", "<s>", "<unk>"];
    let mut vocab: Map<String, Value> =
        byte_characters().iter().enumerate().map(|(id, character)| (character.to_string(), id.into())).collect();
    vocab.extend(names.iter().zip(256..).map(|(name, id)| ((*name).to_owned(), id.into())));
    let added = |(name, id): (&&str, u32)| json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": post_processor,
        "added_tokens": names.iter().zip(256..).map(added).collect::<Vec<_>>(),
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    })
}

/// Puts these tokens in front of a text and behind it.
fn around(prefix: &[(&str, u32)], suffix: &[(&str, u32)]) -> Value {
    let piece = |(token, _): &(&str, u32)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let mut single: Vec<Value> = prefix.iter().map(piece).collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(suffix.iter().map(piece));
    let special: Map<String, Value> = prefix
        .iter()
        .chain(suffix)
        .map(|(token, id)| ((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(config: &Value) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let mut whole =
            json!({"eos_token": "</s>", "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"});
        let own = config.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(own);
        files.with("tokenizer.json", &tokenizer_json(&Value::Null)).with("tokenizer_config.json", &whole)
    }

    fn with(self, name: &str, value: &Value) -> Self {
        self.text(name, &value.to_string())
    }

    fn text(self, name: &str, text: &str) -> Self {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn load(&self) -> Tokenizer {
        self.load_with(&SpecialTokens::default()).unwrap()
    }

    fn load_with(&self, overrides: &SpecialTokens) -> Result<Tokenizer, TokenizerError> {
        self.load_changed(Changes { special: overrides.clone(), ..Changes::default() })
    }

    fn load_changed(&self, changes: Changes) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::load(self.0.path(), &changes)
    }
}

fn eos(token: &str) -> SpecialTokens {
    SpecialTokens { eos_token: Some(token.to_owned()), ..SpecialTokens::default() }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text).unwrap().into_iter().map(|token| token.id).collect()
}

const DECODER: &str = "added_tokens_decoder";

#[test]
fn the_map_wins_unless_the_config_lists_its_added_tokens() {
    let map = json!({"eos_token": "<|im_end|>", "bos_token": {"content": "<s>", "lstrip": false}});
    let old = Files::new(&json!({})).with("special_tokens_map.json", &map).load();
    assert_eq!((old.eos(), old.bos(), old.pad()), (Some(259), Some(260), Some(256)));
    assert_eq!(
        old.remarks(),
        [
            "`eos_token` is `<|im_end|>` in `special_tokens_map.json` and `</s>` in `tokenizer_config.json`: the first holds, as in transformers"
        ]
    );
    let new = Files::new(&json!({DECODER: {}})).with("special_tokens_map.json", &map).load();
    assert_eq!((new.eos(), new.bos()), (Some(257), None));
    assert_eq!(new.remarks().len(), 1);
    let none = Files::new(&json!({})).with("special_tokens_map.json", &json!({"eos_token": null})).load();
    assert_eq!((none.eos(), none.name("eos_token")), (None, None));
}

#[test]
fn an_override_wins_and_silences_what_the_files_disagree_about() {
    let map = json!({"eos_token": "<|im_end|>"});
    let files = Files::new(&json!({})).with("special_tokens_map.json", &map);
    let tokenizer = files.load_with(&eos("<unk>")).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.remarks().len()), (Some(261), 0));
    assert_eq!(tokenizer.changed(), [("eos_token", "<unk>".to_owned())]);
    assert!(files.load_with(&eos("<|im_end|>")).unwrap().changed().is_empty());
}

#[test]
fn an_empty_end_is_none() {
    let tokenizer = Files::new(&json!({"eos_token": ""})).load();
    assert_eq!((tokenizer.eos(), tokenizer.name("eos_token")), (None, Some("")));
}

#[test]
fn every_name_reaches_a_template_and_a_new_token_gets_the_next_id() {
    let tokenizer =
        Files::new(&json!({"pad_token": "[PAD]", "bos_token": "<|q|>", "mask_token": "<m>", "image_token": "<s>"}))
            .load();
    let expected = [
        ("bos_token", "<|q|>"),
        ("eos_token", "</s>"),
        ("image_token", "<s>"),
        ("mask_token", "<m>"),
        ("pad_token", "[PAD]"),
    ];
    assert_eq!(tokenizer.special_tokens(), expected.map(|(name, token)| (name.to_owned(), token.to_owned())).into());
    assert_eq!((tokenizer.bos(), tokenizer.pad()), (Some(262), Some(263)));
    assert_eq!(ids(&tokenizer, "<s></s><|q|>[PAD]"), [260, 257, 262, 263]);
    assert_eq!(
        tokenizer.remarks(),
        [
            "`bos_token` `<|q|>`, `pad_token` `[PAD]`, `mask_token` `<m>`: not in the vocabulary; no row of the model was trained for it"
        ]
    );
}

#[test]
fn tokens_beside_the_names_are_added_too() {
    let text = |tokenizer: &Tokenizer| ids(tokenizer, "<|q|>").len();
    for key in ["extra_special_tokens", "additional_special_tokens"] {
        assert_eq!(text(&Files::new(&json!({key: ["<|q|>", "<s>"]})).load()), 1, "{key}");
    }
    let both = json!({"additional_special_tokens": ["<|q|>"], "extra_special_tokens": ["<z>"]});
    assert_eq!(text(&Files::new(&both).load()), 5);
    let named = Files::new(&json!({"extra_special_tokens": {"image_token": "<|q|>"}})).load();
    assert_eq!((text(&named), named.name("image_token")), (1, Some("<|q|>")));
    let map = json!({"additional_special_tokens": ["<|q|>"]});
    assert_eq!(text(&Files::new(&json!({})).with("special_tokens_map.json", &map).load()), 1);
    for (key, expected) in [("extra_special_tokens", 1), ("additional_special_tokens", 5)] {
        let both = Files::new(&json!({key: ["<a>"]})).with("special_tokens_map.json", &json!({key: ["<|q|>"]}));
        assert_eq!(text(&both.load()), expected, "{key}");
    }
    assert_eq!(text(&Files::new(&json!({})).with("added_tokens.json", &json!({"<|q|>": 262})).load()), 1);
    let listed = json!({DECODER: {"262": {"content": "<|q|>", "special": true}}});
    assert_eq!(text(&Files::new(&listed).load()), 1);
}

#[test]
fn special_tokens_in_a_text_are_split_where_the_config_says_so() {
    let tokenizer = Files::new(&json!({"split_special_tokens": true})).load();
    assert_eq!(ids(&tokenizer, "</s>"), [60, 47, 115, 62]);
}

#[test]
fn a_class_has_names_of_its_own() {
    let gpt2 = Files::new(&json!({"tokenizer_class": "GPT2Tokenizer", "eos_token": null})).load();
    // Null is none; what is absent is the class's.
    assert_eq!((gpt2.eos(), gpt2.name("bos_token"), gpt2.bos()), (None, Some("<|endoftext|>"), Some(262)));
    // Byte-level files are loaded without the class.
    let llama = Files::new(&json!({"tokenizer_class": "LlamaTokenizer"})).load();
    assert_eq!(llama.bos(), None);
    let mistral = Files::new(&json!({"tokenizer_class": "GPT2Tokenizer"}));
    assert_eq!(mistral.with("config.json", &json!({"model_type": "mistral"})).load().bos(), None);
}

#[test]
fn the_post_processor_decides_what_stands_around_a_text() {
    let of = |post: &Value, more: &Value| Files::new(more).with("tokenizer.json", &tokenizer_json(post)).load();
    let two = of(&around(&[("<|im_start|>", 258), ("<s>", 260)], &[]), &json!({"bos_token": "<s>"}));
    assert_eq!(*two.affixes(), Affixes { prefix: vec![258, 260], suffix: vec![] });
    let both = around(&[("<s>", 260)], &[("</s>", 257)]);
    let off = of(&both, &json!({"bos_token": "<s>", "add_bos_token": false, "add_eos_token": true}));
    assert_eq!(*off.affixes(), Affixes { prefix: vec![260], suffix: vec![257] });
    assert_eq!(
        off.remarks(),
        [
            "`add_bos_token` is false in `tokenizer_config.json`, but the post-processor of `tokenizer.json` writes it: the post-processor holds, as in transformers 5"
        ]
    );
    let none = of(&Value::Null, &json!({"bos_token": "<s>", "add_bos_token": true}));
    assert_eq!(*none.affixes(), Affixes::default());
    assert_eq!(none.remarks().len(), 1);
    let bert = json!({"type": "BertProcessing", "sep": ["</s>", 257], "cls": ["<s>", 260]});
    assert_eq!(*of(&bert, &json!({})).affixes(), Affixes { prefix: vec![260], suffix: vec![257] });
}

#[test]
fn a_changed_end_takes_the_place_of_the_old_one() {
    for post in [
        around(&[("<s>", 260)], &[("</s>", 257)]),
        json!({"type": "BertProcessing", "sep": ["</s>", 257], "cls": ["<s>", 260]}),
    ] {
        let files = Files::new(&json!({"bos_token": "<s>"})).with("tokenizer.json", &tokenizer_json(&post));
        let tokenizer = files.load_with(&eos("<|im_end|>")).unwrap();
        assert_eq!(*tokenizer.affixes(), Affixes { prefix: vec![260], suffix: vec![259] });
        let written = tokenizer.rewritten().unwrap();
        let again = Files::new(&json!({"eos_token": "<|im_end|>"})).text("tokenizer.json", written).load();
        assert_eq!(again.affixes(), tokenizer.affixes());
        assert_eq!(files.load().rewritten(), None);
    }
    // It still begins texts.
    let one = around(&[("</s>", 257)], &[]);
    let files = Files::new(&json!({"bos_token": "</s>"})).with("tokenizer.json", &tokenizer_json(&one));
    let tokenizer = files.load_with(&eos("<|im_end|>")).unwrap();
    assert_eq!((tokenizer.affixes().prefix.as_slice(), tokenizer.rewritten()), (&[257][..], None));
}

#[test]
fn new_tokens_come_behind_the_others_and_are_in_the_file_that_is_written() {
    let files = Files::new(&json!({}));
    let tokens = ["<|think|>", "</s>", "a b", "q"].map(String::from).to_vec();
    let changes = Changes { special: eos("<|done|>"), tokens, ..Changes::default() };
    let tokenizer = files.load_changed(changes).unwrap();
    let new: Vec<(u32, &str)> = tokenizer.new_tokens().iter().map(|(id, text)| (*id, text.as_str())).collect();
    assert_eq!(new, [(262, "<|done|>"), (263, "<|think|>"), (264, "a b")]);
    let ids = |tokenizer: &Tokenizer| -> Vec<u32> {
        tokenizer.encode("a bq<|think|></s>").unwrap().iter().map(|token| token.id).collect()
    };
    assert_eq!(ids(&tokenizer), [264, tokenizer.id_of("q").unwrap(), 263, 257]);
    // The text is seen, the end is not.
    assert_eq!(tokenizer.decode(&[263, 262]).unwrap(), "<|think|>");
    let written = tokenizer.rewritten().unwrap();
    let again = Files::new(&json!({"eos_token": "<|done|>"})).text("tokenizer.json", written).load();
    assert_eq!((ids(&again), again.eos()), (ids(&tokenizer), Some(262)));
    assert_eq!(again.vocab_size(), 265);
    assert_eq!(again.new_tokens(), []);
}

#[test]
fn added_tokens_get_other_texts() {
    let decoder = json!({"259": {"content": "<|im_end|>", "special": true}});
    let files = Files::new(&json!({"added_tokens_decoder": decoder}));
    let changed = |id: u32, text: &str| {
        files.load_changed(Changes { overrides: BTreeMap::from([(id, text.to_owned())]), ..Changes::default() })
    };
    let tokenizer = changed(259, "<|tool|>").unwrap();
    assert_eq!((tokenizer.id_of("<|tool|>"), tokenizer.id_of("<|im_end|>")), (Some(259), None));
    assert_eq!(tokenizer.vocab_size(), 262);
    let again = Files::new(&json!({})).text("tokenizer.json", tokenizer.rewritten().unwrap()).load();
    assert_eq!(again.id_of("<|tool|>"), Some(259));
    assert!(matches!(changed(3, "<|tool|>"), Err(TokenizerError::NotAdded { id: 3, .. })));
    assert!(matches!(changed(9999, "<|tool|>"), Err(TokenizerError::NotAdded { id: 9999, .. })));
    assert!(matches!(changed(259, "</s>"), Err(TokenizerError::Twice { id: 259, .. })));
}

#[test]
fn what_is_put_into_texts_needs_a_row() {
    let files = Files::new(&json!({}));
    let mut tokenizer = files.load_with(&eos("<no>")).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.new_tokens()), (Some(262), &[(262, "<no>".to_owned())][..]));
    assert!(matches!(tokenizer.limit(262), Err(TokenizerError::NoRow { id: 262, .. })));
    tokenizer.limit(263).unwrap();
    let pad = SpecialTokens { pad_token: Some("[PAD]".into()), ..SpecialTokens::default() };
    let mut tokenizer = files.load_with(&pad).unwrap();
    assert_eq!(tokenizer.pad(), Some(262));
    tokenizer.limit(262).unwrap();
    assert_eq!(tokenizer.pad(), None);
    assert_eq!(
        tokenizer.encode("a[PAD]").unwrap_err().to_string(),
        "the token `[PAD]` has the id 262, but the model's embedding has 262 rows"
    );
    assert!(matches!(files.load().limit(257), Err(TokenizerError::NoRow { id: 257, .. })));
}

#[test]
fn templates_come_from_files_first_and_by_name() {
    let seen = |files: Files| -> Vec<(String, String)> { files.load().chat_templates().clone().into_iter().collect() };
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let named = json!({"chat_template": {"default": "D", "tool_use": "T"}});
    assert_eq!(seen(Files::new(&named)), [pair("default", "D"), pair("tool_use", "T")]);
    assert_eq!(seen(Files::new(&named).text("chat_template.jinja", "J")), [pair("default", "J")]);
    let list = json!({"chat_template": [{"name": "rag", "template": "R"}]});
    assert_eq!(seen(Files::new(&list)), [pair("rag", "R")]);
    let beside = Files::new(&json!({"chat_template": "X"})).text("additional_chat_templates/tool_use.jinja", "T2");
    assert_eq!(seen(beside.text("chat_template.jinja", "J")), [pair("default", "J"), pair("tool_use", "T2")]);
}

#[test]
fn what_is_wrong_in_a_file_is_named() {
    let reason = |config: Value| match Files::new(&config).load_with(&SpecialTokens::default()) {
        Err(TokenizerError::Invalid { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(json!({"eos_token": ["</s>"]})), "`eos_token` is [\"</s>\"], not a text");
    assert_eq!(reason(json!({"eos_token": false})), "`eos_token` is false, not a text");
    assert!(reason(json!({"chat_template": 1})).starts_with("`chat_template` is neither a text"));
    assert_eq!(reason(json!({DECODER: []})), "`added_tokens_decoder` is [], not an object");
    assert_eq!(
        reason(json!({DECODER: {"x": {"content": "a"}}})),
        "`added_tokens_decoder.x` is not named by a token id"
    );
    let cut = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
        "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [260], "tokens": ["<s>"]}}});
    let files = Files::new(&json!({})).with("tokenizer.json", &tokenizer_json(&cut));
    assert!(files.load_with(&SpecialTokens::default()).is_err());
}
