//! Round trips: what is edited, and that all else stays as it was.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::overrides::Override;
use super::*;

fn set(path: &str, value: &str) -> Edit {
    Edit::Set { path: path.to_owned(), value: value.to_owned() }
}

fn remove(path: &str) -> Edit {
    Edit::Remove { path: path.to_owned() }
}

fn rename(path: &str, to: &str) -> Edit {
    Edit::Rename { path: path.to_owned(), to: to.to_owned() }
}

/// Each row: a text, an edit, the text that must come out.
fn all(cases: &[(&str, Edit, &str)]) {
    for (text, wanted, expected) in cases {
        assert_eq!(edit(text, wanted).as_deref(), Ok(*expected), "{wanted} in\n{text}");
    }
}

fn refused(cases: &[(&str, Edit, &str)]) {
    for (text, wanted, expected) in cases {
        let error = edit(text, wanted).expect_err(text).to_string();
        assert_eq!(&error, expected, "{wanted} in\n{text}");
    }
}

#[test]
fn a_value_is_replaced_and_nothing_else() {
    all(&[
        ("a: 1\nb: 2  # two\nc: 3\n", set("b", "5"), "a: 1\nb: 5  # two\nc: 3\n"),
        (
            "# top\na:\n  b: 'x'   # say\n  # below\nc: 1\n",
            set("a.b", "y"),
            "# top\na:\n  b: y   # say\n  # below\nc: 1\n",
        ),
        ("a: {b: 1, c: [x , y]}  # f\n", set("a.b", "true"), "a: {b: true, c: [x , y]}  # f\n"),
        ("l:\n  - p: 1\n    q: 2\n  - p: 3\n", set("l[1].p", "4"), "l:\n  - p: 1\n    q: 2\n  - p: 4\n"),
        ("l:\n- a\n- b # c\n", set("l[1]", "z"), "l:\n- a\n- z # c\n"),
        ("é: ü # ñ\nname: \"日本\" # ö\n", set("name", "x"), "é: ü # ñ\nname: x # ö\n"),
        ("a: ünï # x\nb: {ö: 1, c: 2}\n", set("b.c", "3"), "a: ünï # x\nb: {ö: 1, c: 3}\n"),
        ("a: 1\t# tab\tin here\nb: 2\t# t\n", set("b", "3"), "a: 1\t# tab\tin here\nb: 3\t# t\n"),
        ("a: 1\r\nb:\r\n  c: 2 # x\r\nd: 3\r\n", set("b.c", "9"), "a: 1\r\nb:\r\n  c: 9 # x\r\nd: 3\r\n"),
        ("a: 1 # no line end", set("a", "2"), "a: 2 # no line end"),
        ("a: b\n  c\nd: 1\n", set("a", "x"), "a: x\nd: 1\n"),
        ("a: !!str 5\nb: 1\n", set("a", "6"), "a: 6\nb: 1\n"),
    ]);
}

#[test]
fn a_value_of_another_shape_is_replaced() {
    all(&[
        ("a:   # c\nb: 1\n", set("a", "2"), "a: 2   # c\nb: 1\n"),
        ("a:\n", set("a", "2"), "a: 2\n"),
        ("l:\n  -\n  - x\n", set("l[0]", "y"), "l:\n  - y\n  - x\n"),
        ("a: |\n  x\n  y\n\nb: 1\n", set("a", "z"), "a: z\n\nb: 1\n"),
        (
            "a:  # keep\n  # this too\n  b: 1\n  c: 2 # gone\n# next\nd: 1\n",
            set("a", "7"),
            "a: 7  # keep\n  # this too\n# next\nd: 1\n",
        ),
        ("a:\n- x\n- y\nb: 1\n", set("a", "[]"), "a: []\nb: 1\n"),
        ("l:\n  - a: 1\n    b: 2\n  - c\n", set("l[0]", "z"), "l:\n  - z\n  - c\n"),
        ("a: [1,\n  2]\nb: 1\n", set("a", "3"), "a: 3\nb: 1\n"),
        ("a: x\n", set("a", "{b: 1}"), "a: {b: 1}\n"),
    ]);
}

