//! Writes a new project: a template, and beside it all that it is built with, so that it builds wherever it lies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plugin_runtime::Kind;

use super::project::Language;
use super::sdk::{SDK, TEMPLATES};
use crate::config::one_of;
use crate::diagnostic::{Diagnostic, Failure};

/// The versions that the SDK is built with are those of this program.
const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const SDK_PACKAGE: &str = include_str!("../../../plugin-sdk/Cargo.toml");

/// A project to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaffold {
    name: String,
    kind: Kind,
    language: Language,
    dir: PathBuf,
}

impl Scaffold {
    /// Checks what was asked for. `dir` is by default the plugin's own name, here.
    pub fn new(name: &str, kind: Kind, language: Language, dir: Option<&Path>) -> Result<Self, Failure> {
        let is_word = |word: &str| {
            word.len() <= 64
                && word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        let own = match name.split_once(':') {
            Some((namespace, own)) if is_word(namespace) && is_word(own) => own,
            Some(_) => {
                return Err(Diagnostic::error("plugin::name", format!("`{name}` is not a plugin name"))
                    .help("use letters, digits, `-` and `_` around one colon: `acme:style`")
                    .into());
            }
            None => {
                return Err(Diagnostic::error("plugin::name", format!("the name `{name}` has no namespace"))
                    .why(
                        "bare names are the bundled plugins; a namespace keeps yours apart from those and from others'",
                    )
                    .help(format!("put yours in front: `host plugin new acme:{name} --kind {}`", kind.name()))
                    .into());
            }
        };
        let languages = languages(kind);
        if !languages.contains(&language) {
            let names: Vec<&str> = languages.iter().map(|language| language.name()).collect();
            let kinds: Vec<&str> = Kind::ALL
                .iter()
                .filter(|kind| self::languages(**kind).contains(&language))
                .map(|kind| kind.name())
                .collect();
            let message = format!("there is no template for {} plugin in {}", kind.with_article(), language.name());
            return Err(Diagnostic::error("plugin::language", message)
                .why(format!("in {} there are templates for {}", language.name(), one_of(kinds)))
                .help(format!("{} plugin can be started in {}", kind.with_article(), one_of(names)))
                .into());
        }
        let dir = dir.map_or_else(|| PathBuf::from(own), Path::to_owned);
        Ok(Self { name: name.to_owned(), kind, language, dir })
    }

    /// Writes the files. Returns the directory.
    pub fn write(&self) -> Result<PathBuf, Failure> {
        let shown = self.dir.display();
        if std::fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Diagnostic::error("plugin::exists", format!("the directory `{shown}` is not empty"))
                .help("name another: `--dir DIR`")
                .into());
        }
        for (path, text) in self.files() {
            let path = self.dir.join(path);
            let parent = path.parent().unwrap_or(&self.dir);
            std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text)).map_err(|error| {
                Diagnostic::error("io::write", format!("`{}` cannot be written", path.display())).why(error.to_string())
            })?;
        }
        Ok(self.dir.clone())
    }

    /// Every file of the project.
    fn files(&self) -> BTreeMap<String, String> {
        let language = self.language.name();
        let mut files = BTreeMap::new();
        for part in ["common".to_owned(), self.kind.name().to_owned()] {
            let prefix = format!("{language}/{part}/");
            for (path, text) in TEMPLATES {
                if let Some(path) = path.strip_prefix(&prefix) {
                    let path = if path == "gitignore" { ".gitignore" } else { path };
                    files.insert(path.to_owned(), self.filled(text));
                }
            }
        }
        for (path, text) in SDK {
            match self.language {
                Language::Rust => files.insert(format!("sdk/{path}"), (*text).to_owned()),
                Language::Js | Language::Python => match path.strip_prefix("wit/v0.1/") {
                    Some(path) => files.insert(format!("wit/{path}"), (*text).to_owned()),
                    None => continue,
                },
            };
        }
        if self.language == Language::Rust {
            files.insert("sdk/plugin-sdk/Cargo.toml".to_owned(), sdk_package());
        }
        files
    }

    /// A template with this project's words in it.
    fn filled(&self, text: &str) -> String {
        let (namespace, own) = self.name.split_once(':').unwrap_or(("", &self.name));
        // A package's name starts with a letter.
        let package = format!("{namespace}-{own}");
        let package =
            if package.starts_with(|c: char| c.is_ascii_digit()) { format!("plugin-{package}") } else { package };
        let usage = format!("usage/{}.yml", self.kind.name());
        let usage = TEMPLATES.iter().find(|(path, _)| *path == usage).map_or("", |(_, text)| text);
        let mut text = text.replace("{{usage}}", usage);
        for (word, value) in [
            ("{{name}}", self.name.as_str()),
            ("{{crate}}", package.as_str()),
            ("{{package}}", package.to_lowercase().as_str()),
            ("{{kind}}", self.kind.name()),
            ("{{module}}", self.kind.name().replace('-', "_").as_str()),
            ("{{file}}", own),
            ("{{directory}}", &self.dir.display().to_string()),
        ] {
            text = text.replace(word, value);
        }
        text
    }
}

