//! Recipes: made by one user, run by another, and what a stranger's may not do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::registry_server::{Request, Server, Store};
use crate::support::{CONFIG, Outcome, Project, finish, guest};

/// A config with a strategy of somebody else's, an evaluation and a reward.
fn config() -> String {
    CONFIG.replace("    type: alpaca", "    type: {name: 'acme:reverse', config: {field: output}}")
        + "test_datasets: [{path: eval.jsonl, type: {name: 'acme:reverse', config: {field: output}}}]\n\
           eval_reward_funcs: [exact-match]\nnum_generation_samples: 2\neval_max_new_tokens: 4\nlogging_steps: 1\n"
}

/// A user who has made a recipe of a run, in `tiny`.
fn author() -> Project {
    let project = Project::new();
    project.write("host.yml", config());
    let plugins = guest("reverse");
    let plugins = plugins.to_str().unwrap();
    project.success(&["train", "host.yml", "--plugins", plugins]);
    project.success(&["recipe", "new", "host.yml", "--name", "tiny", "--run", "out", "--plugins", plugins]);
    project
}

/// A user who has nothing but an empty directory; the cache of compiled plugins is everyone's, to save time.
fn stranger() -> Project {
    let project = Project::new();
    for name in ["model", "train.jsonl", "eval.jsonl", "host.yml"] {
        fs::remove_file(project.path(name)).unwrap();
    }
    project
}

/// A recipe of [`author`]'s, made once; the bytes of its `.recipe` file.
fn packed() -> Vec<u8> {
    static PACKED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    PACKED
        .get_or_init(|| {
            let author = author();
            author.success(&["recipe", "pack", "tiny", "--output", "tiny.recipe"]);
            fs::read(author.path("tiny.recipe")).unwrap()
        })
        .clone()
}

fn json_of(outcome: &Outcome, event: &str) -> Value {
    let lines = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.rev().find(|line| line["event"] == event).unwrap_or_else(|| panic!("no {event} in {}", outcome.stdout))
}

#[test]
fn a_recipe_goes_from_one_user_to_another_and_gives_the_same_bytes() {
    let author = author();
    let packed = json_of(&author.success(&["recipe", "pack", "tiny", "--output", "a.recipe", "--json"]), "packed");
    // Made anywhere, at any time, it is the same file.
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy");
    let status = std::process::Command::new("cp").arg("-r").arg(author.path("tiny")).arg(&copy).status().unwrap();
    assert!(status.success());
    author.success(&["recipe", "pack", copy.to_str().unwrap(), "--output", "b.recipe"]);
    assert_eq!(fs::read(author.path("a.recipe")).unwrap(), fs::read(author.path("b.recipe")).unwrap());

    let store = Store::default();
    let registry = {
        let store = store.clone();
        Server::new(move |request: &Request| store.answer(request))
    };
    let address = format!("oci://{}/acme/tiny:1", registry.host);
    let pushed = json_of(&author.success(&["recipe", "push", "a.recipe", &address, "--json"]), "pushed");
    assert_eq!(pushed["digest"], packed["digest"]);

    let stranger = stranger();
    let before = registry.requests().len();
    let shown = stranger.success(&["recipe", "inspect", &address]).stderr;
    // The manifest and the config, nothing else.
    assert_eq!(registry.requests().len() - before, 2, "{:?}", registry.requests());
    assert!(shown.contains("tiny 0.1.0") && shown.contains("acme:reverse") && shown.contains("sha256"), "{shown}");
    let refused = stranger.failure(&["recipe", "run", &address]);
    assert!(refused.contains("recipe::ask") && refused.contains("--yes"), "{refused}");
    assert!(!stranger.path("outputs").exists());

    stranger.success(&["recipe", "run", &address, "--yes"]);
    let weights = |project: &Project, path: &str| fs::read(project.path(path).join("model.safetensors")).unwrap();
    assert!(weights(&author, "out") == weights(&stranger, "outputs/tiny"), "other weights");
    let mut command = stranger.command(&["recipe", "reproduce", &address, "--yes", "--json"]);
    command.env("RAYON_NUM_THREADS", "1");
    let again = finish(command.spawn().unwrap());
    assert_eq!(again.status, 0, "{}", again.stderr);
    let report = json_of(&again, "reproduction");
    assert_eq!(report["verdict"], json!({"is": "same_bytes", "whole": true}), "{report}");
    let page = stranger.read("outputs/tiny-reproduced/reproduction.html");
    assert!(page.contains("same bytes: metrics and weights after all 4 steps"), "{page}");
    let card = stranger.read("outputs/tiny-reproduced/README.md");
    assert!(card.contains("## Reproduction") && card.contains("Recipe `tiny` 0.1.0: same bytes"), "{card}");

    let part = stranger.success(&["recipe", "reproduce", &address, "--yes", "--steps", "2", "--output-dir", "part"]);
    assert!(part.stderr.contains("same bytes: metrics of the first 2 of 4 steps"), "{}", part.stderr);
}

