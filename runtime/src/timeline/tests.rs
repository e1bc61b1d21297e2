//! Small programs whose cycles can be worked out by hand.

use smallvec::smallvec;
use superstep_ir::graph::Phase;
use superstep_ir::ids::{GridId, IpuId, OriginId, ProcId, VarId};
use superstep_ir::machine::Machine;
use superstep_ir::op::{BinaryOp, MapExpr};
use superstep_ir::program::cost::moves::DistinctMoves;
use superstep_ir::program::*;
use superstep_ir::types::{Real, Shape, TensorType};

use super::*;

/// A program of one procedure `main`, to which tests add.
fn program(ipus: u32) -> Program {
    Program {
        name: "p".into(),
        machine: Machine {
            exchange_pair_mode: false,
            ..Machine::preset("pod4").unwrap()
        },
        ipus,
        replicas: 1,
        grids: vec![],
        variables_from: vec![0; ipus as usize],
        variables: vec![],
        states: vec![],
        streams: vec![],
        procedures: vec![Procedure {
            name: "main".into(),
            steps: vec![],
        }],
        entry: ProcId(0),
        parts: vec![],
        rounding: Rounding::Nearest,
        origins: vec![],
    }
}

fn grid(program: &mut Program, ipu: u32, base: u32, axes: &[(&str, usize)]) -> GridId {
    let grid = Grid::dense("g", IpuId(ipu), base, 1472, axes);
    program.grids.push(grid);
    GridId(program.grids.len() as u32 - 1)
}

fn variable(program: &mut Program, grid: GridId, shape: &[usize], cuts: &[Cut]) -> VarId {
    let id = program.variables.len() as u32;
    program.variables.push(Variable {
        name: format!("v{id}"),
        ty: TensorType::f32(Shape::new(shape)),
        grid,
        cuts: cuts.iter().cloned().collect(),
        address: 16 * 1024 * id,
        category: Category::Activation,
        live: None,
    });
    VarId(id)
}

fn origin(program: &mut Program, name: &str, flops: u64) -> OriginId {
    program.origins.push(Origin {
        name: name.into(),
        kind: "op".into(),
        ipu: IpuId(0),
        phase: Phase::Forward,
        flops,
    });
    OriginId(program.origins.len() as u32 - 1)
}

fn group(codelet: Codelet, grid: GridId, inputs: &[VarId], output: VarId) -> VertexGroup {
    VertexGroup {
        codelet,
        grid,
        inputs: inputs.iter().map(|&v| Operand::whole(v)).collect(),
        outputs: smallvec![Operand::whole(output)],
    }
}

fn compute(origin: OriginId, groups: &[VertexGroup]) -> Step {
    Step::Compute(ComputeSet {
        name: "compute".into(),
        origin,
        groups: groups.iter().cloned().collect(),
    })
}

fn exchange(origin: OriginId, moves: &[(VarId, VarId)]) -> Step {
    let mv = |&(source, destination): &(VarId, VarId)| Move {
        source,
        views: vec![],
        destination,
        at: smallvec![0, 0],
    };
    Step::Exchange(Exchange {
        name: "exchange".into(),
        origin,
        moves: moves.iter().map(mv).collect(),
    })
}

fn steps(program: &mut Program) -> &mut Vec<Step> {
    &mut program.procedures[0].steps
}

/// `[24, 8]` by rows on tiles 0 and 1, and whole on each of the tiles 8 to 11.
fn rows_and_copies(pair_mode: bool) -> (Program, VarId, VarId) {
    let mut p = program(1);
    p.machine.exchange_pair_mode = pair_mode;
    let rows = grid(&mut p, 0, 0, &[("i", 2)]);
    let all = grid(&mut p, 0, 8, &[("i", 4)]);
    let source = variable(&mut p, rows, &[24, 8], &[Cut::by(&[0], 1), Cut::none()]);
    let everywhere = variable(&mut p, all, &[24, 8], &[Cut::none(), Cut::none()]);
    (p, source, everywhere)
}

