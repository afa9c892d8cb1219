//! Which sequence grows when: a queue of completions that are asked for, and slots that they take in turn.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use rayon::prelude::*;

use super::decoder::{Decoder, Newest};
use super::options::GenerateOptions;
use super::request::{Completion, OnToken, Request, Written, capacity, sequences, slots};
use super::sampling::{self, Choice};
use crate::EngineError;
use crate::kernels::Kernels;
use crate::kernels::cpu::cap_logits;
use crate::model::Model;

/// Tokens of prompts that one pass reads, unless a single prompt has more.
const PREFILL_TOKENS: usize = 1024;

/// A completion that is asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Its number.
    index: usize,
    /// The number of its request.
    request: usize,
}

/// A sequence that is still growing.
struct Sequence {
    index: usize,
    slot: u32,
    /// Prompt and completion.
    ids: Vec<u32>,
    prompt: usize,
}

/// A prompt that was read, for completions of it that are still in the queue.
struct Shared {
    request: usize,
    /// Logits of its next token.
    logits: Vec<f32>,
}

/// A generation on its way.
pub(super) struct Schedule<'a, K: Kernels> {
    model: &'a Model<K>,
    requests: &'a [Request],
    options: &'a GenerateOptions,
    capacity: usize,
    decoder: Decoder<'a, K>,
    queue: VecDeque<Asked>,
    /// Slots that nothing grows in.
    free: Vec<u32>,
    /// The request whose prompt is at the start of each slot.
    held: Vec<Option<usize>>,
    shared: Option<Shared>,
    growing: Vec<Sequence>,
    completions: Vec<Completion>,
}

impl<'a, K: Kernels> Schedule<'a, K> {
    pub(super) fn new(model: &'a Model<K>, requests: &'a [Request], options: &'a GenerateOptions) -> Self {
        let (capacity, slots) = (capacity(&model.config, requests, options), slots(requests, options));
        let lens = || requests.iter().filter(|request| request.completions > 0).map(|request| request.prompt.len());
        // What grows long is read again as a whole.
        let grows_long = model.config.rope_limit().is_some_and(|limit| capacity > limit);
        let longest = if grows_long { capacity } else { lens().max().unwrap_or(0) };
        let tokens = longest.max(lens().sum::<usize>().min(PREFILL_TOKENS));
        let steps = sequences(requests).div_ceil(slots.max(1)).saturating_mul(options.max_new_tokens);
        let asked = requests.iter().enumerate();
        let asked = asked.flat_map(|(request, of)| std::iter::repeat_n(request, of.completions)).enumerate();
        let empty =
            Completion { ids: Vec::new(), end: None, stopped: false, log_probs: Vec::new(), entropies: Vec::new() };
        Self {
            model,
            requests,
            options,
            capacity,
            decoder: Decoder::new(model, slots, capacity, tokens, steps),
            queue: asked.map(|(index, request)| Asked { index, request }).collect(),
            free: (0..slots as u32).rev().collect(),
            held: vec![None; slots],
            shared: None,
            growing: Vec::new(),
            completions: vec![empty; sequences(requests)],
        }
    }

    /// Completes everything.
    pub(super) fn run(mut self, on_token: OnToken<'_>) -> Result<Vec<Completion>, EngineError> {
        loop {
            while !self.queue.is_empty() && !self.free.is_empty() {
                self.admit(on_token);
                self.model.kernels.check()?;
            }
            if self.growing.is_empty() {
                return Ok(self.completions);
            }
            self.advance(on_token);
            self.model.kernels.check()?;
        }
    }

    /// Gives free slots to what waits: completions of a prompt that was read already, then of as many others as one pass reads.
    fn admit(&mut self, on_token: OnToken<'_>) {
        let requests = self.requests;
        let v = self.model.config.vocab_size;
        let (mut started, mut logits) = (Vec::new(), Vec::new());
        let (mut texts, mut members): (Vec<(&[u32], u32)>, Vec<usize>) = (Vec::new(), Vec::new());
        let (mut tokens, mut last) = (0, None);
        while let (Some(&asked), Some(&slot)) = (self.queue.front(), self.free.last()) {
            let prompt = requests[asked.request].prompt.as_slice();
            let source = self.held.iter().position(|&held| held == Some(asked.request));
            let is_shared = self.shared.as_ref().is_some_and(|shared| shared.request == asked.request);
            if let (Some(source), Some(shared), true, None) = (source, &self.shared, is_shared, last) {
                self.decoder.copy_slot(prompt.len(), source as u32, slot);
                logits.extend_from_slice(&shared.logits);
            } else if last == Some(asked.request) {
                *members.last_mut().expect("a text was begun") += 1;
            } else {
                if !texts.is_empty() && tokens + prompt.len() > PREFILL_TOKENS {
                    break;
                }
                texts.push((prompt, slot));
                members.push(1);
                tokens += prompt.len();
                last = Some(asked.request);
            }
            self.held[slot as usize] = Some(asked.request);
            self.queue.pop_front();
            self.free.pop();
            started.push(Sequence { index: asked.index, slot, ids: prompt.to_vec(), prompt: prompt.len() });
        }
        if !texts.is_empty() {
            let read = self.decoder.prefill(&texts);
            for (row, &count) in read.chunks_exact_mut(v).zip(&members) {
                for _ in 0..count {
                    logits.extend_from_slice(row);
                }
            }
            // Completions of one prompt are neighbours.
            let mut first = started.len() - members.iter().sum::<usize>();
            for (&(prompt, source), &count) in texts.iter().zip(&members) {
                for sequence in &started[first..first + count] {
                    self.decoder.copy_slot(prompt.len(), source, sequence.slot);
                }
                first += count;
            }
            if let (Some(next), Some(last)) = (self.queue.front(), last)
                && next.request == last
            {
                self.shared = Some(Shared { request: last, logits: logits[logits.len() - v..].to_vec() });
            }
        }
        if self
            .shared
            .as_ref()
            .is_some_and(|shared| self.queue.front().is_none_or(|next| next.request != shared.request))
        {
            self.shared = None;
        }
        let kept = self.write(started, &mut logits, on_token);
        self.growing.extend(kept);
    }

