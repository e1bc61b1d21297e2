//! What is said about wrong texts, and where.

use super::*;

/// The error of a graph with these statements behind `%x = input "x" : f32[8, 16]`.
fn error(statement: &str) -> ParseError {
    let text = format!("graph @f {{\n  %x = input \"x\" : f32[8, 16]\n  {statement}\n}}\n");
    parse_graph(&text).expect_err(statement)
}

fn check(statement: &str, message: &str, under_caret: &str) {
    let e = error(statement);
    let shown = e.to_string();
    assert_eq!(e.kind.to_string(), message, "{shown}");
    assert_eq!(e.line, 3, "{shown}");
    let rest: String = e.source_line.chars().skip(e.column - 1).collect();
    assert!(rest.starts_with(under_caret), "{shown}");
}

#[test]
fn type_errors_name_both_types() {
    check(
        "%y = gelu_tanh %x : f32[8, 4]",
        "`%y` is declared f32[8, 4], but gelu_tanh gives f32[8, 16]",
        "f32[8, 4]",
    );
    check(
        "%y = matmul %x, %x : f32[8, 8]",
        "matmul: contracts 16 with 8",
        "matmul",
    );
}

#[test]
fn wrong_statements_are_pointed_at() {
    check(
        "%y = frobnicate %x",
        "unknown op `frobnicate`",
        "frobnicate",
    );
    check("%y = neg %z", "`%z` is not defined above", "%z");
    check(
        "%y, %z = map %x {neg($0) as f16, $0}",
        "expected `as` and a type after every output or after none, found `}`",
        "}",
    );
    check(
        "%y = map %x {neg($0) as g16}",
        "unknown element type `g16`",
        "g16",
    );
    check(
        "%y = matmul %x, %x {transpose_a, out: 3}",
        "expected an element type after the attribute, found `out`",
        "out",
    );
    check("%x = neg %x", "`%x` is defined twice", "%x =");
    check("%y = neg %x : g32[2]", "unknown element type `g32`", "g32");
    check("%y = neg %x : f32[0]", "an extent is 0", "f32[0]");
    check(
        "%y = constant 1 : f32[99999999, 99999999]",
        "the tensor is too large",
        "f32",
    );
    check("%y = neg", "neg: takes 1 operands, got 0", "neg");
    check("%y, %z = neg %x", "neg gives 1 results, 2 are named", "neg");
    check(
        "%y = neg %x : f32[8, 16], f32[8, 16]",
        "neg gives 1 results, 2 types are declared",
        ": f32",
    );
    check(
        "%y = neg \"a\" %x",
        "neg does not take a quoted name before its operands",
        "neg",
    );
    check("%y = neg 3 %x", "neg does not take a number", "neg");
    check("%y = neg %x ! 3", "unexpected character '!'", "!");
    check(
        "%y = neg %x \"abc",
        "a quoted name does not end on its line",
        "\"abc",
    );
    check(
        "%y = neg %x \"a\\q\"",
        "unknown escape in a quoted name",
        "\\q",
    );
}

#[test]
fn wrong_attributes_are_pointed_at() {
    check(
        "%y = softmax %x {casual}",
        "softmax has no attribute `casual`",
        "casual",
    );
    check(
        "%y = softmax %x {causal, causal}",
        "`causal` is given twice",
        "causal}",
    );
    check(
        "%y = slice %x {axis: 0, start: 1}",
        "slice needs the attribute `len`",
        "slice",
    );
    check(
        "%y = slice %x {axis: 0, start: -1, len: 2}",
        "expected a whole number after the attribute, found `start`",
        "start",
    );
    check(
        "%y = parameter \"w\" : f32[2]",
        "parameter needs `weight`, `accumulator`, `optimiser_state`, `counter` or `cache` in braces",
        "parameter",
    );
    check(
        "%y = reshape %x",
        "reshape takes its result from the type column: one type is needed",
        "reshape",
    );
    check(
        "%y = neg %x @gpu 0",
        "expected `ipu`, `stage`, `layer`, `member` or a phase, found `gpu`",
        "gpu",
    );
    check(
        "%y = neg %x @ipu 4294967296",
        "`4294967296` is not a number that fits here",
        "4294967296",
    );
}

#[test]
fn wrong_expressions_are_pointed_at() {
    check("%y = map %x", "map needs an expression in braces", "map");
    check(
        "%y = map %x {add($0)}",
        "`add` is no elementwise function of that many arguments",
        "add",
    );
    check(
        "%y = map %x {t1}",
        "`t1` is not defined in this expression",
        "t1",
    );
    check("%y = map %x {neg($1)}", "map: malformed expression", "map");
    let deep = format!(
        "%y = map %x {{{}$0{}}}",
        "neg(".repeat(100),
        ")".repeat(100)
    );
    assert_eq!(*error(&deep).kind, ParseErrorKind::TooDeep);
    let very_deep = format!("%y = map %x {{{}", "neg(".repeat(100_000));
    assert_eq!(*error(&very_deep).kind, ParseErrorKind::TooDeep);
}

#[test]
fn an_error_shows_line_and_caret() {
    assert_eq!(
        error("%y = matmul %x, %q").to_string(),
        "line 3, column 19: `%q` is not defined above\n  |   %y = matmul %x, %q\n  |                   ^"
    );
    let e = parse_module("graph @a { }\ngraph @a { }").unwrap_err();
    assert_eq!((e.line, e.column), (2, 8));
    assert!(parse_graph("graph @a { } graph @b { }").is_err());
    assert!(parse_graph("graph @f {").is_err());
    assert!(parse_graph("").is_err());
}
