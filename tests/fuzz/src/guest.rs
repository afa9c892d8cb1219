//! The fuzzer as a guest: a component of each kind whose calls return whatever is in its memory. What the memory holds from
//! [`IMAGE`] on is the input, as it was given to `create`. So results are lifted by wasmtime, checked at the boundary and
//! used by the host as those of a real plugin are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use host::check::fix::Fixes;
use host::check::rules::diagnostic;
use host::config::{Config, LoadedConfig, RuleRef, load};
use host::data::dataset::{ExcessLength, First, Sink, prepare};
use host::data::dropped::Dropped;
use host::data::filter::DatasetFilter;
use host::data::render::{Learns, Making};
use host::data::source::Source;
use host::data::steps::StepFormat;
use host::data::strategy::{Made, PromptStrategy};
use host::data::template::{ChatTemplate, built_in};
use host::data::tokenize::{Encoder, TextBudget};
use host::data::tokenizer::{Changes, Tokenizer};
use host::diagnostic::{Diagnostic, Failure};
use host::rl::reward::NamedReward;
use plugin_runtime::types::{
    Context, Facts, HealthRun, Item, Metric, Observation, Row, RowBatch, RowError, Sample, ScheduleRun, Segment, Text,
    Turn,
};
use plugin_runtime::{Kind, Limits, Manifest, PluginError, PluginHost, RuntimeOptions, pack};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::template::NOW;
use crate::{all_told, readable, root, told};

/// Where the input is in a guest's memory, and so what its pointers are relative to.
const IMAGE: u32 = 0x1_0000;
/// Tokens of a sequence.
const LENGTH: usize = 64;
/// Rows, completions and steps of a call.
const ITEMS: usize = 2;

/// What tells a kind's interface: its resource, the parameters of `create`, and its methods with theirs.
type Interface = (Kind, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const INTERFACES: &[Interface] = &[
    (
        Kind::DatasetLoader,
        "loader",
        "i32 i32 i32 i32",
        &[("len", "i32"), ("next", "i32 i32"), ("cursor", "i32"), ("seek", "i32 i32 i32")],
    ),
    (Kind::PromptStrategy, "strategy", "i32 i32", &[("render", "i32 i32 i32")]),
    (Kind::RowFilter, "filter", "i32 i32", &[("judge", "i32 i32 i32")]),
    (Kind::Reward, "scorer", "i32 i32", &[("score", "i32 i32 i32 i64 i64 i64")]),
    (Kind::CompatRules, "checker", "i32 i32", &[("rules", "i32"), ("check", "i32")]),
    (Kind::Schedule, "curve", "i32 i32 i64 i64 i64", &[("factors", "i32 i64 i32")]),
    (Kind::RunHealth, "monitor", "i32 i32 i64", &[("observe", "i32 i32 i32")]),
    (
        Kind::Environment,
        "episodes",
        "i32 i32",
        &[("reset", "i32 i32 i32 i64 i64 i64"), ("step", "i32 i32 i32 i64 i64 i64")],
    ),
];

/// A component of a kind without a manifest. `create` gets its memory in letters, two for each byte, from `a` on.
pub(crate) fn component(kind: Kind) -> Vec<u8> {
    let &(_, resource, parameters, methods) = INTERFACES.iter().find(|(known, ..)| *known == kind).expect("a kind");
    let interface = format!("trainer:plugin/{}@0.1.0", kind.name());
    let methods: String = methods
        .iter()
        .map(|(name, parameters)| {
            format!(
                r#"(func (export "{interface}#[method]{resource}.{name}") (param {parameters}) (result i32) (i32.const {IMAGE}))"#
            )
        })
        .collect();
    let text = format!(
        r#"(module
  (import "[export]{interface}" "[resource-new]{resource}" (func $new (param i32) (result i32)))
  (memory (export "memory") 128)
  (global $free (mut i32) (i32.const 0x400000))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (local.get 3))))
  (func $letter (param $at i32) (result i32) (i32.sub (i32.load8_u (local.get $at)) (i32.const 97)))
  (func $fill (param $from i32) (param $letters i32) (local $byte i32)
    (loop $next
      (if (i32.lt_u (i32.shl (local.get $byte) (i32.const 1)) (local.get $letters)) (then
        (i32.store8
          (i32.add (i32.const {IMAGE}) (local.get $byte))
          (i32.or
            (i32.shl (call $letter (i32.add (local.get $from) (i32.shl (local.get $byte) (i32.const 1)))) (i32.const 4))
            (call $letter (i32.add (local.get $from) (i32.add (i32.shl (local.get $byte) (i32.const 1)) (i32.const 1))))))
        (local.set $byte (i32.add (local.get $byte) (i32.const 1)))
        (br $next)))))
  (func (export "{interface}#[static]{resource}.create") (param {parameters}) (result i32)
    (call $fill (local.get 0) (local.get 1))
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (call $new (i32.const 1)))
    (i32.const 16))
  (func (export "{interface}#[dtor]{resource}") (param i32))
  {methods})"#
    );
    let mut module = wat::parse_str(text).expect("WebAssembly");
    let mut resolve = Resolve::default();
    let package = resolve.push_dir(root().join("wit/v0.1")).expect("the API is WIT").0;
    let world = resolve.select_world(&[package], Some(&format!("{}-plugin", kind.name()))).expect("a world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("a module");
    let mut encoder = ComponentEncoder::default();
    encoder.module(&module).expect("a module that fits its world").encode().expect("a component")
}

