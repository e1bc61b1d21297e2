//! From a saturated e-graph to the terms to compute.
//!
//! Every class becomes a class of the extraction problem, every term a choice, with one restriction: a value needed in the forward
//! phase is not computed from a backward one, even if an equal term would be cheaper there.

use egg::Id;
use indexmap::IndexMap;
use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Phase};
use superstep_ir::ids::OpId;
use superstep_ir::op::Op;
use superstep_ir::types::TensorType;

use super::analysis::Fact;
use super::cost::op_cost;
use super::extract::{Choice, Problem};
use super::language::{Head, Term};
use super::region::Region;

/// How one needed class is computed.
pub(super) struct Step {
    pub(super) class: Id,
    pub(super) term: Term,
    /// The op that does so already, if any.
    pub(super) existing: Option<OpId>,
    /// The op after which a new one is named and placed.
    pub(super) origin: OpId,
}

/// The needed classes, each after what it needs.
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

impl Region {
    /// The cheapest selection; the present one if none is cheaper.
    pub(super) fn choose(&self, graph: &Graph) -> Plan {
        let table = Table::new(self, graph);
        let selection = table.problem.extract(table.present.clone());
        let order = table.problem.order(&selection).unwrap_or_default();
        let mut origins = table.first_ops(self, graph);
        // Users before what they need: a class without an op of its own is named after the first user met.
        for &class in order.iter().rev() {
            if let Some(origin) = origins[class] {
                for &need in &table.problem.classes[class][selection[class]].needs {
                    origins[need].get_or_insert(origin);
                }
            }
        }
        let existing = self.earliest_ops(graph);
        let steps = order.into_iter().filter_map(|class| {
            let term = table.terms[class][selection[class]].clone();
            Some(Step {
                class: table.ids[class],
                existing: existing.get(&term).copied(),
                origin: origins[class]?,
                term,
            })
        });
        Plan {
            steps: steps.collect(),
        }
    }

    /// The op that computes each term, the one of the earliest phase if there are several.
    fn earliest_ops(&self, graph: &Graph) -> FxHashMap<Term, OpId> {
        let mut ops: FxHashMap<Term, OpId> = FxHashMap::default();
        for loaded in &self.ops {
            let kept = ops.entry(self.term(loaded)).or_insert(loaded.op);
            *kept = earlier(graph, *kept, loaded.op);
        }
        ops
    }
}

/// The op of the earlier phase; the first if they are in one.
fn earlier(graph: &Graph, first: OpId, second: OpId) -> OpId {
    if graph.node(second).place.phase < graph.node(first).place.phase {
        second
    } else {
        first
    }
}

/// The extraction problem of a region.
struct Table {
    problem: Problem,
    /// The terms behind the choices.
    terms: Vec<Vec<Term>>,
    /// The e-class behind each class, and back.
    ids: Vec<Id>,
    index: IndexMap<Id, usize>,
    /// The selection that is the graph as it is.
    present: Vec<usize>,
}

impl Table {
    fn new(region: &Region, graph: &Graph) -> Table {
        let mut ids: Vec<Id> = region
            .classes
            .classes()
            .filter(|class| class.data.attr().is_none())
            .map(|class| class.id)
            .collect();
        ids.sort_unstable();
        let index: IndexMap<Id, usize> = ids.iter().enumerate().map(|(i, &id)| (id, i)).collect();
        let mut table = Table {
            problem: Problem {
                classes: Vec::new(),
                roots: region
                    .roots
                    .iter()
                    .map(|&v| index[&region.find(v)])
                    .collect(),
            },
            terms: ids
                .iter()
                .map(|&id| region.classes[id].nodes.clone())
                .collect(),
            present: vec![0; ids.len()],
            ids,
            index,
        };
        for terms in &table.terms {
            let choices = terms.iter().map(|term| choice(region, &table.index, term));
            table.problem.classes.push(choices.collect());
        }
        table.respect_phases(region, graph);
        table.select_present(region);
        table
    }

    /// Selects leaves and the first op of each class: operands come first, so there is no cycle.
    fn select_present(&mut self, region: &Region) {
        let mut met = vec![false; self.ids.len()];
        for (leaf, &value) in (0u32..).zip(&region.leaves) {
            let class = self.index[&region.find(value)];
            met[class] = true;
            self.select(class, &Term::new(Head::Leaf(leaf), &[]));
        }
        for loaded in &region.ops {
            let class = self.index[&region.classes.find(loaded.class)];
            if !std::mem::replace(&mut met[class], true) {
                self.select(class, &region.term(loaded));
            }
        }
    }

