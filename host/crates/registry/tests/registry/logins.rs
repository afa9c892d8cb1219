//! How a registry on loopback is made to let the user in, and who else sees what does.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use registry::{Content, Digest, IMAGE_MANIFEST, Logins, NotLetIn, Registry, RegistryError, Settings};

use crate::common::{Told, bytes, open, reference, settings};
use crate::server::{Reply, Request, Server, Store, flaw};

/// True for the error that is meant.
type Is = fn(&RegistryError) -> bool;

/// What lets `user` in with `secret`.
fn basic() -> String {
    format!("Basic {}", BASE64_STANDARD.encode("user:secret"))
}

fn logged_in(server: &Server) -> Registry {
    Registry::new(settings(Logins::default().with(&server.host, "user", "secret"))).unwrap()
}

/// Where tokens come from: `token-1`, `token-2`, and so on.
fn token_server() -> Server {
    let count = AtomicUsize::new(0);
    Server::new(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        Reply::new(200, format!(r#"{{"token": "token-{number}", "expires_in": 300}}"#))
    })
}

/// The answer of a registry that wants a token of a server.
fn challenge(tokens: &str, request: &Request) -> Reply {
    let repository = request.path.trim_start_matches("/v2/").split("/blobs/").next().unwrap_or_default();
    let repository = repository.split("/manifests/").next().unwrap_or_default();
    let actions = if ["GET", "HEAD"].contains(&request.method.as_str()) { "pull" } else { "pull,push" };
    let value =
        format!(r#"Bearer realm="http://{tokens}/token",service="here",scope="repository:{repository}:{actions}""#);
    flaw(401, "UNAUTHORIZED", "x").header("www-authenticate", value)
}

/// A registry that lets in those with a token that `is_good`.
fn guarded(store: Store, tokens: &Server, is_good: impl Fn(&str) -> bool + Send + Sync + 'static) -> Server {
    let tokens = tokens.host.clone();
    Server::new(move |request| match request.pass().and_then(|pass| pass.strip_prefix("Bearer ")) {
        Some(token) if is_good(token) => store.answer(request),
        _ => challenge(&tokens, request),
    })
}

#[test]
fn a_token_is_had_where_the_registry_says() {
    let (tokens, store) = (token_server(), Store::default());
    let server = guarded(store, &tokens, |_| true);
    let (registry, here) = (logged_in(&server), reference(&server.host, "org/a:1"));
    let digest = registry.push_manifest(&here, IMAGE_MANIFEST, b"{}").unwrap();
    for _ in 0..3 {
        assert_eq!(registry.manifest(&here, 100).unwrap().digest, digest);
        registry.push_blob(&here, &Digest::of(b"x"), 1, Content::Bytes(b"x"), &Told::default()).unwrap();
    }
    // One to push with and one to pull with.
    let asked = tokens.requests();
    let paths: Vec<_> = asked.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/token?service=here&scope=repository%3Aorg%2Fa%3Apull%2Cpush",
            "/token?service=here&scope=repository%3Aorg%2Fa%3Apull"
        ]
    );
    assert!(asked.iter().all(|request| request.pass() == Some(basic().as_str())));
    // The registry itself never sees the password.
    let passes: Vec<_> = server.requests().iter().filter_map(|request| request.pass().map(str::to_owned)).collect();
    assert!(passes.iter().all(|pass| pass.starts_with("Bearer token-")), "{passes:?}");
    assert!(!format!("{registry:?}").contains("token-") && !format!("{registry:?}").contains("secret"));
    // Of another repository there is another token.
    registry.push_manifest(&reference(&server.host, "org/b:1"), IMAGE_MANIFEST, b"{}").unwrap();
    assert_eq!(tokens.requests().len(), 3);
    // Without a login there are tokens, too.
    open().manifest(&here, 100).unwrap();
    assert_eq!(tokens.requests()[3].pass(), None);
}

