//! An exchange equals a gather on the host, for random layouts on both sides and random views.

use proptest::prelude::*;
use smallvec::{SmallVec, smallvec};

use super::*;
use crate::ids::{GridId, ProcId, VarId};
use crate::machine::Machine;
use crate::program::{Category, Cut, View};
use crate::types::TensorType;

fn machine() -> Machine {
    Machine {
        tiles_per_ipu: 40,
        tile_memory: 1 << 16,
        ..crate::machine::tests_machine()
    }
}

/// A program with one source and one destination variable.
fn program(source: (Shape, Grid, Vec<Cut>), destination: (Shape, Grid, Vec<Cut>)) -> Program {
    let variable = |(shape, _, cuts): &(Shape, Grid, Vec<Cut>), grid| Variable {
        name: "x".into(),
        ty: TensorType::f32(shape.clone()),
        grid,
        cuts: SmallVec::from_vec(cuts.clone()),
        address: 0,
        category: Category::Activation,
        live: None,
    };
    let variables = vec![
        variable(&source, GridId(0)),
        variable(&destination, GridId(1)),
    ];
    Program {
        name: "test".into(),
        machine: machine(),
        ipus: 1,
        replicas: 1,
        grids: vec![source.1, destination.1],
        variables_from: vec![0; 1],
        variables,
        states: vec![],
        streams: vec![],
        procedures: vec![],
        entry: ProcId(0),
        rounding: Default::default(),
        origins: vec![],
    }
}

/// Fills the source blocks with canonical element numbers, runs the copies, and returns the destination tensor as every copy sees it.
fn run(p: &Program, mv: &Move) -> Vec<Vec<i64>> {
    let tiles = p.machine.tiles_per_ipu as usize;
    let (src, dst) = (&p.variables[0], &p.variables[1]);
    let (sg, dg) = (p.grid_of(VarId(0)), p.grid_of(VarId(1)));
    let mut from: Vec<Vec<i64>> = vec![vec![]; tiles];
    for (point, tile) in sg.iter() {
        let b = src.block(sg, &point);
        from[tile.index()] = elements(&b, &src.ty.shape).map(|e| e as i64).collect();
    }
    let mut into: Vec<Vec<i64>> = vec![vec![-1; 4096]; tiles];
    for c in expand(p, mv).unwrap().copies {
        for &t in &c.destination_tiles {
            let mut offsets = vec![(c.source_offset, c.destination_offset)];
            for l in &c.loops {
                offsets = offsets
                    .iter()
                    .flat_map(|&(s, d)| {
                        (0..l.extent)
                            .map(move |i| (s + i * l.source_stride, d + i * l.destination_stride))
                    })
                    .collect();
            }
            for (s, d) in offsets {
                for e in 0..c.run_bytes / 4 {
                    let slot = &mut into[t as usize][(d / 4 + e) as usize];
                    assert_eq!(*slot, -1, "written twice");
                    *slot = from[c.source_tile as usize][(s / 4 + e) as usize];
                }
            }
        }
    }
    let copies: usize = dst
        .copy_axes(dg)
        .map(|a| dg.axes[a].extent as usize)
        .product();
    let mut seen = vec![vec![-1; dst.ty.shape.elements()]; copies];
    let mut count = vec![0; dst.ty.shape.elements()];
    for (point, tile) in dg.iter() {
        let b = dst.block(dg, &point);
        for (i, e) in elements(&b, &dst.ty.shape).enumerate() {
            seen[count[e]][e] = into[tile.index()][i];
            count[e] += 1;
        }
    }
    seen
}

/// Canonical element numbers of a block, in block order.
fn elements<'a>(b: &'a Block, shape: &'a Shape) -> impl Iterator<Item = usize> + 'a {
    let (local, global) = (b.shape.strides(), shape.strides());
    (0..b.shape.elements()).map(move |i| {
        (0..shape.rank())
            .map(|d| (b.start[d] + i / local[d] % b.shape[d]) * global[d])
            .sum()
    })
}

