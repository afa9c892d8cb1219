//! Weights in half their bytes, where nothing is lost by it: those of most checkpoints are bfloat16 numbers, and what a product
//! of few rows takes is the time to read them.

use rayon::prelude::*;

use super::few_rows::LANES;

/// Matrices whose elements are all bfloat16 numbers, in panels of [`LANES`] rows: `[rows / LANES, columns, LANES]`, the rows
/// beyond the last zero.
#[derive(Debug)]
pub struct Compact {
    /// First element in the buffer, rows, columns, first element in `halves`; ascending.
    places: Vec<(usize, [usize; 2], usize)>,
    halves: Vec<u16>,
}

/// Elements that a matrix takes.
pub(crate) fn len([rows, columns]: [usize; 2]) -> usize {
    rows.next_multiple_of(LANES) * columns
}

impl Compact {
    /// None where an element has more bits.
    pub(super) fn new(buffer: &[f32], matrices: &[(usize, [usize; 2])]) -> Option<Self> {
        let of = |&(start, [rows, columns]): &(usize, [usize; 2])| &buffer[start..][..rows * columns];
        let is_half =
            |values: &[f32]| values.par_chunks(1 << 16).all(|part| part.iter().all(|x| x.to_bits() << 16 == 0));
        if !matrices.iter().all(|matrix| is_half(of(matrix))) {
            return None;
        }
        let mut sorted = matrices.to_vec();
        sorted.sort_unstable();
        let mut halves = vec![0; sorted.iter().map(|&(_, sizes)| len(sizes)).sum()];
        let mut places = Vec::with_capacity(sorted.len());
        let mut rest = halves.as_mut_slice();
        let mut first = 0;
        for matrix in sorted {
            let (start, sizes) = matrix;
            let [rows, columns] = sizes;
            let (own, others) = rest.split_at_mut(len(sizes));
            let source = of(&matrix);
            own.par_chunks_exact_mut(LANES * columns).enumerate().for_each(|(panel, halves)| {
                for lane in 0..LANES.min(rows - panel * LANES) {
                    let row = &source[(panel * LANES + lane) * columns..][..columns];
                    for (half, value) in halves[lane..].iter_mut().step_by(LANES).zip(row) {
                        *half = (value.to_bits() >> 16) as u16;
                    }
                }
            });
            places.push((start, sizes, first));
            first += len(sizes);
            rest = others;
        }
        Some(Self { places, halves })
    }

    /// The panels of the matrix of these sizes that begins at an element.
    pub(super) fn panels(&self, start: usize, sizes: [usize; 2]) -> Option<&[u16]> {
        let found = self.places.binary_search_by_key(&start, |place| place.0).ok()?;
        let (_, own, first) = self.places[found];
        (own == sizes).then(|| &self.halves[first..][..len(sizes)])
    }
}