#[test]
fn a_new_key_stands_below_its_last_sibling() {
    all(&[
        ("a: 1\nb: 2 # two\n", set("c", "3"), "a: 1\nb: 2 # two\nc: 3\n"),
        ("a: 1\nb: 2", set("c", "3"), "a: 1\nb: 2\nc: 3"),
        ("a: 1\r\nb:\r\n    c: 2\r\nd: 1\r\n", set("b.e", "3"), "a: 1\r\nb:\r\n    c: 2\r\n    e: 3\r\nd: 1\r\n"),
        (
            "b:\n  c: 2\n  # about nothing\n\n# next\nd: 1\n",
            set("b.e", "3"),
            "b:\n  c: 2\n  e: 3\n  # about nothing\n\n# next\nd: 1\n",
        ),
        ("a:\n  b: 1\n    # deep\n# end\n", set("c", "3"), "a:\n  b: 1\n    # deep\nc: 3\n# end\n"),
        (
            "l:\n  - p: 1\n  - p: 2 # x\n    q: 3\n",
            set("l[0].r", "4"),
            "l:\n  - p: 1\n    r: 4\n  - p: 2 # x\n    q: 3\n",
        ),
        ("a: {b: 1}\n", set("a.c", "2"), "a: {b: 1, c: 2}\n"),
        ("a: { b: 1 } # x\n", set("a.c.d", "2"), "a: { b: 1, c: {d: 2} } # x\n"),
        ("a: {}\n", set("a.c", "2"), "a: {c: 2}\n"),
        ("a: # soon\nb: 1\n", set("a.c", "2"), "a: # soon\n  c: 2\nb: 1\n"),
        ("a: ~\n", set("a.c", "2"), "a: {c: 2}\n"),
        ("a: 1\n", set("k.r", "false"), "a: 1\nk:\n  r: false\n"),
        ("---\na: 1\n...\n", set("b", "2"), "---\na: 1\nb: 2\n...\n"),
        ("a: |\n  x\n  y\n", set("b", "2"), "a: |\n  x\n  y\nb: 2\n"),
    ]);
}

#[test]
fn a_removed_key_takes_its_lines_with_it() {
    all(&[
        ("a: 1\n# about b\nb: 2 # two\nc: 3\n", remove("b"), "a: 1\n# about b\nc: 3\n"),
        ("a: 1\nb:\n  c: 1\n\n  d: 2\n\n# next\ne: 1\n", remove("b"), "a: 1\n\n# next\ne: 1\n"),
        ("a: 1\r\nb: 2\r\n", remove("b"), "a: 1\r\n"),
        ("a: 1\r\nb: 2", remove("b"), "a: 1"),
        ("a:\n  b: 1 # gone\nc: 1\n", remove("a.b"), "a: {}\nc: 1\n"),
        ("a: 1 # gone\n# stays\n", remove("a"), "{}\n# stays\n"),
        ("l:\n  - a # x\n  - b\n", remove("l[0]"), "l:\n  - b\n"),
        ("l:\n- a\nb: 1\n", remove("l[0]"), "l: []\nb: 1\n"),
        ("l:\n  - p: 1 # gone\n    q: 2 # two\n", remove("l[0].p"), "l:\n  - q: 2 # two\n"),
        ("l:\n  - p: 1\n    # about q\n    q: 2\n", remove("l[0].p"), "l:\n  -\n    # about q\n    q: 2\n"),
        ("l:\n  - p: 1\n  - x\n", remove("l[0].p"), "l:\n  - {}\n  - x\n"),
        ("l:\n  - p: 1\n    q: 2\n  - x\n", remove("l[0]"), "l:\n  - x\n"),
        ("a: |\n  x\nb: 1\n", remove("a"), "b: 1\n"),
        ("a:\nb: 1\n", remove("a"), "b: 1\n"),
    ]);
}

#[test]
fn a_removed_flow_entry_takes_its_comma_with_it() {
    all(&[
        ("a: {b: 1, c: 2, d: 3} # x\n", remove("a.b"), "a: {c: 2, d: 3} # x\n"),
        ("a: {b: 1, c: 2, d: 3} # x\n", remove("a.c"), "a: {b: 1, d: 3} # x\n"),
        ("a: {b: 1, c: 2, d: 3} # x\n", remove("a.d"), "a: {b: 1, c: 2} # x\n"),
        ("a: { b: 1 }\n", remove("a.b"), "a: {}\n"),
        ("l: [x, 'ä, b', z]\n", remove("l[1]"), "l: [x, z]\n"),
        ("{a: 1, b: 2}\n", remove("a"), "{b: 2}\n"),
        (
            "a: {\n  b: 1, # one\n  # about c\n  c: 2,\n  d: 3\n}\n",
            remove("a.b"),
            "a: {\n  # about c\n  c: 2,\n  d: 3\n}\n",
        ),
        ("a: {\n  b: 1,\n  c: 2 # two\n}\n", remove("a.c"), "a: {\n  b: 1,\n}\n"),
        ("a: {b: 1,\n  c: 2}\n", remove("a.c"), "a: {b: 1}\n"),
    ]);
}

