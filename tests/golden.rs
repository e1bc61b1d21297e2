//! Golden training runs through the tile program: logits, losses, every gradient, the trajectory and the final weights.

mod support;

use superstep_ir::graph::Module;
use superstep_ir::program::{Codelet, Program, Step, VertexGroup};
use superstep_passes::plan::matmul::PlanStyle;
use superstep_passes::serialise::Serialise;
use superstep_passes::{CompileOptions, compile};
use superstep_runtime::{Engine, EngineOptions, Schedule};
use support::{
    Feed, Golden, compiled, compiled_in_style, engine, engine_with, judged, machine, relative_l2,
    state, tensors,
};

const OPTIONS: EngineOptions = EngineOptions {
    threads: 2,
    portable: false,
    schedule: Schedule::Fast,
};

const LOSS: f64 = 1e-5;
const RELATIVE: f64 = 1e-5;

/// Trains `golden` to its end on IPUs with these layers; checks loss and gradient norm of every step. Returns the engine.
fn train(
    golden: &Golden,
    section: &str,
    layers: &[u32],
    tiles: u32,
    threads: usize,
    chunks: usize,
) -> Engine {
    let options = EngineOptions {
        threads,
        ..EngineOptions::default()
    };
    train_on(golden, section, layers, tiles, options, chunks)
}

fn train_on(
    golden: &Golden,
    section: &str,
    layers: &[u32],
    tiles: u32,
    options: EngineOptions,
    chunks: usize,
) -> Engine {
    let hyper = golden.section_hyper(section);
    let module = golden.training_module(&hyper, chunks);
    let machine = machine(layers.len() as u32, tiles);
    let compiled = compiled(module, &machine, layers, hyper.accumulation);
    train_program(golden, section, compiled.program, &options)
}

fn train_program(
    golden: &Golden,
    section: &str,
    program: Program,
    options: &EngineOptions,
) -> Engine {
    let hyper = golden.section_hyper(section);
    let mut engine = engine_with(program, &golden.weights, options);
    let mut feed = Feed::new(golden.seq);
    let expected = &golden.expected[section];
    for (step, micro_batches) in golden.tokens.iter().take(hyper.steps).enumerate() {
        feed.micro_batches.extend(micro_batches.iter().cloned());
        feed.learning_rate = hyper.lr_at(step) as f32;
        feed.taken.clear();
        engine.run(&mut feed).expect("step");
        let losses = &feed.taken["loss"];
        let loss = losses.iter().map(|l| f64::from(l[0])).sum::<f64>() / losses.len() as f64;
        let want = expected["loss"][step].as_f64().expect("loss");
        assert!(
            (loss - want).abs() <= LOSS,
            "step {step}: loss {loss}, expected {want}"
        );
        let norm = f64::from(feed.taken["grad_norm"][0][0]);
        if let Some(want) = expected["grad_norm"][step].as_f64() {
            assert!(
                (norm / want - 1.0).abs() <= RELATIVE,
                "step {step}: gradient norm {norm}, expected {want}"
            );
        }
    }
    engine
}

fn check_states(
    engine: &Engine,
    golden: &Golden,
    file: &str,
    prefix: &str,
    scale: f32,
    tolerance: f64,
) {
    for (name, want) in tensors(&golden.folder.join(file)) {
        let got: Vec<f32> = state(engine, &format!("{prefix}{name}"), want.len())
            .iter()
            .map(|x| x * scale)
            .collect();
        let off = relative_l2(&judged(&name, &got), &judged(&name, &want));
        assert!(off <= tolerance, "{file}: {name} is off by {off:e}");
    }
}

fn check_final_weights(engine: &Engine, golden: &Golden) {
    let file = "weights_final.safetensors";
    check_states(engine, golden, file, "", 1.0, RELATIVE);
}

#[test]
fn tiny_trains_to_the_golden_weights_on_one_ipu() {
    let golden = Golden::load("tiny");
    let engine = train(&golden, "train", &[2], 1472, 2, 1);
    check_final_weights(&engine, &golden);
}

