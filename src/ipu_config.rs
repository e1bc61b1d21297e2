//! `ipu_config.json` of Optimum Graphcore: how a model is laid out over IPUs, and how it runs there.
//!
//! The road of a value: the file, then the value for the pod where it depends on one, then `--ipu_config_overrides`. Every field either is in
//! force, or has no effect, which is said, or is refused. Fields that nobody knows are kept and named.

mod fields;
mod fields_of;
mod overrides;
mod pods;
mod read;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::precision::Precision;
use fields::{FIELDS, field_named};
pub use fields_of::fields_of;

/// The name of the file in a folder.
pub const FILE_NAME: &str = "ipu_config.json";

/// A configuration file is a page of text.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Configurations that come with superstep: Graphcore's partitions of GPT-2.
const BUILT_IN: [(&str, &str); 3] = [
    (
        "Graphcore/gpt2-small-ipu",
        include_str!("ipu_config/gpt2-small-ipu.json"),
    ),
    (
        "Graphcore/gpt2-medium-ipu",
        include_str!("ipu_config/gpt2-medium-ipu.json"),
    ),
    (
        "Graphcore/gpt2-large-ipu",
        include_str!("ipu_config/gpt2-large-ipu.json"),
    ),
];

/// A configuration as it stands in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct IpuConfig {
    /// For messages: the file, or the name of a built-in configuration.
    source: String,
    map: Map<String, Value>,
}

/// Which losses a step reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputMode {
    /// Their mean over all micro-batches.
    #[default]
    All,
    /// Their sum over the micro-batches of a replica, mean over replicas.
    Sum,
    /// That of the last micro-batch of the last update, mean over replicas.
    Final,
}

/// What a configuration decides; `None` where it leaves a thing open.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IpuSettings {
    /// Given in full: layers of each IPU.
    pub layers_per_ipu: Option<Vec<u32>>,
    /// IPUs of each group that `layers_per_ipu` names.
    pub tensor_parallel: Option<u32>,
    pub ipus_per_replica: Option<u32>,
    pub replication_factor: Option<u32>,
    pub gradient_accumulation_steps: Option<u32>,
    pub device_iterations: Option<usize>,
    pub inference: InferenceSettings,
    /// Slices of the vocabulary in which the output head is computed.
    pub head_slices: Option<u32>,
    pub optimizer_state_offchip: Option<bool>,
    pub replicated_tensor_sharding: Option<bool>,
    pub recompute_every_layer: bool,
    /// Share of tile memory that an op may use for its temporaries: one for all IPUs, or one each.
    pub matmul_proportion: Vec<f64>,
    pub precision: Precision,
    pub auto_loss_scaling: Option<bool>,
    pub output_mode: Option<OutputMode>,
    pub executable_cache_dir: Option<PathBuf>,
}

/// What a configuration decides for evaluation alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferenceSettings {
    pub layers_per_ipu: Option<Vec<u32>>,
    pub ipus_per_replica: Option<u32>,
    pub replication_factor: Option<u32>,
    /// Micro-batches that each replica takes in a call of the host.
    pub device_iterations: Option<u32>,
    /// Slices of the vocabulary in which the output head is computed.
    pub head_slices: Option<u32>,
    /// That of training, where there is none of its own.
    pub matmul_proportion: Vec<f64>,
    /// No pipeline: IPUs work one after the other.
    pub is_sharded: bool,
}

impl InferenceSettings {
    /// Where evaluation has its layers: as it is told, or as training has them on as many IPUs; `None` leaves it to the compiler.
    /// Entries are groups of `members` IPUs.
    pub fn layers(&self, of_training: Option<&[u32]>, members: u32) -> Option<Vec<u32>> {
        let ipus = self.ipus_per_replica.map(u64::from);
        let of = |layers: &[u32]| layers.len() as u64 * u64::from(members);
        let as_training = || of_training.filter(|&layers| ipus.is_none_or(|n| of(layers) == n));
        self.layers_per_ipu
            .clone()
            .or_else(|| as_training().map(<[u32]>::to_vec))
    }
}

