//! Files, for guests: `trainer:plugin/files` and `trainer:plugin/grants`.

use std::io;

use wasmtime::component::Resource;

use crate::bindings::shared::trainer::plugin::files::{Host, HostByteSource, HostDirectory};
use crate::bindings::shared::trainer::plugin::grants;
use crate::files::{ByteSource, Directory};
use crate::state::{HostFault, State};

/// Bytes that one read may ask for.
const READ_LIMIT: u32 = 16 << 20;

impl Host for State {}

impl grants::Host for State {
    fn directories(&mut self) -> wasmtime::Result<Vec<Resource<Directory>>> {
        let granted = self.grants.iter().map(Directory::try_clone).collect::<io::Result<Vec<_>>>();
        let granted = granted.map_err(|error| HostFault {
            code: "data::unreadable",
            message: format!("a granted directory cannot be opened again: {error}"),
        })?;
        granted.into_iter().map(|directory| Ok(self.table.push(directory)?)).collect()
    }
}

impl HostByteSource for State {
    fn name(&mut self, source: Resource<ByteSource>) -> wasmtime::Result<String> {
        Ok(self.table.get(&source)?.name().to_owned())
    }

    fn len(&mut self, source: Resource<ByteSource>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&source)?.len())
    }

    fn read(&mut self, source: Resource<ByteSource>, offset: u64, len: u32) -> wasmtime::Result<Vec<u8>> {
        let source = self.table.get(&source)?;
        if len > READ_LIMIT {
            let message = format!("it asked for {len} bytes of a file at once; the limit is {READ_LIMIT}");
            return Err(HostFault { code: "plugin::limit", message }.into());
        }
        let read = source.read(offset, len);
        Ok(read.map_err(|message| HostFault { code: "data::unreadable", message })?)
    }

    fn drop(&mut self, source: Resource<ByteSource>) -> wasmtime::Result<()> {
        self.table.delete(source)?;
        Ok(())
    }
}

impl HostDirectory for State {
    fn name(&mut self, directory: Resource<Directory>) -> wasmtime::Result<String> {
        Ok(self.table.get(&directory)?.name().to_owned())
    }

    fn list(&mut self, directory: Resource<Directory>) -> wasmtime::Result<Result<Vec<String>, String>> {
        Ok(self.table.get(&directory)?.list())
    }

    fn open(
        &mut self,
        directory: Resource<Directory>,
        path: String,
    ) -> wasmtime::Result<Result<Resource<ByteSource>, String>> {
        match self.table.get(&directory)?.open(&path) {
            Ok(source) => Ok(Ok(self.table.push(source)?)),
            Err(why) => Ok(Err(why)),
        }
    }

    fn drop(&mut self, directory: Resource<Directory>) -> wasmtime::Result<()> {
        self.table.delete(directory)?;
        Ok(())
    }
}
