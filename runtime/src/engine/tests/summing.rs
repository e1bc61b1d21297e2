//! Partial results that are added up in place: `total += x·w` with the contraction over three tiles.

use super::*;
use crate::superstep::Action;

const X: u32 = 0;
const PARTIAL: u32 = 4;
const PARTIALS: u32 = 5;
const TOTAL: u32 = 6;

/// `m` rows and `n` columns of blocks, each of three partial results.
pub(super) fn program(m: usize, n: usize) -> Program {
    let mut bring = exchange("partials", &[(PARTIAL, PARTIALS)]);
    if let Step::Exchange(exchange) = &mut bring {
        exchange.moves[0].at = SmallVec::from_slice(&[0, 0, 0]);
    }
    let sum = Codelet::SumPartials { accumulate: true };
    let state = |name: &str, variable: u32| State {
        name: name.into(),
        kind: StateKind::Weight,
        variable: VarId(variable),
        sharded: false,
        remote: false,
    };
    let extents = [("k", 3), ("m", m), ("n", n)];
    Program {
        machine: Machine {
            tiles_per_ipu: 50,
            ..machine()
        },
        ipus: 1,
        grids: vec![
            Grid::dense("rest", IpuId(0), 3, 50, &[("i", 5)]),
            Grid::dense("product", IpuId(0), 1, 50, &extents),
            Grid::dense("sums", IpuId(0), 9, 50, &extents[1..]),
        ],
        variables_from: vec![0],
        variables: vec![
            variable("x", &[M, K], 0, &[&[0], &[]], 0, None),
            variable("w", &[K, N], 0, &[&[], &[0]], 256, None),
            variable("x.here", &[M, K], 1, &[&[1], &[0]], 1024, Some((0, 1))),
            variable("w.here", &[K, N], 1, &[&[0], &[2]], 512, Some((0, 1))),
            variable(
                "partial",
                &[3, M, N],
                1,
                &[&[0], &[1], &[2]],
                2048,
                Some((1, 2)),
            ),
            variable(
                "partials",
                &[3, M, N],
                2,
                &[&[], &[0], &[1]],
                2560,
                Some((2, 3)),
            ),
            variable("total", &[M, N], 2, &[&[0], &[1]], 3072, None),
        ],
        states: vec![state("x", X), state("w", W), state("total", TOTAL)],
        streams: vec![],
        procedures: vec![Procedure {
            name: "main".into(),
            steps: vec![
                exchange("operands", &[(X, X_HERE), (W, W_HERE)]),
                group(MATMUL, 1, &[X_HERE, W_HERE], &[PARTIAL]),
                bring,
                group(sum, 2, &[PARTIALS], &[TOTAL]),
            ],
        }],
        ..super::program()
    }
}

/// The bits of the total after two runs, and whether partial results were added up in place.
fn total(program: &Program, options: &EngineOptions) -> (Vec<u32>, bool) {
    let mut engine = Engine::load(Arc::new(program.clone()), options).expect("sound");
    for (state, seed, count) in [("x", 1, M * K), ("w", 2, K * N), ("total", 3, M * N)] {
        let values = random(count, seed);
        let written = engine.write_state(state, bytemuck::cast_slice(&values));
        written.expect("a state");
    }
    for _ in 0..2 {
        engine.run(&mut Tape::default()).expect("no host");
    }
    let mut total = vec![0u32; M * N];
    let read = engine.read_state("total", bytemuck::cast_slice_mut(&mut total));
    read.expect("a state");
    let phases = engine.loaded.procedures[0].iter();
    let phases = phases.filter_map(|(_, step)| match step {
        LoadedStep::Phase(phase) => Some(phase),
        _ => None,
    });
    let mut actions = phases.flat_map(|phase| phase.supersteps.iter().flat_map(|s| &s.actions));
    let adds = actions.any(|action| match action {
        Action::Compute(group) => group.outputs.iter().any(|o| o.shared),
        _ => false,
    });
    (total, adds)
}

