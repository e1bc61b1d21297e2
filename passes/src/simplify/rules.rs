//! The rule tables. A rule stands here when its result never costs more and means the same up to rounding, infinities and NaN
//! included; none merely reorders (a constant operand is on the right already).

mod algebra;
mod fusion;
mod views;

use super::rule::Rule;

/// Every rule, in the order in which they are tried.
pub fn all() -> Vec<Rule> {
    [algebra::rules(), views::rules(), fusion::rules()]
        .into_iter()
        .flatten()
        .collect()
}
