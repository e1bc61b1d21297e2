//! Cycles of a compute set: the busiest tile, where groups that meet on a tile add up; and what all its tiles spend their cycles on.

use smallvec::SmallVec;

use super::classes::{TileClass, TileClasses, tile_classes};
use crate::ids::{IpuId, TileId};
use crate::machine::Machine;
use crate::machine::codelet_cost::{
    BlockShape, Causes, VertexAccount, table, vertex_account, vertex_cycles,
};
use crate::program::{Codelet, ComputeSet, Program, VertexGroup};

/// Cycles of the busiest tile, and the number of tiles that work.
pub fn compute_set(program: &Program, set: &ComputeSet) -> (u64, u32) {
    let machine = &program.machine;
    let cycles_of = |group: &VertexGroup, class: &TileClass| {
        vertex_cycles(machine, &group.codelet, &class.inputs, &class.outputs)
    };
    let mut tiles = TileCycles::default();
    for group in &set.groups {
        let classes = tile_classes(program, group);
        let cycles: SmallVec<[u64; 4]> = classes
            .classes
            .iter()
            .map(|c| cycles_of(group, c))
            .collect();
        tiles.add(program, set, group, &classes, &cycles);
    }
    (tiles.busiest, tiles.working)
}

/// What the tiles of a compute set do, in tile cycles summed over all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetAccount {
    /// Cycles of the busiest tile: what the set takes.
    pub cycles: u64,
    /// Tiles that work.
    pub tiles: u32,
    /// Tiles of the IPUs that the set runs on.
    pub available: u64,
    /// Cycles of all tiles that work.
    pub busy: u64,
    /// `busy` by cause, without what `partials` and `redundant` hold.
    pub spent: Causes,
    /// Adding up partial results that the op itself does not ask for: a product whose contraction is split.
    pub partials: f64,
    /// The same result computed on another tile too.
    pub redundant: f64,
    /// Bytes that vertices read and write, each operand once.
    pub read: u64,
    pub written: u64,
}

/// What a vertex group is for.
#[derive(Clone, Copy, Debug)]
enum Serves {
    /// What the op asks for.
    Itself,
    /// A product whose contraction is split.
    Sums,
    /// A product that reads an operand the other way round.
    Turning,
}

/// Accounts for a compute set; `visit` gets the cycles of every vertex with its IPU and tile.
pub fn account(
    program: &Program,
    set: &ComputeSet,
    visit: &mut impl FnMut(IpuId, TileId, u64),
) -> SetAccount {
    let mut sum = SetAccount::default();
    let mut tiles = TileCycles::default();
    let serves_product = program
        .origins
        .get(set.origin.index())
        .is_some_and(|o| o.kind == "matmul");
    let mut ipus: SmallVec<[u32; 2]> = SmallVec::new();
    for group in &set.groups {
        let ipu = program.grid(group.grid).ipu.0;
        if !ipus.contains(&ipu) {
            ipus.push(ipu);
        }
        let serves = match group.codelet {
            Codelet::Transpose => Serves::Turning,
            Codelet::Matmul { .. } => Serves::Itself,
            _ if serves_product => Serves::Sums,
            _ => Serves::Itself,
        };
        let classes = tile_classes(program, group);
        let useful = 1.0 / copies(program, group) as f64;
        let mut cycles: SmallVec<[u64; 4]> = SmallVec::new();
        for class in &classes.classes {
            let account = vertex_account(
                &program.machine,
                &group.codelet,
                &class.inputs,
                &class.outputs,
            );
            cycles.push(account.cycles);
            sum.add(class, &account, useful, serves);
            let (read, written) = touched(&program.machine, &group.codelet, class);
            sum.read += u64::from(class.tiles) * read;
            sum.written += u64::from(class.tiles) * written;
        }
        tiles.add(program, set, group, &classes, &cycles);
        let grid = program.grid(group.grid);
        for (i, tile) in grid.tile_ids().enumerate() {
            visit(grid.ipu, tile, cycles[classes.of(i)]);
        }
    }
    sum.cycles = tiles.busiest;
    sum.tiles = tiles.working;
    sum.available = u64::from(program.machine.tiles_per_ipu) * ipus.len() as u64;
    sum
}

