//! Rows that did not become samples: how many, and why.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::filter::FilterReport;

/// Roles whose names are told.
const SHOWN: usize = 5;
/// Characters of a role's name that are shown.
const ROLE_LENGTH: usize = 40;

/// How many rows were left out for a reason, and which was the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many.
    pub rows: u64,
    /// What a person finds the first by.
    pub first: Option<String>,
}

impl Count {
    pub(super) fn row(&mut self, position: impl FnOnce() -> String) {
        self.rows += 1;
        if self.first.is_none() {
            self.first = Some(position());
        }
    }

    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }
}

/// Rows that did not become examples, by reason, and what was seen in all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// What each row filter did, in the order in which they ran.
    pub filters: Vec<FilterReport>,
    /// More tokens than `sequence_len`.
    pub too_long: Count,
    /// What is learned of them lies behind `sequence_len`, where they were cut.
    pub cut: Count,
    /// No message of theirs is to be learned, with the roles that they have.
    pub no_turn: (Count, Roles),
    /// Nothing in them is learned, for another reason.
    pub untrained: Count,
    /// Pairs whose answers are the same.
    pub equal: Count,
    /// Rows, of those that are used too, with messages that the chat template does not write, and their roles.
    pub unwritten: (Count, Roles),
    /// The strategy gave nothing for them, on purpose.
    pub skipped: Count,
}

/// Names of roles that data has, as many as are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles(BTreeSet<String>);

impl Extend<String> for Roles {
    fn extend<T: IntoIterator<Item = String>>(&mut self, roles: T) {
        for role in roles {
            if self.0.len() < SHOWN {
                self.0.insert(role.chars().take(ROLE_LENGTH).collect());
            }
        }
    }
}

impl std::fmt::Display for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|role| format!("`{role}`")).collect();
        write!(f, "{}", all.join(", "))
    }
}

/// Rows that were left out for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// In words.
    pub reason: String,
    /// How many.
    pub rows: u64,
    /// The row filter that did it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// What a person finds the first of them by, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.rows, if self.rows == 1 { "row" } else { "rows" }, self.reason)?;
        self.plugin.as_ref().map_or(Ok(()), |plugin| write!(f, " ({plugin})"))
    }
}

impl Dropped {
    /// Reasons with a count above zero, in words: those of the filters first.
    pub fn reasons(&self) -> Vec<LeftOut> {
        let of_filter = |filter: &FilterReport| {
            let plugin = Some(filter.plugin.clone());
            let left_out = move |(reason, rows)| LeftOut { reason, rows, plugin: plugin.clone(), first: None };
            filter.reasons().into_iter().map(left_out)
        };
        let own = [
            ("longer than `sequence_len`".to_owned(), &self.too_long),
            ("cut to `sequence_len` tokens, none of which is learned".to_owned(), &self.cut),
            (format!("no message has a role that is learned; the roles are {}", self.no_turn.1), &self.no_turn.0),
            ("no token to learn".to_owned(), &self.untrained),
            ("the chosen and the rejected answer are the same".to_owned(), &self.equal),
            ("left out by the prompt strategy".to_owned(), &self.skipped),
            (
                format!("the chat template leaves out the content of messages with the role {}", self.unwritten.1),
                &self.unwritten.0,
            ),
        ];
        let own = own.into_iter().filter(|(_, count)| count.rows > 0).map(|(reason, count)| LeftOut {
            reason,
            rows: count.rows,
            plugin: None,
            first: count.first.clone(),
        });
        self.filters.iter().flat_map(of_filter).chain(own).collect()
    }

    /// Rows that became no sample, by other reasons than a filter's.
    pub fn rows(&self) -> u64 {
        let Self { too_long, cut, no_turn, untrained, equal, skipped, .. } = self;
        [too_long, cut, &no_turn.0, untrained, equal, skipped].iter().map(|count| count.rows).sum()
    }

    /// Counts a row with messages that the chat template does not write.
    pub(super) fn unwritten(&mut self, roles: BTreeSet<String>, position: impl FnOnce() -> String) {
        if !roles.is_empty() {
            self.unwritten.0.row(position);
            self.unwritten.1.extend(roles);
        }
    }

    /// Adds another dataset's counts.
    pub fn add(&mut self, other: &Self) {
        for report in &other.filters {
            match self.filters.iter_mut().find(|known| known.path == report.path) {
                Some(known) => known.add(report),
                None => self.filters.push(report.clone()),
            }
        }
        let counts = [
            (&mut self.too_long, &other.too_long),
            (&mut self.cut, &other.cut),
            (&mut self.no_turn.0, &other.no_turn.0),
            (&mut self.untrained, &other.untrained),
            (&mut self.equal, &other.equal),
            (&mut self.skipped, &other.skipped),
            (&mut self.unwritten.0, &other.unwritten.0),
        ];
        for (own, other) in counts {
            own.add(other);
        }
        self.no_turn.1.extend(other.no_turn.1.0.iter().cloned());
        self.unwritten.1.extend(other.unwritten.1.0.iter().cloned());
    }
}
