//! Ops by class: the same op of every layer, or of every chunk of the loss, is one row. `h.*.mlp.c_fc` is twelve ops of GPT-2 small.

use indexmap::IndexMap;
use serde::Serialize;
use superstep_ir::class_name::class_name;
use superstep_ir::machine::{Machine, bounds};
use superstep_ir::program::Program;
use superstep_runtime::timeline::{Ledger, OriginTime, Timeline};

/// Cycles by cause, in the order of the ledger; they sum to the cycles they explain.
pub type ByCause = IndexMap<&'static str, u64>;

/// Ops that differ only in the numbers of their layer or chunk, over a whole optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpClass {
    /// The op's name with `*` for numbers.
    pub name: String,
    pub kind: String,
    pub phase: &'static str,
    /// Executions of all ops of the class.
    pub executions: u64,
    /// Of all executions and all kinds.
    pub cycles: u64,
    /// Of them, those that the step waits for: not what an IPU does while another takes longer. They sum to the step's over all classes.
    pub critical_cycles: u64,
    /// Of one execution, on average.
    pub cycles_each: u64,
    pub flops: u64,
    pub bytes_exchanged: u64,
    /// Most tiles that one of their compute sets uses.
    pub tiles: u32,
    /// `cycles` by cause.
    pub ledger: ByCause,
    pub roofline: Roofline,
}

/// Lower bounds of the cycles of an op, if all tiles of its IPU shared its work evenly. A tile of a bulk-synchronous machine computes or
/// exchanges, so the bound of the whole is the larger of the first two plus the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Arithmetic at the peak of its unit.
    pub arithmetic: u64,
    /// Bytes that vertices touch, at the width of tile memory.
    pub memory: u64,
    /// Bytes that tiles receive, at the rate of the exchange.
    pub exchange: u64,
    /// Bytes between IPUs, over the busiest link.
    pub links: u64,
    pub bound: u64,
    /// Which of the four is largest.
    pub binds: &'static str,
    /// `cycles` over `bound`; absent where the bound is 0.
    pub gap: Option<f64>,
}

impl Roofline {
    pub(super) fn new(machine: &Machine, time: &OriginTime) -> Roofline {
        use superstep_runtime::timeline::Cause;
        let arithmetic = time.ledger.get(Cause::Ideal);
        let memory = bounds::memory_cycles(machine, time.bytes_read, time.bytes_written);
        let links = time.ledger.get(Cause::Links);
        let exchange = if links > 0 {
            0
        } else {
            bounds::exchange_cycles(machine, time.bytes_exchanged)
        };
        let bound = arithmetic.max(memory) + exchange + links;
        let parts = [
            ("arithmetic", arithmetic),
            ("memory", memory),
            ("exchange", exchange),
            ("links", links),
        ];
        let most = parts.iter().map(|part| part.1).max().unwrap_or(0);
        let binds = parts.iter().find(|part| part.1 == most);
        Roofline {
            arithmetic,
            memory,
            exchange,
            links,
            bound,
            binds: binds.map_or("arithmetic", |part| part.0),
            gap: (bound > 0).then(|| time.cycles.total() as f64 / bound as f64),
        }
    }
}

/// A ledger as a map.
pub(super) fn by_cause(ledger: &Ledger) -> ByCause {
    ledger
        .iter()
        .map(|(cause, cycles)| (cause.name(), cycles))
        .collect()
}

/// All classes that take time, the most cycles first.
pub(super) fn classes(program: &Program, timeline: &Timeline) -> Vec<OpClass> {
    let mut sums: IndexMap<(String, &str, &'static str), OriginTime> = IndexMap::new();
    for (origin, time) in program.origins.iter().zip(&timeline.origins) {
        let key = (
            class_name(&origin.name),
            origin.kind.as_str(),
            origin.phase.name(),
        );
        add(sums.entry(key).or_default(), time);
    }
    let mut classes: Vec<OpClass> = sums
        .into_iter()
        .filter(|(_, time)| time.cycles.total() > 0)
        .map(|((name, kind, phase), time)| OpClass {
            name,
            kind: kind.to_owned(),
            phase,
            executions: time.times,
            cycles: time.cycles.total(),
            critical_cycles: time.critical,
            cycles_each: time.cycles.total() / time.times.max(1),
            flops: time.flops,
            bytes_exchanged: time.bytes_exchanged,
            tiles: time.tiles,
            ledger: by_cause(&time.ledger),
            roofline: Roofline::new(&program.machine, &time),
        })
        .collect();
    // Stable: equals stay in program order.
    classes.sort_by_key(|class| std::cmp::Reverse(class.cycles));
    classes
}

fn add(sum: &mut OriginTime, time: &OriginTime) {
    sum.times += time.times;
    sum.cycles += time.cycles;
    sum.ledger += time.ledger;
    sum.critical = sum.critical.saturating_add(time.critical);
    sum.flops = sum.flops.saturating_add(time.flops);
    sum.bytes_exchanged = sum.bytes_exchanged.saturating_add(time.bytes_exchanged);
    sum.bytes_read = sum.bytes_read.saturating_add(time.bytes_read);
    sum.bytes_written = sum.bytes_written.saturating_add(time.bytes_written);
    sum.tiles = sum.tiles.max(time.tiles);
}
