//! What a run says before it starts: where the parts of the model lie, and how much is to be done.

use super::Options;
use crate::data::TokenBlocks;
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
}
