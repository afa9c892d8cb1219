//! Modules do not need one another in a circle: neither the files of a crate, nor the rooms (`config`, `data`, `train`) that
//! its files are in. Read are the sources, as tokens, without what is for tests.
//!
//! A file needs the one that defines a thing which it names, however that was imported or re-exported. A parent that only
//! declares its children and hands their items on does not need them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

/// The crates whose modules are checked, by directory.
const CRATES: [&str; 6] = [
    "host",
    "host/crates/curation",
    "host/crates/engine",
    "host/crates/intake",
    "host/crates/kernels",
    "host/crates/plugin-runtime",
];

/// `["data", "tokenizer"]` is the module `crate::data::tokenizer`, or an item `tokenizer` of `crate::data`.
type Names = Vec<String>;
/// The files of a crate, by module.
type Files = BTreeMap<Names, File>;
/// For each node those that it needs, each with a name that it needs of it.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Default)]
struct File {
    /// The paths that are imported by each name, and whether they are handed on (`pub use`).
    uses: Vec<(String, Names, bool)>,
    /// Paths outside of `use`, single names among them.
    paths: BTreeSet<Names>,
    /// Children that are for tests.
    tests: Names,
}

impl File {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.to_string() == text);
        let is_word = |at: usize| matches!(tokens.get(at), Some(TokenTree::Ident(_)));
        let mut at = 0;
        while at < tokens.len() {
            if is(at, "#") && is_for_tests(&tokens[at + 1]) {
                // Over the item, which ends with `;` or with a block.
                while !is(at, ";") && !is_block(&tokens[at]) && at + 1 < tokens.len() {
                    self.tests.extend((is(at, "mod") && is(at + 2, ";")).then(|| tokens[at + 1].to_string()));
                    at += 1;
                }
            } else if is(at, "use") && !is(at + 1, "<") {
                let is_public = at > 0 && (is(at - 1, "pub") || tokens[at - 1].to_string().starts_with('('));
                let end = at + tokens[at..].iter().position(|token| token.to_string() == ";").expect("`use` ends");
                self.read_use(&tokens[at + 1..end], &[], is_public);
                at = end;
            } else if is(at, "mod") && is(at + 2, ";") {
                at += 2;
            } else if let (true, Some(TokenTree::Group(inner))) = (is(at, "mod"), tokens.get(at + 2)) {
                self.read_inner(inner.stream());
                at += 2;
            } else if is_word(at) {
                let mut path = vec![tokens[at].to_string()];
                while is(at + 1, ":") && is(at + 2, ":") && is_word(at + 3) {
                    at += 3;
                    path.push(tokens[at].to_string());
                }
                self.paths.insert(path);
            } else if let TokenTree::Group(group) = &tokens[at] {
                self.read(group.stream());
            }
            at += 1;
        }
    }

    /// A module inside the file: its `super` is the file itself.
    fn read_inner(&mut self, tokens: TokenStream) {
        let mut inner = Self::default();
        inner.read(tokens);
        let outer = |path: Names| if path[0] == "super" { path[1..].to_vec() } else { path };
        let beyond = |path: &Names| path[0] != "super" || path.get(1).is_some_and(|next| next == "super");
        let uses = inner.uses.into_iter().filter(|(_, path, _)| beyond(path));
        self.uses.extend(uses.map(|(name, path, is_public)| (name, outer(path), is_public)));
        let paths = inner.paths.into_iter().filter(|path| path.len() > 1 || path[0] != "super");
        self.paths.extend(paths.map(outer).filter(|path| !path.is_empty()));
        self.tests.extend(inner.tests);
    }

    /// The part of a `use` behind `prefix`.
    fn read_use(&mut self, part: &[TokenTree], prefix: &[String], is_public: bool) {
        let mut path = prefix.to_vec();
        for token in part {
            match token {
                TokenTree::Group(group) => {
                    let parts: Vec<TokenTree> = group.stream().into_iter().collect();
                    for part in parts.split(|token| token.to_string() == ",").filter(|part| !part.is_empty()) {
                        self.read_use(part, &path, is_public);
                    }
                    return;
                }
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) if word != "self" || path.is_empty() => path.push(word.to_string()),
                TokenTree::Punct(mark) if mark.as_char() == '*' => path.push("*".to_owned()),
                _ => {}
            }
        }
        let last = part.last().map(ToString::to_string).filter(|last| last != "self");
        let name = last.or_else(|| path.last().cloned()).unwrap_or_default();
        self.uses.push((name, path, is_public));
    }
}

fn is_block(token: &TokenTree) -> bool {
    token.to_string().starts_with('{')
}

