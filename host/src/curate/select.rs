//! Which of the rows that are left `keep` keeps: by their scores, or drawn at random.

use engine::rng::Philox;

use super::score::Scores;
use super::verdict::Verdict;
use crate::config::{Amount, Prefer};
use crate::data::shuffle::shuffle;

/// RNG stream of the draw; other rooms use other numbers.
const KEEP_STREAM: u64 = 0x6b65_6570;
/// Parts of the scores that `spread` draws from.
const PARTS: usize = 10;

/// Leaves out what is not kept. Every row that is left has a score, where there are scores.
pub(super) fn select(keep: Amount, by: Option<(&Scores, Prefer)>, seed: u64, verdicts: &mut [Verdict]) {
    // At random first: rows with the same score have no other order.
    let mut left: Vec<usize> = (0..verdicts.len()).filter(|&row| verdicts[row] == Verdict::Kept).collect();
    shuffle(&mut left, &mut Philox::new(seed, KEEP_STREAM));
    let count = usize::try_from(keep.of(left.len() as u64)).unwrap_or(usize::MAX);
    let Some((scores, prefer)) = by else {
        left.into_iter().skip(count).for_each(|row| verdicts[row] = Verdict::NotDrawn);
        return;
    };
    let score = |row: usize| scores.of[row].unwrap_or(f64::NAN);
    left.sort_by(|&a, &b| score(a).total_cmp(&score(b)));
    match prefer {
        Prefer::Low => {}
        Prefer::High => left.reverse(),
        Prefer::Spread => left = spread(&left, &mut Philox::new(seed, KEEP_STREAM + 1)),
    }
    left.into_iter().skip(count).for_each(|row| verdicts[row] = Verdict::Score);
}

/// Sorted rows in an order that begins with as many of each tenth, however many are taken: one of each in turn, drawn at random.
fn spread(sorted: &[usize], random: &mut Philox) -> Vec<usize> {
    let bound = |part: usize| part * sorted.len() / PARTS;
    let mut parts: Vec<Vec<usize>> = (0..PARTS).map(|part| sorted[bound(part)..bound(part + 1)].to_vec()).collect();
    for part in &mut parts {
        shuffle(part, random);
    }
    let most = parts.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..most).flat_map(|turn| parts.iter().filter_map(move |part| part.get(turn).copied()));
    in_turn.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScoreBy;

    /// The rows that are kept of rows with these scores.
    fn kept(of: &[f64], keep: Amount, prefer: Prefer, seed: u64) -> Vec<usize> {
        let scores = Scores { by: ScoreBy::Words, of: of.iter().copied().map(Some).collect(), asked: 0 };
        let mut verdicts = vec![Verdict::Kept; of.len()];
        select(keep, Some((&scores, prefer)), seed, &mut verdicts);
        assert!(verdicts.iter().all(|verdict| [Verdict::Kept, Verdict::Score].contains(verdict)));
        (0..of.len()).filter(|&row| verdicts[row] == Verdict::Kept).collect()
    }

    #[test]
    fn the_lowest_or_the_highest_stay() {
        let scores = [3.0, -1.0, 7.0, 0.5, 2.0];
        assert_eq!(kept(&scores, Amount::Count(2), Prefer::Low, 1), [1, 3]);
        assert_eq!(kept(&scores, Amount::Fraction(0.4), Prefer::High, 1), [0, 2]);
        assert_eq!(kept(&scores, Amount::Count(9), Prefer::High, 1), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn rows_with_the_same_score_are_drawn() {
        let of_seed = |seed| kept(&[1.0; 40], Amount::Count(8), Prefer::High, seed);
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1), of_seed(2));
        assert_ne!(of_seed(1), (32..40).collect::<Vec<_>>());
    }

    #[test]
    fn each_tenth_of_the_scores_has_as_many() {
        // The order of the rows has nothing to do with that of their scores.
        let scores: Vec<f64> = (0..200).map(|row| f64::from(row * 73 % 200)).collect();
        let tenths = |count: u64| {
            let mut tenths = [0; PARTS];
            let kept = kept(&scores, Amount::Count(count), Prefer::Spread, 5);
            assert_eq!(kept.len() as u64, count);
            for row in kept {
                tenths[scores[row] as usize / 20] += 1;
            }
            tenths
        };
        assert_eq!(tenths(50), [5; PARTS]);
        assert_eq!(tenths(53), [6, 6, 6, 5, 5, 5, 5, 5, 5, 5]);
        assert_eq!(tenths(200), [20; PARTS]);
        let of_seed = |seed| kept(&scores, Amount::Count(50), Prefer::Spread, seed);
        assert_eq!(of_seed(5), of_seed(5));
        assert_ne!(of_seed(5), of_seed(6));
        assert_eq!(kept(&[2.0, 1.0, 3.0], Amount::Count(3), Prefer::Spread, 0), [0, 1, 2]);
        assert_eq!(kept(&[2.0, 1.0, 3.0], Amount::Count(2), Prefer::Spread, 0).len(), 2);
    }
}
