//! What a run says before it starts: where the parts of the model lie, and how much is to be done.

use std::path::Path;

use serde_json::json;

use super::super::ipu_options::IpuLayout;
use super::Options;
use crate::atomic_file;
use crate::data::TokenBlocks;
use crate::error::Error;
use crate::ipu_config::FILE_NAME;
use crate::manifest::Manifest;
use crate::train::TrainingRun;

/// The IPU of every part of the model.
pub(super) fn device_allocation(manifest: &Manifest) -> String {
    let layers = &manifest.layers_per_ipu;
    let members = manifest.tensor_parallel as usize;
    let of_layer: Vec<usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(group, &count)| std::iter::repeat_n(group * members, count as usize))
        .collect();
    let first = of_layer.first().copied().unwrap_or(0);
    let group = |ipu: usize| match members {
        1 => format!("IPU {ipu}"),
        _ => format!("IPUs {ipu} to {}", ipu + members - 1),
    };
    let mut lines = vec![
        "\n---------- Device Allocation -----------".to_owned(),
        format!("{:<19} --> IPU 0", "Token Embedding"),
        format!("{:<19} --> IPU {first}", "Position Embedding"),
    ];
    let layer = |(layer, ipu)| format!("{:<19} --> {}", format!("Layer {layer}"), group(ipu));
    lines.extend(of_layer.into_iter().enumerate().map(layer));
    lines.push(format!("{:<19} --> IPU 0", "Head"));
    lines.push("----------------------------------------".into());
    lines.join("\n")
}

impl Options {
    /// Sizes of the run, in the words of Hugging Face's trainer.
    pub(super) fn announcement(
        &self,
        manifest: &Manifest,
        blocks: &TokenBlocks,
        run: &TrainingRun<'_>,
    ) -> String {
        let steps = run.schedule.steps;
        let epochs = steps.div_ceil(run.order.steps_per_epoch());
        let samples = run.order.samples_per_step();
        let rows = [
            ("Num examples", blocks.len().to_string()),
            ("Tokens of an example", blocks.block_size().to_string()),
            ("Num Epochs", epochs.to_string()),
            (
                "Instantaneous batch size per device",
                manifest.per_device_train_batch_size.to_string(),
            ),
            ("Device Iterations", run.device_iterations.to_string()),
            ("Replication Factor", manifest.replicas.to_string()),
            (
                "Gradient Accumulation steps",
                manifest.gradient_accumulation_steps.to_string(),
            ),
            (
                "Total train batch size (w. parallel, distributed & accumulation)",
                samples.to_string(),
            ),
            ("Total optimization steps", steps.to_string()),
        ];
        let rows = rows.map(|(name, value)| format!("  {name} = {value}"));
        format!("***** Running training *****\n{}", rows.join("\n"))
    }

    /// Writes the IPU configuration of the run, as it was carried out, into the output folder.
    pub(super) fn keep_ipu_config(
        &self,
        dir: &Path,
        layout: &IpuLayout,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        let Some(mut config) = layout.config.clone() else {
            return Ok(());
        };
        let accumulation = manifest.gradient_accumulation_steps;
        let slices = manifest.embedding_serialization_factor;
        for (field, value) in [
            ("layers_per_ipu", json!(manifest.layers_per_ipu)),
            ("tensor_parallel", json!(manifest.tensor_parallel)),
            ("ipus_per_replica", json!(manifest.ipus_per_replica())),
            ("replication_factor", json!(manifest.replicas)),
            ("gradient_accumulation_steps", json!(accumulation)),
            (
                "device_iterations",
                json!(self.schedule.device_iterations()),
            ),
            ("embedding_serialization_factor", json!(slices)),
            ("projection_serialization_factor", json!(slices)),
            (
                "inference_replication_factor",
                json!(self.inference.replicas()),
            ),
            (
                "inference_device_iterations",
                json!(self.inference.device_iterations()),
            ),
        ] {
            config.set(field, value);
        }
        let path = dir.join(FILE_NAME);
        Ok(atomic_file::write(&path, config.to_json().as_bytes())?)
    }
}
