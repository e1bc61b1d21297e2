//! Text to graphs: a hand-written descent over tokens. Every error says where; no input makes it panic.

use rustc_hash::FxHashMap;

use super::Parsed;
use super::error::ParseErrorKind;
use super::lexer::Token;
use super::map_expr;
use super::names::default_name;
use super::op_parse::{Attribute, AttributeValue, OpParts, build_op};
use super::parser::{Parse, Parser};
use crate::graph::{Graph, Module, Phase, Place, Value};
use crate::ids::{IpuId, StageId};
use crate::op::MapExpr;
use crate::op::infer::infer;
use crate::types::{DType, Shape, TensorType};

/// Most elements a tensor of a text may have; keeps every product of extents far from overflow.
const ELEMENTS_MAX: usize = 1 << 40;

/// Any number of graphs.
pub(super) fn parse(text: &str) -> Parse<Parsed> {
    let mut p = Parser::new(text)?;
    let mut parsed = Parsed {
        module: Module::default(),
        lines: Vec::new(),
    };
    while *p.peek() != Token::End {
        let (at, graph, lines) = p.graph()?;
        if parsed.module.graph(&graph.name).is_some() {
            return p.fail_at(at, ParseErrorKind::RedefinedGraph(graph.name));
        }
        parsed.module.graphs.push(graph);
        parsed.lines.push(lines);
    }
    Ok(parsed)
}

/// Exactly one graph.
pub(super) fn parse_one(text: &str) -> Parse<Graph> {
    let mut p = Parser::new(text)?;
    let (_, graph, _) = p.graph()?;
    match p.peek() {
        Token::End => Ok(graph),
        _ => p.expected("the end of the text"),
    }
}

/// A statement as it stands in the text, operands resolved.
struct Statement<'s> {
    results: Vec<(&'s str, usize)>,
    mnemonic: &'s str,
    /// Where the mnemonic is.
    at: usize,
    operands: Vec<Value>,
    parts: OpParts,
    types_at: usize,
    name: Option<String>,
    place: Place,
}

type Values<'s> = FxHashMap<&'s str, Value>;

impl<'s> Parser<'s> {
    /// A graph, where its name stands, and the lines of its ops.
    fn graph(&mut self) -> Parse<(usize, Graph, Vec<usize>)> {
        if *self.peek() != Token::Word("graph") {
            return self.expected("`graph`");
        }
        self.advance();
        self.sign('@', "`@` and the name of the graph")?;
        let at = self.position();
        let name = match self.take_quoted() {
            Some(name) => name,
            None => match self.take_word() {
                Some(word) => word.to_string(),
                None => return self.expected("the name of the graph"),
            },
        };
        self.sign('{', "`{`")?;
        let mut graph = Graph::new(name);
        let mut values = Values::default();
        let mut lines = Vec::new();
        let mut lines_seen = (0, 1);
        while !self.take_sign('}') {
            let start = self.position();
            self.statement(&mut graph, &mut values)?;
            let (from, line) = lines_seen;
            let line = line + self.text[from..start].matches('\n').count();
            lines_seen = (start, line);
            lines.push(line);
        }
        Ok((at, graph, lines))
    }

    fn statement(&mut self, graph: &mut Graph, values: &mut Values<'s>) -> Parse<()> {
        let statement = self.parse_statement(values)?;
        let at = statement.at;
        let op = match build_op(statement.mnemonic, &statement.parts) {
            Ok(op) => op,
            Err((offset, kind)) => return self.fail_at(offset.unwrap_or(at), *kind),
        };
        let operands: Vec<&TensorType> = statement.operands.iter().map(|&v| graph.ty(v)).collect();
        let inferred = match infer(&op, &operands) {
            Ok(types) => types,
            Err(error) => return self.fail_at(at, error.into()),
        };
        self.check_types(&statement, op.name(), &inferred)?;
        let first = statement.results.first().map_or("", |r| r.0);
        let name = match &statement.name {
            Some(name) => name.clone(),
            None => default_name(&op, first),
        };
        let id = match graph.insert(op, &statement.operands, name, statement.place) {
            Ok(id) => id,
            Err(error) => return self.fail_at(at, error.into()),
        };
        for (result, &(name, at)) in statement.results.iter().enumerate() {
            let value = Value {
                op: id,
                result: result as u32,
            };
            if values.insert(name, value).is_some() {
                return self.fail_at(at, ParseErrorKind::RedefinedValue(name.into()));
            }
        }
        Ok(())
    }

