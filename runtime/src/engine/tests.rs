//! Whole programs by hand: `y = gelu(x·w)` over four tiles, streamed in and out, twice, with a running sum as state.

mod fast;
mod forged;
mod halves;
mod homes;
mod joint;
mod summing;
mod transpositions;

use std::collections::BTreeMap;

use smallvec::SmallVec;
use superstep_ir::graph::Phase;
use superstep_ir::ids::{GridId, IpuId, OriginId, ProcId};
use superstep_ir::machine::Machine;
use superstep_ir::op::{BinaryOp, MapExpr, StateKind, UnaryOp};
use superstep_ir::program::{
    Category, Codelet, ComputeSet, Cut, Exchange, Grid, Move, Operand, Origin, Procedure, State,
    Step, Stream, Sync, Variable, VertexGroup, View,
};
use superstep_ir::types::TensorType;

use super::*;
use crate::tile_memory::Home;

/// A machine of twelve small tiles on each of two IPUs.
fn machine() -> Machine {
    Machine {
        name: "toy".into(),
        ipus: 2,
        tiles_per_ipu: 12,
        tile_memory: 4096,
        reserved_bytes: 0,
        ..Machine::mk2()
    }
}

/// Extents of the product; odd, so that blocks differ.
const M: usize = 7;
const K: usize = 9;
const N: usize = 11;

fn variable(
    name: &str,
    shape: &[usize],
    grid: u32,
    cuts: &[&[u8]],
    address: u32,
    live: Option<(u32, u32)>,
) -> Variable {
    Variable {
        name: name.into(),
        ty: TensorType::f32(shape),
        grid: GridId(grid),
        cuts: cuts.iter().map(|axes| Cut::by(axes, 1)).collect(),
        address,
        category: Category::Activation,
        live,
    }
}

fn group(codelet: Codelet, grid: u32, inputs: &[u32], outputs: &[u32]) -> Step {
    let operands = |ids: &[u32]| {
        ids.iter()
            .map(|&v| Operand::whole(VarId(v)))
            .collect::<Vec<_>>()
    };
    Step::Compute(ComputeSet {
        name: codelet.name().into(),
        origin: OriginId(0),
        groups: SmallVec::from_vec(vec![VertexGroup {
            codelet,
            grid: GridId(grid),
            inputs: operands(inputs).into(),
            outputs: SmallVec::from_vec(operands(outputs)),
        }]),
    })
}

fn exchange(name: &str, moves: &[(u32, u32)]) -> Step {
    let moves = moves.iter().map(|&(source, destination)| Move {
        source: VarId(source),
        views: Vec::new(),
        destination: VarId(destination),
        at: SmallVec::from_slice(&[0, 0]),
    });
    Step::Exchange(Exchange {
        name: name.into(),
        origin: OriginId(0),
        moves: moves.collect(),
    })
}

/// Variables of [`program`] by number.
const X: u32 = 0;
const W: u32 = 1;
const X_HERE: u32 = 2;
const W_HERE: u32 = 3;
const Y: u32 = 4;
const Y_TURNED: u32 = 5;
const TOTAL: u32 = 6;

const MATMUL: Codelet = Codelet::Matmul {
    transpose_a: false,
    transpose_b: false,
    accumulate: false,
};

