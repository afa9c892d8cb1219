use serde_json::json;

use super::*;

fn reward(config: Value) -> JsonSchema {
    JsonSchema::new(serde_json::from_value(config).unwrap()).unwrap()
}

fn scored(reward: &mut JsonSchema, completion: &str, row: Value) -> Score {
    let item = Item {
        prompt: String::new(),
        completion: completion.to_owned(),
        completion_tokens: 1,
        finished: true,
        reference: String::new(),
        row_json: row.to_string(),
    };
    reward.score(&item, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap()
}

#[test]
fn a_completion_is_held_against_the_schema() {
    let schema = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 1}, "ages": {"type": "array", "items": {"type": "integer"}},
    }, "additionalProperties": false});
    let mut plain = reward(json!({"schema": schema, "valid_json": 0.25}));
    let mut told = |text: &str| {
        let score = scored(&mut plain, text, json!({}));
        (score.value.unwrap(), score.note.unwrap_or_default())
    };
    assert_eq!(told(" {\"name\": \"A\", \"ages\": [1, 2.0]}\n"), (1.0, String::new()));
    assert_eq!(told("{\"name\": \"A\", \"ages\": [1, 2.5]}"), (0.25, "`/ages/1` is not of type integer".to_owned()));
    assert_eq!(told("{\"name\": \"\"}").1, "`/name` has 0 characters, less than `minLength`");
    assert_eq!(told("{}").1, "the value has no `name`");
    assert_eq!(told("{\"name\": \"A\", \"x\": 1}").1, "`/x` is not allowed");
    assert_eq!(told("Sure! {}"), (0.0, "not JSON: expected value at line 1 column 1".to_owned()));
    assert_eq!(told("{\"name\": \"A\"} {}").0, 0.0);
}

#[test]
fn a_block_of_markdown_counts_where_it_may() {
    let text = "Here:\n```json\n{\"a\": 1}\n```\nDone.";
    let schema = json!({"required": ["a"]});
    assert_eq!(scored(&mut reward(json!({"schema": schema})), text, json!({})).value, Some(0.0));
    let mut fenced = reward(json!({"schema": schema, "fenced": true}));
    for text in [text, "{\"a\": 1}", "```{\"a\": 1}```"] {
        assert_eq!(scored(&mut fenced, text, json!({})).value, Some(1.0), "{text}");
    }
    assert_eq!(scored(&mut fenced, "```json\n{\"a\": 1}", json!({})).value, Some(0.0));
}

#[test]
fn a_row_can_have_its_own_schema() {
    let mut of_row = reward(json!({"field": "schema"}));
    let mut score = |row: Value| scored(&mut of_row, "1", row);
    assert_eq!(score(json!({"schema": {"type": "integer"}})).value, Some(1.0));
    assert_eq!(score(json!({"schema": "{\"type\": \"string\"}"})).value, Some(0.0));
    assert_eq!(score(json!({"schema": {"type": "integer"}})).value, Some(1.0));
    for (row, note) in [
        (json!({}), "the row has no schema"),
        (json!({"schema": {"typ": "integer"}}), "the row's schema: `#/typ` is not known here"),
        (json!({"schema": "x"}), "the row's schema: it is not JSON: expected value at line 1 column 1"),
    ] {
        assert_eq!(score(row), Score { value: None, note: Some(note.to_owned()) });
    }
}

#[test]
fn the_suite_of_the_standard_is_passed() {
    let suite: Value = serde_json::from_str(include_str!("../../../tests/fixtures/json-schema/suite.json")).unwrap();
    let (mut judged, mut refused) = (0, Vec::new());
    for group in suite["groups"].as_array().unwrap() {
        let name = format!("{}: {}", group["file"], group["description"]);
        let schema = match Schema::new(group["schema"].clone()) {
            Ok(schema) => schema,
            Err(why) => {
                refused.push(format!("{name}: {why}"));
                continue;
            }
        };
        for test in group["tests"].as_array().unwrap() {
            let found = schema.judge(&test["data"]);
            assert_eq!(found.is_ok(), test["valid"].as_bool().unwrap(), "{name}: {}: {found:?}", test["description"]);
            judged += 1;
        }
    }
    // Names within a document, other documents, keywords that are not known, and patterns that regex-lite does not read.
    let is_known = |why: &String| {
        [
            "$id",
            "$anchor",
            "$dynamic",
            "unevaluated",
            "$vocabulary",
            "$ref` must be",
            "is not known here",
            "Unicode character classes",
        ]
        .iter()
        .any(|part| why.contains(part))
    };
    assert!(refused.iter().all(is_known), "{refused:#?}");
    assert!(judged == 834 && refused.len() == 21, "{judged} judged, {} refused: {refused:#?}", refused.len());
}

