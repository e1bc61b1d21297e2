//! The form of the two graphs, and the errors.

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Phase, Value};
use superstep_ir::op::{BinaryOp, UnaryOp};
use superstep_ir::types::{DType, TensorType};
use superstep_ir::verify::graph::verify_module;

use super::*;

fn options(forward: &Graph) -> TrainingOptions {
    TrainingOptions {
        optimiser: adamw(0.01),
        gradient_accumulation_steps: 4,
        max_grad_norm: Some(1.0),
        decayed: matrices(forward),
        numerics: Numerics::default(),
    }
}

fn assigned(graph: &Graph, name: &str) -> Value {
    let is_it = |op: &_| matches!(graph.op(*op), Op::Assign { state } if state == name);
    graph.node(graph.ops().find(is_it).unwrap()).operands()[0]
}

fn streams(graph: &Graph) -> Vec<String> {
    let stream = |op| match graph.op(op) {
        Op::Input { stream, .. } => Some(format!("in {stream}")),
        Op::Output { stream } => Some(format!("out {stream}")),
        _ => None,
    };
    graph.ops().filter_map(stream).collect()
}

#[test]
fn graphs_have_the_promised_streams_and_states() {
    let forward = gpt::graph();
    let module = training_module(&forward, &options(&forward)).unwrap();
    let (micro_batch, update) = (
        module.graph("micro_batch").unwrap(),
        module.graph("update").unwrap(),
    );
    assert_eq!(streams(micro_batch), streams(&forward));
    assert_eq!(streams(update), ["in learning_rate", "out grad_norm"]);
    for (_, weight, _, _) in forward.parameters() {
        assigned(micro_batch, &accumulator(weight));
        for prefix in ["", "accum.", "exp_avg.", "exp_avg_sq."] {
            assigned(update, &format!("{prefix}{weight}"));
        }
    }
    assert!(
        update
            .ops()
            .all(|op| update.node(op).place.phase == Phase::Update)
    );
    let phases = micro_batch.ops().map(|op| micro_batch.node(op).place.phase);
    assert!(phases.is_sorted(), "forward ops come first");
}

/// `accum + gradient` with the accumulator first, so that a later pass can make one accumulating product of it.
#[test]
fn gradients_run_onto_the_accumulator() {
    let forward = gpt::graph();
    let module = training_module(&forward, &options(&forward)).unwrap();
    let graph = &module.graphs[0];
    let add = assigned(graph, "accum.c_fc.weight").op;
    assert_eq!(*graph.op(add), Op::Binary(BinaryOp::Add));
    let [accum, product] = graph.node(add).operands() else {
        panic!("an addition has two operands");
    };
    assert!(
        matches!(graph.op(accum.op), Op::Parameter { state, .. } if state == "accum.c_fc.weight")
    );
    let transposed = Op::Matmul {
        transpose_a: true,
        transpose_b: false,
        out: None,
    };
    assert_eq!(*graph.op(product.op), transposed);
    // The tied embedding: the table rows go onto what the head has left.
    let scatter = assigned(graph, "accum.wte").op;
    assert_eq!(*graph.op(scatter), Op::ScatterAdd { first: None });
    let head = graph.node(scatter).operands()[0].op;
    assert_eq!(*graph.op(head), Op::Binary(BinaryOp::Add));
    assert_eq!(graph.uses(*accum).len(), 1);
}

#[test]
fn graphs_pass_the_verifier() {
    for forward in [perceptron::graph(), gpt::graph()] {
        let module = training_module(&forward, &options(&forward)).unwrap();
        verify_module(&module).unwrap();
    }
}

#[test]
fn weights_that_the_loss_does_not_see_are_not_trained() {
    let mut forward = perceptron::graph();
    let mut b = Builder::new(&mut forward);
    let ty = TensorType::f32([2, 2]);
    let idle = b.parameter("idle", StateKind::Weight, ty).unwrap();
    b.output("idle", idle).unwrap();
    let module = training_module(&forward, &options(&forward)).unwrap();
    for graph in &module.graphs {
        assert!(
            graph
                .parameters()
                .all(|(_, state, _, _)| state != "accum.idle")
        );
    }
    assert!(
        module.graphs[1]
            .parameters()
            .all(|(_, state, _, _)| state != "idle")
    );
}

