//! The pod for a person at a terminal.

use super::Report;
use super::format::{bytes, count, grouped, seconds, share, three_digits};
use super::losses::CAUSES;
use super::pod::{IpuShare, PodReport};
use super::published::{Candidate, PublishedStyle};
use super::terminal::{aligned, table};

pub(super) fn tables(report: &Report) -> String {
    let pod = &report.pod;
    let mut parts = vec![
        format!("the pod\n{}", aligned(&lines(report))),
        format!(
            "{}\n{}",
            beat_title(pod),
            beat_table(&pod.beat.ipus, pod.beat.cycles)
        ),
        format!("more and fewer micro-batches\n{}", growth_table(pod)),
    ];
    if let Some(published) = published(pod) {
        parts.push(published);
    }
    if !pod.published_style.is_empty() {
        parts.push(style_tables(&pod.published_style));
    }
    if !pod.sensitivity.is_empty() {
        parts.push(sensitivity_table(pod));
    }
    parts.join("\n\n")
}

/// The same plan with each uncertain number at the ends of its range.
fn sensitivity_table(pod: &PodReport) -> String {
    let rows = pod.sensitivity.iter().map(|row| {
        let mut cells = vec![row.field.to_owned(), row.why.to_owned()];
        for end in &row.at {
            cells.push(end.value.to_owned());
            cells.push(three_digits(end.samples_per_second));
            cells.push(format!("{:.2}", end.beat_milliseconds));
        }
        cells.push(format!("{:.1} %", 100.0 * row.effect));
        cells
    });
    let header = [
        "estimated or uncertain",
        "",
        "least",
        "samples/s",
        "ms a beat",
        "most",
        "samples/s",
        "ms a beat",
        "effect",
    ];
    format!(
        "how far the prediction moves: {} samples/s with the same plan, each number at the ends of its range\n{}",
        three_digits(pod.rates.samples_per_second),
        table(&header, rows, 2)
    )
}

fn lines(report: &Report) -> Vec<(&'static str, String)> {
    let pod = &report.pod;
    let (traffic, rates, energy) = (&pod.traffic, &pod.rates, &pod.energy);
    let links = format!(
        "{} between IPUs in a beat, {} cycles with the barrier",
        bytes(traffic.link_bytes_per_beat),
        grouped(pod.beat.shared_cycles),
    );
    let inside = match traffic.group_bytes_per_beat {
        0 => String::new(),
        n => format!("; {} inside of groups of IPUs", bytes(n)),
    };
    let links = format!("{links}{inside}");
    let host = format!(
        "{} in and {} out an update ({} a micro-batch), {} cycles",
        bytes(traffic.host_bytes_in),
        bytes(traffic.host_bytes_out),
        bytes(traffic.host_bytes_in / u64::from(pod.pipeline.micro_batches.max(1))),
        grouped(traffic.host_cycles),
    );
    let rate = format!(
        "{} samples/s, {} tokens/s; {:.1} % of peak ({:.1} % with recomputation): {} and {} flop a sample",
        three_digits(rates.samples_per_second),
        three_digits(rates.tokens_per_second),
        100.0 * rates.model_flops_utilisation,
        100.0 * rates.hardware_flops_utilisation,
        count(rates.model_flops_per_sample as u64),
        count(rates.executed_flops_per_sample as u64),
    );
    let joules = format!(
        "estimate: {} J a sample, {} J an update, {} IPUs at {} W",
        three_digits(energy.joules_per_sample),
        three_digits(energy.joules_per_update),
        energy.ipus,
        energy.watts_per_ipu,
    );
    let replicas = format!("{} of {} IPUs", pod.replicas, pod.ipus_per_replica);
    let pipeline = pipeline_line(report);
    let mut lines = vec![
        ("replicas", replicas),
        ("pipeline", pipeline),
        ("links", links),
    ];
    lines.extend(collectives_line(pod).map(|line| ("collectives", line)));
    if traffic.streaming_cycles > 0 {
        let line = format!(
            "{} in and {} out an update, {} cycles on the busiest IPU",
            bytes(traffic.streaming_bytes_in),
            bytes(traffic.streaming_bytes_out),
            grouped(traffic.streaming_cycles),
        );
        lines.push(("streaming", line));
    }
    lines.extend([("host", host), ("rate", rate), ("energy", joules)]);
    lines
}

