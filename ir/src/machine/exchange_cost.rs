//! Cycles of an exchange between the tiles of one IPU, from the traffic of its busiest tile or pair of tiles.
//!
//! The fabric has no queues: a tile sends and receives at the same time, a fixed number of bytes each cycle, and any number of tiles
//! may listen to the same sender. So an exchange lasts as long as its busiest tile (mk2.md §1.3, §2).

use super::Machine;
use crate::units::{Bytes, Cycles};

/// Cycles from the end of the sync to the last word, when the busiest tile sends `max_send` and receives `max_receive` bytes.
/// 0 when nothing moves.
pub fn exchange_cycles(machine: &Machine, max_send: Bytes, max_receive: Bytes) -> Cycles {
    let busiest = max_send.max(max_receive);
    if busiest == 0 {
        return 0;
    }
    machine.exchange_start_cycles + words(machine, busiest)
}

/// Cycles of a copy from one place of a tile to another.
pub fn copy_cycles(machine: &Machine, bytes: Bytes) -> Cycles {
    (bytes as f64 / machine.copy_bytes_per_cycle).ceil() as Cycles
}

fn words(machine: &Machine, bytes: Bytes) -> Cycles {
    (bytes as f64 / machine.exchange_bytes_per_cycle).ceil() as Cycles
}

/// Bytes that one tile sends and receives in an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileTraffic {
    /// Sent, each distinct piece once.
    pub sent: Bytes,
    /// The part of `sent` that only whole pairs of tiles receive: it may use the lanes of both tiles of the sending pair.
    pub sent_wide: Bytes,
    pub received: Bytes,
    /// The part of `received` that the other tile of the pair receives too.
    pub received_wide: Bytes,
}

impl TileTraffic {
    /// Cycles of the pair of tiles `(self, other)`; `other` is idle for a tile without a partner.
    ///
    /// In pair mode wide bytes pass at twice the rate and take the lanes of both tiles: `narrow/r + (wide + wide')/2r` for sending,
    /// and for receiving, where both receive the same, `narrow/r + wide/2r`.
    fn pair_cycles(self, other: TileTraffic, machine: &Machine) -> Cycles {
        if !machine.exchange_pair_mode {
            let busiest = self.sent.max(self.received);
            return words(machine, busiest.max(other.sent).max(other.received));
        }
        let twice = 2.0 * machine.exchange_bytes_per_cycle;
        let narrow_sent = (self.sent - self.sent_wide).max(other.sent - other.sent_wide);
        let narrow_received =
            (self.received - self.received_wide).max(other.received - other.received_wide);
        let wide_sent = (self.sent_wide + other.sent_wide) as f64 / twice;
        let wide_received = self.received_wide.max(other.received_wide) as f64 / twice;
        let send = words(machine, narrow_sent) + wide_sent.ceil() as Cycles;
        let receive = words(machine, narrow_received) + wide_received.ceil() as Cycles;
        send.max(receive)
    }
}

/// Cycles of an exchange from the traffic of every tile of the IPU, by tile number; tiles `2i` and `2i + 1` are a pair.
/// 0 when nothing moves.
pub fn traffic_cycles(machine: &Machine, tiles: &[TileTraffic]) -> Cycles {
    let busiest = tiles
        .chunks(2)
        .map(|pair| {
            let partner = pair.get(1).copied().unwrap_or_default();
            pair[0].pair_cycles(partner, machine)
        })
        .max()
        .unwrap_or(0);
    if busiest == 0 {
        return 0;
    }
    machine.exchange_start_cycles + busiest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_direction_decides() {
        let mk2 = Machine::mk2();
        assert_eq!(exchange_cycles(&mk2, 0, 0), 0);
        assert_eq!(exchange_cycles(&mk2, 4, 0), 61);
        assert_eq!(exchange_cycles(&mk2, 768, 1000), 60 + 250);
        assert_eq!(copy_cycles(&mk2, 1001), 126);
    }

    fn tile(sent: u64, sent_wide: u64, received: u64, received_wide: u64) -> TileTraffic {
        TileTraffic {
            sent,
            sent_wide,
            received,
            received_wide,
        }
    }

    #[test]
    fn a_pair_that_receives_the_same_does_so_at_twice_the_rate() {
        let mk2 = Machine::mk2();
        let one_alone = [tile(0, 0, 800, 0), tile(0, 0, 0, 0)];
        assert_eq!(traffic_cycles(&mk2, &one_alone), 60 + 200);
        let both = [tile(0, 0, 800, 800), tile(0, 0, 800, 800)];
        assert_eq!(traffic_cycles(&mk2, &both), 60 + 100);
        let narrow = Machine {
            exchange_pair_mode: false,
            ..mk2.clone()
        };
        assert_eq!(traffic_cycles(&narrow, &both), 60 + 200);
        // Both tiles of a pair send wide: they share their two lanes, and nothing is won.
        let senders = [tile(800, 800, 0, 0), tile(800, 800, 0, 0)];
        assert_eq!(traffic_cycles(&mk2, &senders), 60 + 200);
        assert_eq!(traffic_cycles(&mk2, &[]), 0);
        assert_eq!(traffic_cycles(&mk2, &[tile(8, 0, 0, 0)]), 62);
    }
}
