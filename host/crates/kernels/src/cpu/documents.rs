//! The documents of a pass: which rows are whose, and where keys and values of a document lie together.

use std::ops::Range;

use crate::operands::ALONE;

/// A document.
#[derive(Debug, Clone)]
pub(super) struct Document {
    /// Its own rows.
    pub(super) own: Range<usize>,
    /// The rows that it sees before its own: those of the document that it continues.
    pub(super) before: Range<usize>,
}

impl Document {
    /// Rows that its last row sees.
    pub(super) fn length(&self) -> usize {
        self.before.len() + self.own.len()
    }

    /// The row of the pass that its row number `index` is.
    fn row(&self, index: usize) -> usize {
        let own = index.checked_sub(self.before.len());
        own.map_or(self.before.start + index, |own| self.own.start + own)
    }
}

/// The documents of a pass; see [`Rows::continues`](crate::Rows::continues).
pub(super) fn documents(doc_lens: &[u32], continues: &[u32]) -> Vec<Document> {
    let mut all: Vec<Document> = Vec::with_capacity(doc_lens.len());
    let mut start = 0;
    for (index, &length) in doc_lens.iter().enumerate() {
        let own = start..start + length as usize;
        start = own.end;
        let continued = continues.get(index).copied().filter(|&other| other != ALONE);
        let before = continued.map_or(own.start..own.start, |other| all[other as usize].own.clone());
        all.push(Document { own, before });
    }
    all
}

/// Keys and values of one head for all rows of a document, a row after the other.
#[derive(Clone, Copy)]
pub(super) struct KeysAndValues<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// Elements from one row to the next.
    pub(super) stride: usize,
}

/// Elements that keys and values of a head take where they are put together.
pub(super) fn gathered_len(document: &Document, dim: usize) -> usize {
    if document.before.is_empty() { 0 } else { 2 * dim * document.length() }
}

impl<'a> KeysAndValues<'a> {
    /// Where they are in `qkv`, whose rows of `packed` have keys and values from `key` and `value` on; put together in `room`
    /// where the document continues another.
    pub(super) fn new(
        document: &Document,
        (qkv, packed): (&'a [f32], usize),
        (key, value, dim): (usize, usize, usize),
        room: &'a mut [f32],
    ) -> Self {
        if document.before.is_empty() {
            let start = document.own.start * packed;
            return Self { keys: &qkv[start + key..], values: &qkv[start + value..], stride: packed };
        }
        for (index, row) in room.chunks_exact_mut(2 * dim).enumerate() {
            let start = document.row(index) * packed;
            let (keys, values) = row.split_at_mut(dim);
            keys.copy_from_slice(&qkv[start + key..][..dim]);
            values.copy_from_slice(&qkv[start + value..][..dim]);
        }
        Self { keys: room, values: &room[dim..], stride: 2 * dim }
    }
}
