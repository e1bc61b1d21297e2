//! The grid of a matmul plan and the layouts of operands and results on it.

use smallvec::SmallVec;
use superstep_ir::ids::{GridId, IpuId};
use superstep_ir::program::{Cut, Grid};

use super::super::Lowering;
use super::weights::resting_columns;
use crate::plan::Layout;
use crate::plan::matmul::{GRAIN_N, Inner, MatmulPlan, share_of_result};

/// Axes of one role, outermost first.
type Axes = SmallVec<[u8; 2]>;

/// A grid whose axes have roles in a product: batch, rows, contraction, columns.
pub(super) struct PlanGrid {
    pub(super) id: GridId,
    grid: Grid,
    batched: bool,
    g: Axes,
    k: Axes,
    m: Axes,
    n: Axes,
    grain_k: usize,
    grain_m: usize,
    grain_n: usize,
    /// Of the axes of rows and columns, the outer one is a ring.
    pub(super) row_ring: Option<u8>,
    pub(super) column_ring: Option<u8>,
}

/// What of a result a part of the contraction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    All,
    Rows,
    RowsAndColumns,
}

impl Lowering<'_> {
    /// A dense grid for the plan. The innermost axis is the one whose neighbours share an operand; a ring is outside its copies.
    pub(super) fn plan_grid(
        &mut self,
        ipu: IpuId,
        plan: &MatmulPlan,
        grain_k: usize,
        batched: bool,
    ) -> PlanGrid {
        self.grid_with_columns(ipu, plan, grain_k, batched, &[plan.n])
    }

    /// The grid of a product whose second operand rests on it: as that of the plan, with the columns cut by two axes if there are many.
    pub(super) fn resting_grid(
        &mut self,
        ipu: IpuId,
        plan: &MatmulPlan,
        grain_k: usize,
    ) -> PlanGrid {
        let columns = resting_columns(plan);
        self.grid_with_columns(ipu, plan, grain_k, false, &columns)
    }

    fn grid_with_columns(
        &mut self,
        ipu: IpuId,
        plan: &MatmulPlan,
        grain_k: usize,
        batched: bool,
        column_parts: &[usize],
    ) -> PlanGrid {
        let ring = plan.ring;
        let split = |name: [&'static str; 2], parts: usize, rotates: bool| match ring {
            Some(ring) if rotates => {
                vec![(name[0], ring.length), (name[1], parts / ring.length)]
            }
            _ => vec![(name[1], parts)],
        };
        let row_ring = ring.is_some_and(|r| r.b);
        let column_ring = ring.is_some_and(|r| r.a);
        let rows = split(["m_ring", "m"], plan.m, row_ring);
        let columns = match column_parts {
            [outer, inner] if *inner > 1 => vec![("n_outer", *outer), ("n", *inner)],
            _ => split(["n_ring", "n"], plan.n, column_ring),
        };
        let mut axes = vec![("g", plan.g), ("k", plan.k)];
        let (m_at, n_at) = match plan.inner {
            Inner::N => (2, 2 + rows.len()),
            Inner::M => (2 + columns.len(), 2),
        };
        match plan.inner {
            Inner::N => axes.extend(rows.iter().chain(&columns)),
            Inner::M => axes.extend(columns.iter().chain(&rows)),
        }
        let id = self.grid(ipu, 0, &axes);
        let run = |at: usize, len: usize| (at as u8..(at + len) as u8).collect::<Axes>();
        PlanGrid {
            id,
            grid: self.grid_ref(id).clone(),
            batched,
            g: run(0, 1),
            k: run(1, 1),
            m: run(m_at, rows.len()),
            n: run(n_at, columns.len()),
            grain_k: if ring.is_some() { 1 } else { grain_k },
            grain_m: 1,
            grain_n: GRAIN_N,
            row_ring: row_ring.then_some(m_at as u8),
            column_ring: column_ring.then_some(n_at as u8),
        }
    }

    /// The grid on which an operand or a result lies; which of its dimensions are the rows, the contraction and the columns of the product.
    pub(super) fn grid_of_layout(
        &self,
        layout: &Layout,
        [rows, depth, columns]: [Option<usize>; 3],
    ) -> PlanGrid {
        let cut = |dimension: Option<usize>| match dimension {
            Some(d) => (layout.cuts[d].axes.clone(), layout.cuts[d].grain as usize),
            None => (Axes::new(), 1),
        };
        let ((m, grain_m), (k, grain_k), (n, grain_n)) = (cut(rows), cut(depth), cut(columns));
        PlanGrid {
            id: layout.grid,
            grid: self.grid_ref(layout.grid).clone(),
            batched: false,
            g: Axes::new(),
            k,
            m,
            n,
            grain_k,
            grain_m,
            grain_n,
            row_ring: None,
            column_ring: None,
        }
    }
}

