//! State and streams: where state rests, how it is read and replaced, and how the host is reached.

use superstep_ir::graph::{Graph, Value};
use superstep_ir::ids::{IpuId, VarId};
use superstep_ir::op::{Op, StateKind};
use superstep_ir::program::{Category, Direction, Operand, RemoteDirection, State, Step, Stream};
use superstep_ir::types::{Real, TensorType};

use super::{Binding, LowerError, Lowering, OpLowering};
use crate::plan::Layout;

impl Lowering<'_> {
    /// Gives every matrix that a product reads, and every cache of them, the resting layout that its forward product plans for it, so that it
    /// is there when needed.
    pub(super) fn place_weights(&mut self, graph: &Graph) {
        for op in graph.topological() {
            let node = graph.node(op);
            let Op::Matmul { transpose_b, .. } = node.op else {
                continue;
            };
            let mut weight = node.operands()[1].op;
            // A cache is read with the rows of this position in it.
            if let Op::WriteRows = graph.op(weight) {
                weight = graph.node(weight).operands()[0].op;
            }
            let Op::Parameter {
                state,
                kind: kind @ (StateKind::Weight | StateKind::Cache),
                ty,
                ..
            } = graph.op(weight)
            else {
                continue;
            };
            if self.states.contains_key(state) {
                continue;
            }
            let ipu = graph.node(weight).place.ipu.unwrap_or(IpuId(0));
            self.bases.serve(state);
            let a = graph.ty(node.operands()[0]).clone();
            let (layout, resting) = match kind {
                StateKind::Cache => self.cache_layout(ipu, &a, &node.op, ty, &node.name),
                _ => self.weight_layout(ipu, &a, &node.op, ty, transpose_b, &node.name),
            };
            let variable = self.new_state(state, *kind, ty, layout);
            self.resting.extend(resting.map(|r| (variable, r)));
        }
    }

    /// Optimiser state with fewer elements than its weight is a replica's part of it.
    fn is_sharded(&self, state: &str, kind: StateKind, ty: &TensorType) -> bool {
        let graphs = self.module.graphs.iter().flat_map(Graph::parameters);
        let mut weights = graphs.filter(|(_, _, kind, _)| *kind == StateKind::Weight);
        kind == StateKind::OptimiserState
            && self.program.replicas > 1
            && weights.any(|(_, weight, _, of)| {
                let owned = state.strip_suffix(weight);
                owned.is_some_and(|rest| rest.ends_with('.')) && of.shape != ty.shape
            })
    }

    /// Whether a graph of the module says that the state rests in streaming memory.
    fn is_remote(&self, name: &str) -> bool {
        let ops = self
            .module
            .graphs
            .iter()
            .flat_map(|g| g.ops().map(|op| g.op(op)));
        let mut remote = ops
            .filter(|op| matches!(op, Op::Parameter { state, remote: true, .. } if state == name));
        remote.next().is_some()
    }

    fn new_state(
        &mut self,
        state: &str,
        kind: StateKind,
        ty: &TensorType,
        layout: Layout,
    ) -> VarId {
        let category = match kind {
            StateKind::Weight => Category::Weight,
            StateKind::Accumulator => Category::Accumulator,
            StateKind::OptimiserState | StateKind::Counter => Category::OptimiserState,
            StateKind::Cache => Category::Cache,
        };
        let variable = self.variable(state.to_string(), ty.clone(), layout, category);
        let remote = self.is_remote(state);
        if remote {
            let number = self.program.states.len() as u32;
            self.remote.insert(variable, number);
        } else {
            self.program.variables[variable.index()].live = None;
        }
        self.program.states.push(State {
            name: state.to_string(),
            kind,
            variable,
            sharded: self.is_sharded(state, kind, ty),
            remote,
        });
        self.states.insert(state.to_string(), variable);
        variable
    }

    /// The variable of a state; made on first sight. What belongs to a weight (`accum.W`, moments) lies exactly as the weight does.
    pub(super) fn state(
        &mut self,
        state: &str,
        kind: StateKind,
        ty: &TensorType,
        ipu: IpuId,
    ) -> VarId {
        if let Some(&known) = self.states.get(state) {
            return known;
        }
        let owner = state
            .split_once('.')
            .map(|(_, owner)| owner)
            .filter(|_| kind != StateKind::Weight);
        let layout = match owner.and_then(|o| self.weight_variable(o)) {
            Some(weight) if self.program.variable(weight).ty.shape == ty.shape => {
                self.layout_of(weight)
            }
            _ => {
                let op = self.bases.serve(state);
                let layout = self.spread(ipu, &ty.shape);
                self.bases.resume(op);
                layout
            }
        };
        self.new_state(state, kind, ty, layout)
    }

    /// The variable of the weight `name`, made if the module has such a weight.
    fn weight_variable(&mut self, name: &str) -> Option<VarId> {
        if let Some(&known) = self.states.get(name) {
            return Some(known);
        }
        let module = self.module;
        let (graph, op, ty) = module.graphs.iter().find_map(|g| {
            g.parameters()
                .find(|(_, s, k, _)| *s == name && *k == StateKind::Weight)
                .map(|(op, _, _, ty)| (g, op, ty))
        })?;
        let ipu = graph.node(op).place.ipu.unwrap_or(IpuId(0));
        Some(self.state(name, StateKind::Weight, ty, ipu))
    }

    pub(super) fn stream(&mut self, name: &str, direction: Direction, variable: VarId) -> u32 {
        self.program.streams.push(Stream {
            name: name.to_string(),
            direction,
            variable,
        });
        self.program.streams.len() as u32 - 1
    }
}

