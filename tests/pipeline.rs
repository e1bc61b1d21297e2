//! Pipelines over IPUs: the same training as on one IPU, with and without recomputation, whatever the stages.

mod support;

use superstep_ir::program::{Codelet, Program, Step};
use superstep_passes::place::{PlacementError, Recompute};
use superstep_passes::{CompileError, CompileOptions, compile};
use superstep_runtime::timeline::timeline;
use superstep_runtime::{Engine, EngineOptions, Schedule};
use support::{Feed, Golden, engine_with, judged, machine, relative_l2, state, tensors};

const THREADS: [usize; 2] = [1, 2];

fn pipelined(golden: &Golden, layers: &[u32], recompute: Recompute, tiles: u32) -> Program {
    let hyper = golden.hyper("");
    let options = CompileOptions {
        layers_per_ipu: Some(layers.to_vec()),
        gradient_accumulation_steps: hyper.accumulation,
        pipelined: true,
        recompute,
        ..CompileOptions::default()
    };
    let module = golden.training_module(&hyper, 1);
    let compiled = compile(
        module,
        &machine(layers.len() as u32, tiles),
        &options,
        vec![],
    );
    compiled.unwrap_or_else(|e| panic!("{e}")).program
}

/// Runs the first steps; loss and gradient norm of each must be those expected.
fn train(golden: &Golden, program: Program, options: EngineOptions, steps: usize) -> Engine {
    let hyper = golden.hyper("");
    let mut engine = engine_with(program, &golden.weights, &options);
    let mut feed = Feed::new(golden.seq);
    for (step, micro_batches) in golden.tokens.iter().take(steps).enumerate() {
        feed.micro_batches.extend(micro_batches.iter().cloned());
        feed.learning_rate = hyper.lr_at(step) as f32;
        feed.taken.clear();
        engine.run(&mut feed).expect("step");
        let losses = &feed.taken["loss"];
        assert_eq!(losses.len(), hyper.accumulation as usize);
        let loss = losses.iter().map(|l| f64::from(l[0])).sum::<f64>() / losses.len() as f64;
        let want = golden.expected["train"]["loss"][step]
            .as_f64()
            .expect("loss");
        assert!(
            (loss - want).abs() <= 1e-5,
            "step {step}: {loss}, expected {want}"
        );
        let norm = f64::from(feed.taken["grad_norm"][0][0]);
        let want = golden.expected["train"]["grad_norm"][step]
            .as_f64()
            .expect("norm");
        assert!(
            (norm / want - 1.0).abs() <= 1e-5,
            "step {step}: {norm}, expected {want}"
        );
    }
    engine
}

const FAST: EngineOptions = EngineOptions {
    threads: 2,
    portable: false,
    schedule: Schedule::Fast,
};

