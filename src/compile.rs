//! From a model and settings to a program, and from a program to a file and back: the road of the compiler, end to end.

use std::collections::BTreeSet;

use superstep_ir::graph::{Graph, Module};
use superstep_ir::machine::Machine;
use superstep_ir::program::Program;
use superstep_ir::text::print_graph;
use superstep_passes::Pass;
use superstep_passes::compile::{CompileOptions, Compiled as Placed, compile_by_book};
use superstep_passes::instrument::{Instrument, PrintIr, PrintWhen};
use superstep_passes::pass::PassContext;
use superstep_passes::pipeline;
use superstep_passes::plan::PlanBook;
use superstep_passes::tensor_parallel::TensorParallel;
use superstep_passes::training::{Moments, Optimiser, TrainingOptions, training_module};

use crate::error::Error;
use crate::frontend::model::{
    CacheShape, GraphOptions, gpt2_decode_graph, gpt2_graph, gpt2_prefill_graph,
};
use crate::frontend::{Gpt2Config, VocabularySlices};
use crate::manifest::{Manifest, PassTime};
use crate::precision::Precision;
use crate::settings::{EvaluationSettings, OptimiserKind, OptimiserSettings, TrainingSettings};

mod cache;
mod compiler;
mod file;
mod loss_chunks;
mod machine;
mod plan_cache;
pub mod remedies;
#[cfg(test)]
mod testing;

pub use cache::{ExecutableCache, Origin};
pub use file::{open, save};
pub use machine::{changed, machine_named};
pub use plan_cache::PlanCache;

/// A program and what it says about itself: what an executable file holds.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub manifest: Manifest,
    pub program: Program,
}

/// Where graphs go that the user asked to see.
pub trait IrSink {
    fn graph(&mut self, pass: &str, text: &str);
}

/// Shows no graph.
pub struct NoGraphs;

impl IrSink for NoGraphs {
    fn graph(&mut self, _: &str, _: &str) {}
}

/// Weights of fewer elements are updated by every replica (PopART's default threshold of replicated tensor sharding).
const SHARDING_THRESHOLD: usize = 8192;

/// Compiles the training step of a model: all micro-batches and the update.
pub fn compile_training(
    name: &str,
    config: &Gpt2Config,
    settings: &TrainingSettings,
    plans: &PlanCache,
    sink: &mut dyn IrSink,
) -> Result<Compiled, Error> {
    let mut book = plans.open(&settings.machine);
    let fitted = loss_chunks::fit(config, settings, &mut book, sink);
    plans.keep(book);
    let (placed, loss_chunks) = fitted?;
    let manifest = Manifest {
        kind: Manifest::TRAINING.into(),
        model: name.into(),
        config: serde_json::from_str(&config.to_json())
            .map_err(|e| Error::failed(e.to_string()))?,
        block_size: settings.block_size,
        per_device_train_batch_size: settings.batch_size,
        gradient_accumulation_steps: settings.accumulation,
        optimiser: settings.optimiser,
        precision: settings.precision,
        layers_per_ipu: placed.layers_per_ipu.clone(),
        tensor_parallel: settings.tensor_parallel,
        pipelined: settings.pipelined && placed.program.ipus > 1,
        recompute: settings.recompute.clone(),
        replicas: settings.replicas,
        sharded: settings.sharded,
        loss_chunks,
        embedding_serialization_factor: settings.head_slices,
        passes: pass_times(&placed),
        products: placed.products.clone(),
    };
    Ok(Compiled {
        manifest,
        program: placed.program,
    })
}

fn compile_with(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    loss_chunks: usize,
    book: &mut PlanBook,
    sink: &mut dyn IrSink,
) -> Result<Placed, Error> {
    check_padding(config, settings)?;
    let options = GraphOptions {
        batch: settings.batch_size,
        seq: settings.block_size,
        labels: true,
        logits: false,
        dropout: true,
        loss_chunks,
        vocabulary: settings.vocabulary(config.vocab_size),
    };
    let mut forward = gpt2_graph(config, options)?;
    divide_layers(config, settings.tensor_parallel, &mut forward)?;
    let precision = settings.precision;
    precision
        .precision
        .apply(&mut forward, precision.master_weights)?;
    let module = training_module(&forward, &training_options(config, settings, &forward))?;
    run_passes(module, settings, book, sink)
}

