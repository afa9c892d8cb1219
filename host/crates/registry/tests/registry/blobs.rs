//! Manifests and blobs of a registry on loopback: what arrives, what is put there, and what happens where a registry fails or
//! lies.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Told, bytes, names, open, reference, settings};
use crate::server::{Reply, Request, Server, Store, flaw};
use registry::{Content, Digest, IMAGE_MANIFEST, Logins, Registry, RegistryError};

const SIZE: u64 = 400_000;

fn whole() -> Vec<u8> {
    bytes(SIZE as u32)
}

/// What comes of fetching the whole blob from a server; the error, and the names of the files that are left.
fn fetched(server: &Server) -> (Option<String>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (reference, digest) = (reference(&server.host, "org/a"), Digest::of(&whole()));
    let got = open().fetch_blob(&reference, &digest, SIZE, folder.path(), &Told::default());
    if let Ok(path) = &got {
        assert_eq!(path, &folder.path().join(digest.file_name()));
        assert_eq!(fs::read(path).unwrap(), whole());
    }
    (got.err().map(|error| error.to_string()), names(folder.path()))
}

/// A server of the whole blob whose answers to requests for it are changed.
fn changed(change: impl Fn(&Request, &mut Reply) + Send + Sync + 'static) -> Server {
    let store = Store::default().with_blob(&whole());
    Server::new(move |request| {
        let mut reply = store.answer(request);
        if request.path.contains("/blobs/") {
            change(request, &mut reply);
        }
        reply
    })
}

#[test]
fn what_is_pushed_is_had_again() {
    let store = Store::default();
    let server = Server::new(move |request| store.answer(request));
    let (registry, tagged) = (open(), reference(&server.host, "org/recipes/tiny:1.0"));
    let folder = tempfile::tempdir().unwrap();
    let (large, told) = (bytes(3_000_000), Told::default());
    let path = folder.path().join("layer");
    fs::write(&path, &large).unwrap();
    let (digest, size) = (Digest::of(&large), large.len() as u64);
    registry.push_blob(&tagged, &digest, size, Content::File(&path), &told).unwrap();
    assert_eq!((told.0.borrow().first(), told.0.borrow().last()), (Some(&0), Some(&size)));
    registry.push_blob(&tagged, &Digest::of(b"{}"), 2, Content::Bytes(b"{}"), &told).unwrap();
    registry.push_blob(&tagged, &Digest::of(b""), 0, Content::Bytes(b""), &told).unwrap();
    assert_eq!((server.count("HEAD", "/blobs/"), server.count("PUT", "/blobs/")), (3, 3));
    assert!(server.requests().iter().any(|request| request.headers.contains_key("expect")));
    // What is there already is not sent again.
    registry.push_blob(&tagged, &digest, size, Content::File(&path), &told).unwrap();
    assert_eq!((server.count("HEAD", "/blobs/"), server.count("PUT", "/blobs/")), (4, 3));

    assert!(!registry.exists(&tagged).unwrap());
    let pushed = registry.push_manifest(&tagged, IMAGE_MANIFEST, b"{\"a\": 1}").unwrap();
    assert!(registry.exists(&tagged).unwrap());
    let pinned = tagged.with_digest(pushed.clone());
    for reference in [&tagged, &pinned] {
        let found = registry.manifest(reference, 8).unwrap();
        assert_eq!(
            (&found.digest, found.media_type.as_str(), &*found.bytes),
            (&pushed, IMAGE_MANIFEST, &b"{\"a\": 1}"[..])
        );
    }
    let asked = server.requests();
    assert!(asked.last().unwrap().path.ends_with(&format!("/v2/org/recipes/tiny/manifests/{pushed}")));
    assert_eq!(asked.last().unwrap().headers["accept"], IMAGE_MANIFEST);
    // Without a tag a manifest is under its digest.
    let only = reference(&server.host, &format!("org/b@{pushed}"));
    assert_eq!(registry.push_manifest(&only, IMAGE_MANIFEST, b"{\"a\": 1}").unwrap(), pushed);
    assert!(server.requests().last().unwrap().path.ends_with(&format!("/v2/org/b/manifests/{pushed}")));

    let folder = tempfile::tempdir().unwrap();
    let got = registry.fetch_blob(&pinned, &digest, size, folder.path(), &Told::default()).unwrap();
    assert_eq!(fs::read(&got).unwrap(), large);
    registry.fetch_blob(&pinned, &Digest::of(b""), 0, folder.path(), &Told::default()).unwrap();
    // What is there is not asked for again, but if it is something else.
    let before = server.count("GET", "/blobs/");
    registry.fetch_blob(&pinned, &digest, size, folder.path(), &Told::default()).unwrap();
    assert_eq!(server.count("GET", "/blobs/"), before);
    fs::write(&got, vec![0; large.len()]).unwrap();
    registry.fetch_blob(&pinned, &digest, size, folder.path(), &Told::default()).unwrap();
    assert_eq!((server.count("GET", "/blobs/"), fs::read(&got).unwrap()), (before + 1, large));
}

