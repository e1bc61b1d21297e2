//! Assignment of ops to IPUs: whole decoder layers, in order; what belongs to no layer (embedding, head, loss) goes to IPU 0.

use superstep_ir::graph::{Graph, Module, Phase};
use superstep_ir::ids::{IpuId, StageId};
use superstep_ir::machine::Machine;
use superstep_ir::op::Op;
use thiserror::Error;

use crate::solve::stage_split::stage_split;

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

/// Checks a given assignment.
pub fn check(given: &[u32], layers: u32, machine: &Machine) -> Result<LayersPerIpu, StageError> {
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

/// The assignment to `ipus` IPUs whose fullest IPU, by estimated bytes, is least full.
pub fn balance(module: &Module, ipus: u32) -> LayersPerIpu {
    let layers = layer_count(module);
    let (per_layer, rest) = estimated_bytes(module, layers);
    stage_split(&per_layer, ipus as usize, rest)
        .into_iter()
        .map(|n| n as u32)
        .collect()
}

/// Fewest IPUs whose fullest would hold the estimated bytes.
pub fn least_ipus(module: &Module, machine: &Machine) -> u32 {
    let layers = layer_count(module);
    let (per_layer, rest) = estimated_bytes(module, layers);
    let capacity =
        u64::from(machine.tiles_per_ipu) * u64::from(machine.tile_memory - machine.reserved_bytes);
    (1..machine.ipus)
        .find(|&n| {
            let mut at = 0;
            stage_split(&per_layer, n as usize, rest)
                .into_iter()
                .enumerate()
                .all(|(i, count)| {
                    let sum: u64 = per_layer[at..at + count].iter().sum::<u64>()
                        + if i == 0 { rest } else { 0 };
                    at += count;
                    sum <= capacity / 10 * 9
                })
        })
        .unwrap_or(machine.ipus)
}

/// Bytes that each layer, and everything outside layers, keeps: state, and forward values that backward ops read. Outside layers only the largest
/// such value counts: the head works through its row blocks one by one.
fn estimated_bytes(module: &Module, layers: u32) -> (Vec<u64>, u64) {
    let mut per_layer = vec![0u64; layers as usize];
    let (mut rest, mut largest) = (0u64, 0u64);
    let mut states = std::collections::BTreeSet::new();
    for graph in &module.graphs {
        for op in graph.ops() {
            let node = graph.node(op);
            let bytes: u64 = match &node.op {
                Op::Parameter { state, ty, .. } => {
                    if states.insert(state.clone()) {
                        ty.bytes() as u64
                    } else {
                        0
                    }
                }
                op_kind if op_kind.is_view() || node.place.phase != Phase::Forward => 0,
                _ => (0..node.results().len() as u32)
                    .map(|result| superstep_ir::graph::Value { op, result })
                    .filter(|&v| {
                        graph
                            .uses(v)
                            .iter()
                            .any(|u| graph.node(u.op).place.phase == Phase::Backward)
                    })
                    .map(|v| graph.ty(v).bytes() as u64)
                    .sum(),
            };
            match node.place.layer {
                Some(layer) => per_layer[layer as usize] += bytes,
                None if matches!(node.op, Op::Parameter { .. }) => rest += bytes,
                None => largest = largest.max(bytes),
            }
        }
    }
    (per_layer, rest + largest)
}

/// Writes IPU and stage into every op.
pub fn assign(module: &mut Module, layers_per_ipu: &[u32]) {
    let ipu_of_layer: Vec<u32> = layers_per_ipu
        .iter()
        .enumerate()
        .flat_map(|(ipu, &count)| std::iter::repeat_n(ipu as u32, count as usize))
        .collect();
    for graph in &mut module.graphs {
        let ops: Vec<_> = graph.ops().collect();
        for op in ops {
            let layer = graph.node(op).place.layer;
            let ipu = layer.map_or(0, |l| ipu_of_layer[l as usize]);
            let place = graph.place_mut(op);
            place.ipu = Some(IpuId(ipu));
            place.stage = Some(StageId(ipu));
        }
        follow_operands(graph);
    }
}

/// Constants go where they are used, so that they never cross a link.
fn follow_operands(graph: &mut Graph) {
    let constants: Vec<_> = graph
        .ops()
        .filter(|&op| matches!(graph.op(op), Op::Constant { .. }))
        .collect();
    for op in constants {
        if let Some(first) = graph.uses(graph.value(op)).first() {
            let place = graph.node(first.op).place;
            *graph.place_mut(op) = place;
        }
    }
}
