//! Assignment of ops to IPUs: whole decoder layers, in order; what belongs to no layer (embedding, head, loss) goes to IPU 0.
//!
//! Where layers are divided over groups of `T` IPUs (`tensor_parallel.rs`), every entry of `layers_per_ipu` names a group: entry `i` has the IPUs
//! `i·T .. (i+1)·T`, so that groups of two are rungs of the ladder of links, and member `m` of a layer is on the `m`-th of them.

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Module, Phase, Place, Value};
use superstep_ir::ids::{IpuId, OpId, StageId};
use superstep_ir::machine::Machine;
use superstep_ir::op::Op;
use thiserror::Error;

use crate::solve::stage_split::stage_split_by;

/// Why layers cannot be assigned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StageError {
    #[error("layers_per_ipu {given:?} places {placed} layers, the model has {layers}")]
    LayerCount {
        given: Vec<u32>,
        placed: u64,
        layers: u32,
    },
    #[error("layers_per_ipu names {named} IPUs, {machine} has {ipus}")]
    TooManyIpus {
        named: usize,
        machine: String,
        ipus: u32,
    },
    #[error(
        "layers_per_ipu names {named} groups of {members} IPUs, which are {}; {machine} has {ipus}",
        u64::from(*members) * *named as u64
    )]
    TooManyGroups {
        named: usize,
        members: u32,
        machine: String,
        ipus: u32,
    },
    #[error("ipus_per_replica is {given}, {machine} has {ipus}")]
    MoreThanThereAre {
        given: u32,
        machine: String,
        ipus: u32,
    },
    #[error("ipus_per_replica is {given}, which are no whole groups of {members} IPUs")]
    PartOfAGroup { given: u32, members: u32 },
    #[error(
        "ipus_per_replica is {given}, but {layers} layers, with embedding and head on IPU 0, are for {} at most",
        u64::from(*members) * (u64::from(*layers) + 1)
    )]
    MoreThanLayers {
        given: u32,
        members: u32,
        layers: u32,
    },
    #[error("a group of {members} IPUs does not fit: {machine} has {ipus}")]
    GroupTooLarge {
        members: u32,
        machine: String,
        ipus: u32,
    },
    #[error(
        "layers divided over groups of {members} IPUs need a pipeline, in which the IPUs of a group work at the same time"
    )]
    GroupsWithoutPipeline { members: u32 },
    #[error("recompute names layer {named}, the model has {}", names_of(*layers))]
    NoSuchLayer { named: u32, layers: u32 },
}

fn names_of(layers: u32) -> String {
    match layers {
        0 => "no layers".into(),
        _ => format!("layers 0 to {}", layers - 1),
    }
}

/// Layers on each IPU, in order of the layers.
pub type LayersPerIpu = Vec<u32>;

/// Number of decoder layers of a module.
pub fn layer_count(module: &Module) -> u32 {
    let layers = module
        .graphs
        .iter()
        .flat_map(|g| g.ops().filter_map(|op| g.node(op).place.layer));
    layers.max().map_or(0, |last| last + 1)
}

/// Checks a given assignment to groups of `members` IPUs.
pub fn check(
    given: &[u32],
    members: u32,
    layers: u32,
    machine: &Machine,
) -> Result<LayersPerIpu, StageError> {
    if u64::from(members) * given.len() as u64 > u64::from(machine.ipus) && members > 1 {
        return Err(StageError::TooManyGroups {
            named: given.len(),
            members,
            machine: machine.name.clone(),
            ipus: machine.ipus,
        });
    }
    if given.is_empty() || given.len() > machine.ipus as usize {
        let (named, machine_name) = (given.len(), machine.name.clone());
        return Err(StageError::TooManyIpus {
            named,
            machine: machine_name,
            ipus: machine.ipus,
        });
    }
    let placed: u64 = given.iter().map(|&n| u64::from(n)).sum();
    if placed != u64::from(layers) {
        return Err(StageError::LayerCount {
            given: given.to_vec(),
            placed,
            layers,
        });
    }
    Ok(given.to_vec())
}

/// Checks a number of IPUs, in groups of `members`, over which layers are to be spread.
pub fn check_count(
    given: u32,
    members: u32,
    layers: u32,
    machine: &Machine,
) -> Result<(), StageError> {
    if given > machine.ipus {
        return Err(StageError::MoreThanThereAre {
            given,
            machine: machine.name.clone(),
            ipus: machine.ipus,
        });
    }
    if !given.is_multiple_of(members) {
        return Err(StageError::PartOfAGroup { given, members });
    }
    if given / members > layers + 1 {
        return Err(StageError::MoreThanLayers {
            given,
            members,
            layers,
        });
    }
    Ok(())
}

