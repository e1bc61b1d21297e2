//! Cycles of transfers that leave an IPU: over the links to other IPUs, to the host, to streaming memory, and round the replicas.
//!
//! The links form a ladder: IPUs `2i` and `2i + 1` are a rung, and each side of the ladder runs through the rungs in order. Traffic to the
//! other side crosses its own rung first and then runs straight (mk2.md §1.5).

use smallvec::SmallVec;

use super::Machine;
use super::calibration::STREAMING_LATENCY_SECONDS;
use crate::units::{Bytes, Cycles};

/// Cycles of a sync over all IPUs of the machine by PopLibs' hop model, `sync + ⌈15 ns · clock · hops · 2⌉` with
/// `hops = 1 + ⌊ipus / 4⌋`: 802 for 64 Mk2 IPUs.
pub fn sync_model(machine: &Machine) -> Cycles {
    let hops = 1 + machine.ipus / 4;
    machine.sync_cycles + (15e-9 * machine.clock_hz * f64::from(hops) * 2.0).ceil() as Cycles
}

/// Bytes between two IPUs in one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub from: u32,
    pub to: u32,
    pub bytes: Bytes,
}

/// Cycles of transfers that start together: those of the busiest link, plus the start of the exchange. 0 when nothing moves.
/// A sync over the IPUs, which has to precede it, is not included.
pub fn inter_ipu_cycles(
    machine: &Machine,
    transfers: impl IntoIterator<Item = Transfer>,
) -> Cycles {
    let mut load: SmallVec<[(u32, u32, Bytes); 8]> = SmallVec::new();
    for transfer in transfers {
        let mut at = transfer.from;
        while at != transfer.to && transfer.bytes > 0 {
            let next = next_hop(at, transfer.to);
            match load.iter_mut().find(|l| (l.0, l.1) == (at, next)) {
                Some(link) => link.2 += transfer.bytes,
                None => load.push((at, next, transfer.bytes)),
            }
            at = next;
        }
    }
    let busiest = load.iter().map(|&(from, to, bytes)| {
        let links = if from / 2 == to / 2 {
            machine.rung_links
        } else {
            machine.ladder_links
        };
        machine.cycles_at(bytes, machine.link_bytes_per_second * f64::from(links))
    });
    busiest
        .max()
        .map_or(0, |cycles| cycles + machine.exchange_start_cycles)
}

/// The neighbour of `at` on the way to `to`: across the rung first, then along the side.
fn next_hop(at: u32, to: u32) -> u32 {
    if at % 2 != to % 2 {
        at ^ 1
    } else if to > at {
        at + 2
    } else {
        at - 2
    }
}

/// Cycles to move `bytes` between the host and one IPU.
pub fn host_cycles(machine: &Machine, bytes: Bytes) -> Cycles {
    machine.cycles_at(bytes, machine.host_bytes_per_second)
}

/// Cycles to move `bytes` between one IPU and its streaming memory: the latency, then its rate (mk2.md §1.5). 0 for nothing.
pub fn streaming_cycles(machine: &Machine, bytes: Bytes) -> Cycles {
    if bytes == 0 {
        return 0;
    }
    let latency = (STREAMING_LATENCY_SECONDS * machine.clock_hz).ceil() as Cycles;
    latency + machine.cycles_at(bytes, machine.streaming_bytes_per_second)
}

/// Cycles of a ring all-reduce of `bytes` on each of `replicas` replicas: `2 (R − 1)/R · bytes / (links · rate) + 2 (R − 1) · sync`
/// (mk2.md §1.5), over the links along the ladder.
pub fn all_reduce_cycles(machine: &Machine, replicas: u32, bytes: Bytes) -> Cycles {
    if replicas <= 1 {
        return 0;
    }
    let steps = 2 * (u64::from(replicas) - 1);
    let rate = machine.link_bytes_per_second * f64::from(machine.ladder_links);
    let moved = bytes.div_ceil(u64::from(replicas)) * steps;
    machine.cycles_at(moved, rate) + steps * machine.global_sync_cycles
}

