//! Transpositions that the fast schedule reads through: `y = xᵀ·w` over a few tiles, where `x` is brought in squares, turned, and brought again.

use half::f16;
use superstep_ir::op::ReduceKind;
use superstep_ir::program::Rounding;
use superstep_ir::types::DType;

use super::*;
use crate::load::transpositions::read_through as without_transpositions;

/// Variables of [`product`] by number.
const X: u32 = 0;
const W: u32 = 1;
const EVEN: u32 = 2;
const TURNED: u32 = 3;
const A: u32 = 4;
const B: u32 = 5;
const Y: u32 = 6;

/// Steps of the repeated procedure.
const TO_EVEN: usize = 1;
const TURN: usize = 2;
const OPERANDS: usize = 3;
const MULTIPLY: usize = 4;

/// Feeds `x: [K, M]`, takes `y: [M, N]`, twice.
fn product() -> Program {
    let mut p = program();
    p.grids[2] = Grid::dense("squares", IpuId(0), 2, 12, &[("i", 2), ("j", 3)]);
    p.grids
        .push(Grid::dense("elsewhere", IpuId(1), 4, 12, &[("i", 5)]));
    // Numbers of steps: 0 repeat · 1 feed · 2 to even · 3 turn · 4 operands · 5 multiply · 6 take.
    p.variables = vec![
        variable("x", &[K, M], 0, &[&[0], &[]], 0, Some((1, 2))),
        variable("w", &[K, N], 0, &[&[], &[0]], 256, None),
        variable("even", &[K, M], 2, &[&[0], &[1]], 1024, Some((2, 3))),
        variable("turned", &[M, K], 2, &[&[1], &[0]], 1152, Some((3, 4))),
        variable("a", &[M, K], 1, &[&[0], &[]], 1280, Some((4, 5))),
        variable("b", &[K, N], 1, &[&[], &[1]], 1536, Some((4, 5))),
        variable("y", &[M, N], 1, &[&[0], &[1]], 2048, Some((5, 6))),
    ];
    p.states.truncate(1);
    p.streams[1].variable = VarId(Y);
    let origin = OriginId(0);
    p.procedures.truncate(2);
    p.procedures[1].steps = vec![
        Step::Host { stream: 0, origin },
        exchange("even", &[(X, EVEN)]),
        group(Codelet::Transpose, 2, &[EVEN], &[TURNED]),
        exchange("operands", &[(TURNED, A), (W, B)]),
        group(MATMUL, 1, &[A, B], &[Y]),
        Step::Host { stream: 1, origin },
    ];
    p
}

/// `product`, where the state is `w: [N, K]`, turned where it rests.
fn with_turned_weight() -> Program {
    let mut p = product();
    p.variables[W as usize] = variable("w", &[N, K], 0, &[&[0], &[]], 256, None);
    p.variables[X as usize] = variable("x", &[M, K], 0, &[&[0], &[]], 0, Some((1, 4)));
    p.variables[TURNED as usize] = variable("turned", &[K, N], 0, &[&[], &[0]], 1152, Some((3, 4)));
    p.procedures[1].steps[TO_EVEN] = exchange("nothing", &[]);
    p.procedures[1].steps[TURN] = group(Codelet::Transpose, 0, &[W], &[TURNED]);
    p.procedures[1].steps[OPERANDS] = exchange("operands", &[(X, A), (TURNED, B)]);
    p
}

fn moves(program: &mut Program, step: usize) -> &mut Vec<Move> {
    match &mut program.procedures[1].steps[step] {
        Step::Exchange(exchange) => &mut exchange.moves,
        _ => panic!("step {step} is no exchange"),
    }
}

fn read_through(program: &Program) -> Option<Program> {
    let layouts = crate::layout::Layouts::of(program).expect("sound");
    let numbers = crate::load::numbers(program);
    without_transpositions(program, &layouts, &numbers)
}

/// All that two runs give, as bits, from a state of `weights`.
fn outputs(program: &Program, schedule: Schedule, weights: &[u8]) -> Vec<Vec<u32>> {
    let options = EngineOptions { schedule, ..PLAIN };
    let mut engine = Engine::load(Arc::new(program.clone()), &options).expect("sound");
    engine.write_state("w", weights).expect("a state");
    for state in program
        .states
        .iter()
        .filter(|s| s.kind == StateKind::Counter)
    {
        let seed = bytemuck::cast_slice(&[3_u32, 4]);
        engine.write_state(&state.name, seed).expect("a state");
    }
    let mut tape = Tape::default();
    engine.run(&mut tape).expect("runs");
    engine.run(&mut tape).expect("runs");
    let taken = tape.taken.into_values().flatten();
    let bits = |tensor: Vec<f32>| tensor.iter().map(|x| x.to_bits()).collect();
    taken.map(bits).collect()
}

