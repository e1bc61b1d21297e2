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
mod layouts;
mod loss;
mod matmul;
mod op;
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
use superstep_ir::program::{Grid, Move, Origin, Procedure, Program, Rounding, Step, View};
use thiserror::Error;

use self::bases::Bases;
use crate::budget::Budgets;
use crate::plan::Layout;
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