#[test]
fn a_recipe_that_gives_something_else_says_at_which_step() {
    let author = author();
    let text = author.read("tiny/recipe.yml");
    let result = text.find("  result:").unwrap();
    let (head, tail) = text.split_at(result);
    let loss = tail.find(" loss: ").unwrap() + 7;
    let end = tail[loss..].find('\n').unwrap();
    let other: f64 = tail[loss..loss + end].parse::<f64>().unwrap() * 1.5;
    author.write("tiny/recipe.yml", format!("{head}{}{other}{}", &tail[..loss], &tail[loss + end..]));
    let outcome = author.host(&["recipe", "reproduce", "tiny", "--yes"]);
    assert_eq!(outcome.status, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("diverged at step 1: ± 33.3 %"), "{}", outcome.stderr);
}

#[test]
fn a_lock_holds_every_byte() {
    let author = author();
    let verified = author.success(&["recipe", "verify", "tiny"]);
    assert!(verified.stderr.contains("is what it says"), "{}", verified.stderr);
    let told = |project: &Project| {
        let told = project.failure(&["recipe", "verify", "tiny"]);
        let root = project.path("").display().to_string();
        shortened(&told.replace(&root, "/project/"))
    };
    let original = author.read("tiny/train.jsonl");
    author.write("tiny/train.jsonl", original.replacen("the", "teh", 1));
    insta::assert_snapshot!(told(&author));
    fs::remove_file(author.path("tiny/train.jsonl")).unwrap();
    assert!(told(&author).contains("`train.jsonl` is locked, and the recipe does not have it"));
    std::os::unix::fs::symlink("/etc/hostname", author.path("tiny/train.jsonl")).unwrap();
    assert!(told(&author).contains("it is a link"), "{}", told(&author));
    fs::remove_file(author.path("tiny/train.jsonl")).unwrap();
    author.write("tiny/train.jsonl", &original);
    // Another plugin under the same name and version: a custom section at its end.
    let plugin = author.path("tiny/plugins/acme.reverse.wasm");
    let own = fs::read(&plugin).unwrap();
    fs::write(&plugin, [&own[..], &[0, 3, 1, b'x', 1]].concat()).unwrap();
    let swapped = told(&author);
    assert!(swapped.contains("plugin `acme:reverse` is not the one that is locked"), "{swapped}");
    fs::write(&plugin, own).unwrap();
    let config = author.read("tiny/recipe.yml");
    author.write("tiny/recipe.yml", config.replace("learning_rate: 1e-3", "learning_rate: 2e-3"));
    insta::assert_snapshot!(told(&author));
    // What changes nothing of what it says is no change.
    author.write(
        "tiny/recipe.yml",
        format!("# mine\n{}", config.replace("learning_rate: 1e-3", "learning_rate:   0.001  # high")),
    );
    author.success(&["recipe", "verify", "tiny"]);
    // Without its lock it does not run.
    author.write("tiny/recipe.yml", config.split("\n# Written by").next().unwrap());
    assert!(told(&author).contains("is not locked"));
    // Locked anew it is what it was, and the result stays.
    author.write("tiny/recipe.yml", config.clone());
    author.success(&["recipe", "lock", "tiny/recipe.yml"]);
    assert_eq!(author.read("tiny/recipe.yml"), config);
}

