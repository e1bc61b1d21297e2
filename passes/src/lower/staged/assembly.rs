//! From lowered segments to procedures: rounds of groups, pipeline cycles or levels, and the exchanges between IPUs.

use indexmap::IndexMap;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::graph::{Graph, Phase};
use superstep_ir::ids::{GridId, IpuId, OriginId, ProcId, VarId};
use superstep_ir::program::{
    Codelet, ComputeSet, Exchange, Operand, Origin, Procedure, Step, Sync, VertexGroup,
};
use superstep_ir::types::Real;

use super::{Received, Schedule, Segment, Staged, counter};
use crate::lower::{Lowering, whole_move};

/// A round of a stage on an IPU: its number and procedure.
type Round = (u32, IpuId, ProcId);

/// Lowered segments on their way to one procedure.
pub(super) struct Assembly<'a, 'm> {
    pub(super) lw: &'a mut Lowering<'m>,
    pub(super) staged: Staged,
    pub(super) graph: &'a Graph,
}

impl Assembly<'_, '_> {
    pub(super) fn assemble(mut self, schedule: Schedule) -> ProcId {
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
        let mut stages: IndexMap<(u32, IpuId), Vec<Round>> = IndexMap::new();
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
    fn rounds(&mut self, stage: u32, first: IpuId, rounds: &[Round]) -> ProcId {
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
