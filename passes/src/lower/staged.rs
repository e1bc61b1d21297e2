//! Graphs whose stages run side by side: one procedure for each stage on each IPU, and between them exchanges over the links.
//!
//! *Pipeline* (a micro-batch, forward and back or forward only): in every cycle each IPU runs its stages, each on another micro-batch, then one
//! exchange takes what later stages need to their IPUs. `n` micro-batches through `s` stages take `n + s − 1` cycles: fill, main, flush. A value
//! that is needed `d` cycles after it is there waits in a ring of `d + 1` entries, at an index that a counter of each stage gives.
//!
//! A stage of which several IPUs do a part each, a *group*, runs in rounds: in a round all members work at the same time, then an exchange takes
//! what other members wait for over their links.
//!
//! *Levels* (the update): every stage runs once, all its IPUs at the same time; what passes from one to another stays where it is, or crosses
//! a link after its level.

use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use superstep_ir::graph::{Graph, Phase, Value};
use superstep_ir::ids::{GridId, IpuId, OpId, OriginId, ProcId, VarId};
use superstep_ir::op::Op;
use superstep_ir::program::{
    Category, Codelet, ComputeSet, Cut, Exchange, Grid, Operand, Origin, Procedure, Step, Sync,
    VertexGroup,
};
use superstep_ir::types::{DType, Real, Shape, TensorType};

use super::{Binding, GraphLowering, LowerError, Lowering, OpLowering, whole_move};
use crate::plan::Layout;
use crate::schedule::schedule;

/// How the stages of a graph run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Every stage once, in order.
    Levels,
    /// So many micro-batches, one behind the other.
    Pipeline { micro_batches: u32 },
}

/// One round of a stage on one IPU; there is only one round where the IPU is alone.
#[derive(Clone, Debug)]
struct Segment {
    stage: u32,
    round: u32,
    ipu: IpuId,
    steps: Vec<Step>,
    /// Counters of its runs, by the grid on whose tiles they are.
    counters: IndexMap<GridId, VarId>,
}

/// Where a variable is made.
#[derive(Clone, Copy, Debug)]
struct Home {
    segment: usize,
    /// Steps of the segment that are needed for it.
    steps: usize,
}

/// A value that waits for a later stage.
struct Ring {
    variable: VarId,
    /// Stage in which its entries are there to be stored, and the last that needs them.
    from: u32,
    until: u32,
}

/// A copy of a value on another IPU.
#[derive(Clone, Copy, Debug)]
struct Received {
    copy: VarId,
    /// The first stage in which it is there.
    from: u32,
    /// It came inside of that stage, to another member of the group.
    inside: bool,
}

/// What lives while a graph is lowered stage by stage.
pub(super) struct Staged {
    pipelined: bool,
    /// IPUs of a group.
    group: u32,
    segments: Vec<Segment>,
    current: usize,
    homes: FxHashMap<VarId, Home>,
    /// Copies on other IPUs, by variable and IPU.
    received: IndexMap<(VarId, IpuId), Received>,
    /// By the variable whose values wait.
    rings: IndexMap<VarId, Ring>,
    /// What the current stage has taken out of rings.
    restored: FxHashMap<VarId, VarId>,
    /// Bindings as they were before the current segment put its own variables in.
    original: FxHashMap<Value, Binding>,
}

impl Lowering<'_> {
    /// Lowers a graph by stages; the procedure runs all of it.
    pub(super) fn staged(
        &mut self,
        graph: &Graph,
        schedule: Schedule,
    ) -> Result<ProcId, LowerError> {
        self.place_weights(graph);
        let pipelined = schedule != Schedule::Levels;
        let group = if pipelined { self.group } else { 1 };
        let by_segment = segments_of(graph, group);
        let segment = |&(stage, round, ipu): &(u32, u32, IpuId)| Segment {
            stage,
            round,
            ipu,
            steps: vec![],
            counters: IndexMap::new(),
        };
        let staged = Staged {
            pipelined,
            group,
            segments: by_segment.keys().map(segment).collect(),
            current: 0,
            homes: FxHashMap::default(),
            received: IndexMap::new(),
            rings: IndexMap::new(),
            restored: FxHashMap::default(),
            original: FxHashMap::default(),
        };
        let mut lowering = GraphLowering {
            lw: self,
            graph,
            steps: vec![],
            bindings: FxHashMap::default(),
            pending: FxHashMap::default(),
            imports: FxHashMap::default(),
            staged: Some(staged),
            brought: FxHashSet::default(),
        };
        for (i, ops) in by_segment.values().enumerate() {
            lowering.enter(i);
            for &op in ops {
                lowering.op(op)?;
            }
            lowering.leave();
        }
        let Some(staged) = lowering.staged else {
            unreachable!("it was put there above");
        };
        Ok(Assembly {
            lw: self,
            staged,
            graph,
        }
        .assemble(schedule))
    }
}

