//! Placement: layers to IPUs, ops to tiles, variables to addresses.

mod limits;
mod options;
mod search;

use std::time::Instant;

use superstep_ir::graph::{Graph, Module};
use superstep_ir::machine::Machine;
use superstep_ir::op::Op;
use superstep_ir::op::infer::TypeError;
use superstep_ir::program::{Program, Rounding};
use superstep_ir::units::Bytes;
use thiserror::Error;

use crate::balance::LayerCycles;
use crate::budget::{Alive, Budgets};
use crate::lower::{Execution, LowerError, Lowered, MicroBatches, lower};
use crate::memory::{
    MemoryFit, Overflow, Overflows, assign_memory, assign_memory_beside, live_ranges,
    make_room_for_code,
};
use crate::offload::offload;
use crate::plan::book::{Choice, Key, PlanBook};
use crate::plan::matmul::{MatmulPlans, PlannedProduct};
use crate::recompute::recompute;
use crate::replicate::{Replication, replicate};
use crate::serialise;
use crate::stage::{self, LayersPerIpu, StageError};
pub use limits::Limits;
pub use options::{PlacementOptions, Recompute};
use search::{FIRST_SHARE, Search};

/// A placed program and what was decided on the way.
#[derive(Clone, Debug)]
pub struct Placed {
    pub program: Program,
    /// How the products are executed.
    pub products: Vec<PlannedProduct>,
    pub layers_per_ipu: LayersPerIpu,
    /// By IPU, the grant of memory for temporaries with which it fits, counted in the order in which grants are tried.
    pub grants: Vec<usize>,
    pub fit: MemoryFit,
    /// Seconds spent in each step of placement, by name.
    pub seconds: Vec<(&'static str, f64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Lower(#[from] LowerError),
    #[error(transparent)]
    Type(#[from] TypeError),
    #[error("{replicas} replicas need at least as many IPUs, {machine} has {ipus}")]
    TooManyReplicas {
        replicas: u32,
        machine: String,
        ipus: u32,
    },
    #[error("{replicas} replicas cannot share the {ipus} IPUs of {machine} evenly")]
    UnevenReplicas {
        replicas: u32,
        machine: String,
        ipus: u32,
    },
    #[error(
        "a pipeline of {stages} stages needs at least as many micro-batches a step, gradient_accumulation_steps is {given}"
    )]
    TooFewMicroBatches { stages: u32, given: u32 },
    #[error(
        "optimiser state off chip takes {needed} bytes of streaming memory, {machine} has {available}"
    )]
    StreamingMemory {
        needed: u64,
        machine: String,
        available: u64,
    },
    #[error("matmul_proportion has {given} values for {ipus} {}", if *grouped { "groups of IPUs" } else { "IPUs" })]
    Proportions {
        given: usize,
        ipus: usize,
        grouped: bool,
    },
    #[error("no product is named `{ops}`; the products are {products}")]
    NothingToSerialise { ops: String, products: String },
    /// The model does not fit with the smallest temporaries; `tried` IPUs were used of `ipus`.
    #[error("{overflow}")]
    Overflow {
        overflow: Box<Overflow>,
        /// It is at an op of a micro-batch that belongs to no layer: of embedding, head or loss.
        outside_layers: bool,
        tried: u32,
        ipus: u32,
    },
}

/// Assigns layers to IPUs, plans and lowers every op, and places every variable; a smaller share for temporaries, then more IPUs
/// (when the assignment is free) are tried before giving up. Plans and outcome go into `book`, and are not searched for when it has them.
///
/// # Errors
/// An impossible assignment, an op without a tile program, or too little memory.
pub fn place(
    module: &Module,
    machine: &Machine,
    options: &PlacementOptions,
    book: &mut PlanBook,
) -> Result<Placed, PlacementError> {
    let known = std::mem::replace(book, PlanBook::new(machine)).about(machine);
    let key = Key::of_module(module, options);
    let choice = known.choice(key).cloned();
    let mut plans = MatmulPlans::new(options.matmul_plan, options.half_partials, known);
    let placed = place_from(choice, module, machine, options, &mut plans);
    *book = plans.into_book();
    if let Ok(placed) = &placed {
        let choice = Choice {
            layers_per_ipu: placed.layers_per_ipu.clone(),
            grants: placed.grants.clone(),
        };
        book.choose(key, choice);
    }
    placed
}

