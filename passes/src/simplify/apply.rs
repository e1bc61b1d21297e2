//! The chosen terms become ops of the graph.

use egg::Id;
use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::Op;

use super::analysis::Fact;
use super::choose::{Plan, Step};
use super::language::Head;
use super::region::Region;
use crate::order::Order;
use crate::pass::PassError;

impl Region {
    /// True when the graph computes just what is planned.
    pub(super) fn is_done(&self, graph: &Graph, plan: &Plan) -> bool {
        let by_class = self.values_by_class();
        let mut built = Built::default();
        plan.steps.iter().all(|step| {
            match step.existing {
                Some(op) => built.note_op(graph, step.class, op),
                None if is_op(&step.term.head) => return false,
                None => built.note_value(self, step),
            }
            let value = built.values.get(&step.class);
            let mut others = by_class.get(&step.class).into_iter().flatten();
            others.all(|other| Some(other) == value)
        })
    }

    /// Makes the graph compute what is planned and returns the number of ops made. What it computed otherwise loses its readers
    /// in this region and outside it.
    pub(super) fn apply(
        &self,
        graph: &mut Graph,
        order: &mut Order,
        plan: &Plan,
    ) -> Result<usize, PassError> {
        let by_class = self.values_by_class();
        let mut built = Built::default();
        let mut made = 0;
        for step in &plan.steps {
            match step.existing {
                Some(op) => built.note_op(graph, step.class, op),
                None if is_op(&step.term.head) => {
                    let op = self.make(graph, &built, step)?;
                    order.put(op, step.origin);
                    built.note_op(graph, step.class, op);
                    made += 1;
                }
                None => built.note_value(self, step),
            }
            let others = by_class.get(&step.class).into_iter().flatten();
            if let Some(&value) = built.values.get(&step.class) {
                others.for_each(|&other| graph.replace_uses(other, value));
            }
        }
        Ok(made)
    }

    /// The values of each class that can be read instead of one another. Leaves and constants are left alone: other regions read
    /// them.
    fn values_by_class(&self) -> FxHashMap<Id, Vec<Value>> {
        let mut by_class: FxHashMap<Id, Vec<Value>> = FxHashMap::default();
        for (&value, &id) in &self.values {
            if !self.leaves.contains(&value) && !self.constants.contains(&value) {
                by_class
                    .entry(self.classes.find(id))
                    .or_default()
                    .push(value);
            }
        }
        by_class
    }

    fn make(&self, graph: &mut Graph, built: &Built, step: &Step) -> Result<OpId, PassError> {
        let origin = graph.node(step.origin);
        let unsupported = |reason: String| PassError::Unsupported {
            op: origin.name.clone(),
            reason,
        };
        let children = &step.term.children;
        let facts: Vec<&Fact> = children.iter().map(|&c| &self.classes[c].data).collect();
        let (op, attrs) = self
            .classes
            .analysis
            .op(&step.term.head, &facts)
            .ok_or_else(|| unsupported(format!("term {} is no op", step.term)))?;
        let operands: Option<Vec<Value>> = children[attrs..]
            .iter()
            .map(|&c| built.values.get(&self.classes.find(c)).copied())
            .collect();
        let operands =
            operands.ok_or_else(|| unsupported(format!("{} lacks an operand", op.name())))?;
        let is_its_own = self.has_op(step.class);
        let name = match &op {
            _ if is_its_own => origin.name.clone(),
            Op::Constant { .. } => format!("{}.constant", origin.name),
            op => format!("{}.{}", origin.name, op.name()),
        };
        let place = origin.place;
        Ok(graph.insert(op, &operands, name, place)?)
    }

    /// True when an op of the graph computes the class.
    fn has_op(&self, class: Id) -> bool {
        self.ops.iter().any(|l| self.classes.find(l.class) == class)
    }
}

fn is_op(head: &Head) -> bool {
    matches!(head, Head::Op(_) | Head::Opaque(_))
}

/// What computes the classes met so far.
#[derive(Default)]
struct Built {
    values: FxHashMap<Id, Value>,
    ops: FxHashMap<Id, OpId>,
}

impl Built {
    fn note_op(&mut self, graph: &Graph, class: Id, op: OpId) {
        self.ops.insert(class, op);
        if graph.node(op).results().len() == 1 {
            self.values.insert(class, graph.value(op));
        }
    }

    /// A leaf, or a result of an op met before.
    fn note_value(&mut self, region: &Region, step: &Step) {
        let value = match step.term.head {
            Head::Leaf(leaf) => region.leaves.get_index(leaf as usize).copied(),
            Head::Result(result) => {
                let op = self.ops.get(&region.classes.find(step.term.children[0]));
                op.map(|&op| Value { op, result })
            }
            _ => None,
        };
        if let Some(value) = value {
            self.values.insert(step.class, value);
        }
    }
}
