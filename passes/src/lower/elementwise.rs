//! Elementwise ops run where their largest operand lies; the others come to it. Results replace operands that nobody needs any more.

use superstep_ir::ids::VarId;
use superstep_ir::machine::codelet_cost::{BlockShape, vertex_cycles};
use superstep_ir::op::{MapExpr, MapNode, Op};
use superstep_ir::program::{Category, Codelet, Operand, View};
use superstep_ir::types::{Real, Shape, TensorType};

use super::views::simplify;
use super::{Binding, LowerError, OpLowering};
use crate::plan::Layout;

/// A layout an elementwise op could run in: the extents it works on (the result's elements, perhaps in another shape) and the layout.
struct Site {
    shape: Shape,
    layout: Layout,
}

impl OpLowering<'_, '_, '_> {
    pub(super) fn elementwise(&mut self) -> Result<(), LowerError> {
        let (codelet, operands) = self.elementwise_codelet();
        let site = self.best_site(&codelet, &operands);
        let mut moves = Vec::new();
        let mut variables = Vec::with_capacity(operands.len());
        for &i in &operands {
            let ty = self.ty(i);
            let (views, layout) = if is_seed(&codelet, i) {
                (vec![], Layout::copies(site.layout.grid, ty.shape.rank()))
            } else if ty.shape.elements() == site.shape.elements() {
                (vec![View::Reshape(site.shape.clone())], site.layout.clone())
            } else {
                (vec![], trailing(&site.layout, ty.shape.rank()))
            };
            variables.push(self.demand(i, &views, &layout, "in", &mut moves));
        }
        self.exchange("operands", moves);
        let results = self.g.graph.node(self.id).results().len() as u32;
        let mut taken: Vec<VarId> = Vec::new();
        for r in 0..results {
            let ty = TensorType::new(self.result_ty(r).dtype, site.shape.clone());
            let out = if codelet.may_run_in_place() {
                self.in_place(r, &variables, &site.layout, &ty, &taken)
            } else {
                None
            };
            let out = out.unwrap_or_else(|| {
                self.make(
                    &result_name(r, results),
                    ty,
                    site.layout.clone(),
                    Category::Activation,
                )
            });
            taken.push(out);
        }
        let whole = |vs: &[VarId]| vs.iter().map(|&v| Operand::whole(v)).collect::<Vec<_>>();
        self.compute(
            "map",
            codelet,
            site.layout.grid,
            &whole(&variables),
            &whole(&taken),
        );
        for (r, v) in taken.into_iter().enumerate() {
            self.bind_reshaped(r as u32, v);
        }
        Ok(())
    }

    /// The codelet, and which operands it reads: splats become constants of the expression.
    fn elementwise_codelet(&self) -> (Codelet, Vec<usize>) {
        let graph = self.g.graph;
        let mut expr = match graph.op(self.id) {
            Op::Unary(u) => MapExpr::unary(*u),
            Op::Binary(b) => MapExpr::binary(*b),
            Op::Map(expr) => expr.clone(),
            Op::Dropout { p, key } => return (Codelet::Dropout { p: *p, key: *key }, vec![0, 1]),
            Op::Cast { .. } => return (Codelet::Cast, vec![0]),
            _ => MapExpr {
                operands: 1,
                nodes: vec![MapNode::Operand(0)],
                outputs: vec![0],
                types: vec![],
            },
        };
        // From here on the variables say what is stored as what.
        expr.types.clear();
        let splat = |i: usize| match self.g.bindings[&self.operand(i)] {
            Binding::Splat(v) => Some(v),
            Binding::Held { .. } => None,
        };
        let count = expr.operands as usize;
        let mut kept: Vec<usize> = (0..count).filter(|&i| splat(i).is_none()).collect();
        if kept.is_empty() {
            kept.push(0);
        }
        for node in &mut expr.nodes {
            if let MapNode::Operand(i) = *node {
                *node = match kept.iter().position(|&k| k == i as usize) {
                    Some(at) => MapNode::Operand(at as u32),
                    None => MapNode::Constant(Real(splat(i as usize).unwrap_or(f64::NAN))),
                };
            }
        }
        expr.operands = kept.len() as u32;
        (Codelet::Map(expr), kept)
    }

    /// The cheapest of: the layout of any full-size operand, or the default layout. What becomes a state is made in the state's layout, though:
    /// elsewhere it would have to wait for its assignment and then go there.
    fn best_site(&mut self, codelet: &Codelet, operands: &[usize]) -> Site {
        let result = self.result_ty(0);
        let running_sum = operands.iter().find(|&&i| self.is_running_sum(i));
        let there = running_sum.and_then(|&i| self.site_of(i, codelet, operands, &result.shape));
        if let Some(site) = there {
            return site;
        }
        let mut best: Option<(u64, Site)> = None;
        let candidates: Vec<Site> = operands
            .iter()
            .filter(|&&i| !is_seed(codelet, i))
            .filter_map(|&i| self.site_of(i, codelet, operands, &result.shape))
            .collect();
        for site in candidates {
            let cost = self.site_cost(&site, codelet, operands);
            if best.as_ref().is_none_or(|(c, _)| cost < *c) {
                best = Some((cost, site));
            }
        }
        let spread = Site {
            layout: self.g.lw.spread(self.ipu, &result.shape),
            shape: result.shape,
        };
        let cost = self.site_cost(&spread, codelet, operands);
        match best {
            Some((c, site)) if c <= cost => site,
            _ => spread,
        }
    }

    /// True when operand `i` is state that result 0 becomes, at once or after more ops.
    fn is_running_sum(&self, i: usize) -> bool {
        let Some(Binding::Held { variable, views }) = self.g.bindings.get(&self.operand(i)) else {
            return false;
        };
        views.is_empty() && self.becomes_state(*variable, 0)
    }

    /// Operand `i`'s own layout, if the op can run in it: all its elements in order, nothing copied, and the smaller operands are trailing
    /// dimensions of it.
    fn site_of(
        &self,
        i: usize,
        codelet: &Codelet,
        operands: &[usize],
        result: &Shape,
    ) -> Option<Site> {
        if self.ty(i).shape.elements() != result.elements() {
            return None;
        }
        let Binding::Held { variable, views } = self.g.bindings.get(&self.operand(i))? else {
            return None;
        };
        let only_reshaped = views.iter().all(|v| matches!(v, View::Reshape(_)));
        let (layout, shape) = (
            self.g.lw.layout_of(*variable),
            self.g.lw.shape_of(*variable),
        );
        let program = &self.g.lw.program;
        let here = program.grid_of(*variable).ipu == self.ipu;
        let copied = program
            .variable(*variable)
            .copy_axes(program.grid_of(*variable))
            .any(|a| program.grid_of(*variable).axes[a].extent > 1);
        let beside = operands.iter().filter(|&&j| !is_seed(codelet, j));
        let trailing = beside.into_iter().all(|&j| {
            let small = self.ty(j).shape;
            small.elements() == shape.elements() || shape.dims().ends_with(small.dims())
        });
        (only_reshaped && here && !copied && trailing).then_some(Site { shape, layout })
    }

    /// Cycles to bring the operands to the site and to run there.
    fn site_cost(&self, site: &Site, codelet: &Codelet, operands: &[usize]) -> u64 {
        let lw = &self.g.lw;
        let machine = lw.machine;
        let block =
            |shape: &Shape, layout: &Layout| layout.largest_block(lw.grid_ref(layout.grid), shape);
        let mut inputs = Vec::with_capacity(operands.len());
        let mut bytes = 0;
        for &i in operands {
            let ty = self.ty(i);
            let seed = is_seed(codelet, i);
            let full = !seed && ty.shape.elements() == site.shape.elements();
            let (shape, layout) = if seed {
                let copies = Layout::copies(site.layout.grid, ty.shape.rank());
                (ty.shape.clone(), copies)
            } else if full {
                (site.shape.clone(), site.layout.clone())
            } else {
                (ty.shape.clone(), trailing(&site.layout, ty.shape.rank()))
            };
            let b = BlockShape {
                dtype: ty.dtype,
                shape: block(&shape, &layout),
            };
            if !(full && self.lies_at(i, site)) {
                bytes += b.shape.elements() * ty.dtype.bytes();
            }
            inputs.push(b);
        }
        let node = self.g.graph.node(self.id);
        let outputs: Vec<BlockShape> = node
            .results()
            .iter()
            .map(|t| BlockShape {
                dtype: t.dtype,
                shape: block(&site.shape, &site.layout),
            })
            .collect();
        let exchange = if bytes == 0 {
            0
        } else {
            machine.sync_cycles + machine.exchange_start_cycles
        };
        (bytes as f64 / machine.exchange_bytes_per_cycle) as u64
            + exchange
            + vertex_cycles(machine, codelet, &inputs, &outputs)
    }

    fn lies_at(&self, i: usize, site: &Site) -> bool {
        match self.g.bindings.get(&self.operand(i)) {
            Some(Binding::Held { variable, views }) => {
                let shape = self.g.lw.shape_of(*variable);
                let mut views = views.clone();
                views.push(View::Reshape(site.shape.clone()));
                simplify(&shape, views).is_empty() && self.g.lw.layout_of(*variable) == site.layout
            }
            _ => true,
        }
    }

    /// A variable among `inputs` that result `r` may overwrite: the state it becomes, a value that dies here, or a copy made for this op.
    pub(super) fn in_place(
        &mut self,
        r: u32,
        inputs: &[VarId],
        layout: &Layout,
        ty: &TensorType,
        taken: &[VarId],
    ) -> Option<VarId> {
        let fits = |s: &Self, v: VarId| {
            s.g.lw.layout_of(v) == *layout
                && s.g.lw.program.variable(v).ty == *ty
                && !taken.contains(&v)
        };
        let state = inputs
            .iter()
            .copied()
            .find(|&v| fits(self, v) && self.becomes_state(v, r));
        if state.is_some() {
            return state;
        }
        let assigned = self
            .g
            .graph
            .uses(self.result(r))
            .iter()
            .any(|u| matches!(self.g.graph.op(u.op), Op::Assign { .. }));
        if assigned && self.g.graph.node(self.id).results().len() > 1 {
            return None;
        }
        let mine = |s: &Self, v: VarId| s.local.values().any(|&l| l == v);
        let free = inputs
            .iter()
            .copied()
            .find(|&v| fits(self, v) && (mine(self, v) || self.dies_here(v)))?;
        self.g.lw.program.variables[free.index()].category = Category::Activation;
        Some(free)
    }
}

/// The seed of a dropout is no block of a tensor: every tile needs all of it.
fn is_seed(codelet: &Codelet, operand: usize) -> bool {
    matches!(codelet, Codelet::Dropout { .. }) && operand == 1
}

/// Layout of an operand that broadcasts: it is cut as the trailing dimensions are, and copied along the others.
fn trailing(layout: &Layout, rank: usize) -> Layout {
    Layout::new(
        layout.grid,
        layout.cuts[layout.cuts.len() - rank.min(layout.cuts.len())..]
            .iter()
            .cloned(),
    )
}

fn result_name(r: u32, results: u32) -> String {
    if results == 1 {
        String::new()
    } else {
        format!("{r}")
    }
}
