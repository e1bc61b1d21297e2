use superstep_ir::executable::Executable;
use superstep_passes::plan::matmul::{MatmulPlans, MatmulProblem, PlanStyle};

use super::*;
use crate::compile::{Compiled, IrSink, compile_training};
use crate::frontend::Gpt2Config;
use crate::frontend::fixtures::tiny_config;
use crate::precision::PrecisionSettings;
use crate::settings::{OptimiserSettings, TrainingSettings};

struct Silent;

impl IrSink for Silent {
    fn graph(&mut self, _: &str, _: &str) {}
}