/// Languages with a template for a kind.
pub fn languages(kind: Kind) -> Vec<Language> {
    let has = |language: &Language| {
        let prefix = format!("{}/{}/", language.name(), kind.name());
        TEMPLATES.iter().any(|(path, _)| path.starts_with(&prefix))
    };
    Language::ALL.into_iter().filter(has).collect()
}

/// The SDK's `Cargo.toml` without the workspace that it has here.
fn sdk_package() -> String {
    let workspace: toml::Table = WORKSPACE.parse().expect("the workspace was built from this file");
    let mut package: toml::Table = SDK_PACKAGE.parse().expect("the SDK was built from this file");
    for (part, shared) in
        [("package", "package"), ("dependencies", "dependencies"), ("dev-dependencies", "dependencies")]
    {
        let Some(fields) = package.get_mut(part).and_then(toml::Value::as_table_mut) else { continue };
        for (name, value) in fields.iter_mut() {
            if value.get("workspace").and_then(toml::Value::as_bool) == Some(true)
                && let Some(own) = workspace["workspace"].get(shared).and_then(|shared| shared.get(name))
            {
                *value = own.clone();
            }
        }
    }
    package.remove("lints");
    format!("# The plugin SDK as this project's `host` has it; `host plugin new` wrote it.\n{package}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_names_versions_and_no_workspace() {
        let text = sdk_package();
        assert!(!text.contains("workspace"), "{text}");
        let sdk: toml::Table = text.parse().unwrap();
        assert_eq!(sdk["package"]["edition"].as_str(), Some("2024"));
        assert_eq!(sdk["dependencies"]["wit-bindgen"]["version"].as_str().map(|version| &version[..1]), Some("="));
        assert_eq!(sdk["dependencies"].as_table().unwrap().len(), SDK_PACKAGE.matches(".workspace = true").count() - 5);
    }

    /// What is embedded is what lies in the repository, whatever is added there.
    #[test]
    fn the_sdk_is_the_repositorys() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (directory, prefix) in [("plugin-sdk/src", "plugin-sdk/src/"), ("wit/v0.1", "wit/v0.1/")] {
            for entry in std::fs::read_dir(root.join(directory)).unwrap().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                let (_, text) =
                    SDK.iter().find(|(path, _)| *path == name).unwrap_or_else(|| panic!("{name} is missing"));
                assert_eq!(*text, std::fs::read_to_string(entry.path()).unwrap(), "{name}");
            }
        }
    }

    #[test]
    fn every_kind_has_a_whole_project() {
        for kind in Kind::ALL {
            for language in languages(kind) {
                let files = Scaffold::new("acme:thing", kind, language, None).unwrap().files();
                let unfilled: Vec<&String> = files
                    .iter()
                    .filter(|(path, text)| !path.starts_with("sdk/") && text.contains("{{"))
                    .map(|(path, _)| path)
                    .collect();
                assert!(unfilled.is_empty(), "{kind:?} {language:?}: {unfilled:?}");
                for needed in ["README.md", ".gitignore", "tests/basic/golden.jsonl"] {
                    assert!(files.contains_key(needed), "{kind:?} {language:?}: {needed}");
                }
                assert!(files.keys().any(|path| path.starts_with("tests/basic/input")), "{kind:?} {language:?}");
            }
            assert!(languages(kind).contains(&Language::Rust));
            let usage = format!("usage/{}.yml", kind.name());
            let (_, usage) = TEMPLATES.iter().find(|(path, _)| *path == usage).unwrap_or_else(|| panic!("no {usage}"));
            let key = kind.config_key().rsplit("[].").next().unwrap();
            assert!(usage.contains(&format!("{key}:")), "{kind:?}: its usage lacks `{key}`");
        }
    }

    #[test]
    fn the_guide_has_a_line_for_every_kind() {
        let (_, guide) = SDK.iter().find(|(path, _)| *path == "plugin-sdk/README.md").unwrap();
        for kind in Kind::ALL {
            let (key, words) = (kind.config_key(), kind.name().replace('-', "_"));
            let line =
                guide.lines().find(|line| line.starts_with('|') && line.contains(&format!("`register_{words}!`")));
            let line = line.unwrap_or_else(|| panic!("the table of kinds lacks the macro of {kind:?}"));
            assert!(line.contains(&format!("`{key}`")), "{line}");
        }
    }

    #[test]
    fn names_have_a_namespace() {
        let code = |name: &str| Scaffold::new(name, Kind::Reward, Language::Rust, None).unwrap_err().0[0].code.clone();
        for name in ["style", "a:b:c", ":a", "a:", "a b:c", "-a:b", "acme:../x"] {
            assert_eq!(code(name), "plugin::name", "{name}");
        }
        assert!(Scaffold::new("1a:2_b-C", Kind::Reward, Language::Rust, None).is_ok());
    }
}
