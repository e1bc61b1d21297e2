//! How an evaluation lies on the machine and how much of it a call takes: what training and `superstep eval` have in common.

use clap::Args;
use superstep_ir::types::Real;

use super::program_options::at_least_one;
use crate::ipu_config::IpuSettings;
use crate::settings::{EvaluationSettings, fitting};

#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Evaluation")]
pub(super) struct InferenceOptions {
    /// Micro-batches of evaluation that a replica takes in a call; a pipeline is full where there are as many as it has stages [default: 1].
    #[arg(long = "inference_device_iterations", value_name = "N", value_parser = at_least_one::<u32>)]
    inference_device_iterations: Option<u32>,
    /// Copies of the model that evaluate, each on its own IPUs [default: 1].
    #[arg(long = "inference_replication_factor", value_name = "N", value_parser = at_least_one::<u32>)]
    inference_replication_factor: Option<u32>,
}

impl InferenceOptions {
    /// Takes what the command line leaves open from an IPU configuration.
    pub(super) fn fill(&mut self, ipu: &IpuSettings) {
        let inference = &ipu.inference;
        let iterations = &mut self.inference_device_iterations;
        *iterations = iterations.or(inference.device_iterations);
        let replicas = &mut self.inference_replication_factor;
        *replicas = replicas.or(inference.replication_factor);
    }

    pub(super) fn device_iterations(&self) -> u32 {
        self.inference_device_iterations.unwrap_or(1)
    }

    pub(super) fn replicas(&self) -> u32 {
        self.inference_replication_factor.unwrap_or(1)
    }

    /// Puts these numbers, and what an IPU configuration says of the placement of an evaluation, into settings; `training_layers` are those of
    /// the training that it belongs to.
    pub(super) fn apply(
        &self,
        ipu: &IpuSettings,
        training_layers: Option<&[u32]>,
        settings: EvaluationSettings,
    ) -> EvaluationSettings {
        let inference = &ipu.inference;
        let shares = inference.matmul_proportion.iter();
        let shares: Vec<Real> = shares.map(|&share| Real(share)).collect();
        let members = settings.tensor_parallel;
        let pipelined = settings.pipelined && !inference.is_sharded;
        let layers_per_ipu = inference.layers(training_layers, members);
        // Where the layers are given, so are the IPUs.
        let as_training = ipu.ipus_per_replica.filter(|_| layers_per_ipu.is_none());
        let ipus_per_replica = inference.ipus_per_replica.or(as_training);
        let room = layers_per_ipu.is_some()
            || ipus_per_replica.is_none_or(|ipus| ipus.is_multiple_of(members));
        EvaluationSettings {
            device_iterations: self.device_iterations(),
            replicas: self.replicas(),
            ipus_per_replica,
            // Those of training may be for another number of IPUs.
            matmul_proportion: match inference.matmul_proportion == ipu.matmul_proportion {
                true => fitting(&shares, layers_per_ipu.as_ref().map_or(1, Vec::len)),
                false => shares,
            },
            // Groups work together in a pipeline only.
            tensor_parallel: if pipelined && room { members } else { 1 },
            layers_per_ipu,
            pipelined,
            head_slices: inference.head_slices.unwrap_or(1) as usize,
            ..settings
        }
    }
}
