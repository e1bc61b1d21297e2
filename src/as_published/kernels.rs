//! Costs of single ops as PopLibs lowers them: a compute set each, on elements spread evenly over all tiles, with the sync before it.

use superstep_ir::machine::Machine;
use superstep_ir::machine::codelet_cost::elementwise::{
    InPlace, binary, binary_rows, binary_scalar, gelu_tanh, gelu_tanh_grad, scaled_add, unary,
};
use superstep_ir::machine::codelet_cost::{Share, data, norm, reduce, softmax};
use superstep_ir::machine::exchange_cost::exchange_cycles;
use superstep_ir::op::{BinaryOp, UnaryOp};
use superstep_ir::types::DType;
use superstep_passes::plan::matmul::search::search_among;
use superstep_passes::plan::matmul::{Inner, MatmulPlan, MatmulProblem, PlanStyle};

use super::Rearrangement;

/// Worker cycles of one element of PopLibs' vertex for powers (mk2.md §3.6: 325 for f16, by logarithm and exponential in software).
const POW: u64 = 325;
/// Worker cycles of one element that is selected from two tensors by a third, and around a row of them (mk2.md §3.6).
const SELECT: u64 = 5;

/// A machine and what does not change from op to op; all tensors are f16.
pub(super) struct Kernels<'m> {
    pub(super) machine: &'m Machine,
    pub(super) budget: u64,
    pub(super) rearrangement: Rearrangement,
}

const F16: DType = DType::F16;