fn pipeline_line(report: &Report) -> String {
    let cycles = report.time.cycles_per_update;
    let part = |name: &str, n: u64| format!("{name} {} ({})", grouped(n), share(n, cycles));
    let pipeline = &report.pod.pipeline;
    if !pipeline.pipelined {
        return format!(
            "none: {} micro-batches in turn; {}, {} cycles",
            pipeline.micro_batches,
            part("micro-batches", pipeline.main_cycles),
            part("update", pipeline.update_cycles),
        );
    }
    format!(
        "{} micro-batches through {} stages: {} pipeline cycles an update; {}, {}, {}, {} cycles",
        pipeline.micro_batches,
        pipeline.stages,
        pipeline.pipeline_cycles,
        part("fill", pipeline.fill_cycles),
        part("main", pipeline.main_cycles),
        part("flush", pipeline.flush_cycles),
        part("update", pipeline.update_cycles),
    )
}

fn collectives_line(pod: &PodReport) -> Option<String> {
    let ring = pod.ring.as_ref()?;
    let traffic = &pod.traffic;
    Some(format!(
        "{} an update over {}, {} cycles on the busiest IPU; {:.1} GB/s an IPU: {}; {}",
        traffic.collectives,
        bytes(traffic.collective_bytes),
        grouped(traffic.collective_cycles),
        ring.bytes_per_second / 1e9,
        ring.links,
        ring.neighbours,
    ))
}

fn beat_title(pod: &PodReport) -> String {
    format!(
        "{}: {} cycles = {}; % of its cycles by cause (empty: less than a half)",
        if pod.pipeline.pipelined {
            "a beat, one cycle of the full pipeline"
        } else {
            "a micro-batch"
        },
        grouped(pod.beat.cycles),
        seconds(pod.beat.seconds),
    )
}

/// Each IPU's work and waiting, its work by cause.
fn beat_table(ipus: &[IpuShare], cycles: u64) -> String {
    let percent = |part: u64| (200 * part + cycles) / (2 * cycles).max(1);
    let columns: Vec<(&str, &str)> = CAUSES
        .iter()
        .filter(|(name, ..)| ipus.iter().any(|ipu| percent(ipu.ledger[*name]) > 0))
        .map(|(name, column, _)| (*name, *column))
        .collect();
    let mut header = vec!["", "busy", "share", "waits"];
    header.extend(columns.iter().map(|(_, column)| *column));
    let rows = ipus.iter().map(|ipu| {
        let mut row = vec![
            format!("IPU {}", ipu.ipu),
            grouped(ipu.busy_cycles),
            share(ipu.busy_cycles, cycles),
            grouped(ipu.waiting_cycles),
        ];
        row.extend(
            columns
                .iter()
                .map(|(name, _)| match percent(ipu.ledger[*name]) {
                    0 => String::new(),
                    percent => percent.to_string(),
                }),
        );
        row
    });
    table(&header, rows, 1)
}

fn growth_table(pod: &PodReport) -> String {
    let rows = pod.growth.iter().map(|row| {
        vec![
            grouped(row.gradient_accumulation_steps.into()),
            grouped(row.pipeline_cycles.into()),
            seconds(row.seconds_per_update),
            three_digits(row.samples_per_second),
            format!("{:.1} %", 100.0 * row.efficiency),
        ]
    });
    let header = [
        "accumulation",
        "pipeline cycles",
        "an update",
        "samples/s",
        "of beats alone",
    ];
    table(&header, rows, 0)
}

