//! The IPU configuration of a run as it was carried out: the file that was read, with what the pod, overrides, the command line and the compiler
//! made of it. Who reads it again gets the same program.

use serde_json::json;
use superstep_passes::place::Recompute;

use super::super::ipu_options::IpuLayout;
use super::super::model_options::Model;
use super::super::output::note;
use super::Options;
use crate::error::Error;
use crate::ipu_config::{FILE_NAME, IpuConfig, fields_of};
use crate::manifest::Manifest;
use crate::settings::TrainingSettings;
use crate::tune::recompute_option;

impl Options {
    /// The text of `ipu_config.json` beside the model; absent where no configuration was read.
    pub(super) fn ipu_config_carried_out(
        &self,
        model: &Model,
        layout: &IpuLayout,
        manifest: &Manifest,
    ) -> Result<Option<String>, Error> {
        let Some(mut config) = layout.config.clone() else {
            return Ok(None);
        };
        // What an executable was compiled with goes before what is left open here.
        let settings = TrainingSettings {
            tensor_parallel: manifest.tensor_parallel,
            replicas: manifest.replicas,
            accumulation: manifest.gradient_accumulation_steps,
            head_slices: manifest.embedding_serialization_factor,
            ..self
                .program
                .settings(&self.optimiser, &model.config, layout)?
        };
        for (field, value) in fields_of(&settings, &manifest.layers_per_ipu) {
            config.set(field, value);
        }
        // The other name of the same goes before this one, so it is only kept where it was.
        if config.has("projection_serialization_factor") {
            config.set(
                "projection_serialization_factor",
                settings.head_slices.into(),
            );
        }
        self.calls(&mut config);
        let beside = beside(manifest, &settings);
        if !beside.is_empty() {
            note(format_args!(
                "{FILE_NAME} has no fields for these options; with it give them again: {}",
                beside.join(" ")
            ));
        }
        Ok(Some(config.to_json()))
    }

    /// How much a call of the host takes, and where programs are kept.
    fn calls(&self, config: &mut IpuConfig) {
        let updates = self.schedule.device_iterations();
        config.set("device_iterations", updates.into());
        let (iterations, replicas) = (
            self.inference.device_iterations(),
            self.inference.replicas(),
        );
        config.set("inference_device_iterations", iterations.into());
        config.set("inference_replication_factor", replicas.into());
        if let Some(dir) = &self.output.executable_cache_dir {
            config.set("executable_cache_dir", json!(dir));
        }
    }
}

/// Options of the run that the fields do not say.
fn beside(manifest: &Manifest, settings: &TrainingSettings) -> Vec<String> {
    let precision = settings.precision.precision;
    let in_part = !matches!(
        settings.recompute,
        Recompute::Nothing | Recompute::EveryLayer
    );
    let mut options = Vec::new();
    let mut given = |is_given: bool, option: String| {
        if is_given {
            options.push(option);
        }
    };
    given(!precision.is_half(), format!("--precision {precision}"));
    given(!settings.pipelined, "--pipeline false".into());
    let recompute = recompute_option(&settings.recompute);
    given(in_part, format!("--recompute {recompute}"));
    let samples = settings.batch_size;
    given(
        samples > 1,
        format!("--per_device_train_batch_size {samples}"),
    );
    let chunks = manifest.loss_chunks;
    given(
        settings.loss_chunks.is_some(),
        format!("--loss_chunks {chunks}"),
    );
    options
}
