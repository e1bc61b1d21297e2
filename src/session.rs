//! A loaded program with a model's weights in its tile memories: what training, evaluation and generation have in common.

use std::sync::Arc;

use superstep_ir::program::Program;
use superstep_runtime::{Engine, EngineOptions, Host};

use crate::error::Error;
use crate::frontend::{Gpt2Config, Tensor, Weights};

/// A program on its simulated machine. Weights come from the host; all other state starts as zero.
pub struct Session {
    engine: Engine,
}

impl Session {
    /// Loads `program` with `weights`; `threads` host threads do the work, 0 for as many as there are.
    pub fn load(
        program: Arc<Program>,
        weights: &Weights,
        threads: usize,
    ) -> Result<Session, Error> {
        let mut engine = Engine::load(
            program,
            &EngineOptions {
                threads,
                portable: false,
                poison: false,
            },
        )?;
        for (name, tensor) in weights.iter() {
            engine.write_state(name, bytemuck::cast_slice(&tensor.data))?;
        }
        Ok(Session { engine })
    }

    /// Runs the program's entry once: a whole optimiser step, or one inference.
    pub fn run(&mut self, host: &mut dyn Host) -> Result<(), Error> {
        Ok(self.engine.run(host)?)
    }

    /// The weights as they are now.
    pub fn weights(&self, config: &Gpt2Config) -> Result<Weights, Error> {
        let parameters = config.parameters();
        let tensors = parameters.into_iter().map(|parameter| {
            let mut data = vec![0f32; parameter.element_count()];
            self.engine
                .read_state(&parameter.name, bytemuck::cast_slice_mut(&mut data))?;
            Ok((
                parameter.name,
                Tensor {
                    shape: parameter.shape,
                    data,
                },
            ))
        });
        tensors.collect()
    }
}
