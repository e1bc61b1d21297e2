//! Cycles of transfers that leave an IPU: over the links to other IPUs, to the host, to streaming memory, and round the replicas.
//!
//! The links form a ladder: IPUs `2i` and `2i + 1` are a rung, and each side of the ladder runs through the rungs in order. Traffic to the
//! other side crosses its own rung first and then runs straight (mk2.md §1.5). In a torus the last rung is linked to the first.

use smallvec::SmallVec;

use super::Machine;
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
            let next = next_hop(machine, at, transfer.to);
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

/// The neighbour of `at` on the way to `to`: across the rung first, then along the side, in a torus the shorter way round.
fn next_hop(machine: &Machine, at: u32, to: u32) -> u32 {
    if at % 2 != to % 2 {
        return at ^ 1;
    }
    let ipus = machine.ipus.max(at.max(to) + 1).next_multiple_of(2);
    let round = machine.torus && 2 * at.abs_diff(to) > ipus;
    if (to > at) != round {
        (at + 2) % ipus
    } else {
        (at + ipus - 2) % ipus
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
    let latency = (machine.streaming_latency_seconds * machine.clock_hz).ceil() as Cycles;
    latency + machine.cycles_at(bytes, machine.streaming_bytes_per_second)
}

/// How the replicas of a program pass messages round: replica `r` sends to `r + 1`, every IPU to its counterpart, the last replica back to the
/// first. Replicas stand one behind the other on the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaRing {
    pub replicas: u32,
    /// Rungs from an IPU to its counterpart in the next replica; 0 for single IPUs, which stand side by side: their ring goes up one side and
    /// down the other.
    pub rungs: u32,
    /// Messages that pass over every link of the way at the same time, all IPUs of a replica sending theirs.
    pub sharing: u32,
    /// Links of the way, side by side.
    pub links: u32,
    /// Rings at once, one a direction. On an open ladder there is only one, because its last message comes back over the links of the other
    /// direction; on a torus that is one step more.
    pub directions: u32,
}

impl ReplicaRing {
    /// The ring of `replicas` replicas of `ipus` IPUs.
    pub fn of(machine: &Machine, replicas: u32, ipus: u32) -> ReplicaRing {
        let whole = replicas.saturating_mul(ipus) == machine.ipus;
        ReplicaRing {
            replicas,
            rungs: if ipus == 1 { 0 } else { ipus.div_ceil(2) },
            sharing: ipus.div_ceil(2).max(1),
            links: machine.ladder_links,
            directions: if machine.torus && whole { 2 } else { 1 },
        }
    }

    /// Bytes a second that one IPU sends its counterpart while all others do the same.
    pub fn bytes_per_second(&self, machine: &Machine) -> f64 {
        let links = f64::from(self.links) * f64::from(self.directions);
        machine.link_bytes_per_second * links / f64::from(self.sharing)
    }

    /// Cycles of half an all-reduce, the reduce-scatter or the all-gather, of `bytes` on an IPU of each replica:
    /// `(R − 1)/R · bytes / rate + (R − 1) · sync` (mk2.md §1.5).
    pub fn half_all_reduce_cycles(&self, machine: &Machine, bytes: Bytes) -> Cycles {
        if self.replicas <= 1 {
            return 0;
        }
        let steps = u64::from(self.replicas) - 1;
        let moved = bytes.div_ceil(u64::from(self.replicas)) * steps;
        machine.cycles_at(moved, self.bytes_per_second(machine))
            + steps * machine.global_sync_cycles
    }
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
        // Two replicas: each sends half, at 29.2 GB/s, or half of that where four IPUs share two ways.
        let half =
            |ipus| ReplicaRing::of(&machine, 2, ipus).half_all_reduce_cycles(&machine, 1_000_000);
        assert_eq!(half(1), 22_689 + machine.global_sync_cycles);
        assert_eq!(half(4), 45_377 + machine.global_sync_cycles);
        let alone = ReplicaRing::of(&machine, 1, 4);
        assert_eq!(alone.half_all_reduce_cycles(&machine, 1_000_000), 0);
        assert_eq!(host_cycles(&machine, 1_000_000), 265_000);
        // 3 µs and a megabyte at 10 GB/s.
        assert_eq!(streaming_cycles(&machine, 1_000_000), 3_975 + 132_500);
        assert_eq!(streaming_cycles(&machine, 0), 0);
    }

    #[test]
    fn the_reference_runs_gradients_go_round_in_the_time_of_the_formula() {
        // Four replicas of four IPUs: all-reduce of 77.2 MB on each IPU, two messages on each way of two links of 14.6 GB/s.
        // 2 · 3/4 · 77.2 MB / 14.6 GB/s = 7.93 ms, and six syncs.
        let machine = Machine::preset("pod16").unwrap();
        let ring = ReplicaRing::of(&machine, 4, 4);
        let (rungs, sharing, links, directions) =
            (ring.rungs, ring.sharing, ring.links, ring.directions);
        assert_eq!((rungs, sharing, links, directions), (2, 2, 2, 1));
        let bytes = 50_257 * 768 * 2;
        let seconds = machine.seconds(2 * ring.half_all_reduce_cycles(&machine, bytes));
        let by_hand = 2.0 * 0.75 * bytes as f64 / 14.6e9 + 6.0 * 600.0 / 1.325e9;
        assert!((seconds - by_hand).abs() < 1e-8, "{seconds} {by_hand}");
    }

    #[test]
    fn a_torus_has_a_shorter_way_round_and_rings_both_ways() {
        let torus = Machine::preset("pod64").unwrap();
        let cycles = |from, to| {
            inter_ipu_cycles(
                &torus,
                [
                    Transfer {
                        from,
                        to,
                        bytes: 1_000_000,
                    },
                    Transfer {
                        from: 2,
                        to: 4,
                        bytes: 1_000_000,
                    },
                ],
            )
        };
        // 0 → 62 goes down one rung and does not meet 2 → 4; 0 → 6 does.
        assert_eq!(cycles(0, 62), 60 + 45_377);
        assert_eq!(cycles(0, 6), 60 + 90_754);
        assert_eq!(ReplicaRing::of(&torus, 16, 4).directions, 2);
        assert_eq!(ReplicaRing::of(&torus, 4, 4).directions, 1);
    }
}