#[test]
fn a_renamed_key_keeps_its_value_and_quotes() {
    all(&[
        ("lerning_rate: 1e-3 # lr\n", rename("lerning_rate", "learning_rate"), "learning_rate: 1e-3 # lr\n"),
        ("'sede': 1\n", rename("sede", "seed"), "'seed': 1\n"),
        ("d:\n  - {pth: a, type: b}\n", rename("d[0].pth", "path"), "d:\n  - {path: a, type: b}\n"),
        ("ä: {ö: 1, sede: &x 2}\n", rename("ä.sede", "seed"), "ä: {ö: 1, seed: &x 2}\n"),
    ]);
}

#[test]
fn text_that_yaml_would_misread_is_quoted() {
    all(&[
        ("a: {b: 1}\n", set("a.b", "\"x, y\""), "a: {b: \"x, y\"}\n"),
        ("a: {b: 1}\n", set("a.b", "x, y"), "a: {b: \"x, y\"}\n"),
        ("a: 1\n", set("a", "'# x'"), "a: \"# x\"\n"),
        ("a: 1\n", set("a", "2 # and a comment"), "a: 2\n"),
        ("a: 1\n", set("a", "b: 2\nc: 3"), "a: {\"b\":2,\"c\":3}\n"),
        ("a: 1\n", set("null", "2"), "a: 1\n\"null\": 2\n"),
    ]);
}

#[test]
fn what_is_not_safe_is_refused() {
    let long = "x".repeat(1001);
    refused(&[
        ("a: &x 1\nb: *x\n", set("a", "2"), "an anchor, an alias or a merge key is involved in `a`"),
        ("a: &x 1\nb: *x\n", remove("b"), "an anchor, an alias or a merge key is involved in `b`"),
        ("a: &x {c: 1}\nb: *x\n", set("b.c", "2"), "an anchor, an alias or a merge key is involved in `b.c`"),
        ("a: &x {c: 1}\nb: *x\n", set("a.c", "2"), "an anchor, an alias or a merge key is involved in `a.c`"),
        (
            "a: &x {c: 1}\nb:\n  <<: *x\n  d: 1\n",
            set("b.d", "2"),
            "an anchor, an alias or a merge key is involved in `b.d`",
        ),
        ("a: 1\nb: 2\na: 3\n", set("a", "4"), "`a` is set twice"),
        ("a: 1\nb: 2\n", rename("a", "b"), "there is a `b` already"),
        ("a: 1\n", remove("b"), "`b` is not in the file"),
        ("a: 1\n", rename("b", "c"), "`b` is not in the file"),
        ("l: [1]\n", set("l[1]", "2"), "`l[1]` is not in the file"),
        ("a: 1\n", set("a.b", "2"), "`a` is not a mapping"),
        ("a: 1\n", set("a", &long), "the new value of `a` does not fit in a line"),
        ("a: 1\n", set("a", "[1"), "the new value of `a` does not fit in a line"),
        ("a: 1\n", set("a", ".nan"), "the new value of `a` does not fit in a line"),
        ("? a\n: 1\nb: 2\n", remove("a"), "the text around `a` cannot be changed safely"),
        ("a: {b: 1, # one\n  c: 2}\n", remove("a.b"), "the text around `a.b` cannot be changed safely"),
        ("a: 1\n---\nb: 1\n", set("a", "2"), "the text around `a` cannot be changed safely"),
        ("a: [\n", set("a", "2"), "the text around `a` cannot be changed safely"),
    ]);
}

/// The repository's examples, and texts with everything that the editor has to know about.
fn texts() -> Vec<String> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<_> =
        std::fs::read_dir(&configs).expect("configs").map(|entry| entry.expect("entry").path()).collect();
    files.push(configs.join("quickstart/config.yml"));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yml"));
    assert!(files.len() >= 5, "{files:?}");
    let mut texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).expect("a config")).collect();
    texts.extend(
        [
            "# é\na: 1 # ü\nb:\n  - c: [x, {d: 1, e: '2'}]   # y\n    f: |\n      text\n      # no comment\n\n    g:\n  - h\n\n# last\n",
            "{a: 1, b: {c: [1, 2, [3]], d: \"x, y\"}, e: []}\n",
            "a:\n- b:\n  - c\n  - - d\n    - e: 1\n      f: >-\n        folded\n        text\n- g: 'it''s'\nh: plain\n  on two lines\ni: \"ends here\"",
            "base_model: x\n\n\nkwargs: {\n  a: 1,   # one\n  b: [\n    2,\n    3,\n  ],\n}\nlast:\n",
        ]
        .map(str::to_owned),
    );
    let with_crlf: Vec<String> = texts.iter().map(|text| text.replace('\n', "\r\n")).collect();
    texts.extend(with_crlf);
    texts
}

