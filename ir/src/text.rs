//! The textual forms: graphs are printed and parsed, programs are printed.
//!
//! What a thing is stands on the left, its type in a column on the right, `//` starts a comment. A graph:
//!
//! ```text
//! graph @micro_batch {
//!   %tokens                = input "tokens"                            : i32[2, 48]
//!   %h.0.mlp.c_fc.weight   = parameter "h.0.mlp.c_fc.weight" {weight}  : f32[32, 128]
//!   %h.0.mlp.c_fc          = matmul %h.0.ln_2, %h.0.mlp.c_fc.weight    : f32[96, 128]  @ipu 0 stage 1 forward layer 0
//!   %bias_gelu             = map %h.0.mlp.c_fc, %b {gelu_tanh(add($0, $1))}  : f32[96, 128]  "bias gelu"
//!   assign "accum.wte.weight" %acc
//! }
//! ```
//!
//! Printing and parsing are inverse: `parse(print(g)) == g` for every graph that the verifier accepts, and printing a parsed text that
//! was printed gives the same bytes. The rules that make it so:
//!
//! - Ops come in the graph's canonical order ([`Graph::topological`]).
//! - A value is named after its op, with characters that no identifier has replaced by `_` and a number behind a name that is taken.
//! - An op's own name stands in quotes behind the type, unless it is the one the parser would give: the name of the first value, the
//!   state of a `parameter`, the stream of an `input`, `STATE.assign`, `STREAM.output`.
//! - `constant`, `parameter`, `input`, `cast`, `reshape` and `broadcast` take what they make from the type column; for all other ops
//!   the column may be left out, and is checked against the inferred types when it is there.
//! - `@ipu 0 stage 1 backward layer 3` is the op's place; parts that are not set are left out, `forward` is the default phase.
//! - The braces of `map` hold an expression of operands `$0`, `$1`, …, with `tN = …;` for nodes that are used more than once.

mod columns;
mod error;
mod graph_parse;
mod graph_print;
mod lexer;
mod map_expr;
mod names;
mod op_parse;
mod parser;
mod program_names;
mod program_print;
mod tile_print;

use std::fmt;
use std::str::FromStr;

use crate::graph::{Graph, Module};
use crate::ids::OpId;

pub use error::{ParseError, ParseErrorKind};
pub use graph_print::{print_graph, print_module, print_op};
pub use names::ValueNames;
pub use program_print::print_program;
pub use tile_print::print_tile;

/// A parsed text: the module, and on which line each op stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub module: Module,
    /// `lines[graph][op]`, counted from 1.
    lines: Vec<Vec<usize>>,
}

impl Parsed {
    /// The line on which an op of the `graph`-th graph of the module stands, counted from 1.
    pub fn line(&self, graph: usize, op: OpId) -> Option<usize> {
        self.lines.get(graph)?.get(op.index()).copied()
    }
}

/// Parses any number of graphs and keeps where each op was written.
///
/// # Errors
/// The first place where the text is no module, or where types do not fit.
pub fn parse_with_lines(text: &str) -> Result<Parsed, ParseError> {
    graph_parse::parse(text)
}

/// Parses any number of graphs.
///
/// # Errors
/// The first place where the text is no module, or where types do not fit.
pub fn parse_module(text: &str) -> Result<Module, ParseError> {
    Ok(parse_with_lines(text)?.module)
}

/// Parses exactly one graph.
///
/// # Errors
/// The first place where the text is no graph, or where types do not fit.
pub fn parse_graph(text: &str) -> Result<Graph, ParseError> {
    graph_parse::parse_one(text)
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_graph(self))
    }
}

impl FromStr for Graph {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Graph, ParseError> {
        parse_graph(text)
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_module(self))
    }
}

impl FromStr for Module {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Module, ParseError> {
        parse_module(text)
    }
}

#[cfg(test)]
mod tests;
