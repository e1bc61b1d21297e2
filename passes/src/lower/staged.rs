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

mod assembly;
mod rounds;

use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::{GridId, IpuId, ProcId, VarId};
use superstep_ir::program::{Category, Codelet, Cut, Grid, Operand, Step};
use superstep_ir::types::{DType, Shape, TensorType};

use super::{Binding, GraphLowering, LowerError, Lowering, OpLowering};
use crate::plan::Layout;
use assembly::Assembly;
use rounds::segments_of;

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
