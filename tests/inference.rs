//! Inference pipelines: the losses of one IPU and of one batch after the other, whatever the stages and however many micro-batches a call.

mod support;

use superstep::precision::Precision;
use superstep_ir::graph::Module;
use superstep_ir::program::{Codelet, Program, Step};
use superstep_passes::{CompileOptions, compile};
use superstep_runtime::timeline::timeline;
use superstep_runtime::{EngineOptions, Schedule};
use support::{Feed, Golden, engine_with, machine};

const FAST: EngineOptions = EngineOptions {
    threads: 2,
    portable: false,
    schedule: Schedule::Fast,
};

/// How often micro-batches go through the layers.
#[derive(Clone, Copy)]
struct Shape<'a> {
    layers: &'a [u32],
    pipelined: bool,
    micro_batches: u32,
    replicas: u32,
}

impl<'a> Shape<'a> {
    const fn in_turn(layers: &'a [u32]) -> Shape<'a> {
        Shape {
            layers,
            pipelined: false,
            micro_batches: 1,
            replicas: 1,
        }
    }

    const fn pipeline(layers: &'a [u32], micro_batches: u32) -> Shape<'a> {
        Shape {
            layers,
            pipelined: true,
            micro_batches,
            replicas: 1,
        }
    }
}

fn forward(golden: &Golden, precision: Precision, tiles: u32, shape: Shape<'_>) -> Program {
    let options = CompileOptions {
        layers_per_ipu: Some(shape.layers.to_vec()),
        gradient_accumulation_steps: shape.micro_batches,
        pipelined: shape.pipelined,
        replicas: shape.replicas,
        half_partials: precision.has_half_partials(),
        ..CompileOptions::default()
    };
    let mut graph = golden.forward(true, false, 2);
    precision.apply(&mut graph, false).expect("mixed graph");
    let module = Module {
        graphs: vec![graph],
    };
    let ipus = shape.replicas * shape.layers.len() as u32;
    let compiled = compile(module, &machine(ipus, tiles), &options, vec![]);
    compiled.unwrap_or_else(|e| panic!("{e}")).program
}

/// The losses of the first micro-batches of the fixture, a call for as many as the program takes.
fn losses(
    golden: &Golden,
    program: Program,
    options: &EngineOptions,
    micro_batches: usize,
    a_call: u32,
) -> Vec<f32> {
    let mut feed = Feed::new(golden.seq);
    let all = golden.tokens.iter().flatten().cycle();
    feed.micro_batches
        .extend(all.take(micro_batches).cloned());
    let mut engine = engine_with(program, &golden.weights, options);
    for _ in 0..micro_batches / a_call as usize {
        engine.run(&mut feed).expect("inference");
    }
    let losses = feed.taken["loss"].iter().map(|loss| loss[0]).collect();
    losses
}

#[test]
fn pipelined_losses_are_those_of_one_batch_after_the_other() {
    for (name, layers, tiles) in [
        ("tiny", &[0, 1, 1][..], 64),
        ("tiny", &[1, 1], 101),
        ("tiny", &[0, 2], 1472),
        ("small4", &[1, 1, 1, 1], 1472),
        ("small4", &[0, 2, 2], 1472),
    ] {
        let golden = Golden::load(name).by_rows();
        let in_turn = forward(&golden, Precision::F32, tiles, Shape::in_turn(layers));
        let want = losses(&golden, in_turn, &FAST, 12, 1);
        assert_eq!(want.len(), 12);
        // Fewer than stages, as many, more.
        for n in [1, 2, 4, 6, 12] {
            let program = forward(&golden, Precision::F32, tiles, Shape::pipeline(layers, n));
            let got = losses(&golden, program, &FAST, 12, n);
            assert_eq!(got, want, "{name} over {layers:?}, {n} a call");
        }
    }
}