fn program() -> Program {
    let mut to_total = exchange("turn", &[(Y, Y_TURNED)]);
    if let Step::Exchange(exchange) = &mut to_total {
        exchange.moves[0].views = vec![View::Transpose(SmallVec::from_slice(&[1, 0]))];
    }
    // Numbers of steps in walk order, for the lives: 0 repeat · 1 feed · 2 sync · 3 exchange · 4 matmul · 5 gelu · 6 call ·
    // 7 turn · 8 add · 9 take.
    let micro = vec![
        Step::Host {
            stream: 0,
            origin: OriginId(0),
        },
        Step::Sync(Sync::Ipu(IpuId(0))),
        exchange("operands", &[(X, X_HERE), (W, W_HERE)]),
        group(MATMUL, 1, &[X_HERE, W_HERE], &[Y]),
        group(
            Codelet::Map(MapExpr::unary(UnaryOp::GeluTanh)),
            1,
            &[Y],
            &[Y],
        ),
        Step::Call(ProcId(2)),
        Step::Host {
            stream: 1,
            origin: OriginId(0),
        },
    ];
    let add = Codelet::Map(MapExpr::binary(BinaryOp::Add));
    Program {
        name: "toy".into(),
        machine: machine(),
        ipus: 2,
        replicas: 1,
        grids: vec![
            Grid::dense("rows", IpuId(0), 10, 12, &[("i", 5)]),
            Grid::dense("product", IpuId(0), 1, 12, &[("m", 2), ("n", 2)]),
            Grid::dense("total", IpuId(1), 3, 12, &[("i", 3), ("copy", 2)]),
        ],
        variables_from: vec![0; 2],
        variables: vec![
            variable("x", &[M, K], 0, &[&[0], &[]], 0, Some((1, 3))),
            variable("w", &[K, N], 0, &[&[], &[0]], 256, None),
            variable("x.here", &[M, K], 1, &[&[0], &[]], 1024, Some((3, 4))),
            variable("w.here", &[K, N], 1, &[&[], &[1]], 512, Some((3, 4))),
            variable("y", &[M, N], 1, &[&[0], &[1]], 2048, Some((4, 9))),
            variable("y.turned", &[N, M], 2, &[&[0], &[]], 64, Some((7, 8))),
            variable("total", &[N, M], 2, &[&[0], &[]], 1024, None),
        ],
        states: vec![
            State {
                name: "w".into(),
                kind: StateKind::Weight,
                variable: VarId(W),
                sharded: false,
                remote: false,
            },
            State {
                name: "total".into(),
                kind: StateKind::Accumulator,
                variable: VarId(TOTAL),
                sharded: false,
                remote: false,
            },
        ],
        streams: vec![
            Stream {
                name: "x".into(),
                direction: Direction::HostToDevice,
                variable: VarId(X),
            },
            Stream {
                name: "y".into(),
                direction: Direction::DeviceToHost,
                variable: VarId(Y),
            },
        ],
        procedures: vec![
            Procedure {
                name: "main".into(),
                steps: vec![Step::Repeat {
                    count: 2,
                    body: ProcId(1),
                }],
            },
            Procedure {
                name: "micro".into(),
                steps: micro,
            },
            Procedure {
                name: "sum".into(),
                steps: vec![to_total, group(add, 2, &[TOTAL, Y_TURNED], &[TOTAL])],
            },
        ],
        entry: ProcId(0),
        parts: vec![],
        rounding: Default::default(),
        origins: vec![Origin {
            name: "toy".into(),
            kind: "matmul".into(),
            ipu: IpuId(0),
            phase: Phase::Forward,
            flops: 0,
        }],
    }
}

/// Feeds numbered tensors, keeps what it is given.
#[derive(Default)]
struct Tape {
    fed: u32,
    taken: BTreeMap<String, Vec<Vec<f32>>>,
}

fn random(count: usize, seed: u32) -> Vec<f32> {
    crate::codelets::testing::numbers(count, seed)
}

impl Host for Tape {
    fn feed(&mut self, _: &str, into: &mut [u8]) -> Result<(), HostError> {
        self.fed += 1;
        into.copy_from_slice(bytemuck::cast_slice(&random(into.len() / 4, self.fed)));
        Ok(())
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        let values = from
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        self.taken.entry(stream.into()).or_default().push(values);
        Ok(())
    }
}

const PLAIN: EngineOptions = EngineOptions {
    threads: 1,
    portable: false,
    schedule: Schedule::Fast,
};

