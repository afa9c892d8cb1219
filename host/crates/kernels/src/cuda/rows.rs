//! What the device knows of the rows of a pass: one block of tables, built on the host and sent in one copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cudnn;
use super::device::Device;
use super::driver::{Context, Event, Pinned};
use super::plan::{Group, PIECE, Passes, Places, filled, padded};
use crate::IGNORE;
use crate::{AttentionShape, Rows};

/// The slot of a segment that is all there is of its token (`embedding.cu`).
const DIRECT: u32 = u32::MAX;

/// Rows of a tile of attention: of queries in the forward pass, of queries and of keys in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    pub(super) forward: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

/// Which passes of documents of some length cuDNN computes, and in which group; the others are for this trainer's kernels.
pub(super) type Grouping<'a> = (AttentionShape, &'a dyn Fn(usize) -> Option<(Group, Passes)>);

/// Documents that cuDNN computes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fused {
    pub(super) group: Group,
    pub(super) passes: Passes,
    lens: Table,
    packed: Table,
    out: Table,
    stats: Table,
}

/// A table of the block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Table {
    /// Bytes from the start of the block.
    pub(super) offset: usize,
    /// Entries.
    pub(super) count: usize,
}

/// The tables of a pass. What operations are asked for depends on it alone, not on what is in the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
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
    /// The factor of the gradients; right behind the weights.
    pub(super) scale: Table,
    /// Rows that have a target, filled up with row `n`, which has none.
    pub(super) active: Table,
    /// Random bits for dropout, 64.
    pub(super) dropout: Table,
    /// Size of the noise of each row, `[n]`, 0 for those that fill up; none where there is no noise.
    pub(super) noise: Option<Table>,
    /// See `embedding.cu`.
    pub(super) order: Table,
    /// See `embedding.cu`.
    pub(super) segments: Table,
    /// See `embedding.cu`.
    pub(super) runs: Table,
    /// Documents of which cuDNN computes a pass, or both; those of the tiles of a pass are the others.
    pub(super) fused: Vec<Fused>,
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

/// Rows by their token, those of one token as they come: digit by digit, since the device waits meanwhile.
fn by_token(ids: &[u32]) -> Vec<u32> {
    const DIGIT: u32 = 11;
    let bits = u32::BITS - ids.iter().max().map_or(0, |largest| largest.leading_zeros());
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    let mut next = vec![0; ids.len()];
    for shift in (0..bits).step_by(DIGIT as usize) {
        let digit = |row: u32| (ids[row as usize] >> shift) as usize & ((1 << DIGIT) - 1);
        let mut places = [0; 1 << DIGIT];
        for row in 0..ids.len() as u32 {
            places[digit(row)] += 1;
        }
        let mut end = 0;
        for place in &mut places {
            end += std::mem::replace(place, end);
        }
        for &row in &order {
            let place = &mut places[digit(row)];
            next[*place as usize] = row;
            *place += 1;
        }
        std::mem::swap(&mut order, &mut next);
    }
    order
}

fn sorted(ids: &[u32]) -> Sorted {
    let order = by_token(ids);
    let (mut segments, mut runs, mut slots, mut first) = (Vec::new(), Vec::new(), 0, 0);
    for rows in order.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]) {
        let (id, pieces) = (ids[rows[0] as usize], rows.len().div_ceil(PIECE));
        if pieces > 1 {
            runs.push([slots, pieces as u32, id, 0]);
        }
        for piece in 0..pieces {
            let start = piece * PIECE;
            let slot = if pieces == 1 { DIRECT } else { slots + piece as u32 };
            segments.push([first + start as u32, (rows.len() - start).min(PIECE) as u32, id, slot]);
        }
        slots += if pieces > 1 { pieces as u32 } else { 0 };
        first += rows.len() as u32;
    }
    Sorted { order, segments, runs }
}

/// A document among the rows of a pass.
#[derive(Debug, Clone, Copy)]
struct Document {
    first: u32,
    length: u32,
    /// The group in which cuDNN computes it, and which passes.
    fused: Option<(Group, Passes)>,
}

