//! Addresses and live ranges.

use super::*;
use crate::ids::TileId;

#[test]
fn a_wrong_address_is_found() {
    for id in [FC_X, PRODUCT, ACT, SUM] {
        let kinds = broken(|p| p.variables[id.index()].address = p.variables[W.index()].address);
        assert!(
            kinds
                .iter()
                .any(|k| matches!(k, ProgramErrorKind::Overlap { .. })),
            "{id}: {kinds:?}"
        );
    }
    assert_kinds!(
        broken(|p| p.variables[SUM.index()].address = 0x304),
        [ProgramErrorKind::Misaligned(0x304)]
    );
    // 4 rows of 3 columns: 48 bytes.
    assert_kinds!(
        broken(|p| p.variables[SUM.index()].address = 0xffe0),
        [ProgramErrorKind::OutsideTile {
            end: 0x10010,
            tile_memory: 0x10000,
            ..
        }]
    );
    let mut last = sound();
    last.variables[SUM.index()].address = 0xffd0;
    verify_program(&last).unwrap();
    // All other addresses are further on.
    assert_kinds!(
        broken(|p| {
            p.variables_from = vec![16];
            p.variables[X.index()].address = 16;
        }),
        [ProgramErrorKind::OutsideTile {
            start: 0,
            end: 48,
            from: 16,
            ..
        }]
    );
}

#[test]
fn an_overlap_names_tile_bytes_and_step() {
    // x lies on tiles 2..6 at steps 2..4, sum on 4..8 at 0..8.
    let kinds = broken(|p| p.variables[X.index()].address = 0x310);
    let [
        ProgramErrorKind::Overlap {
            other,
            tile,
            start,
            end,
            step,
            ..
        },
    ] = &kinds[..]
    else {
        panic!("{kinds:?}");
    };
    assert_eq!((other.as_str(), *tile), ("x", TileId(4)));
    assert_eq!((*start, *end, *step), (0x310, 0x330, 2));
}

#[test]
fn variables_apart_in_time_or_place_share_bytes() {
    // y is alive from step 8 on, after x; both on the same tiles at the same address already. Now on other tiles than w:
    let mut program = sound();
    program.grids[0].base = 8;
    program.variables[X.index()].address = 0x400;
    verify_program(&program).unwrap();
}

#[test]
fn in_place_needs_a_codelet_that_allows_it() {
    assert_kinds!(
        broken(|p| p.procedures[BODY].steps[4] = compute(Codelet::Cast, FC, &[PRODUCT], &[ACT])),
        [ProgramErrorKind::Overlap { step: 6, .. }]
    );
    // Another address that overlaps in part.
    assert_kinds!(
        broken(|p| p.variables[ACT.index()].address = 0x210),
        [ProgramErrorKind::Overlap { step: 6, .. }]
    );
    // The old value is read again later.
    assert_kinds!(
        broken(|p| p.variables[PRODUCT.index()].live = Some((5, 7))),
        [ProgramErrorKind::Overlap { step: 6, .. }]
    );
    // Two groups of the set have to do with it.
    assert_kinds!(
        broken(|p| {
            let reader = VertexGroup {
                codelet: Codelet::Map(MapExpr::unary(UnaryOp::Neg)),
                grid: FC,
                inputs: smallvec![Operand::whole(PRODUCT)],
                outputs: smallvec![Operand::whole(SUM)],
            };
            match &mut p.procedures[BODY].steps[4] {
                Step::Compute(set) => set.groups.push(reader),
                _ => unreachable!("a compute set"),
            }
        }),
        [ProgramErrorKind::Overlap { step: 6, .. }]
    );
}

#[test]
fn state_is_always_live() {
    let kinds = broken(|p| p.variables[W.index()].live = Some((0, 9)));
    assert_kinds!(kinds, [ProgramErrorKind::StateNotAlwaysLive]);
    let kinds = broken(|p| p.variables[FC_X.index()].live = Some((5, 4)));
    assert_kinds!(
        kinds,
        [
            ProgramErrorKind::EmptyLiveRange(5, 4),
            ProgramErrorKind::NotLive { .. },
        ]
    );
}
