//! Ids, calls, grids, layouts, vertex operands and moves.

use super::*;
use crate::ids::TileId;
use crate::program::exchange::ExchangeError;
use crate::program::{RemoteDirection, View};
use crate::types::DType;

#[test]
fn ids_must_exist() {
    type Change = fn(&mut Program);
    let changes: [(&str, Change); 13] = [
        ("grid", |p| p.variables[0].grid = GridId(2)),
        ("grid", |p| {
            group(&mut p.procedures[BODY].steps[3]).grid = GridId(9)
        }),
        ("variable", |p| {
            group(&mut p.procedures[BODY].steps[3]).inputs[0].variable = VarId(7)
        }),
        ("variable", |p| {
            first_move(&mut p.procedures[BODY].steps[2]).source = VarId(7)
        }),
        ("variable", |p| p.states[0].variable = VarId(7)),
        ("variable", |p| p.streams[0].variable = VarId(7)),
        ("stream", |p| p.procedures[BODY].steps[0] = host(2)),
        ("origin", |p| p.origins.clear()),
        ("procedure", |p| {
            p.procedures[MAIN].steps[1] = Step::Call(ProcId(2))
        }),
        ("entry procedure", |p| p.entry = ProcId(2)),
        ("part", |p| p.parts = vec![ProcId(2)]),
        ("IPU", |p| p.grids[0].ipu = IpuId(1)),
        ("IPU", |p| {
            p.procedures[BODY].steps[1] = Step::Sync(Sync::Ipu(IpuId(1)))
        }),
    ];
    for (expected, change) in changes {
        let kinds = broken(change);
        assert!(
            kinds.iter().all(
                |k| matches!(k, ProgramErrorKind::IdOutOfRange { what, .. } if *what == expected)
            ),
            "{expected}: {kinds:?}"
        );
    }
}

#[test]
fn parts_run_in_the_entry_and_need_nothing_but_state() {
    let mut program = sound();
    program.parts = vec![ProcId(MAIN as u32)];
    verify_program(&program).unwrap();
    let kinds = broken(|p| {
        p.procedures.push(Procedure {
            name: "apart".into(),
            steps: vec![],
        });
        p.parts = vec![ProcId(2)];
    });
    assert_kinds!(kinds, [ProgramErrorKind::PartNotReached(_)]);
    // The body adds onto a sum that only its caller sets to zero.
    let kinds = broken(|p| p.parts = vec![ProcId(BODY as u32)]);
    assert_kinds!(kinds, [ProgramErrorKind::ReadBeforeWrite { .. }]);
}

#[test]
fn calls_must_end() {
    let kinds = broken(|p| p.procedures[BODY].steps.push(Step::Call(ProcId(1))));
    assert_kinds!(kinds, [ProgramErrorKind::CallCycle]);
    let kinds = broken(|p| {
        p.procedures[MAIN].steps[1] = Step::Repeat {
            count: 0,
            body: ProcId(0),
        }
    });
    assert_kinds!(kinds, [ProgramErrorKind::RepeatsNothing]);
    // Each procedure calls the one before twice: 2^30 steps.
    let kinds = broken(|p| {
        for id in 1..30 {
            p.procedures.push(Procedure {
                name: format!("double{id}"),
                steps: vec![Step::Call(ProcId(id)); 2],
            });
        }
        p.entry = ProcId(30);
    });
    assert_kinds!(kinds, [ProgramErrorKind::TooManySteps(_)]);
}

#[test]
fn grids_put_points_on_tiles_of_their_own() {
    assert_kinds!(
        broken(|p| p.grids[0].axes[0].stride = 8),
        [ProgramErrorKind::SharedTile(TileId(2))]
    );
    assert_kinds!(
        broken(|p| p.grids[0].axes[0].extent = 17),
        [ProgramErrorKind::TooManyPoints { tiles: 16 }]
    );
    assert_kinds!(
        broken(|p| p.grids[0].axes[0].extent = 0),
        [ProgramErrorKind::EmptyAxis(_)]
    );
    assert_kinds!(
        broken(|p| p.grids[0].tiles = 15),
        [ProgramErrorKind::GridTiles { given: 15, .. }]
    );
}