/// True for the brackets of `#[cfg(test)]` and its like.
fn is_for_tests(token: &TokenTree) -> bool {
    let text = token.to_string().replace(' ', "");
    text.starts_with("[cfg(") && text.contains("test") && !text.contains("not(") && !text.contains('"')
}

fn child(module: &[String], name: &str) -> Names {
    [module, &[name.to_owned()]].concat()
}

fn read_files(directory: &Path, module: &[String], files: &mut Files) {
    for path in fs::read_dir(directory).expect("the sources are here").map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            read_files(&path, &child(module, &name), files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            let mut file = File::default();
            file.read(fs::read_to_string(&path).unwrap().parse().expect("the sources are Rust"));
            let is_parent = matches!(name.as_str(), "lib" | "mod");
            files.insert(if is_parent { module.to_vec() } else { child(module, &name) }, file);
        }
    }
}

/// A path as it is written in `module`, from the crate's root on; none for one that leads out of the crate.
fn absolute(files: &Files, module: &[String], path: &[String]) -> Option<Names> {
    match path[0].as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => {
            let levels = path.iter().take_while(|name| *name == "super").count();
            Some([&module[..module.len().checked_sub(levels)?], &path[levels..]].concat())
        }
        name => files.contains_key(&child(module, name)).then(|| [module, path].concat()),
    }
}

/// The module that defines what a path from the root on names; none for a module itself and for what another crate has.
fn definition(files: &Files, path: &[String]) -> Option<Names> {
    let known = (0..=path.len()).rev().find(|&len| files.contains_key(&path[..len]))?;
    let (module, rest) = path.split_at(known);
    let is_it = |name: &str| name != "*" && rest.first().is_some_and(|first| first == name);
    match files[module].uses.iter().find(|(name, ..)| is_it(name)) {
        Some((_, from, _)) => definition(files, &[absolute(files, module, from)?, rest[1..].to_vec()].concat()),
        None => (!rest.is_empty()).then(|| module.to_vec()),
    }
}

/// What a file needs of which others.
fn needs(files: &Files, module: &Names, file: &File) -> Vec<(Names, String)> {
    let imports = file.uses.iter().map(|(name, path, is_public)| {
        (path.clone(), *is_public && !file.paths.iter().any(|path| path.contains(name)))
    });
    let named = file.paths.iter().filter(|path| path.len() > 1).map(|path| {
        let import = file.uses.iter().find(|(name, ..)| *name == path[0]);
        (import.map_or(path.clone(), |(_, import, _)| [import, &path[1..]].concat()), false)
    });
    let found = imports.chain(named).filter_map(|(path, is_handed_on)| {
        let path = absolute(files, module, &path)?;
        let other = definition(files, &path).filter(|other| other != module)?;
        (!is_handed_on || !other.starts_with(module)).then(|| (other, path.last().cloned().unwrap_or_default()))
    });
    found.collect()
}

/// A circle in a graph, in words.
fn circle(mut graph: Graph) -> Option<String> {
    let mut before = 0;
    while before != graph.len() {
        before = graph.len();
        let nodes: BTreeSet<String> = graph.keys().cloned().collect();
        graph.retain(|_, needs| {
            needs.retain(|node, _| nodes.contains(node));
            !needs.is_empty()
        });
    }
    // Every node that is left needs another one that is left.
    let mut way = vec![graph.keys().next()?];
    while way.iter().position(|node| Some(node) == way.last()) == Some(way.len() - 1) {
        way.push(graph[*way.last()?].keys().next()?);
    }
    let start = way.iter().position(|node| Some(node) == way.last())?;
    let step = |step: &[&String]| format!("`{}` needs `{}` of `{}`", step[0], graph[step[0]][step[1]], step[1]);
    Some(way[start..].windows(2).map(step).collect::<Vec<_>>().join("\n"))
}

#[test]
fn modules_need_one_another_in_one_direction() {
    for directory in CRATES {
        let mut all = Files::new();
        read_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(directory).join("src"), &[], &mut all);
        let tests: Vec<Names> =
            all.iter().flat_map(|(module, file)| file.tests.iter().map(|test| child(module, test))).collect();
        all.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        let (mut files, mut rooms) = (Graph::new(), Graph::new());
        for (from, file) in &all {
            for (to, what) in needs(&all, from, file) {
                if let (Some(one), Some(other)) = (from.first(), to.first())
                    && one != other
                {
                    rooms.entry(one.clone()).or_default().insert(other.clone(), child(&to, &what).join("::"));
                }
                files.entry(from.join("::")).or_default().insert(to.join("::"), what);
            }
        }
        for graph in [files, rooms] {
            let found = circle(graph);
            assert!(found.is_none(), "modules of `{directory}` need one another in a circle:\n{}", found.unwrap());
        }
    }
}