#[test]
fn a_token_that_is_no_longer_good_is_renewed_once() {
    let (large, tokens) = (bytes(400_000), token_server());
    let (store, asked) = (Store::default().with_blob(&large), AtomicUsize::new(0));
    let host = tokens.host.clone();
    // The first token is good for one question, the third after the one which scheme is spoken, whose answer ends too early.
    let server = Server::new(move |request| match (asked.fetch_add(1, Ordering::Relaxed), request.pass()) {
        (2, Some("Bearer token-1")) => Reply { cut: Some(100_000), ..store.answer(request) },
        (_, Some("Bearer token-2")) => store.answer(request),
        _ => challenge(&host, request),
    });
    let (here, folder) = (reference(&server.host, "org/a"), tempfile::tempdir().unwrap());
    let (digest, size) = (Digest::of(&large), large.len() as u64);
    let path = open().fetch_blob(&here, &digest, size, folder.path(), &Told::default()).unwrap();
    assert!(fs::read(path).unwrap() == large);
    let passes: Vec<_> =
        server.requests().iter().map(|request| (request.pass().map(str::to_owned), request.start())).collect();
    let pass = |number: u32| Some(format!("Bearer token-{number}"));
    let wanted = [(None, None), (pass(1), None), (pass(1), Some(100_000)), (pass(2), Some(100_000))];
    assert_eq!(passes, wanted);

    // A token that is good for nothing is no reason to ask for ever.
    let tokens = token_server();
    let server = guarded(Store::default(), &tokens, |_| false);
    let here = reference(&server.host, "org/a:1");
    let error = logged_in(&server).manifest(&here, 100).unwrap_err();
    let RegistryError::Unauthorized { why: NotLetIn::Refused { .. }, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains(&format!("`docker login {}`", server.host)), "{error}");
    assert_eq!((server.requests().len(), tokens.requests().len()), (2, 1));
    let error = open().exists(&here).unwrap_err();
    let RegistryError::Unauthorized { why: NotLetIn::NoLogin { .. }, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains(&format!("`docker login {}`", server.host)), "{error}");
}

#[test]
fn a_push_goes_on_with_a_new_token() {
    let (tokens, store, puts) = (token_server(), Store::default(), AtomicUsize::new(0));
    let host = tokens.host.clone();
    let server = Server::new(move |request| {
        let is_late = request.is("PUT", "/blobs/") && puts.fetch_add(1, Ordering::Relaxed) == 0;
        if request.pass().is_none() || is_late { challenge(&host, request) } else { store.answer(request) }
    });
    let here = reference(&server.host, "org/a");
    open().push_blob(&here, &Digest::of(b"x"), 1, Content::Bytes(b"x"), &Told::default()).unwrap();
    assert_eq!((server.count("PUT", "/blobs/"), server.count("POST", "/blobs/")), (2, 2));
    let passes: Vec<_> = server.requests().iter().rev().map(|request| request.pass().map(str::to_owned)).collect();
    assert_eq!(passes[0].as_deref(), Some("Bearer token-2"));
}

#[test]
fn a_password_is_sent_where_it_is_wanted() {
    let store = Store::default();
    let server = Server::new(move |request| {
        if request.pass() == Some(&basic()) {
            return store.answer(request);
        }
        flaw(401, "UNAUTHORIZED", "x").header("www-authenticate", r#"Basic realm="here""#)
    });
    let here = reference(&server.host, "org/a:1");
    let registry = logged_in(&server);
    registry.push_blob(&here, &Digest::of(b"x"), 1, Content::Bytes(b"x"), &Told::default()).unwrap();
    // It is not sent before it is asked for, and once it was, it is at once.
    let passes: Vec<_> = server.requests().iter().map(|request| request.pass().is_some()).collect();
    assert_eq!(passes, [false, true, true, true]);
    let wrong = Registry::new(settings(Logins::default().with(&server.host, "user", "hunter2"))).unwrap();
    let error = wrong.manifest(&here, 100).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { why: NotLetIn::Refused { .. }, .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    let error = open().manifest(&here, 100).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { why: NotLetIn::NoLogin { .. }, .. }), "{error:?}");
}

#[test]
fn what_lets_the_user_in_goes_to_the_registry_alone() {
    let content = b"content".to_vec();
    let (store, here) = (Store::default().with_blob(&content), Store::default().with_blob(&content));
    let elsewhere = Server::new(move |request| store.answer(request));
    let other = elsewhere.host.clone();
    let server = Server::new(move |request| match request.pass() {
        None => flaw(401, "UNAUTHORIZED", "x").header("www-authenticate", "Basic realm=x"),
        Some(_) if request.path.contains("/blobs/") => {
            Reply::new(307, "").header("location", format!("http://{other}{}", request.path))
        }
        Some(_) => here.answer(request),
    });
    let folder = tempfile::tempdir().unwrap();
    let reference = reference(&server.host, "org/a");
    let fetch = |registry: &Registry, folder: &std::path::Path| {
        registry.fetch_blob(&reference, &Digest::of(&content), 7, folder, &Told::default())
    };
    fetch(&logged_in(&server), folder.path()).unwrap();
    assert!(server.requests().iter().any(|request| request.pass() == Some(&basic())));
    assert_eq!(elsewhere.requests().len(), 1);
    assert_eq!(elsewhere.requests()[0].pass(), None);

    // A server that blobs are kept on and that wants a login gets none.
    let elsewhere = Server::new(|_| Reply::new(401, "").header("www-authenticate", "Basic realm=x"));
    let other = elsewhere.host.clone();
    let server =
        Server::new(move |request| Reply::new(307, "").header("location", format!("http://{other}{}", request.path)));
    let reference = crate::common::reference(&server.host, "org/a:1");
    let error = logged_in(&server).manifest(&reference, 100).unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 401, .. }), "{error:?}");
    assert!(elsewhere.requests().iter().all(|request| request.pass().is_none()));
}

