//! What a program takes of each tile besides its variables: code, vertex state, exchange programs, stacks, by the categories of a Poplar
//! memory report.
//!
//! Everything follows from the program and does not depend on addresses. Counted is what lies there: a step that runs many times, in a repeat
//! or a procedure, once; a codelet once a tile and combination of element types. **Repeated layers are assumed to be outlined**: exchanges of
//! the same form on the same tiles share their code, and vertices of the same form on the same tiles their state; each further use pays a few
//! instructions that set base addresses. A strided region is received, or sent, by a loop around one fragment. Both make the account
//! smaller than it would be if every step of the program had its own code.

use fixedbitset::FixedBitSet;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::cost::moves::DistinctMoves;
use super::cost::traffic::Flow;
use super::{Codelet, ComputeSet, Exchange, Program, Step, Sync, Variable, VertexGroup};
use crate::ids::{GridId, IpuId, TileId, VarId};
use crate::machine::code_size::{
    BASE_ADDRESS, CALL, CALL_EXCHANGE, COPY_DESCRIPTOR, PACKET_BYTES, PACKET_CODE, PACKET_HEADER,
    RECEIVED_REGION, REGION_LOOP, SENT_REGION, START_VERTICES, SUPERVISOR_STACK, SYNC, UNLOADABLE,
    WORKER_STACK, vertex_code, vertex_state,
};
use crate::machine::codelet_cost::BlockShape;
use crate::types::DType;
use crate::units::{Bytes, align_up};

/// What else than variables lies on a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeKind {
    /// Codelets.
    VertexCode,
    /// Operand pointers, sizes and worklists of vertices.
    VertexState,
    /// What a tile sends and receives when in an exchange on its IPU.
    ExchangeCode,
    /// The same over links, with packet headers.
    GlobalExchangeCode,
    /// The same with the host.
    HostExchangeCode,
    /// Descriptors of copies inside the tile.
    CopyDescriptors,
    /// The supervisor's program: starts vertices, calls exchanges, waits.
    ControlCode,
    /// Of supervisor and workers.
    Stack,
    /// The end of the tile, which the loader cannot fill.
    Unloadable,
}

impl CodeKind {
    pub const ALL: [CodeKind; 9] = [
        CodeKind::VertexCode,
        CodeKind::VertexState,
        CodeKind::ExchangeCode,
        CodeKind::GlobalExchangeCode,
        CodeKind::HostExchangeCode,
        CodeKind::CopyDescriptors,
        CodeKind::ControlCode,
        CodeKind::Stack,
        CodeKind::Unloadable,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            CodeKind::VertexCode => "vertex_code",
            CodeKind::VertexState => "vertex_state",
            CodeKind::ExchangeCode => "exchange_code",
            CodeKind::GlobalExchangeCode => "global_exchange_code",
            CodeKind::HostExchangeCode => "host_exchange_code",
            CodeKind::CopyDescriptors => "copy_descriptors",
            CodeKind::ControlCode => "control_code",
            CodeKind::Stack => "stack",
            CodeKind::Unloadable => "unloadable",
        }
    }
}

/// Bytes on one tile by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileFootprint {
    bytes: [u32; CodeKind::ALL.len()],
}

impl TileFootprint {
    pub const fn get(&self, kind: CodeKind) -> Bytes {
        self.bytes[kind as usize] as Bytes
    }

    /// Kinds with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (CodeKind, Bytes)> + '_ {
        CodeKind::ALL.into_iter().map(|kind| (kind, self.get(kind)))
    }

    /// Bytes of all kinds, in whole units of variables' alignment.
    pub fn total(&self) -> Bytes {
        let sum: Bytes = self.bytes.iter().map(|&b| Bytes::from(b)).sum();
        align_up(sum as usize, Variable::ALIGNMENT as usize) as Bytes
    }

    fn add(&mut self, kind: CodeKind, bytes: u32) {
        let sum = &mut self.bytes[kind as usize];
        *sum = sum.saturating_add(bytes);
    }
}

/// The account of all tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    tiles_per_ipu: usize,
    tiles: Vec<TileFootprint>,
}

