//! Compilation: the standard passes over every graph of a module, then placement on the machine.

use superstep_ir::graph::Module;
use superstep_ir::machine::Machine;
use superstep_ir::program::Program;
use superstep_ir::verify::{ProgramErrors, verify_program};
use thiserror::Error;

use crate::instrument::Instrument;
use crate::manager::{PassManager, PassReport};
use crate::memory::MemoryFit;
use crate::pass::PassError;
use crate::pipeline;
use crate::place::{PlacementError, PlacementOptions, place};
use crate::plan::PlanBook;
use crate::plan::matmul::PlannedProduct;
use crate::stage::LayersPerIpu;

/// What the user decides about a compilation.
pub type CompileOptions = PlacementOptions;

/// A compiled module and how it came about.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub program: Program,
    /// How the products are executed.
    pub products: Vec<PlannedProduct>,
    pub layers_per_ipu: LayersPerIpu,
    pub fit: MemoryFit,
    pub passes: Vec<PassReport>,
    /// Seconds spent in each step of placement, by name.
    pub placement_seconds: Vec<(&'static str, f64)>,
}

#[derive(Debug, Error)]
pub enum CompileError {
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The compiled program breaks the invariants of programs: a bug of the compiler, caught before anything runs.
    #[error("the compiled program is not valid, which is a bug of superstep: {0}")]
    Invalid(#[from] ProgramErrors),
}

/// Compiles a module for a machine; `instruments` watch the graph passes.
///
/// # Errors
/// A pass failed (a bug), or the module cannot be placed on the machine.
pub fn compile<'a>(
    module: Module,
    machine: &Machine,
    options: &CompileOptions,
    instruments: Vec<Box<dyn Instrument + 'a>>,
) -> Result<Compiled, CompileError> {
    let mut book = PlanBook::new(machine);
    compile_by_book(module, machine, options, &mut book, instruments)
}

/// The same with what is known from earlier compilations; `book` then knows this one too, also where it failed.
///
/// # Errors
/// Those of [`compile`].
pub fn compile_by_book<'a>(
    mut module: Module,
    machine: &Machine,
    options: &CompileOptions,
    book: &mut PlanBook,
    instruments: Vec<Box<dyn Instrument + 'a>>,
) -> Result<Compiled, CompileError> {
    let mut manager = PassManager::new(pipeline::standard());
    for instrument in instruments {
        manager = manager.with(instrument);
    }
    let passes = manager.run_module(&mut module)?;
    let placed = place(&module, machine, options, book)?;
    verify_program(&placed.program)?;
    Ok(Compiled {
        program: placed.program,
        products: placed.products,
        layers_per_ipu: placed.layers_per_ipu,
        fit: placed.fit,
        passes,
        placement_seconds: placed.seconds,
    })
}