#[test]
fn a_blob_that_is_not_as_announced_is_not_kept() {
    let digest = Digest::of(&whole());
    let mut wrong = whole();
    wrong[7] ^= 1;
    let (error, left) = fetched(&changed(|_, reply| reply.body[7] ^= 1));
    let error = error.unwrap();
    assert!(error.contains(&digest.to_string()) && error.contains(&Digest::of(&wrong).to_string()), "{error}");
    assert!(left.is_empty(), "{left:?}");
    // Whether or not the registry says at once that it has more.
    for is_silent in [false, true] {
        let server = changed(move |_, reply| {
            reply.body.extend([0; 100]);
            reply.is_silent = is_silent;
        });
        let (error, left) = fetched(&server);
        assert!(error.as_ref().unwrap().contains("more than the 400000 bytes"), "{error:?}");
        assert!(left.is_empty() && server.count("GET", "/blobs/") == 1, "{left:?}");
    }
    // One that has less, and says so where it is asked for the rest.
    let server = changed(|request, reply| {
        reply.body.truncate(1000);
        if request.start().is_some() {
            *reply = Reply::new(416, "");
        }
    });
    let (error, left) = fetched(&server);
    assert!(error.as_ref().unwrap().contains("from byte 1000 of 400000 on"), "{error:?}");
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(server.count("GET", "/blobs/"), 2);
    // One that sends nothing of the rest: it is asked a few times. What has come is no lie, and stays.
    let server = changed(|request, reply| reply.body.truncate(if request.start().is_some() { 0 } else { 1000 }));
    let (error, left) = fetched(&server);
    assert!(error.as_ref().unwrap().contains("ends too early"), "{error:?}");
    assert_eq!((left.len(), server.count("GET", "/blobs/")), (1, 5));
    assert!(left[0].ends_with(".incomplete"));
}

#[test]
fn a_large_blob_is_gone_on_with() {
    let large = bytes(20_000_000);
    let (store, cuts) = (Store::default().with_blob(&large), AtomicUsize::new(0));
    let server = Server::new(move |request| {
        let mut reply = store.answer(request);
        if request.path.contains("/blobs/") && cuts.fetch_add(1, Ordering::Relaxed) == 0 {
            reply.cut = Some(10_000_000);
        }
        reply
    });
    let (reference, digest, size) = (reference(&server.host, "org/a"), Digest::of(&large), large.len() as u64);
    let (folder, told) = (tempfile::tempdir().unwrap(), Told::default());
    let path = open().fetch_blob(&reference, &digest, size, folder.path(), &told).unwrap();
    assert!(fs::read(&path).unwrap() == large);
    let starts: Vec<_> = server.requests().iter().map(Request::start).collect();
    assert_eq!(starts, [None, Some(10_000_000)]);
    assert!(told.0.borrow().is_sorted() && told.0.borrow().last() == Some(&size));

    // What an earlier program has left, and what is more than there can be.
    for (left, start) in [(&large[..15_000_000], Some(15_000_000)), (&[&large[..], &[0]].concat(), None)] {
        let (folder, told) = (tempfile::tempdir().unwrap(), Told::default());
        fs::write(folder.path().join(format!("{}.incomplete", digest.file_name())), left).unwrap();
        let path = open().fetch_blob(&reference, &digest, size, folder.path(), &told).unwrap();
        assert!(fs::read(path).unwrap() == large);
        assert_eq!(server.requests().last().unwrap().start(), start);
        assert_eq!(told.0.borrow()[0], start.unwrap_or(0) as u64);
        assert_eq!(names(folder.path()), [digest.file_name()]);
    }
    // What it has left may be wrong; then the next time it is had from the beginning.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(format!("{}.incomplete", digest.file_name())), [9; 100]).unwrap();
    let fetch = || open().fetch_blob(&reference, &digest, size, folder.path(), &Told::default());
    assert!(matches!(fetch(), Err(RegistryError::Corrupt { .. })));
    assert!(names(folder.path()).is_empty());
    fetch().unwrap();
}