/// What is there before an input comes.
struct Stage {
    plugins: PluginHost,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    loaded: LoadedConfig,
}

fn name(kind: Kind) -> String {
    format!("fuzz:{}", kind.name())
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let folder = crate::directory(&[]);
    // Tighter than those of a run: what goes on without end is stopped by them.
    let (call, rows_bytes) = (Duration::from_millis(100), Some(1 << 14));
    let limits = Limits { call, rows_bytes, ..Limits::default() };
    let options = RuntimeOptions { cache_dir: None, compiler: None, limits, log: Arc::new(|_, _, _| {}) };
    let mut plugins = PluginHost::new(options).expect("an engine");
    for &(kind, ..) in INTERFACES {
        let manifest = Manifest {
            name: name(kind),
            version: "1.0.0".to_owned(),
            api: plugin_runtime::API.to_owned(),
            kind,
            description: "Returns what it is given".to_owned(),
            config_schema: None,
        };
        let (bytes, _) = pack(&component(kind), &manifest, kind.name()).expect("a plugin");
        let path = folder.path().join(format!("{}.wasm", kind.name()));
        std::fs::write(&path, bytes).expect("a file");
        plugins.add_file(&path).expect("a plugin");
    }
    // Compiled now: the files go with their directory.
    for &(kind, ..) in INTERFACES {
        play(&plugins, kind, &[]);
    }
    let model = root().join("configs/quickstart/model");
    let tokenizer = Tokenizer::load(&model, &Changes::default()).expect("a tokenizer");
    let template =
        ChatTemplate::new(built_in("chatml").expect("a template"), &BTreeMap::new(), NOW).expect("a template");
    let loaded = load(&root().join("configs/lora.yml"), &[]).expect("a config");
    Stage { plugins, tokenizer, template, loaded }
});

/// The first byte picks the kind, the rest is the guest's memory.
pub(crate) fn guest(bytes: &[u8]) {
    let Some((&first, image)) = bytes.split_first() else { return };
    let (kind, ..) = INTERFACES[usize::from(first) % INTERFACES.len()];
    let stage = &*STAGE;
    match kind {
        Kind::DatasetLoader | Kind::PromptStrategy | Kind::RowFilter => stage.data(kind, image),
        Kind::CompatRules => stage.rules(image),
        _ => play(&stage.plugins, kind, image),
    }
}

fn letters(image: &[u8]) -> String {
    image.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|half| char::from(b'a' + half)).collect()
}

