//! Time and chance of a guest: `wasi:clocks` and `wasi:random`.

use wasmtime::component::Resource;

use crate::stand_in::READING;
use crate::stand_in::bindings::wasi::clocks::monotonic_clock::{self, Duration, Instant};
use crate::stand_in::bindings::wasi::clocks::wall_clock::{self, Datetime};
use crate::stand_in::bindings::wasi::random::{insecure, insecure_seed, random};
use crate::stand_in::console::Over;
use crate::state::State;

const SECOND: u64 = 1_000_000_000;

impl monotonic_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<Instant> {
        Ok(self.stand_in.read())
    }

    fn resolution(&mut self) -> wasmtime::Result<Duration> {
        Ok(READING)
    }

    fn subscribe_instant(&mut self, when: Instant) -> wasmtime::Result<Resource<Over>> {
        self.stand_in.wait_until(when);
        self.over()
    }

    fn subscribe_duration(&mut self, when: Duration) -> wasmtime::Result<Resource<Over>> {
        self.stand_in.wait(when);
        self.over()
    }
}

impl wall_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<Datetime> {
        let now = self.stand_in.read();
        Ok(Datetime { seconds: now / SECOND, nanoseconds: (now % SECOND) as u32 })
    }

    fn resolution(&mut self) -> wasmtime::Result<Datetime> {
        Ok(Datetime { seconds: 0, nanoseconds: READING as u32 })
    }
}

impl random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.stand_in.bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.stand_in.next())
    }
}

impl insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.stand_in.bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.stand_in.next())
    }
}

impl insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((0, 0))
    }
}
