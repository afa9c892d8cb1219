//! LISA (Pan et al., "LISA: layerwise importance sampling for memory-efficient large language model fine-tuning", 2024): a few
//! decoder layers are trained at a time, others after every some steps.

use std::collections::BTreeSet;

use crate::rng;

/// How many layers are trained at a time, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lisa {
    /// Layers.
    pub layers: usize,
    /// Optimizer steps before others are drawn.
    pub interval: u64,
}

impl Lisa {
    /// The round that the step after `steps` finished ones is of.
    pub fn round(self, steps: u64) -> u64 {
        steps / self.interval.max(1)
    }

    /// The layers of a round, of a model that has `all`: drawn without putting any back, and not dependent on any other round.
    pub fn draw(self, seed: u64, round: u64, all: usize) -> BTreeSet<usize> {
        let mut layers: Vec<usize> = (0..all).collect();
        let stream = rng::stream_of("lisa");
        for drawn in 0..self.layers.min(all) {
            let index = round.wrapping_mul(all as u64).wrapping_add(drawn as u64);
            let [low, high, ..] = rng::block(seed, stream, index);
            let word = u64::from(high) << 32 | u64::from(low);
            // The high half of a product: as even as 64 bits are.
            let left = (all - drawn) as u128;
            layers.swap(drawn, drawn + ((u128::from(word) * left) >> 64) as usize);
        }
        layers.into_iter().take(self.layers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_drawn_as_often_and_each_round_by_itself() {
        let lisa = Lisa { layers: 3, interval: 20 };
        let mut counts = [0; 12];
        for round in 0..4000 {
            let drawn = lisa.draw(7, round, 12);
            assert_eq!(drawn.len(), 3);
            for layer in drawn {
                counts[layer] += 1;
            }
        }
        // A thousand each, of a spread of 27.
        assert!(counts.iter().all(|count| (870..1130).contains(count)), "{counts:?}");
        assert_ne!(lisa.draw(7, 0, 12), lisa.draw(8, 0, 12));
        assert_eq!(lisa.draw(7, 5, 3), (0..3).collect());
        assert_eq!([lisa.round(0), lisa.round(19), lisa.round(20)], [0, 0, 1]);
    }
}
