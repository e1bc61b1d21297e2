//! The fields of an `ipu_config.json`, of the first releases and of the last: what type each has, and what becomes of it here.

use serde_json::Value;

use super::pods;

/// What a field may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// A whole number from 1 on.
    Count,
    /// A whole number from 0 on.
    Seed,
    Flag,
    /// Layers of each IPU; −1 leaves it to the compiler.
    Layers,
    /// A share of tile memory above 0 and up to 1, or one for each IPU.
    Proportion,
    /// `all`, `sum`, `final` or `default`.
    OutputMode,
    Text,
    /// One whole number for each IPU.
    Splits,
    Object,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It decides what is compiled, or how the run goes.
    InForce,
    /// It changes nothing here, for this reason, which the user is told.
    Idle(&'static str),
    /// Anything but null or this value is refused, for this reason.
    Only(&'static str, &'static str),
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) ty: Type,
    pub(super) effect: Effect,
}

const fn field(name: &'static str, ty: Type, effect: Effect) -> Field {
    Field { name, ty, effect }
}

const WHOLE_SPLITS: &str = "slices of an embedding or a head lie on IPU 0";
const RECORD: &str = "it only records who wrote the file";

/// Every field that Optimum Graphcore has had, and `tensor_parallel`, which it has not.
pub(super) const FIELDS: [Field; 38] = [
    field("auto_loss_scaling", Type::Flag, Effect::InForce),
    field("device_iterations", Type::Count, Effect::InForce),
    field(
        "embedding_serialization_factor",
        Type::Count,
        Effect::InForce,
    ),
    field(
        "enable_half_first_order_momentum",
        Type::Flag,
        Effect::InForce,
    ),
    field("enable_half_partials", Type::Flag, Effect::InForce),
    field("executable_cache_dir", Type::Text, Effect::InForce),
    field(
        "execute_encoder_on_cpu_for_generation",
        Type::Flag,
        Effect::Only("false", "all of a model runs on IPUs"),
    ),
    field(
        "explicit_ir_inference",
        Type::Flag,
        Effect::Idle("there is one IR, and it is explicit"),
    ),
    field("gradient_accumulation_steps", Type::Count, Effect::InForce),
    field("inference_device_iterations", Type::Count, Effect::InForce),
    field(
        "inference_embedding_serialization_factor",
        Type::Count,
        Effect::InForce,
    ),
    field("inference_ipus_per_replica", Type::Count, Effect::InForce),
    field("inference_layers_per_ipu", Type::Layers, Effect::InForce),
    field(
        "inference_matmul_proportion",
        Type::Proportion,
        Effect::InForce,
    ),
    field(
        "inference_parallelize_kwargs",
        Type::Object,
        Effect::Only("{}", "it names arguments of Python code"),
    ),
    field(
        "inference_projection_serialization_factor",
        Type::Count,
        Effect::InForce,
    ),
    field("inference_replication_factor", Type::Count, Effect::InForce),
    field(
        "inference_serialized_embedding_splits_per_ipu",
        Type::Splits,
        Effect::Only("null", WHOLE_SPLITS),
    ),
    field(
        "inference_serialized_projection_splits_per_ipu",
        Type::Splits,
        Effect::Only("null", WHOLE_SPLITS),
    ),
    field("ipus_per_replica", Type::Count, Effect::InForce),
    field("layers_per_ipu", Type::Layers, Effect::InForce),
    field("matmul_proportion", Type::Proportion, Effect::InForce),
    field("optimizer_state_offchip", Type::Flag, Effect::InForce),
    field("optimum_version", Type::Text, Effect::Idle(RECORD)),
    field("output_mode", Type::OutputMode, Effect::InForce),
    field(
        "parallelize_kwargs",
        Type::Object,
        Effect::Only("{}", "it names arguments of Python code"),
    ),
    field(
        "profile_dir",
        Type::Text,
        Effect::Only("\"\"", "`superstep report` says what a profile would"),
    ),
    field(
        "projection_serialization_factor",
        Type::Count,
        Effect::InForce,
    ),
    field(
        "recompute_checkpoint_every_layer",
        Type::Flag,
        Effect::InForce,
    ),
    field("replicated_tensor_sharding", Type::Flag, Effect::InForce),
    field("replication_factor", Type::Count, Effect::InForce),
    field(
        "seed",
        Type::Seed,
        Effect::Idle("the seed of a run is --seed"),
    ),
    field(
        "serialized_embedding_splits_per_ipu",
        Type::Splits,
        Effect::Only("null", WHOLE_SPLITS),
    ),
    field(
        "serialized_projection_splits_per_ipu",
        Type::Splits,
        Effect::Only("null", WHOLE_SPLITS),
    ),
    field(
        "sharded_execution_for_inference",
        Type::Flag,
        Effect::InForce,
    ),
    field("tensor_parallel", Type::Count, Effect::InForce),
    field("transformers_version", Type::Text, Effect::Idle(RECORD)),
    field(
        "use_popdist",
        Type::Flag,
        Effect::Only("false", "one process simulates the whole pod"),
    ),
];

