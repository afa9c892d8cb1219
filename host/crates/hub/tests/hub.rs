//! The hub, on loopback: what arrives, what is kept, and what happens where a server fails or lies.

mod server;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hub::{Hub, HubError, Kind, Listing, Progress, RemoteFile, Repository, Settings};
use server::{COMMIT, Reply, Repositories, Request, Server, part};

const NAME: &str = "models/org/tiny";

#[derive(Default)]
struct Told(RefCell<Vec<u64>>);

impl Progress for Told {
    fn begin(&self, _: &str, _: u64, there: u64) {
        self.0.borrow_mut().push(there);
    }

    fn at(&self, bytes: u64) {
        self.0.borrow_mut().push(bytes);
    }

    fn end(&self) {}
}

fn repositories() -> Repositories {
    let weights: Vec<u8> = (0..400_000_u32).map(|index| (index * index % 251) as u8).collect();
    let files = [("config.json", b"{}".to_vec()), ("model.safetensors", weights), ("a b/data.json", b"[]".to_vec())];
    Repositories::default().with(NAME, files.map(|(name, content)| (name.to_owned(), content)))
}

fn repository() -> Repository {
    Repository::new(Kind::Model, "org/tiny").unwrap()
}

fn settings(server: &Server, cache: &Path, token: Option<&str>) -> Settings {
    Settings {
        endpoint: server.address.clone(),
        cache: cache.to_owned(),
        token: token.map(ToOwned::to_owned),
        is_offline: false,
        certificates: None,
        pause: Duration::from_millis(1),
    }
}

fn open(server: &Server, cache: &Path) -> Hub {
    Hub::new(settings(server, cache, None)).unwrap()
}

fn fetch(hub: &Hub) -> Result<PathBuf, HubError> {
    let listing = hub.list(&repository(), "main")?;
    fetch_listed(hub, &listing, &Told::default())
}

fn fetch_listed(hub: &Hub, listing: &Listing, told: &Told) -> Result<PathBuf, HubError> {
    let all: Vec<&RemoteFile> = listing.files.iter().collect();
    hub.fetch(&repository(), "main", listing, &all, told)
}

/// Files in the cache that are neither locks nor references.
fn kept(cache: &Path) -> Vec<String> {
    let folder = cache.join("models--org--tiny/blobs");
    let names = fs::read_dir(folder).into_iter().flatten();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn files_arrive_where_huggingface_hub_looks_for_them() {
    let all = repositories();
    let server = Server::new(move |request| all.answer(request, None));
    let cache = tempfile::tempdir().unwrap();
    let hub = open(&server, cache.path());
    assert!(hub.cached(&repository(), "main").unwrap().is_none());
    let snapshot = fetch(&hub).unwrap();
    assert_eq!(snapshot, cache.path().join("models--org--tiny/snapshots").join(COMMIT));
    for (name, content) in &repositories().0[NAME] {
        assert_eq!(&fs::read(snapshot.join(name)).unwrap(), content, "{name}");
    }
    let target = fs::read_link(snapshot.join("a b/data.json")).unwrap();
    assert_eq!(target.to_str().unwrap(), "../../../blobs/0637a088a01e8ddab3bf3fa98dbe804cbde1a0dc");
    assert_eq!(fs::read_to_string(cache.path().join("models--org--tiny/refs/main")).unwrap(), COMMIT);
    let (commit, found) = hub.cached(&repository(), "main").unwrap().unwrap();
    assert_eq!((commit.as_str(), &found), (COMMIT, &snapshot));
    // A second time nothing but the listing is asked for, and without a network not even that.
    let before = server.requests().len();
    fetch(&hub).unwrap();
    assert_eq!(server.requests().len(), before + 1);
    let offline = Hub::new(Settings { is_offline: true, ..settings(&server, cache.path(), None) }).unwrap();
    assert_eq!(offline.cached(&repository(), "main").unwrap().unwrap().1, snapshot);
    assert!(matches!(offline.list(&repository(), "main"), Err(HubError::Offline { .. })));
    assert!(hub.cached(&repository(), "../../x").is_err());
}

#[test]
fn a_connection_that_ends_is_gone_on_with() {
    let (all, cuts) = (repositories(), AtomicUsize::new(0));
    let server = Server::new(move |request| {
        let mut reply = all.answer(request, None);
        if request.path.ends_with(".safetensors") && cuts.fetch_add(1, Ordering::Relaxed) < 7 {
            reply.cut = Some(40_000);
        }
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let hub = open(&server, cache.path());
    let listing = hub.list(&repository(), "main").unwrap();
    let told = Told::default();
    let snapshot = fetch_listed(&hub, &listing, &told).unwrap();
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), repositories().0[NAME]["model.safetensors"]);
    let starts: Vec<_> = server.requests().iter().filter_map(Request::range).map(|(start, _)| start).collect();
    assert_eq!(starts, (1..8).map(|part| part * 40_000).collect::<Vec<_>>());
    assert_eq!(told.0.borrow().last(), Some(&400_000));
}

#[test]
fn what_an_earlier_program_has_begun_is_gone_on_with() {
    let all = repositories();
    let whole = all.0[NAME]["model.safetensors"].clone();
    let server = Server::new(move |request| all.answer(request, None));
    for (begun, start) in [(whole[..1000].to_vec(), Some(1000)), (vec![0; 500_000], None)] {
        let cache = tempfile::tempdir().unwrap();
        let hub = open(&server, cache.path());
        let listing = hub.list(&repository(), "main").unwrap();
        let blobs = cache.path().join("models--org--tiny/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let digest = {
            use sha2::Digest as _;
            sha2::Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        fs::write(blobs.join(format!("{digest}.incomplete")), begun).unwrap();
        let snapshot = fetch_listed(&hub, &listing, &Told::default()).unwrap();
        assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), whole);
        let last = server.requests().into_iter().rfind(|request| request.path.ends_with(".safetensors"));
        assert_eq!(last.unwrap().range().map(|(start, _)| start), start);
    }
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let (all, cuts) = (repositories(), AtomicUsize::new(0));
    let server = Server::new(move |request| {
        let whole = Request { headers: [].into(), ..request.clone() };
        let mut reply = all.answer(&whole, None);
        if request.path.ends_with(".safetensors") && cuts.fetch_add(1, Ordering::Relaxed) < 2 {
            reply.cut = Some(100_000);
        }
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let snapshot = fetch(&open(&server, cache.path())).unwrap();
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), repositories().0[NAME]["model.safetensors"]);
}

