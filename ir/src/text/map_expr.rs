//! Elementwise expressions in the text: nested calls where that gives back the same nodes in the same order, named terms elsewhere.
//!
//! The parser numbers nodes in the order in which their calls close. So a node can be written inside its only user exactly when the
//! nodes between the two are those of the user's later arguments; every other node becomes a term `tN = …;` of its own. Where the
//! expression states the types of its results, each output ends in `as f16`.

use rustc_hash::FxHashMap;

use super::error::ParseErrorKind;
use super::graph_print::real;
use super::lexer::Token;
use super::parser::{Parse, Parser};
use crate::op::{BinaryOp, MapExpr, MapNode, UnaryOp};

/// Deepest nesting that is printed; beyond it terms are named.
const PRINTED_DEPTH: usize = 8;
/// Deepest nesting that is parsed: bounds the parser's recursion.
const PARSED_DEPTH: usize = 64;

/// The expression without its braces.
pub(super) fn print(expr: &MapExpr) -> String {
    if !expr.is_well_formed() {
        return "malformed".into();
    }
    let mut plan = Plan::of(expr);
    let mut out = String::new();
    for node in 0..expr.nodes.len() {
        if !plan.inlined[node] {
            let text = std::mem::take(&mut plan.text[node]);
            out.push_str(&format!("t{node} = {text}; "));
        }
    }
    out.push_str(&plan.outputs);
    out
}

/// Which nodes are written inside their user, and the text of every node.
struct Plan {
    inlined: Vec<bool>,
    text: Vec<String>,
    depth: Vec<usize>,
    /// The first node that is written inside a node (or the node itself).
    first: Vec<usize>,
    uses: Vec<usize>,
    outputs: String,
}

impl Plan {
    fn of(expr: &MapExpr) -> Plan {
        let len = expr.nodes.len();
        let mut plan = Plan {
            inlined: vec![false; len],
            text: Vec::with_capacity(len),
            depth: vec![0; len],
            first: (0..len).collect(),
            uses: vec![0; len],
            outputs: String::new(),
        };
        for node in &expr.nodes {
            for a in arguments(node) {
                plan.uses[a] += 1;
            }
        }
        for &o in &expr.outputs {
            plan.uses[o as usize] += 1;
        }
        for (i, node) in expr.nodes.iter().enumerate() {
            let text = plan.node(i, node);
            plan.text.push(text);
        }
        let outputs: Vec<usize> = expr.outputs.iter().map(|&o| o as usize).collect();
        let (mut terms, _, _) = plan.take(len, &outputs);
        for (term, dtype) in terms.iter_mut().zip(&expr.types) {
            term.push_str(&format!(" as {dtype}"));
        }
        plan.outputs = terms.join(", ");
        plan
    }

    fn node(&mut self, i: usize, node: &MapNode) -> String {
        let (terms, first, depth) = self.take(i, &arguments(node));
        self.first[i] = first;
        self.depth[i] = depth + 1;
        match node {
            MapNode::Operand(o) => format!("${o}"),
            MapNode::Constant(c) => real(*c),
            MapNode::Unary(op, _) => format!("{}({})", op.name(), terms.join(", ")),
            MapNode::Binary(op, ..) => format!("{}({})", op.name(), terms.join(", ")),
        }
    }

    /// The texts of the arguments of node `user`, the first node written in them, and how deep they nest.
    fn take(&mut self, user: usize, arguments: &[usize]) -> (Vec<String>, usize, usize) {
        let mut first = user;
        let mut depth = 0;
        let mut terms = Vec::with_capacity(arguments.len());
        for &a in arguments.iter().rev() {
            let fits = a + 1 == first && self.uses[a] == 1 && self.depth[a] < PRINTED_DEPTH;
            if fits {
                first = self.first[a];
                depth = depth.max(self.depth[a]);
                self.inlined[a] = true;
                terms.push(std::mem::take(&mut self.text[a]));
            } else {
                terms.push(format!("t{a}"));
            }
        }
        terms.reverse();
        (terms, first, depth)
    }
}

fn arguments(node: &MapNode) -> Vec<usize> {
    match *node {
        MapNode::Operand(_) | MapNode::Constant(_) => vec![],
        MapNode::Unary(_, a) => vec![a as usize],
        MapNode::Binary(_, a, b) => vec![a as usize, b as usize],
    }
}

/// Parses an expression of `operands` operands up to and with the closing brace; the opening one is taken already.
pub(super) fn parse(p: &mut Parser<'_>, operands: usize) -> Parse<MapExpr> {
    let mut terms = Terms {
        expr: MapExpr {
            operands: operands as u32,
            ..MapExpr::default()
        },
        named: FxHashMap::default(),
    };
    while let Some(name) = p.take_definition() {
        let node = terms.term(p, 0)?;
        p.sign(';', "`;` after a term")?;
        terms.named.insert(name.to_string(), node);
    }
    loop {
        let node = terms.term(p, 0)?;
        let typed = terms.expr.types.len() == terms.expr.outputs.len();
        terms.expr.outputs.push(node);
        match p.take_result_type()? {
            Some(dtype) if typed => terms.expr.types.push(dtype),
            None if terms.expr.types.is_empty() => {}
            _ => return p.expected("`as` and a type after every output or after none"),
        }
        if !p.take_sign(',') {
            break;
        }
    }
    p.sign('}', "`}` after the expression")?;
    Ok(terms.expr)
}

struct Terms {
    expr: MapExpr,
    named: FxHashMap<String, u32>,
}

impl Terms {
    fn push(&mut self, node: MapNode) -> u32 {
        self.expr.nodes.push(node);
        self.expr.nodes.len() as u32 - 1
    }

    fn term(&mut self, p: &mut Parser<'_>, depth: usize) -> Parse<u32> {
        if depth > PARSED_DEPTH {
            return p.fail(ParseErrorKind::TooDeep);
        }
        if p.take_sign('$') {
            let operand = p.whole_number("the number of an operand")?;
            return Ok(self.push(MapNode::Operand(operand)));
        }
        if let Some(value) = p.take_real()? {
            return Ok(self.push(MapNode::Constant(value)));
        }
        let at = p.position();
        let name = match p.peek() {
            Token::Word(w) => w.to_string(),
            _ => return p.expected("a term"),
        };
        p.advance();
        if !p.take_sign('(') {
            return match self.named.get(&name) {
                Some(&node) => Ok(node),
                None => p.fail_at(at, ParseErrorKind::UndefinedTerm(name)),
            };
        }
        let a = self.term(p, depth + 1)?;
        let b = if p.take_sign(',') {
            Some(self.term(p, depth + 1)?)
        } else {
            None
        };
        p.sign(')', "`)`")?;
        match function(&name, a, b) {
            Some(node) => Ok(self.push(node)),
            None => p.fail_at(at, ParseErrorKind::UnknownFunction(name)),
        }
    }
}

fn function(name: &str, a: u32, b: Option<u32>) -> Option<MapNode> {
    match b {
        None => {
            let op = UnaryOp::ALL.into_iter().find(|u| u.name() == name)?;
            Some(MapNode::Unary(op, a))
        }
        Some(b) => {
            let op = BinaryOp::ALL.into_iter().find(|o| o.name() == name)?;
            Some(MapNode::Binary(op, a, b))
        }
    }
}
