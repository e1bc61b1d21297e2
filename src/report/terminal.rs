//! The report for a person at a terminal: a short summary, and the whole of it in tables.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::code;
use super::format::{bytes, count, grouped, seconds, share, three_digits};
use super::losses;
use super::memory::{CODE, IpuMemory, TileMemory};
use super::pod::StageReport;
use super::{ModelReport, Report, pod_tables};

/// What was compiled and how fast it is, on a dozen lines.
pub fn summary(report: &Report) -> String {
    let mut lines = subject_lines(report);
    lines.extend(
        report
            .memory
            .ipus
            .iter()
            .map(|ipu| ("", ipu_line(report, ipu))),
    );
    let time = &report.time;
    let cycles = time.cycles_per_update;
    lines.push((
        "time",
        format!(
            "{} cycles = {} an optimiser step: compute {}, exchange {}, sync {}",
            grouped(cycles),
            seconds(time.seconds_per_update),
            share(time.compute_cycles, cycles),
            share(time.exchange_cycles, cycles),
            share(time.sync_cycles, cycles),
        ),
    ));
    lines.push(("", losses::summary(report)));
    lines.push((
        "throughput",
        format!(
            "{} samples/s, {} tokens/s",
            three_digits(time.samples_per_second),
            three_digits(time.tokens_per_second),
        ),
    ));
    aligned(&lines)
}

/// How the head cuts the vocabulary, if it does.
fn vocabulary_slices(model: &ModelReport) -> String {
    let slices = model.embedding_serialization_factor;
    if slices <= 1 {
        return String::new();
    }
    let padded = model.padded_vocab_size;
    let rows = grouped((padded / slices) as u64);
    match padded - model.vocab_size {
        0 => format!(" in {slices} slices of {rows}"),
        padding => format!(" in {slices} slices of {rows} ({padding} entries of padding)"),
    }
}

/// What was compiled, for which machine.
fn subject_lines(report: &Report) -> Vec<(&'static str, String)> {
    let (model, machine) = (&report.model, &report.machine);
    let of_model = format!(
        "{}: {} parameters, {} layers, width {}, vocabulary {}{}",
        model.name,
        count(model.parameters),
        model.n_layer,
        model.n_embd,
        grouped(model.vocab_size as u64),
        vocabulary_slices(model),
    );
    let (replicas, ipus) = (report.pod.replicas, report.pod.ipus_per_replica);
    let (times, shared) = match replicas {
        1 => (String::new(), String::new()),
        _ => (
            format!("{replicas} replicas × "),
            format!(", {replicas} replicas of {ipus}"),
        ),
    };
    let of_step = format!(
        "{times}{} × {} samples of {} tokens, {}",
        model.gradient_accumulation_steps,
        model.per_device_train_batch_size,
        model.block_size,
        model.optimiser,
    );
    let of_machine = format!(
        "{}: {} of {} IPUs{shared}, {} tiles each at {} GHz",
        machine.name,
        replicas * ipus,
        machine.ipus,
        grouped(machine.tiles_per_ipu.into()),
        machine.clock_hz / 1e9,
    );
    vec![
        ("model", of_model),
        ("step", of_step),
        ("machine", of_machine),
    ]
}

fn ipu_line(report: &Report, ipu: &IpuMemory) -> String {
    let stages = &report.pod.stages;
    let stage = stages
        .iter()
        .find(|stage| (stage.ipu..stage.ipu.saturating_add(stage.ipus)).contains(&ipu.ipu));
    let member = match stage.filter(|stage| stage.ipus > 1 && !stage.layers.is_empty()) {
        Some(stage) => format!("part {} of {}, ", ipu.ipu - stage.ipu + 1, stage.ipus),
        None => String::new(),
    };
    let tile_memory = report.machine.tile_memory.into();
    format!(
        "IPU {}: {}{member}{} tiles, {}, fullest tile {} of {} ({})",
        ipu.ipu,
        stage.map_or_else(|| "no layers, ".into(), layers),
        grouped(ipu.tiles_used.into()),
        bytes(ipu.total_bytes),
        bytes(ipu.max_tile_bytes),
        bytes(tile_memory),
        share(ipu.max_tile_bytes, tile_memory),
    )
}

/// How ops are listed.
#[derive(Clone, Copy, Debug)]
pub struct OpList {
    /// At most so many, the most expensive first.
    pub limit: usize,
    /// Each op of each layer and chunk in a row of its own.
    pub each: bool,
}

/// Everything: summary, memory, time by kind and by cause, the most expensive ops, what bounds them, passes.
pub fn full(report: &Report, ops: OpList) -> String {
    let parts = [
        summary(report),
        format!(
            "memory at each tile's fullest point\n{}",
            memory_table(report)
        ),
        fullest_tiles(report),
        format!(
            "besides variables: code, vertex state, exchange programs\n{}",
            code::tables(&report.code)
        ),
        pod_tables::tables(report),
        format!("cycles of an optimiser step\n{}", time_table(report)),
        format!("where they go\n{}", losses::cause_table(report)),
        op_part(report, ops),
        format!(
            "where each goes, % of its cycles (empty: less than a half)\n{}",
            losses::ledger_table(report, ops.limit)
        ),
        format!(
            "lower bounds, cycles of all executions\n{}",
            losses::roofline_table(report, ops.limit)
        ),
        format!("bounds of the step\n{}", losses::bound_table(report)),
        format!("IPUs take turns\n{}", losses::ipu_table(report)),
        losses::uneven_sets(report),
        format!("compile time\n{}", pass_table(report)),
    ];
    parts.join("\n\n")
}

