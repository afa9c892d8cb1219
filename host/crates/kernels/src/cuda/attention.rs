//! Which attention a document gets, and how it is launched. What this trainer's kernels do is said in
//! `source/attention.cu`, and the sizes here are those there; cuDNN's part is in `cudnn.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use half::bf16;

use super::cudnn::{Cudnn, Plans};
use super::device::{CudaKernels, Device, THREADS};
use super::driver::{Function, float, word};
use super::modules::Attention;
use super::plan;
use super::plan::{Group, Passes};
use super::rows::CudaRows;
use super::rows::{Grouping, Tiles};
use crate::rng::normal_at;
use crate::{AttentionShape, Precision, Rows, Targets};

/// Rows that a block takes.
pub(super) const TILES: Tiles = Tiles { forward: 128, queries: 64, keys: 64 };
/// Threads of a block of `append`.
const APPEND_THREADS: u32 = 128;

/// Bytes of shared memory of a block, of the forward and of the backward pass.
fn shared_bytes(precision: Precision, head_dim: usize) -> (u32, u32) {
    let bytes = match precision {
        Precision::Bf16 => {
            let row = 2 * head_dim.next_multiple_of(16);
            let pitch = if row.is_multiple_of(128) { row } else { row + 16 };
            let (forward, backward) = match head_dim {
                ..=64 => (192, 128),
                65..=128 => (320, 128),
                _ => (96, 192),
            };
            (forward * pitch, backward * pitch)
        }
        Precision::F32 => {
            let row = if head_dim.is_multiple_of(4) { head_dim + 2 } else { head_dim };
            let (forward, backward) = if head_dim <= 128 { (64, 32) } else { (32, 16) };
            (4 * ((forward + 32) * row + 33 * forward), 4 * (4 * backward * row + 2 * backward * (backward + 1)))
        }
    };
    (bytes.0 as u32, bytes.1 as u32)
}

/// Kernels with the shared memory that they need.
pub(super) fn shared(attention: &Attention, precision: Precision, shape: AttentionShape) -> [(Function, u32); 3] {
    let (forward, backward) = shared_bytes(precision, shape.head_dim);
    [
        (attention.attention, forward),
        (attention.attention_backward_keys, backward),
        (attention.attention_backward_queries, backward),
    ]
}

/// The kernels of a shape.
pub(super) struct Launches<'a> {
    pub(super) device: &'a Device,
    pub(super) kernels: Attention,
    pub(super) shape: AttentionShape,
    pub(super) window: Option<usize>,
}

/// A window as the kernels take it.
fn reach(window: Option<usize>) -> u64 {
    word(window.map_or(u32::MAX as usize, |window| window.min(u32::MAX as usize)))
}

impl CudaKernels {
    /// Attention's kernels for a shape, which [`Queue::prepare`](crate::Queue::prepare) has compiled.
    pub(super) fn launches(&self, shape: AttentionShape, window: Option<usize>) -> Option<Launches<'_>> {
        let device = &*self.0;
        match device.attention.get() {
            Some(&(prepared, _, kernels)) if prepared == shape => Some(Launches { device, kernels, shape, window }),
            _ => {
                device.context.fail("attention", format!("it was not prepared for {shape:?}"));
                None
            }
        }
    }
}

impl Launches<'_> {
    pub(super) fn forward(&self, rows: &CudaRows, qkv: u64, out: u64, lse: u64) {
        for fused in rows.tables.fused.iter().filter(|fused| fused.passes.forward) {
            let Some((cudnn, plans)) = self.device.fused(fused.group) else { return };
            let workspace = self.device.scratch(plans.workspace());
            let queued = cudnn.forward(&self.device.context, &plans, rows.fused(fused), [qkv, out, lse], workspace);
            self.device.queued(queued);
        }
        let (shape, tiles) = (self.shape, rows.tables.forward);
        let threads = if shape.head_dim <= 128 { 128 } else { 256 };
        let shared = shared_bytes(self.device.precision, shape.head_dim).0;
        let arguments = [qkv, out, lse, rows.at(tiles), float(shape.scale), reach(self.window)];
        self.device.context.launch(self.kernels.attention, [tiles.count, shape.heads], threads, shared, &arguments);
    }

    pub(super) fn backward(&self, rows: &CudaRows, qkv: u64, out: u64, lse: u64, dout: u64, dqkv: u64) {
        let (device, shape, kernels, n) = (self.device, self.shape, self.kernels, rows.tables.n);
        for fused in rows.tables.fused.iter().filter(|fused| fused.passes.backward) {
            let Some((cudnn, plans)) = device.fused(fused.group) else { return };
            let workspace = device.scratch(plans.workspace());
            let operands = [qkv, out, lse, dout, dqkv];
            device.queued(cudnn.backward(&device.context, &plans, rows.fused(fused), operands, workspace));
        }
        if rows.tables.queries.count == 0 {
            return;
        }
        let delta = device.scratch(plan::attention_bytes(n, shape.heads));
        let lanes = shape.head_dim.div_ceil(8).next_power_of_two();
        let blocks = (n * shape.heads * lanes).div_ceil(THREADS as usize);
        device.context.launch(kernels.attention_delta, [blocks, 1], THREADS, 0, &[out, dout, delta, word(n)]);
        let threads = if shape.head_dim <= 64 { 64 } else { 128 };
        let shared = shared_bytes(device.precision, shape.head_dim).1;
        for (function, tiles, heads) in [
            (kernels.attention_backward_keys, rows.tables.keys, shape.kv_heads),
            (kernels.attention_backward_queries, rows.tables.queries, shape.heads),
        ] {
            let arguments = [qkv, dout, lse, delta, dqkv, rows.at(tiles), float(shape.scale), reach(self.window)];
            device.context.launch(function, [tiles.count, heads], threads, shared, &arguments);
        }
    }

    pub(super) fn append(&self, rows: &CudaRows, capacity: usize, qkv: u64, keys: u64, values: u64) {
        let (slots, lens) = (rows.tables.slots, rows.tables.lens);
        let arguments = [qkv, keys, values, rows.at(slots), rows.at(lens), word(capacity)];
        self.device.context.launch(self.kernels.append, [slots.count, 1], APPEND_THREADS, 0, &arguments);
    }

    pub(super) fn cached(&self, rows: &CudaRows, capacity: usize, qkv: u64, keys: u64, values: u64, out: u64) {
        let (slots, lens) = (rows.tables.slots, rows.tables.lens);
        let scale = float(self.shape.scale);
        let window = reach(self.window);
        let arguments = [qkv, keys, values, out, rows.at(slots), rows.at(lens), word(capacity), scale, window];
        let grid = [slots.count, self.shape.kv_heads];
        self.device.context.launch(self.kernels.attention_cached, grid, THREADS, 0, &arguments);
    }
}