/// The ops of a graph by stage, round and IPU, in schedule order.
fn segments_of(graph: &Graph, group: u32) -> IndexMap<(u32, u32, IpuId), Vec<OpId>> {
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

impl GraphLowering<'_, '_> {
    fn enter(&mut self, segment: usize) {
        if let Some(staged) = &mut self.staged {
            let stage = |segment: usize| staged.segments[segment].stage;
            if stage(segment) != stage(staged.current) {
                staged.restored.clear();
            }
            staged.current = segment;
            self.bindings.extend(staged.original.drain());
        }
    }

    fn leave(&mut self) {
        if let Some(staged) = &mut self.staged {
            staged.segments[staged.current].steps = std::mem::take(&mut self.steps);
        }
    }

    /// Whether a variable is made in the current segment: what others made may still be on its way somewhere.
    pub(super) fn is_of_this_segment(&self, variable: VarId) -> bool {
        self.staged.as_ref().is_none_or(|staged| {
            let home = staged.homes.get(&variable);
            home.is_none_or(|home| home.segment == staged.current)
        })
    }

    /// Notes that a variable holds a result once the steps so far are done: where it comes from, unless another segment made it.
    pub(super) fn settle(&mut self, variable: VarId) {
        if let Some(staged) = &mut self.staged {
            let home = Home {
                segment: staged.current,
                steps: self.steps.len(),
            };
            let known = staged.homes.entry(variable).or_insert(home);
            if known.segment == home.segment {
                *known = home;
            }
        }
    }
}

impl OpLowering<'_, '_, '_> {
    /// Binds the operands to variables of this stage and IPU. Views look at nothing: whoever reads through them comes here too.
    pub(super) fn localise(&mut self) {
        if self.g.staged.is_none() {
            return;
        }
        let node = self.g.graph.node(self.id);
        let is_view = node.op.is_view();
        for &value in node.operands() {
            let Some(staged) = &mut self.g.staged else {
                return;
            };
            if is_view {
                if let Some(original) = staged.original.remove(&value) {
                    self.g.bindings.insert(value, original);
                }
                continue;
            }
            let Some(Binding::Held { variable, views }) = self.g.bindings.get(&value).cloned()
            else {
                continue;
            };
            let local = self.local(variable);
            if local == variable {
                continue;
            }
            let held = |variable| Binding::Held {
                variable,
                views: views.clone(),
            };
            self.g.bindings.insert(value, held(local));
            if let Some(staged) = &mut self.g.staged {
                staged.original.entry(value).or_insert(held(variable));
            }
        }
    }

    /// The variable that holds, in this stage and on this IPU, what `variable` held for this micro-batch.
    fn local(&mut self, variable: VarId) -> VarId {
        let Some((here, stage, from)) = self.way_from(variable) else {
            return variable;
        };
        let pipelined = self.g.staged.as_ref().is_some_and(|s| s.pipelined);
        let is_state = self.g.lw.program.variable(here).live.is_none();
        if !pipelined || stage == from || (is_state && here == variable) {
            return here;
        }
        self.restore(here, from, stage)
    }

    /// For a variable of another segment: what it is called on this IPU, this stage, and the stage in which it is there.
    fn way_from(&mut self, variable: VarId) -> Option<(VarId, u32, u32)> {
        let staged = self.g.staged.as_mut()?;
        let home = *staged.homes.get(&variable)?;
        let (from, to) = (
            &staged.segments[home.segment],
            &staged.segments[staged.current],
        );
        if home.segment == staged.current {
            return None;
        }
        let (from, at, stage, ipu) = (from.stage, from.ipu, to.stage, to.ipu);
        if at == ipu {
            return Some((variable, stage, from));
        }
        if let Some(known) = staged.received.get(&(variable, ipu)) {
            return Some((known.copy, stage, known.from));
        }
        let inside = from == stage && at.0 / staged.group == ipu.0 / staged.group;
        let from = from + u32::from(!inside);
        // The same layout on the other IPU: every tile sends to its counterpart.
        let source = self.g.lw.program.variable(variable).clone();
        let grid = self.g.lw.program.grid(source.grid).clone();
        let grid = self.g.lw.intern(Grid { ipu, ..grid });
        let layout = Layout {
            grid,
            cuts: source.cuts.clone(),
        };
        let name = format!("{}.on_{}", source.name, ipu.0);
        let copy = self.g.lw.variable(name, source.ty, layout, Category::Stash);
        self.g.pending.insert(copy, usize::MAX);
        let received = Received { copy, from, inside };
        let staged = self.g.staged.as_mut()?;
        staged.received.insert((variable, ipu), received);
        Some((copy, stage, from))
    }

    /// Takes this micro-batch's entry out of the ring of `source`, which is stored in stage `from`.
    fn restore(&mut self, source: VarId, from: u32, stage: u32) -> VarId {
        let known = self.g.staged.as_ref().and_then(|s| s.restored.get(&source));
        if let Some(&known) = known {
            return known;
        }
        let v = self.g.lw.program.variable(source).clone();
        let layout = Layout::of(&v);
        let ring = self.ring(source, from, stage);
        let count = self.counter(v.grid);
        let name = format!("{}.restored", v.name);
        let entry = self.g.lw.variable(name, v.ty, layout, Category::Activation);
        self.g.pending.insert(entry, usize::MAX);
        self.compute(
            "restore",
            Codelet::Restore,
            v.grid,
            &[Operand::whole(count), Operand::whole(ring)],
            &[Operand::whole(entry)],
        );
        if let Some(staged) = &mut self.g.staged {
            staged.restored.insert(source, entry);
        }
        entry
    }

    /// The ring of a variable; how many entries it has is known when all stages are lowered.
    fn ring(&mut self, source: VarId, from: u32, stage: u32) -> VarId {
        if let Some(ring) = self
            .g
            .staged
            .as_mut()
            .and_then(|s| s.rings.get_mut(&source))
        {
            ring.until = ring.until.max(stage);
            return ring.variable;
        }
        let v = self.g.lw.program.variable(source).clone();
        let mut shape = v.ty.shape.clone();
        shape.0.insert(0, 1);
        let mut cuts: SmallVec<[Cut; 4]> = v.cuts.clone();
        cuts.insert(0, Cut::none());
        let layout = Layout { grid: v.grid, cuts };
        let (name, ty) = (
            format!("{}.ring", v.name),
            TensorType::new(v.ty.dtype, shape),
        );
        let variable = self.g.lw.variable(name, ty, layout, Category::Stash);
        let ring = Ring {
            variable,
            from,
            until: stage,
        };
        if let Some(staged) = &mut self.g.staged {
            staged.rings.insert(source, ring);
        }
        variable
    }

    fn counter(&mut self, grid: GridId) -> VarId {
        let Some(staged) = &mut self.g.staged else {
            unreachable!("only stages have counters");
        };
        counter(self.g.lw, &mut staged.segments[staged.current], grid)
    }
}

