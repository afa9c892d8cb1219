//! Conversations: the template, and the tokens with which it ends a turn.

use plugin_sdk::rules::{Facts, Rule, Severity, Violation};
use plugin_sdk::serde_json::Value;

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "D22",
        severity: Severity::Error,
        summary: "conversations have a chat template",
        evidence: "Axolotl's get_chat_template: \"tokenizer's chat_template is null\"",
        check: no_template,
    },
    Rule {
        id: "M1",
        severity: Severity::Warning,
        summary: "the chat template ends turns with a token that is learned",
        evidence: "Axolotl's _validate_eot_and_eos_tokens: \"the turn terminator won't be trained\"",
        check: unknown_end,
    },
    Rule {
        id: "M2",
        severity: Severity::Warning,
        summary: "the end of a turn is one token of the vocabulary",
        evidence: "Axolotl's _validate_eot_and_eos_tokens: \"is encoded as multiple tokens\"",
        check: end_in_pieces,
    },
    Rule {
        id: "M3",
        severity: Severity::Warning,
        summary: "eot_tokens are in the chat template",
        evidence: "Axolotl's _validate_eot_and_eos_tokens: \"not found in chat_template\"",
        check: end_that_never_comes,
    },
];

/// The bundled templates that end a turn with a token of their own, whatever the tokenizer's `eos_token` is.
const ENDS: [(&str, &str); 27] = [
    ("chatml", "<|im_end|>"),
    ("llama3", "<|eot_id|>"),
    ("llama3_2_vision", "<|eot_id|>"),
    ("llama4", "<|eot|>"),
    ("gemma", "<end_of_turn>"),
    ("gemma3", "<end_of_turn>"),
    ("gemma3n", "<end_of_turn>"),
    ("gemma4", "<turn|>"),
    ("gemma4_unified", "<turn|>"),
    ("cohere", "<|END_OF_TURN_TOKEN|>"),
    ("aya", "<|END_OF_TURN_TOKEN|>"),
    ("command_a", "<|END_OF_TURN_TOKEN|>"),
    ("command_a_rag", "<|END_OF_TURN_TOKEN|>"),
    ("command_a_tool_use", "<|END_OF_TURN_TOKEN|>"),
    ("phi_3", "<|end|>"),
    ("phi_35", "<|end|>"),
    ("phi_4", "<|im_end|>"),
    ("deepseek_v3", "<｜end▁of▁sentence｜>"),
    ("jamba", "<|eom|>"),
    ("qwen_25", "<|im_end|>"),
    ("qwen3", "<|im_end|>"),
    ("qwen3_5", "<|im_end|>"),
    ("qwen2_vl", "<|im_end|>"),
    ("falcon_h1", "<|im_end|>"),
    ("nemotron_h", "<|im_end|>"),
    ("exaone", "[|endofturn|]"),
    ("exaone4", "[|endofturn|]"),
];

/// The first dataset of conversations.
fn conversations(facts: &Facts) -> Option<String> {
    let is_chat = |dataset: &Value| {
        let strategy = dataset.get("type").unwrap_or(&Value::Null);
        strategy.get("name").unwrap_or(strategy) == "chat_template"
    };
    facts.list("datasets").iter().position(is_chat).map(|index| format!("datasets[{index}].type"))
}

/// The end that a bundled template writes.
fn own_end(facts: &Facts) -> Option<&'static str> {
    let name = facts.text("chat_template")?;
    ENDS.iter().find(|(template, _)| *template == name).map(|&(_, end)| end)
}

/// The template as far as it is known: its text, or the one token that matters of a bundled one.
fn template(facts: &Facts) -> Option<&str> {
    match facts.text("chat_template")? {
        "tokenizer_default" => facts.model("tokenizer.chat_template").as_str(),
        "jinja" => facts.text("chat_template_jinja").filter(|text| text.contains("{{") || text.contains("{%")),
        "alpaca" => Some("eos_token"),
        _ => own_end(facts),
    }
}

fn ends_of_turn(facts: &Facts) -> impl Iterator<Item = &str> {
    facts.list("eot_tokens").iter().filter_map(Value::as_str)
}

/// False only if it is certain that the model has no such token.
fn may_be_a_token(facts: &Facts, token: &str) -> bool {
    facts.model("tokenizer.added_tokens").as_array().is_none_or(|all| all.iter().any(|added| added == token))
}

fn no_template(facts: &Facts) -> Option<Violation> {
    let has_own = facts.model("tokenizer.has_chat_template").as_bool()?;
    let dataset = conversations(facts)?;
    (!has_own && facts.text("chat_template") == Some("tokenizer_default")).then(|| {
        let why = "`chat_template: tokenizer_default` is the one that comes with the tokenizer, and this one has none";
        Violation::at(dataset, "conversations, but the model has no chat template", why)
            .help("set `chat_template`: `chatml`, `llama3` or `alpaca`, or `jinja` with `chat_template_jinja`")
    })
}

