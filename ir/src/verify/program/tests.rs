//! A sound program passes; each way to break it is found, and named for what it is.

mod contracts;
mod flow;
mod memory;
mod structure;

use smallvec::{SmallVec, smallvec};

use super::*;
use crate::graph::Phase;
use crate::ids::{GridId, IpuId, OriginId, ProcId, VarId};
use crate::op::{BinaryOp, MapExpr, StateKind, UnaryOp};
use crate::program::{
    Category, Codelet, ComputeSet, Cut, Direction, Exchange, Grid, Move, Operand, Origin,
    Procedure, State, Step, Stream, Sync, Variable, VertexGroup,
};
use crate::types::{Real, Shape, TensorType};

const ROWS: GridId = GridId(0);
const FC: GridId = GridId(1);

const X: VarId = VarId(0);
const W: VarId = VarId(1);
const FC_X: VarId = VarId(2);
const PRODUCT: VarId = VarId(3);
const ACT: VarId = VarId(4);
const SUM: VarId = VarId(5);
const Y: VarId = VarId(6);

const BODY: usize = 0;
const MAIN: usize = 1;

fn variable(
    name: &str,
    dims: &[usize],
    grid: GridId,
    cuts: &[&[u8]],
    address: u32,
    live: Option<(u32, u32)>,
) -> Variable {
    Variable {
        name: name.into(),
        ty: TensorType::f32(Shape::new(dims)),
        grid,
        cuts: cuts.iter().map(|axes| Cut::by(axes, 1)).collect(),
        address,
        category: Category::Activation,
        live,
    }
}

fn compute(codelet: Codelet, grid: GridId, inputs: &[VarId], outputs: &[VarId]) -> Step {
    let operands = |ids: &[VarId]| ids.iter().map(|&v| Operand::whole(v)).collect::<Vec<_>>();
    Step::Compute(ComputeSet {
        name: codelet.name().into(),
        origin: OriginId(0),
        groups: smallvec![VertexGroup {
            codelet,
            grid,
            inputs: SmallVec::from_vec(operands(inputs)),
            outputs: SmallVec::from_vec(operands(outputs)),
        }],
    })
}

fn exchange(source: VarId, destination: VarId) -> Step {
    Step::Exchange(Exchange {
        name: "move".into(),
        origin: OriginId(0),
        moves: vec![Move {
            source,
            views: vec![],
            destination,
            at: smallvec![0, 0],
        }],
    })
}

fn host(stream: u32) -> Step {
    Step::Host {
        stream,
        origin: OriginId(0),
    }
}

/// `sum = Σ over 3 rounds of gelu(x · w)` on two grids of four tiles:
///
/// ```text
/// 0 fill sum   1 repeat 3 { 2 receive x   3 sync   4 x → fc.x   5 product = fc.x · w   6 act = gelu product, in place
/// 7 sum += act }   8 sum → y   9 send y
/// ```
fn sound() -> Program {
    let matmul = Codelet::Matmul {
        transpose_a: false,
        transpose_b: false,
        accumulate: false,
    };
    let gelu = Codelet::Map(MapExpr::unary(UnaryOp::GeluTanh));
    let add = Codelet::Map(MapExpr::binary(BinaryOp::Add));
    let fill = Codelet::Fill { value: Real(0.0) };
    let body = vec![
        host(0),
        Step::Sync(Sync::Ipu(IpuId(0))),
        exchange(X, FC_X),
        compute(matmul, FC, &[FC_X, W], &[PRODUCT]),
        compute(gelu, FC, &[PRODUCT], &[ACT]),
        compute(add, FC, &[SUM, ACT], &[SUM]),
    ];
    let main = vec![
        compute(fill, FC, &[], &[SUM]),
        Step::Repeat {
            count: 3,
            body: ProcId(BODY as u32),
        },
        exchange(SUM, Y),
        host(1),
    ];
    let stream = |name: &str, direction, variable| Stream {
        name: name.into(),
        direction,
        variable,
    };
    let procedure = |name: &str, steps| Procedure {
        name: name.into(),
        steps,
    };
    Program {
        name: "fc".into(),
        machine: crate::machine::tests_machine(),
        ipus: 1,
        replicas: 1,
        grids: vec![
            Grid::dense("rows", IpuId(0), 2, 16, &[("i", 4)]),
            Grid::dense("fc", IpuId(0), 4, 16, &[("m", 2), ("n", 2)]),
        ],
        variables_from: vec![0; 1],
        variables: vec![
            variable("x", &[8, 6], ROWS, &[&[0], &[]], 0, Some((2, 4))),
            variable("w", &[6, 5], FC, &[&[], &[1]], 0x400, None),
            variable("fc.x", &[8, 6], FC, &[&[0], &[]], 0x100, Some((4, 5))),
            variable("product", &[8, 5], FC, &[&[0], &[1]], 0x200, Some((5, 6))),
            variable("act", &[8, 5], FC, &[&[0], &[1]], 0x200, Some((6, 7))),
            variable("sum", &[8, 5], FC, &[&[0], &[1]], 0x300, Some((0, 8))),
            variable("y", &[8, 5], ROWS, &[&[0], &[]], 0, Some((8, 9))),
        ],
        states: vec![State {
            name: "w".into(),
            kind: StateKind::Weight,
            variable: W,
            sharded: false,
            remote: false,
        }],
        streams: vec![
            stream("x", Direction::HostToDevice, X),
            stream("y", Direction::DeviceToHost, Y),
        ],
        procedures: vec![procedure("body", body), procedure("main", main)],
        entry: ProcId(MAIN as u32),
        rounding: Default::default(),
        origins: vec![Origin {
            name: "fc".into(),
            kind: "matmul".into(),
            ipu: IpuId(0),
            phase: Phase::Forward,
            flops: 0,
        }],
    }
}

/// What is wrong with the sound program once it has been changed.
fn broken(change: impl FnOnce(&mut Program)) -> Vec<ProgramErrorKind> {
    let mut program = sound();
    change(&mut program);
    let errors = verify_program(&program).expect_err("the program is broken");
    assert!(!errors.to_string().is_empty());
    errors.0.into_iter().map(|e| e.kind).collect()
}

fn group(step: &mut Step) -> &mut VertexGroup {
    match step {
        Step::Compute(set) => &mut set.groups[0],
        other => panic!("{other:?} is no compute set"),
    }
}

fn first_move(step: &mut Step) -> &mut Move {
    match step {
        Step::Exchange(exchange) => &mut exchange.moves[0],
        other => panic!("{other:?} is no exchange"),
    }
}

/// Asserts that the errors are of these kinds, in this order.
macro_rules! assert_kinds {
    ($kinds:expr, [$($pattern:pat),* $(,)?]) => {{
        let kinds = $kinds;
        assert!(matches!(kinds.as_slice(), [$($pattern),*]), "{kinds:#?}");
    }};
}
use assert_kinds;

#[test]
fn a_sound_program_passes() {
    verify_program(&sound()).unwrap();
}

#[test]
fn errors_say_where() {
    let mut program = sound();
    program.procedures[BODY].steps[2] = Step::Sync(Sync::Replica);
    let errors = verify_program(&program).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "compute \"amp_matmul\" (entry 3 of procedure body): reads `fc.x` (step 5), of which not all has been written"
    );
}
