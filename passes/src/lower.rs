//! From graphs to a tile program: one op at a time, in schedule order.
//!
//! A value of the graph is *bound* to a variable seen through views, so view ops cost nothing until somebody needs the elements in another
//! layout. An op asks for its operands in the layouts of its plan ([`OpLowering::demand`]); what is not there already is moved by one exchange.
//! State stays in one variable for ever; ops that update it run in place.

mod bases;
mod bring;
mod cache;
mod collective;
mod elementwise;
mod flops;
mod loss;
mod matmul;
mod reduce;
mod rounding;
mod rows;
mod staged;
mod state;
mod tables;
mod views;

use indexmap::IndexMap;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use superstep_ir::graph::{Graph, Module, Phase, Value};
use superstep_ir::ids::{GridId, IpuId, OpId, OriginId, ProcId, VarId};
use superstep_ir::machine::Machine;
use superstep_ir::op::Op;
use superstep_ir::program::{
    Category, Codelet, CollectiveKind, ComputeSet, Cut, Exchange, Grid, Move, Operand, Origin,
    Procedure, Program, Rounding, Step, Sync, Variable, VertexGroup, View,
};
use superstep_ir::types::{Shape, TensorType};
use superstep_ir::units::Bytes;
use thiserror::Error;

use self::bases::Bases;
use crate::budget::Budgets;
use crate::plan::Layout;
use crate::plan::layout::spread_parts;
use crate::plan::matmul::{MatmulPlan, MatmulPlans, PlannedProduct};
use crate::schedule::schedule;
use matmul::{JointProblem, Resting};
use staged::{Schedule, Staged};

/// Why a graph cannot become a program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LowerError {
    #[error("{op} `{name}`: {what}")]
    Unsupported {
        op: &'static str,
        name: String,
        what: String,
    },
    #[error("the module has no graph `{0}`")]
    MissingGraph(&'static str),
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq)]
enum Binding {
    /// A variable, seen through views.
    Held { variable: VarId, views: Vec<View> },
    /// Not in memory yet: every element is this value.
    Splat(f64),
}

/// The micro-batches of an optimiser step, or of an inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatches {
    /// One after the other, and of each one stage after the other.
    InTurn(u32),
    /// One behind the other, in all stages at the same time.
    Pipelined(u32),
}

/// How a module is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Of a replica.
    pub ipus: u32,
    /// IPUs that work on a stage together, one behind the other.
    pub group: u32,
    pub replicas: u32,
    pub order: MicroBatches,
    pub rounding: Rounding,
}

/// Lowers a training or inference module. A training module's `micro_batch` runs for all micro-batches, then `update`; `forward` of an inference
/// runs for all micro-batches; `prefill` and `decode` of a generation are parts that the host runs by themselves.
///
/// # Errors
/// An op that no tile program is known for.
pub fn lower(
    module: &Module,
    machine: &Machine,
    execution: Execution,
    budgets: &Budgets,
    plans: &mut MatmulPlans,
) -> Result<Lowered, LowerError> {
    let Execution {
        ipus,
        group,
        replicas,
        order,
        rounding,
    } = execution;
    let mut lowering = Lowering::new(module, machine, ipus, budgets, plans);
    lowering.program.replicas = replicas;
    lowering.group = group;
    if rounding == Rounding::Stochastic {
        lowering.round_at_random();
    }
    let graph = |name: &'static str| module.graph(name).ok_or(LowerError::MissingGraph(name));
    let entry_steps = if module.graph("update").is_some() {
        let micro_batches = lowering.micro_batches(graph("micro_batch")?, order)?;
        let update = graph("update")?;
        let update = match ipus {
            1 => lowering.graph(update)?,
            _ => lowering.staged(update, Schedule::Levels)?,
        };
        std::iter::once(micro_batches)
            .chain(lowering.new_seed())
            .chain([Step::Call(update)])
            .collect()
    } else if let Some(decode) = module.graph("decode") {
        // Weights rest where the product of one position wants them, which waits for nothing but them.
        let decode = lowering.graph(decode)?;
        let prefill = lowering.graph(graph("prefill")?)?;
        lowering.program.parts = vec![prefill, decode];
        vec![Step::Call(prefill), Step::Call(decode)]
    } else {
        vec![lowering.micro_batches(graph("forward")?, order)?]
    };
    let products = lowering.products;
    let mut program = lowering.program;
    program.entry = ProcId(program.procedures.len() as u32);
    program.procedures.push(Procedure {
        name: "main".into(),
        steps: entry_steps,
    });
    Ok(Lowered { program, products })
}

