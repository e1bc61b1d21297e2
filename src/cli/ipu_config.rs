//! `ipu_config.json` as Optimum Graphcore writes it: the fields that say how a model is laid out over IPUs.
//!
//! Four fields are in force; other fields of that file are accepted and named as having no effect; anything else is reported.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use superstep_passes::place::Recompute;

use super::output::note;
use crate::error::Error;

/// A configuration file is a page of text.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Fields of the file that superstep knows but does not act on.
const WITHOUT_EFFECT: [&str; 32] = [
    "auto_loss_scaling",
    "device_iterations",
    "embedding_serialization_factor",
    "enable_half_first_order_momentum",
    "enable_half_partials",
    "executable_cache_dir",
    "execute_encoder_on_cpu_for_generation",
    "explicit_ir_inference",
    "inference_device_iterations",
    "inference_embedding_serialization_factor",
    "inference_ipus_per_replica",
    "inference_layers_per_ipu",
    "inference_matmul_proportion",
    "inference_parallelize_kwargs",
    "inference_projection_serialization_factor",
    "inference_replication_factor",
    "inference_serialized_embedding_splits_per_ipu",
    "inference_serialized_projection_splits_per_ipu",
    "matmul_proportion",
    "optimizer_state_offchip",
    "optimum_version",
    "output_mode",
    "parallelize_kwargs",
    "profile_dir",
    "projection_serialization_factor",
    "replicated_tensor_sharding",
    "replication_factor",
    "seed",
    "serialized_embedding_splits_per_ipu",
    "serialized_projection_splits_per_ipu",
    "sharded_execution_for_inference",
    "transformers_version",
];

/// The fields in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IpuConfig {
    pub(super) layers_per_ipu: Option<Vec<u32>>,
    pub(super) gradient_accumulation_steps: Option<u32>,
    pub(super) recompute: Recompute,
}

impl IpuConfig {
    /// Reads a file, or `ipu_config.json` of a folder, and tells what in it has no effect.
    pub(super) fn load(name: &Path) -> Result<IpuConfig, Error> {
        let path: PathBuf = if name.is_dir() {
            name.join("ipu_config.json")
        } else {
            name.to_path_buf()
        };
        let cannot =
            |what: String| Error::failed(format!("cannot read {}: {what}", path.display()));
        let size = std::fs::metadata(&path)
            .map_err(|error| cannot(error.to_string()))?
            .len();
        if size > FILE_BYTES_MAX {
            return Err(cannot(format!(
                "it is {size} bytes long, too long for a configuration"
            )));
        }
        let bytes = std::fs::read(&path).map_err(|error| cannot(error.to_string()))?;
        let map: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| {
            Error::failed(format!("{} is not valid JSON: {error}", path.display()))
        })?;
        let (config, remarks) =
            parse(&map).map_err(|what| Error::failed(format!("{}: {what}", path.display())))?;
        remarks
            .into_iter()
            .for_each(|remark| note(format!("{}: {remark}", path.display())));
        Ok(config)
    }
}

/// The fields in force, and what to tell about the others.
fn parse(map: &Map<String, Value>) -> Result<(IpuConfig, Vec<String>), String> {
    let layers_per_ipu = map
        .get("layers_per_ipu")
        .filter(|v| !v.is_null())
        .map(layers)
        .transpose()?;
    let gradient_accumulation_steps = count(map, "gradient_accumulation_steps")?;
    let ipus_per_replica = count(map, "ipus_per_replica")?;
    if let (Some(layers), Some(ipus)) = (&layers_per_ipu, ipus_per_replica)
        && layers.len() != ipus as usize
    {
        return Err(format!(
            "`layers_per_ipu` names {} IPUs, but `ipus_per_replica` is {ipus}",
            layers.len()
        ));
    }
    let in_force = [
        "layers_per_ipu",
        "gradient_accumulation_steps",
        "ipus_per_replica",
        "recompute_checkpoint_every_layer",
    ];
    let others = map
        .keys()
        .map(String::as_str)
        .filter(|key| !in_force.contains(key));
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        others.partition(|key| WITHOUT_EFFECT.contains(key));
    let mut remarks = Vec::new();
    if !known.is_empty() {
        remarks.push(format!("no effect yet: {}", known.join(", ")));
    }
    if !unknown.is_empty() {
        remarks.push(format!("unknown fields, ignored: {}", unknown.join(", ")));
    }
    Ok((
        IpuConfig {
            layers_per_ipu,
            gradient_accumulation_steps,
            recompute: if flag(map, "recompute_checkpoint_every_layer")? {
                Recompute::EveryLayer
            } else {
                Recompute::Nothing
            },
        },
        remarks,
    ))
}

