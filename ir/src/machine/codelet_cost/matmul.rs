//! `amp_matmul`: the matrix unit, PopLibs' `ConvPartial1x1Out` (mk2.md §3.1).

use super::super::Machine;
use super::{BlockShape, transpose};
use crate::types::DType;
use crate::units::Cycles;

/// A matrix product of one vertex: `groups` products `[rows, depth]·[depth, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmpMatmul {
    pub input: DType,
    /// Element type of the output and of the partial sums.
    pub partials: DType,
    pub groups: u64,
    pub rows: u64,
    pub depth: u64,
    pub columns: u64,
    /// Whether the output is added to, not overwritten.
    pub accumulate: bool,
}

/// How the matrix unit works in one mode.
struct Mode {
    /// Output channels of a pass.
    units: u64,
    /// Input channels of a coefficient block.
    depth: u64,
    /// Tile cycles to load the coefficients of a pass.
    load: Cycles,
    f32_inputs: bool,
}

impl Mode {
    /// f16 rows take 4 issues a block, f32 rows 8: from that and the rate follow the units, 16 / 8 / 16 on a Mk2.
    fn of(machine: &Machine, input: DType, partials: DType) -> Mode {
        let f32_inputs = input != DType::F16;
        let (macs, depth, issues) = match (f32_inputs, partials) {
            (true, _) => (machine.amp_f32_macs, 8, 8),
            (false, DType::F16) => (machine.amp_f16_macs, 16, 4),
            (false, _) => (machine.amp_f16_f32_macs, 16, 4),
        };
        let units = (u64::from(macs) * issues / depth).max(1);
        let bytes = units * depth * if f32_inputs { 4 } else { 2 };
        Mode {
            units,
            depth,
            load: bytes.div_ceil(u64::from(machine.amp_load_bytes_per_cycle)),
            f32_inputs,
        }
    }

    /// Worker cycles of one block over `rows` rows; `zeroes`: the pass also initialises the output.
    fn worker(&self, rows: u64, zeroes: bool) -> u64 {
        let z = u64::from(zeroes);
        if self.f32_inputs {
            let clear = if self.units >= 16 { 8 } else { 4 };
            return match rows {
                0 => 24,
                1 => 47 + (2 + clear) * z,
                2 => 46 + (2 + 2 * clear) * z,
                q => 46 + (2 + clear * q) * z + 8 * (q - 3),
            };
        }
        let cycles = match rows {
            0 => 22,
            1 => 33,
            2 => 42,
            q => 38 + 4 * (q - 3),
        };
        cycles - z - F16_RETAINED
    }

    /// Tile cycles of one block: rows are shared out as evenly as can be, and the slowest worker decides.
    fn block(&self, machine: &Machine, rows: u64, zeroes: bool) -> Cycles {
        let workers = u64::from(machine.workers);
        let slowest = self.worker(rows.div_ceil(workers), zeroes);
        let fastest = self.worker(rows / workers, zeroes);
        (workers * slowest).max(workers * fastest + 14)
    }
}

/// Worker cycles that a f16 worker saves in every block because it keeps its state from the one before.
const F16_RETAINED: u64 = 7;

/// Cycles of `amp_matmul` on one tile. Source: PopLibs `ConvPartial1x1Out`, mk2.md §3.1.
///
/// ```text
/// 50 + W·(7 + 3·(ig·cg − 1))                                           the first term only for f16 inputs
///    + cg·( 13 + (ig − 1)·( 15 + og·(19 + passes·(6 + L + block(0))) )
///              +          ( 11 + og·(18 + passes·(7 + L + block(1))) ) )
/// ```
/// `cg` groups, `ig` blocks of the depth (16 f16, 8 f32), `og` groups of 16 output columns, `L` cycles to load the coefficients of a pass,
/// `block(z)` the rows streaming through; the first block of the depth also clears the output, unless it is added to.
/// rows 6, k 16, n 16, f16 → 369.
pub fn amp_matmul(machine: &Machine, call: &AmpMatmul) -> Cycles {
    if call.rows == 0 || call.columns == 0 || call.groups == 0 || call.depth == 0 {
        return 0;
    }
    let mode = Mode::of(machine, call.input, call.partials);
    let group = mode.units.max(16);
    let (cg, ig) = (call.groups, call.depth.div_ceil(mode.depth));
    let og = call.columns.div_ceil(group);
    let passes = group.div_ceil(mode.units);
    let next = mode.block(machine, call.rows, false);
    let first = mode.block(machine, call.rows, !call.accumulate);
    let retained = if mode.f32_inputs {
        0
    } else {
        u64::from(machine.workers) * (F16_RETAINED + 3 * (ig * cg - 1))
    };
    let first_block = 11 + og * (18 + passes * (7 + mode.load + first));
    let next_block = 15 + og * (19 + passes * (6 + mode.load + next));
    50 + retained + cg * (13 + (ig - 1) * next_block + first_block)
}

