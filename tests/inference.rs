//! Inference pipelines: the losses of one IPU and of one batch after the other, whatever the stages and however many micro-batches a call.

mod support;

use std::sync::Arc;

use superstep::precision::Precision;
use superstep::report::evaluation::EvaluationPace;
use superstep::session::Session;
use superstep::settings::EvaluationSettings;
use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Module};
use superstep_ir::op::UnaryOp;
use superstep_ir::program::{Codelet, Program, Step};
use superstep_ir::types::TensorType;
use superstep_passes::{CompileOptions, compile};
use superstep_runtime::timeline::timeline;
use superstep_runtime::{Engine, EngineOptions, Host, HostError, Schedule};
use support::{Feed, Golden, bytes, machine};

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
    feed.micro_batches.extend(all.take(micro_batches).cloned());
    let loaded = Session::load(Arc::new(program), &golden.weights, options);
    let mut session = loaded.expect("load");
    for _ in 0..micro_batches / a_call as usize {
        session.run(&mut feed).expect("inference");
    }
    let losses = feed.taken.remove("loss").expect("losses");
    losses.into_iter().map(|loss| loss[0]).collect()
}

#[test]
fn pipelined_losses_are_those_of_one_batch_after_the_other() {
    // Calls of fewer micro-batches than stages, of as many, of more.
    let every = &[1, 2, 3, 4, 6, 12][..];
    for (name, layers, tiles, calls) in [
        ("tiny", &[0, 1, 1][..], 64, every),
        ("tiny", &[1, 1], 101, every),
        ("tiny", &[0, 2], 1472, &[2, 12]),
        ("small4", &[1, 1, 1, 1], 1472, &[2, 6]),
        ("small4", &[0, 2, 2], 1472, &[4]),
    ] {
        let golden = Golden::load(name).by_rows();
        let in_turn = forward(&golden, Precision::F32, tiles, Shape::in_turn(layers));
        let want = losses(&golden, in_turn, &FAST, 12, 1);
        assert_eq!(want.len(), 12);
        for &n in calls {
            let program = forward(&golden, Precision::F32, tiles, Shape::pipeline(layers, n));
            let got = losses(&golden, program, &FAST, 12, n);
            assert_eq!(got, want, "{name} over {layers:?}, {n} a call");
        }
    }
}