#[test]
fn a_compute_set_lasts_as_long_as_its_busiest_tile() {
    let mut p = program(1);
    let o = origin(&mut p, "add", 1000);
    let wide = grid(&mut p, 0, 0, &[("i", 4)]);
    let narrow = grid(&mut p, 0, 3, &[("i", 2)]);
    // 10 rows on 4 tiles: at most 3 rows of 8 on a tile; 24 elements, 4 a worker: 6·(29 + 2·3) + 11.
    let x = variable(&mut p, wide, &[10, 8], &[Cut::by(&[0], 1), Cut::none()]);
    let add = group(
        Codelet::Map(MapExpr::binary(BinaryOp::Add)),
        wide,
        &[x, x],
        x,
    );
    // 12 elements on each of two tiles, 2 a worker: 6·(1 + 5). Tile 3 has both.
    let y = variable(&mut p, narrow, &[24], &[Cut::by(&[0], 1)]);
    let fill = group(Codelet::Fill { value: Real(0.0) }, narrow, &[], y);
    steps(&mut p).extend([
        compute(o, std::slice::from_ref(&add)),
        compute(o, &[add, fill]),
    ]);
    let t = timeline(&p);
    let cycles: Vec<(u64, u32)> = t.steps.iter().map(|s| (s.cycles, s.tiles)).collect();
    assert_eq!(cycles, [(221, 4), (221 + 36, 5)]);
    assert_eq!(t.cycles, KindCycles::of(Kind::Compute, 478));
    assert_eq!(t.steps[1].start, 221);
    assert_eq!(t.origins[0].tiles, 5);
    assert_eq!(t.origins[0].flops, 1000);
    assert_eq!(t.seconds(), 478.0 / 1.325e9);
}

#[test]
fn an_entry_of_a_variable_counts_without_its_leading_dimension() {
    let mut p = program(1);
    let o = origin(&mut p, "fill", 0);
    let g = grid(&mut p, 0, 0, &[("i", 2)]);
    let x = variable(&mut p, g, &[5, 24], &[Cut::none(), Cut::by(&[0], 1)]);
    let mut fill = group(Codelet::Fill { value: Real(0.0) }, g, &[], x);
    fill.outputs[0].entry = Some(3);
    steps(&mut p).push(compute(o, &[fill]));
    // 12 elements, 2 a worker: one vector each.
    assert_eq!(timeline(&p).cycles.compute, 36);
}

#[test]
fn a_multicast_is_sent_once_and_received_by_all() {
    let (mut p, source, everywhere) = rows_and_copies(false);
    let o = origin(&mut p, "spread", 0);
    steps(&mut p).extend([
        Step::Sync(Sync::Ipu(IpuId(0))),
        exchange(o, &[(source, everywhere)]),
    ]);
    let t = timeline(&p);
    // Two tiles send 12·8·4 = 384 bytes each; four tiles receive 768 in two pieces: 192 + 2 cycles, and 60 to start.
    assert_eq!(t.cycles.exchange, 254);
    assert_eq!(t.cycles.sync, 126);
    assert_eq!(t.steps[1].bytes, 4 * 768);
    assert_eq!(t.steps[1].ipu, Some(0));
    // The sync belongs to the op that it is for.
    assert_eq!(t.origins[0].cycles.total(), 380);
    assert_eq!(t.origins[0].bytes_exchanged, 4 * 768);
    assert_eq!(t.steps[0].origin, Some(0));
}

#[test]
fn pairs_that_receive_the_same_are_twice_as_fast() {
    let (mut p, source, everywhere) = rows_and_copies(true);
    let o = origin(&mut p, "spread", 0);
    steps(&mut p).push(exchange(o, &[(source, everywhere)]));
    // Tiles 8 to 11 are two pairs: 768 bytes at 8 a cycle. Tiles 0 and 1 share their lanes: 768 at 8 a cycle.
    assert_eq!(timeline(&p).cycles.exchange, 60 + 96 + 2);
}

