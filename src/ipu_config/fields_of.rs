//! The fields that say how a training program is laid out.

use serde_json::{Value, json};
use superstep_passes::place::Recompute;

use crate::settings::TrainingSettings;

/// The fields that give these settings, with these layers on each IPU or group of them. Single layers that do not run again are no field's: the
/// nearest is to run all of them again.
pub fn fields_of(
    settings: &TrainingSettings,
    layers_per_ipu: &[u32],
) -> impl Iterator<Item = (&'static str, Value)> {
    let members = settings.tensor_parallel;
    let ipus = layers_per_ipu.len() as u32 * members;
    let again = settings.recompute != Recompute::Nothing;
    let precision = settings.precision;
    let halves = precision.precision.ipu_config_fields();
    [
        ("layers_per_ipu", json!(layers_per_ipu)),
        ("tensor_parallel", members.into()),
        ("ipus_per_replica", ipus.into()),
        ("replication_factor", settings.replicas.into()),
        ("gradient_accumulation_steps", settings.accumulation.into()),
        (
            "embedding_serialization_factor",
            settings.head_slices.into(),
        ),
        ("optimizer_state_offchip", settings.offchip.into()),
        ("replicated_tensor_sharding", settings.sharded.into()),
        ("auto_loss_scaling", precision.auto_loss_scaling.into()),
        ("recompute_checkpoint_every_layer", again.into()),
    ]
    .into_iter()
    .chain(halves.map(|(field, value)| (field, value.into())))
}