/// Holds the fast schedule against the others; true when a transposition is read through.
fn is_read_through(program: &Program) -> bool {
    let weights = random(K * N, 99);
    is_read_through_from(program, bytemuck::cast_slice(&weights))
}

fn is_read_through_from(program: &Program, weights: &[u8]) -> bool {
    let strict = outputs(program, Schedule::Strict, weights);
    assert_eq!(outputs(program, Schedule::Poisoned, weights), strict);
    assert_eq!(outputs(program, Schedule::Fast, weights), strict);
    assert!(strict.iter().flatten().any(|&bits| bits != 0));
    read_through(program).is_some()
}

#[test]
fn the_product_takes_what_would_be_transposed_for_it() {
    assert!(is_read_through(&product()));
    let mut found = read_through(&product()).expect("nothing is in the way");
    assert!(moves(&mut found, TO_EVEN).is_empty());
    let brought = moves(&mut found, OPERANDS)[0].clone();
    assert_eq!((brought.source, brought.destination), (VarId(X), VarId(A)));
    assert!(brought.views.is_empty());
    let steps = &found.procedures[1].steps;
    assert!(matches!(&steps[TURN], Step::Compute(set) if set.groups.is_empty()));
    let Step::Compute(multiply) = &steps[MULTIPLY] else {
        panic!("a product");
    };
    let expected = Codelet::Matmul {
        transpose_a: true,
        transpose_b: false,
        accumulate: false,
    };
    assert_eq!(multiply.groups[0].codelet, expected);
    let a = &found.variables[A as usize];
    let stored = variable("a", &[K, M], 1, &[&[], &[0]], 1280, Some((4, 5)));
    assert_eq!(a, &stored);
    assert_eq!(found.variables[X as usize].live, Some((1, 4)));
}

#[test]
fn state_that_rests_is_read_through_as_second_operand() {
    let p = with_turned_weight();
    assert!(is_read_through(&p));
    let found = read_through(&p).expect("nothing is in the way");
    let expected = Codelet::Matmul {
        transpose_a: false,
        transpose_b: true,
        accumulate: false,
    };
    let Step::Compute(multiply) = &found.procedures[1].steps[MULTIPLY] else {
        panic!("a product");
    };
    assert_eq!(multiply.groups[0].codelet, expected);
    // State is alive anyway.
    assert_eq!(found.variables[W as usize].live, None);
    // Every tile would have to turn all of it.
    let mut many = p;
    many.grids[1] = Grid::dense("product", IpuId(0), 1, 12, &[("m", 9), ("n", 1)]);
    assert!(!is_read_through(&many));
}

#[test]
fn tiles_of_another_ipu_may_be_the_source() {
    let mut p = product();
    p.variables[X as usize].grid = GridId(3);
    assert!(is_read_through(&p));
}