/// Compiles the forward passes of a call of the host, each with a loss.
pub fn compile_evaluation(
    config: &Gpt2Config,
    settings: &EvaluationSettings,
    plans: &PlanCache,
) -> Result<Program, Error> {
    let (machine, precision) = (&settings.machine, settings.precision);
    let (batch, seq) = (settings.batch_size, settings.block_size);
    let rows = batch.saturating_mul(seq);
    let loss_chunks = loss_chunks::by_size(rows, config.vocab_size, machine, precision);
    let options = GraphOptions {
        batch,
        seq,
        labels: true,
        logits: false,
        dropout: false,
        loss_chunks,
        vocabulary: VocabularySlices::new(config.vocab_size, settings.head_slices, 1),
    };
    let mut graphs = vec![gpt2_graph(config, options)?];
    divide_layers(config, settings.tensor_parallel, &mut graphs[0])?;
    let placement = CompileOptions {
        layers_per_ipu: settings.layers_per_ipu.clone(),
        tensor_parallel: settings.tensor_parallel,
        ipus_per_replica: settings.ipus_per_replica,
        gradient_accumulation_steps: settings.device_iterations,
        pipelined: settings.pipelined,
        replicas: settings.replicas,
        matmul_proportion: settings.matmul_proportion.clone(),
        ..CompileOptions::default()
    };
    compile_inference(graphs, machine, precision, placement, plans)
}

/// Compiles the two parts of generation into one program that has the weights and the cache once: `prefill` and `decode`.
pub fn compile_generation(
    config: &Gpt2Config,
    machine: &Machine,
    precision: Precision,
    shape: CacheShape,
    plans: &PlanCache,
) -> Result<Program, Error> {
    let graphs = vec![
        gpt2_prefill_graph(config, shape)?,
        gpt2_decode_graph(config, shape)?,
    ];
    compile_inference(graphs, machine, precision, CompileOptions::default(), plans)
}

fn compile_inference(
    mut graphs: Vec<Graph>,
    machine: &Machine,
    precision: Precision,
    placement: CompileOptions,
    plans: &PlanCache,
) -> Result<Program, Error> {
    for graph in &mut graphs {
        precision.apply(graph, false)?;
    }
    let options = CompileOptions {
        half_partials: precision.has_half_partials(),
        ..placement
    };
    let module = Module { graphs };
    let mut book = plans.open(machine);
    let compiled = compile_by_book(module, machine, &options, &mut book, Vec::new());
    plans.keep(book);
    Ok(compiled.map_err(Box::new)?.program)
}

fn run_passes(
    module: Module,
    settings: &TrainingSettings,
    book: &mut PlanBook,
    sink: &mut dyn IrSink,
) -> Result<Placed, Error> {
    let options = CompileOptions {
        layers_per_ipu: settings.layers_per_ipu.clone(),
        tensor_parallel: settings.tensor_parallel,
        pipelined: settings.pipelined,
        recompute: settings.recompute.clone(),
        replicas: settings.replicas,
        sharded: settings.sharded.then_some(SHARDING_THRESHOLD),
        gradient_accumulation_steps: settings.accumulation,
        matmul_plan: settings.matmul_plan,
        half_partials: settings.precision.precision.has_half_partials(),
        stochastic_rounding: settings.precision.stochastic_rounding,
        offchip: settings.offchip,
        ipus_per_replica: settings.ipus_per_replica,
        matmul_proportion: settings.matmul_proportion.clone(),
        serialise: settings.serialise.clone(),
    };
    let mut instruments: Vec<Box<dyn Instrument + '_>> = Vec::new();
    if let Some(when) = &settings.print_ir_after {
        let print = |pass: &str, _graph: &str, text: &str| sink.graph(pass, text);
        instruments.push(Box::new(PrintIr::new(
            print_when(when)?,
            print_graph,
            print,
        )));
    }
    Ok(
        compile_by_book(module, &settings.machine, &options, book, instruments)
            .map_err(Box::new)?,
    )
}

/// `all`, `changed`, or one of the passes that every graph goes through.
fn print_when(text: &str) -> Result<PrintWhen, Error> {
    let when = PrintWhen::parse(text);
    let mut names: Vec<&str> = pipeline::standard()
        .iter()
        .map(|pass| pass.name())
        .collect();
    names.sort_unstable();
    names.dedup();
    match &when {
        PrintWhen::After(pass) if !names.contains(&pass.as_str()) => Err(no_pass(text, &names)),
        _ => Ok(when),
    }
}

