//! What would make a model fit that does not: each remedy is compiled, and only those that fit are named, with their cost.

use superstep_ir::machine::Machine;
use superstep_passes::place::Recompute;
use superstep_runtime::timeline::timeline;

use super::{IrSink, PlanCache, compile_training};
use crate::frontend::Gpt2Config;
use crate::report::format::{bytes, three_digits};
use crate::report::memory::MemoryReport;
use crate::settings::TrainingSettings;

/// A change with which the model fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Remedy {
    /// The change, as options of the command line where there are such.
    pub options: String,
    /// Predicted samples a second.
    pub samples_per_second: f64,
    pub ipus: u32,
    /// Bytes on the fullest tile.
    pub fullest_tile: u64,
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Remedy { options, ipus, .. } = self;
        let rate = three_digits(self.samples_per_second);
        let tile = bytes(self.fullest_tile);
        write!(
            f,
            "{options}: fits {ipus} IPUs, {rate} samples/s, fullest tile {tile}"
        )
    }
}

/// Larger pods, in order of size.
const LARGER: [&str; 5] = ["pod4", "pod8", "pod16", "pod32", "pod64"];

/// Compiles with one change after another: layers placed by the compiler, recomputation, more loss chunks, half the batch or the block, the next larger pod.
pub fn remedies(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    plans: &PlanCache,
) -> Vec<Remedy> {
    let mut changes: Vec<(String, TrainingSettings)> = Vec::new();
    let mut change = |options: String, with: &dyn Fn(&mut TrainingSettings)| {
        let mut changed = settings.clone();
        changed.print_ir_after = None;
        with(&mut changed);
        changes.push((options, changed));
    };
    if settings.layers_per_ipu.is_some() {
        change("without --layers_per_ipu".into(), &|s| {
            s.layers_per_ipu = None
        });
    }
    if settings.recompute != Recompute::EveryLayer {
        change("--recompute all".into(), &|s| {
            s.recompute = Recompute::EveryLayer
        });
    }
    if let Some(chunks) = settings.loss_chunks {
        change(format!("--loss_chunks {}", 2 * chunks), &|s| {
            s.loss_chunks = Some(2 * chunks);
        });
    }
    if settings.batch_size > 1 {
        let half = settings.batch_size / 2;
        change(format!("--per_device_train_batch_size {half}"), &|s| {
            s.batch_size = half
        });
    }
    if settings.block_size > 1 {
        let half = settings.block_size / 2;
        change(format!("--block_size {half}"), &|s| s.block_size = half);
    }
    let larger = LARGER
        .into_iter()
        .filter_map(|name| Some((name, Machine::preset(name)?)));
    let next = larger
        .into_iter()
        .find(|(_, m)| m.ipus > settings.machine.ipus);
    if let (Some((name, pod)), None) = (next, &settings.layers_per_ipu) {
        // The user's chip, more of it.
        let machine = Machine {
            name: name.into(),
            ipus: pod.ipus,
            global_sync_cycles: pod.global_sync_cycles,
            torus: pod.torus,
            ..settings.machine.clone()
        };
        // Only a preset has a name for the command line; another machine's file says how many IPUs it has.
        let options = if machine == pod {
            format!("--machine {name}")
        } else {
            format!("{} IPUs instead of {}", pod.ipus, settings.machine.ipus)
        };
        change(options, &|s| s.machine = machine.clone());
    }
    let tried = changes.into_iter();
    tried
        .filter_map(|(options, settings)| remedy(config, options, &settings, plans))
        .collect()
}

fn remedy(
    config: &Gpt2Config,
    options: String,
    settings: &TrainingSettings,
    plans: &PlanCache,
) -> Option<Remedy> {
    let compiled = compile_training("remedy", config, settings, plans, &mut Quiet).ok()?;
    let samples = settings.batch_size as f64 * f64::from(settings.accumulation);
    Some(Remedy {
        options,
        samples_per_second: samples / timeline(&compiled.program).seconds(),
        ipus: compiled.program.ipus,
        fullest_tile: MemoryReport::new(&compiled.program).max_tile_bytes(),
    })
}

/// Shows no graph.
struct Quiet;

impl IrSink for Quiet {
    fn graph(&mut self, _: &str, _: &str) {}
}
