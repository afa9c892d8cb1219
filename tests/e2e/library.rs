//! The trainer as a library: a run that another program starts, watches and stops.

use host::check::plugins;
use host::check::ready::Ready;
use host::diagnostic::Failure;
use host::report::{Event, Observer};
use host::train::job::{Done, Job};
use host::train::output::Existing;
use host::train::signal::{Signal, StopSignal};

use crate::support::Project;

/// What was told, and a stop where it is wanted.
#[derive(Default)]
struct Watching {
    told: Vec<String>,
    losses: Vec<f64>,
    stop: StopSignal,
    /// Stops the run after this step.
    stop_after: Option<u64>,
}

impl Observer for Watching {
    fn on(&mut self, event: Event<'_>) {
        self.told.push(match event {
            Event::Reference { done, all } => format!("reference {done} of {all}"),
            Event::Start(start) => format!("start at {} of {}", start.step, start.total_steps),
            Event::Train { record, logged } => {
                self.losses.push(record.loss);
                if self.stop_after == Some(record.step) {
                    self.stop.raise(Signal::Terminate);
                }
                assert_eq!(logged.is_some_and(|fields| fields["loss"] == record.loss), logged.is_some());
                format!("step {}", record.step)
            }
            Event::Eval { record, .. } => format!("eval {}", record.step),
            Event::Checkpoint { step, .. } => format!("checkpoint {step}"),
            Event::Health { finding, .. } => finding.id.clone(),
            Event::Remark(remark) => remark.code.clone(),
            Event::End => "end".to_owned(),
        });
    }
}

/// Makes the run of a project's config.
fn run(project: &Project, set: &[&str], existing: &Existing, watching: &mut Watching) -> Result<Done, Failure> {
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    let plugins = plugins::open_with(&[], None, Some(project.path("cache")))?;
    let ready = Ready::new(&project.path("host.yml"), &set, plugins, &[], false)?;
    let job = Job::new(&ready.loaded, &ready.plugins, &ready.model, &ready.remarks)?;
    let stop = watching.stop.clone();
    job.run(existing, watching, &stop)
}

#[test]
fn a_run_is_watched_and_stopped_from_within_a_program() {
    let project = Project::new();
    let output = project.path("out");
    let model = format!("base_model={}", project.path("model").display());
    let [output_dir, data] = [("output_dir", &output), ("datasets[0].path", &project.path("train.jsonl"))]
        .map(|(key, path)| format!("{key}={}", path.display()));
    let set = [&*model, &*output_dir, &*data, "save_steps=4"];

    let mut whole = Watching::default();
    let elsewhere = format!("output_dir={}", project.path("whole").display());
    let done = run(&project, &[&*model, &*elsewhere, &*data, "save_steps=4"], &Existing::Refuse, &mut whole).unwrap();
    let Done::Finished { summary, shown: None } = done else { panic!("{done:?}") };
    assert_eq!((summary.steps, whole.losses.len()), (4, 4));
    assert_eq!(whole.told, ["start at 0 of 4", "step 1", "step 2", "step 3", "step 4", "checkpoint 4", "end"]);

    let mut first = Watching { stop_after: Some(2), ..Watching::default() };
    let done = run(&project, &set, &Existing::Refuse, &mut first).unwrap();
    assert!(matches!(done, Done::Stopped { signal: Signal::Terminate, step: 2, .. }), "{done:?}");
    assert_eq!(first.told, ["start at 0 of 4", "step 1", "step 2", "checkpoint 2", "end"]);

    let refused = run(&project, &set, &Existing::Refuse, &mut Watching::default()).unwrap_err();
    assert_eq!(refused.0[0].code, "run::exists");

    let mut second = Watching::default();
    let done = run(&project, &set, &Existing::ResumeNewest, &mut second).unwrap();
    assert!(matches!(done, Done::Finished { .. }), "{done:?}");
    assert_eq!(second.told, ["start at 2 of 4", "step 3", "step 4", "checkpoint 4", "end"]);
    assert_eq!([first.losses, second.losses].concat(), whole.losses);

    let done = run(&project, &set, &Existing::ResumeNewest, &mut Watching::default()).unwrap();
    assert!(matches!(done, Done::NothingLeft { step: 4 }), "{done:?}");
}
