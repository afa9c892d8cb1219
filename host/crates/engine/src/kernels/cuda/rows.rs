//! What the device knows of the rows of a pass: one block of tables, built on the host and sent in one copy.

use std::sync::Arc;

use super::Device;
use super::driver::{Context, Event, Pinned};
use super::plan::{PIECE, Places, padded};
use crate::IGNORE;
use crate::kernels::Rows;

/// The slot of a segment that is all there is of its token (`embedding.cu`).
const DIRECT: u32 = u32::MAX;

/// Rows of a tile of attention: of queries in the forward pass, of queries and of keys in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    pub(super) forward: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

/// A table of the block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Bytes from the start of the block.
    pub(super) offset: usize,
    /// Entries.
    pub(super) count: usize,
}

/// The tables of a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    /// Rows of the pass, those that only fill it up among them.
    pub(super) n: usize,
    /// Tokens, `[n]`; rows beyond the batch have token 0.
    pub(super) ids: Table,
    /// Positions, `[n]`.
    pub(super) positions: Table,
    /// Targets, `[n + 1]`; the last one is [`IGNORE`].
    pub(super) targets: Table,
    /// Weights of the targets, `[n + 1]`, or none.
    pub(super) weights: Option<Table>,
    /// The factor of the gradients.
    pub(super) scale: Table,
    /// Rows that have a target, filled up with row `n`, which has none.
    pub(super) active: Table,
    /// How many of `active` have a target.
    pub(super) active_rows: usize,
    /// See `embedding.cu`.
    pub(super) order: Table,
    /// See `embedding.cu`.
    pub(super) segments: Table,
    /// See `embedding.cu`.
    pub(super) runs: Table,
    /// Tiles of queries of the forward pass, those with most work first.
    pub(super) forward: Table,
    /// Tiles of queries of the backward pass, likewise.
    pub(super) queries: Table,
    /// Tiles of keys of the backward pass, likewise.
    pub(super) keys: Table,
    /// Slots of a cache.
    pub(super) slots: Table,
    /// Entries that are seen of them.
    pub(super) lens: Table,
}

/// Where rows of each token are.
struct Sorted {
    order: Vec<u32>,
    segments: Vec<[u32; 4]>,
    runs: Vec<[u32; 4]>,
}

fn sorted(ids: &[u32]) -> Sorted {
    let mut keys: Vec<u64> = ids.iter().enumerate().map(|(row, &id)| u64::from(id) << 32 | row as u64).collect();
    keys.sort_unstable();
    let (mut segments, mut runs, mut slots) = (Vec::new(), Vec::new(), 0);
    for run in keys.chunk_by(|a, b| a >> 32 == b >> 32).scan(0, |start, run| {
        let first = *start;
        *start += run.len();
        Some((first, run))
    }) {
        let (first, rows) = run;
        let (id, pieces) = ((rows[0] >> 32) as u32, rows.len().div_ceil(PIECE));
        if pieces > 1 {
            runs.push([slots, pieces as u32, id, 0]);
        }
        for piece in 0..pieces {
            let start = piece * PIECE;
            let slot = if pieces == 1 { DIRECT } else { slots + piece as u32 };
            segments.push([(first + start) as u32, (rows.len() - start).min(PIECE) as u32, id, slot]);
        }
        slots += if pieces > 1 { pieces as u32 } else { 0 };
    }
    Sorted { order: keys.iter().map(|&key| key as u32).collect(), segments, runs }
}

/// Tiles of `size` rows of each document. A tile of queries sees all keys up to its end, a tile of keys is seen by all
/// queries from its start: `work` says how much of it there is.
fn tiles(doc_lens: &[u32], size: usize, work: impl Fn(&[u32; 4]) -> u32) -> Vec<[u32; 4]> {
    let mut tiles = Vec::new();
    let mut first = 0;
    for &length in doc_lens {
        tiles.extend((0..length).step_by(size).map(|start| [first, length, start, 0]));
        first += length;
    }
    tiles.sort_by_key(|tile| std::cmp::Reverse(work(tile)));
    tiles
}

/// The block as it is built.
#[derive(Default)]
struct Block {
    places: Places,
    bytes: Vec<u8>,
}

impl Block {
    fn table<const N: usize>(&mut self, entries: impl ExactSizeIterator<Item = [u32; N]>) -> Table {
        let count = entries.len();
        let offset = self.places.take(count * N * 4);
        self.bytes.resize(offset, 0);
        self.bytes.extend(entries.flatten().flat_map(u32::to_ne_bytes));
        Table { offset, count }
    }

    fn words(&mut self, words: &[u32]) -> Table {
        self.table(words.iter().map(|&word| [word]))
    }
}

