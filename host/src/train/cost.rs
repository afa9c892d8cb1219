//! What a run will take, said before it starts: memory at its peak by part, and disk. The engine counts its own part
//! (`engine::memory`); data and program are what this process has of them once the data is ready.

use engine::memory::{Footprint, footprint};
use engine::weights::{bytes_of_others, largest_read};
use engine::workload::{BatchShape, GenerationShape, Workload};
use serde::Serialize;

use super::eval::GENERATION_BATCH;
use super::plan::Plan;
use crate::check::facts::ModelFacts;
use crate::checkpoint::export::ModelFiles;
use crate::config::{Config, LoadedConfig};
use crate::data::packing::plan_epoch;
use crate::data::set::Set;
use crate::data::store::{Sizes, StoreError};
use crate::data::unpaired::mismatched;
use crate::device::Device;
use crate::diagnostic::{Diagnostic, Failure, Severity};
use crate::memory::{available_memory_bytes, largest_memory_bytes, peak_memory_bytes, resident_memory_bytes};
use crate::report::progress::{bytes, whole};
use crate::rl::sampler::Sampling;
use crate::samples::Data;

/// Samples whose batches are looked at, over all epochs, and at least one epoch: a batch that is much larger hardly comes
/// after so many.
const LOOKED_AT: usize = 4_000_000;
/// And so many epochs at most.
const EPOCHS: usize = 64;
/// Bytes of a sample in memory: its length, its place in an epoch, and its shape while the run is planned.
const OF_SAMPLE: usize = 24;
/// What the program takes where the system does not say.
const PROGRAM: u64 = 48 << 20;

/// Bytes at the peak of a run, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Model and adapter.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    /// Activations of the largest batches, of training and of evaluation.
    pub activations: u64,
    /// Logits, where no gradient memory is free for them.
    pub logits: u64,
    /// Keys, values and logits of what an evaluation writes; 0 if loading or saving takes more.
    pub generation: u64,
    /// What loading or saving takes beyond the rest; 0 if a generation takes more.
    pub files: u64,
    /// Samples.
    pub data: u64,
    /// The program, its plugins and the tokenizer.
    pub program: u64,
    /// What the device that trains needs: all of them on the CPU, those before `files` on a GPU.
    pub total: u64,
    /// What the machine's own memory needs: all of them on the CPU, those from `files` on beside a GPU.
    pub host: u64,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// A checkpoint.
    pub checkpoint: u64,
    /// Checkpoints that are there at one time, at most.
    pub checkpoints: u64,
    /// The finished model.
    pub model: u64,
    /// The most at any time.
    pub total: u64,
}

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// What it does that takes memory.
    pub work: Workload,
    /// Elements that are trained.
    pub trainable_parameters: u64,
    /// Elements of model and adapter.
    pub total_parameters: u64,
    /// Memory.
    pub memory: Memory,
    /// Disk.
    pub disk: Disk,
}

impl Cost {
    /// Of a run that is planned, in the process that planned it. `files` go into every checkpoint.
    pub fn of(
        config: &Config,
        device: &Device,
        model: &ModelFacts,
        plan: &Plan,
        files: &ModelFiles<'_>,
    ) -> Result<Self, Failure> {
        let work = workload(config, plan)?;
        let data = data_bytes(&plan.data)?;
        let teacher = model.teacher.as_ref().map(|teacher| &teacher.config);
        let engine = footprint(device.profile(), &model.config, &plan.options, &work, teacher)?;
        let memory = match device {
            Device::Cpu => memory(&engine, largest_read(&model.weights), data),
            Device::Cuda(..) => memory_beside_gpu(&engine, largest_read(&model.weights), data),
        };
        // An adapter is saved without the model.
        let others = if plan.options.lora.is_none() { bytes_of_others(&model.weights, &model.config) } else { 0 };
        let beside = files.other_bytes() + others;
        Ok(Self {
            work,
            trainable_parameters: engine.trainable_parameters,
            total_parameters: engine.total_parameters,
            memory,
            disk: disk(&engine, beside, plan.saves(), kept_at_once(plan, config)),
        })
    }

    /// A warning if the device that trains has less memory than the run needs.
    pub fn warning(&self, device: &Device, loaded: &LoadedConfig) -> Option<Diagnostic> {
        let (have, whose) = match device {
            // What this process has already is part of the estimate.
            Device::Cpu => (available_memory_bytes()? + resident_memory_bytes(), "this machine".to_owned()),
            Device::Cuda(gpu, _) => (device.free_memory()?, format!("`cuda:{}` ({})", gpu.ordinal, gpu.name)),
        };
        (self.memory.total > have).then(|| warning(&self.memory, &whose, have, loaded))
    }
}

