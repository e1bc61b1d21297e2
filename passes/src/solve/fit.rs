//! Packing into one memory of given capacity, exactly: the hard case of static allocation, where the live items fill the memory to the last byte.
//!
//! Depth-first search over *canonical* packings, in which every item rests on another or on the floor and items are placed in order of
//! offset. What keeps it small: an item that would float above a hole in which a waiting one fits is never placed (dominance); in every section
//! of time the lowest waiting item and the sum of all waiting ones must fit (inference); waiting items that no longer overlap in time
//! fall into parts that are searched apart, each as a problem of its own: in an order by what is still waiting in it, and with no memory of what
//! was placed last (decomposition). Several orders are tried in turn with growing numbers of nodes, so that the outcome
//! depends on the problem and the budget alone, never on the clock.

/// An item: `size` bytes in `[lower, upper)` of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub lower: u64,
    pub upper: u64,
    pub size: u64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Offsets, one an item; all ends are at most the capacity.
    Found { offsets: Vec<u64>, nodes: u64 },
    /// No packing exists: the sum of items alive at one time exceeds the capacity, or the whole space was searched.
    Impossible { nodes: u64 },
    /// The budget was spent. It may or may not fit.
    Unknown { nodes: u64 },
}

/// Nodes of the first, smallest searches; each round has four times as many.
const FIRST_ROUND: u64 = 2_000;

/// The largest sum of sizes alive at one time: no packing is lower. `u64::MAX` when it is beyond counting.
pub fn max_live(items: &[Interval]) -> u64 {
    let mut events: Vec<(u64, bool, u64)> = Vec::with_capacity(2 * items.len());
    for item in items.iter().filter(|i| i.lower < i.upper) {
        events.push((item.lower, true, item.size));
        events.push((item.upper, false, item.size));
    }
    events.sort_unstable();
    let (mut now, mut most) = (0u128, 0u128);
    for (_, starts, size) in events {
        now = if starts {
            now + u128::from(size)
        } else {
            now - u128::from(size)
        };
        most = most.max(now);
    }
    u64::try_from(most).unwrap_or(u64::MAX)
}

/// Packs the items into `capacity` bytes, in searches of at most `budget` nodes together.
pub fn fit(items: &[Interval], capacity: u64, budget: u64) -> Fit {
    if max_live(items) > capacity || items.iter().any(|i| i.size > capacity) {
        return Fit::Impossible { nodes: 0 };
    }
    let problem = Problem::new(items, capacity);
    let (mut spent, mut round) = (0, FIRST_ROUND);
    while spent < budget {
        for order in ORDERS {
            let mut search = Search::new(&problem, order, round.min(budget - spent));
            let all = (0..items.len() as u32).collect();
            let outcome = search.parts(all, None);
            spent += search.nodes;
            match outcome {
                Outcome::Solved => {
                    let offsets = search.offset;
                    return Fit::Found {
                        offsets,
                        nodes: spent,
                    };
                }
                Outcome::Failed => return Fit::Impossible { nodes: spent },
                Outcome::OutOfBudget if spent >= budget => break,
                Outcome::OutOfBudget => {}
            }
        }
        round = round.saturating_mul(4);
    }
    Fit::Unknown { nodes: spent }
}

/// An item in sections `from..to`.
#[derive(Clone, Copy)]
struct Item {
    from: usize,
    to: usize,
    size: u64,
    width: u64,
}

struct Problem {
    capacity: u64,
    items: Vec<Item>,
    /// Items that are alive together with an item.
    overlaps: Vec<Vec<u32>>,
    /// Items of each section.
    sections: Vec<Vec<u32>>,
}

impl Problem {
    fn new(intervals: &[Interval], capacity: u64) -> Problem {
        let starts = section_starts(intervals);
        let at = |time: u64| starts.partition_point(|&s| s < time);
        let items: Vec<Item> = intervals
            .iter()
            .map(|i| Item {
                from: at(i.lower),
                to: at(i.upper).max(at(i.lower)),
                size: i.size,
                width: i.upper.saturating_sub(i.lower),
            })
            .collect();
        let mut sections: Vec<Vec<u32>> = vec![Vec::new(); starts.len()];
        for (i, item) in items.iter().enumerate() {
            sections[item.from..item.to]
                .iter_mut()
                .for_each(|section| section.push(i as u32));
        }
        let together = |a: &Item, b: &Item| a.from < b.to && b.from < a.to;
        let overlaps = items.iter().enumerate().map(|(i, a)| {
            let others = items.iter().enumerate();
            let others = others.filter(|&(j, b)| i != j && together(a, b));
            others.map(|(j, _)| j as u32).collect()
        });
        Problem {
            capacity,
            overlaps: overlaps.collect(),
            sections,
            items,
        }
    }

