//! Run health: watches a run's metrics, says what looks wrong, and may stop it (`run_health`).

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use crate::bindings::health::exports::trainer::plugin::run_health as wit;
pub use crate::bindings::health::exports::trainer::plugin::run_health::{Advice, Finding, Metric, Observation, Run};
use crate::bindings::shared::trainer::plugin::types::PluginError;
use crate::{Error, config, log};

/// A watch over a run. Register it with [`register_run_health!`](crate::register_run_health).
pub trait RunHealth: Sized + 'static {
    /// The user's config for it. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;

    /// Starts with a config.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work.
    fn new(config: Self::Config, run: Run) -> Result<Self, Error>;

    /// What one logged line says about the run; lines come in order, and a resumed run gives the earlier ones again.
    fn observe(&mut self, observation: &Observation) -> Vec<Finding>;
}

/// The value of a metric (`loss`, `grad_norm`, `eval_loss`), where the line has it.
pub fn metric(observation: &Observation, name: &str) -> Option<f64> {
    observation.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(RefCell<T>);

impl<T: RunHealth> wit::Guest for Adapter<T> {
    type Monitor = Self;
}

impl<T: RunHealth> wit::GuestMonitor for Adapter<T> {
    fn create(config_json: String, run: Run) -> Result<wit::Monitor, PluginError> {
        log::report_panics();
        let health = config::read(&config_json).and_then(|config| T::new(config, run)).map_err(PluginError::from)?;
        Ok(wit::Monitor::new(Self(RefCell::new(health))))
    }

    fn observe(&self, observations: Vec<Observation>) -> Result<Vec<Finding>, PluginError> {
        let mut health = self.0.borrow_mut();
        Ok(observations.iter().flat_map(|observation| health.observe(observation)).collect())
    }
}

/// Makes this crate a run-health plugin:
/// `register_run_health!(Budget, name: "acme:budget", description: "Stops a run that learns nothing");`
#[macro_export]
macro_rules! register_run_health {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("run-health", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::health::Adapter<$type>;
            $crate::bindings::health::export_run_health!(Plugin with_types_in $crate::bindings::health);
        };
    };
}
