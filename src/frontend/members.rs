//! Weights in parts: what a program keeps of a weight whose layer is divided over a group of IPUs.
//!
//! Each member of the group has a state of its own, `h.0.mlp.c_fc.weight.0`, `h.0.mlp.c_fc.weight.1`, …, and so for what belongs to the weight
//! (`exp_avg.h.0.mlp.c_fc.weight.0`). Outside of a program there is one tensor: in files, in checkpoints, in [`Weights`](super::Weights).

use std::collections::BTreeMap;

use superstep_passes::tensor_parallel::part_of;

use super::vocabulary::TABLE;

/// The weights that a program keeps in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberParts {
    divided: BTreeMap<String, Division>,
}

/// How one weight is divided: its axis is a few runs of equal length, of each of which every member has an equal share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    shape: Vec<usize>,
    axis: usize,
    runs: usize,
    members: usize,
}

/// Columns of query, key and value stand side by side, those of all heads each.
fn runs(weight: &str) -> usize {
    match weight.contains(".attn.c_attn.") {
        true => 3,
        false => 1,
    }
}

impl MemberParts {
    /// Those of a program that has states of these shapes: of each weight it has either the whole, or parts. The table is another matter.
    pub fn of<'w>(
        weights: impl Iterator<Item = (&'w str, &'w [usize])>,
        states: &BTreeMap<&str, &[usize]>,
    ) -> MemberParts {
        let divided = weights.filter(|&(name, _)| name != TABLE && !states.contains_key(name));
        let divided = divided.filter_map(|(name, shape)| {
            let part = states.get(part_of(name, 0).as_str())?;
            let division = Division::of(shape, part, runs(name))?;
            let last = part_of(name, division.members - 1);
            let is_whole = states.contains_key(last.as_str());
            is_whole.then(|| (name.to_owned(), division))
        });
        MemberParts {
            divided: divided.collect(),
        }
    }

    /// How a weight, or what belongs to one, is divided.
    pub fn division(&self, name: &str) -> Option<&Division> {
        let of_owner = || self.divided.get(name.split_once('.')?.1);
        self.divided.get(name).or_else(of_owner)
    }

    /// For a member's part of a state: the state, how it is divided, and the member.
    pub fn part_of<'s>(&self, state: &'s str) -> Option<(&'s str, &Division, usize)> {
        let (name, member) = state.rsplit_once('.')?;
        Some((name, self.division(name)?, member.parse().ok()?))
    }
}

impl Division {
    /// That of a tensor of which a member has so much.
    fn of(shape: &[usize], part: &[usize], runs: usize) -> Option<Division> {
        let differs = |axis: &usize| shape.get(*axis) != part.get(*axis);
        let axis = (0..shape.len()).find(differs)?;
        let members = shape[axis].checked_div(*part.get(axis)?)?;
        let mut whole = part.to_vec();
        whole[axis] *= members;
        // The columns of a product are its last axis; rows are no runs.
        let runs = if axis + 1 == shape.len() { runs } else { 1 };
        let divides = members > 1 && shape[axis].is_multiple_of(runs * members);
        (whole == shape && divides).then(|| Division {
            shape: shape.to_vec(),
            axis,
            runs,
            members,
        })
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn members(&self) -> usize {
        self.members
    }

    /// Where the share of a member lies in a whole of so many units, run by run.
    fn shares(&self, units: usize, member: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let runs = self.shape[..self.axis].iter().product::<usize>() * self.runs;
        let run = units / runs.max(1);
        let share = run / self.members;
        (0..runs).map(move |i| {
            let start = i * run + member * share;
            start..start + share
        })
    }

    /// A member's part of a whole tensor, both row-major.
    pub fn take<T: Copy>(&self, whole: &[T], member: usize) -> Vec<T> {
        let shares = self.shares(whole.len(), member);
        shares
            .flat_map(|share| whole[share].iter().copied())
            .collect()
    }

    /// Puts a member's part into its place; what `part` has beyond it is padding.
    pub fn put<T: Copy>(&self, part: &[T], member: usize, whole: &mut [T]) {
        let mut rest = part;
        for share in self.shares(whole.len(), member) {
            let (now, later) = rest.split_at(share.len());
            whole[share].copy_from_slice(now);
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_joined_are_the_whole() {
        for (shape, part, runs) in [
            (&[2usize, 12][..], &[2usize, 6][..], 3),
            (&[2, 12], &[2, 4], 1),
            (&[12], &[6], 3),
            (&[4, 3], &[1, 3], 3),
        ] {
            let division = Division::of(shape, part, runs).unwrap();
            let elements = shape.iter().product::<usize>();
            let whole: Vec<usize> = (0..elements).collect();
            let mut joined = vec![0; elements];
            for member in 0..division.members() {
                let mut taken = division.take(&whole, member);
                assert_eq!(taken.len(), part.iter().product::<usize>());
                taken.push(99);
                division.put(&taken, member, &mut joined);
            }
            assert_eq!(joined, whole);
        }
        // The first head's query, key and value of two heads of one column.
        let qkv = Division::of(&[1, 6], &[1, 3], 3).unwrap();
        assert_eq!(
            qkv.take(&["q0", "q1", "k0", "k1", "v0", "v1"], 0),
            ["q0", "k0", "v0"]
        );
        for (shape, part) in [
            (&[4usize][..], &[4usize][..]),
            (&[5], &[2]),
            (&[4, 2], &[2]),
        ] {
            assert_eq!(Division::of(shape, part, 1), None);
        }
    }

    #[test]
    fn states_belong_to_the_weight_whose_name_they_have() {
        let weights = [
            ("h.0.mlp.c_fc.weight", &[2usize, 4][..]),
            ("ln_f.bias", &[2]),
            (TABLE, &[4, 2]),
        ];
        let half = &[2usize, 2][..];
        let states = BTreeMap::from([
            ("h.0.mlp.c_fc.weight.0", half),
            ("h.0.mlp.c_fc.weight.1", half),
            ("ln_f.bias", &[2]),
            ("wte.weight.0", half),
            ("wte.weight.1", half),
        ]);
        let parts = MemberParts::of(weights.into_iter(), &states);
        let (name, division, member) = parts.part_of("exp_avg.h.0.mlp.c_fc.weight.1").unwrap();
        assert_eq!((name, member), ("exp_avg.h.0.mlp.c_fc.weight", 1));
        assert_eq!(division.shape(), [2, 4]);
        for other in ["wte.weight.0", "ln_f.bias", "step", "h.0.mlp.c_fc.weight"] {
            assert_eq!(parts.part_of(other), None, "{other}");
        }
    }
}
