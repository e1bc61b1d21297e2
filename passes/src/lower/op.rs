//! Lowering one op: which function does it, what it reads and makes, and the steps it emits.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use superstep_ir::graph::Value;
use superstep_ir::ids::{GridId, OpId, VarId};
use superstep_ir::op::Op;
use superstep_ir::program::{
    Category, Codelet, CollectiveKind, ComputeSet, Exchange, Move, Operand, Step, Sync,
    VertexGroup, View,
};
use superstep_ir::types::TensorType;
use superstep_ir::units::Bytes;

use super::{Binding, LowerError, OpLowering};
use crate::plan::Layout;

impl<'g, 'm> OpLowering<'_, 'g, 'm> {
    /// Another op, lowered as a part of this one.
    pub(super) fn beside_this(&mut self, id: OpId) -> OpLowering<'_, 'g, 'm> {
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
    pub(super) fn dispatch(&mut self) -> Result<(), LowerError> {
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
    pub(super) fn budget(&self) -> Bytes {
        self.g.lw.budgets.of(self.name())
    }

    /// Whether the results are there.
    pub(super) fn is_bound(&self) -> bool {
        let results = self.g.graph.node(self.id).results().len();
        results > 0 && self.g.bindings.contains_key(&self.result(0))
    }

    pub(super) fn name(&self) -> &str {
        &self.g.graph.node(self.id).name
    }

    pub(super) fn operand(&self, i: usize) -> Value {
        self.g.graph.node(self.id).operands()[i]
    }

    pub(super) fn ty(&self, i: usize) -> TensorType {
        self.g.graph.ty(self.operand(i)).clone()
    }

    pub(super) fn result(&self, i: u32) -> Value {
        Value {
            op: self.id,
            result: i,
        }
    }

    pub(super) fn result_ty(&self, i: u32) -> TensorType {
        self.g.graph.ty(self.result(i)).clone()
    }

    pub(super) fn bind_whole(&mut self, result: u32, variable: VarId) {
        self.bind_viewed(result, variable, vec![]);
    }

    /// Binds a result to a variable that holds the same row-major elements, whatever its shape.
    pub(super) fn bind_reshaped(&mut self, result: u32, variable: VarId) {
        let shape = self.result_ty(result).shape;
        let views = if self.g.lw.shape_of(variable) == shape {
            vec![]
        } else {
            vec![View::Reshape(shape)]
        };
        self.bind_viewed(result, variable, views);
    }

    pub(super) fn bind_viewed(&mut self, result: u32, variable: VarId, views: Vec<View>) {
        self.g
            .bind(self.result(result), Binding::Held { variable, views });
    }

    /// A variable for a result or a temporary of this op.
    pub(super) fn make(
        &mut self,
        what: &str,
        ty: TensorType,
        layout: Layout,
        category: Category,
    ) -> VarId {
        let name = if what.is_empty() {
            self.name().to_string()
        } else {
            format!("{}.{what}", self.name())
        };
        self.g.lw.variable(name, ty, layout, category)
    }

    /// Emits a sync and one exchange with these moves, if any.
    pub(super) fn exchange(&mut self, what: &str, moves: Vec<Move>) {
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

    pub(super) fn compute(
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
    pub(super) fn compute_groups(&mut self, what: &str, groups: SmallVec<[VertexGroup; 1]>) {
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
    pub(super) fn dies_here(&self, variable: VarId) -> bool {
        if !self.g.is_of_this_segment(variable) {
            return false;
        }
        let used_here = self.uses_here(variable);
        self.g.pending.get(&variable).copied().unwrap_or(0) == used_here
            && self.g.lw.program.variable(variable).live.is_some()
    }

    pub(super) fn uses_here(&self, variable: VarId) -> usize {
        let node = self.g.graph.node(self.id);
        node.operands()
            .iter()
            .filter(|v| matches!(self.g.bindings.get(v), Some(Binding::Held { variable: b, .. }) if *b == variable))
            .count()
    }

    /// True when the variable is state, this op is its last reader, and result `result` (perhaps after more ops of which each feeds only the
    /// next) is what the state becomes: then the result may take the state's place at once.
    pub(super) fn becomes_state(&self, variable: VarId, result: u32) -> bool {
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

    pub(super) fn unsupported<T>(&self, what: impl Into<String>) -> Result<T, LowerError> {
        let node = self.g.graph.node(self.id);
        Err(LowerError::Unsupported {
            op: node.op.name(),
            name: node.name.clone(),
            what: what.into(),
        })
    }
}
