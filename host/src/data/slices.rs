//! Some rows of a source: those of a slice (`datasets[].split`), those of a shard (`datasets[].shards`), sources one after
//! another.

use std::ops::Range;

use engine::rng::Philox;
use plugin_runtime::PluginError;
use plugin_runtime::types::RowBatch;

use super::render::BATCH;
use super::shuffle::shuffle;
use super::source::Source;

/// RNG stream of the rows of shards; other rooms use other numbers.
const SHARD_STREAM: u64 = 0x7368_6172;

/// How many rows a source has, by reading them; or some number from `enough` on. A row that cannot be used is one too.
pub fn count(source: &mut dyn Source, enough: Option<u64>) -> Result<u64, PluginError> {
    let mut rows = 0;
    loop {
        let batch = source.next(BATCH)?;
        rows += batch.rows.len() as u64;
        if batch.done || enough.is_some_and(|enough| rows >= enough) {
            return Ok(rows);
        }
    }
}

/// The rows of sources one after another, of each only those in its range.
pub struct Slices {
    sources: Vec<(Box<dyn Source>, Range<u64>)>,
    /// The source that is being read.
    current: usize,
    /// Rows of it that were read.
    at: u64,
}

impl Slices {
    /// Nothing is read yet.
    pub fn new(sources: Vec<(Box<dyn Source>, Range<u64>)>) -> Self {
        Self { sources, current: 0, at: 0 }
    }
}

impl Source for Slices {
    fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError> {
        let mut rows = Vec::new();
        while let Some((source, range)) = self.sources.get_mut(self.current) {
            let mut is_done = self.at >= range.end;
            if !is_done {
                // What lies before the range is read in large steps, and never shown.
                let wanted = if self.at < range.start {
                    (range.start - self.at).min(BATCH.into())
                } else {
                    (range.end - self.at).min(max_rows.into())
                };
                let batch = source.next(wanted as u32)?;
                is_done = batch.done;
                let before = self.at < range.start;
                self.at += batch.rows.len() as u64;
                if !before {
                    rows = batch.rows;
                }
                is_done |= self.at >= range.end;
            }
            if is_done {
                (self.current, self.at) = (self.current + 1, 0);
            }
            if !rows.is_empty() {
                break;
            }
        }
        Ok(RowBatch { rows, done: self.current >= self.sources.len() })
    }
}

/// The rows of a source that a shard has.
pub struct Shard {
    source: Box<dyn Source>,
    /// For each row of the source whether it is one.
    has: Vec<bool>,
    at: usize,
}

impl Shard {
    /// The `index`th of `shards` parts of `rows` rows, which are as even as can be and drawn at random, as Axolotl shuffles
    /// before it takes a shard. The order stays that of the source.
    pub fn new(source: Box<dyn Source>, rows: u64, shards: u64, index: u64, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..rows as usize).collect();
        shuffle(&mut order, &mut Philox::new(seed, SHARD_STREAM));
        let (each, more) = (rows / shards, rows % shards);
        let start = each * index + more.min(index);
        let end = start + each + u64::from(index < more);
        let mut has = vec![false; rows as usize];
        for &row in &order[start as usize..end as usize] {
            has[row] = true;
        }
        Self { source, has, at: 0 }
    }

    /// Rows of it.
    pub fn rows(&self) -> usize {
        self.has.iter().filter(|&&has| has).count()
    }
}

impl Source for Shard {
    fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError> {
        loop {
            let batch = self.source.next(max_rows)?;
            let start = self.at;
            self.at += batch.rows.len();
            let has = |index: usize| self.has.get(start + index).copied().unwrap_or_default();
            let rows: Vec<_> =
                batch.rows.into_iter().enumerate().filter(|&(index, _)| has(index)).map(|(_, row)| row).collect();
            if batch.done || !rows.is_empty() {
                return Ok(RowBatch { rows, done: batch.done });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plugin_runtime::types::Row;

    use super::*;

    /// Rows of these numbers.
    struct Numbers(Range<u64>);

    impl Source for Numbers {
        fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError> {
            let rows = self.0.by_ref().take(max_rows as usize);
            let rows = rows.map(|row| Ok(Row { json: row.to_string(), position: String::new() })).collect();
            Ok(RowBatch { rows, done: self.0.is_empty() })
        }
    }

    fn all(source: &mut dyn Source, max_rows: u32) -> Vec<u64> {
        let mut rows = Vec::new();
        loop {
            let batch = source.next(max_rows).unwrap();
            assert!(batch.done || !batch.rows.is_empty());
            assert!(batch.rows.len() <= max_rows as usize);
            rows.extend(batch.rows.into_iter().map(|row| row.unwrap().json.parse::<u64>().unwrap()));
            if batch.done {
                return rows;
            }
        }
    }

    #[test]
    fn slices_give_their_rows_and_no_other() {
        let slices = |ranges: &[(Range<u64>, Range<u64>)]| {
            let source = |(rows, range): &(Range<u64>, Range<u64>)| {
                (Box::new(Numbers(rows.clone())) as Box<dyn Source>, range.clone())
            };
            Slices::new(ranges.iter().map(source).collect())
        };
        for max_rows in [1, 3, 100, 1000] {
            assert_eq!(all(&mut slices(&[(0..2000, 600..903)]), max_rows), (600..903).collect::<Vec<_>>());
            assert_eq!(all(&mut slices(&[(0..5, 0..2), (10..15, 4..9)]), max_rows), [0, 1, 14]);
            assert_eq!(all(&mut slices(&[(0..5, 3..3)]), max_rows), [0; 0]);
            assert_eq!(all(&mut slices(&[(0..5, 7..9), (0..0, 0..4), (0..2, 0..9)]), max_rows), [0, 1]);
        }
        assert_eq!(count(&mut Numbers(0..777), None).unwrap(), 777);
        assert!((300..777).contains(&count(&mut Numbers(0..777), Some(300)).unwrap()));
    }

    #[test]
    fn shards_are_all_rows_once() {
        let shard = |index| Shard::new(Box::new(Numbers(0..10)), 10, 3, index, 5);
        let mut rows: Vec<u64> = (0..3).flat_map(|index| all(&mut shard(index), 2)).collect();
        assert_eq!([shard(0).rows(), shard(1).rows(), shard(2).rows()], [4, 3, 3]);
        assert!(!rows.is_sorted() && all(&mut shard(1), 100).is_sorted());
        rows.sort_unstable();
        assert_eq!(rows, (0..10).collect::<Vec<_>>());
        assert_ne!(all(&mut shard(0), 9), all(&mut Shard::new(Box::new(Numbers(0..10)), 10, 3, 0, 6), 9));
    }
}
