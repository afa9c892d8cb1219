//! Times what `host check` does for one config, in this process: opening the plugins, the whole check, the rules in it.
//!
//! `cargo run --release -p host --example bench_check CONFIG`

use std::path::PathBuf;
use std::time::Instant;

use host::check::facts::ModelFacts;
use host::check::{check_examined, plugins, rules};
use host::config;

/// Runs of which the fastest counts.
const RUNS: usize = 20;

#[expect(clippy::print_stdout, reason = "it is what a benchmark is for")]
fn main() {
    let path = PathBuf::from(std::env::args().nth(1).expect("a config"));
    println!("{}, best of {RUNS} runs", path.display());
    println!(
        "open the plugins  {:6.2} ms",
        best(|| plugins::open(&[], None).expect("the bundled plugins").plugins().count())
    );
    let host = plugins::open(&[], None).expect("the bundled plugins");
    println!("the whole check   {:6.2} ms", best(|| check_examined(&config::examine(&path, &[]), &host).0.len()));
    let loaded = config::examine(&path, &[]).loaded.expect("a config");
    let model = ModelFacts::read(&loaded).ok();
    println!("the rules in it   {:6.2} ms", best(|| rules::check(&loaded, &host, model.as_ref()).len()));
    if model.is_none() {
        println!("the model's files are not here: rules that need them said nothing");
    }
}

/// Milliseconds of the fastest run.
fn best(mut run: impl FnMut() -> usize) -> f64 {
    let time = |_| {
        let start = Instant::now();
        std::hint::black_box(run());
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..RUNS).map(time).fold(f64::INFINITY, f64::min)
}
