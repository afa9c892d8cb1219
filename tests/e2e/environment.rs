//! Learning in an environment: what an episode becomes, what is learned of it, and what an environment may do to a run.

use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use engine::generate::Completion;
use host::config::OnError;
use host::data::template::{ChatTemplate, Now, built_in};
use host::data::tokenize::{Encoder, TextBudget};
use host::data::tokenizer::{Changes, Tokenizer};
use host::diagnostic::{Diagnostic, Failure};
use host::rl::episode::{Asked, Ending, Environment, EpisodeLimits, Episodes, Played};
use plugin_runtime::PluginError;
use plugin_runtime::types::{Context, EpisodeStart, Message, Outcome, RowError, Turn};
use serde_json::{Value, json};

use crate::support::{Project, guest, lines, root};

const CONTEXT: Context = Context { step: 1, total_steps: 1, seed: 0 };

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into(), train: None, spans: Vec::new(), extra_json: None }
}

/// Opens with the row, answers `go on` with the number of the turn, and ends at `stop`; a turn is worth its number. Its state
/// is what was written so far.
struct Echo;

impl Environment for Echo {
    fn reset(&mut self, rows: &[String], _: &Context) -> Result<Vec<Result<EpisodeStart, RowError>>, PluginError> {
        let start =
            |row: &String| EpisodeStart { messages: vec![message("user", row)], tools_json: None, state: Vec::new() };
        Ok(rows.iter().map(|row| Ok(start(row))).collect())
    }

    fn try_step(&mut self, turns: &[Turn], _: &Context) -> Result<Vec<Outcome>, PluginError> {
        if turns.iter().any(|turn| turn.completion.contains("crash")) {
            return Err(PluginError::new("plugin::trap", "plugin `echo` crashed"));
        }
        let answer = |turn: &Turn| Outcome {
            state: [&turn.state, turn.completion.as_bytes()].concat(),
            messages: vec![message("user", &format!("go on {}", turn.number))],
            reward: Some(turn.number.into()),
            done: turn.completion.contains("stop"),
            note: None,
        };
        Ok(turns.iter().map(answer).collect())
    }

    fn step(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Outcome>, PluginError> {
        self.try_step(turns, context)
    }
}

struct Table {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    limits: EpisodeLimits,
    on_error: OnError,
}

impl Table {
    fn new(template: &str) -> Self {
        let tokenizer = Tokenizer::load(&root().join("configs/quickstart/model"), &Changes::default()).unwrap();
        let template = ChatTemplate::new(template, &tokenizer.special_tokens(), Now(0)).unwrap();
        let limits = EpisodeLimits { max_turns: 3, sequence_len: 400, max_completion_length: 100 };
        Self { tokenizer, template, limits, on_error: OnError::Fail }
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text).unwrap().iter().map(|token| token.id).collect()
    }

    /// Plays one episode; the model writes these turns, each ended by the end-of-text token or cut (`…` at its end).
    fn play(&self, turns: &[&str]) -> Result<Played, Vec<Diagnostic>> {
        let encoder = Encoder {
            tokenizer: &self.tokenizer,
            template: Some(&self.template),
            train_on_inputs: false,
            end_of_turn: Vec::new(),
            keeps_text: false,
            budget: TextBudget::of(self.limits.sequence_len, false),
        };
        let (environment, limits, on_error) = (Box::new(Echo), self.limits, self.on_error);
        let mut episodes = Episodes { name: "echo".to_owned(), environment, on_error, limits, encoder };
        let mut complete = |asked: &Asked| -> Result<Vec<Completion>, Failure> {
            assert_eq!((asked.requests.len(), asked.rooms.len()), (1, 1));
            let text = turns[asked.turn - 1];
            let mut ids = self.ids(text.trim_end_matches('…'));
            ids.truncate(asked.rooms[0]);
            let end = self.tokenizer.eos().filter(|_| !text.ends_with('…'));
            let log_probs = vec![-1.0; ids.len() + usize::from(end.is_some())];
            Ok(vec![Completion { ids, end, stopped: false, log_probs, entropies: Vec::new() }])
        };
        let rows = ["hello".to_owned()];
        episodes.play(&rows, 1, &CONTEXT, &mut complete).map_err(|failure| failure.0)
    }

