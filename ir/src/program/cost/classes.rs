//! The tiles of a vertex group by what lies on them: all tiles whose blocks have the same extents do the same work.
//!
//! Blocks of a dimension that is cut differ by a grain at most, and at its end; so there are few classes, and mostly one.

use smallvec::SmallVec;

use crate::machine::codelet_cost::BlockShape;
use crate::program::{Grid, Operand, Program, VertexGroup};
use crate::types::Shape;

/// Tiles with blocks of the same extents.
#[derive(Clone, Debug)]
pub struct TileClass {
    pub inputs: SmallVec<[BlockShape; 4]>,
    pub outputs: SmallVec<[BlockShape; 2]>,
    pub tiles: u32,
}

/// The classes of a group.
#[derive(Clone, Debug)]
pub struct TileClasses {
    pub classes: SmallVec<[TileClass; 1]>,
    /// The class of every point of the grid, in the grid's order; empty when there is only one.
    pub of_point: Vec<u16>,
}

impl TileClasses {
    /// The class of the `i`-th point of the grid.
    pub fn of(&self, i: usize) -> usize {
        self.of_point.get(i).map_or(0, |&class| class as usize)
    }
}

/// Extents of the dimensions that are not the same everywhere.
type Extents = SmallVec<[u32; 8]>;

/// A dimension of an operand of which tiles have parts of different extents.
struct Varying<'p> {
    axes: &'p [u8],
    parts: Vec<u32>,
}

impl Varying<'_> {
    fn extent_at(&self, grid: &Grid, point: &[u32]) -> u32 {
        let part = self.axes.iter().fold(0, |i, &a| {
            i * grid.axes[a as usize].extent as usize + point[a as usize] as usize
        });
        self.parts[part]
    }
}

/// Sorts the tiles of a group into classes.
pub fn tile_classes(program: &Program, group: &VertexGroup) -> TileClasses {
    let grid = program.grid(group.grid);
    let mut varying = Vec::new();
    let operands = group.inputs.iter().chain(&group.outputs);
    let blocks: SmallVec<[Template; 6]> = operands
        .map(|operand| Template::of(program, grid, operand, &mut varying))
        .collect();
    if varying.is_empty() {
        let only = class(&blocks, group.inputs.len(), &[], grid.points() as u32);
        return TileClasses {
            classes: SmallVec::from_iter([only]),
            of_point: Vec::new(),
        };
    }
    let mut seen: Vec<(Extents, u32)> = Vec::new();
    let mut of_point = Vec::with_capacity(grid.points());
    for (point, _) in grid.iter() {
        let extents: Extents = varying.iter().map(|v| v.extent_at(grid, &point)).collect();
        let known = seen.iter().position(|(e, _)| *e == extents);
        let index = known.unwrap_or_else(|| {
            seen.push((extents, 0));
            seen.len() - 1
        });
        seen[index].1 += 1;
        of_point.push(index as u16);
    }
    let classes = seen
        .iter()
        .map(|(extents, tiles)| class(&blocks, group.inputs.len(), extents, *tiles));
    TileClasses {
        classes: classes.collect(),
        of_point,
    }
}

/// A block with holes for the extents that vary.
struct Template {
    block: BlockShape,
    /// Dimension of the block, index of the varying extent.
    holes: SmallVec<[(u8, u8); 2]>,
}

impl Template {
    fn of<'p>(
        program: &'p Program,
        grid: &Grid,
        operand: &Operand,
        varying: &mut Vec<Varying<'p>>,
    ) -> Template {
        let variable = program.variable(operand.variable);
        let dims = variable.cuts.iter().zip(variable.ty.shape.dims());
        let mut extents: SmallVec<[usize; 4]> = SmallVec::new();
        let mut holes = SmallVec::new();
        for (cut, &size) in dims.skip(usize::from(operand.entry.is_some())) {
            let parts = cut.parts(grid);
            let first = cut.range(size, parts, 0).len();
            let lengths = (0..parts).map(|i| cut.range(size, parts, i).len());
            if lengths.clone().any(|length| length != first) {
                holes.push((extents.len() as u8, varying.len() as u8));
                varying.push(Varying {
                    axes: &cut.axes,
                    parts: lengths.map(|length| length as u32).collect(),
                });
            }
            extents.push(first);
        }
        Template {
            block: BlockShape {
                dtype: variable.ty.dtype,
                shape: Shape(extents),
            },
            holes,
        }
    }

    fn filled(&self, extents: &[u32]) -> BlockShape {
        let mut block = self.block.clone();
        for &(dim, i) in &self.holes {
            block.shape.0[dim as usize] = extents[i as usize] as usize;
        }
        block
    }
}

