//! Whole programs by hand: `y = gelu(x·w)` over four tiles, streamed in and out, twice, with a running sum as state.

mod halves;

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
use crate::superstep::Action;
use crate::tile_memory::Store;

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

fn program() -> Program {
    let matmul = Codelet::Matmul {
        transpose_a: false,
        transpose_b: false,
        accumulate: false,
    };
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
        group(matmul, 1, &[X_HERE, W_HERE], &[Y]),
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

/// Numbers of the variables whose copies share storage.
fn shared(program: &Program) -> Vec<u32> {
    let layouts = crate::layout::Layouts::of(program).expect("sound");
    let uses = crate::load::uses::Uses::of(program);
    let shared = crate::load::sharing::shared(program, &layouts, &uses);
    let numbers = (0..shared.len() as u32).zip(shared);
    numbers.filter(|s| s.1).map(|s| s.0).collect()
}

#[test]
fn received_copies_share_storage_unless_something_is_written_there() {
    assert_eq!(shared(&program()), [X_HERE, W_HERE, Y_TURNED]);
    // A vertex writes it.
    let mut written = program();
    let gelu = Codelet::Map(MapExpr::unary(UnaryOp::GeluTanh));
    let in_place = group(gelu, 1, &[W_HERE], &[W_HERE]);
    written.procedures[1].steps.insert(3, in_place);
    assert_eq!(shared(&written), [X_HERE, Y_TURNED]);
    // A result lies on it, in place as it were: another tile may not have read it yet.
    let mut covered = program();
    covered.variables[Y as usize].address = 1024;
    assert_eq!(shared(&covered), [W_HERE, Y_TURNED]);
    // What comes later may.
    let mut reused = program();
    reused.variables[X_HERE as usize].live = Some((3, 3));
    reused.variables[Y as usize].address = 1024;
    assert_eq!(shared(&reused), [X_HERE, W_HERE, Y_TURNED]);
    // Of a state every copy is there.
    let mut kept = program();
    kept.states.push(State {
        name: "kept".into(),
        kind: StateKind::Accumulator,
        variable: VarId(Y_TURNED),
        sharded: false,
        remote: false,
    });
    assert_eq!(shared(&kept), [X_HERE, W_HERE]);
}

#[test]
fn memory_is_read_only_while_it_is_live() {
    // The product reads weights whose life has ended: only poison can tell.
    let mut late = program();
    late.procedures[1].steps.swap(2, 1);
    late.variables[W_HERE as usize].live = Some((2, 2));
    let poisoned = EngineOptions {
        schedule: Schedule::Poisoned,
        ..PLAIN
    };
    let sound = results(program(), &PLAIN).expect("sound");
    assert_eq!(results(late.clone(), &PLAIN).expect("still runs"), sound);
    assert_ne!(results(late, &poisoned).expect("still runs"), sound);
}

/// The error of a program that was changed.
fn refused(change: impl FnOnce(&mut Program)) -> String {
    let mut forged = program();
    change(&mut forged);
    match Engine::load(Arc::new(forged), &PLAIN) {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

fn codelet(program: &mut Program, procedure: usize, step: usize) -> &mut VertexGroup {
    match &mut program.procedures[procedure].steps[step] {
        Step::Compute(set) => &mut set.groups[0],
        _ => panic!("step {step} computes nothing"),
    }
}

fn first_move(program: &mut Program, step: usize) -> &mut Move {
    match &mut program.procedures[1].steps[step] {
        Step::Exchange(exchange) => &mut exchange.moves[0],
        _ => panic!("step {step} moves nothing"),
    }
}

#[test]
fn forged_programs_are_refused_when_they_are_loaded() {
    let cases: Vec<(&str, String)> = vec![
        (
            "ends at byte",
            refused(|p| p.variables[Y as usize].address = 4080),
        ),
        (
            "not a multiple of 16",
            refused(|p| p.variables[Y as usize].address += 4),
        ),
        (
            "cut twice",
            refused(|p| p.variables[Y as usize].cuts[1].axes[0] = 0),
        ),
        (
            "its grid does not have",
            refused(|p| p.variables[Y as usize].cuts[1].axes[0] = 9),
        ),
        (
            "grains of 0",
            refused(|p| p.variables[Y as usize].cuts[1].grain = 0),
        ),
        (
            "has 1 cuts for 2",
            refused(|p| p.variables[Y as usize].cuts.truncate(1)),
        ),
        (
            "is too large",
            refused(|p| p.variables[Y as usize].ty = TensorType::f32([usize::MAX, 5])),
        ),
        (
            "unknown grid9",
            refused(|p| p.variables[Y as usize].grid = GridId(9)),
        ),
        (
            "two points on tile",
            refused(|p| p.grids[1].axes[0].stride = 1),
        ),
        (
            "more points than tiles",
            refused(|p| p.grids[1].axes[0].extent = 100),
        ),
        ("counts 13 tiles", refused(|p| p.grids[1].tiles = 13)),
        ("is on ipu 2", refused(|p| p.grids[1].ipu = IpuId(2))),
        (
            "variable v77",
            refused(|p| codelet(p, 1, 3).inputs[0].variable = VarId(77)),
        ),
        (
            "names grid9",
            refused(|p| codelet(p, 1, 3).grid = GridId(9)),
        ),
        (
            "on grid `rows`",
            refused(|p| codelet(p, 1, 3).inputs[0].variable = VarId(X)),
        ),
        (
            "no entry 0",
            refused(|p| codelet(p, 1, 3).inputs[0].entry = Some(0)),
        ),
        ("belong", refused(|p| codelet(p, 1, 3).inputs.swap(0, 1))),
        (
            "takes 2 operands",
            refused(|p| codelet(p, 1, 3).inputs.truncate(1)),
        ),
        (
            "no arithmetic",
            refused(|p| {
                p.variables[X_HERE as usize].ty.dtype = superstep_ir::types::DType::F16;
                p.variables[X as usize].ty.dtype = superstep_ir::types::DType::F16;
            }),
        ),
        (
            "do not exist",
            refused(|p| {
                codelet(p, 1, 4).codelet = Codelet::Map(MapExpr {
                    operands: 1,
                    nodes: vec![],
                    outputs: vec![3],
                    types: vec![],
                });
            }),
        ),
        (
            "runs into another operand",
            refused(|p| p.variables[Y as usize].address = 1024),
        ),
        ("is outside", refused(|p| first_move(p, 2).at[0] = 5)),
        (
            "is outside",
            refused(|p| first_move(p, 2).at[0] = usize::MAX),
        ),
        (
            "does not apply",
            refused(|p| {
                first_move(p, 2).views = vec![View::Slice {
                    axis: 3,
                    start: 0,
                    len: 1,
                }];
            }),
        ),
        (
            "reads and writes byte",
            refused(|p| {
                let own = Move {
                    destination: VarId(X),
                    ..first_move(p, 2).clone()
                };
                if let Step::Exchange(exchange) = &mut p.procedures[1].steps[2] {
                    exchange.moves.push(own);
                }
            }),
        ),
        (
            "calls itself",
            refused(|p| p.procedures[2].steps.push(Step::Call(ProcId(1)))),
        ),
        (
            "names proc9",
            refused(|p| p.procedures[2].steps.push(Step::Call(ProcId(9)))),
        ),
        (
            "stream 9",
            refused(|p| {
                p.procedures[2].steps.push(Step::Host {
                    stream: 9,
                    origin: OriginId(0),
                });
            }),
        ),
        ("entry proc9", refused(|p| p.entry = ProcId(9))),
        ("part proc9", refused(|p| p.parts = vec![ProcId(9)])),
        ("variable v9", refused(|p| p.states[0].variable = VarId(9))),
    ];
    for (expected, found) in cases {
        assert!(
            found.contains(expected),
            "{found:?} does not say {expected:?}"
        );
    }
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
    for i in 0..3 {
        let first = engine.memories[0].number(1, 3 + 2 * i);
        assert_eq!(
            engine.memories[0].tile(first)[1024..1100],
            engine.memories[0].tile(first + 1)[1024..1100]
        );
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
    let set = |memory: &mut TileMemory, i: usize| {
        let bytes: &[u8] = bytemuck::cast_slice(&before[i]);
        let tile = memory.tile_mut(tiles[i]);
        tile.copy_from_slice(&bytes[..tile.len()]);
    };
    (0..4).for_each(|i| set(&mut engine.memories[0], i));
    product.run(&mut engine.memories[0]);
    let after = tiles.iter().map(|&t| engine.memories[0].tile(t).to_vec());
    let after: Vec<Vec<u8>> = after.collect();
    for (i, &own) in tiles.iter().enumerate() {
        engine.memories[0].poison();
        set(&mut engine.memories[0], i);
        product.run(&mut engine.memories[0]);
        assert_eq!(engine.memories[0].tile(own), after[i]);
    }
}

/// Steps of the procedure `micro`: for each loaded step, and each superstep of a phase, how many of the program it stands for.
fn cuts(program: Program, options: &EngineOptions) -> Vec<u64> {
    let engine = Engine::load(Arc::new(program), options).expect("sound");
    let steps = engine.loaded.procedures[1].iter();
    let count = |(_, step): &(u32, LoadedStep)| match step {
        LoadedStep::Phase(phase) => phase.supersteps.iter().map(|s| s.steps).collect(),
        _ => vec![1],
    };
    steps.flat_map(count).collect()
}

/// The operands of the only phase of `micro`: variable, and where its bytes are.
fn stores(program: Program) -> BTreeMap<u32, Store> {
    let engine = Engine::load(Arc::new(program), &PLAIN).expect("sound");
    let phases = engine.loaded.procedures[1].iter();
    let phases = phases.filter_map(|(_, step)| match step {
        LoadedStep::Phase(phase) => Some(phase),
        _ => None,
    });
    let actions = phases.flat_map(|phase| phase.supersteps.iter().flat_map(|s| &s.actions));
    let groups = actions.filter_map(|action| match action {
        Action::Compute(group) => Some(group),
        _ => None,
    });
    let operands = groups.flat_map(|group| group.inputs.iter().chain(&group.outputs));
    operands.map(|o| (o.variable.0, o.store)).collect()
}

#[test]
fn what_nobody_needs_after_a_phase_is_in_the_arena() {
    let found = stores(program());
    assert_eq!(found[&X_HERE], Store::Arena);
    assert_eq!(found[&W_HERE], Store::Arena);
    // The procedure that is called reads it.
    assert_eq!(found[&Y], Store::Tile);
    // Bytes that two variables share show what each of them does.
    let mut clobbered = program();
    clobbered.variables[X_HERE as usize].address = clobbered.variables[W_HERE as usize].address;
    let found = stores(clobbered);
    assert_eq!((found[&X_HERE], found[&W_HERE]), (Store::Tile, Store::Tile));
}

#[test]
fn supersteps_are_cut_where_tiles_must_wait_for_each_other() {
    let strict = EngineOptions {
        schedule: Schedule::Poisoned,
        ..PLAIN
    };
    assert_eq!(cuts(program(), &strict), [1; 7]);
    // Feed · sync, exchange · product of what tiles share, gelu · call · take.
    assert_eq!(cuts(program(), &PLAIN), [1, 2, 2, 1, 1]);
    // `turn` sends what gelu has written.
    let mut inline = program();
    let called = inline.procedures[2].steps.clone();
    inline.procedures[1].steps.splice(5..6, called);
    assert_eq!(cuts(inline.clone(), &PLAIN), [1, 2, 2, 1, 1, 1]);
    assert_eq!(
        results(inline, &PLAIN).expect("sound"),
        results(program(), &PLAIN).expect("sound")
    );
    // The product overwrites what other tiles are still sent.
    let mut reused = program();
    reused.grids[1].base = 10;
    reused.variables[Y as usize].address = 256;
    reused.variables[W_HERE as usize].address = 2048;
    assert_eq!(cuts(reused, &PLAIN), [1, 2, 2, 1, 1]);
}
