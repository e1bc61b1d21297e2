//! Sequences of primitive ops for which there is one op.

use superstep_ir::types::Real;

use super::super::language::Attr;
use super::super::rule::{Match, Rule, rule};

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = softmaxes();
    rules.extend(gelus());
    rules
}

fn softmaxes() -> Vec<Rule> {
    vec![
        rule(
            "softmax_scale",
            "(softmax ?s ?causal (mul ?x (constant ?c ?t)))",
            "(softmax ?k ?causal ?x)",
        )
        .compute("?k", |m| product(m, "?s", "?c"))
        .because(
            "softmax(s · (x c)) is softmax with scale s c: the scaled scores are never stored",
        ),
        rule(
            "softmax_causal",
            "(softmax ?s false (causal_mask ?x))",
            "(softmax ?s true ?x)",
        )
        .when(|m| Some(m.number("?s")? > 0.0))
        .because("s · (−∞) = −∞ for s > 0: the mask is part of the op"),
        rule(
            "softmax_masked_twice",
            "(softmax ?s true (causal_mask ?x))",
            "(softmax ?s true ?x)",
        )
        .when(|m| Some(m.number("?s")? > 0.0))
        .because("the mask hides what is hidden already"),
        rule(
            "mask_of_mask",
            "(causal_mask (causal_mask ?x))",
            "(causal_mask ?x)",
        )
        .because("the mask hides what is hidden already"),
        rule(
            "softmax_grad_scale",
            "(mul (softmax_grad ?s ?p ?g) (constant ?c ?t))",
            "(softmax_grad ?k ?p ?g)",
        )
        .compute("?k", |m| product(m, "?s", "?c"))
        .because("p = softmax(c x): dx = c · p ⊙ (g − Σ g p), and the op has a scale"),
        rule(
            "softmax_grad_neg",
            "(neg (softmax_grad ?s ?p ?g))",
            "(softmax_grad ?k ?p ?g)",
        )
        .compute("?k", |m| Some(Attr::Number(Real(-m.number("?s")?))))
        .because("the op has a scale, which may be negative"),
    ]
}

/// `√(2/π)`
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

/// `tanh(k (x + c x³))`
macro_rules! bend {
    () => {
        "(tanh (mul (add ?x (mul (mul (square ?x) ?x) (constant ?c ?tc))) (constant ?k ?tk)))"
    };
}

/// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, with the half at any of the three factors.
fn gelus() -> Vec<Rule> {
    let gelu = |name, from| {
        rule(name, from, "(gelu_tanh ?x)")
            .near("?h", 0.5)
            .near("?o", 1.0)
            .near("?c", 0.044715)
            .near("?k", SQRT_2_OVER_PI)
            .because("Hugging Face's gelu_new written out: seven sweeps over x become one")
    };
    vec![
        gelu(
            "gelu_half_x",
            concat!(
                "(mul (mul ?x (constant ?h ?th)) (add ",
                bend!(),
                " (constant ?o ?to)))"
            ),
        ),
        gelu(
            "gelu_half_of_all",
            concat!(
                "(mul (mul ?x (add ",
                bend!(),
                " (constant ?o ?to))) (constant ?h ?th))"
            ),
        ),
        gelu(
            "gelu_half_bend",
            concat!(
                "(mul ?x (mul (add ",
                bend!(),
                " (constant ?o ?to)) (constant ?h ?th)))"
            ),
        ),
        gelu(
            "gelu_half_x_last",
            concat!(
                "(mul (add ",
                bend!(),
                " (constant ?o ?to)) (mul ?x (constant ?h ?th)))"
            ),
        ),
    ]
}

fn product(m: &Match<'_>, a: &str, b: &str) -> Option<Attr> {
    let product = m.number(a)? * m.number(b)?;
    (product.is_finite() && product != 0.0).then_some(Attr::Number(Real(product)))
}
