//! What the fast schedule makes of a program: shared storage, supersteps, what lies in the arena.

use super::*;
use crate::superstep::Action;
use crate::tile_memory::Store;

/// Numbers of the variables whose copies share storage.
fn shared(program: &Program) -> Vec<u32> {
    let layouts = crate::layout::Layouts::of(program).expect("sound");
    let uses = crate::load::uses::Uses::of(program);
    let shared = crate::load::sharing::shared(program, &layouts, &uses);
    let numbers = (0..shared.len() as u32).zip(shared);
    numbers.filter(|s| s.1).map(|s| s.0).collect()
}

#[test]
fn received_copies_share_storage_unless_something_is_written_there() {
    assert_eq!(shared(&program()), [X_HERE, W_HERE, Y_TURNED]);
    // A vertex writes it.
    let mut written = program();
    let gelu = Codelet::Map(MapExpr::unary(UnaryOp::GeluTanh));
    let in_place = group(gelu, 1, &[W_HERE], &[W_HERE]);
    written.procedures[1].steps.insert(3, in_place);
    assert_eq!(shared(&written), [X_HERE, Y_TURNED]);
    // A result lies on it, in place as it were: another tile may not have read it yet.
    let mut covered = program();
    covered.variables[Y as usize].address = 1024;
    assert_eq!(shared(&covered), [W_HERE, Y_TURNED]);
    // What comes later may.
    let mut reused = program();
    reused.variables[X_HERE as usize].live = Some((3, 3));
    reused.variables[Y as usize].address = 1024;
    assert_eq!(shared(&reused), [X_HERE, W_HERE, Y_TURNED]);
    // Of a state every copy is there.
    let mut kept = program();
    kept.states.push(State {
        name: "kept".into(),
        kind: StateKind::Accumulator,
        variable: VarId(Y_TURNED),
        sharded: false,
        remote: false,
    });
    assert_eq!(shared(&kept), [X_HERE, W_HERE]);
}

/// Steps of the procedure `micro`: for each loaded step, and each superstep of a phase, how many of the program it stands for.
fn cuts(program: Program, options: &EngineOptions) -> Vec<u64> {
    let engine = Engine::load(Arc::new(program), options).expect("sound");
    let steps = engine.loaded.procedures[1].iter();
    let count = |(_, step): &(u32, LoadedStep)| match step {
        LoadedStep::Phase(phase) => phase.supersteps.iter().map(|s| s.steps).collect(),
        _ => vec![1],
    };
    steps.flat_map(count).collect()
}

/// The operands of the only phase of `micro`: variable, and where its bytes are.
fn stores(program: Program) -> BTreeMap<u32, Store> {
    let engine = Engine::load(Arc::new(program), &PLAIN).expect("sound");
    let phases = engine.loaded.procedures[1].iter();
    let phases = phases.filter_map(|(_, step)| match step {
        LoadedStep::Phase(phase) => Some(phase),
        _ => None,
    });
    let actions = phases.flat_map(|phase| phase.supersteps.iter().flat_map(|s| &s.actions));
    let groups = actions.filter_map(|action| match action {
        Action::Compute(group) => Some(group),
        _ => None,
    });
    let operands = groups.flat_map(|group| group.inputs.iter().chain(&group.outputs));
    operands.map(|o| (o.variable.0, o.place.store)).collect()
}

#[test]
fn what_nobody_needs_after_a_phase_is_in_the_arena() {
    let found = stores(program());
    assert_eq!(found[&X_HERE], Store::Arena);
    assert_eq!(found[&W_HERE], Store::Arena);
    // The procedure that is called reads it.
    assert_eq!(found[&Y], Store::Tile);
    // Bytes that two variables share show what each of them does.
    let mut clobbered = program();
    clobbered.variables[X_HERE as usize].address = clobbered.variables[W_HERE as usize].address;
    let found = stores(clobbered);
    assert_eq!((found[&X_HERE], found[&W_HERE]), (Store::Tile, Store::Tile));
}

#[test]
fn supersteps_are_cut_where_tiles_must_wait_for_each_other() {
    let strict = EngineOptions {
        schedule: Schedule::Poisoned,
        ..PLAIN
    };
    assert_eq!(cuts(program(), &strict), [1; 7]);
    // Feed · sync, exchange · product of what tiles share, gelu · call · take.
    assert_eq!(cuts(program(), &PLAIN), [1, 2, 2, 1, 1]);
    // `turn` sends what gelu has written.
    let mut inline = program();
    let called = inline.procedures[2].steps.clone();
    inline.procedures[1].steps.splice(5..6, called);
    assert_eq!(cuts(inline.clone(), &PLAIN), [1, 2, 2, 1, 1, 1]);
    assert_eq!(
        results(inline, &PLAIN).expect("sound"),
        results(program(), &PLAIN).expect("sound")
    );
    // The product overwrites what other tiles are still sent.
    let mut reused = program();
    reused.grids[1].base = 10;
    reused.variables[Y as usize].address = 256;
    reused.variables[W_HERE as usize].address = 2048;
    assert_eq!(cuts(reused, &PLAIN), [1, 2, 2, 1, 1]);
}
