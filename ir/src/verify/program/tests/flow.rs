//! Reads before writes, live ranges, loops.

use super::*;
use crate::program::View;

#[test]
fn a_dropped_move_is_found() {
    for (procedure, index) in [(BODY, 2), (MAIN, 2)] {
        let kinds = broken(|p| match &mut p.procedures[procedure].steps[index] {
            Step::Exchange(exchange) => exchange.moves.clear(),
            _ => unreachable!("an exchange"),
        });
        assert_kinds!(kinds, [ProgramErrorKind::ReadBeforeWrite { .. }]);
    }
}

#[test]
fn a_dropped_transfer_or_vertex_is_found() {
    for index in [0, 3, 4] {
        let kinds = broken(|p| {
            // A sync in its place keeps the numbers of the other steps.
            p.procedures[BODY].steps[index] = Step::Sync(Sync::Replica);
        });
        assert!(
            kinds
                .iter()
                .any(|k| matches!(k, ProgramErrorKind::ReadBeforeWrite { .. })),
            "{index}: {kinds:?}"
        );
    }
    let kinds = broken(|p| p.procedures[MAIN].steps[0] = Step::Sync(Sync::Replica));
    assert_kinds!(kinds, [ProgramErrorKind::ReadBeforeWrite { .. }]);
}

/// Moves of rows `from..to` of `x` to the same rows of `fc.x`.
fn move_rows(p: &mut Program, ranges: &[(usize, usize)]) {
    let moves = ranges.iter().map(|&(from, to)| Move {
        source: X,
        views: vec![View::Slice {
            axis: 0,
            start: from,
            len: to - from,
        }],
        destination: FC_X,
        at: smallvec![from, 0],
    });
    let moves = moves.collect();
    match &mut p.procedures[BODY].steps[2] {
        Step::Exchange(exchange) => exchange.moves = moves,
        _ => unreachable!("an exchange"),
    }
}

#[test]
fn every_part_must_be_written() {
    let mut whole = sound();
    move_rows(&mut whole, &[(5, 8), (0, 3), (3, 5)]);
    verify_program(&whole).unwrap();
    let kinds = broken(|p| move_rows(p, &[(5, 8), (0, 3), (3, 4)]));
    assert_kinds!(kinds, [ProgramErrorKind::ReadBeforeWrite { .. }]);
}

#[test]
fn a_move_reads_only_what_its_views_show() {
    // x is never received; its rows 0..5 are written by a move instead, and only they are read.
    let show = |p: &mut Program, rows: usize, views: Vec<View>| {
        let fill = Move {
            source: W,
            views: vec![View::Transpose(smallvec![1, 0])],
            destination: X,
            at: smallvec![0, 0],
        };
        p.procedures[BODY].steps[0] = Step::Exchange(Exchange {
            name: "rows".into(),
            origin: OriginId(0),
            moves: vec![fill],
        });
        p.variables[FC_X.index()].ty.shape = Shape::new(&[rows, 6]);
        for v in [PRODUCT, ACT, SUM, Y] {
            p.variables[v.index()].ty.shape.0[0] = rows;
        }
        first_move(&mut p.procedures[BODY].steps[2]).views = views;
    };
    let slice = |start: usize, len: usize| View::Slice {
        axis: 0,
        start,
        len,
    };
    let behind_a_reshape = |start: usize, len: usize| {
        vec![
            View::Reshape(Shape::new(&[16, 3])),
            slice(start, 2 * len),
            View::Reshape(Shape::new(&[len, 6])),
        ]
    };
    let passes = |rows: usize, views: Vec<View>| {
        let mut program = sound();
        show(&mut program, rows, views);
        verify_program(&program).is_ok()
    };
    assert!(passes(5, vec![slice(0, 5)]));
    assert!(!passes(5, vec![slice(1, 5)]));
    assert!(passes(4, behind_a_reshape(2, 4)));
    assert!(!passes(4, behind_a_reshape(4, 4)));
}

