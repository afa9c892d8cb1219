//! What guests get in place of a process: no environment and no arguments, an input that is at its end, an output that goes
//! nowhere, and an error output of which the end is kept for the message about a call that failed.

use std::collections::VecDeque;

use wasmtime::component::Resource;

use super::Over;
use super::bindings::wasi::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr, terminal_stdin,
    terminal_stdout,
};
use super::bindings::wasi::io::{error, poll, streams};
use crate::sandbox::State;

/// Bytes that a guest is told it can write at once.
const PERMIT: u64 = 64 << 10;

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

    fn push(&mut self, bytes: &[u8]) {
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

type Streamed<T> = wasmtime::Result<Result<T, streams::StreamError>>;

impl State {
    fn print(&mut self, stream: &Resource<Output>, bytes: &[u8]) -> Streamed<()> {
        if *self.table.get(stream)? == Output::Kept {
            self.stderr.push(bytes);
        }
        Ok(Ok(()))
    }

    fn print_zeroes(&mut self, stream: &Resource<Output>, len: u64) -> Streamed<()> {
        let len = len.min(self.stderr.limit as u64);
        self.print(stream, &vec![0; len as usize])
    }

    /// What any attempt to read comes to.
    fn at_end<T>(&mut self, stream: &Resource<Input>) -> Streamed<T> {
        self.table.get(stream)?;
        Ok(Err(streams::StreamError::Closed))
    }
}

impl error::Host for State {}

impl error::HostError for State {
    fn to_debug_string(&mut self, failure: Resource<Failure>) -> wasmtime::Result<String> {
        match *self.table.get(&failure)? {}
    }

    fn drop(&mut self, failure: Resource<Failure>) -> wasmtime::Result<()> {
        match self.table.delete(failure)? {}
    }
}

impl poll::Host for State {
    fn poll(&mut self, waits: Vec<Resource<Over>>) -> wasmtime::Result<Vec<u32>> {
        if waits.is_empty() {
            wasmtime::bail!("it waits for nothing, which never comes");
        }
        for wait in &waits {
            self.table.get(wait)?;
        }
        Ok((0..waits.len() as u32).collect())
    }
}

impl poll::HostPollable for State {
    fn ready(&mut self, wait: Resource<Over>) -> wasmtime::Result<bool> {
        self.table.get(&wait)?;
        Ok(true)
    }

    fn block(&mut self, wait: Resource<Over>) -> wasmtime::Result<()> {
        self.table.get(&wait)?;
        Ok(())
    }

    fn drop(&mut self, wait: Resource<Over>) -> wasmtime::Result<()> {
        self.table.delete(wait)?;
        Ok(())
    }
}

impl streams::Host for State {}

impl streams::HostInputStream for State {
    fn read(&mut self, stream: Resource<Input>, _: u64) -> Streamed<Vec<u8>> {
        self.at_end(&stream)
    }

    fn blocking_read(&mut self, stream: Resource<Input>, _: u64) -> Streamed<Vec<u8>> {
        self.at_end(&stream)
    }

    fn skip(&mut self, stream: Resource<Input>, _: u64) -> Streamed<u64> {
        self.at_end(&stream)
    }

    fn blocking_skip(&mut self, stream: Resource<Input>, _: u64) -> Streamed<u64> {
        self.at_end(&stream)
    }

    fn subscribe(&mut self, stream: Resource<Input>) -> wasmtime::Result<Resource<Over>> {
        self.table.get(&stream)?;
        self.over()
    }

    fn drop(&mut self, stream: Resource<Input>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl streams::HostOutputStream for State {
    fn check_write(&mut self, stream: Resource<Output>) -> Streamed<u64> {
        self.table.get(&stream)?;
        Ok(Ok(PERMIT))
    }

    fn write(&mut self, stream: Resource<Output>, bytes: Vec<u8>) -> Streamed<()> {
        self.print(&stream, &bytes)
    }

    fn blocking_write_and_flush(&mut self, stream: Resource<Output>, bytes: Vec<u8>) -> Streamed<()> {
        self.print(&stream, &bytes)
    }

    fn flush(&mut self, stream: Resource<Output>) -> Streamed<()> {
        self.print(&stream, &[])
    }

    fn blocking_flush(&mut self, stream: Resource<Output>) -> Streamed<()> {
        self.print(&stream, &[])
    }

    fn subscribe(&mut self, stream: Resource<Output>) -> wasmtime::Result<Resource<Over>> {
        self.table.get(&stream)?;
        self.over()
    }

    fn write_zeroes(&mut self, stream: Resource<Output>, len: u64) -> Streamed<()> {
        self.print_zeroes(&stream, len)
    }

    fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<Output>, len: u64) -> Streamed<()> {
        self.print_zeroes(&stream, len)
    }

    fn splice(&mut self, stream: Resource<Output>, from: Resource<Input>, _: u64) -> Streamed<u64> {
        self.table.get(&stream)?;
        self.at_end(&from)
    }

    fn blocking_splice(&mut self, stream: Resource<Output>, from: Resource<Input>, _: u64) -> Streamed<u64> {
        self.table.get(&stream)?;
        self.at_end(&from)
    }

    fn drop(&mut self, stream: Resource<Output>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl environment::Host for State {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl exit::Host for State {
    fn exit(&mut self, _: Result<(), ()>) -> wasmtime::Result<()> {
        Err(Exit.into())
    }
}

impl stdin::Host for State {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<Input>> {
        Ok(self.table.push(Input)?)
    }
}

impl stdout::Host for State {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<Output>> {
        Ok(self.table.push(Output::Nowhere)?)
    }
}

impl stderr::Host for State {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<Output>> {
        Ok(self.table.push(Output::Kept)?)
    }
}

impl terminal_input::Host for State {}

impl terminal_input::HostTerminalInput for State {
    fn drop(&mut self, terminal: Resource<Terminal>) -> wasmtime::Result<()> {
        match self.table.delete(terminal)? {}
    }
}

impl terminal_output::Host for State {}

impl terminal_output::HostTerminalOutput for State {
    fn drop(&mut self, terminal: Resource<Terminal>) -> wasmtime::Result<()> {
        match self.table.delete(terminal)? {}
    }
}

impl terminal_stdin::Host for State {
    fn get_terminal_stdin(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}

impl terminal_stdout::Host for State {
    fn get_terminal_stdout(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}

impl terminal_stderr::Host for State {
    fn get_terminal_stderr(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}

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
