//! Planning: on which grid an op runs and how its tensors are cut, chosen by modelled cycles under a memory budget.

pub mod book;
pub mod column_sums;
pub mod layout;
pub mod matmul;

pub use book::PlanBook;
pub use layout::Layout;
