//! Addresses for blocks of memory that live for a while in some of many equal memories.
//!
//! Problem: every item has a size, a live range (closed interval of steps) and a set of memories; it gets one offset, the same in all of
//! them. Items that live at the same time in a common memory must not overlap. Bound: the largest sum of live sizes in a memory.
//! Algorithm: first fit at the lowest free offset, largest items first; `O(items²)`. Where that leaves gaps, other orders are tried too: what lives
//! longest first, or what takes most bytes over its life.

use fixedbitset::FixedBitSet;

/// One block to place.
#[derive(Clone, Debug)]
pub struct Item {
    pub size: u64,
    /// First and last step of life.
    pub live: (u32, u32),
    /// Memories that hold it.
    pub memories: FixedBitSet,
}

/// Offsets, one an item, and the highest end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub offsets: Vec<u64>,
    pub top: u64,
}

/// What comes first: the largest key.
type Key<'a> = &'a dyn Fn(&Item) -> (u64, u64);

/// Places all items at multiples of `alignment`; `bound` is what no placement undercuts.
pub fn place(items: &[Item], alignment: u64, bound: u64) -> Placement {
    let span = |i: &Item| u64::from(i.live.1 - i.live.0) + 1;
    let orders: [Key<'_>; 3] = [&|i| (i.size, span(i)), &|i| (span(i), i.size), &|i| {
        (i.size.saturating_mul(span(i)), i.size)
    }];
    let mut best: Option<Placement> = None;
    for key in orders {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(key(&items[i])), i));
        let placement = place_in(&order, items, alignment);
        if best.as_ref().is_none_or(|known| placement.top < known.top) {
            best = Some(placement);
        }
        if best
            .as_ref()
            .is_some_and(|known| known.top <= bound + bound / GAPS)
        {
            break;
        }
    }
    best.unwrap_or(Placement {
        offsets: Vec::new(),
        top: 0,
    })
}

/// One part in so many may be lost to gaps before another order is tried.
const GAPS: u64 = 50;

/// First fit in an order of items.
fn place_in(order: &[usize], items: &[Item], alignment: u64) -> Placement {
    let mut offsets = vec![0u64; items.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(items.len());
    let mut top = 0;
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for &i in order {
        let item = &items[i];
        taken.clear();
        taken.extend(
            placed
                .iter()
                .filter(|&&j| {
                    let other = &items[j];
                    other.live.0 <= item.live.1
                        && item.live.0 <= other.live.1
                        && !item.memories.is_disjoint(&other.memories)
                })
                .map(|&j| (offsets[j], offsets[j] + items[j].size)),
        );
        taken.sort_unstable();
        let mut at = 0;
        for &(from, to) in &taken {
            if at + item.size <= from {
                break;
            }
            at = at.max(to.next_multiple_of(alignment));
        }
        offsets[i] = at;
        top = top.max(at + item.size);
        placed.push(i);
    }
    Placement { offsets, top }
}

/// For every memory the largest sum of sizes alive at one step: no placement can use less. Also that step, by memory.
pub fn peaks(items: &[Item], memories: usize) -> Vec<(u64, u32)> {
    let mut events: Vec<(u32, bool, usize)> = Vec::with_capacity(2 * items.len());
    for (i, item) in items.iter().enumerate() {
        events.push((item.live.0, true, i));
        events.push((item.live.1.saturating_add(1), false, i));
    }
    events.sort_unstable();
    let mut now = vec![0u64; memories];
    let mut peaks = vec![(0u64, 0u32); memories];
    for (step, starts, i) in events {
        for m in items[i].memories.ones() {
            if starts {
                now[m] += items[i].size;
                if now[m] > peaks[m].0 {
                    peaks[m] = (now[m], step);
                }
            } else {
                now[m] -= items[i].size;
            }
        }
    }
    peaks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(size: u64, live: (u32, u32), memories: &[usize]) -> Item {
        let mut set = FixedBitSet::with_capacity(4);
        set.extend(memories.iter().copied());
        Item {
            size,
            live,
            memories: set,
        }
    }

    #[test]
    fn items_apart_in_time_or_place_share_offsets() {
        let items = [
            item(32, (0, 1), &[0, 1]),
            item(32, (2, 3), &[0]),
            item(32, (1, 2), &[2]),
            item(16, (1, 2), &[1]),
        ];
        let p = place(&items, 16, 48);
        assert_eq!(p.offsets, vec![0, 0, 0, 32]);
        assert_eq!(p.top, 48);
        assert_eq!(peaks(&items, 4)[..3], [(32, 0), (48, 1), (32, 1)]);
    }

    #[test]
    fn random_placements_never_overlap() {
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..50 {
            let items: Vec<Item> = (0..40)
                .map(|_| {
                    let from = next(30) as u32;
                    let memories: Vec<usize> = (0..4).filter(|_| next(2) == 1).collect();
                    item(1 + next(100), (from, from + next(10) as u32), &memories)
                })
                .collect();
            let p = place(&items, 8, 0);
            for (i, a) in items.iter().enumerate() {
                assert_eq!(p.offsets[i] % 8, 0);
                for (j, b) in items.iter().enumerate().skip(i + 1) {
                    let together = a.live.0 <= b.live.1
                        && b.live.0 <= a.live.1
                        && !a.memories.is_disjoint(&b.memories);
                    let apart = p.offsets[i] + a.size <= p.offsets[j]
                        || p.offsets[j] + b.size <= p.offsets[i];
                    assert!(!together || apart);
                }
            }
        }
    }
}
