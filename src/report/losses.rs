//! The ledger, the rooflines and the turns of the IPUs for a person at a terminal.

use super::Report;
use super::format::{bytes, count, grouped, share};
use super::terminal::table;

/// Causes as the columns of a table call them, and what they mean.
pub(super) const CAUSES: [(&str, &str, &str); 19] = [
    ("ideal", "ideal", "arithmetic at peak on all tiles"),
    (
        "amp_fill",
        "fill",
        "matrix unit loads weights, fills and drains",
    ),
    (
        "padding",
        "pad",
        "matrix unit works on zeroes that round blocks up",
    ),
    (
        "transpose",
        "turn",
        "operands of the matrix unit are turned",
    ),
    (
        "instructions",
        "instr",
        "vector unit loads, stores, computes slow functions",
    ),
    ("overhead", "over", "vertices and loops start and end"),
    (
        "worker_imbalance",
        "work",
        "workers wait for the one with most rows",
    ),
    (
        "partials",
        "sums",
        "partial sums of a split contraction are added",
    ),
    ("redundant", "twice", "several tiles compute the same"),
    (
        "tile_imbalance",
        "wait",
        "tiles wait for the one with the largest blocks",
    ),
    ("idle_tiles", "idle", "tiles have nothing to do"),
    (
        "exchange_data",
        "data",
        "words between tiles, at the busiest",
    ),
    (
        "exchange_fragments",
        "frag",
        "control words between fragments",
    ),
    ("exchange_start", "start", "from a sync to the first word"),
    ("copies", "copy", "data moves inside tiles"),
    ("sync", "sync", "barriers"),
    ("links", "links", "data between IPUs"),
    ("host", "host", "data between host and IPUs"),
    ("streaming", "ddr", "data between streaming memory and IPUs"),
];

/// The largest causes of an optimiser step on one line.
pub(super) fn summary(report: &Report) -> String {
    let total = report.time.cycles_per_update;
    let ledger = &report.efficiency.ledger;
    let mut causes: Vec<(&str, u64)> = ledger
        .iter()
        .map(|(name, cycles)| (*name, *cycles))
        .collect();
    causes.sort_by_key(|(_, cycles)| std::cmp::Reverse(*cycles));
    let shown: Vec<String> = causes
        .iter()
        .filter(|(name, cycles)| *name != "ideal" && *cycles > 0)
        .take(4)
        .map(|(name, cycles)| format!("{} {}", name.replace('_', " "), share(*cycles, total)))
        .collect();
    let ideal = ledger.get("ideal").copied().unwrap_or(0);
    format!(
        "ideal arithmetic {}; lost most to {}",
        share(ideal, total),
        shown.join(", ")
    )
}

/// Every cause of the step.
pub(super) fn cause_table(report: &Report) -> String {
    let total = report.time.cycles_per_update;
    let ledger = &report.efficiency.ledger;
    let rows = CAUSES.iter().filter_map(|(name, column, meaning)| {
        let cycles = *ledger.get(name)?;
        let row = vec![
            name.replace('_', " "),
            (*meaning).to_owned(),
            (*column).to_owned(),
            grouped(cycles),
            share(cycles, total),
        ];
        (cycles > 0).then_some(row)
    });
    let sum = vec![
        "all".to_owned(),
        String::new(),
        String::new(),
        grouped(ledger.values().sum()),
        share(ledger.values().sum(), total),
    ];
    table(
        &["cause", "", "short", "cycles", "share"],
        rows.chain([sum]),
        3,
    )
}

/// Classes of ops and what they take.
pub(super) fn class_table(report: &Report, limit: usize) -> String {
    let total = report.time.cycles_per_update;
    let rows = report.classes.iter().take(limit).map(|class| {
        vec![
            class.name.clone(),
            class.kind.clone(),
            class.phase.to_owned(),
            grouped(class.executions),
            grouped(class.cycles_each),
            grouped(class.cycles),
            share(class.critical_cycles, total),
            count(class.flops),
            bytes(class.bytes_exchanged),
            grouped(class.tiles.into()),
        ]
    });
    let header = [
        "op",
        "kind",
        "phase",
        "n",
        "each",
        "cycles",
        "share",
        "flop",
        "exchanged",
        "tiles",
    ];
    table(&header, rows, 3)
}

