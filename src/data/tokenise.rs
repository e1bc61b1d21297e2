//! From rows of text to blocks of tokens, as `run_clm.py` groups them, in bounded memory.
//!
//! Every row is tokenised by itself. The tokens of 1,000 rows are one stream, which is cut into blocks; what does not fill a last block is
//! dropped, and the next 1,000 rows begin a new stream. Rows are read in parcels, a window of parcels is tokenised in parallel, and blocks
//! go out in the order of the rows: the result does not depend on threads.
//!
//! A long row is spread over parcels, cut where its tokens do not notice. Where there is no such place in [`UNCUT_BYTES_MAX`] of text (so many
//! letters and nothing else, or a tokenizer of another form than GPT-2's) it is cut all the same, counted, and told to the user.

use rayon::prelude::*;

use super::DataError;
use super::corpus::Corpus;
use super::rows::{AllRows, Row, Rows};
use crate::frontend::{FrontendError, Tokenizer};

/// Rows whose tokens are joined: the batch of `datasets.map`.
pub const ROWS_PER_BATCH: u64 = 1000;
/// Text that one task tokenises: large against a task's overhead, small enough that cores share a window evenly.
const PARCEL_BYTES: usize = 64 << 10;
/// Text in a window for each thread.
const WINDOW_BYTES_PER_THREAD: usize = 16 * PARCEL_BYTES;
/// Longest text that is tokenised in one piece: the tokenizers crate takes some 200 times as much memory for it.
const UNCUT_BYTES_MAX: usize = 256 << 10;

/// What came out of a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: u64,
    pub text_bytes: u64,
    pub tokens: u64,
    pub blocks: u64,
    /// Tokens that filled no block.
    pub dropped: u64,
    /// Cuts in rows that had no place for one: the tokens beside them may not be those of the whole row.
    pub forced_cuts: u64,
    /// Whether anything but white space was seen.
    pub has_text: bool,
}

/// Some rows, or parts of rows, that lie in one batch.
#[derive(Default)]
struct Parcel {
    text: String,
    /// Where each row, or part of one, ends.
    ends: Vec<usize>,
    ends_batch: bool,
}

impl Parcel {
    fn pieces(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.text[start..end])
    }

    fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, FrontendError> {
        let mut ids = Vec::with_capacity(self.text.len() / 4);
        for piece in self.pieces() {
            tokenizer.encode_into(piece, &mut ids)?;
        }
        Ok(ids)
    }
}

/// Reads the rows of a corpus that count, parcel by parcel.
struct Parcels<'a> {
    rows: AllRows<'a>,
    tokenizer: &'a Tokenizer,
    /// The beginning of a row that the last parcel left to the next.
    begun: String,
    /// Rows still to be passed over, and then still to be given.
    skip: u64,
    left: u64,
    in_batch: u64,
    counts: Counts,
}

