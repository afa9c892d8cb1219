//! What a plugin is started from.

use std::sync::Arc;

use wasmtime::component::InstancePre;

use crate::limits::Limits;
use crate::sandbox::StoreMaker;
use crate::state::State;
use crate::stats::Meter;

/// What an instance is made of: enough to make it again.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) stores: StoreMaker,
    pub(crate) plugin: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) meter: Arc<Meter>,
    pub(crate) pre: InstancePre<State>,
    pub(crate) config_json: Arc<str>,
}
