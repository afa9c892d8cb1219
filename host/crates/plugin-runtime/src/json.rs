//! What goes into a plugin and comes out of it as JSON: for golden files, and for calls that are made again. What is
//! absent is left out, so that a line of a golden file stays short.

use serde_json::{Map, Number, Value, json};

use crate::types::{
    BadRow, Context, Conversation, Edit, EpisodeStart, Facts, Finding, HealthFinding, Item, Message, Metric,
    Observation, Outcome, Row, RowError, Sample, ScheduleRun, Score, Segment, Severity, Text, TrainSpan, Turn, Verdict,
};

/// Collects the fields that are there.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// A text that holds JSON, as what it holds; one that does not, as the text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The shortest number that reads back as this one; text for what JSON has no number for.
fn float(value: f32) -> Value {
    let number: Option<Number> = value.to_string().parse().ok().and_then(Number::from_f64);
    number.map_or_else(|| value.to_string().into(), Value::Number)
}

/// What a strategy makes of a row.
pub fn rendered(result: &Result<Option<Sample>, RowError>) -> Value {
    match result {
        Ok(Some(sample)) => sample_value(sample),
        Ok(None) => json!({ "skipped": true }),
        Err(error) => json!({ "error": row_error(error) }),
    }
}

fn sample_value(sample: &Sample) -> Value {
    match sample {
        Sample::Supervised(value) => json!({ "supervised": text(value) }),
        Sample::Preference(pair) => json!({ "preference": {
            "prompt": text(&pair.prompt), "chosen": text(&pair.chosen), "rejected": text(&pair.rejected),
        } }),
        Sample::Unpaired(one) => json!({ "unpaired": {
            "prompt": text(&one.prompt), "completion": text(&one.completion), "desirable": one.desirable,
        } }),
        Sample::Prompt(value) => json!({ "prompt": text(value) }),
        Sample::Stepwise(labelled) => {
            let step = |step: &crate::types::Step| json!({ "text": step.text, "label": float(step.label) });
            let steps: Vec<Value> = labelled.steps.iter().map(step).collect();
            json!({ "stepwise": { "prompt": text(&labelled.prompt), "steps": steps } })
        }
    }
}

fn text(value: &Text) -> Value {
    match value {
        Text::Segments(segments) => json!({ "segments": segments.iter().map(segment).collect::<Vec<_>>() }),
        Text::Conversation(value) => json!({ "conversation": conversation(value) }),
    }
}

fn segment(segment: &Segment) -> Value {
    let fields = Fields::default().with("text", segment.text.as_str()).with("train", segment.train);
    fields.with_some("weight", segment.weight.map(float)).done()
}

fn conversation(conversation: &Conversation) -> Value {
    let messages: Vec<Value> = conversation.messages.iter().map(message).collect();
    Fields::default()
        .with("messages", messages)
        .with_some("tools", conversation.tools_json.as_deref().map(parsed))
        .with_some("train_on_eos", conversation.train_on_eos)
        .done()
}

/// A message of a conversation.
pub fn message(message: &Message) -> Value {
    let span = |span: &TrainSpan| json!({ "start": span.start, "end": span.end, "train": span.train });
    let spans: Vec<Value> = message.spans.iter().map(span).collect();
    Fields::default()
        .with("role", message.role.as_str())
        .with("content", message.content.as_str())
        .with_some("train", message.train)
        .with_some("spans", (!spans.is_empty()).then_some(spans))
        .with_some("extra", message.extra_json.as_deref().map(parsed))
        .done()
}

fn row_error(error: &RowError) -> Value {
    Fields::default().with("message", error.message.as_str()).with_some("field", error.field.as_deref()).done()
}

/// A row that a loader gave, or why it could not.
pub fn loaded(row: &Result<Row, BadRow>) -> Value {
    match row {
        Ok(row) => json!({ "row": parsed(&row.json), "position": row.position }),
        Err(bad) => json!({ "error": row_error(&bad.error), "position": bad.position }),
    }
}

/// A score.
pub fn score(score: &Score) -> Value {
    let fields = Fields::default().with("value", score.value);
    fields.with_some("note", score.note.as_deref()).done()
}

/// A verdict of a row filter.
pub fn verdict(verdict: &Verdict) -> Value {
    Fields::default()
        .with("keep", verdict.keep)
        .with_some("score", verdict.score)
        .with_some("reason", verdict.reason.as_deref())
        .done()
}

