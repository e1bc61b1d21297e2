//! The walk over a program that counts what its steps put on tiles.

use std::hash::BuildHasher;

use fixedbitset::FixedBitSet;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::{SmallVec, smallvec};

use super::outline::{Line, Place, outline};
use super::{CodeKind, Footprint, TileFootprint};
use crate::ids::{GridId, IpuId, VarId};
use crate::machine::code_size::{
    BASE_ADDRESS, CALL, CALL_EXCHANGE, COPY_DESCRIPTOR, PACKET_BYTES, PACKET_CODE, PACKET_HEADER,
    RECEIVED_REGION, REGION_LOOP, SENT_REGION, START_VERTICES, SUPERVISOR_STACK, SYNC, UNLOADABLE,
    WORKER_STACK, vertex_code, vertex_state,
};
use crate::machine::codelet_cost::BlockShape;
use crate::op::ReduceKind;
use crate::program::cost::moves::DistinctMoves;
use crate::program::cost::traffic::Flow;
use crate::program::{
    Codelet, ComputeSet, Exchange, Operand, Program, RemoteDirection, Step, Sync, VertexGroup,
};
use crate::types::DType;

/// A codelet for some element types: what there is one code of.
type Variant = (Codelet, SmallVec<[DType; 6]>);
/// An exchange by its moves: number, and from which IPU to which.
type ExchangeForm = SmallVec<[(u32, IpuId, IpuId); 4]>;
/// A vertex group by its codelet, tiles, and the layout of each operand (whole, or one entry of it).
type VertexForm = (Codelet, GridId, SmallVec<[(u32, bool); 6]>);

/// What steps with the same control code have in common.
#[derive(PartialEq, Eq, Hash)]
enum StepForm {
    /// Vertex forms by number.
    Compute(SmallVec<[u32; 4]>),
    Exchange(ExchangeForm),
    Sync(Sync),
    /// The layout of what a tile loads or stores, its IPU.
    Remote(u32, IpuId, RemoteDirection),
    SetSeed(GridId),
    /// A step that is like no other, or the border between procedures.
    Single(u32),
}

/// Control code: on the tiles of a grid, or on all of an IPU (of all IPUs, where none is named).
#[derive(Clone, Copy)]
enum Where {
    Grid(GridId),
    Ipu(Option<IpuId>),
}

/// Control code of a part of a step.
#[derive(Clone, Copy)]
struct Control {
    place: Where,
    bytes: u32,
    /// What base addresses of the operands take besides.
    bases: u32,
    /// The first of its form has them in its code.
    first: bool,
}

impl Control {
    /// Without operands.
    const fn plain(place: Where, bytes: u32) -> Control {
        Control {
            place,
            bytes,
            bases: 0,
            first: false,
        }
    }

    /// Bytes less where addresses are in the code.
    const fn saved(&self) -> u32 {
        if self.first { self.bases } else { 0 }
    }
}

pub(super) struct Account<'p> {
    program: &'p Program,
    footprint: Footprint,
    /// Tiles by variant, of all IPUs.
    variants: FxHashMap<Variant, FixedBitSet>,
    /// Variants and grids that are in `variants`.
    placed: FxHashSet<(Variant, GridId)>,
    /// Bytes of vertex state, and of control code to start vertices, on every tile of a grid.
    by_grid: Vec<[u32; 2]>,
    exchanges: FxHashSet<ExchangeForm>,
    vertices: FxHashMap<VertexForm, u32>,
    /// Variables in streaming memory by layout and IPU.
    remote: FxHashSet<(u32, IpuId, RemoteDirection)>,
    /// Control code on every tile of an IPU.
    by_ipu: Vec<u32>,
    forms: FxHashMap<StepForm, u32>,
    /// Steps in the order of the walk, and the control code of each.
    lines: Vec<Line>,
    controls: Vec<SmallVec<[Control; 2]>>,
}

