//! What would make a model fit that does not: each remedy is compiled, and only those that fit are named, with their cost.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use superstep_ir::class_name::class_name;
use superstep_ir::machine::Machine;
use superstep_passes::memory::Overflow;
use superstep_passes::place::Recompute;
use superstep_passes::serialise::Serialise;
use superstep_runtime::timeline::timeline;

use super::{NoGraphs, PlanCache, compile_training};
use crate::frontend::Gpt2Config;
use crate::report::format::{bytes, number_list, three_digits};
use crate::report::memory::MemoryReport;
use crate::settings::TrainingSettings;

/// A change with which the model fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Remedy {
    /// The change, as options of the command line where there are such.
    pub options: String,
    /// Cycles of a step over those that it would take if tiles had memory without end, where it does the same work.
    pub slowdown: Option<f64>,
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
        write!(f, "{options}: fits {ipus} IPUs, ")?;
        if let Some(slowdown) = self.slowdown {
            write!(f, "{:+.1} % cycles, ", 100.0 * (slowdown - 1.0))?;
        }
        write!(f, "{rate} samples/s, fullest tile {tile}")
    }
}

/// A change of the settings, by the options that make it.
struct Change {
    options: String,
    settings: TrainingSettings,
    /// A step of as many IPUs and samples, so that its cycles can be compared.
    is_same_work: bool,
}

/// What is tried; of the changes in one list the first that fits is enough.
struct Changes<'a> {
    given: &'a TrainingSettings,
    lists: Vec<Vec<Change>>,
}

impl Changes<'_> {
    fn change(&self, options: String, with: impl Fn(&mut TrainingSettings)) -> Change {
        let mut settings = self.given.clone();
        settings.print_ir_after = None;
        with(&mut settings);
        Change {
            options,
            is_same_work: settings.machine == self.given.machine
                && settings.layers_per_ipu == self.given.layers_per_ipu
                && settings.tensor_parallel == self.given.tensor_parallel
                && settings.replicas == self.given.replicas
                && settings.batch_size == self.given.batch_size
                && settings.block_size == self.given.block_size,
            settings,
        }
    }

    fn one(&mut self, options: String, with: impl Fn(&mut TrainingSettings)) {
        let change = self.change(options, with);
        self.lists.push(vec![change]);
    }

    /// The op at the fullest point in more and more slices.
    fn serialise(&mut self, overflow: &Overflow) {
        let Some(op) = &overflow.op else { return };
        let ops = class_name(op);
        let sliced = SLICES.map(|slices| {
            let rule = Serialise {
                ops: ops.clone(),
                slices,
            };
            self.change(format!("--serialise \"{rule}\""), |s| {
                s.serialise.push(rule.clone());
            })
        });
        self.lists.push(sliced.into());
    }

    /// Layers of the overfull IPU, or its group, run forward again: one, half of them, all.
    fn recompute(&mut self, overflow: &Overflow) {
        let (Some(layers), Recompute::Nothing) =
            (&self.given.layers_per_ipu, &self.given.recompute)
        else {
            return;
        };
        let group = overflow.ipu.index() / self.given.tensor_parallel as usize;
        let first: u32 = layers.iter().take(group).sum();
        let here = layers.get(group).copied().unwrap_or(0);
        let mut counts = vec![1, here.div_ceil(2), here];
        counts.retain(|&count| count > 0 && count <= here);
        counts.dedup();
        let again = counts.into_iter().map(|count| {
            let layers: Vec<u32> = (first..first + count).collect();
            self.change(format!("--recompute \"{}\"", number_list(&layers)), |s| {
                s.recompute = Recompute::Layers(layers.iter().copied().collect());
            })
        });
        let again = again.collect();
        self.lists.push(again);
    }

    /// What changes the whole step.
    fn coarse(&mut self) {
        let given = self.given;
        if given.recompute != Recompute::EveryLayer {
            self.one("--recompute all".into(), |s| {
                s.recompute = Recompute::EveryLayer;
            });
        }
        if let Some(chunks) = given.loss_chunks {
            self.one(format!("--loss_chunks {}", 2 * chunks), |s| {
                s.loss_chunks = Some(2 * chunks);
            });
        }
        if given.layers_per_ipu.is_some() && given.pipelined {
            let members = given.tensor_parallel.saturating_mul(2);
            self.one(format!("--tensor_parallel {members}"), |s| {
                s.tensor_parallel = members;
            });
        }
        if given.layers_per_ipu.is_some() && given.tensor_parallel == 1 {
            self.one("without --layers_per_ipu".into(), |s| {
                s.layers_per_ipu = None;
            });
        }
        if given.batch_size > 1 {
            let half = given.batch_size / 2;
            self.one(format!("--per_device_train_batch_size {half}"), |s| {
                s.batch_size = half;
            });
        }
        if given.block_size > 1 {
            let half = given.block_size / 2;
            self.one(format!("--block_size {half}"), |s| s.block_size = half);
        }
    }

    /// Half as many replicas, on twice as many IPUs each; with half the block if that is not enough.
    fn longer(&mut self) {
        let given = self.given;
        let replicas = given.replicas / 2;
        if replicas == 0 || given.tensor_parallel > 1 {
            return;
        }
        let of_layers = given.layers_per_ipu.as_ref().map(|l| l.len() as u32);
        let ipus = given.ipus_per_replica.or(of_layers).map(|ipus| 2 * ipus);
        let each = ipus.map_or_else(String::new, |ipus| format!(",ipus_per_replica={ipus}"));
        let options = format!(
            "--ipu_config_overrides \"replication_factor={replicas},layers_per_ipu=[-1]{each}\""
        );
        let lengthen = |s: &mut TrainingSettings| {
            s.replicas = replicas;
            s.layers_per_ipu = None;
            s.ipus_per_replica = ipus;
        };
        let half = given.block_size / 2;
        let mut list = vec![self.change(options.clone(), lengthen)];
        if half > 0 {
            let options = format!("{options} --block_size {half}");
            list.push(self.change(options, |s| {
                lengthen(s);
                s.block_size = half;
            }));
        }
        self.lists.push(list);
    }

    /// The next larger pod of the user's chip.
    fn larger(&mut self) {
        let ipus = self.given.machine.ipus;
        let larger = LARGER
            .into_iter()
            .filter_map(|name| Some((name, Machine::preset(name)?)));
        let mut larger = larger.filter(|(_, pod)| pod.ipus > ipus);
        let (Some((name, pod)), None) = (larger.next(), &self.given.layers_per_ipu) else {
            return;
        };
        let machine = Machine {
            name: name.into(),
            ipus: pod.ipus,
            global_sync_cycles: pod.global_sync_cycles,
            torus: pod.torus,
            ..self.given.machine.clone()
        };
        // Only a preset has a name for the command line; another machine's file says how many IPUs it has.
        let options = if machine == pod {
            format!("--machine {name}")
        } else {
            format!("{} IPUs instead of {ipus}", pod.ipus)
        };
        self.one(options, |s| s.machine = machine.clone());
    }
}

