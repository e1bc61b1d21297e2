//! Which supersteps become a phase, and which tiles a cluster of it.
//!
//! A superstep joins the phase before it when enough clusters are left to keep all threads busy: two tiles are of one cluster when one
//! reads on the other what is written anywhere in the phase.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use smallvec::{SmallVec, smallvec};
use superstep_ir::ids::VarId;
use superstep_ir::program::Program;

use super::arena::{self, Life, Uses};
use super::span;
use crate::compute::{Group, GroupOperand};
use crate::exchange::LoadedMove;
use crate::layout::Layouts;
use crate::phase::{NANOSECONDS_A_SHARE, Phase, Tile};
use crate::superstep::{Action, Span, Superstep};
use crate::tile_memory::{SlotPlan, Store};

/// No cluster may be more than such a part of its phase: threads would wait for the one that runs it.
const LARGEST_CLUSTER: f64 = 1.0 / 12.0;

/// What has to be known of the program.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) program: &'a Program,
    pub(super) layouts: &'a Layouts,
    pub(super) uses: &'a Uses,
    /// By variable: of its copies only the first ones are there.
    pub(super) shared: &'a [bool],
    /// Every superstep is a phase, and all variables are on their tiles.
    pub(super) stepwise: bool,
}

impl Context<'_> {
    fn span(&self, variable: VarId) -> Span {
        span(self.program, self.layouts, variable)
    }

    /// The bytes of a variable on all tiles that have any.
    pub(super) fn stored_bytes(&self, variable: VarId) -> u64 {
        let layout = self.layouts.layout(variable);
        let bytes = |p: usize| (layout.blocks[p].elements() * layout.dtype.bytes()) as u64;
        match self.shared[variable.index()] {
            true => layout.first_copies.iter().map(|&p| bytes(p as usize)).sum(),
            false => (0..layout.blocks.len()).map(bytes).sum(),
        }
    }
}

/// A phase to which supersteps are added.
pub(super) struct Open<'a> {
    context: Context<'a>,
    supersteps: Vec<Superstep>,
    /// Moves that are made before the phase, so that what they bring is not written in it.
    ahead: Vec<At>,
    clusters: Clusters,
}

/// An action: superstep and place in it.
type At = (usize, usize);

/// How an action reads on other tiles.
enum Link<'s> {
    Move(&'s LoadedMove),
    /// An input that the tiles of a group share.
    Shared(&'s Group, &'s GroupOperand),
}