    /// The parts of an episode as text: what the model read and what it wrote, in turn.
    fn parts(&self, played: &Played) -> Vec<String> {
        let episode = &played.episodes[0];
        let mut bounds: Vec<usize> = episode.written.iter().flat_map(|part| [part.start, part.end]).collect();
        bounds.insert(0, 0);
        bounds.push(episode.ids.len());
        let text = |range: Range<usize>| episode.ids[range].iter().map(|&id| self.tokenizer.piece(id)).collect();
        bounds.windows(2).map(|pair| text(pair[0]..pair[1])).collect()
    }
}

/// Each message in angle brackets; the end of the model's turn is the end-of-text token.
const PLAIN: &str = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}</s>{% else %}({{ m.content }}){% endif %}{% endfor %}{% if add_generation_prompt %}:{% endif %}";

#[test]
fn an_episode_only_grows() {
    let table = Table::new(PLAIN);
    let played = table.play(&["one", "two", "stop"]).unwrap();
    assert_eq!(table.parts(&played), ["(hello):", "one</s>", "(go on 1):", "two</s>", "(go on 2):", "stop</s>", ""]);
    let episode = &played.episodes[0];
    assert_eq!((episode.reward, episode.ending), (Some(6.0), Some(Ending::Done)));
    let written: usize = episode.written.iter().map(Range::len).sum();
    assert_eq!(written, episode.log_probs.len());

    // What the template writes at the end of a turn that was cut was not written by the model.
    let played = table.play(&["one…", "two", "three…"]).unwrap();
    assert_eq!(table.parts(&played), ["(hello):", "one", "</s>(go on 1):", "two</s>", "(go on 2):", "three", ""]);
    assert_eq!(played.episodes[0].ending, Some(Ending::Cut));
    let played = table.play(&["one", "two", "three"]).unwrap();
    assert_eq!(played.episodes[0].ending, Some(Ending::Turns));
}

#[test]
fn a_template_that_writes_earlier_turns_anew_changes_nothing() {
    let same = Table::new(PLAIN).play(&["a thought: one", "two", "stop"]).unwrap();
    // Only the last message of all is written whole; of earlier ones, thoughts are left out.
    let table = Table::new(&PLAIN.replace("{{ m.content }}</s>", "{{ m.content.split(':')[-1] | trim }}</s>"));
    let played = table.play(&["a thought: one", "two", "stop"]).unwrap();
    assert_eq!(played.episodes[0].ids, same.episodes[0].ids);

    let code = |template: &str| Table::new(template).play(&["one", "stop"]).unwrap_err()[0].code.clone();
    assert_eq!(code("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"), "rl::template");
    assert_eq!(code(&PLAIN.replace("</s>", "{{ m.content }}")), "rl::template");
    assert_eq!(
        code(&PLAIN.replace("</s>", "{% if not loop.last %}{{ raise_exception('no') }}{% endif %}")),
        "rl::template"
    );
}

