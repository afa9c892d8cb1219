//! What a resume needs of a trainer, given and taken back.

use super::{Arena, Trained, Trainer};
use crate::EngineError;
use crate::architecture::layout::Slot;
use crate::kernels::{Kernels, at, at_mut};
use crate::model::Model;
use crate::optim::AdamW;

/// What the names of trained values begin with in a state, beside those of the optimizer.
const PARAMETER: &str = "param";

impl<K: Kernels> Trainer<K> {
    /// Every trained tensor and its two moments, named `param/…`, `exp_avg/…` and `exp_avg_sq/…`: with the number of steps
    /// done, all that a resume needs.
    ///
    /// # Errors
    /// Whatever `visit` returns.
    pub fn visit_state<E>(&self, visit: &mut dyn FnMut(&str, &[usize], &[f32]) -> Result<(), E>) -> Result<(), E> {
        for (index, kind) in AdamW::<K>::STATE.into_iter().enumerate() {
            for Trained { slot, arena, offset } in self.trained() {
                let mut values = vec![0.0; slot.len];
                let state = &self.optimizer.state(self.group(arena))[index];
                self.model.kernels.download(at(state, offset), &mut values);
                visit(&format!("{kind}/{}", slot.name), &slot.shape, &values)?;
            }
        }
        for slot in self.trainable() {
            let values = self.parameter(&slot.name).unwrap_or_default();
            visit(&format!("{PARAMETER}/{}", slot.name), &slot.shape, &values)?;
        }
        Ok(())
    }

    /// Names and shapes of what [`visit_state`](Self::visit_state) gives, in its order.
    pub fn state_specs(&self) -> Vec<(String, Vec<usize>)> {
        let spec = |kind: &str, slot: &Slot| (format!("{kind}/{}", slot.name), slot.shape.clone());
        let trained = self.trained();
        let moments = AdamW::<K>::STATE
            .into_iter()
            .flat_map(|kind| trained.iter().map(move |Trained { slot, .. }| spec(kind, slot)));
        moments.chain(self.trainable().into_iter().map(|slot| spec(PARAMETER, slot))).collect()
    }

    /// Takes a state back. `read` gives the tensor of a name, or none where there is none.
    ///
    /// # Errors
    /// Whatever `read` returns, and [`EngineError::State`] for a tensor that is missing or has another size.
    pub fn load_state<E: From<EngineError>>(
        &mut self,
        steps: u64,
        read: &mut dyn FnMut(&str) -> Result<Option<Vec<f32>>, E>,
    ) -> Result<(), E> {
        if let Some(lisa) = self.options.lisa {
            // What was saved is of the step that was done.
            self.draw(lisa, lisa.round(steps.saturating_sub(1)));
        }
        let own = |Trained { slot, arena, offset }: Trained<'_>| (slot.clone(), arena, offset);
        let trained: Vec<(Slot, Arena, usize)> = self.trained().into_iter().map(own).collect();
        let mut values_of = |kind: &str, slot: &Slot| {
            let name = format!("{kind}/{}", slot.name);
            let wrong = |reason: String| E::from(EngineError::State { reason });
            let values = read(&name)?.ok_or_else(|| wrong(format!("it has no `{name}`")))?;
            if values.len() == slot.len {
                return Ok(values);
            }
            Err(wrong(format!("`{name}` has {} elements, not {}", values.len(), slot.len)))
        };
        for (index, kind) in AdamW::<K>::STATE.into_iter().enumerate() {
            for (slot, arena, offset) in &trained {
                let group = self.group(*arena);
                let state = &mut self.optimizer.state_mut(group)[index];
                self.model.kernels.upload(&values_of(kind, slot)?, at_mut(state, *offset));
            }
        }
        let trainable: Vec<Slot> = self.trainable().into_iter().cloned().collect();
        for slot in &trainable {
            let values = values_of(PARAMETER, slot)?;
            let Model { kernels, lora, .. } = &mut self.model;
            match lora {
                Some(lora) if slot.role.is_none() => lora.put(kernels, slot, &values),
                _ => self.model.put(&slot.name, &values),
            }
        }
        self.optimizer.steps = steps;
        self.model.measure();
        Ok(())
    }
}
