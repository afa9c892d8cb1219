//! The model that rows are scored by.

use crate::check::facts::ModelFacts;
use crate::data::template::ChatTemplate;

/// That of the config, before it is trained.
#[derive(Clone, Copy)]
pub struct BaseModel<'a> {
    /// Its files.
    pub facts: &'a ModelFacts,
    /// How conversations become text.
    pub template: Option<&'a ChatTemplate>,
}