#[test]
fn chatml_goes_on_behind_a_turn() {
    let table = Table::new(built_in("chatml").unwrap());
    let played = table.play(&["one…", "stop"]).unwrap();
    let parts = table.parts(&played);
    assert_eq!(parts[0], "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(parts[2], "<|im_end|>\n<|im_start|>user\ngo on 1<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn a_length_limit_cuts_an_episode() {
    let mut table = Table::new(PLAIN);
    let opening = table.ids("(hello):").len();
    let answer = table.play(&["one", "stop"]).unwrap().episodes[0].written[1].start;
    // The answer fits, and one token more.
    table.limits = EpisodeLimits { sequence_len: answer + 1, max_completion_length: 4, ..table.limits };
    let played = table.play(&["one", "a second turn"]).unwrap();
    let episode = &played.episodes[0];
    assert_eq!((episode.ids.len(), episode.written.len(), episode.ending), (answer + 1 + 1, 2, Some(Ending::Cut)));
    // It does not.
    table.limits.sequence_len = answer;
    let played = table.play(&["one", "a second turn"]).unwrap();
    let episode = &played.episodes[0];
    assert_eq!((episode.written.len(), episode.reward, episode.ending), (1, Some(1.0), Some(Ending::Cut)));
    table.limits.sequence_len = opening + 3;
    assert_eq!(table.play(&["one"]).unwrap_err()[0].code, "rl::too-long");
}

#[test]
fn a_crash_costs_the_run_or_its_episode() {
    let mut table = Table::new(PLAIN);
    let error = &table.play(&["one", "crash"]).unwrap_err()[0];
    assert_eq!(error.code, "plugin::trap");
    assert!(error.help.as_ref().unwrap().contains("`{name: echo, on_error: zero}`"));
    table.on_error = OnError::Zero;
    let played = table.play(&["one", "crash"]).unwrap();
    assert_eq!((played.episodes[0].reward, played.episodes[0].ending), (Some(1.0), Some(Ending::Failed)));
    assert_eq!(played.scored().errors, Some(1));
    table.on_error = OnError::Skip;
    let played = table.play(&["one", "crash"]).unwrap();
    assert_eq!((played.episodes[0].reward, played.scored().errors), (None, Some(1)));
}

fn config(output_dir: &str, more: &str) -> String {
    format!(
        "base_model: model\ndatasets: [{{path: train.jsonl, type: alpaca}}]\nsequence_len: 400\nchat_template: chatml\n\
         rl: grpo\nmicro_batch_size: 4\nlearning_rate: 1e-3\nmax_steps: 12\nsave_steps: 3\nlogging_steps: 1\n\
         trl: {{num_generations: 4, max_completion_length: 12, steps_per_generation: 2}}\noutput_dir: {output_dir}\n{more}"
    )
}

const VOWELS: &str = "environment: {name: 'test:vowels', max_turns: 3}\n";

/// What `test:vowels` says of a turn.
fn worth(text: &str) -> f64 {
    let letters = text.chars().filter(char::is_ascii_alphabetic).count();
    let vowels = text.chars().filter(|c| "aeiouAEIOU".contains(*c)).count();
    vowels as f64 / letters.max(1) as f64
}

#[test]
fn a_run_in_an_environment_killed_and_resumed_is_the_same_byte_for_byte() {
    let project = Project::new();
    let plugins = guest("vowels");
    let plugins = plugins.to_str().unwrap();
    for output in ["whole", "parts"] {
        project.write(&format!("{output}.yml"), config(output, VOWELS));
    }
    project.success(&["train", "whole.yml", "--plugins", plugins]);

    let episodes = lines(&project.path("whole/completions.jsonl"));
    assert!(episodes.len() >= 8, "{}", episodes.len());
    for episode in &episodes {
        let messages = episode["messages"].as_array().unwrap();
        let of = |role: &str| messages.iter().filter(|message| message["role"] == role).collect::<Vec<_>>();
        let turns: Vec<&str> = of("assistant").iter().map(|message| message["content"].as_str().unwrap()).collect();
        assert_eq!(episode["turns"], turns.len());
        assert!((1..=3).contains(&turns.len()));
        let sum: f64 = turns.iter().map(|text| worth(text)).sum();
        let told = episode["rewards"]["test:vowels"]["value"].as_f64().unwrap();
        assert!((told - sum).abs() < 1e-9, "{told} {sum}: {episode}");
        assert_eq!(episode["completion"], turns.join("\n"));
        let poor = turns.iter().filter(|text| worth(text) == 0.0).count();
        assert!(poor <= 2 && (poor < 2 || worth(turns.last().unwrap()) == 0.0), "{episode}");
    }
    let metrics = lines(&project.path("whole/metrics.jsonl"));
    let first = &metrics[0];
    let turns = first["environment/mean_turns"].as_f64().unwrap();
    assert!(turns > 1.0 && turns <= 3.0, "{first}");
    assert!(first["rewards/test:vowels/mean"].as_f64().unwrap() > 0.0, "{first}");
    assert!(metrics.iter().any(|line| line["grad_norm"].as_f64().unwrap() > 0.0));

    let mut child = project.command(&["train", "parts.yml", "--plugins", plugins]).spawn().unwrap();
    let began = Instant::now();
    while !project.path("parts/checkpoint-3").exists() {
        assert!(began.elapsed() < Duration::from_mins(5), "there is no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!project.path("parts/checkpoint-12").exists(), "it was killed before the end");
    // In the middle of a generation.
    assert!(project.path("parts/checkpoint-3/rollouts.safetensors").exists());
    project.success(&["train", "parts.yml", "--plugins", plugins, "--resume", "auto"]);
    let bytes = |output: &str, file: &str| fs::read(project.path(output).join(file)).unwrap();
    for file in ["model.safetensors", "checkpoint-9/rollouts.safetensors", "checkpoint-12/optimizer.safetensors"] {
        assert!(bytes("whole", file) == bytes("parts", file), "{file}");
    }
}

fn failing(fault: &str) -> String {
    let project = Project::new();
    let more = format!("environment:\n  name: test:vowels\n  config: {{fault: {fault}}}\n");
    project.write("host.yml", config("out", &more));
    let plugins = guest("vowels");
    let messages = project.failure(&["train", "host.yml", "--plugins", plugins.to_str().unwrap()]);
    assert!(!messages.contains('\u{1b}'), "{messages:?}");
    messages.lines().skip_while(|line| !line.starts_with("error")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn bad_environments() {
    for (fault, words) in [
        ("nan-reward", "gave the reward NaN; a reward is a finite number"),
        ("large-state", "it has 65536 at most"),
        ("no-messages", "opened an episode without a message"),
        ("bad-row", "opens no episode about a row: it has no vowel (`instruction`)"),
        ("long-opening", "error[rl::too-long]: an episode opens with"),
        ("traps", "it fails in `step` on episode 1 of 8"),
    ] {
        let messages = failing(fault);
        assert!(messages.contains(words), "{fault}: {messages}");
    }
}

#[test]
fn a_failed_turn_is_kept_and_made_again() {
    let project = Project::new();
    let more = "environment: {name: 'test:vowels', config: {fault: traps}}\n";
    project.write("host.yml", config("out", more));
    let plugins = guest("vowels");
    let plugins = plugins.to_str().unwrap();
    project.failure(&["train", "host.yml", "--plugins", plugins]);
    let kept: Value = serde_json::from_str(&project.read("out/failed-call.json")).unwrap();
    assert_eq!((&kept["call"], &kept["input"][0]["turn"]["number"]), (&json!("step"), &json!(2)));
    let replay = ["plugin", "test", "test:vowels", "--plugins", plugins, "--replay", "out/failed-call.json"];
    assert!(project.failure(&replay).contains("error[plugin::trap]"));
}

#[test]
fn an_answer_without_end_and_a_crash_end_an_episode() {
    let project = Project::new();
    let plugins = guest("vowels");
    let plugins = plugins.to_str().unwrap();
    let run = |fault: &str, more: &str| {
        let environment = format!("environment: {{name: 'test:vowels', config: {{fault: {fault}}}{more}}}\n");
        project.write("host.yml", config("out", &environment));
        project.success(&["train", "host.yml", "--plugins", plugins, "--overwrite", "--set", "max_steps=2"]);
        lines(&project.path("out/metrics.jsonl"))[0].clone()
    };
    let metrics = run("long-answer", "");
    assert_eq!((&metrics["environment/mean_turns"], &metrics["completions/clipped_ratio"]), (&json!(1.0), &json!(1.0)));
    let metrics = run("traps", ", on_error: zero, weight: 0.5");
    assert_eq!(
        (&metrics["environment/mean_turns"], &metrics["rewards/test:vowels/errors"]),
        (&json!(2.0), &json!(8.0))
    );
    let (sum, weighed) = (metrics["rewards/test:vowels/mean"].as_f64().unwrap(), metrics["reward"].as_f64().unwrap());
    assert!((weighed - 0.5 * sum).abs() < 1e-9, "{metrics}");
}

#[test]
fn what_an_environment_goes_with() {
    let project = Project::new();
    let plugins = guest("vowels");
    let check = |text: String| {
        project.write("host.yml", text);
        project.failure(&["check", "host.yml", "--plugins", plugins.to_str().unwrap()])
    };
    insta::assert_snapshot!(check(config("out", VOWELS).replace("rl: grpo\n", "").replace("trl: {", "# {")));
    insta::assert_snapshot!(check(config("out", &format!("{VOWELS}val_set_size: 0.1\n"))));
    insta::assert_snapshot!(check(config("out", "environment: {name: 'test:vowels', max_turns: 0, wieght: 2}\n")));
    insta::assert_snapshot!(check(config("out", "environment: {name: 'test:vowels', config: {fault: some}}\n")));
}