/// Calls of a guest whose results need nothing else.
fn play(plugins: &PluginHost, kind: Kind, image: &[u8]) {
    let (name, config) = (name(kind), letters(image));
    let error = match kind {
        Kind::DatasetLoader => plugins
            .loader(&name, &config, &root().join("configs/quickstart/train.jsonl"))
            .and_then(|mut loader| {
                loader.len()?;
                let cursor = loader.cursor()?;
                loader.seek(&cursor)
            })
            .err(),
        Kind::PromptStrategy => plugins.strategy(&name, &config).err(),
        Kind::RowFilter => plugins.filter(&name, &config).err(),
        Kind::CompatRules => plugins.checker(&name, &config).and_then(|mut checker| checker.rules()).err(),
        Kind::Schedule => {
            let run = ScheduleRun { total_steps: ITEMS as u64, warmup_steps: 0, steps_per_epoch: 1 };
            let factors = plugins.curve(&name, &config, run).and_then(|mut curve| curve.factors(ITEMS as u64));
            if let Ok(factors) = &factors {
                assert!(factors.len() == ITEMS && factors.iter().all(|factor| factor.is_finite() && *factor >= 0.0));
            }
            factors.err()
        }
        Kind::RunHealth => {
            let observation =
                Observation { step: 1, metrics: vec![Metric { name: "loss".to_owned(), value: f64::NAN }] };
            let found = plugins
                .monitor(&name, &config, HealthRun { total_steps: 2 })
                .and_then(|mut monitor| monitor.observe(&[observation]));
            for finding in found.iter().flatten() {
                assert!(!finding.message.contains('\n') && finding.id.len() <= 64, "{finding:?}");
                readable(&Diagnostic::warning(format!("health::{}", finding.id), &finding.message).why(&finding.why));
            }
            found.err()
        }
        Kind::Environment => plugins.environment(&name, &config).err().or_else(|| {
            let context = Context { step: 0, total_steps: 1, seed: 0 };
            let mut environment = plugins.environment(&name, &config).ok()?;
            let starts = environment.reset(&["{}".to_owned(), "{}".to_owned()], &context);
            for start in starts.iter().flatten().flatten() {
                assert!(!start.messages.is_empty() && start.state.len() <= 64 << 10);
            }
            let outcomes = environment.step(&[turn(), turn()], &context);
            for outcome in outcomes.iter().flatten() {
                assert!(outcome.reward.is_none_or(f64::is_finite) && outcome.state.len() <= 64 << 10);
            }
            starts.err().or(outcomes.err())
        }),
        Kind::Reward => plugins
            .scorer(&name, &config)
            .map(|scorer| NamedReward::new(name.clone(), scorer, host::config::OnError::Fail))
            .map_or_else(Some, |mut reward| {
                match reward.score(&[item(), item()], &Context { step: 0, total_steps: 1, seed: 0 }) {
                    Ok(scored) => {
                        assert_eq!(scored.scores.len(), ITEMS);
                        let values = scored.scores.iter().filter_map(|score| score.value);
                        values.for_each(|value| assert!(value.is_finite()));
                    }
                    Err(failure) => all_told(&failure),
                }
                None
            }),
    };
    if let Some(error) = error {
        told(error);
    }
}

fn item() -> Item {
    Item {
        prompt: "p".to_owned(),
        completion: "c".to_owned(),
        completion_tokens: 1,
        finished: true,
        reference: "r".to_owned(),
        row_json: "{}".to_owned(),
    }
}

fn turn() -> Turn {
    Turn {
        state: Vec::new(),
        completion: "c".to_owned(),
        completion_tokens: 1,
        finished: true,
        number: 1,
        max_turns: 2,
    }
}

/// Gives two rows.
struct Two;