#[test]
fn moves_of_one_exchange_add_up_on_their_tiles() {
    let (mut p, source, everywhere) = rows_and_copies(false);
    let o = origin(&mut p, "spread", 0);
    // The same by columns onto tiles 9 and 10: 24 rows of 4 columns each, 384 bytes.
    let few = grid(&mut p, 0, 9, &[("i", 2)]);
    let columns = variable(&mut p, few, &[24, 8], &[Cut::none(), Cut::by(&[0], 1)]);
    steps(&mut p).push(exchange(o, &[(source, everywhere), (source, columns)]));
    // Tile 9 receives 768 + 384 in four pieces; tiles 0 and 1 send 384 + 384.
    assert_eq!(timeline(&p).cycles.exchange, 60 + (768 + 384) / 4 + 4);
}

#[test]
fn copies_inside_a_tile_are_no_traffic() {
    let mut p = program(1);
    let o = origin(&mut p, "copy", 0);
    let g = grid(&mut p, 0, 4, &[("i", 2)]);
    let rows = [Cut::by(&[0], 1), Cut::none()];
    let from = variable(&mut p, g, &[24, 8], &rows);
    let to = variable(&mut p, g, &[24, 8], &rows);
    steps(&mut p).push(exchange(o, &[(from, to)]));
    let t = timeline(&p);
    // 384 bytes on each tile at 8 a cycle, in one piece: 288 + 48 + 3.
    assert_eq!(t.cycles, KindCycles::of(Kind::Exchange, 339));
    assert_eq!(t.origins[0].bytes_exchanged, 0);
}

#[test]
fn links_are_slower_than_tiles() {
    let mut p = program(4);
    let o = origin(&mut p, "pass on", 0);
    let (here, there) = (
        grid(&mut p, 1, 0, &[("i", 24)]),
        grid(&mut p, 3, 0, &[("i", 24)]),
    );
    let rows = [Cut::by(&[0], 1), Cut::none()];
    let from = variable(&mut p, here, &[24, 1000], &rows);
    let to = variable(&mut p, there, &[24, 1000], &rows);
    steps(&mut p).extend([Step::Sync(Sync::Replica), exchange(o, &[(from, to)])]);
    let t = timeline(&p);
    // 96,000 bytes along two links of 14.6 GB/s: 4,356.2 cycles; each tile needs only 1,000.
    assert_eq!(t.cycles.inter_ipu, 60 + 4_357);
    assert_eq!(t.cycles.sync, 600);
    assert_eq!(t.cycles.exchange, 0);
    assert_eq!(t.steps[1].ipu, None);
    assert_eq!(t.origins[0].bytes_exchanged, 96_000);
}

#[test]
fn repeats_and_calls_multiply() {
    let mut p = program(1);
    let o = origin(&mut p, "fill", 7);
    let g = grid(&mut p, 0, 0, &[("i", 2)]);
    let x = variable(&mut p, g, &[24], &[Cut::by(&[0], 1)]);
    p.streams.push(Stream {
        name: "x".into(),
        direction: Direction::HostToDevice,
        variable: x,
    });
    let fill = compute(o, &[group(Codelet::Fill { value: Real(0.0) }, g, &[], x)]);
    let feed = Step::Host {
        stream: 0,
        origin: o,
    };
    p.procedures[0].steps = vec![
        Step::Repeat {
            count: 4,
            body: ProcId(1),
        },
        Step::Call(ProcId(2)),
    ];
    for (name, steps) in [
        ("micro_batch", vec![feed, Step::Call(ProcId(3))]),
        ("update", vec![Step::Call(ProcId(3)), Step::Call(ProcId(3))]),
        ("shared", vec![fill]),
    ] {
        let name = name.into();
        p.procedures.push(Procedure { name, steps });
    }
    let t = timeline(&p);
    // 96 bytes at 5 GB/s take 26 cycles; the busiest tile's 48 bytes 60 + 12.
    let feed = 600 + 72;
    assert_eq!(t.procedure_cycles("micro_batch"), Some(feed + 36));
    assert_eq!(t.procedure_cycles("update"), Some(72));
    assert_eq!(t.procedure_cycles("nothing"), None);
    assert_eq!(t.cycles.total(), 4 * (feed + 36) + 72);
    assert_eq!(t.procedures[3].times, 4 + 2);
    assert_eq!((t.origins[0].times, t.origins[0].flops), (6, 42));
    assert_eq!(t.origins[0].cycles.total(), t.cycles.total());
    let starts: Vec<(u32, u64, u64)> = t
        .steps
        .iter()
        .map(|s| (s.index, s.start, s.times))
        .collect();
    assert_eq!(starts, [(1, 0, 4), (3, feed, 6)]);
}

