//! Which ops run together: stage by stage, and the stages of a group of IPUs round by round.

use indexmap::IndexMap;
use rustc_hash::FxHashMap;
use superstep_ir::graph::Graph;
use superstep_ir::ids::{IpuId, OpId};
use superstep_ir::op::Op;

use crate::schedule::schedule;

/// The ops of a graph by stage, round and IPU, in schedule order.
pub(super) fn segments_of(graph: &Graph, group: u32) -> IndexMap<(u32, u32, IpuId), Vec<OpId>> {
    let order = schedule(graph);
    let rounds = rounds(graph, &order, group);
    let mut segments: IndexMap<(u32, u32, IpuId), Vec<OpId>> = IndexMap::new();
    for op in order {
        let (stage, ipu) = stage_and_ipu(graph, op);
        let key = (stage, rounds.get(&op).copied().unwrap_or(0), ipu);
        segments.entry(key).or_default().push(op);
    }
    segments.sort_keys();
    segments
}

fn stage_and_ipu(graph: &Graph, op: OpId) -> (u32, IpuId) {
    let place = graph.node(op).place;
    let stage = place.stage.map_or(0, |s| s.0);
    (stage, place.ipu.unwrap_or(IpuId(0)))
}

/// The round of its stage in which each op runs: behind what it needs from other members of the group. Parts run in rounds of their own, so
/// that all members have the same to do at the same time: a part on the first member does not begin before its value is with the others. Besides,
/// parts and what is whole keep the order of the schedule. What needs nothing is there when it is needed first.
fn rounds(graph: &Graph, order: &[OpId], group: u32) -> FxHashMap<OpId, u32> {
    let mut rounds: FxHashMap<OpId, u32> = FxHashMap::default();
    if group == 1 {
        return rounds;
    }
    let is_part = |op: OpId| graph.node(op).place.member.is_some();
    let mut reached: FxHashMap<(u32, IpuId, bool), u32> = FxHashMap::default();
    for &op in order {
        let node = graph.node(op);
        if node.operands().is_empty() {
            continue;
        }
        let here = stage_and_ipu(graph, op);
        let reached = reached.entry((here.0, here.1, is_part(op))).or_default();
        for v in node.operands() {
            let there = stage_and_ipu(graph, v.op);
            let is_made = !graph.node(v.op).operands().is_empty();
            let crosses = match is_made {
                true => there.1 != here.1 || is_part(v.op) != is_part(op),
                false => there.1 != here.1 && !matches!(graph.op(v.op), Op::Constant { .. }),
            };
            if there.0 == here.0 && there.1.0 / group == here.1.0 / group {
                let made = rounds.get(&v.op).copied().unwrap_or(0);
                *reached = (*reached).max(made + u32::from(crosses));
            }
        }
        rounds.insert(op, *reached);
    }
    for &op in order {
        if !graph.node(op).operands().is_empty() {
            continue;
        }
        let here = stage_and_ipu(graph, op);
        let users = graph.uses(graph.value(op)).into_iter().filter_map(|user| {
            let there = stage_and_ipu(graph, user.op);
            let together = there.0 == here.0 && there.1.0 / group == here.1.0 / group;
            let round = rounds.get(&user.op).filter(|_| together)?;
            Some(round.saturating_sub(u32::from(there.1 != here.1)))
        });
        let first = users.min().unwrap_or(0);
        rounds.insert(op, first);
    }
    rounds
}
