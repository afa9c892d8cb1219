//! Documents of a batch that begin alike: what they share is read once.
//!
//! A group of completions has one prompt, and so has a pair of answers. Their prompt becomes a document of its own, which the
//! others continue: rows that nothing is learned from are not computed once for each of them. Every row sees the same keys as
//! without this, in the same order.

use crate::architecture::config::ModelConfig;
use crate::kernels::ALONE;
use crate::{Batch, IGNORE};

/// The share of rows that must be saved, as a divisor: below, a batch stays as it is.
const WORTH: usize = 8;
/// Documents that are looked at together, so that a batch of many short ones costs little.
const TOGETHER: usize = 256;

/// Where the positions of a batch are among the rows of a pass.
#[derive(Debug)]
pub(crate) struct Sharing {
    /// The row of each position.
    rows: Vec<u32>,
    /// The position whose token each row has: the first of those that share it.
    positions: Vec<u32>,
    /// Rows of each document of the pass, in order.
    doc_lens: Vec<u32>,
    /// For each of them the one that it continues, or [`ALONE`].
    continues: Vec<u32>,
}

/// A stretch of the documents, as they are sorted, and how many of their first tokens are read once.
struct Family {
    documents: std::ops::Range<usize>,
    prompt: usize,
}

impl Sharing {
    /// What the documents of a batch share, where that saves enough.
    pub(crate) fn of(batch: &Batch, config: &ModelConfig) -> Option<Self> {
        let documents: Vec<_> = batch.documents().collect();
        // The tokens that a document may share: those before the first that is learned from, of which it keeps one for itself.
        let heads: Vec<&[u32]> = documents
            .iter()
            .map(|document| {
                let all = &batch.targets[document.clone()];
                let silent = all.iter().position(|&target| target != IGNORE).unwrap_or(all.len());
                &batch.ids[document.clone()][..silent.min(all.len() - 1)]
            })
            .collect();
        // Documents that are rotated in different ways have no row alike.
        let is_long = |index: usize| config.rope_limit().is_some_and(|limit| documents[index].len() > limit);
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_by(|&a, &b| (is_long(a), heads[a]).cmp(&(is_long(b), heads[b])));
        let alike: Vec<usize> = order
            .windows(2)
            .map(|pair| {
                let [a, b] = [heads[pair[0]], heads[pair[1]]];
                let equal = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                if is_long(pair[0]) == is_long(pair[1]) { equal } else { 0 }
            })
            .collect();
        let (families, saved) = families(&alike, documents.len());
        if saved * WORTH < batch.ids.len() {
            return None;
        }
        let mut sharing = Self {
            rows: vec![0; batch.ids.len()],
            positions: Vec::with_capacity(batch.ids.len() - saved),
            doc_lens: Vec::new(),
            continues: Vec::new(),
        };
        let mut families: Vec<(Vec<usize>, usize)> = families
            .into_iter()
            .map(|family| {
                let mut members = order[family.documents].to_vec();
                members.sort_unstable();
                (members, family.prompt)
            })
            .collect();
        families.sort_unstable();
        for (members, prompt) in families {
            let head = documents[members[0]].start;
            let first = sharing.positions.len();
            let continued = if prompt > 0 { sharing.doc_lens.len() as u32 } else { ALONE };
            if prompt > 0 {
                sharing.document(head..head + prompt, ALONE);
            }
            for member in members {
                let document = documents[member].clone();
                for (row, position) in document.clone().take(prompt).enumerate() {
                    sharing.rows[position] = (first + row) as u32;
                }
                sharing.document(document.start + prompt..document.end, continued);
            }
        }
        Some(sharing)
    }

    /// Adds a document of the pass: these positions of the batch.
    fn document(&mut self, positions: std::ops::Range<usize>, continues: u32) {
        self.doc_lens.push(positions.len() as u32);
        self.continues.push(continues);
        for position in positions {
            self.rows[position] = self.positions.len() as u32;
            self.positions.push(position as u32);
        }
    }

    /// Rows of the pass.
    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// The row of a position of the batch.
    pub(crate) fn row(&self, position: usize) -> usize {
        self.rows[position] as usize
    }

    /// Rows of each document of the pass, and the one that it continues.
    pub(crate) fn documents(&self) -> (&[u32], &[u32]) {
        (&self.doc_lens, &self.continues)
    }

