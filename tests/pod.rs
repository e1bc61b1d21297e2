//! A pod is the single IPU with the same global batch: pipelines of several stages, replicas, recomputed layers, shared out and remote
//! optimiser state, the head in slices of the vocabulary with and without padding, in any combination.

mod support;

use superstep_ir::program::{CollectiveKind, Program, RemoteDirection, Step};
use superstep_passes::place::Recompute;
use superstep_passes::{CompileOptions, compile};
use superstep_runtime::{EngineOptions, Schedule};
use support::{Feed, Golden, engine_with, judged, machine, relative_l2, state};

const STEPS: usize = 3;
/// Rows of a step: the stages of the pipeline twice over.
const ROWS: u32 = 16;

/// Two golden steps make one here, each row a micro-batch.
fn golden() -> Golden {
    let mut golden = Golden::load("tiny").by_rows();
    golden.tokens = golden.tokens.chunks(2).map(<[_]>::concat).collect();
    golden
}

fn program(golden: &Golden, options: CompileOptions) -> Program {
    let replicas = options.replicas.max(1);
    let mut hyper = golden.hyper("");
    hyper.accumulation = ROWS / replicas;
    let ipus = options.layers_per_ipu.as_ref().map_or(1, Vec::len) as u32 * replicas;
    let options = CompileOptions {
        gradient_accumulation_steps: hyper.accumulation,
        ..options
    };
    let module = golden.training_module(&hyper, 1);
    let compiled = compile(module, &machine(ipus, 64), &options, vec![]);
    compiled.unwrap_or_else(|e| panic!("{e}")).program
}

/// Weights after a few steps, by name.
fn train(golden: &Golden, program: Program, options: EngineOptions) -> Vec<(String, Vec<f32>)> {
    let mut engine = engine_with(program, &golden.weights, &options);
    let mut feed = Feed::new(golden.seq);
    for (step, rows) in golden.tokens.iter().take(STEPS).enumerate() {
        feed.micro_batches.extend(rows.iter().cloned());
        feed.learning_rate = 1e-3 * (step + 1) as f32;
        engine.run(&mut feed).expect("step");
    }
    let weights = golden.weights.iter();
    let read = weights.map(|(name, w)| (name.to_string(), state(&engine, name, w.data.len())));
    read.collect()
}

const FAST: EngineOptions = EngineOptions {
    threads: 2,
    portable: false,
    schedule: Schedule::Fast,
};

fn pod(recompute: bool, sharded: bool, offchip: bool) -> CompileOptions {
    CompileOptions {
        layers_per_ipu: Some(vec![0, 1, 1]),
        pipelined: true,
        replicas: 2,
        recompute: match recompute {
            true => Recompute::EveryLayer,
            false => Recompute::Nothing,
        },
        sharded: sharded.then_some(64),
        offchip,
        ..CompileOptions::default()
    }
}

fn single() -> CompileOptions {
    CompileOptions {
        layers_per_ipu: Some(vec![2]),
        ..CompileOptions::default()
    }
}

/// Weights of a pod with everything in it.
fn trained_with(golden: &Golden, threads: usize, schedule: Schedule) -> Vec<(String, Vec<f32>)> {
    let options = EngineOptions {
        threads,
        schedule,
        ..FAST
    };
    train(golden, program(golden, pod(true, true, true)), options)
}

fn assert_close(trained: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)], what: &str) {
    for ((name, got), (_, want)) in trained.iter().zip(expected) {
        let off = relative_l2(&judged(name, got), &judged(name, want));
        assert!(off <= 1e-5, "{what}: {name} is off by {off:e}");
    }
}

/// Pods of four forward stages with every combination of recomputation, sharing out and streaming memory, the head in 2 and 4 slices of
/// vocabularies that come out even and that do not, against a single IPU that has it in one piece.
#[test]
fn serialised_heads_train_as_a_single_ipu_does() {
    for entries in [512, 509] {
        let whole = golden().with_vocabulary(entries);
        let expected = train(&whole, program(&whole, single()), FAST);
        // Vocabularies in one piece are the test below.
        for slices in [2, 4] {
            for case in 0..8 {
                let options = pod(case & 1 > 0, case & 2 > 0, case & 4 > 0);
                let replicas = if options.sharded.is_some() { 2 } else { 1 };
                let golden = golden()
                    .with_vocabulary(entries)
                    .in_slices(slices, replicas);
                let padded = golden.vocabulary.padding() > 0;
                assert_eq!(padded, entries == 509);
                let trained = train(&golden, program(&golden, options.clone()), FAST);
                let what = format!("{slices} slices of {entries}, {options:?}");
                assert_close(&trained, &expected, &what);
            }
        }
    }
}

#[test]
fn serialised_heads_are_the_same_on_any_number_of_threads() {
    for (entries, slices) in [(512, 2), (509, 4)] {
        let golden = golden().with_vocabulary(entries).in_slices(slices, 2);
        let weights = |threads, schedule| trained_with(&golden, threads, schedule);
        let reference = weights(2, Schedule::Fast);
        assert!(weights(1, Schedule::Fast) == reference);
        assert!(weights(2, Schedule::Poisoned) == reference);
    }
}

