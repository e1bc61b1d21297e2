//! Cycles of an exchange between the tiles of one IPU, from the traffic of its busiest tile or pair of tiles.
//!
//! The fabric has no queues: a tile sends and receives at the same time, a fixed number of bytes each cycle, and any number of tiles
//! may listen to the same sender. So an exchange lasts as long as its busiest tile (mk2.md §1.3, §2), which also spends words on control
//! wherever the address or the source changes.

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

/// Cycles of copies from place to place of one tile: starting the workers, `bytes` at the rate of a copy, and a little for each of the
/// `fragments` in which they lie. 0 when nothing is copied.
pub fn copy_cycles(machine: &Machine, bytes: Bytes, fragments: u64) -> Cycles {
    if bytes == 0 {
        return 0;
    }
    let moved = (bytes as f64 / machine.copy_bytes_per_cycle).ceil() as Cycles;
    machine.copy_start_cycles + moved + fragments * machine.copy_fragment_cycles
}

fn words(machine: &Machine, bytes: Bytes) -> Cycles {
    (bytes as f64 / machine.exchange_bytes_per_cycle).ceil() as Cycles
}

/// What one tile sends and receives in an exchange. A fragment is a contiguous run of bytes: sending jumps to another address after it,
/// receiving to another address or another sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileTraffic {
    /// Bytes sent, each distinct piece once.
    pub sent: Bytes,
    /// The part of `sent` that only whole pairs of tiles receive: it may use the lanes of both tiles of the sending pair.
    pub sent_wide: Bytes,
    pub sent_fragments: u64,
    /// Bytes received.
    pub received: Bytes,
    /// The part of `received` that the other tile of the pair receives too.
    pub received_wide: Bytes,
    pub received_fragments: u64,
}

/// Cycles of an exchange on one IPU by cause, those of the pair of tiles that is busy longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeCycles {
    /// From the end of the sync to the first word.
    pub start: Cycles,
    /// Words of data.
    pub data: Cycles,
    /// Control words between fragments.
    pub fragments: Cycles,
}

impl ExchangeCycles {
    pub const fn total(&self) -> Cycles {
        self.start + self.data + self.fragments
    }
}

impl TileTraffic {
    /// Cycles of data and of fragments of the pair of tiles `(self, other)`; `other` is idle for a tile without a partner.
    ///
    /// In pair mode wide bytes pass at twice the rate and take the lanes of both tiles: `narrow/r + (wide + wide')/2r` for sending,
    /// and for receiving, where both receive the same, `narrow/r + wide/2r`. Each direction of each tile has its own control words.
    fn pair_cycles(self, other: TileTraffic, machine: &Machine) -> (Cycles, Cycles) {
        let send = self.send_cycles(other, machine);
        let receive = self.receive_cycles(other, machine);
        if send.0 + send.1 >= receive.0 + receive.1 {
            send
        } else {
            receive
        }
    }

    fn send_cycles(self, other: TileTraffic, machine: &Machine) -> (Cycles, Cycles) {
        let fragments =
            self.sent_fragments.max(other.sent_fragments) * machine.exchange_fragment_cycles;
        if !machine.exchange_pair_mode {
            return (words(machine, self.sent.max(other.sent)), fragments);
        }
        let narrow = (self.sent - self.sent_wide).max(other.sent - other.sent_wide);
        let wide = self.sent_wide + other.sent_wide;
        (
            words(machine, narrow) + wide_words(machine, wide),
            fragments,
        )
    }

    fn receive_cycles(self, other: TileTraffic, machine: &Machine) -> (Cycles, Cycles) {
        let fragments = self.received_fragments.max(other.received_fragments)
            * machine.exchange_fragment_cycles;
        if !machine.exchange_pair_mode {
            return (words(machine, self.received.max(other.received)), fragments);
        }
        let narrow = (self.received - self.received_wide).max(other.received - other.received_wide);
        let wide = self.received_wide.max(other.received_wide);
        (
            words(machine, narrow) + wide_words(machine, wide),
            fragments,
        )
    }
}

/// Cycles of bytes that pass over both lanes of a pair.
fn wide_words(machine: &Machine, bytes: Bytes) -> Cycles {
    (bytes as f64 / (2.0 * machine.exchange_bytes_per_cycle)).ceil() as Cycles
}

/// Cycles of an exchange from the traffic of every tile of the IPU, by tile number; tiles `2i` and `2i + 1` are a pair.
/// 0 when nothing moves.
pub fn traffic_cycles(machine: &Machine, tiles: &[TileTraffic]) -> ExchangeCycles {
    let pairs = tiles.chunks(2).map(|pair| {
        let partner = pair.get(1).copied().unwrap_or_default();
        pair[0].pair_cycles(partner, machine)
    });
    match pairs.max_by_key(|(data, fragments)| data + fragments) {
        Some((data, fragments)) if data > 0 => ExchangeCycles {
            start: machine.exchange_start_cycles,
            data,
            fragments,
        },
        _ => ExchangeCycles::default(),
    }
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
        assert_eq!(copy_cycles(&mk2, 1001, 2), 288 + 126 + 2 * 3);
        assert_eq!(copy_cycles(&mk2, 0, 0), 0);
    }

    fn tile(sent: u64, sent_wide: u64, received: u64, received_wide: u64) -> TileTraffic {
        TileTraffic {
            sent,
            sent_wide,
            received,
            received_wide,
            ..TileTraffic::default()
        }
    }

    fn cycles(machine: &Machine, tiles: &[TileTraffic]) -> Cycles {
        traffic_cycles(machine, tiles).total()
    }

    #[test]
    fn a_pair_that_receives_the_same_does_so_at_twice_the_rate() {
        let mk2 = Machine::mk2();
        let one_alone = [tile(0, 0, 800, 0), tile(0, 0, 0, 0)];
        assert_eq!(cycles(&mk2, &one_alone), 60 + 200);
        let both = [tile(0, 0, 800, 800), tile(0, 0, 800, 800)];
        assert_eq!(cycles(&mk2, &both), 60 + 100);
        let narrow = Machine {
            exchange_pair_mode: false,
            ..mk2.clone()
        };
        assert_eq!(cycles(&narrow, &both), 60 + 200);
        // Both tiles of a pair send wide: they share their two lanes, and nothing is won.
        let senders = [tile(800, 800, 0, 0), tile(800, 800, 0, 0)];
        assert_eq!(cycles(&mk2, &senders), 60 + 200);
        assert_eq!(cycles(&mk2, &[]), 0);
        assert_eq!(cycles(&mk2, &[tile(8, 0, 0, 0)]), 62);
    }

    #[test]
    fn fragments_cost_control_words() {
        let mk2 = Machine::mk2();
        let receiver = TileTraffic {
            received_fragments: 100,
            ..tile(0, 0, 800, 0)
        };
        let sender = TileTraffic {
            sent_fragments: 3,
            ..tile(800, 0, 0, 0)
        };
        let exchange = traffic_cycles(&mk2, &[sender, TileTraffic::default(), receiver]);
        let expected = ExchangeCycles {
            start: 60,
            data: 200,
            fragments: 100,
        };
        assert_eq!(exchange, expected);
        assert_eq!(exchange.total(), 360);
    }
}
