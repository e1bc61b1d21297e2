//! Programs to text: grids, variables with their layout and address, procedures with their steps. Everything that a comment tells can
//! be worked out from the line it stands behind.
//!
//! ```text
//! program @fc on mk2, 1 ipu
//!
//! grid rows(i 2)     = ipu 0 tile 8i            // 2 tiles
//! grid fc(m 2, n 2)  = ipu 0 tile 2 + 2m + n    // 4 tiles
//!
//! variable %x   : f32[24, 32]  cut rows[i, .]   at 0x50000  // 1,536 B a tile, steps 0..1, activation
//! variable %fc.x: f32[24, 32]  cut fc[m, .]     at 0x50000  // 1,536 B a tile, steps 1..2, temporary
//!
//! procedure main {
//!   sync ipu 0                                         // step 0
//!   exchange "fc.x"                                    // step 1
//!     %x -> %fc.x                                      // 3,072 B into 2 copies
//!   compute "fc"                                       // step 2
//!     amp_matmul(%fc.x, %w -> %fc) on fc               // 4 tiles: f32[12, 32], f32[32, 16] -> f32[12, 16]
//! }
//! ```
//!
//! `cut fc[m, .]`: the first dimension is cut by axis `m`, the second is not; along axes not named there are copies. `m*n` is a cut by
//! two axes, `m by 8` one in grains of 8 elements. A move names the source, the views it is seen through, and what it fills.

use super::columns::{align, grouped};
use super::graph_print::{counted, graph_name, real};
use super::lexer::quote;
use super::map_expr;
use super::program_names::ProgramNames;
use crate::ids::{GridId, IpuId, ProcId, VarId};
use crate::op::ReduceKind;
use crate::program::{
    Codelet, Cut, Direction, Exchange, Grid, Move, Operand, Procedure, Program, RemoteDirection,
    Rounding, Step, Sync, Variable, VertexGroup, View,
};
use crate::types::{Shape, TensorType};

/// Left columns longer than this do not push the comments of all other lines to the right.
const LEFT_COLUMN_MAX: usize = 100;

/// The text of a whole program.
pub fn print_program(program: &Program) -> String {
    let p = Printer {
        program,
        names: ProgramNames::of(program),
    };
    let ipus = if program.ipus == 1 { "ipu" } else { "ipus" };
    let mut out = format!(
        "program @{} on {}, {} {ipus}{}\n",
        graph_name(&program.name),
        program.machine.name,
        program.ipus,
        match program.rounding {
            Rounding::Nearest => "",
            Rounding::Stochastic => ", stochastic rounding",
        }
    );
    for section in [p.grids(), p.states_and_streams(), p.variables()] {
        if !section.is_empty() {
            out.push('\n');
            out.push_str(&section);
        }
    }
    for (i, procedure) in program.procedures.iter().enumerate() {
        out.push('\n');
        out.push_str(&p.procedure(ProcId(i as u32), procedure));
    }
    out.push_str(&format!("\nentry {}\n", p.names.procedure(program.entry)));
    for &part in &program.parts {
        out.push_str(&format!("part {}\n", p.names.procedure(part)));
    }
    out
}

pub(super) struct Printer<'p> {
    pub(super) program: &'p Program,
    pub(super) names: ProgramNames,
}

/// A line without a comment, then one.
fn line(left: String, comment: String) -> Vec<String> {
    let comment = match comment.as_str() {
        "" => String::new(),
        text => format!("// {text}"),
    };
    vec![left, comment]
}

