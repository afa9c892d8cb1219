//! Which rows of a dataset are meant (`datasets[].split`), as `datasets` of Hugging Face reads it: `train`,
//! `train[:1%]`, `train[100:200]`, `train[-10%:]`, `train[:100]+test`.

use std::ops::Range;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The split that a dataset has if its files name none.
pub const TRAIN: &str = "train";

/// Parts of a dataset, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// At least one.
    pub parts: Vec<Slice>,
    text: String,
}

/// A split, or some rows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The split, such as `train`.
    pub name: String,
    /// As it was written.
    pub text: String,
    from: Option<i64>,
    to: Option<i64>,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Rows,
    /// Percent, rounded to the closest row.
    Percent,
    /// Percent of as many rows as are a multiple of a hundred.
    WholePercent,
}

impl Slice {
    /// So many rows need to be known of for where it lies to be known; none where it depends on how many there are.
    pub fn enough(&self) -> Option<u64> {
        let boundaries = [self.from.or(Some(0)), self.to].into_iter().map(|boundary| u64::try_from(boundary?).ok());
        let farthest = boundaries.collect::<Option<Vec<_>>>()?.into_iter().max();
        farthest.filter(|_| self.unit == Unit::Rows)
    }

    /// True if it is the whole split.
    pub fn is_whole(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// The rows meant of so many, within them.
    pub fn of(&self, rows: u64) -> Range<u64> {
        let count = i64::try_from(rows).unwrap_or(i64::MAX);
        let place = |boundary: i64| {
            let place = match self.unit {
                Unit::Rows => boundary,
                // Python's `round`, by which a half goes to the even neighbour.
                Unit::Percent => (boundary as f64 * count as f64 / 100.0).round_ties_even() as i64,
                Unit::WholePercent => boundary * (count / 100),
            };
            let place = if place < 0 { count.saturating_add(place) } else { place };
            place.clamp(0, count) as u64
        };
        let range = self.from.map_or(0, place)..self.to.map_or(rows, place);
        range.start..range.end.max(range.start)
    }

    /// The row, counted from the start, behind which it ends or begins at the latest: more than there may be. Only of
    /// slices in rows.
    pub fn farthest(&self) -> Option<u64> {
        let farthest = [self.from, self.to].into_iter().flatten().map(i64::unsigned_abs).max();
        farthest.filter(|_| self.unit == Unit::Rows)
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split('+').map(|part| slice(part.trim())).collect::<Result<_, _>>()?;
        Ok(Self { parts, text: text.to_owned() })
    }
}

fn slice(text: &str) -> Result<Slice, String> {
    let shape = || format!("`{text}` is no split: write it like `train`, `train[:1%]` or `train[100:200]`");
    let (bare, rounding) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        Some((bare, rounding)) => (bare, Some(rounding)),
        None => (text, None),
    };
    let (name, range) = match bare.split_once('[') {
        Some((name, range)) => (name, Some(range.strip_suffix(']').ok_or_else(shape)?)),
        None => (bare, None),
    };
    let is_word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    if !name.split('.').all(is_word) {
        return Err(shape());
    }
    let (mut boundaries, mut percent) = ([None, None], false);
    if let Some(range) = range {
        let (from, to) = range.split_once(':').ok_or_else(shape)?;
        for (boundary, text) in boundaries.iter_mut().zip([from, to]) {
            let number = text.strip_suffix('%').unwrap_or(text);
            percent |= number.len() < text.len();
            if text.is_empty() {
                continue;
            }
            let digits = number.strip_prefix('-').unwrap_or(number);
            let is_number = digits.split('_').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
            let number: i64 = number.replace('_', "").parse().map_err(|_| shape())?;
            if !is_number || number == i64::MIN {
                return Err(shape());
            }
            *boundary = Some(number);
        }
    }
    if percent && boundaries.iter().flatten().any(|boundary| !(-100..=100).contains(boundary)) {
        return Err(format!("`{text}` has a boundary beyond 100 percent"));
    }
    let unit = match (percent, rounding) {
        (false, None) => Unit::Rows,
        (true, None | Some("closest")) => Unit::Percent,
        (true, Some("pct1_dropremainder")) => Unit::WholePercent,
        (false, Some(_)) => return Err(format!("`{text}` has a rounding, which only percent have")),
        (true, Some(_)) => return Err(format!("`{text}`: roundings are `closest` and `pct1_dropremainder`")),
    };
    let [from, to] = boundaries;
    Ok(Slice { name: name.to_owned(), text: text.to_owned(), from, to, unit })
}