impl Source for Two {
    fn next(&mut self, _: u32) -> Result<RowBatch, PluginError> {
        let row = |position: &str| Ok(Row { json: r#"{"a": "b"}"#.to_owned(), position: position.to_owned() });
        Ok(RowBatch { rows: vec![row("line 1"), row("line 2")], done: true })
    }
}

/// Learns a row's JSON.
struct Plain;

impl PromptStrategy for Plain {
    fn begin(&mut self) -> Result<(), PluginError> {
        Ok(())
    }

    fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Made>, RowError>>, PluginError> {
        let learn = |row: &String| Segment { text: row.clone(), train: true, weight: None };
        let made = |row| Made::Sample(Sample::Supervised(Text::Segments(vec![learn(row)])));
        Ok(rows.iter().map(|row| Ok(Some(made(row)))).collect())
    }
}

impl Stage {
    /// Rows, verdicts or samples of the guest become tokens.
    fn data(&self, kind: Kind, image: &[u8]) {
        let (name, config) = (name(kind), letters(image));
        let path = root().join("configs/quickstart/train.jsonl");
        let (mut source, mut strategies): (Box<dyn Source>, Vec<Box<dyn PromptStrategy>>) =
            (Box::new(Two), vec![Box::new(Plain)]);
        let mut filters = Vec::new();
        let started = match kind {
            Kind::DatasetLoader => {
                play(&self.plugins, kind, image);
                self.plugins.loader(&name, &config, &path).map(|loader| source = Box::new(loader))
            }
            Kind::RowFilter => self.plugins.filter(&name, &config).map(|filter| {
                let (plugin, path) = (name.clone(), "row_filters[0]".to_owned());
                filters.push(DatasetFilter { plugin, path, min_score: Some(0.5), filter: Box::new(filter) });
            }),
            _ => self.plugins.strategy(&name, &config).map(|strategy| strategies = vec![Box::new(strategy)]),
        };
        started.expect("it was started before");
        let runs = [
            (ExcessLength::Drop, false, Learns::Texts),
            (ExcessLength::Truncate, true, Learns::Texts),
            (ExcessLength::Truncate, true, Learns::Pairs),
            (ExcessLength::Drop, false, Learns::ScoredPairs),
            (ExcessLength::Truncate, true, Learns::Steps { labels: 2 }),
            (ExcessLength::Drop, true, Learns::Unpaired),
            (ExcessLength::Drop, true, Learns::Prompts { completion: LENGTH / 2 }),
        ];
        for (excess, keeps_text, learns) in runs {
            let encoder = Encoder {
                tokenizer: &self.tokenizer,
                template: Some(&self.template),
                train_on_inputs: false,
                end_of_turn: vec![1],
                keeps_text,
                budget: TextBudget::of(LENGTH, excess == ExcessLength::Truncate),
            };
            let path = Path::new("train.jsonl");
            let making = Making { encoder, sequence_len: LENGTH, excess, learns, steps: StepFormat::default() };
            let mut first = First::new(usize::MAX);
            let prepared = match prepare(path, &mut *source, &mut filters, &mut strategies, &making, &mut first) {
                Ok(prepared) => prepared,
                Err(error) => {
                    all_told(&Failure::from(error));
                    continue;
                }
            };
            let dropped = Dropped { filters: prepared.filters, ..first.dropped().clone() };
            for left_out in dropped.reasons() {
                readable(&Diagnostic::warning("data::dropped", left_out.to_string()));
            }
            let has_answer = !matches!(learns, Learns::Prompts { .. });
            for example in &first.examples {
                for tokens in example.documents() {
                    let length = tokens.ids.len();
                    assert!(length == tokens.trained.len(), "{tokens:?}");
                    assert!(!has_answer || length <= LENGTH, "{tokens:?}");
                    assert!(!has_answer || tokens.trained_tokens() > 0, "nothing is learned of {tokens:?}");
                    assert!(has_answer || (1..=LENGTH / 2).contains(&tokens.prompt_ids().len()), "{tokens:?}");
                    assert!(tokens.ids.iter().all(|&id| (id as usize) < self.tokenizer.vocab_size()), "{tokens:?}");
                    if let Some(weights) = &tokens.weights {
                        let is_weight = |weight: &f32| weight.is_finite() && *weight >= 0.0;
                        assert!(weights.len() == length && weights.iter().all(is_weight));
                    }
                }
                if let Some(origin) = &example.origin {
                    let written = std::iter::once(&origin.written).chain(&origin.rejected);
                    for (tokens, written) in example.documents().zip(written) {
                        assert_eq!(written.places.len(), tokens.ids.len());
                        let is_text = |place: &std::ops::Range<usize>| written.text.get(place.clone()).is_some();
                        assert!(written.places.iter().all(is_text), "{origin:?}");
                    }
                }
            }
        }
    }

    /// Findings become messages, and edits of the config.
    fn rules(&self, image: &[u8]) {
        let (name, config) = (name(Kind::CompatRules), letters(image));
        play(&self.plugins, Kind::CompatRules, image);
        let facts = Facts {
            config_json: "{}".to_owned(),
            given_paths: Vec::new(),
            model_json: None,
            data_json: None,
            machine_json: None,
            outcomes_json: None,
        };
        let found = self.plugins.checker(&name, &config).and_then(|mut checker| checker.check(&facts));
        let found = match found {
            Ok(found) => found,
            Err(error) => return told(error),
        };
        let rule = RuleRef { name, config: serde_json::Map::new(), severity: BTreeMap::new() };
        let found: Vec<Diagnostic> =
            found.iter().take(100).filter_map(|finding| diagnostic(&self.loaded, &rule, finding)).collect();
        found.iter().for_each(readable);
        let fixes = Fixes::new(&self.loaded.source, &found);
        let folder = crate::directory(&[("host.yml", fixes.text.as_bytes())]);
        // What a rule may change is its values: files, models and plugins stay what they were.
        let examined = host::config::examine(&folder.path().join("host.yml"), &[]);
        let now = examined.loaded.unwrap_or_else(|| panic!("the config is gone:\n{}", fixes.text)).config;
        let named = |config: &Config| {
            let datasets: Vec<_> = config.datasets.iter().map(|dataset| dataset.path.clone()).collect();
            (config.base_model.clone(), datasets, config.output_dir.clone(), config.plugins.len(), config.rules.len())
        };
        assert_eq!(named(&now), named(&self.loaded.config), "{}", fixes.difference(&self.loaded.source));
    }
}