/// A program without addresses, and how its products were planned.
pub struct Lowered {
    pub program: Program,
    pub products: Vec<PlannedProduct>,
}

/// What lives across the graphs of a module: the program under construction, state, plans.
struct Lowering<'m> {
    module: &'m Module,
    machine: &'m Machine,
    budgets: &'m Budgets,
    program: Program,
    grids: IndexMap<Grid, GridId>,
    states: FxHashMap<String, VarId>,
    plans: &'m mut MatmulPlans,
    /// Forward plans chosen together with those of their gradients.
    joint: FxHashMap<JointProblem, MatmulPlan>,
    products: Vec<PlannedProduct>,
    /// Numbers of the states that rest in streaming memory, by the variable that holds them for a while.
    remote: FxHashMap<VarId, u32>,
    /// What the weights rest for.
    resting: FxHashMap<VarId, Resting>,
    /// The procedure that brings a seed of stochastic rounding.
    seeding: Option<ProcId>,
    bases: Bases,
    /// IPUs that work on a stage together.
    group: u32,
}

impl<'m> Lowering<'m> {
    fn new(
        module: &'m Module,
        machine: &'m Machine,
        ipus: u32,
        budgets: &'m Budgets,
        plans: &'m mut MatmulPlans,
    ) -> Lowering<'m> {
        let program = Program {
            name: module
                .graphs
                .first()
                .map_or_else(String::new, |g| g.name.clone()),
            machine: machine.clone(),
            ipus,
            replicas: 1,
            grids: vec![],
            variables: vec![],
            variables_from: vec![0; ipus as usize],
            states: vec![],
            streams: vec![],
            procedures: vec![],
            entry: ProcId(0),
            parts: vec![],
            rounding: Rounding::Nearest,
            origins: vec![],
        };
        Lowering {
            module,
            machine,
            budgets,
            program,
            grids: IndexMap::new(),
            states: FxHashMap::default(),
            plans,
            joint: FxHashMap::default(),
            products: vec![],
            remote: FxHashMap::default(),
            resting: FxHashMap::default(),
            seeding: None,
            bases: Bases::default(),
            group: 1,
        }
    }

    fn graph(&mut self, graph: &Graph) -> Result<ProcId, LowerError> {
        self.place_weights(graph);
        let mut lowering = GraphLowering {
            lw: self,
            graph,
            steps: vec![],
            bindings: FxHashMap::default(),
            pending: FxHashMap::default(),
            imports: FxHashMap::default(),
            staged: None,
            brought: FxHashSet::default(),
        };
        for op in schedule(graph) {
            lowering.op(op)?;
        }
        let steps = lowering.steps;
        let id = ProcId(self.program.procedures.len() as u32);
        self.program.procedures.push(Procedure {
            name: graph.name.clone(),
            steps,
        });
        Ok(id)
    }

    /// A graph for every micro-batch.
    fn micro_batches(&mut self, graph: &Graph, order: MicroBatches) -> Result<Step, LowerError> {
        match order {
            MicroBatches::InTurn(count) => {
                let body = self.graph(graph)?;
                let seed = self.new_seed();
                let steps = &mut self.program.procedures[body.index()].steps;
                steps.splice(0..0, seed);
                Ok(Step::Repeat { count, body })
            }
            MicroBatches::Pipelined(micro_batches) => {
                let schedule = Schedule::Pipeline { micro_batches };
                Ok(Step::Call(self.staged(graph, schedule)?))
            }
        }
    }

    fn tiles(&self) -> usize {
        self.machine.tiles_per_ipu as usize
    }

    fn intern(&mut self, grid: Grid) -> GridId {
        let next = GridId(self.grids.len() as u32);
        let key = Grid {
            name: String::new(),
            ..grid
        };
        let id = *self.grids.entry(key.clone()).or_insert(next);
        if id == next {
            self.program.grids.push(Grid {
                name: format!("g{}", next.0),
                ..key
            });
        }
        id
    }

    /// A dense grid with these axes, from tile `base` on.
    fn grid(&mut self, ipu: IpuId, base: u32, axes: &[(&str, usize)]) -> GridId {
        let tiles = self.machine.tiles_per_ipu;
        self.intern(Grid::dense("", ipu, base % tiles, tiles, axes))
    }

    /// The default layout: evenly over as many tiles as are worth it; tensors that need few tiles begin as `Bases` says.
    fn spread(&mut self, ipu: IpuId, shape: &Shape) -> Layout {
        let parts = spread_parts(shape, self.tiles());
        self.spread_in(ipu, &parts)
    }

    /// One part a tile, where the last tensor that needs few tiles ended.
    fn spread_in(&mut self, ipu: IpuId, parts: &[usize]) -> Layout {
        let used: usize = parts.iter().product();
        let base = if used * 2 <= self.tiles() {
            self.bases
                .take(ipu, used as u32, self.machine.tiles_per_ipu)
        } else {
            0
        };
        self.layout_by_parts(ipu, base, parts)
    }

    /// One grid axis for each dimension that is cut.
    fn layout_by_parts(&mut self, ipu: IpuId, base: u32, parts: &[usize]) -> Layout {
        const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let cut: Vec<usize> = parts.iter().copied().filter(|&p| p > 1).collect();
        let axes: Vec<(&str, usize)> = cut.iter().zip(NAMES).map(|(&p, n)| (n, p)).collect();
        let grid = self.grid(ipu, base, &axes);
        let mut axis = 0u8;
        Layout::new(
            grid,
            parts.iter().map(|&p| {
                if p == 1 {
                    return Cut::none();
                }
                axis += 1;
                Cut::by(&[axis - 1], 1)
            }),
        )
    }

    fn variable(
        &mut self,
        name: String,
        ty: TensorType,
        layout: Layout,
        category: Category,
    ) -> VarId {
        debug_assert_eq!(
            ty.shape.rank(),
            layout.cuts.len(),
            "{name}: one cut a dimension"
        );
        let id = VarId(self.program.variables.len() as u32);
        let variable = Variable {
            name,
            ty,
            grid: layout.grid,
            cuts: layout.cuts,
            address: 0,
            category,
            live: Some((0, 0)),
        };
        self.program.variables.push(variable);
        id
    }

    fn layout_of(&self, variable: VarId) -> Layout {
        Layout::of(self.program.variable(variable))
    }

    fn shape_of(&self, variable: VarId) -> Shape {
        self.program.variable(variable).ty.shape.clone()
    }

    fn grid_ref(&self, grid: GridId) -> &Grid {
        self.program.grid(grid)
    }
}