/// Tries a choice that is known to fit, then searches.
fn place_from(
    choice: Option<Choice>,
    module: &Module,
    machine: &Machine,
    options: &PlacementOptions,
    plans: &mut MatmulPlans,
) -> Result<Placed, PlacementError> {
    let layers = stage::layer_count(module);
    check_options(options, layers)?;
    let members = options.members();
    let of_one = of_one_replica(machine, options.replicas.max(1))?;
    if let (None, Some(ipus)) = (&options.layers_per_ipu, options.ipus_per_replica) {
        stage::check_count(ipus, members, layers, &of_one)?;
    }
    let mut clock = Clock::default();
    let prepared = prepare(module, machine, options, &mut clock)?;
    let mut place_with = |layers_per_ipu, grants| {
        let choice = Choice {
            layers_per_ipu,
            grants,
        };
        place_on(&prepared, machine, choice, options, plans, clock.clone())
    };
    if let Some(Choice {
        layers_per_ipu,
        grants,
    }) = choice
        && let Ok(known) = stage::check(&layers_per_ipu, members, layers, &of_one)
        && let Ok(placed) = place_with(known, grants)
    {
        return Ok(placed);
    }
    let mut place_on = |layers_per_ipu| place_with(layers_per_ipu, Vec::new());
    if let Some(given) = &options.layers_per_ipu {
        return place_on(stage::check(given, members, layers, &of_one)?);
    }
    let most = (of_one.ipus / members).min(layers + 1);
    if most == 0 {
        return Err(StageError::GroupTooLarge {
            members,
            machine: of_one.name,
            ipus: of_one.ipus,
        }
        .into());
    }
    let (mut groups, most) = match options.ipus_per_replica {
        Some(ipus) => (ipus / members, ipus / members),
        None => (stage::least_groups(module, members, &of_one), most),
    };
    let even = loop {
        match place_on(stage::balance(&prepared, groups, options.pipelined)) {
            Err(PlacementError::Overflow { .. }) if groups < most => groups += 1,
            outcome => break outcome?,
        }
    };
    if options.pipelined && groups > 1 {
        return busiest_relieved(even, &prepared, place_on);
    }
    Ok(even)
}

/// What one replica has of a machine.
fn of_one_replica(machine: &Machine, replicas: u32) -> Result<Machine, PlacementError> {
    let (name, ipus) = (machine.name.clone(), machine.ipus);
    if replicas > ipus {
        return Err(PlacementError::TooManyReplicas {
            replicas,
            machine: name,
            ipus,
        });
    }
    if !ipus.is_multiple_of(replicas) {
        return Err(PlacementError::UnevenReplicas {
            replicas,
            machine: name,
            ipus,
        });
    }
    let name = match replicas {
        1 => name,
        _ => format!("each of {replicas} replicas on {name}"),
    };
    Ok(Machine {
        ipus: ipus / replicas,
        name,
        ..machine.clone()
    })
}

/// Refuses what contradicts itself or the module.
fn check_options(options: &PlacementOptions, layers: u32) -> Result<(), StageError> {
    let members = options.members();
    if members > 1 && !options.pipelined {
        return Err(StageError::GroupsWithoutPipeline { members });
    }
    match options.recompute.last_named() {
        Some(named) if named >= layers => Err(StageError::NoSuchLayer { named, layers }),
        _ => Ok(()),
    }
}

