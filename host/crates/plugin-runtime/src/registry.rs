//! All plugins that a run can name: the bundled ones and those in `--plugins` directories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::component::Component;

use crate::cache::Cache;
use crate::compile::{CompilerCommand, apart};
use crate::error::PluginError;
use crate::files::{Directory, digest_of};
use crate::kind::Kind;
use crate::limits::Limits;
use crate::manifest::{Inspection, Source, inspect, read_file};
use crate::origin::Origin;
use crate::sandbox::Sandbox;
use crate::state::LogSink;
use crate::stats::{Meter, Meters};

/// How plugins are run.
pub struct RuntimeOptions {
    /// Where compiled plugins are kept; none: they are compiled each time.
    pub cache_dir: Option<PathBuf>,
    /// How to compile the plugins of others in a process of its own; none: here.
    pub compiler: Option<CompilerCommand>,
    /// For plugins without limits of their own.
    pub limits: Limits,
    /// Where plugins' words go.
    pub log: LogSink,
}

/// A plugin that can be named.
pub struct PluginInfo {
    /// What it says about itself, and its digest.
    pub inspection: Inspection,
    /// Where it came from.
    pub source: Source,
    /// Of a bundled plugin; a file is read again where it is compiled.
    bytes: Option<&'static [u8]>,
    limits: Limits,
    grants: Vec<PathBuf>,
    meter: Arc<Meter>,
}

impl std::fmt::Debug for PluginInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginInfo")
            .field("inspection", &self.inspection)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl PluginInfo {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.inspection.manifest.name
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.inspection.manifest.kind
    }

    /// What it may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// True if it asks for directories beside its data.
    pub fn needs_grants(&self) -> bool {
        self.inspection.needs_grants()
    }

    /// SHA-256 of all that it can read in the directories that it is granted; none without any.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn granted_digest(&self) -> Result<Option<String>, PluginError> {
        if self.grants.is_empty() {
            return Ok(None);
        }
        let failed = |error: String| PluginError::new("plugin::grant", error).plugin(self.name());
        digest_of(&self.open_grants()?).map(Some).map_err(failed)
    }

    /// The directories that it is granted, opened.
    pub(crate) fn open_grants(&self) -> Result<Vec<Directory>, PluginError> {
        let open = |path: &PathBuf| {
            Directory::granted(path).map_err(|error| {
                let message =
                    format!("the directory `{}`, granted to `{}`, cannot be opened", path.display(), self.name());
                PluginError::new("plugin::grant", message).plugin(self.name()).why(error.to_string())
            })
        };
        self.grants.iter().map(open).collect()
    }
}

/// The engine and the plugins that were found.
pub struct PluginHost {
    sandbox: Sandbox,
    cache: Option<Cache>,
    compiler: Option<CompilerCommand>,
    limits: Limits,
    plugins: BTreeMap<String, PluginInfo>,
    compiled: std::sync::Mutex<BTreeMap<String, Component>>,
}

impl PluginHost {
    /// An engine without plugins.
    pub fn new(options: RuntimeOptions) -> Result<Self, PluginError> {
        let sandbox = Sandbox::new(options.log).map_err(|error| {
            PluginError::new("plugin::engine", "the WebAssembly engine cannot start").why(format!("{error:#}"))
        })?;
        let cache = options.cache_dir.as_deref().and_then(Cache::open);
        Ok(Self {
            sandbox,
            cache,
            compiler: options.compiler,
            limits: options.limits,
            plugins: BTreeMap::new(),
            compiled: std::sync::Mutex::default(),
        })
    }

    /// Adds a plugin of this binary.
    pub fn add_bundled(&mut self, name: &str, bytes: &'static [u8]) -> Result<(), PluginError> {
        self.add(inspect(bytes, name)?, Source::Bundled, Some(bytes))
    }

