//! What can be wrong with a text, and where.

use std::fmt;

use thiserror::Error;

use crate::op::infer::TypeError;
use crate::types::TensorType;

/// An error in a text, shown with the line it is on and a caret below the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The text of the line.
    pub source_line: String,
    pub kind: Box<ParseErrorKind>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseErrorKind {
    #[error("unexpected character {0:?}")]
    Character(char),
    #[error("a quoted name does not end on its line")]
    UnterminatedString,
    #[error("unknown escape in a quoted name")]
    Escape,
    #[error("expected {expected}, found {found}")]
    Expected {
        expected: &'static str,
        found: String,
    },
    #[error("`{0}` is not a number that fits here")]
    Number(String),
    #[error("unknown op `{0}`")]
    UnknownOp(String),
    #[error("unknown element type `{0}`")]
    UnknownDType(String),
    #[error("an extent is 0")]
    ZeroExtent,
    #[error("the tensor is too large")]
    TensorTooLarge,
    #[error("`%{0}` is not defined above")]
    UndefinedValue(String),
    #[error("`%{0}` is defined twice")]
    RedefinedValue(String),
    #[error("there is a graph `@{0}` already")]
    RedefinedGraph(String),
    #[error("{op} has no attribute `{attribute}`")]
    UnknownAttribute { op: &'static str, attribute: String },
    #[error("`{0}` is given twice")]
    RepeatedAttribute(String),
    #[error("{op} needs the attribute `{attribute}`")]
    MissingAttribute {
        op: &'static str,
        attribute: &'static str,
    },
    #[error("{op} takes its result from the type column: one type is needed")]
    MissingType { op: &'static str },
    #[error("{op} needs {what}")]
    MissingPart {
        op: &'static str,
        what: &'static str,
    },
    #[error("{op} does not take {what}")]
    ExtraPart {
        op: &'static str,
        what: &'static str,
    },
    #[error("`{0}` is not defined in this expression")]
    UndefinedTerm(String),
    #[error("`{0}` is no elementwise function of that many arguments")]
    UnknownFunction(String),
    #[error("the expression is nested too deeply")]
    TooDeep,
    #[error("{op} gives {given} results, {named} are named")]
    ResultCount {
        op: &'static str,
        given: usize,
        named: usize,
    },
    #[error("{op} gives {given} results, {declared} types are declared")]
    TypeCount {
        op: &'static str,
        given: usize,
        declared: usize,
    },
    #[error("`%{value}` is declared {declared}, but {op} gives {inferred}")]
    TypeMismatch {
        op: &'static str,
        value: String,
        declared: TensorType,
        inferred: TensorType,
    },
    #[error("{0}")]
    Type(#[from] TypeError),
}

impl ParseError {
    /// An error at a byte offset of `text`.
    pub(super) fn at(text: &str, offset: usize, kind: ParseErrorKind) -> ParseError {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let rest = &text[line_start..];
        let source_line = rest.split('\n').next().unwrap_or_default();
        ParseError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            source_line: source_line.trim_end_matches('\r').to_string(),
            kind: Box::new(kind),
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.kind
        )?;
        writeln!(f, "  | {}", self.source_line)?;
        // Tabs stay tabs, so that the caret is below its character whatever their width.
        let indent: String = self
            .source_line
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        write!(f, "  | {indent}^")
    }
}

impl std::error::Error for ParseError {}
