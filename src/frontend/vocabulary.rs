//! The embedding table in slices: equal runs of vocabulary entries, each a state of its own, the last filled up with entries that are none.
//!
//! Programs that compute the output head slice by slice keep `wte.weight.0`, `wte.weight.1`, …, and so for what belongs to the weight
//! (`exp_avg.wte.weight.0`). Outside of a program there is one table, without padding: in files, in checkpoints, in [`Weights`].
//! Entries of padding are zero and stay so: they have no gradient, and decay of zero is zero.
//!
//! [`Weights`]: super::Weights

/// The name of the table among the parameters.
pub const TABLE: &str = "wte.weight";

/// How the vocabulary is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VocabularySlices {
    vocabulary: usize,
    count: usize,
    /// Entries of a slice.
    rows: usize,
}

impl VocabularySlices {
    /// The table as it is.
    pub const fn whole(vocabulary: usize) -> VocabularySlices {
        VocabularySlices {
            vocabulary,
            count: 1,
            rows: vocabulary,
        }
    }

    /// `count` slices whose entries can be shared out evenly over `replicas`; one slice is the whole table, without padding.
    pub const fn new(vocabulary: usize, count: usize, replicas: usize) -> VocabularySlices {
        if count <= 1 {
            return VocabularySlices::whole(vocabulary);
        }
        VocabularySlices {
            vocabulary,
            count,
            rows: vocabulary.div_ceil(count).next_multiple_of(replicas),
        }
    }

    /// `count` slices of so many entries, if they hold the vocabulary.
    pub fn holding(vocabulary: usize, count: usize, rows: usize) -> Option<VocabularySlices> {
        let slices = VocabularySlices {
            vocabulary,
            count,
            rows,
        };
        (vocabulary > 0 && slices.padded() >= vocabulary).then_some(slices)
    }

    pub const fn count(&self) -> usize {
        self.count
    }

    /// Entries of the whole table.
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Entries of a slice, padding included.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Entries of all slices, padding included.
    pub const fn padded(&self) -> usize {
        self.count * self.rows
    }

    pub const fn padding(&self) -> usize {
        self.padded() - self.vocabulary
    }

    /// The first entry of slice `i`.
    pub const fn first(&self, i: usize) -> usize {
        i * self.rows
    }

    /// What slice `i` of a state of the table is called; there is only `name` where the table is whole.
    pub fn state(&self, name: &str, i: usize) -> String {
        match self.count {
            1 => name.to_owned(),
            _ => format!("{name}.{i}"),
        }
    }

    /// Names of all slices of a state, in order.
    pub fn states<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        (0..self.count).map(|i| self.state(name, i))
    }

    /// The name of the table's state of which `state` is slice `i`, for states such as `exp_avg.wte.weight.0`.
    pub fn slice_of<'a>(&self, state: &'a str) -> Option<(&'a str, usize)> {
        let (name, i) = state.rsplit_once('.')?;
        let i: usize = i.parse().ok()?;
        (self.has(name) && i < self.count).then_some((name, i))
    }

    /// True for the table and what belongs to it, where they are in slices.
    pub fn has(&self, name: &str) -> bool {
        let owner = name.strip_suffix(TABLE);
        self.count > 1 && owner.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The slices of a table, one after the other, with `row` elements an entry; `T::default()` is zero.
    pub fn cut<T: Copy + Default>(&self, table: &[T], row: usize) -> Vec<Vec<T>> {
        let slice = |i: usize| {
            let start = (self.first(i) * row).min(table.len());
            let end = (self.first(i + 1) * row).min(table.len());
            let mut slice = table[start..end].to_vec();
            slice.resize(self.rows * row, T::default());
            slice
        };
        (0..self.count).map(slice).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpt2_is_padded_as_published() {
        let slices = VocabularySlices::new(50257, 4, 1);
        assert_eq!((slices.rows(), slices.padded()), (12565, 50260));
        // So that four replicas get equal shares of each slice.
        assert_eq!(VocabularySlices::new(50257, 4, 4).padded(), 50272);
        assert_eq!(VocabularySlices::new(50257, 1, 4).padding(), 0);
        assert_eq!(slices.state(TABLE, 2), "wte.weight.2");
        assert_eq!(
            slices.slice_of("exp_avg.wte.weight.3"),
            Some(("exp_avg.wte.weight", 3))
        );
        for other in ["wte.weight.4", "h.0.mlp.c_fc.weight", "wte.weight", "step"] {
            assert_eq!(slices.slice_of(other), None);
        }
        assert_eq!(VocabularySlices::whole(7).state(TABLE, 0), TABLE);
    }

    #[test]
    fn slices_joined_are_the_table_and_zeroes() {
        for (vocabulary, count, replicas) in [(7, 2, 1), (8, 4, 1), (5, 4, 1), (5, 3, 2), (5, 1, 1)]
        {
            let slices = VocabularySlices::new(vocabulary, count, replicas);
            let table: Vec<u8> = (1..=vocabulary as u8 * 3).collect();
            let cut = slices.cut(&table, 3);
            assert!(cut.iter().all(|s| s.len() == slices.rows() * 3));
            let joined = cut.concat();
            assert_eq!(joined[..table.len()], table);
            assert!(joined[table.len()..].iter().all(|&x| x == 0));
            assert_eq!(joined.len(), slices.padded() * 3);
        }
    }
}