/// What lives while one graph is lowered.
struct GraphLowering<'a, 'm> {
    lw: &'a mut Lowering<'m>,
    graph: &'a Graph,
    steps: Vec<Step>,
    bindings: FxHashMap<Value, Binding>,
    /// Uses still to come of the values bound to a variable.
    pending: FxHashMap<VarId, usize>,
    /// Values brought over from another IPU, so that they cross the link once.
    imports: FxHashMap<(VarId, Vec<View>, IpuId), VarId>,
    /// When stages run side by side.
    staged: Option<Staged>,
    /// State of streaming memory that is on its tiles.
    brought: FxHashSet<VarId>,
}

impl GraphLowering<'_, '_> {
    fn op(&mut self, id: OpId) -> Result<(), LowerError> {
        let node = self.graph.node(id);
        let origin = OriginId(self.lw.program.origins.len() as u32);
        let ipu = node.place.ipu.unwrap_or(IpuId(0));
        self.lw.bases.serve(&node.name);
        let mut lowering = OpLowering {
            g: self,
            id,
            ipu,
            origin,
            sets: 0,
            local: FxHashMap::default(),
        };
        lowering.localise();
        lowering.bring_remote();
        // Unless an earlier op did its work with its own.
        if !lowering.is_bound() {
            lowering.dispatch()?;
        }
        let made_steps = lowering.sets > 0;
        for result in 0..node.results().len() as u32 {
            let held = self.bindings.get(&Value { op: id, result });
            if let Some(&Binding::Held { variable, .. }) = held {
                self.settle(variable);
            }
        }
        if made_steps {
            let flops = flops::flops(self.graph, id);
            self.lw.program.origins.push(Origin {
                name: node.name.clone(),
                kind: node.op.name().to_string(),
                ipu,
                phase: if self.graph.name == "update" {
                    Phase::Update
                } else {
                    node.place.phase
                },
                flops,
            });
        }
        for &v in node.operands() {
            if let Some(Binding::Held { variable, .. }) = self.bindings.get(&v)
                && let Some(n) = self.pending.get_mut(variable)
            {
                *n -= 1;
            }
        }
        Ok(())
    }