/// A weight in half precision has its accumulator, moments and update in single precision.
#[test]
fn half_weights_are_updated_in_single_precision() {
    let mut forward = Graph::new("forward");
    let mut b = Builder::new(&mut forward);
    let half = TensorType::new(DType::F16, [3]);
    let w = b.parameter("w", StateKind::Weight, half.clone()).unwrap();
    let wide = b.op("wide", Op::Cast { to: DType::F32 }, &[w]).unwrap();
    let kind = superstep_ir::op::ReduceKind::SumSquares;
    let loss = b.reduce("loss", kind, 1, wide).unwrap();
    b.output("loss", loss).unwrap();
    let module = training_module(&forward, &options(&forward)).unwrap();
    let mut states = Tensors::from([("w".to_string(), Tensor::filled(half, 1.0))]);
    zero_states(&module, &mut states);
    for name in ["accum.w", "exp_avg.w", "exp_avg_sq.w"] {
        assert_eq!(states[name].ty.dtype, DType::F32);
    }
    let batches = vec![Tensors::new(); 4];
    train_step(&module, &mut states, &batches, 0.25);
    assert_eq!(states["w"].ty.dtype, DType::F16);
    close("w", &states["w"].data, &[0.75; 3], 1e-5);
}

#[test]
fn unusable_losses_are_errors() {
    let mut forward = Graph::new("forward");
    let mut b = Builder::new(&mut forward);
    let x = b.input("x", TensorType::f32([3])).unwrap();
    let build = |graph: &Graph| training_module(graph, &options(graph)).unwrap_err();
    assert_eq!(build(b.graph), TrainingError::NoLoss);
    b.output("loss", x).unwrap();
    assert_eq!(
        build(b.graph).to_string(),
        "the loss is f32[3], expected a scalar f32[]"
    );
    let mut forward = Graph::new("forward");
    let mut b = Builder::new(&mut forward);
    let x = b.input("x", TensorType::f32(&[][..])).unwrap();
    let loss = b.unary("loss", UnaryOp::Square, x).unwrap();
    b.output("loss", loss).unwrap();
    assert_eq!(build(b.graph), TrainingError::NothingToTrain);
}

#[test]
fn settings_out_of_range_are_errors() {
    let forward = perceptron::graph();
    let error = |change: &dyn Fn(&mut TrainingOptions)| {
        let mut options = options(&forward);
        change(&mut options);
        training_module(&forward, &options).unwrap_err().to_string()
    };
    assert_eq!(
        error(&|o| o.gradient_accumulation_steps = 0),
        "gradient_accumulation_steps is 0, expected 1 or more"
    );
    assert_eq!(
        error(&|o| o.max_grad_norm = Some(-1.0)),
        "max_grad_norm is -1, expected a number above 0"
    );
    assert!(error(&|o| o.max_grad_norm = Some(f64::NAN)).starts_with("max_grad_norm is NaN"));
    let with = |optimiser: Optimiser| error(&move |o| o.optimiser = optimiser);
    assert!(with(adamw(-0.1)).starts_with("weight_decay"));
    let sgd = Optimiser::Sgd {
        momentum: 1.0,
        weight_decay: 0.0,
    };
    assert!(with(sgd).starts_with("momentum"));
    let one = Moments {
        beta1: 1.0,
        ..moments()
    };
    let adam = Optimiser::Adam {
        moments: one,
        weight_decay: 0.0,
    };
    assert_eq!(
        with(adam),
        "beta1 is 1, expected a number from 0 to less than 1"
    );
    assert_eq!(
        error(&|o| o.decayed = ["wte".to_string()].into()),
        "\"wte\" is to decay, but the graph has no such weight"
    );
}