#[test]
fn those_who_want_the_same_blob_wait_for_one_another() {
    let server = changed(|_, _| std::thread::sleep(std::time::Duration::from_millis(50)));
    let (here, digest) = (reference(&server.host, "org/a"), Digest::of(&whole()));
    let (folder, registry) = (tempfile::tempdir().unwrap(), open());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| registry.fetch_blob(&here, &digest, SIZE, folder.path(), &Told::default()).unwrap());
        }
    });
    assert_eq!(server.count("GET", "/blobs/"), 1);
    assert_eq!(names(folder.path()), [digest.file_name()]);
}

#[test]
fn a_manifest_is_held_against_its_digest() {
    let content = b"{\"a\": 1}".to_vec();
    let digest = Digest::of(&content);
    let check = |rest: &str, limit: u64, change: fn(&mut Reply)| {
        let store = Store::default().with_manifest("1", "application/x; charset=utf-8", &content);
        let store = store.with_manifest(&digest.to_string(), IMAGE_MANIFEST, &content);
        let server = Server::new(move |request| {
            let mut reply = store.answer(request);
            change(&mut reply);
            reply
        });
        open().manifest(&reference(&server.host, rest), limit)
    };
    let pinned = format!("org/a:1@{digest}");
    assert_eq!(check("org/a:1", 8, |_| {}).unwrap().media_type, "application/x");
    check(&pinned, 8, |reply| reply.headers.truncate(1)).unwrap();
    check(&pinned, 8, |reply| reply.headers[1].1 = "sha512:12".into()).unwrap();
    assert!(matches!(check("org/a:1", 7, |_| {}), Err(RegistryError::TooLarge { limit: 7, .. })));
    assert!(matches!(check("org/a:1", 7, |reply| reply.is_silent = true), Err(RegistryError::TooLarge { .. })));
    assert!(matches!(check("org/a:2", 8, |_| {}), Err(RegistryError::NotFound { .. })));
    let none = |reply: &mut Reply| drop(reply.headers.remove(0));
    assert!(matches!(check("org/a:1", 8, none), Err(RegistryError::Invalid { .. })));
    let other = |reply: &mut Reply| {
        reply.body[0] = b' ';
        reply.headers.truncate(1);
    };
    for error in [check("org/a:1", 8, |reply| reply.body[0] = b' '), check(&pinned, 8, other)] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&digest.to_string()), "{error}");
        assert!(error.contains(&Digest::of(b" \"a\": 1}").to_string()), "{error}");
    }
}

