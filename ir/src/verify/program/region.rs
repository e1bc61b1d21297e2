//! Boxes of a tensor, and what a set of boxes covers.

use std::ops::Range;

use smallvec::SmallVec;

use crate::types::Shape;

/// A box of a tensor: a range of each dimension. A scalar has one box, without dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region(pub(super) SmallVec<[Range<usize>; 4]>);

impl Region {
    pub(super) fn whole(shape: &Shape) -> Region {
        Region(shape.dims().iter().map(|&d| 0..d).collect())
    }

    /// The box of `shape` that starts at `at`.
    pub(super) fn at(at: &[usize], shape: &Shape) -> Region {
        Region(
            at.iter()
                .zip(shape.dims())
                .map(|(&a, &d)| a..a.saturating_add(d))
                .collect(),
        )
    }

    /// One entry of the leading dimension.
    pub(super) fn entry(shape: &Shape, entry: u32) -> Region {
        let mut region = Region::whole(shape);
        if let Some(leading) = region.0.first_mut() {
            *leading = entry as usize..entry as usize + 1;
        }
        region
    }

    pub(super) fn overlaps(&self, other: &Region) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(a, b)| a.start < b.end && b.start < a.end)
    }

    fn contains(&self, other: &Region) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(a, b)| a.start <= b.start && b.end <= a.end)
    }

    /// The parts of `self` outside of `other`, which overlaps it.
    fn without(&self, other: &Region) -> Vec<Region> {
        let mut parts = Vec::new();
        let mut rest = self.clone();
        for (d, cut) in other.0.iter().enumerate() {
            let range = rest.0[d].clone();
            if range.start < cut.start {
                let mut part = rest.clone();
                part.0[d] = range.start..cut.start;
                parts.push(part);
            }
            if cut.end < range.end {
                let mut part = rest.clone();
                part.0[d] = cut.end..range.end;
                parts.push(part);
            }
            rest.0[d] = range.start.max(cut.start)..range.end.min(cut.end);
        }
        parts
    }

    /// The union, when it is a box.
    fn joined(&self, other: &Region) -> Option<Region> {
        if self.contains(other) {
            return Some(self.clone());
        }
        if other.contains(self) {
            return Some(other.clone());
        }
        let mut differing = (0..self.0.len()).filter(|&d| self.0[d] != other.0[d]);
        let d = differing.next()?;
        let (a, b) = (&self.0[d], &other.0[d]);
        let touches = a.start <= b.end && b.start <= a.end;
        if differing.next().is_some() || !touches {
            return None;
        }
        let mut union = self.clone();
        union.0[d] = a.start.min(b.start)..a.end.max(b.end);
        Some(union)
    }
}

/// The part of a tensor that has been written: a union of boxes.
#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    boxes: Vec<Region>,
}

impl Coverage {
    pub(super) const fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }

    pub(super) fn add(&mut self, region: Region) {
        let mut region = region;
        // Slices that arrive in order grow into one box.
        while let Some((i, union)) = self
            .boxes
            .iter()
            .enumerate()
            .rev()
            .find_map(|(i, b)| Some((i, b.joined(&region)?)))
        {
            self.boxes.swap_remove(i);
            region = union;
        }
        self.boxes.push(region);
    }

    /// Adds all boxes of another.
    pub(super) fn join(&mut self, other: Coverage) {
        other.boxes.into_iter().for_each(|region| self.add(region));
    }

    /// Whether some of the region may be covered.
    pub(super) fn touches(&self, region: &Region) -> bool {
        self.boxes.iter().any(|written| written.overlaps(region))
    }

    pub(super) fn covers(&self, region: &Region) -> bool {
        let mut missing = vec![region.clone()];
        for written in &self.boxes {
            missing = missing
                .into_iter()
                .flat_map(|m| {
                    if m.overlaps(written) {
                        m.without(written)
                    } else {
                        vec![m]
                    }
                })
                .collect();
            if missing.is_empty() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxes() -> impl Strategy<Value = Vec<[(usize, usize); 2]>> {
        let range = (0usize..6, 1usize..4);
        prop::collection::vec([range.clone(), range], 0..12)
    }

    fn region(b: &[(usize, usize); 2]) -> Region {
        Region(b.iter().map(|&(start, len)| start..start + len).collect())
    }

    proptest! {
        #[test]
        fn coverage_is_that_of_a_bitmap(written in boxes(), asked in boxes()) {
            let mut coverage = Coverage::default();
            let mut bitmap = [[false; 10]; 10];
            for b in &written {
                coverage.add(region(b));
                for row in &mut bitmap[b[0].0..b[0].0 + b[0].1] {
                    row[b[1].0..b[1].0 + b[1].1].fill(true);
                }
            }
            for b in &asked {
                let mut rows = bitmap[b[0].0..b[0].0 + b[0].1].iter();
                let expected = rows.all(|r| r[b[1].0..b[1].0 + b[1].1].iter().all(|&w| w));
                prop_assert_eq!(coverage.covers(&region(b)), expected);
            }
        }
    }

    #[test]
    fn slices_in_order_become_one_box() {
        let mut coverage = Coverage::default();
        for i in 0..10 {
            coverage.add(Region::at(&[i, 0], &Shape::new(&[1, 7])));
        }
        assert_eq!(coverage.boxes, [Region::whole(&Shape::new(&[10, 7]))]);
        assert!(coverage.covers(&Region::entry(&Shape::new(&[10, 7]), 9)));
    }

    #[test]
    fn a_scalar_is_one_box() {
        let mut coverage = Coverage::default();
        let scalar = Region::whole(&Shape::scalar());
        assert!(!coverage.covers(&scalar));
        coverage.add(scalar.clone());
        assert!(coverage.covers(&scalar));
    }
}