impl Device {
    /// cuDNN and its plans for a group that was tried.
    fn fused(&self, group: Group) -> Option<(&Cudnn, Arc<Plans>)> {
        let cudnn = self.cudnn.get().and_then(|cudnn| cudnn.as_ref().ok());
        let found = cudnn.and_then(|cudnn| Some((cudnn, cudnn.plans(group)?)));
        if found.is_none() {
            self.context.fail("attention", format!("{group:?} was not prepared"));
        }
        found
    }

    /// Keeps it as the device's failure where cuDNN did not do what it did in the trial.
    fn queued(&self, queued: Result<(), String>) {
        if let Err(reason) = queued {
            self.context.fail("cuDNN's attention", reason);
        }
    }

    /// The group in which cuDNN computes a document of `length` rows and which passes, made ready and tried the first time.
    pub(super) fn group(self: &Arc<Self>, length: usize) -> Option<(Group, Passes)> {
        let &(shape, window, _) = self.attention.get()?;
        if !plan::is_fused(length, shape, window) {
            return None;
        }
        let Ok(cudnn) = self.cudnn.get()? else {
            self.missed_cudnn.fetch_or(length > plan::SHORT, Ordering::Relaxed);
            return None;
        };
        let group = plan::fused_group(length, cudnn.shape())?;
        let passes = cudnn.prepare(&self.context, group, |plans| {
            let verdict = Trial::new(self, cudnn, group).and_then(|trial| trial.run(plans));
            verdict.unwrap_or_else(|reason| Passes { forward: Err(reason.clone()), backward: Err(reason) })
        });
        (passes.forward || passes.backward).then_some((group, passes))
    }
}

/// Rows of the longer document of a trial.
const TRIAL: usize = 2048;
/// Rows of the shorter one.
const TRIAL_SHORT: usize = 193;
/// How far cuDNN's results may be from this trainer's, as a share of their size: both are rounded to bf16.
const TRIAL_DISTANCE: f64 = 2e-2;

/// Attention of cuDNN beside this trainer's own, on numbers made up: whether they agree, and whether cuDNN's gives the same
/// bits twice.
struct Trial<'a> {
    device: &'a Arc<Device>,
    cudnn: &'a Cudnn,
    launches: Launches<'a>,
    group: Group,
    doc_lens: Vec<u32>,
    /// Rows that are filled up to.
    n: usize,
    memory: Vec<u64>,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        for &pointer in &self.memory {
            self.device.context.free(pointer);
        }
    }
}

/// Operands of a trial, on the device.
struct Operands {
    qkv: u64,
    out: u64,
    lse: u64,
    dout: u64,
    gradients: u64,
}

impl<'a> Trial<'a> {
    fn new(device: &'a Arc<Device>, cudnn: &'a Cudnn, group: Group) -> Result<Self, String> {
        let &(shape, _, kernels) = device.attention.get().ok_or("attention was not prepared")?;
        let mut doc_lens = vec![group.length.min(TRIAL) as u32];
        if group.documents > 1 {
            doc_lens.push(group.length.min(TRIAL_SHORT) as u32);
        }
        let n = plan::padded(doc_lens.iter().sum::<u32>() as usize);
        let launches = Launches { device, kernels, shape, window: None };
        Ok(Self { device, cudnn, launches, group, doc_lens, n, memory: Vec::new() })
    }

