use serde_json::json;

use super::*;

fn render(config: Value, row: Value) -> Result<Conversation, RowError> {
    let strategy = ChatTemplate::new(serde_json::from_value(config).unwrap()).unwrap();
    let Value::Object(row) = row else { panic!("a row is an object") };
    match strategy.render(row)? {
        Some(Sample::Supervised(Text::Conversation(conversation))) => Ok(conversation),
        other => panic!("{other:?}"),
    }
}

fn shown(conversation: &Conversation) -> Vec<String> {
    let show = |message: &Message| {
        format!("{}{} {}", message.role, if message.train == Some(true) { "*" } else { "" }, message.content)
    };
    conversation.messages.iter().map(show).collect()
}

/// The characters of a message that are learned, others as `-`.
fn learned(message: &Message) -> String {
    let mut train = vec![message.train == Some(true); message.content.chars().count()];
    for span in message.spans.iter().filter(|span| span.start < span.end) {
        train[span.start as usize..span.end as usize].fill(span.train);
    }
    message.content.chars().zip(train).map(|(character, train)| if train { character } else { '-' }).collect()
}

#[test]
fn assistants_are_learned() {
    let row = json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
    let found = render(json!({}), row.clone()).unwrap();
    assert_eq!(shown(&found), ["system s", "user q", "assistant* a"]);
    assert_eq!((found.train_on_eos, found.tools_json), (Some(true), None));
    assert_eq!(render(json!({"train_on_eos": "none"}), row.clone()).unwrap().train_on_eos, Some(false));
    let found = render(json!({"drop_system_message": true, "roles_to_train": ["human"]}), row).unwrap();
    assert_eq!(shown(&found), ["user* q", "assistant a"]);
}