fn unknown_end(facts: &Facts) -> Option<Violation> {
    conversations(facts)?;
    let (template, eos) = (template(facts)?, facts.model("tokenizer.eos_token").as_str()?);
    let is_learned =
        template.contains("eos_token") || template.contains(eos) || ends_of_turn(facts).any(|t| template.contains(t));
    let end = own_end(facts);
    if is_learned || end.is_some_and(|end| !may_be_a_token(facts, end)) {
        return None;
    }
    let path = if facts.is_given("chat_template") { "chat_template" } else { "base_model" };
    let why = format!(
        "a turn ends at the tokenizer's `eos_token` (`{eos}`) or one of `eot_tokens`; without it in the template, the model never learns to stop"
    );
    let violation = Violation::at(path, "the end of a turn is not learned with this chat template", why);
    Some(match end {
        Some(end) => {
            violation.help(format!("set `eot_tokens: [\"{end}\"]`")).set("eot_tokens", format_args!("[\"{end}\"]"))
        }
        None => violation.help("name the token with which the template ends a turn in `eot_tokens`"),
    })
}

fn end_in_pieces(facts: &Facts) -> Option<Violation> {
    conversations(facts)?;
    let end = own_end(facts).filter(|end| !may_be_a_token(facts, end))?;
    let name = facts.text("chat_template")?;
    Some(
        Violation::at(
            "chat_template",
            format!("`{end}`, with which `{name}` ends a turn, is not a token of this model"),
            "it is read in pieces, and the model never learns to stop there",
        )
        .help("use the model's own template (`tokenizer_default`), `alpaca`, which ends turns with the tokenizer's `eos_token`, or a model that has the token"),
    )
}

fn end_that_never_comes(facts: &Facts) -> Option<Violation> {
    conversations(facts)?;
    let template = template(facts)?;
    // Of a bundled template not all is known; but it has one end.
    let index = facts.list("eot_tokens").iter().position(|token| {
        let token = token.as_str().unwrap_or_default();
        let is_eos = facts.model("tokenizer.eos_token") == token && template.contains("eos_token");
        !token.is_empty() && !template.contains(token) && !is_eos
    })?;
    let token = facts.list("eot_tokens")[index].as_str()?;
    Some(
        Violation::at(
            format!("eot_tokens[{index}]"),
            format!("the chat template never writes `{token}`"),
            "a token ends a turn where the template puts it",
        )
        .help("name the token with which the template ends a turn, or delete the entry"),
    )
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use crate::tests::fired;

    /// What fires for conversations and this tokenizer.
    fn chat(more: Value, tokenizer: Value) -> Vec<String> {
        let mut config =
            json!({"datasets": [{"path": "a", "type": "alpaca"}, {"path": "b", "type": {"name": "chat_template"}}]});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fired(config, json!({"tokenizer": tokenizer}))
    }

    fn tokenizer() -> Value {
        json!({"has_chat_template": true, "chat_template": "{{ m }}<|im_end|>", "eos_token": "<|im_end|>",
            "added_tokens": ["<|im_end|>", "</s>"]})
    }

    #[test]
    fn d22_a_template_for_conversations() {
        let none = json!({"has_chat_template": false, "eos_token": "</s>"});
        assert_eq!(chat(json!({}), none.clone()), ["D22"]);
        assert_eq!(chat(json!({"chat_template": "alpaca"}), none.clone()), [""; 0]);
        assert_eq!(fired(json!({}), json!({"tokenizer": none})), [""; 0]);
        assert_eq!(chat(json!({}), tokenizer()), [""; 0]);
    }

    #[test]
    fn m1_an_end_that_is_learned() {
        let mut other = tokenizer();
        other["eos_token"] = json!("</s>");
        assert_eq!(chat(json!({}), other.clone()), ["M1"]);
        assert_eq!(chat(json!({"chat_template": "chatml"}), other.clone()), ["M1"]);
        assert_eq!(chat(json!({"chat_template": "chatml", "eot_tokens": ["<|im_end|>"]}), other.clone()), [""; 0]);
        assert_eq!(chat(json!({"chat_template": "alpaca"}), other.clone()), [""; 0]);
        let own = |text: &str| json!({"chat_template": "jinja", "chat_template_jinja": text});
        assert_eq!(chat(own("{{ m }}<end>"), other.clone()), ["M1"]);
        assert_eq!(chat(own("{{ m + eos_token }}"), other.clone()), [""; 0]);
        // A file that the rule does not see.
        assert_eq!(chat(own("template.jinja"), other), [""; 0]);
    }

    #[test]
    fn m2_an_end_that_is_a_token() {
        let mut other = tokenizer();
        other["added_tokens"] = json!(["</s>"]);
        assert_eq!(chat(json!({"chat_template": "llama3"}), other.clone()), ["M2"]);
        other["added_tokens"] = Value::Null;
        assert_eq!(chat(json!({"chat_template": "llama3", "eot_tokens": ["<|eot_id|>"]}), other), [""; 0]);
        assert_eq!(chat(json!({"chat_template": "chatml"}), tokenizer()), [""; 0]);
    }

    #[test]
    fn m3_ends_that_the_template_writes() {
        assert_eq!(chat(json!({"eot_tokens": ["<|im_end|>", "<|end|>"]}), tokenizer()), ["M3"]);
        assert_eq!(chat(json!({"eot_tokens": ["<|im_end|>"]}), tokenizer()), [""; 0]);
        let alpaca = json!({"chat_template": "alpaca", "eot_tokens": ["<|im_end|>"]});
        assert_eq!(chat(alpaca, tokenizer()), [""; 0]);
    }
}