impl PlanGrid {
    /// A cut that leaves out axes of extent 1, so that equal layouts are equal.
    fn cut(&self, axes: impl IntoIterator<Item = u8>, grain: usize) -> Cut {
        let real: Axes = axes
            .into_iter()
            .filter(|&a| self.grid.axes[a as usize].extent > 1)
            .collect();
        match real.is_empty() {
            true => Cut::none(),
            false => Cut::by(&real, grain),
        }
    }

    fn of(&self, role: &Axes, grain: usize) -> Cut {
        self.cut(role.iter().copied(), grain)
    }

    pub(super) fn rows(&self) -> Cut {
        self.of(&self.m, self.grain_m)
    }

    pub(super) fn columns(&self) -> Cut {
        self.of(&self.n, self.grain_n)
    }

    /// The cut of a leading dimension of one entry for each part of the contraction.
    pub(super) fn parts(&self) -> Cut {
        self.of(&self.k, 1)
    }

    pub(super) fn batch(&self) -> Option<Cut> {
        self.batched.then(|| self.of(&self.g, 1))
    }

    /// Axes and grain of the cut of the rows.
    pub(super) fn row_axes(&self) -> (&[u8], usize) {
        (&self.m, self.grain_m)
    }

    /// Axes and grain of the cut of the columns.
    pub(super) fn column_axes(&self) -> (&[u8], usize) {
        (&self.n, self.grain_n)
    }

    /// The cut, by axes and grain, of what one place of a ring holds.
    pub(super) fn within_place(&self, (axes, grain): (&[u8], usize), ring: Option<u8>) -> Cut {
        self.cut(axes.iter().copied().filter(|&a| Some(a) != ring), grain)
    }

    /// A dimension of one entry for each place of a ring.
    pub(super) fn ring(&self, axis: u8) -> Cut {
        self.cut([axis], 1)
    }

    pub(super) fn layout(&self, leading: &[Cut], rest: [Cut; 2]) -> Layout {
        Layout::new(
            self.id,
            leading.iter().cloned().chain(self.batch()).chain(rest),
        )
    }

    pub(super) fn a(&self, transposed: bool) -> Layout {
        let (m, k) = (self.rows(), self.of(&self.k, self.grain_k));
        self.layout(&[], if transposed { [k, m] } else { [m, k] })
    }

    pub(super) fn b(&self, transposed: bool) -> Layout {
        let (k, n) = (self.of(&self.k, self.grain_k), self.columns());
        self.layout(&[], if transposed { [n, k] } else { [k, n] })
    }

    /// Where a weight rests: each tile's share of what the tiles of its column need.
    pub(super) fn b_at_rest(&self, transposed: bool) -> Layout {
        let k = self.cut(self.k.iter().chain(&self.m).copied(), 1);
        let n = self.columns();
        self.layout(&[], if transposed { [n, k] } else { [k, n] })
    }

    /// Which share of a result of so many rows and columns a part of the contraction keeps.
    pub(super) fn share(&self, rows: usize, columns: usize) -> Share {
        let extent = |axes: &[u8]| {
            let extents = axes
                .iter()
                .map(|&a| self.grid.axes[a as usize].extent as usize);
            extents.product::<usize>()
        };
        let [outer, inner @ ..] = self.k.as_slice() else {
            return Share::All;
        };
        let parts = [extent(&[*outer]), extent(inner)];
        let block = [
            rows.div_ceil(extent(&self.m)),
            columns.div_ceil(extent(&self.n)),
        ];
        match share_of_result(block, parts).1 {
            true => Share::RowsAndColumns,
            false => Share::Rows,
        }
    }

    /// Cuts of the result: by m and n, and by the parts of the contraction if each keeps a share.
    pub(super) fn out(&self, share: Share, leading: &[Cut]) -> Layout {
        let join = |a: &[u8], b: &[u8]| self.cut(a.iter().chain(b).copied(), 1);
        let rest = match share {
            Share::All => [self.rows(), self.columns()],
            Share::Rows => [join(&self.m, &self.k), self.columns()],
            Share::RowsAndColumns => [join(&self.m, &self.k[..1]), join(&self.n, &self.k[1..])],
        };
        self.layout(leading, rest)
    }
}
