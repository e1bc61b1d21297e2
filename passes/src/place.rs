//! Placement: layers to IPUs, ops to tiles, variables to addresses.

use std::time::Instant;

use superstep_ir::graph::Module;
use superstep_ir::machine::Machine;
use superstep_ir::program::Program;
use thiserror::Error;

use crate::lower::{LowerConfig, LowerError, lower};
use crate::memory::{MemoryFit, Overflow, assign_memory};
use crate::stage::{self, LayersPerIpu, StageError};

/// What the user decides about the placement of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementOptions {
    /// Decoder layers on each IPU; absent: as many IPUs as the model needs, evenly filled.
    pub layers_per_ipu: Option<Vec<u32>>,
    /// Micro-batches per optimiser step; 0 counts as 1.
    pub gradient_accumulation_steps: u32,
}

/// A placed program and what was decided on the way.
#[derive(Clone, Debug)]
pub struct Placed {
    pub program: Program,
    pub layers_per_ipu: LayersPerIpu,
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
    /// The model does not fit with the smallest temporaries; `tried` IPUs were used of `ipus`.
    #[error("{overflow}")]
    Overflow {
        overflow: Box<Overflow>,
        tried: u32,
        ipus: u32,
    },
}

/// Shares of tile memory tried for the temporaries of one op, best plans first.
const PROPORTIONS: [f64; 4] = [0.3, 0.2, 0.12, 0.07];

/// Assigns layers to IPUs, plans and lowers every op, and places every variable; a smaller share for temporaries, then more IPUs
/// (when the assignment is free) are tried before giving up.
///
/// # Errors
/// An impossible assignment, an op without a tile program, or too little memory.
pub fn place(
    module: &Module,
    machine: &Machine,
    options: &PlacementOptions,
) -> Result<Placed, PlacementError> {
    let layers = stage::layer_count(module);
    if let Some(given) = &options.layers_per_ipu {
        return place_on(
            module,
            machine,
            stage::check(given, layers, machine)?,
            options,
        );
    }
    let mut ipus = stage::least_ipus(module, machine);
    loop {
        match place_on(module, machine, stage::balance(module, ipus), options) {
            Err(PlacementError::Overflow { .. }) if ipus < machine.ipus.min(layers + 1) => {
                ipus += 1
            }
            outcome => return outcome,
        }
    }
}

fn place_on(
    module: &Module,
    machine: &Machine,
    layers_per_ipu: LayersPerIpu,
    options: &PlacementOptions,
) -> Result<Placed, PlacementError> {
    let start = Instant::now();
    let mut staged = module.clone();
    stage::assign(&mut staged, &layers_per_ipu);
    let mut seconds = vec![
        ("stage", start.elapsed().as_secs_f64()),
        ("lower", 0.0),
        ("memory", 0.0),
    ];
    let ipus = layers_per_ipu.len() as u32;
    let mut last = None;
    for available_memory_proportion in PROPORTIONS {
        let start = Instant::now();
        let config = LowerConfig {
            available_memory_proportion,
        };
        let mut program = lower(
            &staged,
            machine,
            ipus,
            options.gradient_accumulation_steps.max(1),
            config,
        )?;
        seconds[1].1 += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let outcome = assign_memory(&mut program);
        seconds[2].1 += start.elapsed().as_secs_f64();
        match outcome {
            Ok(fit) => {
                return Ok(Placed {
                    program,
                    layers_per_ipu,
                    fit,
                    seconds,
                });
            }
            Err(overflow) => last = Some(overflow),
        }
    }
    let overflow = last.expect("at least one proportion is tried");
    Err(PlacementError::Overflow {
        overflow,
        tried: ipus,
        ipus: machine.ipus,
    })
}