impl<'p> Account<'p> {
    pub(super) fn new(program: &'p Program) -> Account<'p> {
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
            vertices: FxHashMap::default(),
            remote: FxHashSet::default(),
            by_ipu: vec![0; program.ipus as usize],
            forms: FxHashMap::default(),
            lines: Vec::new(),
            controls: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, step: &'p Step, moves: &DistinctMoves<'p>) {
        match step {
            Step::Compute(set) => self.compute(set, moves),
            Step::Exchange(exchange) => self.exchange(exchange, moves),
            Step::Host { stream, .. } => {
                let variable = self.program.streams[*stream as usize].variable;
                self.packets(variable, CodeKind::HostExchangeCode);
                let grid = self.program.variable(variable).grid;
                self.single(Where::Grid(grid), CALL_EXCHANGE);
            }
            Step::Remote {
                state, direction, ..
            } => self.remote(*state, *direction, moves),
            Step::Sync(sync) => {
                let at = |ipu| Control::plain(Where::Ipu(ipu), SYNC);
                let controls: SmallVec<[Control; 2]> = match *sync {
                    Sync::Ipu(ipu) => smallvec![at(Some(ipu))],
                    Sync::Group { first, count } => {
                        let members = first.0..first.0.saturating_add(count);
                        members.map(|ipu| at(Some(IpuId(ipu)))).collect()
                    }
                    Sync::Replica => smallvec![at(None)],
                };
                self.line(StepForm::Sync(*sync), &[], &controls);
            }
            Step::SetSeed { seed, .. } => {
                let grid = self.program.variable(*seed).grid;
                let ipu = Some(self.program.grid(grid).ipu);
                let control = Control {
                    bases: BASE_ADDRESS,
                    ..Control::plain(Where::Ipu(ipu), START_VERTICES)
                };
                self.line(StepForm::SetSeed(grid), &[*seed], &[control]);
            }
            Step::Collective(c) => {
                let ipu = self.program.grid_of(c.source).ipu;
                self.single(Where::Ipu(Some(ipu)), SYNC);
            }
            Step::Repeat { .. } | Step::Call(_) | Step::Parallel(_) => {
                self.single(Where::Ipu(None), CALL);
            }
        }
    }

    /// What repeats does not go on over the border of a procedure.
    pub(super) fn border(&mut self) {
        self.single(Where::Ipu(None), 0);
    }

    fn single(&mut self, place: Where, bytes: u32) {
        let number = self.lines.len() as u32;
        self.line(
            StepForm::Single(number),
            &[],
            &[Control::plain(place, bytes)],
        );
    }

    /// Enters a step; constants of its vertices are added by who has any.
    fn line(&mut self, form: StepForm, variables: &[VarId], controls: &[Control]) {
        let next = self.forms.len() as u32;
        self.lines.push(Line {
            form: *self.forms.entry(form).or_insert(next),
            variables: variables.into(),
            constants: SmallVec::new(),
            bytes: controls.iter().map(|c| c.bytes + c.bases).sum(),
            saved_if_first: controls.iter().map(Control::saved).sum(),
        });
        self.controls.push(controls.into());
    }

    fn add_control(&mut self, place: Where, bytes: u32) {
        match place {
            Where::Grid(grid) => {
                let [_, control] = &mut self.by_grid[grid.index()];
                *control = control.saturating_add(bytes);
            }
            Where::Ipu(only) => {
                for (i, sum) in self.by_ipu.iter_mut().enumerate() {
                    if only.is_none_or(|only| only.index() == i) {
                        *sum = sum.saturating_add(bytes);
                    }
                }
            }
        }
    }

    fn tile(&mut self, ipu: IpuId, tile: u32) -> &mut TileFootprint {
        let first = ipu.index() * self.footprint.tiles_per_ipu;
        &mut self.footprint.tiles[first + tile as usize]
    }

    fn compute(&mut self, set: &ComputeSet, moves: &DistinctMoves<'p>) {
        let mut forms = SmallVec::new();
        let (mut controls, mut variables, mut constants) =
            (SmallVec::<[_; 2]>::new(), Vec::new(), SmallVec::new());
        for group in &set.groups {
            let [inputs, outputs] =
                [&group.inputs[..], &group.outputs[..]].map(|operands| -> SmallVec<[_; 4]> {
                    operands.iter().map(|o| self.largest_block(o)).collect()
                });
            let code = one_code(&group.codelet);
            let operands = || group.inputs.iter().chain(&group.outputs);
            let layouts = operands().map(|o| (moves.layout(o.variable), o.entry.is_some()));
            let next = self.vertices.len() as u32;
            let key = (code.clone(), group.grid, layouts.collect());
            let number = *self.vertices.entry(key).or_insert(next);
            let first = number == next;
            if first {
                let [state, _] = &mut self.by_grid[group.grid.index()];
                *state = state.saturating_add(vertex_state(&group.codelet, &inputs, &outputs));
            }
            controls.push(Control {
                bases: BASE_ADDRESS * (inputs.len() + outputs.len()) as u32,
                first,
                ..Control::plain(Where::Grid(group.grid), START_VERTICES)
            });
            forms.push(number);
            variables.extend(operands().map(|o| o.variable));
            constants.push(FxBuildHasher.hash_one(&group.codelet));
            let dtypes = inputs.iter().chain(&outputs).map(|b| b.dtype).collect();
            self.code(group, (code, dtypes));
        }
        self.line(StepForm::Compute(forms), &variables, &controls);
        self.lines.last_mut().expect("just entered").constants = constants;
    }

    fn largest_block(&self, operand: &Operand) -> BlockShape {
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
        let (mut form, mut variables) = (ExchangeForm::new(), Vec::new());
        for mv in &exchange.moves {
            if let Some(number) = moves.number(mv) {
                form.push((number, ipu(mv.source), ipu(mv.destination)));
                variables.extend([mv.source, mv.destination]);
            }
        }
        let mut ipus: SmallVec<[IpuId; 4]> = SmallVec::new();
        let first = self.exchanges.insert(form.clone());
        for &(number, from, to) in &form {
            for ipu in [from, to] {
                if !ipus.contains(&ipu) {
                    ipus.push(ipu);
                }
            }
            if first {
                self.move_code(number, from, to, moves);
            }
        }
        let controls: SmallVec<[_; 2]> = ipus
            .into_iter()
            .map(|ipu| Control {
                bases: BASE_ADDRESS * form.len() as u32,
                first,
                ..Control::plain(Where::Ipu(Some(ipu)), CALL_EXCHANGE)
            })
            .collect();
        self.line(StepForm::Exchange(form), &variables, &controls);
    }

    /// A load or store of a state: the packets' code is that of every state that lies likewise.
    fn remote(&mut self, state: u32, direction: RemoteDirection, moves: &DistinctMoves<'p>) {
        let variable = self.program.states[state as usize].variable;
        let (layout, grid) = (moves.layout(variable), self.program.variable(variable).grid);
        let ipu = self.program.grid(grid).ipu;
        let first = self.remote.insert((layout, ipu, direction));
        if first {
            self.packets(variable, CodeKind::GlobalExchangeCode);
        }
        let control = Control {
            bases: BASE_ADDRESS,
            first,
            ..Control::plain(Where::Grid(grid), CALL_EXCHANGE)
        };
        self.line(
            StepForm::Remote(layout, ipu, direction),
            &[variable],
            &[control],
        );
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
            self.tile(grid.ipu, tile.0).add(kind, bytes);
        }
    }

