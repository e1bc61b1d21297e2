//! Small programs whose footprint can be worked out by hand.

use smallvec::smallvec;

use super::*;
use crate::graph::Phase;
use crate::ids::{GridId, OriginId, ProcId, VarId};
use crate::op::{BinaryOp, MapExpr};
use crate::program::{
    Category, Codelet, ComputeSet, Cut, Exchange, Grid, Move, Operand, Origin, Procedure, Step,
    VertexGroup,
};
use crate::types::{Shape, TensorType};

/// `x`, `y` [24, 8] in rows on tiles 0..8, `x2` and `y2` the same on tiles 8..16; `all` with a copy on each of tiles 0..8.
fn program(steps: Vec<Step>) -> Program {
    let rows = [Cut::by(&[0], 1), Cut::none()];
    let whole = [Cut::none(), Cut::none()];
    let variable = |name: &str, grid: u32, cuts: &[Cut]| Variable {
        name: name.into(),
        ty: TensorType::f32(Shape::new(&[24, 8])),
        grid: GridId(grid),
        cuts: cuts.iter().cloned().collect(),
        address: 0,
        category: Category::Activation,
        live: None,
    };
    Program {
        name: "p".into(),
        rounding: Default::default(),
        machine: crate::machine::tests_machine(),
        ipus: 1,
        replicas: 1,
        grids: vec![
            Grid::dense("low", IpuId(0), 0, 16, &[("i", 8)]),
            Grid::dense("high", IpuId(0), 8, 16, &[("i", 8)]),
        ],
        variables_from: vec![0; 1],
        variables: vec![
            variable("x", 0, &rows),
            variable("y", 0, &rows),
            variable("x2", 1, &rows),
            variable("y2", 1, &rows),
            variable("all", 0, &whole),
        ],
        states: vec![],
        streams: vec![],
        procedures: vec![Procedure {
            name: "main".into(),
            steps,
        }],
        entry: ProcId(0),
        parts: vec![],
        origins: vec![Origin {
            name: "op".into(),
            kind: "op".into(),
            ipu: IpuId(0),
            phase: Phase::Forward,
            flops: 0,
        }],
    }
}

fn footprint(program: &Program) -> Footprint {
    Footprint::of(program, &DistinctMoves::of(program))
}

fn on_tile(program: &Program, tile: u32, kind: CodeKind) -> u64 {
    footprint(program).tile(IpuId(0), TileId(tile)).get(kind)
}

fn double(grid: u32, x: u32, y: u32) -> Step {
    Step::Compute(ComputeSet {
        name: "double".into(),
        origin: OriginId(0),
        groups: smallvec![VertexGroup {
            codelet: Codelet::Map(MapExpr::binary(BinaryOp::Add)),
            grid: GridId(grid),
            inputs: smallvec![Operand::whole(VarId(x)); 2],
            outputs: smallvec![Operand::whole(VarId(y))],
        }],
    })
}

fn spread(source: u32) -> Step {
    Step::Exchange(Exchange {
        name: "spread".into(),
        origin: OriginId(0),
        moves: vec![Move {
            source: VarId(source),
            views: vec![],
            destination: VarId(4),
            at: smallvec![0, 0],
        }],
    })
}

#[test]
fn code_lies_once_and_state_once_a_form_of_vertex() {
    let (code, state) = (128 + 3 * 24, 4 + 3 * 4);
    let once = program(vec![double(0, 0, 1)]);
    assert_eq!(on_tile(&once, 0, CodeKind::VertexCode), code);
    assert_eq!(on_tile(&once, 8, CodeKind::VertexCode), 0);
    // The second on low tiles is of the same form: it sets three base addresses.
    let three = program(vec![double(0, 0, 1), double(1, 2, 3), double(0, 1, 0)]);
    let (again, alone) = (2 * 16 + 3 * 8, 16);
    for (tile, control) in [(0, again), (7, again), (8, alone), (15, alone)] {
        assert_eq!(on_tile(&three, tile, CodeKind::VertexCode), code);
        assert_eq!(on_tile(&three, tile, CodeKind::VertexState), state);
        assert_eq!(on_tile(&three, tile, CodeKind::ControlCode), control);
        assert_eq!(on_tile(&three, tile, CodeKind::Stack), 512 + 6 * 192);
    }
    let total = footprint(&once).tile(IpuId(0), TileId(0)).total();
    assert_eq!(
        total,
        (code + state + 16 + 1664 + 1104).next_multiple_of(16)
    );
}

#[test]
fn exchange_code_is_a_few_words_a_region_and_shared_by_equal_exchanges() {
    // Every tile sends its rows once, and receives those of the seven others.
    let code = 8 + 7 * 12;
    let once = program(vec![spread(0)]);
    assert_eq!(on_tile(&once, 3, CodeKind::ExchangeCode), code);
    assert_eq!(on_tile(&once, 3, CodeKind::CopyDescriptors), 16);
    assert_eq!(on_tile(&once, 8, CodeKind::ExchangeCode), 0);
    assert_eq!(on_tile(&once, 8, CodeKind::ControlCode), 12);
    // The same from another variable that lies likewise: two calls, one of them with base addresses.
    let twice = program(vec![spread(0), spread(1)]);
    assert_eq!(on_tile(&twice, 3, CodeKind::ExchangeCode), code);
    assert_eq!(on_tile(&twice, 8, CodeKind::ControlCode), 12 + 12 + 8);
    // From other tiles it is another exchange.
    let other = program(vec![spread(0), spread(2)]);
    assert_eq!(on_tile(&other, 3, CodeKind::ExchangeCode), code + 8 * 12);
    assert_eq!(on_tile(&other, 8, CodeKind::ExchangeCode), 8);
}

#[test]
fn what_runs_often_counts_once() {
    let mut often = program(vec![Step::Repeat {
        count: 24,
        body: ProcId(1),
    }]);
    often.procedures.push(Procedure {
        name: "body".into(),
        steps: vec![double(0, 0, 1), spread(0)],
    });
    let flat = program(vec![double(0, 0, 1), spread(0)]);
    for kind in [
        CodeKind::VertexCode,
        CodeKind::VertexState,
        CodeKind::ExchangeCode,
    ] {
        assert_eq!(on_tile(&often, 3, kind), on_tile(&flat, 3, kind));
    }
}

#[test]
fn strided_regions_are_loops() {
    // Columns to rows: what a tile receives from each other one is a run of a word in each of its rows.
    let mut turned = program(vec![spread(0)]);
    turned.variables[4].cuts = smallvec![Cut::none(), Cut::by(&[0], 1)];
    turned.variables[0].cuts = smallvec![Cut::by(&[0], 1), Cut::none()];
    // Three rows of 32 bytes are one column's three words: strided at the source only.
    let sent = 7 * (8 + 8);
    let received = 7 * 12;
    assert_eq!(on_tile(&turned, 3, CodeKind::ExchangeCode), sent + received);
}