fn published(pod: &PodReport) -> Option<String> {
    let run = pod.published.as_ref()?;
    let differences = match run.differences.as_slice() {
        [] => String::new(),
        list => format!("\nthis program differs: {}", list.join("; ")),
    };
    let header = ["", "samples/s", "ms a pipeline cycle"];
    let rows = [
        vec![
            format!("measured ({})", run.name),
            format!("{:.3}", run.measured_samples_per_second),
            format!(
                "≤ {:.2}",
                run.measured_milliseconds_per_pipeline_cycle_at_most
            ),
        ],
        vec![
            "predicted, this program".into(),
            format!("{:.3}", run.predicted_samples_per_second),
            format!("{:.2}", run.predicted_milliseconds_per_pipeline_cycle),
        ],
    ];
    let style = pod.published_style.iter().filter(|style| style.of_the_run);
    let style = style.map(|style| {
        let ms = |s: f64| format!("{:.2}", 1e3 * s);
        vec![
            "estimated, as published".into(),
            format!(
                "{:.0}–{:.0}",
                style.slower_samples_per_second, style.samples_per_second
            ),
            format!(
                "{}–{}",
                ms(style.beat.seconds),
                ms(style.slower_beat.seconds)
            ),
        ]
    });
    let candidates = match pod.candidates.as_slice() {
        [] => String::new(),
        list => format!(
            "\nwhat may make up the difference\n{}",
            candidate_table(list)
        ),
    };
    Some(format!(
        "beside a published measurement: {} times its rate\n{}\nsource: {}; {}{differences}{candidates}",
        three_digits(run.ratio),
        table(&header, rows.into_iter().chain(style), 1),
        run.source,
        run.holds,
    ))
}

fn candidate_table(candidates: &[Candidate]) -> String {
    let rows = candidates.iter().map(|candidate| {
        let ms = format!("{:.2}", candidate.milliseconds);
        vec![candidate.cause.to_owned(), ms]
    });
    table(&["candidate", "ms a pipeline cycle"], rows, 1)
}

/// The beat of the published style of execution, by kind of work on the busiest IPU.
fn style_table(style: &PublishedStyle) -> String {
    let beat = &style.beat;
    let rows = beat.parts.iter().map(|part| {
        vec![
            part.name.to_owned(),
            grouped(part.cycles),
            share(part.cycles, beat.cycles),
            grouped(style.slower_beat.part(part.name)),
        ]
    });
    let growth = style.growth.iter().map(|row| {
        let (n, rate) = (row.gradient_accumulation_steps, row.samples_per_second);
        format!("{} {}", grouped(n.into()), three_digits(rate))
    });
    let growth: Vec<String> = growth.collect();
    let by_ipu: Vec<String> = beat.ipu_cycles.iter().map(|&c| grouped(c)).collect();
    let between = vec![
        "between IPUs".to_owned(),
        grouped(beat.exchange_cycles),
        share(beat.exchange_cycles, beat.cycles),
        grouped(style.slower_beat.exchange_cycles),
    ];
    let header = ["", "cycles", "share", "with measured rearrangement"];
    format!(
        "{}{}: {} to {} a beat on IPU {}, {} to {} samples/s; cycles by IPU {}\n{}\nsamples/s by accumulation: {}",
        beat.meaning,
        if style.of_the_run {
            " (the measured run's)"
        } else {
            ""
        },
        seconds(beat.seconds),
        seconds(style.slower_beat.seconds),
        beat.busiest_ipu,
        three_digits(style.slower_samples_per_second),
        three_digits(style.samples_per_second),
        by_ipu.join(", "),
        table(&header, rows.chain([between]), 1),
        growth.join(", "),
    )
}

/// That of each published graph.
fn style_tables(styles: &[PublishedStyle]) -> String {
    let parts: Vec<String> = styles.iter().map(style_table).collect();
    format!(
        "an estimate of the published style of execution with this pipeline: PopLibs' plans and one compute set an op, not this program\n{}",
        parts.join("\n")
    )
}
