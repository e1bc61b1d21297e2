//! The space of plans, and what each would take by the probes.

use superstep_ir::machine::Machine;
use superstep_ir::machine::link_cost::{ReplicaRing, streaming_cycles};
use superstep_passes::place::Recompute;
use superstep_passes::recompute::Again;
use superstep_passes::solve::stage_split::stage_split;
use superstep_passes::stage::stage_count;

use super::Plan;
use super::probe::Probe;
use crate::frontend::Gpt2Config;
use crate::settings::TrainingSettings;

/// A plan and what it is expected to do.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) plan: Plan,
    pub(super) samples_per_second: f64,
    /// The tile of which IPU would be fullest, and how full, in bytes for variables.
    pub(super) fullest: (u32, f64),
}

/// What all plans have in common.
pub(super) struct Task<'a> {
    pub(super) config: &'a Gpt2Config,
    pub(super) base: &'a TrainingSettings,
    /// Samples of an update.
    pub(super) global_batch: usize,
}

/// Temporaries shrink when memory is scarce, at the price of slices: down to about this part of what the probe took.
const LEAST_WORKING: f64 = 0.5;

impl Task<'_> {
    pub(super) fn machine(&self) -> &Machine {
        &self.base.machine
    }

    /// Sizes of micro-batches: powers of two that divide the batch.
    pub(super) fn batch_sizes(&self) -> Vec<usize> {
        let sizes = (0..6).map(|i| 1usize << i);
        sizes
            .filter(|size| self.global_batch.is_multiple_of(*size))
            .collect()
    }

    /// IPUs over which a layer can be divided: powers of two that divide heads and hidden columns, 1 first.
    pub(super) fn groups(&self) -> Vec<u32> {
        let sizes = (0..=self.machine().ipus.ilog2()).map(|i| 1u32 << i);
        let divides = |n: usize, members: u32| n.is_multiple_of(members as usize);
        sizes
            .filter(|&t| divides(self.config.n_head, t) && divides(self.config.n_inner, t))
            .collect()
    }

    /// Groups of a replica: whatever divides the pod and is not more than layers and one.
    fn replica_sizes(&self, members: u32) -> Vec<u32> {
        let groups = self.machine().ipus / members;
        let most = (self.config.n_layer as u32 + 1).min(groups);
        let whole = |groups: &u32| self.machine().ipus.is_multiple_of(groups * members);
        (1..=most).filter(whole).collect()
    }

    /// All plans with micro-batches and groups of a probe's size.
    pub(super) fn plans(&self, batch_size: usize, members: u32, probe: &Probe) -> Vec<Plan> {
        let mut plans = Vec::new();
        for groups in self.replica_sizes(members) {
            let replicas = self.machine().ipus / (groups * members);
            let samples = batch_size * replicas as usize;
            if !self.global_batch.is_multiple_of(samples) {
                continue;
            }
            for recompute in [Recompute::EveryLayer, Recompute::Nothing] {
                let splits = self.splits(groups, &recompute, probe);
                let places = if self.machine().streaming_bytes > 0 {
                    &[false, true][..]
                } else {
                    &[false]
                };
                for (layers_per_ipu, &offchip) in splits
                    .iter()
                    .flat_map(|split| places.iter().map(move |place| (split, place)))
                {
                    let plan = Plan {
                        layers_per_ipu: layers_per_ipu.clone(),
                        tensor_parallel: members,
                        replicas,
                        batch_size,
                        accumulation: (self.global_batch / samples) as u32,
                        recompute: recompute.clone(),
                        head_slices: self.base.head_slices,
                        loss_chunks: Some(probe.loss_chunks),
                        offchip,
                    };
                    if plan.accumulation >= self.stages(&plan) && !plans.contains(&plan) {
                        plans.push(plan);
                    }
                }
            }
        }
        plans
    }

    pub(super) fn stages(&self, plan: &Plan) -> u32 {
        match plan.layers_per_ipu.len() {
            1 => 1,
            _ => stage_count(&plan.layers_per_ipu),
        }
    }

    /// Layers on each group of IPUs, evenly by cycles, and evenly by bytes.
    fn splits(&self, groups: u32, recompute: &Recompute, probe: &Probe) -> Vec<Vec<u32>> {
        let layers = self.config.n_layer;
        let again = if *recompute == Recompute::Nothing {
            0.0
        } else {
            probe.again
        };
        let split = |each: f64, base: f64| -> Vec<u32> {
            let costs = vec![each as u64; layers];
            let split = stage_split(&costs, groups as usize, base as u64);
            split.into_iter().map(|n| n as u32).collect()
        };
        let by_cycles = split(probe.layer + again, probe.outer);
        let bytes = |state: [f64; 2]| state[0] + state[1];
        let by_bytes = split(bytes(probe.layer_state), bytes(probe.outer_state));
        vec![by_cycles, by_bytes]
    }

    /// What a plan would take and need.
    pub(super) fn estimate(&self, plan: Plan, probe: &Probe) -> Candidate {
        let stages = self.stages(&plan);
        let forward = stages.div_ceil(2);
        let replicas = f64::from(plan.replicas);
        // Off chip it visits the tiles when what else an update needs is little.
        let on_tiles = if plan.offchip { 0.0 } else { 1.0 };
        let shared_out = |state: [f64; 2]| state[0] + on_tiles * state[1] / replicas;
        let (mut busiest, mut fullest) = (0.0f64, (0, 0.0f64));
        let (mut first, mut stage) = (0, 0);
        let (mut heaviest, mut visiting) = (0.0f64, 0.0f64);
        // Of a group, the first IPU has what is not divided.
        for (group, &count) in plan.layers_per_ipu.iter().enumerate() {
            let mut cycles = if group == 0 { probe.outer } else { 0.0 };
            let mut bytes = if group == 0 {
                shared_out(probe.outer_state)
            } else {
                0.0
            };
            let [mut weights, mut visits] = if group == 0 {
                probe.outer_state
            } else {
                [0.0; 2]
            };
            stage += u32::from(group > 0 && count > 0);
            let waiting = match stages {
                1 => 1,
                _ => 2 * (forward - 1 - stage) + 1,
            };
            for layer in first..first + count {
                let again = plan.recompute.of(layer);
                cycles += probe.layer
                    + match again {
                        Again::Nothing => 0.0,
                        Again::ButProducts => probe.again - probe.products_again,
                        Again::Everything => probe.again,
                    };
                bytes += shared_out(probe.layer_state);
                bytes += f64::from(waiting) * self.kept(&plan, again);
                weights += probe.layer_state[0];
                visits += probe.layer_state[1];
            }
            first += count;
            let working = match (group, count) {
                (0, 0) => probe.outer_working,
                (0, _) => probe.outer_working.max(probe.layer_working),
                _ => probe.layer_working,
            };
            bytes += LEAST_WORKING * working;
            busiest = busiest.max(cycles);
            heaviest = heaviest.max(weights);
            visiting = visiting.max(visits);
            if bytes > fullest.1 {
                fullest = (group as u32 * plan.tensor_parallel, bytes);
            }
        }
        let beat = busiest + if stages > 1 { probe.shared } else { 0.0 };
        let machine = self.machine();
        let ring = ReplicaRing::of(machine, plan.replicas, plan.ipus_per_replica());
        let tiles = f64::from(machine.tiles_per_ipu);
        let gradients = (heaviest / 2.0 * tiles) as u64;
        let reduction = 2 * ring.half_all_reduce_cycles(machine, gradients);
        let visits = match plan.offchip {
            true => 2 * streaming_cycles(machine, (visiting * tiles / replicas) as u64),
            false => 0,
        };
        let cycles = f64::from(plan.accumulation + stages - 1) * beat + (reduction + visits) as f64;
        Candidate {
            samples_per_second: self.global_batch as f64 * machine.clock_hz / cycles,
            fullest,
            plan,
        }
    }

    /// Bytes of a tile that a layer keeps of a micro-batch from its forward to its backward pass: its input; or besides, what its products gave;
    /// or all that its gradients read: three times the scores, and about seven activations and two of the MLP.
    /// What is divided over a group is there in part.
    fn kept(&self, plan: &Plan, again: Again) -> f64 {
        let config = self.config;
        let rows = (plan.batch_size * self.base.block_size) as f64;
        let input = config.n_embd as f64;
        let products = 6.0 * input + config.n_inner as f64;
        let all = 3.0 * (config.n_head * self.base.block_size) as f64
            + 7.0 * input
            + 2.0 * config.n_inner as f64;
        let width = self.base.precision.precision.elements().bytes() as f64;
        let elements = match again {
            Again::Nothing => all,
            Again::ButProducts => products,
            Again::Everything => input,
        };
        let elements = input + (elements - input) / f64::from(plan.tensor_parallel);
        rows * elements * width / f64::from(self.machine().tiles_per_ipu)
    }

    /// Bytes of a tile for variables and code.
    pub(super) fn available(&self) -> f64 {
        f64::from(self.machine().usable_tile_memory())
    }
}