/// Digests and paths of temporary directories as one word each.
fn shortened(text: &str) -> String {
    let digest = regex::Regex::new("[0-9a-f]{64}").unwrap();
    let mut known: Vec<String> = Vec::new();
    digest
        .replace_all(text, |found: &regex::Captures<'_>| {
            let found = found[0].to_owned();
            let at = known.iter().position(|other| *other == found).unwrap_or_else(|| {
                known.push(found);
                known.len() - 1
            });
            format!("DIGEST-{}", at + 1)
        })
        .into_owned()
}

/// What a recipe's config may not say, told at its place.
#[test]
fn a_recipe_takes_no_rights() {
    let project = Project::new();
    fs::create_dir(project.path("made")).unwrap();
    let recipe = format!("recipe: {{name: a, version: 1.0.0}}\n{CONFIG}");
    let cases = [
        ("grants", format!("{recipe}plugins: [{{name: jsonl, grants: {{read: ['.']}}}}]\n")),
        ("limits", format!("{recipe}plugins: [{{name: jsonl, limits: {{memory_mb: 4096, call_ms: 10}}}}]\n")),
        ("severity", format!("{recipe}rules: [{{name: axolotl-compat, severity: {{D16: off, A25: error}}}}]\n")),
        ("absolute", recipe.replace("base_model: model", "base_model: /etc")),
        ("outside", recipe.replace("path: train.jsonl", "path: ../train.jsonl")),
        ("output", recipe.replace("output_dir: out", "output_dir: ../../out")),
        ("cache", format!("{recipe}dataset_prepared_path: cache\nresume_from_checkpoint: out/checkpoint-1\n")),
        ("lists", format!("{recipe}curation: {{decontaminate: {{against: [a.jsonl, /etc/passwd]}}}}\n")),
        ("newer", recipe.replace("version: 1.0.0", "version: 1.0.0, host: 99.0.0")),
        ("unnamed", recipe.replace("name: a, version: 1.0.0", "name: ../a, authors: [me], extra: 1")),
        (
            "lock",
            format!(
                "{recipe}lock: {{v: 1, host: x, config_sha256: '12', files: [{{path: ../a, size: 1, sha256: z}}], plugins: []}}\n"
            ),
        ),
        ("newer-lock", format!("{recipe}lock: {{v: 2, whatever: 3}}\n")),
        ("lock-alone", format!("{CONFIG}lock: {{v: 1}}\n")),
    ];
    for (name, config) in cases {
        project.write("host.yml", &config);
        insta::assert_snapshot!(format!("a_recipe_may_not_{name}"), project.failure(&["check", "host.yml"]));
    }
    // The user may: what `--set` says is the user's.
    project.write("host.yml", recipe.replace("path: train.jsonl", "path: ../train.jsonl"));
    project.success(&["train", "host.yml", "--dry-run", "--set", "datasets[0].path=train.jsonl"]);
    // It is of where the program was started, and a path that the recipe says is not, though it has the same name.
    project.write("made/recipe.yml", recipe.replace("base_model: model", "base_model: train.jsonl"));
    let told = project.failure(&["check", "made/recipe.yml", "--set", "datasets[0].path=train.jsonl"]);
    assert!(told.contains("base_model") && !told.contains("datasets"), "{told}");
}