#[test]
fn views_on_the_way_and_products_in_slices_are_followed() {
    // `even` is columns 3.. of `x`, transposed; the product takes the first 4 of its contraction, then the others.
    let mut p = product();
    let wide = variable("x", &[M, K + 3], 0, &[&[0], &[]], 0, Some((1, 2)));
    p.variables[X as usize] = wide;
    let slice = |axis, start, len| View::Slice { axis, start, len };
    let transpose = View::Transpose(SmallVec::from_slice(&[1, 0]));
    moves(&mut p, TO_EVEN)[0].views = vec![slice(1, 3, K), transpose];
    let parts = [(A, B, 0, 4), (7, 8, 4, K - 4)];
    p.variables[A as usize].ty = TensorType::f32([M, 4]);
    p.variables[B as usize].ty = TensorType::f32([4, N]);
    p.variables.extend([
        variable("a", &[M, K - 4], 1, &[&[0], &[]], 2560, Some((6, 7))),
        variable("b", &[K - 4, N], 1, &[&[], &[1]], 2816, Some((6, 7))),
    ]);
    p.variables[TURNED as usize].live = Some((3, 6));
    p.variables[Y as usize].live = Some((5, 8));
    let steps = parts.map(|(a, b, start, len)| {
        let mut operands = exchange("operands", &[(TURNED, a), (W, b)]);
        if let Step::Exchange(exchange) = &mut operands {
            exchange.moves[0].views = vec![slice(1, start, len)];
            exchange.moves[1].views = vec![slice(0, start, len)];
        }
        let codelet = Codelet::Matmul {
            transpose_a: false,
            transpose_b: false,
            accumulate: start > 0,
        };
        [operands, group(codelet, 1, &[a, b], &[Y])]
    });
    let steps = steps.into_iter().flatten();
    p.procedures[1].steps.splice(OPERANDS..=MULTIPLY, steps);
    assert!(is_read_through(&p));
    let mut found = read_through(&p).expect("nothing is in the way");
    assert_eq!(moves(&mut found, OPERANDS)[0].source, VarId(X));
    assert_eq!(moves(&mut found, OPERANDS + 2)[0].source, VarId(X));
    assert_eq!(found.variables[X as usize].live, Some((1, 6)));
    // One of the operands is also sent elsewhere, so `turned` is needed.
    let mut known = p;
    let copy = variable("copy", &[M, K - 4], 1, &[&[0], &[]], 3200, Some((7, 7)));
    known.variables.push(copy);
    let steps = &mut known.procedures[1].steps;
    steps.insert(OPERANDS + 3, exchange("copy", &[(7, 9)]));
    known.variables[7].live = Some((6, 8));
    known.variables[8].live = Some((6, 8));
    known.variables[Y as usize].live = Some((5, 9));
    assert!(!is_read_through(&known));
}

#[test]
fn a_part_of_an_operand_is_brought_to_its_place() {
    // Rows of `x`, which are columns of `a`, in two moves.
    let mut p = product();
    let slice = |start, len| View::Slice {
        axis: 1,
        start,
        len,
    };
    let operands = moves(&mut p, OPERANDS);
    operands[0].views = vec![slice(0, 4)];
    let mut rest = operands[0].clone();
    rest.views = vec![slice(4, K - 4)];
    rest.at = SmallVec::from_slice(&[0, 4]);
    operands.push(rest);
    assert!(is_read_through(&p));
    // The second part comes from somewhere else.
    let mut other = p;
    let rest = moves(&mut other, OPERANDS).pop().expect("three moves");
    let from = variable("rest", &[M, K], 2, &[&[1], &[0]], 3072, None);
    other.variables.push(from);
    moves(&mut other, OPERANDS).push(Move {
        source: VarId(7),
        ..rest
    });
    assert!(!is_read_through(&other));
}

#[test]
fn nothing_is_read_through_that_somebody_else_knows() {
    // The host keeps the operand.
    let mut kept = product();
    kept.states.push(State {
        name: "kept".into(),
        kind: StateKind::Accumulator,
        variable: VarId(A),
        sharded: false,
        remote: false,
    });
    kept.variables[A as usize].live = None;
    assert!(!is_read_through(&kept));
    // A vertex that is no product reads the operand, or what is turned.
    let sum = Codelet::Reduce {
        kind: ReduceKind::Sum,
    };
    let mut operand = product();
    operand.variables[A as usize].live = Some((4, 6));
    let also = variable("also", &[1, K], 1, &[&[], &[]], 3072, Some((6, 6)));
    operand.variables.push(also);
    let reads = group(sum.clone(), 1, &[A], &[7]);
    operand.procedures[1].steps.insert(MULTIPLY + 1, reads);
    operand.variables[Y as usize].live = Some((5, 7));
    assert!(!is_read_through(&operand));
    let mut turned = product();
    let also = variable("also", &[1, K], 2, &[&[], &[0]], 3072, Some((4, 4)));
    turned.variables.push(also);
    let reads = group(sum, 2, &[TURNED], &[7]);
    turned.procedures[1].steps.insert(TURN + 1, reads);
    for v in [TURNED, A, B, Y] {
        let life = &mut turned.variables[v as usize].live;
        *life = life.map(|(first, last)| (first, last + 1));
    }
    assert!(!is_read_through(&turned));
}

