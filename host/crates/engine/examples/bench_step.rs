//! Times whole training steps (forward, backward, clip, AdamW) on random weights and tokens, for `tests/bench/run.py` and
//! `tests/gpu/verify`.
//!
//! `bench_step SHAPE MODE SECONDS [cpu|cuda|calls ROWS[,ROWS...] LENGTH]`: shape `s`, `m` (SmolLM-135M), `l` (Llama-3.2-1B) or
//! `e` or `e64` (a Qwen3 of 8 experts, two of them a token, or of 64 small ones, eight of them a token), mode `full` or `lora`; with `cuda`, on the first GPU in bfloat16; with
//! `calls`, there without CUDA graphs. Prints a line of JSON for each number of rows; the first that does not fit is the last.

use std::collections::BTreeMap;
use std::time::Instant;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::tensors::LinearKind;
use engine::kernels::Kernels;
use engine::kernels::cpu::CpuKernels;
use engine::kernels::cuda::library::Search;
use engine::kernels::cuda::system::System;
use engine::optim::AdamWConfig;
use engine::rng::Philox;
use engine::weights::WeightSource;
use engine::{Batch, EngineError, IGNORE, Trainable, Trainer, TrainerOptions};

/// Rows and tokens of a batch on the CPU.
const ROWS: usize = 2;
const LENGTH: usize = 512;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [shape, mode, seconds] => run(CpuKernels, shape, mode, seconds, &[ROWS], LENGTH, |_| None),
        [shape, mode, seconds, "cpu", rows, length] => {
            run(CpuKernels, shape, mode, seconds, &numbers(rows), length.parse().expect("a length"), |_| None);
        }
        [shape, mode, seconds, how @ ("cuda" | "calls"), rows, length] => {
            let search = Search::of_process();
            let system = System::find(&search).unwrap_or_else(|absent| panic!("{absent}"));
            let kernels = system.open(0, system.gpus[0].precision(), None).unwrap_or_else(|error| panic!("{error}"));
            let kernels = if *how == "calls" { kernels.without_graphs() } else { kernels };
            run(kernels, shape, mode, seconds, &numbers(rows), length.parse().expect("a length"), |kernels| {
                let (free, total) = kernels.memory();
                Some(total - free)
            });
        }
        _ => panic!("usage: bench_step s|m|l|e|e64 full|lora SECONDS [cpu|cuda|calls ROWS[,ROWS...] LENGTH]"),
    }
}

fn numbers(list: &str) -> Vec<usize> {
    list.split(',').map(|rows| rows.parse().expect("rows")).collect()
}

/// `memory` says how much of the device is in use.
fn run<K: Kernels>(
    kernels: K,
    shape: &str,
    mode: &str,
    seconds: &str,
    rows: &[usize],
    length: usize,
    memory: impl Fn(&K) -> Option<u64>,
) {
    let seconds: f64 = seconds.parse().expect("seconds");
    let config = ModelConfig::from_json(&shape_json(shape), "bench".as_ref()).expect("a shape of this file");
    let options = TrainerOptions {
        trainable: Trainable::All,
        lora: (mode == "lora").then(|| LoraConfig {
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            modules: Modules::of(LinearKind::ALL),
            saved: Saved::default(),
            ranks: BTreeMap::new(),
            alphas: BTreeMap::new(),
        }),
        gradient_checkpointing: false,
        seed: 1,
        adamw: AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
        ..TrainerOptions::default()
    };
    let vocabulary = config.vocab_size as u64;
    let mut trainer = Trainer::on(kernels, config, &WeightSource::Random { seed: 1 }, options).expect("a trainer");
    for (index, &rows) in rows.iter().enumerate() {
        let mut rng = Philox::new(7, 1);
        let ids: Vec<u32> = (0..rows * length).map(|_| rng.below(vocabulary) as u32).collect();
        let last = |index: usize| index % length == length - 1;
        let targets = (0..ids.len()).map(|index| if last(index) { IGNORE } else { ids[index + 1] }).collect();
        let batch = Batch { ids, targets, weights: None, doc_lens: vec![length as u32; rows] };
        let line = match times(&mut trainer, &batch, 1.0 / (rows * (length - 1)) as f64, seconds) {
            Ok(times) => {
                let (median, queued) = times[times.len() / 2];
                let tokens = (rows * length) as f64;
                serde_json::json!({
                    "rows": rows,
                    "tokens_per_second": tokens / median,
                    "best": tokens / times[0].0,
                    "queued_share": queued / median,
                    "steps": times.len(),
                    "peak_bytes": peak_bytes(),
                    "device_bytes": memory(&trainer.model().kernels),
                    "device_usage": trainer.model().kernels.usage(),
                })
            }
            // Nothing was measured.
            Err(error) if index == 0 => panic!("{error}"),
            Err(error) => serde_json::json!({ "rows": rows, "problem": error.to_string() }),
        };
        #[expect(clippy::print_stdout, reason = "its result")]
        {
            println!("{line}");
        }
        if line["problem"].is_string() {
            return;
        }
    }
}

/// Seconds of each step, and those until all of its work was asked for but the update; the fastest first.
fn times<K: Kernels>(
    trainer: &mut Trainer<K>,
    batch: &Batch,
    scale: f64,
    seconds: f64,
) -> Result<Vec<(f64, f64)>, EngineError> {
    let mut step = || -> Result<(f64, f64), EngineError> {
        let start = Instant::now();
        trainer.forward_backward(batch, scale, 0)?;
        let queued = start.elapsed().as_secs_f64();
        trainer.apply(1e-4, Some(1.0))?;
        Ok((start.elapsed().as_secs_f64(), queued))
    };
    // The first step makes room and warms the caches; the second is where a device keeps its work to do it again.
    step()?;
    step()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        times.push(step()?);
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(times)
}

fn shape_json(name: &str) -> String {
    if let Some((experts, of_token, width)) = match name {
        "e" => Some((8, 2, 512)),
        "e64" => Some((64, 8, 128)),
        _ => None,
    } {
        return serde_json::json!({
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu", "hidden_size": 256,
            "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 512,
            "moe_intermediate_size": width, "num_experts": experts, "num_experts_per_tok": of_token, "norm_topk_prob": true,
            "vocab_size": 8192, "tie_word_embeddings": false, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
        })
        .to_string();
    }
    let (hidden, layers, heads, kv_heads, ffn, vocabulary, tied) = match name {
        "s" => (512, 8, 8, 4, 1408, 8192, false),
        "m" => (576, 30, 9, 3, 1536, 49152, true),
        "l" => (2048, 16, 32, 8, 8192, 128_256, true),
        other => panic!("no shape `{other}`"),
    };
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocabulary,
        "tie_word_embeddings": tied, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    })
    .to_string()
}

/// The most memory that the process had (`VmHWM`).
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
