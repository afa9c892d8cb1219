//! What guests get in place of a system: WASI as far as standard libraries ask for it merely to start and to print.
//! Refusing it would refuse most languages; here nothing of it reaches the system, and all of it is a function of what the
//! guest did so far, so that the same input gives the same output. There is no code for files or sockets to get at.
//!
//! - A process: `console`.
//! - The clock counts its readings, a microsecond each, from 1970 on. A wait is over at once, and counts as the time that
//!   was asked for: a guest that waits for a moment reaches it, and a guest that sleeps loses no time.
//! - Random bytes are the first ones of one generator.
//! - Both begin anew with every call: an answer does not depend on how many calls came before it.

#![expect(unreachable_pub, reason = "generated code exports these types once more, which needs `pub`")]

pub(crate) mod bindings;
pub(crate) mod console;

pub(crate) use console::{Exit, Tail};

/// Nanoseconds from one reading of the clock to the next.
pub(crate) const READING: u64 = 1_000;
/// Bytes that a guest gets in one piece.
const RANDOM_LIMIT: u64 = 64 << 10;

/// The state of both, for one instance.
#[derive(Debug, Default)]
pub(crate) struct StandIn {
    nanoseconds: u64,
    random: u64,
}

impl StandIn {
    /// A call begins: its time and its random bytes are those of any other call.
    pub(crate) fn begin(&mut self) {
        *self = Self::default();
    }

    /// The clock, in nanoseconds.
    pub(crate) fn read(&mut self) -> u64 {
        self.nanoseconds = self.nanoseconds.saturating_add(READING);
        self.nanoseconds
    }

    /// A wait until the clock shows `nanoseconds` is over at once.
    pub(crate) fn wait_until(&mut self, nanoseconds: u64) {
        self.nanoseconds = self.nanoseconds.max(nanoseconds);
    }

    /// A wait of so many nanoseconds is over at once.
    pub(crate) fn wait(&mut self, nanoseconds: u64) {
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
    }

    /// The next 64 random bits, by SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    pub(crate) fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next random bytes; an error for more than a guest gets in one piece.
    pub(crate) fn bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        if len > RANDOM_LIMIT {
            wasmtime::bail!("it asked for {len} random bytes at once; the limit is {RANDOM_LIMIT}");
        }
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len as usize);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_are_those_of_the_paper_and_begin_anew() {
        let mut stand_in = StandIn::default();
        // The first outputs of SplitMix64 for the seed 0, as its reference implementation prints them.
        assert_eq!([stand_in.next(), stand_in.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        stand_in.begin();
        assert_eq!(stand_in.bytes(9).unwrap()[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
        assert_eq!(stand_in.bytes(9).unwrap().len(), 9);
        assert!(stand_in.bytes(RANDOM_LIMIT + 1).is_err());
    }

    #[test]
    fn the_clock_goes_on_with_every_reading() {
        let mut stand_in = StandIn::default();
        assert_eq!([stand_in.read(), stand_in.read()], [1_000, 2_000]);
        stand_in.nanoseconds = u64::MAX;
        assert_eq!(stand_in.read(), u64::MAX);
        stand_in.begin();
        assert_eq!(stand_in.read(), 1_000);
    }
}