    fn select(&mut self, class: usize, term: &Term) {
        let found = self.terms[class].iter().position(|t| t == term);
        self.present[class] = found.unwrap_or_default();
    }

    /// Drops the choices that need a value of a later phase than the class has.
    fn respect_phases(&mut self, region: &Region, graph: &Graph) {
        let known = known_phases(region, graph, &self.index);
        let phases = self.earliest_phases(&known);
        for class in 0..self.ids.len() {
            let allowed = |choice: &Choice| {
                let needs = choice.needs.iter().map(|&n| phases[n]);
                needs.max().is_none_or(|latest| latest <= phases[class])
            };
            let (choices, terms) = (&mut self.problem.classes[class], &mut self.terms[class]);
            let pairs = choices.drain(..).zip(terms.drain(..));
            let (kept, kept_terms) = pairs.filter(|(choice, _)| allowed(choice)).unzip();
            (*choices, *terms) = (kept, kept_terms);
        }
    }

    /// The phase of each class: that of its earliest op, or else the earliest in which it can be computed.
    fn earliest_phases(&self, known: &[Option<Phase>]) -> Vec<Phase> {
        let mut phases = known.to_vec();
        let mut changed = true;
        while changed {
            changed = false;
            for class in 0..phases.len() {
                if known[class].is_some() {
                    continue;
                }
                let at = |choice: &Choice| -> Option<Phase> {
                    let needs: Option<Vec<Phase>> =
                        choice.needs.iter().map(|&n| phases[n]).collect();
                    Some(needs?.into_iter().max().unwrap_or_default())
                };
                let best = self.problem.classes[class].iter().filter_map(at).min();
                if best.is_some() && (phases[class].is_none() || best < phases[class]) {
                    phases[class] = best;
                    changed = true;
                }
            }
        }
        let last = Phase::Update;
        phases.into_iter().map(|p| p.unwrap_or(last)).collect()
    }

    /// The op each class is named after: its first op in the earliest phase.
    fn first_ops(&self, region: &Region, graph: &Graph) -> Vec<Option<OpId>> {
        let mut origins: Vec<Option<OpId>> = vec![None; self.ids.len()];
        let values = region.values.iter().map(|(v, &id)| (v.op, id));
        let ops = region.ops.iter().map(|l| (l.op, l.class));
        for (op, id) in values.chain(ops) {
            let origin = &mut origins[self.index[&region.classes.find(id)]];
            *origin = Some(origin.map_or(op, |first| earlier(graph, first, op)));
        }
        origins
    }
}

/// Phases of the classes that ops and leaves are in. Sources are there from the start.
fn known_phases(region: &Region, graph: &Graph, index: &IndexMap<Id, usize>) -> Vec<Option<Phase>> {
    let mut known: Vec<Option<Phase>> = vec![None; index.len()];
    let mut note = |id: Id, op: OpId| {
        let node = graph.node(op);
        let phase = match node.op {
            Op::Constant { .. } | Op::Parameter { .. } | Op::Input { .. } => Phase::Forward,
            _ => node.place.phase,
        };
        let known = &mut known[index[&region.classes.find(id)]];
        *known = Some(known.map_or(phase, |k| k.min(phase)));
    };
    for (value, &id) in &region.values {
        note(id, value.op);
    }
    for loaded in &region.ops {
        note(loaded.class, loaded.op);
    }
    known
}

fn choice(region: &Region, index: &IndexMap<Id, usize>, term: &Term) -> Choice {
    let facts: Vec<&Fact> = term
        .children
        .iter()
        .map(|&c| &region.classes[c].data)
        .collect();
    let mut needs: Vec<usize> = term
        .children
        .iter()
        .filter_map(|&c| index.get(&region.classes.find(c)).copied())
        .collect();
    needs.sort_unstable();
    needs.dedup();
    let cost = match region.classes.analysis.op(&term.head, &facts) {
        Some((op, attrs)) => {
            let operands: Vec<&TensorType> = facts[attrs..].iter().filter_map(|f| f.ty()).collect();
            match region.classes.analysis.fact(&term.head, &facts) {
                Fact::Results(results) => op_cost(&op, &operands, &results),
                _ => 0,
            }
        }
        None => 0,
    };
    Choice { cost, needs }
}
