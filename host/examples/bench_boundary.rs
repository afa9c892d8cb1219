//! Times the plugin boundary: a prompt strategy in the sandbox beside the same code called natively, what a loader and the
//! tokenizer do in the same time, and how long it takes until a plugin that is already compiled can be used.
//!
//! `cargo run --release -p host --example bench_boundary [ROWS]`

use std::path::PathBuf;
use std::time::Instant;

use host::check::plugins::open;
use host::data::tokenizer::{Changes, Tokenizer};
use plugin_sdk::strategy::PromptStrategy as _;

/// The very code of the plugin, which the sandbox has as WebAssembly.
#[path = "../../plugins/alpaca/src/lib.rs"]
#[expect(unreachable_pub, reason = "a crate of its own elsewhere")]
mod alpaca;

use alpaca::Alpaca;

/// Rows of one call, as the trainer has them.
const BATCH: usize = 256;
/// Runs of which the fastest counts.
const RUNS: usize = 7;

#[expect(clippy::print_stdout, reason = "it is what a benchmark is for")]
fn main() {
    let rows: usize = std::env::args().nth(1).map_or(40_000, |text| text.parse().expect("a number of rows"));
    let rows: Vec<String> = (0..rows).map(row).collect();
    let bytes: usize = rows.iter().map(String::len).sum();
    println!("{} rows of {} bytes, batches of {BATCH}, best of {RUNS} runs", rows.len(), bytes / rows.len());
    let plugins = open(&[], None).expect("the bundled plugins");

    let mut strategy = plugins.strategy("alpaca", "{}").expect("a strategy");
    let sandbox = best(|| rows.chunks(BATCH).map(|batch| strategy.render(batch).expect("samples").len()).sum());
    let alpaca = Alpaca::new(alpaca::Config::default()).expect("a strategy");
    let native = best(|| rows.chunks(BATCH).map(|batch| alpaca.render_all(batch).expect("samples").len()).sum());
    let rate = |seconds: f64| rows.len() as f64 / seconds / 1e6;
    println!("strategy in the sandbox    {:6.2} M rows/s on one core", rate(sandbox));
    println!(
        "the same code native       {:6.2} M rows/s: the sandbox has {:.2} of that",
        rate(native),
        native / sandbox
    );

    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut strategies: Vec<_> = (0..threads).map(|_| plugins.strategy("alpaca", "{}").expect("a strategy")).collect();
    let share = rows.len().div_ceil(threads);
    let all = best(|| {
        std::thread::scope(|scope| {
            let work = strategies.iter_mut().zip(rows.chunks(share)).map(|(strategy, rows)| {
                scope.spawn(move || -> usize {
                    rows.chunks(BATCH).map(|batch| strategy.render(batch).expect("samples").len()).sum()
                })
            });
            work.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("a thread")).sum()
        })
    });
    println!("strategy on {threads} cores        {:6.2} M rows/s", rate(all));

    let file = std::env::temp_dir().join(format!("bench-boundary-{}.jsonl", std::process::id()));
    std::fs::write(&file, rows.join("\n")).expect("a file");
    let loading = best(|| {
        let mut loader = plugins.loader("jsonl", "{}", &file).expect("a loader");
        let mut count = 0;
        loop {
            let batch = loader.next(BATCH as u32).expect("rows");
            count += batch.rows.len();
            if batch.done {
                return count;
            }
        }
    });
    println!("loader in the sandbox      {:6.2} M rows/s on one core", rate(loading));
    std::fs::remove_file(&file).expect("the file");

    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart/model");
    let tokenizer = Tokenizer::load(&model, &Changes::default()).expect("a tokenizer");
    let few = &rows[..rows.len().min(4000)];
    let tokenizing = best(|| few.iter().map(|row| tokenizer.encode(row).expect("tokens").len()).sum());
    println!("tokenizer                  {:6.2} M rows/s on one core", few.len() as f64 / tokenizing / 1e6);

    for name in ["alpaca", "chat_template", "exact-match", "jsonl"] {
        let mut fastest = f64::INFINITY;
        for _ in 0..RUNS {
            let plugins = open(&[], None).expect("the bundled plugins");
            let start = Instant::now();
            match name {
                "exact-match" => drop(plugins.scorer(name, "{}").expect("a reward")),
                "jsonl" => drop(plugins.loader(name, "{}", &model.join("config.json")).expect("a loader")),
                _ => drop(plugins.strategy(name, "{}").expect("a strategy")),
            }
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        println!("warm load of {name:13} {:6.2} ms", fastest * 1e3);
    }
    let opening = best(|| open(&[], None).expect("the bundled plugins").plugins().count());
    println!("finding the bundled plugins {:5.2} ms", opening * 1e3);
}

/// A row of about 400 bytes, as Alpaca's are.
fn row(index: usize) -> String {
    serde_json::json!({
        "instruction": format!("Explain in a few sentences why number {index} is \"special\" to some people, and name one other."),
        "input": "Use plain words.\nAssume that the reader has finished school, and is curious about mathematics.",
        "output": format!("{index} is the sum of two smaller numbers. People like it because it is easy to remember; another one is {}, which has that in common with it, and many more besides.", index + 7),
    })
    .to_string()
}

/// Seconds of the fastest run; each must do something.
fn best(mut work: impl FnMut() -> usize) -> f64 {
    let mut fastest = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        assert!(work() > 0);
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    fastest
}