fn count(map: &Map<String, Value>, field: &str) -> Result<Option<u32>, String> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let count = value
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|&n| n > 0);
            count.map(Some).ok_or_else(|| {
                format!("`{field}` is {value}, but it must be a whole number above 0")
            })
        }
    }
}

fn flag(map: &Map<String, Value>, field: &str) -> Result<bool, String> {
    match map.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(value) => Err(format!(
            "`{field}` is {value}, but it must be true or false"
        )),
    }
}

fn layers(value: &Value) -> Result<Vec<u32>, String> {
    let numbers = value.as_array().and_then(|list| {
        list.iter()
            .map(|n| n.as_u64().and_then(|n| u32::try_from(n).ok()))
            .collect::<Option<Vec<u32>>>()
    });
    numbers.filter(|list| !list.is_empty()).ok_or_else(|| {
        format!("`layers_per_ipu` is {value}, but it must be a list of layer counts, one an IPU")
    })
}

/// Layers on each IPU as one option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerList(pub(super) Vec<u32>);

/// `[0 4 4 4]`, `0,4,4,4` or `[0, 4, 4, 4]` from the command line.
pub(super) fn parse_layers(text: &str) -> Result<LayerList, String> {
    let inside = text.trim().trim_start_matches('[').trim_end_matches(']');
    let counts: Result<Vec<u32>, _> = inside
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(str::parse)
        .collect();
    match counts {
        Ok(counts) if !counts.is_empty() => Ok(LayerList(counts)),
        _ => Err("write the number of layers of each IPU, as in \"[1 1]\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(IpuConfig, Vec<String>), String> {
        parse(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn takes_what_it_knows_and_names_the_rest() {
        let (config, remarks) = read(
            r#"{"layers_per_ipu": [0, 4, 4, 4], "ipus_per_replica": 4, "gradient_accumulation_steps": 128,
                "matmul_proportion": 0.2, "replication_factor": 4, "colour": "blue"}"#,
        )
        .unwrap();
        assert_eq!(config.layers_per_ipu, Some(vec![0, 4, 4, 4]));
        assert_eq!(config.gradient_accumulation_steps, Some(128));
        assert_eq!(
            remarks,
            [
                "no effect yet: matmul_proportion, replication_factor",
                "unknown fields, ignored: colour"
            ]
        );
    }

    #[test]
    fn contradictions_and_nonsense_are_errors() {
        assert!(
            read(r#"{"layers_per_ipu": [1, 1], "ipus_per_replica": 4}"#)
                .unwrap_err()
                .contains("names 2 IPUs")
        );
        assert!(read(r#"{"layers_per_ipu": [1, -1]}"#).is_err());
        assert!(read(r#"{"layers_per_ipu": []}"#).is_err());
        assert!(read(r#"{"gradient_accumulation_steps": 0}"#).is_err());
    }

    #[test]
    fn layer_lists_are_read_in_every_common_spelling() {
        for text in ["[1 2]", "1,2", "[1, 2]", " 1 2 "] {
            assert_eq!(parse_layers(text).unwrap().0, [1, 2]);
        }
        for text in ["", "[]", "1 x", "-1"] {
            assert!(parse_layers(text).is_err(), "{text}");
        }
    }
}