#[test]
fn tiny_trains_to_the_golden_weights_over_two_and_four_ipus() {
    let golden = Golden::load("tiny");
    for layers in [&[1, 1][..], &[0, 1, 1, 0]] {
        let engine = train(&golden, "train", layers, 1472, 2, 2);
        check_final_weights(&engine, &golden);
    }
}

#[test]
fn tiny_trains_the_same_on_few_tiles_and_odd_counts() {
    let golden = Golden::load("tiny");
    for tiles in [5, 16, 101] {
        let engine = train(&golden, "train", &[2], tiles, 2, 1);
        check_final_weights(&engine, &golden);
    }
}

/// Two and four slices come out even, three and five are padded.
#[test]
fn a_head_in_slices_trains_to_the_golden_weights() {
    for (slices, layers, tiles, chunks) in [
        (2, &[2][..], 1472, 1),
        (4, &[1, 1], 64, 3),
        (3, &[2], 101, 2),
        (5, &[0, 1, 1], 24, 1),
    ] {
        let golden = Golden::load("tiny").in_slices(slices, 1);
        assert_eq!(golden.vocabulary.padding() > 0, slices % 2 == 1);
        let engine = train(&golden, "train", layers, tiles, 2, chunks);
        check_final_weights(&engine, &golden);
        train(&golden, "train_clipped", layers, tiles, 2, chunks);
    }
}

/// Slices that lie on the same tiles get ids and gradient rows once, for all of them.
#[test]
fn slices_take_their_rows_together() {
    let golden = Golden::load("tiny").in_slices(4, 1);
    let module = golden.training_module(&golden.hyper(""), 1);
    let program = compiled(module, &machine(1, 1472), &[2], 4).program;
    let steps = || program.procedures.iter().flat_map(|p| &p.steps);
    let into_tables = steps().filter_map(|step| match step {
        Step::Compute(set) => Some(&set.groups),
        _ => None,
    });
    let codelet = |group: &VertexGroup| match group.codelet {
        Codelet::ScatterAdd { first } => Some(first),
        _ => None,
    };
    let mut sets: Vec<Vec<u32>> = into_tables
        .map(|groups| groups.iter().filter_map(codelet).collect())
        .filter(|firsts: &Vec<u32>| !firsts.is_empty())
        .collect();
    sets.iter_mut().for_each(|firsts| firsts.sort_unstable());
    assert!(!sets.is_empty());
    for firsts in sets {
        assert_eq!(firsts, [0, 128, 256, 384]);
    }
}

#[test]
fn logits_of_a_head_in_slices_have_no_padding() {
    let golden = Golden::load("tiny").in_slices(3, 1);
    let module = Module {
        graphs: vec![golden.forward(true, true, 2)],
    };
    let program = compiled(module, &machine(1, 101), &[2], 1).program;
    let mut engine = engine(program, &golden.weights, 2);
    let mut feed = Feed::new(golden.seq);
    feed.micro_batches.push(golden.tokens[0][0].clone());
    engine.run(&mut feed).expect("forward");
    let want = &tensors(&golden.folder.join("forward.safetensors"))["logits"];
    let off = relative_l2(&feed.taken["logits"][0], want);
    assert!(off <= 3e-6, "logits are off by {off:e}");
}

#[test]
fn small4_in_slices_follows_the_golden_run() {
    let golden = Golden::load("small4").in_slices(4, 1);
    assert_eq!(golden.vocabulary.padding(), 3);
    let engine = train(&golden, "train", &[2, 2], 1472, 2, 1);
    check_summaries(&engine, &golden);
}

#[test]
fn every_style_of_matmul_plans_trains_to_the_golden_weights() {
    let golden = Golden::load("tiny");
    for style in PlanStyle::ALL {
        for (layers, tiles) in [(&[2][..], 1472), (&[1, 1], 64), (&[2], 24)] {
            let engine = train_in_style(&golden, "train", style, layers, tiles);
            check_final_weights(&engine, &golden);
        }
    }
}

