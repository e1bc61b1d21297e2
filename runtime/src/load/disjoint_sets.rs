//! Disjoint sets of numbers, of each of which the smallest stands for all.

#[derive(Clone)]
pub(super) struct DisjointSets {
    /// Another number of the set, itself for the smallest.
    parent: Vec<u32>,
}

impl DisjointSets {
    /// Every number below `count` alone.
    pub(super) fn new(count: usize) -> DisjointSets {
        DisjointSets {
            parent: (0..count as u32).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.parent.len()
    }

    /// The number that stands for the set of `of`, which is found faster the next time.
    fn root(&mut self, mut of: u32) -> u32 {
        while self.parent[of as usize] != of {
            let above = self.parent[of as usize];
            self.parent[of as usize] = self.parent[above as usize];
            of = above;
        }
        of
    }

    /// The number that stands for the set of `of`.
    pub(super) fn find(&self, mut of: u32) -> u32 {
        while self.parent[of as usize] != of {
            of = self.parent[of as usize];
        }
        of
    }

    /// Makes one of the sets of two numbers.
    pub(super) fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b) as usize] = a.min(b);
    }
}