/// All outputs, and the total at the end, as bits.
fn results(program: Program, options: &EngineOptions) -> Result<Vec<Vec<u32>>, EngineError> {
    let mut engine = Engine::load(Arc::new(program), options)?;
    engine.write_state("w", bytemuck::cast_slice(&random(K * N, 99)))?;
    let mut tape = Tape::default();
    engine.run(&mut tape)?;
    engine.run(&mut tape)?;
    let mut total = vec![0f32; M * N];
    engine.read_state("total", bytemuck::cast_slice_mut(&mut total))?;
    let mut results = tape.taken.remove("y").unwrap_or_default();
    results.push(total);
    Ok(results
        .iter()
        .map(|r| r.iter().map(|x| x.to_bits()).collect())
        .collect())
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

#[test]
fn the_numbers_are_those_of_the_formula() {
    let w = random(K * N, 99);
    let mut total = vec![0.0; M * N];
    let found = results(program(), &PLAIN).expect("the program is sound");
    assert_eq!(found.len(), 5);
    for (turn, y) in found[..4].iter().enumerate() {
        let x = random(M * K, turn as u32 + 1);
        for (at, &bits) in y.iter().enumerate() {
            let (i, j) = (at / N, at % N);
            let sum: f64 = (0..K)
                .map(|p| f64::from(x[i * K + p]) * f64::from(w[p * N + j]))
                .sum();
            assert!((f64::from(f32::from_bits(bits)) - gelu(sum)).abs() < 1e-6);
            total[j * M + i] += gelu(sum);
        }
    }
    for (&bits, expected) in found[4].iter().zip(&total) {
        assert!((f64::from(f32::from_bits(bits)) - expected).abs() < 1e-5);
    }
}

#[test]
fn parts_run_by_themselves() {
    let mut program = program();
    program.parts = vec![ProcId(1)];
    let mut engine = Engine::load(Arc::new(program), &PLAIN).expect("sound");
    let w = random(K * N, 99);
    engine
        .write_state("w", bytemuck::cast_slice(&w))
        .expect("w is state");
    let (mut once, mut twice) = (Tape::default(), Tape::default());
    engine.run_part("micro", &mut once).expect("a part");
    engine.run_part("micro", &mut once).expect("a part");
    engine.run(&mut twice).expect("the entry");
    assert_eq!((once.fed, twice.fed), (2, 2));
    assert_eq!(once.taken, twice.taken);
    for name in ["main", "sum", "nothing"] {
        let error = engine.run_part(name, &mut once);
        assert!(matches!(error, Err(EngineError::NoPart { .. })), "{name}");
    }
}

#[test]
fn no_option_changes_a_bit() {
    let plain = results(program(), &PLAIN).expect("the program is sound");
    for threads in [1, 2, 5] {
        for portable in [false, true] {
            for schedule in [Schedule::Fast, Schedule::Strict, Schedule::Poisoned] {
                let options = EngineOptions {
                    threads,
                    portable,
                    schedule,
                };
                assert_eq!(
                    results(program(), &options).expect("sound"),
                    plain,
                    "{options:?}"
                );
            }
        }
    }
}

#[test]
fn a_dropped_move_or_a_clobbered_address_changes_the_numbers() {
    let sound = results(program(), &PLAIN).expect("the program is sound");
    let mut dropped = program();
    if let Step::Exchange(exchange) = &mut dropped.procedures[1].steps[2] {
        exchange.moves.pop();
    }
    assert_ne!(results(dropped, &PLAIN).expect("still runs"), sound);
    // The received weights overwrite the last received rows of x.
    let mut clobbered = program();
    clobbered.variables[W_HERE as usize].address = 1024 + 64;
    let clobbered = results(clobbered, &PLAIN);
    assert!(clobbered.is_ok_and(|found| found != sound));
}

#[test]
fn memory_is_read_only_while_it_is_live() {
    // The product reads weights whose life has ended: only poison can tell.
    let mut late = program();
    late.procedures[1].steps.swap(2, 1);
    late.variables[W_HERE as usize].live = Some((2, 2));
    let by = |schedule| EngineOptions { schedule, ..PLAIN };
    let (strict, poisoned) = (by(Schedule::Strict), by(Schedule::Poisoned));
    let sound = results(program(), &PLAIN).expect("sound");
    assert_eq!(results(late.clone(), &strict).expect("still runs"), sound);
    assert_ne!(results(late, &poisoned).expect("still runs"), sound);
}

#[test]
fn the_host_is_told_what_is_wrong() {
    let mut engine = Engine::load(Arc::new(program()), &PLAIN).expect("sound");
    assert!(matches!(
        engine.write_state("v", &[]),
        Err(EngineError::NoState { .. })
    ));
    assert!(matches!(
        engine.write_state("w", &[0; 3]),
        Err(EngineError::StateBytes { found: 3, .. })
    ));
    struct Empty;
    impl Host for Empty {
        fn feed(&mut self, _: &str, _: &mut [u8]) -> Result<(), HostError> {
            Err(HostError::End)
        }
        fn take(&mut self, _: &str, _: &[u8]) -> Result<(), HostError> {
            Ok(())
        }
    }
    let error = engine.run(&mut Empty).expect_err("nothing to feed");
    assert_eq!(error.to_string(), "stream `x`: there is no more data");
}

#[test]
fn states_go_in_and_out_in_row_major_order_with_all_copies() {
    let mut engine = Engine::load(Arc::new(program()), &PLAIN).expect("sound");
    let total = random(N * M, 5);
    engine
        .write_state("total", bytemuck::cast_slice(&total))
        .expect("known");
    let mut back = vec![0f32; N * M];
    engine
        .read_state("total", bytemuck::cast_slice_mut(&mut back))
        .expect("known");
    assert_eq!(back, total);
    // Points (i, 0) and (i, 1) are tiles 3 + 2i and 4 + 2i and hold the same block.
    let home = engine.loaded.homes.of(VarId(TOTAL));
    for i in 0..3 {
        let first = engine.memories[0].number(1, 3 + 2 * i);
        let [one, other] = [first, first + 1].map(|n| engine.memories[0].block(home, n, 76));
        assert_eq!(one, other);
    }
}

#[test]
fn a_vertex_depends_on_its_own_tile_alone() {
    let options = EngineOptions {
        threads: 2,
        schedule: Schedule::Poisoned,
        ..PLAIN
    };
    let mut engine = Engine::load(Arc::new(program()), &options).expect("sound");
    let (_, LoadedStep::Phase(product)) = &engine.loaded.procedures[1][3] else {
        panic!("step 3 computes")
    };
    let tiles: Vec<usize> = (1..5).map(|t| engine.memories[0].number(0, t)).collect();
    let before: Vec<Vec<f32>> = (1..5).map(|seed| random(1024, seed)).collect();
    // Address 0 of every tile, and how much of it there is.
    let stride = engine.loaded.homes.of(VarId(TOTAL)).stride;
    let (home, bytes) = (Home { origin: 0, stride }, stride);
    let set = |memory: &mut TileMemory, i: usize| {
        let tile = memory.block_mut(home, tiles[i], bytes);
        tile.copy_from_slice(&bytemuck::cast_slice(&before[i])[..bytes]);
    };
    (0..4).for_each(|i| set(&mut engine.memories[0], i));
    crate::crew::Crew::gather(|crew| product.run(&mut engine.memories[0], crew));
    let after = tiles
        .iter()
        .map(|&t| engine.memories[0].block(home, t, bytes).to_vec());
    let after: Vec<Vec<u8>> = after.collect();
    for (i, &own) in tiles.iter().enumerate() {
        engine.memories[0].poison();
        set(&mut engine.memories[0], i);
        crate::crew::Crew::gather(|crew| product.run(&mut engine.memories[0], crew));
        assert_eq!(engine.memories[0].block(home, own, bytes), after[i]);
    }
}