impl SetAccount {
    fn add(&mut self, class: &TileClass, account: &VertexAccount, useful: f64, serves: Serves) {
        let tiles = u64::from(class.tiles);
        self.busy += tiles * account.cycles;
        let all = (tiles * account.cycles) as f64;
        self.redundant += all * (1.0 - useful);
        match serves {
            Serves::Sums => self.partials += all * useful,
            Serves::Turning => self.spent.transpose += all * useful,
            Serves::Itself => self.spent += account.causes * (tiles as f64 * useful),
        }
    }
}

/// Bytes that a vertex loads and stores, each operand once; of a table, the rows that are looked up, or added to by
/// typical text.
fn touched(machine: &Machine, codelet: &Codelet, class: &TileClass) -> (u64, u64) {
    let bytes = |blocks: &[BlockShape]| blocks.iter().map(BlockShape::bytes).sum::<u64>();
    let (read, written) = (bytes(&class.inputs), bytes(&class.outputs));
    match codelet {
        Codelet::Gather { .. } => {
            let table = class.inputs.first().map_or(0, BlockShape::bytes);
            (read - table + written, written)
        }
        Codelet::ScatterAdd { first } => {
            let block = |blocks: &[BlockShape], i: usize| {
                let block = blocks.get(i);
                block.map_or((0, 0), |b| (b.shape.elements() as u64, b.bytes()))
            };
            let ((ids, id_bytes), (_, updates)) =
                (block(&class.inputs, 0), block(&class.inputs, 1));
            let table = class.outputs.first();
            let (entries, _) = table.map_or((0, 0), BlockShape::rows_and_columns);
            let hits = table::hits(machine, ids, entries, u64::from(*first));
            let added = (updates * hits).checked_div(ids).unwrap_or(0);
            (id_bytes + 2 * added, added)
        }
        Codelet::WriteRows => {
            let rows = class.inputs.get(1).map_or(0, BlockShape::bytes);
            (read, rows)
        }
        _ if codelet.reads_output() => (read + written, written),
        _ => (read, written),
    }
}

/// How many tiles compute each result of a group: the extents of the grid axes that do not cut its first output.
fn copies(program: &Program, group: &VertexGroup) -> u64 {
    let grid = program.grid(group.grid);
    group.outputs.first().map_or(1, |out| {
        let variable = program.variable(out.variable);
        let axes = variable.copy_axes(grid);
        axes.map(|a| u64::from(grid.axes[a].extent)).product()
    })
}

/// Cycles by tile.
#[derive(Default)]
struct TileCycles {
    busiest: u64,
    working: u32,
    /// By IPU and tile; only for sets of several groups.
    sums: Vec<u64>,
}

impl TileCycles {
    fn add(
        &mut self,
        program: &Program,
        set: &ComputeSet,
        group: &VertexGroup,
        classes: &TileClasses,
        cycles: &[u64],
    ) {
        if set.groups.len() == 1 {
            let of_classes = classes.classes.iter().zip(cycles);
            let working = of_classes.filter(|(_, cycles)| **cycles > 0);
            self.working = working.map(|(class, _)| class.tiles).sum();
            self.busiest = cycles.iter().copied().max().unwrap_or(0);
            return;
        }
        let tiles = program.machine.tiles_per_ipu as usize;
        self.sums.resize(tiles * program.ipus as usize, 0);
        let grid = program.grid(group.grid);
        for (i, tile) in grid.tile_ids().enumerate() {
            let more = cycles[classes.of(i)];
            let sum = &mut self.sums[grid.ipu.index() * tiles + tile.index()];
            if *sum == 0 && more > 0 {
                self.working += 1;
            }
            *sum += more;
            self.busiest = self.busiest.max(*sum);
        }
    }
}
