//! The process that a guest believes to be in: `wasi:cli`, and the streams and waits of `wasi:io`.

use wasmtime::component::Resource;

use crate::stand_in::Exit;
use crate::stand_in::bindings::wasi::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr, terminal_stdin,
    terminal_stdout,
};
use crate::stand_in::bindings::wasi::io::{error, poll, streams};
use crate::stand_in::console::{Failure, Input, Output, Over, Terminal};
use crate::state::State;

/// Bytes that a guest is told it can write at once.
const PERMIT: u64 = 64 << 10;

type Streamed<T> = wasmtime::Result<Result<T, streams::StreamError>>;

impl State {
    /// A wait, which is over.
    pub(super) fn over(&mut self) -> wasmtime::Result<Resource<Over>> {
        Ok(self.table.push(Over)?)
    }

    fn print(&mut self, stream: &Resource<Output>, bytes: &[u8]) -> Streamed<()> {
        if *self.table.get(stream)? == Output::Kept {
            self.stderr.push(bytes);
        }
        Ok(Ok(()))
    }

    fn print_zeroes(&mut self, stream: &Resource<Output>, len: u64) -> Streamed<()> {
        let len = len.min(self.stderr.limit() as u64);
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
