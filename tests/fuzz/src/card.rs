//! Cards of datasets: what a stranger's repository says of its files, and which of them are chosen.

use std::collections::BTreeSet;

use host::config::{PluginRef, rows_of};
use host::remote::{Contents, files_of};

use crate::{files, readable};

/// Files that are code, whatever a card says of them.
const CODE: [&str; 4] = ["py", "pkl", "bin", "sh"];

/// What an entry of the config asks for, line by line (the config of the dataset, its splits, the loader, the revision, then
/// patterns of files), a card, a file of YAML, and the names of all files.
pub(crate) fn card(bytes: &[u8]) {
    let [wanted, card, yaml, listing] = files(bytes);
    let (Ok(wanted), Ok(listing)) = (std::str::from_utf8(wanted), std::str::from_utf8(listing)) else { return };
    let mut lines = wanted.split('\n');
    let mut line = || lines.next().filter(|line| !line.is_empty()).map(ToOwned::to_owned);
    let mut dataset = rows_of("acme/rows");
    dataset.name = line();
    let Ok(split) = line().unwrap_or_else(|| "train".to_owned()).parse() else { return };
    dataset.split = split;
    let loader = line();
    let revision = line().unwrap_or_else(|| "main".to_owned());
    dataset.data_files = lines.filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect();
    let is_given = loader.is_some();
    dataset.ds_type = loader.map_or(dataset.ds_type, PluginRef::named);
    // As those of a listing are: sorted, each once, none that leads out.
    let is_inside = |name: &str| !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let names: BTreeSet<String> = listing.lines().filter(|name| is_inside(name)).map(ToOwned::to_owned).collect();
    let names: Vec<String> = names.into_iter().collect();
    let cards = [card, yaml].map(|card| Some(card).filter(|card| !card.is_empty()));
    let contents = Contents { revision: &revision, cards, names: &names };
    let found = files_of(&dataset, is_given, &contents).expect("it is a name of the hub");
    let (splits, remark) = match found {
        Ok(found) => found,
        Err(diagnostic) => return readable(&diagnostic),
    };
    remark.iter().for_each(readable);
    let wanted: BTreeSet<&str> = dataset.split.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(splits.iter().map(|(split, _)| split.as_str()).collect::<BTreeSet<_>>(), wanted);
    assert_eq!(splits.len(), wanted.len());
    for (split, files) in &splits {
        assert!(!files.is_empty(), "{split} has no file");
        let different: BTreeSet<&String> = files.iter().collect();
        assert_eq!(different.len(), files.len(), "{files:?}");
        for file in files {
            assert!(names.binary_search(file).is_ok(), "{file} is none of {names:?}");
            assert!(!file.split('/').any(|part| part.starts_with('.')), "{file} is hidden");
            let extension = file.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_lowercase());
            assert!(!CODE.contains(&extension.as_str()), "{file} is code");
        }
    }
}
