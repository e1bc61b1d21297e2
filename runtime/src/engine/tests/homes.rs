//! Arrays that use memory again, while clusters do not wait for each other.

use super::*;

const ROUNDS: u32 = 60;

/// `x` goes from twelve tiles to three, to six, and to twelve again, always to other variables, and in between a function is computed in place, so that no
/// variable is alone on its bytes (and could lie in the arena).
fn round_and_round() -> Program {
    let every = |stride: u32| {
        let mut grid = Grid::dense("some", IpuId(0), 0, 12, &[("i", 12 / stride as usize)]);
        grid.axes[0].stride = stride;
        grid
    };
    let tanh = Codelet::Map(MapExpr::unary(UnaryOp::Tanh));
    let (mut variables, mut steps) = (Vec::new(), Vec::new());
    let host = |stream| Step::Host {
        stream,
        origin: OriginId(0),
    };
    steps.push(host(0));
    for round in 0..ROUNDS {
        let (grid, address) = (round % 3, round % 2 * 1024);
        // The step at which the first of both is made.
        let made = 2 * round;
        for first in [made, made + 1] {
            let live = Some((first, first + 1));
            variables.push(variable("x", &[24, 20], grid, &[&[0], &[]], address, live));
        }
        steps.push(group(tanh.clone(), grid, &[made], &[made + 1]));
        steps.push(match round + 1 {
            ROUNDS => host(1),
            _ => exchange("over", &[(made + 1, made + 2)]),
        });
    }
    let stream = |name: &str, direction, variable| Stream {
        name: name.into(),
        direction,
        variable: VarId(variable),
    };
    Program {
        grids: vec![every(1), every(4), every(2)],
        variables,
        states: vec![],
        streams: vec![
            stream("x", Direction::HostToDevice, 0),
            stream("y", Direction::DeviceToHost, 2 * ROUNDS - 1),
        ],
        procedures: vec![Procedure {
            name: "main".into(),
            steps,
        }],
        ..program()
    }
}

fn run(options: &EngineOptions) -> (Engine, Vec<Vec<f32>>) {
    let mut engine = Engine::load(Arc::new(round_and_round()), options).expect("sound");
    let mut tape = Tape::default();
    engine.run(&mut tape).expect("runs");
    (engine, tape.taken.remove("y").unwrap_or_default())
}

#[test]
fn memory_that_is_used_again_is_not_written_while_others_need_it() {
    let strict = EngineOptions {
        schedule: Schedule::Strict,
        ..PLAIN
    };
    let expected = run(&strict).1;
    for threads in [1, 2, 3] {
        let (engine, found) = run(&EngineOptions { threads, ..PLAIN });
        assert!(found == expected, "{threads} threads");
        // 192 bytes on twelve tiles, 640 and 320 on every fourth and second.
        let without = ROUNDS as usize / 3 * (12 * 192 + 9 * 640 + 11 * 320);
        assert!(engine.loaded.homes.bytes < without, "used again");
        let phases = engine.loaded.procedures[0].iter();
        let phases = phases.filter(|step| matches!(step.1, LoadedStep::Phase(_)));
        assert!((2..20).contains(&phases.count()), "cut, but seldom");
    }
}
