//! Half precision through the tile program: losses in the bands of emulated f16 training, gradients with and without a loss scale, overflows.

mod support;

use std::sync::Arc;

use superstep::precision::{Precision, PrecisionSettings};
use superstep::session::Session;
use superstep_ir::program::{Category, Program, Step};
use superstep_ir::types::DType;
use superstep_passes::place::Recompute;
use superstep_passes::{CompileOptions, compile};
use superstep_runtime::{Engine, EngineOptions, Schedule};
use support::{Feed, Golden, Hyper, json, judged, machine, relative_l2};

/// The loss scale of the reference runs.
const SCALE: f32 = 16384.0;

const TWO_THREADS: EngineOptions = EngineOptions {
    threads: 2,
    portable: false,
    schedule: Schedule::Fast,
};

fn settings(precision: Precision) -> PrecisionSettings {
    PrecisionSettings {
        stochastic_rounding: false,
        ..PrecisionSettings::of(precision)
    }
}

fn program(golden: &Golden, precision: PrecisionSettings, hyper: &Hyper, tiles: u32) -> Program {
    let layers = [golden.config.n_layer as u32];
    program_on(golden, precision, hyper, tiles, &layers)
}

/// A pipeline if there is more than one IPU.
fn program_on(
    golden: &Golden,
    precision: PrecisionSettings,
    hyper: &Hyper,
    tiles: u32,
    layers: &[u32],
) -> Program {
    let module = golden.training_module_in(precision, hyper, 2);
    let pipelined = layers.len() > 1;
    let options = CompileOptions {
        layers_per_ipu: Some(layers.to_vec()),
        pipelined,
        recompute: match pipelined {
            true => Recompute::EveryLayer,
            false => Recompute::Nothing,
        },
        gradient_accumulation_steps: hyper.accumulation,
        half_partials: precision.precision.has_half_partials(),
        stochastic_rounding: precision.stochastic_rounding,
        ..CompileOptions::default()
    };
    let machine = machine(layers.len() as u32, tiles);
    compile(module, &machine, &options, vec![])
        .unwrap_or_else(|e| panic!("{e}"))
        .program
}

/// A step's feed: its micro-batches and its learning rate.
fn feed(golden: &Golden, hyper: &Hyper, step: usize, scale: f32) -> Feed {
    let mut feed = Feed::new(golden.seq);
    let micro_batches = golden.tokens[step].iter().take(hyper.accumulation as usize);
    feed.micro_batches = micro_batches.cloned().collect();
    feed.learning_rate = hyper.lr_at(step) as f32;
    feed.loss_scale = scale;
    feed.step = step as u32;
    feed
}

fn mean_loss(feed: &Feed) -> f64 {
    let losses = &feed.taken["loss"];
    losses.iter().map(|l| f64::from(l[0])).sum::<f64>() / losses.len() as f64
}

/// Trains tiny to its end; every loss must lie in the band.
fn in_band(precision: PrecisionSettings, band: &str, tiles: u32) -> Session {
    let golden = Golden::load("tiny");
    let program = program(&golden, precision, &golden.hyper(""), tiles);
    stays_in_band(&golden, program, &format!("{precision:?}"), band)
}

fn stays_in_band(golden: &Golden, program: Program, what: &str, band: &str) -> Session {
    let hyper = golden.hyper("");
    let replicas = program.replicas;
    let mut session =
        Session::load(Arc::new(program), &golden.weights, &TWO_THREADS).expect("load");
    let mixed = json(&golden.folder.join("mixed.json"));
    let band = &mixed[band];
    for step in 0..hyper.steps {
        let mut feed = feed(golden, &hyper, step, SCALE);
        feed.replicas = replicas;
        session.run(&mut feed).expect("step");
        let loss = mean_loss(&feed);
        let bound = |end: &str| band[end][step].as_f64().expect("band");
        let (low, high) = (bound("low"), bound("high"));
        assert!(
            (low..=high).contains(&loss),
            "{what}, step {step}: loss {loss} is not in {low}..{high}"
        );
        assert!(feed.taken["grad_norm"][0][0].is_finite());
    }
    session
}

#[test]
fn f32_weights_rounded_where_they_are_read_follow_the_reference() {
    for precision in [Precision::F16Partials16, Precision::F16Partials32] {
        let precision = PrecisionSettings {
            master_weights: true,
            ..settings(precision)
        };
        let session = in_band(precision, "band_master32", 1472);
        assert_eq!(session.dtype("wte.weight"), Some(DType::F32));
    }
}