#[test]
fn other_names_are_mapped() {
    let config = json!({
        "field_messages": "conversations",
        "message_property_mappings": {"role": "from", "content": "value", "reasoning_content": "thoughts"},
        "default_system_message": "Be kind.",
    });
    let row = json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "thoughts": "t", "weight": 1}], "tools": [{"name": "f"}]});
    let found = render(config, row).unwrap();
    assert_eq!(shown(&found), ["system Be kind.", "user q", "assistant* a"]);
    assert_eq!(found.tools_json.as_deref(), Some(r#"[{"name":"f"}]"#));
    assert_eq!(found.messages[2].extra_json.as_deref(), Some(r#"{"weight":1,"reasoning_content":"t"}"#));
    let own = json!({"roles": {"assistant": ["bot"]}});
    let row = json!({"messages": [{"role": "bot", "content": "a"}, {"role": "human", "content": "q"}]});
    assert_eq!(shown(&render(own, row).unwrap()), ["assistant* a", "human q"]);
}

#[test]
fn a_column_can_be_the_system_message() {
    let row = |first: &str| json!({"system": "S", "messages": [{"role": first, "content": "x"}]});
    assert_eq!(shown(&render(json!({}), row("user")).unwrap()), ["system S", "user x"]);
    assert_eq!(shown(&render(json!({}), row("system")).unwrap()), ["system x"]);
    assert_eq!(shown(&render(json!({"field_system": "other"}), row("user")).unwrap()), ["user x"]);
    assert_eq!(shown(&render(json!({"drop_system_message": true}), row("user")).unwrap()), ["user x"]);
}

#[test]
fn a_message_can_say_for_itself() {
    let config = json!({"message_field_training": "train"});
    let row = json!({"messages": [
        {"role": "user", "content": "q", "train": true},
        {"role": "assistant", "content": "a", "train": 0},
        {"role": "assistant", "content": "b", "train": null},
    ]});
    let found = render(config, row).unwrap();
    assert_eq!(shown(&found), ["user* q", "assistant a", "assistant* b"]);
    assert_eq!(found.messages[0].extra_json, None);
}

#[test]
fn parts_of_a_message_are_learned_where_they_say_so() {
    let config = json!({"message_field_training": "train", "message_field_training_detail": "detail"});
    let detail = |begin: u32, end: u32, train: bool| json!({"begin_offset": begin, "end_offset": end, "train": train});
    let row = |message: Value| json!({"messages": [message]});
    let one = |message: Value| render(config.clone(), row(message)).unwrap().messages.remove(0);
    let both =
        one(json!({"role": "assistant", "content": "äbcd", "detail": [detail(0, 0, false), detail(1, 2, true)]}));
    assert_eq!(learned(&both), "-bc-");
    let user = one(json!({"role": "user", "content": "abcd", "detail": [detail(3, 3, true)]}));
    assert_eq!(learned(&user), "---d");
    let not = one(json!({"role": "user", "content": "abcd", "train": false, "detail": [detail(3, 3, true)]}));
    assert_eq!(learned(&not), "----");
    let none = one(json!({"role": "assistant", "content": "abcd", "detail": []}));
    assert_eq!(learned(&none), "----");
    let outside = row(json!({"role": "user", "content": "q", "detail": [detail(0, 1, true)]}));
    let error = render(config.clone(), outside).unwrap_err();
    assert_eq!(error.message, "message 1: characters 0 to 1 do not lie in a text of 1");
}

/// For each message, what is said of the end of its turn.
fn ends(train_on_eos: &str) -> Vec<Option<bool>> {
    let row = json!({"messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"},
        {"role": "user", "content": "r"}, {"role": "assistant", "content": [{"text": "c", "train": false}, {"text": "d"}]},
        {"role": "user", "content": "s"},
    ]});
    let found = render(json!({"train_on_eos": train_on_eos}), row).unwrap();
    let end = |message: &Message| {
        let length = message.content.chars().count() as u32;
        message.spans.iter().find(|span| (span.start, span.end) == (length, length)).map(|span| span.train)
    };
    let ends: Vec<_> = found.messages.iter().map(end).collect();
    assert_eq!(found.train_on_eos, Some(train_on_eos == "turn"));
    ends
}

#[test]
fn ends_of_turns_are_learned_as_the_config_says() {
    assert_eq!(ends("all"), [Some(true); 5]);
    assert_eq!(ends("last"), [None, None, None, Some(true), None]);
    // The fourth is learned in parts: its end does not follow from the turn.
    assert_eq!(ends("turn"), [None, None, None, Some(true), None]);
    assert_eq!(ends("none"), [None; 5]);
}

#[test]
fn contents_in_parts_are_joined() {
    let one = |content: Value| {
        let row = json!({"messages": [{"role": "assistant", "content": content}]});
        render(json!({}), row).map(|mut found| found.messages.remove(0))
    };
    let plain = one(json!([{"type": "text", "text": "ab"}, {"text": " c"}])).unwrap();
    assert_eq!((plain.content.as_str(), plain.spans.len()), ("ab c", 0));
    let chosen = one(json!([{"text": "ab", "train": false}, {"text": " c", "weight": 1}])).unwrap();
    assert_eq!(learned(&chosen), "-- c");
    let error = one(json!([{"type": "image", "url": "x"}])).unwrap_err();
    assert_eq!(error.message, "message 1: a part of `content` is `image`; only texts can be learned from");
}

#[test]
fn json_in_texts_is_read_and_nulls_are_left_out() {
    let row = json!({
        "messages": [{"role": "assistant", "content": null, "name": null, "tool_calls": [
            {"type": "function", "id": null, "function": {"name": "f", "arguments": "{\"a\": 1}"}},
        ]}],
        "tools": "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": \"{}\"}}]",
    });
    let found = render(json!({}), row).unwrap();
    assert_eq!(found.messages[0].content, "");
    assert_eq!(
        found.messages[0].extra_json.as_deref(),
        Some(r#"{"tool_calls":[{"type":"function","function":{"name":"f","arguments":{"a":1}}}],"content":null}"#)
    );
    assert_eq!(found.tools_json.as_deref(), Some(r#"[{"type":"function","function":{"name":"f","parameters":{}}}]"#));
    let text = json!({"messages": "[{\"role\": \"user\", \"content\": \"q\"}]"});
    assert_eq!(shown(&render(json!({}), text).unwrap()), ["user q"]);
}

#[test]
fn bad_rows_say_what_is_wrong() {
    let message = |row: Value| render(json!({}), row).unwrap_err().message;
    assert_eq!(message(json!({"text": "x"})), "the row has no `messages`; it has text");
    assert_eq!(message(json!({"messages": null, "text": "x"})), "`messages` is null");
    let null = json!({"messages": [{"role": "assistant", "content": null, "name": "x", "tool_calls": []}]});
    assert_eq!(message(null), "message 1: `content` is null");
    assert_eq!(message(json!({"messages": []})), "`messages` is an empty list");
    assert_eq!(message(json!({"messages": {"role": "user"}})), "`messages` must be a list of messages");
    assert_eq!(message(json!({"messages": [{"content": "x"}]})), "message 1: it has no `role`");
    assert_eq!(message(json!({"messages": [{"role": "user"}]})), "message 1: it has no `content`");
    assert_eq!(message(json!({"messages": [{"role": "user", "content": 1}]})), "message 1: `content` must be a text");
    let call = json!([{"function": {"name": "f", "arguments": "{"}}]);
    let broken = message(json!({"messages": [{"role": "assistant", "tool_calls": call}]}));
    assert!(broken.starts_with("message 1: `arguments` of `f` is not JSON: "), "{broken}");
    let tools = render(json!({}), json!({"messages": [{"role": "user", "content": "q"}], "tools": 1})).unwrap_err();
    assert_eq!(
        (tools.field.as_deref(), tools.message.as_str()),
        (Some("tools"), "`tools` must be a list of tool definitions")
    );
}

#[test]
fn configs_that_cannot_work_are_refused() {
    let new = |config: Value| ChatTemplate::new(serde_json::from_value(config).unwrap()).err();
    assert!(matches!(new(json!({"roles": {"user": ["x"], "assistant": ["x"]}})), Some(Error::Config { .. })));
}

#[test]
fn thoughts_go_by_the_templates_name() {
    let row = json!({"messages": [{"role": "assistant", "content": "a", "thoughts": "t"}]});
    let config = json!({"field_thinking": "thoughts", "template_thinking_key": "thinking"});
    let found = render(config, row.clone()).unwrap();
    assert_eq!(found.messages[0].extra_json.as_deref(), Some(r#"{"thinking":"t"}"#));
    let found = render(json!({"field_thinking": "thoughts"}), row.clone()).unwrap();
    assert_eq!(found.messages[0].extra_json.as_deref(), Some(r#"{"reasoning_content":"t"}"#));
    let mapped = json!({"message_property_mappings": {"thinking": "thoughts"}, "template_thinking_key": "thinking"});
    assert_eq!(render(mapped, row).unwrap().messages[0].extra_json.as_deref(), Some(r#"{"thinking":"t"}"#));
}

#[test]
fn thoughts_are_split_from_a_content() {
    let one = |role: &str, content: &str| {
        let row = json!({"messages": [{"role": role, "content": content}]});
        let message = render(json!({"split_thinking": true}), row).unwrap().messages.remove(0);
        (message.content, message.extra_json)
    };
    let thought = |text: &str| Some(format!(r#"{{"reasoning_content":"{text}"}}"#));
    assert_eq!(one("assistant", "<think>\nhm\n</think>\n\nYes. "), ("Yes. ".to_owned(), thought("hm")));
    assert_eq!(one("gpt", "<reasoning>x</reasoning>y"), ("y".to_owned(), thought("x")));
    let both = "<|begin_of_thought|>x<|end_of_thought|>\n<|begin_of_solution|> y <|end_of_solution|>z";
    assert_eq!(one("assistant", both), ("y".to_owned(), thought("x")));
    for (role, content) in [("user", "<think>a</think>b"), ("assistant", "</think>a<think>"), ("assistant", "<think>a")]
    {
        assert_eq!(one(role, content), (content.to_owned(), None));
    }
    let config = json!({"split_thinking": true, "message_field_training_detail": "d"});
    let detail = json!([{"begin_offset": 0, "end_offset": 1, "train": true}]);
    let row = json!({"messages": [{"role": "assistant", "content": "<think>a</think>b", "d": detail}]});
    let told = render(config, row).unwrap_err().message;
    assert_eq!(told, "message 1: `split_thinking` takes characters away that parts of the content count");
}
