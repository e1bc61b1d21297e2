//! The arithmetic of an op, for reports.

use superstep_ir::graph::Graph;
use superstep_ir::ids::OpId;
use superstep_ir::op::Op;

/// Floating-point operations of one execution of an op.
pub(super) fn flops(graph: &Graph, id: OpId) -> u64 {
    let node = graph.node(id);
    let elements = |i: usize| node.results().get(i).map_or(0, |t| t.shape.elements()) as u64;
    match &node.op {
        Op::Matmul { transpose_a, .. } => {
            let a = &graph.ty(node.operands()[0]).shape;
            let depth = a[a.rank() - if *transpose_a { 2 } else { 1 }] as u64;
            2 * elements(0) * depth
        }
        Op::Map(expr) => {
            let work = expr.nodes.iter().filter(|n| {
                matches!(
                    n,
                    superstep_ir::op::MapNode::Unary(..) | superstep_ir::op::MapNode::Binary(..)
                )
            });
            elements(0) * work.count() as u64
        }
        Op::LayerNorm { .. }
        | Op::LayerNormGrad
        | Op::Softmax { .. }
        | Op::SoftmaxGrad { .. }
        | Op::CrossEntropyGrad { .. } => 5 * elements(0),
        Op::Reduce { .. }
        | Op::LayerNormParamGrad
        | Op::CrossEntropy { .. }
        | Op::ScatterAdd { .. } => node
            .operands()
            .last()
            .map_or(0, |&v| graph.ty(v).shape.elements() as u64),
        Op::Unary(_) | Op::Binary(_) | Op::Dropout { .. } | Op::Cast { .. } => elements(0),
        _ => 0,
    }
}