#[test]
fn step_numbers_are_those_of_the_walk() {
    let (mut p, source, everywhere) = rows_and_copies(false);
    let o = origin(&mut p, "spread", 0);
    steps(&mut p).extend([
        Step::Sync(Sync::Replica),
        Step::Call(ProcId(1)),
        exchange(o, &[(source, everywhere)]),
    ]);
    p.procedures.push(Procedure {
        name: "inner".into(),
        steps: vec![Step::Sync(Sync::Ipu(IpuId(0)))],
    });
    let mut walked = Vec::new();
    let mut index = 0;
    p.walk(&mut |step, times| {
        if !matches!(step, Step::Call(_) | Step::Repeat { .. }) {
            walked.push((index, times));
        }
        index += 1;
    });
    let t = timeline(&p);
    let counted: Vec<(u32, u64)> = t.steps.iter().map(|s| (s.index, s.times)).collect();
    assert_eq!(counted, walked);
}

#[test]
fn equal_moves_on_other_ipus_share_one_expansion_but_not_their_place() {
    let mut p = program(2);
    let o = origin(&mut p, "spread", 0);
    let mut ends = Vec::new();
    for ipu in [0, 1] {
        let rows = grid(&mut p, ipu, 0, &[("i", 2)]);
        let all = grid(&mut p, ipu, 8, &[("i", 4)]);
        let source = variable(&mut p, rows, &[24, 8], &[Cut::by(&[0], 1), Cut::none()]);
        let everywhere = variable(&mut p, all, &[24, 8], &[Cut::none(), Cut::none()]);
        ends.push((source, everywhere));
    }
    assert_eq!(DistinctMoves::of(&p).len(), 0);
    steps(&mut p).extend([exchange(o, &ends[..1]), exchange(o, &ends[1..])]);
    assert_eq!(DistinctMoves::of(&p).len(), 1);
    let t = timeline(&p);
    let places: Vec<(Option<u32>, u64)> = t.steps.iter().map(|s| (s.ipu, s.cycles)).collect();
    assert_eq!(places, [(Some(0), 254), (Some(1), 254)]);
    // Both at once: side by side, not one on top of the other.
    p.procedures[0].steps = vec![exchange(o, &ends)];
    assert_eq!(timeline(&p).cycles.exchange, 254);
}

#[test]
fn a_timeline_survives_serialisation() {
    let (mut p, source, everywhere) = rows_and_copies(false);
    let o = origin(&mut p, "spread", 0);
    steps(&mut p).push(exchange(o, &[(source, everywhere)]));
    let t = timeline(&p);
    let text = serde_json::to_string(&t).unwrap();
    assert_eq!(serde_json::from_str::<Timeline>(&text).unwrap(), t);
    assert_eq!(timeline(&p), t);
}

