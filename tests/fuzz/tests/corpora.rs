//! The corpora, and some inputs that are made of them, the same in every run: what `cargo xtask fuzz` found once stays mended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::rng::Philox;

/// Inputs that are made of each one of a corpus. A slow machine makes fewer.
const MUTANTS: u64 = 60;
/// Time for those of a target.
const BUDGET: Duration = Duration::from_secs(6);

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = fuzz::root().join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("an input"))).collect()
}

/// Some bytes of an input changed, taken away, doubled or exchanged with those of another one.
fn mutant(input: &[u8], other: &[u8], stream: u64, seed: u64) -> Vec<u8> {
    let mut draws = Philox::new(seed, stream);
    let mut below = |limit: usize| draws.below(limit as u64) as usize;
    let mut bytes = input.to_vec();
    for _ in 0..=below(3) {
        let at = below(bytes.len() + 1);
        let end = (at + 1 + below(16)).min(bytes.len());
        match below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            1 if at < bytes.len() => bytes[at] = b"\0\xff\n\"{[:0-9e%&*<\\"[below(16)],
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => drop(bytes.splice(at..at, bytes[at.min(end)..end].to_vec())),
            4 if !other.is_empty() => {
                let from = below(other.len());
                let part = other[from..(from + 1 + below(64)).min(other.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn run(target: &str) {
    let run = fuzz::target(target).expect("a target");
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{target} has no corpus");
    for (path, input) in &corpus {
        let done = catch_unwind(AssertUnwindSafe(|| run(input)));
        assert!(done.is_ok(), "{target} fails with {}", path.display());
    }
    let until = Instant::now() + BUDGET;
    for seed in 0..MUTANTS {
        for (index, (path, input)) in corpus.iter().enumerate() {
            if Instant::now() > until {
                return;
            }
            let other = &corpus[(index + 1 + seed as usize) % corpus.len()].1;
            let bytes = mutant(input, other, index as u64, seed);
            if catch_unwind(AssertUnwindSafe(|| run(&bytes))).is_err() {
                let kept = std::env::temp_dir().join(format!("fuzz-{target}-{index}-{seed}"));
                std::fs::write(&kept, &bytes).expect("a file");
                panic!("{target} fails with {}, made of {}", kept.display(), path.display());
            }
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run() {
            let known: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(known, [$(stringify!($name)),*]);
        }
    };
}

targets!(
    adapter card checkpoint component config curation edit guest manifest model recipe records rows template tokenizer weights
);
