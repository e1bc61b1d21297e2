//! Explanations as text.

use superstep_ir::class_name::class_name;
use superstep_ir::machine::Machine;
use superstep_ir::types::DType;
use superstep_passes::plan::matmul::{
    Inner, MatmulPlan, MatmulProblem, Operand, Outcome, PlannedProduct,
};

use super::shapes::{DEFAULT_PROPORTION, Shape, geometric_mean};
use super::{Candidate, ProductExplanation, parts};
use crate::report::format::{bytes, grouped, share};
use crate::report::terminal::table;

/// Everything about one product.
pub fn product(e: &ProductExplanation) -> String {
    let name = e.op.as_deref().unwrap_or("matmul");
    let head = format!(
        "{name}: {} on {}\nplan    {}\ncycles  {} = {} compute + {} exchange + {} sync; arithmetic alone {} ({})\n\
         memory  {} on a tile with its part of the result; {} for operands and partials, of {} that are free",
        problem(&e.problem),
        e.machine,
        plan(&e.plan),
        grouped(e.cycles),
        grouped(e.compute_cycles),
        grouped(e.exchange_cycles),
        grouped(e.sync_cycles),
        grouped(e.bound_cycles),
        share(e.bound_cycles, e.cycles),
        bytes(e.tile_bytes),
        bytes(e.plan.cost.working_bytes()),
        bytes(e.budget_bytes),
    );
    let mut text = format!("{head}\n\nthe best of each kind\n{}", candidates(e));
    if !e.reasons.is_empty() {
        let lines: Vec<String> = e.reasons.iter().map(|r| format!("  {r}")).collect();
        text += &format!("\n\nwhy not\n{}", lines.join("\n"));
    }
    text += &format!(
        "\n\nmemory against cycles: {} plans that none beats in both\n{}",
        e.pareto.len(),
        front(e)
    );
    text
}

fn candidates(e: &ProductExplanation) -> String {
    let chosen = ("chosen", true, &e.plan);
    let others = e
        .candidates
        .iter()
        .map(|Candidate { kind, fits, plan }| (*kind, *fits, plan));
    let rows = std::iter::once(chosen).chain(others);
    let rows = rows.map(|(kind, fits, p)| {
        let mut row = vec![kind.to_string(), plan(p), grouped(p.cost.cycles())];
        row.extend(parts(&p.cost).iter().map(|&(_, cycles)| grouped(cycles)));
        let over = if fits { "" } else { " (too much)" };
        row.push(format!("{}{over}", bytes(p.cost.working_bytes())));
        row.push(grouped(p.tiles() as u64));
        row
    });
    let header = [
        "kind", "plan", "cycles", "multiply", "turn", "sums", "operands", "shifts", "partials",
        "sync", "memory", "tiles",
    ];
    table(&header, rows, 2)
}

/// Most lines of a Pareto front.
const FRONT_LINES: usize = 24;

fn front(e: &ProductExplanation) -> String {
    // Evenly spaced when there are too many; the chosen one always.
    let step = e.pareto.len().div_ceil(FRONT_LINES).max(1);
    let shown = e
        .pareto
        .iter()
        .enumerate()
        .filter(|(i, p)| i % step == 0 || i + 1 == e.pareto.len() || **p == e.plan);
    let rows = shown.map(|(_, p)| {
        let mark = if *p == e.plan { "→" } else { "" };
        vec![
            mark.to_string(),
            plan(p),
            bytes(p.cost.working_bytes()),
            grouped(p.cost.cycles()),
            share(e.bound_cycles, p.cost.cycles()),
        ]
    });
    table(&["", "plan", "memory", "cycles", "of peak"], rows, 2)
}

/// All products of a program, those of equal layers and chunks as one.
pub fn products(planned: &[PlannedProduct]) -> String {
    let mut rows: Vec<(Vec<String>, usize)> = Vec::new();
    for p in planned {
        let row = vec![
            class_name(&p.op),
            problem(&p.problem),
            plan(&p.plan),
            grouped(p.plan.cost.cycles()),
            bytes(p.plan.cost.working_bytes()),
        ];
        match rows.iter_mut().find(|known| known.0 == row) {
            Some(known) => known.1 += 1,
            None => rows.push((row, 1)),
        }
    }
    let rows = rows.into_iter().map(|(mut row, n)| {
        row.insert(1, n.to_string());
        row
    });
    table(&["op", "n", "product", "plan", "cycles", "memory"], rows, 4)
}