impl Cost {
    /// That this run cannot be made here: it needs more memory than there is, and would end when it takes it.
    ///
    /// # Errors
    /// As the warning, for a run on the CPU; a GPU says itself what it cannot give.
    pub fn check(&self, device: &Device, loaded: &LoadedConfig) -> Result<(), Failure> {
        let most = largest_memory_bytes().filter(|most| *device == Device::Cpu && self.memory.total > *most);
        let warning = most.and_then(|_| self.warning(device, loaded));
        warning.map_or(Ok(()), |warning| Err(Diagnostic { severity: Severity::Error, ..warning }.into()))
    }
}

impl Memory {
    /// The parts, by name, in the order in which they are shown.
    pub fn parts(&self) -> [(&'static str, u64); 9] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
            ("generation", self.generation),
            ("files", self.files),
            ("data", self.data),
            ("program", self.program),
        ]
    }
}

fn workload(config: &Config, plan: &Plan) -> Result<Workload, StoreError> {
    let eval = &plan.data.eval;
    let eval_size = plan.eval_batch_size;
    let eval_shapes = shapes(plan, eval)?;
    let eval_batches = eval_shapes.chunks(eval_size).map(together);
    let generated = config.num_generation_samples.map_or(usize::MAX, |count| count as usize).min(eval.len());
    let generates = !config.eval_reward_funcs.is_empty() && generated > 0;
    let eval_batch = eval_batches.reduce(BatchShape::max).filter(|_| plan.method.has_eval_loss());
    let train = match plan.method.sampling() {
        Some(sampling) => largest_rollouts(plan, sampling)?,
        None => largest_batch(plan, &shapes(plan, &plan.data.train)?)?,
    };
    // What the model says before training is asked of the same batches, without gradients.
    let reference = plan.method.asked().map(|_| train);
    let mut mismatched = None;
    if plan.method.is_mismatched() {
        let of_train = largest_batch(plan, &mismatched_shapes(plan, &plan.data.train)?)?;
        let of_eval = mismatched_shapes(plan, eval)?;
        mismatched = Some(of_eval.chunks(eval_size).map(together).fold(of_train, BatchShape::max));
    }
    let longest = |set: &Set, count: usize| -> Result<usize, StoreError> {
        set.sizes().take(count).try_fold(0, |longest, sizes| Ok(longest.max(sizes?.prompt as usize)))
    };
    let of_eval = if generates {
        Some(GenerationShape {
            prompts: generated.min(GENERATION_BATCH),
            longest: longest(eval, generated)?,
            max_new_tokens: config.eval_max_new_tokens as usize,
        })
    } else {
        None
    };
    let of_training = match plan.method.sampling() {
        Some(sampling) => Some(GenerationShape {
            prompts: sampling.micro_batch_size * sampling.steps_per_generation,
            longest: match sampling.episodes {
                Some(limits) => limits.sequence_len,
                None => longest(&plan.data.train, usize::MAX)?,
            },
            max_new_tokens: sampling.max_completion_length,
        }),
        None => None,
    };
    Ok(Workload {
        train,
        accumulates: plan.accumulation > 1,
        reference: plan.method.keeps_reference().then_some(train),
        eval: eval_batch.into_iter().chain(reference).chain(mismatched).reduce(BatchShape::max),
        generation: of_eval.into_iter().chain(of_training).reduce(GenerationShape::max),
    })
}

/// Samples, each by itself in a pass of training.
fn shapes(plan: &Plan, set: &Set) -> Result<Vec<Shape>, StoreError> {
    let shape = |sizes: Sizes| Shape {
        tokens: sizes.tokens() as u32,
        targets: plan.method.trained_tokens(&sizes) as u32,
        longest: sizes.longest() as u32,
    };
    set.sizes().map(|sizes| sizes.map(shape)).collect()
}

/// The samples with answers to others.
fn mismatched_shapes(plan: &Plan, set: &Set) -> Result<Vec<Shape>, StoreError> {
    let one = |sample: usize| {
        let tokens = mismatched(set, sample, plan.packing.sequence_len)?;
        let length = tokens.ids.len() as u32;
        Ok(Shape { tokens: length, targets: tokens.trained_tokens() as u32, longest: length })
    };
    (0..set.len()).map(one).collect()
}

/// The shape of one sample; there may be many.
#[derive(Debug, Clone, Copy)]
struct Shape {
    tokens: u32,
    targets: u32,
    longest: u32,
}

/// Samples in one pass.
fn together<'s>(shapes: impl IntoIterator<Item = &'s Shape>) -> BatchShape {
    shapes.into_iter().fold(BatchShape::default(), |sum, one| BatchShape {
        tokens: sum.tokens + one.tokens as usize,
        targets: sum.targets + one.targets as usize,
        longest: sum.longest.max(one.longest as usize),
    })
}