impl Segment {
    /// What its counters and procedures are called.
    fn name(&self) -> String {
        match self.round {
            0 => format!("stage.{}", self.stage),
            round => format!("stage.{}.round.{round}", self.stage),
        }
    }
}

/// The counter of a segment's runs on the tiles of a grid.
fn counter(lw: &mut Lowering<'_>, segment: &mut Segment, grid: GridId) -> VarId {
    if let Some(&known) = segment.counters.get(&grid) {
        return known;
    }
    let name = format!("{}.count", segment.name());
    let ty = TensorType::new(DType::U32, Shape::new(&[1]));
    let layout = Layout::copies(grid, 1);
    let variable = lw.variable(name, ty, layout, Category::Stash);
    segment.counters.insert(grid, variable);
    variable
}

/// Lowered segments on their way to one procedure.
struct Assembly<'a, 'm> {
    lw: &'a mut Lowering<'m>,
    staged: Staged,
    graph: &'a Graph,
}

impl Assembly<'_, '_> {
    fn assemble(mut self, schedule: Schedule) -> ProcId {
        self.store_rings();
        self.advance_counters();
        let mut start = Vec::new();
        if self.staged.pipelined {
            start = self.zero_rings();
        }
        let procedures = self.stage_procedures();
        let steps = match schedule {
            Schedule::Levels => self.levels(&procedures),
            Schedule::Pipeline { micro_batches } => self.pipeline(&procedures, micro_batches),
        };
        start.extend(steps);
        self.procedure(self.graph.name.clone(), start)
    }

