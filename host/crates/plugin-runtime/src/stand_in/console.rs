//! What guests get in place of a process: no environment and no arguments, an input that is at its end, an output that goes
//! nowhere, and an error output of which the end is kept for the message about a call that failed.

use std::collections::VecDeque;

/// The end of what a guest printed.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Tail {
    /// Keeps so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit }
    }

    /// Bytes that it keeps.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let over = (self.bytes.len() + bytes.len()).saturating_sub(self.limit);
        self.bytes.drain(..over);
        self.bytes.extend(bytes);
    }

    /// As text, with a replacement character for what is none.
    pub(crate) fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }
}

/// A guest wanted to end the process.
#[derive(Debug, thiserror::Error)]
#[error("it wanted to end the process")]
pub(crate) struct Exit;

/// An input that is at its end.
#[derive(Debug)]
pub struct Input;

/// Where a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Nowhere,
    /// To the tail that is kept.
    Kept,
}

/// A failure of a stream: there are none.
#[derive(Debug)]
pub enum Failure {}

/// A terminal: there are none.
#[derive(Debug)]
pub enum Terminal {}

/// A wait that is over: there are no others.
#[derive(Debug)]
pub struct Over;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_printed_the_end_is_kept() {
        let mut tail = Tail::new(5);
        tail.push(b"ab");
        tail.push(b"");
        assert_eq!(tail.text(), "ab");
        tail.push(b"cdef");
        assert_eq!(tail.text(), "bcdef");
        tail.push(b"0123456789");
        assert_eq!(tail.text(), "56789");
        tail.push(b"\xff");
        assert_eq!(tail.text(), "6789\u{fffd}");
    }
}