/// Ok where there is a pod of that name.
///
/// # Errors
/// The names of those that there are.
pub fn check_pod(name: &str) -> Result<(), String> {
    match pods::is_pod(name) {
        true => Ok(()),
        false => Err(format!(
            "there is no pod `{name}`; pods are {}",
            pods::names()
        )),
    }
}

impl IpuConfig {
    /// A built-in configuration by name, or that of a file, a folder, or the snapshot in a Hugging Face cache.
    ///
    /// # Errors
    /// There is none of that name, or it is no JSON object.
    pub fn load(name: &str, hub: Option<&Path>) -> Result<IpuConfig, Error> {
        let path = Path::new(name);
        if path.is_dir() {
            return IpuConfig::read(&path.join(FILE_NAME));
        }
        if path.is_file() {
            return IpuConfig::read(path);
        }
        if let Some(file) = hub.and_then(|hub| in_hub(hub, name)) {
            return IpuConfig::read(&file);
        }
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return IpuConfig::parse((*name).to_owned(), text.as_bytes());
        }
        let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        let place = match hub {
            Some(hub) => format!(
                ", or put the file at {}",
                hub.join(format!(
                    "models--{}/snapshots/main",
                    name.replace('/', "--")
                ))
                .join(FILE_NAME)
                .display()
            ),
            None => String::new(),
        };
        let message = format!("there is no IPU configuration `{name}`");
        Err(Error::failed(message).with_hint(format!(
            "name a file or a folder with {FILE_NAME}, one of {}{place}",
            known.join(", ")
        )))
    }

    fn read(path: &Path) -> Result<IpuConfig, Error> {
        let cannot =
            |what: String| Error::failed(format!("cannot read {}: {what}", path.display()));
        let size = std::fs::metadata(path)
            .map_err(|error| cannot(error.to_string()))?
            .len();
        if size > FILE_BYTES_MAX {
            return Err(cannot(format!(
                "it is {size} bytes long, too long for a configuration"
            )));
        }
        let bytes = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
        IpuConfig::parse(path.display().to_string(), &bytes)
    }

    fn parse(source: String, bytes: &[u8]) -> Result<IpuConfig, Error> {
        match read::fields(bytes) {
            Ok(map) => Ok(IpuConfig { source, map }),
            Err(what) => Err(Error::failed(format!("{source}: {what}"))),
        }
    }

    /// Puts in the values for a pod, then overrides, and checks the type of every field.
    pub fn specialise(&mut self, pod: Option<&str>, overrides: Option<&str>) -> Result<(), Error> {
        pods::specialise(&mut self.map, pod).map_err(|what| self.error(&what))?;
        if let Some(text) = overrides {
            overrides::apply(&mut self.map, text)
                .map_err(|what| Error::failed(format!("--ipu_config_overrides: {what}")))?;
        }
        for (name, value) in &self.map {
            if let Some(field) = field_named(name) {
                field.check(value).map_err(|what| self.error(&what))?;
            }
        }
        Ok(())
    }

    /// What the configuration decides for a model with so many layers, and what to tell the user of it.
    pub fn settings(&self, layers: u32) -> Result<(IpuSettings, Vec<String>), Error> {
        let mut remarks = Vec::new();
        let mut unknown = Vec::new();
        for (name, value) in &self.map {
            match field_named(name) {
                Some(field) => {
                    let verdict = field.verdict(value).map_err(|what| self.error(&what))?;
                    remarks.extend(verdict.map(|remark| format!("{}: {remark}", self.source)));
                }
                None => unknown.push(name.escape_debug().to_string()),
            }
        }
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            remarks.push(format!("{}: unknown fields, kept: {unknown}", self.source));
        }
        for (projection, embedding) in HEAD_SLICES {
            if let (Some(used), Some(other)) = (self.count(projection), self.count(embedding))
                && used != other
            {
                remarks.push(format!(
                    "{}: `{embedding}` {other} has no effect: head and embedding are one weight, and `{projection}` is {used}",
                    self.source
                ));
            }
        }
        let settings = self.decided(layers).map_err(|what| self.error(&what))?;
        Ok((settings, remarks))
    }

    fn decided(&self, layers: u32) -> Result<IpuSettings, String> {
        let flag = |name: &str| self.flag(name);
        let count = |name: &str| self.count(name);
        let training = Part {
            layers: "layers_per_ipu",
            ipus: "ipus_per_replica",
            proportion: "matmul_proportion",
        };
        let layers_per_ipu = self.layers(&training, layers)?;
        let half_partials = flag("enable_half_partials").unwrap_or(true);
        let half_momentum = flag("enable_half_first_order_momentum").unwrap_or(false);
        let precision = match (half_partials, half_momentum) {
            (true, true) => Precision::Recipe,
            (true, false) => Precision::F16Partials16,
            (false, false) => Precision::F16Partials32,
            (false, true) => {
                return Err(
                    "`enable_half_first_order_momentum` needs `enable_half_partials`".into(),
                );
            }
        };
        let text = |name: &str| self.get(name).and_then(Value::as_str);
        let output_mode = text("output_mode").map(|mode| match mode {
            "all" => OutputMode::All,
            "sum" => OutputMode::Sum,
            // What PopTorch does with a training model by default.
            _ => OutputMode::Final,
        });
        let cache = text("executable_cache_dir").filter(|dir| !["", "disabled"].contains(dir));
        Ok(IpuSettings {
            matmul_proportion: self.proportions(&training, layers_per_ipu.as_deref())?,
            inference: self.inference(layers)?,
            layers_per_ipu,
            tensor_parallel: count("tensor_parallel"),
            ipus_per_replica: count("ipus_per_replica"),
            replication_factor: count("replication_factor"),
            gradient_accumulation_steps: count("gradient_accumulation_steps"),
            device_iterations: count("device_iterations").map(|n| n as usize),
            head_slices: self.head_slices(HEAD_SLICES[0]),
            optimizer_state_offchip: flag("optimizer_state_offchip"),
            replicated_tensor_sharding: flag("replicated_tensor_sharding"),
            recompute_every_layer: flag("recompute_checkpoint_every_layer").unwrap_or(false),
            precision,
            auto_loss_scaling: flag("auto_loss_scaling"),
            output_mode,
            executable_cache_dir: cache.map(PathBuf::from),
        })
    }

    fn inference(&self, layers: u32) -> Result<InferenceSettings, String> {
        let part = Part {
            layers: "inference_layers_per_ipu",
            ipus: "inference_ipus_per_replica",
            proportion: "inference_matmul_proportion",
        };
        let layers_per_ipu = self.layers(&part, layers)?;
        let own = match self.get(part.proportion) {
            Some(_) => part.proportion,
            None => "matmul_proportion",
        };
        Ok(InferenceSettings {
            matmul_proportion: self.proportions(
                &Part {
                    proportion: own,
                    ..part
                },
                layers_per_ipu.as_deref(),
            )?,
            layers_per_ipu,
            ipus_per_replica: self.count(part.ipus),
            replication_factor: self.count("inference_replication_factor"),
            device_iterations: self.count("inference_device_iterations"),
            head_slices: self.head_slices(HEAD_SLICES[1]),
            is_sharded: self
                .flag("sharded_execution_for_inference")
                .unwrap_or(false),
        })
    }

    /// The head goes first: it is what is worked on slice by slice.
    fn head_slices(&self, (projection, embedding): (&str, &str)) -> Option<u32> {
        self.count(projection).or(self.count(embedding))
    }

    /// Layers of each IPU, −1 replaced by an even share of what the others leave; `None` where all of them are −1.
    fn layers(&self, part: &Part, layers: u32) -> Result<Option<Vec<u32>>, String> {
        let Some(list) = self.get(part.layers).and_then(Value::as_array) else {
            return Ok(None);
        };
        let ipus = self.count(part.ipus);
        let given: Vec<i64> = list.iter().filter_map(Value::as_i64).collect();
        if given.iter().all(|&n| n < 0) {
            return Ok(None);
        }
        let members = self.count("tensor_parallel").unwrap_or(1);
        let named = given.len() as u64 * u64::from(members);
        if let Some(ipus) = ipus.filter(|&ipus| named != u64::from(ipus)) {
            let groups = match members {
                1 => String::new(),
                _ => format!("{} groups of {members} IPUs, which are ", given.len()),
            };
            return Err(format!(
                "`{}` names {groups}{named} IPUs, but `{}` is {ipus}",
                part.layers, part.ipus,
            ));
        }
        let placed: i64 = given.iter().filter(|&&n| n > 0).sum();
        let open = given.iter().filter(|&&n| n < 0).count() as i64;
        let left = i64::from(layers) - placed;
        if left < 0 || (open == 0 && left > 0) {
            return Err(format!(
                "`{}` {given:?} places {placed} layers, the model has {layers}",
                part.layers
            ));
        }
        // The last ones get one more where it does not come out even.
        let mut seen = 0;
        let share = |n: i64| {
            if n >= 0 {
                return n as u32;
            }
            seen += 1;
            (left * seen / open - left * (seen - 1) / open) as u32
        };
        Ok(Some(given.into_iter().map(share).collect()))
    }

    fn proportions(&self, part: &Part, layers: Option<&[u32]>) -> Result<Vec<f64>, String> {
        let shares = match self.get(part.proportion) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_f64).collect(),
            Some(one) => Vec::from_iter(one.as_f64()),
        };
        match layers {
            Some(layers) if shares.len() > 1 && shares.len() != layers.len() => Err(format!(
                "`{}` has {} values for {} IPUs",
                part.proportion,
                shares.len(),
                layers.len()
            )),
            _ => Ok(shares),
        }
    }

    /// True where a field has a value other than null.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a field, as a file with this value would have it.
    pub fn set(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// The file, fields in order of their names, unknown ones included.
    pub fn to_json(&self) -> String {
        let sorted: std::collections::BTreeMap<_, _> = self.map.iter().collect();
        let mut text = serde_json::to_string_pretty(&sorted).unwrap_or_default();
        text.push('\n');
        text
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    fn count(&self, name: &str) -> Option<u32> {
        self.get(name).and_then(Value::as_u64).map(|n| n as u32)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        debug_assert!(FIELDS.iter().any(|field| field.name == name));
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn error(&self, what: &str) -> Error {
        Error::failed(format!("{}: {what}", self.source))
    }
}

/// The fields that say in how many slices head and embedding are worked on, in training and in evaluation.
const HEAD_SLICES: [(&str, &str); 2] = [
    (
        "projection_serialization_factor",
        "embedding_serialization_factor",
    ),
    (
        "inference_projection_serialization_factor",
        "inference_embedding_serialization_factor",
    ),
];

/// The names of the fields that place training, or evaluation.
struct Part {
    layers: &'static str,
    ipus: &'static str,
    proportion: &'static str,
}

/// The configuration of a repository in a Hugging Face cache.
fn in_hub(hub: &Path, name: &str) -> Option<PathBuf> {
    let repository = hub.join(format!("models--{}", name.replace('/', "--")));
    let mut files: Vec<PathBuf> = std::fs::read_dir(repository.join("snapshots"))
        .ok()?
        .filter_map(|snapshot| Some(snapshot.ok()?.path().join(FILE_NAME)))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    files.pop()
}

#[cfg(test)]
mod tests;
