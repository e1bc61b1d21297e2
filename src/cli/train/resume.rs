//! Where a run starts: at its beginning, or at a checkpoint.

use std::path::Path;

use super::super::model_options::Model;
use super::super::output::note;
use super::Options;
use crate::atomic_file;
use crate::compile::Compiled;
use crate::data::TokenBlocks;
use crate::error::Error;
use crate::frontend::holds_weights;
use crate::train::Schedule;
use crate::train::checkpoint::{self, Checkpoint, RunIdentity};
use superstep_ir::executable::Executable;

impl Options {
    /// Refuses to train into the folder of a model, such as the one that training starts from, unless that is wanted or there is a
    /// checkpoint to go on from.
    pub(super) fn check_replaces_no_model(&self, output_dir: &Path) -> Result<(), Error> {
        let holds_model = holds_weights(output_dir);
        let goes_on = checkpoint::list(output_dir).is_ok_and(|listed| !listed.is_empty());
        if !self.output.do_train || self.output.overwrite_output_dir || !holds_model || goes_on {
            return Ok(());
        }
        let dir = output_dir.display();
        let message =
            format!("{dir} holds a model already, and no checkpoint of a run to go on from");
        Err(Error::failed(message).with_hint(
            "choose another --output_dir, or replace the model with --overwrite_output_dir",
        ))
    }

    /// The checkpoint to go on from, if any. A folder for results is tidied up on the way.
    pub(super) fn starting_point(&self, run: &RunIdentity) -> Result<Option<Checkpoint>, Error> {
        let output_dir = self.output.output_dir.as_deref();
        if let Some(output_dir) = output_dir {
            atomic_file::remove_leftovers(output_dir)
                .map_err(|error| cannot_tidy(output_dir, &error))?;
        }
        let found = match (self.output.resume_from_checkpoint.as_deref(), output_dir) {
            (None | Some("false"), _) if self.output.overwrite_output_dir => None,
            (Some("false"), _) => None,
            (None, Some(dir)) => match checkpoint::list(dir) {
                Ok(listed) if listed.is_empty() => None,
                _ => Some(latest(dir)?),
            },
            (None, None) => None,
            (Some("latest" | "true"), Some(dir)) => Some(latest(dir)?),
            (Some("latest" | "true"), None) => {
                return Err(Error::usage(
                    "--resume_from_checkpoint latest needs an --output_dir",
                ));
            }
            (Some(dir), _) => Some(Checkpoint::open(Path::new(dir))?),
        };
        let Some(found) = found else {
            if let Some(dir) = output_dir {
                checkpoint::clear(dir).map_err(|error| cannot_tidy(dir, &error))?;
            }
            return Ok(None);
        };
        for difference in found.check(run, self.output.allow_resume_mismatch)? {
            note(format_args!("going on although {difference}"));
        }
        note(format_args!(
            "going on from {} after {} steps",
            found.dir.display(),
            found.content.global_step
        ));
        Ok(Some(found))
    }

    /// Everything the bits of the result depend on.
    pub(super) fn identity(
        &self,
        model: &Model,
        compiled: &Compiled,
        blocks: &TokenBlocks,
        schedule: &Schedule,
    ) -> RunIdentity {
        let (config, manifest) = (&model.config, &compiled.manifest);
        let mut run = RunIdentity::default();
        run.shape("n_layer", config.n_layer);
        run.shape("n_head", config.n_head);
        run.shape("n_embd", config.n_embd);
        run.shape("n_inner", config.n_inner);
        run.shape("n_positions", config.n_positions);
        run.shape("vocab_size", config.vocab_size);
        run.shape("optim", manifest.optimiser.kind.name());
        run.setting("activation_function", config.activation_function.name());
        run.setting("resid_pdrop", config.resid_pdrop);
        run.setting("embd_pdrop", config.embd_pdrop);
        run.setting("attn_pdrop", config.attn_pdrop);
        run.setting("learning_rate", schedule.base);
        run.setting(
            "lr_scheduler_type",
            format!("{:?}", schedule.kind).to_lowercase(),
        );
        run.setting("warm-up steps", schedule.warmup_steps);
        run.setting("steps in all", schedule.steps);
        let optimiser = &manifest.optimiser;
        run.setting("weight_decay", optimiser.weight_decay);
        run.setting("adam_beta1", optimiser.beta1);
        run.setting("adam_beta2", optimiser.beta2);
        run.setting("adam_epsilon", optimiser.epsilon);
        run.setting("bias_correction", optimiser.bias_correction);
        let precision = &manifest.precision;
        run.shape("precision", precision.precision);
        run.shape("master_weights", precision.master_weights);
        run.setting("stochastic_rounding", precision.stochastic_rounding);
        run.setting("auto_loss_scaling", precision.auto_loss_scaling);
        let scaling = self.schedule.loss_scaling;
        let scaling = scaling.unwrap_or(precision.precision.default_loss_scale());
        run.setting("loss_scaling", scaling);
        let interval = self.schedule.loss_scaling_growth_interval;
        run.setting("loss_scaling_growth_interval", interval);
        let clip = optimiser.max_grad_norm;
        run.setting(
            "max_grad_norm",
            clip.map_or("none".into(), |norm| norm.to_string()),
        );
        run.setting(
            "per_device_train_batch_size",
            manifest.per_device_train_batch_size,
        );
        run.setting(
            "gradient_accumulation_steps",
            manifest.gradient_accumulation_steps,
        );
        run.setting(
            "embedding_serialization_factor",
            manifest.embedding_serialization_factor,
        );
        run.setting("tensor_parallel", manifest.tensor_parallel);
        run.setting("device_iterations", self.schedule.device_iterations());
        run.setting("block_size", blocks.block_size());
        run.setting("seed", self.schedule.seed);
        run.setting("shuffle", self.data.shuffle);
        run.setting("number of training samples", blocks.len());
        run.setting("digest of the training data", blocks.digest());
        run.setting("machine", &compiled.program.machine.name);
        run.setting("digest of the compiled program", program_digest(compiled));
        run
    }
}

fn latest(output_dir: &Path) -> Result<Checkpoint, Error> {
    Ok(Checkpoint::latest(output_dir, &mut |error| {
        note(format_args!("{error}; looking for an older one"));
    })?)
}

fn cannot_tidy(directory: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("cannot tidy up {}: {error}", directory.display()))
}

/// Another program adds in another order, so its results are other bits.
fn program_digest(compiled: &Compiled) -> String {
    let executable = Executable {
        manifest: "{}".into(),
        program: compiled.program.clone(),
    };
    blake3::hash(&executable.to_bytes()).to_hex().to_string()
}