/// A pipeline whose busiest IPU has least to do, if that fits; else `even`, which spreads bytes.
fn busiest_relieved(
    even: Placed,
    prepared: &Module,
    mut place_on: impl FnMut(LayersPerIpu) -> Result<Placed, PlacementError>,
) -> Result<Placed, PlacementError> {
    let cycles = LayerCycles::of(&even.program, prepared);
    let split = cycles.split(even.layers_per_ipu.len());
    let busiest_of_even = cycles.busiest(&even.layers_per_ipu);
    if cycles.busiest(&split) >= busiest_of_even {
        return Ok(even);
    }
    let relieved = match place_on(split) {
        Err(PlacementError::Overflow { .. }) => return Ok(even),
        outcome => outcome?,
    };
    // With less memory to spare plans can be slower.
    let cycles = LayerCycles::of(&relieved.program, prepared);
    if cycles.busiest(&relieved.layers_per_ipu) < busiest_of_even {
        return Ok(relieved);
    }
    Ok(even)
}

/// What no assignment of layers changes: layers that run forward again, the update of one replica among several.
fn prepare(
    module: &Module,
    machine: &Machine,
    options: &PlacementOptions,
    clock: &mut Clock,
) -> Result<Module, PlacementError> {
    let mut prepared = module.clone();
    let graphs = &mut prepared.graphs;
    if let Some(graph) = graphs.iter_mut().find(|g| g.name == "micro_batch") {
        let again = || recompute(graph, |layer| options.recompute.of(layer));
        clock.time("recompute", again)?;
    }
    let replicas = options.replicas.max(1);
    if let Some(update) = graphs.iter_mut().find(|g| g.name == "update")
        && replicas > 1
    {
        let replication = Replication {
            replicas,
            sharded: options.sharded,
        };
        *update = clock.time("replicate", || replicate(update, replication))?;
    }
    if let Some(update) = graphs.iter_mut().find(|g| g.name == "update")
        && options.offchip
    {
        *update = clock.time("offload", || offload(update))?;
        check_streaming_memory(update, replicas, machine)?;
    }
    Ok(prepared)
}

/// What all replicas keep in streaming memory must be there.
fn check_streaming_memory(
    update: &Graph,
    replicas: u32,
    machine: &Machine,
) -> Result<(), PlacementError> {
    let remote = update.ops().filter_map(|op| match update.op(op) {
        Op::Parameter {
            ty, remote: true, ..
        } => Some(ty.bytes() as u64),
        _ => None,
    });
    let needed = remote.sum::<u64>() * u64::from(replicas);
    let available = u64::from(machine.ipus) * machine.streaming_bytes;
    if needed <= available {
        return Ok(());
    }
    let machine = machine.name.clone();
    Err(PlacementError::StreamingMemory {
        needed,
        machine,
        available,
    })
}

/// Lowers with every op's share of what its tiles have free, and assigns addresses; less and less of it until all fits, from `choice` on.
fn place_on(
    prepared: &Module,
    machine: &Machine,
    choice: Choice,
    options: &PlacementOptions,
    plans: &mut MatmulPlans,
    mut clock: Clock,
) -> Result<Placed, PlacementError> {
    let layers_per_ipu = choice.layers_per_ipu;
    let (given, ipus) = (options.matmul_proportion.len(), layers_per_ipu.len());
    if given > 1 && given != ipus {
        let grouped = options.members() > 1;
        return Err(PlacementError::Proportions {
            given,
            ipus,
            grouped,
        });
    }
    let mut staged = prepared.clone();
    clock.time("stage", || {
        stage::assign(&mut staged, &layers_per_ipu, options.members());
    });
    let ipus = layers_per_ipu.len() as u32 * options.members();
    let execution = execution(prepared, options, &layers_per_ipu)?;
    let lowered = |budgets: &Budgets, clock: &mut Clock, plans: &mut MatmulPlans| {
        clock.time("lower", || {
            lower(&staged, machine, execution, budgets, plans)
        })
    };
    let limits = Limits::of(options, machine);
    let even = Budgets::proportion(machine, FIRST_SHARE.min(limits.least));
    let mut first = lowered(&even, &mut clock, plans)?;
    let footprint = clock.time("memory", || {
        live_ranges(&mut first.program);
        make_room_for_code(&mut first.program)
    });
    let alive = Alive::of(&first.program);
    let refused = |overflow: Box<Overflow>| PlacementError::Overflow {
        outside_layers: is_outside_layers(&overflow, prepared),
        overflow,
        tried: ipus,
        ipus: machine.ipus,
    };
    let fullest = |overflows: Overflows| overflows.into_iter().max_by_key(Overflow::excess);
    if alive.is_hopeless()
        && let Err(overflows) = assign_memory_beside(&mut first.program.clone(), &footprint)
        && let Some(overflow) = fullest(overflows)
    {
        return Err(refused(Box::new(overflow)));
    }
    let caps = caps(options, &first.products, plans)?;
    let mut search = Search::new(&choice.grants, ipus);
    loop {
        let budgets = alive.budgets(&search.grants(), &limits).capped(&caps);
        let Lowered {
            mut program,
            products,
        } = lowered(&budgets, &mut clock, plans)?;
        match clock.time("memory", || assign_memory(&mut program)) {
            Ok(fit) => {
                return Ok(Placed {
                    program,
                    products,
                    layers_per_ipu,
                    grants: search.numbers,
                    fit,
                    seconds: clock.seconds,
                });
            }
            Err(overflows) => search
                .next(overflows, |ipu| alive.most(ipu))
                .map_err(refused)?,
        }
    }
}