/// An archive that a stranger has made: entries by name, of a kind and with a content.
fn archive(entries: &[(&str, tar::EntryType, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        // As it is, whatever the library thinks of it.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        if *kind == tar::EntryType::Symlink || *kind == tar::EntryType::Link {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_mode(0o6777);
        header.set_cksum();
        builder.append(&header, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of an archive by their names within it.
fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        all.insert(entry.path().unwrap().to_str().unwrap().to_owned(), content);
    }
    all
}

/// The same archive with another manifest, made by `change`; blobs are added as they are needed.
fn with_manifest(change: impl Fn(&mut Value), more: &[Vec<u8>]) -> Vec<u8> {
    let all = entries(&packed());
    let index: Value = serde_json::from_slice(&all["index.json"]).unwrap();
    let old = index["manifests"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let mut manifest: Value = serde_json::from_slice(&all[&format!("blobs/sha256/{old}")]).unwrap();
    change(&mut manifest);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [{"digest": format!("sha256:{}", digest(&manifest))}]});
    let mut list = vec![
        ("oci-layout".to_owned(), all["oci-layout"].clone()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        (format!("blobs/sha256/{}", digest(&manifest)), manifest),
    ];
    let blobs = all.into_iter().filter(|(name, _)| name.starts_with("blobs/") && !name.ends_with(&old));
    list.extend(blobs);
    list.extend(more.iter().map(|blob| (format!("blobs/sha256/{}", digest(blob)), blob.clone())));
    let list: Vec<_> =
        list.iter().map(|(name, content)| (name.as_str(), tar::EntryType::Regular, content.clone())).collect();
    archive(&list)
}

/// What a user is told of an archive, who has nothing of it afterwards.
fn refused(name: &str, bytes: &[u8]) -> String {
    let stranger = stranger();
    stranger.write("a.recipe", bytes);
    let told = stranger.failure(&["recipe", "run", "a.recipe", "--yes"]);
    let recipes = stranger.path(".cache/recipes");
    let left: Vec<_> = fs::read_dir(&recipes).map(|all| all.flatten().collect()).unwrap_or_default();
    assert!(left.is_empty(), "{name} left {left:?}");
    assert!(!stranger.path("outputs").exists() && !stranger.path("x").exists(), "{name} wrote");
    // Before it stands what the recipe says of itself.
    shortened(told.find("error[").map_or(&told, |start| &told[start..]))
}

#[test]
fn an_archive_is_not_trusted() {
    use tar::EntryType::{Block, Fifo, Link, Regular, Symlink};
    let good = entries(&packed());
    let with = |extra: &[(&str, tar::EntryType, Vec<u8>)]| {
        let mut all: Vec<_> = good.iter().map(|(name, content)| (name.as_str(), Regular, content.clone())).collect();
        all.extend(extra.iter().cloned());
        archive(&all)
    };
    let blob = format!("blobs/sha256/{}", "0".repeat(64));
    let many: Vec<(String, Vec<u8>)> =
        (0..10_000).map(|index| (format!("blobs/sha256/{index:064x}"), Vec::new())).collect();
    let many: Vec<_> = many.iter().map(|(name, content)| (name.as_str(), Regular, content.clone())).collect();
    let first = good.keys().find(|name| name.starts_with("blobs/")).unwrap().clone();
    let mut cut = packed();
    cut.truncate(cut.len() / 2);
    let mut flipped = packed();
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("up", with(&[("../x", Regular, b"x".to_vec())])),
        ("absolute", with(&[("/tmp/x", Regular, b"x".to_vec())])),
        ("link", with(&[(&blob, Symlink, Vec::new())])),
        ("hardlink", with(&[(&blob, Link, Vec::new())])),
        ("device", with(&[(&blob, Block, Vec::new())])),
        ("pipe", with(&[(&blob, Fifo, Vec::new())])),
        ("twice", with(&[(&first, Regular, b"x".to_vec())])),
        ("many", with(&many)),
        ("cut", cut),
        ("flipped", flipped),
        ("nothing", Vec::new()),
        ("text", b"base_model: x\n".repeat(100)),
    ];
    for (name, bytes) in cases {
        insta::assert_snapshot!(format!("an_archive_{name}"), refused(name, &bytes));
    }
}

#[test]
fn a_manifest_is_not_trusted() {
    const TITLE: &str = "org.opencontainers.image.title";
    let named = |name: &'static str| {
        with_manifest(
            move |manifest| {
                let layer = json!({"mediaType": "x", "digest": format!("sha256:{}", digest(b"x")), "size": 1, "annotations": {TITLE: name}});
                manifest["layers"].as_array_mut().unwrap().push(layer);
            },
            &[b"x".to_vec()],
        )
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("up", named("../x")),
        ("absolute", named("/x")),
        ("hidden", named(".git/config")),
        ("same_name", named("TRAIN.jsonl")),
        ("file_and_directory", named("train.jsonl/x")),
        ("extra", named("x.jsonl")),
        (
            "digest",
            with_manifest(
                |manifest| manifest["layers"][1]["digest"] = json!(format!("sha256:{}", digest(b"x"))),
                &[b"x".to_vec()],
            ),
        ),
        ("size", with_manifest(|manifest| manifest["layers"][1]["size"] = json!(10_u64 << 30), &[])),
        ("small_size", with_manifest(|manifest| manifest["layers"][1]["size"] = json!(3), &[])),
        (
            "files",
            with_manifest(
                |manifest| {
                    let layer = manifest["layers"][1].clone();
                    manifest["layers"] = json!(vec![layer; 10_000]);
                },
                &[],
            ),
        ),
        (
            "other",
            with_manifest(|manifest| manifest["artifactType"] = json!("application/vnd.oci.image.config.v1+json"), &[]),
        ),
        ("lacking", with_manifest(|manifest| drop(manifest["layers"].as_array_mut().unwrap().pop()), &[])),
        ("no_config", with_manifest(|manifest| drop(manifest["layers"].as_array_mut().unwrap().remove(0)), &[])),
    ];
    for (name, bytes) in cases {
        insta::assert_snapshot!(format!("a_manifest_{name}"), refused(name, &bytes));
    }
}

