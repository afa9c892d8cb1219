use serde_json::json;

use super::*;

fn strategy(config: Value) -> PreferencePairs {
    PreferencePairs::new(serde_json::from_value(config).unwrap()).unwrap()
}

fn render(config: Value, row: Value) -> Result<Sample, RowError> {
    let Value::Object(row) = row else { panic!("a row is an object") };
    Ok(strategy(config).render(row)?.unwrap())
}

/// A text as the model sees it: conversations through `chatml`, whose last turn is open where the answer is to come.
fn written(text: &Text, is_prompt: bool) -> String {
    match text {
        Text::Segments(segments) => {
            assert!(segments.iter().all(|segment| segment.train != is_prompt));
            segments.iter().map(|segment| segment.text.as_str()).collect()
        }
        Text::Conversation(conversation) => {
            assert!(conversation.messages.iter().all(|message| message.train == Some(!is_prompt)));
            if let ([answer], false) = (conversation.messages.as_slice(), is_prompt) {
                assert_eq!(answer.role, "assistant");
                return format!("{}<|im_end|>", answer.content);
            }
            let turns = conversation.messages.iter();
            let turns = turns.map(|turn| format!("<|im_start|>{}\n{}<|im_end|>\n", turn.role, turn.content));
            turns.collect::<String>() + "<|im_start|>assistant\n"
        }
    }
}

