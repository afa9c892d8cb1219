//! What becomes of a row, and why.

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
    /// It was not drawn for `keep`.
    NotDrawn,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Heuristic, Self::Contaminated, Self::ExactDuplicate, Self::NearDuplicate, Self::NotDrawn];

    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heuristic => "heuristic",
            Self::Contaminated => "contaminated",
            Self::ExactDuplicate => "exact_duplicate",
            Self::NearDuplicate => "near_duplicate",
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
    /// It was not drawn.
    NotDrawn,
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
            Self::NotDrawn => Some(Reason::NotDrawn),
        }
    }
}