    /// As many results as named and declared, of the types declared.
    fn check_types(
        &self,
        statement: &Statement<'_>,
        op: &'static str,
        inferred: &[TensorType],
    ) -> Parse<()> {
        let (given, named) = (inferred.len(), statement.results.len());
        if named != given {
            let kind = ParseErrorKind::ResultCount { op, given, named };
            return self.fail_at(statement.at, kind);
        }
        let declared = &statement.parts.types;
        if declared.is_empty() {
            return Ok(());
        }
        if declared.len() != given {
            let declared = declared.len();
            let kind = ParseErrorKind::TypeCount {
                op,
                given,
                declared,
            };
            return self.fail_at(statement.types_at, kind);
        }
        for ((ty, at), (inferred, result)) in
            declared.iter().zip(inferred.iter().zip(&statement.results))
        {
            if ty != inferred {
                let kind = ParseErrorKind::TypeMismatch {
                    op,
                    value: result.0.into(),
                    declared: ty.clone(),
                    inferred: inferred.clone(),
                };
                return self.fail_at(*at, kind);
            }
        }
        Ok(())
    }

    /// `[%a, %b =] mnemonic ["subject"] [number] [%x, %y] [{…}] [: type, type] ["name"] [@place]`
    fn parse_statement(&mut self, values: &Values<'s>) -> Parse<Statement<'s>> {
        let mut results = Vec::new();
        if matches!(self.peek(), Token::Value(_)) {
            results = self.value_names()?;
            self.sign('=', "`=`")?;
        }
        let at = self.position();
        let Some(mnemonic) = self.take_word() else {
            return self.expected("an op");
        };
        let mut parts = OpParts {
            subject: self.take_quoted(),
            literal: self.take_real()?,
            ..OpParts::default()
        };
        let mut operands = Vec::new();
        if matches!(self.peek(), Token::Value(_)) {
            for (name, at) in self.value_names()? {
                match values.get(name) {
                    Some(&v) => operands.push(v),
                    None => {
                        return self.fail_at(at, ParseErrorKind::UndefinedValue(name.into()));
                    }
                }
            }
        }
        if self.take_sign('{') {
            if mnemonic == "map" {
                parts.expression = Some(self.map(operands.len())?);
            } else {
                parts.attributes = self.attributes()?;
            }
        }
        let types_at = self.position();
        if self.take_sign(':') {
            parts.types = self.types()?;
        }
        let name = self.take_quoted();
        let place = if self.take_sign('@') {
            self.place()?
        } else {
            Place::default()
        };
        Ok(Statement {
            results,
            mnemonic,
            at,
            operands,
            parts,
            types_at,
            name,
            place,
        })
    }

    fn map(&mut self, operands: usize) -> Parse<MapExpr> {
        map_expr::parse(self, operands)
    }

    /// `%a, %b`
    fn value_names(&mut self) -> Parse<Vec<(&'s str, usize)>> {
        let mut names = Vec::new();
        loop {
            match self.take_value() {
                Some(name) => names.push(name),
                None => return self.expected("a value"),
            }
            if !self.take_sign(',') {
                return Ok(names);
            }
        }
    }

    /// `key, key: 1.5, key: [1, 0]}` with the brace.
    fn attributes(&mut self) -> Parse<Vec<Attribute>> {
        let mut attributes: Vec<Attribute> = Vec::new();
        while !self.take_sign('}') {
            if !attributes.is_empty() {
                self.sign(',', "`,` or `}`")?;
            }
            let at = self.position();
            let Some(key) = self.take_word() else {
                return self.expected("an attribute");
            };
            if attributes.iter().any(|a| a.key == key) {
                return self.fail_at(at, ParseErrorKind::RepeatedAttribute(key.into()));
            }
            let value = if self.take_sign(':') {
                self.attribute_value()?
            } else {
                AttributeValue::Flag
            };
            attributes.push(Attribute {
                key: key.to_string(),
                value,
                at,
            });
        }
        Ok(attributes)
    }

    fn attribute_value(&mut self) -> Parse<AttributeValue> {
        if self.take_sign('[') {
            return Ok(AttributeValue::List(self.extents()?));
        }
        // A whole number stays text until the attribute says of which kind it is.
        if let Token::Number(digits) = *self.peek()
            && let Ok(whole) = digits.parse::<usize>()
        {
            self.advance();
            return Ok(AttributeValue::Whole(whole));
        }
        if let Token::Word(word) = *self.peek()
            && let Some(dtype) = DType::from_name(word)
        {
            self.advance();
            return Ok(AttributeValue::DType(dtype));
        }
        match self.take_real()? {
            Some(real) => Ok(AttributeValue::Real(real)),
            None => self.expected("a number, a list or an element type"),
        }
    }

    /// `2, 48]` with the bracket.
    fn extents(&mut self) -> Parse<Vec<usize>> {
        let mut list = Vec::new();
        while !self.take_sign(']') {
            if !list.is_empty() {
                self.sign(',', "`,` or `]`")?;
            }
            list.push(self.whole_number("a whole number")?);
        }
        Ok(list)
    }

    /// `f32[2, 48], i32[2]`
    fn types(&mut self) -> Parse<Vec<(TensorType, usize)>> {
        let mut types = Vec::new();
        loop {
            let at = self.position();
            types.push((self.tensor_type()?, at));
            if !self.take_sign(',') {
                return Ok(types);
            }
        }
    }

    fn tensor_type(&mut self) -> Parse<TensorType> {
        let at = self.position();
        let Some(word) = self.take_word() else {
            return self.expected("a type such as `f32[2, 48]`");
        };
        let Some(dtype) = DType::from_name(word) else {
            return self.fail_at(at, ParseErrorKind::UnknownDType(word.into()));
        };
        self.sign('[', "`[` and the extents")?;
        let extents = self.extents()?;
        if extents.contains(&0) {
            return self.fail_at(at, ParseErrorKind::ZeroExtent);
        }
        let elements = extents
            .iter()
            .try_fold(1usize, |n, &e| n.checked_mul(e))
            .filter(|&n| n <= ELEMENTS_MAX);
        match elements {
            Some(_) => Ok(TensorType::new(dtype, Shape::new(&extents))),
            None => self.fail_at(at, ParseErrorKind::TensorTooLarge),
        }
    }

    /// `ipu 0 stage 1 backward layer 3 member 1`, every part optional.
    fn place(&mut self) -> Parse<Place> {
        let mut place = Place::default();
        let mut parts = 0;
        while let Token::Word(word) = *self.peek() {
            let phase = Phase::ALL.into_iter().find(|p| p.name() == word);
            match word {
                "ipu" | "stage" | "layer" | "member" => {
                    self.advance();
                    let n: u32 = self.whole_number("a number")?;
                    match word {
                        "ipu" => place.ipu = Some(IpuId(n)),
                        "stage" => place.stage = Some(StageId(n)),
                        "layer" => place.layer = Some(n),
                        _ => place.member = Some(n),
                    }
                }
                _ => match phase {
                    Some(phase) => {
                        self.advance();
                        place.phase = phase;
                    }
                    None => break,
                },
            }
            parts += 1;
        }
        if parts == 0 {
            return self.expected("`ipu`, `stage`, `layer`, `member` or a phase");
        }
        Ok(place)
    }
}
