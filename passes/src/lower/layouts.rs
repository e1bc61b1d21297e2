//! Grids and variables of the program under construction.

use superstep_ir::ids::{GridId, IpuId, VarId};
use superstep_ir::program::{Category, Cut, Grid, Variable};
use superstep_ir::types::{Shape, TensorType};

use super::Lowering;
use crate::plan::Layout;
use crate::plan::layout::spread_parts;

impl Lowering<'_> {
    pub(super) fn tiles(&self) -> usize {
        self.machine.tiles_per_ipu as usize
    }

    pub(super) fn intern(&mut self, grid: Grid) -> GridId {
        let next = GridId(self.grids.len() as u32);
        let key = Grid {
            name: String::new(),
            ..grid
        };
        let id = *self.grids.entry(key.clone()).or_insert(next);
        if id == next {
            self.program.grids.push(Grid {
                name: format!("g{}", next.0),
                ..key
            });
        }
        id
    }

    /// A dense grid with these axes, from tile `base` on.
    pub(super) fn grid(&mut self, ipu: IpuId, base: u32, axes: &[(&str, usize)]) -> GridId {
        let tiles = self.machine.tiles_per_ipu;
        self.intern(Grid::dense("", ipu, base % tiles, tiles, axes))
    }

    /// The default layout: evenly over as many tiles as are worth it; tensors that need few tiles begin as `Bases` says.
    pub(super) fn spread(&mut self, ipu: IpuId, shape: &Shape) -> Layout {
        let parts = spread_parts(shape, self.tiles());
        self.spread_in(ipu, &parts)
    }

    /// One part a tile, where the last tensor that needs few tiles ended.
    pub(super) fn spread_in(&mut self, ipu: IpuId, parts: &[usize]) -> Layout {
        let used: usize = parts.iter().product();
        let base = if used * 2 <= self.tiles() {
            self.bases
                .take(ipu, used as u32, self.machine.tiles_per_ipu)
        } else {
            0
        };
        self.layout_by_parts(ipu, base, parts)
    }

    /// One grid axis for each dimension that is cut.
    pub(super) fn layout_by_parts(&mut self, ipu: IpuId, base: u32, parts: &[usize]) -> Layout {
        const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let cut: Vec<usize> = parts.iter().copied().filter(|&p| p > 1).collect();
        let axes: Vec<(&str, usize)> = cut.iter().zip(NAMES).map(|(&p, n)| (n, p)).collect();
        let grid = self.grid(ipu, base, &axes);
        let mut axis = 0u8;
        Layout::new(
            grid,
            parts.iter().map(|&p| {
                if p == 1 {
                    return Cut::none();
                }
                axis += 1;
                Cut::by(&[axis - 1], 1)
            }),
        )
    }

    pub(super) fn variable(
        &mut self,
        name: String,
        ty: TensorType,
        layout: Layout,
        category: Category,
    ) -> VarId {
        debug_assert_eq!(
            ty.shape.rank(),
            layout.cuts.len(),
            "{name}: one cut a dimension"
        );
        let id = VarId(self.program.variables.len() as u32);
        let variable = Variable {
            name,
            ty,
            grid: layout.grid,
            cuts: layout.cuts,
            address: 0,
            category,
            live: Some((0, 0)),
        };
        self.program.variables.push(variable);
        id
    }

    pub(super) fn layout_of(&self, variable: VarId) -> Layout {
        Layout::of(self.program.variable(variable))
    }

    pub(super) fn shape_of(&self, variable: VarId) -> Shape {
        self.program.variable(variable).ty.shape.clone()
    }

    pub(super) fn grid_ref(&self, grid: GridId) -> &Grid {
        self.program.grid(grid)
    }
}
