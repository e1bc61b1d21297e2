//! Views as affine index maps: which source element a viewed element is.
//!
//! Every dimension of the viewed tensor is a mixed-radix number whose digits are *atoms*; an atom steps through one source dimension
//! with a fixed stride. Reshape splits and regroups atoms, transpose permutes dimensions, slice shortens atoms.

use smallvec::{SmallVec, smallvec};

use super::ExchangeError;
use crate::program::View;
use crate::types::Shape;

/// A digit of a viewed dimension: `extent` values, each `stride` elements of source dimension `dim` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Atom {
    pub(crate) extent: usize,
    pub(crate) dim: usize,
    pub(crate) stride: usize,
}

/// Atoms of one viewed dimension, most significant first; extent-1 atoms are left out.
pub(crate) type Digits = SmallVec<[Atom; 2]>;

/// `source[d] = offset[d] + Σ digit · stride` over the atoms of `d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AffineMap {
    pub(crate) offset: SmallVec<[usize; 4]>,
    pub(crate) dims: SmallVec<[Digits; 4]>,
    pub(crate) shape: Shape,
}

impl AffineMap {
    /// The map of `views` over a source of `shape`.
    pub(crate) fn of(shape: &Shape, views: &[View]) -> Result<AffineMap, ExchangeError> {
        let whole = |(dim, &extent): (usize, &usize)| -> Digits {
            if extent == 1 {
                smallvec![]
            } else {
                smallvec![Atom {
                    extent,
                    dim,
                    stride: 1
                }]
            }
        };
        let mut map = AffineMap {
            offset: SmallVec::from_elem(0, shape.rank()),
            dims: shape.dims().iter().enumerate().map(whole).collect(),
            shape: shape.clone(),
        };
        for (index, view) in views.iter().enumerate() {
            let shape = view.apply(&map.shape).ok_or(ExchangeError::View {
                index,
                shape: map.shape.clone(),
            })?;
            let affine = match view {
                View::Reshape(_) => map.reshape(&shape),
                View::Transpose(perm) => {
                    map.dims = perm.iter().map(|&p| map.dims[p].clone()).collect();
                    Some(())
                }
                View::Slice { axis, start, len } => map.slice(*axis, *start, *len),
            };
            affine.ok_or(ExchangeError::NotAffine { index })?;
            map.shape = shape;
        }
        Ok(map)
    }

    fn reshape(&mut self, to: &Shape) -> Option<()> {
        let mut atoms: Vec<Atom> = self.dims.iter().flatten().copied().collect();
        let mut dims: SmallVec<[Digits; 4]> = SmallVec::new();
        for &extent in to.dims().iter().rev() {
            let mut need = extent;
            let mut digits: Digits = SmallVec::new();
            while need > 1 {
                let last = atoms.last_mut()?;
                if need % last.extent == 0 {
                    need /= last.extent;
                    digits.insert(0, *last);
                    atoms.pop();
                } else if last.extent % need == 0 {
                    digits.insert(
                        0,
                        Atom {
                            extent: need,
                            ..*last
                        },
                    );
                    last.extent /= need;
                    last.stride *= need;
                    need = 1;
                } else {
                    return None;
                }
            }
            dims.insert(0, digits);
        }
        self.dims = dims;
        Some(())
    }

    fn slice(&mut self, axis: usize, mut start: usize, len: usize) -> Option<()> {
        if len == self.shape[axis] {
            return Some(());
        }
        let digits = &mut self.dims[axis];
        while let Some(&outer) = digits.first() {
            let inner: usize = digits[1..].iter().map(|a| a.extent).product();
            let first = start / inner;
            if start.is_multiple_of(inner) && len.is_multiple_of(inner) {
                self.offset[outer.dim] += first * outer.stride;
                digits[0].extent = len / inner;
                if len == inner {
                    digits.remove(0);
                }
                return Some(());
            }
            if first != (start + len - 1) / inner {
                return None;
            }
            self.offset[outer.dim] += first * outer.stride;
            digits.remove(0);
            start -= first * inner;
        }
        Some(())
    }
}