/// A finding of compatibility rules.
pub fn finding(finding: &Finding) -> Value {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let edit = |edit: &Edit| match edit {
        Edit::Set((path, value)) => json!({ "set": path, "to": value }),
        Edit::Remove(path) => json!({ "remove": path }),
    };
    let fix: Vec<Value> = finding.fix.iter().map(edit).collect();
    Fields::default()
        .with("rule", finding.rule.as_str())
        .with("severity", severity)
        .with("paths", finding.paths.clone())
        .with("message", finding.message.as_str())
        .with("why", finding.why.as_str())
        .with_some("help", finding.help.as_deref())
        .with_some("fix", (!fix.is_empty()).then_some(fix))
        .done()
}

/// A finding of a watch over a run.
pub fn health_finding(finding: &HealthFinding) -> Value {
    let advice = match finding.advice {
        crate::types::Advice::Note => "note",
        crate::types::Advice::Warn => "warn",
        crate::types::Advice::Stop => "stop",
    };
    Fields::default()
        .with("id", finding.id.as_str())
        .with("advice", advice)
        .with("message", finding.message.as_str())
        .with("why", finding.why.as_str())
        .with_some("help", finding.help.as_deref())
        .done()
}

/// A completion to score.
pub fn item(item: &Item) -> Value {
    json!({
        "prompt": item.prompt,
        "completion": item.completion,
        "completion_tokens": item.completion_tokens,
        "finished": item.finished,
        "reference": item.reference,
        "row": parsed(&item.row_json),
    })
}

/// An episode that is only opened.
pub fn opening(row: &str) -> Value {
    json!({ "row": parsed(row) })
}

/// A turn of an episode.
pub fn turn(turn: &Turn) -> Value {
    json!({ "turn": {
        "state": state(&turn.state),
        "completion": turn.completion,
        "completion_tokens": turn.completion_tokens,
        "finished": turn.finished,
        "number": turn.number,
        "max_turns": turn.max_turns,
    } })
}

/// How an environment opens an episode, or why it cannot.
pub fn opened(start: &Result<EpisodeStart, RowError>) -> Value {
    match start {
        Ok(start) => Fields::default()
            .with("messages", start.messages.iter().map(message).collect::<Vec<_>>())
            .with_some("tools", start.tools_json.as_deref().map(parsed))
            .with("state", state(&start.state))
            .done(),
        Err(error) => json!({ "error": row_error(error) }),
    }
}

/// What an environment answers to a turn.
pub fn outcome(outcome: &Outcome) -> Value {
    Fields::default()
        .with("messages", outcome.messages.iter().map(message).collect::<Vec<_>>())
        .with_some("reward", outcome.reward)
        .with("done", outcome.done)
        .with_some("note", outcome.note.as_deref())
        .with_some("state", (!outcome.done).then(|| state(&outcome.state)))
        .done()
}

/// A state that is text as text; another one in hexadecimal digits.
fn state(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// When a completion is scored.
pub fn context(context: &Context) -> Value {
    json!({ "step": context.step, "total_steps": context.total_steps, "seed": context.seed })
}

/// The known keys of an object; the error names one that is not.
fn fields<'a>(value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object().ok_or_else(|| "it is not a JSON object".to_owned())?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown key `{key}`; it may have {}", known.join(", "))),
        None => Ok(object),
    }
}

fn string(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("`{key}` must be a text")),
    }
}

fn count(object: &Map<String, Value>, key: &str, default: u64) -> Result<u64, String> {
    match object.get(key) {
        None => Ok(default),
        Some(value) => value.as_u64().ok_or_else(|| format!("`{key}` must be a whole number, not negative")),
    }
}

/// Reads a completion to score: `{"prompt": …, "completion": …, "reference": …, "row": {…}}`, what is absent is empty.
pub fn read_item(value: &Value) -> Result<Item, String> {
    let known = ["prompt", "completion", "completion_tokens", "finished", "reference", "row"];
    let object = fields(value, &known)?;
    let completion = string(object, "completion")?;
    // About what a tokenizer makes of it, where it matters that there are some at all.
    let words = completion.split_whitespace().count() as u64;
    Ok(Item {
        prompt: string(object, "prompt")?,
        completion_tokens: u32::try_from(count(object, "completion_tokens", words)?)
            .map_err(|_| "`completion_tokens` is too large".to_owned())?,
        completion,
        finished: match object.get("finished") {
            None => true,
            Some(value) => value.as_bool().ok_or("`finished` must be true or false")?,
        },
        reference: string(object, "reference")?,
        row_json: object.get("row").cloned().unwrap_or_else(|| json!({})).to_string(),
    })
}

