//! Sequences of steps that repeat, as the control code of a tile has them: once, as a function of its variables' base addresses, with a table of
//! addresses for every call.
//!
//! A sequence that came before is found greedily, the longest at each step. Sequences nest: one that contains calls of others passes addresses on.
//! The program itself is not changed; this says what its control code takes.

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::ids::VarId;
use crate::machine::code_size::{CALL, PASSED_ADDRESS, TABLE_ENTRY};

/// A step for the search of repeats.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Equal for steps that differ in variables and constants only.
    pub form: u32,
    /// What a call must say: variables by operand, then constants of vertices.
    pub variables: SmallVec<[VarId; 6]>,
    pub constants: SmallVec<[u64; 2]>,
    /// Bytes of control code with base addresses for all operands.
    pub bytes: u32,
    /// Of these, what the first step of a form saves by having addresses in its code.
    pub saved_if_first: u32,
}

/// How the control code has a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it stands, with addresses in its code if it is the first of its form.
    Here,
    /// In a function, which takes base addresses from a table.
    InFunction,
    /// Nowhere: a call of a function stands for it.
    Called,
}

/// A call: `length` lines from `start` on are those of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub start: usize,
    pub length: usize,
    /// Bytes of the call and its table.
    pub bytes: u32,
}

/// Places of all lines, and the calls with their bytes.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub places: Vec<Place>,
    pub calls: Vec<Call>,
}

/// Lines that two sequences must share at their beginning for one to be considered.
const WINDOW: usize = 3;
/// Earlier occurrences of a window that are looked at: the first ones and the last ones.
const CANDIDATES: usize = 8;

/// Finds what repeats.
pub(super) fn outline(lines: &[Line]) -> Outline {
    let mut search = Search::new(lines);
    let mut at = 0;
    while at < lines.len() {
        match search.best(at) {
            Some(found) => {
                search.call(at, found);
                at += found.length;
            }
            None => at += 1,
        }
        search.remember_until(at);
    }
    search.outline
}

#[derive(Clone, Copy)]
struct Found {
    from: usize,
    length: usize,
    table: u32,
}

struct Search<'a> {
    lines: &'a [Line],
    outline: Outline,
    /// Lines where a function may begin or end: not those inside a call.
    inside_call: Vec<bool>,
    /// Calls by their first line.
    calls_at: FxHashMap<usize, usize>,
    functions: FxHashSet<(usize, usize)>,
    windows: FxHashMap<[u32; WINDOW], SmallVec<[usize; 2 * CANDIDATES]>>,
    remembered: usize,
}

