//! What a user decides about an evaluation program before it is compiled.

use superstep_ir::machine::Machine;
use superstep_ir::types::Real;

use crate::error::Error;
use crate::error::hints::uneven_replicas;
use crate::precision::Precision;

/// An evaluation program to compile: forward passes with a loss.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationSettings {
    pub machine: Machine,
    pub precision: Precision,
    /// Tokens of a sample.
    pub block_size: usize,
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches that each replica takes in a call of the host.
    pub device_iterations: u32,
    /// Copies of the model, each with its own IPUs and micro-batches.
    pub replicas: u32,
    /// Decoder layers on each IPU, or on each group of them; absent: found by the compiler.
    pub layers_per_ipu: Option<Vec<u32>>,
    /// IPUs of a group, over which a layer is divided; 1: layers are whole.
    pub tensor_parallel: u32,
    /// IPUs that a replica has, where `layers_per_ipu` is left to the compiler.
    pub ipus_per_replica: Option<u32>,
    /// Share of tile memory that an op may use for its temporaries: none given, one for all IPUs, or one each.
    pub matmul_proportion: Vec<Real>,
    /// IPUs work at the same time, each on another micro-batch.
    pub pipelined: bool,
    /// Slices of the vocabulary in which the output head is computed, one after the other.
    pub head_slices: usize,
}

impl EvaluationSettings {
    /// One batch a call, on as few IPUs as hold the model.
    pub const fn new(
        machine: Machine,
        precision: Precision,
        block_size: usize,
        batch_size: usize,
    ) -> EvaluationSettings {
        EvaluationSettings {
            machine,
            precision,
            block_size,
            batch_size,
            device_iterations: 1,
            replicas: 1,
            layers_per_ipu: None,
            tensor_parallel: 1,
            ipus_per_replica: None,
            matmul_proportion: Vec::new(),
            pipelined: false,
            head_slices: 1,
        }
    }

    /// Whether the machine has IPUs for all replicas, and each IPU a share of memory, as far as that is known before it is compiled.
    pub fn check(&self) -> Result<(), Error> {
        let (replicas, machine) = (self.replicas, &self.machine);
        let groups = self.layers_per_ipu.as_ref().map(|l| l.len() as u32);
        let shares = self.matmul_proportion.len();
        if let Some(groups) = groups.filter(|&groups| shares > 1 && shares != groups as usize) {
            return Err(Error::failed(format!(
                "inference_matmul_proportion has {shares} values, evaluation has {groups} IPUs or groups of them"
            )));
        }
        let given = groups.map(|groups| groups.saturating_mul(self.tensor_parallel));
        let of_one = given.or(self.ipus_per_replica).unwrap_or(1);
        if replicas > 1 && replicas <= machine.ipus && !machine.ipus.is_multiple_of(replicas) {
            let (name, ipus) = (&machine.name, machine.ipus);
            let message = format!(
                "{replicas} replicas of evaluation cannot share the {ipus} IPUs of {name} evenly"
            );
            let option = "--inference_replication_factor";
            return Err(Error::failed(message).with_hint(uneven_replicas(option, replicas, ipus)));
        }
        if u64::from(replicas) * u64::from(of_one) <= u64::from(machine.ipus) {
            return Ok(());
        }
        let ipus = if of_one == 1 { "IPU" } else { "IPUs" };
        let message = format!(
            "evaluation is to have {replicas} replicas of {of_one} {ipus}, {} has {}",
            machine.name, machine.ipus
        );
        Err(Error::failed(message).with_hint("give a smaller --inference_replication_factor"))
    }

    /// Micro-batches of a call of the host, of all replicas.
    pub fn micro_batches_per_call(&self) -> usize {
        self.device_iterations as usize * self.replicas as usize
    }

    /// Samples of a call of the host.
    pub fn samples_per_call(&self) -> usize {
        self.batch_size
            .saturating_mul(self.micro_batches_per_call())
    }

    /// Neither a larger batch nor more micro-batches a call than so many samples fill.
    pub fn at_most(mut self, samples: usize) -> EvaluationSettings {
        self.batch_size = self.batch_size.min(samples).max(1);
        let of_an_iteration = self.batch_size.saturating_mul(self.replicas as usize);
        let filled = samples.div_ceil(of_an_iteration).max(1);
        self.device_iterations = self.device_iterations.min(filled as u32);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_no_longer_than_the_samples_there_are() {
        let settings = EvaluationSettings {
            device_iterations: 5,
            replicas: 2,
            ..EvaluationSettings::new(Machine::mk2(), Precision::F32, 8, 2)
        };
        assert_eq!(settings.samples_per_call(), 20);
        for (samples, batch, iterations) in
            [(1, 1, 1), (4, 2, 1), (5, 2, 2), (19, 2, 5), (99, 2, 5)]
        {
            let fitted = settings.clone().at_most(samples);
            let found = (fitted.batch_size, fitted.device_iterations);
            assert_eq!(found, (batch, iterations), "{samples}");
        }
    }
}