/// A pass that does not exist, and those that do.
pub fn no_pass(name: &str, known: &[&str]) -> Error {
    Error::failed(format!("there is no pass `{name}`"))
        .with_hint(format!("passes are {}", known.join(", ")))
}

fn training_options(
    config: &Gpt2Config,
    settings: &TrainingSettings,
    forward: &Graph,
) -> TrainingOptions {
    TrainingOptions {
        optimiser: optimiser(&settings.optimiser),
        gradient_accumulation_steps: settings.accumulation,
        max_grad_norm: settings.optimiser.max_grad_norm,
        decayed: decayed(config, forward),
        numerics: settings.precision.numerics(),
    }
}

/// Entries of padding have neither gradient nor moments: Adam would divide 0 by 0, and what is no number gets into every product.
fn check_padding(config: &Gpt2Config, settings: &TrainingSettings) -> Result<(), Error> {
    let optimiser = &settings.optimiser;
    let divides = optimiser.kind != OptimiserKind::Sgd && optimiser.epsilon == 0.0;
    let padding = settings.vocabulary(config.vocab_size).padding();
    if divides && padding > 0 {
        let slices = settings.head_slices;
        return Err(Error::failed(format!(
            "a vocabulary of {} in {slices} slices is padded, which --adam_epsilon 0 does not allow",
            config.vocab_size
        ))
        .with_hint(
            "give a positive --adam_epsilon, or an --embedding_serialization_factor that divides the vocabulary",
        ));
    }
    Ok(())
}

/// Names of the states that decay: of a parameter that is kept in parts, each.
fn decayed(config: &Gpt2Config, forward: &Graph) -> BTreeSet<String> {
    let parameters = config.parameters().into_iter().filter(|p| p.decayed);
    let names: BTreeSet<String> = parameters.map(|p| p.name).collect();
    let whole = |state: &str| match state.rsplit_once('.') {
        Some((name, part)) if part.bytes().all(|b| b.is_ascii_digit()) => names.contains(name),
        _ => names.contains(state),
    };
    let states = forward.parameters().map(|(_, state, _, _)| state);
    states.filter(|s| whole(s)).map(str::to_owned).collect()
}

/// Divides the layers of a model over groups of IPUs.
fn divide_layers(config: &Gpt2Config, members: u32, forward: &mut Graph) -> Result<(), Error> {
    for (what, n) in [
        ("attention heads", config.n_head),
        ("hidden columns of an MLP", config.n_inner),
    ] {
        if !n.is_multiple_of(members as usize) {
            let message = format!("{n} {what} cannot be divided over {members} IPUs");
            return Err(Error::failed(message).with_hint(
                "give a --tensor_parallel that divides the model's n_head and n_inner",
            ));
        }
    }
    let pass = TensorParallel { members };
    pass.run(forward, &mut PassContext::new())
        .map_err(|error| Error::failed(error.to_string()))
}

fn optimiser(settings: &OptimiserSettings) -> Optimiser {
    let weight_decay = settings.weight_decay;
    let moments = Moments {
        beta1: settings.beta1,
        beta2: settings.beta2,
        epsilon: settings.epsilon,
        bias_correction: settings.bias_correction,
    };
    match settings.kind {
        OptimiserKind::Adamw => Optimiser::AdamW {
            moments,
            weight_decay,
        },
        OptimiserKind::Adam => Optimiser::Adam {
            moments,
            weight_decay,
        },
        OptimiserKind::Sgd => Optimiser::Sgd {
            momentum: 0.0,
            weight_decay,
        },
    }
}

/// Seconds by pass, over all graphs, in the order of first use.
fn pass_times(placed: &Placed) -> Vec<PassTime> {
    let mut times: Vec<PassTime> = Vec::new();
    let graph_passes = placed.passes.iter().map(|pass| (pass.name, pass.seconds));
    for (name, seconds) in graph_passes.chain(placed.placement_seconds.iter().copied()) {
        match times.iter_mut().find(|time| time.name == name) {
            Some(time) => time.seconds += seconds,
            None => times.push(PassTime {
                name: name.into(),
                seconds,
            }),
        }
    }
    times
}
