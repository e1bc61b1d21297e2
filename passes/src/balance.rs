//! Layers on the IPUs of a pipeline so that the busiest IPU has least to do: a pipeline cycle takes as long as that IPU.
//!
//! How long a layer takes is read off a program in which the layers lie on IPUs in some other way: a layer takes about as long on one IPU
//! as on another. Syncs are left out, and so are transfers between IPUs, which all IPUs wait for alike. Of a group of IPUs over which layers are
//! divided the first has most to do.

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Module, Place};
use superstep_ir::program::cost::compute_set::compute_set;
use superstep_ir::program::cost::moves::DistinctMoves;
use superstep_ir::program::cost::traffic::TileSums;
use superstep_ir::program::{Exchange, Program, Step};
use superstep_ir::units::Cycles;

use crate::solve::stage_split::stage_split;
use crate::stage::{LayersPerIpu, layer_count};

/// Cycles of one run of a program's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerCycles {
    /// By decoder layer, on the first member of its group.
    layers: Vec<Cycles>,
    /// Of what belongs to no layer, which is on IPU 0.
    rest: Cycles,
}

impl LayerCycles {
    /// Of a program that was lowered from `module`.
    pub fn of(program: &Program, module: &Module) -> LayerCycles {
        let place_of: FxHashMap<&str, Place> = module
            .graphs
            .iter()
            .flat_map(|g| g.ops().map(|op| g.node(op)))
            .map(|node| (node.name.as_str(), node.place))
            .collect();
        let moves = DistinctMoves::of(program);
        let mut sums = TileSums::new(&program.machine);
        let mut found = LayerCycles {
            layers: vec![0; layer_count(module) as usize],
            rest: 0,
        };
        program.walk(&mut |step, times| {
            let (origin, cycles) = match step {
                Step::Compute(set) => (set.origin, compute_set(program, set).0),
                Step::Exchange(exchange) => {
                    let cycles = inside_an_ipu(program, &moves, &mut sums, exchange);
                    (exchange.origin, cycles)
                }
                _ => return,
            };
            let name = program.origins[origin.index()].name.as_str();
            let place = place_of.get(name).copied().unwrap_or_default();
            if place.member.is_some_and(|member| member > 0) {
                return;
            }
            let sum = match place.layer {
                Some(layer) => &mut found.layers[layer as usize],
                None => &mut found.rest,
            };
            *sum = sum.saturating_add(cycles.saturating_mul(times));
        });
        found
    }

    /// The assignment to `ipus` IPUs whose busiest IPU has least to do.
    pub fn split(&self, ipus: usize) -> LayersPerIpu {
        let split = stage_split(&self.layers, ipus, self.rest);
        split.into_iter().map(|n| n as u32).collect()
    }

    /// What the busiest IPU has to do.
    pub fn busiest(&self, layers_per_ipu: &[u32]) -> Cycles {
        let mut left = self.layers.iter();
        let mut rest = self.rest;
        let by_ipu = layers_per_ipu.iter().map(|&count| {
            let own: Cycles = left.by_ref().take(count as usize).sum();
            own.saturating_add(std::mem::take(&mut rest))
        });
        by_ipu.max().unwrap_or(0)
    }
}

/// Cycles of an exchange between tiles of one IPU; 0 for one between IPUs.
fn inside_an_ipu<'p>(
    program: &'p Program,
    moves: &DistinctMoves<'p>,
    sums: &mut TileSums,
    exchange: &'p Exchange,
) -> Cycles {
    let ipu = |v| program.grid_of(v).ipu;
    let known = exchange.moves.iter().filter_map(|mv| {
        let traffic = moves.traffic(moves.number(mv)?);
        Some((traffic, ipu(mv.source), ipu(mv.destination)))
    });
    let time = sums.exchange(&program.machine, known);
    if time.crosses { 0 } else { time.cycles }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_first_ipu_gets_fewer_layers() {
        let cycles = LayerCycles {
            layers: vec![10; 12],
            rest: 32,
        };
        assert_eq!(cycles.split(4), [0, 4, 4, 4]);
        assert_eq!(cycles.busiest(&[0, 4, 4, 4]), 40);
        assert_eq!(cycles.busiest(&[1, 4, 4, 3]), 42);
        assert_eq!(cycles.busiest(&[]), 0);
    }
}