#[test]
fn refusals_are_told_apart() {
    type Is = fn(&RegistryError) -> bool;
    let check = |reply: Reply, is: Is| {
        let server = Server::new(move |_| reply.clone());
        let reference = reference(&server.host, "org/a:1");
        let error = open().manifest(&reference, 100).unwrap_err();
        assert!(is(&error), "{error:?}");
        (server.requests().len(), error.to_string())
    };
    check(flaw(404, "NAME_UNKNOWN", "x"), |error| matches!(error, RegistryError::NotFound { .. }));
    let (_, error) = check(flaw(403, "DENIED", "not\\nyou"), |error| matches!(error, RegistryError::Denied { .. }));
    assert!(error.contains("it says `DENIED: not you`"), "{error}");
    let (asked, _) = check(Reply::new(429, ""), |error| matches!(error, RegistryError::TooMany { .. }));
    assert_eq!(asked, 5);
    let (asked, _) = check(Reply::new(503, ""), |error| matches!(error, RegistryError::Status { status: 503, .. }));
    assert_eq!(asked, 5);
    check(Reply::new(418, "<html>"), |error| matches!(error, RegistryError::Status { status: 418, .. }));
    check(Reply::new(401, ""), |error| matches!(error, RegistryError::Invalid { .. }));
    check(Reply::new(302, "").header("location", "/again"), |error| matches!(error, RegistryError::Invalid { .. }));
    check(Reply::new(302, ""), |error| matches!(error, RegistryError::Invalid { .. }));
    for to in ["http://a.example/x?secret", "ftp://a.example/x", "http://u:secret@127.0.0.1/x"] {
        let reply = Reply::new(307, "").header("location", to);
        let (asked, error) = check(reply, |error| matches!(error, RegistryError::Redirect { .. }));
        assert!(asked == 1 && !error.contains("secret"), "{error}");
    }

    let server = Server::new(|_| flaw(404, "BLOB_UNKNOWN", "x"));
    let (digest, folder) = (Digest::of(b"x"), tempfile::tempdir().unwrap());
    let here = reference(&server.host, "org/a:1");
    let error = open().fetch_blob(&here, &digest, 1, folder.path(), &Told::default()).unwrap_err();
    assert!(matches!(error, RegistryError::NoBlob { .. }), "{error:?}");
    assert!(names(folder.path()).is_empty());
    let offline = Registry::new(registry::Settings { is_offline: true, ..settings(Logins::default()) }).unwrap();
    let before = server.requests().len();
    for error in [
        offline.manifest(&here, 1).err(),
        offline.exists(&here).err(),
        offline.fetch_blob(&here, &digest, 1, folder.path(), &Told::default()).err(),
        offline.push_blob(&here, &digest, 1, Content::Bytes(b"x"), &Told::default()).err(),
        offline.push_manifest(&here, IMAGE_MANIFEST, b"x").err(),
    ] {
        assert!(matches!(error, Some(RegistryError::Offline { .. })), "{error:?}");
    }
    assert_eq!(server.requests().len(), before);
    // What is there can be had all the same.
    fs::write(folder.path().join(digest.file_name()), b"x").unwrap();
    offline.fetch_blob(&here, &digest, 1, folder.path(), &Told::default()).unwrap();

    let error = open().manifest(&reference("127.0.0.1:9", "a"), 1).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
    let missing = registry::Settings { certificates: Some("/no/such.pem".into()), ..settings(Logins::default()) };
    assert!(matches!(Registry::new(missing), Err(RegistryError::Setting { name: "SSL_CERT_FILE", .. })));
}

