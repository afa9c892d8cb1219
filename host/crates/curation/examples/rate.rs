//! How many rows a second are curated on one core: `cargo run --release -p curation --example rate [ROWS] [WORDS]`.

use std::time::Instant;

use curation::{Evaluation, FLOOR, NearDuplicates, Options, Words, clusters, digest};

#[expect(clippy::print_stdout, reason = "it is what the program is for")]
fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (rows, length) = (numbers.next().unwrap_or(200_000), numbers.next().unwrap_or(60));
    let mut state = 1_u64;
    let mut below = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    let mut texts: Vec<String> = Vec::new();
    for row in 0..rows {
        // Every tenth row is an earlier one with a word of its own.
        let text = match row.checked_sub(7).filter(|_| row % 10 == 9) {
            Some(earlier) => format!("{} again", texts[earlier]),
            None => (0..length).map(|_| format!("word{} ", below(30_000))).collect(),
        };
        texts.push(text);
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut words = Words::new();
    let timed = |name: &str, seconds: f64| {
        println!("{name:<16} {:>10.0} rows/s  {:>7.1} MB/s", rows as f64 / seconds, bytes as f64 / seconds / 1e6);
    };
    let began = Instant::now();
    let count: usize = texts.iter().map(|text| (words.read(text), words.len()).1).sum();
    timed("words", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let digests: std::collections::HashSet<u128> =
        texts.iter().map(|text| (words.read(text), digest(&words)).1).collect();
    timed("+ exact", began.elapsed().as_secs_f64());
    let mut evaluation = Evaluation::new(13);
    for (number, text) in texts.iter().step_by(1000).enumerate() {
        words.read(text);
        evaluation.push(number as u32, &words);
    }
    let began = Instant::now();
    let found = texts.iter().filter(|text| (words.read(text), evaluation.find(&words)).1.is_some()).count();
    timed("+ contamination", began.elapsed().as_secs_f64());
    let mut near = NearDuplicates::new(Options { floor: FLOOR, ngram: 5, permutations: 128 });
    let began = Instant::now();
    for (row, text) in texts.iter().enumerate() {
        words.read(text);
        near.push(row as u32, &words);
    }
    let signed = began.elapsed().as_secs_f64();
    timed("+ signatures", signed);
    let began = Instant::now();
    let edges = near.edges();
    let paired = began.elapsed().as_secs_f64();
    timed("pairs", paired);
    timed("near, all", signed + paired);
    let dropped: usize = clusters(&edges, 0.8).iter().map(|cluster| cluster.others.len()).sum();
    println!(
        "{rows} rows, {count} words, {} different; {found} contaminated, {} pairs, {dropped} near duplicates",
        digests.len(),
        edges.len()
    );
}
