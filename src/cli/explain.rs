//! `superstep explain`: why a product is executed as it is; the plans of a program; the products of GPT-2 against default settings.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use superstep_ir::graph::Module;
use superstep_ir::machine::Machine;
use superstep_ir::program::Program;
use superstep_ir::text;
use superstep_ir::types::DType;
use superstep_ir::verify::verify_graph;
use superstep_passes::place::{PlacementOptions, place};
use superstep_passes::plan::PlanBook;
use superstep_passes::plan::matmul::{MatmulProblem, PlanStyle, PlannedProduct};

use super::model_options::ModelOptions;
use super::output::{check_writable_file, say};
use super::program_options::parse_style;
use crate::atomic_file;
use crate::compile::{machine_named, open};
use crate::error::Error;
use crate::explain::shapes::{DEFAULT_PROPORTION, gpt2_shapes};
use crate::explain::steps::{op_steps, print, similar_ops};
use crate::explain::{lone_product, planned_product, terminal};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// An executable, or a graph in textual form (FILE.ir).
    #[arg(conflicts_with_all = ["matmul", "model_name_or_path"])]
    file: Option<PathBuf>,
    /// The op to explain, such as h.0.mlp.c_fc.
    #[arg(long = "op", value_name = "NAME", requires = "file")]
    op: Option<String>,
    /// A product by itself: [M, K] times [K, N].
    #[arg(long = "matmul", value_name = "M,K,N", value_parser = parse_extents, conflicts_with = "model_name_or_path")]
    matmul: Option<Extents>,
    #[command(flatten)]
    model: ModelOptions,
    /// Element types: f32, f16.32 (f16 with f32 partial sums) or f16.16.
    #[arg(long = "dtype", value_name = "TYPES", value_parser = parse_types, default_value = "f16.16")]
    dtype: Types,
    /// How the product may be executed: auto, gather or shift.
    #[arg(long = "plan", alias = "matmul_plan", value_name = "STYLE", value_parser = parse_style, default_value = "auto")]
    plan: PlanStyle,
    /// Machine: mk2, pod4, …, or a file that describes one; behind it what differs, as in pod4,tiles_per_ipu=256.
    #[arg(
        long = "machine",
        value_name = "NAME|FILE.toml[,KEY=VALUE…]",
        default_value = "mk2"
    )]
    machine: String,
    /// Share of tile memory that the product may use for operands and partials.
    #[arg(long = "available_memory_proportion", value_name = "X", value_parser = parse_share, default_value_t = DEFAULT_PROPORTION)]
    available_memory_proportion: f64,
    /// Tokens of a sample, for the products of a model [default: the model's n_positions, at most 1024].
    #[arg(long = "block_size", value_name = "N")]
    block_size: Option<usize>,
    /// Also write the explanation as JSON (`-` for standard output, instead of the text).
    #[arg(long = "json", value_name = "OUT")]
    json: Option<PathBuf>,
}

/// Extents of a product.
#[derive(Clone, Copy, Debug)]
struct Extents([usize; 3]);

/// Element types of operands and partial sums.
#[derive(Clone, Copy, Debug)]
struct Types([DType; 2]);

impl Options {
    pub(super) fn run(&self) -> Result<(), Error> {
        if let Some(out) = self.json.as_deref().filter(|out| out.as_os_str() != "-") {
            check_writable_file(out)?;
        }
        match (&self.file, self.matmul) {
            (Some(file), _) => self.file(file),
            (None, Some(Extents(extents))) => self.product(extents),
            (None, None) if self.model.is_given() => self.shapes(),
            (None, None) => Err(Error::usage(
                "nothing to explain: give an executable, a FILE.ir, --matmul M,K,N, or --model_name_or_path gpt2",
            )),
        }
    }

    fn product(&self, extents: [usize; 3]) -> Result<(), Error> {
        let machine = machine_named(Some(&self.machine))?;
        let Types([input, partials]) = self.dtype;
        let problem = MatmulProblem::plain(extents, input, partials);
        let budget = (f64::from(machine.tile_memory) * self.available_memory_proportion) as u64;
        let explanation = lone_product(&machine, &problem, budget, self.plan);
        self.put(&explanation, || terminal::product(&explanation))
    }

    fn shapes(&self) -> Result<(), Error> {
        let machine = machine_named(Some(&self.machine))?;
        let config = self.model.load()?.config;
        let rows = config.block_size(self.block_size)?;
        let shapes = gpt2_shapes(&machine, &config, rows, self.dtype.0);
        self.put(&shapes, || terminal::shapes(&shapes, &machine))
    }

