//! What trained tensors have of their own in an optimizer step: a learning rate, whether they decay, which of their rows move.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::architecture::layout::Slot;
use crate::kernels::Segment;

/// A rule for the trained tensors whose names contain a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// Part of a tensor's name as transformers or PEFT has it.
    pub within: String,
    /// Factor of the learning rate.
    pub factor: f64,
    /// Weight decay applies to none of them; else it does as it would without a rule.
    pub keeps: bool,
}

/// The rules of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Of several that are for a tensor, the first one holds.
    pub rates: Vec<Rate>,
    /// Tensors of which these rows alone are trained: apart from each other, ascending, and none of them empty.
    pub rows: BTreeMap<String, Vec<Range<usize>>>,
}

impl Rules {
    fn rate(&self, name: &str) -> Option<&Rate> {
        self.rates.iter().find(|rate| name.contains(&rate.within))
    }

    /// Elements of a tensor that move, from its first one on.
    fn moving(&self, slot: &Slot) -> Vec<Range<usize>> {
        match self.rows.get(&slot.name) {
            None => std::iter::once(0..slot.len).collect(),
            Some(rows) => {
                let width = slot.len / slot.shape.first().copied().unwrap_or(1).max(1);
                rows.iter().map(|rows| rows.start * width..rows.end * width).collect()
            }
        }
    }

    /// What moves of these tensors, each with the first element of its gradient. Neighbours with one rule are joined.
    pub(crate) fn segments<'s>(&self, tensors: impl IntoIterator<Item = (&'s Slot, usize)>) -> Vec<Segment> {
        let mut all: Vec<Segment> = Vec::new();
        for (slot, gradient) in tensors {
            let rate = self.rate(&slot.name);
            let decays = slot.decays() && !rate.is_some_and(|rate| rate.keeps);
            let rate = rate.map_or(1.0, |rate| rate.factor as f32);
            for Range { start, end } in self.moving(slot) {
                let (parameter, gradient, len) = (slot.offset + start, gradient + start, end - start);
                let joins = |last: &&mut Segment| {
                    last.decays == decays
                        && last.rate.to_bits() == rate.to_bits()
                        && last.parameter + last.len == parameter
                        && last.gradient + last.len == gradient
                };
                match all.last_mut().filter(joins) {
                    Some(last) => last.len += len,
                    None => all.push(Segment { parameter, gradient, len, decays, rate }),
                }
            }
        }
        all
    }

    /// The gradients of these tensors' rows that do not move.
    pub(crate) fn still<'s>(&self, tensors: impl IntoIterator<Item = (&'s Slot, usize)>) -> Vec<Range<usize>> {
        let mut all = Vec::new();
        for (slot, gradient) in tensors {
            let mut next = 0;
            let ends = std::iter::once(slot.len..slot.len);
            for Range { start, end } in self.moving(slot).into_iter().chain(ends) {
                if start > next {
                    all.push(gradient + next..gradient + start);
                }
                next = end;
            }
        }
        all
    }

    /// Why these rules are not for a model with such tensors, if they are not.
    pub(crate) fn problem<'s>(&self, slot: impl Fn(&str) -> Option<&'s Slot>) -> Option<String> {
        for (name, rows) in &self.rows {
            let Some(slot) = slot(name) else { return Some(format!("the model has no tensor `{name}`")) };
            let size = slot.shape.first().copied().unwrap_or(0);
            let mut next = 0;
            for rows in rows {
                if rows.start < next || rows.start >= rows.end || rows.end > size {
                    return Some(format!("rows {rows:?} of `{name}`, which has {size}"));
                }
                next = rows.end;
            }
            if rows.is_empty() {
                return Some(format!("no row of `{name}` is trained"));
            }
        }
        let bad = self.rates.iter().find(|rate| !(rate.factor.is_finite() && rate.factor >= 0.0));
        bad.map(|rate| format!("the factor {} of the learning rate of `{}`", rate.factor, rate.within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, shape: [usize; 2], offset: usize) -> Slot {
        Slot { name: name.into(), shape: shape.to_vec(), offset, len: shape[0] * shape[1], layer: None, role: None }
    }

    fn segment(parameter: usize, gradient: usize, len: usize, decays: bool, rate: f32) -> Segment {
        Segment { parameter, gradient, len, decays, rate }
    }

    #[test]
    fn neighbours_with_one_rule_are_one_stretch() {
        let slots = [
            slot("a.lora_A.weight", [2, 8], 0),
            slot("a.lora_B.weight", [8, 2], 16),
            slot("b.lora_B.weight", [4, 2], 32),
        ];
        let tensors = || slots.iter().map(|slot| (slot, slot.offset));
        assert_eq!(Rules::default().segments(tensors()), [segment(0, 0, 40, true, 1.0)]);
        let rates = vec![
            Rate { within: "b.lora_B".into(), factor: 2.0, keeps: true },
            Rate { within: "lora_B".into(), factor: 16.0, keeps: false },
        ];
        let rules = Rules { rates, ..Rules::default() };
        let expected = [segment(0, 0, 16, true, 1.0), segment(16, 16, 16, true, 16.0), segment(32, 32, 8, false, 2.0)];
        assert_eq!(rules.segments(tensors()), expected);
        assert_eq!(rules.still(tensors()), []);
    }

    #[test]
    fn rows_that_are_not_named_stay() {
        let slots = [slot("embed", [10, 4], 100), slot("other", [2, 2], 140)];
        let tensors = || [(&slots[0], 0), (&slots[1], 40)];
        let rules = Rules { rows: [("embed".into(), vec![0..2, 7..9])].into(), ..Rules::default() };
        let moving = [segment(100, 0, 8, true, 1.0), segment(128, 28, 8, true, 1.0), segment(140, 40, 4, true, 1.0)];
        assert_eq!(rules.segments(tensors()), moving);
        assert_eq!(rules.still(tensors()), [8..28, 36..40]);
        let find = |name: &str| slots.iter().find(|slot| slot.name == name);
        assert_eq!(rules.problem(find), None);
        for (rows, wrong) in [
            (vec![0..2, 3..11], "rows 3..11 of `embed`, which has 10"),
            (vec![1..2, 3..3], "rows 3..3 of `embed`, which has 10"),
            (vec![4..6, 5..7], "rows 5..7 of `embed`, which has 10"),
            (vec![], "no row of `embed` is trained"),
        ] {
            let rules = Rules { rows: [("embed".into(), rows)].into(), ..Rules::default() };
            assert_eq!(rules.problem(find).as_deref(), Some(wrong));
        }
    }
}