    /// Gives each sequence its newest token, and writes the next one.
    fn advance(&mut self, on_token: OnToken<'_>) {
        // What grows long is rotated otherwise from its first token on, so its cache is made anew (as transformers does).
        let limit = self.model.config.rope_limit();
        let grows_long = |sequence: &Sequence| limit.is_some_and(|limit| sequence.ids.len() == limit + 1);
        let (long, others): (Vec<Sequence>, Vec<Sequence>) =
            std::mem::take(&mut self.growing).into_iter().partition(grows_long);
        let mut kept = Vec::with_capacity(long.len() + others.len());
        for sequence in long {
            self.held[sequence.slot as usize] = None;
            let mut logits = self.decoder.prefill(&[(&sequence.ids, sequence.slot)]).to_vec();
            kept.extend(self.write(vec![sequence], &mut logits, on_token));
        }
        if !others.is_empty() {
            let newest = |sequence: &Sequence| Newest {
                id: sequence.ids[sequence.ids.len() - 1],
                tokens: sequence.ids.len(),
                slot: sequence.slot,
            };
            let newest: Vec<Newest> = others.iter().map(newest).collect();
            let choices = choose(self.model, self.options, &others, self.decoder.step(&newest));
            kept.extend(self.take(others, choices, on_token));
        }
        self.growing = kept;
    }

    /// Writes the next token of sequences; returns those that go on.
    fn write(&mut self, sequences: Vec<Sequence>, logits: &mut [f32], on_token: OnToken<'_>) -> Vec<Sequence> {
        let choices = choose(self.model, self.options, &sequences, logits);
        self.take(sequences, choices, on_token)
    }

    /// Gives sequences the tokens that were chosen; returns those that go on. The others leave their slots.
    fn take(&mut self, sequences: Vec<Sequence>, choices: Vec<Choice>, on_token: OnToken<'_>) -> Vec<Sequence> {
        let mut kept = Vec::with_capacity(sequences.len());
        for (mut sequence, Choice { id, log_prob, entropy }) in sequences.into_iter().zip(choices) {
            let completion = &mut self.completions[sequence.index];
            completion.log_probs.push(log_prob);
            completion.entropies.extend(entropy);
            let goes_on = if self.options.eos_token_ids.contains(&id) {
                completion.end = Some(id);
                false
            } else {
                sequence.ids.push(id);
                completion.ids.push(id);
                let flow = on_token(Written { sequence: sequence.index, ids: &completion.ids });
                completion.stopped = flow == ControlFlow::Break(());
                let has_room = completion.ids.len() < self.options.max_new_tokens && sequence.ids.len() < self.capacity;
                has_room && !completion.stopped
            };
            if goes_on {
                kept.push(sequence);
            } else {
                self.free.push(sequence.slot);
            }
        }
        kept
    }
}

/// The next token of each sequence, from its row of `logits`, which are used up.
fn choose<K: Kernels>(
    model: &Model<K>,
    options: &GenerateOptions,
    sequences: &[Sequence],
    logits: &mut [f32],
) -> Vec<Choice> {
    let cap = model.config.logits_cap;
    let rows = logits.par_chunks_exact_mut(model.config.vocab_size).with_max_len(1);
    let choices = rows.zip(sequences).map_init(Vec::new, |scratch, (logits, sequence)| {
        if let Some(cap) = cap {
            cap_logits(logits, cap);
        }
        let written = sequence.ids.len() - sequence.prompt;
        sampling::next_token(logits, scratch, &sequence.ids, options, (sequence.index as u64, written as u64))
    });
    choices.collect()
}
