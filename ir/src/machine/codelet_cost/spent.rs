//! What the cycles of one vertex go into: the currency of the cost formulae, and of the ledger that explains a program's time.
//!
//! Every formula has the form `W·(fixed + busiest loop) + supervisor`. Beside the loop of the busiest worker, which decides, a formula
//! says how long the loop would be if the work were spread evenly over the workers in full vectors: the difference is what the unevenness
//! costs.

use std::ops::{Add, AddAssign, Mul};

use super::super::Machine;
use crate::units::Cycles;

/// Tile cycles of a vertex.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    pub cycles: Cycles,
    /// Of `cycles`, what does not depend on the amount of work: supervisor, start and end of the workers' loops.
    pub fixed: Cycles,
    /// The loops, if all workers had the same share in full vectors; at most `cycles − fixed`.
    pub even: f64,
}

impl Spent {
    /// The one that takes less; this one if both take the same.
    pub(super) fn less(self, other: Spent) -> Spent {
        if other.cycles < self.cycles {
            other
        } else {
            self
        }
    }
}

/// Worker cycles of a part of a codelet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    /// Before, between and after the loops.
    pub(super) fixed: u64,
    /// The loops of the busiest worker.
    pub(super) busiest: u64,
    /// The loops, shared evenly.
    pub(super) even: f64,
}

impl Work {
    /// Loops over `busiest` units at the busiest worker, `even` on average, of `each` cycles.
    pub(super) const fn units(fixed: u64, busiest: u64, even: f64, each: u64) -> Work {
        Work {
            fixed,
            busiest: busiest * each,
            even: even * each as f64,
        }
    }

    /// The vertex: all workers in parallel, each with one issue in `W`, and `supervisor` cycles around them.
    pub(super) fn vertex(self, machine: &Machine, supervisor: Cycles) -> Spent {
        let workers = u64::from(machine.workers);
        let fixed = workers * self.fixed + supervisor;
        Spent {
            cycles: fixed + workers * self.busiest,
            fixed,
            even: workers as f64 * self.even,
        }
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            fixed: self.fixed + other.fixed,
            busiest: self.busiest + other.busiest,
            even: self.even + other.even,
        }
    }
}

impl Mul<Work> for u64 {
    type Output = Work;

    fn mul(self, work: Work) -> Work {
        Work {
            fixed: self * work.fixed,
            busiest: self * work.busiest,
            even: self as f64 * work.even,
        }
    }
}

/// Tile cycles of one vertex, and what they go into; the causes sum to `cycles`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VertexAccount {
    pub cycles: Cycles,
    pub causes: Causes,
}

/// What the cycles of vertices go into.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Causes {
    /// Arithmetic at the peak rate of its unit: the matrix unit for products, the vector unit for all else.
    pub ideal: f64,
    /// Matrix unit: loading coefficients, filling and draining the pipeline, clearing the output.
    pub fill: f64,
    /// Matrix unit: work on rows of zeroes that round the contraction and the output channels up to whole blocks.
    pub padding: f64,
    /// Turning transposed operands of the matrix unit.
    pub transpose: f64,
    /// Vector unit: loads, stores and slow functions, which keep it from its peak.
    pub instructions: f64,
    /// Supervisor, start and end of loops.
    pub overhead: f64,
    /// Waiting for the worker with the largest share, and vectors that are not full.
    pub workers: f64,
}

impl Mul<f64> for Causes {
    type Output = Causes;

    fn mul(self, times: f64) -> Causes {
        Causes {
            ideal: self.ideal * times,
            fill: self.fill * times,
            padding: self.padding * times,
            transpose: self.transpose * times,
            instructions: self.instructions * times,
            overhead: self.overhead * times,
            workers: self.workers * times,
        }
    }
}

impl AddAssign for Causes {
    fn add_assign(&mut self, other: Causes) {
        self.ideal += other.ideal;
        self.fill += other.fill;
        self.padding += other.padding;
        self.transpose += other.transpose;
        self.instructions += other.instructions;
        self.overhead += other.overhead;
        self.workers += other.workers;
    }
}

impl VertexAccount {
    /// The account of a vector codelet that does `ideal` cycles of arithmetic.
    pub(super) fn vector(spent: Spent, ideal: f64) -> VertexAccount {
        let ideal = ideal.min(spent.even);
        VertexAccount {
            cycles: spent.cycles,
            causes: Causes {
                ideal,
                instructions: spent.even - ideal,
                overhead: spent.fixed as f64,
                workers: (spent.cycles - spent.fixed) as f64 - spent.even,
                ..Causes::default()
            },
        }
    }
}
