//! Copies of cheap forward ops for their backward readers.
//!
//! `gelu_grad(add(mm, bias), g)` in the backward phase keeps the sum alive since the forward phase. Computed again from `mm` and
//! the bias, inside the same `map`, it keeps `mm` alive instead: as much memory, but one tensor less to write. So an op is
//! copied when afterwards no more bytes have to live across the phases than before.
//!
//! A cast to f32 is not worth a tensor of its own: each reader gets one, and takes it in.

use superstep_ir::graph::{Graph, Phase, Use, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::Op;

use super::groups::{is_elementwise, primitives, widens};
use crate::order::Order;
use crate::pass::{PassContext, PassError};

/// Computing again must stay cheaper than reading.
const PRIMITIVES_MAX: usize = 2;

pub(super) fn copy_cheap_producers(
    graph: &mut Graph,
    order: &mut Order,
    cx: &mut PassContext,
) -> Result<(), PassError> {
    for op in graph.topological() {
        if !is_elementwise(graph, op) {
            continue;
        }
        let late = late_uses(graph, op);
        if late.is_empty() || !pays(graph, op, &late) {
            continue;
        }
        if !cx.may_rewrite(&graph.node(op).name) {
            break;
        }
        let copy = copy_for(graph, op, &late)?;
        order.put(copy, late[0].op);
        cx.count("cheap ops computed again", 1);
    }
    Ok(())
}

pub(super) fn copy_widening_casts(
    graph: &mut Graph,
    order: &mut Order,
    cx: &mut PassContext,
) -> Result<(), PassError> {
    for op in graph.topological() {
        if !widens(graph, op) {
            continue;
        }
        let mut uses = graph.uses(graph.value(op));
        uses.dedup_by_key(|u| u.op);
        for u in uses.into_iter().skip(1) {
            if !is_elementwise(graph, u.op) {
                continue;
            }
            if !cx.may_rewrite(&graph.node(op).name) {
                return Ok(());
            }
            let node = graph.node(op).clone();
            let place = graph.node(u.op).place;
            let operand = node.operands()[0];
            let copy = graph.insert(node.op, &[operand], node.name, place)?;
            let reads = graph.uses(graph.value(op)).into_iter();
            for read in reads.filter(|read| read.op == u.op) {
                graph.set_operand(read, graph.value(copy));
            }
            order.put(copy, u.op);
            cx.count("casts copied to their readers", 1);
        }
    }
    Ok(())
}

fn phase(graph: &Graph, op: OpId) -> Phase {
    graph.node(op).place.phase
}

/// Uses of the op's result in a later phase.
fn late_uses(graph: &Graph, op: OpId) -> Vec<Use> {
    let mut uses = graph.uses(graph.value(op));
    uses.retain(|u| phase(graph, u.op) > phase(graph, op));
    uses
}

fn pays(graph: &Graph, op: OpId, late: &[Use]) -> bool {
    let node = graph.node(op);
    if node.results().len() != 1 || primitives(&node.op) > PRIMITIVES_MAX {
        return false;
    }
    let can_take = |u: &Use| {
        let reader = graph.node(u.op);
        is_elementwise(graph, u.op)
            && reader.results()[0] == node.results()[0]
            && reader.place.ipu == node.place.ipu
            && reader.place.layer == node.place.layer
            && reader.place.member == node.place.member
            && reader.place.phase == phase(graph, late[0].op)
    };
    if !late.iter().all(can_take) {
        return false;
    }
    let mut operands = node.operands().to_vec();
    operands.sort_unstable();
    operands.dedup();
    let kept_longer: usize = operands
        .into_iter()
        .filter(|&v| !is_alive_in(graph, v, phase(graph, late[0].op)))
        .map(|v| graph.ty(v).bytes())
        .sum();
    kept_longer <= node.results()[0].bytes()
}

/// True when a value exists in `late` anyway: state and constants do, and what is read there already.
fn is_alive_in(graph: &Graph, value: Value, late: Phase) -> bool {
    matches!(
        graph.op(value.op),
        Op::Parameter { .. } | Op::Constant { .. }
    ) || graph.uses(value).iter().any(|u| phase(graph, u.op) >= late)
}

/// One copy of `op` at the place of its late readers.
fn copy_for(graph: &mut Graph, op: OpId, late: &[Use]) -> Result<OpId, PassError> {
    let node = graph.node(op).clone();
    let place = graph.node(late[0].op).place;
    let operands = node.operands().to_vec();
    let copy = graph.insert(node.op, &operands, node.name, place)?;
    for &u in late {
        graph.set_operand(u, graph.value(copy));
    }
    Ok(copy)
}
