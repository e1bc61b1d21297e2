//! Programs that no compiler makes are refused when they are loaded.

use super::*;

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