    fn file(&self, file: &Path) -> Result<(), Error> {
        let is_text = file.extension().is_some_and(|e| e == "ir");
        let (program, products) = if is_text {
            self.graph(file)?
        } else {
            let compiled = open(file)?;
            (compiled.program, compiled.manifest.products)
        };
        let Some(op) = &self.op else {
            return self.put(&products, || terminal::products(&products));
        };
        let Some(steps) = op_steps(&program, op) else {
            let similar = similar_ops(&program, op);
            let error = Error::failed(format!("the program has no op `{op}`"));
            return Err(match similar.is_empty() {
                true => error.with_hint("`superstep report FILE --each` lists the ops"),
                false => error.with_hint(format!("perhaps {}", similar.join(", "))),
            });
        };
        let product = products
            .iter()
            .find(|p| p.op == *op)
            .map(|p| planned_product(&program.machine, p));
        let explained = Explained { product, steps };
        self.put(&explained, || {
            let product = explained.product.as_ref().map(terminal::product);
            let parts = product.into_iter().chain([print(&explained.steps)]);
            parts.collect::<Vec<_>>().join("\n\n")
        })
    }

    /// A graph in textual form, placed on the machine.
    fn graph(&self, file: &Path) -> Result<(Program, Vec<PlannedProduct>), Error> {
        let shown = file.display();
        let source = std::fs::read_to_string(file)
            .map_err(|error| Error::failed(format!("cannot read {shown}: {error}")))?;
        let mut module = text::parse_module(&source)
            .map_err(|error| Error::failed(format!("{shown}: {error}")))?;
        for graph in &module.graphs {
            verify_graph(graph).map_err(|errors| Error::failed(format!("{shown}: {errors}")))?;
        }
        check_graphs(&mut module, file)?;
        let machine: Machine = machine_named(Some(&self.machine))?;
        let options = PlacementOptions {
            matmul_plan: self.plan,
            ..PlacementOptions::default()
        };
        let placed = place(&module, &machine, &options, &mut PlanBook::new(&machine))
            .map_err(|error| Error::failed(format!("{shown}: {error}")))?;
        Ok((placed.program, placed.products))
    }

    fn put(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Error> {
        let json = || {
            serde_json::to_string_pretty(value).map_err(|error| Error::failed(error.to_string()))
        };
        match &self.json {
            Some(out) if out.as_os_str() == "-" => say(json()?),
            Some(out) => {
                say(text());
                atomic_file::write(out, json()?.as_bytes())?;
            }
            None => say(text()),
        }
        Ok(())
    }
}

/// An op of a program.
#[derive(Serialize)]
struct Explained {
    /// If it is a product.
    product: Option<crate::explain::ProductExplanation>,
    steps: crate::explain::steps::OpSteps,
}

/// A single graph is taken for a forward pass, whatever its name.
fn check_graphs(module: &mut Module, file: &Path) -> Result<(), Error> {
    let training = module.graph("micro_batch").is_some() && module.graph("update").is_some();
    match module.graphs.as_mut_slice() {
        _ if training => Ok(()),
        [only] => {
            only.name = "forward".into();
            Ok(())
        }
        graphs => Err(Error::failed(format!(
            "{} has {} graphs: explain takes one, or a training module with `micro_batch` and `update`",
            file.display(),
            graphs.len()
        ))),
    }
}

/// The largest extent of a product: beyond it no arithmetic on sizes is safe, and no machine has the memory.
const LARGEST: usize = 1 << 24;

fn parse_extents(text: &str) -> Result<Extents, String> {
    let extents: Vec<usize> = text
        .split([',', 'x'])
        .map(|part| part.trim().parse::<usize>())
        .collect::<Result<_, _>>()
        .map_err(|_| "three whole numbers are needed, such as 1024,768,3072".to_string())?;
    let extents: [usize; 3] = extents
        .try_into()
        .map_err(|_| "three numbers are needed: M,K,N".to_string())?;
    match extents.iter().all(|&e| (1..=LARGEST).contains(&e)) {
        true => Ok(Extents(extents)),
        false => Err(format!("extents are from 1 to {LARGEST}")),
    }
}

fn parse_types(text: &str) -> Result<Types, String> {
    match text {
        "f32" | "f32.32" => Ok(Types([DType::F32, DType::F32])),
        "f16.32" => Ok(Types([DType::F16, DType::F32])),
        "f16.16" | "f16" => Ok(Types([DType::F16, DType::F16])),
        _ => Err("must be f32, f16.32 or f16.16".into()),
    }
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("must be more than 0 and at most 1".into()),
    }
}
