//! Times generation, for `tests/bench/generate.py`.
//!
//! `bench_generate DIR batch ROWS PROMPT NEW`: so many prompts of so many random tokens, so many new tokens each, greedy;
//! prints a line of JSON with tokens a second, reading of the prompts included.
//! `bench_generate DIR uneven REQUESTS SLOTS`: completions of uneven lengths, in slots that are taken in turn, and in groups
//! that each wait for their longest.
//! `bench_generate DIR group COMPLETIONS PROMPT`: completions of one prompt, of one request and of as many.

use std::ops::ControlFlow;
use std::time::Instant;

use engine::architecture::config::ModelConfig;
use engine::generate::{GenerateOptions, Request, generate, unobserved};
use engine::model::Model;
use engine::rng::Philox;
use engine::weights::WeightSource;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |word: &str| -> usize { word.parse().expect("a number") };
    let line = match words.as_slice() {
        [model, "batch", rows, prompt, new] => batch(&load(model), number(rows), number(prompt), number(new)),
        [model, "uneven", requests, slots] => uneven(&load(model), number(requests), number(slots)),
        [model, "group", completions, prompt] => group(&load(model), number(completions), number(prompt)),
        _ => {
            panic!("usage: bench_generate DIR batch ROWS PROMPT NEW | uneven REQUESTS SLOTS | group COMPLETIONS PROMPT")
        }
    };
    #[expect(clippy::print_stdout, reason = "its result")]
    {
        println!("{line}");
    }
}

fn load(directory: &str) -> Model {
    let config = ModelConfig::from_dir(directory.as_ref()).expect("a config");
    Model::load(config, &WeightSource::Directory(directory.into()), None).expect("a model")
}

/// Random prompts, of `from` to `to` tokens.
fn prompts(model: &Model, count: usize, from: usize, to: usize) -> Vec<Vec<u32>> {
    let mut rng = Philox::new(7, 1);
    let mut below = |bound: usize| rng.below(bound as u64) as usize;
    let mut prompt = |_| -> Vec<u32> {
        let length = from + below(to - from + 1);
        (0..length).map(|_| below(model.config.vocab_size) as u32).collect()
    };
    (0..count).map(&mut prompt).collect()
}

fn batch(model: &Model, rows: usize, prompt: usize, new: usize) -> serde_json::Value {
    let requests = Request::one_each(prompts(model, rows, prompt, prompt));
    let times = |max_new_tokens: usize| {
        let options = GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
        let start = Instant::now();
        generate(model, &requests, &options, &mut unobserved).expect("completions");
        start.elapsed().as_secs_f64()
    };
    // The first touches all weights.
    let _ = times(1);
    let (first, all) = (times(1), times(new));
    serde_json::json!({
        "tokens_per_second": (rows * new) as f64 / all,
        "seconds_of_prompts": first,
        "milliseconds_of_a_step": (all - first) * 1e3 / (new - 1).max(1) as f64,
    })
}

fn uneven(model: &Model, count: usize, slots: usize) -> serde_json::Value {
    let requests = Request::one_each(prompts(model, count, 8, 64));
    let mut rng = Philox::new(7, 2);
    let most: Vec<usize> = (0..count).map(|_| 8 + rng.below(185) as usize).collect();
    let options = GenerateOptions { max_new_tokens: 192, slots, ..GenerateOptions::default() };
    // The lengths are given, as if a token had ended each.
    let run = |requests: &[Request], first: usize| {
        let mut tokens = 0;
        generate(model, requests, &options, &mut |written| {
            tokens += 1;
            let is_done = written.ids.len() == most[first + written.sequence];
            if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("completions");
        tokens
    };
    run(&requests[..1], 0);
    let start = Instant::now();
    let tokens = run(&requests, 0);
    let in_turn = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for (group, requests) in requests.chunks(slots).enumerate() {
        run(requests, group * slots);
    }
    let in_groups = start.elapsed().as_secs_f64();
    serde_json::json!({
        "tokens": tokens,
        "tokens_per_second": tokens as f64 / in_turn,
        "tokens_per_second_in_groups": tokens as f64 / in_groups,
        "ratio": in_groups / in_turn,
    })
}

fn group(model: &Model, completions: usize, prompt: usize) -> serde_json::Value {
    let prompt = prompts(model, 1, prompt, prompt).remove(0);
    let options = GenerateOptions { max_new_tokens: 16, do_sample: true, ..GenerateOptions::default() };
    let seconds = |requests: &[Request]| {
        let start = Instant::now();
        generate(model, requests, &options, &mut unobserved).expect("completions");
        start.elapsed().as_secs_f64()
    };
    let repeated = Request::one_each(vec![prompt.clone(); completions]);
    let shared = [Request { prompt, completions }];
    seconds(&shared[..1]);
    let (shared, repeated) = (seconds(&shared), seconds(&repeated));
    serde_json::json!({ "seconds": shared, "seconds_without_sharing": repeated, "ratio": repeated / shared })
}