#[test]
fn cuts_use_axes_once() {
    assert_kinds!(
        broken(|p| p.variables[0].cuts[0] = Cut::by(&[1], 1)),
        [ProgramErrorKind::CutAxis {
            dimension: 0,
            axis: 1,
            axes: 1
        }]
    );
    assert_kinds!(
        broken(|p| p.variables[3].cuts[1] = Cut::by(&[0], 1)),
        [ProgramErrorKind::AxisCutsTwice { axis: 0 }]
    );
    assert_kinds!(
        broken(|p| p.variables[3].cuts[1].grain = 0),
        [ProgramErrorKind::ZeroGrain { dimension: 1 }]
    );
    assert_kinds!(
        broken(|p| p.variables[3].cuts.truncate(1)),
        [ProgramErrorKind::CutCount { cuts: 1, rank: 2 }]
    );
    assert_kinds!(
        broken(|p| p.variables[3].ty.shape = Shape::new(&[usize::MAX, 3])),
        [ProgramErrorKind::TensorSize]
    );
}

#[test]
fn states_differ() {
    assert_kinds!(
        broken(|p| p.states.push(p.states[0].clone())),
        [
            ProgramErrorKind::Repeated { what: "state" },
            ProgramErrorKind::SharedState,
        ]
    );
}

#[test]
fn operands_lie_on_the_grid_of_their_group() {
    assert_kinds!(
        broken(|p| p.variables[FC_X.index()].grid = ROWS),
        [ProgramErrorKind::OperandGrid { .. }]
    );
    assert_kinds!(
        broken(|p| group(&mut p.procedures[BODY].steps[3]).inputs[0] = Operand::entry(FC_X, 0)),
        [ProgramErrorKind::OperandEntry { entry: 0, .. }]
    );
    assert_kinds!(
        broken(|p| p.variables[W.index()].cuts = smallvec![Cut::by(&[1], 1), Cut::none()]),
        [ProgramErrorKind::Contract {
            codelet: "amp_matmul",
            ..
        }]
    );
    // Equal extents, other columns.
    assert_kinds!(
        broken(|p| {
            p.variables[W.index()].ty.shape = Shape::new(&[6, 4]);
            for v in [PRODUCT, ACT, SUM, Y] {
                p.variables[v.index()].ty.shape = Shape::new(&[8, 4]);
            }
            p.variables[W.index()].cuts[1] = Cut::by(&[0], 1);
        }),
        [ProgramErrorKind::Contract {
            codelet: "amp_matmul",
            ..
        }]
    );
}

#[test]
fn vertices_of_a_tile_keep_out_of_each_others_way() {
    let twice = |p: &mut Program| {
        let group = group(&mut p.procedures[BODY].steps[3]).clone();
        match &mut p.procedures[BODY].steps[3] {
            Step::Compute(set) => set.groups.push(group),
            _ => unreachable!("a compute set"),
        }
    };
    assert_kinds!(broken(twice), [ProgramErrorKind::WrittenTwice { .. }]);
    assert_kinds!(
        broken(|p| {
            let other = match &p.procedures[BODY].steps[5] {
                Step::Compute(set) => set.groups[0].clone(),
                _ => unreachable!("a compute set"),
            };
            match &mut p.procedures[BODY].steps[4] {
                Step::Compute(set) => set.groups.push(other),
                _ => unreachable!("a compute set"),
            }
            p.variables[ACT.index()].address = 0x500;
            p.variables[SUM.index()].live = Some((0, 8));
        }),
        [
            ProgramErrorKind::ReadWhileWritten { .. },
            ProgramErrorKind::ReadBeforeWrite { .. },
        ]
    );
    assert_kinds!(
        broken(|p| {
            p.procedures[BODY].steps[5] = compute(Codelet::Cast, FC, &[SUM], &[SUM]);
        }),
        [ProgramErrorKind::NotInPlace {
            codelet: "cast",
            ..
        }]
    );
}

