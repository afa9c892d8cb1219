//! Reads all rows of a file by a loader in the sandbox, and prints how many there were and the seconds that it took without
//! compiling the plugin: `cargo run --release -p host --example bench_loaders -- parquet FILE`. `tests/bench/loaders.py` runs it.

use std::path::PathBuf;
use std::time::Instant;

use host::check::plugins;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(loader), Some(path)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        panic!("a loader and a file are needed");
    };
    let plugins = plugins::open(&[], None).unwrap_or_else(|failure| panic!("{failure:?}"));
    drop(plugins.loader(&loader, "{}", &path).expect("a loader"));
    let start = Instant::now();
    let mut source = plugins.loader(&loader, "{}", &path).expect("a loader");
    let mut rows = 0;
    loop {
        let batch = source.next(256).expect("rows");
        rows += batch.rows.iter().flatten().count();
        if batch.done {
            break;
        }
    }
    #[expect(clippy::print_stdout, reason = "what it measured")]
    {
        println!("{rows} {}", start.elapsed().as_secs_f64());
    }
}
