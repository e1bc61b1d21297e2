//! Small changes of a plan: a layer to a neighbour, a layer that is not run forward again, other slices and row blocks of the head, state elsewhere.

use std::collections::BTreeSet;

use superstep_passes::place::Recompute;
use superstep_passes::recompute::Again;

use super::Plan;

/// Sizes that limit the changes.
pub(super) struct Limits {
    pub(super) layers: u32,
    pub(super) vocabulary: usize,
    /// Tokens of a sample.
    pub(super) block_size: usize,
}

impl Limits {
    /// Plans that differ in one thing; `chunks` are the row blocks of its head as compiled.
    pub(super) fn neighbours(&self, plan: &Plan, chunks: usize) -> Vec<Plan> {
        let mut found = Vec::new();
        let rows = plan.batch_size * self.block_size;
        for chunks in half_and_double(chunks, rows) {
            found.push(Plan {
                loss_chunks: Some(chunks),
                ..plan.clone()
            });
        }
        for head_slices in half_and_double(plan.head_slices, self.vocabulary) {
            found.push(Plan {
                head_slices,
                ..plan.clone()
            });
        }
        found.push(Plan {
            offchip: !plan.offchip,
            ..plan.clone()
        });
        let groups = plan.layers_per_ipu.len();
        for from in 0..groups {
            let next = [from.wrapping_sub(1), from + 1];
            for to in next.into_iter().filter(|&to| to < groups) {
                let mut layers_per_ipu = plan.layers_per_ipu.clone();
                if layers_per_ipu[from] > 0 {
                    layers_per_ipu[from] -= 1;
                    layers_per_ipu[to] += 1;
                    found.push(Plan {
                        layers_per_ipu,
                        ..plan.clone()
                    });
                }
            }
        }
        found.extend(self.kept_more(plan).into_iter().map(|recompute| Plan {
            recompute,
            ..plan.clone()
        }));
        found
    }

    /// More kept of a layer, of the layers of an IPU, or of one layer of every IPU. Layers at the end of the pipeline wait least for their backward pass, and are kept
    /// at the least price.
    fn kept_more(&self, plan: &Plan) -> Vec<Recompute> {
        let layers = self.layers;
        let mut found = Vec::new();
        if let Recompute::EveryLayer | Recompute::Layers(_) = plan.recompute {
            let again = (0..layers).filter(|&l| plan.recompute.of(l) == Again::Everything);
            let again: Vec<u32> = again.collect();
            if let Some((_, rest)) = again.split_last() {
                found.push(Recompute::Layers(rest.iter().copied().collect()));
            }
        }
        let kept = match &plan.recompute {
            Recompute::EveryLayer => BTreeSet::new(),
            Recompute::ButProducts(kept) => kept.clone(),
            Recompute::Nothing | Recompute::Layers(_) => return found,
        };
        let mut first = 0;
        let of_ipus: Vec<Vec<u32>> = plan
            .layers_per_ipu
            .iter()
            .map(|&count| {
                first += count;
                let layers = (first - count..first).rev();
                layers.filter(|l| !kept.contains(l)).collect()
            })
            .collect();
        // The slowest IPU sets the beat, so what one gains may show only when all do.
        let mut more = vec![of_ipus.iter().filter_map(|l| l.first().copied()).collect()];
        for layers in of_ipus.into_iter().filter(|l| !l.is_empty()) {
            more.push(vec![layers[0]]);
            more.push(layers);
        }
        for layers in more {
            let with = Recompute::ButProducts(kept.iter().copied().chain(layers).collect());
            if with != plan.recompute && !found.contains(&with) {
                found.push(with);
            }
        }
        found
    }
}

fn half_and_double(n: usize, most: usize) -> impl Iterator<Item = usize> {
    [n / 2, n * 2]
        .into_iter()
        .filter(move |n| (1..=most).contains(n))
}