#[test]
fn tiny_trains_to_the_golden_weights_through_pipelines() {
    let golden = Golden::load("tiny").by_rows();
    let steps = golden.hyper("").steps;
    for (layers, recompute, tiles) in [
        (&[0, 1, 1][..], Recompute::EveryLayer, 1472),
        (&[0, 1, 1], Recompute::Nothing, 64),
        (&[1, 1], Recompute::Layers([1].into()), 101),
        (&[0, 2], Recompute::EveryLayer, 1472),
        (&[0, 1, 1], Recompute::ButProducts([0, 1].into()), 96),
        (&[1, 1], Recompute::ButProducts([1].into()), 1472),
    ] {
        let program = pipelined(&golden, layers, recompute, tiles);
        let engine = train(&golden, program, FAST, steps);
        for (name, want) in tensors(&golden.folder.join("weights_final.safetensors")) {
            let got = state(&engine, &name, want.len());
            let off = relative_l2(&judged(&name, &got), &judged(&name, &want));
            assert!(off <= 1e-5, "{layers:?}: {name} is off by {off:e}");
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_schedule() {
    let golden = Golden::load("tiny").by_rows();
    let weights = |options: EngineOptions| {
        let program = pipelined(&golden, &[0, 1, 1], Recompute::EveryLayer, 48);
        let engine = train(&golden, program, options, 3);
        state(&engine, "h.1.mlp.c_fc.weight", 32 * 128)
    };
    let reference = weights(FAST);
    for threads in THREADS {
        for schedule in [Schedule::Fast, Schedule::Strict, Schedule::Poisoned] {
            let options = EngineOptions {
                threads,
                schedule,
                ..FAST
            };
            assert_eq!(weights(options), reference, "{options:?}");
        }
    }
}

/// Entries of every ring, by the name of what it keeps.
fn ring_depths(program: &Program) -> Vec<(String, usize)> {
    let mut rings = Vec::new();
    program.walk(&mut |step, _| {
        if let Step::Compute(set) = step {
            for group in set.groups.iter().filter(|g| g.codelet == Codelet::Stash) {
                let ring = program.variable(group.outputs[0].variable);
                let depth = ring.ty.shape[0];
                rings.push((ring.name.trim_end_matches(".ring").to_string(), depth));
            }
        }
    });
    rings
}

#[test]
fn kept_products_wait_and_scores_do_not() {
    let golden = Golden::load("tiny").by_rows();
    let recompute = Recompute::ButProducts([1].into());
    let kept: Vec<String> = ring_depths(&pipelined(&golden, &[0, 1, 1], recompute, 64))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for product in ["attn.c_attn", "attn.context", "attn.c_proj", "mlp.c_fc"] {
        let waits = |layer: u32| kept.contains(&format!("h.{layer}.{product}"));
        assert!(waits(1) && !waits(0), "{product} of {kept:?}");
    }
    let square = |name: &String| name.contains("scores") || name.contains("probs");
    assert!(!kept.iter().any(square), "{kept:?}");
}

#[test]
fn rings_are_as_deep_as_their_stages_are_apart() {
    let golden = Golden::load("tiny").by_rows();
    // Five stages forward and back: embedding, layer 0, layer 1, head; then layer 1, layer 0, embedding.
    let program = pipelined(&golden, &[0, 1, 1], Recompute::EveryLayer, 64);
    let depth = |name: &str| -> Option<usize> {
        let rings = ring_depths(&program);
        let mut found = rings.iter().filter(|(n, _)| n.ends_with(name));
        found.next().map(|r| r.1)
    };
    assert_eq!(depth("tokens"), Some(7));
    assert_eq!(depth(".on_1"), Some(5), "{:?}", ring_depths(&program));
    assert_eq!(depth(".on_2"), Some(3));
    // What leaves the last layer waits for the gradient of the final norm, and so do its statistics.
    for statistic in ["ln_f.mean", "ln_f.rstd"] {
        assert_eq!(depth(statistic), Some(3), "{:?}", ring_depths(&program));
    }
    assert_eq!(ring_depths(&program).len(), 6);
    // Micro-batches fill the stages, run through all of them, and leave them.
    let cycles: u64 = {
        let t = timeline(&program);
        let of = |part: &str| {
            let named = t.procedures.iter().filter(|p| p.name.starts_with(part));
            named
                .filter(|p| !p.name.contains(".on_"))
                .map(|p| p.times)
                .sum::<u64>()
        };
        of("micro_batch.fill") + of("micro_batch.main") + of("micro_batch.flush")
    };
    assert_eq!(cycles, 8 + 7 - 1);
}

/// The gradients of a residual stream are added up before they leave: one tensor crosses from a layer to the one in front, each way.
#[test]
fn one_gradient_crosses_to_the_layer_in_front() {
    let golden = Golden::load("tiny").by_rows();
    let program = pipelined(&golden, &[0, 1, 1], Recompute::EveryLayer, 64);
    let hidden = golden.seq * golden.config.n_embd;
    let mut crossing = Vec::new();
    program.walk(&mut |step, _| {
        if let Step::Exchange(exchange) = step
            && exchange.name == "micro_batch.main.copies"
        {
            let ipu = |v| program.grid_of(v).ipu.0;
            let size = |v| program.variable(v).ty.shape.elements();
            let large = exchange.moves.iter().filter(|m| size(m.source) >= hidden);
            crossing.extend(large.map(|m| (ipu(m.source), ipu(m.destination))));
        }
    });
    crossing.sort_unstable();
    assert_eq!(crossing, [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
}

/// Each layer takes longer than its share of the bytes: IPU 0, which has the embedding and the head, gets layers too.
#[test]
fn layers_are_assigned_by_the_cycles_of_their_ipus() {
    let mut golden = Golden::load("tiny").by_rows();
    golden.config.n_layer = 8;
    golden.config.vocab_size = 6000;
    golden = golden.in_slices(1, 1);
    let placed = |tiles, layers_per_ipu, pipelined| {
        let options = CompileOptions {
            layers_per_ipu,
            gradient_accumulation_steps: 16,
            pipelined,
            ..CompileOptions::default()
        };
        let module = golden.training_module(&golden.hyper(""), 1);
        compile(module, &machine(4, tiles), &options, vec![])
    };
    // A machine whose IPUs are just too small for all of it.
    let (tiles, even) = (8..40)
        .rev()
        .filter_map(|tiles| Some((tiles, placed(tiles, None, false).ok()?)))
        .find(|(_, even)| even.layers_per_ipu.len() > 1)
        .expect("a machine that needs two IPUs");
    let found = placed(tiles, None, true).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.layers_per_ipu.len(), even.layers_per_ipu.len());
    assert!(found.layers_per_ipu[0] > even.layers_per_ipu[0]);
    let same = placed(tiles, Some(even.layers_per_ipu), true).unwrap_or_else(|e| panic!("{e}"));
    let busiest = |program: &Program| timeline(program).ipus.iter().map(|i| i.busy).max();
    assert!(busiest(&found.program) < busiest(&same.program));
}

#[test]
fn a_pipeline_needs_a_micro_batch_for_every_stage() {
    let golden = Golden::load("tiny");
    let options = CompileOptions {
        layers_per_ipu: Some(vec![0, 1, 1]),
        gradient_accumulation_steps: 4,
        pipelined: true,
        ..CompileOptions::default()
    };
    let module = golden.training_module(&golden.hyper(""), 1);
    let error = compile(module, &machine(3, 64), &options, vec![]).unwrap_err();
    let CompileError::Placement(PlacementError::TooFewMicroBatches {
        stages: 7,
        given: 4,
    }) = error
    else {
        panic!("{error}");
    };
}
