//! Where a record starts, and whether a quote in it is still open: what the parser does not say.

/// Follows the bytes of a record, as the parser reads them.
pub(crate) struct Quotes {
    delimiter: u8,
    state: State,
    line: u64,
    /// The line of its first byte that is no line break.
    start: Option<u64>,
    /// The line of the quote that was opened last.
    opened: u64,
    last: u8,
}

enum State {
    FieldStart,
    Field,
    Quoted,
    /// Behind a quote inside of quotes: it ends them, or is the first of two.
    Quote,
}

impl Quotes {
    /// At a line, behind a byte.
    pub(crate) fn new(delimiter: u8, line: u64, last: u8) -> Self {
        Self { delimiter, state: State::FieldStart, line, start: None, opened: line, last }
    }

    /// A record begins, at this line or behind blank ones.
    pub(crate) fn begin(&mut self) {
        (self.state, self.start) = (State::FieldStart, None);
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let is_break = matches!(byte, b'\n' | b'\r');
            if !is_break && self.start.is_none() {
                self.start = Some(self.line);
            }
            self.state = match (&self.state, byte) {
                (State::FieldStart, b'"') => {
                    self.opened = self.line;
                    State::Quoted
                }
                (State::Quoted, b'"') => State::Quote,
                (State::Quoted, _) | (State::Quote, b'"') => State::Quoted,
                _ if is_break || byte == self.delimiter => State::FieldStart,
                _ => State::Field,
            };
            if byte == b'\r' || (byte == b'\n' && self.last != b'\r') {
                self.line += 1;
            }
            self.last = byte;
        }
    }

    /// The line that the record starts at.
    pub(crate) fn start(&self) -> u64 {
        self.start.unwrap_or(self.line)
    }

    /// The line that comes next.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// The line of a quote that is open.
    pub(crate) fn open(&self) -> Option<u64> {
        matches!(self.state, State::Quoted).then_some(self.opened)
    }
}