impl<'a> Parcels<'a> {
    fn of(corpus: &'a Corpus, tokenizer: &'a Tokenizer) -> Result<Parcels<'a>, DataError> {
        let open = || AllRows::of(&corpus.files, corpus.kind, corpus.column.as_deref());
        let range = match corpus.part {
            super::corpus::Part::All => 0..u64::MAX,
            part => part.range(count_rows(open())?),
        };
        Ok(Parcels {
            rows: open(),
            tokenizer,
            begun: String::new(),
            skip: range.start,
            left: range.end - range.start,
            in_batch: 0,
            counts: Counts::default(),
        })
    }

    fn next(&mut self) -> Result<Option<Parcel>, DataError> {
        let mut parcel = Parcel {
            text: std::mem::take(&mut self.begun),
            ..Parcel::default()
        };
        while self.left > 0 {
            let start = parcel.text.len();
            let row = self.rows.next(&mut parcel.text)?;
            if row == Row::End {
                self.left = 0;
                break;
            }
            if self.skip > 0 {
                parcel.text.truncate(start);
                self.skip -= u64::from(row == Row::Whole);
                continue;
            }
            if row == Row::Whole {
                parcel.ends.push(parcel.text.len());
                self.left -= 1;
                self.counts.rows += 1;
                self.in_batch = (self.in_batch + 1) % ROWS_PER_BATCH;
                parcel.ends_batch = self.in_batch == 0;
            }
            if parcel.ends_batch || (parcel.text.len() >= PARCEL_BYTES && self.close(&mut parcel)) {
                break;
            }
        }
        self.counts.text_bytes += parcel.text.len() as u64;
        self.counts.has_text |= parcel.text.contains(|c: char| !c.is_whitespace());
        Ok((!parcel.ends.is_empty()).then_some(parcel))
    }

    /// Keeps a row that has only begun for the next parcel or, where this one has no other row, all that follows a place to cut it. False
    /// where there is none: the parcel must grow.
    fn close(&mut self, parcel: &mut Parcel) -> bool {
        let begin = parcel.ends.last().copied().unwrap_or(0);
        if begin == 0 {
            let text = &parcel.text;
            let forced = || (text.len() >= UNCUT_BYTES_MAX).then(|| forced_cut(text));
            let cut = self.tokenizer.first_cut(text, PARCEL_BYTES).or_else(|| {
                let forced = forced();
                self.counts.forced_cuts += u64::from(forced.is_some());
                forced
            });
            let Some(cut) = cut else {
                return false;
            };
            parcel.ends.push(cut);
        }
        let end = parcel.ends.last().copied().unwrap_or(0);
        self.begun = parcel.text.split_off(end);
        true
    }

    /// Parcels of about so many bytes.
    fn window(&mut self, bytes: usize) -> Result<Vec<Parcel>, DataError> {
        let (mut window, mut left) = (Vec::new(), bytes);
        while left > 0
            && let Some(parcel) = self.next()?
        {
            left = left.saturating_sub(parcel.text.len().max(1));
            window.push(parcel);
        }
        Ok(window)
    }
}

/// Where a text is cut that must be: before its last white space if it has any.
fn forced_cut(text: &str) -> usize {
    let space = text.rfind(char::is_whitespace).filter(|&at| at > 0);
    let last = || text.char_indices().next_back().map_or(0, |last| last.0);
    space.unwrap_or_else(last)
}

fn count_rows(mut rows: AllRows) -> Result<u64, DataError> {
    let (mut text, mut count) = (String::new(), 0);
    loop {
        text.clear();
        match rows.next(&mut text)? {
            Row::Whole => count += 1,
            Row::Part => {}
            Row::End => return Ok(count),
        }
    }
}

/// Tokenises `corpus` and gives every block to `take`, in order; `watch` is told how far it is.
pub fn tokenise(
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    block_size: usize,
    take: &mut dyn FnMut(&[u32]) -> Result<(), DataError>,
    watch: &mut dyn FnMut(&Counts),
) -> Result<Counts, DataError> {
    let mut parcels = Parcels::of(corpus, tokenizer)?;
    let mut pending: Vec<u32> = Vec::new();
    let window = rayon::current_num_threads() * WINDOW_BYTES_PER_THREAD;
    let mut ready = parcels.window(window)?;
    while !ready.is_empty() {
        // The next window is read while this one is tokenised.
        let (encoded, following) = rayon::join(
            || -> Result<Vec<Vec<u32>>, FrontendError> {
                ready.par_iter().map(|p| p.encode(tokenizer)).collect()
            },
            || parcels.window(window),
        );
        for (parcel, ids) in ready.iter().zip(encoded?) {
            parcels.counts.tokens += ids.len() as u64;
            pending.extend(ids);
            let whole = pending.len() / block_size * block_size;
            for block in pending[..whole].chunks_exact(block_size) {
                take(block)?;
                parcels.counts.blocks += 1;
            }
            pending.drain(..whole);
            if parcel.ends_batch {
                parcels.counts.dropped += pending.len() as u64;
                pending.clear();
            }
        }
        ready = following?;
        watch(&parcels.counts);
    }
    parcels.counts.dropped += pending.len() as u64;
    Ok(parcels.counts)
}
