//! Executables that were compiled before: a run like an earlier one starts without compiling.
//!
//! An entry's name is the digest of all that the program depends on: model shape, settings, machine, and the compiler itself. What an
//! entry holds is checked like any executable.

use std::path::{Path, PathBuf};

use superstep_ir::executable::{Executable, FORMAT};
use superstep_ir::program::Program;

use super::{
    Compiled, IrSink, PlanCache, compile_evaluation, compile_training, compiler, open, save,
};
use crate::atomic_file;
use crate::error::Error;
use crate::frontend::Gpt2Config;
use crate::settings::{EvaluationSettings, TrainingSettings};

/// Where executables are kept, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct ExecutableCache {
    pub directory: Option<PathBuf>,
    /// For what must be compiled.
    pub plans: PlanCache,
}

/// Where a program came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Compiled,
    /// From this file.
    Found(PathBuf),
    /// There was a file, but it could not be used, for this reason.
    MadeAnew(String),
}

impl ExecutableCache {
    /// A training program: from the cache, or compiled and kept. Graphs are only printed when it is compiled, so a run that asks for them
    /// always is.
    pub fn training(
        &self,
        name: &str,
        config: &Gpt2Config,
        settings: &TrainingSettings,
        sink: &mut dyn IrSink,
    ) -> Result<(Compiled, Origin), Error> {
        let entry = match settings.print_ir_after {
            None => self.entry(&format!("training {settings:?}"), config)?,
            Some(_) => None,
        };
        let mut origin = Origin::Compiled;
        if let Some(path) = entry.as_deref().filter(|path| path.exists()) {
            match open(path) {
                Ok(mut compiled) => {
                    // The same model may go by another name today.
                    compiled.manifest.model = name.to_owned();
                    return Ok((compiled, Origin::Found(path.to_path_buf())));
                }
                Err(error) => origin = Origin::MadeAnew(error.to_string()),
            }
        }
        let compiled = compile_training(name, config, settings, &self.plans, sink)?;
        if let Some(path) = &entry {
            save(&compiled, path)?;
        }
        Ok((compiled, origin))
    }

    /// The same for an evaluation.
    pub fn evaluation(
        &self,
        config: &Gpt2Config,
        settings: &EvaluationSettings,
    ) -> Result<(Program, Origin), Error> {
        let entry = self.entry(&format!("evaluation {settings:?}"), config)?;
        let mut origin = Origin::Compiled;
        if let Some(path) = entry.as_deref().filter(|path| path.exists()) {
            match read_program(path) {
                Ok(program) => return Ok((program, Origin::Found(path.to_path_buf()))),
                Err(reason) => origin = Origin::MadeAnew(format!("{}: {reason}", path.display())),
            }
        }
        let program = compile_evaluation(config, settings, &self.plans)?;
        if let Some(path) = &entry {
            let executable = Executable {
                manifest: r#"{"kind":"evaluation"}"#.into(),
                program: program.clone(),
            };
            atomic_file::write(path, &executable.to_bytes())?;
        }
        Ok((program, origin))
    }

    /// The file for a program, in a folder that exists.
    fn entry(&self, what: &str, config: &Gpt2Config) -> Result<Option<PathBuf>, Error> {
        let (Some(directory), Some(compiler)) = (&self.directory, compiler::digest()) else {
            return Ok(None);
        };
        atomic_file::create_directory(directory)?;
        atomic_file::remove_stale(directory);
        let mut hasher = blake3::Hasher::new();
        let version = env!("CARGO_PKG_VERSION");
        hasher.update(format!("{version} {FORMAT} {what}\n{}", config.to_json()).as_bytes());
        hasher.update(compiler.as_bytes());
        let digest = hasher.finalize().to_hex();
        Ok(Some(directory.join(format!("{}.superstep", &digest[..32]))))
    }
}

fn read_program(path: &Path) -> Result<Program, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let executable = Executable::from_bytes(&bytes).map_err(|error| error.to_string())?;
    Ok(executable.program)
}