impl Printer<'_> {
    fn grids(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .program
            .grids
            .iter()
            .enumerate()
            .map(|(i, grid)| {
                let axes: Vec<String> = grid
                    .axes
                    .iter()
                    .map(|a| format!("{} {}", a.name, a.extent))
                    .collect();
                let name = self.names.grid(GridId(i as u32));
                let tiles: u64 = grid.axes.iter().map(|a| u64::from(a.extent)).product();
                let comment = format!("// {} tiles", grouped(tiles));
                vec![
                    format!("grid {name}({})", axes.join(", ")),
                    format!("= {} tile {}", grid.ipu, tile_function(grid)),
                    comment,
                ]
            })
            .collect();
        align("", &rows, &[48, 48])
    }

    fn states_and_streams(&self) -> String {
        let states = self.program.states.iter().map(|s| {
            vec![
                format!("state {} {{{}}}", quote(&s.name), s.kind.name()),
                format!("= %{}", self.names.variable(s.variable)),
            ]
        });
        let streams = self.program.streams.iter().map(|s| {
            let (keyword, arrow) = match s.direction {
                Direction::HostToDevice => ("input", "->"),
                Direction::DeviceToHost => ("output", "<-"),
            };
            vec![
                format!("{keyword} {}", quote(&s.name)),
                format!("{arrow} %{}", self.names.variable(s.variable)),
            ]
        });
        align("", &states.chain(streams).collect::<Vec<_>>(), &[64])
    }

    fn variables(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .program
            .variables
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let comment = format!(
                    "// {} B a tile, {}, {}",
                    self.tile_bytes(v).map_or("?".into(), grouped),
                    live(v),
                    v.category.name()
                );
                vec![
                    format!("variable %{}", self.names.variable(VarId(i as u32))),
                    format!(": {}", v.ty),
                    format!("cut {}", self.cut(v)),
                    format!("at {:#07x}", v.address),
                    comment,
                ]
            })
            .collect();
        align("", &rows, &[64, 32, 48])
    }

    fn grid_of(&self, v: &Variable) -> Option<&Grid> {
        self.program.grids.get(v.grid.index())
    }

    /// Bytes on each tile, if the layout makes sense.
    fn tile_bytes(&self, v: &Variable) -> Option<u64> {
        let block = self.largest_block(v)?;
        let bytes = block.elements() * v.ty.dtype.bytes();
        Some(crate::units::align_up(bytes, Variable::ALIGNMENT as usize) as u64)
    }

    fn largest_block(&self, v: &Variable) -> Option<Shape> {
        let grid = self.grid_of(v)?;
        let is_sound = v.cuts.iter().all(|c| {
            let axes_exist = c.axes.iter().all(|&a| usize::from(a) < grid.axes.len());
            c.grain > 0 && axes_exist && c.parts(grid) > 0
        });
        is_sound.then(|| v.largest_block(grid))
    }

    /// `fc[m, .]`
    fn cut(&self, v: &Variable) -> String {
        let axes = self.grid_of(v).map_or(&[][..], |g| g.axes.as_slice());
        let dimension = |cut: &Cut| {
            if cut.axes.is_empty() {
                return ".".to_string();
            }
            let names: Vec<&str> = cut
                .axes
                .iter()
                .map(|&a| axes.get(usize::from(a)).map_or("?", |a| a.name.as_str()))
                .collect();
            match cut.grain {
                1 => names.join("*"),
                grain => format!("{} by {grain}", names.join("*")),
            }
        };
        let cuts: Vec<String> = v.cuts.iter().map(dimension).collect();
        format!("{}[{}]", self.names.grid(v.grid), cuts.join(", "))
    }

    fn procedure(&self, id: ProcId, procedure: &Procedure) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        for step in &procedure.steps {
            let number = self.names.step(step);
            let comment = number.map_or("never run".into(), |n| {
                format!("step {}", grouped(n.into()))
            });
            rows.push(line(self.head(step), comment));
            match step {
                Step::Compute(set) => {
                    rows.extend(set.groups.iter().map(|g| self.group(g)));
                }
                Step::Exchange(exchange) => rows.extend(self.moves(exchange)),
                _ => {}
            }
        }
        let steps = align("  ", &rows, &[LEFT_COLUMN_MAX]);
        format!("procedure {} {{\n{steps}}}\n", self.names.procedure(id))
    }

    /// The first line of a step.
    fn head(&self, step: &Step) -> String {
        match step {
            Step::Compute(set) => format!("compute {}", quote(&set.name)),
            Step::Exchange(exchange) => format!("exchange {}", quote(&exchange.name)),
            Step::Sync(Sync::Ipu(ipu)) => format!("sync {ipu}"),
            Step::Sync(Sync::Group { first, count }) => {
                let last = first.0.saturating_add(count.saturating_sub(1));
                format!("sync {first} to {}", IpuId(last))
            }
            Step::Sync(Sync::Replica) => "sync replica".into(),
            Step::Host { stream, .. } => match self.program.streams.get(*stream as usize) {
                Some(s) => {
                    let keyword = match s.direction {
                        Direction::HostToDevice => "receive",
                        Direction::DeviceToHost => "send",
                    };
                    let variable = self.names.variable(s.variable);
                    format!("{keyword} {} %{variable}", quote(&s.name))
                }
                None => format!("transfer by unknown stream {stream}"),
            },
            Step::Remote {
                state, direction, ..
            } => match self.program.states.get(*state as usize) {
                Some(s) => {
                    let keyword = match direction {
                        RemoteDirection::Load => "load",
                        RemoteDirection::Store => "store",
                    };
                    let variable = self.names.variable(s.variable);
                    format!("{keyword} {} %{variable}", quote(&s.name))
                }
                None => format!("transfer of unknown state {state}"),
            },
            Step::SetSeed { seed, .. } => {
                format!("set seed %{}", self.names.variable(*seed))
            }
            Step::Collective(c) => {
                let (source, destination) = (
                    self.names.variable(c.source),
                    self.names.variable(c.destination),
                );
                let name = quote(&c.name);
                format!("{} {name} %{source} -> %{destination}", c.kind.name())
            }
            Step::Repeat { count, body } => {
                format!("repeat {count} times {}", self.names.procedure(*body))
            }
            Step::Call(p) => format!("call {}", self.names.procedure(*p)),
            Step::Parallel(bodies) => {
                let names: Vec<&str> = bodies.iter().map(|&p| self.names.procedure(p)).collect();
                format!("at once {}", names.join(" | "))
            }
        }
    }

    pub(super) fn group_call(&self, group: &VertexGroup) -> String {
        let list = |operands: &[Operand]| {
            let texts: Vec<String> = operands.iter().map(|o| self.operand(o)).collect();
            texts.join(", ")
        };
        let inputs = list(&group.inputs);
        let arrow = if inputs.is_empty() { "-> " } else { " -> " };
        let outputs = list(&group.outputs);
        let (name, attributes) = (group.codelet.name(), attributes(&group.codelet));
        format!("{name}({inputs}{arrow}{outputs}){attributes}")
    }

    fn group(&self, group: &VertexGroup) -> Vec<String> {
        let call = self.group_call(group);
        let left = format!("  {call} on {}", self.names.grid(group.grid));
        let points = self.program.grids.get(group.grid.index()).map(|g| {
            let points: u64 = g.axes.iter().map(|a| u64::from(a.extent)).product();
            points
        });
        let blocks = |operands: &[Operand]| {
            let texts: Vec<String> = operands.iter().map(|o| self.operand_block(o)).collect();
            texts.join(", ")
        };
        let comment = format!(
            "{} tiles: {} -> {}",
            points.map_or("?".into(), grouped),
            blocks(&group.inputs),
            blocks(&group.outputs)
        );
        line(left, comment.replace(":  ->", ": ->"))
    }

    fn operand(&self, operand: &Operand) -> String {
        let name = self.names.variable(operand.variable);
        match operand.entry {
            None => format!("%{name}"),
            Some(i) => format!("%{name}[{i}]"),
        }
    }

    /// The largest block of an operand as a type.
    fn operand_block(&self, operand: &Operand) -> String {
        let variable = self.program.variables.get(operand.variable.index());
        let Some((v, mut block)) = variable.and_then(|v| Some((v, self.largest_block(v)?))) else {
            return "?".into();
        };
        if operand.entry.is_some() && block.rank() > 0 {
            block.0.remove(0);
        }
        TensorType::new(v.ty.dtype, block).to_string()
    }

    fn moves(&self, exchange: &Exchange) -> Vec<Vec<String>> {
        exchange.moves.iter().map(|m| self.one_move(m)).collect()
    }

    fn one_move(&self, mv: &Move) -> Vec<String> {
        let mut left = format!("  %{}", self.names.variable(mv.source));
        for view in &mv.views {
            left.push_str(&format!(" | {}", view_text(view)));
        }
        left.push_str(&format!(" -> %{}", self.names.variable(mv.destination)));
        let source = self.program.variables.get(mv.source.index());
        let destination = self.program.variables.get(mv.destination.index());
        let (Some(source), Some(destination)) = (source, destination) else {
            return line(left, "of an unknown variable".into());
        };
        let viewed = mv
            .views
            .iter()
            .try_fold(source.ty.shape.clone(), |shape, v| v.apply(&shape));
        let Some(written) = viewed else {
            return line(left, "views that do not apply".into());
        };
        if written != destination.ty.shape || mv.at.iter().any(|&a| a > 0) {
            left.push_str(&box_text(&written, &mv.at, &destination.ty.shape));
        }
        let bytes = (written.elements() * source.ty.dtype.bytes()) as u64;
        let copies: u64 = self.grid_of(destination).map_or(1, |g| {
            destination
                .copy_axes(g)
                .map(|a| u64::from(g.axes[a].extent))
                .product()
        });
        let comment = match copies {
            1 => format!("{} B", grouped(bytes)),
            n => format!("{} B into {} copies", grouped(bytes), grouped(n)),
        };
        line(left, comment)
    }
}

