//! `amp_matmul`: the matrix unit, PopLibs' `ConvPartial1x1Out` (mk2.md §3.1).

use super::super::Machine;
use super::{BlockShape, Causes, Spent, VertexAccount, Work, transpose, vector};
use crate::program::Codelet;
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

/// Multiply-adds of a tile's matrix unit in a cycle, at its peak.
pub fn peak_macs(machine: &Machine, input: DType, partials: DType) -> u64 {
    u64::from(match (input, partials) {
        (DType::F16, DType::F16) => machine.amp_f16_macs,
        (DType::F16, _) => machine.amp_f16_f32_macs,
        _ => machine.amp_f32_macs,
    })
}

/// How the matrix unit works in one mode.
struct Mode {
    /// Output channels of a pass.
    units: u64,
    /// Input channels of a coefficient block.
    depth: u64,
    /// Tile cycles to load the coefficients of a pass.
    load: Cycles,
    /// Worker cycles of one row streaming through.
    issues: u64,
    f32_inputs: bool,
}

impl Mode {
    /// f16 rows take 4 issues a block, f32 rows 8: from that and the rate follow the units, 16 / 8 / 16 on a Mk2.
    fn of(machine: &Machine, input: DType, partials: DType) -> Mode {
        let f32_inputs = input != DType::F16;
        let (depth, issues) = if f32_inputs { (8, 8) } else { (16, 4) };
        let units = (peak_macs(machine, input, partials) * issues / depth).max(1);
        let bytes = units * depth * if f32_inputs { 4 } else { 2 };
        Mode {
            units,
            depth,
            load: bytes.div_ceil(u64::from(machine.amp_load_bytes_per_cycle)),
            issues,
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
        (workers * slowest)
            .max(workers * fastest + 14)
            .saturating_add_signed(machine.amp_block_extra_cycles)
    }
}

/// Output channels of a coefficient group. Eight units pass twice over a group of 16, or once where there are no more than 8 columns.
const GROUP: u64 = 16;

/// The blocks of a product.
struct Blocks {
    mode: Mode,
    /// Blocks of the contraction.
    ig: u64,
    /// Groups of output channels.
    og: u64,
    /// Passes over a block.
    passes: u64,
}

impl Blocks {
    fn of(machine: &Machine, call: &AmpMatmul) -> Blocks {
        let mode = Mode::of(machine, call.input, call.partials);
        let group = if call.columns <= mode.units {
            mode.units
        } else {
            mode.units.max(GROUP)
        };
        Blocks {
            ig: call.depth.div_ceil(mode.depth),
            og: call.columns.div_ceil(group),
            passes: group.div_ceil(mode.units),
            mode,
        }
    }

