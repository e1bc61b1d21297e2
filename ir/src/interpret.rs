//! The reference interpreter: the meaning of every op, written for clarity, in f64.
//!
//! It is the judge of everything else: a pass is right when the graph computes the same before and after it, and a compiled
//! program is right when it agrees with this to the rounding of its own element types. Integers and booleans are exact `f64`
//! values. Every value of an f16 tensor is a half, rounded to nearest even when an op's result is stored; what is f32 on the machine is
//! not rounded here. One file a family of ops.

mod collective;
pub mod elementwise;
pub mod erf;
mod loss;
mod matmul;
mod random;
mod reduce;
mod rows;
mod tables;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::graph::{Graph, Node, Value};
use crate::half;
use crate::ids::OpId;
use crate::op::Op;
use crate::types::{DType, Shape, TensorType};

/// A tensor of the interpreter: elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub ty: TensorType,
    pub data: Vec<f64>,
}

impl Tensor {
    /// `data` as `f32[dims]`, in row-major order.
    ///
    /// # Errors
    /// The number of elements is not that of the shape.
    pub fn f32(dims: &[usize], data: Vec<f64>) -> Result<Tensor, InterpretError> {
        Tensor::new(TensorType::f32(dims), data)
    }

    /// `data` as a tensor of type `ty`, in row-major order.
    ///
    /// # Errors
    /// The number of elements is not that of the type.
    pub fn new(ty: TensorType, data: Vec<f64>) -> Result<Tensor, InterpretError> {
        if data.len() != ty.shape.elements() {
            return Err(InterpretError::WrongLength {
                name: "tensor".into(),
                ty,
                found: data.len(),
            });
        }
        Ok(Tensor { ty, data })
    }

    pub fn filled(ty: TensorType, value: f64) -> Tensor {
        Tensor {
            data: vec![value; ty.shape.elements()],
            ty,
        }
    }

    pub fn scalar(dtype: DType, value: f64) -> Tensor {
        Tensor::filled(TensorType::new(dtype, Shape::scalar()), value)
    }

    /// The tensor as it is stored: halves where its type says so.
    fn stored(mut self) -> Tensor {
        if self.ty.dtype == DType::F16 {
            self.data.iter_mut().for_each(|x| *x = half::nearest(*x));
        }
        self
    }

    /// Elements as rows of the last axis; a scalar is one row of one element.
    fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.data.chunks_exact(self.ty.shape.last().max(1))
    }
}

/// Why a graph could not be interpreted.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum InterpretError {
    #[error("state \"{state}\" is read but has no value")]
    MissingState { state: String },
    #[error("stream \"{stream}\" is read but nothing was fed")]
    MissingInput { stream: String },
    #[error("\"{name}\" is {found}, the graph expects {expected}")]
    WrongType {
        name: String,
        expected: TensorType,
        found: TensorType,
    },
    #[error("\"{name}\" is {ty} but has {found} elements")]
    WrongLength {
        name: String,
        ty: TensorType,
        found: usize,
    },
    #[error("{op} \"{name}\" is for {expected} replicas, there are {found}")]
    Replicas {
        op: &'static str,
        name: String,
        expected: usize,
        found: usize,
    },
    #[error("{op} \"{name}\": id {id} at position {position} is outside 0..{entries}")]
    IdOutOfRange {
        op: &'static str,
        name: String,
        id: f64,
        position: usize,
        entries: usize,
    },
}

