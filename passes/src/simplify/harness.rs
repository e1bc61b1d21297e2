//! Tests every rule of the tables by numbers: random terms that match, rewritten by egg itself, and every term of every class
//! evaluated. A rule that is wrong, or that never applies, fails.

use std::collections::BTreeMap;

use egg::{ENodeOrVar, Id, Pattern, Var};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::half;
use superstep_ir::interpret::{Tensor, run};
use superstep_ir::op::Op;
use superstep_ir::types::{DType, Real, Shape, TensorType};

use super::analysis::{Classes, Fact, Meaning};
use super::language::{Attr, Head, Term, attribute_count};
use super::rule::{Rule, rule};
use super::rules;
use crate::testing::Random;

const ATTEMPTS: u64 = 3000;
const APPLICATIONS: usize = 6;

#[test]
fn every_rule_means_the_same() {
    let wrong: Vec<String> = rules::all()
        .iter()
        .filter_map(|r| test_rule(r).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_unique_and_reasons_given() {
    let rules = rules::all();
    let mut names: Vec<&str> = rules.iter().map(|r| r.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rules.len());
    assert!(rules.iter().all(|r| !r.reason.is_empty()));
}

#[test]
fn planted_wrong_rules_fail() {
    let planted = [
        rule("sign", "(neg ?x)", "?x"),
        rule("square_matrices_only", "(transpose ?p ?x)", "?x"),
        rule("sub_commutes", "(sub ?x ?y)", "(sub ?y ?x)"),
        rule(
            "scale_lost",
            "(softmax ?s ?k (mul ?x (constant ?c ?t)))",
            "(softmax ?s ?k ?x)",
        ),
        rule("mask_lost", "(softmax ?s true ?x)", "(softmax ?s false ?x)"),
        rule(
            "flag_kept",
            "(matmul ?a ?b (transpose ?p ?x) ?y)",
            "(matmul ?a ?b ?x ?y)",
        ),
        rule(
            "part_of_last",
            "(slice ?a ?s ?n (slice ?a ?t ?m ?x))",
            "(slice ?a ?s ?n ?x)",
        ),
        rule("never_well_typed", "(reduce_sum 1 ?x)", "?x"),
    ];
    for rule in planted {
        assert!(test_rule(&rule).is_err(), "{} passed", rule.name);
    }
}

/// How often a rule applied, or what is wrong with it.
fn test_rule(rule: &Rule) -> Result<usize, String> {
    let rewrite = rule.rewrite();
    let mut applications = 0;
    for seed in 0..ATTEMPTS {
        let mut sample = Sample::new(rule, seed);
        if sample.build_root().is_none() {
            continue;
        }
        sample.classes.rebuild();
        let found = rewrite.search(&sample.classes);
        if rewrite.apply(&mut sample.classes, &found).is_empty() {
            continue;
        }
        sample.classes.rebuild();
        sample
            .all_terms_agree()
            .map_err(|e| format!("rule {} (seed {seed}): {e}", rule.name))?;
        applications += 1;
        if applications == APPLICATIONS {
            return Ok(applications);
        }
    }
    Err(format!(
        "rule {} applied only {applications} times in {ATTEMPTS} attempts",
        rule.name
    ))
}

/// One random term that the left side of a rule matches, and the values of its classes.
struct Sample<'r> {
    rule: &'r Rule,
    pattern: Vec<ENodeOrVar<Term>>,
    random: Random,
    dtype: DType,
    bound: FxHashMap<Var, Id>,
    classes: Classes,
    values: BTreeMap<Id, Vec<Tensor>>,
}

impl<'r> Sample<'r> {
    fn new(rule: &'r Rule, seed: u64) -> Sample<'r> {
        let pattern: Pattern<Term> = rule.from.parse().unwrap();
        let dtype = if seed.is_multiple_of(3) {
            DType::F16
        } else {
            DType::F32
        };
        Sample {
            rule,
            pattern: pattern.ast.iter().cloned().collect(),
            random: Random::new(seed),
            dtype,
            bound: FxHashMap::default(),
            classes: Classes::new(Meaning::default()),
            values: BTreeMap::new(),
        }
    }

    fn build_root(&mut self) -> Option<Id> {
        self.build(self.pattern.len() - 1)
    }

    /// The class of a node of the pattern; `None` if what was drawn does not type-check.
    fn build(&mut self, at: usize) -> Option<Id> {
        let term = match self.pattern[at].clone() {
            ENodeOrVar::Var(var) => {
                return Some(match self.bound.get(&var) {
                    Some(&id) => id,
                    None => {
                        let id = self.leaf();
                        self.bound.insert(var, id);
                        id
                    }
                });
            }
            ENodeOrVar::ENode(term) => term,
        };
        let Head::Op(name) = term.head else {
            return Some(self.classes.add(term));
        };
        let count = attribute_count(name);
        let operands: Vec<Id> = term.children[count..]
            .iter()
            .map(|&child| self.build(usize::from(child)))
            .collect::<Option<_>>()?;
        let types: Vec<TensorType> = operands
            .iter()
            .map(|&id| self.classes[id].data.ty().cloned())
            .collect::<Option<_>>()?;
        let mut children = Vec::new();
        for (i, &child) in term.children[..count].iter().enumerate() {
            children.push(self.attribute(name, i, usize::from(child), &types, &children)?);
        }
        children.extend(operands);
        let term = Term::new(term.head, &children);
        let facts: Vec<&Fact> = children.iter().map(|&c| &self.classes[c].data).collect();
        if self.classes.analysis.fact(&term.head, &facts) == Fact::IllTyped {
            return None;
        }
        let id = self.classes.add(term.clone());
        let value = self.evaluate(&term)?;
        self.values.insert(id, value);
        Some(id)
    }

    fn leaf(&mut self) -> Id {
        let mut extent = || 1 + self.random.below(3);
        let (a, b, c) = (extent(), extent(), extent());
        let shapes: [&[usize]; 8] = [
            &[],
            &[a],
            &[b, a],
            &[b, a],
            &[a, a],
            &[c, b, a],
            &[c, a, a],
            &[2, c, b, a],
        ];
        let mut ty = TensorType::new(self.dtype, shapes[self.random.below(shapes.len())]);
        // Often the type of another operand: most binary ops and products want that.
        let leaves = &self.classes.analysis.leaves;
        if !leaves.is_empty() && self.random.below(3) > 0 {
            ty = leaves[self.random.below(leaves.len())].clone();
        }
        let low = if self.random.below(2) == 0 { -2.0 } else { 0.2 };
        let mut value = self.random.tensor(&ty, low, 2.0);
        if ty.dtype == DType::F16 {
            let data = value.data.iter_mut();
            data.for_each(|x| *x = half::nearest(*x));
        }
        self.classes.analysis.leaves.push(ty);
        let leaf = self.classes.analysis.leaves.len() as u32 - 1;
        let id = self.classes.add(Term::new(Head::Leaf(leaf), &[]));
        self.values.insert(id, vec![value]);
        id
    }

    /// Attribute `i` of an op: what the pattern says, what is bound already, or something that may suit the operands.
    fn attribute(
        &mut self,
        op: &str,
        i: usize,
        at: usize,
        types: &[TensorType],
        before: &[Id],
    ) -> Option<Id> {
        let var = match self.pattern[at].clone() {
            ENodeOrVar::ENode(term) => return Some(self.classes.add(term)),
            ENodeOrVar::Var(var) => var,
        };
        if let Some(&id) = self.bound.get(&var) {
            return Some(id);
        }
        let dims = types.first().map_or(&[][..], |ty| ty.shape.dims());
        let attr = match (op, i) {
            ("constant", 0) => self.number(&var.to_string()),
            ("constant", _) => {
                let shape = if self.random.below(4) == 0 {
                    vec![2]
                } else {
                    vec![]
                };
                Attr::Type(TensorType::new(self.dtype, &shape[..]))
            }
            ("matmul", _) | ("softmax", 1) => Attr::Flag(self.random.below(2) == 0),
            ("softmax" | "softmax_grad", _) => Attr::Number(Real(self.random.real(-0.5, 2.0))),
            ("reshape", _) => Attr::Shape(self.another_shape(dims)),
            ("broadcast", _) => {
                let mut shape: Vec<usize> = (0..self.random.below(3)).map(|_| 2).collect();
                shape.extend(dims);
                Attr::Shape(Shape::new(&shape))
            }
            ("transpose", _) => Attr::Axes(self.permutation(dims.len())),
            ("slice", 1) => {
                let axis = self.count(before[0])?;
                Attr::Count(self.random.below(*dims.get(axis)?))
            }
            ("slice", 2) => {
                let (axis, start) = (self.count(before[0])?, self.count(before[1])?);
                let left = dims.get(axis)?.checked_sub(start)?;
                Attr::Count(1 + self.random.below(left.max(1)))
            }
            _ => Attr::Count(self.random.below(dims.len() + 1)),
        };
        let id = self.classes.add(Term::attr(attr));
        self.bound.insert(var, id);
        Some(id)
    }

    fn count(&self, id: Id) -> Option<usize> {
        match self.classes[id].data.attr()? {
            Attr::Count(count) => Some(*count),
            _ => None,
        }
    }

    fn number(&mut self, var: &str) -> Attr {
        let about = self.rule.nears().iter().find(|(name, _)| *name == var);
        let some = [0.5, 2.0, -3.7, 0.125, -1.0, 1e-3];
        Attr::Number(Real(match about {
            Some((_, value)) => f64::from(*value as f32),
            None => some[self.random.below(some.len())],
        }))
    }

    fn another_shape(&mut self, dims: &[usize]) -> Shape {
        let reversed: Vec<usize> = dims.iter().rev().copied().collect();
        let flat = [dims.iter().product()];
        let more = [&[1], dims].concat();
        let choices: [&[usize]; 4] = [dims, &reversed, &flat, &more];
        Shape::new(choices[self.random.below(4)])
    }

    fn permutation(&mut self, rank: usize) -> SmallVec<[usize; 4]> {
        let mut perm: SmallVec<[usize; 4]> = (0..rank).collect();
        for i in (1..rank).rev() {
            perm.swap(i, self.random.below(i + 1));
        }
        // Swapping the last two is what products can take.
        if rank >= 2 && self.random.below(3) == 0 {
            perm = (0..rank).collect();
            perm.swap(rank - 2, rank - 1);
        }
        perm
    }

    /// The value of a term from the values of its operands, if those are known.
    fn evaluate(&self, term: &Term) -> Option<Vec<Tensor>> {
        let facts: Vec<&Fact> = term
            .children
            .iter()
            .map(|&c| &self.classes[c].data)
            .collect();
        let (op, attrs) = self.classes.analysis.op(&term.head, &facts)?;
        let operands: Vec<&Tensor> = term.children[attrs..]
            .iter()
            .map(|&c| self.values.get(&self.classes.find(c)).map(|v| &v[0]))
            .collect::<Option<_>>()?;
        Some(interpret(op, &operands))
    }

    /// Evaluates every term of every class; all of a class must agree.
    fn all_terms_agree(&mut self) -> Result<(), String> {
        let mut known: BTreeMap<Id, Vec<Tensor>> = BTreeMap::new();
        for (&id, value) in &self.values {
            let class = self.classes.find(id);
            if let Some(other) = known.insert(class, value.clone()) {
                agree(&other, value)?;
            }
        }
        self.values = known;
        let mut classes: Vec<Id> = self.classes.classes().map(|c| c.id).collect();
        classes.sort_unstable();
        let mut grown = true;
        while grown {
            grown = false;
            for &class in &classes {
                for term in &self.classes[class].nodes {
                    let Some(value) = self.evaluate(term) else {
                        continue;
                    };
                    match self.values.get(&class) {
                        Some(known) => agree(known, &value).map_err(|e| format!("{term}: {e}"))?,
                        None => {
                            self.values.insert(class, value);
                            grown = true;
                        }
                    }
                }
            }
        }
        let unknown =
            |&&c: &&Id| self.classes[c].data.attr().is_none() && !self.values.contains_key(&c);
        match classes.iter().find(unknown) {
            Some(class) => Err(format!("class {class} was not evaluated")),
            None => Ok(()),
        }
    }
}

/// Equal up to the f32 precision of model constants, or to what halves lose where a rewrite stores other values on
/// the way; infinities and NaN at the same places.
fn agree(a: &[Tensor], b: &[Tensor]) -> Result<(), String> {
    for (a, b) in a.iter().zip(b) {
        if a.ty != b.ty {
            return Err(format!("{} against {}", a.ty, b.ty));
        }
        let tolerance = if a.ty.dtype == DType::F16 { 0.02 } else { 1e-6 };
        for (i, (&x, &y)) in a.data.iter().zip(&b.data).enumerate() {
            let close = (x - y).abs() <= tolerance * (1.0 + x.abs().max(y.abs()));
            if !(x == y || (x.is_nan() && y.is_nan()) || close) {
                return Err(format!("element {i}: {x} against {y}"));
            }
        }
    }
    Ok(())
}

fn interpret(op: Op, operands: &[&Tensor]) -> Vec<Tensor> {
    let mut graph = Graph::new("term");
    let mut b = Builder::new(&mut graph);
    let mut inputs = BTreeMap::new();
    let values: Vec<Value> = operands
        .iter()
        .enumerate()
        .map(|(i, tensor)| {
            inputs.insert(i.to_string(), (*tensor).clone());
            b.input(&i.to_string(), tensor.ty.clone()).unwrap()
        })
        .collect();
    let results = b.results("op", op, &values).unwrap();
    for (i, &result) in results.iter().enumerate() {
        b.output(&i.to_string(), result).unwrap();
    }
    let outputs = run(&graph, &mut BTreeMap::new(), &inputs).unwrap();
    outputs.into_values().collect()
}
