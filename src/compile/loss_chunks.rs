//! In how many row chunks the output head and the loss are computed.
//!
//! Each chunk goes through the whole weight, and each has logits and their gradients; so few chunks are fast, and many need little memory.
//! What is best depends on what else fits beside them, so it is tried: the number that the size of the logits suggests, more if the head
//! then overflows, fewer as long as the step gets faster.

use std::ops::RangeInclusive;

use superstep_ir::machine::Machine;
use superstep_passes::compile::Compiled as Placed;
use superstep_passes::plan::PlanBook;
use superstep_passes::plan::book::Key;
use superstep_runtime::timeline::timeline;

use super::{IrSink, NoGraphs, compile_with};
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::frontend::model::ModelError;
use crate::precision::Precision;
use crate::settings::TrainingSettings;

/// The logits of one chunk of rows may take this share of an IPU's memory, once as they are and once as their gradient.
const LOGITS_SHARE: f64 = 0.05;

/// How often the number of row chunks is doubled before a model counts as too large.
const DOUBLINGS: u32 = 3;

/// Compiles with the row chunks that were asked for, or with the best of a few numbers with which the model fits.
pub(super) fn fit(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    book: &mut PlanBook,
    sink: &mut dyn IrSink,
) -> Result<(Placed, usize), Error> {
    if i32::try_from(rows(settings)).is_err() {
        // Nobody should look for numbers that divide so many.
        let (batch, seq) = (settings.batch_size, settings.block_size);
        return Err(ModelError::TooManyRows { batch, seq }.into());
    }
    if let Some(asked) = settings.loss_chunks {
        return Ok((compile_with(config, settings, asked, book, sink)?, asked));
    }
    if settings.print_ir_after.is_none() {
        return best(config, settings, book);
    }
    // Only graphs of what it comes to are shown; of what does not fit, those of the first try.
    let quiet = TrainingSettings {
        print_ir_after: None,
        ..settings.clone()
    };
    let chunks = best(config, &quiet, book).map_or_else(|_| first(config, settings), |(_, n)| n);
    let placed = compile_with(config, settings, chunks, book, sink)?;
    Ok((placed, chunks))
}

fn best(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    book: &mut PlanBook,
) -> Result<(Placed, usize), Error> {
    let key = Key::of(&format!("{settings:?} {}", config.to_json()));
    if let Some(chunks) = book.loss_chunks(key)
        && let Ok(placed) = compile_with(config, settings, chunks, book, &mut NoGraphs)
    {
        return Ok((placed, chunks));
    }
    let fitted = fewest(config, settings, book)?;
    let (placed, chunks) = fewer_while_faster(config, settings, book, fitted);
    book.set_loss_chunks(key, chunks);
    Ok((placed, chunks))
}

/// The number by size.
fn first(config: &Gpt2Config, settings: &TrainingSettings) -> usize {
    let precision = settings.precision.precision;
    by_size(
        rows(settings),
        config.vocab_size,
        &settings.machine,
        precision,
    )
}

/// The number by size, doubled while the head overflows.
fn fewest(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    book: &mut PlanBook,
) -> Result<(Placed, usize), Error> {
    let rows = rows(settings);
    let mut chunks = first(config, settings);
    let mut outcome = compile_with(config, settings, chunks, book, &mut NoGraphs);
    for _ in 0..DOUBLINGS {
        match outcome {
            Err(error) if error.is_overflow_of_the_head() && chunks * 2 <= rows => {
                chunks *= 2;
                // An error with other chunks says no more than the first.
                outcome =
                    compile_with(config, settings, chunks, book, &mut NoGraphs).map_err(|_| error);
            }
            outcome => return Ok((outcome?, chunks)),
        }
    }
    Ok((outcome?, chunks))
}

/// At most half as many chunks, again and again, while they fit the same number of IPUs and the step takes fewer cycles.
fn fewer_while_faster(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    book: &mut PlanBook,
    (mut best, mut chunks): (Placed, usize),
) -> (Placed, usize) {
    let cycles = |placed: &Placed| timeline(&placed.program).cycles.total();
    let mut least = None;
    while let Some(fewer) = equal_chunks(rows(settings), 1..=chunks / 2).next_back() {
        let placed = match compile_with(config, settings, fewer, book, &mut NoGraphs) {
            Ok(placed) if placed.program.ipus <= best.program.ipus => placed,
            _ => break,
        };
        let (before, now) = (*least.get_or_insert_with(|| cycles(&best)), cycles(&placed));
        if now >= before {
            break;
        }
        (best, chunks, least) = (placed, fewer, Some(now));
    }
    (best, chunks)
}

/// Fewest row chunks whose logits stay within their share of memory; equal ones if the rows can be divided so, which saves plans
/// and lets rows be sliced further.
pub(super) fn by_size(
    rows: usize,
    vocab_size: usize,
    machine: &Machine,
    precision: Precision,
) -> usize {
    let memory = f64::from(machine.tiles_per_ipu) * f64::from(machine.tile_memory);
    let logits = rows as f64 * vocab_size as f64 * precision.elements().bytes() as f64;
    let fewest = ((logits / (memory * LOGITS_SHARE)).ceil() as usize).clamp(1, rows.max(1));
    equal_chunks(rows, fewest..=2 * fewest)
        .next()
        .unwrap_or(fewest)
}

/// Those numbers of chunks that divide the rows evenly.
fn equal_chunks(
    rows: usize,
    numbers: RangeInclusive<usize>,
) -> impl DoubleEndedIterator<Item = usize> {
    numbers.filter(move |&chunks| rows.is_multiple_of(chunks))
}

fn rows(settings: &TrainingSettings) -> usize {
    settings.batch_size.saturating_mul(settings.block_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{PlanCache, testing};

    fn config() -> Gpt2Config {
        testing::config(1, 1031)
    }

    fn fitted(settings: &TrainingSettings) -> (u64, usize, u32) {
        let mut book = PlanCache::none().open(&settings.machine);
        let (placed, chunks) = fit(&config(), settings, &mut book, &mut NoGraphs).unwrap();
        let cycles = timeline(&placed.program).cycles.total();
        (cycles, chunks, placed.program.ipus)
    }

    #[test]
    fn no_half_of_the_chunks_would_be_faster() {
        let machine = Machine {
            tiles_per_ipu: 16,
            ..Machine::preset("pod4").unwrap()
        };
        let settings = TrainingSettings::plain(machine, 16, 16);
        let first = by_size(256, 1031, &settings.machine, Precision::F32);
        let with = |chunks: usize| {
            fitted(&TrainingSettings {
                loss_chunks: Some(chunks),
                ..settings.clone()
            })
        };
        let (cycles, chunks, ipus) = fitted(&settings);
        assert!(first > 1 && chunks < first, "{chunks} of {first}");
        assert_eq!((cycles, chunks, ipus), with(chunks));
        assert!(cycles < with(first).0);
        if chunks > 1 {
            assert!(cycles <= with(chunks / 2).0);
        }
    }

    #[test]
    fn as_many_rows_in_every_chunk() {
        let equal = |rows, numbers| equal_chunks(rows, numbers).collect::<Vec<_>>();
        assert_eq!(equal(12, 1..=6), [1, 2, 3, 4, 6]);
        assert!(equal(7, 2..=6).is_empty());
        let machine = Machine::preset("pod4").unwrap();
        assert_eq!(by_size(1, 1 << 40, &machine, Precision::F32), 1);
    }
}
