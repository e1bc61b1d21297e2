//! What to compile: machine, sizes, optimiser and placement, with Hugging Face's option names.
//!
//! Every option is optional here, because an executable, `ipu_config.json` or a default may stand behind it.

use clap::Args;
use superstep_ir::types::Real;
use superstep_passes::place::Recompute;
use superstep_passes::plan::matmul::PlanStyle;
use superstep_passes::serialise::Serialise;

use super::ipu_options::{IpuLayout, IpuOptions};
use super::layer_list::{LayerList, parse_layers};
use super::plan_cache_options::PlanCacheOptions;
use super::precision_options::PrecisionOptions;
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::manifest::Manifest;
use crate::settings::{OptimiserKind, OptimiserSettings, TrainingSettings};

/// Sizes and placement.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Program")]
pub(super) struct ProgramOptions {
    /// Machine: mk2, bow, c600, pod4, pod8, pod16, pod32, pod64, or a file that describes one; behind it what differs, as in pod4,tiles_per_ipu=256 [default: pod4].
    #[arg(long = "machine", value_name = "NAME|FILE.toml[,KEY=VALUE…]")]
    pub(super) machine: Option<String>,
    /// Tokens of a training sample [default: the model's n_positions, at most 1024].
    #[arg(long = "block_size", value_name = "N", value_parser = at_least_one::<usize>)]
    pub(super) block_size: Option<usize>,
    /// Samples of a micro-batch [default: 1].
    #[arg(long = "per_device_train_batch_size", value_name = "N", value_parser = at_least_one::<usize>)]
    pub(super) batch_size: Option<usize>,
    /// Micro-batches of an optimiser step [default: 1].
    #[arg(long = "gradient_accumulation_steps", value_name = "N", value_parser = at_least_one::<u32>)]
    pub(super) accumulation: Option<u32>,
    /// Decoder layers on each IPU, such as "[1 1]" [default: found by the compiler].
    #[arg(long = "layers_per_ipu", value_name = "LIST", value_parser = parse_layers)]
    pub(super) layers_per_ipu: Option<LayerList>,
    #[command(flatten)]
    pub(super) ipu: IpuOptions,
    /// Divide every layer over a group of N IPUs: each entry of --layers_per_ipu is a group then, a replica has N times as many IPUs [default: 1].
    #[arg(long = "tensor_parallel", value_name = "N", value_parser = at_least_one::<u32>)]
    pub(super) tensor_parallel: Option<u32>,
    /// All IPUs work at the same time, each on another micro-batch [default: true with --ipu_config_name, else false].
    #[arg(long = "pipeline", value_name = "true|false")]
    pub(super) pipeline: Option<bool>,
    /// Layers that run forward again before their backward pass: all, none, or a list such as "[0 3]"; "all keep [2 3]": all, but these keep
    /// what their products gave, other than scores [default: none].
    #[arg(long = "recompute", value_name = "all|none|LIST|all keep LIST", value_parser = parse_recompute)]
    pub(super) recompute: Option<Recompute>,
    /// Copies of the model, each with its own IPUs and micro-batches [default: 1].
    #[arg(long = "replication_factor", value_name = "N", value_parser = at_least_one::<u32>)]
    pub(super) replicas: Option<u32>,
    /// Share the optimiser state of large weights out over the replicas [default: false].
    #[arg(long = "replicated_tensor_sharding", value_name = "true|false")]
    pub(super) sharded: Option<bool>,
    /// Keep optimiser state in streaming memory; it visits the tiles for the update [default: false].
    #[arg(long = "optimizer_state_offchip", value_name = "true|false")]
    pub(super) offchip: Option<bool>,
    /// Compute the output head in N slices of the vocabulary, one after the other; it is padded to a multiple of N [default: 1].
    #[arg(long = "embedding_serialization_factor", value_name = "N", value_parser = at_least_one::<u32>)]
    pub(super) head_slices: Option<u32>,
    /// Make the products named OP (`*` stands for any text) in at least N slices, one after the other: "h.*.mlp.c_fc=2"; may be repeated.
    #[arg(long = "serialise", visible_alias = "serialize", value_name = "OP=N", value_parser = parse_serialise)]
    pub(super) serialise: Vec<Serialise>,
    /// How products are executed: gather (bring whole blocks), shift (rotate pieces round rings of tiles), auto [default: auto].
    #[arg(long = "matmul_plan", value_name = "auto|gather|shift", value_parser = parse_style)]
    pub(super) matmul_plan: Option<PlanStyle>,
    /// Row blocks in which the output head and the loss are computed [default: found by the compiler].
    #[arg(long = "loss_chunks", value_name = "N", value_parser = at_least_one::<usize>)]
    pub(super) loss_chunks: Option<usize>,
    /// Print the graph after this pass, or after `all`.
    #[arg(long = "print_ir_after", value_name = "PASS|all")]
    pub(super) print_ir_after: Option<String>,
    #[command(flatten)]
    pub(super) precision: PrecisionOptions,
    #[command(flatten)]
    pub(super) plan_cache: PlanCacheOptions,
}