impl Footprint {
    /// Accounts for a program; `moves` are those of the same program.
    pub fn of<'p>(program: &'p Program, moves: &DistinctMoves<'p>) -> Footprint {
        let mut account = Account::new(program);
        program.walk(&mut |step, _| account.step(step, moves));
        account.finish()
    }

    /// Expands the program's moves and accounts for it.
    pub fn of_program(program: &Program) -> Footprint {
        Footprint::of(program, &DistinctMoves::of(program))
    }

    pub fn tile(&self, ipu: IpuId, tile: TileId) -> &TileFootprint {
        &self.of_ipu(ipu)[tile.index()]
    }

    /// The tile of an IPU with most.
    pub fn fullest(&self, ipu: IpuId) -> &TileFootprint {
        let tiles = self.of_ipu(ipu).iter();
        tiles
            .max_by_key(|tile| tile.total())
            .expect("an IPU has tiles")
    }

    /// All tiles of an IPU.
    pub fn of_ipu(&self, ipu: IpuId) -> &[TileFootprint] {
        &self.tiles[ipu.index() * self.tiles_per_ipu..][..self.tiles_per_ipu]
    }
}

/// A codelet for some element types: what there is one code of.
type Variant = (Codelet, SmallVec<[DType; 6]>);
/// An exchange by its moves: number, and from which IPU to which.
type ExchangeForm = SmallVec<[(u32, IpuId, IpuId); 4]>;
/// A vertex group by its codelet, tiles, and the layout of each operand (whole, or one entry of it).
type VertexForm = (Codelet, GridId, SmallVec<[(u32, bool); 6]>);

struct Account<'p> {
    program: &'p Program,
    footprint: Footprint,
    /// Tiles by variant, of all IPUs.
    variants: FxHashMap<Variant, FixedBitSet>,
    /// Variants and grids that are in `variants`.
    placed: FxHashSet<(Variant, GridId)>,
    /// Bytes of vertex state, and of control code to start vertices, on every tile of a grid.
    by_grid: Vec<[u32; 2]>,
    exchanges: FxHashSet<ExchangeForm>,
    vertices: FxHashSet<VertexForm>,
    /// Control code on every tile of an IPU.
    by_ipu: Vec<u32>,
}