    fn total(&self, section: usize) -> u64 {
        let items = self.sections[section].iter();
        items.map(|&i| self.items[i as usize].size).sum()
    }
}

/// First moments of the sections that matter: those in which a largest set of items is alive, from the last start before some item ends.
fn section_starts(items: &[Interval]) -> Vec<u64> {
    let mut times: Vec<(u64, bool)> = Vec::new();
    for i in items.iter().filter(|i| i.lower < i.upper) {
        times.push((i.upper, false));
        times.push((i.lower, true));
    }
    times.sort_unstable();
    let mut starts = Vec::new();
    let mut started = None;
    for (time, starts_here) in times {
        if starts_here {
            started = Some(time);
        } else if let Some(time) = started.take() {
            starts.push(time);
        }
    }
    starts
}

/// What an order goes by, the first first: the fullest section of an item, its width in time, its area.
#[derive(Clone, Copy)]
enum Key {
    Fullest,
    Width,
    Area,
}

/// Orders in which items are tried that could be placed at the same offset.
const ORDERS: [[Key; 3]; 3] = [
    [Key::Width, Key::Area, Key::Fullest],
    [Key::Fullest, Key::Area, Key::Width],
    [Key::Fullest, Key::Width, Key::Area],
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Solved,
    Failed,
    OutOfBudget,
}

/// Something to take back.
enum Change {
    Floor(u32, u64),
    SectionFloor(u32, u64),
}

struct Search<'p> {
    problem: &'p Problem,
    order: [Key; 3],
    rank: Vec<u32>,
    budget: u64,
    nodes: u64,
    placed: Vec<bool>,
    offset: Vec<u64>,
    /// Least offset of each item above those placed.
    floor: Vec<u64>,
    /// Of each section: sizes of waiting items, and the least of their floors.
    waiting: Vec<u64>,
    section_floor: Vec<u64>,
    /// Of each section, whether its floor may have to be raised.
    stale: Vec<bool>,
    changes: Vec<Change>,
    trail: Vec<u32>,
}