    /// Blocks streamed through, over all groups.
    const fn count(&self, call: &AmpMatmul) -> u64 {
        call.groups * self.ig * self.og * self.passes
    }
}

impl AmpMatmul {
    const fn is_empty(&self) -> bool {
        self.rows == 0 || self.columns == 0 || self.groups == 0 || self.depth == 0
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
    if call.is_empty() {
        return 0;
    }
    let Blocks {
        mode,
        ig,
        og,
        passes,
    } = Blocks::of(machine, call);
    let next = mode.block(machine, call.rows, false);
    let first = mode.block(machine, call.rows, !call.accumulate);
    let retained = if mode.f32_inputs {
        0
    } else {
        u64::from(machine.workers) * (F16_RETAINED + 3 * (ig * call.groups - 1))
    };
    let first_block = 11 + og * (18 + passes * (7 + mode.load + first));
    let next_block = 15 + og * (19 + passes * (6 + mode.load + next));
    50 + retained + call.groups * (13 + (ig - 1) * next_block + first_block)
}

/// The cycles of [`amp_matmul`] by cause. A row of a block takes `issues` worker cycles, so 4 (f16) or 8 (f32) tile cycles, when the pipeline
/// is full: that many for every row are the arithmetic and its padding, six rows at a time; what a block takes beyond is filling.
pub fn amp_account(machine: &Machine, call: &AmpMatmul) -> VertexAccount {
    if call.is_empty() {
        return VertexAccount::default();
    }
    let cycles = amp_matmul(machine, call);
    let blocks = Blocks::of(machine, call);
    let Mode { issues, load, .. } = blocks.mode;
    let workers = u64::from(machine.workers);
    let count = blocks.count(call);
    let streaming = count * issues * call.rows;
    let slowest = count * issues * workers * call.rows.div_ceil(workers);
    let next = blocks.mode.block(machine, call.rows, false);
    let first = blocks.mode.block(machine, call.rows, !call.accumulate);
    let first_blocks = count / blocks.ig;
    let inner = first_blocks * (7 + load + first) + (count - first_blocks) * (6 + load + next);
    let macs = call.groups * call.rows * call.depth * call.columns;
    let peak = blocks.mode.units * blocks.mode.depth / issues;
    let ideal = macs as f64 / peak as f64;
    VertexAccount {
        cycles,
        causes: Causes {
            ideal,
            fill: (inner - slowest) as f64,
            padding: streaming as f64 - ideal,
            workers: (slowest - streaming) as f64,
            overhead: (cycles - inner) as f64,
            ..Causes::default()
        },
    }
}

/// Cycles of the product by dot products on the vector unit, for shapes too small for blocks (PopLibs' horizontal multiply-accumulate,
/// mk2.md §3.3): `60 + W·(16 + ⌈rows/W⌉·(7 + outs·(8 + ⌈k/V⌉)))` a group. Coefficients lie `[columns, depth]`.
pub fn dot_products(machine: &Machine, call: &AmpMatmul) -> Spent {
    let workers = u64::from(machine.workers);
    let v = vector(call.input);
    let row = |vectors: f64| 7.0 + call.columns as f64 * (8.0 + vectors);
    let one = Work {
        fixed: 16,
        busiest: call.rows.div_ceil(workers) * row(call.depth.div_ceil(v) as f64) as u64,
        even: call.rows as f64 / workers as f64 * row(call.depth as f64 / v as f64),
    };
    (call.groups * one).vertex(machine, 60 * call.groups)
}

/// How a product is done: on the matrix unit, after turning operands; or by dot products, where `b` lies ready for them.
struct Choice {
    call: AmpMatmul,
    turning: [Spent; 2],
    dots: Option<Spent>,
}

impl Choice {
    fn of(
        machine: &Machine,
        codelet: &Codelet,
        a: &BlockShape,
        out: &BlockShape,
    ) -> Option<Choice> {
        let Codelet::Matmul {
            transpose_a,
            transpose_b,
            accumulate,
        } = *codelet
        else {
            return None;
        };
        let (columns, rows) = match *out.shape.dims() {
            [] => (1, 1),
            [columns] => (columns as u64, 1),
            [.., rows, columns] => (columns as u64, rows as u64),
        };
        if rows == 0 || columns == 0 {
            return None;
        }
        let groups = out.elements() / (rows * columns);
        let depth = a.elements().checked_div(groups * rows)?;
        let call = AmpMatmul {
            input: a.dtype,
            partials: out.dtype,
            groups,
            rows,
            depth,
            columns,
            accumulate,
        };
        if call.is_empty() {
            return None;
        }
        let turn = |turned: bool, rows, columns| match turned {
            true => transpose::transpose(machine, a.dtype, groups, rows, columns),
            false => Spent::default(),
        };
        let few = rows < SMALL || columns < SMALL || depth < SMALL;
        Some(Choice {
            turning: [
                turn(transpose_a, depth, rows),
                turn(transpose_b, columns, depth),
            ],
            dots: (few && transpose_b && !transpose_a).then(|| dot_products(machine, &call)),
            call,
        })
    }
}

/// Extents from which on dot products never win.
const SMALL: u64 = 8;

/// Cycles of a matmul vertex: the product, and the turning of transposed operands. `None` when there is nothing to do.
pub(super) fn cycles(
    machine: &Machine,
    codelet: &Codelet,
    a: &BlockShape,
    out: &BlockShape,
) -> Option<Cycles> {
    let choice = Choice::of(machine, codelet, a, out)?;
    let turning = choice.turning[0].cycles + choice.turning[1].cycles;
    let amp = amp_matmul(machine, &choice.call) + turning;
    Some(choice.dots.map_or(amp, |dots| amp.min(dots.cycles)))
}

/// The same by cause.
pub(super) fn account(
    machine: &Machine,
    codelet: &Codelet,
    a: &BlockShape,
    out: &BlockShape,
) -> VertexAccount {
    let Some(choice) = Choice::of(machine, codelet, a, out) else {
        return VertexAccount::default();
    };
    let mut account = amp_account(machine, &choice.call);
    for turned in choice.turning {
        account.cycles += turned.cycles;
        account.causes.transpose += turned.cycles as f64;
    }
    match choice.dots {
        Some(dots) if dots.cycles < account.cycles => {
            VertexAccount::vector(dots, account.causes.ideal)
        }
        _ => account,
    }
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
    fn eight_units_pass_once_over_eight_columns() {
        // 92 + 13 + 11 + 18 + 7 + 32 + 164
        let call = call(DType::F16, DType::F32, 6, 16, 8);
        assert_eq!(amp_matmul(&Machine::mk2(), &call), 337);
    }

    #[test]
    fn causes_sum_to_the_whole() {
        let mk2 = Machine::mk2();
        let types = [
            (DType::F16, DType::F16),
            (DType::F16, DType::F32),
            (DType::F32, DType::F32),
        ];
        for (input, partials) in types {
            for (rows, depth, columns) in [(1, 1, 1), (7, 24, 5), (96, 768, 64), (1472, 7, 17)] {
                let account = amp_account(&mk2, &call(input, partials, rows, depth, columns));
                let cycles = account.cycles;
                let Causes {
                    ideal,
                    fill,
                    padding,
                    overhead,
                    workers,
                    ..
                } = account.causes;
                let sum = ideal + fill + padding + overhead + workers;
                assert!((sum - cycles as f64).abs() < 1e-6, "{account:?}");
                assert!(fill > 0.0 && padding >= 0.0 && overhead > 0.0 && workers >= 0.0);
            }
        }
    }

    #[test]
    fn dot_products_do_small_products_and_odd_ones() {
        let mk2 = Machine::mk2();
        let small = call(DType::F32, DType::F32, 1, 64, 2);
        // 60 + 6·(16 + 7 + 2·(8 + 32)).
        assert_eq!(dot_products(&mk2, &small).cycles, 678);
        assert!(amp_matmul(&mk2, &small) > 678);
        // 60 + 6·(16 + 2·(7 + 5·(8 + 2))), f16: a vector of four.
        let odd = call(DType::F16, DType::F16, 7, 7, 5);
        assert_eq!(dot_products(&mk2, &odd).cycles, 60 + 6 * (16 + 2 * 57));
        let large = call(DType::F32, DType::F32, 96, 768, 64);
        assert!(dot_products(&mk2, &large).cycles > 5 * amp_matmul(&mk2, &large));
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
