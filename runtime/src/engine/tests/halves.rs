//! The toy program with halves where it keeps results: rounded to nearest, and at random.

use superstep_ir::program::Rounding;
use superstep_ir::types::DType;

use super::*;

/// `y`, its turned copy and the total are f16; a seed on the tiles of each IPU, set at the start of a run.
fn mixed(rounding: Rounding) -> Program {
    let mut p = program();
    p.rounding = rounding;
    for v in [Y, Y_TURNED, TOTAL] {
        p.variables[v as usize].ty.dtype = DType::F16;
    }
    // Two steps come first.
    for v in &mut p.variables {
        v.live = v.live.map(|(first, last)| (first + 2, last + 2));
    }
    for (ipu, grid) in [1, 2].into_iter().enumerate() {
        let seed = VarId(p.variables.len() as u32);
        let mut v = variable(&format!("seed{ipu}"), &[2], grid, &[&[]], 3072, None);
        v.ty.dtype = DType::U32;
        p.variables.push(v);
        p.states.push(State {
            name: format!("seed{ipu}"),
            kind: StateKind::Counter,
            variable: seed,
            sharded: false,
            remote: false,
        });
        let origin = OriginId(0);
        p.procedures[0]
            .steps
            .insert(0, Step::SetSeed { seed, origin });
    }
    p
}

/// The total after two runs.
fn total(rounding: Rounding, seed: [u32; 2], options: &EngineOptions) -> Vec<u16> {
    let mut engine = Engine::load(Arc::new(mixed(rounding)), options).expect("sound");
    let bytes: &[u8] = bytemuck::cast_slice(&seed);
    engine.write_state("seed0", bytes).expect("a state");
    engine.write_state("seed1", bytes).expect("a state");
    let w = random(K * N, 99);
    engine
        .write_state("w", bytemuck::cast_slice(&w))
        .expect("a state");
    let mut tape = Tape::default();
    engine.run(&mut tape).expect("runs");
    engine.run(&mut tape).expect("runs");
    let mut total = vec![0_u16; M * N];
    engine
        .read_state("total", bytemuck::cast_slice_mut(&mut total))
        .expect("a state");
    total
}

fn values(halves: &[u16]) -> Vec<f64> {
    halves
        .iter()
        .map(|&h| half::f16::from_bits(h).to_f64())
        .collect()
}

/// The total in f32.
fn exact() -> Vec<f64> {
    let found = results(program(), &PLAIN).expect("sound");
    found[4]
        .iter()
        .map(|&bits| f64::from(f32::from_bits(bits)))
        .collect()
}

#[test]
fn no_option_changes_a_bit_of_a_half() {
    for rounding in [Rounding::Nearest, Rounding::Stochastic] {
        let plain = total(rounding, [1, 2], &PLAIN);
        for (exact, found) in exact().iter().zip(values(&plain)) {
            assert!(
                (exact - found).abs() < 8e-3 * (1.0 + exact.abs()),
                "{found} is not {exact}"
            );
        }
        for threads in [1, 2, 5] {
            for portable in [false, true] {
                for schedule in [Schedule::Fast, Schedule::Strict, Schedule::Poisoned] {
                    let options = EngineOptions {
                        threads,
                        portable,
                        schedule,
                    };
                    assert_eq!(total(rounding, [1, 2], &options), plain, "{options:?}");
                }
            }
        }
    }
}

#[test]
fn seeds_make_the_rounding_and_its_mean_is_the_float() {
    let seeded = |seed| total(Rounding::Stochastic, [seed, 7], &PLAIN);
    assert_ne!(seeded(1), seeded(2));
    let nearest = |seed| total(Rounding::Nearest, [seed, 7], &PLAIN);
    assert_eq!(nearest(1), nearest(2));
    let count = 200;
    let mut means = vec![0.0; M * N];
    for seed in 0..count {
        for (mean, x) in means.iter_mut().zip(values(&seeded(seed))) {
            *mean += x / f64::from(count);
        }
    }
    let off = |found: &[f64]| -> f64 {
        let pairs = exact().into_iter().zip(found);
        pairs.map(|(x, y)| (x - y).abs()).sum::<f64>()
    };
    let (mean, nearest) = (off(&means), off(&values(&nearest(0))));
    assert!(
        mean < 0.5 * nearest,
        "means are off by {mean}, nearest by {nearest}"
    );
}

#[test]
fn a_seed_is_whole_on_its_tiles() {
    let mut p = mixed(Rounding::Stochastic);
    p.variables.last_mut().expect("a seed").cuts = vec![Cut::by(&[1], 1)].into();
    let refused = Engine::load(Arc::new(p), &PLAIN).err().expect("refused");
    assert!(refused.to_string().contains("as a seed is"), "{refused}");
}