/// The update rule, which is compiled into the program.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Optimiser")]
pub(super) struct OptimiserOptions {
    /// Update rule [default: adamw].
    #[arg(long = "optim", value_name = "NAME")]
    pub(super) optim: Option<OptimiserKind>,
    /// Decay of matrices; biases and layer norms do not decay [default: 0].
    #[arg(long = "weight_decay", value_name = "X", value_parser = at_least_zero)]
    pub(super) weight_decay: Option<f64>,
    /// Decay of the first moment [default: 0.9].
    #[arg(long = "adam_beta1", value_name = "X", value_parser = below_one)]
    pub(super) adam_beta1: Option<f64>,
    /// Decay of the second moment [default: 0.999].
    #[arg(long = "adam_beta2", value_name = "X", value_parser = below_one)]
    pub(super) adam_beta2: Option<f64>,
    /// Added to the root of the second moment [default: 1e-8].
    #[arg(long = "adam_epsilon", value_name = "X", value_parser = at_least_zero)]
    pub(super) adam_epsilon: Option<f64>,
    /// Divide Adam's moments by 1 − βᵗ [default: true].
    #[arg(long = "bias_correction", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) bias_correction: Option<bool>,
    /// Clip the gradient to this L2 norm [default: no clipping].
    #[arg(long = "max_grad_norm", value_name = "X", value_parser = above_zero)]
    pub(super) max_grad_norm: Option<f64>,
}

impl ProgramOptions {
    /// The IPU configuration, where one is named.
    pub(super) fn ipu_layout(&self, config: &Gpt2Config) -> Result<IpuLayout, Error> {
        let machine = self.ipu.machine(self.machine.as_deref())?;
        self.ipu.load(&machine, config, self.tensor_parallel)
    }

    /// The settings these options give for a model; the command line goes before the IPU configuration.
    pub(super) fn settings(
        &self,
        optimiser: &OptimiserOptions,
        config: &Gpt2Config,
        layout: &IpuLayout,
    ) -> Result<TrainingSettings, Error> {
        let ipu = &layout.settings;
        let batch_size = self.batch_size.unwrap_or(1);
        let accumulation = self
            .accumulation
            .or(ipu.gradient_accumulation_steps)
            .unwrap_or(1);
        Ok(TrainingSettings {
            machine: self.ipu.machine(self.machine.as_deref())?,
            block_size: config.block_size(self.block_size)?,
            batch_size,
            accumulation,
            optimiser: optimiser.settings(),
            precision: self
                .precision
                .settings(ipu.precision, ipu.auto_loss_scaling)?,
            layers_per_ipu: self
                .layers_per_ipu
                .clone()
                .map(|list| list.0)
                .or(ipu.layers_per_ipu.clone()),
            tensor_parallel: self.tensor_parallel.or(ipu.tensor_parallel).unwrap_or(1),
            ipus_per_replica: ipu.ipus_per_replica,
            pipelined: self.pipeline.unwrap_or(layout.config.is_some()),
            recompute: self.recompute.clone().unwrap_or({
                match ipu.recompute_every_layer {
                    true => Recompute::EveryLayer,
                    false => Recompute::Nothing,
                }
            }),
            replicas: self.replicas.or(ipu.replication_factor).unwrap_or(1),
            sharded: self
                .sharded
                .or(ipu.replicated_tensor_sharding)
                .unwrap_or(false),
            offchip: self
                .offchip
                .or(ipu.optimizer_state_offchip)
                .unwrap_or(false),
            matmul_proportion: ipu.matmul_proportion.iter().map(|&x| Real(x)).collect(),
            head_slices: self.head_slices.or(ipu.head_slices).unwrap_or(1) as usize,
            serialise: self.serialise.clone(),
            matmul_plan: self.matmul_plan.unwrap_or_default(),
            loss_chunks: self.loss_chunks,
            print_ir_after: self.print_ir_after.clone(),
        })
    }

