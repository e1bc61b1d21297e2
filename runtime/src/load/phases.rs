//! Which supersteps become a phase, and which tiles a cluster of it.
//!
//! A superstep joins the phase before it when enough clusters are left to keep all threads busy: two tiles are of one cluster when one
//! reads on the other what is written anywhere in the phase.

use superstep_ir::program::Program;

use super::arena::{self, Uses};
use super::span;
use crate::compute::GroupOperand;
use crate::exchange::LoadedMove;
use crate::layout::Layouts;
use crate::phase::{ArenaPlan, NANOSECONDS_A_SHARE, Phase, Tile};
use crate::superstep::{Action, Span, Superstep};

/// No cluster may be more than such a part of its phase: threads would wait for the one that runs it.
const LARGEST_CLUSTER: f64 = 1.0 / 12.0;

/// What has to be known of the program.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) program: &'a Program,
    pub(super) layouts: &'a Layouts,
    pub(super) uses: &'a Uses,
    /// Every superstep is a phase, and all variables are on their tiles.
    pub(super) stepwise: bool,
}

/// A phase to which supersteps are added.
pub(super) struct Open<'a> {
    context: Context<'a>,
    supersteps: Vec<Superstep>,
    clusters: Clusters,
    written: Vec<Span>,
    /// What tiles read on others and nobody in the phase writes, so far.
    unlinked: Vec<Remote>,
}

/// What an action reads on other tiles.
struct Remote {
    span: Span,
    superstep: usize,
    action: usize,
    /// The input of a vertex group that its tiles share; otherwise it is a move.
    input: Option<usize>,
}

impl<'a> Open<'a> {
    pub(super) fn new(context: Context<'a>, superstep: Superstep) -> Open<'a> {
        let machine = &context.program.machine;
        let tiles = machine.tiles_per_ipu as usize;
        let mut open = Open {
            context,
            supersteps: Vec::new(),
            clusters: Clusters::new(tiles, context.program.ipus as usize),
            written: Vec::new(),
            unlinked: Vec::new(),
        };
        open.unlinked = open.remote(&superstep);
        open.written = open.written(&superstep);
        open.clusters.add_costs(&superstep);
        open.supersteps.push(superstep);
        open
    }

    /// Adds a superstep, or gives it back.
    pub(super) fn take(&mut self, superstep: Superstep) -> Result<(), Superstep> {
        if self.context.stepwise {
            return Err(superstep);
        }
        let (remote, written) = (self.remote(&superstep), self.written(&superstep));
        let mut clusters = self.clusters.clone();
        clusters.add_costs(&superstep);
        let meets = |spans: &[Span], remote: &Remote| spans.iter().any(|s| s.meets(&remote.span));
        self.supersteps.push(superstep);
        let (mut linked, mut unlinked) = (Vec::new(), Vec::new());
        for (i, remote) in self.unlinked.iter().enumerate() {
            if meets(&written, remote) {
                self.link(remote, &mut clusters);
                linked.push(i);
            }
        }
        for remote in remote {
            match meets(&self.written, &remote) {
                true => self.link(&remote, &mut clusters),
                false => unlinked.push(remote),
            }
        }
        if !clusters.are_enough() {
            return self.supersteps.pop().map_or(Ok(()), Err);
        }
        for i in linked.into_iter().rev() {
            self.unlinked.swap_remove(i);
        }
        self.unlinked.extend(unlinked);
        self.written.extend(written);
        self.clusters = clusters;
        Ok(())
    }

    pub(super) fn close(mut self) -> Phase {
        let (tiles, starts, shares) = self.clusters.finish();
        let largest = starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        let mut phase = Phase {
            supersteps: std::mem::take(&mut self.supersteps),
            tiles,
            starts,
            shares,
            arena: ArenaPlan::default(),
        };
        if !self.context.stepwise {
            let stride = arena::plan(&self.context, &mut phase.supersteps);
            phase.arena.stride = stride;
            phase.arena.bytes = stride * largest as usize;
        }
        if phase.arena.bytes > 0 {
            phase.arena.slots = self.clusters.slots(&phase);
        }
        phase
    }

    /// What a superstep, which comes next, reads on other tiles.
    fn remote(&self, superstep: &Superstep) -> Vec<Remote> {
        let Context {
            program, layouts, ..
        } = self.context;
        let number = self.supersteps.len();
        let mut remote = Vec::new();
        for (action, what) in superstep.actions.iter().enumerate() {
            let mut add = |variable, input| {
                remote.push(Remote {
                    span: span(program, layouts, variable),
                    superstep: number,
                    action,
                    input,
                });
            };
            match what {
                Action::Receive(mv) => add(mv.from, None),
                Action::Compute(group) => {
                    if let Some(mv) = &group.forwarded {
                        add(mv.from, None);
                        continue;
                    }
                    for (i, input) in group.inputs.iter().enumerate().filter(|(_, i)| i.shared) {
                        add(input.variable, Some(i));
                    }
                }
                Action::SetSeed { .. } => {}
            }
        }
        remote
    }

    fn written(&self, superstep: &Superstep) -> Vec<Span> {
        let Context {
            program, layouts, ..
        } = self.context;
        let span = |variable| span(program, layouts, variable);
        let mut written = Vec::new();
        for action in &superstep.actions {
            match action {
                Action::Receive(mv) => written.push(span(mv.into)),
                Action::Compute(group) => {
                    written.extend(group.outputs.iter().map(|o| span(o.variable)));
                }
                Action::SetSeed { .. } => {}
            }
        }
        written
    }

    /// Makes one cluster of the tiles that read and those that are read.
    fn link(&self, remote: &Remote, clusters: &mut Clusters) {
        let action = &self.supersteps[remote.superstep].actions[remote.action];
        match (action, remote.input) {
            (Action::Receive(mv), _) => clusters.link_move(mv),
            (Action::Compute(group), Some(i)) => {
                let GroupOperand { layout, .. } = &group.inputs[i];
                let tiles = &group.grid.tiles;
                for (point, &first) in layout.first_copy_of.iter().enumerate() {
                    let ipu = group.grid.ipu.0;
                    clusters.link((ipu, tiles[point]), (ipu, tiles[first as usize]));
                }
            }
            (Action::Compute(group), None) => {
                group.forwarded.iter().for_each(|mv| clusters.link_move(mv));
            }
            (Action::SetSeed { .. }, _) => {}
        }
    }
}

/// Disjoint sets of tiles, with what they cost.
#[derive(Clone)]
struct Clusters {
    tiles_per_ipu: usize,
    /// By tile number: another tile of the cluster, itself for one of them.
    parent: Vec<u32>,
    /// By tile number, nanoseconds.
    costs: Vec<f64>,
    total: f64,
}

impl Clusters {
    fn new(tiles_per_ipu: usize, ipus: usize) -> Clusters {
        Clusters {
            tiles_per_ipu,
            parent: (0..(tiles_per_ipu * ipus) as u32).collect(),
            costs: vec![0.0; tiles_per_ipu * ipus],
            total: 0.0,
        }
    }