/// The config of an Axolotl type: its own by name, or the inline shape, with the keys of the dataset over it.
fn config_of(names: &Value, case: &Value) -> Value {
    let method = &case["method"];
    let mut config = match &case["type"] {
        Value::Object(shape) => {
            let mut config = Value::Object(shape.clone());
            if method == "kto" {
                config["unpaired"] = true.into();
            }
            config
        }
        name => {
            let mut entries = names.as_array().unwrap().iter();
            let entry = entries.find(|entry| entry["method"] == *method && entry["type"] == *name);
            entry.unwrap_or_else(|| panic!("{method} {name}"))["config"].clone()
        }
    };
    for (key, value) in case["dataset"].as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

#[test]
fn every_type_of_axolotl_writes_what_axolotl_writes() {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let names = read(include_str!("../axolotl.json"));
    let fixture = read(include_str!("../../../tests/fixtures/strategies/cases.json"));
    // Rows that only one of the two takes.
    let mut beyond = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let sample = render(config_of(&names, case), case["row"].clone());
        if case.get("fails").is_some() {
            beyond.extend(sample.is_ok().then(|| case["type"].to_string()));
            continue;
        }
        // A conversation that ends in a question: Axolotl trains on that as the answer.
        if sample.as_ref().is_err_and(|error| error.message.ends_with("it has 1 of 2 messages")) {
            beyond.push(case["row"].to_string());
            continue;
        }
        match sample.unwrap_or_else(|error| panic!("{case}: {}", error.message)) {
            Sample::Preference(Preference { prompt, chosen, rejected }) if case.get("messages").is_some() => {
                let all = |answer: &Text| {
                    let (Text::Conversation(before), Text::Conversation(answer)) = (&prompt, answer) else { panic!() };
                    let turns = before.messages.iter().chain(&answer.messages);
                    turns.map(|turn| json!({"role": turn.role, "content": turn.content})).collect::<Vec<_>>()
                };
                assert_eq!(json!([all(&chosen), all(&rejected)]), case["messages"], "{case}");
            }
            Sample::Preference(Preference { prompt, chosen, rejected }) => {
                // What a template writes after the end of a turn is the host's.
                let is_chat = matches!(chosen, Text::Conversation(_));
                let wanted = |key: &str| {
                    let text = case[key].as_str().unwrap();
                    if is_chat { text.trim_end().to_owned() } else { text.to_owned() }
                };
                assert_eq!(written(&prompt, true), case["prompt"].as_str().unwrap(), "{case}");
                assert_eq!(written(&chosen, false), wanted("chosen"), "{case}");
                assert_eq!(written(&rejected, false), wanted("rejected"), "{case}");
            }
            Sample::Unpaired(Unpaired { prompt, completion, desirable }) => {
                let found = (written(&prompt, true), written(&completion, false), desirable);
                let wanted = |key: &str| case[key].as_str().unwrap().to_owned();
                assert_eq!(found, (wanted("prompt"), wanted("completion"), case["label"].as_bool().unwrap()), "{case}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Beside that one: a system message within a conversation (ORPO), and `{system}` in KTO without one.
    assert_eq!(beyond.len(), 3, "{beyond:?}");
}

#[test]
fn any_columns_go_with_any_format() {
    let row = json!({"q": "2+2?", "good": "4", "bad": "5", "system": "Count."});
    let names = json!({"field_prompt": "q", "field_chosen": "good", "field_rejected": "bad"});
    let with = |format: &str| {
        let mut config = names.clone();
        config["format"] = format.into();
        let Sample::Preference(pair) = render(config, row.clone()).unwrap() else { panic!() };
        (written(&pair.prompt, true), written(&pair.chosen, false))
    };
    assert_eq!(with("plain"), ("2+2?".to_owned(), "4".to_owned()));
    assert_eq!(with("zephyr").0, "<|system|>\nCount.</s>\n<|user|>\n2+2?</s>\n<|assistant|>\n");
    assert_eq!(with("chat_template"), with("chatml"));
    let talk = json!({"prompt": [{"content": "a"}, {"content": "b"}, {"content": "c"}], "completion": "d", "label": 1});
    let Sample::Unpaired(one) = render(json!({"format": "chat_template", "unpaired": true}), talk).unwrap() else {
        panic!()
    };
    assert!(one.desirable);
    let prompt = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(written(&one.prompt, true), prompt);
}

#[test]
fn the_first_of_ranked_answers_is_chosen() {
    let row = json!({"prompt": "q", "answers": [{"answer": "b", "rank": 2}, {"answer": "c", "rank": 3}, {"answer": "a", "rank": 1}]});
    let answers = |best: Value| {
        let Sample::Preference(pair) = render(best, row.clone()).unwrap() else { panic!() };
        [written(&pair.chosen, false), written(&pair.rejected, false)]
    };
    assert_eq!(answers(json!({"field_answers": "answers"})), ["a", "b"]);
    assert_eq!(answers(json!({"field_answers": "answers", "best_rank": "highest"})), ["c", "b"]);
}

#[test]
fn a_question_of_the_row_replaces_none_of_several() {
    let say = |role: &str, content: &str| json!({"role": role, "content": content});
    let talk = |last: &str| json!([say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", last)]);
    let row = json!({"prompt": "P", "chosen": talk("d"), "rejected": talk("e")});
    let Sample::Preference(pair) = render(json!({"format": "chatml", "prompt_in_answers": true}), row).unwrap() else {
        panic!()
    };
    assert!(!written(&pair.prompt, true).contains('P'));
}

#[test]
fn a_column_may_have_the_look_of_a_way() {
    let row = json!({"a.b": "x", "a": {"b": "y"}, "chosen": {"text": ["c"]}, "rejected": "r"});
    let config = json!({"field_prompt": "a.b", "field_chosen": "chosen.text[-1]"});
    let Sample::Preference(pair) = render(config, row).unwrap() else { panic!() };
    assert_eq!((written(&pair.prompt, true), written(&pair.chosen, false)), ("x".to_owned(), "c".to_owned()));
}

#[test]
fn bad_rows_name_the_column() {
    let told = |config: Value, row: Value| {
        let RowError { message, field } = render(config, row).unwrap_err();
        format!("{}: {message}", field.unwrap())
    };
    let pair = |key: &str, value: Value| {
        let mut row = json!({"prompt": "p", "chosen": "c", "rejected": "r"});
        row[key] = value;
        row
    };
    let plain = || json!({});
    assert_eq!(told(plain(), json!({"prompt": "p"})), "chosen: the row has no `chosen`; it has prompt");
    assert_eq!(
        told(plain(), json!({"prompt": "p", "chosen": "c"})),
        "rejected: the row has no `rejected`; it has prompt, chosen"
    );
    assert_eq!(
        told(plain(), pair("rejected", Value::Null)),
        "rejected: `rejected` is null (as `NaN` is read too), where a text belongs"
    );
    assert_eq!(told(plain(), pair("chosen", json!(4))), "chosen: `chosen` must be a text, found a number");
    assert_eq!(told(plain(), pair("rejected", json!(""))), "rejected: `rejected` is empty, so there is no answer");
    assert_eq!(told(plain(), pair("prompt", json!(""))), "prompt: `prompt` is empty");
    assert_eq!(
        told(plain(), pair("chosen", json!([{"role": "assistant", "content": "c"}]))),
        "chosen: `chosen` must be a text, found a list; messages are for `format: chat_template`"
    );
    let chat = || json!({"format": "chat_template"});
    assert_eq!(told(chat(), pair("chosen", json!([]))), "chosen: `chosen` is an empty list");
    assert_eq!(
        told(chat(), pair("chosen", json!([{"role": "user", "content": "c"}]))),
        "chosen: `chosen`, message 1: it is of `user`, where the assistant's answer belongs"
    );
    assert_eq!(
        told(chat(), pair("prompt", json!([{"role": "human", "content": "c"}]))),
        "prompt: `prompt`, message 1: the role `human` is not known; map it with `roles`: `roles: {user: [human]}`"
    );
    assert_eq!(told(chat(), pair("prompt", json!(["x"]))), "prompt: `prompt`, message 1: it is a text, not an object");
    assert_eq!(
        told(json!({"format": "chatml", "field_chosen": "chosen[1].content"}), pair("chosen", json!([1]))),
        "chosen: `chosen` has 1 entry, and no `[1]`"
    );
    let whole = json!({"format": "chat_template", "prompt_in_answers": true});
    assert_eq!(
        told(whole.clone(), pair("chosen", json!("c"))),
        "chosen: `chosen` must be a list of messages, found a text"
    );
    assert_eq!(
        told(whole, pair("chosen", json!([{"content": "c"}]))),
        "chosen: `chosen` must be a prompt and an answer; it has 1 of 2 messages"
    );
    let kto = || json!({"unpaired": true});
    let one = |label: Value| json!({"prompt": "p", "completion": "c", "label": label});
    assert_eq!(told(kto(), one(json!("yes"))), "label: `label` must be true or false, found a text");
    assert_eq!(told(kto(), one(json!(0.5))), "label: `label` must be true or false, found a number");
    let several = json!({"format": "chatml", "field_prompt": ["a", "b"]});
    assert_eq!(
        told(several, pair("x", json!(1))),
        "a: the row has none of `a`, `b`; it has prompt, chosen, rejected, x"
    );
    let ranked = json!({"field_answers": "answers"});
    assert_eq!(
        told(ranked.clone(), json!({"prompt": "p", "answers": [{"answer": "a"}]})),
        "answers: `answers[0]` must have an `answer`, a text, and a `rank`, a number"
    );
    assert_eq!(told(ranked, json!({"prompt": "p", "answers": []})), "answers: `answers` has 0 of 2 answers");
}

#[test]
fn configs_that_cannot_work_are_refused() {
    let path = |config: Value| match PreferencePairs::new(serde_json::from_value(config).unwrap()) {
        Err(Error::Config { path, message, .. }) => (path, message),
        _ => panic!("it was taken"),
    };
    let (at, message) = path(json!({"prompt_format": "{prompt} {answer}"}));
    assert_eq!(
        (at.as_str(), message.as_str()),
        ("prompt_format", "`prompt_format`: `{answer}` is not one of `{prompt}`, `{system}`")
    );
    assert_eq!(path(json!({"chosen_format": "{chosen}}"})).1, "`chosen_format`: a single `}`");
    assert_eq!(path(json!({"rejected_format": "{{rejected}}"})).0, "rejected_format");
    assert_eq!(path(json!({"format": "chatml", "completion_format": "{completion}"})).0, "completion_format");
    assert_eq!(path(json!({"prompt_in_answers": true})).0, "prompt_in_answers");
    assert_eq!(path(json!({"field_answers": "a", "unpaired": true})).0, "field_answers");
    assert_eq!(path(json!({"field_prompt": null})).0, "field_prompt");
    assert_eq!(path(json!({"field_prompt": []})).0, "field_prompt");
    for wrong in ["", "a[", "a[x]", "a.", "a[0]b", ".a"] {
        assert_eq!(path(json!({"field_chosen": wrong})).0, "field_chosen", "{wrong}");
    }
    assert_eq!(path(json!({"message_property_mappings": {"name": "x"}})).0, "message_property_mappings.name");
    assert_eq!(path(json!({"roles": {"user": ["x"], "tool": ["x"]}})).0, "roles.user");
}