    /// Adds every `*.wasm` file of a directory, in the order of their names.
    pub fn add_dir(&mut self, dir: &Path) -> Result<(), PluginError> {
        let failed = |error: std::io::Error| {
            PluginError::new("plugin::unreadable", format!("the plugin directory `{}` cannot be read", dir.display()))
                .why(error.to_string())
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                files.push(path);
            }
        }
        files.sort_unstable();
        for path in files {
            self.add_file(&path)?;
        }
        Ok(())
    }

    /// Adds one file. Returns the plugin's name.
    pub fn add_file(&mut self, path: &Path) -> Result<String, PluginError> {
        let bytes = read_file(path)?;
        let inspection = inspect(&bytes, &path.display().to_string())?;
        let name = inspection.manifest.name.clone();
        drop(bytes);
        self.add(inspection, Source::File(path.to_owned()), None)?;
        Ok(name)
    }

    /// The same, in place of a bundled plugin of that name: for a command that is about this one file.
    pub fn add_file_in_place(&mut self, path: &Path) -> Result<String, PluginError> {
        let name = inspect(&read_file(path)?, &path.display().to_string())?.manifest.name;
        if self.plugins.get(&name).is_some_and(|plugin| plugin.source == Source::Bundled) {
            self.plugins.remove(&name);
        }
        self.add_file(path)
    }

    fn add(&mut self, inspection: Inspection, source: Source, bytes: Option<&'static [u8]>) -> Result<(), PluginError> {
        let name = inspection.manifest.name.clone();
        if let Some(other) = self.plugins.get(&name) {
            // The same file twice (a directory named twice, a copy) is no conflict.
            if other.inspection.sha256 == inspection.sha256 {
                return Ok(());
            }
            let message = format!("two plugins are called `{name}`");
            let why = format!("one is {}, the other {}", place(&other.source), place(&source));
            return Err(PluginError::new("plugin::two-of-one-name", message)
                .plugin(name)
                .why(why)
                .help("remove one of them, or rename it: third-party plugins are called `namespace:name`"));
        }
        let meter = Arc::new(Meter::default());
        self.plugins
            .insert(name, PluginInfo { inspection, source, bytes, limits: self.limits, grants: Vec::new(), meter });
        Ok(())
    }

    /// Sets what one plugin may use. False if there is no such plugin.
    pub fn set_limits(&mut self, name: &str, limits: Limits) -> bool {
        self.plugins.get_mut(name).map(|plugin| plugin.limits = limits).is_some()
    }

    /// Lets one plugin read the files under more directories. False if there is no such plugin.
    pub fn grant(&mut self, name: &str, directories: Vec<PathBuf>) -> bool {
        self.plugins.get_mut(name).map(|plugin| plugin.grants.extend(directories)).is_some()
    }

    /// All plugins by name.
    pub fn plugins(&self) -> impl Iterator<Item = &PluginInfo> {
        self.plugins.values()
    }

    /// The plugin of a name, whatever it is for.
    pub fn get(&self, name: &str) -> Option<&PluginInfo> {
        self.plugins.get(name)
    }

    /// The plugin of that name and kind.
    pub fn find(&self, name: &str, kind: Kind) -> Result<&PluginInfo, PluginError> {
        match self.plugins.get(name) {
            Some(plugin) if plugin.kind() == kind => Ok(plugin),
            Some(plugin) => {
                let (is, key) = (plugin.kind().name(), plugin.kind().config_key());
                let message = format!("`{name}` is a {is} plugin, not a {}", kind.name());
                Err(PluginError::new("plugin::wrong-kind", message)
                    .plugin(name)
                    .help(format!("it belongs under `{key}`; {}", self.known(kind))))
            }
            None => {
                let error = PluginError::new("plugin::unknown", format!("there is no {} plugin `{name}`", kind.name()));
                let near = self.plugins.values().filter(|plugin| plugin.kind() == kind).map(PluginInfo::name);
                let near =
                    near.map(|known| (strsim::jaro_winkler(name, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
                Err(match near {
                    Some((score, known)) if score > 0.8 => {
                        error.help(format!("did you mean `{known}`? {}", self.known(kind)))
                    }
                    _ if name.contains(':') => {
                        error.help("put its .wasm file into a directory and pass `--plugins DIRECTORY`")
                    }
                    _ => error.help(self.known(kind)),
                })
            }
        }
    }

    fn known(&self, kind: Kind) -> String {
        let names = self.plugins.values().filter(|plugin| plugin.kind() == kind);
        let names: Vec<String> = names.map(|plugin| format!("`{}`", plugin.name())).collect();
        format!(
            "{} plugins found: {}",
            kind.name(),
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        )
    }

    /// What all plugins cost, now and later.
    pub fn meters(&self) -> Meters {
        Meters::new(self.plugins.values().map(|plugin| (plugin.name().to_owned(), Arc::clone(&plugin.meter))).collect())
    }

    /// Everything that a plugin's schema finds wrong with a config; nothing where it has none, or where there is no such
    /// plugin.
    pub fn config_problems(&self, name: &str, kind: Kind, config_json: &str) -> Vec<PluginError> {
        let Ok(plugin) = self.find(name, kind) else { return Vec::new() };
        let Some(schema) = &plugin.inspection.manifest.config_schema else { return Vec::new() };
        let read = || {
            let config = if config_json.trim().is_empty() { "{}" } else { config_json };
            let config = serde_json::from_str(config).map_err(|error| error.to_string())?;
            crate::schema::violations(schema, &config)
        };
        match read() {
            Ok(found) => found.into_iter().map(|violation| crate::schema::problem(name, violation)).collect(),
            Err(why) => {
                let message = format!("the config of plugin `{name}` cannot be checked");
                vec![PluginError::new("plugin::bad-config", message).plugin(name).why(why)]
            }
        }
    }

    /// What an instance of the plugin of that name and kind, with that config, is started from.
    pub(crate) fn origin(&self, name: &str, kind: Kind, config_json: &str) -> Result<Origin, PluginError> {
        let plugin = self.find(name, kind)?;
        if let Some(problem) = self.config_problems(name, kind, config_json).into_iter().next() {
            return Err(problem);
        }
        if plugin.grants.is_empty() && plugin.needs_grants() {
            return Err(not_granted(name));
        }
        let component = self.component(plugin)?;
        let pre = self.sandbox.linker.instantiate_pre(&component).map_err(|error| {
            // What is imported is on the list (`manifest.rs`), so it is a function or a type that this host lacks.
            PluginError::new("plugin::api-version", format!("plugin `{name}` was built for a newer plugin API"))
                .plugin(name)
                .why(crate::error::one_line(&format!("{error:#}"), 500))
                .help("use a newer host, or a version of the plugin that was built for this one")
        })?;
        Ok(Origin {
            stores: self.sandbox.stores.clone(),
            plugin: plugin.name().into(),
            limits: plugin.limits,
            meter: Arc::clone(&plugin.meter),
            pre,
            config_json: config_json.into(),
        })
    }

    fn component(&self, plugin: &PluginInfo) -> Result<Component, PluginError> {
        let name = plugin.name();
        let mut compiled = self.compiled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(component) = compiled.get(name) {
            return Ok(component.clone());
        }
        if plugin.inspection.bytes > plugin.limits.file_bytes {
            let (is, limit) = (plugin.inspection.bytes.div_ceil(1 << 20), plugin.limits.file_bytes >> 20);
            let message = format!("plugin `{name}` has {is} MiB, more than the {limit} that a plugin may have");
            return Err(PluginError::new("plugin::limit", message)
                .plugin(name)
                .help(format!("if you trust it: `plugins: [{{name: {name}, limits: {{file_mb: {is}}}}}]`")));
        }
        let (engine, digest) = (&self.sandbox.engine, &plugin.inspection.sha256);
        let component = match self.cache.as_ref().and_then(|cache| cache.load(engine, digest)) {
            Some(component) => component,
            None => self.compile(plugin)?,
        };
        compiled.insert(name.to_owned(), component.clone());
        Ok(component)
    }

    /// Compiles a plugin, and keeps the result.
    fn compile(&self, plugin: &PluginInfo) -> Result<Component, PluginError> {
        let (engine, name) = (&self.sandbox.engine, plugin.name());
        let invalid = |error: wasmtime::Error| {
            PluginError::new("plugin::invalid", format!("plugin `{name}` cannot be compiled"))
                .plugin(name)
                .why(crate::error::one_line(&format!("{error:#}"), 500))
        };
        let read;
        let bytes: &[u8] = match (&plugin.source, plugin.bytes) {
            (Source::File(path), _) => {
                read = read_file(path)?;
                if crate::manifest::digest(&read) != plugin.inspection.sha256 {
                    let message = format!("the plugin `{}` was changed while it was used", path.display());
                    return Err(PluginError::new("plugin::unreadable", message).plugin(name));
                }
                &read
            }
            (Source::Bundled, bytes) => bytes.unwrap_or_default(),
        };
        let code = match &self.compiler {
            Some(command) if plugin.source != Source::Bundled => apart(command, bytes, name, &plugin.limits)?,
            _ => engine.precompile_component(bytes).map_err(invalid)?,
        };
        if let Some(cache) = &self.cache {
            cache.store(engine, &plugin.inspection.sha256, &code);
        }
        // SAFETY: the code is what wasmtime of this program made a moment ago, here or in a process of its own.
        unsafe { Component::deserialize(engine, &code) }.map_err(invalid)
    }
}

fn not_granted(name: &str) -> PluginError {
    PluginError::new("plugin::grant", format!("plugin `{name}` asks for a directory beside its data, and has none"))
        .plugin(name)
        .why("a plugin reads what the config's `path` names; anything else only where you grant it")
        .help(format!("to let it read the files under a directory: `plugins: [{{name: {name}, grants: {{read: [DIRECTORY]}}}}]`, or `--grant {name}=DIRECTORY`"))
}

fn place(source: &Source) -> String {
    match source {
        Source::Bundled => "part of this program".to_owned(),
        Source::File(path) => format!("`{}`", path.display()),
    }
}