    /// What each row has, from what each position of the batch has: that of the first that shares it.
    pub(crate) fn by_row<T: Copy>(&self, values: &[T]) -> Vec<T> {
        self.positions.iter().map(|&position| values[position as usize]).collect()
    }

    /// The sums over the positions of each row, of `width` numbers a position.
    pub(crate) fn sum_by_row(&self, values: &[f32], width: usize) -> Vec<f32> {
        let mut sums = vec![0.0; self.len() * width];
        for (&row, values) in self.rows.iter().zip(values.chunks_exact(width)) {
            for (sum, value) in sums[row as usize * width..].iter_mut().zip(values) {
                *sum += value;
            }
        }
        sums
    }

    /// What each position has, from `width` numbers a row.
    pub(crate) fn by_position(&self, values: &[f32], width: usize) -> Vec<f32> {
        self.rows.iter().flat_map(|&row| &values[row as usize * width..][..width]).copied().collect()
    }
}

/// Sorted documents in stretches that share their first tokens, so that the most rows are saved, and how many those are.
/// `alike[i]` tokens are what documents `i` and `i + 1` share.
fn families(alike: &[usize], documents: usize) -> (Vec<Family>, usize) {
    // The most rows that the first documents save, and where the last of their stretches begins.
    let mut best: Vec<(usize, usize, usize)> = vec![(0, 0, 0)];
    for end in 1..=documents {
        let mut found = (best[end - 1].0, end - 1, 0);
        let mut prompt = usize::MAX;
        for start in (end.saturating_sub(TOGETHER)..end - 1).rev() {
            prompt = prompt.min(alike[start]);
            if prompt == 0 {
                break;
            }
            let saved = best[start].0 + (end - start - 1) * prompt;
            if saved > found.0 {
                found = (saved, start, prompt);
            }
        }
        best.push(found);
    }
    let (mut all, mut end) = (Vec::new(), documents);
    while end > 0 {
        let (_, start, prompt) = best[end];
        all.push(Family { documents: start..end, prompt });
        end = start;
    }
    (all, best[documents].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_rows_are_saved() {
        // Two prompts of 64 tokens, three answers each; both begin with the same 3 tokens. One document has nothing in common.
        let alike = [64, 64, 3, 64, 64, 0];
        let (families, saved) = families(&alike, 7);
        let found: Vec<_> = families.iter().rev().map(|family| (family.documents.clone(), family.prompt)).collect();
        assert_eq!(found, [(0..3, 64), (3..6, 64), (6..7, 0)]);
        assert_eq!(saved, 4 * 64);
        // What only begins alike is still shared where there is nothing better.
        assert_eq!(super::families(&[3, 3], 3).1, 6);
    }

    fn config() -> ModelConfig {
        let json = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 16, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"}"#;
        ModelConfig::from_json(json, std::path::Path::new("config.json")).unwrap()
    }

    #[test]
    fn a_prompt_is_read_once_and_nothing_that_is_learned_from_is_shared() {
        // The second and the fourth document have one prompt, of which the last token stays: its target is learned.
        let batch = Batch {
            ids: vec![9, 8, 1, 2, 3, 4, 7, 1, 2, 3, 5, 6],
            targets: vec![8, IGNORE, IGNORE, IGNORE, 4, IGNORE, IGNORE, IGNORE, IGNORE, 5, 6, IGNORE],
            weights: None,
            doc_lens: vec![2, 4, 1, 5],
        };
        let sharing = Sharing::of(&batch, &config()).unwrap();
        assert_eq!(sharing.documents(), (&[2, 2, 2, 3, 1][..], &[ALONE, ALONE, 1, 1, ALONE][..]));
        assert_eq!(sharing.by_row(&batch.ids), [9, 8, 1, 2, 3, 4, 3, 5, 6, 7]);
        assert_eq!(sharing.rows, [0, 1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 8]);
        let weights: Vec<f32> = (0..12).map(|index| index as f32).collect();
        let sums = sharing.sum_by_row(&weights, 1);
        assert_eq!(sums, [0.0, 1.0, 2.0 + 7.0, 3.0 + 8.0, 4.0, 5.0, 9.0, 10.0, 11.0, 6.0]);
        assert_eq!(sharing.by_position(&sums, 1)[7..8], [9.0]);
        let learned = Batch { targets: batch.ids.clone(), ..batch };
        assert!(Sharing::of(&learned, &config()).is_none());
    }
}