fn execution(
    module: &Module,
    options: &PlacementOptions,
    layers_per_ipu: &[u32],
) -> Result<Execution, PlacementError> {
    Ok(Execution {
        ipus: layers_per_ipu.len() as u32 * options.members(),
        group: options.members(),
        replicas: options.replicas.max(1),
        order: micro_batches(module, options, layers_per_ipu)?,
        rounding: match options.stochastic_rounding {
            true => Rounding::Stochastic,
            false => Rounding::Nearest,
        },
    })
}

fn is_outside_layers(overflow: &Overflow, module: &Module) -> bool {
    let in_update = |graph: &Graph| graph.name == "update";
    let graphs = module.graphs.iter().filter(|graph| !in_update(graph));
    let mut ops = graphs.flat_map(|graph| graph.ops().map(|op| graph.node(op)));
    ops.any(|node| Some(&node.name) == overflow.op.as_ref() && node.place.layer.is_none())
}

/// What the user's wish for slices leaves to products.
fn caps(
    options: &PlacementOptions,
    products: &[PlannedProduct],
    plans: &mut MatmulPlans,
) -> Result<Vec<(String, Bytes)>, PlacementError> {
    serialise::caps(&options.serialise, products, plans).map_err(|rule| {
        let mut names: Vec<&str> = products.iter().map(|p| p.op.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        PlacementError::NothingToSerialise {
            ops: rule.ops.clone(),
            products: names.join(", "),
        }
    })
}

/// In what order the micro-batches of a step go through the stages. Those of training have to fill the pipeline, as they have to in PopART.
fn micro_batches(
    module: &Module,
    options: &PlacementOptions,
    layers_per_ipu: &[u32],
) -> Result<MicroBatches, PlacementError> {
    let given = options.gradient_accumulation_steps.max(1);
    let is_training = module.graph("update").is_some();
    let stages = match is_training {
        true => stage::stage_count(layers_per_ipu),
        false => stage::forward_stage_count(layers_per_ipu),
    };
    if !options.pipelined || (stages == 1 && options.members() == 1) {
        return Ok(MicroBatches::InTurn(given));
    }
    if is_training && given < stages {
        return Err(PlacementError::TooFewMicroBatches { stages, given });
    }
    Ok(MicroBatches::Pipelined(given))
}

/// Seconds by what they were spent on.
#[derive(Clone, Default)]
struct Clock {
    seconds: Vec<(&'static str, f64)>,
}

impl Clock {
    fn time<T>(&mut self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let spent = start.elapsed().as_secs_f64();
        match self.seconds.iter_mut().find(|s| s.0 == what) {
            Some(known) => known.1 += spent,
            None => self.seconds.push((what, spent)),
        }
        result
    }
}