/// Tiles of `size` rows of each document. A tile of queries sees all keys up to its end, a tile of keys is seen by all
/// queries from its start: `work` says how much of it there is.
fn tiles(documents: &[Document], size: usize, work: impl Fn(&[u32; 4]) -> u32) -> Vec<[u32; 4]> {
    let mut tiles = Vec::new();
    for &Document { first, length, .. } in documents {
        tiles.extend((0..length).step_by(size).map(|start| [first, length, start, 0]));
    }
    tiles.sort_by_key(|tile| std::cmp::Reverse(work(tile)));
    tiles
}

/// The block as it is built.
#[derive(Default)]
struct Block {
    places: Places,
    words: Vec<u32>,
}

impl Block {
    fn table<const N: usize>(&mut self, entries: &[[u32; N]]) -> Table {
        let count = entries.len();
        let offset = self.places.take(count * N * 4);
        self.words.resize(offset / 4, 0);
        self.words.extend_from_slice(entries.as_flattened());
        Table { offset, count }
    }

    /// Entries, and some of zeros, which stand for nothing.
    fn filled(&mut self, mut entries: Vec<[u32; 4]>, usual: usize) -> Table {
        entries.resize(filled(entries.len(), usual), [0; 4]);
        self.table(&entries)
    }

    fn words(&mut self, words: &[u32]) -> Table {
        self.table(words.as_chunks::<1>().0)
    }

    /// Words, filled up with `value` until there are `count`.
    fn up_to(&mut self, count: usize, words: &[u32], value: u32) -> Table {
        let offset = self.places.take(count * 4);
        self.words.resize(offset / 4, 0);
        self.words.extend_from_slice(words);
        self.words.resize(offset / 4 + count, value);
        Table { offset, count }
    }