    /// Binds a result; its uses keep the variable alive.
    fn bind(&mut self, value: Value, binding: Binding) {
        if let Binding::Held { variable, .. } = &binding {
            let variable = *variable;
            let uses = self.pending.entry(variable).or_default();
            *uses = uses.saturating_add(self.graph.uses(value).len());
        }
        self.bindings.insert(value, binding);
    }
}

/// What lives while one op is lowered.
struct OpLowering<'a, 'g, 'm> {
    g: &'a mut GraphLowering<'g, 'm>,
    id: OpId,
    ipu: IpuId,
    origin: OriginId,
    /// Steps emitted so far.
    sets: usize,
    /// Operands already brought into a layout by this op.
    local: FxHashMap<(VarId, Vec<View>, Layout), VarId>,
}

impl<'g, 'm> OpLowering<'_, 'g, 'm> {
    /// Another op, lowered as a part of this one.
    fn beside_this(&mut self, id: OpId) -> OpLowering<'_, 'g, 'm> {
        OpLowering {
            g: &mut *self.g,
            id,
            ipu: self.ipu,
            origin: self.origin,
            sets: self.sets,
            local: FxHashMap::default(),
        }
    }
}

impl OpLowering<'_, '_, '_> {
    fn dispatch(&mut self) -> Result<(), LowerError> {
        let graph = self.g.graph;
        match graph.op(self.id) {
            Op::Constant { value, .. } => {
                self.g.bind(graph.value(self.id), Binding::Splat(value.0));
                Ok(())
            }
            Op::Parameter {
                state, kind, ty, ..
            } => self.parameter(state, *kind, ty),
            Op::Assign { state } => self.assign(state),
            Op::Input { stream, ty } => self.input(stream, ty),
            Op::Output { stream } => self.output(stream),
            Op::Matmul {
                transpose_a,
                transpose_b,
                ..
            } => self.matmul(*transpose_a, *transpose_b),
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Map(_)
            | Op::Broadcast { .. }
            | Op::Dropout { .. }
            | Op::Cast { .. } => self.elementwise(),
            Op::LayerNorm { .. } => self.layer_norm(),
            Op::LayerNormGrad => self.layer_norm_grad(),
            Op::LayerNormParamGrad => self.layer_norm_param_grad(),
            Op::MaskBeyond => self.mask_beyond(),
            Op::CausalMask | Op::Softmax { .. } | Op::SoftmaxGrad { .. } => self.softmax(),
            Op::CrossEntropy { padding } => self.cross_entropy(*padding),
            Op::CrossEntropyGrad { first, padding } => {
                self.cross_entropy_grad(*first as u32, *padding as u32)
            }
            Op::Gather { first } => self.gather(first.unwrap_or(0) as u32),
            Op::ScatterAdd { .. } => self.scatter_add(),
            Op::WriteRows => self.write_rows(),
            Op::Reduce { kind, leading, .. } => self.reduce(*kind, *leading),
            Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => self.view(),
            Op::Concat { axis } => self.concat(*axis),
            Op::AllReduce => self.all_reduce(),
            Op::ReduceScatter => self.scatter_or_gather(CollectiveKind::ReduceScatter),
            Op::Shard => self.scatter_or_gather(CollectiveKind::Shard),
            Op::AllGather { .. } => self.scatter_or_gather(CollectiveKind::AllGather),
        }
    }

    /// Bytes that this op may use on a tile for operands and partials.
    fn budget(&self) -> Bytes {
        self.g.lw.budgets.of(self.name())
    }

    /// Whether the results are there.
    fn is_bound(&self) -> bool {
        let results = self.g.graph.node(self.id).results().len();
        results > 0 && self.g.bindings.contains_key(&self.result(0))
    }

    fn name(&self) -> &str {
        &self.g.graph.node(self.id).name
    }

    fn operand(&self, i: usize) -> Value {
        self.g.graph.node(self.id).operands()[i]
    }

    fn ty(&self, i: usize) -> TensorType {
        self.g.graph.ty(self.operand(i)).clone()
    }

    fn result(&self, i: u32) -> Value {
        Value {
            op: self.id,
            result: i,
        }
    }

    fn result_ty(&self, i: u32) -> TensorType {
        self.g.graph.ty(self.result(i)).clone()
    }

    fn bind_whole(&mut self, result: u32, variable: VarId) {
        self.bind_viewed(result, variable, vec![]);
    }

    /// Binds a result to a variable that holds the same row-major elements, whatever its shape.
    fn bind_reshaped(&mut self, result: u32, variable: VarId) {
        let shape = self.result_ty(result).shape;
        let views = if self.g.lw.shape_of(variable) == shape {
            vec![]
        } else {
            vec![View::Reshape(shape)]
        };
        self.bind_viewed(result, variable, views);
    }

    fn bind_viewed(&mut self, result: u32, variable: VarId, views: Vec<View>) {
        self.g
            .bind(self.result(result), Binding::Held { variable, views });
    }

    /// A variable for a result or a temporary of this op.
    fn make(&mut self, what: &str, ty: TensorType, layout: Layout, category: Category) -> VarId {
        let name = if what.is_empty() {
            self.name().to_string()
        } else {
            format!("{}.{what}", self.name())
        };
        self.g.lw.variable(name, ty, layout, category)
    }

    /// Emits a sync and one exchange with these moves, if any.
    fn exchange(&mut self, what: &str, moves: Vec<Move>) {
        if moves.is_empty() {
            return;
        }
        let crosses = moves.iter().any(|m| {
            self.g.lw.program.grid_of(m.source).ipu != self.g.lw.program.grid_of(m.destination).ipu
        });
        let sync = if crosses {
            Sync::Replica
        } else {
            Sync::Ipu(self.ipu)
        };
        self.g.steps.push(Step::Sync(sync));
        let name = format!("{}.{what}", self.name());
        self.g.steps.push(Step::Exchange(Exchange {
            name,
            origin: self.origin,
            moves,
        }));
        self.sets += 1;
    }

    fn compute(
        &mut self,
        what: &str,
        codelet: Codelet,
        grid: GridId,
        inputs: &[Operand],
        outputs: &[Operand],
    ) {
        let group = VertexGroup {
            codelet,
            grid,
            inputs: SmallVec::from_slice(inputs),
            outputs: SmallVec::from_slice(outputs),
        };
        self.compute_groups(what, smallvec::smallvec![group]);
    }

    /// Vertices that run side by side, those of a tile one after the other.
    fn compute_groups(&mut self, what: &str, groups: SmallVec<[VertexGroup; 1]>) {
        let name = format!("{}.{what}", self.name());
        let set = ComputeSet {
            name,
            origin: self.origin,
            groups,
        };
        self.g.steps.push(Step::Compute(set));
        self.sets += 1;
    }

    /// True when nobody but this op will read the variable any more and it is no state: an output may take its place.
    fn dies_here(&self, variable: VarId) -> bool {
        if !self.g.is_of_this_segment(variable) {
            return false;
        }
        let used_here = self.uses_here(variable);
        self.g.pending.get(&variable).copied().unwrap_or(0) == used_here
            && self.g.lw.program.variable(variable).live.is_some()
    }

    fn uses_here(&self, variable: VarId) -> usize {
        let node = self.g.graph.node(self.id);
        node.operands()
            .iter()
            .filter(|v| matches!(self.g.bindings.get(v), Some(Binding::Held { variable: b, .. }) if *b == variable))
            .count()
    }

    /// True when the variable is state, this op is its last reader, and result `result` (perhaps after more ops of which each feeds only the
    /// next) is what the state becomes: then the result may take the state's place at once.
    fn becomes_state(&self, variable: VarId, result: u32) -> bool {
        let Some(state) = self
            .g
            .lw
            .program
            .states
            .iter()
            .find(|s| s.variable == variable)
        else {
            return false;
        };
        if self.g.pending.get(&variable).copied().unwrap_or(0) != self.uses_here(variable) {
            return false;
        }
        let mut value = self.result(result);
        loop {
            let [only] = self.g.graph.uses(value)[..] else {
                return false;
            };
            if let Op::Assign { state: assigned } = self.g.graph.op(only.op) {
                return *assigned == state.name;
            }
            if self.g.graph.node(only.op).results().is_empty() {
                return false;
            }
            value = self.g.graph.value(only.op);
        }
    }

    fn unsupported<T>(&self, what: impl Into<String>) -> Result<T, LowerError> {
        let node = self.g.graph.node(self.id);
        Err(LowerError::Unsupported {
            op: node.op.name(),
            name: node.name.clone(),
            what: what.into(),
        })
    }
}

/// The move that fills all of `destination`.
fn whole_move(program: &Program, source: VarId, views: Vec<View>, destination: VarId) -> Move {
    let rank = program.variable(destination).ty.shape.rank();
    Move {
        source,
        views,
        destination,
        at: SmallVec::from_elem(0, rank),
    }
}