#[test]
fn a_server_that_begins_again_and_ends_too_early_is_given_up() {
    let all = repositories();
    let server = Server::new(move |request| {
        let whole = Request { headers: [].into(), ..request.clone() };
        let mut reply = all.answer(&whole, None);
        if request.path.ends_with(".safetensors") {
            reply.cut = Some(100_000);
        }
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&open(&server, cache.path())).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    // The first brought something, so all tries were there again.
    assert_eq!(server.requests().iter().filter(|request| request.path.ends_with(".safetensors")).count(), 5);
}

#[test]
fn a_token_goes_to_the_hub_and_nowhere_else() {
    let (all, other) = (repositories(), repositories());
    let elsewhere = Server::new(move |request| part(request, &other.0[NAME]["model.safetensors"]));
    let address = elsewhere.address.clone();
    let server = Server::new(move |request| all.answer(request, Some(&address)));
    let cache = tempfile::tempdir().unwrap();
    fetch(&Hub::new(settings(&server, cache.path(), Some("hf_secret"))).unwrap()).unwrap();
    assert!(server.requests().iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
    let elsewhere = elsewhere.requests();
    assert_eq!(elsewhere.len(), 1);
    assert!(!elsewhere[0].headers.contains_key("authorization"));
}

#[test]
fn what_is_not_as_announced_is_not_kept() {
    let check = |change: fn(&mut Reply), words: &str| {
        let all = repositories();
        let server = Server::new(move |request| {
            let mut reply = all.answer(request, None);
            if request.path.ends_with(".safetensors") && reply.status < 300 {
                change(&mut reply);
            }
            reply
        });
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&open(&server, cache.path())).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("model.safetensors"), "{error}");
        let snapshot = cache.path().join("models--org--tiny/snapshots").join(COMMIT).join("model.safetensors");
        assert!(!snapshot.exists() && !cache.path().join("models--org--tiny/refs/main").exists());
        assert!(kept(cache.path()).iter().all(|name| name.len() == 40 || name.ends_with(".incomplete")));
    };
    check(|reply| reply.body[0] ^= 1, "its digest is");
    check(|reply| reply.body.push(0), "more than the 400000 bytes");
    check(|reply| reply.body.truncate(if reply.status == 206 { 0 } else { 1000 }), "ends too early");
}