impl Tables {
    /// The tables of a pass, and the block that they lie in.
    pub(super) fn new(rows: &Rows<'_>, sizes: Tiles) -> (Self, Vec<u8>) {
        let (length, n) = (rows.ids.len(), padded(rows.ids.len()));
        let filled = |words: &[u32], with: u32, to: usize| {
            let mut filled = words.to_vec();
            filled.resize(to, with);
            filled
        };
        let mut block = Block::default();
        let mut tables = Self {
            n,
            ids: block.words(&filled(rows.ids, 0, n)),
            positions: block.words(&filled(rows.positions, 0, n)),
            ..Self::default()
        };
        if let Some(targets) = rows.targets {
            tables.targets = block.words(&filled(targets.tokens, IGNORE, n + 1));
            tables.weights = targets.weights.map(|weights| {
                let bits: Vec<u32> = weights.iter().map(|weight| weight.to_bits()).collect();
                block.words(&filled(&bits, 0, n + 1))
            });
            tables.scale = block.words(&[targets.scale.to_bits()]);
            let active: Vec<u32> = (0..length as u32).filter(|&row| targets.tokens[row as usize] != IGNORE).collect();
            tables.active_rows = active.len();
            tables.active = block.words(&filled(&active, n as u32, padded(active.len())));
            let Sorted { order, segments, runs } = sorted(rows.ids);
            tables.order = block.words(&order);
            tables.segments = block.table(segments.into_iter());
            tables.runs = block.table(runs.into_iter());
        }
        if !rows.doc_lens.is_empty() {
            let mut documents = rows.doc_lens.to_vec();
            if n > length {
                documents.push((n - length) as u32);
            }
            let seen = |[_, length, start, _]: &[u32; 4], size: usize| (start + size as u32).min(*length);
            let mut of_queries =
                |size: usize| block.table(tiles(&documents, size, |tile| seen(tile, size)).into_iter());
            tables.forward = of_queries(sizes.forward);
            if rows.targets.is_some() {
                tables.queries = of_queries(sizes.queries);
                let of_keys = tiles(&documents, sizes.keys, |[_, length, start, _]| length - start);
                tables.keys = block.table(of_keys.into_iter());
            }
        }
        if let Some(cached) = rows.cached {
            tables.slots = block.words(cached.slots);
            tables.lens = block.words(cached.lens);
        }
        block.bytes.resize(block.places.bytes(), 0);
        (tables, block.bytes)
    }
}

/// Pinned memory in turns: one is filled while copies of the others may still be under way.
#[derive(Debug, Default)]
pub(super) struct Feeder {
    turns: [Option<(Pinned, Event)>; 2],
    next: usize,
}

impl Feeder {
    /// Queues a copy of bytes to the device.
    pub(super) fn send(&mut self, context: &Context, bytes: &[u8], to: u64) {
        let turn = &mut self.turns[self.next];
        self.next = (self.next + 1) % 2;
        if let Some((_, event)) = turn {
            context.wait_for(event);
        }
        if turn.as_ref().is_none_or(|(pinned, _)| pinned.len() < bytes.len()) {
            if let Some((pinned, event)) = turn.take() {
                context.unpin(pinned);
                context.drop_event(&event);
            }
            *turn = context.pin(bytes.len().next_power_of_two()).map(|pinned| (pinned, context.event()));
        }
        if let Some((pinned, event)) = turn {
            pinned.bytes()[..bytes.len()].copy_from_slice(bytes);
            context.send(pinned, bytes.len(), to);
            context.record(event);
        }
    }

    /// Gives everything back, once nothing is under way.
    pub(super) fn close(&mut self, context: &Context) {
        for (pinned, event) in self.turns.iter_mut().filter_map(Option::take) {
            context.wait_for(&event);
            context.unpin(pinned);
            context.drop_event(&event);
        }
    }
}

/// The rows of a pass on the device.
#[derive(Debug)]
pub struct CudaRows {
    device: Arc<Device>,
    feeder: Feeder,
    block: u64,
    capacity: usize,
    pub(super) tables: Tables,
}

impl CudaRows {
    pub(super) fn new(device: &Arc<Device>) -> Self {
        Self { device: Arc::clone(device), feeder: Feeder::default(), block: 0, capacity: 0, tables: Tables::default() }
    }

    /// Puts other rows in the place of those that were there.
    pub(super) fn put(&mut self, rows: &Rows<'_>, sizes: Tiles) {
        let context = &self.device.context;
        let (tables, bytes) = Tables::new(rows, sizes);
        if bytes.len() > self.capacity {
            context.free(self.block);
            self.capacity = bytes.len().next_power_of_two();
            self.block = context.alloc(self.capacity);
        }
        self.feeder.send(context, &bytes, self.block);
        self.tables = tables;
    }

