//! Ops between replicas: one operand of each replica, one result for each.

use super::{InterpretError, Tensor};
use crate::graph::Node;
use crate::op::Op;

pub(super) const fn is_collective(op: &Op) -> bool {
    matches!(
        op,
        Op::AllReduce | Op::ReduceScatter | Op::Shard | Op::AllGather { .. }
    )
}

/// Results by replica.
pub(super) fn evaluate(
    node: &Node,
    operands: &[&Tensor],
) -> Result<Vec<Vec<Tensor>>, InterpretError> {
    let ty = node.results()[0].clone();
    let replicas = operands.len();
    let expected = match &node.op {
        Op::AllReduce => replicas,
        Op::AllGather { replicas } => *replicas,
        _ => operands[0].ty.shape.dims().first().copied().unwrap_or(0),
    };
    if expected != replicas {
        return Err(InterpretError::Replicas {
            op: node.op.name(),
            name: node.name.clone(),
            expected,
            found: replicas,
        });
    }
    let sum = |i: usize| operands.iter().map(|x| x.data[i]).sum::<f64>();
    let elements = ty.shape.elements();
    let result = |replica: usize| -> Vec<f64> {
        let own = replica * elements..(replica + 1) * elements;
        match &node.op {
            Op::AllReduce => (0..elements).map(sum).collect(),
            Op::ReduceScatter => own.map(sum).collect(),
            Op::Shard => operands[replica].data[own].to_vec(),
            _ => operands.iter().flat_map(|x| x.data.clone()).collect(),
        }
    };
    Ok((0..replicas)
        .map(|replica| {
            let data = result(replica);
            let ty = ty.clone();
            vec![Tensor { ty, data }.stored()]
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::graph::Graph;
    use crate::graph::build::Builder;
    use crate::interpret::{InterpretError, Tensor, run, run_replicas};
    use crate::op::Op;
    use crate::types::TensorType;

    /// Sum of `x` by scattering and gathering, and by one all-reduce.
    fn graph() -> Graph {
        let mut graph = Graph::new("sums");
        let mut b = Builder::new(&mut graph);
        let x = b.input("x", TensorType::f32([3, 2])).unwrap();
        let part = b.op("part", Op::ReduceScatter, &[x]).unwrap();
        let all = b.op("all", Op::AllGather { replicas: 3 }, &[part]).unwrap();
        b.output("gathered", all).unwrap();
        let sum = b.op("sum", Op::AllReduce, &[x]).unwrap();
        b.output("sum", sum).unwrap();
        let own = b.op("own", Op::Shard, &[x]).unwrap();
        b.output("own", own).unwrap();
        graph
    }

    fn inputs(replica: usize) -> BTreeMap<String, Tensor> {
        let data = (0..6).map(|i| (10 * replica + i) as f64).collect();
        BTreeMap::from([("x".into(), Tensor::f32(&[3, 2], data).unwrap())])
    }

    #[test]
    fn scattering_and_gathering_is_reducing() {
        let inputs: Vec<_> = (0..3).map(inputs).collect();
        let outputs = run_replicas(&graph(), &mut vec![BTreeMap::new(); 3], &inputs).unwrap();
        for (replica, outputs) in outputs.iter().enumerate() {
            assert_eq!(outputs["sum"].data, [30., 33., 36., 39., 42., 45.]);
            assert_eq!(outputs["gathered"].data, outputs["sum"].data);
            let own: Vec<f64> = (0..2).map(|i| (12 * replica + i) as f64).collect();
            assert_eq!(outputs["own"].data, own);
        }
    }

    #[test]
    fn the_number_of_replicas_is_that_of_the_graph() {
        let error = run(&graph(), &mut BTreeMap::new(), &inputs(0)).unwrap_err();
        assert!(matches!(
            error,
            InterpretError::Replicas {
                expected: 3,
                found: 1,
                ..
            }
        ));
    }
}