    /// Refuses options that contradict a compiled program.
    pub(super) fn agree_with(&self, manifest: &Manifest, machine: &str) -> Result<(), Error> {
        agree("block_size", self.block_size, manifest.block_size)?;
        agree(
            "per_device_train_batch_size",
            self.batch_size,
            manifest.per_device_train_batch_size,
        )?;
        agree(
            "gradient_accumulation_steps",
            self.accumulation,
            manifest.gradient_accumulation_steps,
        )?;
        agree("loss_chunks", self.loss_chunks, manifest.loss_chunks)?;
        agree("machine", self.machine.clone(), machine.to_owned())?;
        for (option, given, compiled) in self.precision.given(&manifest.precision) {
            agree(option, given, compiled)?;
        }
        if let Some(LayerList(layers)) = &self.layers_per_ipu
            && *layers != manifest.layers_per_ipu
        {
            return Err(contradiction(
                "layers_per_ipu",
                &format!("{layers:?}"),
                &format!("{:?}", manifest.layers_per_ipu),
            ));
        }
        for (option, given) in [
            ("ipu_config_name", self.ipu.ipu_config_name.is_some()),
            ("pod_type", self.ipu.pod_type.is_some()),
            ("n_ipu", self.ipu.n_ipu.is_some()),
            ("tensor_parallel", self.tensor_parallel.is_some()),
            ("optimizer_state_offchip", self.offchip.is_some()),
            ("embedding_serialization_factor", self.head_slices.is_some()),
            ("serialise", !self.serialise.is_empty()),
            ("print_ir_after", self.print_ir_after.is_some()),
            ("matmul_plan", self.matmul_plan.is_some()),
            ("pipeline", self.pipeline.is_some()),
            ("recompute", self.recompute.is_some()),
            ("replication_factor", self.replicas.is_some()),
            ("replicated_tensor_sharding", self.sharded.is_some()),
        ] {
            if given {
                return Err(Error::usage(format!(
                    "--{option} is for compiling; the program of --executable is compiled already"
                )));
            }
        }
        Ok(())
    }
}

impl OptimiserOptions {
    fn settings(&self) -> OptimiserSettings {
        let default = OptimiserSettings::hugging_face();
        OptimiserSettings {
            kind: self.optim.unwrap_or(default.kind),
            weight_decay: self.weight_decay.unwrap_or(default.weight_decay),
            beta1: self.adam_beta1.unwrap_or(default.beta1),
            beta2: self.adam_beta2.unwrap_or(default.beta2),
            epsilon: self.adam_epsilon.unwrap_or(default.epsilon),
            bias_correction: self.bias_correction.unwrap_or(default.bias_correction),
            max_grad_norm: self.max_grad_norm,
        }
    }

    /// Refuses options that contradict the update rule of a compiled program.
    pub(super) fn agree_with(&self, compiled: &OptimiserSettings) -> Result<(), Error> {
        agree(
            "optim",
            self.optim.map(OptimiserKind::name),
            compiled.kind.name(),
        )?;
        agree("weight_decay", self.weight_decay, compiled.weight_decay)?;
        agree("adam_beta1", self.adam_beta1, compiled.beta1)?;
        agree("adam_beta2", self.adam_beta2, compiled.beta2)?;
        agree("adam_epsilon", self.adam_epsilon, compiled.epsilon)?;
        agree(
            "bias_correction",
            self.bias_correction,
            compiled.bias_correction,
        )?;
        match (self.max_grad_norm, compiled.max_grad_norm) {
            (Some(given), None) => Err(contradiction(
                "max_grad_norm",
                &given.to_string(),
                "absent: it does not clip",
            )),
            (given, Some(norm)) => agree("max_grad_norm", given, norm),
            (None, None) => Ok(()),
        }
    }
}