/// Seconds of every pass.
pub fn pass_table(report: &Report) -> String {
    let total: f64 = report.passes.iter().map(|pass| pass.seconds).sum();
    let rows = report
        .passes
        .iter()
        .map(|pass| vec![pass.name.clone(), seconds(pass.seconds)]);
    table(
        &["pass", "time"],
        rows.chain([vec!["all passes".into(), seconds(total)]]),
        1,
    )
}

fn memory_table(report: &Report) -> String {
    let ipus = &report.memory.ipus;
    let mut categories: Vec<&str> = ipus
        .iter()
        .flat_map(|ipu| ipu.by_category.keys().copied())
        .collect();
    categories.sort_unstable_by_key(|&category| (category == CODE, category));
    categories.dedup();
    let header: Vec<String> = ["".to_owned()]
        .into_iter()
        .chain(ipus.iter().map(|i| format!("IPU {}", i.ipu)))
        .collect();
    let row = |name: &str, cell: &dyn Fn(&IpuMemory) -> String| -> Vec<String> {
        [name.replace('_', " ")]
            .into_iter()
            .chain(ipus.iter().map(cell))
            .collect()
    };
    let mut rows: Vec<Vec<String>> = categories
        .into_iter()
        .map(|category| {
            row(category, &|ipu| {
                bytes(ipu.by_category.get(category).copied().unwrap_or(0))
            })
        })
        .collect();
    rows.push(row("all", &|ipu| bytes(ipu.total_bytes)));
    rows.push(row("tiles used", &|ipu| grouped(ipu.tiles_used.into())));
    rows.push(row("fullest tile", &|ipu| bytes(ipu.max_tile_bytes)));
    rows.push(row("highest address", &|ipu| bytes(ipu.highest_address)));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    table(&header, rows, 1)
}

fn fullest_tiles(report: &Report) -> String {
    let mut text = String::from("fullest tiles");
    for ipu in &report.memory.ipus {
        for tile in &ipu.fullest_tiles {
            let _ = write!(
                text,
                "\n  IPU {} tile {:<5}{}",
                ipu.ipu,
                tile.tile,
                tile_line(tile)
            );
        }
    }
    text
}

fn tile_line(tile: &TileMemory) -> String {
    let times = |count: u64| {
        if count > 1 {
            format!(" × {count}")
        } else {
            String::new()
        }
    };
    let largest: Vec<String> = tile
        .largest
        .iter()
        .map(|v| format!("{} {}{} ({})", v.name, v.ty, times(v.count), bytes(v.bytes)))
        .collect();
    format!(
        "{:>10} at step {}: {}",
        bytes(tile.bytes),
        tile.step,
        largest.join(", ")
    )
}

fn time_table(report: &Report) -> String {
    let time = &report.time;
    let total = time.cycles_per_update;
    let rows = time
        .by_kind()
        .into_iter()
        .map(|(kind, cycles)| vec![kind.into(), grouped(cycles), share(cycles, total)]);
    let micro_batch = ("a micro-batch".to_owned(), time.cycles_per_micro_batch);
    let whole = [("all".to_owned(), total), micro_batch]
        .into_iter()
        .map(|(name, cycles)| vec![name, grouped(cycles), share(cycles, total)]);
    table(&["", "cycles", "share"], rows.chain(whole), 1)
}

fn op_table(report: &Report, limit: usize) -> String {
    let total = report.time.cycles_per_update;
    let rows = report.ops.iter().take(limit).map(|op| {
        vec![
            op.name.clone(),
            op.kind.clone(),
            op.phase.to_owned(),
            op.ipu.to_string(),
            grouped(op.cycles),
            share(op.cycles, total),
            count(op.flops),
            bytes(op.bytes_exchanged),
            grouped(op.tiles.into()),
        ]
    });
    table(
        &[
            "op",
            "kind",
            "phase",
            "IPU",
            "cycles",
            "share",
            "flop",
            "exchanged",
            "tiles",
        ],
        rows,
        3,
    )
}

fn op_part(report: &Report, list: OpList) -> String {
    let (all, table) = if list.each {
        (report.ops.len(), op_table(report, list.limit))
    } else {
        (
            report.classes.len(),
            losses::class_table(report, list.limit),
        )
    };
    let shown = shown(all, list.limit);
    format!("ops, all micro-batches of a step{shown}\n{table}")
}

fn shown(all: usize, limit: usize) -> String {
    if all > limit {
        format!(": the {limit} with the most cycles of {all}")
    } else {
        String::new()
    }
}

fn layers(stage: &StageReport) -> String {
    match stage.layers.as_slice() {
        [] => "no layers, ".into(),
        [only] => format!("layer {only}, "),
        [first, .., last] => format!("layers {first}–{last}, "),
    }
}

/// Columns without lines, two spaces apart; those from `numbers_from` on are aligned to the right.
pub(crate) fn table(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    numbers_from: usize,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if i >= numbers_from {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// `name   value`, values in one column.
pub(super) fn aligned(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|line| line.0.len()).max().unwrap_or(0);
    let lines: Vec<String> = lines
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}"))
        .collect();
    lines.join("\n")
}
