//! What the user allows ops to use of a tile.

use superstep_ir::ids::IpuId;
use superstep_ir::machine::Machine;
use superstep_ir::types::Real;
use superstep_ir::units::Bytes;

use super::PlacementOptions;

/// What the user allows temporaries of an op.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The smallest share of a tile, 1 where there is none.
    pub(super) least: f64,
    /// By group of IPUs.
    by_group: Vec<Bytes>,
    /// IPUs of a group.
    members: u32,
}

impl Limits {
    pub(super) fn of(options: &PlacementOptions, machine: &Machine) -> Limits {
        let shares = &options.matmul_proportion;
        let bytes = |share: &Real| (f64::from(machine.tile_memory) * share.0) as Bytes;
        Limits {
            least: shares.iter().fold(1.0, |least, share| share.0.min(least)),
            by_group: shares.iter().map(bytes).collect(),
            members: options.members(),
        }
    }

    /// Bytes on a tile of an IPU.
    pub fn on(&self, ipu: IpuId) -> Bytes {
        let one_for_all = self.by_group.first().filter(|_| self.by_group.len() == 1);
        let group = (ipu.0 / self.members) as usize;
        let own = self.by_group.get(group).or(one_for_all);
        own.copied().unwrap_or(Bytes::MAX)
    }
}