#[test]
fn half_weights_follow_the_reference() {
    for (precision, tiles) in [
        (Precision::F16Partials16, 1472),
        (Precision::F16Partials32, 1472),
        (Precision::F16Partials16, 101),
        (Precision::F16Partials32, 24),
    ] {
        let session = in_band(settings(precision), "band_fp16_weights", tiles);
        assert_eq!(session.dtype("wte.weight"), Some(DType::F16));
        assert_eq!(session.dtype("exp_avg.wte.weight"), Some(DType::F32));
    }
}

#[test]
fn the_recipe_follows_the_reference() {
    for tiles in [1472, 64] {
        let session = in_band(settings(Precision::Recipe), "band_fp16_weights", tiles);
        for (state, dtype) in [
            ("accum.wte.weight", DType::F16),
            ("exp_avg.wte.weight", DType::F16),
            ("exp_avg_sq.wte.weight", DType::F32),
        ] {
            assert_eq!(session.dtype(state), Some(dtype), "{state}");
        }
    }
}

#[test]
fn a_head_in_slices_follows_the_reference() {
    for (precision, slices, master_weights, band) in [
        (Precision::Recipe, 4, false, "band_fp16_stochastic"),
        (Precision::Recipe, 3, false, "band_fp16_stochastic"),
        (Precision::F16Partials16, 3, false, "band_fp16_stochastic"),
        (Precision::F16Partials32, 5, true, "band_master32"),
    ] {
        let golden = Golden::load("tiny").in_slices(slices, 1);
        let precision = PrecisionSettings {
            master_weights,
            stochastic_rounding: !master_weights,
            ..PrecisionSettings::of(precision)
        };
        let program = program(&golden, precision, &golden.hyper(""), 101);
        let what = format!("{slices} slices {precision:?}");
        let session = stays_in_band(&golden, program, &what, band);
        // Outside of the program the table is whole.
        let weights = session.weights(&golden.config).expect("weights");
        assert!(weights.check(&golden.config).is_ok());
        let states = session.optimiser_states();
        let moment = states.iter().find(|s| s.name == "exp_avg.wte.weight");
        let shape = &moment.expect("one state").ty.shape;
        assert_eq!(
            shape.dims(),
            [golden.config.vocab_size, golden.config.n_embd]
        );
    }
}

#[test]
fn rounding_at_random_follows_the_reference() {
    for precision in [Precision::F16Partials16, Precision::Recipe] {
        in_band(
            PrecisionSettings::of(precision),
            "band_fp16_stochastic",
            1472,
        );
    }
}

/// A pipeline accumulates the two gradients of the tied embedding in different micro-batches, and takes rounding from other seeds.
#[test]
fn a_pipeline_in_half_precision_follows_the_reference() {
    let golden = Golden::load("tiny").by_rows();
    let hyper = golden.hyper("");
    for (precision, layers) in [
        (Precision::Recipe, &[1, 1][..]),
        (Precision::Recipe, &[0, 1, 1]),
        (Precision::F16Partials16, &[1, 1]),
    ] {
        let precision = PrecisionSettings::of(precision);
        let program = program_on(&golden, precision, &hyper, 64, layers);
        let what = format!("{layers:?} {precision:?}");
        stays_in_band(&golden, program, &what, "band_fp16_stochastic");
    }
}

#[test]
fn replicas_in_half_precision_follow_the_reference() {
    let golden = Golden::load("tiny").by_rows();
    let mut hyper = golden.hyper("");
    let replicas = 2;
    hyper.accumulation /= replicas;
    let precision = PrecisionSettings::of(Precision::Recipe);
    let options = CompileOptions {
        layers_per_ipu: Some(vec![2]),
        gradient_accumulation_steps: hyper.accumulation,
        half_partials: true,
        stochastic_rounding: true,
        replicas,
        sharded: Some(1024),
        ..CompileOptions::default()
    };
    let module = golden.training_module_in(precision, &hyper, 1);
    let program = compile(module, &machine(replicas, 64), &options, vec![])
        .unwrap_or_else(|e| panic!("{e}"))
        .program;
    stays_in_band(&golden, program, "two replicas", "band_fp16_stochastic");
}

/// The same gradient in turn and in a pipeline, up to what halves lose on the way.
#[test]
fn running_means_are_those_of_all_micro_batches_in_a_pipeline_too() {
    let golden = Golden::load("tiny").by_rows();
    let hyper = golden.hyper("");
    let exact = first_moments(&golden, PrecisionSettings::default(), &hyper, &[2], 1.0);
    let recipe = settings(Precision::Recipe);
    for layers in [&[2][..], &[1, 1], &[0, 1, 1]] {
        let got = first_moments(&golden, recipe, &hyper, layers, SCALE);
        let (median, worst) = errors(&got, &exact);
        assert!(
            median <= 3e-3 && worst <= 2e-2,
            "{layers:?}: {median:e}, {worst:e}"
        );
    }
}

