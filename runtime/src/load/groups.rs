//! Vertex groups: codelets become kernels, and every vertex is shown to its kernel once.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::program::{Codelet, ComputeSet, Operand, Program, Rounding, VertexGroup};
use superstep_ir::types::DType;

use super::phases::Context;
use crate::codelets::{self, Isa, Kernel, Vertex, apart, kernel};
use crate::compute::{Group, GroupOperand};
use crate::error::EngineError;
use crate::exchange::place;

/// What decides whether a kernel accepts the vertices of a group: the codelet, and for each operand (inputs, then outputs) its layout
/// and whether it is one entry.
type Signature = (Codelet, usize, SmallVec<[(u32, bool); 6]>);

/// Kernels by signature, with the time of the group's vertices.
pub(super) struct Kernels {
    isa: Isa,
    known: FxHashMap<Signature, (Arc<dyn Kernel>, f64)>,
}

impl Kernels {
    pub(super) fn new(isa: Isa) -> Kernels {
        Kernels {
            isa,
            known: FxHashMap::default(),
        }
    }
}

/// Addresses on the tile stand for those of memory while a program is checked.
fn on_its_tile(program: &Program) -> impl Fn(&GroupOperand, u32) -> *mut u8 {
    |operand, tile| {
        let address = program.variable(operand.variable).address;
        let of_tile = (tile as usize).wrapping_mul(program.machine.tile_memory as usize);
        std::ptr::without_provenance_mut(of_tile.wrapping_add(address as usize))
    }
}

/// The groups of a compute set, step number `step`, all vertices checked.
pub(super) fn load(
    context: &Context<'_>,
    kernels: &mut Kernels,
    set: &ComputeSet,
    step: u32,
) -> Result<Vec<Group>, EngineError> {
    let load = |(i, group): (usize, &VertexGroup)| {
        let mut loaded = load_group(context, kernels, &set.name, group)?;
        if context.program.rounding == Rounding::Stochastic {
            loaded.at_random = Some((step, i as u8));
        }
        Ok(loaded)
    };
    set.groups.iter().enumerate().map(load).collect()
}

fn load_group(
    context: &Context<'_>,
    kernels: &mut Kernels,
    set: &str,
    group: &VertexGroup,
) -> Result<Group, EngineError> {
    let (program, layouts) = (context.program, context.layouts);
    let operand_error = |operand: String, reason: String| EngineError::Operand {
        set: set.into(),
        codelet: group.codelet.name(),
        operand,
        reason,
    };
    let resolve = |operand: &Operand| {
        let resolved = resolve_operand(context, group, operand);
        resolved.map_err(|reason| {
            operand_error(
                format!("`{}`", program.variable(operand.variable).name),
                reason,
            )
        })
    };
    let inputs: Vec<GroupOperand> = group.inputs.iter().map(resolve).collect::<Result<_, _>>()?;
    let outputs: Vec<GroupOperand> = group
        .outputs
        .iter()
        .map(resolve)
        .collect::<Result<_, _>>()?;
    let signature = |o: &GroupOperand| (o.layout.id, o.entry.is_some());
    let signature: Signature = (
        group.codelet.clone(),
        inputs.len(),
        inputs.iter().chain(&outputs).map(signature).collect(),
    );
    let known = kernels.known.get(&signature).cloned();
    let is_known = known.is_some();
    let (kernel, mut nanoseconds) = match known {
        Some(known) => known,
        None => {
            let types = |operands: &[GroupOperand]| {
                operands
                    .iter()
                    .map(|o| o.layout.dtype)
                    .collect::<Vec<DType>>()
            };
            let kernel = kernel(
                &group.codelet,
                &types(&inputs),
                &types(&outputs),
                kernels.isa,
            )
            .map_err(|source| EngineError::Codelet {
                set: set.into(),
                source: Box::new(source),
            })?;
            (kernel.into(), 0.0)
        }
    };
    let grid = layouts.grids[group.grid.index()].clone();
    let mut loaded = Group {
        kernel,
        grid,
        inputs,
        outputs,
        forwarded: None,
        reads_output: group.codelet.reads_output(),
        at_random: None,
        nanoseconds,
    };
    if !is_known {
        for point in 0..loaded.grid.tiles.len() {
            let vertex = loaded.vertex(point, on_its_tile(program));
            loaded
                .kernel
                .check(&vertex)
                .map_err(|m| operand_error(m.operand, m.reason))?;
            nanoseconds += loaded.kernel.nanoseconds(&vertex);
        }
        loaded.nanoseconds = nanoseconds;
        kernels
            .known
            .insert(signature, (loaded.kernel.clone(), loaded.nanoseconds));
    }
    check_apart(program, &loaded, group.codelet.may_run_in_place())
        .map_err(|reason| operand_error("a result".into(), reason))?;
    Ok(loaded)
}