/// Part of a digit: values `first .. first + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) first: usize,
    pub(crate) len: usize,
}

/// Cuts the range `lo..hi` of a mixed-radix number with these digits into boxes of digit ranges, ascending.
pub(crate) fn digit_boxes(digits: &[Atom], lo: usize, hi: usize) -> Vec<SmallVec<[Part; 2]>> {
    let Some((_, inner)) = digits.split_first() else {
        return if lo < hi { vec![smallvec![]] } else { vec![] };
    };
    if lo >= hi {
        return vec![];
    }
    let radix: usize = inner.iter().map(|a| a.extent).product();
    let (first, last) = (lo / radix, (hi - 1) / radix);
    let prefixed = |first: usize, len: usize, lo: usize, hi: usize| {
        digit_boxes(inner, lo, hi).into_iter().map(move |mut rest| {
            rest.insert(0, Part { first, len });
            rest
        })
    };
    if first == last {
        return prefixed(first, 1, lo % radix, (hi - 1) % radix + 1).collect();
    }
    let mut boxes = Vec::new();
    let mut from = first;
    if !lo.is_multiple_of(radix) {
        boxes.extend(prefixed(first, 1, lo % radix, radix));
        from += 1;
    }
    let to = if hi.is_multiple_of(radix) {
        last + 1
    } else {
        last
    };
    if to > from {
        boxes.extend(prefixed(from, to - from, 0, radix));
    }
    if !hi.is_multiple_of(radix) {
        boxes.extend(prefixed(last, 1, 0, hi % radix));
    }
    boxes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims)
    }

    #[test]
    fn a_sliced_head_view_is_affine() {
        // [5, 24] → columns 8..16 → [5, 2, 4] → [2, 5, 4]: head h, row s, column c is source (s, 8 + 4h + c).
        let views = [
            View::Slice {
                axis: 1,
                start: 8,
                len: 8,
            },
            View::Reshape(shape(&[5, 2, 4])),
            View::Transpose(smallvec![1, 0, 2]),
        ];
        let map = AffineMap::of(&shape(&[5, 24]), &views).unwrap();
        assert_eq!(map.offset.as_slice(), &[0, 8]);
        assert_eq!(
            map.dims[0].as_slice(),
            &[Atom {
                extent: 2,
                dim: 1,
                stride: 4
            }]
        );
        assert_eq!(
            map.dims[1].as_slice(),
            &[Atom {
                extent: 5,
                dim: 0,
                stride: 1
            }]
        );
    }

    #[test]
    fn a_cut_that_no_stride_describes_is_refused() {
        let views = [
            View::Transpose(smallvec![1, 0]),
            View::Reshape(shape(&[12])),
            View::Slice {
                axis: 0,
                start: 1,
                len: 5,
            },
        ];
        assert_eq!(
            AffineMap::of(&shape(&[3, 4]), &views),
            Err(ExchangeError::NotAffine { index: 2 })
        );
    }

    #[test]
    fn digit_boxes_cover_the_range_once() {
        let digits = [
            Atom {
                extent: 3,
                dim: 0,
                stride: 1,
            },
            Atom {
                extent: 4,
                dim: 1,
                stride: 1,
            },
            Atom {
                extent: 5,
                dim: 2,
                stride: 1,
            },
        ];
        for lo in 0..60 {
            for hi in lo..=60 {
                let mut seen = vec![0; 60];
                for b in digit_boxes(&digits, lo, hi) {
                    for i in b[0].first..b[0].first + b[0].len {
                        for j in b[1].first..b[1].first + b[1].len {
                            for k in b[2].first..b[2].first + b[2].len {
                                seen[(i * 4 + j) * 5 + k] += 1;
                            }
                        }
                    }
                }
                assert!(
                    seen.iter()
                        .enumerate()
                        .all(|(at, &n)| n == usize::from((lo..hi).contains(&at)))
                );
            }
        }
    }
}
