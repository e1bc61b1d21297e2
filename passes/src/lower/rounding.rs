//! Seeds of stochastic rounding: before every micro-batch (in a pipeline: every cycle) and before the update the host gives a seed, and all
//! tiles of all IPUs start their random numbers from it.

use superstep_ir::graph::Phase;
use superstep_ir::ids::{IpuId, OriginId, ProcId, VarId};
use superstep_ir::program::{
    Category, Direction, Exchange, Origin, Procedure, Rounding, Step, Sync,
};
use superstep_ir::types::{DType, TensorType};

use super::{Lowering, whole_move};
use crate::plan::Layout;

/// The stream of seeds.
const STREAM: &str = "rounding_seed";

impl Lowering<'_> {
    /// Makes stores to f16 round at random, from seeds that the procedure `seeding` brings.
    pub(super) fn round_at_random(&mut self) {
        self.program.rounding = Rounding::Stochastic;
        let ipus: Vec<IpuId> = (0..self.program.ipus).map(IpuId).collect();
        let arrived: Vec<VarId> = ipus.iter().map(|&ipu| self.seed_on_a_tile(ipu)).collect();
        let origins: Vec<OriginId> = ipus.iter().map(|&ipu| self.seed_origin(ipu)).collect();
        let stream = self.stream(STREAM, Direction::HostToDevice, arrived[0]);
        let mut steps = vec![Step::Host {
            stream,
            origin: origins[0],
        }];
        if ipus.len() > 1 {
            steps.push(Step::Sync(Sync::Replica));
            let links = arrived[1..].iter();
            let moves = links.map(|&there| whole_move(&self.program, arrived[0], vec![], there));
            steps.push(Step::Exchange(Exchange {
                name: format!("{STREAM}.links"),
                origin: origins[0],
                moves: moves.collect(),
            }));
        }
        for ((&ipu, &from), &origin) in ipus.iter().zip(&arrived).zip(&origins) {
            let seed = self.seed_on_all_tiles(ipu);
            steps.push(Step::Sync(Sync::Ipu(ipu)));
            steps.push(Step::Exchange(Exchange {
                name: format!("{STREAM}.on_{}", ipu.0),
                origin,
                moves: vec![whole_move(&self.program, from, vec![], seed)],
            }));
            steps.push(Step::SetSeed { seed, origin });
        }
        let id = ProcId(self.program.procedures.len() as u32);
        self.program.procedures.push(Procedure {
            name: STREAM.into(),
            steps,
        });
        self.seeding = Some(id);
    }

    /// The step that brings a new seed, if rounding asks for one.
    pub(super) fn new_seed(&self) -> Option<Step> {
        self.seeding.map(Step::Call)
    }

    fn seed_on_a_tile(&mut self, ipu: IpuId) -> VarId {
        let grid = self.grid(ipu, 0, &[]);
        let layout = Layout::copies(grid, 1);
        let name = format!("{STREAM}.arrived.{}", ipu.0);
        self.variable(name, seed_type(), layout, Category::Stream)
    }

    fn seed_on_all_tiles(&mut self, ipu: IpuId) -> VarId {
        let tiles = self.tiles();
        let grid = self.grid(ipu, 0, &[("tile", tiles)]);
        let layout = Layout::copies(grid, 1);
        let name = format!("{STREAM}.{}", ipu.0);
        self.variable(name, seed_type(), layout, Category::Stream)
    }

    fn seed_origin(&mut self, ipu: IpuId) -> OriginId {
        let origins = &mut self.program.origins;
        origins.push(Origin {
            name: STREAM.into(),
            kind: "set_seed".into(),
            ipu,
            phase: Phase::Forward,
            flops: 0,
        });
        OriginId(origins.len() as u32 - 1)
    }
}

fn seed_type() -> TensorType {
    TensorType::new(DType::U32, [2])
}
