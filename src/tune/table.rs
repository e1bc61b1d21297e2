//! What a search found, for a person at a terminal.

use superstep_ir::machine::Machine;

use super::{Outcome, Tuning};
use crate::report::format::{bytes, grouped, seconds, three_digits};
use crate::report::terminal::table;

/// The best compiled plans.
pub fn winners(tuning: &Tuning, machine: &Machine, limit: usize) -> String {
    let rows = tuning.outcomes.iter().take(limit).map(|outcome| {
        let plan = &outcome.plan;
        let factors = &outcome.factors;
        vec![
            three_digits(outcome.samples_per_second),
            format!("{} × {}", plan.replicas, plan.ipus_per_replica()),
            match plan.tensor_parallel {
                1 => format!("{:?}", plan.layers_per_ipu),
                members => format!("{:?} × {members}", plan.layers_per_ipu),
            },
            plan.batch_size.to_string(),
            plan.accumulation.to_string(),
            recompute(outcome),
            format!("{} × {}", plan.head_slices, outcome.loss_chunks),
            if plan.offchip { "off chip" } else { "tiles" }.to_owned(),
            seconds(machine.seconds(outcome.beat_cycles)),
            grouped(factors.work as u64),
            format!("{:.1} %", 100.0 * factors.balance),
            format!("{:.1} %", 100.0 * factors.steady),
            bytes(outcome.fullest_tile),
        ]
    });
    let header = [
        "samples/s",
        "replicas × IPUs",
        "layers",
        "micro-batch",
        "accumulation",
        "again",
        "head",
        "state",
        "beat",
        "cycles a sample",
        "busy",
        "steady",
        "fullest tile",
    ];
    table(&header, rows, 3)
}

fn recompute(outcome: &Outcome) -> String {
    use superstep_passes::place::Recompute;
    match &outcome.plan.recompute {
        Recompute::Nothing => "none".into(),
        Recompute::EveryLayer => "all".into(),
        Recompute::Layers(layers) => format!("{} layers", layers.len()),
        Recompute::ButProducts(kept) => format!("all, {} without products", kept.len()),
    }
}

/// Why other kinds of plans lost.
pub fn rejections(tuning: &Tuning) -> String {
    let rows = tuning
        .rejected
        .iter()
        .map(|(kind, reason)| vec![kind.clone(), reason.clone()]);
    table(&["kind of plan", "why not"], rows, 2)
}

/// How far any plan could get.
pub fn ceiling(tuning: &Tuning) -> Option<String> {
    let (ceiling, best) = (tuning.ceiling?, tuning.outcomes.first()?);
    Some(format!(
        "if all IPUs worked all the time and ran nothing again: {} samples/s with micro-batches of {} ({} cycles a sample); the best has {:.0} % of that",
        three_digits(ceiling.samples_per_second),
        ceiling.batch_size,
        grouped(ceiling.cycles_per_sample as u64),
        100.0 * best.samples_per_second / ceiling.samples_per_second,
    ))
}

/// Where the gain over the reference comes from: factors whose product it is.
pub fn comparison(reference: &Outcome, best: &Outcome) -> String {
    let (a, b) = (&reference.factors, &best.factors);
    let again = |outcome: &Outcome| {
        format!(
            "{} ({} of them again)",
            grouped(outcome.factors.work as u64),
            grouped(outcome.factors.again as u64)
        )
    };
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let times = |x: f64| format!("× {x:.3}");
    let rows = [
        (
            "IPUs",
            a.ipus.to_string(),
            b.ipus.to_string(),
            f64::from(b.ipus) / f64::from(a.ipus.max(1)),
        ),
        (
            "cycles of all IPUs for a sample: work, and how well it is done",
            again(reference),
            again(best),
            a.work / b.work.max(1.0),
        ),
        (
            "of a beat the mean IPU is busy: balance of stages, links",
            percent(a.balance),
            percent(b.balance),
            b.balance / a.balance.max(1e-9),
        ),
        (
            "of an update are beats of micro-batches: bubble, update",
            percent(a.steady),
            percent(b.steady),
            b.steady / a.steady.max(1e-9),
        ),
        (
            "samples/s",
            three_digits(reference.samples_per_second),
            three_digits(best.samples_per_second),
            best.samples_per_second / reference.samples_per_second,
        ),
    ];
    let rows = rows
        .into_iter()
        .map(|(what, a, b, factor)| vec![what.to_owned(), a, b, times(factor)]);
    table(&["where the gain is", "reference", "best", ""], rows, 1)
}
