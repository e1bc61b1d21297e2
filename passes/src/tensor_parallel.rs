//! Tensor parallelism: the products of a layer divided over the IPUs of a group, Megatron style.
//!
//! Does     divides the columns of every product of a whole value with a weight of its layer over the members of the group, lets what follows
//!          work on those parts where it can, and divides the rows of the weight that the parts meet next. The members' results are then sums
//!          of a part of the terms each, and are added up on the first member. So attention is divided by heads (the columns of query, key and
//!          value each), and an MLP by its hidden columns. A weight that is divided becomes a state for each member, `weight.0`, `weight.1`, ….
//!          Norms, residual stream and whatever else is whole stays on the first member.
//! Needs    a forward graph whose layers are marked ([`Place::layer`]), in f32, before differentiation: the gradients of divided products are
//!          then divided, and those of what all members read are added up.
//! Leaves   every divided op with its [`Place::member`], and a graph that means the same up to the order of sums. Where dropout works on
//!          parts, every part draws from a sequence of its own.
//! Example  `%y = matmul %x, %w` and `%z = matmul (relu %y), %v` become `matmul %x, %w.i`, `relu`, `matmul .., %v.i` for each member `i`, and
//!          one `add`.

use rustc_hash::FxHashMap;
use superstep_ir::graph::{Graph, Place, Value};
use superstep_ir::ids::OpId;
use superstep_ir::op::{BinaryOp, Op, StateKind};
use superstep_ir::types::{Shape, TensorType};

use crate::pass::{Pass, PassContext, PassError};

/// Divides layers over groups of `members` IPUs; 1 changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct TensorParallel {
    pub members: u32,
}

impl Pass for TensorParallel {
    fn name(&self) -> &'static str {
        "tensor_parallel"
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassContext) -> Result<(), PassError> {
        if self.members <= 1 || !cx.may_rewrite(&graph.name) {
            return Ok(());
        }
        let keys = graph.ops().filter_map(|op| match graph.op(op) {
            Op::Dropout { key, .. } => Some(key + 1),
            _ => None,
        });
        let mut division = Division {
            keys: keys.max().unwrap_or(0),
            from: graph,
            out: Graph::new(graph.name.clone()),
            members: self.members as usize,
            values: FxHashMap::default(),
            products: 0,
        };
        for op in graph.topological() {
            division.op(op)?;
        }
        cx.count("products divided", division.products);
        *graph = division.out;
        Ok(())
    }
}

/// The name of a member's part of a state.
pub fn part_of(state: &str, member: usize) -> String {
    format!("{state}.{member}")
}

/// How a tensor lies in parts: the axis is `blocks` runs of equal length, one after the other, and every member has an equal share of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    axis: usize,
    blocks: usize,
}

/// What has become of a value of the old graph.
#[derive(Clone, Debug)]
enum Mapped {
    /// It is on the first member.
    Whole(Value),
    /// One part on each member.
    Parts(Vec<Value>, Split),
    /// A weight of a layer that nobody has read yet: its first reader decides.
    Unread,
}

struct Division<'g> {
    from: &'g Graph,
    out: Graph,
    members: usize,
    values: FxHashMap<Value, Mapped>,
    /// Dropouts have keys below.
    keys: u32,
    products: usize,
}

