//! The least a decoded program must keep to so that other code may index and walk it: ids in range, sizes that exist, an end to every call.
//!
//! That it computes something right is the verifier's business.

use crate::ids::{GridId, OriginId, ProcId, VarId};
use crate::program::{ComputeSet, Grid, Move, Operand, Program, Step, Sync, Variable, View};

/// More steps than any program has; a walk over more would not end.
const MOST_WALKED: u64 = 1 << 26;
/// More steps than any host call runs.
const MOST_RUN: u64 = 1 << 48;
/// Deeper than any compiler nests.
const DEEPEST_CALLS: usize = 64;
/// More elements than any machine holds.
const MOST_ELEMENTS: usize = 1 << 44;

/// What is wrong, in words, with the name of the thing.
pub(super) fn check(program: &Program) -> Result<(), String> {
    program.machine.check().map_err(|e| e.to_string())?;
    if program.ipus == 0 || program.ipus > program.machine.ipus {
        return Err(format!("{} IPUs of {}", program.ipus, program.machine.ipus));
    }
    let within = |&from: &u32| from < program.machine.tile_memory;
    if program.variables_from.len() != program.ipus as usize
        || !program.variables_from.iter().all(within)
    {
        return Err("no room for variables on every IPU".into());
    }
    for grid in &program.grids {
        check_grid(program, grid)?;
    }
    for variable in &program.variables {
        check_variable(program, variable)?;
    }
    for state in &program.states {
        check_variable_id(program, state.variable)?;
    }
    for stream in &program.streams {
        check_variable_id(program, stream.variable)?;
    }
    for origin in &program.origins {
        check_ipu(program, origin.ipu.0)?;
    }
    for procedure in &program.procedures {
        for step in &procedure.steps {
            check_step(program, step)?;
        }
    }
    check_procedure(program, program.entry)?;
    for &part in &program.parts {
        check_procedure(program, part)?;
    }
    check_calls(program)
}

fn check_grid(program: &Program, grid: &Grid) -> Result<(), String> {
    check_ipu(program, grid.ipu.0)?;
    let points = grid
        .axes
        .iter()
        .try_fold(1u32, |points, axis| points.checked_mul(axis.extent));
    let fits = points.is_some_and(|p| p >= 1 && p <= grid.tiles);
    if grid.tiles != program.machine.tiles_per_ipu || !fits || grid.axes.len() > 255 {
        return Err(format!("grid {} does not lie on the tiles", grid.name));
    }
    Ok(())
}

fn check_variable(program: &Program, variable: &Variable) -> Result<(), String> {
    let name = &variable.name;
    let Some(grid) = program.grids.get(variable.grid.index()) else {
        return Err(format!("variable {name} lies on no grid"));
    };
    let shape = &variable.ty.shape;
    let elements = shape
        .dims()
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    if elements.is_none_or(|n| n > MOST_ELEMENTS) {
        return Err(format!("variable {name} is impossibly large"));
    }
    let mut used = [false; 256];
    let mut cuts_once = |axis: u8| !std::mem::replace(&mut used[usize::from(axis)], true);
    let is_cut_well = variable.cuts.iter().all(|cut| {
        let mut axes = cut.axes.iter();
        (1..=1 << 24).contains(&cut.grain)
            && axes.all(|&a| usize::from(a) < grid.axes.len() && cuts_once(a))
    });
    if variable.cuts.len() != shape.rank() || !is_cut_well {
        return Err(format!(
            "variable {name} is cut by axes its grid does not have, or twice by one"
        ));
    }
    let end = (variable.tile_bytes(grid) as u64).saturating_add(u64::from(variable.address));
    if end > u64::from(program.machine.tile_memory) {
        return Err(format!("variable {name} ends beyond the tile's memory"));
    }
    Ok(())
}

fn check_step(program: &Program, step: &Step) -> Result<(), String> {
    match step {
        Step::Compute(set) => check_compute(program, set),
        Step::Exchange(exchange) => {
            check_origin(program, exchange.origin)?;
            exchange
                .moves
                .iter()
                .try_for_each(|mv| check_move(program, mv))
        }
        Step::Sync(Sync::Ipu(ipu)) => check_ipu(program, ipu.0),
        Step::Sync(Sync::Group { first, count }) => {
            check_ipu(program, first.0)?;
            check_ipu(program, first.0.saturating_add(count.saturating_sub(1)))
        }
        Step::Sync(Sync::Replica) => Ok(()),
        Step::Host { stream, origin } => {
            check_origin(program, *origin)?;
            if *stream as usize >= program.streams.len() {
                return Err(format!("there is no stream {stream}"));
            }
            Ok(())
        }
        Step::Remote { state, origin, .. } => {
            check_origin(program, *origin)?;
            match program.states.get(*state as usize) {
                Some(state) if state.remote => Ok(()),
                Some(state) => Err(format!("state {} is not in streaming memory", state.name)),
                None => Err(format!("there is no state {state}")),
            }
        }
        Step::SetSeed { seed, origin } => {
            check_origin(program, *origin)?;
            check_variable_id(program, *seed)
        }
        Step::Collective(c) => {
            check_origin(program, c.origin)?;
            check_variable_id(program, c.source)?;
            check_variable_id(program, c.destination)
        }
        Step::Repeat { body, .. } => check_procedure(program, *body),
        Step::Call(procedure) => check_procedure(program, *procedure),
        Step::Parallel(procedures) => procedures
            .iter()
            .try_for_each(|procedure| check_procedure(program, *procedure)),
    }
}