/// Runs `graph` once: reads `states` and `inputs` by name, returns what it outputs by stream name.
///
/// Assignments to states take effect at the end, all at once; a state may be assigned that did not exist.
///
/// # Errors
/// A state or input is missing or of another type than the graph declares, or an id lies outside its table. `states` is
/// then unchanged.
pub fn run(
    graph: &Graph,
    states: &mut BTreeMap<String, Tensor>,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>, InterpretError> {
    let mut outputs = run_replicas(
        graph,
        std::slice::from_mut(states),
        std::slice::from_ref(inputs),
    )?;
    Ok(outputs.pop().unwrap_or_default())
}

/// Runs `graph` once on every replica, each with its own states and inputs.
///
/// # Errors
/// As [`run`]; or a collective is for another number of replicas.
///
/// # Panics
/// There are not as many inputs as states: a bug of the caller.
pub fn run_replicas(
    graph: &Graph,
    states: &mut [BTreeMap<String, Tensor>],
    inputs: &[BTreeMap<String, Tensor>],
) -> Result<Vec<BTreeMap<String, Tensor>>, InterpretError> {
    assert_eq!(
        states.len(),
        inputs.len(),
        "a replica has states and inputs"
    );
    let mut replicas: Vec<Replica> = states.iter().map(|_| Replica::default()).collect();
    for op in graph.topological() {
        let node = graph.node(op);
        let mut results = if collective::is_collective(&node.op) {
            let operands = replicas.iter().map(|r| &r.values[&node.operands()[0]]);
            collective::evaluate(node, &operands.collect::<Vec<_>>())?
        } else {
            let each = replicas.iter_mut().zip(&*states).zip(inputs);
            each.map(|((replica, states), inputs)| replica.evaluate(node, states, inputs))
                .collect::<Result<Vec<_>, _>>()?
        };
        for (replica, results) in replicas.iter_mut().zip(results.drain(..)) {
            replica.keep(graph, op, results);
        }
    }
    let done = replicas.into_iter().zip(states);
    Ok(done
        .map(|(replica, states)| {
            states.extend(replica.assigned);
            replica.outputs
        })
        .collect())
}

/// One replica on its way through a graph.
#[derive(Default)]
struct Replica {
    values: BTreeMap<Value, Tensor>,
    /// How many uses a value still has: the last one frees it, so that large graphs fit in memory.
    uses_left: BTreeMap<Value, usize>,
    outputs: BTreeMap<String, Tensor>,
    assigned: Vec<(String, Tensor)>,
}

impl Replica {
    fn evaluate(
        &mut self,
        node: &Node,
        states: &BTreeMap<String, Tensor>,
        inputs: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<Tensor>, InterpretError> {
        let operands: Vec<&Tensor> = node.operands().iter().map(|v| &self.values[v]).collect();
        Ok(match &node.op {
            Op::Parameter { state, ty, .. } => {
                let found = states
                    .get(state)
                    .ok_or_else(|| InterpretError::MissingState {
                        state: state.clone(),
                    })?;
                vec![declared(state, ty, found)?]
            }
            Op::Input { stream, ty } => {
                let found = inputs
                    .get(stream)
                    .ok_or_else(|| InterpretError::MissingInput {
                        stream: stream.clone(),
                    })?;
                vec![declared(stream, ty, found)?]
            }
            Op::Assign { state } => {
                self.assigned.push((state.clone(), operands[0].clone()));
                vec![]
            }
            Op::Output { stream } => {
                self.outputs.insert(stream.clone(), operands[0].clone());
                vec![]
            }
            _ => evaluate(node, &operands)?,
        })
    }

    /// Keeps the results of an op for those who use them.
    fn keep(&mut self, graph: &Graph, op: OpId, results: Vec<Tensor>) {
        for (result, tensor) in results.into_iter().enumerate() {
            let value = Value {
                op,
                result: result as u32,
            };
            let uses = graph.uses(value).len();
            if uses > 0 {
                self.uses_left.insert(value, uses);
                self.values.insert(value, tensor);
            }
        }
        for v in graph.node(op).operands() {
            if let Some(left) = self.uses_left.get_mut(v) {
                *left -= 1;
                if *left == 0 {
                    self.values.remove(v);
                }
            }
        }
    }
}

/// A copy of a tensor from outside, once it has proved to be what the graph declares.
fn declared(name: &str, expected: &TensorType, found: &Tensor) -> Result<Tensor, InterpretError> {
    if found.ty != *expected {
        return Err(InterpretError::WrongType {
            name: name.into(),
            expected: expected.clone(),
            found: found.ty.clone(),
        });
    }
    if found.data.len() != expected.shape.elements() {
        return Err(InterpretError::WrongLength {
            name: name.into(),
            ty: expected.clone(),
            found: found.data.len(),
        });
    }
    Ok(found.clone().stored())
}

/// The results of one op that neither reads nor writes anything outside the graph, rounded to their types.
///
/// # Errors
/// An id lies outside its table.
///
/// # Panics
/// The op is a source or sink other than a constant, or the operands do not fit it: a bug of the caller.
pub fn evaluate(node: &Node, operands: &[&Tensor]) -> Result<Vec<Tensor>, InterpretError> {
    let results = exact(node, operands)?;
    Ok(results.into_iter().map(Tensor::stored).collect())
}

/// The results before they are stored.
fn exact(node: &Node, operands: &[&Tensor]) -> Result<Vec<Tensor>, InterpretError> {
    let types = node.results();
    let one = |data: Vec<f64>| {
        vec![Tensor {
            ty: types[0].clone(),
            data,
        }]
    };
    Ok(match (&node.op, operands) {
        (Op::Constant { value, ty }, _) => vec![Tensor::filled(ty.clone(), value.0)],

        (
            Op::Matmul {
                transpose_a,
                transpose_b,
                ..
            },
            [a, b, acc @ ..],
        ) => one(matmul::matmul(
            a,
            *transpose_a,
            b,
            *transpose_b,
            acc.first().copied(),
        )),

        (Op::Unary(op), [x]) => one(x.data.iter().map(|&x| elementwise::unary(*op, x)).collect()),
        (Op::Binary(op), [a, b]) => one(elementwise::broadcast(*op, &types[0].shape, a, b)),
        (Op::Map(expr), _) => elementwise::map(expr, types, operands),
        (Op::Cast { to }, [x]) => one(x.data.iter().map(|&x| elementwise::cast(*to, x)).collect()),
        (Op::Dropout { p, key }, [x, seed]) => one(random::dropout(p.0, *key, x, seed)),

        (Op::LayerNorm { epsilon }, [x, scale, shift]) => {
            typed(types, rows::layer_norm(epsilon.0, x, scale, shift))
        }
        (Op::LayerNormGrad, [g, x, scale, mean, rstd]) => {
            one(rows::layer_norm_grad(g, x, scale, mean, rstd))
        }
        (Op::LayerNormParamGrad, [g, x, mean, rstd]) => {
            typed(types, rows::layer_norm_param_grad(g, x, mean, rstd))
        }
        (Op::CausalMask, [x]) => one(rows::causal_mask(x)),
        (Op::MaskBeyond, [x, last]) => one(rows::mask_beyond(x, last)),
        (Op::Softmax { scale, causal }, [x]) => one(rows::softmax(scale.0, *causal, x)),
        (Op::SoftmaxGrad { scale }, [p, g]) => one(rows::softmax_grad(scale.0, p, g)),
        (Op::CrossEntropy { padding }, [logits @ .., labels]) => typed(
            types,
            loss::cross_entropy(&node.name, logits, *padding, labels)?,
        ),
        (Op::CrossEntropyGrad { first, padding }, [logits, labels, logsumexp, g]) => {
            let part = loss::Columns {
                first: *first,
                padding: *padding,
            };
            one(loss::cross_entropy_grad(part, logits, labels, logsumexp, g))
        }

        (Op::Gather { first }, [table, ids]) => {
            one(tables::gather(&node.name, *first, table, ids)?)
        }
        (Op::ScatterAdd { first }, [base, ids, updates]) => {
            one(tables::scatter_add(&node.name, *first, base, ids, updates)?)
        }
        (Op::WriteRows, [base, first, rows]) => {
            one(tables::write_rows(&node.name, base, first, rows)?)
        }

        (Op::Reduce { kind, .. }, [x]) => one(reduce::reduce(*kind, types[0].shape.elements(), x)),

        (Op::Reshape { .. }, [x]) => one(x.data.clone()),
        (Op::Transpose { perm }, [x]) => one(views::transpose(perm, x)),
        (Op::Slice { axis, start, len }, [x]) => one(views::slice(*axis, *start, *len, x)),
        (Op::Concat { axis }, xs) => one(views::concat(*axis, xs)),
        (Op::Broadcast { shape }, [x]) => one(views::broadcast(shape, x)),

        (op, _) => unreachable!(
            "{} on {} operands is not evaluated here",
            op.name(),
            operands.len()
        ),
    })
}

fn typed(types: &[TensorType], data: impl IntoIterator<Item = Vec<f64>>) -> Vec<Tensor> {
    types
        .iter()
        .cloned()
        .zip(data)
        .map(|(ty, data)| Tensor { ty, data })
        .collect()
}