/// A registry that gives other bytes than it announces, more of them, or fewer.
#[test]
fn a_registry_is_not_trusted() {
    let author = author();
    let store = Store::default();
    let pushing = {
        let store = store.clone();
        Server::new(move |request: &Request| store.answer(request))
    };
    author.success(&["recipe", "push", "tiny", &format!("oci://{}/acme/tiny:1", pushing.host)]);
    for (name, words) in [("longer", "more than"), ("other", "digest"), ("shorter", "")] {
        let store = store.clone();
        let lying = Server::new(move |request: &Request| {
            let mut reply = store.answer(request);
            // The config tells the truth; the model does not.
            if request.path.contains("/blobs/") && reply.body.len() > 1_000_000 {
                match name {
                    "longer" => reply.body.extend([0; 10]),
                    "other" => reply.body[50_000] ^= 1,
                    // It has no more than that, from wherever it is asked to go on.
                    _ if request.start().is_some() => return crate::registry_server::Reply::new(416, ""),
                    _ => reply.body.truncate(90_000),
                }
            }
            reply
        });
        let stranger = stranger();
        let told = stranger.failure(&["recipe", "run", &format!("oci://{}/acme/tiny:1", lying.host), "--yes"]);
        assert!(told.contains("did not arrive as it was announced") && told.contains(words), "{name}: {told}");
        assert!(!stranger.path("outputs").exists(), "{name}");
        let left = fs::read_dir(stranger.path(".cache/recipes")).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != ".downloads").collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

/// A `recipe.yml` with its files beside it, on any web server; and a `.recipe` file there.
#[test]
fn a_recipe_is_read_from_an_address() {
    let author = author();
    author.success(&["recipe", "pack", "tiny"]);
    let root = author.path("");
    let server = Server::new(move |request: &Request| serve(&root, request));
    let stranger = stranger();
    for (path, output) in [("tiny/recipe.yml", "one"), ("tiny-0.1.0.recipe", "two")] {
        let address = format!("http://{}/{path}", server.host);
        stranger.success(&["recipe", "run", &address, "--yes", "--output-dir", output]);
        assert!(
            fs::read(stranger.path(output).join("model.safetensors")).unwrap()
                == fs::read(author.path("out/model.safetensors")).unwrap(),
            "{path}"
        );
    }
    author.write("tiny/train.jsonl", "{}\n");
    let other = Project::new();
    let told = other.failure(&["recipe", "run", &format!("http://{}/tiny/recipe.yml", server.host), "--yes"]);
    assert!(told.contains("train.jsonl") && !other.path("outputs").exists(), "{told}");
}

fn serve(root: &Path, request: &Request) -> crate::registry_server::Reply {
    match fs::read(root.join(request.path.trim_start_matches('/'))) {
        Ok(bytes) => crate::registry_server::Reply::new(200, bytes),
        Err(_) => crate::registry_server::Reply::new(404, ""),
    }
}

/// Where minisign is installed; elsewhere `recipe/signature.rs` has a signature of it.
#[test]
#[expect(clippy::print_stdout, reason = "it says that it is passed over")]
fn a_signature_says_who() {
    let author = author();
    let minisign = |arguments: &[&str]| {
        let mut command = std::process::Command::new("minisign");
        command.current_dir(author.path("")).args(arguments).stdin(std::process::Stdio::null());
        command.output().map(|output| assert!(output.status.success(), "{output:?}"))
    };
    if minisign(&["-G", "-W", "-p", "own.pub", "-s", "own.sec"]).is_err() {
        println!("passed over: minisign is not installed");
        return;
    }
    minisign(&["-G", "-W", "-p", "other.pub", "-s", "other.sec"]).unwrap();
    author.success(&["recipe", "pack", "tiny", "--output", "tiny.recipe", "--digest", "tiny.digest"]);
    let unsigned = author.failure(&["recipe", "verify", "tiny.recipe", "--key", "own.pub"]);
    assert!(unsigned.contains("is not signed"), "{unsigned}");
    minisign(&["-S", "-m", "tiny.digest", "-s", "own.sec", "-x", "tiny.recipe.minisig", "-t", "tiny by me"]).unwrap();
    let verified =
        author.success(&["recipe", "verify", "tiny.recipe", "--key", "other.pub", "--key", "own.pub"]).stderr;
    assert!(verified.contains("signed by own.pub (tiny by me)"), "{verified}");
    let other = author.failure(&["recipe", "run", "tiny.recipe", "--yes", "--key", "other.pub"]);
    assert!(other.contains("signed by none of the keys") && !author.path("outputs").exists(), "{other}");
    // The same of a directory, and through a registry.
    fs::copy(author.path("tiny.recipe.minisig"), author.path("tiny/recipe.minisig")).unwrap();
    author.success(&["recipe", "verify", "tiny", "--key", "own.pub"]);
    let store = Store::default();
    let registry = Server::new(move |request: &Request| store.answer(request));
    let address = format!("oci://{}/acme/tiny:1", registry.host);
    author.success(&["recipe", "push", "tiny", &address, "--signature", "tiny.recipe.minisig"]);
    author.success(&["recipe", "verify", &address, "--key", "own.pub"]);
    let other = author.failure(&["recipe", "verify", &address, "--key", "other.pub"]);
    assert!(other.contains("signed by none of the keys"), "{other}");
}

/// A plugin for all configs, from a file and from a registry, as it was when it was added.
#[test]
fn a_plugin_is_added_as_it_is() {
    let project = Project::new();
    let file = guest("reverse").join("reverse.wasm");
    let bytes = fs::read(&file).unwrap();
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": format!("sha256:{}", digest(b"{}")), "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": format!("sha256:{}", digest(&bytes)), "size": bytes.len()}]});
    let store = Store::default().with_blob(&bytes).with_manifest(
        "0.1.0",
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    let registry = Server::new(move |request: &Request| store.answer(request));
    let address = format!("oci://{}/acme/reverse:0.1.0", registry.host);
    let refused = project.failure(&["plugin", "add", &address]);
    assert!(refused.contains("plugin::ask") && refused.contains("acme:reverse 0.1.0"), "{refused}");
    project.success(&["plugin", "add", &address, "--yes"]);
    project.write("host.yml", config());
    project.success(&["check", "host.yml"]);
    let listed = project.success(&["plugin", "list"]).stdout;
    assert!(listed.contains("acme:reverse"), "{listed}");
    // Nobody changes it behind the user's back.
    let own = project.path(".data/plugins/acme.reverse.wasm");
    fs::write(&own, [&bytes[..], &[0, 3, 1, b'x', 1]].concat()).unwrap();
    let changed = project.failure(&["check", "host.yml"]);
    assert!(changed.contains("is not what it was when you added it") && changed.contains("@sha256:"), "{changed}");
    project.success(&["plugin", "add", file.to_str().unwrap(), "--yes"]);
    project.success(&["check", "host.yml"]);
    // A recipe brings its own plugins: the user's are not part of it.
    project.success(&["recipe", "new", "host.yml", "--name", "mine"]);
    assert!(project.path("mine/plugins/acme.reverse.wasm").is_file());
    project.success(&["plugin", "remove", "acme:reverse"]);
    assert!(!own.exists() && project.failure(&["check", "host.yml"]).contains("there is no prompt-strategy plugin"));
    project.success(&["recipe", "verify", "mine"]);
    let bundled = project.failure(&["plugin", "remove", "alpaca"]);
    assert!(bundled.contains("you have not added"), "{bundled}");
}

/// What a card of Axolotl says becomes a recipe: what is about its author's machine is left out, what is missing is told.
#[test]
fn a_model_card_becomes_a_recipe() {
    let project = Project::new();
    let config = CONFIG
        .replace("output_dir: out", "output_dir: ./out\ndataset_prepared_path: last_run_prepared\nwandb_project: mine");
    let card = format!(
        "---\nlicense: apache-2.0\nbase_model: model\n---\n\n# A model\n\n<details><summary>See axolotl config</summary>\n\n\
         axolotl version: `0.9.2`\n```yaml\n{config}\n```\n\n</details><br>\n"
    );
    project.write("card.md", card);
    let made = project.host(&["recipe", "from", "card.md", "--dir", "made"]);
    // Neither model nor data lie beside it.
    assert_eq!(made.status, 1, "{}", made.stderr);
    assert!(
        made.stderr.contains("of a card of Axolotl 0.9.2") && made.stderr.contains("left out  wandb_project"),
        "{}",
        made.stderr
    );
    assert!(made.stderr.contains("train.jsonl"), "{}", made.stderr);
    let written = project.read("made/recipe.yml");
    assert!(written.contains("license: apache-2.0") && written.contains("output_dir: outputs/card"), "{written}");
    assert!(!written.contains("wandb") && !written.contains("last_run_prepared"), "{written}");
    fs::copy(project.path("train.jsonl"), project.path("made/train.jsonl")).unwrap();
    let status = std::process::Command::new("cp")
        .args(["-rL"])
        .arg(project.path("model"))
        .arg(project.path("made/model"))
        .status();
    assert!(status.unwrap().success());
    project.success(&["recipe", "lock", "made/recipe.yml"]);
    project.success(&["recipe", "verify", "made"]);
    project.write("other.md", "# A model\n```yaml\nx: 1\n```\n");
    assert!(project.failure(&["recipe", "from", "other.md"]).contains("has no Axolotl config"));
}

/// A recipe carries what came of its runs, and `host check` says so.
#[test]
fn a_recipe_carries_what_came_of_its_runs() {
    let author = author();
    let config = author.read("tiny/recipe.yml");
    let digest = config.split("config_sha256: ").nth(1).unwrap()[..16].to_owned();
    let record = |id: usize, outcome: &str, device: &str| {
        let record = json!({"event": "outcome", "v": 1, "id": format!("{id:016}"), "host_version": "0.1.0", "recipe": digest,
            "setup": {"architecture": "LlamaForCausalLM", "parameters": 900_000, "device": device, "techniques": ["full"],
                "learning_rate": 1e-3, "batch_size": 4, "sequence_len": 128},
            "steps": 4, "outcome": outcome});
        format!("{record}\n")
    };
    let mut records: String = (0..12).map(|id| record(id, "finished", "cpu")).collect();
    records += &(12..14).map(|id| record(id, "killed", "cuda")).collect::<String>();
    author.write("tiny/evidence.jsonl", records);
    author.success(&["recipe", "lock", "tiny/recipe.yml"]);
    author.success(&["recipe", "pack", "tiny", "--output", "tiny.recipe"]);
    let stranger = stranger();
    fs::copy(author.path("tiny.recipe"), stranger.path("tiny.recipe")).unwrap();
    let imported = stranger.success(&["evidence", "import", "tiny.recipe"]).stderr;
    assert!(imported.contains("14 new"), "{imported}");
    let told = stranger.success(&["recipe", "verify", "tiny.recipe"]).stderr;
    assert!(told.contains("this recipe: 12 of 14 runs finished"), "{told}");
    assert!(told.contains("all that did not finish ran on cuda, and none that did"), "{told}");
    // A run of it says which recipe it was, and nothing else of it.
    stranger.success(&["recipe", "run", "tiny.recipe", "--yes"]);
    let exported = stranger.success(&["evidence", "export", "outputs/tiny"]).stdout;
    assert_eq!(serde_json::from_str::<Value>(&exported).unwrap()["recipe"], digest);
    assert!(author.failure(&["evidence", "import", "tiny/plugins"]).contains("evidence::no-run"));
}

#[test]
fn two_recipes_differ_where_they_say() {
    let author = author();
    let status = std::process::Command::new("cp").arg("-r").arg(author.path("tiny")).arg(author.path("other")).status();
    assert!(status.unwrap().success());
    assert!(author.success(&["recipe", "diff", "tiny", "other"]).stderr.contains("they say the same"));
    let config = author.read("other/recipe.yml");
    author.write("other/recipe.yml", config.replace("learning_rate: 1e-3", "learning_rate: 2e-3"));
    let told = author.success(&["recipe", "diff", "tiny", "other"]).stderr;
    assert!(told.contains("learning_rate\n  - 0.001\n  + 0.002"), "{told}");
}

/// The shelf: each recipe is what its lock says. What it gives, `recipes/check` says, in minutes.
#[test]
fn the_shelf_is_what_it_says() {
    let project = stranger();
    let shelf = crate::support::root().join("recipes");
    let index: Value = serde_json::from_str(&fs::read_to_string(shelf.join("index.json")).unwrap()).unwrap();
    let listed: Vec<&str> =
        index["recipes"].as_array().unwrap().iter().filter_map(|entry| entry["from"].as_str()).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(&shelf).unwrap() {
        let directory = entry.unwrap().path();
        if directory.is_dir() {
            let verified = project.success(&["recipe", "verify", directory.to_str().unwrap()]);
            assert!(verified.stderr.contains("is what it says"), "{}", verified.stderr);
            found.push(format!("{}/recipe.yml", directory.file_name().unwrap().to_str().unwrap()));
        }
    }
    found.sort();
    assert_eq!(found, listed);
    let shown = project.success(&["recipe", "list", shelf.join("index.json").to_str().unwrap(), "lora"]).stdout;
    assert!(
        shown.contains("host recipe run") && shown.contains("lora 1.0.0") && !shown.contains("dpo 1.0.0"),
        "{shown}"
    );
}
