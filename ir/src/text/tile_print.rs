//! What one tile holds and computes: the symbolic program expanded at a single tile.

use super::columns::{align, grouped};
use super::program_names::ProgramNames;
use super::program_print::{Printer, live};
use crate::ids::{IpuId, TileId, VarId};
use crate::program::grid::Point;
use crate::program::{Block, Program, Step, Variable};

/// The variables with a block on this tile, by address, and the vertices that run there, in program order.
///
/// The program must have passed the verifier.
pub fn print_tile(program: &Program, ipu: IpuId, tile: TileId) -> String {
    let printer = Printer {
        program,
        names: ProgramNames::of(program),
    };
    let points: Vec<Option<Point>> = program
        .grids
        .iter()
        .map(|g| {
            let mut points = g.iter();
            let point = points.find(|(_, t)| g.ipu == ipu && *t == tile);
            point.map(|(p, _)| p)
        })
        .collect();
    let mut held: Vec<(VarId, &Variable, &Point)> = program
        .variables
        .iter()
        .enumerate()
        .filter_map(|(i, v)| Some((VarId(i as u32), v, points[v.grid.index()].as_ref()?)))
        .collect();
    held.sort_by_key(|(id, v, _)| (v.address, v.live.map(|l| l.0), *id));
    let rows: Vec<Vec<String>> = held
        .iter()
        .map(|(id, v, point)| variable_row(&printer, *id, v, point))
        .collect();
    let end = held
        .iter()
        .map(|(_, v, _)| v.address as usize + v.tile_bytes(program.grid(v.grid)))
        .max();
    let mut out = format!(
        "{ipu} {tile}: {} variables, up to byte {} of {}\n",
        held.len(),
        grouped(end.unwrap_or(0) as u64),
        grouped(program.machine.tile_memory.into()),
    );
    out.push_str(&align("  ", &rows, &[24, 64, 32, 48]));
    let vertices = vertex_rows(&printer, &points);
    out.push_str(&format!("{} vertices\n", vertices.len()));
    out.push_str(&align("  ", &vertices, &[]));
    out
}

fn variable_row(printer: &Printer<'_>, id: VarId, v: &Variable, point: &Point) -> Vec<String> {
    let grid = printer.program.grid(v.grid);
    let bytes = v.tile_bytes(grid) as u64;
    let first = u64::from(v.address);
    vec![
        format!("{first:#07x}..{:#07x}", first + bytes),
        format!("%{}", printer.names.variable(id)),
        v.ty.to_string(),
        format!("block {}", block_text(&v.block(grid, point), v)),
        format!(
            "// {} B, {}, {}",
            grouped(bytes),
            live(v),
            v.category.name()
        ),
    ]
}

/// `[12..24, .]`
fn block_text(block: &Block, v: &Variable) -> String {
    let dims: Vec<String> = (0..v.ty.shape.rank())
        .map(|d| {
            let (start, len) = (block.start[d], block.shape[d]);
            if len == v.ty.shape[d] {
                ".".into()
            } else {
                format!("{start}..{}", start + len)
            }
        })
        .collect();
    format!("[{}]", dims.join(", "))
}

fn vertex_rows(printer: &Printer<'_>, points: &[Option<Point>]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut number = 0u64;
    printer.program.walk(&mut |step, times| {
        if let Step::Compute(set) = step {
            for group in &set.groups {
                if points[group.grid.index()].is_some() {
                    let times = match times {
                        1 => String::new(),
                        n => format!("{} times", grouped(n)),
                    };
                    let call = printer.group_call(group);
                    rows.push(vec![format!("step {}", grouped(number)), call, times]);
                }
            }
        }
        number += 1;
    });
    rows
}
