//! Clusters that all threads run together.

use super::*;
use crate::load::joint::joint;

/// The bits of the states after some runs, with all clusters of all phases run by all threads if `jointly`.
fn states(program: &Program, options: &EngineOptions, jointly: bool) -> Vec<Vec<u32>> {
    let mut engine = Engine::load(Arc::new(program.clone()), options).expect("sound");
    for (_, step) in engine.loaded.procedures.iter_mut().flatten() {
        if let (LoadedStep::Phase(phase), true) = (step, jointly) {
            let clusters = 0..phase.starts.len() - 1;
            let tiles =
                |c: usize| &phase.tiles[phase.starts[c] as usize..phase.starts[c + 1] as usize];
            let all = clusters.map(|c| joint(c, tiles(c), &phase.supersteps));
            phase.joint = all.collect();
            phase.shares.clear();
        }
    }
    let bytes = |v: VarId| program.variable(v).ty.bytes();
    for (state, seed) in program.states.iter().zip(1..) {
        let values = random(bytes(state.variable) / 4, seed);
        let written = engine.write_state(&state.name, bytemuck::cast_slice(&values));
        written.expect("a state");
    }
    for _ in 0..20 {
        engine.run(&mut Tape::default()).expect("runs");
    }
    let read = |state: &State| {
        let mut values = vec![0u32; bytes(state.variable) / 4];
        let read = engine.read_state(&state.name, bytemuck::cast_slice_mut(&mut values));
        read.map(|()| values).expect("a state")
    };
    program.states.iter().map(read).collect()
}

#[test]
fn all_threads_together_give_the_same_bits() {
    for program in [program(), summing::program(4, 3)] {
        let strict = EngineOptions {
            schedule: Schedule::Strict,
            ..PLAIN
        };
        let expected = states(&program, &strict, false);
        for threads in [1, 2, 5] {
            let options = EngineOptions { threads, ..PLAIN };
            assert_eq!(states(&program, &options, true), expected, "{threads}");
        }
    }
}

#[test]
fn tiles_that_add_to_a_sum_take_their_turns_in_order() {
    let engine = Engine::load(Arc::new(summing::program(4, 3)), &PLAIN).expect("sound");
    let mut adding = 0;
    for (_, step) in engine.loaded.procedures.iter().flatten() {
        let LoadedStep::Phase(phase) = step else {
            continue;
        };
        for (c, ends) in phase.starts.windows(2).enumerate() {
            let tiles = &phase.tiles[ends[0] as usize..ends[1] as usize];
            let chains = joint(c, tiles, &phase.supersteps).chains;
            let long = chains.iter().flatten().filter(|chain| chain.len() > 1);
            adding += long
                .filter(|chain| chain.is_sorted() && chain.len() == 3)
                .count();
        }
    }
    assert_eq!(adding, 12);
}

#[test]
fn what_does_not_go_round_is_run_together() {
    use crate::load::joint::take_last;
    let taken = |clusters: &[usize], threads| {
        let mut from = 0;
        let share = |&len: &usize| {
            from += len;
            from - len..from
        };
        let mut shares: Vec<_> = clusters.iter().map(share).collect();
        let taken = take_last(&mut shares, threads);
        (shares.len(), taken)
    };
    assert_eq!(taken(&[1; 23], 2), (22, vec![22]));
    assert_eq!(taken(&[1; 23], 3), (21, vec![22, 21]));
    assert_eq!(taken(&[1; 24], 2), (24, vec![]));
    assert_eq!(taken(&[1; 23], 1), (23, vec![]));
    // A thread takes several clusters at once, or there is work for one thread only.
    assert_eq!(taken(&[1, 1, 5], 2), (3, vec![]));
    assert_eq!(taken(&[1], 2), (1, vec![]));
}
