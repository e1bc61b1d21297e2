//! The engine: the whole machine on one page.
//!
//! The list of steps is the only clock. A step ends on all tiles before the next begins (or does as if, see
//! [`superstep`](crate::superstep)), so a sync has nothing left to do here; its cycles are the timeline's business.

use std::sync::Arc;

use superstep_ir::ids::{ProcId, VarId};
use superstep_ir::program::{Direction, Program, RemoteDirection, State};

use crate::codelets::Isa;
use crate::crew::Crew;
use crate::error::{EngineError, HostError};
use crate::load::{LoadOptions, Loaded, LoadedStep};
use crate::poison::Deaths;
use crate::tensor_io::Tensor;
use crate::tile_memory::TileMemory;

/// How to run; no setting changes a bit of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// Host threads; 0 takes as many as the machine has.
    pub threads: usize,
    /// Leave vector instructions beyond the compiler's baseline unused.
    pub portable: bool,
    pub schedule: Schedule,
}

/// How the host goes through the program. All give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Steps are joined where no tile waits for another, and what nobody writes is not copied; derived from the program when it is loaded.
    #[default]
    Fast,
    /// To the letter: a step at a time, each vertex by itself on its own tile's bytes, and every exchange copies every byte it names.
    Strict,
    /// [`Schedule::Strict`], and memory that no live variable holds is filled with NaNs; slow, for tests.
    Poisoned,
}

/// The host's side of the streams. Bytes are those of one whole tensor, row-major, little endian.
pub trait Host: Send {
    /// Fills `into` with the next tensor of an input stream.
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError>;
    /// Takes the next tensor of an output stream.
    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError>;
}

/// A loaded program with the memories of its tiles.
pub struct Engine {
    program: Arc<Program>,
    loaded: Loaded,
    /// By replica.
    memories: Vec<TileMemory>,
    pool: rayon::ThreadPool,
    deaths: Option<Deaths>,
    /// Streaming memory, by replica and state; nothing for states that rest on tiles.
    streaming: Vec<Vec<Vec<u8>>>,
    /// One tensor on its way between host and tiles.
    staging: Vec<u8>,
}

impl Engine {
    /// Checks a program completely and reserves its tile memories. All memory, and so all state, is zero.
    pub fn load(program: Arc<Program>, options: &EngineOptions) -> Result<Engine, EngineError> {
        let threads = options.threads;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|source| EngineError::Threads { threads, source })?;
        let isa = if options.portable {
            Isa::PORTABLE
        } else {
            Isa::detect()
        };
        let stepwise = options.schedule != Schedule::Fast;
        let load = LoadOptions { isa, stepwise };
        let loaded = pool.install(|| Loaded::of(&program, load))?;
        let replicas = 0..program.replicas.max(1);
        let mut memories: Vec<TileMemory> = replicas
            .map(|_| TileMemory::reserve(&program, loaded.homes.bytes))
            .collect::<Result<_, _>>()?;
        let deaths = (options.schedule == Schedule::Poisoned).then(|| {
            let deaths = memories
                .iter_mut()
                .map(|memory| Deaths::prepare(&program, &loaded, memory));
            // All replicas run the same steps.
            deaths.last()
        });
        let deaths = deaths.flatten();
        let rests = |state: &State| match state.remote {
            true => vec![0; program.variable(state.variable).ty.bytes()],
            false => Vec::new(),
        };
        let streaming = memories
            .iter()
            .map(|_| program.states.iter().map(rests).collect())
            .collect();
        Ok(Engine {
            program,
            loaded,
            memories,
            pool,
            deaths,
            streaming,
            staging: Vec::new(),
        })
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Sets a state from the whole tensor, row-major: the same in every replica, or each replica's part of a sharded one.
    pub fn write_state(&mut self, name: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let number = self.state(name, bytes.len())?;
        let state = &self.program.states[number];
        let tensor = tensor(&self.program, &self.loaded, state.variable);
        for (replica, memory) in self.memories.iter_mut().enumerate() {
            let part = if state.sharded { replica } else { 0 };
            let bytes = &bytes[part * tensor.bytes()..][..tensor.bytes()];
            match state.remote {
                true => self.streaming[replica][number].copy_from_slice(bytes),
                false => tensor.write(memory, bytes),
            }
        }
        Ok(())
    }

    /// Copies a state into `bytes`, the whole tensor, row-major.
    pub fn read_state(&self, name: &str, bytes: &mut [u8]) -> Result<(), EngineError> {
        let number = self.state(name, bytes.len())?;
        let state = &self.program.states[number];
        let tensor = tensor(&self.program, &self.loaded, state.variable);
        // Of what is the same everywhere, there is one part.
        let parts = bytes.chunks_mut(tensor.bytes().max(1));
        for ((memory, streaming), part) in self.memories.iter().zip(&self.streaming).zip(parts) {
            match state.remote {
                true => part.copy_from_slice(&streaming[number]),
                false => tensor.read(memory, part),
            }
        }
        Ok(())
    }