/// The largest micro-batch of completions that there could be: of the longest prompts, each completion as long as it may be.
fn largest_rollouts(plan: &Plan, sampling: &Sampling) -> Result<BatchShape, StoreError> {
    if let Some(limits) = sampling.episodes {
        let longest = limits.sequence_len;
        let texts = sampling.micro_batch_size;
        return Ok(BatchShape { tokens: texts * longest, targets: texts * sampling.longest(), longest });
    }
    let prompts = plan.data.train.sizes().map(|sizes| sizes.map(|sizes| sizes.prompt));
    let mut prompts: Vec<u32> = prompts.collect::<Result<_, _>>()?;
    prompts.sort_unstable_by_key(|length| std::cmp::Reverse(*length));
    let (group, completion) = (sampling.advantage.group, sampling.max_completion_length);
    let longest = prompts.iter().flat_map(|length| std::iter::repeat_n(*length as usize, group));
    let tokens = longest.take(sampling.micro_batch_size).map(|prompt| prompt + completion).sum();
    let targets = sampling.micro_batch_size * completion;
    Ok(BatchShape { tokens, targets, longest: prompts.first().map_or(0, |&longest| longest as usize) + completion })
}

/// The largest micro-batch of the run, in each size; `shapes` are those of its samples.
fn largest_batch(plan: &Plan, shapes: &[Shape]) -> Result<BatchShape, StoreError> {
    if plan.streams {
        // What comes later is not known.
        let longest = plan.packing.sequence_len;
        let tokens = plan.packing.micro_batch_size * longest;
        return Ok(BatchShape { tokens, targets: tokens, longest });
    }
    let lengths = plan.data.train.lengths()?;
    let epochs = plan.total_steps.div_ceil(plan.steps_per_epoch);
    let looked_at = (LOOKED_AT / lengths.len().max(1)).clamp(1, EPOCHS) as u64;
    let mut largest = BatchShape::default();
    for epoch in 0..epochs.min(looked_at) {
        let steps = (plan.total_steps - epoch * plan.steps_per_epoch).min(plan.steps_per_epoch) as usize;
        let batches = plan_epoch(&lengths, &plan.packing, epoch);
        for batch in batches.batches().take(steps * plan.accumulation) {
            largest = largest.max(together(batch.iter().map(|&sample| &shapes[sample])));
        }
    }
    Ok(largest)
}

/// What this process has beside the data.
fn program(data: u64) -> u64 {
    match resident_memory_bytes() {
        0 => PROGRAM,
        resident => resident.saturating_sub(data),
    }
}

/// Generation, loading and saving have their memory one after the other: what counts is the largest.
fn memory(engine: &Footprint, largest_read: u64, data: u64) -> Memory {
    let Footprint { weights, gradients, optimizer, activations, logits, generation, .. } = *engine;
    let program = program(data);
    // While a file is loaded, there is nothing of a step yet.
    let step = gradients + optimizer + activations + logits;
    let files = engine.largest_saved.max(largest_read.saturating_sub(step));
    let (generation, files) = if generation > files { (generation, 0) } else { (0, files) };
    let total = weights + step + generation + files + data + program;
    // The data may have taken more when it was prepared than a small model takes.
    let before = peak_memory_bytes().saturating_sub(total);
    let (program, total) = (program + before, total + before);
    Memory { weights, gradients, optimizer, activations, logits, generation, files, data, program, total, host: total }
}

/// Beside a GPU, the machine's memory has the data and, one after the other, what is loaded and saved.
fn memory_beside_gpu(engine: &Footprint, largest_read: u64, data: u64) -> Memory {
    let Footprint { weights, gradients, optimizer, activations, logits, generation, .. } = *engine;
    let program = program(data);
    let files = engine.largest_saved.max(largest_read);
    let total = weights + gradients + optimizer + activations + logits + generation;
    let host = files + data + program;
    Memory { weights, gradients, optimizer, activations, logits, generation, files, data, program, total, host }
}

/// Checkpoints that stay: the newest ones, and the best where it is the result.
fn kept_at_once(plan: &Plan, config: &Config) -> Option<u32> {
    let best = plan.judge.as_ref().is_some_and(|judge| judge.loads);
    config.save_total_limit.map(|limit| limit.saturating_add(u32::from(best)))
}

fn disk(engine: &Footprint, other_files: u64, saves: u64, limit: Option<u32>) -> Disk {
    let model = engine.saved_model + other_files;
    let checkpoint = model + engine.saved_optimizer;
    let kept = limit.map_or(saves, |limit| saves.min(u64::from(limit.max(1))));
    // The oldest goes when its successor is complete.
    let checkpoints = if saves > kept { kept + 1 } else { kept };
    Disk { checkpoint, checkpoints, model, total: (kept * checkpoint + model).max(checkpoints * checkpoint) }
}

