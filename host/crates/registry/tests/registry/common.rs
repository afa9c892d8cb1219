//! What tests of registries have in common.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use registry::{Logins, Progress, Reference, Registry, Settings};

/// What was told of progress.
#[derive(Default)]
pub(crate) struct Told(pub(crate) RefCell<Vec<u64>>);

impl Progress for Told {
    fn begin(&self, _: &str, _: u64, there: u64) {
        self.0.borrow_mut().push(there);
    }

    fn at(&self, bytes: u64) {
        self.0.borrow_mut().push(bytes);
    }

    fn end(&self) {}
}

pub(crate) fn settings(logins: Logins) -> Settings {
    Settings { logins, is_offline: false, certificates: None, pause: Duration::from_millis(1) }
}

pub(crate) fn open() -> Registry {
    Registry::new(settings(Logins::default())).unwrap()
}

pub(crate) fn reference(host: &str, rest: &str) -> Reference {
    Reference::parse(&format!("oci://{host}/{rest}")).unwrap()
}

/// Names of files in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten();
    let mut all: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.retain(|name| name != ".locks");
    all.sort_unstable();
    all
}

/// Bytes that are not the same everywhere.
pub(crate) fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|index| (index.wrapping_mul(index) % 251) as u8).collect()
}