#[test]
fn a_server_of_tokens_is_not_trusted_either() {
    let check = |realm: String, login: bool| {
        let server = Server::new(move |_| {
            Reply::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}",service="x""#))
        });
        let registry = if login { logged_in(&server) } else { open() };
        registry.manifest(&reference(&server.host, "org/a:1"), 100).unwrap_err()
    };
    for realm in ["http://a.example/token?secret", "ftp://a.example/x", "x", "https://u:secret@a.example/x"] {
        let error = check(realm.into(), true);
        assert!(matches!(error, RegistryError::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains("must be encrypted") && !error.to_string().contains("secret"), "{error}");
    }
    let says = |reply: Reply, is: Is| {
        let tokens = Server::new(move |_| reply.clone());
        let error = check(format!("http://{}/token?a=b", tokens.host), true);
        assert!(is(&error) && !format!("{error:?} {error}").contains("secret"), "{error:?}");
        assert!(tokens.requests()[0].path.starts_with("/token?a=b&service=x&scope=repository%3Aorg%2Fa%3Apull"));
    };
    says(Reply::new(200, r#"{"token": ["secret"]}"#), |error| matches!(error, RegistryError::Invalid { .. }));
    says(Reply::new(200, r#"{"token": ""}"#), |error| matches!(error, RegistryError::Invalid { .. }));
    says(Reply::new(200, r#"{"token": "secret\nx"}"#), |error| matches!(error, RegistryError::Invalid { .. }));
    says(Reply::new(200, vec![b' '; 2 << 20]), |error| matches!(error, RegistryError::TooLarge { .. }));
    says(flaw(404, "x", "y"), |error| matches!(error, RegistryError::Status { status: 404, .. }));
    let refused: Is = |error| matches!(error, RegistryError::Unauthorized { why: NotLetIn::Refused { .. }, .. });
    says(Reply::new(401, ""), refused);

    // Where it leads elsewhere, the password stays.
    let elsewhere = token_server();
    let other = elsewhere.host.clone();
    let tokens = Server::new(move |_| Reply::new(302, "").header("location", format!("http://{other}/x")));
    check(format!("http://{}/token", tokens.host), true);
    assert_eq!(tokens.requests()[0].pass(), Some(basic().as_str()));
    assert_eq!(elsewhere.requests()[0].pass(), None);
}

#[test]
fn logins_are_those_of_docker() {
    let tokens = Server::new(|request| match request.method.as_str() {
        "POST" => Reply::new(200, r#"{"access_token": "token"}"#),
        _ => Reply::new(401, ""),
    });
    let server = guarded(Store::default().with_manifest("1", IMAGE_MANIFEST, b"{}"), &tokens, |token| token == "token");
    let folder = tempfile::tempdir().unwrap();
    let here = reference(&server.host, "org/a:1");
    let ask = |config: String| {
        fs::write(folder.path().join("config.json"), config).unwrap();
        let get = |name: &str| (name == "DOCKER_CONFIG").then(|| folder.path().as_os_str().to_owned());
        let settings = Settings::from_variables(get).unwrap();
        Registry::new(settings).unwrap().manifest(&here, 100)
    };
    // A long-lived token is exchanged for one that lets in.
    ask(format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjo=", "identitytoken": "long/lived"}}}}}}"#, server.host))
        .unwrap();
    let asked = tokens.requests().pop().unwrap();
    assert_eq!(
        String::from_utf8(asked.body).unwrap(),
        "grant_type=refresh_token&client_id=host&scope=repository%3Aorg%2Fa%3Apull&service=here&refresh_token=long%2Flived"
    );
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    // Programs that keep logins are not run, and it is said that they are not.
    for config in [
        format!(r#"{{"credHelpers": {{"{}": "here"}}}}"#, server.host),
        format!(r#"{{"auths": {{"{}": {{}}}}, "credsStore": "here"}}"#, server.host),
    ] {
        let error = ask(config).unwrap_err();
        assert!(matches!(error, RegistryError::Unauthorized { why: NotLetIn::Helper { .. }, .. }), "{error:?}");
        assert!(error.to_string().contains("`docker-credential-here`, which is not run"), "{error}");
        assert!(error.to_string().contains("`docker login "), "{error}");
    }
}