fn check_compute(program: &Program, set: &ComputeSet) -> Result<(), String> {
    check_origin(program, set.origin)?;
    for group in &set.groups {
        check_grid_id(program, group.grid)?;
        for operand in group.inputs.iter().chain(&group.outputs) {
            check_operand(program, operand)?;
        }
        if let crate::program::Codelet::Map(expr) = &group.codelet
            && !expr.is_well_formed()
        {
            return Err(format!("{}: expression refers to nothing", set.name));
        }
    }
    Ok(())
}

fn check_operand(program: &Program, operand: &Operand) -> Result<(), String> {
    check_variable_id(program, operand.variable)?;
    let variable = program.variable(operand.variable);
    let leading = variable.ty.shape.dims().first().copied().unwrap_or(0);
    match operand.entry {
        Some(entry) if entry as usize >= leading => {
            Err(format!("variable {} has no entry {entry}", variable.name))
        }
        _ => Ok(()),
    }
}

fn check_move(program: &Program, mv: &Move) -> Result<(), String> {
    check_variable_id(program, mv.source)?;
    check_variable_id(program, mv.destination)?;
    let mut shape = program.variable(mv.source).ty.shape.clone();
    for view in &mv.views {
        // `apply` multiplies the extents of a reshape.
        if let View::Reshape(to) = view
            && to
                .dims()
                .iter()
                .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))
                .is_none()
        {
            return Err("a view is impossibly large".into());
        }
        shape = view
            .apply(&shape)
            .ok_or_else(|| format!("a view does not apply to {shape}"))?;
    }
    Ok(())
}

/// Calls must end, not be nested so deep that a walk over them runs out of stack, nor so many that it takes for ever.
fn check_calls(program: &Program) -> Result<(), String> {
    let mut known: Vec<Option<Steps>> = vec![None; program.procedures.len()];
    // Each round counts the procedures whose calls are all counted: those nested one deeper than the round before.
    for _ in 0..DEEPEST_CALLS {
        for i in 0..known.len() {
            if known[i].is_none() {
                known[i] = count_steps(&program.procedures[i].steps, &known);
            }
        }
    }
    let most = known.iter().flatten();
    if known.iter().any(Option::is_none) {
        return Err("procedures call each other in a circle, or nest too deep".into());
    }
    if most
        .clone()
        .any(|n| n.walked > MOST_WALKED || n.run > MOST_RUN)
    {
        return Err("it would run for ever".into());
    }
    Ok(())
}

/// Steps of a procedure with all that it calls.
#[derive(Clone, Copy)]
struct Steps {
    /// A repeated body once.
    walked: u64,
    /// A repeated body every time.
    run: u64,
}

/// `None` while a called procedure is not counted.
fn count_steps(steps: &[Step], known: &[Option<Steps>]) -> Option<Steps> {
    let mut total = Steps { walked: 0, run: 0 };
    for step in steps {
        total.walked = total.walked.saturating_add(1);
        total.run = total.run.saturating_add(1);
        for (body, times) in step.bodies() {
            let body = known[body.index()]?;
            total.walked = total.walked.saturating_add(body.walked);
            total.run = total
                .run
                .saturating_add(times.saturating_mul(body.run.max(1)));
        }
    }
    Some(total)
}

fn check_ipu(program: &Program, ipu: u32) -> Result<(), String> {
    in_range(ipu as usize, program.ipus as usize, "IPU")
}

fn check_grid_id(program: &Program, id: GridId) -> Result<(), String> {
    in_range(id.index(), program.grids.len(), "grid")
}

fn check_variable_id(program: &Program, id: VarId) -> Result<(), String> {
    in_range(id.index(), program.variables.len(), "variable")
}

fn check_procedure(program: &Program, id: ProcId) -> Result<(), String> {
    in_range(id.index(), program.procedures.len(), "procedure")
}

fn check_origin(program: &Program, id: OriginId) -> Result<(), String> {
    in_range(id.index(), program.origins.len(), "origin")
}

fn in_range(id: usize, count: usize, what: &str) -> Result<(), String> {
    if id < count {
        Ok(())
    } else {
        Err(format!("there is no {what} {id}"))
    }
}
