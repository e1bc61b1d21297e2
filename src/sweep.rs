//! What if the machine were another: the same model on every combination of some machine parameters.
//!
//! A point of a sweep is a machine. A model is compiled anew for each, since a plan that is best on one is seldom best on the next; an
//! executable keeps its plan and is only timed again, which is possible for parameters that say how fast things are, not how large.

mod axis;
mod output;

use serde::Serialize;
use superstep_ir::machine::Machine;
use superstep_ir::program::Program;
use superstep_runtime::timeline::{Cause, timeline};

use crate::compile::{Compiled, NoGraphs, PlanCache, compile_training};
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::manifest::Manifest;
use crate::report::memory::MemoryReport;
use crate::settings::TrainingSettings;

pub use axis::{Axis, Point, points};
pub use output::{Format, table};

/// The name and version of the JSON form.
pub const SCHEMA: &str = "superstep.sweep/1";

/// Most points of a sweep.
pub const POINTS_MOST: usize = 256;

/// The outcome of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sweep {
    pub schema: &'static str,
    pub model: String,
    /// The machine whose parameters are varied.
    pub machine: String,
    /// Whether each point has a plan of its own.
    pub recompiled: bool,
    /// Names of the parameters, in the order of the points' values.
    pub parameters: Vec<String>,
    pub points: Vec<Outcome>,
}

/// One point: either what the model takes there, or why it cannot run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub values: Vec<String>,
    pub status: Status,
    pub error: Option<String>,
    #[serde(flatten)]
    pub figures: Option<Figures>,
}

/// Whether a program could be made for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Fits,
    /// The tiles are too small.
    DoesNotFit,
    /// Something else is in the way, such as a list of layers for more IPUs than there are.
    CannotCompile,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Status::Fits => "fits",
            Status::DoesNotFit => "does not fit",
            Status::CannotCompile => "cannot compile",
        }
    }
}

/// What a program takes on a machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub ipus: u32,
    /// Of an optimiser step; the five kinds sum to it.
    pub cycles: u64,
    pub compute_cycles: u64,
    pub exchange_cycles: u64,
    pub sync_cycles: u64,
    pub inter_ipu_cycles: u64,
    pub host_cycles: u64,
    /// Of `cycles`, the arithmetic at its peak.
    pub ideal_cycles: u64,
    pub seconds_per_update: f64,
    pub samples_per_second: f64,
    pub max_tile_bytes: u64,
}

/// Keys of a machine that a compiled program is cut to; all others only say how fast it runs.
const FIXED_BY_A_PLAN: [&str; 4] = ["ipus", "tiles_per_ipu", "tile_memory", "reserved_bytes"];

/// What is tried at every point.
pub enum Subject<'a> {
    /// Compiled for each machine.
    Model {
        name: &'a str,
        config: &'a Gpt2Config,
        settings: Box<TrainingSettings>,
        plans: &'a PlanCache,
    },
    /// Timed on each machine, with the plan it has.
    Executable(&'a Compiled),
}

impl Subject<'_> {
    /// The machine from which parameters differ.
    pub fn machine(&self) -> &Machine {
        match self {
            Subject::Model { settings, .. } => &settings.machine,
            Subject::Executable(compiled) => &compiled.program.machine,
        }
    }

    /// Refuses parameters that the subject cannot follow.
    pub fn check(&self, axes: &[Axis]) -> Result<(), Error> {
        let fixed = axes
            .iter()
            .find(|axis| FIXED_BY_A_PLAN.contains(&axis.key.as_str()));
        match (self, fixed) {
            (Subject::Executable(_), Some(axis)) => Err(Error::usage(format!(
                "{} cannot change in an executable: its plan is cut to {}; name the model instead, and it is compiled for each point",
                axis.key,
                FIXED_BY_A_PLAN.join(", "),
            ))),
            _ => Ok(()),
        }
    }

    /// What happens on one machine. Only what has nothing to do with the machine is an error.
    pub fn at(&mut self, point: &Point) -> Result<Outcome, Error> {
        let figures = match self {
            Subject::Model {
                name,
                config,
                settings,
                plans,
            } => {
                settings.machine = point.machine.clone();
                match compile_training(name, config, settings, plans, &mut NoGraphs) {
                    Ok(compiled) => figures(&compiled.program, &compiled.manifest),
                    Err(error @ Error::Compile(_)) => return Ok(point.failed(&error)),
                    Err(error) => return Err(error),
                }
            }
            Subject::Executable(compiled) => {
                let program = Program {
                    machine: point.machine.clone(),
                    ..compiled.program.clone()
                };
                figures(&program, &compiled.manifest)
            }
        };
        Ok(Outcome {
            values: point.values.clone(),
            status: Status::Fits,
            error: None,
            figures: Some(figures),
        })
    }
}

impl Point {
    fn failed(&self, error: &Error) -> Outcome {
        Outcome {
            values: self.values.clone(),
            status: if error.is_overflow() {
                Status::DoesNotFit
            } else {
                Status::CannotCompile
            },
            error: Some(error.to_string()),
            figures: None,
        }
    }
}

fn figures(program: &Program, manifest: &Manifest) -> Figures {
    let time = timeline(program);
    let seconds = time.seconds();
    Figures {
        ipus: program.ipus,
        cycles: time.cycles.total(),
        compute_cycles: time.cycles.compute,
        exchange_cycles: time.cycles.exchange,
        sync_cycles: time.cycles.sync,
        inter_ipu_cycles: time.cycles.inter_ipu,
        host_cycles: time.cycles.host,
        ideal_cycles: time.ledger.get(Cause::Ideal),
        seconds_per_update: seconds,
        samples_per_second: manifest.samples_per_step() as f64 / seconds,
        max_tile_bytes: MemoryReport::new(program).max_tile_bytes(),
    }
}