/// What an environment is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Episode {
    /// To open an episode and to answer these completions, one a turn. Their state and number are not known yet.
    Whole {
        /// The row, a JSON object.
        row: String,
        /// What the model writes.
        turns: Vec<Turn>,
    },
    /// To answer one turn of an episode that was opened before.
    Turn(Turn),
}

/// Reads an episode, `{"row": {…}, "completions": ["…"], "max_turns": 8}`, or a single turn as [`turn`] writes it.
pub fn read_episode(value: &Value) -> Result<Episode, String> {
    let object = fields(value, &["row", "completions", "max_turns", "turn"])?;
    if let Some(turn) = object.get("turn") {
        fields(value, &["turn"])?;
        let state = turn.get("state").ok_or("`state` is missing")?;
        return Ok(Episode::Turn(Turn { state: read_state(state)?, ..read_turn(turn, 8)? }));
    }
    let Some(row) = object.get("row").filter(|row| row.is_object()) else {
        return Err("`row` must be a JSON object".to_owned());
    };
    let completions = match object.get("completions") {
        None => &[][..],
        Some(Value::Array(completions)) => completions,
        Some(_) => return Err("`completions` must be a list".to_owned()),
    };
    let max_turns = small(object, "max_turns", (completions.len() as u64).max(8))?;
    if completions.len() > max_turns as usize {
        return Err(format!("there are {} completions, and `max_turns` is {max_turns}", completions.len()));
    }
    let read = |completion: &Value| match completion {
        Value::String(text) => read_turn(&json!({ "completion": text }), max_turns),
        other => read_turn(other, max_turns),
    };
    let turns = completions.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Episode::Whole { row: row.to_string(), turns })
}

fn read_turn(value: &Value, max_turns: u32) -> Result<Turn, String> {
    let object = fields(value, &["state", "completion", "completion_tokens", "finished", "number", "max_turns"])?;
    let completion = string(object, "completion")?;
    let words = completion.split_whitespace().count() as u64;
    Ok(Turn {
        state: Vec::new(),
        completion_tokens: small(object, "completion_tokens", words)?,
        completion,
        finished: match object.get("finished") {
            None => true,
            Some(value) => value.as_bool().ok_or("`finished` must be true or false")?,
        },
        number: small(object, "number", 1)?,
        max_turns: small(object, "max_turns", max_turns.into())?,
    })
}

fn small(object: &Map<String, Value>, key: &str, default: u64) -> Result<u32, String> {
    u32::try_from(count(object, key, default)?).map_err(|_| format!("`{key}` is too large"))
}

fn read_state(value: &Value) -> Result<Vec<u8>, String> {
    let wrong = || "`state` must be a text, or `{\"hex\": …}`".to_owned();
    if let Some(text) = value.as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    let digits = value.get("hex").and_then(Value::as_str).filter(|digits| digits.is_ascii()).ok_or_else(wrong)?;
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| byte(pair).filter(|_| pair.len() == 2))
        .collect::<Option<_>>()
        .ok_or_else(wrong)
}

/// Reads when a completion is scored.
pub fn read_context(value: &Value) -> Result<Context, String> {
    let object = fields(value, &["step", "total_steps", "seed"])?;
    Ok(Context {
        step: count(object, "step", 0)?,
        total_steps: count(object, "total_steps", 1)?,
        seed: count(object, "seed", 0)?,
    })
}

/// Reads the facts that rules judge: `{"config": {…}, "given": ["…"], "model": {…}}`.
pub fn read_facts(value: &Value) -> Result<Facts, String> {
    let object = fields(value, &["config", "given", "model", "data", "machine", "outcomes"])?;
    let given = match object.get("given") {
        None => Vec::new(),
        Some(value) => serde_json::from_value(value.clone()).map_err(|_| "`given` must be a list of config paths")?,
    };
    let part = |key: &str| object.get(key).map(Value::to_string);
    Ok(Facts {
        config_json: part("config").unwrap_or_else(|| "{}".to_owned()),
        given_paths: given,
        model_json: part("model"),
        data_json: part("data"),
        machine_json: part("machine"),
        outcomes_json: part("outcomes"),
    })
}

/// Reads the run that a schedule is for: `{"total_steps": 100, "warmup_steps": 10, "steps_per_epoch": 50}`.
pub fn read_schedule_run(value: &Value) -> Result<ScheduleRun, String> {
    let object = fields(value, &["total_steps", "warmup_steps", "steps_per_epoch"])?;
    let total_steps = count(object, "total_steps", 0)?;
    if total_steps == 0 || total_steps > 1 << 20 {
        return Err("`total_steps` must be between 1 and 1048576".to_owned());
    }
    Ok(ScheduleRun {
        total_steps,
        warmup_steps: count(object, "warmup_steps", 0)?,
        steps_per_epoch: count(object, "steps_per_epoch", total_steps)?,
    })
}

