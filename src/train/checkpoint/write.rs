//! Writing a checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use superstep_ir::types::DType;

use super::content::{CONTENT_FILE, Content, FORMAT, file_digest};
use super::identity::RunIdentity;
use super::rotate::folder;
use super::{OPTIMISER_FILE, TRAINER_STATE_FILE};
use crate::atomic_file::{self, AtomicWriteError, StagedFolder};
use crate::error::Error;
use crate::frontend::safetensors_out::{TensorOut, Values, write_safetensors};
use crate::frontend::{FrontendError, Gpt2Config, Tensor, Tokenizer, Weights, save_pretrained};
use crate::ipu_config;
use crate::session::Session;
use crate::train::loss_scale::LossScale;
use crate::train::meter::Meter;
use crate::train::state::TrainerState;

/// What goes into a checkpoint.
pub struct CheckpointOut<'a> {
    pub config: &'a Gpt2Config,
    pub tokenizer: Option<&'a Tokenizer>,
    /// The text of `ipu_config.json`, where the run has one.
    pub ipu_config: Option<&'a str>,
    pub identity: &'a RunIdentity,
    pub state: &'a TrainerState,
    pub meter: &'a Meter,
    pub loss_scale: LossScale,
    pub evaluation_is_due: bool,
    pub steps_per_epoch: u64,
}

/// Writes `checkpoint-N` for the step the state is at; returns where it is.
pub fn write(output_dir: &Path, out: &CheckpointOut, session: &Session) -> Result<PathBuf, Error> {
    let destination = folder(output_dir, out.state.global_step);
    let staged = StagedFolder::create(&destination)?;
    fill(staged.path(), out, session)
        .map_err(|error| renamed(error, staged.path(), &destination))?;
    staged.commit()?;
    Ok(destination)
}

fn fill(dir: &Path, out: &CheckpointOut, session: &Session) -> Result<(), Error> {
    let step = out.state.global_step;
    let weights = session.weights(out.config)?;
    check_finite(&weights, step)?;
    let dtype = session.save_dtype();
    save_pretrained(dir, out.config, &weights, out.tokenizer, dtype)?;
    drop(weights);
    if let Some(text) = out.ipu_config {
        atomic_file::write(&dir.join(ipu_config::FILE_NAME), text.as_bytes())?;
    }
    write_optimiser(&dir.join(OPTIMISER_FILE), session)?;
    atomic_file::write(
        &dir.join(TRAINER_STATE_FILE),
        out.state.to_json().as_bytes(),
    )?;
    let content = Content {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        global_step: step,
        epoch: step / out.steps_per_epoch,
        step_in_epoch: step % out.steps_per_epoch,
        meter: *out.meter,
        loss_scale: out.loss_scale,
        evaluation_is_due: out.evaluation_is_due,
        identity: out.identity.clone(),
        files: digests(dir)?,
    };
    let text = content.seal().map_err(|e| Error::failed(e.to_string()))?;
    Ok(atomic_file::write(
        &dir.join(CONTENT_FILE),
        text.as_bytes(),
    )?)
}

/// Weights that are no numbers make no checkpoint: the ones before stay the last good ones.
pub fn check_finite(weights: &Weights, step: u64) -> Result<(), Error> {
    let is_bad = |tensor: &Tensor| tensor.data.iter().any(|value| !value.is_finite());
    let Some((name, _)) = weights.iter().find(|(_, tensor)| is_bad(tensor)) else {
        return Ok(());
    };
    let message = format!(
        "the weight `{name}` has values that are no finite numbers after {step} steps; they are not saved"
    );
    let hint = "lower --learning_rate, add --warmup_ratio, or clip with --max_grad_norm; earlier checkpoints are as they were";
    Err(Error::failed(message).with_hint(hint))
}

/// The error, naming the file as the user would find it.
fn renamed(error: Error, hidden: &Path, destination: &Path) -> Error {
    let rename = |mut error: AtomicWriteError| {
        if let Ok(name) = error.path.strip_prefix(hidden) {
            error.path = destination.join(name);
        }
        Error::Write(error)
    };
    match error {
        Error::Write(error) | Error::Frontend(FrontendError::Write(error)) => rename(error),
        other => other,
    }
}

fn write_optimiser(path: &Path, session: &Session) -> Result<(), Error> {
    let states = session.optimiser_states();
    let data: Vec<Vec<u8>> = states
        .iter()
        .map(|state| session.read(state))
        .collect::<Result<_, _>>()?;
    let mut tensors: Vec<TensorOut> = states
        .iter()
        .zip(&data)
        .map(|(state, bytes)| TensorOut {
            name: state.name.clone(),
            shape: state.ty.shape.dims(),
            data: Values::Raw(stored_as(state.ty.dtype), bytes),
        })
        .collect();
    // Wide elements first keeps all of them aligned.
    tensors.sort_by_key(|tensor| match &tensor.data {
        Values::Raw(Dtype::F16 | Dtype::U16, _) => 1,
        Values::Raw(Dtype::BOOL, _) => 2,
        _ => 0,
    });
    Ok(write_safetensors(path, &tensors)?)
}

/// The name a type of the program has in safetensors files.
pub(super) fn stored_as(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::Bool => Dtype::BOOL,
    }
}

fn digests(dir: &Path) -> Result<BTreeMap<String, String>, Error> {
    let cannot = |error: std::io::Error| {
        Error::failed(format!("cannot read {} back: {error}", dir.display()))
    };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, file_digest(&entry.path()).map_err(cannot)?);
    }
    Ok(files)
}
