use serde_json::json;

use super::*;

fn render(config: Value, row: Value) -> Result<(String, String), RowError> {
    let alpaca = Alpaca::new(serde_json::from_value(config).unwrap()).unwrap();
    let Value::Object(columns) = &row else { panic!("a row is an object") };
    let sample = alpaca.render(columns.clone());
    // The quick way is the same, or none.
    assert_eq!(alpaca.render_all(&[row.to_string()]).unwrap(), std::slice::from_ref(&sample));
    match sample? {
        Some(Sample::Supervised(Text::Segments(segments))) => {
            assert_eq!(segments[1..], [apart(), learn(&segments[2].text)]);
            Ok((segments[0].text.clone(), segments[2].text.clone()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn writes_what_stanford_wrote() {
    let (prompt, answer) = render(json!({}), json!({"instruction": "Add.", "input": "1 2", "output": "3"})).unwrap();
    assert_eq!(prompt, format!("{WITH_INPUT}\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"));
    assert_eq!(answer, "3");
    let (prompt, _) = render(json!({}), json!({"instruction": "Hi.", "input": "", "output": "Hello"})).unwrap();
    assert_eq!(prompt, format!("{WITHOUT_INPUT}\n\n### Instruction:\nHi.\n\n### Response:\n"));
}

#[test]
fn fields_formats_and_system_prompts_can_be_set() {
    let config = json!({"field_instruction": "q", "field_output": "a", "format": "Q: {instruction} [{input}]\nA: ", "no_input_format": "Q: {instruction}\nA: ", "system_prompt": "Be brief.", "system_format": "<{system}>\n"});
    assert_eq!(
        render(config.clone(), json!({"q": "x {input}", "a": "y"})).unwrap().0,
        "<Be brief.>\nQ: x {input}\nA: "
    );
    assert_eq!(
        render(config, json!({"q": "x", "input": "z", "a": "y", "system": "S"})).unwrap().0,
        "<S>\nQ: x [z]\nA: "
    );
}

#[test]
fn what_a_shape_leaves_out_is_as_axolotl_has_it() {
    let with = json!({"instruction": "i", "input": "n", "output": "o", "system": "S"});
    let without = json!({"instruction": "i", "output": "o"});
    let prompt = |config: Value, row: &Value| render(config, row.clone()).unwrap().0;
    let format = json!({"format": "{input}: {instruction}=", "system_prompt": "P "});
    assert_eq!(prompt(format.clone(), &with), "Sn: i=");
    assert_eq!(prompt(format, &without), "P i ");
    assert_eq!(prompt(json!({"no_input_format": "{instruction}="}), &with), "Si n ");
    // Plain `alpaca` has no system column.
    assert!(prompt(json!({}), &with).starts_with(WITH_INPUT));
    assert!(prompt(json!({"field_system": "system"}), &with).starts_with("S\n\n### Instruction:\n"));
}

#[test]
fn bad_rows_name_the_field() {
    let error = render(json!({}), json!({"instruction": "x", "text": "y"})).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("output"));
    assert_eq!(error.message, "the row has no `output`; it has instruction, text");
    for (row, message) in [
        (json!({"instruction": "x", "output": null}), "`output` is null (as `NaN` is read too), where a text belongs"),
        (json!({}), "the row has no `instruction`; it has no column at all"),
    ] {
        assert_eq!(render(json!({}), row).unwrap_err().message, message);
    }
    let nothing = render(json!({}), json!({"instruction": "x", "input": null, "output": "y"})).unwrap();
    assert_eq!(nothing, render(json!({}), json!({"instruction": "x", "output": "y"})).unwrap());
    let error = render(json!({}), json!({"instruction": 3, "output": "y"})).unwrap_err();
    assert_eq!(error.message, "`instruction` must be a text, found a number");
}

#[test]
fn a_format_without_the_instruction_is_refused() {
    let config: Config = serde_json::from_value(json!({"format": "{input}"})).unwrap();
    assert!(matches!(Alpaca::new(config), Err(Error::Config { path, .. }) if path == "format"));
}

/// The segments of a preset of Axolotl's.
fn preset(name: &str, row: Value) -> Result<Vec<Segment>, RowError> {
    let table: Vec<Value> = serde_json::from_str(include_str!("../axolotl.json")).unwrap();
    let entry = table.iter().find(|entry| entry["type"] == name).unwrap();
    let alpaca = Alpaca::new(serde_json::from_value(entry["config"].clone()).unwrap()).unwrap();
    let sample = alpaca.render_all(&[row.to_string()]).unwrap().remove(0)?;
    let Value::Object(columns) = row else { panic!("a row is an object") };
    assert_eq!(alpaca.render(columns).unwrap(), sample);
    match sample {
        Some(Sample::Supervised(Text::Segments(segments))) => Ok(segments),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_preset_can_start() {
    let table: Vec<Value> = serde_json::from_str(include_str!("../axolotl.json")).unwrap();
    for entry in table {
        for style in entry["styles"].as_array().into_iter().flatten().chain([&Value::Null]) {
            let mut config = entry["config"].clone();
            if !style.is_null() {
                config["style"] = style.clone();
            }
            assert!(Alpaca::new(serde_json::from_value(config).unwrap()).is_ok(), "{entry}");
        }
    }
}

#[test]
fn columns_can_be_put_together() {
    let found = preset("context_qa.load_v2", json!({"context": "c {x}", "question": "q", "answer": "a"})).unwrap();
    assert_eq!(found, [read("Context: c {x}\nQuestion: q\n"), apart(), learn("Answer: a")]);
    let found = preset("explainchoice", json!({"question": "q", "choices": ["a", 2], "explanation": "e"})).unwrap();
    assert!(found[0].text.ends_with("### Input:\n- \"a\"\n- \"2\"\n\n### Response:\n"), "{}", found[0].text);
    assert_eq!(found[2], learn("e"));
    let found = preset("metharme", json!({"prompt": "p", "generation": "g"})).unwrap();
    assert_eq!(found, [read("p"), apart(), learn("g"), end_of_text(), end_of_text(), end_of_text()]);
    let reflection = json!({"instruction": "i", "output": "o", "reflection": "r", "corrected": "c"});
    let found = preset("reflection:chat", reflection).unwrap();
    assert_eq!(found[1], learn("\nTHOUGHT: o\nASSISTANT REFLECTION: r\nASSISTANT:"));
}

#[test]
fn columns_that_a_type_needs_must_be_there() {
    let told = |name: &str, row: Value| preset(name, row).unwrap_err().message;
    let row = json!({"instruction": "i", "output": "o"});
    assert_eq!(told("alpaca_w_system", row), "the row has no `system`; it has instruction, output");
    let row = json!({"question": "q", "answer": "a"});
    assert_eq!(told("jeopardy", row), "the row has no `category`; it has question, answer");
    let row = json!({"question": "q", "choices": [[]], "solution": "s"});
    assert_eq!(told("explainchoice", row), "a choice of `choices` must be a text, found a list");
    let row = json!({"question": "q", "choices": []});
    assert_eq!(told("explainchoice", row), "the row has no `solution` or `explanation`; it has question, choices");
    let row = json!({"context": "c", "question": null, "answer": "a"});
    assert_eq!(told("context_qa.load_v2", row), "`question` is null (as `NaN` is read too), where a text belongs");
}

#[test]
fn a_system_prompt_is_the_rows_or_the_configs() {
    let with = |system: Value| json!({"instruction": "i", "output": "o", "system": system});
    let prompt = |row: Value| preset("alpaca_w_system", row).unwrap()[0].text.clone();
    assert_eq!(prompt(with(json!("S"))), "SYSTEM: S\nUSER: i\nASSISTANT:");
    assert_eq!(prompt(with(json!(""))), "USER: i\nASSISTANT:");
    assert_eq!(prompt(with(json!(null))), "USER: i\nASSISTANT:");
    let own = json!({"system_prompt": "P", "format": "{instruction}"});
    assert_eq!(render(own.clone(), with(json!(null))).unwrap().0, "i ");
    assert_eq!(render(own, json!({"instruction": "i", "output": "o"})).unwrap().0, "Pi ");
    let orca = json!({"question": "q", "response": "r", "system_prompt": ""});
    let orca = preset("orcamini", orca).unwrap()[0].text.clone();
    assert_eq!(orca, "### System:\n\n\n### User:\nq\n\n### Response:\n");
}

#[test]
fn formats_are_read_as_python_reads_them() {
    let row = json!({"instruction": "i", "output": "o"});
    assert_eq!(render(json!({"no_input_format": "{{x}} {instruction}"}), row).unwrap().0, "{x} i");
    for (key, format, message) in [
        ("no_input_format", "{instruction} {input}", "`no_input_format`: `{input}` is not `{instruction}`"),
        ("format", "{instruction} {", "`format`: a single `{`"),
        ("output_format", "{}", "`output_format`: `{}` is not a name in braces"),
        ("instruction_format", "x", "`instruction_format` names no column, so it would be the same for every row"),
        ("system_format", "x", "`system_format` has no `{system}`, so it would be the same for every row"),
    ] {
        let config: Config = serde_json::from_value(json!({key: format})).unwrap();
        match Alpaca::new(config).err() {
            Some(Error::Config { path, message: told, .. }) => {
                assert_eq!((path.as_str(), told.as_str()), (key, message));
            }
            other => panic!("{key}: {other:?}"),
        }
    }
}