/// Cycles of a matmul vertex: the product, and the turning of transposed operands.
pub(super) fn cycles(
    machine: &Machine,
    a: &BlockShape,
    out: &BlockShape,
    [transpose_a, transpose_b]: [bool; 2],
    accumulate: bool,
) -> Cycles {
    let dims = out.shape.dims();
    let columns = out.shape.last() as u64;
    let rows = match dims.len() {
        0 | 1 => 1,
        rank => dims[rank - 2] as u64,
    };
    if rows == 0 || columns == 0 {
        return 0;
    }
    let groups = out.elements() / (rows * columns);
    let depth = a.elements() / (groups * rows);
    let mut cycles = amp_matmul(
        machine,
        &AmpMatmul {
            input: a.dtype,
            partials: out.dtype,
            groups,
            rows,
            depth,
            columns,
            accumulate,
        },
    );
    if transpose_a {
        cycles += transpose::transpose(machine, a.dtype, groups, depth, rows);
    }
    if transpose_b {
        cycles += transpose::transpose(machine, a.dtype, groups, columns, depth);
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(input: DType, partials: DType, rows: u64, depth: u64, columns: u64) -> AmpMatmul {
        AmpMatmul {
            input,
            partials,
            groups: 1,
            rows,
            depth,
            columns,
            accumulate: false,
        }
    }

    #[test]
    fn f16_has_the_published_check_values() {
        let mk2 = Machine::mk2();
        for ((rows, depth, columns), cycles) in [
            ((6, 16, 16), 369),
            ((12, 16, 16), 423),
            ((48, 64, 64), 6_735),
            ((96, 128, 64), 19_555),
            ((384, 256, 64), 112_779),
        ] {
            let call = call(DType::F16, DType::F16, rows, depth, columns);
            assert_eq!(amp_matmul(&mk2, &call), cycles, "{rows} {depth} {columns}");
        }
    }

    #[test]
    fn f16_with_f32_partials_passes_twice_over_eight_units() {
        // 92 + 13 + 11 + 18 + 2·(7 + 32 + 164)
        let call = call(DType::F16, DType::F32, 6, 16, 16);
        assert_eq!(amp_matmul(&Machine::mk2(), &call), 540);
    }

    #[test]
    fn f32_streams_eight_issues_a_row() {
        let mk2 = Machine::mk2();
        let one = call(DType::F32, DType::F32, 6, 8, 16);
        // block(1): all six workers have one row, 57 wc: 6·57 + 14. 50 + 13 + 11 + 18 + 7 + 64 + 356.
        assert_eq!(amp_matmul(&mk2, &one), 519);
        // Two blocks of the depth: block(0) = 6·47 + 14 = 296; 15 + 19 + 6 + 64 + 296 more.
        assert_eq!(amp_matmul(&mk2, &AmpMatmul { depth: 16, ..one }), 919);
        // Adding to the output saves the clearing: 60 cycles.
        let adding = AmpMatmul {
            accumulate: true,
            ..one
        };
        assert_eq!(amp_matmul(&mk2, &adding), 459);
        // Many rows: 8 tile cycles a row and block of 8 × 16, half of the peak rate of f16 a row.
        let long = call(DType::F32, DType::F32, 6 * 1024, 64, 16);
        let ideal = 6 * 1024 * 64;
        let cycles = amp_matmul(&mk2, &long);
        assert!(
            cycles > ideal && cycles < ideal * 12 / 10,
            "{cycles} for {ideal}"
        );
    }

    #[test]
    fn more_macs_make_it_faster() {
        let mk2 = Machine::mk2();
        let wide = Machine {
            amp_f32_macs: 32,
            ..mk2.clone()
        };
        let call = call(DType::F32, DType::F32, 96, 64, 64);
        assert!(amp_matmul(&wide, &call) < amp_matmul(&mk2, &call));
    }
}
