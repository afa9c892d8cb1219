//! An index of recipes: a file of JSON that anyone can host.

use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;

/// Bytes of an index.
pub const BYTES: u64 = 8 << 20;
/// Version of its format.
const FORMAT: u32 = 1;

#[derive(Debug, Deserialize)]
struct Index {
    v: u32,
    recipes: Vec<Entry>,
}

/// A recipe of an index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it is: `https://…`, `oci://…`, `hf:ORG/NAME`, or a path from the index.
    pub from: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Its licence.
    #[serde(default)]
    pub license: Option<String>,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl Entry {
    /// True if all words are in what it says of itself.
    pub fn has(&self, words: &[String]) -> bool {
        let all = format!("{} {} {}", self.name, self.description, self.tags.join(" ")).to_lowercase();
        words.iter().all(|word| all.contains(&word.to_lowercase()))
    }
}

/// Reads an index that is at `from`.
///
/// # Errors
/// What is none.
pub fn read(bytes: &[u8], from: &str) -> Result<Vec<Entry>, Diagnostic> {
    let invalid = |why: String| Diagnostic::error("recipe::index", format!("`{from}` is no index of recipes")).why(why);
    let index: Index = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if index.v != FORMAT {
        return Err(invalid(format!("it has format {}; this host reads {FORMAT}", index.v)));
    }
    let base = from.rsplit_once('/').map_or("", |(base, _)| base);
    let mut recipes = index.recipes;
    for entry in &mut recipes {
        let is_address = entry.from.contains("://") || entry.from.starts_with("hf:");
        if !is_address {
            if !crate::config::is_inside(&entry.from) {
                return Err(invalid(format!("`{}` leads out of its directory", entry.from)));
            }
            entry.from = if base.is_empty() { entry.from.clone() } else { format!("{base}/{}", entry.from) };
        }
    }
    Ok(recipes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_index() {
        let text =
            br#"{"v": 1, "recipes": [{"name": "a", "version": "1.0.0", "from": "a/recipe.yml", "tags": ["LoRA"]},
            {"name": "b", "version": "1.0.0", "from": "oci://x/b:1", "description": "Some words"}]}"#;
        let found = read(text, "https://x.org/recipes/index.json").unwrap();
        assert_eq!([&found[0].from, &found[1].from], ["https://x.org/recipes/a/recipe.yml", "oci://x/b:1"]);
        assert!(found[0].has(&["lora".into()]) && !found[0].has(&["lora".into(), "dpo".into()]));
        assert_eq!(read(text, "index.json").unwrap()[0].from, "a/recipe.yml");
        let out = br#"{"v": 1, "recipes": [{"name": "a", "version": "1", "from": "../a"}]}"#;
        assert!(read(out, "index.json").is_err());
        assert!(read(b"{\"v\": 2, \"recipes\": []}", "x").is_err() && read(b"[", "x").is_err());
    }
}
