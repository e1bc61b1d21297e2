//! Layers divided over groups of IPUs: the same training as on one IPU, and what passes between the members of a group.

mod support;

use std::sync::Arc;

use superstep::precision::{Precision, PrecisionSettings};
use superstep::session::Session;
use superstep_ir::ids::IpuId;
use superstep_ir::machine::Machine;
use superstep_ir::op::StateKind;
use superstep_ir::program::{Program, Step, Sync};
use superstep_passes::place::{PlacementError, Recompute};
use superstep_passes::stage::StageError;
use superstep_passes::{CompileError, CompileOptions, compile};
use superstep_runtime::timeline::timeline;
use superstep_runtime::{EngineOptions, Schedule};
use support::{Feed, Golden, json, judged, machine, relative_l2, tensors};

const FAST: EngineOptions = EngineOptions {
    threads: 2,
    portable: false,
    schedule: Schedule::Fast,
};

fn options(golden: &Golden, layers: &[u32], replicas: u32) -> CompileOptions {
    CompileOptions {
        layers_per_ipu: Some(layers.to_vec()),
        tensor_parallel: golden.members,
        gradient_accumulation_steps: golden.hyper("").accumulation / replicas,
        pipelined: true,
        replicas,
        ..CompileOptions::default()
    }
}

fn compiled(
    golden: &Golden,
    precision: PrecisionSettings,
    options: &CompileOptions,
    tiles: u32,
) -> Program {
    let hyper = support::Hyper {
        accumulation: options.gradient_accumulation_steps,
        ..golden.hyper("")
    };
    let module = golden.training_module_in(precision, &hyper, 1);
    let groups = options.layers_per_ipu.as_ref().map_or(1, Vec::len) as u32;
    let ipus = groups * options.tensor_parallel.max(1) * options.replicas.max(1);
    compile(module, &machine(ipus, tiles), options, vec![])
        .unwrap_or_else(|e| panic!("{e}"))
        .program
}

/// Every micro-batch twice, which has the same mean: enough of them to fill the pipelines of two replicas.
fn twice(mut golden: Golden) -> Golden {
    for step in &mut golden.tokens {
        *step = step
            .iter()
            .flat_map(|rows| [rows.clone(), rows.clone()])
            .collect();
    }
    golden
}

/// Runs the first steps and gives loss and gradient norm of each.
fn train(
    golden: &Golden,
    program: Program,
    options: &EngineOptions,
    steps: usize,
    loss_scale: f32,
) -> (Session, Vec<(f64, f64)>) {
    let hyper = golden.hyper("");
    let replicas = program.replicas;
    let mut session = Session::load(Arc::new(program), &golden.weights, options).expect("load");
    let mut found = Vec::new();
    for (step, micro_batches) in golden.tokens.iter().take(steps).enumerate() {
        let mut feed = Feed::new(golden.seq);
        feed.micro_batches.clone_from(micro_batches);
        feed.learning_rate = hyper.lr_at(step) as f32;
        feed.loss_scale = loss_scale;
        feed.step = step as u32;
        feed.replicas = replicas;
        session.run(&mut feed).expect("step");
        let losses = &feed.taken["loss"];
        assert_eq!(losses.len(), micro_batches.len());
        let loss = losses.iter().map(|l| f64::from(l[0])).sum::<f64>() / losses.len() as f64;
        found.push((loss, f64::from(feed.taken["grad_norm"][0][0])));
    }
    (session, found)
}

/// Losses and norms must be the golden ones.
fn follows_the_golden_run(golden: &Golden, found: Vec<(f64, f64)>, what: &str) {
    for (step, (loss, norm)) in found.into_iter().enumerate() {
        let want = |what: &str| golden.expected["train"][what][step].as_f64().expect(what);
        let (want_loss, want_norm) = (want("loss"), want("grad_norm"));
        assert!(
            (loss - want_loss).abs() <= 1e-5,
            "{what}, step {step}: {loss}, expected {want_loss}"
        );
        assert!(
            (norm / want_norm - 1.0).abs() <= 1e-5,
            "{what}, step {step}: {norm}, expected {want_norm}"
        );
    }
}

