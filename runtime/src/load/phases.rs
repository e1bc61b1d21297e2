//! Which supersteps become a phase, and which tiles a cluster of it.
//!
//! A superstep joins the phase before it when enough clusters are left to keep all threads busy: two tiles are of one cluster when one
//! reads on the other what is written anywhere in the phase.

use superstep_ir::ids::VarId;
use superstep_ir::program::Program;

use super::arena::{self, Uses};
use super::span;
use crate::compute::{Group, GroupOperand};
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
    /// Moves that are made before the phase, so that what they bring is not written in it.
    ahead: Vec<At>,
    clusters: Clusters,
}

/// An action: superstep and place in it.
type At = (usize, usize);

/// What an action reads on other tiles.
struct Remote<'s> {
    span: Span,
    link: Link<'s>,
}

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
        open.clusters = open.link(&[]);
        open
    }

    /// Adds a superstep, or says no: then what has to begin the next phase is given back, in order.
    pub(super) fn take(&mut self, superstep: Superstep) -> Result<(), Vec<Superstep>> {
        if self.context.stepwise {
            return Err(vec![superstep]);
        }
        self.supersteps.push(superstep);
        let mut ahead = self.ahead.clone();
        let mut candidates = self.movable().into_iter();
        loop {
            let clusters = self.link(&ahead);
            if clusters.are_enough() {
                (self.ahead, self.clusters) = (ahead, clusters);
                return Ok(());
            }
            let next = candidates.find(|&at| self.may_be_ahead(at, &ahead));
            match next {
                Some(at) => ahead.push(at),
                None => return Err(self.give_back()),
            }
        }
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
            self.clusters = self.link(&self.ahead);
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
    fn may_be_ahead(&self, at: At, ahead: &[At]) -> bool {
        let Action::Receive(mv) = &self.supersteps[at.0].actions[at.1] else {
            return false;
        };
        let (from, into) = (self.span(mv.from), self.span(mv.into));
        let before = self.supersteps[..=at.0].iter().enumerate();
        let mut before = before.flat_map(|(s, superstep)| {
            let actions = superstep.actions.iter().enumerate();
            actions.map(move |(a, action)| ((s, a), action))
        });
        let conflicts = |(other, action): (At, &Action)| {
            let (read, written) = self.touched(action);
            let meets = |spans: &[Span], span: &Span| spans.iter().any(|s| s.meets(span));
            // Of one superstep, nobody writes what is sent.
            let earlier = other < at && (meets(&written, &from) || meets(&read, &into));
            (other < at || ahead.contains(&other)) && meets(&written, &into) || earlier
        };
        // What was taken ahead from a later superstep must not be disturbed either.
        let disturbs = |&(s, a): &At| {
            let (read, written) = self.touched(&self.supersteps[s].actions[a]);
            (s, a) > at && read.iter().chain(&written).any(|span| span.meets(&into))
        };
        !before.any(conflicts) && !ahead.iter().any(disturbs)
    }

    fn span(&self, variable: VarId) -> Span {
        span(self.context.program, self.context.layouts, variable)
    }

    /// What an action reads, on whichever tile, and what it writes.
    fn touched(&self, action: &Action) -> (Vec<Span>, Vec<Span>) {
        match action {
            Action::Receive(mv) => (vec![self.span(mv.from)], vec![self.span(mv.into)]),
            Action::Compute(group) => {
                let inputs = group.inputs.iter().map(|i| i.variable);
                let inputs = inputs.chain(group.forwarded.iter().map(|mv| mv.from));
                let outputs = group.outputs.iter().map(|o| self.span(o.variable));
                (inputs.map(|v| self.span(v)).collect(), outputs.collect())
            }
            Action::SetSeed { variable, .. } => (vec![self.span(*variable)], Vec::new()),
        }
    }

    /// The clusters when these moves are made ahead.
    fn link(&self, ahead: &[At]) -> Clusters {
        let mut clusters = Clusters::new(&self.context);
        let (mut remote, mut written) = (Vec::new(), Vec::new());
        for (s, superstep) in self.supersteps.iter().enumerate() {
            for (a, action) in superstep.actions.iter().enumerate() {
                if ahead.contains(&(s, a)) {
                    continue;
                }
                clusters.add_cost(action);
                written.extend(self.touched(action).1);
                self.add_remote(action, &mut remote);
            }
        }
        for remote in &remote {
            if written.iter().any(|w| w.meets(&remote.span)) {
                match remote.link {
                    Link::Move(mv) => clusters.link_move(mv),
                    Link::Shared(group, input) => clusters.link_sharing(group, input),
                }
            }
        }
        clusters
    }

    /// What an action reads on other tiles.
    fn add_remote<'s>(&self, action: &'s Action, remote: &mut Vec<Remote<'s>>) {
        let mut add = |variable, link| {
            let span = self.span(variable);
            remote.push(Remote { span, link });
        };
        match action {
            Action::Receive(mv) => add(mv.from, Link::Move(mv)),
            Action::Compute(group) => match &group.forwarded {
                Some(mv) => add(mv.from, Link::Move(mv)),
                None => {
                    for input in group.inputs.iter().filter(|i| i.shared) {
                        add(input.variable, Link::Shared(group, input));
                    }
                }
            },
            Action::SetSeed { .. } => {}
        }
    }

    /// The phase, and before it one of the moves that are made ahead, if there are any.
    pub(super) fn close(mut self) -> (Option<Phase>, Phase) {
        self.ahead.sort_unstable();
        let mut ahead = Superstep::default();
        for &(s, a) in self.ahead.iter().rev() {
            ahead.actions.push(self.supersteps[s].actions.remove(a));
        }
        ahead.actions.reverse();
        let ahead = (!ahead.actions.is_empty()).then(|| {
            let open = Open::new(self.context, ahead);
            open.settle()
        });
        (ahead, self.settle())
    }

    /// The phase of the supersteps.
    fn settle(mut self) -> Phase {
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