    /// What there is against either pass.
    fn run(mut self, plans: &Plans) -> Result<Passes<Result<(), String>>, String> {
        let (device, shape, group) = (Arc::clone(self.device), self.launches.shape, self.group);
        let length = self.doc_lens.iter().sum::<u32>() as usize;
        let positions: Vec<u32> = self.doc_lens.iter().flat_map(|&length| 0..length).collect();
        let ids = vec![0; length];
        let targets = Some(Targets { tokens: &ids, weights: None, scale: 1.0 });
        let rows = Rows { ids: &ids, positions: &positions, doc_lens: &self.doc_lens, targets, ..Rows::default() };
        let passes = plans.passes();
        let together = |_: usize| Some((group, passes));
        let grouping: Grouping<'_> = (shape, &together);
        let [mut own, mut fused] = [CudaRows::new(&device), CudaRows::new(&device)];
        own.put(&rows, TILES, None);
        fused.put(&rows, TILES, Some(grouping));
        let (packed, output) = (shape.packed(), shape.output());
        let operands = Operands {
            qkv: self.values(1, length, packed)?,
            out: self.zeros(2 * self.n * output)?,
            lse: self.zeros(4 * self.n * shape.heads)?,
            dout: self.values(2, length, output)?,
            gradients: self.zeros(2 * self.n * packed)?,
        };
        let Operands { qkv, out, lse, dout, gradients } = operands;
        let forward = |this: &Self| {
            let (out, lse) = (this.halves(out, length * output), this.floats(lse, length * shape.heads));
            [("output", out), ("log-sum-exp", lse)]
        };
        let backward = |this: &Self| [("gradient", this.halves(gradients, length * packed))];
        // Of both passes this trainer's results, which the backward pass of cuDNN begins with too.
        let workspace = device.scratch(plans.workspace());
        let fused_forward = |this: &Self| -> Result<_, String> {
            for group in &fused.tables.fused {
                this.cudnn.forward(&device.context, plans, fused.fused(group), [qkv, out, lse], workspace)?;
            }
            Ok(forward(this))
        };
        let found = passes.forward.then(|| Ok::<_, String>([fused_forward(&self)?, fused_forward(&self)?]));
        self.launches.forward(&own, qkv, out, lse);
        let right = forward(&self);
        let forward = found.map_or(Ok(()), |found| verdict(&right, &found?));
        self.launches.backward(&own, qkv, out, lse, dout, gradients);
        let right = backward(&self);
        let fused_backward = |this: &Self| -> Result<_, String> {
            for group in &fused.tables.fused {
                let operands = [qkv, out, lse, dout, gradients];
                this.cudnn.backward(&device.context, plans, fused.fused(group), operands, workspace)?;
            }
            Ok(backward(this))
        };
        let found = passes.backward.then(|| Ok::<_, String>([fused_backward(&self)?, fused_backward(&self)?]));
        Ok(Passes { forward, backward: found.map_or(Ok(()), |found| verdict(&right, &found?)) })
    }

    fn halves(&self, pointer: u64, count: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(count);
        self.device.context.read(pointer, 2 * count, |_, bytes| {
            values.extend(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_ne_bytes(bytes).to_f32()));
        });
        values
    }

    fn floats(&self, pointer: u64, count: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(count);
        self.device.context.read(pointer, 4 * count, |_, bytes| {
            values.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)));
        });
        values
    }

    fn zeros(&mut self, bytes: usize) -> Result<u64, String> {
        let context = &self.device.context;
        let pointer = context.try_alloc(bytes).ok_or("there is no memory left to try it")?;
        self.memory.push(pointer);
        context.zero(pointer, bytes);
        Ok(pointer)
    }

    fn values(&mut self, stream: u64, rows: usize, width: usize) -> Result<u64, String> {
        let pointer = self.zeros(2 * self.n * width)?;
        self.device.context.write(2 * rows * width, pointer, |range, bytes| {
            for (index, value) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
                *value = bf16::from_f32(normal_at(0, stream, (range.start / 2 + index) as u64)).to_ne_bytes();
            }
        });
        Ok(pointer)
    }
}

/// What there is against results: that they are not those that are right, or not the same the second time.
fn verdict<const N: usize>(
    right: &[(&str, Vec<f32>); N],
    [first, second]: &[[(&str, Vec<f32>); N]; 2],
) -> Result<(), String> {
    for (((what, right), (_, first)), (_, second)) in right.iter().zip(first).zip(second) {
        let distance = distance(first, right);
        // A distance that is no number is one too many.
        if distance.is_nan() || distance > TRIAL_DISTANCE {
            return Err(format!("its {what} is {distance:.1e} away from this trainer's"));
        }
        if first.iter().zip(second).any(|(first, second)| first.to_bits() != second.to_bits()) {
            return Err(format!("its {what} has not the same bits twice"));
        }
    }
    Ok(())
}

/// Length of the difference as a share of the length.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let difference = squares(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (difference / squares(&mut expected.iter().copied())).sqrt()
}
