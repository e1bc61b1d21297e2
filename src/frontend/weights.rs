//! The values of a model's parameters: from a folder of safetensors files, checked against the configuration.
//!
//! Files differ in harmless ways: names with or without `transformer.`, stored causal masks (`attn.bias`,
//! `attn.masked_bias`), the tied head written out again, half precision, shards. All come out as the same [`Weights`].

use std::path::Path;

use indexmap::{IndexMap, IndexSet};

use super::config::Gpt2Config;
use super::error::FrontendError;
use super::parameters::Parameter;
use super::safetensors_in::SafetensorsFile;
use super::shards::WeightFiles;

/// What `transformers` calls the model without its head.
pub(super) const PREFIX: &str = "transformer.";
const HEAD: &str = "lm_head.weight";
use super::vocabulary::TABLE as EMBEDDING;

/// One parameter's values, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// All parameters of a model in the order of [`Gpt2Config::parameters`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    tensors: IndexMap<String, Tensor>,
}

impl Weights {
    /// The tensor called `name`, without `transformer.`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor called `name`, to be changed in place.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Tensor> {
        self.tensors.get_mut(name)
    }

    /// Adds a tensor at the end, or replaces the one of that name.
    pub fn insert(&mut self, name: String, tensor: Tensor) {
        self.tensors.insert(name, tensor);
    }

    /// Names and tensors in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Elements of all tensors together.
    pub fn element_count(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.data.len()).sum()
    }

    /// Whether these are exactly the configuration's parameters, or the first difference in words.
    pub fn check(&self, config: &Gpt2Config) -> Result<(), FrontendError> {
        let mismatch = |reason: String| Err(FrontendError::WeightsMismatch { reason });
        let parameters = config.parameters();
        for parameter in &parameters {
            let Some(tensor) = self.get(&parameter.name) else {
                return mismatch(format!("`{}` is missing", parameter.name));
            };
            if tensor.shape != parameter.shape || tensor.data.len() != parameter.element_count() {
                let (found, count) = (&tensor.shape, tensor.data.len());
                return mismatch(format!(
                    "`{}` has shape {found:?} with {count} values, not {:?}",
                    parameter.name, parameter.shape
                ));
            }
        }
        let known: IndexSet<&str> = parameters
            .iter()
            .map(|parameter| parameter.name.as_str())
            .collect();
        match self
            .tensors
            .keys()
            .find(|name| !known.contains(name.as_str()))
        {
            Some(name) => mismatch(format!("`{name}` is not a parameter of the model")),
            None => Ok(()),
        }
    }
}

impl FromIterator<(String, Tensor)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self {
            tensors: tensors.into_iter().collect(),
        }
    }
}

/// A model's weights, and what the user should hear about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub weights: Weights,
    pub warnings: Vec<WeightWarning>,
}

/// Something in the weight files that is odd but not in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightWarning {
    /// A tensor that is no parameter of the model; it was not read.
    #[error("`{name}` is not a parameter of the model and is ignored")]
    Unexpected { name: String },
    /// Values that are NaN or infinite (or a 64-bit value beyond f32).
    #[error("`{name}` has {count} values that are NaN or infinite")]
    NonFinite { name: String, count: usize },
}

/// Reads the weights of the model in `dir`: every parameter of `config`, with its shape, as f32.
pub fn load_weights(dir: &Path, config: &Gpt2Config) -> Result<Loaded, FrontendError> {
    let mut found = WeightFiles::open(dir)?;
    let parameters = config.parameters();
    let mut places: IndexMap<String, Place> = IndexMap::new();
    for (in_file, file) in std::mem::take(&mut found.tensors) {
        let name = in_file.strip_prefix(PREFIX).unwrap_or(&in_file).to_owned();
        if places
            .insert(name.clone(), Place { in_file, file })
            .is_some()
        {
            return Err(FrontendError::TensorTwice {
                path: found.path,
                name,
            });
        }
    }
    // All names and shapes first: a folder that does not fit is refused before half a gigabyte is read.
    let wanted = locate(&parameters, &mut places, &found)?;
    let head = places.swap_remove(HEAD);
    let mut warnings: Vec<WeightWarning> = places
        .into_keys()
        .chain(std::mem::take(&mut found.unlisted))
        .filter(|name| !is_mask(name))
        .map(|name| WeightWarning::Unexpected { name })
        .collect();

    let mut weights = Weights::default();
    for (parameter, place) in parameters.into_iter().zip(wanted) {
        let data = found.files[place.file].read_f32(&place.in_file)?;
        let count = data.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            warnings.push(WeightWarning::NonFinite {
                name: parameter.name.clone(),
                count,
            });
        }
        weights.insert(
            parameter.name,
            Tensor {
                shape: parameter.shape,
                data,
            },
        );
    }
    if let (Some(head), Some(embedding)) = (head, weights.get(EMBEDDING)) {
        check_tied(&mut found.files[head.file], &head.in_file, embedding)?;
    }
    Ok(Loaded { weights, warnings })
}

/// Where a tensor is: its name in the file, and which file.
struct Place {
    in_file: String,
    file: usize,
}

/// Takes each parameter's place out of `places`, having compared its shape.
fn locate(
    parameters: &[Parameter],
    places: &mut IndexMap<String, Place>,
    found: &WeightFiles,
) -> Result<Vec<Place>, FrontendError> {
    let mut wanted = Vec::with_capacity(parameters.len());
    let mut missing = Vec::new();
    for parameter in parameters {
        let Some(place) = places.swap_remove(&parameter.name) else {
            missing.push(parameter.name.clone());
            continue;
        };
        check_shape(&found.files[place.file], &place.in_file, &parameter.shape)?;
        wanted.push(place);
    }
    if missing.is_empty() {
        return Ok(wanted);
    }
    Err(FrontendError::TensorsMissing {
        path: found.path.clone(),
        names: missing,
    })
}

fn check_shape(
    file: &SafetensorsFile,
    name: &str,
    expected: &[usize],
) -> Result<(), FrontendError> {
    let shape = file.shape(name).unwrap_or_default();
    if shape == expected {
        return Ok(());
    }
    Err(FrontendError::TensorShape {
        path: file.path().to_path_buf(),
        name: name.to_owned(),
        found: shape.to_vec(),
        expected: expected.to_vec(),
    })
}

/// A head that is written out must be the embedding, bit for bit or at least in value.
fn check_tied(
    file: &mut SafetensorsFile,
    name: &str,
    embedding: &Tensor,
) -> Result<(), FrontendError> {
    check_shape(file, name, &embedding.shape)?;
    let head = file.read_f32(name)?;
    let differs = |(a, b): (&f32, &f32)| a != b && a.to_bits() != b.to_bits();
    match head.iter().zip(&embedding.data).position(differs) {
        None => Ok(()),
        Some(element) => Err(FrontendError::UntiedHead {
            path: file.path().to_path_buf(),
            element,
            head: head[element],
            embedding: embedding.data[element],
        }),
    }
}

/// Whether `name` is `h.N.attn.bias` or `h.N.attn.masked_bias`: the causal mask and its −10000, not parameters.
fn is_mask(name: &str) -> bool {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let layer = name.strip_prefix("h.").and_then(|rest| {
        rest.strip_suffix(".attn.bias")
            .or_else(|| rest.strip_suffix(".attn.masked_bias"))
    });
    layer.is_some_and(|layer| !layer.is_empty() && layer.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
