//! Which supersteps become a phase, and which tiles a cluster of it.
//!
//! A superstep joins the phase before it when enough clusters are left to keep all threads busy: two tiles are of one cluster when one
//! reads on the other what is written anywhere in the phase.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use smallvec::{SmallVec, smallvec};
use superstep_ir::ids::VarId;
use superstep_ir::program::Program;

use super::arena::{self, Life};
use super::clusters::Clusters;
use super::homes::{Array, Homes};
use super::joint;
use super::tile_span;
use super::uses::Uses;
use crate::compute::{Group, GroupOperand};
use crate::exchange::LoadedMove;
use crate::layout::Layouts;
use crate::phase::Phase;
use crate::superstep::{Action, Span, Superstep};
use crate::tile_memory::{SlotPlan, Store};

/// What has to be known of the program.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) program: &'a Program,
    pub(super) layouts: &'a Layouts,
    pub(super) homes: &'a Homes,
    pub(super) uses: &'a Uses,
    /// By variable: nothing else lies on its bytes while it is alive.
    pub(super) alone: &'a [bool],
    /// By variable: of its copies only the first ones are there.
    pub(super) shared: &'a [bool],
    /// Every superstep is a phase, and all variables are on their tiles.
    pub(super) stepwise: bool,
}

impl Context<'_> {
    pub(super) fn span(&self, variable: VarId) -> Span {
        Span {
            array: self.homes.array(variable).clone(),
            ..tile_span(self.program, self.layouts, variable)
        }
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

/// So many supersteps are looked at beyond one that leaves too few clusters: with those that read what it writes, that may be in the
/// arena, where it is in nobody's way.
const LOOK_AHEAD: usize = 3;

/// A phase to which supersteps are added.
pub(super) struct Open<'a> {
    context: Context<'a>,
    supersteps: Vec<Superstep>,
    /// The first so many have enough clusters, and are the phase as it stands.
    good: usize,
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
            good: 1,
            ahead: Vec::new(),
            clusters: Clusters::new(&context),
        };
        open.clusters = open.link(&FxHashSet::default(), &[]);
        open
    }

    /// Adds a superstep; false when the phase is at its end, which may be before supersteps that were added last.
    pub(super) fn take(&mut self, superstep: Superstep) -> bool {
        self.supersteps.push(superstep);
        if self.context.stepwise {
            return false;
        }
        let passing = self.passing();
        let mut ahead = self.ahead.clone();
        let mut candidates = self.movable().into_iter();
        loop {
            let clusters = self.link(&passing, &ahead);
            if clusters.are_enough() && self.are_apart(&passing) {
                (self.ahead, self.clusters) = (ahead, clusters);
                self.good = self.supersteps.len();
                return true;
            }
            match candidates.find(|&at| self.may_be_ahead(at, &passing, &ahead)) {
                Some(at) => ahead.push(at),
                None => return self.supersteps.len() <= self.good + LOOK_AHEAD,
            }
        }
    }

    /// What nobody will need on the tiles.
    fn passing(&self) -> FxHashSet<VarId> {
        let lives = arena::passing(&self.context, &self.supersteps);
        lives.iter().map(|life| life.variable()).collect()
    }

    /// True when no array of the phase has bytes of another: clusters do not wait until one is done with.
    fn are_apart(&self, passing: &FxHashSet<VarId>) -> bool {
        let variables = self.actions().flat_map(|(_, action)| {
            let (read, written) = touched(action);
            read.into_iter().chain(written)
        });
        let on_tiles = variables.filter(|v| !passing.contains(v));
        let mut arrays: Vec<&Array> = on_tiles.map(|v| self.context.homes.array(v)).collect();
        arrays.sort_unstable();
        arrays.windows(2).all(|pair| !pair[0].clashes(pair[1]))
    }

    /// Takes out what is not of the phase, and with it an exchange that may only bring what that needs.
    fn give_back(&mut self) -> Vec<Superstep> {
        let mut back = self.supersteps.split_off(self.good);
        if back.is_empty() || self.good < 2 || !only_receives(&self.supersteps[self.good - 1]) {
            return back;
        }
        let exchange = self.supersteps.pop();
        let mut ahead = self.ahead.clone();
        ahead.retain(|&(superstep, _)| superstep < self.supersteps.len());
        // What the exchange sends has to lie on its tiles, now that it is not of the phase.
        let passing = self.passing();
        let clusters = self.link(&passing, &ahead);
        let mut still = ahead.iter();
        if clusters.are_enough()
            && self.are_apart(&passing)
            && still.all(|&at| self.may_be_ahead(at, &passing, &ahead))
        {
            (self.ahead, self.clusters) = (ahead, clusters);
            back.splice(0..0, exchange);
        } else {
            self.supersteps.extend(exchange);
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
        let reads_from =
            |v: &VarId| *v == mv.from || (!passing.contains(v) && span(*v).meets(&from));
        let keeps_off = passing.contains(&mv.into);
        let mut actions = self.actions();
        !actions.any(|(other, action)| {
            let earlier = other < at;
            if !(earlier || ahead.contains(&other)) || other == at {
                return false;
            }
            let (read, written) = touched(action);
            let changes_source = earlier && written.iter().any(reads_from);
            // Moves of one exchange may bring parts of one variable.
            let brings_part = other.0 == at.0 && matches!(action, Action::Receive(_));
            let meets_into = |v: &VarId| match *v == mv.into {
                true => !brings_part,
                false => !keeps_off && !passing.contains(v) && span(*v).meets(&into),
            };
            changes_source || read.iter().chain(&written).any(meets_into)
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
        for (_, action) in self.actions().filter(|(at, _)| !ahead.contains(at)) {
            clusters.add_cost(action);
            if let Action::Compute(group) = action {
                let sums = group.outputs.iter().filter(|output| output.shared);
                sums.for_each(|sum| clusters.link_sharing(group, sum));
            }
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

    /// The phase, before it one of the moves that are made ahead, if there are any, and the supersteps that follow.
    pub(super) fn close(mut self) -> (Option<Phase>, Phase, Vec<Superstep>) {
        let back = self.give_back();
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
        let shelf = Arc::new(self.shelf(&early, shelf_stride));
        let ahead = (!ahead.actions.is_empty())
            .then(|| Open::new(self.context, ahead).settle(0, shelf.clone()));
        (ahead, self.settle(arena_stride, shelf), back)
    }

    /// Slots for the tiles of all that is on the shelf, whether they have a part of it or not.
    fn shelf(&self, on_shelf: &[&Life], stride: usize) -> SlotPlan {
        let mut plan = SlotPlan::default();
        let mut tiles: Vec<u32> = Vec::new();
        for variable in on_shelf.iter().map(|life| life.variable()) {
            let Context {
                program,
                layouts,
                shared,
                ..
            } = self.context;
            let (grid, layout) = (layouts.grid(program, variable), layouts.layout(variable));
            let number = |&tile: &u32| self.clusters.number((grid.ipu.0, tile));
            match shared[variable.index()] {
                true => {
                    let homes = layout.first_copies.iter().map(|&p| &grid.tiles[p as usize]);
                    tiles.extend(homes.map(number));
                }
                false => tiles.extend(grid.tiles.iter().map(number)),
            }
        }
        tiles.sort_unstable();
        tiles.dedup();
        plan.slots = vec![SlotPlan::NO_SLOT; tiles.last().map_or(0, |&last| last as usize + 1)];
        for (slot, &tile) in tiles.iter().enumerate() {
            plan.slots[tile as usize] = slot as u32;
        }
        (plan.stride, plan.bytes) = (stride, stride * tiles.len());
        plan
    }

    /// The phase of the supersteps.
    fn settle(self, arena_stride: usize, shelf: Arc<SlotPlan>) -> Phase {
        let (tiles, starts, mut shares) = self.clusters.finish();
        let last = joint::take_last(&mut shares, rayon::current_num_threads());
        let of_cluster = |c: usize| &tiles[starts[c] as usize..starts[c + 1] as usize];
        let joint = |c| joint::joint(c, of_cluster(c), &self.supersteps);
        let joint = last.into_iter().map(joint).collect();
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
            joint,
            arena,
            shelf,
        }
    }
}

fn only_receives(superstep: &Superstep) -> bool {
    let receives = |action: &Action| matches!(action, Action::Receive(_));
    superstep.actions.iter().all(receives)
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
