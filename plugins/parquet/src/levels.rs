//! Repetition and definition levels of a page: whether there are as many as it says. The crate takes that for granted.

use parquet::basic::Encoding;
use parquet::column::page::Page;
use parquet::schema::types::ColumnDescriptor;

/// The levels that pages of a column have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Levels {
    /// Bits of a repetition level and of a definition level; 0 where there are none.
    repetition: u32,
    definition: u32,
}

impl Levels {
    pub(crate) fn of(column: &ColumnDescriptor) -> Self {
        let bits = |most: i16| 16 - most.max(0).leading_zeros();
        Self { repetition: bits(column.max_rep_level()), definition: bits(column.max_def_level()) }
    }

    /// True if a page holds all its levels.
    pub(crate) fn are_whole(self, page: &Page) -> bool {
        match page {
            Page::DictionaryPage { .. } => true,
            Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
                let mut rest: &[u8] = buf;
                [(self.repetition, rep_level_encoding), (self.definition, def_level_encoding)].iter().all(
                    |&(bits, encoding)| {
                        if bits == 0 {
                            return true;
                        }
                        // Bit-packed levels of old writers have no runs: the crate counts their bytes itself.
                        if *encoding != Encoding::RLE {
                            return true;
                        }
                        let Some((size, behind)) = rest.split_first_chunk::<4>() else { return false };
                        let size = u32::from_le_bytes(*size) as usize;
                        let Some((levels, behind)) = behind.split_at_checked(size) else { return false };
                        rest = behind;
                        has(levels, bits, (*num_values).into())
                    },
                )
            }
            Page::DataPageV2 { buf, num_values, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let (repetition, definition) = (*rep_levels_byte_len as usize, *def_levels_byte_len as usize);
                let levels = |start: usize, size: usize| buf.get(start..start.checked_add(size)?);
                let are_whole = |bits: u32, levels: Option<&[u8]>| match levels {
                    _ if bits == 0 => true,
                    Some(levels) => has(levels, bits, (*num_values).into()),
                    None => false,
                };
                are_whole(self.repetition, levels(0, repetition))
                    && are_whole(self.definition, levels(repetition, definition))
            }
        }
    }

    /// Where the values of a page begin, behind its levels; none where they are not all there.
    fn end(self, page: &Page) -> Option<usize> {
        match page {
            Page::DictionaryPage { .. } => None,
            Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
                let levels = [(self.repetition, rep_level_encoding), (self.definition, def_level_encoding)];
                levels.iter().filter(|(bits, _)| *bits > 0).try_fold(0_usize, |start, &(bits, encoding)| {
                    if *encoding != Encoding::RLE {
                        let size = (u64::from(*num_values) * u64::from(bits)).div_ceil(8);
                        return start.checked_add(usize::try_from(size).ok()?);
                    }
                    let size = buf.get(start..)?.first_chunk::<4>()?;
                    start.checked_add(4)?.checked_add(u32::from_le_bytes(*size) as usize)
                })
            }
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                (*rep_levels_byte_len as usize).checked_add(*def_levels_byte_len as usize)
            }
        }
    }

    /// The values of a page, behind its levels; none where those are not all there.
    pub(crate) fn values(self, page: &Page) -> Option<&[u8]> {
        page.buffer().get(self.end(page)?..)
    }

    /// A page that says it has no value, without what stands where values would: the crate divides by how many there are.
    pub(crate) fn without_spare(self, mut page: Page) -> Page {
        let end = match &page {
            Page::DictionaryPage { num_values: 0, .. } => Some(0),
            Page::DataPage { num_values: 0, .. } => self.end(&page),
            Page::DataPageV2 { num_values, num_nulls, .. } if num_nulls >= num_values => self.end(&page),
            _ => None,
        };
        let (Page::DictionaryPage { buf, .. } | Page::DataPage { buf, .. } | Page::DataPageV2 { buf, .. }) = &mut page;
        if let Some(end) = end {
            buf.truncate(end);
        }
        page
    }

    /// Of a page whose values are packed as differences: the place of the number that says how many there are, and that number.
    /// It is the third of the header.
    pub(crate) fn differences(self, page: &Page) -> Option<(usize, u64)> {
        let mut rest = self.values(page)?;
        for _ in 0..2 {
            rest = varint(rest, 10)?.1;
        }
        Some((page.buffer().len() - rest.len(), varint(rest, 10)?.0))
    }
}

/// True if there are so many values of so many bits in runs of the RLE and bit-packing hybrid.
fn has(mut bytes: &[u8], bits: u32, wanted: u64) -> bool {
    let mut count = 0_u64;
    while count < wanted {
        let Some((header, behind)) = varint(bytes, 5) else { return false };
        let (run, size) = if header & 1 == 1 {
            let groups = header >> 1;
            (groups.saturating_mul(8), groups.saturating_mul(bits.into()))
        } else {
            (header >> 1, u64::from(bits.div_ceil(8)))
        };
        if run == 0 {
            return false;
        }
        // Writers may leave out bytes of a last run that no value needs.
        let needed = if header & 1 == 1 {
            size.min(run.min(wanted - count).saturating_mul(bits.into()).div_ceil(8))
        } else {
            size
        };
        if behind.len() as u64 > size {
            bytes = &behind[size as usize..];
        } else if (behind.len() as u64) < needed {
            return false;
        } else {
            bytes = &[];
        }
        count = count.saturating_add(run);
    }
    true
}

/// A number of at most so many bytes, and what is behind it.
pub(crate) fn varint(bytes: &[u8], most: usize) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(most).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_and_measured() {
        // Nine times 1, then sixteen values of one bit.
        let runs = [9 << 1, 1, (2 << 1) | 1, 0xff, 0x0f];
        assert!(has(&runs, 1, 25) && has(&runs, 1, 0) && has(&[], 1, 0));
        assert!(!has(&runs, 1, 26) && !has(&runs[..4], 1, 25) && has(&runs[..4], 1, 17));
        assert!(!has(&[0, 0, 0], 1, 1), "a run of nothing");
        assert!(!has(&[0xff; 9], 1, 1), "a header without an end");
    }
}