/// Reads a logged line: `{"step": 10, "metrics": {"loss": 2.5}}`.
pub fn read_observation(value: &Value) -> Result<Observation, String> {
    let object = fields(value, &["step", "metrics"])?;
    let mut metrics = Vec::new();
    for (name, value) in object.get("metrics").and_then(Value::as_object).ok_or("`metrics` must be an object")? {
        // JSON has no such numbers, but a loss can be one.
        let value = match value.as_str() {
            Some("NaN") => Some(f64::NAN),
            Some("Infinity") => Some(f64::INFINITY),
            Some("-Infinity") => Some(f64::NEG_INFINITY),
            _ => value.as_f64(),
        };
        let value = value.ok_or_else(|| format!("metric `{name}` must be a number, \"NaN\" or \"Infinity\""))?;
        metrics.push(Metric { name: name.clone(), value });
    }
    Ok(Observation { step: count(object, "step", 0)?, metrics })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_comes_back() {
        let value = json!({"prompt": "p", "completion": "a b", "completion_tokens": 2, "finished": true, "reference": "", "row": {"x": 1}});
        assert_eq!(item(&read_item(&value).unwrap()), value);
        assert_eq!(item(&read_item(&json!({"prompt": "p", "completion": "a b", "row": {"x": 1}})).unwrap()), value);
        assert!(read_item(&json!({"completoin": ""})).unwrap_err().starts_with("unknown key `completoin`"));
        assert_eq!(read_item(&json!({"finished": 1})).unwrap_err(), "`finished` must be true or false");
        assert_eq!(read_item(&json!([])).unwrap_err(), "it is not a JSON object");
    }

    #[test]
    fn a_turn_comes_back() {
        let of = |state: &[u8]| Turn {
            state: state.to_vec(),
            completion: "a b".to_owned(),
            completion_tokens: 2,
            finished: false,
            number: 3,
            max_turns: 5,
        };
        for state in [&b"{\"x\":1}"[..], &[255, 0, 16], &[]] {
            assert_eq!(read_episode(&turn(&of(state))), Ok(Episode::Turn(of(state))));
        }
        assert!(read_episode(&json!({"turn": {"state": {"hex": "0g"}}})).unwrap_err().starts_with("`state`"));
        assert!(read_episode(&json!({"turn": {"state": {"hex": "123"}}})).unwrap_err().starts_with("`state`"));
    }

    #[test]
    fn an_episode_is_a_row_and_completions() {
        let value = json!({"row": {"n": 1}, "completions": ["one", {"completion": "two", "finished": false}]});
        let Ok(Episode::Whole { row, turns }) = read_episode(&value) else { panic!("it is an episode") };
        assert_eq!((row.as_str(), turns.len()), ("{\"n\":1}", 2));
        assert_eq!((turns[0].finished, turns[1].finished, turns[1].max_turns), (true, false, 8));
        assert_eq!(read_episode(&json!({"completions": []})).unwrap_err(), "`row` must be a JSON object");
        let many = json!({"row": {}, "completions": ["a", "b"], "max_turns": 1});
        assert_eq!(read_episode(&many).unwrap_err(), "there are 2 completions, and `max_turns` is 1");
        assert_eq!(read_episode(&opening("{}")), Ok(Episode::Whole { row: "{}".to_owned(), turns: Vec::new() }));
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let segments = Text::Segments(vec![
            Segment { text: "a".to_owned(), train: false, weight: None },
            Segment { text: "b".to_owned(), train: true, weight: Some(0.1) },
        ]);
        assert_eq!(
            rendered(&Ok(Some(Sample::Supervised(segments)))).to_string(),
            r#"{"supervised":{"segments":[{"text":"a","train":false},{"text":"b","train":true,"weight":0.1}]}}"#
        );
        assert_eq!(rendered(&Ok(None)).to_string(), r#"{"skipped":true}"#);
        assert_eq!(score(&Score { value: None, note: None }).to_string(), r#"{"value":null}"#);
    }

    #[test]
    fn losses_that_are_not_numbers_can_be_written() {
        let line = read_observation(&json!({"step": 3, "metrics": {"loss": "NaN", "grad_norm": 1}})).unwrap();
        assert!(line.step == 3 && line.metrics[0].value.is_nan());
        assert!(read_observation(&json!({"metrics": {"loss": "many"}})).unwrap_err().contains("`loss`"));
    }
}