/// The assignment to so many groups of IPUs whose fullest IPU, by estimated bytes, is least full.
pub fn balance(module: &Module, groups: u32, pipelined: bool) -> LayersPerIpu {
    let estimate = Estimate::of(module);
    let lengths = estimate.split(groups, pipelined);
    lengths.into_iter().map(|n| n as u32).collect()
}

/// Bytes of a tile for code, as long as there is none that could be counted: a little less than an IPU with a layer or two has.
const CODE: u32 = 64 << 10;

/// Fewest groups of `members` IPUs whose fullest IPU would hold the estimated bytes.
pub fn least_groups(module: &Module, members: u32, machine: &Machine) -> u32 {
    let estimate = Estimate::of(module);
    let most = machine.ipus / members;
    let for_variables = machine.usable_tile_memory().saturating_sub(CODE);
    let capacity = u64::from(machine.tiles_per_ipu) * u64::from(for_variables);
    (1..most)
        .find(|&groups| {
            let mut at = 0;
            let lengths = estimate.split(groups, false);
            lengths.into_iter().enumerate().all(|(group, count)| {
                let bytes = estimate.bytes(group, at..at + count, 1);
                at += count;
                bytes <= capacity / 10 * 9
            })
        })
        .unwrap_or(most)
}

/// Estimated bytes of a module on the first IPU of each group: it has as much as the others of what is divided, and all that is not.
struct Estimate {
    /// By layer, bytes of state, and of forward values that its backward ops, or those that run again for them, read.
    layers: Vec<[u64; 2]>,
    /// What belongs to no layer and keeps all the while. Of what it stashes only the largest counts: the head works through its row blocks one by
    /// one.
    rest: u64,
}

impl Estimate {
    fn of(module: &Module) -> Estimate {
        let mut layers = vec![[0u64; 2]; layer_count(module) as usize];
        let (mut rest, mut largest) = (0u64, 0u64);
        let mut states = std::collections::BTreeSet::new();
        for graph in &module.graphs {
            for op in graph.ops() {
                let node = graph.node(op);
                if node.place.member.is_some_and(|member| member > 0) {
                    continue;
                }
                let (kind, bytes) = match &node.op {
                    Op::Parameter { remote: true, .. } => continue,
                    Op::Parameter { state, ty, .. } => {
                        let is_new = states.insert(state.clone());
                        (0, if is_new { ty.bytes() as u64 } else { 0 })
                    }
                    _ => (1, stashed_bytes(graph, op)),
                };
                match node.place.layer {
                    Some(layer) => layers[layer as usize][kind] += bytes,
                    None if kind == 0 => rest += bytes,
                    None => largest = largest.max(bytes),
                }
            }
        }
        Estimate {
            layers,
            rest: rest + largest,
        }
    }

    /// On the group with these layers, where `waiting` micro-batches wait for their backward pass.
    fn bytes(&self, group: usize, layers: std::ops::Range<usize>, waiting: u64) -> u64 {
        let of_layer = |[state, stash]: &[u64; 2]| state + stash * waiting;
        let layers: u64 = self.layers[layers].iter().map(of_layer).sum();
        layers + if group == 0 { self.rest } else { 0 }
    }

    /// Layers on each of so many groups. In a pipeline more micro-batches wait the earlier a stage is.
    fn split(&self, groups: u32, pipelined: bool) -> Vec<usize> {
        let waiting = |group: usize| match pipelined && groups > 1 {
            true => 2 * (u64::from(groups) - group as u64) + 1,
            false => 1,
        };
        stage_split_by(self.layers.len(), groups as usize, |group, layers| {
            self.bytes(group, layers, waiting(group))
        })
    }
}

/// Bytes of the results of a forward op that backward ops, or ops that run again for them, read.
fn stashed_bytes(graph: &Graph, op: OpId) -> u64 {
    let node = graph.node(op);
    if node.op.is_view() || node.place.phase != Phase::Forward {
        return 0;
    }
    let later = |phase| matches!(phase, Phase::Backward | Phase::Recompute);
    let results = (0..node.results().len() as u32).map(|result| Value { op, result });
    let stashed = results.filter(|&v| {
        let users = graph.uses(v);
        users.iter().any(|u| later(graph.node(u.op).place.phase))
    });
    stashed.map(|v| graph.ty(v).bytes() as u64).sum()
}