/// What the views mean, element by element.
fn viewed(shape: &Shape, views: &[View]) -> (Vec<i64>, Shape) {
    let mut data: Vec<i64> = (0..shape.elements() as i64).collect();
    let mut shape = shape.clone();
    for v in views {
        let to = v.apply(&shape).unwrap();
        let (from_strides, to_strides) = (shape.strides(), to.strides());
        data = (0..to.elements())
            .map(|i| {
                let index: Vec<usize> = (0..to.rank()).map(|d| i / to_strides[d] % to[d]).collect();
                let at = match v {
                    View::Reshape(_) => i,
                    View::Transpose(perm) => perm
                        .iter()
                        .enumerate()
                        .map(|(d, &p)| index[d] * from_strides[p])
                        .sum(),
                    View::Slice { axis, start, .. } => (0..to.rank())
                        .map(|d| (index[d] + if d == *axis { *start } else { 0 }) * from_strides[d])
                        .sum(),
                };
                data[at]
            })
            .collect();
        shape = to;
    }
    (data, shape)
}

fn layout(rank: usize) -> impl Strategy<Value = (Grid, Vec<Cut>)> {
    let extents = prop::collection::vec(1usize..4, 1..4);
    (
        extents,
        0u32..40,
        prop::collection::vec((0usize..=rank, 1usize..4), 4),
    )
        .prop_map(move |(extents, base, owners)| {
            let names: Vec<(&str, usize)> = extents.iter().map(|&e| ("a", e)).collect();
            let grid = Grid::dense("g", IpuId(0), base, 40, &names);
            let mut cuts: Vec<Cut> = (0..rank)
                .map(|d| Cut {
                    axes: smallvec![],
                    grain: owners[d % 4].1 as u32,
                })
                .collect();
            for (axis, &(owner, _)) in owners.iter().enumerate().take(extents.len()) {
                if let Some(cut) = cuts.get_mut(owner) {
                    cut.axes.push(axis as u8);
                }
            }
            (grid, cuts)
        })
}

fn case() -> impl Strategy<Value = (Shape, Vec<View>, Shape)> {
    (1usize..6, 1usize..4, 1usize..6, 0usize..5).prop_map(|(s, h, d, kind)| {
        let head = View::Reshape(Shape::new(&[s, h, d]));
        let swap = View::Transpose(smallvec![1, 0, 2]);
        let views = match kind {
            0 => vec![],
            1 => vec![head.clone(), swap.clone()],
            2 => vec![
                View::Slice {
                    axis: 1,
                    start: h * d,
                    len: h * d,
                },
                head,
                swap,
            ],
            3 => vec![
                head,
                swap.clone(),
                swap,
                View::Reshape(Shape::new(&[s, h * d])),
            ],
            _ => vec![View::Transpose(smallvec![1, 0])],
        };
        let source = if kind == 2 {
            Shape::new(&[s, 3 * h * d])
        } else {
            Shape::new(&[s, h * d])
        };
        let (_, result) = viewed(&source, &views);
        (source, views, result)
    })
}

proptest! {
    #[test]
    fn an_exchange_is_a_gather(
        ((source, views, result), from, into, at) in case().prop_flat_map(|c| {
            let (s, r) = (c.0.rank(), c.2.rank());
            (Just(c), layout(s), layout(r), prop::collection::vec(0usize..3, 4))
        })
    ) {
        let at: SmallVec<[usize; 4]> = at[..result.rank()].iter().copied().collect();
        let whole = Shape(result.dims().iter().zip(&at).map(|(&n, &a)| n + a + 1).collect());
        let p = program((source.clone(), from.0, from.1), (whole.clone(), into.0, into.1));
        let mv = Move { source: VarId(0), views: views.clone(), destination: VarId(1), at: at.clone() };
        let (want, _) = viewed(&source, &views);
        let (ws, rs) = (whole.strides(), result.strides());
        let mut expected = vec![-1i64; whole.elements()];
        for (i, w) in want.iter().enumerate() {
            let e: usize = (0..result.rank()).map(|d| (at[d] + i / rs[d] % result[d]) * ws[d]).sum();
            expected[e] = *w;
        }
        for copy in run(&p, &mv) {
            prop_assert_eq!(&copy, &expected);
        }
    }
}