impl OpLowering<'_, '_, '_> {
    pub(super) fn parameter(
        &mut self,
        state: &str,
        kind: StateKind,
        ty: &TensorType,
    ) -> Result<(), LowerError> {
        let variable = self.g.lw.state(state, kind, ty, self.ipu);
        self.bind_whole(0, variable);
        Ok(())
    }

    pub(super) fn assign(&mut self, state: &str) -> Result<(), LowerError> {
        let value: Value = self.operand(0);
        let ty = self.ty(0);
        let kind = self.state_kind(state);
        let target = self.g.lw.state(state, kind, &ty, self.ipu);
        match self.g.bindings[&value].clone() {
            Binding::Held { variable, views } if variable == target && views.is_empty() => {
                // Nothing was computed if nothing has brought it.
                let is_remote = self.remote_state(target).is_some();
                if is_remote && !self.g.brought.contains(&target) {
                    return Ok(());
                }
            }
            Binding::Held { variable, views } => {
                let mv = super::whole_move(&self.g.lw.program, variable, views, target);
                self.exchange("assign", vec![mv]);
            }
            Binding::Splat(v) => {
                let grid = self.g.lw.program.variable(target).grid;
                let codelet = superstep_ir::program::Codelet::Fill { value: Real(v) };
                self.compute("assign", codelet, grid, &[], &[Operand::whole(target)]);
            }
        }
        if let Some(state) = self.remote_state(target) {
            self.remote(state, RemoteDirection::Store);
        }
        Ok(())
    }

    /// Brings operands that rest in streaming memory, when they are needed for the first time. Views need nothing.
    pub(super) fn bring_remote(&mut self) {
        let node = self.g.graph.node(self.id);
        if node.op.is_view() || matches!(node.op, Op::Assign { .. }) {
            return;
        }
        for value in node.operands() {
            let Some(&Binding::Held { variable, .. }) = self.g.bindings.get(value) else {
                continue;
            };
            if let Some(state) = self.remote_state(variable)
                && self.g.brought.insert(variable)
            {
                self.remote(state, RemoteDirection::Load);
            }
        }
    }

    /// Number of the state that a variable holds for a while.
    fn remote_state(&self, variable: VarId) -> Option<u32> {
        self.g.lw.remote.get(&variable).copied()
    }

    fn remote(&mut self, state: u32, direction: RemoteDirection) {
        self.g.steps.push(Step::Remote {
            state,
            direction,
            origin: self.origin,
        });
        self.sets += 1;
    }

    fn state_kind(&self, state: &str) -> StateKind {
        let graphs = self.g.lw.module.graphs.iter();
        let mut kinds = graphs
            .flat_map(|g| g.parameters())
            .filter(|(_, s, _, _)| *s == state);
        kinds
            .next()
            .map_or(StateKind::OptimiserState, |(_, _, k, _)| k)
    }

    pub(super) fn input(&mut self, stream: &str, ty: &TensorType) -> Result<(), LowerError> {
        let layout = self.g.lw.spread(self.ipu, &ty.shape);
        let variable = self.make("", ty.clone(), layout, Category::Stream);
        let stream = self.g.lw.stream(stream, Direction::HostToDevice, variable);
        self.g.steps.push(Step::Host {
            stream,
            origin: self.origin,
        });
        self.sets += 1;
        self.bind_whole(0, variable);
        Ok(())
    }

    pub(super) fn output(&mut self, stream: &str) -> Result<(), LowerError> {
        let (variable, views) = self.held(0);
        let variable = if views.is_empty() {
            variable
        } else {
            self.materialise(variable, views)
        };
        let stream = self.g.lw.stream(stream, Direction::DeviceToHost, variable);
        self.g.steps.push(Step::Host {
            stream,
            origin: self.origin,
        });
        self.sets += 1;
        Ok(())
    }
}
