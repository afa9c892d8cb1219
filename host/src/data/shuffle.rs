//! A random order.

use engine::rng::Philox;

/// Fisher–Yates.
pub fn shuffle<T>(items: &mut [T], rng: &mut Philox) {
    for last in (1..items.len()).rev() {
        let other = rng.below(last as u64 + 1) as usize;
        items.swap(last, other);
    }
}