#[test]
fn the_mean_over_the_micro_batches_is_the_golden_loss() {
    let golden = Golden::load("tiny").by_rows();
    let rows = golden.tokens[0].len() as u32;
    for precision in [
        Precision::F32,
        Precision::F16Partials32,
        Precision::F16Partials16,
    ] {
        let program = forward(&golden, precision, 64, Shape::pipeline(&[0, 1, 1], rows));
        let losses = losses(&golden, program, &FAST, rows as usize, rows);
        let mean = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len() as f64;
        let want = golden.expected["train"]["loss"][0].as_f64().expect("loss");
        let tolerance = if precision.is_half() { 1e-3 } else { 1e-5 };
        assert!(
            (mean - want).abs() <= tolerance,
            "{precision}: {mean}, expected {want}"
        );
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_schedule_nor_replicas() {
    let golden = Golden::load("tiny").by_rows();
    let of = |precision, shape, options: &EngineOptions| {
        let program = forward(&golden, precision, 48, shape);
        losses(
            &golden,
            program,
            options,
            12,
            shape.micro_batches * shape.replicas,
        )
    };
    for precision in [Precision::F32, Precision::F16Partials16] {
        for layers in [&[0, 1, 1][..], &[1, 1]] {
            let reference = of(precision, Shape::in_turn(layers), &FAST);
            for threads in [1, 2] {
                for schedule in [Schedule::Fast, Schedule::Strict, Schedule::Poisoned] {
                    let options = EngineOptions {
                        threads,
                        schedule,
                        ..FAST
                    };
                    let got = of(precision, Shape::pipeline(layers, 6), &options);
                    assert_eq!(got, reference, "{layers:?} {options:?}");
                }
            }
            let two = Shape {
                replicas: 2,
                ..Shape::pipeline(layers, 3)
            };
            assert_eq!(of(precision, two, &FAST), reference, "{layers:?}");
            let repeated = Shape {
                micro_batches: 4,
                ..Shape::in_turn(layers)
            };
            assert_eq!(of(precision, repeated, &FAST), reference, "{layers:?}");
        }
    }
}

/// Entries of every ring.
fn ring_depths(program: &Program) -> Vec<usize> {
    let mut depths = Vec::new();
    program.walk(&mut |step, _| {
        if let Step::Compute(set) = step {
            let stashes = set.groups.iter().filter(|g| g.codelet == Codelet::Stash);
            depths.extend(stashes.map(|g| program.variable(g.outputs[0].variable).ty.shape[0]));
        }
    });
    depths.dedup();
    depths
}

#[test]
fn all_ipus_work_at_once_for_as_many_cycles_as_stages_need() {
    let golden = Golden::load("tiny").by_rows();
    let settings = |n| EvaluationSettings {
        device_iterations: n,
        ..EvaluationSettings::new(machine(3, 64), Precision::F32, golden.seq, 1)
    };
    let pace = |n| {
        let program = forward(&golden, Precision::F32, 64, Shape::pipeline(&[0, 1, 1], n));
        // What a layer makes the next one takes, and no later one.
        assert_eq!(ring_depths(&program), [0usize; 0]);
        EvaluationPace::of(&program, &settings(n))
    };
    for n in [1, 2, 3, 4, 5, 9] {
        let pace = pace(n);
        assert_eq!((pace.stages(), pace.pipeline_cycles), (4, Some(n + 3)));
    }
    // One micro-batch more takes one cycle of the full pipeline more, which is less than all IPUs in turn take.
    let (five, nine) = (pace(5), pace(9));
    let program = forward(&golden, Precision::F32, 64, Shape::pipeline(&[0, 1, 1], 5));
    let main = timeline(&program)
        .procedure_cycles("forward.main")
        .expect("main");
    assert_eq!(nine.cycles - five.cycles, 4 * main);
    let program = forward(&golden, Precision::F32, 64, Shape::in_turn(&[0, 1, 1]));
    let in_turn = EvaluationPace::of(&program, &settings(1));
    assert_eq!((in_turn.stages(), in_turn.pipeline_cycles), (1, None));
    assert!(main * 3 < in_turn.cycles * 2, "{main}, {}", in_turn.cycles);
}

/// Feeds a row of numbers for each micro-batch.
#[derive(Default)]
struct Rows {
    fed: u32,
    sums: Vec<Vec<f32>>,
}

const WIDTH: usize = 8;

impl Host for Rows {
    fn feed(&mut self, _: &str, into: &mut [u8]) -> Result<(), HostError> {
        let row: Vec<f32> = (0..WIDTH)
            .map(|i| (10 * self.fed + i as u32) as f32)
            .collect();
        into.copy_from_slice(bytes(&row));
        self.fed += 1;
        Ok(())
    }

    fn take(&mut self, _: &str, from: &[u8]) -> Result<(), HostError> {
        let words = from.chunks_exact(4);
        let row = words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        self.sums.push(row.collect());
        Ok(())
    }
}

/// `tanh(2 x) + x`, where `x` is made by the first stage and read again by the last.
fn skipping() -> Module {
    let mut graph = Graph::new("forward");
    let mut b = Builder::new(&mut graph);
    let given = b.input("x", TensorType::f32([WIDTH])).unwrap();
    let one = b.constant("one", 1.0, TensorType::f32([WIDTH])).unwrap();
    let x = b.add("first", given, one).unwrap();
    b.place.layer = Some(0);
    let doubled = b.add("double", x, x).unwrap();
    b.place.layer = Some(1);
    let changed = b.unary("tanh", UnaryOp::Tanh, doubled).unwrap();
    b.place.layer = None;
    let last = b.add("last", changed, x).unwrap();
    b.output("sum", last).unwrap();
    Module {
        graphs: vec![graph],
    }
}

#[test]
fn what_a_later_stage_needs_waits_in_a_ring() {
    for n in [1, 2, 3, 4, 7] {
        let options = CompileOptions {
            layers_per_ipu: Some(vec![0, 1, 1]),
            gradient_accumulation_steps: n,
            pipelined: true,
            ..CompileOptions::default()
        };
        let program = compile(skipping(), &machine(3, 16), &options, vec![])
            .unwrap()
            .program;
        assert_eq!(ring_depths(&program), [4]);
        let mut engine = Engine::load(Arc::new(program), &FAST).expect("load");
        let mut rows = Rows::default();
        // A second call finds nothing of the first.
        for _ in 0..2 {
            engine.run(&mut rows).expect("inference");
        }
        assert_eq!(rows.sums.len(), 2 * n as usize);
        for (batch, row) in rows.sums.iter().enumerate() {
            for (i, &found) in row.iter().enumerate() {
                let x = (10 * batch + i + 1) as f32;
                let want = (2.0 * x).tanh() + x;
                assert!((found - want).abs() < 1e-5, "{n}: {found}, not {want}");
            }
        }
    }
}
