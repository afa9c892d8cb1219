//! A model from its files, with an adapter beside it.

use std::path::Path;

use super::peft;
use crate::EngineError;
use crate::architecture::config::ModelConfig;
use crate::kernels::Kernels;
use crate::kernels::cpu::CpuKernels;
use crate::model::Model;
use crate::weights::WeightSource;

impl Model<CpuKernels> {
    /// Loads weights on the CPU, and an adapter in PEFT's form.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the files.
    pub fn load(config: ModelConfig, source: &WeightSource, adapter: Option<&Path>) -> Result<Self, EngineError> {
        Self::on(CpuKernels, config, source, adapter)
    }
}

impl<K: Kernels> Model<K> {
    /// Loads weights on a device, and an adapter in PEFT's form.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the files, or what the device lacks.
    pub fn on(
        kernels: K,
        mut config: ModelConfig,
        source: &WeightSource,
        adapter: Option<&Path>,
    ) -> Result<Self, EngineError> {
        if let Some(directory) = adapter {
            peft::fit(&mut config, directory)?;
        }
        kernels.prepare(config.demands())?;
        config.check_packing()?;
        let mut model = Self::unloaded(kernels, config);
        model.load_weights(source)?;
        if let Some(directory) = adapter {
            let peft::Adapter { lora, given } = peft::load(&model.kernels, &model.config, directory)?;
            for (name, values) in &given {
                model.put(name, values);
            }
            model.lora = Some(lora);
            model.measure();
        }
        Ok(model)
    }
}