#[test]
fn the_ledger_says_what_tiles_do() {
    let mut p = program(1);
    p.machine.tiles_per_ipu = 8;
    let o = origin(&mut p, "fill", 0);
    let g = grid(&mut p, 0, 0, &[("i", 4)]);
    let x = variable(&mut p, g, &[48], &[Cut::by(&[0], 1)]);
    let fill = group(Codelet::Fill { value: Real(0.0) }, g, &[], x);
    steps(&mut p).extend([Step::Sync(Sync::Ipu(IpuId(0))), compute(o, &[fill])]);
    let t = timeline(&p);
    // 12 elements a tile, a vector a worker: 6·5 cycles around loops of 6·1. Four tiles of eight have nothing to do.
    let expected = [
        (Cause::Overhead, 15),
        (Cause::Instructions, 3),
        (Cause::IdleTiles, 18),
        (Cause::Sync, 126),
    ];
    for (cause, cycles) in expected {
        assert_eq!(t.ledger.get(cause), cycles, "{}", cause.name());
    }
    assert_eq!(t.ledger.total(), 36 + 126);
    assert_eq!(t.origins[0].ledger, t.ledger);
    assert_eq!((t.ipus[0].busy, t.ipus[0].compute), (162, 36));
    assert_eq!(t.ipus[0].tiles, [36, 36, 36, 36, 0, 0, 0, 0]);
    assert_eq!((t.steps[1].tile_cycles, t.steps[1].tiles), (144, 4));
    assert_eq!(
        (t.origins[0].bytes_read, t.origins[0].bytes_written),
        (0, 192)
    );
}

#[test]
fn uneven_blocks_make_tiles_wait_and_copies_are_redundant() {
    let mut p = program(1);
    p.machine.tiles_per_ipu = 2;
    let o = origin(&mut p, "fill", 0);
    let g = grid(&mut p, 0, 0, &[("i", 2)]);
    // 36 and 24 elements in grains of 12: 6·(5 + 3) and 6·(5 + 2) cycles.
    let x = variable(&mut p, g, &[60], &[Cut::by(&[0], 12)]);
    let uneven = group(Codelet::Fill { value: Real(0.0) }, g, &[], x);
    steps(&mut p).push(compute(o, &[uneven]));
    let t = timeline(&p);
    assert_eq!(t.cycles.compute, 48);
    assert_eq!(t.ledger.get(Cause::TileImbalance), 3);
    assert_eq!(t.ledger.get(Cause::IdleTiles), 0);
    // The same on both tiles: half of it for nothing.
    let y = variable(&mut p, g, &[24], &[Cut::none()]);
    let twice = group(Codelet::Fill { value: Real(0.0) }, g, &[], y);
    p.procedures[0].steps = vec![compute(o, &[twice])];
    let t = timeline(&p);
    assert_eq!((t.cycles.compute, t.ledger.get(Cause::Redundant)), (42, 21));
}

#[test]
fn procedures_side_by_side_keep_their_own_accounts() {
    let mut p = program(2);
    let o = origin(&mut p, "o", 0);
    let mut bodies = vec![];
    for (ipu, fills) in [(0, 1), (1, 3)] {
        let g = grid(&mut p, ipu, 0, &[("t", 2)]);
        let x = variable(&mut p, g, &[12], &[Cut::by(&[0], 1)]);
        let fill = || compute(o, &[group(Codelet::Fill { value: Real(0.0) }, g, &[], x)]);
        let steps = (0..fills).map(|_| fill()).collect();
        let name = format!("on_{ipu}");
        p.procedures.push(Procedure { name, steps });
        bodies.push(ProcId(p.procedures.len() as u32 - 1));
    }
    p.procedures.push(Procedure {
        name: "cycle".into(),
        steps: vec![Step::Parallel(bodies), Step::Sync(Sync::Replica)],
    });
    let body = ProcId(p.procedures.len() as u32 - 1);
    *steps(&mut p) = vec![Step::Repeat { count: 5, body }];
    let t = timeline(&p);
    let cycle = t.procedure("cycle").unwrap();
    let fill = cycle.ipus[0].total();
    assert!(fill > 0);
    assert_eq!(cycle.ipus[1].total(), 3 * fill);
    assert_eq!(cycle.shared_cycles, p.machine.global_sync_cycles);
    assert_eq!(
        cycle.cycles.total(),
        3 * fill + p.machine.global_sync_cycles
    );
    assert_eq!(cycle.ledger.total(), cycle.cycles.total());
    let entry = t.procedure("main").unwrap();
    assert_eq!(entry.ipus[0].total(), 5 * fill);
    assert_eq!(entry.cycles, t.cycles);
}