#[test]
fn earlier_drafts_have_their_lists() {
    let schema = Schema::new(json!({"items": [{"type": "string"}], "additionalItems": {"type": "null"}})).unwrap();
    assert!(schema.judge(&json!(["a", null])).is_ok());
    assert!(schema.judge(&json!(["a", 1])).is_err());
}

#[test]
fn configs_that_cannot_work_are_refused() {
    let told = |config: Value| match JsonSchema::new(serde_json::from_value(config).unwrap()) {
        Err(Error::Config { path, message, .. }) => format!("{path}: {message}"),
        _ => panic!("it was taken"),
    };
    assert_eq!(told(json!({})), ": there is no schema");
    assert_eq!(told(json!({"schema": {}, "field": "x"})), "field: there are two schemas");
    assert_eq!(told(json!({"schema": {}, "valid_json": 2})), "valid_json: `valid_json` must be from 0 to 1");
    for (schema, message) in [
        (json!({"properties": {"a": {"typ": 1}}}), "`#/properties/a/typ` is not known here"),
        (json!({"$ref": "#/$defs/a"}), "`/$ref` refers to `#/$defs/a`, which is not there"),
        (json!({"$ref": "https://example.org/a"}), "`#/$ref` must be a place of this schema, as `#/$defs/name`"),
        (json!({"type": "int"}), "`#/type` must be of null, boolean, object, array, number, string, integer"),
        (json!({"minLength": -1}), "`#/minLength` must be a whole number, 0 or more"),
        (json!({"items": 3}), "`#/items` must be a schema: an object, true or false"),
    ] {
        assert_eq!(told(json!({"schema": schema})), format!("schema: `schema`: {message}"));
    }
    assert!(
        told(json!({"schema": {"pattern": "(?=a)"}}))
            .starts_with("schema: `schema`: `#/pattern`: `(?=a)` cannot be read")
    );
}

#[test]
fn hostile_completions_and_schemas_come_to_an_end() {
    let any = || reward(json!({"schema": {}}));
    for text in ["[", "{\"a\":", "\0", "9", "[1,"] {
        assert_eq!(scored(&mut any(), &text.repeat(1_000_000 / text.len()), json!({})).value, Some(0.0), "{text}");
    }
    assert_eq!(scored(&mut any(), &"[".repeat(100_000_000), json!({})).value, Some(0.0));
    let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
    let tree = json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}});
    let note = |schema: Value, text: &str| scored(&mut reward(json!({"schema": schema})), text, json!({})).note;
    assert_eq!(note(json!({"items": {"$ref": "#"}}), &deep), None);
    assert_eq!(note(tree, &deep).as_deref(), Some("the schema refers to itself without end"));
    assert_eq!(note(json!({"$ref": "#"}), "1").as_deref(), Some("the schema refers to itself without end"));
    // Two of each at every depth: without a limit, as many steps as a tree of 2^40 has leaves.
    let double = json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"allOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}, false]}, false]}, "b": {"oneOf": [{"items": {"$ref": "#/$defs/a"}}, {"items": {"$ref": "#/$defs/a"}}]}}});
    let shallow = format!("{}{}", "[".repeat(40), "]".repeat(40));
    assert_eq!(note(double, &shallow).as_deref(), Some("there is too much in it to be judged"));
    let many = format!("[{}0]", "0,".repeat(500_000));
    assert!(note(json!({"uniqueItems": true}), &many).unwrap().contains("stood there before"));
    assert_eq!(
        note(json!({"items": {"pattern": "(a*)*b"}}), &format!("[\"{}\"]", "a".repeat(100_000))).as_deref(),
        Some("`/0` does not match `(a*)*b`")
    );
    assert!(note(json!({}), "1e999").unwrap().starts_with("not JSON: number out of range"));
}