    fn procedure(&mut self, name: String, steps: Vec<Step>) -> ProcId {
        let procedures = &mut self.lw.program.procedures;
        procedures.push(Procedure { name, steps });
        ProcId(procedures.len() as u32 - 1)
    }

    fn origin(&mut self, name: String, kind: &str, ipu: IpuId) -> OriginId {
        let origins = &mut self.lw.program.origins;
        origins.push(Origin {
            name,
            kind: kind.into(),
            ipu,
            phase: Phase::Forward,
            flops: 0,
        });
        OriginId(origins.len() as u32 - 1)
    }

    /// Every ring gets its entries, and a step that stores one as soon as it is there.
    fn store_rings(&mut self) {
        let rings = std::mem::take(&mut self.staged.rings);
        let mut stores: Vec<(usize, usize, VarId, VarId)> = Vec::new();
        for (&source, ring) in &rings {
            let entries = (ring.until - ring.from + 1) as usize;
            self.lw.program.variables[ring.variable.index()].ty.shape.0[0] = entries;
            let ipu = self.lw.program.grid_of(source).ipu;
            let home = self.staged.homes.get(&source).copied();
            let (segment, at) = match home {
                Some(home) => (home.segment, home.steps),
                None => {
                    let round = self.round_of_arrival(source);
                    (self.segment(ring.from, round, ipu), 0)
                }
            };
            stores.push((segment, at, source, ring.variable));
        }
        stores.sort_by_key(|&(segment, at, source, _)| (segment, std::cmp::Reverse(at), source));
        let mut origins: FxHashMap<usize, OriginId> = FxHashMap::default();
        for (segment, at, source, ring) in stores {
            let grid = self.lw.program.variable(source).grid;
            let count = counter(self.lw, &mut self.staged.segments[segment], grid);
            let (stage, ipu) = (
                self.staged.segments[segment].name(),
                self.staged.segments[segment].ipu,
            );
            let origin = match origins.get(&segment) {
                Some(&known) => known,
                None => self.origin(format!("{stage}.stash"), "stash", ipu),
            };
            origins.insert(segment, origin);
            let name = format!("{}.stash", self.lw.program.variable(source).name);
            let inputs = [Operand::whole(count), Operand::whole(source)];
            let step = compute(name, origin, [(Codelet::Stash, grid, &inputs[..], ring)]);
            self.staged.segments[segment].steps.insert(at, step);
        }
        self.staged.rings = rings;
    }

    /// The first round of its stage in which a copy is there: what came from another stage is there when the stage starts.
    fn round_of_arrival(&self, copy: VarId) -> u32 {
        let mut received = self.staged.received.iter();
        let found = received.find(|(_, received)| received.copy == copy && received.inside);
        found.map_or(0, |((source, _), _)| {
            let home = self.staged.homes[source].segment;
            self.staged.segments[home].round + 1
        })
    }

    /// The first segment of a stage on an IPU from a round on, made if nothing else runs there then.
    fn segment(&mut self, stage: u32, round: u32, ipu: IpuId) -> usize {
        let segments = &mut self.staged.segments;
        let known = segments
            .iter()
            .position(|s| (s.stage, s.ipu) == (stage, ipu) && s.round >= round);
        known.unwrap_or_else(|| {
            segments.push(Segment {
                stage,
                round,
                ipu,
                steps: vec![],
                counters: IndexMap::new(),
            });
            segments.len() - 1
        })
    }

    fn advance_counters(&mut self) {
        for i in 0..self.staged.segments.len() {
            let segment = &self.staged.segments[i];
            let (counters, ipu) = (segment.counters.clone(), segment.ipu);
            if counters.is_empty() {
                continue;
            }
            let name = format!("{}.count", segment.name());
            let origin = self.origin(name.clone(), "count", ipu);
            let groups = counters
                .iter()
                .map(|(&grid, &count)| (Codelet::Advance, grid, &[][..], count));
            let step = compute(name, origin, groups);
            self.staged.segments[i].steps.push(step);
        }
    }

