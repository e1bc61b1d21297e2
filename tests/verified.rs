//! Compiled programs keep the invariants of programs, and the graphs of every stage those of graphs.

mod support;

use std::time::Instant;

use superstep::frontend::VocabularySlices;
use superstep::frontend::model::{GraphOptions, gpt2_graph};
use superstep::frontend::preset;
use superstep_ir::machine::Machine;
use superstep_ir::program::{Program, Step};
use superstep_ir::verify::{verify_graph, verify_program};
use superstep_passes::instrument::Verify;
use superstep_passes::plan::matmul::PlanStyle;
use superstep_passes::training::{
    Moments, Numerics, Optimiser, TrainingOptions, matrices, training_module,
};
use superstep_passes::{CompileOptions, Compiled, compile};
use support::{Golden, machine};

/// The first few complaints of the verifier.
fn program_errors(program: &Program) -> Vec<String> {
    let errors = verify_program(program).err();
    errors
        .iter()
        .flat_map(|e| &e.0)
        .take(5)
        .map(ToString::to_string)
        .collect()
}

fn compiled_and_verified(golden: &Golden, layers: &[u32], tiles: u32) -> Compiled {
    let module = golden.training_module(&golden.hyper(""), 2);
    let options = CompileOptions {
        layers_per_ipu: Some(layers.to_vec()),
        gradient_accumulation_steps: 4,
        matmul_plan: PlanStyle::Auto,
        ..CompileOptions::default()
    };
    let check = Verify(|graph: &_| {
        verify_graph(graph)
            .err()
            .iter()
            .flat_map(|e| &e.0)
            .map(ToString::to_string)
            .collect()
    });
    let machine = machine(layers.len() as u32, tiles);
    let compiled = compile(module, &machine, &options, vec![Box::new(check)])
        .unwrap_or_else(|e| panic!("{e}"));
    let errors = program_errors(&compiled.program);
    assert!(errors.is_empty(), "{errors:#?}");
    compiled
}

#[test]
fn programs_of_tiny_are_valid_on_any_number_of_ipus_and_tiles() {
    let golden = Golden::load("tiny");
    for layers in [&[2][..], &[1, 1], &[0, 1, 1, 0]] {
        for tiles in [1472, 101, 16] {
            compiled_and_verified(&golden, layers, tiles);
        }
    }
}

/// Each planted fault: an exchange that loses a move, an address on top of another variable.
#[test]
fn a_lost_message_and_a_wrong_address_are_found() {
    let golden = Golden::load("tiny");
    let program = compiled_and_verified(&golden, &[1, 1], 64).program;
    let mut lost = program.clone();
    let steps = lost.procedures.iter_mut().flat_map(|p| &mut p.steps);
    let exchange = steps
        .filter_map(|s| {
            if let Step::Exchange(e) = s {
                Some(e)
            } else {
                None
            }
        })
        .nth(20);
    exchange.expect("a program has exchanges").moves.pop();
    assert!(
        !program_errors(&lost).is_empty(),
        "a lost message is not noticed"
    );

    let mut wrong = program.clone();
    let weights = program
        .states
        .iter()
        .map(|s| s.variable.index())
        .collect::<Vec<_>>();
    wrong.variables[weights[0]].address = program.variables[weights[1]].address;
    assert!(
        !program_errors(&wrong).is_empty(),
        "a wrong address is not noticed"
    );
}

/// The whole of GPT-2 small on a pod: fits, is valid, and is accounted for without values.
#[test]
fn gpt2_small_compiles_for_a_pod_and_is_valid() {
    let config = preset("gpt2").expect("preset");
    let options = GraphOptions {
        batch: 1,
        seq: 1024,
        labels: true,
        logits: false,
        dropout: true,
        loss_chunks: 8,
        vocabulary: VocabularySlices::whole(config.vocab_size),
    };
    let forward = gpt2_graph(&config, options).expect("graph");
    let options = TrainingOptions {
        optimiser: Optimiser::AdamW {
            moments: Moments {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                bias_correction: true,
            },
            weight_decay: 0.01,
        },
        gradient_accumulation_steps: 1,
        max_grad_norm: None,
        decayed: matrices(&forward),
        numerics: Numerics::default(),
    };
    let module = training_module(&forward, &options).expect("module");
    let machine = Machine::preset("pod16").expect("preset");
    let compiled = compile(module, &machine, &CompileOptions::default(), vec![])
        .unwrap_or_else(|e| panic!("{e}"));
    let start = Instant::now();
    let errors = program_errors(&compiled.program);
    println!("verified in {:?}", start.elapsed());
    assert!(errors.is_empty(), "{errors:#?}");
    let start = Instant::now();
    let timeline = superstep_runtime::timeline::timeline(&compiled.program);
    println!(
        "timed in {:?}: {} cycles",
        start.elapsed(),
        timeline.procedure_cycles("micro_batch").unwrap_or(0)
    );
    let ideal = 0.875e12 / (machine.clock_hz * 1472.0 * 32.0) * machine.clock_hz;
    let got = timeline.procedure_cycles("micro_batch").unwrap_or(0) as f64;
    assert!(
        got > ideal && got < 10.0 * ideal,
        "{got} cycles of a micro-batch, {ideal} of arithmetic alone"
    );
}
