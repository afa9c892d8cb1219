//! `host curate`: the rows of a config that are worth training on, with a random control beside them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use plugin_runtime::PluginHost;

use super::{ConfigArgs, open_plugins, say, show};
use crate::author::replay::{self, Keep};
use crate::check::ready::Ready;
use crate::check::{curation, plugins, selection};
use crate::commands::path;
use crate::config::{self, LoadedConfig, ScoreBy};
use crate::curate::{BaseModel, Curated, Scored, curate};
use crate::diagnostic::{ExitStatus, Failure};
use crate::remote::Remote;
use crate::report::progress::whole;
use crate::report::{Output, emit};
use crate::terminal::{Safe, print};

/// Between two lines about how far the scores are.
const BETWEEN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct CurateArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Where the files go; what an earlier curation wrote there is replaced. Default: `curated` in the config's `output_dir`
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &CurateArgs) -> Result<ExitStatus, Failure> {
    let output = args.config.output();
    let (config, _) = args.config.choose()?;
    let mut loaded = config::load(&config, &args.config.set)?;
    if curation::asks_model(&loaded.config) {
        let plugins = open_plugins(&args.config.plugins)?;
        let mut ready = Ready::new(&config, &args.config.set, plugins, &args.config.grant, false)?;
        show(&ready.remarks, output);
        ready.bring_rows()?;
        show(&ready.bring()?, output);
        let Ready { loaded, plugins, model, .. } = ready;
        let template = selection::template(&loaded, &model)?;
        let base = BaseModel { facts: &model, template: template.as_ref() };
        return curated(args, &loaded, &plugins, Some(base));
    }
    // The model is not looked at: data is curated before there is one.
    let mut remote = Remote::find_data(&mut loaded);
    show(&loaded.remarks, output);
    let mut host = open_plugins(&args.config.plugins)?;
    plugins::configure(&loaded, &args.config.grant, &mut host)?;
    show(&Failure::check(plugins::check(&loaded, &host))?, output);
    remote.bring_data(&mut loaded)?;
    curated(args, &loaded, &host, None)
}

fn curated(
    args: &CurateArgs,
    loaded: &LoadedConfig,
    host: &PluginHost,
    base: Option<BaseModel<'_>>,
) -> Result<ExitStatus, Failure> {
    let output = args.config.output();
    let target = args.output.clone().unwrap_or_else(|| curation::target(loaded));
    let train = |config: &Path| {
        // What `--set` said is in the file.
        let (plugins, grant) = (args.config.plugins.clone(), args.config.grant.clone());
        let json = args.config.json;
        ConfigArgs { config: Some(config.to_owned()), plugins, grant, set: Vec::new(), json }.command("train")
    };
    let mut last = Instant::now();
    let mut told = |done: u64, all: u64| {
        if last.elapsed() >= BETWEEN {
            say(&format!("scored {} of {} rows", whole(done as f64), whole(all as f64)));
            last = Instant::now();
        }
    };
    let curated = curate(loaded, host, base, &target, &train, &mut told).map_err(|mut failure| {
        replay::keep(&mut failure, host, Keep::Nothing);
        failure
    })?;
    show(&curated.remarks, output);
    match output {
        Output::Json => emit("curate", curated.to_json()),
        Output::Human => print(&Safe::text(&words(&curated, &train)))?,
    }
    Ok(ExitStatus::Done)
}

/// What came of it, and what comes next.
fn words(curated: &Curated, train: &dyn Fn(&Path) -> String) -> String {
    let number = |count: u64| whole(count as f64);
    let mut lines = vec![format!("rows      {}", number(curated.rows))];
    for filter in &curated.filters {
        lines.push(format!("filtered  {} ({})", filter.words(), filter.plugin));
    }
    if let Some(scored) = &curated.scored {
        lines.push(format!("scored    {}", in_words(scored)));
    }
    lines.push(format!("kept      {}", number(curated.kept)));
    for (reason, rows) in &curated.dropped {
        lines.push(format!(
            "left out  {} {}: {}",
            number(*rows),
            if *rows == 1 { "row" } else { "rows" },
            reason.words()
        ));
    }
    lines.push(format!("page      {}", path(&curated.directory.join("index.html"))));
    lines.push(String::new());
    lines.push("train on what is kept, then on the control, which is as many rows drawn at random:".to_owned());
    lines.extend(curated.configs.iter().map(|config| format!("  {}", train(config))));
    lines.join("\n") + "\n"
}

/// `1 000 rows by perplexity: 3.410 to 96.2, 7.904 in the middle; 500 known from before`.
fn in_words(scored: &Scored) -> String {
    let number = |count: u64| whole(count as f64);
    let words = format!(
        "{} {} by {}: {}",
        number(scored.rows),
        if scored.rows == 1 { "row" } else { "rows" },
        scored.by.name(),
        scored.range_words()
    );
    if scored.by == ScoreBy::Words {
        return words;
    }
    match scored.rows.saturating_sub(scored.asked) {
        0 => words,
        _ if scored.asked == 0 => format!("{words}; all known from before: the model was not loaded"),
        known => format!("{words}; {} known from before", number(known)),
    }
}