    /// The tables of documents that cuDNN computes together. Those that fill the group up have no rows.
    fn fused(&mut self, (group, passes): (Group, Passes), shape: AttentionShape, documents: &[Document]) -> Fused {
        let count = group.documents;
        let mut lens: Vec<u32> = documents.iter().map(|document| document.length).collect();
        lens.resize(count, 0);
        let mut firsts: Vec<u64> = documents.iter().map(|document| u64::from(document.first)).collect();
        let end = documents.last().map_or(0, |document| u64::from(document.first + document.length));
        firsts.resize(count + 1, end);
        let mut offsets = |width: usize| {
            let halves = |&first: &u64| {
                let [a, b, c, d, e, f, g, h] = (first * width as u64).to_ne_bytes();
                [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
            };
            self.table(&firsts.iter().map(halves).collect::<Vec<_>>())
        };
        let [packed, out, stats] = [shape.packed(), shape.output(), shape.heads].map(&mut offsets);
        Fused { group, passes, lens: self.words(&lens), packed, out, stats }
    }
}

/// The documents of a pass, and who computes them.
fn documents(doc_lens: &[u32], grouping: Option<Grouping<'_>>) -> Vec<Document> {
    let mut first = 0;
    let document = |&length: &u32| {
        let fused = grouping.and_then(|(_, group)| group(length as usize));
        first += length;
        Document { first: first - length, length, fused }
    };
    doc_lens.iter().map(document).collect()
}

impl Tables {
    /// The tables of a pass, and the block that they lie in.
    pub(super) fn new(rows: &Rows<'_>, sizes: Tiles, grouping: Option<Grouping<'_>>) -> (Self, Vec<u32>) {
        let (length, n) = (rows.ids.len(), padded(rows.ids.len()));
        let mut block = Block::default();
        let mut tables = Self {
            n,
            ids: block.up_to(n, rows.ids, 0),
            positions: block.up_to(n, rows.positions, 0),
            dropout: block.words(&[rows.dropout as u32, (rows.dropout >> 32) as u32]),
            ..Self::default()
        };
        tables.noise = rows.noise.map(|sizes| {
            let bits: Vec<u32> = sizes.iter().map(|size| size.to_bits()).collect();
            block.up_to(n, &bits, 0)
        });
        if let Some(targets) = rows.targets {
            tables.targets = block.up_to(n + 1, targets.tokens, IGNORE);
            tables.weights = targets.weights.map(|weights| {
                let bits: Vec<u32> = weights.iter().map(|weight| weight.to_bits()).collect();
                block.up_to(n + 1, &bits, 0)
            });
            tables.scale = block.words(&[targets.scale.to_bits()]);
            let active: Vec<u32> = (0..length as u32).filter(|&row| targets.tokens[row as usize] != IGNORE).collect();
            tables.active = block.up_to(padded(active.len()), &active, n as u32);
            let Sorted { order, segments, runs } = sorted(rows.ids);
            tables.order = block.up_to(n, &order, 0);
            tables.segments = block.filled(segments, n);
            tables.runs = block.filled(runs, n / PIECE);
        }
        if !rows.doc_lens.is_empty() {
            let mut documents = documents(rows.doc_lens, grouping);
            if n > length {
                documents.push(Document { first: length as u32, length: (n - length) as u32, fused: None });
            }
            if let Some((shape, _)) = grouping {
                let mut groups = BTreeMap::<usize, ((Group, Passes), Vec<Document>)>::new();
                for (fused, document) in documents.iter().filter_map(|document| Some((document.fused?, document))) {
                    groups.entry(fused.0.length).or_insert((fused, Vec::new())).1.push(*document);
                }
                let together = groups.values().flat_map(|(fused, documents)| {
                    documents.chunks(fused.0.documents).map(|documents| (*fused, documents))
                });
                tables.fused = together.map(|(fused, documents)| block.fused(fused, shape, documents)).collect();
            }
            let others = |fused: fn(Passes) -> bool| -> Vec<Document> {
                let is_other = |document: &&Document| !document.fused.is_some_and(|(_, passes)| fused(passes));
                documents.iter().filter(is_other).copied().collect()
            };
            let seen = |[_, length, start, _]: &[u32; 4], size: usize| (start + size as u32).min(*length);
            let mut of_queries = |documents: &[Document], size: usize| {
                block.filled(tiles(documents, size, |tile| seen(tile, size)), n / size)
            };
            tables.forward = of_queries(&others(|passes| passes.forward), sizes.forward);
            if rows.targets.is_some() {
                let others = others(|passes| passes.backward);
                tables.queries = of_queries(&others, sizes.queries);
                let of_keys = tiles(&others, sizes.keys, |[_, length, start, _]| length - start);
                tables.keys = block.filled(of_keys, n / sizes.keys);
            }
        }
        if let Some(cached) = rows.cached {
            tables.slots = block.words(cached.slots);
            tables.lens = block.words(cached.lens);
        }
        block.words.resize(block.places.bytes() / 4, 0);
        (tables, block.words)
    }
}

/// Pinned memory in turns: one is filled while copies of the others may still be under way.
#[derive(Debug, Default)]
pub(super) struct Feeder {
    turns: [Option<(Pinned, Event)>; 2],
    next: usize,
}

impl Feeder {
    /// Queues a copy of words to the device.
    pub(super) fn send(&mut self, context: &Context, words: &[u32], to: u64) {
        let bytes = size_of_val(words);
        let turn = &mut self.turns[self.next];
        self.next = (self.next + 1) % 2;
        if let Some((_, event)) = turn {
            context.wait_for(event);
        }
        if turn.as_ref().is_none_or(|(pinned, _)| pinned.len() < bytes) {
            if let Some((pinned, event)) = turn.take() {
                context.unpin(pinned);
                context.drop_event(&event);
            }
            *turn = context.pin(bytes.next_power_of_two()).map(|pinned| (pinned, context.event()));
        }
        if let Some((pinned, event)) = turn {
            for (place, word) in pinned.bytes().as_chunks_mut().0.iter_mut().zip(words) {
                *place = word.to_ne_bytes();
            }
            context.send(pinned, bytes, to);
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
    pub(super) fn put(&mut self, rows: &Rows<'_>, sizes: Tiles, grouping: Option<Grouping<'_>>) {
        let context = &self.device.context;
        let (tables, words) = Tables::new(rows, sizes, grouping);
        if size_of_val(&*words) > self.capacity {
            context.free(self.block);
            self.capacity = size_of_val(&*words).next_power_of_two();
            self.block = context.alloc(self.capacity);
        }
        self.feeder.send(context, &words, self.block);
        self.tables = tables;
    }

    /// Gives the targets other weights, and the gradients another factor.
    pub(super) fn weigh(&mut self, weights: &[f32], scale: f32) {
        let (Some(table), factor) = (self.tables.weights, self.tables.scale) else {
            panic!("the rows were staged without weights");
        };
        // Both tables in one copy: what lies between them is filling.
        let mut words = vec![0; (factor.offset - table.offset) / 4 + 1];
        for (word, weight) in words[..table.count].iter_mut().zip(weights) {
            *word = weight.to_bits();
        }
        *words.last_mut().expect("it has the factor") = scale.to_bits();
        self.feeder.send(&self.device.context, &words, self.at(table));
    }

    /// Where a table is.
    pub(super) fn at(&self, table: Table) -> u64 {
        self.block + table.offset as u64
    }

    /// Where the tables of documents are that cuDNN computes together.
    pub(super) fn fused(&self, fused: &Fused) -> cudnn::Tables {
        let [lens, packed, out, stats] = [fused.lens, fused.packed, fused.out, fused.stats].map(|table| self.at(table));
        cudnn::Tables { lens, packed, out, stats }
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
    use crate::{Cached, Targets};

    const SIZES: Tiles = Tiles { forward: 128, queries: 64, keys: 64 };

    fn read<const N: usize>(words: &[u32], table: Table) -> Vec<[u32; N]> {
        words[table.offset / 4..].as_chunks().0[..table.count].to_vec()
    }

    /// Entries but for those that fill up.
    fn entries(words: &[u32], table: Table) -> Vec<[u32; 4]> {
        let mut entries = read::<4>(words, table);
        assert_eq!(entries.len() % 8, 0);
        while entries.pop_if(|entry| *entry == [0; 4]).is_some() {}
        entries
    }

    proptest::proptest! {
        #[test]
        fn rows_are_by_token_and_then_as_they_come(ids in proptest::collection::vec(0..200_000_u32, 0..3000), few in 1..40_u32) {
            for ids in [ids.clone(), ids.iter().map(|id| id % few).collect(), ids.iter().map(|id| u32::MAX - id).collect()] {
                let mut expected: Vec<u32> = (0..ids.len() as u32).collect();
                expected.sort_by_key(|&row| ids[row as usize]);
                proptest::prop_assert_eq!(by_token(&ids), expected);
            }
        }
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
            dropout: 0x0123_4567_89ab_cdef,
            noise: Some(&[0.5, 0.5, 0.25, 0.25, 0.25]),
            ..Rows::default()
        };
        let (tables, words) = Tables::new(&rows, SIZES, None);
        assert_eq!(tables.n, 128);
        let ids = read::<1>(&words, tables.ids).concat();
        assert_eq!((&ids[..6], ids.len()), (&[7, 8, 7, 9, 8, 0][..], 128));
        let targets = read::<1>(&words, tables.targets).concat();
        assert_eq!((&targets[..5], targets.len()), (&tokens[..], 129));
        assert!(targets[5..].iter().all(|&target| target == IGNORE));
        let weights = read::<1>(&words, tables.weights.unwrap()).concat();
        assert_eq!((f32::from_bits(weights[3]), weights[128], weights.len()), (2.0, 0, 129));
        assert_eq!(read::<1>(&words, tables.scale), [[0.25f32.to_bits()]]);
        let active = read::<1>(&words, tables.active).concat();
        assert_eq!((&active[..4], active.len()), (&[0, 2, 3, 128][..], 128));
        assert_eq!(read::<2>(&words, Table { count: 1, ..tables.dropout }), [[0x89ab_cdef, 0x0123_4567]]);
        let noise = read::<1>(&words, tables.noise.unwrap()).concat();
        assert_eq!((f32::from_bits(noise[4]), noise[5], noise.len()), (0.25, 0, 128));
        // The rows that fill up are a document.
        assert_eq!(entries(&words, tables.forward), [[5, 123, 0, 0], [2, 3, 0, 0], [0, 2, 0, 0]]);
        assert_eq!(entries(&words, tables.keys), [[5, 123, 0, 0], [5, 123, 64, 0], [2, 3, 0, 0], [0, 2, 0, 0]]);
        assert_eq!(entries(&words, tables.queries), [[5, 123, 64, 0], [5, 123, 0, 0], [2, 3, 0, 0], [0, 2, 0, 0]]);
        // They have no part in the gradient of the embedding.
        assert_eq!(read::<1>(&words, tables.order).concat()[..5], [0, 2, 1, 4, 3]);
        assert_eq!(entries(&words, tables.segments), [[0, 2, 7, DIRECT], [2, 2, 8, DIRECT], [4, 1, 9, DIRECT]]);
        assert_eq!((tables.runs.count, tables.segments.count), (0, 16));
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
    fn long_documents_are_in_groups_and_the_others_in_tiles() {
        let shape = AttentionShape { heads: 3, kv_heads: 1, head_dim: 8, scale: 1.0, cap: None };
        let passes = Passes { forward: true, backward: false };
        let group = |length: usize| (length > 40).then_some((Group { length: 64, documents: 2 }, passes));
        let doc_lens = [50, 3, 64, 41];
        let n: u32 = doc_lens.iter().sum();
        let (ids, positions) = (vec![0; n as usize], vec![0; n as usize]);
        let targets = Some(Targets { tokens: &ids, weights: None, scale: 1.0 });
        let rows = Rows { ids: &ids, positions: &positions, doc_lens: &doc_lens, targets, ..Rows::default() };
        let (tables, words) = Tables::new(&rows, SIZES, Some((shape, &group)));
        // What fills up is short.
        assert_eq!(entries(&words, tables.forward), [[158, 98, 0, 0], [50, 3, 0, 0]]);
        let backward =
            [[158, 98, 0, 0], [53, 64, 0, 0], [0, 50, 0, 0], [117, 41, 0, 0], [158, 98, 64, 0], [50, 3, 0, 0]];
        assert_eq!(entries(&words, tables.keys), backward);
        let offsets = |table| -> Vec<u64> {
            let halves = read::<2>(&words, table).into_iter();
            halves.map(|[low, high]| u64::from(low) | u64::from(high) << 32).collect()
        };
        let [first, second] = tables.fused[..] else { panic!("{:?}", tables.fused) };
        assert_eq!(read::<1>(&words, first.lens).concat(), [50, 64]);
        assert_eq!(offsets(first.packed), [0, 53 * 40, 117 * 40]);
        assert_eq!(offsets(first.out), [0, 53 * 24, 117 * 24]);
        assert_eq!(offsets(first.stats), [0, 53 * 3, 117 * 3]);
        assert_eq!(read::<1>(&words, second.lens).concat(), [41, 0]);
        assert_eq!(offsets(second.packed), [117 * 40, 158 * 40, 158 * 40]);
    }

    #[test]
    fn a_step_through_a_cache_has_no_tiles() {
        let cached = Some(Cached { slots: &[2, 0], lens: &[9, 4] });
        let rows = Rows { ids: &[5, 6], positions: &[8, 3], cached, ..Rows::default() };
        let (tables, words) = Tables::new(&rows, SIZES, None);
        assert_eq!((tables.forward.count, tables.order.count, tables.targets.count), (0, 0, 0));
        assert_eq!(read::<1>(&words, tables.slots), [[2], [0]]);
        assert_eq!(read::<1>(&words, tables.lens), [[9], [4]]);
        assert_eq!(read::<1>(&words, tables.positions).concat()[..3], [8, 3, 0]);
    }
}