/// Classes of ops by cause, in whole percent; causes that are nowhere to be seen have no column.
pub(super) fn ledger_table(report: &Report, limit: usize) -> String {
    let classes = || report.classes.iter().take(limit);
    let percent = |part: u64, whole: u64| (200 * part + whole) / (2 * whole).max(1);
    let columns: Vec<(&str, &str)> = CAUSES
        .iter()
        .filter(|(name, ..)| classes().any(|class| percent(class.ledger[*name], class.cycles) > 0))
        .map(|(name, column, _)| (*name, *column))
        .collect();
    let mut header = vec!["op", "n", "each"];
    header.extend(columns.iter().map(|(_, column)| *column));
    let cell = |part: u64, whole: u64| match percent(part, whole) {
        0 => String::new(),
        percent => percent.to_string(),
    };
    let rows = classes().map(|class| {
        let mut row = vec![
            class.name.clone(),
            grouped(class.executions),
            grouped(class.cycles_each),
        ];
        row.extend(
            columns
                .iter()
                .map(|(name, _)| cell(class.ledger[*name], class.cycles)),
        );
        row
    });
    let total = report.time.cycles_per_update;
    let ledger = &report.efficiency.ledger;
    let mut all = vec!["all ops".to_owned(), String::new(), grouped(total)];
    all.extend(columns.iter().map(|(name, _)| cell(ledger[*name], total)));
    table(&header, rows.chain([all]), 1)
}

/// Lower bounds of each class, which of them binds, and how far its cycles are from it.
pub(super) fn roofline_table(report: &Report, limit: usize) -> String {
    let rows = report.classes.iter().take(limit).map(|class| {
        let roof = &class.roofline;
        vec![
            class.name.clone(),
            roof.binds.to_owned(),
            grouped(roof.arithmetic),
            grouped(roof.memory),
            grouped(roof.exchange),
            grouped(roof.links),
            grouped(roof.bound),
            grouped(class.cycles),
            roof.gap.map_or("–".to_owned(), |gap| format!("{gap:.1} ×")),
        ]
    });
    let header = [
        "op",
        "bound by",
        "arithmetic",
        "memory",
        "exchange",
        "links",
        "bound",
        "cycles",
        "gap",
    ];
    table(&header, rows, 2)
}

/// What this plan cannot beat, and what none at all can.
pub(super) fn bound_table(report: &Report) -> String {
    let bounds = &report.efficiency.bounds;
    let gap = |bound: u64| {
        let gap = bounds.cycles as f64 / bound.max(1) as f64;
        format!("{gap:.1} ×")
    };
    let rows = [
        (
            "arithmetic at peak, all IPUs at once",
            bounds.arithmetic_all_ipus,
        ),
        ("arithmetic at peak, one IPU at a time", bounds.arithmetic),
        (
            "busiest IPU as it is, others overlapped (many micro-batches)",
            bounds.pipeline,
        ),
        (
            "every op at its own bound, with this plan's traffic",
            bounds.ops,
        ),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, bound)| vec![name.to_owned(), grouped(bound), gap(bound)]);
    table(&["lower bound", "cycles", "gap"], rows, 1)
}

/// Work, waiting and load of each IPU.
pub(super) fn ipu_table(report: &Report) -> String {
    let total = report.time.cycles_per_update;
    let efficiency = &report.efficiency;
    let rows = efficiency.ipus.iter().map(|ipu| {
        vec![
            format!("IPU {}", ipu.ipu),
            grouped(ipu.busy_cycles),
            share(ipu.busy_cycles, total),
            grouped(ipu.waiting_cycles),
            grouped(ipu.compute_cycles),
            grouped(ipu.tile_cycles_least),
            grouped(ipu.tile_cycles_mean),
            grouped(ipu.tile_cycles_most),
            bytes(ipu.live_bytes_bound),
            bytes(ipu.highest_address),
        ]
    });
    let header = [
        "",
        "busy",
        "share",
        "waits",
        "compute",
        "tile least",
        "mean",
        "most",
        "live bytes a tile",
        "placed in",
    ];
    let note = format!(
        "between IPUs: {} cycles; tiles at work in compute sets {:.1} %, evenly loaded {:.1} %; parallel efficiency {:.1} %; \
         {} between tiles",
        grouped(efficiency.shared_cycles),
        100.0 * efficiency.tile_utilisation,
        100.0 * efficiency.tile_balance,
        100.0 * efficiency.parallel_efficiency,
        bytes(efficiency.bytes_exchanged),
    );
    format!("{}\n{note}", table(&header, rows, 1))
}

/// Compute sets in which most is lost by tiles that wait.
pub(super) fn uneven_sets(report: &Report) -> String {
    let rows = report.efficiency.uneven.iter().map(|set| {
        vec![
            set.name.clone(),
            grouped(set.executions),
            grouped(set.cycles),
            grouped(set.tiles.into()),
            format!("{:.1} %", 100.0 * set.balance),
            grouped(set.lost_cycles),
        ]
    });
    let header = ["compute set", "n", "cycles", "tiles", "balance", "lost"];
    format!(
        "cycles lost by uneven and idle tiles\n{}",
        table(&header, rows, 1)
    )
}