fn class(blocks: &[Template], inputs: usize, extents: &[u32], tiles: u32) -> TileClass {
    let (inputs, outputs) = blocks.split_at(inputs);
    TileClass {
        inputs: inputs.iter().map(|b| b.filled(extents)).collect(),
        outputs: outputs.iter().map(|b| b.filled(extents)).collect(),
        tiles,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;
    use crate::ids::{GridId, IpuId, ProcId, VarId};
    use crate::program::{Category, Codelet, Cut, Variable};
    use crate::types::{Real, TensorType};

    /// A fill of one variable `[5, rows, columns]`, its entry 3 if `entry`, on a grid of `a × b` tiles.
    fn fill(
        dims: [usize; 3],
        cuts: [Cut; 3],
        [a, b]: [usize; 2],
        entry: bool,
    ) -> (Program, VertexGroup) {
        let tiles = crate::machine::tests_machine().tiles_per_ipu;
        let grid = Grid::dense("g", IpuId(0), 0, tiles, &[("a", a), ("b", b)]);
        let variable = Variable {
            name: "x".into(),
            ty: TensorType::f32(Shape::new(&dims)),
            grid: GridId(0),
            cuts: cuts.into_iter().collect(),
            address: 0,
            category: Category::Activation,
            live: None,
        };
        let program = Program {
            name: "p".into(),
            machine: crate::machine::tests_machine(),
            ipus: 1,
            replicas: 1,
            grids: vec![grid],
            variables_from: vec![0; 1],
            variables: vec![variable],
            states: vec![],
            streams: vec![],
            procedures: vec![],
            entry: ProcId(0),
            rounding: Default::default(),
            origins: vec![],
        };
        let out = Operand {
            variable: VarId(0),
            entry: entry.then_some(3),
        };
        let group = VertexGroup {
            codelet: Codelet::Fill { value: Real(0.0) },
            grid: GridId(0),
            inputs: smallvec![],
            outputs: smallvec![out],
        };
        (program, group)
    }

    proptest! {
        #[test]
        fn the_class_of_a_tile_has_its_blocks(
            rows in 1usize..40,
            columns in 1usize..40,
            grain in 1usize..9,
            extents in [1usize..5, 1usize..4],
            entry in any::<bool>(),
        ) {
            let cuts = [Cut::none(), Cut::by(&[0], 1), Cut::by(&[1], grain)];
            let (program, group) = fill([5, rows, columns], cuts, extents, entry);
            let classes = tile_classes(&program, &group);
            let (grid, variable) = (&program.grids[0], &program.variables[0]);
            for (i, (point, _)) in grid.iter().enumerate() {
                let dims = variable.block(grid, &point).shape;
                let expected = &dims.dims()[usize::from(entry)..];
                let class = &classes.classes[classes.of(i)];
                prop_assert_eq!(class.outputs[0].shape.dims(), expected);
            }
            let tiles: u32 = classes.classes.iter().map(|c| c.tiles).sum();
            prop_assert_eq!(tiles as usize, grid.points());
        }
    }

    #[test]
    fn equal_blocks_are_one_class() {
        let cuts = [Cut::none(), Cut::by(&[0], 1), Cut::by(&[1], 8)];
        let (program, group) = fill([5, 24, 48], cuts, [4, 3], false);
        let classes = tile_classes(&program, &group);
        assert_eq!(classes.classes.len(), 1);
        assert!(classes.of_point.is_empty());
    }
}