/// Trains to the end: losses, norms and weights must be the golden ones.
fn reaches_the_golden_weights(golden: &Golden, options: &CompileOptions, tiles: u32) {
    let what = format!("{} × {options:?}", golden.members);
    let program = compiled(golden, PrecisionSettings::default(), options, tiles);
    let (session, found) = train(golden, program, &FAST, golden.hyper("").steps, 1.0);
    follows_the_golden_run(golden, found, &what);
    let weights = session.weights(&golden.config).expect("weights");
    for (name, want) in tensors(&golden.folder.join("weights_final.safetensors")) {
        let got = &weights.get(&name).expect("a weight").data;
        let off = relative_l2(&judged(&name, got), &judged(&name, &want));
        assert!(off <= 1e-5, "{what}: {name} is off by {off:e}");
    }
}

#[test]
fn divided_layers_train_to_the_golden_weights() {
    let golden = Golden::load("tiny").by_rows().divided(2);
    for (layers, recompute, tiles) in [
        (&[0, 1, 1][..], Recompute::EveryLayer, 48),
        (&[0, 1, 1], Recompute::Nothing, 64),
        (&[0, 2], Recompute::ButProducts([0].into()), 96),
        // Layers beside the head, and a group that does everything.
        (&[1, 1], Recompute::Layers([1].into()), 101),
        (&[2], Recompute::EveryLayer, 64),
        (&[2], Recompute::Nothing, 1472),
    ] {
        let options = CompileOptions {
            recompute,
            ..options(&golden, layers, 1)
        };
        reaches_the_golden_weights(&golden, &options, tiles);
    }
}

#[test]
fn four_members_follow_the_golden_run() {
    let golden = Golden::load("small4").by_rows().divided(4);
    for (layers, recompute) in [
        (&[0, 4][..], Recompute::EveryLayer),
        (&[4], Recompute::Nothing),
    ] {
        let options = CompileOptions {
            recompute,
            ..options(&golden, layers, 1)
        };
        let program = compiled(&golden, PrecisionSettings::default(), &options, 1472);
        let (_, found) = train(&golden, program, &FAST, 2, 1.0);
        follows_the_golden_run(&golden, found, &format!("{layers:?}"));
    }
}

#[test]
fn replicas_of_divided_layers_train_to_the_golden_weights() {
    for (layers, sharded, recompute) in [
        (&[0, 2][..], None, Recompute::EveryLayer),
        (&[0, 2], Some(64), Recompute::Nothing),
        (&[2], Some(64), Recompute::EveryLayer),
    ] {
        let golden = Golden::load("tiny").by_rows().divided(2);
        // A group by itself is a stage, which four micro-batches fill.
        let golden = if layers.len() > 1 {
            twice(golden)
        } else {
            golden
        };
        let options = CompileOptions {
            sharded,
            recompute,
            ..options(&golden, layers, 2)
        };
        reaches_the_golden_weights(&golden, &options, 32);
    }
}