/// Trains with products of this style only, and checks that the program has rings, or has none, as the style says.
fn train_in_style(
    golden: &Golden,
    section: &str,
    style: PlanStyle,
    layers: &[u32],
    tiles: u32,
) -> Engine {
    let hyper = golden.section_hyper(section);
    let module = golden.training_module(&hyper, 1);
    let machine = machine(layers.len() as u32, tiles);
    let program = compiled_in_style(style, module, &machine, layers, hyper.accumulation).program;
    let rings = shifts(&program);
    match style {
        PlanStyle::Gather => assert_eq!(rings, 0),
        PlanStyle::Shift => assert!(rings > 0),
        PlanStyle::Auto => {}
    }
    train_program(golden, section, program, &OPTIONS)
}

/// Exchanges between neighbours on a ring.
fn shifts(program: &Program) -> usize {
    let steps = program.procedures.iter().flat_map(|p| &p.steps);
    steps
        .filter(|step| matches!(step, Step::Exchange(e) if e.name.ends_with(".shift")))
        .count()
}

/// On so few tiles slices are made on rings, and a ring's piece of the merged heads may be one and a half samples.
#[test]
fn sliced_products_on_few_tiles_train_to_the_golden_weights() {
    let golden = Golden::load("tiny");
    let hyper = golden.section_hyper("train");
    for (tiles, slices) in [(12, 2), (12, 3), (24, 2), (24, 3)] {
        let rule = Serialise::parse(&format!("h.*.attn.*={slices}"));
        let options = CompileOptions {
            layers_per_ipu: Some(vec![2]),
            gradient_accumulation_steps: hyper.accumulation,
            serialise: vec![rule.expect("a rule")],
            ..CompileOptions::default()
        };
        let module = golden.training_module(&hyper, 1);
        let compiled = compile(module, &machine(1, tiles), &options, vec![]);
        let program = compiled.unwrap_or_else(|e| panic!("{e}")).program;
        let engine = train_program(&golden, "train", program, &OPTIONS);
        check_final_weights(&engine, &golden);
    }
}

#[test]
fn clipping_follows_the_golden_run_in_every_style() {
    let golden = Golden::load("tiny");
    for style in PlanStyle::ALL {
        train_in_style(&golden, "train_clipped", style, &[2], 64);
    }
}

/// After one step from zero moments, `exp_avg` is a tenth of the gradient.
#[test]
fn every_gradient_of_tiny_is_golden_in_every_style() {
    let golden = Golden::load("tiny");
    let mut hyper = golden.hyper("");
    let cases = [
        (PlanStyle::Auto, 4, "grads_step0.safetensors"),
        (PlanStyle::Auto, 1, "grads_micro0.safetensors"),
        (PlanStyle::Gather, 4, "grads_step0.safetensors"),
        (PlanStyle::Shift, 4, "grads_step0.safetensors"),
    ];
    for (style, accumulation, file) in cases {
        hyper.accumulation = accumulation;
        let module = golden.training_module(&hyper, 1);
        let machine = machine(1, 1472);
        let program = compiled_in_style(style, module, &machine, &[2], accumulation).program;
        let mut engine = engine(program, &golden.weights, 2);
        let mut feed = Feed::new(golden.seq);
        feed.micro_batches
            .extend(golden.tokens[0].iter().take(accumulation as usize).cloned());
        engine.run(&mut feed).expect("step");
        check_states(&engine, &golden, file, "exp_avg.", 10.0, RELATIVE);
    }
}

#[test]
fn logits_of_tiny_are_golden_in_every_style() {
    let golden = Golden::load("tiny");
    for style in PlanStyle::ALL {
        let module = Module {
            graphs: vec![golden.forward(true, true, 1)],
        };
        let program = compiled_in_style(style, module, &machine(1, 1472), &[2], 1).program;
        let mut engine = engine(program, &golden.weights, 2);
        let mut feed = Feed::new(golden.seq);
        feed.micro_batches.push(golden.tokens[0][0].clone());
        engine.run(&mut feed).expect("forward");
        let loss = f64::from(feed.taken["loss"][0][0]);
        let want = golden.expected["first_micro_batch"]["loss"]
            .as_f64()
            .expect("loss");
        assert!((loss - want).abs() <= LOSS, "loss {loss}, expected {want}");
        let off = relative_l2(
            &feed.taken["logits"][0],
            &tensors(&golden.folder.join("forward.safetensors"))["logits"],
        );
        assert!(off <= 3e-6, "{style:?}: logits are off by {off:e}");
    }
}

