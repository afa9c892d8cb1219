//! `host curate`: the rows of a config that are worth training on, with a random control beside them.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{ConfigArgs, open_plugins, show};
use crate::author::replay::{self, Keep};
use crate::check::{curation, plugins};
use crate::commands::path;
use crate::config;
use crate::curate::{Curated, curate};
use crate::diagnostic::{ExitStatus, Failure};
use crate::remote::Remote;
use crate::report::progress::whole;
use crate::report::{Output, emit};
use crate::terminal::{Safe, print};

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
    // The model is not looked at: data is curated before there is one.
    let mut loaded = config::load(&config, &args.config.set)?;
    let mut remote = Remote::find_data(&mut loaded);
    show(&loaded.remarks, output);
    let mut host = open_plugins(&args.config.plugins)?;
    plugins::configure(&loaded, &args.config.grant, &mut host)?;
    show(&Failure::check(plugins::check(&loaded, &host))?, output);
    remote.bring_data(&mut loaded)?;
    let target = args.output.clone().unwrap_or_else(|| curation::target(&loaded));
    let train = |config: &Path| {
        // What `--set` said is in the file.
        let (plugins, grant) = (args.config.plugins.clone(), args.config.grant.clone());
        let json = args.config.json;
        ConfigArgs { config: Some(config.to_owned()), plugins, grant, set: Vec::new(), json }.command("train")
    };
    let curated = curate(&loaded, &host, &target, &train).map_err(|mut failure| {
        replay::keep(&mut failure, &host, Keep::Nothing);
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
