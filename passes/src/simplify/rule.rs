//! Rewrite rules as data: a pattern, what it becomes, when, and why.

use egg::{Applier, ENodeOrVar, Id, Pattern, PatternAst, RecExpr, Rewrite, Subst, Symbol, Var};
use superstep_ir::types::TensorType;

use super::analysis::{Classes, Fact, Meaning};
use super::language::{Attr, Term};

/// One rule. Patterns are terms as in [`language`](super::language), with variables `?x` for operands and attributes alike.
///
/// A match is rewritten when every condition holds, every attribute that is to be computed can be, and the result has exactly
/// the type of what it replaces; so no rule needs conditions on types.
pub struct Rule {
    /// Shown in reports as what fired.
    pub name: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    /// Why the result means the same, or what it saves.
    pub reason: &'static str,
    conditions: Vec<Test>,
    computed: Vec<(&'static str, Compute)>,
    near: Vec<(&'static str, f64)>,
}

type Test = fn(&Match<'_>) -> Option<bool>;
type Compute = fn(&Match<'_>) -> Option<Attr>;

/// `from => to`, before conditions and reason.
pub(super) fn rule(name: &'static str, from: &'static str, to: &'static str) -> Rule {
    Rule {
        name,
        from,
        to,
        reason: "",
        conditions: Vec::new(),
        computed: Vec::new(),
        near: Vec::new(),
    }
}

/// Model constants are written with f32 precision.
const NEAR: f64 = 1e-6;

impl Rule {
    /// Applies only where `test` is true; `None` counts as false.
    pub(super) fn when(mut self, test: Test) -> Rule {
        self.conditions.push(test);
        self
    }

    /// Computes an attribute of the result from the match; does not apply where it cannot be computed.
    pub(super) fn compute(mut self, var: &'static str, compute: Compute) -> Rule {
        self.computed.push((var, compute));
        self
    }

    /// Applies only where number `var` is `value`, to the precision of a constant of a model.
    pub(super) fn near(mut self, var: &'static str, value: f64) -> Rule {
        self.near.push((var, value));
        self
    }

    pub(super) fn because(mut self, reason: &'static str) -> Rule {
        self.reason = reason;
        self
    }

    /// Numbers the rule is about, for drawing matches of it.
    #[cfg(test)]
    pub(super) fn nears(&self) -> &[(&'static str, f64)] {
        &self.near
    }

    /// The rule as egg runs it.
    ///
    /// # Panics
    /// The patterns do not parse, or the result uses a variable that nothing binds: a bug of the table, found by its tests.
    pub(super) fn rewrite(&self) -> Rewrite<Term, Meaning> {
        let pattern = |text: &str| -> Pattern<Term> {
            text.parse()
                .unwrap_or_else(|e| panic!("rule {}: {text}: {e}", self.name))
        };
        let applier = Rewriting {
            to: pattern(self.to).ast,
            conditions: self.conditions.clone(),
            computed: self.computed.clone(),
            near: self.near.clone(),
        };
        Rewrite::new(self.name, pattern(self.from), applier)
            .unwrap_or_else(|e| panic!("rule {}: {e}", self.name))
    }
}

/// What a match bound, for conditions and computed attributes.
pub(super) struct Match<'a> {
    classes: &'a Classes,
    subst: &'a Subst,
}

impl Match<'_> {
    fn fact(&self, name: &str) -> Option<&Fact> {
        let id = self.subst.get(var(name))?;
        Some(&self.classes[*id].data)
    }

    /// The type of an operand.
    pub(super) fn ty(&self, name: &str) -> Option<&TensorType> {
        self.fact(name)?.ty()
    }

    pub(super) fn dims(&self, name: &str) -> Option<&[usize]> {
        Some(self.ty(name)?.shape.dims())
    }

    pub(super) fn attr(&self, name: &str) -> Option<&Attr> {
        self.fact(name)?.attr()
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        match self.attr(name)? {
            Attr::Number(number) => Some(number.0),
            _ => None,
        }
    }

    pub(super) fn count(&self, name: &str) -> Option<usize> {
        match self.attr(name)? {
            Attr::Count(count) => Some(*count),
            _ => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.attr(name)? {
            Attr::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn axes(&self, name: &str) -> Option<&[usize]> {
        match self.attr(name)? {
            Attr::Axes(axes) => Some(axes),
            _ => None,
        }
    }
}

fn var(name: &str) -> Var {
    name.parse()
        .unwrap_or_else(|e| panic!("variable {name} of a rule: {e}"))
}

/// The right side of a rule.
struct Rewriting {
    to: PatternAst<Term>,
    conditions: Vec<Test>,
    computed: Vec<(&'static str, Compute)>,
    near: Vec<(&'static str, f64)>,
}

impl Rewriting {
    fn holds(&self, found: &Match<'_>) -> bool {
        let near = |&(name, value): &(&str, f64)| {
            let close = |n: f64| (n - value).abs() <= NEAR * value.abs();
            found.number(name).is_some_and(close)
        };
        self.near.iter().all(near) && self.conditions.iter().all(|test| test(found) == Some(true))
    }

    /// The fact about the result, without adding it to the e-graph.
    fn fact(&self, classes: &Classes, subst: &Subst) -> Fact {
        let mut facts: Vec<Fact> = Vec::new();
        for node in self.to.iter() {
            let fact = match node {
                ENodeOrVar::Var(v) => classes[subst[*v]].data.clone(),
                ENodeOrVar::ENode(term) => {
                    let children: Vec<&Fact> = term
                        .children
                        .iter()
                        .map(|&c| &facts[usize::from(c)])
                        .collect();
                    classes.analysis.fact(&term.head, &children)
                }
            };
            facts.push(fact);
        }
        facts.pop().unwrap_or(Fact::IllTyped)
    }
}

impl Applier<Term, Meaning> for Rewriting {
    fn apply_one(
        &self,
        classes: &mut Classes,
        class: Id,
        subst: &Subst,
        _from: Option<&PatternAst<Term>>,
        _rule: Symbol,
    ) -> Vec<Id> {
        if !self.holds(&Match { classes, subst }) {
            return vec![];
        }
        let mut subst = subst.clone();
        for &(name, compute) in &self.computed {
            let found = Match {
                classes,
                subst: &subst,
            };
            let Some(attr) = compute(&found) else {
                return vec![];
            };
            let id = classes.add(Term::attr(attr));
            subst.insert(var(name), id);
        }
        if self.fact(classes, &subst) != classes[class].data {
            return vec![];
        }
        let to = instantiate(&self.to, classes, &subst);
        if classes.union(class, to) {
            vec![class]
        } else {
            vec![]
        }
    }

    /// Computed attributes are bound here; egg is to check the others.
    fn vars(&self) -> Vec<Var> {
        let mut vars = Pattern::new(self.to.clone()).vars();
        vars.retain(|v| self.computed.iter().all(|(name, _)| var(name) != *v));
        vars
    }
}

fn instantiate(pattern: &RecExpr<ENodeOrVar<Term>>, classes: &mut Classes, subst: &Subst) -> Id {
    let mut ids: Vec<Id> = Vec::new();
    for node in pattern.iter() {
        let id = match node {
            ENodeOrVar::Var(v) => subst[*v],
            ENodeOrVar::ENode(term) => {
                let mut term = term.clone();
                for child in &mut term.children {
                    *child = ids[usize::from(*child)];
                }
                classes.add(term)
            }
        };
        ids.push(id);
    }
    ids[ids.len() - 1]
}