#[test]
fn half_precision_stays_in_the_bands_of_the_reference() {
    let golden = twice(Golden::load("tiny").by_rows().divided(2));
    let mixed = json(&golden.folder.join("mixed.json"));
    let steps = golden.hyper("").steps;
    for (random, replicas) in [(false, 1), (true, 1), (false, 2)] {
        let precision = PrecisionSettings {
            stochastic_rounding: random,
            ..PrecisionSettings::of(Precision::Recipe)
        };
        let options = CompileOptions {
            recompute: Recompute::EveryLayer,
            half_partials: true,
            stochastic_rounding: random,
            ..options(&golden, &[0, 2], replicas)
        };
        let program = compiled(&golden, precision, &options, 64);
        let (_, found) = train(&golden, program, &FAST, steps, 16384.0);
        let band = match random {
            true => "band_fp16_stochastic",
            false => "band_fp16_weights",
        };
        for (step, (loss, norm)) in found.into_iter().enumerate() {
            let bound = |end: &str| mixed[band][end][step].as_f64().expect("band");
            let (low, high) = (bound("low"), bound("high"));
            assert!(
                (low..=high).contains(&loss),
                "{random} {replicas} step {step}: {loss} is not in {low}..{high}"
            );
            assert!(norm.is_finite());
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_schedule() {
    let golden = Golden::load("tiny").by_rows().divided(2);
    let options = CompileOptions {
        recompute: Recompute::EveryLayer,
        ..options(&golden, &[0, 2], 1)
    };
    let weights = |engine: EngineOptions| {
        let program = compiled(&golden, PrecisionSettings::default(), &options, 48);
        let (session, _) = train(&golden, program, &engine, 3, 1.0);
        session.weights(&golden.config).expect("weights")
    };
    let reference = weights(FAST);
    for threads in [1, 2] {
        for schedule in [Schedule::Fast, Schedule::Strict, Schedule::Poisoned] {
            let engine = EngineOptions {
                threads,
                schedule,
                ..FAST
            };
            assert!(weights(engine) == reference, "{engine:?}");
        }
    }
}

/// Every member owns its part of all that belongs to a divided weight, and nothing of the others'.
#[test]
fn a_member_has_its_part_of_weights_and_moments_only() {
    let golden = Golden::load("tiny").by_rows().divided(2);
    let options = options(&golden, &[0, 1, 1], 1);
    let program = compiled(&golden, PrecisionSettings::default(), &options, 64);
    let width = golden.config.n_embd;
    for (weight, shape) in [
        ("attn.c_attn.weight", vec![width, 3 * width / 2]),
        ("attn.c_attn.bias", vec![3 * width / 2]),
        ("attn.c_proj.weight", vec![width / 2, width]),
        ("mlp.c_fc.weight", vec![width, 2 * width]),
        ("mlp.c_proj.weight", vec![2 * width, width]),
    ] {
        for (layer, first) in [(0, 2), (1, 4)] {
            for prefix in ["", "accum.", "exp_avg.", "exp_avg_sq."] {
                let name = format!("{prefix}h.{layer}.{weight}");
                let found: Vec<(String, IpuId)> = program
                    .states
                    .iter()
                    .filter(|s| s.name.starts_with(&format!("{name}.")))
                    .map(|s| {
                        let variable = program.variable(s.variable);
                        assert_eq!(variable.ty.shape.dims(), shape, "{}", s.name);
                        (s.name.clone(), program.grid(variable.grid).ipu)
                    })
                    .collect();
                let expected = [0, 1].map(|m| (format!("{name}.{m}"), IpuId(first + m)));
                assert_eq!(found, expected);
            }
        }
    }
    // What is not divided is on the first member.
    let of_norms = program.states.iter().filter(|s| s.name.contains("h.1.ln_"));
    for state in of_norms {
        assert_eq!(
            program.grid_of(state.variable).ipu,
            IpuId(4),
            "{}",
            state.name
        );
    }
    let optimiser = |s: &&superstep_ir::program::State| s.kind == StateKind::OptimiserState;
    assert!(program.states.iter().any(|s| optimiser(&s)));
}

/// Inside of a stage a group syncs by itself, and each member's account has the links.
#[test]
fn members_pass_each_other_whole_activations() {
    let golden = Golden::load("tiny").by_rows().divided(2);
    let options = options(&golden, &[0, 1, 1], 1);
    let program = compiled(&golden, PrecisionSettings::default(), &options, 64);
    let activation = (golden.seq * golden.config.n_embd * 4) as u64;
    let ipu = |v| program.grid_of(v).ipu.0;
    let mut crossing = Vec::new();
    let mut groups = 0;
    program.walk(&mut |step, _| match step {
        Step::Sync(Sync::Group { first, count }) => {
            groups += 1;
            assert_eq!((first.0 % 2, *count), (0, 2));
        }
        Step::Exchange(exchange) if exchange.name.contains(".round.") => {
            for m in &exchange.moves {
                assert_eq!(ipu(m.source) / 2, ipu(m.destination) / 2);
                let bytes = program.variable(m.source).ty.bytes() as u64;
                if bytes >= activation {
                    assert_eq!(bytes, activation, "{}", exchange.name);
                    crossing.push((ipu(m.source), ipu(m.destination)));
                }
            }
        }
        _ => {}
    });
    crossing.sort_unstable();
    // Forward, of each of two layers: the normal to the second member and its part of the sum back, for attention and MLP. Backward the
    // gradient and its part of the sum back, likewise; that of the layer behind comes to both members of the first group from there.
    let all = |from, to, times| vec![(from, to); times];
    assert_eq!(
        crossing,
        [all(2, 3, 3), all(3, 2, 4), all(4, 5, 4), all(5, 4, 4)].concat()
    );
    let time = timeline(&program);
    let beat = time.procedure("micro_batch.main").expect("a beat");
    let links: Vec<u64> = beat
        .ipus
        .iter()
        .map(|ipu| ipu.get(superstep_runtime::timeline::Cause::Links))
        .collect();
    assert_eq!(links[..2], [0, 0]);
    assert!(links[2] > 0 && links[2] < links[4], "{links:?}");
    assert_eq!((links[2], links[4]), (links[3], links[5]));
    assert!(groups > 0);
    // By hand: seven and eight activations, each over the four links of a rung.
    let by_hand = |n: f64| n * activation as f64 / (4.0 * 14.6e9) * time.clock_hz;
    for (group, n) in [(2, 7.0), (4, 8.0)] {
        let ratio = links[group] as f64 / by_hand(n);
        assert!((0.95..1.1).contains(&ratio), "{ratio}");
    }
}

#[test]
fn groups_are_found_where_layers_are_left_open() {
    let golden = Golden::load("tiny").by_rows().divided(2);
    let found = |kib: u32, ipus: u32| {
        let open = CompileOptions {
            layers_per_ipu: None,
            ..options(&golden, &[], 1)
        };
        let machine = Machine {
            tile_memory: kib << 10,
            ..machine(ipus, 8)
        };
        let module = golden.training_module(&golden.hyper(""), 1);
        let compiled = compile(module, &machine, &open, vec![]);
        compiled.map(|c| (c.layers_per_ipu, c.program.ipus))
    };
    assert_eq!(found(624, 6).expect("fits"), (vec![2], 2));
    assert_eq!(found(144, 6).expect("fits"), (vec![0, 2], 4));
    assert_eq!(found(120, 6).expect("fits"), (vec![0, 1, 1], 6));
    assert!(found(120, 4).is_err());
}

fn refused(golden: &Golden, options: CompileOptions, ipus: u32) -> StageError {
    let module = golden.training_module(&golden.hyper(""), 1);
    match compile(module, &machine(ipus, 64), &options, vec![]) {
        Err(CompileError::Placement(PlacementError::Stage(error))) => error,
        outcome => panic!("{:?}", outcome.map(|c| c.layers_per_ipu)),
    }
}

#[test]
fn groups_need_ipus_layers_and_a_pipeline() {
    let golden = Golden::load("tiny").by_rows().divided(2);
    let given = || options(&golden, &[0, 1, 1], 1);
    let error = refused(&golden, given(), 5);
    assert!(
        matches!(
            error,
            StageError::TooManyGroups {
                named: 3,
                members: 2,
                ipus: 5,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("3 groups of 2 IPUs, which are 6") && text.ends_with("has 5"),
        "{text}"
    );
    let open = CompileOptions {
        layers_per_ipu: None,
        ipus_per_replica: Some(1),
        ..given()
    };
    assert_eq!(
        refused(&golden, open.clone(), 6).to_string(),
        "ipus_per_replica is 1, which are no whole groups of 2 IPUs"
    );
    let open = CompileOptions {
        ipus_per_replica: None,
        ..open
    };
    assert_eq!(
        refused(&golden, open, 1).to_string(),
        "a group of 2 IPUs does not fit: mk2 has 1"
    );
    let in_turn = CompileOptions {
        pipelined: false,
        ..given()
    };
    assert_eq!(
        refused(&golden, in_turn, 6),
        StageError::GroupsWithoutPipeline { members: 2 }
    );
}