    /// Control code of steps that stand for themselves, of functions and of calls.
    fn control(&mut self) {
        let outline = outline(&self.lines);
        let controls = std::mem::take(&mut self.controls);
        for (controls, place) in controls.iter().zip(outline.places) {
            for control in controls {
                let bytes = control.bytes + control.bases;
                match place {
                    Place::Here => self.add_control(control.place, bytes - control.saved()),
                    Place::InFunction => self.add_control(control.place, bytes),
                    Place::Called => {}
                }
            }
        }
        for call in outline.calls {
            let places = controls[call.start..][..call.length].iter().flatten();
            let mut ipus: SmallVec<[Option<IpuId>; 4]> = places
                .map(|control| match control.place {
                    Where::Grid(grid) => Some(self.program.grid(grid).ipu),
                    Where::Ipu(ipu) => ipu,
                })
                .collect();
            ipus.sort_unstable();
            ipus.dedup();
            for ipu in ipus {
                self.add_control(Where::Ipu(ipu), call.bytes);
            }
        }
    }

    /// Spreads what was summed by codelet, grid and IPU over the tiles.
    pub(super) fn finish(mut self) -> Footprint {
        self.control();
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
        Codelet::Matmul { accumulate, .. } => *accumulate = false,
        Codelet::SumPartials { .. } => {
            codelet = Codelet::Reduce {
                kind: ReduceKind::Sum,
            };
        }
        _ => {}
    }
    codelet
}