    /// Steps that set all counters and rings to zero.
    fn zero_rings(&mut self) -> Vec<Step> {
        let counters = self
            .staged
            .segments
            .iter()
            .flat_map(|s| s.counters.values());
        let rings = self.staged.rings.values().map(|r| &r.variable);
        let mut by_ipu: IndexMap<IpuId, Vec<VarId>> = IndexMap::new();
        for &variable in counters.chain(rings) {
            let ipu = self.lw.program.grid_of(variable).ipu;
            by_ipu.entry(ipu).or_default().push(variable);
        }
        by_ipu.sort_keys();
        let mut bodies = Vec::new();
        for (ipu, variables) in by_ipu {
            let name = format!("{}.start.{}", self.graph.name, ipu.0);
            let origin = self.origin(name.clone(), "count", ipu);
            let groups = variables.into_iter().map(|v| {
                let zero = Codelet::Fill { value: Real(0.0) };
                (zero, self.lw.program.variable(v).grid, &[][..], v)
            });
            let step = compute(name.clone(), origin, groups);
            bodies.push(self.procedure(name, vec![step]));
        }
        Self::at_once(bodies).into_iter().collect()
    }

    fn at_once(bodies: Vec<ProcId>) -> Option<Step> {
        match bodies[..] {
            [] => None,
            [only] => Some(Step::Call(only)),
            _ => Some(Step::Parallel(bodies)),
        }
    }

    /// By stage and first IPU of the group, ascending.
    fn stage_procedures(&mut self) -> Vec<(u32, IpuId, ProcId)> {
        let mut segments = std::mem::take(&mut self.staged.segments);
        let mut stages: IndexMap<(u32, IpuId), Vec<(u32, IpuId, ProcId)>> = IndexMap::new();
        for s in &mut segments {
            let name = format!("{}.{}.on_{}", self.graph.name, s.name(), s.ipu.0);
            let id = self.procedure(name, std::mem::take(&mut s.steps));
            let first = self.first_of_group(s.ipu);
            let rounds = stages.entry((s.stage, first)).or_default();
            rounds.push((s.round, s.ipu, id));
        }
        self.staged.segments = segments;
        stages.sort_keys();
        let stages = stages.into_iter().map(|((stage, first), mut rounds)| {
            rounds.sort_unstable();
            let procedure = match rounds[..] {
                [(_, _, only)] => only,
                _ => self.rounds(stage, first, &rounds),
            };
            (stage, first, procedure)
        });
        stages.collect()
    }

    fn first_of_group(&self, ipu: IpuId) -> IpuId {
        IpuId(ipu.0 - ipu.0 % self.staged.group)
    }

    /// The rounds of a stage: in each, all members at once, then what others wait for over the links.
    fn rounds(&mut self, stage: u32, first: IpuId, rounds: &[(u32, IpuId, ProcId)]) -> ProcId {
        let sync = Sync::Group {
            first,
            count: self.staged.group,
        };
        let mut steps = Vec::new();
        for members in rounds.chunk_by(|a, b| a.0 == b.0) {
            steps.extend(Self::at_once(members.iter().map(|m| m.2).collect()));
            let round = members[0].0;
            let due = self.made_where(|segment, received| {
                let is_of_group = segment.ipu.0 - segment.ipu.0 % self.staged.group == first.0;
                received.inside && is_of_group && (segment.stage, segment.round) == (stage, round)
            });
            let name = format!("stage.{stage}.round.{round}.links");
            steps.extend(self.copies(&name, first, sync, due));
        }
        let name = format!("{}.stage.{stage}.group_{}", self.graph.name, first.0);
        self.procedure(name, steps)
    }

    /// Values and their copies on other IPUs, by the segment that makes the value.
    fn made_where(&self, is_due: impl Fn(&Segment, &Received) -> bool) -> Vec<(VarId, VarId)> {
        let due = self
            .staged
            .received
            .iter()
            .filter(|((source, _), received)| {
                let segment = self.staged.homes[source].segment;
                is_due(&self.staged.segments[segment], received)
            });
        due.map(|((source, _), received)| (*source, received.copy))
            .collect()
    }

    /// The exchange of what the stages `first..=last` made for others.
    fn copies_of_stages(&mut self, name: &str, first: u32, last: u32) -> Vec<Step> {
        let due = self.made_where(|segment, received| {
            !received.inside && (first..=last).contains(&segment.stage)
        });
        self.copies(name, IpuId(0), Sync::Replica, due)
    }

