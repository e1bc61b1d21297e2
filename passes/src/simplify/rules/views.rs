//! Ops that only move elements: composed, dropped, or left to the op that reads them.

use smallvec::SmallVec;
use superstep_ir::types::Shape;

use super::super::language::Attr;
use super::super::rule::{Match, Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    [moves(), cuts(), broadcasts(), matmuls()]
        .into_iter()
        .flatten()
        .collect()
}

fn moves() -> Vec<Rule> {
    vec![
        rule("reshape_same", "(reshape ?s ?x)", "?x").because("nothing changes"),
        rule(
            "reshape_reshape",
            "(reshape ?s (reshape ?t ?x))",
            "(reshape ?s ?x)",
        )
        .because("row-major order is kept by both"),
        rule("transpose_same", "(transpose ?p ?x)", "?x")
            .when(|m| Some(m.axes("?p")?.is_sorted()))
            .because("nothing moves"),
        rule(
            "transpose_transpose",
            "(transpose ?p (transpose ?q ?x))",
            "(transpose ?r ?x)",
        )
        .compute("?r", |m| {
            let inner = m.axes("?q")?;
            Some(Attr::Axes(
                m.axes("?p")?.iter().map(|&i| inner[i]).collect(),
            ))
        })
        .because("axis i is axis p[i] of the inner one, which is axis q[p[i]] of x"),
        rule("transpose_of_ones", "(transpose ?p ?x)", "(reshape ?s ?x)")
            .when(|m| {
                let dims = m.dims("?x")?;
                let moving = m.axes("?p")?.iter().filter(|&&axis| dims[axis] != 1);
                Some(moving.is_sorted())
            })
            .compute("?s", |m| {
                let dims = m.dims("?x")?;
                let turned: SmallVec<_> = m.axes("?p")?.iter().map(|&axis| dims[axis]).collect();
                Some(Attr::Shape(Shape(turned)))
            })
            .because("only axes of extent 1 move: the elements stay in order"),
    ]
}

fn cuts() -> Vec<Rule> {
    vec![
        rule("slice_all", "(slice ?a ?s ?n ?x)", "?x").because("the whole axis"),
        rule(
            "slice_slice",
            "(slice ?a ?s ?n (slice ?a ?t ?m ?x))",
            "(slice ?a ?u ?n ?x)",
        )
        .compute("?u", |m| Some(Attr::Count(m.count("?s")? + m.count("?t")?)))
        .because("starts add up"),
        rule("concat_one", "(concat ?a ?x)", "?x").because("nothing is joined"),
        rule(
            "concat_of_neighbours",
            "(concat ?a (slice ?a ?s ?n ?x) (slice ?a ?t ?m ?x))",
            "(slice ?a ?s ?k ?x)",
        )
        .when(|m| Some(m.count("?s")? + m.count("?n")? == m.count("?t")?))
        .compute("?k", |m| Some(Attr::Count(m.count("?n")? + m.count("?m")?)))
        .because("the pieces lie side by side in x already"),
        rule("slice_of_first", "(slice ?a ?s ?n (concat ?a ?x ?y))", "?x")
            .when(|m| Some(m.count("?s")? == 0 && m.count("?n")? == extent(m, "?x")?))
            .because("just the first piece"),
        rule(
            "slice_of_second",
            "(slice ?a ?s ?n (concat ?a ?x ?y))",
            "?y",
        )
        .when(|m| Some(m.count("?s")? == extent(m, "?x")? && m.count("?n")? == extent(m, "?y")?))
        .because("just the second piece"),
    ]
}

/// Elementwise ops broadcast by themselves. The type check of every rule sees to it that the result keeps its shape.
fn broadcasts() -> Vec<Rule> {
    macro_rules! implicit {
        ($($op:literal)*) => {
            vec![$(
                rule(
                    concat!($op, "_broadcast"),
                    concat!("(", $op, " ?x (broadcast ?s ?y))"),
                    concat!("(", $op, " ?x ?y)"),
                )
                .because("the op broadcasts its operand itself"),
                rule(
                    concat!("broadcast_", $op),
                    concat!("(", $op, " (broadcast ?s ?x) ?y)"),
                    concat!("(", $op, " ?x ?y)"),
                )
                .because("the op broadcasts its operand itself"),
            )*]
        };
    }
    let mut rules =
        implicit!("add" "sub" "mul" "div" "max" "min" "relu_grad" "gelu_tanh_grad" "gelu_erf_grad");
    rules.extend([
        rule("broadcast_same", "(broadcast ?s ?x)", "?x").because("nothing is repeated"),
        rule(
            "broadcast_broadcast",
            "(broadcast ?s (broadcast ?t ?x))",
            "(broadcast ?s ?x)",
        )
        .because("trailing axes of trailing axes"),
    ]);
    rules
}

fn matmuls() -> Vec<Rule> {
    vec![
        rule(
            "matmul_of_transpose",
            "(matmul ?ta ?tb (transpose ?p ?a) ?b)",
            "(matmul ?n ?tb ?a ?b)",
        )
        .when(|m| swaps_last_two(m, "?p"))
        .compute("?n", |m| Some(Attr::Flag(!m.flag("?ta")?)))
        .because("the product reads its operand either way"),
        rule(
            "matmul_by_transpose",
            "(matmul ?ta ?tb ?a (transpose ?p ?b))",
            "(matmul ?ta ?n ?a ?b)",
        )
        .when(|m| swaps_last_two(m, "?p"))
        .compute("?n", |m| Some(Attr::Flag(!m.flag("?tb")?)))
        .because("the product reads its operand either way"),
        rule(
            "transpose_of_matmul",
            "(transpose ?p (matmul ?ta ?tb ?a ?b))",
            "(matmul ?na ?nb ?b ?a)",
        )
        .when(|m| swaps_last_two(m, "?p"))
        .compute("?na", |m| Some(Attr::Flag(!m.flag("?tb")?)))
        .compute("?nb", |m| Some(Attr::Flag(!m.flag("?ta")?)))
        .because("(a b)ᵀ = bᵀ aᵀ"),
    ]
}

/// The extent of an operand along the axis `?a`.
fn extent(m: &Match<'_>, x: &str) -> Option<usize> {
    m.dims(x)?.get(m.count("?a")?).copied()
}

/// True for `[.., n, m]` of `[.., m, n]`.
fn swaps_last_two(m: &Match<'_>, perm: &str) -> Option<bool> {
    let (last_two, leading) = m.axes(perm)?.split_last_chunk::<2>().map(|(l, t)| (t, l))?;
    let n = leading.len();
    Some(*last_two == [n + 1, n] && leading.is_sorted())
}
