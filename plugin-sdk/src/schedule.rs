//! Schedules: the learning rate over a run, as factors of `learning_rate` (`lr_scheduler`).

use serde::de::DeserializeOwned;

use crate::bindings::schedule::exports::trainer::plugin::schedule as wit;
pub use crate::bindings::schedule::exports::trainer::plugin::schedule::Run;
use crate::bindings::shared::trainer::plugin::types::PluginError;
use crate::{Error, config, log};

/// A schedule. Register it with [`register_schedule!`](crate::register_schedule).
pub trait Schedule: Sized + 'static {
    /// The user's config for it. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;

    /// Starts with a config, for a run of known length.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work with this run.
    fn new(config: Self::Config, run: Run) -> Result<Self, Error>;

    /// The factor of optimizer step `step`, counted from 0: finite, not negative, and the same whenever it is asked for.
    fn factor(&self, step: u64) -> f64;
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(T);

impl<T: Schedule> wit::Guest for Adapter<T> {
    type Curve = Self;
}

impl<T: Schedule> wit::GuestCurve for Adapter<T> {
    fn create(config_json: String, run: Run) -> Result<wit::Curve, PluginError> {
        log::report_panics();
        let schedule = config::read(&config_json).and_then(|config| T::new(config, run)).map_err(PluginError::from)?;
        Ok(wit::Curve::new(Self(schedule)))
    }

    fn factors(&self, first: u64, count: u32) -> Result<Vec<f64>, PluginError> {
        Ok((first..first.saturating_add(u64::from(count))).map(|step| self.0.factor(step)).collect())
    }
}

/// Makes this crate a schedule plugin:
/// `register_schedule!(Steps, name: "acme:steps", description: "Down by half at fixed steps");`
#[macro_export]
macro_rules! register_schedule {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("schedule", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::schedule::Adapter<$type>;
            $crate::bindings::schedule::export_schedule!(Plugin with_types_in $crate::bindings::schedule);
        };
    };
}
