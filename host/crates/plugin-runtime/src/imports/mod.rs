//! Everything that a guest may import, and what the host does when a guest calls it. What is not here does not exist for a
//! guest: no file system, no network, no environment, and neither time nor chance.

mod clock;
mod console;
mod files;

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use crate::bindings::shared::trainer::plugin::{files as plugin_files, grants, log, types};
use crate::stand_in::bindings::Guests;
use crate::state::State;
use crate::types::Level;

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.log(level, &message);
        Ok(())
    }
}

/// Everything that a guest may import. What is not here does not exist for it.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    Guests::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    types::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    log::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    plugin_files::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    grants::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    Ok(linker)
}