fn warning(memory: &Memory, whose: &str, have: u64, loaded: &LoadedConfig) -> Diagnostic {
    let config = &loaded.config;
    // Beside a GPU, what is in the machine's own memory is no part of what is too much.
    let own = if memory.host == memory.total { 9 } else { 6 };
    let largest = memory.parts().into_iter().take(own).max_by_key(|part| part.1).unwrap_or_default();
    // Only what a step needs can be lowered, and only where it is not a small part.
    let matters = |part: u64| part > memory.total / 10;
    let (batch, learned) = (memory.activations + memory.logits, memory.gradients + memory.optimizer);
    let mut ways: Vec<(&str, String)> = Vec::new();
    if matters(batch) {
        let rows = config.micro_batch_size;
        if rows > 1 {
            ways.push(("micro_batch_size", format!("`micro_batch_size` below {}", whole(f64::from(rows)))));
        }
        let tokens = whole(f64::from(config.sequence_len));
        ways.push(("sequence_len", format!("`sequence_len` below {tokens}")));
    }
    if matters(memory.activations) && !config.gradient_checkpointing {
        ways.push(("gradient_checkpointing", "`gradient_checkpointing: true`".to_owned()));
    }
    if matters(memory.weights) && config.adapter.is_some() && config.quantization().is_none() {
        ways.push(("adapter", "`load_in_4bit: true` with `adapter: qlora`".to_owned()));
    }
    if matters(learned) && config.adapter.is_none() {
        let way = ("adapter", "`adapter: lora`".to_owned());
        if learned > batch { ways.insert(0, way) } else { ways.push(way) }
    }
    let words = ways.iter().map(|(_, words)| words.as_str()).collect::<Vec<_>>().join(", ");
    let help = if words.is_empty() { "use a smaller model".to_owned() } else { format!("these lower it: {words}") };
    let message = format!("the run needs about {}, and {whose} has {} free", bytes(memory.total), bytes(have));
    let place = ways.first().and_then(|(key, _)| loaded.source.place(key));
    Diagnostic::warning("plan::memory", message)
        .at(place.or_else(|| loaded.source.nearest_place("base_model")))
        .why(format!("{} take {}, the largest part", words_of(largest.0), bytes(largest.1)))
        .help(help)
}

fn words_of(part: &str) -> &'static str {
    match part {
        "weights" => "weights",
        "gradients" => "gradients",
        "optimizer" => "the optimizer's moments",
        "activations" => "activations",
        "logits" => "logits",
        "generation" => "the answers of an evaluation",
        "files" => "the model's files, while they are read or written,",
        "data" => "samples",
        _ => "the program and its plugins",
    }
}

/// Bytes that what is known of samples takes in memory, beside their files: sizes and places of all, and the batches of an
/// evaluation. Of a stream, the window that is learned from and the next.
fn data_bytes(data: &Data) -> Result<u64, StoreError> {
    let eval: u64 = data.eval.lengths()?.iter().map(|&tokens| u64::from(tokens) * 8).sum();
    Ok(((data.train.len() + data.eval.len()) * OF_SAMPLE) as u64 + eval + 2 * data.window_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINE: Footprint = Footprint {
        trainable_parameters: 10,
        total_parameters: 10,
        weights: 40,
        gradients: 40,
        optimizer: 80,
        activations: 30,
        logits: 5,
        generation: 0,
        largest_saved: 7,
        saved_model: 40,
        saved_optimizer: 80,
    };

    #[test]
    fn parts_add_up_to_the_total() {
        for (generation, largest_read) in [(0, 0), (1 << 40, 0), (9, 1 << 40)] {
            let memory = memory(&Footprint { generation, ..ENGINE }, largest_read, 3);
            assert_eq!(memory.parts().iter().map(|part| part.1).sum::<u64>(), memory.total);
            assert!(memory.generation == 0 || memory.files == 0, "one after the other");
        }
        let beside = memory_beside_gpu(&ENGINE, 9, 3);
        assert_eq!(beside.parts().iter().map(|part| part.1).sum::<u64>(), beside.total + beside.host);
        assert_eq!((beside.total, beside.files), (195, 9));
        assert_eq!(memory(&ENGINE, 100, 3).files, 7, "a file of the size of the weights is gone before the first step");
    }

    #[test]
    fn the_oldest_checkpoint_stays_until_its_successor_is_there() {
        let total = |saves, limit| disk(&ENGINE, 2, saves, limit).total;
        assert_eq!(total(0, None), 42);
        assert_eq!(total(3, None), 3 * 122 + 42);
        assert_eq!(total(3, Some(3)), 3 * 122 + 42);
        assert_eq!(total(3, Some(1)), 2 * 122);
    }
}