    fn number(&self, (ipu, tile): Tile) -> u32 {
        ipu * self.tiles_per_ipu as u32 + tile
    }

    fn root(&mut self, mut tile: u32) -> u32 {
        while self.parent[tile as usize] != tile {
            let above = self.parent[tile as usize];
            self.parent[tile as usize] = self.parent[above as usize];
            tile = above;
        }
        tile
    }

    fn link(&mut self, a: Tile, b: Tile) {
        let (a, b) = (self.number(a), self.number(b));
        let (a, b) = (self.root(a), self.root(b));
        // The first tile stands for all.
        self.parent[a.max(b) as usize] = a.min(b);
    }

    fn link_move(&mut self, mv: &LoadedMove) {
        for (i, &tile) in mv.expansion.tiles.iter().enumerate() {
            for copy in mv.expansion.received(i) {
                self.link(
                    (mv.destination.ipu, tile),
                    (mv.source.ipu, copy.source_tile),
                );
            }
        }
    }

    fn add_costs(&mut self, superstep: &Superstep) {
        for action in &superstep.actions {
            let (ipu, tiles) = action.tiles();
            let each = action.nanoseconds() / tiles.len().max(1) as f64;
            for &tile in tiles {
                let number = self.number((ipu, tile));
                self.costs[number as usize] += each.max(f64::MIN_POSITIVE);
            }
            self.total += action.nanoseconds();
        }
    }

    /// Costs by cluster, at the first tile.
    fn sums(&mut self) -> Vec<f64> {
        let mut sums = vec![0.0; self.costs.len()];
        for tile in 0..self.costs.len() as u32 {
            sums[self.root(tile) as usize] += self.costs[tile as usize];
        }
        sums
    }

    fn are_enough(&mut self) -> bool {
        let largest = self.sums().into_iter().fold(0.0, f64::max);
        self.total < 2.0 * NANOSECONDS_A_SHARE || largest <= LARGEST_CLUSTER * self.total
    }

    /// Tiles by cluster, where each cluster starts, and clusters by share.
    fn finish(&mut self) -> (Vec<Tile>, Vec<u32>, Vec<std::ops::Range<usize>>) {
        let sums = self.sums();
        let busy = (0..self.costs.len() as u32).filter(|&t| self.costs[t as usize] > 0.0);
        let busy: Vec<u32> = busy.collect();
        let mut keyed: Vec<(u32, u32)> = busy.into_iter().map(|t| (self.root(t), t)).collect();
        keyed.sort_unstable();
        let mut starts = Vec::new();
        let mut shares = Vec::new();
        let (mut from, mut cost) = (0, 0.0);
        for (i, &(root, _)) in keyed.iter().enumerate() {
            if i > 0 && keyed[i - 1].0 == root {
                continue;
            }
            starts.push(i as u32);
            cost += sums[root as usize];
            if cost >= NANOSECONDS_A_SHARE {
                shares.push(from..starts.len());
                (from, cost) = (starts.len(), 0.0);
            }
        }
        if from < starts.len() {
            shares.push(from..starts.len());
        }
        starts.push(keyed.len() as u32);
        let tiles_per_ipu = self.tiles_per_ipu as u32;
        let tile = |(_, t): (u32, u32)| (t / tiles_per_ipu, t % tiles_per_ipu);
        (keyed.into_iter().map(tile).collect(), starts, shares)
    }

    /// By tile number: its place in its cluster.
    fn slots(&self, phase: &Phase) -> Vec<u32> {
        let mut slots = vec![0; self.parent.len()];
        for ends in phase.starts.windows(2) {
            for (slot, &tile) in phase.tiles[ends[0] as usize..ends[1] as usize].iter().enumerate() {
                slots[self.number(tile) as usize] = slot as u32;
            }
        }
        slots
    }
}
