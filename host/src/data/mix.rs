//! How often the samples of each dataset are seen in an epoch (`datasets[].weight`).

use engine::rng::Philox;

use super::shuffle::shuffle;

/// RNG stream of the samples that are seen once more or not at all; other rooms use other numbers.
const MIX_STREAM: u64 = 0x6d69_7865;

/// Datasets that follow one another, each with what its samples count. Without any, all samples are seen once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mix(Vec<Share>);

#[derive(Debug, Clone, PartialEq)]
struct Share {
    /// Samples of the dataset.
    samples: u32,
    weight: f64,
}

impl Share {
    /// Samples of an epoch; of a dataset that has any, one at least.
    fn seen(&self) -> u64 {
        let seen = (f64::from(self.samples) * self.weight).round() as u64;
        seen.max(u64::from(self.samples > 0))
    }
}

impl Mix {
    /// Of datasets with so many samples and such weights.
    pub fn new(datasets: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let share = |(samples, weight)| Share { samples: u32::try_from(samples).unwrap_or(u32::MAX), weight };
        let shares: Vec<Share> = datasets.into_iter().map(share).collect();
        let is_even = shares.iter().all(|share| share.seen() == u64::from(share.samples));
        Self(if is_even { Vec::new() } else { shares })
    }

    /// True where all samples are seen once.
    pub fn is_even(&self) -> bool {
        self.0.is_empty()
    }

    /// Samples that an epoch sees, of so many.
    pub fn samples(&self, all: usize) -> u64 {
        if self.is_even() { all as u64 } else { self.0.iter().map(Share::seen).sum() }
    }

    /// The number of each dataset that has samples, its samples and those that an epoch sees of it.
    pub fn datasets(&self) -> impl Iterator<Item = (usize, u32, u64)> + '_ {
        let has_any = self.0.iter().enumerate().filter(|(_, share)| share.samples > 0);
        has_any.map(|(index, share)| (index, share.samples, share.seen()))
    }

    /// How often each sample is seen in an epoch, on average.
    pub fn times(&self) -> impl Iterator<Item = f64> + '_ {
        let of = |share: &Share| share.seen() as f64 / f64::from(share.samples.max(1));
        self.0.iter().flat_map(move |share| std::iter::repeat_n(of(share), share.samples as usize))
    }

    /// The samples of an epoch, dataset after dataset, by their numbers. What is left of a weight beside whole times is another
    /// part of the dataset each epoch: all of it comes before any of it comes again.
    pub fn order(&self, all: usize, seed: u64, epoch: u64) -> Vec<u32> {
        if self.is_even() {
            return (0..all as u32).collect();
        }
        let (mut order, mut first) = (Vec::new(), 0);
        for (index, share) in self.0.iter().enumerate().filter(|(_, share)| share.samples > 0) {
            let (samples, own) = (u64::from(share.samples), first..first + share.samples);
            for _ in 0..share.seen() / samples {
                order.extend(own.clone());
            }
            let rest = share.seen() % samples;
            let start = u128::from(epoch) * u128::from(rest);
            // The samples in another order each time that all of them have come.
            let mut drawn = Vec::new();
            let (mut round, mut skipped) =
                ((start / u128::from(samples)) as u64, (start % u128::from(samples)) as usize);
            while drawn.len() < rest as usize {
                let mut shuffled: Vec<u32> = own.clone().collect();
                let stream = MIX_STREAM ^ ((index as u64) << 32) ^ (round << 48);
                shuffle(&mut shuffled, &mut Philox::new(seed, stream));
                drawn.extend(shuffled.into_iter().skip(skipped).take(rest as usize - drawn.len()));
                (round, skipped) = (round.wrapping_add(1), 0);
            }
            drawn.sort_unstable();
            order.extend(drawn);
            first += share.samples;
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_weights_repeat_and_broken_ones_go_through_all() {
        let mix = Mix::new([(3, 2.0), (10, 0.4), (0, 5.0), (4, 1.5), (2, 1.0)]);
        assert_eq!(mix.samples(19), 6 + 4 + 6 + 2);
        let epochs: Vec<Vec<u32>> = (0..10).map(|epoch| mix.order(19, 7, epoch)).collect();
        for order in &epochs {
            assert_eq!(order.len(), 18);
            assert_eq!(order[..6], [0, 1, 2, 0, 1, 2]);
            assert!(order[6..10].is_sorted() && order[6..10].iter().all(|sample| (3..13).contains(sample)));
            assert_eq!(order[10..14], [13, 14, 15, 16]);
            assert_eq!(order[16..], [17, 18]);
        }
        // Five epochs of two fifths are the dataset twice.
        for five in epochs.chunks(5) {
            let mut seen: Vec<u32> = five.iter().flat_map(|order| order[6..10].to_vec()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (3..13).flat_map(|sample| [sample, sample]).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0][6..10], epochs[1][6..10]);
        assert_eq!(mix.order(19, 7, 3), epochs[3]);
        let times: Vec<f64> = mix.times().collect();
        assert_eq!((times[0], times[3], times[13], times[18], times.len()), (2.0, 0.4, 1.5, 1.0, 19));
    }

    #[test]
    fn without_weights_an_epoch_is_what_it_was() {
        let mix = Mix::new([(3, 1.0), (2, 1.0)]);
        assert!(mix.is_even());
        assert_eq!((mix.samples(5), mix.order(5, 1, 9)), (5, vec![0, 1, 2, 3, 4]));
        assert_eq!(Mix::new([(100, 0.001)]).samples(100), 1, "no dataset is left out altogether");
    }
}