#[test]
fn a_source_that_is_gone_is_not_read() {
    // Something is written on the bytes of `x` once it is dead; on two of its tiles only.
    let fill = |value: f64| Codelet::Fill {
        value: superstep_ir::types::Real(value),
    };
    let mut gone = product();
    let over = variable("over", &[8], 1, &[&[]], 0, Some((4, 4)));
    gone.variables.push(over);
    gone.procedures[1]
        .steps
        .insert(TURN + 1, group(fill(7.0), 1, &[], &[7]));
    for v in [TURNED, A, B, Y] {
        let life = &mut gone.variables[v as usize].live;
        *life = life.map(|(first, last)| (first + u32::from(v != TURNED), last + 1));
    }
    // What lies in squares is still there.
    gone.grids[1].base = 10;
    assert!(is_read_through(&gone));
    let mut found = read_through(&gone).expect("from the squares");
    assert_eq!(moves(&mut found, TO_EVEN)[0].destination, VarId(EVEN));
    assert_eq!(moves(&mut found, OPERANDS + 1)[0].source, VarId(EVEN));
    assert_eq!(found.variables[EVEN as usize].live, Some((2, 5)));
    // That is gone as well.
    gone.grids[1].base = 1;
    gone.variables[7].ty = TensorType::f32([32]);
    gone.variables[EVEN as usize].address = 64;
    assert!(!is_read_through(&gone));
    // An operand comes to where `x` was; on the bytes of what is not written any more it may.
    let mut covered = product();
    covered.variables[TURNED as usize].address = 3072;
    covered.variables[B as usize].address = 0;
    covered.variables[A as usize].address = 1024;
    assert!(!is_read_through(&covered));
    covered.variables[B as usize].address = 1536;
    assert!(is_read_through(&covered));
    let mut under = product();
    under.variables[TURNED as usize].address = 0;
    assert!(is_read_through(&under));
    // Who knows what a procedure does.
    let mut called = product();
    called.procedures.push(Procedure {
        name: "nothing".into(),
        steps: vec![],
    });
    called.procedures[1]
        .steps
        .insert(TURN + 1, Step::Call(ProcId(2)));
    for v in [TURNED, A, B, Y] {
        let life = &mut called.variables[v as usize].live;
        *life = life.map(|(first, last)| (first + u32::from(v != TURNED), last + 1));
    }
    assert!(!is_read_through(&called));
}

#[test]
fn halves_are_rounded_as_they_were() {
    // All is f16 but what the host sees, and the results are rounded at random, by step and group.
    let mut p = product();
    p.rounding = Rounding::Stochastic;
    let halves = variable("halves", &[K, M], 0, &[&[0], &[]], 128, Some((2, 3)));
    let wide = variable("wide", &[M, N], 1, &[&[0], &[1]], 2560, Some((7, 8)));
    let seed = variable("seed", &[2], 1, &[&[]], 3072, None);
    p.variables.extend([halves, wide, seed]);
    for v in [W, EVEN, TURNED, A, B, Y, 7] {
        p.variables[v as usize].ty.dtype = DType::F16;
    }
    p.variables[9].ty.dtype = DType::U32;
    p.states.push(State {
        name: "seed".into(),
        kind: StateKind::Counter,
        variable: VarId(9),
        sharded: false,
        remote: false,
    });
    p.streams[1].variable = VarId(8);
    moves(&mut p, TO_EVEN)[0].source = VarId(7);
    let steps = &mut p.procedures[1].steps;
    steps.insert(MULTIPLY + 1, group(Codelet::Cast, 1, &[Y], &[8]));
    steps.insert(TO_EVEN, group(Codelet::Cast, 0, &[X], &[7]));
    let (seed, origin) = (VarId(9), OriginId(0));
    p.procedures[0]
        .steps
        .insert(0, Step::SetSeed { seed, origin });
    // Two steps come first.
    let late = [EVEN, TURNED, A, B];
    for v in late {
        let life = &mut p.variables[v as usize].live;
        *life = life.map(|(first, last)| (first + 2, last + 2));
    }
    let lives = [(X, (2, 3)), (7, (3, 4)), (Y, (7, 8)), (8, (8, 9))];
    for (v, life) in lives {
        p.variables[v as usize].live = Some(life);
    }
    let weights: Vec<u16> = random(K * N, 99)
        .iter()
        .map(|&x| f16::from_f32(x).to_bits())
        .collect();
    let weights: &[u8] = bytemuck::cast_slice(&weights);
    assert!(is_read_through_from(&p, weights));
    let nearest = Program {
        rounding: Rounding::Nearest,
        ..p.clone()
    };
    let results = [p, nearest].map(|p| outputs(&p, Schedule::Fast, weights));
    assert_ne!(results[0], results[1]);
}