    /// The exchange of values that other IPUs get.
    fn copies(
        &mut self,
        name: &str,
        ipu: IpuId,
        sync: Sync,
        due: Vec<(VarId, VarId)>,
    ) -> Vec<Step> {
        if due.is_empty() {
            return vec![];
        }
        let moves = due
            .into_iter()
            .map(|(source, copy)| whole_move(&self.lw.program, source, vec![], copy))
            .collect();
        let name = format!("{}.{name}", self.graph.name);
        let origin = self.origin(name.clone(), "copy", ipu);
        vec![
            Step::Sync(sync),
            Step::Exchange(Exchange {
                name,
                origin,
                moves,
            }),
        ]
    }

    fn levels(&mut self, procedures: &[(u32, IpuId, ProcId)]) -> Vec<Step> {
        let mut steps = Vec::new();
        for level in procedures.chunk_by(|a, b| a.0 == b.0) {
            steps.extend(Self::at_once(level.iter().map(|p| p.2).collect()));
            let level = level[0].0;
            steps.extend(self.copies_of_stages(&format!("level.{level}.copies"), level, level));
        }
        steps
    }

    /// The full pipeline is one procedure, repeated; micro-batches that do not fill it pass through it together, with stages idle before and
    /// behind them.
    fn pipeline(&mut self, procedures: &[(u32, IpuId, ProcId)], micro_batches: u32) -> Vec<Step> {
        let stages = procedures.last().map_or(1, |p| p.0 + 1);
        let mut branches: FxHashMap<Vec<ProcId>, ProcId> = FxHashMap::default();
        let mut steps = Vec::new();
        let mut cycle = |this: &mut Self, name: String, first: u32, last: u32| {
            let body = this.cycle(&name, procedures, first, last, &mut branches);
            this.procedure(format!("{}.{name}", this.graph.name), body)
        };
        // Most stages that have a micro-batch in the same cycle.
        let busy = micro_batches.min(stages);
        for c in 0..busy - 1 {
            let body = cycle(self, format!("fill.{c}"), 0, c);
            steps.push(Step::Call(body));
        }
        if busy == stages {
            let body = cycle(self, "main".into(), 0, stages - 1);
            let count = micro_batches + 1 - stages;
            steps.push(Step::Repeat { count, body });
        } else {
            for c in busy - 1..stages {
                let body = cycle(self, format!("pass.{c}"), c + 1 - busy, c);
                steps.push(Step::Call(body));
            }
        }
        for first in stages + 1 - busy..stages {
            let body = cycle(self, format!("flush.{first}"), first, stages - 1);
            steps.push(Step::Call(body));
        }
        steps
    }

    /// One cycle in which the stages `first..=last` run: each IPU one stage after the other, then the copies between IPUs.
    fn cycle(
        &mut self,
        name: &str,
        procedures: &[(u32, IpuId, ProcId)],
        first: u32,
        last: u32,
        branches: &mut FxHashMap<Vec<ProcId>, ProcId>,
    ) -> Vec<Step> {
        let mut by_ipu: IndexMap<IpuId, Vec<ProcId>> = IndexMap::new();
        for &(stage, ipu, procedure) in procedures {
            if (first..=last).contains(&stage) {
                by_ipu.entry(ipu).or_default().push(procedure);
            }
        }
        by_ipu.sort_keys();
        let mut bodies = Vec::new();
        for (ipu, calls) in by_ipu {
            let body = match (&calls[..], branches.get(&calls)) {
                (&[only], _) => only,
                (_, Some(&known)) => known,
                _ => {
                    let steps = calls.iter().map(|&c| Step::Call(c)).collect();
                    let name = format!("{}.{name}.on_{}", self.graph.name, ipu.0);
                    let made = self.procedure(name, steps);
                    branches.insert(calls, made);
                    made
                }
            };
            bodies.push(body);
        }
        let mut steps: Vec<Step> = self.lw.new_seed().into_iter().collect();
        steps.extend(Self::at_once(bodies));
        steps.extend(self.copies_of_stages(&format!("{name}.copies"), first, last));
        steps
    }
}

/// A compute set of groups `(codelet, grid, inputs, output)`.
fn compute<'o>(
    name: String,
    origin: OriginId,
    groups: impl IntoIterator<Item = (Codelet, GridId, &'o [Operand], VarId)>,
) -> Step {
    let group =
        |(codelet, grid, inputs, output): (Codelet, GridId, &[Operand], VarId)| VertexGroup {
            codelet,
            grid,
            inputs: SmallVec::from_slice(inputs),
            outputs: smallvec::smallvec![Operand::whole(output)],
        };
    Step::Compute(ComputeSet {
        name,
        origin,
        groups: groups.into_iter().map(group).collect(),
    })
}
