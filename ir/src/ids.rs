//! Small integer names for the entities of a graph and of a program; they print as the textual forms print them.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

define_id!(
    /// An op (node) of a graph.
    OpId, "op");
define_id!(
    /// An IPU of one replica.
    IpuId, "ipu ");
define_id!(
    /// A tile inside one IPU, `0..tiles_per_ipu`.
    TileId, "tile ");
define_id!(
    /// A pipeline stage.
    StageId, "stage ");
define_id!(
    /// A variable of a program.
    VarId, "v");
define_id!(
    /// A grid of a program.
    GridId, "grid");
define_id!(
    /// A procedure of a program.
    ProcId, "proc");
define_id!(
    /// A source of program steps: the graph op, by name, that the step serves.
    OriginId, "origin");
