//! Answers in steps, each of which is right or wrong, as Axolotl's `stepwise_supervised` type has them: the columns `prompt`,
//! `completions` (a list of texts) and `labels` (a list of as many: true or false, or numbers).

use plugin_sdk::strategy::{PromptStrategy, RowError, Sample, Step, Stepwise, Text, bad_field, read};
use plugin_sdk::{Error, NoConfig};
use serde_json::{Map, Value};

/// The strategy.
pub struct Steps;

impl PromptStrategy for Steps {
    type Config = NoConfig;
    type Row = Map<String, Value>;

    fn new(_: NoConfig) -> Result<Self, Error> {
        Ok(Self)
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let Value::String(prompt) = column(&row, "prompt")? else {
            return Err(bad_field("prompt", "`prompt` must be a text"));
        };
        let (texts, labels) = (list(&row, "completions")?, list(&row, "labels")?);
        if texts.len() != labels.len() {
            let message = format!("`completions` has {} steps, and `labels` has {}", texts.len(), labels.len());
            return Err(bad_field("labels", message));
        }
        let steps = texts.iter().zip(labels).enumerate().map(|(index, (text, label))| step(index, text, label));
        let prompt = Text::Segments(vec![read(prompt)]);
        Ok(Some(Sample::Stepwise(Stepwise { prompt, steps: steps.collect::<Result<_, _>>()? })))
    }
}

fn column<'a>(row: &'a Map<String, Value>, name: &str) -> Result<&'a Value, RowError> {
    row.get(name).ok_or_else(|| {
        let mut has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
        if row.len() > has.len() {
            has.push("…");
        }
        let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
        bad_field(name, format!("the row has no `{name}`; it has {has}"))
    })
}

fn list<'a>(row: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], RowError> {
    match column(row, name)? {
        Value::Array(values) => Ok(values),
        _ => Err(bad_field(name, format!("`{name}` must be a list"))),
    }
}

/// The step with this number, counted from 0.
fn step(index: usize, text: &Value, label: &Value) -> Result<Step, RowError> {
    let Value::String(text) = text else {
        return Err(bad_field("completions", format!("`completions[{index}]` must be a text")));
    };
    let label = match label {
        Value::Bool(label) => Some(f32::from(u8::from(*label))),
        label => label.as_f64().map(|label| label as f32),
    };
    let label =
        label.ok_or_else(|| bad_field("labels", format!("`labels[{index}]` must be true, false or a number")))?;
    Ok(Step { text: text.clone(), label })
}

plugin_sdk::register_prompt_strategy!(Steps, name: "stepwise_supervised", description: "Steps that are right or wrong");

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(row: Value) -> Result<(String, Vec<(String, f32)>), String> {
        let Value::Object(row) = row else { panic!("a row is an object") };
        match Steps.render(row).map_err(|error| error.message)? {
            Some(Sample::Stepwise(Stepwise { prompt: Text::Segments(prompt), steps })) => {
                assert!(prompt.iter().all(|segment| !segment.train));
                let prompt = prompt.into_iter().map(|segment| segment.text).collect();
                Ok((prompt, steps.into_iter().map(|step| (step.text, step.label)).collect()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_step_has_its_label() {
        let steps = |values: [(&str, f32); 2]| values.map(|(text, label)| (text.to_owned(), label)).to_vec();
        let row = json!({"prompt": "2+2?", "completions": ["2 and 2", "is 5"], "labels": [true, false], "id": 1});
        assert_eq!(render(row), Ok(("2+2?".to_owned(), steps([("2 and 2", 1.0), ("is 5", 0.0)]))));
        let row = json!({"prompt": "", "completions": ["a", ""], "labels": [0, 2]});
        assert_eq!(render(row), Ok((String::new(), steps([("a", 0.0), ("", 2.0)]))));
        assert_eq!(render(json!({"prompt": "a", "completions": [], "labels": []})), Ok(("a".to_owned(), vec![])));
    }

    #[test]
    fn bad_rows_name_the_column() {
        let told = |row: Value| render(row).unwrap_err();
        assert_eq!(told(json!({"question": "x"})), "the row has no `prompt`; it has question");
        assert_eq!(told(json!({"prompt": 1})), "`prompt` must be a text");
        assert_eq!(told(json!({"prompt": "a", "completions": "b"})), "`completions` must be a list");
        let row =
            |completions: Value, labels: Value| json!({"prompt": "a", "completions": completions, "labels": labels});
        assert_eq!(told(row(json!(["b"]), json!([true, false]))), "`completions` has 1 steps, and `labels` has 2");
        assert_eq!(told(row(json!([3]), json!([true]))), "`completions[0]` must be a text");
        assert_eq!(told(row(json!(["b"]), json!(["yes"]))), "`labels[0]` must be true, false or a number");
    }
}