#[test]
fn small4_follows_the_golden_run_over_one_two_and_four_ipus() {
    let golden = Golden::load("small4");
    for layers in [&[4][..], &[2, 2], &[1, 1, 1, 1]] {
        let engine = train(&golden, "train", layers, 1472, 2, 1);
        check_summaries(&engine, &golden);
    }
}

#[test]
fn small4_follows_the_golden_run_in_each_forced_style() {
    let golden = Golden::load("small4");
    for style in [PlanStyle::Gather, PlanStyle::Shift] {
        let engine = train_in_style(&golden, "train", style, &[2, 2], 1472);
        check_summaries(&engine, &golden);
    }
}

fn check_summaries(engine: &Engine, golden: &Golden) {
    let expected = &golden.expected["train"]["weights_final"];
    for (name, want) in expected.as_object().expect("weights") {
        check_summary(engine, name, want);
    }
}

/// L2 norm and top-left slice of a tensor.
fn check_summary(engine: &Engine, name: &str, want: &serde_json::Value) {
    let shape: Vec<usize> = serde_json::from_value(want["shape"].clone()).expect("shape");
    let short = name.replacen("transformer.", "", 1);
    let got = state(engine, &short, shape.iter().product());
    let l2 = got
        .iter()
        .map(|&x| f64::from(x).powi(2))
        .sum::<f64>()
        .sqrt();
    let expected = want["l2"].as_f64().expect("l2");
    assert!(
        (l2 / expected - 1.0).abs() <= RELATIVE,
        "{name}: norm {l2}, expected {expected}"
    );
    let columns = shape.last().copied().unwrap_or(1);
    if name.ends_with("attn.c_attn.bias") {
        return;
    }
    for (r, row) in want["slice"].as_array().expect("slice").iter().enumerate() {
        let values: Vec<f64> = match row {
            serde_json::Value::Array(row) => {
                row.iter().filter_map(serde_json::Value::as_f64).collect()
            }
            single => single.as_f64().into_iter().collect(),
        };
        for (c, want) in values.iter().enumerate() {
            let got = f64::from(got[r * if row.is_array() { columns } else { 1 } + c]);
            assert!(
                (got - want).abs() <= 1e-5,
                "{name}[{r}, {c}] is {got}, expected {want}"
            );
        }
    }
}

/// Ten clipped steps; `strict` runs step by step with dead memory poisoned, otherwise the schedule that the engine makes of the program.
fn bits(golden: &Golden, layers: &[u32], threads: usize, strict: bool) -> Vec<u32> {
    let engine = train_on(
        golden,
        "train_clipped",
        layers,
        101,
        EngineOptions {
            threads,
            portable: false,
            schedule: match strict {
                true => Schedule::Poisoned,
                false => Schedule::Fast,
            },
        },
        1,
    );
    let names = golden
        .weights
        .iter()
        .map(|(name, t)| state(&engine, name, t.data.len()));
    names.flatten().map(f32::to_bits).collect()
}

#[test]
fn threads_schedule_and_repetition_do_not_change_a_bit() {
    let golden = Golden::load("tiny");
    for layers in [&[2][..], &[1, 1]] {
        let strict = bits(&golden, layers, 1, true);
        assert!(
            strict == bits(&golden, layers, 2, true),
            "thread count changes bits"
        );
        assert!(
            strict == bits(&golden, layers, 1, false),
            "the schedule changes bits"
        );
        assert!(
            strict == bits(&golden, layers, 2, false),
            "the schedule on two threads changes bits"
        );
        assert!(
            strict == bits(&golden, layers, 2, false),
            "a second run changes bits"
        );
    }
}