impl Default for Split {
    fn default() -> Self {
        let whole = Slice { name: TRAIN.to_owned(), text: TRAIN.to_owned(), from: None, to: None, unit: Unit::Rows };
        Self { parts: vec![whole], text: TRAIN.to_owned() }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Split {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, rows: u64) -> Range<u64> {
        text.parse::<Split>().unwrap().parts[0].of(rows)
    }

    /// As `ReadInstruction.from_spec(text).to_absolute({"train": rows})` of datasets 5.2 gives them.
    #[test]
    fn boundaries_are_those_of_datasets() {
        for (text, rows, range) in [
            ("train", 7, 0..7),
            ("train[:1%]", 52002, 0..520),
            ("train[:1%]", 49, 0..0),
            ("train[:1%]", 50, 0..0),
            ("train[:1%]", 51, 0..1),
            ("train[:50%]", 3, 0..2),
            ("train[:50%]", 5, 0..2),
            ("train[:50%]", 7, 0..4),
            ("train[33%:66%]", 10, 3..7),
            ("train[-10%:]", 25, 23..25),
            ("train[:-10%]", 25, 0..23),
            ("train[-1%:]", 10, 0..10),
            ("train[10%:100]", 50, 5..50),
            ("train[100:200]", 150, 100..150),
            ("train[100:200]", 50, 50..50),
            ("train[-5:]", 3, 0..3),
            ("train[:-5]", 3, 0..0),
            ("train[:1_000]", 2000, 0..1000),
            ("train[:]", 4, 0..4),
            ("train[:10%](pct1_dropremainder)", 199, 0..10),
            ("train[5:2]", 9, 5..5),
        ] {
            assert_eq!(of(text, rows), range, "{text} of {rows}");
        }
    }

    #[test]
    fn splits_are_added() {
        let split: Split = "train[:10%] + validation".parse().unwrap();
        let names: Vec<&str> = split.parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!((names, split.to_string().as_str()), (vec!["train", "validation"], "train[:10%] + validation"));
        assert_eq!([&split.parts[0], &split.parts[1]].map(Slice::is_whole), [false, true]);
        assert_eq!(Split::default(), "train".parse().unwrap());
    }

    #[test]
    fn some_slices_do_not_depend_on_the_last_row() {
        for (text, enough) in [
            ("train[:5]", Some(5)),
            ("train[7:9]", Some(9)),
            ("train[9:7]", Some(9)),
            ("train[7:]", None),
            ("train[-7:9]", None),
            ("train[:-9]", None),
            ("train[:5%]", None),
        ] {
            assert_eq!(text.parse::<Split>().unwrap().parts[0].enough(), enough, "{text}");
        }
    }

    #[test]
    fn what_is_no_split_is_told() {
        for wrong in [
            "",
            "train[",
            "train[1]",
            "train[:1%",
            "train[a:b]",
            "train[1:2:3]",
            "train[:101%]",
            "train[:1.5%]",
            "train[:9999999999999999999]",
            "train[:--1]",
            "train[:_1]",
            "train+",
            "tr ain",
            "train[:5](closest)",
            "train[:5%](up)",
            "[:5%]",
        ] {
            assert!(wrong.parse::<Split>().is_err(), "{wrong}");
        }
    }
}