/// `[1024, 768] · [768, 3072] f32`.
pub fn problem(p: &MatmulProblem) -> String {
    let groups = if p.groups > 1 {
        format!("{} × ", p.groups)
    } else {
        String::new()
    };
    let turned = |is: bool| if is { "ᵀ" } else { "" };
    let mode = match (p.input, p.partials) {
        (DType::F16, DType::F16) => "f16.16",
        (DType::F16, _) => "f16.32",
        _ => "f32",
    };
    let b = match p.b {
        Operand::Elsewhere => "",
        Operand::RestsHere => ", b rests on its tiles",
        Operand::Stays { .. } => ", made where b rests",
    };
    let out = match p.out {
        Outcome::Stays => "",
        Outcome::Travels => ", added elsewhere",
        Outcome::Fixed { .. } => ", added in place",
    };
    format!(
        "{groups}[{}, {}]{} · [{}, {}]{} {mode}{b}{out}",
        p.m,
        p.k,
        turned(p.transpose_a),
        p.k,
        p.n,
        turned(p.transpose_b)
    )
}

/// `m 5 × k 4 × n 72, rows sliced 2, shift b over 8`.
pub fn plan(p: &MatmulPlan) -> String {
    let splits = [("g", p.g), ("m", p.m), ("k", p.k), ("n", p.n)];
    let split: Vec<String> = splits
        .iter()
        .filter(|(_, parts)| *parts > 1)
        .map(|(name, parts)| format!("{name} {parts}"))
        .collect();
    let mut words = vec![if split.is_empty() {
        "one tile".to_string()
    } else {
        split.join(" × ")
    }];
    if p.inner == Inner::M {
        words.push("m innermost".into());
    }
    if p.serial_m > 1 {
        words.push(format!("rows in {} slices", p.serial_m));
    }
    if p.serial_k > 1 {
        words.push(format!("k in {} slices", p.serial_k));
    }
    for (turned, name) in [(p.turn_a, "a"), (p.turn_b, "b")] {
        if turned {
            words.push(format!("{name} turned first"));
        }
    }
    if let Some(ring) = p.ring {
        let who = match (ring.a, ring.b) {
            (true, true) => "a and b",
            (true, false) => "a",
            _ => "b",
        };
        words.push(format!("{who} rotate over {}", ring.length));
    }
    words.join(", ")
}

/// The products of a model.
pub fn shapes(shapes: &[Shape], machine: &Machine) -> String {
    let rows = shapes.iter().map(|s| {
        let cost = &s.plan.cost;
        vec![
            s.name.clone(),
            problem(&s.problem),
            plan(&s.plan),
            grouped(cost.cycles()),
            share(s.bound_cycles, cost.cycles()),
            share(cost.exchange(), cost.cycles()),
            bytes(cost.working_bytes()),
            grouped(s.poplibs.cost.cycles()),
            format!("{:.2}", s.speedup()),
            grouped(s.gather.cost.cycles()),
            format!("{:.2}", s.speedup_with_equal_partials()),
        ]
    });
    let header = [
        "op",
        "product",
        "plan",
        "cycles",
        "of peak",
        "exchange",
        "memory",
        "default",
        "times",
        "equal partials",
        "times",
    ];
    format!(
        "{}\n\ngeometric mean over {} products on {}: {:.2} times as fast as the best gather with PopLibs' default settings \
         (f32 partials, {} of a tile's memory), {:.2} times with equal partials",
        table(&header, rows, 3),
        shapes.len(),
        machine.name,
        geometric_mean(shapes, Shape::speedup),
        DEFAULT_PROPORTION,
        geometric_mean(shapes, Shape::speedup_with_equal_partials),
    )
}