impl Division<'_> {
    fn op(&mut self, id: OpId) -> Result<(), PassError> {
        let node = self.from.node(id);
        if let Op::Parameter { kind, .. } = node.op
            && kind == StateKind::Weight
            && node.place.layer.is_some()
        {
            self.values.insert(self.from.value(id), Mapped::Unread);
            return Ok(());
        }
        if self.multiplies_weight(id) {
            return self.columns(id);
        }
        let parts = node.operands().iter().find_map(|v| match self.values[v] {
            Mapped::Parts(_, split) => Some((*v, split)),
            _ => None,
        });
        match (parts, &node.op) {
            (None, _) => self.whole(id),
            (Some((v, split)), Op::Matmul { .. }) if self.from.ty(v).shape.rank() == 2 => {
                self.rows(id, split)
            }
            (Some((v, split)), _) => self.each(id, v, split),
        }
    }

    fn refuse<T>(&self, id: OpId, reason: String) -> Result<T, PassError> {
        let op = self.from.node(id).name.clone();
        Err(PassError::Unsupported { op, reason })
    }

    /// Whether it is a product of a whole value with a weight that is there for it alone.
    fn multiplies_weight(&self, id: OpId) -> bool {
        let node = self.from.node(id);
        let is_product = matches!(
            node.op,
            Op::Matmul {
                transpose_a: false,
                ..
            }
        );
        is_product
            && node.operands().len() == 2
            && !matches!(self.values[&node.operands()[0]], Mapped::Parts(..))
            && matches!(self.values[&node.operands()[1]], Mapped::Unread)
    }

    /// The same op on whole operands.
    fn whole(&mut self, id: OpId) -> Result<(), PassError> {
        let node = self.from.node(id);
        let operands = node
            .operands()
            .iter()
            .map(|&v| self.whole_value(id, v))
            .collect::<Result<Vec<_>, _>>()?;
        let new = self
            .out
            .insert(node.op.clone(), &operands, node.name.clone(), node.place)?;
        for result in 0..node.results().len() as u32 {
            let value = Value { op: new, result };
            self.values
                .insert(Value { op: id, result }, Mapped::Whole(value));
        }
        Ok(())
    }

    fn whole_value(&mut self, id: OpId, value: Value) -> Result<Value, PassError> {
        match self.values[&value] {
            Mapped::Whole(value) => Ok(value),
            Mapped::Unread => {
                let node = self.from.node(value.op);
                let read = self
                    .out
                    .insert(node.op.clone(), &[], node.name.clone(), node.place)?;
                let read = self.out.value(read);
                self.values.insert(value, Mapped::Whole(read));
                Ok(read)
            }
            Mapped::Parts(..) => {
                let name = &self.from.node(value.op).name;
                self.refuse(
                    id,
                    format!("it reads \"{name}\" whole, which lies in parts"),
                )
            }
        }
    }

    /// The parts of a weight, each a state of its member; a weight has one way to lie.
    fn weight_parts(
        &mut self,
        id: OpId,
        value: Value,
        split: Split,
    ) -> Result<Vec<Value>, PassError> {
        match self.values[&value].clone() {
            Mapped::Parts(parts, known) if known == split => return Ok(parts),
            Mapped::Unread => {}
            _ => {
                let name = &self.from.node(value.op).name;
                return self.refuse(id, format!("\"{name}\" is read in two ways"));
            }
        }
        let node = self.from.node(value.op);
        let Op::Parameter {
            state, kind, ty, ..
        } = &node.op
        else {
            unreachable!("only weights are unread");
        };
        let ty = TensorType::new(ty.dtype, self.part(id, &ty.shape, split)?);
        let parts = (0..self.members).map(|member| {
            let state = part_of(state, member);
            let name = state.clone();
            let (kind, ty) = (*kind, ty.clone());
            let op = Op::Parameter {
                state,
                kind,
                ty,
                remote: false,
            };
            let id = self.out.insert(op, &[], name, on(node.place, member))?;
            Ok(self.out.value(id))
        });
        let parts = parts.collect::<Result<Vec<_>, PassError>>()?;
        self.values
            .insert(value, Mapped::Parts(parts.clone(), split));
        Ok(parts)
    }

    /// The shape of a part.
    fn part(&self, id: OpId, shape: &Shape, split: Split) -> Result<Shape, PassError> {
        let mut part = shape.clone();
        let (extent, shares) = (shape[split.axis], split.blocks * self.members);
        if !extent.is_multiple_of(shares) {
            let members = self.members;
            let runs = match split.blocks {
                1 => String::new(),
                blocks => format!("{blocks} × "),
            };
            let each = extent / split.blocks;
            return self.refuse(
                id,
                format!("{runs}{each} cannot be divided over {members} IPUs"),
            );
        }
        part.0[split.axis] = extent / self.members;
        Ok(part)
    }

    /// A product whose columns are divided.
    fn columns(&mut self, id: OpId) -> Result<(), PassError> {
        let node = self.from.node(id);
        let &[x, weight] = node.operands() else {
            unreachable!("it has two operands");
        };
        let Op::Matmul { transpose_b, .. } = node.op else {
            unreachable!("it is a product");
        };
        let blocks = self.blocks(self.from.value(id));
        let x = self.whole_value(id, x)?;
        let axis = usize::from(!transpose_b);
        let weights = self.weight_parts(id, weight, Split { axis, blocks })?;
        let operands = weights.into_iter().map(|w| vec![x, w]);
        self.insert_parts(
            id,
            |_| node.op.clone(),
            operands.collect(),
            Split { axis: 1, blocks },
        )?;
        self.products += 1;
        Ok(())
    }

    /// Runs of columns that are read one by one: the query, key and value of one product are three.
    fn blocks(&self, value: Value) -> usize {
        let shape = &self.from.ty(value).shape;
        let last = shape.rank() - 1;
        let readers = self.from.uses(value).into_iter().map(|u| {
            let result = self.from.node(u.op).results().first();
            match self.from.op(u.op) {
                Op::Slice { axis, len, .. } if *axis == last => shape[last] / len.max(&1),
                Op::Unary(_) | Op::Binary(_) if result.is_some_and(|ty| ty.shape == *shape) => {
                    self.blocks(self.from.value(u.op))
                }
                _ => 1,
            }
        });
        readers.max().unwrap_or(1).max(1)
    }

    /// A product over a divided axis: every member has a part of the terms, the first adds up.
    fn rows(&mut self, id: OpId, split: Split) -> Result<(), PassError> {
        let node = self.from.node(id);
        let (
            &[x, weight],
            Op::Matmul {
                transpose_a: false,
                transpose_b,
                ..
            },
        ) = (node.operands(), &node.op)
        else {
            return self.refuse(id, "a product of this form cannot be divided".into());
        };
        let (Mapped::Parts(xs, _), 1) = (self.values[&x].clone(), split.axis) else {
            return self.refuse(id, "its rows are divided, not its columns".into());
        };
        let axis = usize::from(*transpose_b);
        let weights = self.weight_parts(id, weight, Split { axis, ..split })?;
        let mut sum = None;
        for (member, (x, w)) in xs.into_iter().zip(weights).enumerate() {
            let (name, place) = (member_name(&node.name, member), on(node.place, member));
            let product = self.out.insert(node.op.clone(), &[x, w], name, place)?;
            let product = self.out.value(product);
            sum = Some(match sum {
                None => product,
                Some(sum) => {
                    let name = format!("{}.sum", node.name);
                    let add = Op::Binary(BinaryOp::Add);
                    let sum = self.out.insert(add, &[sum, product], name, node.place)?;
                    self.out.value(sum)
                }
            });
        }
        self.products += 1;
        let sum = sum.expect("a group has members");
        self.values.insert(self.from.value(id), Mapped::Whole(sum));
        Ok(())
    }

    /// An op that every member does on its part; `of` is an operand in parts.
    fn each(&mut self, id: OpId, of: Value, split: Split) -> Result<(), PassError> {
        let node = self.from.node(id);
        let rank = self.from.ty(of).shape.rank();
        let shape = &node.results()[0].shape;
        let same = |op: &Op| (op.clone(), split);
        let (op, after) = match &node.op {
            op @ (Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } | Op::Dropout { .. })
                if self.from.ty(of).shape == *shape =>
            {
                same(op)
            }
            op @ Op::Softmax { causal: false, .. } if split.axis + 1 < rank => same(op),
            op @ (Op::Softmax { .. } | Op::CausalMask) if split.axis + 2 < rank => same(op),
            op @ Op::Matmul { .. } if split.axis == 0 && rank == 3 => same(op),
            Op::Transpose { perm } => {
                let axis = perm.iter().position(|&from| from == split.axis);
                let axis = axis.unwrap_or(split.axis);
                (node.op.clone(), Split { axis, ..split })
            }
            Op::Slice { axis, .. } if *axis != split.axis => same(&node.op),
            Op::Slice { start, len, .. } => self.slice(id, of, split, *start, *len)?,
            Op::Reshape { shape } => {
                let Some(after) = reshaped(&self.from.ty(of).shape, split, shape, self.members)
                else {
                    let members = self.members;
                    return self
                        .refuse(id, format!("{shape} cannot be divided over {members} IPUs"));
                };
                let shape = self.part(id, shape, after)?;
                (Op::Reshape { shape }, after)
            }
            _ => return self.refuse(id, "it cannot work on parts".into()),
        };
        let operands = self.operands_of_parts(id, split)?;
        let keys = self.keys;
        let of_member = |member: usize| match op {
            Op::Dropout { p, key } => Op::Dropout {
                p,
                key: key + member as u32 * keys,
            },
            ref op => op.clone(),
        };
        self.insert_parts(id, of_member, operands, after)
    }

    /// A slice of whole blocks of the divided axis.
    fn slice(
        &self,
        id: OpId,
        of: Value,
        split: Split,
        start: usize,
        len: usize,
    ) -> Result<(Op, Split), PassError> {
        let axis = split.axis;
        let block = self.from.ty(of).shape[axis] / split.blocks;
        if !start.is_multiple_of(block) || !len.is_multiple_of(block) {
            return self.refuse(id, format!("it cuts runs of {block}, which lie in parts"));
        }
        let members = self.members;
        let (start, blocks) = (start / members, len / block);
        let len = len / members;
        Ok((Op::Slice { axis, start, len }, Split { axis, blocks }))
    }

    /// Operands of each member: its parts, and what is whole.
    fn operands_of_parts(&mut self, id: OpId, split: Split) -> Result<Vec<Vec<Value>>, PassError> {
        let node = self.from.node(id);
        let rank = node
            .operands()
            .iter()
            .map(|&v| self.from.ty(v).shape.rank());
        let rank = rank.max().unwrap_or(0);
        let mut of_members = vec![Vec::new(); self.members];
        for &v in node.operands() {
            // An operand of lower rank has the trailing axes.
            let own_rank = self.from.ty(v).shape.rank();
            let own = (split.axis + own_rank)
                .checked_sub(rank)
                .map(|axis| Split { axis, ..split });
            let parts = match (self.values[&v].clone(), own) {
                (Mapped::Parts(parts, known), Some(own)) if known == own => parts,
                (Mapped::Unread, Some(own)) => self.weight_parts(id, v, own)?,
                (Mapped::Whole(value), None) => vec![value; self.members],
                (Mapped::Unread, None) => vec![self.whole_value(id, v)?; self.members],
                (Mapped::Whole(value), _) if matches!(node.op, Op::Dropout { .. }) => {
                    vec![value; self.members]
                }
                _ => return self.refuse(id, "its operands lie in different parts".into()),
            };
            for (operands, part) in of_members.iter_mut().zip(parts) {
                operands.push(part);
            }
        }
        Ok(of_members)
    }

    fn insert_parts(
        &mut self,
        id: OpId,
        op: impl Fn(usize) -> Op,
        operands: Vec<Vec<Value>>,
        split: Split,
    ) -> Result<(), PassError> {
        let node = self.from.node(id);
        let mut parts = Vec::with_capacity(self.members);
        for (member, operands) in operands.into_iter().enumerate() {
            let (name, place) = (member_name(&node.name, member), on(node.place, member));
            let new = self.out.insert(op(member), &operands, name, place)?;
            parts.push(self.out.value(new));
        }
        self.values
            .insert(self.from.value(id), Mapped::Parts(parts, split));
        Ok(())
    }
}

fn on(place: Place, member: usize) -> Place {
    Place {
        member: Some(member as u32),
        ..place
    }
}

fn member_name(name: &str, member: usize) -> String {
    format!("member.{member}.{name}")
}

/// How a divided tensor lies in parts under another shape: each part is the same run of elements of every block, so an axis has to begin where
/// the blocks do, and its entries have to share out.
fn reshaped(from: &Shape, split: Split, to: &Shape, members: usize) -> Option<Split> {
    let runs = from.dims()[..split.axis].iter().product::<usize>() * split.blocks;
    let mut before = 1;
    for (axis, &extent) in to.dims().iter().enumerate() {
        if runs.is_multiple_of(before) && extent.is_multiple_of(runs / before) {
            let blocks = runs / before;
            let entries = extent / blocks;
            if entries > 1 {
                return entries
                    .is_multiple_of(members)
                    .then_some(Split { axis, blocks });
            }
        }
        before *= extent;
    }
    None
}

#[cfg(test)]
mod tests;
