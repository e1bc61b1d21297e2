//! What an executable is and costs: one model of the report, several faces.
//!
//! Everything is computed from the executable and its timeline; nothing is compiled again. The JSON face is this model as it
//! stands, so its field names are a promise.

pub mod classes;
pub mod code;
pub mod efficiency;
pub mod evaluation;
pub mod format;
pub mod losses;
pub mod memory;
pub mod pace;
pub mod pod;
mod pod_tables;
pub mod published;
pub mod sensitivity;
pub mod steps;
pub mod terminal;
pub mod time;

use serde::Serialize;
use superstep_ir::program::Program;
use superstep_ir::program::cost::moves::DistinctMoves;
use superstep_ir::program::footprint::Footprint;
use superstep_runtime::timeline::timeline_with;

use crate::compile::Compiled;
use crate::error::Error;
use crate::manifest::{Manifest, PassTime};
use classes::OpClass;
use code::CodeReport;
use efficiency::EfficiencyReport;
use memory::MemoryReport;
use pod::PodReport;
use time::{OpReport, TimeReport};

/// The name and version of the JSON form.
pub const SCHEMA: &str = "superstep.report/1";

/// All that is known about an executable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub schema: &'static str,
    pub model: ModelReport,
    pub machine: MachineReport,
    pub pod: PodReport,
    pub memory: MemoryReport,
    /// What lies on tiles besides variables.
    pub code: CodeReport,
    pub time: TimeReport,
    /// Where the cycles go, and how far from its bounds the step is.
    pub efficiency: EfficiencyReport,
    /// Ops without the numbers of their layers, the most cycles first.
    pub classes: Vec<OpClass>,
    /// One entry an op and IPU, the most cycles first.
    pub ops: Vec<OpReport>,
    pub passes: Vec<PassTime>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelReport {
    pub name: String,
    pub parameters: u64,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_embd: usize,
    pub vocab_size: usize,
    /// Slices of the vocabulary in which the head works.
    pub embedding_serialization_factor: usize,
    /// Entries of the vocabulary with the padding that makes the slices equal.
    pub padded_vocab_size: usize,
    /// Tokens of a sample.
    pub block_size: usize,
    /// Samples of a micro-batch.
    pub per_device_train_batch_size: usize,
    /// Micro-batches of an optimiser step.
    pub gradient_accumulation_steps: u32,
    pub optimiser: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineReport {
    pub name: String,
    pub tiles_per_ipu: u32,
    /// IPUs of the machine, used or not.
    pub ipus: u32,
    pub clock_hz: f64,
    /// Bytes of a tile.
    pub tile_memory: u32,
    /// Bytes of a tile that stay free.
    pub reserved_bytes: u32,
}

impl Report {
    pub fn new(compiled: &Compiled) -> Result<Report, Error> {
        let Compiled { manifest, program } = compiled;
        let moves = DistinctMoves::of(program);
        let timeline = timeline_with(program, &moves);
        let classes = classes::classes(program, &timeline);
        let memory = MemoryReport::new(program);
        let bound = classes.iter().map(|class| class.roofline.bound).sum();
        Ok(Report {
            schema: SCHEMA,
            model: model(manifest)?,
            machine: machine(program),
            pod: PodReport::new(program, manifest, &timeline)?,
            code: CodeReport::new(program, &Footprint::of(program, &moves), &memory),
            memory,
            time: TimeReport::new(&timeline, manifest),
            efficiency: EfficiencyReport::new(program, &timeline, bound),
            classes,
            ops: time::ops(program, &timeline),
            passes: manifest.passes.clone(),
        })
    }

    /// The JSON face, with a final newline.
    pub fn to_json(&self) -> String {
        // Plain structs of numbers and text: there is nothing in them that JSON lacks.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

fn model(manifest: &Manifest) -> Result<ModelReport, Error> {
    let config = manifest.model_config()?;
    Ok(ModelReport {
        name: manifest.model.clone(),
        parameters: config.parameter_count() as u64,
        n_layer: config.n_layer,
        n_head: config.n_head,
        n_embd: config.n_embd,
        vocab_size: config.vocab_size,
        embedding_serialization_factor: manifest.embedding_serialization_factor,
        padded_vocab_size: manifest.vocabulary(config.vocab_size).padded(),
        block_size: manifest.block_size,
        per_device_train_batch_size: manifest.per_device_train_batch_size,
        gradient_accumulation_steps: manifest.gradient_accumulation_steps,
        optimiser: manifest.optimiser.kind.name(),
    })
}

fn machine(program: &Program) -> MachineReport {
    let machine = &program.machine;
    MachineReport {
        name: machine.name.clone(),
        tiles_per_ipu: machine.tiles_per_ipu,
        ipus: machine.ipus,
        clock_hz: machine.clock_hz,
        tile_memory: machine.tile_memory,
        reserved_bytes: machine.reserved_bytes,
    }
}