#[test]
fn entries_are_written_one_by_one() {
    let entries = |written: &[u32]| {
        let mut p = sound();
        // fc.x becomes the only entry of a stack of two that the product reads whole, as a sum over both.
        let stack = VarId(p.variables.len() as u32);
        p.variables.push(variable(
            "stack",
            &[2, 8, 5],
            FC,
            &[&[], &[0], &[1]],
            0x600,
            Some((5, 6)),
        ));
        let product = p.procedures[BODY].steps[3].clone();
        p.procedures[BODY].steps[3] = match product {
            Step::Compute(mut set) => {
                let group = set.groups[0].clone();
                set.groups = written
                    .iter()
                    .map(|&i| VertexGroup {
                        outputs: smallvec![Operand::entry(stack, i)],
                        ..group.clone()
                    })
                    .collect();
                Step::Compute(set)
            }
            other => other,
        };
        let reduce = Codelet::Reduce {
            kind: crate::op::ReduceKind::Sum,
        };
        p.procedures[BODY].steps[4] = compute(reduce, FC, &[stack], &[ACT]);
        p.variables[ACT.index()].address = 0x500;
        verify_program(&p).map_err(|e| e.0.len())
    };
    assert_eq!(entries(&[0, 1]), Ok(()));
    assert_eq!(entries(&[1]), Err(1));
    assert_eq!(entries(&[0, 0]), Err(2), "written twice, and one missing");
}

#[test]
fn uses_lie_in_live_ranges() {
    for (id, live, step) in [(FC_X, (4, 4), 5), (FC_X, (5, 5), 4), (Y, (9, 9), 8)] {
        let kinds = broken(|p| p.variables[id.index()].live = Some(live));
        assert!(
            matches!(kinds[..], [ProgramErrorKind::NotLive { step: s, .. }] if s == step),
            "{id}: {kinds:?}"
        );
    }
}

#[test]
fn what_a_loop_carries_is_alive_in_all_of_it() {
    // x is received once, before the loop; every round reads it.
    let hoisted = |live: (u32, u32)| {
        let mut p = sound();
        let receive = p.procedures[BODY].steps.remove(0);
        p.procedures[MAIN].steps.insert(0, receive);
        // Numbers up to the loop move on by one.
        p.variables[X.index()].live = Some(live);
        p.variables[SUM.index()].live = Some((1, 8));
        verify_program(&p).map_err(|e| e.0)
    };
    assert_eq!(hoisted((0, 7)), Ok(()));
    let errors = hoisted((0, 4)).unwrap_err();
    assert!(
        matches!(
            errors[..],
            [ProgramError {
                kind: ProgramErrorKind::NotLiveInLoop {
                    loop_first: 3,
                    loop_last: 7,
                    first: 0,
                    last: 4,
                    ..
                },
                ..
            }]
        ),
        "{errors:?}"
    );
    // A call is no loop: nothing comes round again.
    let mut once = sound();
    let receive = once.procedures[BODY].steps.remove(0);
    once.procedures[MAIN].steps.insert(0, receive);
    once.procedures[MAIN].steps[2] = Step::Call(ProcId(BODY as u32));
    once.variables[X.index()].live = Some((0, 4));
    once.variables[SUM.index()].live = Some((1, 8));
    verify_program(&once).unwrap();
}

#[test]
fn what_one_run_of_a_procedure_leaves_lives_from_its_write_on() {
    // act is made in the last step of the body, and added in main.
    let added_after = |run: Step| {
        let mut p = sound();
        let add = p.procedures[BODY].steps.pop().unwrap();
        p.procedures[MAIN].steps[1] = run;
        p.procedures[MAIN].steps.insert(2, add);
        assert_eq!(p.variables[ACT.index()].live, Some((6, 7)));
        verify_program(&p).map_err(|e| e.0.into_iter().map(|e| e.kind).collect::<Vec<_>>())
    };
    let body = ProcId(BODY as u32);
    assert_eq!(added_after(Step::Call(body)), Ok(()));
    // In a loop what is made in one round lies there in the next.
    let kinds = added_after(Step::Repeat { count: 3, body }).unwrap_err();
    assert_kinds!(kinds, [ProgramErrorKind::NotLiveInLoop { .. }]);
}

#[test]
fn accumulating_reads_the_output() {
    let accumulate = Codelet::Matmul {
        transpose_a: false,
        transpose_b: false,
        accumulate: true,
    };
    let kinds = broken(|p| {
        p.procedures[BODY].steps[3] = compute(accumulate, FC, &[FC_X, W], &[PRODUCT]);
    });
    assert_kinds!(kinds, [ProgramErrorKind::ReadBeforeWrite { .. }]);
}
