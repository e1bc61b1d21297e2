//! From a mnemonic and its parts to an [`Op`].

use smallvec::SmallVec;

use super::error::ParseErrorKind;
use crate::op::{BinaryOp, MapExpr, Op, ReduceKind, StateKind, UnaryOp};
use crate::types::{DType, Real, TensorType};

/// What a statement says beside mnemonic, operands, name and place.
#[derive(Default)]
pub(super) struct OpParts {
    pub(super) subject: Option<String>,
    pub(super) literal: Option<Real>,
    pub(super) attributes: Vec<Attribute>,
    pub(super) expression: Option<MapExpr>,
    /// Declared types and where they stand.
    pub(super) types: Vec<(TensorType, usize)>,
}

pub(super) struct Attribute {
    pub(super) key: String,
    pub(super) value: AttributeValue,
    pub(super) at: usize,
}

pub(super) enum AttributeValue {
    Flag,
    Whole(usize),
    Real(Real),
    List(Vec<usize>),
    DType(DType),
}

/// What is wrong, and where if not at the mnemonic.
type Wrong = (Option<usize>, Box<ParseErrorKind>);
type Built<T> = Result<T, Wrong>;

fn wrong<T>(kind: ParseErrorKind) -> Built<T> {
    Err((None, Box::new(kind)))
}

/// The op of a statement; every part must be one that the op takes.
pub(super) fn build_op(mnemonic: &str, parts: &OpParts) -> Built<Op> {
    let Some(op) = MNEMONICS.iter().find(|m| **m == mnemonic).copied() else {
        return wrong(ParseErrorKind::UnknownOp(mnemonic.to_string()));
    };
    let mut b = OpBuilder {
        op,
        parts,
        used: vec![false; parts.attributes.len()],
        subject_used: false,
        literal_used: false,
    };
    let built = b.build()?;
    b.check_nothing_left()?;
    Ok(built)
}

/// Mnemonics that are not of an elementwise function, then those that are.
const MNEMONICS: [&str; 51] = {
    const OTHERS: [&str; 29] = [
        "constant",
        "parameter",
        "assign",
        "input",
        "output",
        "matmul",
        "map",
        "cast",
        "dropout",
        "layer_norm",
        "layer_norm_grad",
        "layer_norm_param_grad",
        "causal_mask",
        "mask_beyond",
        "softmax",
        "softmax_grad",
        "cross_entropy",
        "cross_entropy_grad",
        "gather",
        "scatter_add",
        "write_rows",
        "reduce_sum",
        "reduce_sum_squares",
        "reduce_max",
        "reshape",
        "transpose",
        "slice",
        "concat",
        "broadcast",
    ];
    let mut all = [""; 51];
    let mut i = 0;
    while i < OTHERS.len() {
        all[i] = OTHERS[i];
        i += 1;
    }
    let mut j = 0;
    while j < UnaryOp::ALL.len() {
        all[i + j] = UnaryOp::ALL[j].name();
        j += 1;
    }
    let mut k = 0;
    while k < BinaryOp::ALL.len() {
        all[i + j + k] = BinaryOp::ALL[k].name();
        k += 1;
    }
    all
};

struct OpBuilder<'a> {
    op: &'static str,
    parts: &'a OpParts,
    /// Attributes taken so far.
    used: Vec<bool>,
    subject_used: bool,
    literal_used: bool,
}