impl<'p> Account<'p> {
    fn new(program: &'p Program) -> Account<'p> {
        let machine = &program.machine;
        let mut everywhere = TileFootprint::default();
        everywhere.add(
            CodeKind::Stack,
            SUPERVISOR_STACK + machine.workers * WORKER_STACK,
        );
        everywhere.add(CodeKind::Unloadable, UNLOADABLE);
        let tiles_per_ipu = machine.tiles_per_ipu as usize;
        Account {
            program,
            footprint: Footprint {
                tiles_per_ipu,
                tiles: vec![everywhere; tiles_per_ipu * program.ipus as usize],
            },
            variants: FxHashMap::default(),
            placed: FxHashSet::default(),
            by_grid: vec![[0; 2]; program.grids.len()],
            exchanges: FxHashSet::default(),
            vertices: FxHashSet::default(),
            by_ipu: vec![0; program.ipus as usize],
        }
    }

    fn step(&mut self, step: &'p Step, moves: &DistinctMoves<'p>) {
        match step {
            Step::Compute(set) => self.compute(set, moves),
            Step::Exchange(exchange) => self.exchange(exchange, moves),
            Step::Host { stream, .. } => {
                let variable = self.program.streams[*stream as usize].variable;
                self.packets(variable, CodeKind::HostExchangeCode);
            }
            Step::Remote { state, .. } => {
                let variable = self.program.states[*state as usize].variable;
                self.packets(variable, CodeKind::GlobalExchangeCode);
            }
            Step::Sync(Sync::Ipu(ipu)) => self.control(Some(*ipu), SYNC),
            Step::Sync(Sync::Replica) => self.control(None, SYNC),
            Step::SetSeed { seed, .. } => {
                let ipu = self.program.grid_of(*seed).ipu;
                self.control(Some(ipu), START_VERTICES);
            }
            Step::Collective(c) => {
                let ipu = self.program.grid_of(c.source).ipu;
                self.control(Some(ipu), SYNC);
            }
            Step::Repeat { .. } | Step::Call(_) | Step::Parallel(_) => self.control(None, CALL),
        }
    }

    /// Control code on all tiles of one IPU or of all.
    fn control(&mut self, ipu: Option<IpuId>, bytes: u32) {
        let only = ipu.map(IpuId::index);
        for (i, sum) in self.by_ipu.iter_mut().enumerate() {
            if only.is_none_or(|only| only == i) {
                *sum = sum.saturating_add(bytes);
            }
        }
    }

    fn tile(&mut self, ipu: IpuId, tile: u32) -> &mut TileFootprint {
        let first = ipu.index() * self.footprint.tiles_per_ipu;
        &mut self.footprint.tiles[first + tile as usize]
    }

    fn compute(&mut self, set: &ComputeSet, moves: &DistinctMoves<'p>) {
        for group in &set.groups {
            let [inputs, outputs] =
                [&group.inputs[..], &group.outputs[..]].map(|operands| -> SmallVec<[_; 4]> {
                    operands.iter().map(|o| self.largest_block(o)).collect()
                });
            let code = one_code(&group.codelet);
            let operands = group.inputs.iter().chain(&group.outputs);
            let layouts = operands.map(|o| (moves.layout(o.variable), o.entry.is_some()));
            let is_new = self
                .vertices
                .insert((code.clone(), group.grid, layouts.collect()));
            let dtypes = inputs.iter().chain(&outputs).map(|b| b.dtype).collect();
            let [state, control] = &mut self.by_grid[group.grid.index()];
            if is_new {
                *state = state.saturating_add(vertex_state(&group.codelet, &inputs, &outputs));
                *control = control.saturating_add(START_VERTICES);
            } else {
                let bases = BASE_ADDRESS * (inputs.len() + outputs.len()) as u32;
                *control = control.saturating_add(START_VERTICES + bases);
            }
            self.code(group, (code, dtypes));
        }
    }

    fn largest_block(&self, operand: &super::Operand) -> BlockShape {
        let variable = self.program.variable(operand.variable);
        let mut shape = variable.largest_block(self.program.grid(variable.grid));
        if operand.entry.is_some() && shape.rank() > 0 {
            shape.0.remove(0);
        }
        BlockShape {
            dtype: variable.ty.dtype,
            shape,
        }
    }

    fn code(&mut self, group: &VertexGroup, variant: Variant) {
        let key = (variant, group.grid);
        if self.placed.contains(&key) {
            return;
        }
        let grid = self.program.grid(group.grid);
        let first = grid.ipu.index() * self.footprint.tiles_per_ipu;
        let all = self.footprint.tiles.len();
        let tiles = self.variants.entry(key.0.clone());
        let tiles = tiles.or_insert_with(|| FixedBitSet::with_capacity(all));
        tiles.extend(grid.tile_ids().map(|tile| first + tile.index()));
        self.placed.insert(key);
    }

    fn exchange(&mut self, exchange: &'p Exchange, moves: &DistinctMoves<'p>) {
        let ipu = |v| self.program.grid_of(v).ipu;
        let form: ExchangeForm = exchange
            .moves
            .iter()
            .filter_map(|mv| Some((moves.number(mv)?, ipu(mv.source), ipu(mv.destination))))
            .collect();
        let mut ipus: SmallVec<[IpuId; 4]> = SmallVec::new();
        for &(number, from, to) in &form {
            for ipu in [from, to] {
                if !ipus.contains(&ipu) {
                    ipus.push(ipu);
                }
            }
            if !self.exchanges.contains(&form) {
                self.move_code(number, from, to, moves);
            }
        }
        let calls = if self.exchanges.contains(&form) {
            CALL_EXCHANGE + BASE_ADDRESS * form.len() as u32
        } else {
            CALL_EXCHANGE
        };
        ipus.into_iter()
            .for_each(|ipu| self.control(Some(ipu), calls));
        self.exchanges.insert(form);
    }

    /// The code of one move on all tiles that have to do with it.
    fn move_code(&mut self, number: u32, from: IpuId, to: IpuId, moves: &DistinctMoves<'p>) {
        let traffic = moves.traffic(number);
        let (kind, header) = if from == to {
            (CodeKind::ExchangeCode, 0)
        } else {
            (CodeKind::GlobalExchangeCode, PACKET_HEADER)
        };
        let packets = |flow: &Flow| saturate(flow.bytes.div_ceil(PACKET_BYTES));
        for (tile, flow) in traffic.sent() {
            let bytes = regions(flow, SENT_REGION).saturating_add(packets(flow) * header);
            self.tile(from, *tile).add(kind, bytes);
        }
        for (tile, flow) in traffic.received() {
            self.tile(to, *tile)
                .add(kind, regions(flow, RECEIVED_REGION));
        }
        for (tile, flow) in traffic.copied() {
            let bytes = regions(flow, COPY_DESCRIPTOR);
            self.tile(to, *tile).add(CodeKind::CopyDescriptors, bytes);
        }
    }

    /// Packets between the host, or streaming memory, and every tile that holds a part of the variable.
    fn packets(&mut self, variable: VarId, kind: CodeKind) {
        let variable = self.program.variable(variable);
        let grid = self.program.grid(variable.grid);
        let packets = (variable.tile_bytes(grid) as u64).div_ceil(PACKET_BYTES);
        let bytes = saturate(packets.saturating_mul(u64::from(PACKET_HEADER + PACKET_CODE)));
        for tile in grid.tile_ids() {
            let tile = self.tile(grid.ipu, tile.0);
            tile.add(kind, bytes);
            tile.add(CodeKind::ControlCode, CALL_EXCHANGE);
        }
    }

    /// Spreads what was summed by codelet, grid and IPU over the tiles.
    fn finish(self) -> Footprint {
        let mut footprint = self.footprint;
        // Sums of whole numbers: the order does not matter, and it is that of no table.
        #[allow(clippy::iter_over_hash_type)]
        for ((codelet, _), tiles) in &self.variants {
            let bytes = vertex_code(codelet);
            for tile in tiles.ones() {
                footprint.tiles[tile].add(CodeKind::VertexCode, bytes);
            }
        }
        for (grid, [state, control]) in self.program.grids.iter().zip(self.by_grid) {
            if control == 0 {
                continue;
            }
            let first = grid.ipu.index() * footprint.tiles_per_ipu;
            for tile in grid.tile_ids() {
                let tile = &mut footprint.tiles[first + tile.index()];
                tile.add(CodeKind::VertexState, state);
                tile.add(CodeKind::ControlCode, control);
            }
        }
        let tiles = footprint.tiles.chunks_mut(footprint.tiles_per_ipu.max(1));
        for (tiles, control) in tiles.zip(self.by_ipu) {
            for tile in tiles {
                tile.add(CodeKind::ControlCode, control);
            }
        }
        footprint
    }
}

/// Bytes of the code for the regions of a flow, each one fragment with a loop for every level of strides.
fn regions(flow: &Flow, each: u32) -> u32 {
    let bytes = u64::from(each) * flow.regions + u64::from(REGION_LOOP) * flow.loops;
    saturate(bytes)
}

fn saturate(bytes: u64) -> u32 {
    bytes.try_into().unwrap_or(u32::MAX)
}

/// The codelet without what is a field of its vertices: constants that its code reads from there.
fn one_code(codelet: &Codelet) -> Codelet {
    let mut codelet = codelet.clone();
    match &mut codelet {
        Codelet::Fill { value: real }
        | Codelet::LayerNorm { epsilon: real }
        | Codelet::SoftmaxGrad { scale: real }
        | Codelet::Softmax { scale: real, .. } => real.0 = 0.0,
        Codelet::Dropout { p, key } => {
            p.0 = 0.0;
            *key = 0;
        }
        // Whether sums start from zero is a flag of the vertex.
        Codelet::Matmul { accumulate, .. } | Codelet::Reduce { accumulate, .. } => {
            *accumulate = false;
        }
        _ => {}
    }
    codelet
}

#[cfg(test)]
mod tests;
