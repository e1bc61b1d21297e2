//! Replicas: the same training as of one model with all the micro-batches, over pipelines or not, with optimiser state shared out or not.

mod support;

use superstep_ir::program::Program;
use superstep_passes::place::Recompute;
use superstep_passes::{CompileOptions, compile};
use superstep_runtime::{EngineOptions, Schedule};
use support::{Feed, Golden, engine_with, judged, machine, relative_l2, state, tensors};

/// How a case is laid out.
struct Layout {
    layers: &'static [u32],
    replicas: u32,
    sharded: Option<usize>,
    pipelined: bool,
}

fn replicated(golden: &Golden, layout: &Layout) -> Program {
    let mut hyper = golden.hyper("");
    hyper.accumulation /= layout.replicas;
    let options = CompileOptions {
        layers_per_ipu: Some(layout.layers.to_vec()),
        gradient_accumulation_steps: hyper.accumulation,
        pipelined: layout.pipelined,
        recompute: Recompute::EveryLayer,
        replicas: layout.replicas,
        sharded: layout.sharded,
        ..CompileOptions::default()
    };
    let module = golden.training_module(&hyper, 1);
    let ipus = layout.layers.len() as u32 * layout.replicas;
    let compiled = compile(module, &machine(ipus, 64), &options, vec![]);
    compiled.unwrap_or_else(|e| panic!("{e}")).program
}

fn train(
    golden: &Golden,
    layout: &Layout,
    steps: usize,
    threads: usize,
    schedule: Schedule,
) -> Vec<(String, Vec<f32>)> {
    let hyper = golden.hyper("");
    let options = EngineOptions {
        threads,
        schedule,
        ..EngineOptions::default()
    };
    let program = replicated(golden, layout);
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
        assert!((loss - want).abs() <= 1e-5, "step {step}: {loss}, {want}");
        for norm in &feed.taken["grad_norm"] {
            let want = golden.expected["train"]["grad_norm"][step]
                .as_f64()
                .expect("norm");
            assert!((f64::from(norm[0]) / want - 1.0).abs() <= 1e-5, "{step}");
        }
    }
    golden
        .weights
        .iter()
        .map(|(name, tensor)| (name.to_string(), state(&engine, name, tensor.data.len())))
        .chain(["exp_avg.wte.weight".to_string()].map(|name| {
            let moments = state(&engine, &name, 512 * 32);
            (name, moments)
        }))
        .collect()
}

#[test]
fn tiny_trains_to_the_golden_weights_on_replicas() {
    let golden = Golden::load("tiny").by_rows();
    let steps = golden.hyper("").steps;
    for (layers, replicas, sharded, pipelined) in [
        (&[2][..], 2, None, false),
        (&[2], 4, Some(1024), false),
        (&[0, 2], 2, Some(8192), false),
    ] {
        let layout = Layout {
            layers,
            replicas,
            sharded,
            pipelined,
        };
        let trained = train(&golden, &layout, steps, 2, Schedule::Fast);
        let mut expected = tensors(&golden.folder.join("weights_final.safetensors"));
        let moments = tensors(&golden.folder.join("adam_final.safetensors"));
        expected.extend(
            moments
                .into_iter()
                .filter(|(name, _)| name == "exp_avg.wte.weight"),
        );
        for (name, got) in trained {
            let want = &expected[&name];
            let off = relative_l2(&judged(&name, &got), &judged(&name, want));
            assert!(
                off <= 1e-5,
                "{layers:?} × {replicas}: {name} is off by {off:e}"
            );
        }
    }
}

#[test]
fn threads_and_schedule_do_not_change_a_bit() {
    let golden = Golden::load("tiny").by_rows();
    let layout = Layout {
        layers: &[2],
        replicas: 2,
        sharded: Some(64),
        pipelined: false,
    };
    let strict = train(&golden, &layout, 2, 1, Schedule::Strict);
    for threads in [1, 2] {
        assert!(strict == train(&golden, &layout, 2, threads, Schedule::Fast));
    }
}