/// Writes IPU and stage into every op.
///
/// Forward stages follow the IPUs in the order of their layers; with more than one IPU, the head is a last stage that comes back to IPU 0.
/// The backward pass goes back through them: of `F` forward stages, what stage `s` did is undone in stage `2 (F − 1) − s`, the last in itself.
/// Stages of the update are levels: an op is in a later stage than what it needs from another IPU.
///
/// Entries of `layers_per_ipu` are groups of `members` IPUs.
pub fn assign(module: &mut Module, layers_per_ipu: &[u32], members: u32) {
    let stages = Stages::of(layers_per_ipu, members);
    for graph in &mut module.graphs {
        if graph.name == "update" {
            level(graph, &stages);
        } else {
            pipeline(graph, &stages);
        }
        follow_users(graph);
        assign_after_reads(graph);
    }
}

/// Forward stages of a pipeline.
struct Stages {
    /// IPUs of a group.
    members: u32,
    group_of_layer: Vec<u32>,
    stage_of_group: Vec<u32>,
    /// Forward stages, the head's included.
    forward: u32,
}

impl Stages {
    fn of(layers_per_ipu: &[u32], members: u32) -> Stages {
        let group_of_layer = layers_per_ipu
            .iter()
            .enumerate()
            .flat_map(|(group, &count)| std::iter::repeat_n(group as u32, count as usize))
            .collect();
        let mut last = 0;
        let stage_of_group: Vec<u32> = layers_per_ipu
            .iter()
            .enumerate()
            .map(|(group, &count)| {
                last += u32::from(group > 0 && count > 0);
                last
            })
            .collect();
        Stages {
            members,
            group_of_layer,
            stage_of_group,
            forward: if last == 0 { 1 } else { last + 2 },
        }
    }

    fn ipu(&self, place: Place) -> IpuId {
        let of_layer =
            |l: u32| self.group_of_layer[l as usize] * self.members + place.member.unwrap_or(0);
        IpuId(place.layer.map_or(0, of_layer))
    }

    fn forward_stage(&self, layer: u32) -> u32 {
        self.stage_of_group[self.group_of_layer[layer as usize] as usize]
    }
}

/// Stages of a training step with these layers on each IPU: forward and backward.
pub fn stage_count(layers_per_ipu: &[u32]) -> u32 {
    2 * forward_stage_count(layers_per_ipu) - 1
}

/// Stages of an inference with these layers on each IPU.
pub fn forward_stage_count(layers_per_ipu: &[u32]) -> u32 {
    Stages::of(layers_per_ipu, 1).forward
}

/// Ops outside of layers come before them, if they need nothing of a layer, or else after. Sums are made where their terms are.
fn pipeline(graph: &mut Graph, stages: &Stages) {
    let last = stages.forward - 1;
    let order = graph.topological();
    // Whether an op, or what it depends on, is of a layer: in the forward pass, and in the backward pass.
    let mut after = vec![[false; 2]; order.iter().map(|op| op.index() + 1).max().unwrap_or(0)];
    for &op in &order {
        let node = graph.node(op);
        let way = usize::from(node.place.phase != Phase::Forward);
        let mut passed = [false; 2];
        for v in node.operands() {
            let operand = after[v.op.index()];
            passed = [passed[0] || operand[0], passed[1] || operand[1]];
        }
        let layer = node.place.layer;
        let is_source = node.operands().is_empty();
        let forward_stage = match layer {
            Some(layer) => stages.forward_stage(layer),
            None if way == 0 => {
                if passed[0] {
                    last
                } else {
                    0
                }
            }
            None => {
                if passed[1] {
                    0
                } else {
                    last
                }
            }
        };
        passed[way] |= layer.is_some() && !is_source;
        after[op.index()] = passed;
        let mut stage = if way == 0 {
            forward_stage
        } else {
            2 * last - forward_stage
        };
        // Nothing runs before what it needs.
        for v in graph.node(op).operands() {
            stage = stage.max(graph.node(v.op).place.stage.map_or(0, |s| s.0));
        }
        let here = (stages.ipu(graph.node(op).place), StageId(stage));
        let (ipu, stage) = place_of_terms(graph, op, here).unwrap_or(here);
        let place = graph.place_mut(op);
        place.ipu = Some(ipu);
        place.stage = Some(stage);
    }
}