pub(super) fn field_named(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name)
}

impl Field {
    /// Ok when `value`, in which no pod map is left, has the type of the field; null counts as absent.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        if value.is_null() || self.ty.holds(value) {
            return Ok(());
        }
        let (name, needs) = (self.name, self.ty.needs());
        let by_pod = match value.is_object() {
            true => format!(
                ", or an object that has one for each of some pods: {}, default",
                pods::names()
            ),
            false => String::new(),
        };
        Err(format!(
            "`{name}` is {value}, but it must be {needs}{by_pod}"
        ))
    }

    /// What to tell the user of this value; an error when it is refused.
    pub(super) fn verdict(&self, value: &Value) -> Result<Option<String>, String> {
        match self.effect {
            _ if value.is_null() => Ok(None),
            Effect::InForce => Ok(None),
            Effect::Idle(reason) => Ok(Some(format!("`{}` has no effect: {reason}", self.name))),
            Effect::Only(harmless, _) if is_written(value, harmless) => Ok(None),
            Effect::Only(harmless, reason) => Err(format!(
                "`{}` is {value}, which is not supported: {reason}; leave it out, or give {harmless}",
                self.name
            )),
        }
    }
}

fn is_written(value: &Value, text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|written| written == *value)
}

impl Type {
    fn holds(self, value: &Value) -> bool {
        let whole = |v: &Value, least: i64| {
            v.as_i64()
                .is_some_and(|n| n >= least && n <= i64::from(u32::MAX))
        };
        let list = |v: &Value, each: &dyn Fn(&Value) -> bool| {
            v.as_array()
                .is_some_and(|list| !list.is_empty() && list.iter().all(each))
        };
        let share = |v: &Value| v.as_f64().is_some_and(|x| x > 0.0 && x <= 1.0);
        match self {
            Type::Count => whole(value, 1),
            Type::Seed => value.is_u64(),
            Type::Flag => value.is_boolean(),
            Type::Layers => list(value, &|v| whole(v, -1)),
            Type::Proportion => share(value) || list(value, &share),
            Type::OutputMode => {
                ["all", "sum", "final", "default"].contains(&value.as_str().unwrap_or_default())
            }
            Type::Text => value.is_string(),
            Type::Splits => list(value, &|v| whole(v, 0)),
            Type::Object => value.is_object(),
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Type::Count => "a whole number above 0",
            Type::Seed => "a whole number",
            Type::Flag => "true or false",
            Type::Layers => "a list of layer counts, one an IPU (-1: as the compiler sees fit)",
            Type::Proportion => "a number above 0 and up to 1, or a list of them, one an IPU",
            Type::OutputMode => "all, sum, final or default",
            Type::Text => "a text",
            Type::Splits => "a list of whole numbers, one an IPU",
            Type::Object => "an object",
        }
    }
}