/// `steps 3..17` or `always live`.
pub(super) fn live(v: &Variable) -> String {
    match v.live {
        None => "always live".into(),
        Some((first, last)) => format!("steps {}..{}", grouped(first.into()), grouped(last.into())),
    }
}

/// `2 + 2m + n`
fn tile_function(grid: &Grid) -> String {
    let mut terms: Vec<String> = Vec::new();
    if grid.base > 0 || grid.axes.is_empty() {
        terms.push(grid.base.to_string());
    }
    terms.extend(grid.axes.iter().map(|a| match a.stride {
        1 => a.name.clone(),
        stride => format!("{stride}{}", a.name),
    }));
    let sum = terms.join(" + ");
    let last: u64 = grid
        .axes
        .iter()
        .map(|a| u64::from(a.stride) * u64::from(a.extent.saturating_sub(1)))
        .sum();
    if u64::from(grid.base) + last < u64::from(grid.tiles) {
        sum
    } else {
        format!("({sum}) mod {}", grid.tiles)
    }
}

fn view_text(view: &View) -> String {
    match view {
        View::Reshape(shape) => format!("reshape {shape}"),
        View::Transpose(perm) => format!("transpose {perm:?}"),
        View::Slice { axis, start, len } => {
            format!("slice axis {axis} {start}..{}", start.saturating_add(*len))
        }
    }
}

