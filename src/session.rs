//! A loaded program with a model's weights in its tile memories: what training, evaluation and generation have in common.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use superstep_ir::op::StateKind;
use superstep_ir::program::{Program, State};
use superstep_ir::types::{DType, TensorType};
use superstep_runtime::{Engine, EngineOptions, Host};

use crate::error::Error;
use crate::frontend::{Gpt2Config, SaveDtype, Tensor, Weights};

/// A program on its simulated machine. Weights come from the host; all other state starts as zero.
pub struct Session {
    engine: Engine,
}

/// A piece of state in the tiles' memories.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    pub name: String,
    pub kind: StateKind,
    pub ty: TensorType,
}

impl Session {
    /// Loads `program` with `weights`.
    pub fn load(
        program: Arc<Program>,
        weights: &Weights,
        options: &EngineOptions,
    ) -> Result<Session, Error> {
        let engine = Engine::load(program, options)?;
        let mut session = Session { engine };
        session.write_weights(weights)?;
        Ok(session)
    }

    /// Runs the program's entry once: a whole optimiser step, or one inference.
    pub fn run(&mut self, host: &mut dyn Host) -> Result<(), Error> {
        Ok(self.engine.run(host)?)
    }

    /// Runs one part of the program, `prefill` or `decode` of a generation, once.
    pub fn run_part(&mut self, name: &str, host: &mut dyn Host) -> Result<(), Error> {
        Ok(self.engine.run_part(name, host)?)
    }

    /// Replaces the weights, rounded to the type that the program keeps them in.
    pub fn write_weights(&mut self, weights: &Weights) -> Result<(), Error> {
        for (name, tensor) in weights.iter() {
            if self.dtype(name) == Some(DType::F16) {
                let mut halves = vec![f16::ZERO; tensor.data.len()];
                halves.convert_from_f32_slice(&tensor.data);
                self.engine
                    .write_state(name, bytemuck::cast_slice(&halves))?;
            } else {
                self.engine
                    .write_state(name, bytemuck::cast_slice(&tensor.data))?;
            }
        }
        Ok(())
    }

    /// The weights as they are now.
    pub fn weights(&self, config: &Gpt2Config) -> Result<Weights, Error> {
        let parameters = config.parameters();
        let tensors = parameters.into_iter().map(|parameter| {
            let mut data = vec![0f32; parameter.element_count()];
            if self.dtype(&parameter.name) == Some(DType::F16) {
                let mut halves = vec![f16::ZERO; data.len()];
                self.engine
                    .read_state(&parameter.name, bytemuck::cast_slice_mut(&mut halves))?;
                halves.convert_to_f32_slice(&mut data);
            } else {
                self.engine
                    .read_state(&parameter.name, bytemuck::cast_slice_mut(&mut data))?;
            }
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

    /// The state that lasts from step to step besides the weights: moments and counters. Accumulators are zero between steps.
    ///
    /// Of a sharded state, the parts of all replicas one after the other: `[replicas, ..]`.
    pub fn optimiser_states(&self) -> Vec<StateTensor> {
        let program = self.engine.program();
        let lasting = program
            .states
            .iter()
            .filter(|state| matches!(state.kind, StateKind::OptimiserState | StateKind::Counter));
        lasting
            .map(|state| StateTensor {
                name: state.name.clone(),
                kind: state.kind,
                ty: whole(program, state),
            })
            .collect()
    }

    /// The bytes of a state: the whole tensor, row-major.
    pub fn read(&self, state: &StateTensor) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; state.ty.bytes()];
        self.engine.read_state(&state.name, &mut bytes)?;
        Ok(bytes)
    }

    /// Sets a state from the whole tensor, row-major.
    pub fn write(&mut self, state: &StateTensor, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.engine.write_state(&state.name, bytes)?)
    }

    /// The type that saves the weights without rounding them.
    pub fn save_dtype(&self) -> SaveDtype {
        match self.dtype("wte.weight") {
            Some(DType::F16) => SaveDtype::Float16,
            _ => SaveDtype::Float32,
        }
    }

    /// The type the program keeps a state in.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        let program = self.engine.program();
        let state = program.states.iter().find(|state| state.name == name)?;
        Some(program.variable(state.variable).ty.dtype)
    }
}

/// The type of a state as the host sees it.
fn whole(program: &Program, state: &State) -> TensorType {
    let mut ty = program.variable(state.variable).ty.clone();
    if state.sharded {
        ty.shape.0.insert(0, program.replicas as usize);
    }
    ty
}
