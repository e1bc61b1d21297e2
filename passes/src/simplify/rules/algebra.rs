//! Elementwise arithmetic. In `(constant ?c ?t)`, `?c` is the number and `?t` the type.

use superstep_ir::types::{Real, Shape, TensorType};

use super::super::language::Attr;
use super::super::rule::{Match, Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    [neutral(), signs(), factors(), functions()]
        .into_iter()
        .flatten()
        .collect()
}

fn neutral() -> Vec<Rule> {
    vec![
        rule("mul_one", "(mul ?x (constant 1.0 ?t))", "?x").because("x · 1 = x"),
        rule("div_one", "(div ?x (constant 1.0 ?t))", "?x").because("x / 1 = x"),
        rule("add_zero", "(add ?x (constant 0.0 ?t))", "?x").because("x + 0 = x"),
        rule("sub_zero", "(sub ?x (constant 0.0 ?t))", "?x").because("x − 0 = x"),
        rule("max_same", "(max ?x ?x)", "?x").because("max(x, x) = x"),
        rule("min_same", "(min ?x ?x)", "?x").because("min(x, x) = x"),
    ]
}

fn signs() -> Vec<Rule> {
    vec![
        rule("neg_neg", "(neg (neg ?x))", "?x").because("−(−x) = x"),
        rule("add_neg", "(add ?x (neg ?y))", "(sub ?x ?y)").because("x + (−y) = x − y"),
        rule("neg_add", "(add (neg ?x) ?y)", "(sub ?y ?x)").because("(−x) + y = y − x"),
        rule("sub_neg", "(sub ?x (neg ?y))", "(add ?x ?y)").because("x − (−y) = x + y"),
        rule("neg_sub", "(neg (sub ?x ?y))", "(sub ?y ?x)").because("−(x − y) = y − x"),
        rule("mul_minus_one", "(mul ?x (constant -1.0 ?t))", "(neg ?x)").because("x · (−1) = −x"),
        rule(
            "neg_scaled",
            "(neg (mul ?x (constant ?c ?t)))",
            "(mul ?x (constant ?d ?t))",
        )
        .compute("?d", |m| Some(number(-m.number("?c")?)))
        .because("−(x · c) = x · (−c)"),
        rule(
            "scaled_neg",
            "(mul (neg ?x) (constant ?c ?t))",
            "(mul ?x (constant ?d ?t))",
        )
        .compute("?d", |m| Some(number(-m.number("?c")?)))
        .because("(−x) · c = x · (−c)"),
        rule("neg_times_neg", "(mul (neg ?x) (neg ?y))", "(mul ?x ?y)").because("(−x)(−y) = x y"),
        rule("square_neg", "(square (neg ?x))", "(square ?x)").because("(−x)² = x²"),
        rule("abs_neg", "(abs (neg ?x))", "(abs ?x)").because("|−x| = |x|"),
        rule("abs_abs", "(abs (abs ?x))", "(abs ?x)").because("||x|| = |x|"),
        rule("abs_square", "(abs (square ?x))", "(square ?x)").because("x² ≥ 0"),
        rule("square_abs", "(square (abs ?x))", "(square ?x)").because("|x|² = x²"),
    ]
}

fn factors() -> Vec<Rule> {
    vec![
        rule(
            "mul_mul",
            "(mul (mul ?x (constant ?a ?t)) (constant ?b ?u))",
            "(mul ?x (constant ?c ?v))",
        )
        .compute("?c", |m| {
            tame(m.number("?a")?)?;
            tame(m.number("?b")?)?;
            Some(number(m.number("?a")? * m.number("?b")?))
        })
        .compute("?v", |m| scalar_like(m, "?x"))
        .because("(x · a) · b = x · ab: one product"),
        rule(
            "div_constant",
            "(div ?x (constant ?c ?t))",
            "(mul ?x (constant ?d ?t))",
        )
        .compute("?d", |m| Some(number(1.0 / tame(m.number("?c")?)?)))
        .because("x / c = x · (1/c): a product is cheaper than a quotient"),
        rule("mul_reciprocal", "(mul ?x (reciprocal ?y))", "(div ?x ?y)")
            .because("x · (1/y) = x / y: one op"),
        rule("reciprocal_mul", "(mul (reciprocal ?y) ?x)", "(div ?x ?y)")
            .because("(1/y) · x = x / y: one op"),
        rule("one_over", "(div (constant 1.0 ?t) ?x)", "(reciprocal ?x)").because("1 / x"),
    ]
}

fn functions() -> Vec<Rule> {
    vec![
        rule("square", "(mul ?x ?x)", "(square ?x)").because("x · x reads one operand"),
        rule("cube", "(mul ?x (square ?x))", "(mul (square ?x) ?x)")
            .because("one form of x³ for the rules that look for it; a product of the same cost"),
        rule("reciprocal_sqrt", "(reciprocal (sqrt ?x))", "(rsqrt ?x)").because("1 / √x"),
        rule("reciprocal_rsqrt", "(reciprocal (rsqrt ?x))", "(sqrt ?x)").because("1 / (1/√x) = √x"),
        rule("div_rsqrt", "(div ?x (rsqrt ?y))", "(mul ?x (sqrt ?y))").because("x / (1/√y) = x √y"),
        rule("expm1", "(sub (exp ?x) (constant 1.0 ?t))", "(expm1 ?x)")
            .because("eˣ − 1 as one op, and accurate near 0"),
        rule("relu", "(max ?x (constant 0.0 ?t))", "(relu ?x)").because("max(x, 0)"),
        rule("relu_relu", "(relu (relu ?x))", "(relu ?x)").because("relu leaves x ≥ 0 alone"),
        rule(
            "reduce_sum_squares",
            "(reduce_sum ?n (square ?x))",
            "(reduce_sum_squares ?n ?x)",
        )
        .because("squares are summed as they are made"),
    ]
}

fn number(n: f64) -> Attr {
    Attr::Number(Real(n))
}

/// Factors whose products with each other and with ordinary values neither overflow nor vanish in f32.
fn tame(factor: f64) -> Option<f64> {
    (1e-12..=1e12).contains(&factor.abs()).then_some(factor)
}

/// The type of a scalar with the elements of `x`.
fn scalar_like(m: &Match<'_>, x: &str) -> Option<Attr> {
    let dtype = m.ty(x)?.dtype;
    Some(Attr::Type(TensorType::new(dtype, Shape::scalar())))
}
