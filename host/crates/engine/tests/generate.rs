//! Generation: greedy texts of transformers, sequences that take turns, and log-probabilities that are those of training.

mod fixture;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::{ModelConfig, Quantization};
use engine::architecture::tensors::LinearKind;
use engine::generate::{Completion, GenerateOptions, Request, cache_bytes, generate, next_logits, unobserved};
use engine::kernels::Packing;
use engine::kernels::cpu::{CpuKernels, instructions};
use engine::model::Model;
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{Batch, EngineError, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

fn config(directory: &Path) -> ModelConfig {
    ModelConfig::from_dir(directory).unwrap()
}

fn model(name: &str) -> Model {
    let directory = fixture(name);
    Model::load(config(&directory), &WeightSource::Directory(directory), None).unwrap()
}

fn run(model: &Model, requests: &[Request], options: &GenerateOptions) -> Vec<Completion> {
    generate(model, requests, options, &mut unobserved).unwrap()
}

/// Prompts of uneven lengths, each of its own tokens.
fn prompts(count: u32, vocab_size: usize) -> Vec<Vec<u32>> {
    let prompt = |index: u32| {
        let length = 1 + index * 7 % 23;
        (0..length).map(|place| (3 + index * 31 + place * 11) % vocab_size as u32).collect()
    };
    (0..count).map(prompt).collect()
}

#[test]
fn greedy_generation_is_that_of_transformers() {
    for name in [
        "untied",
        "tied",
        "wide-heads-llama3-rope",
        "frozen",
        "llama-biases",
        "mistral",
        "ministral",
        "qwen2",
        "qwen2-window",
        "qwen3",
        "gemma2",
        "gemma3",
        "phi3",
        "phi3-longrope",
        "smollm3",
        "granite",
        "olmo2",
        "olmo3",
        "seed-oss",
        "arcee",
        "ernie",
        "glm",
        "glm4",
        "exaone4",
        "hunyuan",
        "ministral3",
        "mistral3-images",
        "gemma",
        "vaultgemma",
        "helium",
        "cwm",
        "apertus",
        "hyperclova-x",
        "qwen3moe",
        "qwen3moe-balance",
        "mixtral",
        "olmoe",
        "granitemoe",
        "granite4-experts",
    ] {
        let bytes = std::fs::read(fixture(name).join("expected.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let ids = |tensor: &str| -> Vec<u32> {
            let words = tensors.tensor(tensor).unwrap().data().chunks_exact(4);
            words.map(|word| i32::from_le_bytes(word.try_into().unwrap()) as u32).collect()
        };
        let (prompt, expected) = (ids("generate/prompt"), ids("generate/out"));
        let model = model(name);
        let options = GenerateOptions { max_new_tokens: expected.len(), ..GenerateOptions::default() };
        // Beside prompts of other lengths, whose rows share the batch.
        let requests = Request::one_each([prompt[..1].to_vec(), prompt.clone(), vec![prompt[0]; 9]]);
        let mut streamed = Vec::new();
        let found = generate(&model, &requests, &options, &mut |written| {
            if written.sequence == 1 {
                streamed.push(*written.ids.last().unwrap());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found[1].ids, expected, "{name}");
        assert_eq!(streamed, expected, "{name}");
        let stop = GenerateOptions { eos_token_ids: vec![expected[3]], ..options };
        let found = run(&model, &Request::one_each([prompt]), &stop);
        let first = expected.iter().position(|id| *id == expected[3]).unwrap();
        assert_eq!((found[0].end, found[0].finished()), (Some(expected[3]), true));
        assert_eq!(found[0].ids, expected[..first]);
        assert_eq!(found[0].log_probs.len(), first + 1);
    }
}

#[test]
fn a_text_does_not_depend_on_what_is_beside_it() {
    // Those with a window, a cap and rotations of long texts go through it too.
    for name in ["untied", "qwen2-window", "gemma2", "phi3-longrope", "ministral3", "mixtral", "qwen3moe-idle"] {
        let model = model(name);
        let prompts = prompts(9, model.config.vocab_size);
        let end: Vec<u32> = (0..model.config.vocab_size as u32).filter(|id| id % 9 == 4).collect();
        let options =
            GenerateOptions { max_new_tokens: 12, do_sample: true, seed: 9, eos_token_ids: end, ..Default::default() };
        let all = run(&model, &Request::one_each(prompts.clone()), &options);
        assert!(all.iter().any(|one| one.end.is_some()) && all.iter().any(|one| one.end.is_none()), "{name}");
        for slots in [1, 2, 4] {
            let some = run(&model, &Request::one_each(prompts.clone()), &GenerateOptions { slots, ..options.clone() });
            assert!(some == all, "{name}: {slots} slots");
        }
        let first = run(&model, &Request::one_each(prompts[..1].to_vec()), &options);
        assert!(first[0] == all[0], "{name}");
    }
}

#[test]
fn completions_of_a_prompt_are_those_of_the_prompt_repeated() {
    for name in ["tied", "ministral", "phi3-longrope", "olmoe"] {
        let model = model(name);
        let prompts = prompts(3, model.config.vocab_size);
        let requests: Vec<Request> = prompts
            .iter()
            .zip([4, 1, 7])
            .map(|(prompt, completions)| Request { prompt: prompt.clone(), completions })
            .collect();
        let repeated = requests.iter().flat_map(|request| vec![request.prompt.clone(); request.completions]);
        let repeated = Request::one_each(repeated);
        for slots in [1, 2, 3, 5, 64] {
            let options = GenerateOptions {
                max_new_tokens: 20,
                do_sample: true,
                slots,
                eos_token_ids: vec![2, 7],
                ..Default::default()
            };
            let grouped = run(&model, &requests, &options);
            assert!(grouped == run(&model, &repeated, &options), "{name}: {slots} slots");
            assert_ne!(grouped[0].ids, grouped[1].ids, "each has draws of its own");
        }
    }
}

#[test]
fn the_caller_ends_a_text() {
    let model = model("untied");
    let requests = Request::one_each(prompts(3, model.config.vocab_size));
    let options = GenerateOptions { max_new_tokens: 9, slots: 2, ..GenerateOptions::default() };
    let all = run(&model, &requests, &options);
    let found = generate(&model, &requests, &options, &mut |written| {
        if written.sequence == 1 && written.ids.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert!(found[0] == all[0] && found[2] == all[2]);
    assert_eq!((found[1].ids.as_slice(), found[1].log_probs.len()), (&all[1].ids[..4], 4));
    assert!(found[1].stopped && found[1].finished() && !found[0].finished());
}

/// What is trained beside the model's own weights.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Adapted {
    No,
    Lora,
    Dora,
    Head,
    Packed(Packing),
}

fn lora(adapted: Adapted) -> LoraConfig {
    let modules = Modules::of(LinearKind::ALL);
    LoraConfig {
        r: 4,
        alpha: 6.0,
        dropout: 0.0,
        use_rslora: false,
        use_dora: adapted == Adapted::Dora,
        modules: if adapted == Adapted::Head { modules.with_head() } else { modules },
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    }
}

/// A trainer some steps on, so that adapters do something.
fn trainer(name: &str, adapted: Adapted) -> Trainer {
    let directory = fixture(name);
    let mut config = config(&directory);
    if let Adapted::Packed(packing) = adapted {
        config.quantization = Some(Quantization { packing, is_nested: false });
    }
    let options = TrainerOptions {
        trainable: Trainable::All,
        lora: (adapted != Adapted::No).then(|| lora(adapted)),
        gradient_checkpointing: false,
        seed: 5,
        adamw: AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::on(CpuKernels, config, &WeightSource::Directory(directory), options).unwrap();
    let ids: Vec<u32> = (0..40).map(|index| (index * 7 + 3) % trainer.model().config.vocab_size as u32).collect();
    let targets = ids[1..].iter().copied().chain([IGNORE]).collect();
    let batch = Batch { ids, targets, weights: None, doc_lens: vec![40] };
    for _ in 0..2 {
        trainer.forward_backward(&batch, 1.0 / 39.0, 0).unwrap();
        trainer.apply(1e-2, Some(1.0)).unwrap();
    }
    trainer
}

/// Prompts with their completions as documents to be learned, and the log-probabilities that the completions came with.
fn written(requests: &[Request], completions: &[Completion]) -> (Batch, Vec<f32>) {
    let (mut batch, mut log_probs) = (Batch::default(), Vec::new());
    let prompts = requests.iter().flat_map(|request| std::iter::repeat_n(&request.prompt, request.completions));
    for (prompt, completion) in prompts.zip(completions) {
        let text: Vec<u32> = prompt.iter().chain(&completion.ids).chain(&completion.end).copied().collect();
        batch.doc_lens.push(text.len() as u32 - 1);
        batch.ids.extend(&text[..text.len() - 1]);
        for (place, &id) in text.iter().enumerate().skip(1) {
            batch.targets.push(if place < prompt.len() { IGNORE } else { id });
        }
        log_probs.extend(vec![0.0; prompt.len() - 1]);
        log_probs.extend(&completion.log_probs);
    }
    (batch, log_probs)
}

/// The largest difference between what completions came with and what training finds.
fn difference(trainer: &mut Trainer, requests: &[Request], options: &GenerateOptions) -> f32 {
    let completions = run(trainer.model(), requests, options);
    let (batch, drawn) = written(requests, &completions);
    let of_evaluation = trainer.outputs(&batch).unwrap();
    let pass = trainer.forward(&batch, 0).unwrap();
    assert!(pass.outputs() == of_evaluation);
    let differences = drawn.iter().zip(&of_evaluation).map(|(drawn, found)| (drawn - found).abs());
    assert!(drawn.iter().any(|log_prob| *log_prob < -0.1), "something was drawn that was not certain");
    differences.fold(0.0, f32::max)
}

/// What there may be between the two; see the module `generate`.
fn allowed() -> f32 {
    if instructions().contains(&"AMX") { 2e-5 } else { 0.0 }
}

#[test]
fn log_probabilities_are_those_of_training_to_the_bit() {
    use Adapted::{Dora, Head, Lora, No, Packed};
    for (name, adapted) in [
        ("untied", No),
        ("tied", No),
        ("tied", Lora),
        ("untied", Dora),
        ("untied", Head),
        ("wide-heads-llama3-rope", Lora),
        ("llama-biases", No),
        ("llama-biases", Lora),
        ("mistral", No),
        ("ministral", Lora),
        ("qwen2", Lora),
        ("qwen2-window", No),
        ("qwen3", No),
        ("qwen3", Lora),
        ("gemma2", No),
        ("gemma2", Lora),
        ("gemma3", Lora),
        ("phi3", Lora),
        ("smollm3", No),
        ("granite", Lora),
        ("granite", Head),
        ("olmo2", Lora),
        ("olmo3", No),
        ("arcee", Lora),
        ("ernie", No),
        ("glm4", Lora),
        ("exaone4", No),
        ("hunyuan", Lora),
        ("ministral3", No),
        ("apertus", Lora),
        ("hyperclova-x", Lora),
        ("qwen3moe", No),
        ("qwen3moe", Lora),
        ("qwen3moe-balance", No),
        ("mixtral", Lora),
        ("olmoe", No),
        ("granite4-experts", Lora),
        ("untied", Packed(Packing::Nf4)),
        ("qwen3", Packed(Packing::Int8)),
    ] {
        let mut trainer = trainer(name, adapted);
        let prompts = prompts(5, trainer.model().config.vocab_size);
        let requests: Vec<Request> = prompts.into_iter().map(|prompt| Request { prompt, completions: 3 }).collect();
        let most = trainer.model().config.max_position_embeddings - 25;
        let options = GenerateOptions {
            max_new_tokens: most.min(40),
            do_sample: true,
            eos_token_ids: vec![5, 9],
            slots: 4,
            ..GenerateOptions::default()
        };
        let sampled = difference(&mut trainer, &requests, &options);
        assert!(sampled <= allowed(), "{name}, {adapted:?}: {sampled:e} apart");
        let greedy = GenerateOptions { do_sample: false, ..options };
        let greedy = difference(&mut trainer, &requests, &greedy);
        assert!(greedy <= allowed(), "{name}, {adapted:?}, greedy: {greedy:e} apart");
    }
}

/// A small model of real widths: inner dimensions of several stretches, texts of several blocks.
fn wide(window: Option<usize>, adapted: bool, weights: &WeightSource) -> Trainer {
    let json = serde_json::json!({
        "model_type": "mistral", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 2003,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "initializer_range": 0.08,
        "tie_word_embeddings": true, "hidden_act": "silu", "sliding_window": window,
    });
    let config = ModelConfig::from_json(&json.to_string(), "wide".as_ref()).unwrap();
    let lora = adapted.then(|| lora(Adapted::Lora));
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let options = TrainerOptions {
        trainable: Trainable::All,
        lora,
        gradient_checkpointing: false,
        seed: 5,
        adamw,
        ..TrainerOptions::default()
    };
    Trainer::on(CpuKernels, config, weights, options).unwrap()
}

/// Puts its weights into a directory as bfloat16, of which steps read half the bytes.
fn save_rounded(trainer: &Trainer, directory: &Path) {
    let mut tensors = Vec::new();
    trainer
        .visit_state::<EngineError>(&mut |name, shape, values| {
            if let Some(name) = name.strip_prefix("param/") {
                let halves = values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes());
                tensors.push((name.to_owned(), shape.to_vec(), halves.collect::<Vec<u8>>()));
            }
            Ok(())
        })
        .unwrap();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
}

#[test]
fn log_probabilities_of_long_texts_are_those_of_training_too() {
    let room = tempfile::tempdir().unwrap();
    let random = WeightSource::Random { seed: 3 };
    save_rounded(&wide(None, false, &random), room.path());
    let rounded = WeightSource::Directory(room.path().to_owned());
    for (window, is_adapted, weights) in [(None, false, &random), (Some(300), false, &random), (None, true, &rounded)] {
        let mut trainer = wide(window, is_adapted, weights);
        let long = |tokens: u32| (0..tokens).map(|place| (place * 37 + 11) % 2003).collect();
        // Texts that end before, at and behind the places where sums are parted.
        let requests: Vec<Request> = [1, 60, 126, 500, 508, 1022]
            .into_iter()
            .map(|tokens| Request { prompt: long(tokens), completions: 2 })
            .collect();
        let options = GenerateOptions { max_new_tokens: 8, do_sample: true, slots: 7, ..GenerateOptions::default() };
        let most = difference(&mut trainer, &requests, &options);
        assert!(most <= allowed(), "{window:?}, {is_adapted}: {most:e} apart");
    }
}

#[test]
fn a_cut_distribution_has_the_log_probabilities_of_what_is_left() {
    let model = model("untied");
    let prompt = vec![3, 4, 5];
    let logits = next_logits(&model, &prompt).unwrap();
    let options = GenerateOptions {
        max_new_tokens: 1,
        do_sample: true,
        temperature: 0.7,
        top_k: 5,
        top_p: 0.9,
        ..GenerateOptions::default()
    };
    let found = run(&model, &[Request { prompt, completions: 30 }], &options);
    let mut ranked: Vec<(usize, f64)> =
        logits.iter().enumerate().map(|(id, &logit)| (id, (f64::from(logit) / 0.7).exp())).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(5);
    let total: f64 = ranked.iter().map(|entry| entry.1).sum();
    let mut before = 0.0;
    ranked.retain(|entry| {
        before += entry.1;
        before - entry.1 < 0.9 * total
    });
    let total: f64 = ranked.iter().map(|entry| entry.1).sum();
    for completion in found {
        let entry = ranked.iter().find(|entry| entry.0 == completion.ids[0] as usize).expect("one of those kept");
        let expected = (entry.1 / total).ln();
        assert!((f64::from(completion.log_probs[0]) - expected).abs() < 1e-5, "{completion:?}, not {expected}");
    }
}

#[test]
fn the_cache_has_room_for_what_grows_at_once() {
    let config = config(&fixture("untied"));
    let requests = Request::one_each(vec![vec![1; 10]; 8]);
    let bytes = |slots| cache_bytes(&config, &requests, &GenerateOptions { slots, ..GenerateOptions::default() });
    let token = 8 * (config.num_hidden_layers * config.num_key_value_heads * config.head_dim) as u64;
    let entries = (10 + 128usize).min(config.max_position_embeddings).next_multiple_of(16) as u64;
    assert_eq!(bytes(4) - bytes(2), 2 * token * entries);
    assert_eq!(bytes(8), bytes(64));
}

#[test]
fn impossible_generations_are_errors() {
    let model = model("untied");
    let reason = |prompt: Vec<u32>, options: GenerateOptions| {
        let requests = Request::one_each([prompt]);
        let error: EngineError = generate(&model, &requests, &options, &mut unobserved).unwrap_err();
        error.to_string()
    };
    let plain = GenerateOptions::default;
    assert_eq!(reason(vec![], plain()), "a prompt has no tokens");
    assert!(reason(vec![1 << 20], plain()).starts_with("token 1048576 is not one of the model's"));
    assert!(reason(vec![1; 1 << 16], plain()).contains("positions"));
    assert!(reason(vec![1], GenerateOptions { top_p: 0.0, ..plain() }).starts_with("`top_p` is 0"));
    assert!(reason(vec![1], GenerateOptions { min_p: 1.5, ..plain() }).starts_with("`min_p` is 1.5"));
    assert!(reason(vec![1], GenerateOptions { slots: 0, ..plain() }).starts_with("`slots` is 0"));
    let cold = GenerateOptions { do_sample: true, temperature: 0.0, ..plain() };
    assert!(reason(vec![1], cold).starts_with("`temperature` is 0"));
    let nothing = GenerateOptions { max_new_tokens: 0, ..plain() };
    assert!(run(&model, &Request::one_each([vec![1]]), &nothing)[0].ids.is_empty());
}