fn tree_of(text: &str) -> Map<String, Value> {
    let Value::Object(map) = tree::read(text).expect("valid").0 else { panic!("no mapping: {text}") };
    map
}

fn paths_of(text: &str) -> Vec<String> {
    let positions = Positions::of(text).expect("valid");
    positions.paths().filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('[', "/").replace(']', "").replace('.', "/"))
}

/// The tree without a path, by JSON pointer.
fn without(text: &str, path: &str) -> Value {
    let mut tree = Value::Object(tree_of(text));
    let pointer = pointer(path);
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match tree.pointer_mut(parent).expect("a parent") {
        Value::Object(map) => drop(map.remove(key).expect("a key")),
        Value::Array(list) => drop(list.remove(key.parse().expect("an index"))),
        other => panic!("{other} has no entries"),
    }
    tree
}

/// Lines that are comments alone, in order.
fn comments(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.trim_start().starts_with('#')).collect()
}

#[test]
fn editing_the_text_is_editing_the_tree_for_every_key() {
    let mut count = 0;
    for text in texts() {
        for path in paths_of(&text) {
            for value in ["7", "word", "[1, {a: b}]", "{}", "\"a: b # c\""] {
                let new =
                    edit(&text, &set(&path, value)).unwrap_or_else(|error| panic!("{path}={value}: {error}\n{text}"));
                let mut tree = tree_of(&text);
                let by_tree = Override::parse(0, &format!("{path}={value}")).expect("an override");
                by_tree.apply(&mut tree).expect("applies");
                assert_eq!(tree_of(&new), tree, "{path}={value} in\n{text}");
                let (lines, with_cr) = (new.matches('\n').count(), new.matches("\r\n").count());
                assert_eq!(with_cr, if text.contains('\r') { lines } else { 0 }, "line ends are of one kind");
                count += 1;
            }
            let new = edit(&text, &remove(&path)).unwrap_or_else(|error| panic!("without {path}: {error}\n{text}"));
            assert_eq!(Value::Object(tree_of(&new)), without(&text, &path), "without {path}:\n{text}");
            let value = Value::Object(tree_of(&text)).pointer(&pointer(&path)).cloned().expect("a value");
            if !value.is_array() && !value.is_object() && !value.to_string().contains('#') {
                assert_eq!(comments(&new), comments(&text), "without {path}");
            }
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
fn a_new_key_of_every_mapping_is_the_same_in_text_and_tree() {
    for text in texts() {
        let tree = Value::Object(tree_of(&text));
        for path in paths_of(&text).into_iter().chain([String::new()]) {
            let at = if path.is_empty() { Some(&tree) } else { tree.pointer(&pointer(&path)) };
            if !at.is_some_and(|at| at.is_object() || at.is_null()) {
                continue;
            }
            for more in ["new_key", "new_key.inner"] {
                let path = join(&path, "x").strip_suffix('x').expect("x").to_owned() + more;
                let new = edit(&text, &set(&path, "1.5")).unwrap_or_else(|error| panic!("{path}: {error}\n{text}"));
                let mut tree = tree_of(&text);
                Override::parse(0, &format!("{path}=1.5")).expect("an override").apply(&mut tree).expect("applies");
                assert_eq!(tree_of(&new), tree, "{path} in\n{text}");
                assert_eq!(comments(&new), comments(&text), "{path}");
            }
        }
    }
}

proptest! {
    /// Whatever the text and the edit: a new text has exactly the intended tree, or there is none.
    #[test]
    fn no_edit_does_anything_else(text in "([a-c]:|- |  |[{}\\[\\],#&*|\"'\n]| [x1]|\n){0,24}", path in "[a-c](\\.[a-c]|\\[[01]\\])?", value in "[x1]|\\[1\\]|true") {
        let text = format!("a: 1\n{text}");
        if let Ok(new) = edit(&text, &set(&path, &value)) {
            let Value::Object(mut tree) = tree::read(&text).expect("was read").0 else { return Ok(()) };
            Override::parse(0, &format!("{path}={value}")).expect("an override").apply(&mut tree).expect("applies");
            prop_assert_eq!(tree_of(&new), tree);
        }
        if let Ok(new) = edit(&text, &remove(&path)) {
            prop_assert_eq!(Value::Object(tree_of(&new)), without(&text, &path));
        }
    }
}