/// Strict and fast schedules agree; whether the fast one adds up in place.
fn adds_up(program: &Program) -> bool {
    let (expected, adds) = total(
        program,
        &EngineOptions {
            schedule: Schedule::Strict,
            ..PLAIN
        },
    );
    assert!(!adds);
    let poisoned = EngineOptions {
        schedule: Schedule::Poisoned,
        ..PLAIN
    };
    assert_eq!(total(program, &poisoned), (expected.clone(), false));
    let mut found = Vec::new();
    for (threads, portable) in [(1, false), (3, false), (1, true)] {
        let options = EngineOptions {
            threads,
            portable,
            schedule: Schedule::Fast,
        };
        let (bits, adds) = total(program, &options);
        assert_eq!(bits, expected, "{options:?}");
        found.push(adds);
    }
    assert!(found.iter().all(|&adds| adds == found[0]));
    found[0]
}

#[test]
fn partial_results_are_added_up_in_place_to_the_same_bits() {
    assert!(adds_up(&program(4, 3)));
    // The tiles of a sum one after the other.
    let mut inner = program(4, 3);
    inner.grids[1] = Grid::dense("product", IpuId(0), 1, 50, &[("m", 4), ("n", 3), ("k", 3)]);
    let cuts: [(usize, &[&[u8]]); 3] = [
        (X_HERE as usize, &[&[0], &[2]]),
        (W_HERE as usize, &[&[2], &[1]]),
        (PARTIAL as usize, &[&[2], &[0], &[1]]),
    ];
    for (v, cuts) in cuts {
        inner.variables[v].cuts = cuts.iter().map(|axes| Cut::by(axes, 1)).collect();
    }
    assert!(adds_up(&inner));
}

#[test]
fn partial_results_that_are_more_than_terms_stay() {
    // Of so few sums no two threads would have enough to do.
    assert!(!adds_up(&program(1, 3)));
    // Something else lies on their bytes, and is alive.
    let mut covered = program(4, 3);
    covered.variables[PARTIAL as usize].address = 3072 + 16 * 4;
    let extra = variable("extra", &[K], 1, &[&[]], 3072 + 16 * 4, None);
    covered.variables.push(extra);
    assert!(!adds_up(&covered));
    // They are kept.
    let mut kept = program(4, 3);
    kept.states.push(State {
        name: "partial".into(),
        kind: StateKind::Accumulator,
        variable: VarId(PARTIAL),
        sharded: false,
        remote: false,
    });
    assert!(!adds_up(&kept));
    // Their maximum is wanted.
    let mut largest = program(4, 3);
    if let Step::Compute(set) = &mut largest.procedures[0].steps[3] {
        set.groups[0].codelet = Codelet::Reduce {
            kind: superstep_ir::op::ReduceKind::Max,
        };
    }
    assert!(!adds_up(&largest));
    // There is a copy of each.
    let mut twice = program(4, 3);
    let extents = [("k", 3), ("m", 4), ("n", 2), ("copy", 2)];
    twice.grids[1] = Grid::dense("product", IpuId(0), 1, 50, &extents);
    assert!(!adds_up(&twice));
    // Halves are rounded before they are added.
    let mut halves = program(4, 3);
    for v in [PARTIAL, PARTIALS] {
        halves.variables[v as usize].ty.dtype = superstep_ir::types::DType::F16;
    }
    assert!(!adds_up(&halves));
}

#[test]
fn vertices_without_operands_are_refused() {
    let broken = |step: usize, change: fn(&mut VertexGroup)| {
        let mut program = program(4, 3);
        if let Step::Compute(set) = &mut program.procedures[0].steps[step] {
            change(&mut set.groups[0]);
        }
        Engine::load(Arc::new(program), &PLAIN).is_err()
    };
    assert!(broken(1, |product| product.outputs.clear()));
    assert!(broken(1, |product| product.inputs.clear()));
    assert!(broken(3, |sum| sum.inputs.clear()));
    assert!(broken(3, |sum| sum.outputs.clear()));
}