/// Cycles of half an all-reduce, the reduce-scatter or the all-gather, of `bytes` on each of `replicas` replicas of `ipus` IPUs. Replicas stand
/// one behind the other on the ladder, so a message passes `⌈ipus/2⌉` links to its counterpart; all IPUs of a replica do so at the same
/// time, and each link carries as many messages.
pub fn half_all_reduce_cycles(machine: &Machine, replicas: u32, ipus: u32, bytes: Bytes) -> Cycles {
    if replicas <= 1 {
        return 0;
    }
    let steps = u64::from(replicas) - 1;
    let sharing = u64::from(ipus.div_ceil(2).max(1));
    let rate = machine.link_bytes_per_second * f64::from(machine.ladder_links);
    let moved = bytes.div_ceil(u64::from(replicas)) * steps * sharing;
    machine.cycles_at(moved, rate) + steps * machine.global_sync_cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles(transfers: &[(u32, u32, u64)]) -> Cycles {
        let machine = Machine::preset("pod16").unwrap();
        let transfers = transfers
            .iter()
            .map(|&(from, to, bytes)| Transfer { from, to, bytes });
        inter_ipu_cycles(&machine, transfers)
    }

    #[test]
    fn the_ladder_has_more_links_across_a_rung() {
        // 4 · 14.6 GB/s: a megabyte in 17.1 µs; half as many links take twice as long.
        assert_eq!(cycles(&[(0, 1, 1_000_000)]), 60 + 22_689);
        assert_eq!(cycles(&[(1, 3, 1_000_000)]), 60 + 45_377);
        assert_eq!(cycles(&[(5, 5, 1_000_000)]), 0);
        assert_eq!(cycles(&[]), 0);
    }

    #[test]
    fn transfers_share_links_only_where_they_meet() {
        let alone = cycles(&[(0, 2, 1_000_000)]);
        assert_eq!(cycles(&[(0, 2, 1_000_000), (1, 3, 1_000_000)]), alone);
        assert_eq!(cycles(&[(0, 2, 1_000_000), (2, 0, 1_000_000)]), alone);
        // 0 → 5 crosses to 1, then runs 1 → 3 → 5 together with 1 → 3.
        let shared = cycles(&[(0, 5, 1_000_000), (1, 3, 1_000_000)]);
        assert_eq!(shared, cycles(&[(1, 3, 2_000_000)]));
    }

    #[test]
    fn syncs_and_rings_follow_their_formulae() {
        let sync = |name: &str| sync_model(&Machine::preset(name).unwrap());
        assert_eq!(sync("pod4"), 126 + 80);
        assert_eq!(sync("pod16"), 126 + 199);
        assert_eq!(sync("pod64"), 126 + 676);
        let machine = Machine::preset("pod4").unwrap();
        assert_eq!(all_reduce_cycles(&machine, 1, 1000), 0);
        // Two replicas: each sends half twice, at 29.2 GB/s.
        assert_eq!(
            all_reduce_cycles(&machine, 2, 1_000_000),
            45_377 + 2 * machine.global_sync_cycles
        );
        // Two halves of it make the whole, when a replica is one IPU; the links of four IPUs are shared by two.
        let half = |ipus| half_all_reduce_cycles(&machine, 2, ipus, 1_000_000);
        assert_eq!(2 * half(1), 45_378 + 2 * machine.global_sync_cycles);
        assert_eq!(half(4), 45_377 + machine.global_sync_cycles);
        assert_eq!(host_cycles(&machine, 1_000_000), 265_000);
        // 3 µs and a megabyte at 10 GB/s.
        assert_eq!(streaming_cycles(&machine, 1_000_000), 3_975 + 132_500);
        assert_eq!(streaming_cycles(&machine, 0), 0);
    }
}