fn agree<T: PartialEq + std::fmt::Display>(
    option: &str,
    given: Option<T>,
    compiled: T,
) -> Result<(), Error> {
    match given {
        Some(given) if given != compiled => Err(contradiction(
            option,
            &given.to_string(),
            &compiled.to_string(),
        )),
        _ => Ok(()),
    }
}

fn contradiction(option: &str, given: &str, compiled: &str) -> Error {
    Error::failed(format!(
        "--{option} {given} contradicts the executable, which was compiled with {compiled}"
    ))
    .with_hint(format!("leave --{option} out, or compile again with it"))
}

/// A style of execution by its name.
pub(super) fn parse_style(text: &str) -> Result<PlanStyle, String> {
    PlanStyle::named(text).ok_or_else(|| "must be auto, gather or shift".into())
}

/// Products and slices.
fn parse_serialise(text: &str) -> Result<Serialise, String> {
    Serialise::parse(text)
        .ok_or_else(|| "must be an op and a number of slices, as in \"h.*.mlp.c_fc=2\"".into())
}

/// Which layers run forward again.
fn parse_recompute(text: &str) -> Result<Recompute, String> {
    match text {
        "all" => Ok(Recompute::EveryLayer),
        "none" => Ok(Recompute::Nothing),
        list => {
            let (kept, list) = match list.strip_prefix("all keep ") {
                Some(list) => (true, list),
                None => (false, list),
            };
            let LayerList(layers) = parse_layers(list).map_err(
                |_| "must be all, none, layer numbers as in \"[0 3]\", or as in \"all keep [2 3]\"",
            )?;
            let layers = layers.into_iter().collect();
            Ok(match kept {
                true => Recompute::ButProducts(layers),
                false => Recompute::Layers(layers),
            })
        }
    }
}

/// A number that a check accepts, or what it must be.
fn number(text: &str, accept: impl Fn(f64) -> bool, needs: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|&x: &f64| x.is_finite() && accept(x))
        .ok_or_else(|| format!("it must be {needs}"))
}

/// A count of something that must be there.
pub(super) fn at_least_one<T: std::str::FromStr + Default + PartialEq>(
    text: &str,
) -> Result<T, String> {
    text.parse()
        .ok()
        .filter(|n| *n != T::default())
        .ok_or_else(|| "it must be a whole number of at least 1".into())
}

pub(super) fn at_least_zero(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0, "a number of at least 0")
}

pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

pub(super) fn below_one(text: &str) -> Result<f64, String> {
    number(
        text,
        |x| (0.0..1.0).contains(&x),
        "a number of at least 0 and below 1",
    )
}

pub(super) fn ratio(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_name_both_values() {
        let error = agree("block_size", Some(7), 24).unwrap_err();
        assert!(
            error.to_string().contains("--block_size 7 contradicts"),
            "{error}"
        );
        assert!(error.to_string().contains("24"), "{error}");
        agree("block_size", Some(24), 24).unwrap();
        agree("block_size", None, 24).unwrap();
    }

    #[test]
    fn numbers_are_checked_when_they_are_read() {
        assert!(
            at_least_zero("-1").is_err()
                && at_least_zero("nan").is_err()
                && at_least_zero("inf").is_err()
        );
        assert!(above_zero("0").is_err() && below_one("1").is_err() && ratio("1.5").is_err());
        assert_eq!(ratio("1"), Ok(1.0));
        assert!(at_least_one::<u32>("0").is_err() && at_least_one::<u32>("-1").is_err());
        assert_eq!(at_least_one::<u32>("7"), Ok(7));
    }
}
