//! The Axolotl config in a model card. Axolotl writes it there, as YAML within Markdown, when a run ends.

use crate::config::recipe::Recipe;

/// Bytes of a card.
pub const BYTES: u64 = 2 << 20;

/// What a card says.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The config, as it stands there.
    pub config: String,
    /// The licence that the card names.
    pub license: Option<String>,
    /// The version of Axolotl that it names.
    pub axolotl: Option<String>,
}

/// Reads a card. None where there is no config in it: a fenced block of YAML that names a `base_model`.
pub fn read(text: &str) -> Option<Card> {
    let (front, body) = front_matter(text);
    let blocks = blocks(body);
    let names_model = |block: &&String| block.lines().any(|line| line.starts_with("base_model:"));
    let config = blocks.iter().find(names_model)?.clone();
    let license = front.and_then(|front| value(front, "license"));
    let axolotl = body
        .lines()
        .find_map(|line| line.trim().strip_prefix("axolotl version:"))
        .map(|version| version.trim().trim_matches('`').chars().take(40).collect());
    Some(Card { config, license, axolotl })
}

/// The YAML at the start of a file, and what follows.
fn front_matter(text: &str) -> (Option<&str>, &str) {
    let text = text.trim_start_matches('\u{feff}');
    let Some(rest) = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n")) else { return (None, text) };
    match rest.find("\n---") {
        Some(end) => (Some(&rest[..end]), &rest[end + 4..]),
        None => (None, text),
    }
}

/// A value of one line.
fn value(yaml: &str, key: &str) -> Option<String> {
    let line = yaml.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let word = line.trim().trim_matches(['"', '\'']).to_owned();
    (!word.is_empty() && word.len() <= 100).then_some(word)
}

/// The contents of all fenced blocks.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        let fence: String = bare.chars().take_while(|c| *c == '`').collect();
        match &mut open {
            Some((opening, block)) if fence.len() >= opening.len() && bare.trim_end() == fence => {
                blocks.push(std::mem::take(block));
                open = None;
            }
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if fence.len() >= 3 => open = Some((fence, String::new())),
            None => {}
        }
    }
    blocks
}

/// A name for a recipe made of this text: what cannot stand in one is a `-`.
pub fn name_of(text: &str) -> String {
    let last = text.rsplit(['/', ':']).next().unwrap_or_default();
    let mut name = String::new();
    for character in last.split('@').next().unwrap_or_default().to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' => name.push(character),
            _ if !name.ends_with('-') && !name.is_empty() => name.push('-'),
            _ => {}
        }
    }
    name.truncate(60);
    let name = name.trim_end_matches('-').to_owned();
    if Recipe::is_name(&name) { name } else { "recipe".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "---
library_name: peft
license: apache-2.0
base_model: Qwen/Qwen2.5-0.5B
---

# A model

```python
print('no')
```

[<img src=\"x\">](https://github.com/axolotl-ai-cloud/axolotl)
<details><summary>See axolotl config</summary>

axolotl version: `0.9.2`
```yaml
base_model: Qwen/Qwen2.5-0.5B
datasets:
  - path: tatsu-lab/alpaca
    type: alpaca
```

</details><br>
";

    #[test]
    fn the_config_is_taken_out_of_a_card() {
        let card = read(CARD).unwrap();
        assert!(
            card.config.starts_with("base_model: Qwen") && card.config.ends_with("type: alpaca\n"),
            "{}",
            card.config
        );
        assert_eq!((card.license.as_deref(), card.axolotl.as_deref()), (Some("apache-2.0"), Some("0.9.2")));
        assert_eq!(read("# nothing\n```yaml\nx: 1\n```\n"), None);
        assert_eq!(read("---\nbase_model: x\n"), None);
        assert!(read("```yaml\nbase_model: x\n").is_none(), "a block without an end");
    }

    #[test]
    fn names_are_made_of_addresses() {
        assert_eq!(name_of("hf:Acme/My_Model-v1.5@main"), "my-model-v1-5");
        assert_eq!(name_of("///"), "recipe");
    }
}
