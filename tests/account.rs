//! The cycle account of compiled programs: every cycle has one cause, and none comes out of nowhere.

mod support;

use superstep_ir::machine::Machine;
use superstep_ir::program::Program;
use superstep_runtime::timeline::{Cause, Kind, Ledger, Timeline, timeline};
use support::{Golden, compiled, machine};

/// Tiny on some machines: one and several IPUs, many tiles and few, odd numbers of them.
fn programs() -> Vec<Program> {
    let golden = Golden::load("tiny");
    let cases: [(&[u32], u32, bool); 5] = [
        (&[2], 1472, true),
        (&[2], 101, false),
        (&[1, 1], 64, true),
        (&[0, 1, 1, 0], 24, true),
        (&[2], 7, true),
    ];
    let compile = |(layers, tiles, pair_mode): (&[u32], u32, bool)| {
        let machine = Machine {
            exchange_pair_mode: pair_mode,
            ..machine(layers.len() as u32, tiles)
        };
        let module = golden.training_module(&golden.hyper(""), 2);
        compiled(module, &machine, layers, 4).program
    };
    cases.into_iter().map(compile).collect()
}

fn sum(ledgers: impl Iterator<Item = Ledger>) -> Ledger {
    let mut all = Ledger::default();
    ledgers.for_each(|ledger| all += ledger);
    all
}

#[test]
fn every_cycle_has_exactly_one_cause() {
    for program in programs() {
        let time = timeline(&program);
        assert_eq!(time.ledger.total(), time.cycles.total());
        for (origin, account) in program.origins.iter().zip(&time.origins) {
            assert_eq!(
                account.ledger.total(),
                account.cycles.total(),
                "{}",
                origin.name
            );
        }
        // Every step of these programs serves an op, so the ops explain all of it.
        let ops: u64 = time.origins.iter().map(|o| o.critical).sum();
        assert_eq!(ops, time.cycles.total());
        // Nothing runs side by side on one IPU: there the ops' causes are those of the run too.
        if program.ipus == 1 {
            let ops = sum(time.origins.iter().map(|o| o.ledger));
            assert_eq!(ops, time.ledger);
        }
        causes_are_those_of_their_kind(&time);
    }
}

fn causes_are_those_of_their_kind(time: &Timeline) {
    let of = |causes: &[Cause]| -> u64 { causes.iter().map(|&c| time.ledger.get(c)).sum() };
    let compute = &Cause::ALL[..Cause::ExchangeData as usize];
    assert_eq!(of(compute), time.cycles.compute);
    let between_tiles = of(&[
        Cause::ExchangeData,
        Cause::ExchangeFragments,
        Cause::ExchangeStart,
        Cause::Copies,
        Cause::Links,
    ]);
    assert_eq!(between_tiles, time.cycles.exchange + time.cycles.inter_ipu);
    assert_eq!(
        of(&[Cause::Sync, Cause::Host]),
        time.cycles.sync + time.cycles.host
    );
}

/// What counts as ideal is the arithmetic of the graph's products, to the rounding of each compute set, however they are cut.
#[test]
fn ideal_cycles_are_the_arithmetic_of_the_graph() {
    for program in programs() {
        let machine = &program.machine;
        let time = timeline(&program);
        let peak = 2.0 * f64::from(machine.amp_f32_macs) * f64::from(machine.tiles_per_ipu);
        for (i, (origin, account)) in program.origins.iter().zip(&time.origins).enumerate() {
            if origin.kind != "matmul" {
                continue;
            }
            let steps = time.steps.iter().filter(|s| s.origin == Some(i as u32));
            let sets: u64 = steps
                .filter(|s| s.kind == Kind::Compute)
                .map(|s| s.times)
                .sum();
            let exact = account.flops as f64 / peak;
            let booked = account.ledger.get(Cause::Ideal) as f64;
            assert!(
                (booked - exact).abs() <= sets as f64,
                "{}: {booked} booked, {exact} of arithmetic in {sets} compute sets",
                origin.name
            );
        }
    }
}

#[test]
fn tiles_and_ipus_work_no_longer_than_the_program() {
    for program in programs() {
        let time = timeline(&program);
        let busy: u64 = time.ipus.iter().map(|ipu| ipu.busy).sum();
        assert!(busy + time.shared_cycles >= time.cycles.total());
        for ipu in &time.ipus {
            assert!(ipu.busy + time.shared_cycles <= time.cycles.total());
            assert_eq!(ipu.tiles.len(), program.machine.tiles_per_ipu as usize);
            assert!(ipu.tiles.iter().all(|&cycles| cycles <= ipu.compute));
        }
        let on_tiles: u64 = time.ipus.iter().flat_map(|ipu| &ipu.tiles).sum();
        let of_steps: u64 = time.steps.iter().map(|s| s.tile_cycles * s.times).sum();
        assert_eq!(on_tiles, of_steps);
        for step in time.steps.iter().filter(|s| s.kind == Kind::Compute) {
            assert!(
                step.tile_cycles <= step.cycles * u64::from(step.tiles),
                "{}",
                step.name
            );
            assert!(step.tile_cycles >= step.cycles, "{}", step.name);
        }
    }
}
