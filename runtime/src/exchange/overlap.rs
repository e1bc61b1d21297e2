//! No exchange reads a byte that it writes.
//!
//! On the machine such a program would be a race; here it is refused when it is loaded. Nearly all exchanges are cleared by the
//! address ranges of their variables; where two ranges meet, the very bytes are compared.

use std::ops::Range;

use superstep_ir::ids::VarId;
use superstep_ir::program::{Exchange, Program};

use super::LoadedMove;
use super::expansion::Pattern;
use crate::error::EngineError;
use crate::layout::Layouts;

/// Error when a byte of a tile is both source and destination of `moves`.
pub(super) fn check(
    program: &Program,
    layouts: &Layouts,
    exchange: &Exchange,
    moves: &[LoadedMove],
) -> Result<(), EngineError> {
    let span = |variable: VarId| {
        let start = u64::from(program.variable(variable).address);
        (
            program.grid_of(variable).ipu.0,
            start..start + layouts.layout(variable).max_block_bytes as u64,
        )
    };
    let meet = |a: &(u32, Range<u64>), b: &(u32, Range<u64>)| {
        a.0 == b.0 && a.1.start < b.1.end && b.1.start < a.1.end
    };
    let sources: Vec<_> = moves.iter().map(|mv| span(mv.from)).collect();
    let destinations: Vec<_> = moves.iter().map(|mv| span(mv.into)).collect();
    let read_too = |d: &(u32, Range<u64>)| sources.iter().any(|s| meet(s, d));
    let written_too = |s: &(u32, Range<u64>)| destinations.iter().any(|d| meet(s, d));
    let mut runs: Vec<Run> = Vec::new();
    for (i, mv) in moves.iter().enumerate() {
        let (reads, writes) = (written_too(&sources[i]), read_too(&destinations[i]));
        if reads || writes {
            collect(program, mv, reads, writes, &mut runs);
        }
    }
    runs.sort_unstable_by_key(|r| (r.ipu, r.tile, r.bytes.start));
    match first_clash(&runs) {
        Some((tile, byte)) => Err(EngineError::ExchangeOverlap {
            exchange: exchange.name.clone(),
            tile,
            byte: byte as u32,
        }),
        None => Ok(()),
    }
}

/// Consecutive bytes of a tile that are read, or written.
struct Run {
    ipu: u32,
    tile: u32,
    bytes: Range<u64>,
    written: bool,
}

fn collect(program: &Program, mv: &LoadedMove, reads: bool, writes: bool, runs: &mut Vec<Run>) {
    let expansion = &mv.expansion;
    for (i, &tile) in expansion.tiles.iter().enumerate() {
        for region in expansion.received(i) {
            let address = |v: VarId| u64::from(program.variable(v).address);
            let source = address(mv.from) + u64::from(region.source_offset);
            let destination = address(mv.into) + u64::from(region.destination_offset);
            let run = |ipu: u32, tile: u32, start: u64, written: bool| Run {
                ipu,
                tile,
                bytes: start..start + u64::from(region.pattern.run_bytes),
                written,
            };
            for (from, to) in starts(region.pattern) {
                if reads {
                    runs.push(run(mv.source.ipu, region.source_tile, source + from, false));
                }
                if writes {
                    runs.push(run(mv.destination.ipu, tile, destination + to, true));
                }
            }
        }
    }
}

/// Offsets of all runs of a region, source and destination.
fn starts(pattern: &Pattern) -> Vec<(u64, u64)> {
    let mut starts = vec![(0, 0)];
    for l in &pattern.loops {
        let turn = |i: u32| {
            (
                u64::from(i) * u64::from(l.source_stride),
                u64::from(i) * u64::from(l.destination_stride),
            )
        };
        starts = starts
            .iter()
            .flat_map(|&(s, d)| (0..l.extent).map(move |i| (s + turn(i).0, d + turn(i).1)))
            .collect();
    }
    starts
}

/// The first byte in sorted `runs` that is read and written.
fn first_clash(runs: &[Run]) -> Option<(u32, u64)> {
    // How far the reads and the writes of the current tile reach.
    let (mut read_to, mut written_to) = (0, 0);
    let mut at = None;
    for run in runs {
        if at != Some((run.ipu, run.tile)) {
            (read_to, written_to, at) = (0, 0, Some((run.ipu, run.tile)));
        }
        let (own, other) = if run.written {
            (&mut written_to, read_to)
        } else {
            (&mut read_to, written_to)
        };
        if run.bytes.start < other {
            return Some((run.tile, run.bytes.start));
        }
        *own = run.bytes.end.max(*own);
    }
    None
}
