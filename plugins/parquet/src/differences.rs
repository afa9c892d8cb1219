//! Numbers that are packed as differences (`DELTA_BINARY_PACKED`), as lengths of texts are. The crate panics where they have no
//! end, and takes lengths below zero for large ones.

use crate::levels::varint;

/// Numbers, to be read one after another.
struct Packed<'a> {
    rest: &'a [u8],
    /// Numbers of a part of a block, and parts of a block.
    part: usize,
    parts: usize,
    count: u64,
    last: i32,
}

impl<'a> Packed<'a> {
    /// Reads the header.
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (block, rest) = varint(bytes, 10)?;
        let (parts, rest) = varint(rest, 10)?;
        let (count, rest) = varint(rest, 10)?;
        let (first, rest) = varint(rest, 10)?;
        let (block, parts) = (usize::try_from(block).ok()?, usize::try_from(parts).ok()?);
        let part = block.checked_div(parts).filter(|part| *part > 0 && part.is_multiple_of(8))?;
        Some(Self { rest, part, parts, count, last: zigzag(first) as i32 })
    }

    /// Reads all of them, and what is behind them; none where they are not all there. Those that `each` is told have 32 bits.
    fn all(mut self, mut each: Option<&mut dyn FnMut(i32)>) -> Option<&'a [u8]> {
        if let Some(each) = each.as_mut().filter(|_| self.count > 0) {
            each(self.last);
        }
        let mut left = self.count.saturating_sub(1);
        while left > 0 {
            let (least, rest) = varint(self.rest, 10)?;
            let (widths, rest) = rest.split_at_checked(self.parts)?;
            self.rest = rest;
            for &width in widths {
                if left == 0 {
                    break;
                }
                let (own, width) = (left.min(self.part as u64), usize::from(width));
                if width > if each.is_some() { 32 } else { 64 } {
                    return None;
                }
                // Writers may leave out bytes of a last part that no number needs.
                let size = (self.part / 8).checked_mul(width)?.min(self.rest.len());
                if own.saturating_mul(width as u64).div_ceil(8) > size as u64 {
                    return None;
                }
                let (packed, rest) = self.rest.split_at(size);
                self.rest = rest;
                for index in 0..if each.is_some() { own as usize } else { 0 } {
                    let difference = (zigzag(least) as i32).wrapping_add(bits(packed, index, width).cast_signed());
                    self.last = self.last.wrapping_add(difference);
                    each.as_mut()?(self.last);
                }
                left -= own;
            }
        }
        Some(self.rest)
    }
}

/// True if so many lists of lengths of texts are there one after another, none of the lengths below zero.
pub(crate) fn are_lengths(bytes: &[u8], lists: usize) -> bool {
    let mut are_sound = true;
    let mut each = |length: i32| are_sound &= length >= 0;
    let behind = (0..lists).try_fold(bytes, |bytes, _| Packed::new(bytes)?.all(Some(&mut each)));
    behind.is_some() && are_sound
}

/// True if numbers are there to their last.
pub(crate) fn are_whole(bytes: &[u8]) -> bool {
    Packed::new(bytes).is_some_and(|numbers| numbers.all(None).is_some())
}

fn zigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// The number of so many bits at a place.
fn bits(packed: &[u8], index: usize, width: usize) -> u32 {
    let start = index * width;
    let mut eight = [0; 8];
    let end = (start + width).div_ceil(8);
    let own = &packed[start / 8..end];
    eight[..own.len()].copy_from_slice(own);
    (u64::from_le_bytes(eight) >> (start % 8) & ((1 << width) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bytes: &[u8]) -> Option<(Vec<i32>, &[u8])> {
        let mut all = Vec::new();
        let rest = Packed::new(bytes)?.all(Some(&mut |number| all.push(number)))?;
        Some((all, rest))
    }

    #[test]
    fn numbers_are_those_of_the_format() {
        // Blocks of 128 in 4 parts: 7, 5, 3, 1, 2, 3, 4, 5, the example of the format's text (differences from -2 on, of two bits).
        let packed = [0x80, 0x01, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(numbers(&packed), Some((vec![7, 5, 3, 1, 2, 3, 4, 5], &packed[18..])));
        assert_eq!(numbers(&packed[..12]).unwrap().0.len(), 8, "no number needs the rest of the part");
        assert_eq!(numbers(&packed[..11]), None, "a part is not whole");
        assert!(are_whole(&packed) && are_whole(&packed[..12]) && !are_whole(&packed[..11]));
        assert_eq!(numbers(&[0x80, 1, 4, 1, 3, 7]), Some((vec![-2], &[7][..])));
        assert_eq!(numbers(&[0x80, 1, 4, 0, 0]), Some((vec![], &[][..])));
        assert_eq!(numbers(&[0x80, 1, 0, 1, 0]), None, "a block has no parts");
        assert!(are_lengths(&[0x80, 1, 4, 1, 0, 0x80, 1, 4, 1, 6, b'a'], 2));
        assert!(!are_lengths(&[0x80, 1, 4, 1, 0, 0x80, 1, 4, 1, 3], 2), "a text of -2 bytes");
        assert!(!are_lengths(&[0x80, 1, 4, 1, 0], 2), "no second header");
    }
}
