//! How much memory the ops of every IPU may use for what they bring: the search for what fits.

use superstep_ir::ids::IpuId;
use superstep_ir::units::Bytes;

use crate::budget::Grant;
use crate::memory::{Overflow, Overflows};

/// Share of a tile that every op may use in the lowering that shows what is free.
pub(super) const FIRST_SHARE: f64 = 0.15;

/// What the ops of an IPU may use, in the order in which it is tried on an IPU that is too full. Of free memory a part is lost between blocks, and
/// on what changes with the plans. Less memory for operands is more slices, and so more code: the least is not what fits best.
const GRANTS: [Grant; 8] = [
    Grant::OfFree(0.9),
    Grant::OfFree(0.75),
    Grant::OfFree(0.55),
    Grant::OfFree(0.35),
    Grant::OfTile(FIRST_SHARE),
    Grant::OfTile(0.1),
    Grant::OfTile(0.07),
    Grant::OfTile(0.04),
];

/// The search for what every IPU may use: one that is too full tries the next grant, the others keep theirs.
pub(super) struct Search {
    /// By IPU, the number of its grant, and the overflow with least missing of those tried.
    pub(super) numbers: Vec<usize>,
    nearest: Vec<Option<Overflow>>,
}

impl Search {
    pub(super) fn new(from: &[usize], ipus: u32) -> Search {
        let from = (0..ipus as usize).map(|ipu| from.get(ipu).copied().unwrap_or(0));
        Search {
            numbers: from.map(|number| number.min(GRANTS.len() - 1)).collect(),
            nearest: vec![None; ipus as usize],
        }
    }

    pub(super) fn grants(&self) -> Vec<Grant> {
        self.numbers.iter().map(|&number| GRANTS[number]).collect()
    }

    /// `least` is what is alive on an IPU's fullest tile whatever its ops use. Smaller grants make more code. So where a grant leaves too little beside its code for that, the smaller ones of
    /// its kind leave too little as well, and are not tried.
    ///
    /// # Errors
    /// An IPU has no grant left: the overflow that came closest.
    pub(super) fn next(
        &mut self,
        overflows: Overflows,
        least: impl Fn(IpuId) -> Bytes,
    ) -> Result<(), Box<Overflow>> {
        for overflow in overflows {
            let ipu = overflow.ipu.index();
            let tried = GRANTS[self.numbers[ipu]];
            let is_counted = overflow.code.is_some();
            let too_much_code = is_counted && least(overflow.ipu) > overflow.available;
            let is_hopeless = |grant: &Grant| too_much_code && grant.is_less_than(tried);
            let left = &GRANTS[self.numbers[ipu] + 1..];
            let skipped = left.iter().take_while(|grant| is_hopeless(grant)).count();
            self.numbers[ipu] += 1 + skipped;
            let nearest = &mut self.nearest[ipu];
            let closer = |known: &Overflow| overflow.excess() < known.excess();
            if nearest.as_ref().is_none_or(closer) {
                *nearest = Some(overflow.clone());
            }
            if self.numbers[ipu] == GRANTS.len() {
                return Err(Box::new(nearest.take().unwrap_or(overflow)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use superstep_ir::ids::TileId;
    use superstep_ir::program::footprint::TileFootprint;

    use super::*;

    fn overflow(ipu: u32, needed: u64, available: u64) -> Overflow {
        Overflow {
            ipu: IpuId(ipu),
            tile: TileId(0),
            step: 0,
            at: String::new(),
            op: None,
            needed,
            available,
            code: Some(TileFootprint::default()),
            residents: vec![],
        }
    }

    #[test]
    fn only_full_ipus_try_the_next_grant() {
        let mut search = Search::new(&[], 3);
        assert_eq!(search.next(vec![overflow(1, 300, 200)], |_| 100), Ok(()));
        assert_eq!(search.numbers, [0, 1, 0]);
        assert_eq!(search.grants()[1], GRANTS[1]);
        // It goes on where another compilation ended.
        assert_eq!(Search::new(&search.numbers, 3).numbers, [0, 1, 0]);
        assert_eq!(Search::new(&[99], 2).numbers, [GRANTS.len() - 1, 0]);
    }

    #[test]
    fn grants_whose_code_leaves_too_little_are_passed_over() {
        let mut search = Search::new(&[], 1);
        // 250 bytes are alive whatever an op uses: less memory for ops, and so more code, cannot help.
        let (first, second) = (overflow(0, 300, 200), overflow(0, 260, 220));
        assert_eq!(search.next(vec![first], |_| 250), Ok(()));
        assert_eq!(search.grants(), [Grant::OfTile(FIRST_SHARE)]);
        assert_eq!(
            search.next(vec![second.clone()], |_| 250),
            Err(Box::new(second))
        );
    }
}