    /// Number of the state of this name, of which `found` bytes were given.
    fn state(&self, name: &str, found: usize) -> Result<usize, EngineError> {
        let number = self.program.states.iter().position(|s| s.name == name);
        let number = number.ok_or_else(|| EngineError::NoState { name: name.into() })?;
        let state = &self.program.states[number];
        let parts = if state.sharded {
            self.memories.len()
        } else {
            1
        };
        let expected = self.program.variable(state.variable).ty.bytes() * parts;
        if found != expected {
            return Err(EngineError::StateBytes {
                name: name.into(),
                expected,
                found,
            });
        }
        Ok(number)
    }

    /// Runs the entry procedure once. After an error of the host, state is what the steps before it have left.
    pub fn run(&mut self, host: &mut dyn Host) -> Result<(), EngineError> {
        self.run_procedure(self.program.entry, host)
    }

    /// Runs one part of the program by itself, as [`Engine::run`] runs all of it.
    pub fn run_part(&mut self, name: &str, host: &mut dyn Host) -> Result<(), EngineError> {
        let mut parts = self.program.parts.iter().copied();
        let part = parts.find(|&part| self.program.procedure(part).name == name);
        let part = part.ok_or_else(|| EngineError::NoPart { name: name.into() })?;
        self.run_procedure(part, host)
    }

    fn run_procedure(&mut self, procedure: ProcId, host: &mut dyn Host) -> Result<(), EngineError> {
        self.memories.iter_mut().for_each(TileMemory::clear_seeds);
        let mut run = Run {
            program: &self.program,
            loaded: &self.loaded,
            memories: &mut self.memories,
            deaths: self.deaths.as_ref(),
            streaming: &mut self.streaming,
            staging: &mut self.staging,
            host,
        };
        // One stay in the pool for the whole run: steps are too short to enter it for each.
        self.pool
            .install(|| Crew::gather(|crew| run.procedure(procedure.index(), crew)))
    }
}

/// A variable as host transfers see it.
fn tensor<'a>(program: &Program, loaded: &'a Loaded, variable: VarId) -> Tensor<'a> {
    let v = program.variable(variable);
    Tensor {
        layout: loaded.layouts.layout(variable),
        grid: &loaded.layouts.grids[v.grid.index()],
        home: loaded.homes.of(variable),
    }
}

/// One run of the entry, or of a part.
struct Run<'a> {
    program: &'a Program,
    loaded: &'a Loaded,
    memories: &'a mut [TileMemory],
    deaths: Option<&'a Deaths>,
    streaming: &'a mut [Vec<Vec<u8>>],
    staging: &'a mut Vec<u8>,
    host: &'a mut dyn Host,
}

impl Run<'_> {
    fn procedure(&mut self, procedure: usize, crew: &mut Crew<'_>) -> Result<(), EngineError> {
        for (number, step) in &self.loaded.procedures[procedure] {
            let mut last = *number;
            match step {
                LoadedStep::Phase(phase) => {
                    self.memories
                        .iter_mut()
                        .for_each(|memory| phase.run(memory, crew));
                    last += (phase.steps() as u32).saturating_sub(1);
                }
                LoadedStep::Host { stream } => {
                    (0..self.memories.len()).try_for_each(|r| self.transfer(*stream, r))?;
                }
                LoadedStep::Remote { state, direction } => self.remote(*state, *direction),
                LoadedStep::Collective(collective) => collective.run(self.memories),
                LoadedStep::Repeat { count, body } => {
                    for _ in 0..*count {
                        self.procedure(*body, crew)?;
                    }
                }
                LoadedStep::Call(body) => self.procedure(*body, crew)?,
                // They share no tile: one after the other gives the same values.
                LoadedStep::Parallel(bodies) => {
                    for body in bodies {
                        self.procedure(*body, crew)?;
                    }
                }
            }
            if let Some(deaths) = self.deaths {
                for memory in &mut *self.memories {
                    (*number..=last).for_each(|n| {
                        deaths.after(u64::from(n), self.program, self.loaded, memory);
                    });
                }
            }
        }
        Ok(())
    }

    /// Moves a state between streaming memory and the tiles, in every replica.
    fn remote(&mut self, state: usize, direction: RemoteDirection) {
        let variable = self.program.states[state].variable;
        let tensor = tensor(self.program, self.loaded, variable);
        for (memory, streaming) in self.memories.iter_mut().zip(&mut *self.streaming) {
            match direction {
                RemoteDirection::Load => tensor.write(memory, &streaming[state]),
                RemoteDirection::Store => tensor.read(memory, &mut streaming[state]),
            }
        }
    }

    /// Moves one tensor between host and the tiles of a replica.
    fn transfer(&mut self, stream: usize, replica: usize) -> Result<(), EngineError> {
        let stream = &self.program.streams[stream];
        let tensor = tensor(self.program, self.loaded, stream.variable);
        self.staging.resize(tensor.bytes(), 0);
        let served = match stream.direction {
            Direction::HostToDevice => self
                .host
                .feed(&stream.name, self.staging)
                .map(|()| tensor.write(&mut self.memories[replica], self.staging)),
            Direction::DeviceToHost => {
                tensor.read(&self.memories[replica], self.staging);
                self.host.take(&stream.name, self.staging)
            }
        };
        served.map_err(|source| EngineError::Host {
            stream: stream.name.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests;