impl<'p> Search<'p> {
    fn new(problem: &'p Problem, order: [Key; 3], budget: u64) -> Search<'p> {
        let n = problem.items.len();
        let sections = problem.sections.len();
        Search {
            problem,
            order,
            rank: vec![0; n],
            budget,
            nodes: 0,
            placed: vec![false; n],
            offset: vec![0; n],
            floor: vec![0; n],
            waiting: (0..sections).map(|s| problem.total(s)).collect(),
            section_floor: vec![0; sections],
            stale: vec![false; sections],
            changes: Vec::new(),
            trail: Vec::new(),
        }
    }

    /// Places all waiting items of `items`, part by part; `last` is the offset and rank of the item placed before, if there is one.
    fn parts(&mut self, mut items: Vec<u32>, last: Option<(u64, u32)>) -> Outcome {
        items.retain(|&i| !self.placed[i as usize]);
        items.sort_unstable_by_key(|&i| self.problem.items[i as usize].from);
        let mut parts: Vec<Vec<u32>> = Vec::new();
        let mut end = 0;
        for i in items {
            let item = self.problem.items[i as usize];
            match parts.last_mut() {
                Some(part) if item.from < end => part.push(i),
                _ => parts.push(vec![i]),
            }
            end = end.max(item.to);
        }
        if let [only] = parts.as_slice()
            && last.is_some()
        {
            return self.part(only, last);
        }
        parts.sort_by_key(Vec::len);
        for part in parts {
            let before: Vec<u32> = part.iter().map(|&i| self.rank[i as usize]).collect();
            self.rank_part(&part);
            let outcome = self.part(&part, None);
            for (&i, rank) in part.iter().zip(before) {
                self.rank[i as usize] = rank;
            }
            if outcome != Outcome::Solved {
                return outcome;
            }
        }
        Outcome::Solved
    }

    /// Ranks the items of a part by the order of this search.
    fn rank_part(&mut self, part: &[u32]) {
        let key = |&i: &u32| {
            let item = &self.problem.items[i as usize];
            let keys = self.order.map(|key| match key {
                Key::Fullest => {
                    let sections = self.waiting[item.from..item.to].iter();
                    u128::from(sections.max().copied().unwrap_or(0))
                }
                Key::Width => item.width.into(),
                Key::Area => u128::from(item.width) * u128::from(item.size),
            });
            (std::cmp::Reverse(keys), i)
        };
        let mut order = part.to_vec();
        order.sort_by_cached_key(key);
        for (rank, i) in order.into_iter().enumerate() {
            self.rank[i as usize] = rank as u32;
        }
    }

    /// One part: all ways to choose the item that comes next.
    fn part(&mut self, items: &[u32], last: Option<(u64, u32)>) -> Outcome {
        self.nodes += 1;
        if self.nodes > self.budget {
            return Outcome::OutOfBudget;
        }
        let top = |i: u32| self.floor[i as usize] + self.problem.items[i as usize].size;
        let lowest_top = items.iter().map(|&i| top(i)).min().unwrap_or(0);
        if last.is_some_and(|(offset, _)| lowest_top <= offset) {
            return Outcome::Failed;
        }
        let mut next: Vec<(u64, u32, u32)> = items
            .iter()
            .map(|&i| (self.floor[i as usize], self.rank[i as usize], i))
            .filter(|&(floor, rank, _)| {
                floor < lowest_top && last.is_none_or(|last| (floor, rank) > last)
            })
            .collect();
        next.sort_unstable();
        for (floor, rank, i) in next {
            let (changes, trail) = (self.changes.len(), self.trail.len());
            let (possible, carries) = self.place(i, items);
            if possible {
                match self.parts(items.to_vec(), Some((floor, rank))) {
                    Outcome::Failed => {}
                    outcome => return outcome,
                }
            }
            self.take_back(changes, trail);
            // What carries nothing cannot have been in the way.
            if possible && !carries {
                return Outcome::Failed;
            }
        }
        Outcome::Failed
    }

    /// Puts an item on its floor. Returns whether the rest may still fit, and whether a waiting item lies above this one.
    fn place(&mut self, i: u32, part: &[u32]) -> (bool, bool) {
        let problem = self.problem;
        let item = problem.items[i as usize];
        let offset = self.floor[i as usize];
        let top = offset + item.size;
        // Whatever waits in a section of the item will lie on it. Most failures are seen here, before anything is changed.
        let mut own = self.waiting[item.from..item.to].iter();
        if top > problem.capacity || own.any(|&w| offset + w > problem.capacity) {
            return (false, true);
        }
        self.placed[i as usize] = true;
        self.offset[i as usize] = offset;
        self.trail.push(i);
        self.raised(item, offset);
        for waiting in &mut self.waiting[item.from..item.to] {
            *waiting -= item.size;
        }
        let (mut possible, mut carries) = (true, false);
        let (mut from, mut to) = (item.from, item.to);
        for &j in &problem.overlaps[i as usize] {
            let other = problem.items[j as usize];
            if self.placed[j as usize] {
                continue;
            }
            carries = true;
            let floor = &mut self.floor[j as usize];
            if *floor < top {
                let before = std::mem::replace(floor, top);
                self.changes.push(Change::Floor(j, before));
                (from, to) = (from.min(other.from), to.max(other.to));
                self.raised(other, before);
                possible &= top + other.size <= problem.capacity;
            }
        }
        possible = possible && self.sections_fit(item, from..to, offset) && self.fits(part, offset);
        (possible, carries)
    }

    /// Notes the sections whose floor an item held that is not at `before` any more.
    fn raised(&mut self, item: Item, before: u64) {
        let sections = item.from..item.to;
        let floors = &self.section_floor[sections.clone()];
        for (stale, &floor) in self.stale[sections].iter_mut().zip(floors) {
            *stale |= floor >= before;
        }
    }

    /// Raises the floors of sections; those of the item itself first, where most failures are.
    fn sections_fit(&mut self, item: Item, all: std::ops::Range<usize>, offset: u64) -> bool {
        let own = item.from..item.to;
        let around = (all.start..own.start).chain(own.end..all.end);
        for s in own.clone().chain(around) {
            if !std::mem::take(&mut self.stale[s]) || self.waiting[s] == 0 {
                continue;
            }
            let waiting = self.problem.sections[s].iter();
            let waiting = waiting.filter(|&&i| !self.placed[i as usize]);
            let floor = waiting.map(|&i| self.floor[i as usize]).min().unwrap_or(0);
            if floor != self.section_floor[s] {
                let before = std::mem::replace(&mut self.section_floor[s], floor);
                self.changes.push(Change::SectionFloor(s as u32, before));
                if floor.max(offset) + self.waiting[s] > self.problem.capacity {
                    return false;
                }
            }
        }
        true
    }

    /// Whether in every section of the part what waits fits above `offset`, below which nothing is placed any more.
    fn fits(&self, part: &[u32], offset: u64) -> bool {
        let items = part.iter().map(|&i| self.problem.items[i as usize]);
        let (from, to) = items.fold((usize::MAX, 0), |(from, to), item| {
            (from.min(item.from), to.max(item.to))
        });
        (from..to).all(|s| {
            let waiting = self.waiting[s];
            waiting == 0 || self.section_floor[s].max(offset) + waiting <= self.problem.capacity
        })
    }

    fn take_back(&mut self, changes: usize, trail: usize) {
        for i in self.trail.drain(trail..) {
            let item = self.problem.items[i as usize];
            self.placed[i as usize] = false;
            for waiting in &mut self.waiting[item.from..item.to] {
                *waiting += item.size;
            }
        }
        for change in self.changes.drain(changes..).rev() {
            match change {
                Change::Floor(i, before) => self.floor[i as usize] = before,
                Change::SectionFloor(s, before) => self.section_floor[s as usize] = before,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::random::Stream;

    use super::*;

    fn check(items: &[Interval], offsets: &[u64], capacity: u64) {
        for (i, a) in items.iter().enumerate() {
            assert!(offsets[i] + a.size <= capacity);
            for (j, b) in items.iter().enumerate().skip(i + 1) {
                let together = a.lower < b.upper && b.lower < a.upper;
                let apart = offsets[i] + a.size <= offsets[j] || offsets[j] + b.size <= offsets[i];
                assert!(!together || apart, "{i} and {j} overlap");
            }
        }
    }

    /// Least height of all packings, by trying every order of first fit: each canonical packing comes out of one of them.
    fn least_height(items: &[Interval], order: &mut Vec<usize>, offsets: &mut Vec<u64>) -> u64 {
        if order.len() == items.len() {
            return (0..items.len())
                .map(|i| offsets[i] + items[i].size)
                .max()
                .unwrap_or(0);
        }
        let mut best = u64::MAX;
        for i in 0..items.len() {
            if order.contains(&i) {
                continue;
            }
            let rests =
                |&&j: &&usize| items[j].lower < items[i].upper && items[i].lower < items[j].upper;
            let floor = order
                .iter()
                .filter(rests)
                .map(|&j| offsets[j] + items[j].size)
                .max();
            offsets[i] = floor.unwrap_or(0);
            order.push(i);
            best = best.min(least_height(items, order, offsets));
            order.pop();
        }
        best
    }

    #[test]
    fn small_problems_are_solved_exactly() {
        let stream = Stream::new(3, 0);
        let mut next = 0u64;
        let mut draw = |n: u64| {
            next += 1;
            u64::from(stream.bits(next)) % n
        };
        for _ in 0..150 {
            let items: Vec<Interval> = (0..1 + draw(6))
                .map(|_| {
                    let lower = draw(6);
                    Interval {
                        lower,
                        upper: lower + 1 + draw(5),
                        size: 1 + draw(8),
                    }
                })
                .collect();
            let least = least_height(&items, &mut vec![], &mut vec![0; items.len()]);
            match fit(&items, least, 1 << 20) {
                Fit::Found { offsets, .. } => check(&items, &offsets, least),
                other => panic!("{items:?} fits {least}: {other:?}"),
            }
            let less = fit(&items, least - 1, 1 << 20);
            assert!(matches!(less, Fit::Impossible { .. }), "{items:?} {less:?}");
        }
    }

    #[test]
    fn nothing_fits_anywhere_and_too_much_nowhere() {
        assert!(matches!(fit(&[], 0, 1), Fit::Found { .. }));
        let huge = Interval {
            lower: 0,
            upper: 1,
            size: u64::MAX,
        };
        assert_eq!(max_live(&[huge, huge]), u64::MAX);
        assert_eq!(
            fit(&[huge, huge], u64::MAX - 1, 9),
            Fit::Impossible { nodes: 0 }
        );
    }
}
