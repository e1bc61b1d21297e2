//! One op of a program step by step: what it computes and moves, on how many tiles, and how its tensors lie.

use serde::Serialize;
use superstep_ir::ids::VarId;
use superstep_ir::program::{Cut, Grid, Program, Step, VertexGroup};
use superstep_runtime::timeline::{Timeline, timeline};

use crate::report::format::{bytes, grouped};

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpStep {
    pub kind: &'static str,
    pub name: String,
    /// Of one execution.
    pub cycles: u64,
    /// Tiles that compute; 0 for other kinds.
    pub tiles: u32,
    /// Bytes that tiles receive.
    pub bytes: u64,
    /// What is done, with layouts.
    pub what: Vec<String>,
}

/// An op and its steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpSteps {
    pub op: String,
    pub kind: String,
    pub ipu: u32,
    pub cycles: u64,
    pub steps: Vec<OpStep>,
}

/// The steps of the op `name`, or `None` if the program has no such op.
pub fn op_steps(program: &Program, name: &str) -> Option<OpSteps> {
    let id = program.origins.iter().position(|o| o.name == name)?;
    let origin = &program.origins[id];
    let account: Timeline = timeline(program);
    let mut described: Vec<Vec<String>> = Vec::new();
    program.walk(&mut |step, _| described.push(describe(program, step)));
    let steps: Vec<OpStep> = account
        .steps
        .iter()
        .filter(|step| step.origin == Some(id as u32))
        .map(|step| OpStep {
            kind: step.kind.name(),
            name: step.name.clone(),
            cycles: step.cycles,
            tiles: step.tiles,
            bytes: step.bytes,
            what: described
                .get(step.index as usize)
                .cloned()
                .unwrap_or_default(),
        })
        .collect();
    Some(OpSteps {
        op: name.to_string(),
        kind: origin.kind.clone(),
        ipu: origin.ipu.0,
        cycles: steps.iter().map(|s| s.cycles).sum(),
        steps,
    })
}

/// Names of ops of which `name` could be a misspelling or a part.
pub fn similar_ops<'p>(program: &'p Program, name: &str) -> Vec<&'p str> {
    let names = program.origins.iter().map(|o| o.name.as_str());
    let part = name.rsplit('.').next().unwrap_or(name);
    let mut similar: Vec<&str> = names.filter(|n| n.contains(part)).collect();
    similar.dedup();
    similar.truncate(5);
    similar
}

/// Most moves of an exchange that are described.
const MOVES: usize = 3;

fn describe(program: &Program, step: &Step) -> Vec<String> {
    match step {
        Step::Compute(set) => set
            .groups
            .iter()
            .map(|group| vertices(program, group))
            .collect(),
        Step::Exchange(exchange) => {
            let moves = exchange.moves.iter().take(MOVES).map(|mv| {
                let (from, to) = (layout(program, mv.source), layout(program, mv.destination));
                format!("{from} → {to}")
            });
            let more = exchange.moves.len().saturating_sub(MOVES);
            let rest = (more > 0).then(|| format!("and {more} moves more"));
            moves.chain(rest).collect()
        }
        _ => vec![],
    }
}

fn vertices(program: &Program, group: &VertexGroup) -> String {
    let blocks = |operands: &[superstep_ir::program::Operand]| -> String {
        let texts = operands.iter().map(|o| {
            let variable = program.variable(o.variable);
            let mut block = variable.largest_block(program.grid(variable.grid));
            if o.entry.is_some() && block.rank() > 0 {
                block.0.remove(0);
            }
            block.to_string()
        });
        texts.collect::<Vec<_>>().join(", ")
    };
    format!(
        "{} of {} → {}",
        group.codelet.name(),
        blocks(&group.inputs),
        blocks(&group.outputs)
    )
}

/// `h.0.mlp.c_fc.a f32[1024, 768] cut m:5, k:3`.
fn layout(program: &Program, id: VarId) -> String {
    let (variable, grid) = (program.variable(id), program.grid_of(id));
    let cuts = variable.cuts.iter().enumerate();
    let cuts: Vec<String> = cuts
        .filter(|(_, cut)| cut.parts(grid) > 1)
        .map(|(d, cut)| format!("dimension {d} by {}", axes(cut, grid)))
        .collect();
    let cuts = match cuts.is_empty() {
        true => "not cut".to_string(),
        false => cuts.join(", "),
    };
    format!("{} {} ({cuts})", variable.name, variable.ty)
}

fn axes(cut: &Cut, grid: &Grid) -> String {
    let names = cut.axes.iter().map(|&a| {
        let axis = &grid.axes[a as usize];
        format!("{}:{}", axis.name, axis.extent)
    });
    names.collect::<Vec<_>>().join("·")
}

/// The steps as text.
pub fn print(op: &OpSteps) -> String {
    let mut text = format!(
        "{}: {} on IPU {}, {} cycles an execution\n",
        op.op,
        op.kind,
        op.ipu,
        grouped(op.cycles)
    );
    for step in &op.steps {
        let size = match step.kind {
            "compute" => format!("{} tiles", grouped(u64::from(step.tiles))),
            "sync" => String::new(),
            _ => bytes(step.bytes),
        };
        let line = format!(
            "{:>10}  {:<9} {:>11}  {}",
            grouped(step.cycles),
            step.kind,
            size,
            step.name
        );
        text += &format!("\n{}", line.trim_end());
        for what in &step.what {
            text += &format!("\n{:35}{what}", "");
        }
    }
    text
}