#[test]
fn refusals_are_told_apart() {
    type Is = fn(&HubError) -> bool;
    let check = |status: u16, code: &str, token: Option<&str>, is: Is| {
        let code = code.to_owned();
        let server = Server::new(move |_| Reply::new(status, "").header("x-error-code", &code));
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub::new(settings(&server, cache.path(), token)).unwrap();
        let error = hub.list(&repository(), "main").unwrap_err();
        assert!(is(&error), "{status}: {error:?}");
        server.requests().len()
    };
    check(401, "", None, |error| matches!(error, HubError::NoRepository { has_token: false, .. }));
    check(401, "", Some("x"), |error| matches!(error, HubError::Token { .. }));
    check(401, "GatedRepo", None, |error| matches!(error, HubError::Gated { has_token: false, .. }));
    check(403, "GatedRepo", Some("x"), |error| matches!(error, HubError::Gated { has_token: true, .. }));
    check(404, "RepoNotFound", None, |error| matches!(error, HubError::NoRepository { .. }));
    check(404, "RevisionNotFound", None, |error| matches!(error, HubError::NoRevision { .. }));
    assert_eq!(check(429, "", None, |error| matches!(error, HubError::TooMany { .. })), 5);
    assert_eq!(check(503, "", None, |error| matches!(error, HubError::Status { status: 503, .. })), 5);
    // A server that wants a long wait is not asked again.
    let server = Server::new(|_| Reply::new(429, "").header("retry-after", 3600));
    let cache = tempfile::tempdir().unwrap();
    assert!(matches!(open(&server, cache.path()).list(&repository(), "main"), Err(HubError::TooMany { .. })));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_that_comes_back_is_asked_again() {
    let (all, asked) = (repositories(), AtomicUsize::new(0));
    let server = Server::new(move |request| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, "").header("retry-after", 0),
        2 => Reply { cut: Some(10), ..Reply::new(200, vec![b' '; 100]) },
        _ => all.answer(request, None),
    });
    let cache = tempfile::tempdir().unwrap();
    fetch(&open(&server, cache.path())).unwrap();
}

#[test]
fn answers_without_sense_are_refused() {
    let check = |reply: Reply, words: &str| {
        let server = Server::new(move |_| reply.clone());
        let cache = tempfile::tempdir().unwrap();
        let error = open(&server, cache.path()).list(&repository(), "main").unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check(Reply::new(200, "<html>"), "answers what cannot be used");
    check(Reply::new(200, r#"{"sha": "../../../x"}"#), "no commit");
    check(Reply::new(302, "").header("location", "/again"), "without end");
    check(Reply::new(302, "").header("location", "ftp://other/x"), "no address of the web");
    check(Reply::new(302, ""), "leads nowhere");
    check(Reply::new(418, ""), "status 418");
    let cache = tempfile::tempdir().unwrap();
    let mut nobody = Server::new(|_| Reply::default());
    nobody.address = "http://127.0.0.1:9".into();
    let error = open(&nobody, cache.path()).list(&repository(), "main").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    for endpoint in ["ftp://x", "x", "https://user@x", ""] {
        let settings = Settings { endpoint: endpoint.into(), ..settings(&nobody, cache.path(), None) };
        assert!(matches!(Hub::new(settings), Err(HubError::Setting { name: "HF_ENDPOINT", .. })), "{endpoint}");
    }
}

#[test]
fn the_beginning_of_a_file_comes_without_the_rest() {
    let all = repositories();
    let server = Server::new(move |request| all.answer(request, None));
    let cache = tempfile::tempdir().unwrap();
    let hub = open(&server, cache.path());
    let listing = hub.list(&repository(), "main").unwrap();
    let file = listing.file("model.safetensors").unwrap();
    let whole = &repositories().0[NAME]["model.safetensors"];
    assert_eq!(hub.first_bytes(&repository(), &listing, file, 8).unwrap(), whole[..8]);
    assert_eq!(hub.first_bytes(&repository(), &listing, file, 1 << 30).unwrap(), *whole);
    assert_eq!(server.requests()[1].range(), Some((0, Some(7))));
    assert!(kept(cache.path()).is_empty());
}

#[test]
fn what_a_dataset_has_at_a_commit_is_known_without_asking_again() {
    let files = [("train.csv", b"a\n1\n".to_vec()), ("test/x.csv", b"a\n2\n".to_vec())];
    let all =
        Repositories::default().with("datasets/org/rows", files.map(|(name, content)| (name.to_owned(), content)));
    let server = Server::new(move |request| all.answer(request, None));
    let cache = tempfile::tempdir().unwrap();
    let (hub, repository) = (open(&server, cache.path()), Repository::new(Kind::Dataset, "org/rows").unwrap());
    assert_eq!(hub.listed(&repository, COMMIT), None);
    let listing = hub.list(&repository, "main").unwrap();
    assert_eq!(hub.listed(&repository, COMMIT), Some(listing.clone()));
    let train = listing.file("train.csv").unwrap();
    hub.fetch(&repository, "main", &listing, &[train], &Told::default()).unwrap();
    assert_eq!(hub.snapshot_files(&repository, COMMIT), ["train.csv"]);

    // What was kept is a stranger's, too.
    let kept = cache.path().join("datasets--org--rows/.listings").join(format!("{COMMIT}.json"));
    fs::write(&kept, fs::read_to_string(&kept).unwrap().replace("test/x.csv", "../x.csv")).unwrap();
    assert_eq!(hub.listed(&repository, COMMIT), None);
}