/// IPU and stage of the terms of an elementwise op, if all of them are whole tensors of one place that is not `here`: one value crosses the
/// links then, not each term. So the gradients of a residual stream are added up before they leave for the layer in front.
fn place_of_terms(graph: &Graph, op: OpId, here: (IpuId, StageId)) -> Option<(IpuId, StageId)> {
    if !matches!(graph.op(op), Op::Binary(_) | Op::Map(_)) {
        return None;
    }
    let elements = graph.ty(graph.value(op)).shape.elements();
    let mut terms = graph.node(op).operands().to_vec();
    terms.sort_unstable();
    terms.dedup();
    terms.retain(|v| !matches!(graph.op(v.op), Op::Constant { .. }));
    let place = |&term: &Value| {
        let mut source = term.op;
        while graph.op(source).is_view() {
            source = graph.node(source).operands()[0].op;
        }
        let node = graph.node(source);
        let whole = graph.ty(term).shape.elements() == elements && !node.operands().is_empty();
        whole.then_some(node.place.ipu.zip(node.place.stage))?
    };
    let places: Option<Vec<_>> = terms.iter().map(place).collect();
    let places = places.filter(|places| places.len() > 1)?;
    let there = places[0];
    (there.0 != here.0 && places.iter().all(|&p| p == there)).then_some(there)
}

fn level(graph: &mut Graph, stages: &Stages) {
    for op in graph.topological() {
        let ipu = stages.ipu(graph.node(op).place);
        let operands = graph.node(op).operands().iter();
        let levels = operands
            .filter(|v| !matches!(graph.op(v.op), Op::Constant { .. }))
            .map(|v| {
                let place = graph.node(v.op).place;
                place.stage.map_or(0, |s| s.0) + u32::from(place.ipu != Some(ipu))
            });
        let level = levels.max().unwrap_or(0);
        let place = graph.place_mut(op);
        place.ipu = Some(ipu);
        place.stage = Some(StageId(level));
    }
}

/// State is replaced when its last reader has run.
fn assign_after_reads(graph: &mut Graph) {
    let mut last_read: FxHashMap<String, Option<StageId>> = FxHashMap::default();
    for (op, state, _, _) in graph.parameters() {
        let users = graph.uses(graph.value(op));
        let stage = users
            .iter()
            .filter_map(|u| graph.node(u.op).place.stage)
            .max();
        let last = last_read.entry(state.to_string()).or_default();
        *last = stage.max(*last);
    }
    let ops: Vec<_> = graph.ops().collect();
    for op in ops {
        let Op::Assign { state } = graph.op(op) else {
            continue;
        };
        let read = last_read.get(state).copied().flatten();
        let place = graph.place_mut(op);
        place.stage = place.stage.max(read);
    }
}

/// Sources, views and a replica's own parts of weights go where they are used first, if that is one place: constants never cross a link, input
/// comes when it is needed, and no part of a weight waits beside it.
fn follow_users(graph: &mut Graph) {
    for op in graph.topological().into_iter().rev() {
        let follows = graph.op(op).is_view() || matches!(graph.op(op), Op::Shard);
        if !graph.node(op).operands().is_empty() && !follows {
            continue;
        }
        let users = graph.uses(graph.value(op));
        let places: Vec<_> = users.iter().map(|u| graph.node(u.op).place).collect();
        let Some(first) = places.iter().min_by_key(|p| p.stage) else {
            continue;
        };
        let one_ipu = places.iter().all(|p| p.ipu == first.ipu);
        let is_constant = matches!(graph.op(op), Op::Constant { .. });
        let is_micro_batch = graph.name != "update";
        let (ipu, stage) = (first.ipu, first.stage);
        if is_constant || one_ipu || (is_micro_batch && matches!(graph.op(op), Op::Input { .. })) {
            let place = graph.place_mut(op);
            place.ipu = ipu;
            place.stage = stage;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_ipus_of_a_pipeline_get_fewer_layers() {
        let estimate = Estimate {
            layers: vec![[100, 10]; 12],
            rest: 400,
        };
        assert_eq!(estimate.split(4, false), [0, 4, 4, 4]);
        // Seven, five and three micro-batches wait on IPUs 1, 2 and 3.
        assert_eq!(estimate.split(4, true), [1, 3, 4, 4]);
        assert_eq!(estimate.bytes(1, 1..4, 7), 3 * 170);
    }
}
