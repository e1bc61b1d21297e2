//! A folder that `transformers` loads: `model.safetensors`, `config.json` and the tokenizer's files.

use std::path::Path;

use super::config::Gpt2Config;
use super::error::FrontendError;
use super::safetensors_out::{TensorOut, Values, write_safetensors};
use super::shards::WEIGHTS_FILE;
use super::tokenizer::Tokenizer;
use super::weights::{PREFIX, Weights};
use crate::atomic_file;

/// The element type of saved weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SaveDtype {
    #[default]
    #[value(name = "float32", alias = "f32", alias = "fp32")]
    Float32,
    /// Rounded to nearest: half the size, and what the published GPT-2 of Graphcore is.
    #[value(name = "float16", alias = "f16", alias = "fp16", alias = "half")]
    Float16,
}

impl SaveDtype {
    /// The name in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            SaveDtype::Float32 => "float32",
            SaveDtype::Float16 => "float16",
        }
    }
}

/// Writes the model into `dir`, which is created if need be. Weights are stored under the names of `GPT2LMHeadModel`,
/// without the tied head; the tokenizer's files are copied through as they were read.
///
/// Each file is replaced atomically, `config.json` last: a folder that has one is complete.
pub fn save_pretrained(
    dir: &Path,
    config: &Gpt2Config,
    weights: &Weights,
    tokenizer: Option<&Tokenizer>,
    dtype: SaveDtype,
) -> Result<(), FrontendError> {
    weights.check(config)?;
    atomic_file::create_directory(dir)?;
    let parameters = config.parameters();
    let tensors: Vec<TensorOut> = parameters
        .iter()
        .filter_map(|parameter| {
            let tensor = weights.get(&parameter.name)?;
            let name = format!("{PREFIX}{}", parameter.name);
            let data = match dtype {
                SaveDtype::Float32 => Values::F32(&tensor.data),
                SaveDtype::Float16 => Values::RoundedToF16(&tensor.data),
            };
            Some(TensorOut {
                name,
                shape: &tensor.shape,
                data,
            })
        })
        .collect();
    write_safetensors(&dir.join(WEIGHTS_FILE), &tensors)?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save(dir)?;
    }
    let text = config.to_json_as(dtype.name());
    atomic_file::write(&dir.join("config.json"), text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::fixtures::{fixture, tiny};
    use crate::frontend::{WeightWarning, load_weights};

    #[test]
    fn a_saved_model_loads_as_it_was() {
        let (config, weights) = tiny();
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("new/folder");
        let tokenizer = Tokenizer::load(&fixture("gpt2-tokenizer")).unwrap();
        save_pretrained(
            &dir,
            &config,
            &weights,
            Some(&tokenizer),
            SaveDtype::Float32,
        )
        .unwrap();

        let again = Gpt2Config::load(&dir).unwrap();
        assert_eq!(again.to_json(), config.to_json());
        let loaded = load_weights(&dir, &again).unwrap();
        assert_eq!(loaded.weights, weights);
        assert_eq!(loaded.warnings, Vec::<WeightWarning>::new());
        let same = |name: &str| {
            std::fs::read(dir.join(name)).unwrap()
                == std::fs::read(fixture("gpt2-tokenizer").join(name)).unwrap()
        };
        assert!(
            [
                "tokenizer.json",
                "vocab.json",
                "merges.txt",
                "tokenizer_config.json"
            ]
            .into_iter()
            .all(same)
        );
    }

    #[test]
    fn half_precision_is_said_in_the_configuration() {
        let (config, weights) = tiny();
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        save_pretrained(dir, &config, &weights, None, SaveDtype::Float16).unwrap();
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
        assert!(text.contains(r#""float16""#), "{text}");
        let again = load_weights(dir, &Gpt2Config::load(dir).unwrap()).unwrap();
        for (name, tensor) in again.weights.iter() {
            let exact = &weights.get(name).unwrap().data;
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 2048.0 + 3e-8;
            assert!(tensor.data.iter().zip(exact).all(close), "{name}");
        }
    }

    #[test]
    fn weights_of_another_shape_are_refused_before_writing() {
        let (config, mut weights) = tiny();
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("model");
        weights.insert("extra".into(), weights.get("ln_f.bias").unwrap().clone());
        let error = save_pretrained(&dir, &config, &weights, None, SaveDtype::Float32).unwrap_err();
        assert!(error.to_string().contains("`extra`"), "{error}");
        let wider = config.with_overrides("n_embd=64").unwrap();
        let error = save_pretrained(&dir, &wider, &weights, None, SaveDtype::Float32).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`wte.weight` has shape [512, 32]"),
            "{error}"
        );
        assert!(!dir.exists());
    }
}