impl OpBuilder<'_> {
    fn build(&mut self) -> Built<Op> {
        Ok(match self.op {
            "constant" => Op::Constant {
                value: self.literal()?,
                ty: self.declared()?,
            },
            "parameter" => Op::Parameter {
                state: self.subject("the name of a state")?,
                kind: self.state_kind()?,
                ty: self.declared()?,
                remote: self.flag("remote")?,
            },
            "assign" => Op::Assign {
                state: self.subject("the name of a state")?,
            },
            "input" => Op::Input {
                stream: self.subject("the name of a stream")?,
                ty: self.declared()?,
            },
            "output" => Op::Output {
                stream: self.subject("the name of a stream")?,
            },
            "matmul" => Op::Matmul {
                transpose_a: self.flag("transpose_a")?,
                transpose_b: self.flag("transpose_b")?,
                out: self.out()?,
            },
            "map" => match &self.parts.expression {
                Some(expression) => Op::Map(expression.clone()),
                None => return self.missing("an expression in braces"),
            },
            "cast" => Op::Cast {
                to: self.declared()?.dtype,
            },
            "reshape" => Op::Reshape {
                shape: self.declared()?.shape,
            },
            "broadcast" => Op::Broadcast {
                shape: self.declared()?.shape,
            },
            "gather" => Op::Gather {
                first: self.optional_whole("first")?,
            },
            "scatter_add" => Op::ScatterAdd {
                first: self.optional_whole("first")?,
            },
            "write_rows" => Op::WriteRows,
            "transpose" => Op::Transpose {
                perm: SmallVec::from_vec(self.list("perm")?),
            },
            "slice" => Op::Slice {
                axis: self.whole("axis")?,
                start: self.whole("start")?,
                len: self.whole("len")?,
            },
            "all_reduce" => Op::AllReduce,
            "reduce_scatter" => Op::ReduceScatter,
            "shard" => Op::Shard,
            "all_gather" => Op::AllGather {
                replicas: self.whole("replicas")?,
            },
            "concat" => Op::Concat {
                axis: self.whole("axis")?,
            },
            "reduce_sum" => self.reduce(ReduceKind::Sum)?,
            "reduce_sum_squares" => self.reduce(ReduceKind::SumSquares)?,
            "reduce_max" => self.reduce(ReduceKind::Max)?,
            _ => self.rows_or_function()?,
        })
    }

    fn rows_or_function(&mut self) -> Built<Op> {
        Ok(match self.op {
            "dropout" => Op::Dropout {
                p: self.real("p")?,
                key: self.key()?,
            },
            "layer_norm" => Op::LayerNorm {
                epsilon: self.real("epsilon")?,
            },
            "layer_norm_grad" => Op::LayerNormGrad,
            "layer_norm_param_grad" => Op::LayerNormParamGrad,
            "causal_mask" => Op::CausalMask,
            "mask_beyond" => Op::MaskBeyond,
            "softmax" => Op::Softmax {
                scale: self.scale()?,
                causal: self.flag("causal")?,
            },
            "softmax_grad" => Op::SoftmaxGrad {
                scale: self.scale()?,
            },
            "cross_entropy" => Op::CrossEntropy {
                padding: self.whole_or_zero("padding")?,
            },
            "cross_entropy_grad" => Op::CrossEntropyGrad {
                first: self.whole_or_zero("first")?,
                padding: self.whole_or_zero("padding")?,
            },
            name => {
                let unary = UnaryOp::ALL.into_iter().find(|u| u.name() == name);
                let binary = BinaryOp::ALL.into_iter().find(|b| b.name() == name);
                match (unary, binary) {
                    (Some(u), _) => Op::Unary(u),
                    (_, Some(b)) => Op::Binary(b),
                    _ => return wrong(ParseErrorKind::UnknownOp(name.to_string())),
                }
            }
        })
    }

    fn missing<T>(&self, what: &'static str) -> Built<T> {
        wrong(ParseErrorKind::MissingPart { op: self.op, what })
    }

    fn subject(&mut self, what: &'static str) -> Built<String> {
        self.subject_used = true;
        match &self.parts.subject {
            Some(subject) => Ok(subject.clone()),
            None => self.missing(what),
        }
    }

    fn literal(&mut self) -> Built<Real> {
        self.literal_used = true;
        match self.parts.literal {
            Some(value) => Ok(value),
            None => self.missing("a value"),
        }
    }

    /// The one type of the type column, for ops that take it from there.
    fn declared(&self) -> Built<TensorType> {
        match self.parts.types.as_slice() {
            [(ty, _)] => Ok(ty.clone()),
            _ => wrong(ParseErrorKind::MissingType { op: self.op }),
        }
    }

    fn state_kind(&mut self) -> Built<StateKind> {
        for kind in StateKind::ALL {
            if self.flag(kind.name())? {
                return Ok(kind);
            }
        }
        self.missing("`weight`, `accumulator`, `optimiser_state`, `counter` or `cache` in braces")
    }

    fn reduce(&mut self, kind: ReduceKind) -> Built<Op> {
        Ok(Op::Reduce {
            kind,
            leading: self.whole("leading")?,
            out: self.out()?,
        })
    }

    fn attribute(&mut self, key: &str) -> Option<&Attribute> {
        let i = self.parts.attributes.iter().position(|a| a.key == key)?;
        self.used[i] = true;
        Some(&self.parts.attributes[i])
    }

    fn need(&mut self, key: &'static str) -> Built<&Attribute> {
        let op = self.op;
        match self.attribute(key) {
            Some(attribute) => Ok(attribute),
            None => wrong(ParseErrorKind::MissingAttribute { op, attribute: key }),
        }
    }

    fn flag(&mut self, key: &str) -> Built<bool> {
        match self.attribute(key) {
            None => Ok(false),
            Some(Attribute {
                value: AttributeValue::Flag,
                ..
            }) => Ok(true),
            Some(a) => wrong_kind(a, "no value after the attribute"),
        }
    }

    fn real(&mut self, key: &'static str) -> Built<Real> {
        real_value(self.need(key)?)
    }

    /// 1 unless it is given.
    fn scale(&mut self) -> Built<Real> {
        self.attribute("scale").map_or(Ok(Real(1.0)), real_value)
    }

    fn whole(&mut self, key: &'static str) -> Built<usize> {
        whole_value(self.need(key)?)
    }

    fn optional_whole(&mut self, key: &str) -> Built<Option<usize>> {
        self.attribute(key).map(whole_value).transpose()
    }

    fn whole_or_zero(&mut self, key: &str) -> Built<usize> {
        Ok(self.optional_whole(key)?.unwrap_or(0))
    }

    /// The element type of a result, where it is stated.
    fn out(&mut self) -> Built<Option<DType>> {
        match self.attribute("out") {
            None => Ok(None),
            Some(a) => match a.value {
                AttributeValue::DType(dtype) => Ok(Some(dtype)),
                _ => wrong_kind(a, "an element type after the attribute"),
            },
        }
    }

    fn key(&mut self) -> Built<u32> {
        let key = self.whole("key")?;
        u32::try_from(key).or_else(|_| wrong(ParseErrorKind::Number(key.to_string())))
    }

    fn list(&mut self, key: &'static str) -> Built<Vec<usize>> {
        let a = self.need(key)?;
        match &a.value {
            AttributeValue::List(list) => Ok(list.clone()),
            _ => wrong_kind(a, "a list after the attribute"),
        }
    }

    fn check_nothing_left(&self) -> Built<()> {
        let extra = |what| wrong(ParseErrorKind::ExtraPart { op: self.op, what });
        if self.parts.subject.is_some() && !self.subject_used {
            return extra("a quoted name before its operands");
        }
        if self.parts.literal.is_some() && !self.literal_used {
            return extra("a number");
        }
        for (a, used) in self.parts.attributes.iter().zip(&self.used) {
            if !used {
                let attribute = a.key.clone();
                let op = self.op;
                let kind = ParseErrorKind::UnknownAttribute { op, attribute };
                return Err((Some(a.at), Box::new(kind)));
            }
        }
        Ok(())
    }
}

fn whole_value(a: &Attribute) -> Built<usize> {
    match a.value {
        AttributeValue::Whole(n) => Ok(n),
        _ => wrong_kind(a, "a whole number after the attribute"),
    }
}

fn real_value(a: &Attribute) -> Built<Real> {
    match a.value {
        AttributeValue::Real(v) => Ok(v),
        AttributeValue::Whole(n) => Ok(Real(n as f64)),
        _ => wrong_kind(a, "a number after the attribute"),
    }
}

fn wrong_kind<T>(a: &Attribute, expected: &'static str) -> Built<T> {
    let found = format!("`{}`", a.key);
    let kind = ParseErrorKind::Expected { expected, found };
    Err((Some(a.at), Box::new(kind)))
}