#[test]
fn a_blob_is_pushed_again_where_that_may_help() {
    let check = |tell: fn(usize, &Request) -> Option<Reply>, is_large: bool| {
        let (store, early) = (Store::default(), AtomicUsize::new(0));
        let puts = AtomicUsize::new(0);
        let server = Server::with_early(
            move |request| {
                let told = request.is("PUT", "/blobs/").then(|| puts.fetch_add(1, Ordering::Relaxed));
                told.and_then(|count| tell(count, request)).unwrap_or_else(|| store.answer(request))
            },
            move |request| tell(early.fetch_add(1, Ordering::Relaxed), request).filter(|reply| reply.status == 417),
        );
        let content = bytes(if is_large { 2_000_000 } else { 1000 });
        let here = reference(&server.host, "org/a");
        let told = Told::default();
        let size = content.len() as u64;
        let pushed = open().push_blob(&here, &Digest::of(&content), size, Content::Bytes(&content), &told);
        (pushed, server.count("PUT", "/blobs/"))
    };
    let (pushed, puts) = check(|count, _| (count < 2).then(Reply::lost), false);
    assert!(pushed.is_ok() && puts == 3);
    let (pushed, puts) = check(|count, _| (count == 0).then(|| flaw(404, "BLOB_UPLOAD_UNKNOWN", "x")), false);
    assert!(pushed.is_ok() && puts == 2);
    let (pushed, puts) = check(|count, _| (count == 0).then(|| Reply::new(503, "")), false);
    assert!(pushed.is_ok() && puts == 2);
    // One that does not know the question whether it takes the blob.
    let expects = |_, request: &Request| request.headers.contains_key("expect").then(|| Reply::new(417, ""));
    let (pushed, puts) = check(expects, true);
    assert!(pushed.is_ok() && puts == 2, "{pushed:?}");
    let (pushed, puts) = check(|_, _| Some(flaw(400, "DIGEST_INVALID", "x")), false);
    assert!(matches!(pushed, Err(RegistryError::Status { status: 400, .. })) && puts == 1);
    let (pushed, puts) = check(|_, _| Some(Reply::lost()), false);
    assert!(matches!(pushed, Err(RegistryError::Unreachable { .. })) && puts == 5);
    let other = |_, _: &Request| Some(Reply::new(201, "").header("docker-content-digest", Digest::of(b"")));
    assert!(matches!(check(other, false).0, Err(RegistryError::Corrupt { .. })));
}

#[test]
fn a_blob_goes_where_the_registry_says_if_that_is_the_same_server() {
    let elsewhere = Server::new(|_| Reply::new(201, ""));
    let check = |place: &str| {
        let store = Store::default();
        let (place, host) = (place.to_owned(), std::sync::Arc::new(std::sync::Mutex::new(String::new())));
        let own = host.clone();
        let server = Server::new(move |request| {
            let mut reply = store.answer(request);
            if request.method == "POST" {
                reply.headers[0].1 = place.replace("OWN", &own.lock().unwrap());
            }
            reply
        });
        host.lock().unwrap().clone_from(&server.host);
        let here = reference(&server.host, "org/a");
        open().push_blob(&here, &Digest::of(b"x"), 1, Content::Bytes(b"x"), &Told::default())
    };
    check("/v2/org/a/blobs/uploads/place?_state=x").unwrap();
    check("http://OWN/v2/org/a/blobs/uploads/place?_state=x").unwrap();
    let other = format!("http://{}/v2/org/a/blobs/uploads/place?_state=secret", elsewhere.host);
    for place in [&other, "http://a.example/x?secret", "ftp://a.example/x", "http://u:secret@OWN/x"] {
        let error = check(place).unwrap_err();
        assert!(matches!(error, RegistryError::Redirect { .. }) && !error.to_string().contains("secret"), "{error}");
    }
    assert!(matches!(check(""), Err(RegistryError::Invalid { .. })));
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn what_is_not_what_it_is_said_to_be_is_not_pushed() {
    let server = Server::new(|_| Reply::new(500, ""));
    let (registry, here) = (open(), reference(&server.host, "org/a"));
    let push = |digest: &Digest, size, content| registry.push_blob(&here, digest, size, content, &Told::default());
    let (right, wrong) = (Digest::of(b"x"), Digest::of(b"y"));
    for error in [push(&wrong, 1, Content::Bytes(b"x")), push(&right, 2, Content::Bytes(b"x"))] {
        let error = error.unwrap_err();
        assert!(matches!(error, RegistryError::Content { .. }) && error.to_string().contains(&right.to_string()));
    }
    let missing = push(&right, 1, Content::File("/no/such/file".as_ref()));
    assert!(matches!(missing, Err(RegistryError::Disk { .. })));
    let error = registry.push_manifest(&here.with_digest(right), IMAGE_MANIFEST, b"y");
    assert!(matches!(error, Err(RegistryError::Content { .. })));
    assert!(server.requests().is_empty());
}
