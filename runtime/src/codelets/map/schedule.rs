//! A map expression as a list of loops over registers: which register each node goes to, and when a register is free again.
//!
//! Few registers keep a chunk in L1. A node's register is free after its last reader; nodes that are outputs, constants and repeated
//! operands keep theirs.

use smallvec::SmallVec;
use superstep_ir::op::{BinaryOp, MapExpr, MapNode, UnaryOp};

/// Where a loop reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Register(u16),
    Operand(u16),
}

/// One loop over a chunk. The target is none of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    Copy {
        from: Source,
        target: u16,
    },
    Unary {
        op: UnaryOp,
        x: Source,
        target: u16,
    },
    Binary {
        op: BinaryOp,
        x: Source,
        y: Source,
        target: u16,
    },
}

impl Instruction {
    pub(super) fn target(&self) -> u16 {
        match *self {
            Instruction::Copy { target, .. }
            | Instruction::Unary { target, .. }
            | Instruction::Binary { target, .. } => target,
        }
    }
}

#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) instructions: Vec<Instruction>,
    /// Constants and the registers that hold them.
    pub(super) constants: Vec<(f32, u16)>,
    /// By operand: the register for its repeated elements.
    pub(super) operand_registers: Vec<u16>,
    /// By output.
    pub(super) outputs: Vec<u16>,
    pub(super) registers: usize,
}

impl Schedule {
    /// `expression` must be well formed.
    pub(super) fn of(expression: &MapExpr) -> Schedule {
        let mut schedule = Schedule {
            instructions: Vec::new(),
            constants: Vec::new(),
            operand_registers: (0..expression.operands as u16).collect(),
            outputs: Vec::new(),
            registers: expression.operands as usize,
        };
        let last_use = last_uses(expression);
        let mut free: Vec<u16> = Vec::new();
        let mut sources: Vec<Source> = Vec::new();
        for (i, &node) in expression.nodes.iter().enumerate() {
            let at = |a: u32| sources[a as usize];
            let source = match node {
                MapNode::Operand(index) => Source::Operand(index as u16),
                MapNode::Constant(value) => {
                    let register = schedule.fresh();
                    schedule.constants.push((value.0 as f32, register));
                    Source::Register(register)
                }
                MapNode::Unary(op, x) => {
                    let target = free.pop().unwrap_or_else(|| schedule.fresh());
                    schedule.instructions.push(Instruction::Unary {
                        op,
                        x: at(x),
                        target,
                    });
                    Source::Register(target)
                }
                MapNode::Binary(op, x, y) => {
                    let target = free.pop().unwrap_or_else(|| schedule.fresh());
                    schedule.instructions.push(Instruction::Binary {
                        op,
                        x: at(x),
                        y: at(y),
                        target,
                    });
                    Source::Register(target)
                }
            };
            sources.push(source);
            // Only now, so that the loop above does not write what it reads.
            for argument in arguments(node) {
                let is_computed = !matches!(
                    expression.nodes[argument as usize],
                    MapNode::Operand(_) | MapNode::Constant(_)
                );
                if let Source::Register(register) = sources[argument as usize]
                    && is_computed
                    && last_use[argument as usize] == Some(i)
                {
                    free.push(register);
                }
            }
        }
        for &output in &expression.outputs {
            let register = match sources[output as usize] {
                Source::Register(register) => register,
                // Read before any output is written, which may lie on it.
                from @ Source::Operand(_) => {
                    let target = schedule.fresh();
                    schedule
                        .instructions
                        .push(Instruction::Copy { from, target });
                    target
                }
            };
            schedule.outputs.push(register);
        }
        schedule
    }

    fn fresh(&mut self) -> u16 {
        self.registers += 1;
        (self.registers - 1) as u16
    }
}

/// The nodes that a node reads, each once.
fn arguments(node: MapNode) -> SmallVec<[u32; 2]> {
    match node {
        MapNode::Operand(_) | MapNode::Constant(_) => SmallVec::new(),
        MapNode::Unary(_, a) => SmallVec::from_slice(&[a]),
        MapNode::Binary(_, a, b) if a == b => SmallVec::from_slice(&[a]),
        MapNode::Binary(_, a, b) => SmallVec::from_slice(&[a, b]),
    }
}

/// The last node that reads each node; `None` for what nobody reads and for outputs, which live to the end of the chunk.
fn last_uses(expression: &MapExpr) -> Vec<Option<usize>> {
    let mut last = vec![None; expression.nodes.len()];
    for (i, &node) in expression.nodes.iter().enumerate() {
        for argument in arguments(node) {
            last[argument as usize] = Some(i);
        }
    }
    for &output in &expression.outputs {
        last[output as usize] = None;
    }
    last
}