impl<'a> Open<'a> {
    /// A phase of one superstep, whose tiles are clusters of their own.
    pub(super) fn new(context: Context<'a>, superstep: Superstep) -> Open<'a> {
        let mut open = Open {
            context,
            supersteps: vec![superstep],
            ahead: Vec::new(),
            clusters: Clusters::new(&context),
        };
        open.clusters = open.link(&FxHashSet::default(), &[]);
        open
    }

    /// Adds a superstep, or says no: then what has to begin the next phase is given back, in order.
    pub(super) fn take(&mut self, superstep: Superstep) -> Result<(), Vec<Superstep>> {
        if self.context.stepwise {
            return Err(vec![superstep]);
        }
        self.supersteps.push(superstep);
        let passing = self.passing();
        let mut ahead = self.ahead.clone();
        let mut candidates = self.movable().into_iter();
        loop {
            let clusters = self.link(&passing, &ahead);
            if clusters.are_enough() {
                (self.ahead, self.clusters) = (ahead, clusters);
                return Ok(());
            }
            let next = candidates.find(|&at| self.may_be_ahead(at, &passing, &ahead));
            match next {
                Some(at) => ahead.push(at),
                None => return Err(self.give_back()),
            }
        }
    }

    /// What nobody will need on the tiles.
    fn passing(&self) -> FxHashSet<VarId> {
        let lives = arena::passing(&self.context, &self.supersteps);
        lives.iter().map(|life| life.variable()).collect()
    }

    /// The superstep that was refused, and before it an exchange that may only bring what it needs.
    fn give_back(&mut self) -> Vec<Superstep> {
        let mut back: Vec<Superstep> = self.supersteps.pop().into_iter().collect();
        let only_receives = |s: &Superstep| {
            let receives = |a: &Action| matches!(a, Action::Receive(_));
            s.actions.iter().all(receives)
        };
        if self.supersteps.len() > 1 && self.supersteps.last().is_some_and(only_receives) {
            back.extend(self.supersteps.pop());
            back.reverse();
            let left = self.supersteps.len();
            self.ahead.retain(|&(superstep, _)| superstep < left);
            self.clusters = self.link(&self.passing(), &self.ahead);
        }
        back
    }

    /// Moves to blocks that tiles share, the smallest first.
    fn movable(&self) -> Vec<At> {
        let mut found: Vec<(u64, At)> = Vec::new();
        for (s, superstep) in self.supersteps.iter().enumerate() {
            for (a, action) in superstep.actions.iter().enumerate() {
                if let Action::Receive(mv) = action
                    && mv.into_shared
                    && !self.ahead.contains(&(s, a))
                {
                    found.push((mv.expansion.bytes, (s, a)));
                }
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, at)| at).collect()
    }

    /// True when a move may be made before the phase, after those that are: nobody has written what it reads or touched what it writes.
    fn may_be_ahead(&self, at: At, passing: &FxHashSet<VarId>, ahead: &[At]) -> bool {
        let Action::Receive(mv) = &self.supersteps[at.0].actions[at.1] else {
            return false;
        };
        let span = |v: VarId| self.context.span(v);
        let (from, into) = (span(mv.from), span(mv.into));
        let reads_from = |v: &VarId| *v == mv.from || (!passing.contains(v) && span(*v).meets(&from));
        let meets_into = |v: &VarId| !passing.contains(v) && span(*v).meets(&into);
        let keeps_off = passing.contains(&mv.into);
        let mut actions = self.actions();
        !actions.any(|(other, action)| {
            let earlier = other < at;
            if !(earlier || ahead.contains(&other)) || other == at {
                return false;
            }
            let (read, written) = touched(action);
            let changes_source = earlier && written.iter().any(reads_from);
            let mut all = read.iter().chain(&written);
            changes_source || (!keeps_off && all.any(meets_into))
        })
    }

    /// All actions in order.
    fn actions(&self) -> impl Iterator<Item = (At, &Action)> {
        let supersteps = self.supersteps.iter().enumerate();
        supersteps.flat_map(|(s, superstep)| {
            let actions = superstep.actions.iter().enumerate();
            actions.map(move |(a, action)| ((s, a), action))
        })
    }

    /// The clusters when these moves are made ahead and what is `passing` is not on tiles.
    fn link(&self, passing: &FxHashSet<VarId>, ahead: &[At]) -> Clusters {
        let mut clusters = Clusters::new(&self.context);
        let (mut remote, mut written) = (Vec::new(), FxHashSet::default());
        for (at, action) in self.actions().filter(|(at, _)| !ahead.contains(at)) {
            debug_assert!(!ahead.contains(&at));
            clusters.add_cost(action);
            written.extend(touched(action).1);
            add_remote(action, &mut remote);
        }
        let on_tiles = written.iter().filter(|v| !passing.contains(v));
        let on_tiles: Vec<Span> = on_tiles.map(|&v| self.context.span(v)).collect();
        for (variable, link) in &remote {
            let meets = || {
                let span = self.context.span(*variable);
                on_tiles.iter().any(|w| w.meets(&span))
            };
            if written.contains(variable) || (!passing.contains(variable) && meets()) {
                match link {
                    Link::Move(mv) => clusters.link_move(mv),
                    Link::Shared(group, input) => clusters.link_sharing(group, input),
                }
            }
        }
        clusters
    }

    /// The phase, and before it one of the moves that are made ahead, if there are any.
    pub(super) fn close(mut self) -> (Option<Phase>, Phase) {
        let lives = match self.context.stepwise {
            true => Vec::new(),
            false => arena::passing(&self.context, &self.supersteps),
        };
        self.ahead.sort_unstable();
        let mut ahead = Superstep::default();
        for &(s, a) in self.ahead.iter().rev() {
            ahead.actions.push(self.supersteps[s].actions.remove(a));
        }
        ahead.actions.reverse();
        let brought: FxHashSet<VarId> = ahead.actions.iter().flat_map(|a| touched(a).1).collect();
        let (early, own): (Vec<&Life>, Vec<&Life>) = lives
            .iter()
            .partition(|life| brought.contains(&life.variable()));
        let (on_shelf, shelf_stride) = arena::lay_out_all(&self.context, &early);
        let (in_arena, arena_stride) = arena::lay_out(&self.context, &own);
        let actions = self.supersteps.iter_mut().flat_map(|s| &mut s.actions);
        for action in actions.chain(&mut ahead.actions) {
            arena::settle(action, Store::Shelf, &on_shelf);
            arena::settle(action, Store::Arena, &in_arena);
        }
        let shelf = Arc::new(self.shelf(&ahead, shelf_stride));
        let ahead = (!ahead.actions.is_empty())
            .then(|| Open::new(self.context, ahead).settle(0, shelf.clone()));
        (ahead, self.settle(arena_stride, shelf))
    }

    /// The slots of those tiles that receive something ahead.
    fn shelf(&self, ahead: &Superstep, stride: usize) -> SlotPlan {
        let mut plan = SlotPlan::default();
        if stride == 0 {
            return plan;
        }
        let tiles = ahead.actions.iter().flat_map(|action| {
            let (ipu, tiles) = action.tiles();
            tiles.iter().map(move |&tile| (ipu, tile))
        });
        let mut tiles: Vec<u32> = tiles.map(|tile| self.clusters.number(tile)).collect();
        tiles.sort_unstable();
        tiles.dedup();
        plan.slots = vec![0; tiles.last().map_or(0, |&last| last as usize + 1)];
        for (slot, &tile) in tiles.iter().enumerate() {
            plan.slots[tile as usize] = slot as u32;
        }
        (plan.stride, plan.bytes) = (stride, stride * tiles.len());
        plan
    }

    /// The phase of the supersteps.
    fn settle(self, arena_stride: usize, shelf: Arc<SlotPlan>) -> Phase {
        let (tiles, starts, shares) = self.clusters.finish();
        let mut arena = SlotPlan::default();
        if arena_stride > 0 {
            let largest = starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
            arena.stride = arena_stride;
            arena.bytes = arena_stride * largest as usize;
            arena.slots = self.clusters.slots(&tiles, &starts);
        }
        Phase {
            supersteps: self.supersteps,
            tiles,
            starts,
            shares,
            arena,
            shelf,
        }
    }
}

/// What an action reads, on whichever tile, and what it writes.
fn touched(action: &Action) -> (SmallVec<[VarId; 4]>, SmallVec<[VarId; 4]>) {
    match action {
        Action::Receive(mv) => (smallvec![mv.from], smallvec![mv.into]),
        Action::Compute(group) => {
            let inputs = group.inputs.iter().map(|i| i.variable);
            let outputs = group.outputs.iter().map(|o| o.variable);
            match &group.forwarded {
                Some(mv) => (smallvec![mv.from], outputs.collect()),
                None => (inputs.collect(), outputs.collect()),
            }
        }
        Action::SetSeed { variable, .. } => (smallvec![*variable], SmallVec::new()),
    }
}

/// What an action reads on other tiles.
fn add_remote<'s>(action: &'s Action, remote: &mut Vec<(VarId, Link<'s>)>) {
    match action {
        Action::Receive(mv) => remote.push((mv.from, Link::Move(mv))),
        Action::Compute(group) => match &group.forwarded {
            Some(mv) => remote.push((mv.from, Link::Move(mv))),
            None => {
                for input in group.inputs.iter().filter(|i| i.shared) {
                    remote.push((input.variable, Link::Shared(group, input)));
                }
            }
        },
        Action::SetSeed { .. } => {}
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
    fn new(context: &Context<'_>) -> Clusters {
        let tiles_per_ipu = context.program.machine.tiles_per_ipu as usize;
        let ipus = context.program.ipus as usize;
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

    fn find(&self, mut tile: u32) -> u32 {
        while self.parent[tile as usize] != tile {
            tile = self.parent[tile as usize];
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

    fn link_sharing(&mut self, group: &Group, input: &GroupOperand) {
        let tile = |point: usize| (group.grid.ipu.0, group.grid.tiles[point]);
        for (point, &first) in input.layout.first_copy_of.iter().enumerate() {
            self.link(tile(point), tile(first as usize));
        }
    }

    fn add_cost(&mut self, action: &Action) {
        let (ipu, tiles) = action.tiles();
        let each = action.nanoseconds() / tiles.len().max(1) as f64;
        for &tile in tiles {
            let number = self.number((ipu, tile));
            self.costs[number as usize] += each.max(f64::MIN_POSITIVE);
        }
        self.total += action.nanoseconds();
    }

    /// Costs by cluster, at the first tile.
    fn sums(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.costs.len()];
        for (tile, cost) in self.costs.iter().enumerate() {
            sums[self.find(tile as u32) as usize] += cost;
        }
        sums
    }

    fn are_enough(&self) -> bool {
        let largest = self.sums().into_iter().fold(0.0, f64::max);
        self.total < 2.0 * NANOSECONDS_A_SHARE || largest <= LARGEST_CLUSTER * self.total
    }

    /// Tiles by cluster, where each cluster starts, and clusters by share.
    fn finish(&self) -> (Vec<Tile>, Vec<u32>, Vec<std::ops::Range<usize>>) {
        let sums = self.sums();
        let busy = (0..self.costs.len() as u32).filter(|&t| self.costs[t as usize] > 0.0);
        let busy: Vec<u32> = busy.collect();
        let mut keyed: Vec<(u32, u32)> = busy.into_iter().map(|t| (self.find(t), t)).collect();
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
    fn slots(&self, tiles: &[Tile], starts: &[u32]) -> Vec<u32> {
        let mut slots = vec![0; self.parent.len()];
        for ends in starts.windows(2) {
            for (slot, &tile) in (0..).zip(&tiles[ends[0] as usize..ends[1] as usize]) {
                slots[self.number(tile) as usize] = slot;
            }
        }
        slots
    }
}
