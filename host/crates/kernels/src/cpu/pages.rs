//! Large pages of memory.

/// Asks for large pages where memory is large and not yet written: walking down a column of a matrix touches a page a row,
/// and with small pages that is a table walk a row. Refusal costs nothing but speed.
pub(super) fn prefer_huge_pages<T>(memory: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 2 << 20;
        let bytes = size_of_val(memory);
        let start = memory.as_ptr().cast::<u8>().align_offset(PAGE);
        if let Some(whole) = bytes.checked_sub(start).map(|rest| rest / PAGE * PAGE).filter(|&whole| whole > 0) {
            let from = memory.as_ptr().cast::<u8>().wrapping_add(start).cast_mut();
            // SAFETY: whole pages inside the slice; the advice changes no contents.
            unsafe { libc::madvise(from.cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
}