/// `[0..4, .]`: where a box of `written` at `at` lies; `.` is a whole dimension.
fn box_text(written: &Shape, at: &[usize], whole: &Shape) -> String {
    let dims: Vec<String> = written
        .dims()
        .iter()
        .zip(at)
        .enumerate()
        .map(|(d, (&len, &start))| {
            if start == 0 && whole.dims().get(d) == Some(&len) {
                ".".into()
            } else {
                format!("{start}..{}", start.saturating_add(len))
            }
        })
        .collect();
    format!("[{}]", dims.join(", "))
}

/// The attributes of a codelet in braces.
fn attributes(codelet: &Codelet) -> String {
    let mut list: Vec<String> = Vec::new();
    let mut flag = |is_set: bool, name: &str| list.extend(is_set.then(|| name.to_string()));
    match codelet {
        Codelet::Matmul {
            transpose_a,
            transpose_b,
            accumulate,
        } => {
            flag(*transpose_a, "transpose_a");
            flag(*transpose_b, "transpose_b");
            flag(*accumulate, "accumulate");
        }
        Codelet::Map(expr) => list.push(map_expr::print(expr)),
        Codelet::Fill { value } => list.push(format!("value: {}", real(*value))),
        Codelet::Reduce { kind } => flag(true, kind_name(*kind)),
        Codelet::SumPartials { accumulate } => flag(*accumulate, "accumulate"),
        Codelet::LayerNorm { epsilon } => list.push(format!("epsilon: {}", real(*epsilon))),
        Codelet::Softmax { scale, causal } => {
            flag(*causal, "causal");
            list.push(format!("scale: {}", real(*scale)));
        }
        Codelet::SoftmaxGrad { scale } => list.push(format!("scale: {}", real(*scale))),
        Codelet::RowMaxSum { padding } => list.extend(counted("padding", *padding as usize)),
        Codelet::PickLabel { first }
        | Codelet::Gather { first }
        | Codelet::ScatterAdd { first } => list.extend(counted("first", *first as usize)),
        Codelet::CrossEntropyGrad { first, padding } => {
            list.extend(counted("first", *first as usize));
            list.extend(counted("padding", *padding as usize));
        }
        Codelet::Dropout { p, key } => list.push(format!("p: {}, key: {key}", real(*p))),
        _ => {}
    }
    if list.is_empty() {
        String::new()
    } else {
        format!(" {{{}}}", list.join(", "))
    }
}

const fn kind_name(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "sum",
        ReduceKind::SumSquares => "sum_squares",
        ReduceKind::Max => "max",
    }
}