/// Larger pods, in order of size.
const LARGER: [&str; 5] = ["pod4", "pod8", "pod16", "pod32", "pod64"];
/// No change is tried later.
const PATIENCE: Duration = Duration::from_secs(30);
/// Numbers of slices that are tried.
const SLICES: [u32; 3] = [2, 4, 8];

/// Compiles with one change after another: fewer replicas on more IPUs each, slices of the op at the fullest point, layers that run forward again,
/// more loss chunks, layers divided over twice the IPUs, layers placed by the compiler, half the batch or the block, the next larger pod.
pub fn remedies(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    overflow: &Overflow,
    plans: &PlanCache,
) -> Vec<Remedy> {
    let mut changes = Changes {
        given: settings,
        lists: Vec::new(),
    };
    changes.longer();
    changes.serialise(overflow);
    changes.recompute(overflow);
    changes.coarse();
    changes.larger();
    let until = Instant::now() + PATIENCE;
    let lists = changes.lists.into_par_iter();
    let tried = lists.filter_map(|list| {
        let in_time = list.into_iter().take_while(|_| Instant::now() < until);
        in_time
            .filter_map(|change| remedy(config, change, plans))
            .next()
    });
    let mut fitting: Vec<(Remedy, Option<u64>)> = tried.collect();
    if fitting.iter().any(|(_, same_work)| same_work.is_some())
        && let Some(least) = unlimited_cycles(config, settings)
    {
        for (remedy, same_work) in &mut fitting {
            remedy.slowdown = same_work.map(|cycles| cycles as f64 / least as f64);
        }
    }
    fitting.into_iter().map(|(remedy, _)| remedy).collect()
}

/// Cycles of a step on tiles with several times the memory.
fn unlimited_cycles(config: &Gpt2Config, settings: &TrainingSettings) -> Option<u64> {
    const TIMES: u32 = 4;
    let mut settings = TrainingSettings {
        print_ir_after: None,
        ..settings.clone()
    };
    settings.machine.tile_memory = settings.machine.tile_memory.saturating_mul(TIMES);
    let plans = PlanCache::none();
    let compiled = compile_training("unlimited", config, &settings, &plans, &mut NoGraphs).ok()?;
    Some(timeline(&compiled.program).cycles.total())
}

/// The remedy that a change is, and the cycles of a step where it does the same work.
fn remedy(config: &Gpt2Config, change: Change, plans: &PlanCache) -> Option<(Remedy, Option<u64>)> {
    let settings = &change.settings;
    let compiled = compile_training("remedy", config, settings, plans, &mut NoGraphs).ok()?;
    let samples =
        settings.batch_size as f64 * f64::from(settings.accumulation * settings.replicas.max(1));
    let time = timeline(&compiled.program);
    let remedy = Remedy {
        options: change.options,
        slowdown: None,
        samples_per_second: samples / time.seconds(),
        ipus: compiled.program.ipus * settings.replicas.max(1),
        fullest_tile: MemoryReport::new(&compiled.program).max_tile_bytes(),
    };
    let cycles = change.is_same_work.then(|| time.cycles.total());
    Some((remedy, cycles))
}
