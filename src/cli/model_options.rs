//! Which model: the options that name a configuration, weights and a tokenizer, and the loading of what they name.

use std::path::PathBuf;

use clap::Args;

use super::output::note;
use crate::error::Error;
use crate::frontend::{
    CacheLocation, Gpt2Config, ModelSource, Tokenizer, Weights, init_weights, load_weights, resolve,
};

/// The model, by name.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelOptions {
    /// Folder in Hugging Face format, a model in the Hugging Face cache, or a preset: gpt2, gpt2-medium, gpt2-large, gpt2-xl, gpt2-tiny.
    #[arg(long = "model_name_or_path", value_name = "DIR|PRESET")]
    pub(super) model_name_or_path: Option<String>,
    /// Only the shape of a model (folder or preset): its weights are initialised from --seed.
    #[arg(
        long = "config_name",
        value_name = "DIR|PRESET",
        conflicts_with = "model_name_or_path"
    )]
    pub(super) config_name: Option<String>,
    /// Changes to the configuration, such as n_layer=2,resid_pdrop=0.0.
    #[arg(long = "config_overrides", value_name = "FIELD=VALUE,…")]
    pub(super) config_overrides: Option<String>,
    /// Folder with another tokenizer than the model's.
    #[arg(long = "tokenizer_name", value_name = "DIR")]
    pub(super) tokenizer_name: Option<String>,
}

/// A model that was named on the command line.
pub(super) struct Model {
    pub(super) config: Gpt2Config,
    /// As the user called it.
    pub(super) name: String,
    source: ModelSource,
    from_scratch: bool,
    tokenizer: Option<PathBuf>,
}

impl ModelOptions {
    /// Whether the command line names a model at all.
    pub(super) fn is_given(&self) -> bool {
        self.model_name_or_path.is_some() || self.config_name.is_some()
    }

    /// Finds the model and reads its configuration.
    pub(super) fn load(&self) -> Result<Model, Error> {
        let name = self
            .model_name_or_path
            .as_ref()
            .or(self.config_name.as_ref());
        let name = name.ok_or_else(|| {
            Error::usage("no model: give --model_name_or_path DIR or a preset such as gpt2-tiny")
        })?;
        let cache = CacheLocation::from_env();
        let source = resolve(name, &cache)?;
        let config = source.config()?;
        let config = match &self.config_overrides {
            Some(overrides) => config.with_overrides(overrides)?,
            None => config,
        };
        let tokenizer = match &source {
            ModelSource::Directory(dir) => Some(dir.clone()),
            ModelSource::Preset { .. } => None,
        };
        let tokenizer = self.tokenizer_folder()?.or(tokenizer);
        let from_scratch = self.config_name.is_some();
        Ok(Model {
            config,
            name: name.clone(),
            source,
            from_scratch,
            tokenizer,
        })
    }

    /// A model of which only the shape is known, as an executable has it.
    pub(super) fn of_shape(&self, name: &str, config: Gpt2Config) -> Result<Model, Error> {
        let config = match &self.config_overrides {
            Some(overrides) => config.with_overrides(overrides)?,
            None => config,
        };
        let source = ModelSource::Preset {
            name: name.to_owned(),
            config: Box::new(config.clone()),
            looked: Vec::new(),
        };
        Ok(Model {
            config,
            name: name.to_owned(),
            source,
            from_scratch: true,
            tokenizer: self.tokenizer_folder()?,
        })
    }

    fn tokenizer_folder(&self) -> Result<Option<PathBuf>, Error> {
        let Some(dir) = self.tokenizer_name.as_ref().map(PathBuf::from) else {
            return Ok(None);
        };
        if dir.is_dir() {
            Ok(Some(dir))
        } else {
            Err(Error::failed(format!(
                "--tokenizer_name {} is no folder",
                dir.display()
            )))
        }
    }
}

impl Model {
    /// Weights from the folder, or fresh ones from `seed` where there is a shape only.
    pub(super) fn weights(&self, seed: u64) -> Result<Weights, Error> {
        match &self.source {
            ModelSource::Directory(dir) if !self.from_scratch => {
                let loaded = load_weights(dir, &self.config)?;
                loaded.warnings.iter().for_each(note);
                Ok(loaded.weights)
            }
            _ => Ok(init_weights(&self.config, seed)),
        }
    }

    /// Trained weights; a bare shape is an error that says what to do.
    pub(super) fn trained_weights(&self) -> Result<Weights, Error> {
        self.source.directory()?;
        self.weights(0)
    }

    /// The tokenizer, checked against the vocabulary.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let Some(dir) = &self.tokenizer else {
            let message = format!("`{}` comes without a tokenizer", self.name);
            return Err(Error::failed(message)
                .with_hint("name a folder that has one with --tokenizer_name DIR"));
        };
        let tokenizer = Tokenizer::load(dir)?;
        tokenizer.check_vocab(self.config.vocab_size)?;
        Ok(tokenizer)
    }

    /// The tokenizer, if the model has one: for copying it next to saved weights.
    pub(super) fn tokenizer_if_any(&self) -> Option<Tokenizer> {
        self.tokenizer
            .as_deref()
            .and_then(|dir| Tokenizer::load(dir).ok())
    }
}
