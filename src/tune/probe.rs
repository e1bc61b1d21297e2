//! What a layer, and all that is outside of layers, takes and needs: read off a compiled model of one layer.

use superstep_ir::graph::Phase;
use superstep_ir::ids::IpuId;
use superstep_ir::op::StateKind;
use superstep_ir::program::{Category, Origin, Program};
use superstep_passes::place::Recompute;
use superstep_runtime::timeline::{Cause, timeline};

use crate::compile::{NoGraphs, PlanCache, compile_training};
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::report::memory::MemoryReport;
use crate::report::pace::{Pace, beat};
use crate::settings::TrainingSettings;

/// Cycles and bytes for one size of micro-batch. Bytes are of an IPU's fullest tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Probe {
    /// Of a layer, forward and backward, without running forward again: on its IPU, or on all IPUs of its group together.
    pub(super) layer: f64,
    /// Of running it forward again.
    pub(super) again: f64,
    /// Of that, the products that a layer may keep: all but scores.
    pub(super) products_again: f64,
    /// Of embedding, head and loss.
    pub(super) outer: f64,
    /// Of a layer, those that the IPUs of its group pass each other values in.
    pub(super) links: f64,
    /// Between IPUs, in a beat.
    pub(super) shared: f64,
    /// Of an update of the outer weights alone, on one replica.
    pub(super) update: f64,
    /// Bytes of weights and accumulators, and of optimiser state, of a layer (on the first IPU of its group) and of the rest.
    pub(super) layer_state: [f64; 2],
    pub(super) outer_state: [f64; 2],
    /// What else the IPU of the layer, and that of the rest, need at their fullest.
    pub(super) layer_working: f64,
    pub(super) outer_working: f64,
    /// Row blocks of its head.
    pub(super) loss_chunks: usize,
}

/// Forward stages of the probe: embedding, layer, head.
const STAGES: u32 = 5;

impl Probe {
    /// Compiles the probe: the model's first layer on an IPU, or a group of them, of its own, run forward again.
    pub(super) fn of(
        config: &Gpt2Config,
        base: &TrainingSettings,
        plans: &PlanCache,
        batch_size: usize,
        members: u32,
    ) -> Result<Probe, Error> {
        let one = config.with_overrides("n_layer=1")?;
        let mut settings = TrainingSettings {
            layers_per_ipu: Some(vec![0, 1]),
            tensor_parallel: members,
            pipelined: true,
            accumulation: STAGES,
            batch_size,
            recompute: Recompute::EveryLayer,
            replicas: 1,
            sharded: false,
            offchip: false,
            ..base.clone()
        };
        settings.machine.ipus = settings.machine.ipus.max(2 * members);
        let compiled = match compile_training("probe", &one, &settings, plans, &mut NoGraphs) {
            // One replica may not hold what several share: for the cycles it does not matter where that is.
            Err(error) if error.is_overflow() => {
                let memory = settings.machine.tile_memory;
                settings.machine.tile_memory = memory.saturating_mul(2);
                compile_training("probe", &one, &settings, plans, &mut NoGraphs)?
            }
            outcome => outcome?,
        };
        let time = timeline(&compiled.program);
        let pace = Pace::of(&time, &compiled.manifest);
        let steady = beat(&time, &compiled.manifest);
        let busy = |ipu: usize| {
            let ledger = steady.and_then(|b| b.ipus.get(ipu));
            ledger.map_or(0.0, |l| l.total() as f64)
        };
        let again = |counts: &dyn Fn(&Origin) -> bool| {
            let origins = compiled.program.origins.iter().zip(&time.origins);
            let cycles: u64 = origins
                .filter(|(o, _)| o.phase == Phase::Recompute && counts(o))
                .map(|(_, account)| account.cycles.total())
                .sum();
            // Members run their parts at the same time.
            cycles as f64 / f64::from(STAGES * members)
        };
        let products_again =
            again(&|o| o.kind == "matmul" && !o.name.ends_with("attn.scores.again"));
        let again = again(&|_| true);
        let bytes = |ipu: u32| Bytes::of(&compiled.program, ipu);
        let (outer, layer) = (bytes(0), bytes(members));
        // The rounds of a group take as long as the slowest member in each.
        let of_group = |stage: u32| {
            let name = format!("micro_batch.stage.{stage}.group_{members}");
            time.procedure_cycles(&name).unwrap_or(0) as f64
        };
        let whole = match members {
            1 => busy(1),
            _ => of_group(1) + of_group(3),
        };
        let ledger = steady.and_then(|b| b.ipus.get(members as usize));
        let links = ledger.map_or(0.0, |l| l.get(Cause::Links) as f64);
        Ok(Probe {
            layer: whole - again,
            links,
            again,
            products_again,
            outer: busy(0),
            shared: steady.map_or(0.0, |b| b.shared_cycles as f64),
            update: time.cycles.total() as f64
                - f64::from(pace.pipeline_cycles(STAGES)) * pace.beat as f64,
            layer_state: layer.state,
            outer_state: outer.state,
            layer_working: layer.working,
            outer_working: outer.working,
            loss_chunks: compiled.manifest.loss_chunks,
        })
    }
}

/// Bytes of a tile of an IPU.
struct Bytes {
    /// Weights and accumulators; optimiser state.
    state: [f64; 2],
    /// Everything else at the fullest tile, code included.
    working: f64,
}

impl Bytes {
    fn of(program: &Program, ipu: u32) -> Bytes {
        let tiles = f64::from(program.machine.tiles_per_ipu);
        let mut state = [0.0; 2];
        for known in &program.states {
            let variable = program.variable(known.variable);
            if program.grid(variable.grid).ipu == IpuId(ipu) {
                let kind = usize::from(known.kind == StateKind::OptimiserState);
                state[kind] += variable.ty.bytes() as f64 / tiles;
            }
        }
        let rings: f64 = program
            .variables
            .iter()
            .filter(|v| v.category == Category::Stash && program.grid(v.grid).ipu == IpuId(ipu))
            .map(|v| v.ty.bytes() as f64 / tiles)
            .sum();
        let memory = MemoryReport::new(program);
        let fullest = memory
            .ipus
            .get(ipu as usize)
            .map_or(0, |ipu| ipu.max_tile_bytes);
        let working = fullest as f64 - state[0] - state[1] - rings;
        Bytes {
            state,
            working: working.max(0.0),
        }
    }
}