    /// Where a table is.
    pub(super) fn at(&self, table: Table) -> u64 {
        self.block + table.offset as u64
    }
}

impl Drop for CudaRows {
    fn drop(&mut self) {
        let context = &self.device.context;
        self.feeder.close(context);
        context.free(self.block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Cached, Targets};

    const SIZES: Tiles = Tiles { forward: 128, queries: 64, keys: 64 };

    fn read<const N: usize>(bytes: &[u8], table: Table) -> Vec<[u32; N]> {
        let word = |index: usize| {
            let at = table.offset + 4 * index;
            u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
        };
        (0..table.count).map(|entry| std::array::from_fn(|part| word(entry * N + part))).collect()
    }

    #[test]
    fn rows_are_filled_up_to_whole_tiles() {
        let tokens = [3, IGNORE, 4, 5, IGNORE];
        let targets = Targets { tokens: &tokens, weights: Some(&[1.0, 0.0, 0.5, 2.0, 0.0]), scale: 0.25 };
        let rows = Rows {
            ids: &[7, 8, 7, 9, 8],
            positions: &[0, 1, 0, 1, 2],
            doc_lens: &[2, 3],
            targets: Some(targets),
            cached: None,
        };
        let (tables, bytes) = Tables::new(&rows, SIZES);
        assert_eq!(tables.n, 128);
        let ids = read::<1>(&bytes, tables.ids).concat();
        assert_eq!((&ids[..6], ids.len()), (&[7, 8, 7, 9, 8, 0][..], 128));
        let targets = read::<1>(&bytes, tables.targets).concat();
        assert_eq!((&targets[..5], targets.len()), (&tokens[..], 129));
        assert!(targets[5..].iter().all(|&target| target == IGNORE));
        let weights = read::<1>(&bytes, tables.weights.unwrap()).concat();
        assert_eq!((f32::from_bits(weights[3]), weights[128], weights.len()), (2.0, 0, 129));
        assert_eq!(read::<1>(&bytes, tables.scale), [[0.25f32.to_bits()]]);
        let active = read::<1>(&bytes, tables.active).concat();
        assert_eq!((tables.active_rows, &active[..4], active.len()), (3, &[0, 2, 3, 128][..], 128));
        // The rows that fill up are a document.
        assert_eq!(read::<4>(&bytes, tables.forward), [[5, 123, 0, 0], [2, 3, 0, 0], [0, 2, 0, 0]]);
        assert_eq!(read::<4>(&bytes, tables.keys), [[5, 123, 0, 0], [5, 123, 64, 0], [2, 3, 0, 0], [0, 2, 0, 0]]);
        assert_eq!(read::<4>(&bytes, tables.queries), [[5, 123, 64, 0], [5, 123, 0, 0], [2, 3, 0, 0], [0, 2, 0, 0]]);
        // They have no part in the gradient of the embedding.
        assert_eq!(read::<1>(&bytes, tables.order).concat(), [0, 2, 1, 4, 3]);
        let segments = [[0, 2, 7, DIRECT], [2, 2, 8, DIRECT], [4, 1, 9, DIRECT]];
        assert_eq!(read::<4>(&bytes, tables.segments), segments);
        assert_eq!(tables.runs.count, 0);
    }

    #[test]
    fn rows_of_a_frequent_token_are_added_in_pieces() {
        let mut ids = vec![1; 70];
        ids.extend([0; 33]);
        ids.extend([2; 32]);
        let Sorted { order, segments, runs } = sorted(&ids);
        assert_eq!(order[..3], [70, 71, 72]);
        let expected =
            [[0, 32, 0, 0], [32, 1, 0, 1], [33, 32, 1, 2], [65, 32, 1, 3], [97, 6, 1, 4], [103, 32, 2, DIRECT]];
        assert_eq!(segments, expected);
        assert_eq!(runs, [[0, 2, 0, 0], [2, 3, 1, 0]]);
        let slots: u32 = runs.iter().map(|run| run[1]).sum();
        assert!(slots as usize * 4 <= super::super::plan::embedding_bytes(ids.len(), 1));
    }

    #[test]
    fn a_step_through_a_cache_has_no_tiles() {
        let cached = Some(Cached { slots: &[2, 0], lens: &[9, 4] });
        let rows = Rows { ids: &[5, 6], positions: &[8, 3], doc_lens: &[], targets: None, cached };
        let (tables, bytes) = Tables::new(&rows, SIZES);
        assert_eq!((tables.forward.count, tables.order.count, tables.targets.count), (0, 0, 0));
        assert_eq!(read::<1>(&bytes, tables.slots), [[2], [0]]);
        assert_eq!(read::<1>(&bytes, tables.lens), [[9], [4]]);
        assert_eq!(read::<1>(&bytes, tables.positions).concat()[..3], [8, 3, 0]);
    }
}
