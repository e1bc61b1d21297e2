//! A loaded program with a model's weights in its tile memories: what training, evaluation and generation have in common.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use superstep_ir::op::StateKind;
use superstep_ir::program::{Program, State};
use superstep_ir::types::{DType, TensorType};
use superstep_passes::tensor_parallel::part_of;
use superstep_runtime::{Engine, EngineOptions, Host};

use crate::error::Error;
use crate::frontend::members::MemberParts;
use crate::frontend::vocabulary::TABLE;
use crate::frontend::{Gpt2Config, SaveDtype, Tensor, VocabularySlices, Weights};

/// A program on its simulated machine. Weights come from the host; all other state starts as zero.
pub struct Session {
    engine: Engine,
    /// How the program keeps the embedding table.
    table: VocabularySlices,
    /// The weights that it keeps in parts.
    parts: MemberParts,
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
        let table = table(&program, weights);
        let parts = parts(&program, weights);
        let engine = Engine::load(program, options)?;
        let mut session = Session {
            engine,
            table,
            parts,
        };
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
                self.write_bytes(name, bytemuck::cast_slice(&halves))?;
            } else {
                self.write_bytes(name, bytemuck::cast_slice(&tensor.data))?;
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
                self.read_bytes(&parameter.name, bytemuck::cast_slice_mut(&mut halves))?;
                halves.convert_to_f32_slice(&mut data);
            } else {
                self.read_bytes(&parameter.name, bytemuck::cast_slice_mut(&mut data))?;
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
    /// Of a sharded state, the parts of all replicas one after the other: `[replicas, ..]`. What the program keeps in slices of the vocabulary
    /// is one tensor, `[vocabulary, width]`, and what it keeps in parts on the members of a group has the shape of its weight.
    pub fn optimiser_states(&self) -> Vec<StateTensor> {
        let program = self.engine.program();
        let lasting = program
            .states
            .iter()
            .filter(|state| matches!(state.kind, StateKind::OptimiserState | StateKind::Counter));
        let tensor = |state: &State| {
            let ty = whole(program, state);
            let slice = self.table.slice_of(&state.name);
            let (name, piece, ty) = match (slice, self.parts.part_of(&state.name)) {
                (Some((name, slice)), _) => (name, slice, self.joined(&ty)),
                (None, Some((name, division, member))) => {
                    (name, member, TensorType::new(ty.dtype, division.shape()))
                }
                (None, None) => (state.name.as_str(), 0, ty),
            };
            // What is in pieces is named by the first of them.
            (piece == 0).then(|| StateTensor {
                name: name.to_owned(),
                kind: state.kind,
                ty,
            })
        };
        lasting.filter_map(tensor).collect()
    }

    /// The type of a table of which the program keeps slices of type `slice`.
    fn joined(&self, slice: &TensorType) -> TensorType {
        let width = slice.shape.elements() / self.table.rows();
        TensorType::new(slice.dtype, [self.table.vocabulary(), width])
    }

    /// Sets a state, piece by piece where the program has it so.
    fn write_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        if let Some(division) = self.parts.division(name) {
            for member in 0..division.members() {
                let state = part_of(name, member);
                let mut part = division.take(bytes, member);
                // Replicas that share it out have parts of equal size.
                part.resize(self.bytes_of(&state).unwrap_or(part.len()), 0);
                self.engine.write_state(&state, &part)?;
            }
            return Ok(());
        }
        if !self.table.has(name) {
            return Ok(self.engine.write_state(name, bytes)?);
        }
        let row = bytes.len() / self.table.vocabulary();
        let slices = self.table.cut(bytes, row);
        for (i, slice) in slices.iter().enumerate() {
            self.engine.write_state(&self.table.state(name, i), slice)?;
        }
        Ok(())
    }

    fn read_bytes(&self, name: &str, bytes: &mut [u8]) -> Result<(), Error> {
        if let Some(division) = self.parts.division(name) {
            for member in 0..division.members() {
                let state = part_of(name, member);
                let share = bytes.len() / division.members();
                let mut part = vec![0; self.bytes_of(&state).unwrap_or(share)];
                self.engine.read_state(&state, &mut part)?;
                division.put(&part, member, bytes);
            }
            return Ok(());
        }
        if !self.table.has(name) {
            return Ok(self.engine.read_state(name, bytes)?);
        }
        let row = bytes.len() / self.table.vocabulary();
        let mut slice = vec![0; self.table.rows() * row];
        for (i, part) in bytes.chunks_mut(slice.len().max(1)).enumerate() {
            self.engine
                .read_state(&self.table.state(name, i), &mut slice)?;
            part.copy_from_slice(&slice[..part.len()]);
        }
        Ok(())
    }

    /// The bytes of a state: the whole tensor, row-major.
    pub fn read(&self, state: &StateTensor) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; state.ty.bytes()];
        self.read_bytes(&state.name, &mut bytes)?;
        Ok(bytes)
    }

    /// Sets a state from the whole tensor, row-major.
    pub fn write(&mut self, state: &StateTensor, bytes: &[u8]) -> Result<(), Error> {
        self.write_bytes(&state.name, bytes)
    }

    /// The type that saves the weights without rounding them.
    pub fn save_dtype(&self) -> SaveDtype {
        match self.dtype(TABLE) {
            Some(DType::F16) => SaveDtype::Float16,
            _ => SaveDtype::Float32,
        }
    }

    /// The type the program keeps a state in.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        let name = match (self.table.has(name), self.parts.division(name)) {
            (true, _) => self.table.state(name, 0),
            (false, Some(_)) => part_of(name, 0),
            (false, None) => name.to_owned(),
        };
        let variable = self.state(&name)?.variable;
        Some(self.engine.program().variable(variable).ty.dtype)
    }

    fn state(&self, name: &str) -> Option<&State> {
        let mut states = self.engine.program().states.iter();
        states.find(|state| state.name == name)
    }

    /// Bytes of a state of the program, of all replicas.
    fn bytes_of(&self, state: &str) -> Option<usize> {
        let state = self.state(state)?;
        Some(whole(self.engine.program(), state).bytes())
    }
}

/// How a program keeps the weights of divided layers.
fn parts(program: &Program, weights: &Weights) -> MemberParts {
    let states = program.states.iter().map(|state| {
        let shape = &program.variable(state.variable).ty.shape;
        (state.name.as_str(), shape.dims())
    });
    let weights = weights.iter();
    let weights = weights.map(|(name, tensor)| (name, tensor.shape.as_slice()));
    MemberParts::of(weights, &states.collect())
}

/// How a program keeps the embedding table of these weights.
fn table(program: &Program, weights: &Weights) -> VocabularySlices {
    let vocabulary = weights.get(TABLE).map_or(0, |table| table.shape[0]);
    let of_table = |state: &&State| {
        let rest = state.name.strip_prefix(TABLE);
        let number = rest.and_then(|rest| rest.strip_prefix('.'));
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    };
    let slices: Vec<&State> = program.states.iter().filter(of_table).collect();
    let rows = slices
        .first()
        .map(|s| program.variable(s.variable).ty.shape[0]);
    let held = rows.and_then(|rows| VocabularySlices::holding(vocabulary, slices.len(), rows));
    // Slices that hold less are of another model; writing to them will say so.
    held.unwrap_or(VocabularySlices::whole(vocabulary))
}

/// The type of a state as the host sees it.
fn whole(program: &Program, state: &State) -> TensorType {
    let mut ty = program.variable(state.variable).ty.clone();
    if state.sharded {
        ty.shape.0.insert(0, program.replicas as usize);
    }
    ty
}