/// The new mean is made where the accumulator lies: it waits nowhere else for its assignment, and is not moved.
#[test]
fn running_means_are_made_in_their_accumulators() {
    let golden = Golden::load("tiny").by_rows();
    let hyper = golden.hyper("");
    let program = program_on(&golden, settings(Precision::Recipe), &hyper, 64, &[0, 1, 1]);
    let is_accumulator = |v| program.variable(v).category == Category::Accumulator;
    let (mut maps, mut moved) = (0, Vec::new());
    program.walk(&mut |step, times| match step {
        Step::Exchange(exchange) if times > 1 => {
            let into = exchange.moves.iter().map(|mv| mv.destination);
            moved.extend(into.filter(|&v| is_accumulator(v)));
        }
        Step::Compute(set) if times > 1 => {
            let results = set.groups.iter().flat_map(|group| &group.outputs);
            maps += results.filter(|o| is_accumulator(o.variable)).count();
        }
        _ => {}
    });
    assert_eq!(moved, []);
    let accumulators = program.variables.iter();
    let accumulators = accumulators.filter(|v| v.category == Category::Accumulator);
    assert!(maps >= accumulators.count(), "{maps}");
}

/// With a small learning rate a step is less than half of what lies between two halves: to nearest, large weights stay for ever.
#[test]
fn small_steps_move_weights_only_when_rounding_is_random() {
    let golden = Golden::load("tiny");
    let mut hyper = golden.hyper("");
    hyper.weight_decay = 0.0;
    for stochastic_rounding in [false, true] {
        let precision = PrecisionSettings {
            stochastic_rounding,
            ..settings(Precision::Recipe)
        };
        let program = program(&golden, precision, &hyper, 64);
        let mut session =
            Session::load(Arc::new(program), &golden.weights, &TWO_THREADS).expect("load");
        let before = session.weights(&golden.config).expect("weights");
        for step in 0..6 {
            let mut feed = feed(&golden, &hyper, step, SCALE);
            feed.learning_rate = 1e-5;
            session.run(&mut feed).expect("step");
        }
        let after = session.weights(&golden.config).expect("weights");
        let (mut large, mut moved) = (0u32, 0u32);
        for ((_, before), (_, after)) in before.iter().zip(after.iter()) {
            for (b, a) in before.data.iter().zip(&after.data) {
                if b.abs() > 0.031_25 {
                    large += 1;
                    moved += u32::from(a != b);
                }
            }
        }
        assert!(large > 1000);
        match stochastic_rounding {
            // Every weight wants to go 1e-5 a step, a third of what lies between two halves at 1/32 and less further out.
            true => assert!(moved * 4 > large, "{moved} of {large} weights have moved"),
            false => assert_eq!(moved, 0, "of {large} weights"),
        }
    }
}

/// Gradients of the first micro-batch: a tenth of them is in the first moments after one step from zero.
fn gradients(golden: &Golden, precision: PrecisionSettings, scale: f32) -> Vec<(String, Vec<f32>)> {
    let mut hyper = golden.hyper("");
    hyper.accumulation = 1;
    let layers = [golden.config.n_layer as u32];
    first_moments(golden, precision, &hyper, &layers, scale)
}

/// Ten times the first moments after one step from zero.
fn first_moments(
    golden: &Golden,
    precision: PrecisionSettings,
    hyper: &Hyper,
    layers: &[u32],
    scale: f32,
) -> Vec<(String, Vec<f32>)> {
    let program = program_on(golden, precision, hyper, 1472, layers);
    let mut session =
        Session::load(Arc::new(program), &golden.weights, &TWO_THREADS).expect("load");
    session
        .run(&mut feed(golden, hyper, 0, scale))
        .expect("step");
    let states = values(&session, golden).into_iter();
    states
        .filter_map(|(name, values)| {
            let weight = name.strip_prefix("exp_avg.")?;
            let tenfold = values.into_iter().map(|m| 10.0 * m);
            Some((weight.to_string(), tenfold.collect()))
        })
        .collect()
}

/// Median and largest relative error of the gradients of all tensors.
fn errors(got: &[(String, Vec<f32>)], want: &[(String, Vec<f32>)]) -> (f64, f64) {
    let mut errors: Vec<f64> = got
        .iter()
        .map(|(name, got)| {
            let (_, want) = want.iter().find(|(n, _)| n == name).expect("same names");
            relative_l2(&judged(name, got), &judged(name, want))
        })
        .collect();
    errors.sort_unstable_by(f64::total_cmp);
    (errors[errors.len() / 2], errors[errors.len() - 1])
}