impl Kernels<'_> {
    /// Elements of the fullest tile.
    fn on_a_tile(&self, elements: usize) -> u64 {
        (elements as u64).div_ceil(u64::from(self.machine.tiles_per_ipu))
    }

    /// A compute set alone.
    fn set(&self, cycles: u64) -> u64 {
        self.machine.sync_cycles + cycles
    }

    /// `bytes` to the busiest tile.
    fn exchange(&self, bytes: u64) -> u64 {
        self.machine.sync_cycles + exchange_cycles(self.machine, bytes, bytes)
    }

    pub(super) fn unary(&self, op: UnaryOp, elements: usize) -> u64 {
        let n = self.on_a_tile(elements);
        self.set(unary(self.machine, op, InPlace::No, F16, n).cycles)
    }

    pub(super) fn binary(&self, op: BinaryOp, elements: usize) -> u64 {
        let n = self.on_a_tile(elements);
        self.set(binary(self.machine, op, InPlace::No, F16, n).cycles)
    }

    /// With one number for all.
    pub(super) fn scalar(&self, op: BinaryOp, elements: usize) -> u64 {
        let n = self.on_a_tile(elements);
        self.set(binary_scalar(self.machine, op, F16, n).cycles)
    }

    /// With a vector along the rows: a bias. Each tile needs its part of the vector.
    pub(super) fn vector(&self, op: BinaryOp, rows: usize, columns: usize) -> u64 {
        let n = self.on_a_tile(rows * columns);
        let width = 64.min(columns as u64);
        let cycles = binary_rows(self.machine, op, F16, n.div_ceil(width), width).cycles;
        self.exchange(2 * width) + self.set(cycles)
    }

    /// With a tensor that is the same for every head, and has to be brought.
    pub(super) fn brought(&self, op: BinaryOp, elements: usize) -> u64 {
        self.exchange(2 * self.on_a_tile(elements)) + self.binary(op, elements)
    }

    pub(super) fn pow(&self, elements: usize) -> u64 {
        let workers = u64::from(self.machine.workers);
        let each = self.on_a_tile(elements).div_ceil(workers);
        self.set(workers * (20 + each * POW) + 11)
    }

    pub(super) fn select(&self, elements: usize) -> u64 {
        let workers = u64::from(self.machine.workers);
        let each = self.on_a_tile(elements).div_ceil(workers);
        self.set(workers * (5 + 6 + each * SELECT))
    }

    pub(super) fn dropout(&self, elements: usize) -> u64 {
        let n = self.on_a_tile(elements);
        self.set(data::dropout(self.machine, F16, n).cycles)
    }

    pub(super) fn gelu(&self, elements: usize) -> u64 {
        self.set(gelu_tanh(self.machine, F16, self.on_a_tile(elements)).cycles)
    }

    pub(super) fn gelu_grad(&self, elements: usize) -> u64 {
        self.set(gelu_tanh_grad(self.machine, F16, self.on_a_tile(elements)).cycles)
    }

    /// `a·x + b·y` on two tensors: the running mean of a gradient.
    pub(super) fn scaled_add(&self, elements: usize) -> u64 {
        let n = self.on_a_tile(elements);
        self.set(scaled_add(self.machine, [F16, F16], n).cycles + 12)
    }

    /// A block of rows on every tile, a row for each worker.
    fn share(&self, elements: usize) -> Share {
        let workers = u64::from(self.machine.workers);
        let columns = self.on_a_tile(elements).div_ceil(workers);
        Share::of(self.machine, F16, workers, columns)
    }

    /// Softmax: seven compute sets, two of them joined over the tiles of a row.
    pub(super) fn softmax(&self, elements: usize) -> u64 {
        let cycles = softmax::softmax(self.machine, &self.share(elements)).cycles;
        cycles + 7 * self.machine.sync_cycles + 4 * self.exchange(64)
    }

    pub(super) fn softmax_grad(&self, elements: usize) -> u64 {
        let cycles = softmax::softmax_grad(self.machine, &self.share(elements)).cycles;
        cycles + 4 * self.machine.sync_cycles + 2 * self.exchange(64)
    }

    pub(super) fn layer_norm(&self, elements: usize) -> u64 {
        let cycles = norm::layer_norm(self.machine, &self.share(elements)).cycles;
        cycles + 7 * self.machine.sync_cycles + 4 * self.exchange(64)
    }

    /// Gradients to input, scale and shift.
    pub(super) fn layer_norm_grad(&self, rows: usize, columns: usize) -> u64 {
        let share = self.share(rows * columns);
        let input = norm::layer_norm_grad(self.machine, &share).cycles;
        let sets = 10 * self.machine.sync_cycles + 4 * self.exchange(64);
        input
            + sets
            + self.binary(BinaryOp::Mul, rows * columns)
            + 2 * self.column_sums(rows, columns)
    }

    /// Sums over rows, joined over tiles.
    pub(super) fn column_sums(&self, rows: usize, columns: usize) -> u64 {
        let tiles = self.machine.tiles_per_ipu as usize;
        let n = self.on_a_tile(rows * columns);
        let own = reduce::reduce(self.machine, [F16, F16], 64, n.div_ceil(64)).cycles;
        let parts = (tiles * 64 / columns.max(1)).max(1) as u64;
        let outputs = self.on_a_tile(columns).max(8);
        let joined = reduce::reduce(self.machine, [F16, F16], outputs, parts).cycles;
        self.set(own) + self.exchange(2 * outputs * parts) + self.set(joined)
    }

    /// Sums along rows.
    pub(super) fn row_sums(&self, elements: usize) -> u64 {
        let columns = self
            .on_a_tile(elements)
            .div_ceil(u64::from(self.machine.workers));
        let workers = u64::from(self.machine.workers);
        let own = reduce::rows(self.machine, F16, workers, columns).cycles;
        self.set(own) + self.exchange(64)
    }

    /// A tensor in another layout (mk2.md §4, §3.5).
    pub(super) fn rearrange(&self, elements: usize) -> u64 {
        let n = self.on_a_tile(elements);
        let copies = match self.rearrangement {
            Rearrangement::Planner => (5 * n).div_ceil(4),
            Rearrangement::Regression => 587 + 2 * n * 3125 / 1000,
        };
        self.set(copies) + self.exchange(2 * n)
    }

    /// A copy that stays on its tile.
    pub(super) fn copy(&self, elements: usize) -> u64 {
        let bytes = 2 * self.on_a_tile(elements);
        self.machine.copy_start_cycles + (bytes as f64 / self.machine.copy_bytes_per_cycle) as u64
    }

    /// A product by the planner, operands brought whole.
    pub(super) fn product(&self, problem: &MatmulProblem) -> u64 {
        let default = |p: &MatmulPlan| p.inner == Inner::N && !p.turn_a && !p.turn_b;
        let front = search_among(self.machine, problem, PlanStyle::Gather, &default);
        front.best_within(self.budget).cost.cycles()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels(machine: &Machine) -> Kernels<'_> {
        Kernels {
            machine,
            budget: 156 << 10,
            rearrangement: Rearrangement::Planner,
        }
    }

    #[test]
    fn slow_functions_by_hand() {
        let mk2 = Machine::mk2();
        let k = kernels(&mk2);
        // [1024, 3072]: 2,138 elements on the fullest tile, 357 for a worker.
        let inner = 1024 * 3072;
        assert_eq!(k.pow(inner), 126 + 6 * (20 + 357 * 325) + 11);
        assert_eq!(k.select(inner), 126 + 6 * (11 + 357 * 5));
        // Planner: 2,673 cycles of copies, 1,069 words.
        assert_eq!(k.rearrange(inner), 126 + 2_673 + 126 + 60 + 1_069);
        let measured = Kernels {
            rearrangement: Rearrangement::Regression,
            ..k
        };
        assert_eq!(
            measured.rearrange(inner),
            126 + 587 + 4_276 * 3_125 / 1_000 + 126 + 60 + 1_069
        );
    }

    #[test]
    fn softmax_takes_about_three_cycles_an_element() {
        let mk2 = Machine::mk2();
        let elements = 12 * 1024 * 1024;
        let each = kernels(&mk2).softmax(elements) as f64 / (elements as f64 / 1472.0);
        assert!((3.0..3.4).contains(&each), "{each}");
    }
}