#[test]
fn moves_must_fit() {
    let change =
        |f: fn(&mut Move)| broken(move |p| f(first_move(&mut p.procedures[MAIN].steps[2])));
    let kinds = change(|m| m.at = smallvec![1, 0]);
    assert_kinds!(
        kinds,
        [
            ProgramErrorKind::Move {
                error: ExchangeError::Outside { .. },
                ..
            },
            ProgramErrorKind::ReadBeforeWrite { .. },
        ]
    );
    let kinds = change(|m| m.views = vec![View::Reshape(Shape::new(&[8, 6]))]);
    assert_kinds!(
        kinds,
        [
            ProgramErrorKind::Move {
                error: ExchangeError::View { index: 0, .. },
                ..
            },
            ProgramErrorKind::ReadBeforeWrite { .. },
        ]
    );
    let kinds = change(|m| {
        m.views = vec![View::Slice {
            axis: 0,
            start: 3,
            len: 0,
        }];
    });
    assert_kinds!(
        kinds,
        [
            ProgramErrorKind::Move {
                error: ExchangeError::View { index: 0, .. },
                ..
            },
            ProgramErrorKind::ReadBeforeWrite { .. },
        ]
    );
    let kinds = change(|m| {
        m.views = vec![
            View::Transpose(smallvec![1, 0]),
            View::Reshape(Shape::new(&[40])),
            View::Slice {
                axis: 0,
                start: 1,
                len: 10,
            },
        ];
    });
    assert_kinds!(
        kinds,
        [
            ProgramErrorKind::Move {
                error: ExchangeError::NotAffine { .. },
                ..
            },
            ProgramErrorKind::ReadBeforeWrite { .. },
        ]
    );
    let kinds = broken(|p| p.variables[Y.index()].ty.dtype = DType::I32);
    assert_kinds!(
        kinds,
        [
            ProgramErrorKind::Move {
                error: ExchangeError::Type,
                ..
            },
            ProgramErrorKind::ReadBeforeWrite { .. },
        ]
    );
}

#[test]
fn moves_of_one_exchange_do_not_meet() {
    let add = |p: &mut Program, mv: Move| match &mut p.procedures[MAIN].steps[2] {
        Step::Exchange(exchange) => exchange.moves.push(mv),
        _ => unreachable!("an exchange"),
    };
    let row = |at: usize| Move {
        source: SUM,
        views: vec![View::Slice {
            axis: 0,
            start: 7,
            len: 1,
        }],
        destination: Y,
        at: smallvec![at, 0],
    };
    assert_kinds!(
        broken(|p| add(p, row(7))),
        [ProgramErrorKind::MovesOverlap { .. }]
    );
    assert_kinds!(
        broken(|p| {
            add(
                p,
                Move {
                    source: Y,
                    destination: SUM,
                    views: vec![],
                    at: smallvec![0, 0],
                },
            );
        }),
        [
            ProgramErrorKind::MovesDepend { .. },
            ProgramErrorKind::MovesDepend { .. },
            ProgramErrorKind::ReadBeforeWrite { .. },
        ]
    );
}

#[test]
fn a_seed_is_two_words_whole_on_each_tile() {
    let set_seed = |seed| Step::SetSeed {
        seed,
        origin: OriginId(0),
    };
    let kinds = broken(|p| p.procedures[MAIN].steps.push(set_seed(W)));
    assert_kinds!(kinds, [ProgramErrorKind::Seed { .. }]);
    let seed = |p: &mut Program, cuts: &[&[u8]]| {
        let mut v = variable("seed", &[2], FC, cuts, 0x7000, None);
        v.ty.dtype = DType::U32;
        p.states.push(State {
            name: "seed".into(),
            kind: StateKind::Counter,
            variable: VarId(p.variables.len() as u32),
            sharded: false,
            remote: false,
        });
        p.procedures[MAIN]
            .steps
            .push(set_seed(VarId(p.variables.len() as u32)));
        p.variables.push(v);
    };
    assert_kinds!(
        broken(|p| seed(p, &[&[0]])),
        [ProgramErrorKind::Seed { .. }]
    );
    let mut whole = sound();
    seed(&mut whole, &[&[]]);
    assert_eq!(verify_program(&whole), Ok(()));
}

#[test]
fn only_remote_state_is_loaded_and_it_is_loaded_before_it_is_read() {
    let load = |state| Step::Remote {
        state,
        direction: RemoteDirection::Load,
        origin: OriginId(0),
    };
    let kinds = broken(|p| p.procedures[MAIN].steps.insert(0, load(0)));
    assert_kinds!(kinds, [ProgramErrorKind::NotRemote { .. }]);
    let away = |p: &mut Program| {
        let steps = p.step_ranges()[p.entry.index()].clone().unwrap_or(0..1);
        p.states[0].remote = true;
        let variable = p.states[0].variable;
        p.variables[variable.index()].live = Some((0, steps.end));
    };
    let kinds = broken(away);
    assert!(
        kinds
            .iter()
            .any(|k| matches!(k, ProgramErrorKind::ReadBeforeWrite { .. })),
        "{kinds:?}"
    );
}
