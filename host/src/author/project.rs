//! A plugin's project: which language it is in, and where its parts lie.

use std::path::{Path, PathBuf};

use crate::config::one_of;
use crate::diagnostic::{Diagnostic, Failure};

/// Languages that `host` starts and builds projects in. Any other that compiles to components works with `host plugin pack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// With the plugin SDK.
    Rust,
    /// With jco.
    Js,
    /// With componentize-py.
    Python,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rust, Self::Js, Self::Python];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Python => "python",
        }
    }

    /// The language of a project, by the file that its tools ask for.
    fn of(dir: &Path) -> Option<Self> {
        let has = |name: &str| dir.join(name).is_file();
        match () {
            () if has("Cargo.toml") => Some(Self::Rust),
            () if has("package.json") && has(super::manifest::FILE) => Some(Self::Js),
            () if has("requirements.txt") && has(super::manifest::FILE) => Some(Self::Python),
            () => None,
        }
    }
}

/// A directory with a plugin's sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Where.
    pub dir: PathBuf,
    /// In what.
    pub language: Language,
}

impl Project {
    /// Looks at a directory.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        if !dir.is_dir() {
            return Err(Diagnostic::error("plugin::project", format!("there is no directory `{shown}`"))
                .help("start a project: `host plugin new acme:style --kind reward`")
                .into());
        }
        match Language::of(dir) {
            Some(language) => Ok(Self { dir: dir.to_owned(), language }),
            None => Err(Diagnostic::error("plugin::project", format!("`{shown}` holds no plugin project"))
                .why("there is neither a `Cargo.toml`, nor a `plugin.json` with a `package.json` or a `requirements.txt`")
                .help("start a project: `host plugin new acme:style --kind reward`; a component from other tools gets its manifest by `host plugin pack`")
                .into()),
        }
    }

    /// Where built plugins are put.
    pub fn dist(&self) -> PathBuf {
        self.dir.join("dist")
    }

    /// The one plugin that was built.
    pub fn built(&self) -> Result<PathBuf, Failure> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(self.dist())
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
        found.sort();
        let shown = self.dir.display();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Diagnostic::error("plugin::not-built", format!("the project `{shown}` is not built"))
                .help(format!("build it: `host plugin build {}`", crate::commands::path(&self.dir)))
                .into()),
            several => {
                let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
                Err(Diagnostic::error("plugin::not-built", format!("`{shown}` has more than one built plugin"))
                    .help(format!("name the file: {}", one_of(names.iter().map(String::as_str))))
                    .into())
            }
        }
    }
}
