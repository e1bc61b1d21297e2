//! Products that the user wants made in slices, one after the other: their operands then take a part of the memory only.
//!
//! A product made in `n` slices may use an `n`th of the memory that its fastest plan takes; which dimension is sliced is the planner's choice.
//! Automatic budgets slice whatever would not fit otherwise; this is for what the user knows better.

use superstep_ir::units::Bytes;

use crate::plan::matmul::{MatmulPlans, PlannedProduct};

/// Products by name, and slices of each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Serialise {
    /// An op's name; `*` stands for any text, as in `h.*.mlp.c_fc`.
    pub ops: String,
    pub slices: u32,
}

impl Serialise {
    /// Reads `h.*.mlp.c_fc=2`.
    pub fn parse(text: &str) -> Option<Serialise> {
        let (ops, slices) = text.rsplit_once('=')?;
        let slices: u32 = slices.trim().parse().ok()?;
        let ops = ops.trim().to_string();
        (!ops.is_empty() && slices > 0).then_some(Serialise { ops, slices })
    }

    pub(crate) fn takes(&self, op: &str) -> bool {
        matches(&self.ops, op)
    }
}

impl std::fmt::Display for Serialise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.ops, self.slices)
    }
}

/// Bytes that the temporaries of each product to be sliced may take, by op. The first of `rules` that names no product is the error.
pub(crate) fn caps<'r>(
    rules: &'r [Serialise],
    products: &[PlannedProduct],
    plans: &mut MatmulPlans,
) -> Result<Vec<(String, Bytes)>, &'r Serialise> {
    let mut caps = Vec::new();
    for rule in rules {
        let before = caps.len();
        for product in products.iter().filter(|p| rule.takes(&p.op)) {
            let fastest = plans.plan(&product.problem, Bytes::MAX);
            let cap = fastest.cost.working_bytes() / Bytes::from(rule.slices);
            caps.push((product.op.clone(), cap));
        }
        if caps.len() == before {
            return Err(rule);
        }
    }
    Ok(caps)
}

/// Whether `text` is `pattern` with each `*` replaced by something.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, expected) in [
            ("h.*.mlp.c_fc", "h.11.mlp.c_fc", true),
            ("h.*.mlp.c_fc", "h.11.mlp.c_fc.grad_w", false),
            ("h.*.mlp.c_fc*", "h.11.mlp.c_fc.grad_w", true),
            ("h.1.attn.scores", "h.1.attn.scores", true),
            ("h.1.attn.scores", "h.11.attn.scores", false),
            ("*grad*", "h.0.mlp.c_proj.grad_x", true),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_rule_is_a_name_and_a_count() {
        let rule = Serialise::parse("h.*.mlp.c_fc = 2").unwrap();
        assert_eq!(rule.to_string(), "h.*.mlp.c_fc=2");
        for text in ["", "=2", "h.0=0", "h.0=-1", "h.0=x", "h.0"] {
            assert_eq!(Serialise::parse(text), None, "{text}");
        }
    }
}