#[test]
fn every_combination_trains_as_a_single_ipu_does() {
    let golden = golden();
    let expected = train(&golden, program(&golden, single()), FAST);
    let remote_alone = CompileOptions {
        offchip: true,
        ..single()
    };
    let mut cases = vec![remote_alone];
    for case in 0..8 {
        cases.push(pod(case & 1 > 0, case & 2 > 0, case & 4 > 0));
    }
    for options in cases {
        let trained = train(&golden, program(&golden, options.clone()), FAST);
        assert_close(&trained, &expected, &format!("{options:?}"));
    }
}

/// As the published plan of GPT-2 large has it: IPU 0 has a layer beside embedding and head.
#[test]
fn a_layer_beside_the_head_trains_as_a_single_ipu_does() {
    let whole = golden();
    let expected = train(&whole, program(&whole, single()), FAST);
    let options = CompileOptions {
        layers_per_ipu: Some(vec![1, 1]),
        ..pod(true, true, true)
    };
    let golden = golden().in_slices(4, 2);
    let trained = train(&golden, program(&golden, options), FAST);
    assert_close(&trained, &expected, "[1, 1]");
}

#[test]
fn streaming_memory_changes_no_bit() {
    let golden = golden();
    let alone = |offchip| CompileOptions {
        offchip,
        ..single()
    };
    let pod = |offchip| pod(true, true, offchip);
    let weights = |options| train(&golden, program(&golden, options), FAST);
    assert!(weights(alone(true)) == weights(alone(false)));
    assert!(weights(pod(true)) == weights(pod(false)));
}

#[test]
fn neither_threads_nor_schedule_change_a_bit() {
    let golden = golden();
    let weights = |threads, schedule| trained_with(&golden, threads, schedule);
    let reference = weights(2, Schedule::Fast);
    assert!(weights(1, Schedule::Fast) == reference);
    assert!(weights(2, Schedule::Strict) == reference);
    assert!(weights(2, Schedule::Poisoned) == reference);
}

#[test]
fn remote_state_is_on_tiles_for_its_update_only() {
    let golden = golden();
    let program = program(&golden, pod(true, true, true));
    let (mut loads, mut ranges) = (0, Vec::new());
    program.walk(&mut |step, times| {
        if let Step::Remote { state, .. } = step {
            loads += 1;
            assert_eq!(times, 1);
            let state = &program.states[*state as usize];
            ranges.push(program.variable(state.variable).live);
        }
    });
    let remote = program.states.iter().filter(|s| s.remote).count();
    // Two moments of every weight; each is loaded and stored.
    assert_eq!(remote, 2 * golden.weights.iter().count());
    assert_eq!(loads, 2 * remote);
    let steps = {
        let mut count = 0;
        program.walk(&mut |_, _| count += 1);
        count
    };
    for live in ranges {
        let (first, last) = live.expect("it does not rest on tiles");
        assert!(last - first < steps / 4, "{first} to {last} of {steps}");
    }
}

/// The update goes weight by weight: on an IPU the moments of one are put back before those of the next are brought, and a replica's part of a
/// weight is not made before.
#[test]
fn the_moments_of_one_weight_at_a_time_are_on_tiles() {
    let golden = golden().with_vocabulary(509).in_slices(4, 2);
    for options in [pod(true, true, true), pod(false, false, true)] {
        let program = program(&golden, options);
        let mut held: Vec<Vec<String>> = vec![Vec::new(); program.ipus as usize];
        let mut parts = 0;
        program.walk(&mut |step, _| match step {
            Step::Remote {
                state, direction, ..
            } => {
                let state = &program.states[*state as usize];
                let weight = state.name.split_once('.').unwrap().1;
                let held = &mut held[program.grid_of(state.variable).ipu.index()];
                match direction {
                    RemoteDirection::Load => held.push(weight.into()),
                    RemoteDirection::Store => {
                        let at = held.iter().position(|of| of == weight).unwrap();
                        held.remove(at);
                    }
                }
                assert!(held.iter().all(|of| of == weight), "{held:?}");
            }
            Step::Collective(c) if c.kind == CollectiveKind::Shard => {
                let held = &held[program.grid_of(c.source).ipu.index()];
                let own = |of: &String| c.name.starts_with(&format!("{of}.shard"));
                assert!(held.iter().all(own), "{} beside {held:?}", c.name);
                parts += 1;
            }
            _ => {}
        });
        assert!(held.iter().all(Vec::is_empty), "{held:?}");
        assert_eq!(parts > 0, program.states.iter().any(|s| s.sharded));
    }
}

/// Tensors of a layer lie on the same tiles as those of another layer of its IPU, large and small: so exchanges of layers share code.
#[test]
fn layers_of_an_ipu_lie_on_the_same_tiles() {
    let golden = golden();
    let program = program(&golden, single());
    let grid = |name: String| {
        let state = program.states.iter().find(|s| s.name == name);
        let variable = state.unwrap_or_else(|| panic!("{name}")).variable;
        program.variable(variable).grid
    };
    let (mut same, mut layer_0) = (0, 0);
    for state in &program.states {
        if let Some((prefix, rest)) = state.name.split_once("h.0.") {
            layer_0 += 1;
            let [here, there] =
                ["h.0.", "h.1."].map(|layer| grid(format!("{prefix}{layer}{rest}")));
            same += usize::from(here == there);
        }
    }
    assert!(layer_0 > 30, "{layer_0}");
    assert_eq!(same, layer_0);
}
