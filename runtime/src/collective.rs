//! What replicas do together: sums round a ring, parts kept and parts gathered, block by block of every tile.
//!
//! The replicas' counterparts of a tile hold the same block at the same address. A sum is made in the order of the ring whatever the host
//! does: piece `i` starts at replica `i + 1`, goes round, and is rounded to the element type wherever it is stored on its way.

use half::f16;
use superstep_ir::ids::VarId;
use superstep_ir::program::{Collective, CollectiveKind, Program};
use superstep_ir::types::DType;

use crate::error::EngineError;
use crate::layout::Layouts;
use crate::load::homes::Homes;
use crate::tile_memory::{Home, TileMemory};

/// A block on one tile.
struct Ends {
    /// Number of the tile in every replica's memory.
    tile: usize,
    /// Bytes of its blocks.
    source: usize,
    destination: usize,
}

/// A collective with the places of its blocks.
pub(crate) struct LoadedCollective {
    kind: CollectiveKind,
    dtype: DType,
    source: Home,
    destination: Home,
    ends: Vec<Ends>,
}

impl LoadedCollective {
    pub(crate) fn of(
        program: &Program,
        layouts: &Layouts,
        homes: &Homes,
        memory_number: impl Fn(u32, u32) -> usize,
        collective: &Collective,
    ) -> Result<LoadedCollective, EngineError> {
        if !program.collective_fits(collective) {
            return Err(EngineError::Collective {
                name: collective.name.clone(),
            });
        }
        let (source, destination) = (collective.source, collective.destination);
        let grid = layouts.grid(program, source);
        let bytes = |variable: VarId, point: usize| {
            let layout = layouts.layout(variable);
            layout.blocks[point].elements() * layout.dtype.bytes()
        };
        let ends = grid.tiles.iter().enumerate().map(|(point, &tile)| Ends {
            tile: memory_number(grid.ipu.0, tile),
            source: bytes(source, point),
            destination: bytes(destination, point),
        });
        Ok(LoadedCollective {
            kind: collective.kind,
            dtype: program.variable(source).ty.dtype,
            source: homes.of(source),
            destination: homes.of(destination),
            ends: ends.collect(),
        })
    }

    /// Executes it over the memories of all replicas.
    pub(crate) fn run(&self, replicas: &mut [TileMemory]) {
        for ends in &self.ends {
            let blocks: Vec<Vec<u8>> = replicas
                .iter()
                .map(|memory| memory.block(self.source, ends.tile, ends.source).to_vec())
                .collect();
            for (replica, memory) in replicas.iter_mut().enumerate() {
                let out = memory.block_mut(self.destination, ends.tile, ends.destination);
                self.result(&blocks, replica, out);
            }
        }
    }

    /// What `replica` gets of the replicas' blocks.
    fn result(&self, blocks: &[Vec<u8>], replica: usize, out: &mut [u8]) {
        let own = replica * out.len()..(replica + 1) * out.len();
        match self.kind {
            CollectiveKind::Shard => out.copy_from_slice(&blocks[replica][own]),
            CollectiveKind::AllGather => {
                let entry = blocks.first().map_or(0, Vec::len);
                for (block, out) in blocks.iter().zip(out.chunks_mut(entry.max(1))) {
                    out.copy_from_slice(block);
                }
            }
            CollectiveKind::ReduceScatter => {
                let parts = blocks.iter().map(|block| &block[own.clone()]);
                self.sum(&parts.collect::<Vec<_>>(), replica, out);
            }
            CollectiveKind::AllReduce => {
                let width = self.dtype.bytes();
                let piece = (out.len() / width).div_ceil(blocks.len()).max(1) * width;
                for (i, out) in out.chunks_mut(piece).enumerate() {
                    let at = i * piece..i * piece + out.len();
                    let parts = blocks.iter().map(|block| &block[at.clone()]);
                    self.sum(&parts.collect::<Vec<_>>(), i, out);
                }
            }
        }
    }

    /// The sum that starts at the replica after `last` and ends at `last`.
    fn sum(&self, parts: &[&[u8]], last: usize, out: &mut [u8]) {
        let ring = (1..=parts.len()).map(|i| parts[(last + i) % parts.len()]);
        match self.dtype {
            DType::F16 => sum_of::<2>(ring, out, |a, b| {
                let value = |x| f16::from_le_bytes(x).to_f32();
                f16::from_f32(value(a) + value(b)).to_le_bytes()
            }),
            _ => sum_of::<4>(ring, out, |a, b| {
                (f32::from_le_bytes(a) + f32::from_le_bytes(b)).to_le_bytes()
            }),
        }
    }
}

fn sum_of<'b, const W: usize>(
    ring: impl Iterator<Item = &'b [u8]>,
    out: &mut [u8],
    add: impl Fn([u8; W], [u8; W]) -> [u8; W],
) {
    for (i, part) in ring.enumerate() {
        if i == 0 {
            out.copy_from_slice(part);
            continue;
        }
        let (sums, _) = out.as_chunks_mut::<W>();
        let (terms, _) = part.as_chunks::<W>();
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum = add(*sum, *term);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collective(kind: CollectiveKind, dtype: DType) -> LoadedCollective {
        LoadedCollective {
            kind,
            dtype,
            source: Home::default(),
            destination: Home::default(),
            ends: vec![],
        }
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        let words = bytes.chunks(4);
        words
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    #[test]
    fn all_replicas_get_the_same_sum_in_the_order_of_the_ring() {
        // 1e8 + 1 − 1e8 depends on the order: pieces 0, 1, 2 start at replicas 1, 2, 0.
        let blocks: Vec<Vec<u8>> = [[1.0; 5], [1e8; 5], [-1e8; 5]]
            .iter()
            .map(|block| bytes(block))
            .collect();
        for replica in 0..3 {
            let mut out = vec![0; 20];
            collective(CollectiveKind::AllReduce, DType::F32).result(&blocks, replica, &mut out);
            assert_eq!(floats(&out), [1.0, 1.0, 0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn a_scattered_sum_gathers_to_the_whole() {
        let blocks: Vec<Vec<u8>> = (0..2)
            .map(|r| bytes(&[1.0, 2.0, 3.0, 4.0].map(|x: f32| x * (r + 1) as f32)))
            .collect();
        let parts: Vec<Vec<u8>> = (0..2)
            .map(|replica| {
                let mut out = vec![0; 8];
                let kind = CollectiveKind::ReduceScatter;
                collective(kind, DType::F32).result(&blocks, replica, &mut out);
                out
            })
            .collect();
        assert_eq!(floats(&parts[1]), [9.0, 12.0]);
        let mut out = vec![0; 16];
        collective(CollectiveKind::AllGather, DType::F32).result(&parts, 0, &mut out);
        assert_eq!(floats(&out), [3.0, 6.0, 9.0, 12.0]);
        let mut own = vec![0; 8];
        collective(CollectiveKind::Shard, DType::F32).result(&blocks, 1, &mut own);
        assert_eq!(floats(&own), [6.0, 8.0]);
    }

    #[test]
    fn halves_are_rounded_at_every_step() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes().to_vec();
        let blocks = [half(0.4), half(0.4), half(2048.0)];
        let mut out = vec![0; 2];
        collective(CollectiveKind::AllReduce, DType::F16).result(&blocks, 0, &mut out);
        // From replica 1 on: 0.4 + 2048 rounds to 2048, and so once more.
        assert_eq!(out, half(2048.0));
    }
}