impl<'a> Search<'a> {
    fn new(lines: &'a [Line]) -> Search<'a> {
        Search {
            lines,
            outline: Outline {
                places: vec![Place::Here; lines.len()],
                calls: Vec::new(),
            },
            inside_call: vec![false; lines.len() + 1],
            calls_at: FxHashMap::default(),
            functions: FxHashSet::default(),
            windows: FxHashMap::default(),
            remembered: 0,
        }
    }

    fn window(&self, at: usize) -> Option<[u32; WINDOW]> {
        let lines = self.lines.get(at..at + WINDOW)?;
        Some(std::array::from_fn(|i| lines[i].form))
    }

    /// Enters the windows that begin before `end`.
    fn remember_until(&mut self, end: usize) {
        for at in self.remembered..end {
            if self.inside_call[at] {
                continue;
            }
            let Some(window) = self.window(at) else {
                continue;
            };
            let places = self.windows.entry(window).or_default();
            if places.len() == 2 * CANDIDATES {
                places.remove(CANDIDATES);
            }
            places.push(at);
        }
        self.remembered = end;
    }

    /// The longest earlier sequence that the lines from `at` on repeat, if a call of it is shorter than they are.
    fn best(&self, at: usize) -> Option<Found> {
        let places = self.windows.get(&self.window(at)?)?;
        let (from, length) = places
            .iter()
            .map(|&from| (from, self.common(from, at)))
            .max_by_key(|&(from, length)| (length, std::cmp::Reverse(from)))?;
        if length == 0 {
            return None;
        }
        let table = self.table(from, at, length);
        let here: u32 = self.lines[at..at + length].iter().map(|l| l.bytes).sum();
        let of_function = match self.functions.contains(&(from, length)) {
            true => 0,
            false => self.own_call(from, length) + self.bases(from, length),
        };
        let called = CALL + TABLE_ENTRY * table + of_function;
        (called < here).then_some(Found {
            from,
            length,
            table,
        })
    }

    /// How many lines from `from` on, all before `at`, are those from `at` on; calls are in it whole or not at all.
    fn common(&self, from: usize, at: usize) -> usize {
        let most = (at - from).min(self.lines.len() - at);
        let mut length = (0..most)
            .take_while(|i| self.lines[from + i].form == self.lines[at + i].form)
            .count();
        while self.inside_call[from + length] {
            length -= 1;
        }
        length
    }

    /// Entries of the table of a call at `at`: distinct variables, told apart where the function or the call does, and constants that differ.
    fn table(&self, from: usize, at: usize, length: usize) -> u32 {
        let mut pairs = FxHashSet::default();
        let mut constants = 0;
        for i in 0..length {
            let (function, call) = (&self.lines[from + i], &self.lines[at + i]);
            pairs.extend(function.variables.iter().zip(&call.variables));
            let both = function.constants.iter().zip(&call.constants);
            constants += both.filter(|(a, b)| a != b).count() as u32;
        }
        pairs.len() as u32 + constants
    }

    /// Bytes that it takes to call a function where its lines stood: there and back, with a table, and with addresses to pass on to calls in it.
    fn own_call(&self, from: usize, length: usize) -> u32 {
        let calls = (from..from + length).filter_map(|at| self.calls_at.get(&at));
        let entries = calls.map(|&call| (self.outline.calls[call].bytes - CALL) / TABLE_ENTRY);
        let passed: u32 = entries.sum();
        2 * CALL + TABLE_ENTRY * self.table(from, from, length) + PASSED_ADDRESS * passed
    }

    /// Bytes that lines with addresses in their code take more as those of a function.
    fn bases(&self, from: usize, length: usize) -> u32 {
        let lines = self.lines[from..][..length].iter();
        lines
            .zip(&self.outline.places[from..])
            .filter(|(_, place)| **place == Place::Here)
            .map(|(line, _)| line.saved_if_first)
            .sum()
    }

    fn call(&mut self, at: usize, found: Found) {
        let Found {
            from,
            length,
            table,
        } = found;
        if !self.functions.contains(&(from, length)) {
            self.make_function(from, length);
        }
        for line in at..at + length {
            self.outline.places[line] = Place::Called;
            self.inside_call[line] = line != at;
        }
        self.push(at, length, CALL + TABLE_ENTRY * table);
        self.calls_at.insert(at, self.outline.calls.len() - 1);
    }

    /// The lines stay where they are, and are called there.
    fn make_function(&mut self, from: usize, length: usize) {
        self.push(from, length, self.own_call(from, length));
        for place in &mut self.outline.places[from..][..length] {
            if *place == Place::Here {
                *place = Place::InFunction;
            }
        }
        self.functions.insert((from, length));
    }

    fn push(&mut self, start: usize, length: usize, bytes: u32) {
        self.outline.calls.push(Call {
            start,
            length,
            bytes,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of 20 bytes, 8 of them for the base address of one variable.
    fn lines(steps: &[(u32, u32)]) -> Vec<Line> {
        let mut seen = FxHashSet::default();
        steps
            .iter()
            .map(|&(form, variable)| Line {
                form,
                variables: [VarId(variable)].into_iter().collect(),
                constants: SmallVec::new(),
                bytes: 20,
                saved_if_first: if seen.insert(form) { 8 } else { 0 },
            })
            .collect()
    }

    fn places(outline: &Outline) -> String {
        let letter = |place: &Place| match place {
            Place::Here => '.',
            Place::InFunction => 'f',
            Place::Called => 'c',
        };
        outline.places.iter().map(letter).collect()
    }

    #[test]
    fn a_layer_is_a_function_with_a_table_for_each_call() {
        let layer = |first: u32| (0..10).map(move |i| (i, first + i % 5));
        let steps: Vec<_> = layer(0)
            .chain(layer(5))
            .chain([(99, 0)])
            .chain(layer(0))
            .collect();
        let outline = outline(&lines(&steps));
        assert_eq!(places(&outline), "ffffffffffcccccccccc.cccccccccc");
        // Five variables each; the function's own call jumps there and back.
        let bytes: Vec<_> = outline
            .calls
            .iter()
            .map(|c| (c.start, c.length, c.bytes))
            .collect();
        assert_eq!(bytes, [(0, 10, 12 + 20 + 12), (10, 10, 32), (21, 10, 32)]);
    }

    #[test]
    fn what_repeats_too_little_stays() {
        // Three lines would save 60 bytes at most: two calls, two tables and three base addresses take more.
        let steps = [(0, 0), (1, 1), (2, 2), (9, 9), (0, 3), (1, 4), (2, 5)];
        let outline = outline(&lines(&steps));
        assert_eq!(places(&outline), ".......");
        assert!(outline.calls.is_empty());
    }

    #[test]
    fn sequences_nest() {
        // A layer of two equal slices around a step of its own, twice.
        let slice = |v: u32| (0..6).map(move |i| (i, v));
        let layer = |v: u32| slice(v).chain([(50, v)]).chain(slice(v));
        let steps: Vec<_> = layer(0).chain(layer(1)).collect();
        let outline = outline(&lines(&steps));
        assert_eq!(
            places(&outline),
            "fffffffccccccccccccccccccc"[..26].to_string()
        );
        let inner = outline.calls.iter().filter(|c| c.length == 6).count();
        let outer = outline.calls.iter().filter(|c| c.length == 13).count();
        assert_eq!((inner, outer), (2, 2));
    }

    #[test]
    fn a_sequence_does_not_repeat_what_overlaps_it() {
        let steps: Vec<_> = (0..9).map(|_| (1, 1)).collect();
        let outline = outline(&lines(&steps));
        for call in &outline.calls {
            assert!(call.start + call.length <= steps.len());
        }
        assert_eq!(outline.places[0..3], [Place::InFunction; 3]);
    }
}