/// The operand's layout and address, if it lies on the tiles of the group.
fn resolve_operand(
    context: &Context<'_>,
    group: &VertexGroup,
    operand: &Operand,
) -> Result<GroupOperand, String> {
    let program = context.program;
    let variable = program.variable(operand.variable);
    let (own, grid) = (program.grid(variable.grid), program.grid(group.grid));
    let same = |a: &superstep_ir::program::Axis, b: &superstep_ir::program::Axis| {
        (a.extent, a.stride) == (b.extent, b.stride)
    };
    let same_tiles = variable.grid == group.grid
        || ((own.ipu, own.base, own.tiles) == (grid.ipu, grid.base, grid.tiles)
            && own.axes.len() == grid.axes.len()
            && own.axes.iter().zip(&grid.axes).all(|(a, b)| same(a, b)));
    if !same_tiles {
        return Err(format!(
            "lies on grid `{}`, the vertices on `{}`",
            own.name, grid.name
        ));
    }
    let layout = context.layouts.layout(operand.variable).clone();
    if let Some(entry) = operand.entry {
        let extent = layout.shape.dims().first().copied().unwrap_or(0);
        if !layout.leading_uncut || entry as usize >= extent {
            return Err(format!(
                "has no entry {entry} of its own on every tile: {}",
                variable.ty
            ));
        }
    }
    Ok(GroupOperand {
        variable: operand.variable,
        entry: operand.entry,
        layout,
        shared: context.shared[operand.variable.index()],
        place: place(program, context.homes, operand.variable),
    })
}

/// Results lie apart from all other operands, or, where the codelet allows it, exactly on an input.
fn check_apart(program: &Program, group: &Group, in_place: bool) -> Result<(), String> {
    // Most groups are cleared by the addresses alone.
    let clear = |a: &GroupOperand, b: &GroupOperand| {
        let start = |o: &GroupOperand| program.variable(o.variable).address as usize;
        let end = |o: &GroupOperand| start(o) + o.layout.max_block_bytes;
        end(a) <= start(b) || end(b) <= start(a)
    };
    let cleared = |(i, output): (usize, &GroupOperand)| {
        let mut others = group.inputs.iter().chain(&group.outputs[i + 1..]);
        others.all(|other| clear(output, other))
    };
    if group.outputs.iter().enumerate().all(cleared) {
        return Ok(());
    }
    for point in 0..group.grid.tiles.len() {
        let Vertex {
            inputs, outputs, ..
        } = group.vertex(point, on_its_tile(program));
        for (i, output) in outputs.iter().enumerate() {
            let on = |input: &codelets::Operand<'_>| in_place && input.range() == output.range();
            let inputs_fit = inputs.iter().all(|input| apart(output, input) || on(input));
            let outputs_fit = outputs[i + 1..].iter().all(|other| apart(output, other));
            if !inputs_fit || !outputs_fit {
                let tile = group.grid.tiles[point];
                return Err(format!("runs into another operand on tile {tile}"));
            }
        }
    }
    Ok(())
}