/// In small4 gradients of logits lie below the smallest half: without a loss scale they are lost, with one they are as good as f16 allows.
#[test]
fn a_loss_scale_keeps_small_gradients() {
    let golden = Golden::load("small4");
    let exact = gradients(&golden, PrecisionSettings::default(), 1.0);
    let half = settings(Precision::F16Partials32);
    let (median, worst) = errors(&gradients(&golden, half, SCALE), &exact);
    assert!(
        median <= 1e-3 && worst <= 3e-3,
        "scaled: {median:e}, {worst:e}"
    );
    let (median, worst) = errors(&gradients(&golden, half, 1.0), &exact);
    assert!(
        median >= 5e-3 && worst >= 5e-2,
        "not scaled: {median:e}, {worst:e}"
    );
    let half = settings(Precision::F16Partials16);
    let (median, worst) = errors(&gradients(&golden, half, SCALE), &exact);
    assert!(
        median <= 3e-3 && worst <= 1e-2,
        "f16 partials: {median:e}, {worst:e}"
    );
}

/// All state after three steps.
fn bits(precision: PrecisionSettings, threads: usize, strict: bool) -> Vec<u8> {
    let golden = Golden::load("tiny");
    let hyper = golden.hyper("");
    let program = Arc::new(program(&golden, precision, &hyper, 101));
    let options = EngineOptions {
        threads,
        portable: strict,
        schedule: match strict {
            true => Schedule::Poisoned,
            false => Schedule::Fast,
        },
    };
    let mut engine = Engine::load(program.clone(), &options).expect("load");
    for (name, tensor) in golden.weights.iter() {
        let halves: Vec<u8> = tensor
            .data
            .iter()
            .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
            .collect();
        engine.write_state(name, &halves).expect(name);
    }
    for step in 0..3 {
        engine
            .run(&mut feed(&golden, &hyper, step, SCALE))
            .expect("step");
    }
    let mut all = Vec::new();
    for state in &program.states {
        let mut bytes = vec![0; program.variable(state.variable).ty.bytes()];
        engine.read_state(&state.name, &mut bytes).expect("state");
        all.extend(bytes);
    }
    all
}

#[test]
fn threads_and_schedules_do_not_change_a_bit() {
    for precision in [
        settings(Precision::F16Partials16),
        PrecisionSettings::of(Precision::Recipe),
    ] {
        let strict = bits(precision, 1, true);
        for threads in [1, 2] {
            assert!(strict == bits(precision, threads, false));
        }
    }
}

#[test]
fn an_overflow_changes_nothing_when_it_is_skipped() {
    let golden = Golden::load("tiny");
    let mut hyper = golden.hyper("");
    hyper.warmup_ratio = 0.0;
    for precision in [Precision::F16Partials16, Precision::Recipe] {
        let precision = PrecisionSettings {
            auto_loss_scaling: true,
            ..settings(precision)
        };
        let program = program(&golden, precision, &hyper, 64);
        let mut session =
            Session::load(Arc::new(program), &golden.weights, &TWO_THREADS).expect("load");
        let step = |session: &mut Session, scale: f32| {
            let mut feed = feed(&golden, &hyper, 0, scale);
            session.run(&mut feed).expect("step");
            feed.taken["grad_norm"][0][0]
        };
        assert!(step(&mut session, SCALE).is_finite());
        let before = values(&session, &golden);
        assert!(!step(&mut session, 1e9).is_finite());
        for ((name, before), (_, after)) in before.iter().zip(values(&session, &golden)) {
            assert_eq!(before.len(), after.len());
            let mut both = before.iter().zip(&after);
            let changed = both.position(|(a, b)| a != b);
            assert_eq!(changed, None, "{precision:?}: {name} has changed");
        }
        assert!(step(&mut session, SCALE).is_finite());
        assert!(values(&session, &golden) != before);
    }
}

/// Weights, moments and counters, as numbers: a zero may change its sign.
fn values(session: &Session, golden: &Golden) -> Vec<(String, Vec<f32>)> {
    let weights = session.weights(&golden.config).expect("weights");
    let weights = weights.iter().map(|(n, t)| (n.to_string(), t.data.clone()));
    let moments = session.optimiser_states().into_iter().map(|state| {
        let bytes = session.read(&state).expect("state");
        let values = match state.ty.dtype {
            DType::F16 => bytes
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            _ => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        };
        (state.name, values)
    });
    weights.chain(moments.collect::<Vec<_>>()).collect()
}
