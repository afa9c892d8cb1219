//! What becomes of a row, and why.

use crate::samples::NoSample;

/// Why rows are left out, in the order in which it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// What its text looks like.
    Heuristic,
    /// An evaluation has it too.
    Contaminated,
    /// An earlier row has the same words.
    ExactDuplicate,
    /// An earlier row has nearly the same words.
    NearDuplicate,
    /// It has no sample that could be scored.
    NoScore,
    /// Others have better scores.
    Score,
    /// It was not drawn for `keep`.
    NotDrawn,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Heuristic,
        Self::Contaminated,
        Self::ExactDuplicate,
        Self::NearDuplicate,
        Self::NoScore,
        Self::Score,
        Self::NotDrawn,
    ];

    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heuristic => "heuristic",
            Self::Contaminated => "contaminated",
            Self::ExactDuplicate => "exact_duplicate",
            Self::NearDuplicate => "near_duplicate",
            Self::NoScore => "no_score",
            Self::Score => "score",
            Self::NotDrawn => "not_drawn",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Heuristic => "what the text looks like",
            Self::Contaminated => "seen in an evaluation",
            Self::ExactDuplicate => "exact duplicates",
            Self::NearDuplicate => "near duplicates",
            Self::NoScore => "nothing to score",
            Self::Score => "not chosen by their score",
            Self::NotDrawn => "not drawn for `keep`",
        }
    }
}

/// What becomes of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// It stays.
    Kept,
    /// A rule of `heuristics`, by its number, with the value that it measured.
    Heuristic(u8, f32),
    /// A place in the list of what was found in evaluations.
    Contaminated(u32),
    /// The row that has the same words.
    ExactDuplicate(u32),
    /// The row of its cluster that is kept, the row that it is most like, and how much.
    NearDuplicate(u32, u32, f32),
    /// It has no score, and why.
    NoScore(NoScore),
    /// It was not chosen by its score.
    Score,
    /// It was not drawn.
    NotDrawn,
}

/// Why a row has no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoScore {
    /// It has no sample.
    NoSample(NoSample),
    /// Its text is too long to be asked about.
    LongText,
    /// What the model says of it is no finite number.
    NotFinite,
}

impl NoScore {
    /// For people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::NoSample(why) => why.words(),
            Self::LongText => "its text is longer than `sequence_len`, or the question than the model has positions",
            Self::NotFinite => "what the model says of it is no finite number",
        }
    }
}

impl Verdict {
    /// Why it is left out; none if it stays.
    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            Self::Kept => None,
            Self::Heuristic(..) => Some(Reason::Heuristic),
            Self::Contaminated(_) => Some(Reason::Contaminated),
            Self::ExactDuplicate(_) => Some(Reason::ExactDuplicate),
            Self::NearDuplicate(..) => Some(Reason::NearDuplicate),
            Self::NoScore(_) => Some(Reason::NoScore),
            Self::Score => Some(Reason::Score),
            Self::NotDrawn => Some(Reason::NotDrawn),
        }
    }
}
