//! Programs that write rows into state and hide columns, against the reference interpreter.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use superstep_ir::graph::build::Builder;
use superstep_ir::graph::{Graph, Module, Value};
use superstep_ir::interpret::{self, Tensor};
use superstep_ir::op::{Op, StateKind};
use superstep_ir::program::{Codelet, Program, Step};
use superstep_ir::random::Stream;
use superstep_ir::types::{DType, TensorType};
use superstep_passes::{CompileOptions, compile};
use superstep_runtime::{Engine, EngineOptions, Host, HostError};
use support::machine;

const MATRICES: usize = 6;
const POSITIONS: usize = 40;
const WIDTH: usize = 24;

type Tensors = BTreeMap<String, Tensor>;

/// Feeds and takes f32 and i32 tensors by stream.
struct Streams<'a> {
    inputs: &'a Tensors,
    outputs: BTreeMap<String, Vec<f64>>,
}

impl Host for Streams<'_> {
    fn feed(&mut self, stream: &str, into: &mut [u8]) -> Result<(), HostError> {
        let tensor = self.inputs.get(stream).ok_or(HostError::UnknownStream)?;
        for (to, &x) in into.chunks_exact_mut(4).zip(&tensor.data) {
            to.copy_from_slice(&match tensor.ty.dtype {
                DType::F32 => (x as f32).to_le_bytes(),
                _ => (x as i32).to_le_bytes(),
            });
        }
        Ok(())
    }

    fn take(&mut self, stream: &str, from: &[u8]) -> Result<(), HostError> {
        self.outputs.insert(stream.into(), numbers(from));
        Ok(())
    }
}

fn numbers(bytes: &[u8]) -> Vec<f64> {
    let words = bytes.chunks_exact(4);
    let words = words.map(|w| f32::from_le_bytes(w.try_into().unwrap()));
    words.map(f64::from).collect()
}

fn equal(name: &str, found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
        // A sum rounds; nothing else does.
        assert!(
            x == y || (x - y).abs() < 1e-7,
            "{name}[{i}] is {x}, not {y}"
        );
    }
}

fn random(ty: &TensorType, name: &str) -> Tensor {
    let draw = Stream::named(5, name);
    let data = (0..ty.shape.elements() as u64).map(|i| match ty.dtype {
        DType::F32 => f64::from(draw.uniform_f64(i) as f32 - 0.5),
        _ => (draw.uniform_f64(i) * (POSITIONS - 3) as f64).floor(),
    });
    Tensor {
        data: data.collect(),
        ty: ty.clone(),
    }
}

fn compiled(graph: &Graph, tiles: u32) -> Program {
    let module = Module {
        graphs: vec![graph.clone()],
    };
    let options = CompileOptions::default();
    let compiled = compile(module, &machine(1, tiles), &options, vec![]);
    compiled.unwrap_or_else(|e| panic!("{e}")).program
}

/// Runs a graph twice on random values: outputs and state must be those of the interpreter.
fn check(graph: &Graph, tiles: u32) {
    let program = compiled(graph, tiles);
    let mut engine = Engine::load(Arc::new(program), &EngineOptions::default()).unwrap();
    let mut states = Tensors::new();
    for (_, name, _, ty) in graph.parameters() {
        let value = random(ty, name);
        let floats: Vec<f32> = value.data.iter().map(|&x| x as f32).collect();
        engine
            .write_state(name, bytemuck::cast_slice(&floats))
            .unwrap();
        states.insert(name.to_owned(), value);
    }
    for round in 0..2 {
        let streams = graph.ops().filter_map(|op| match graph.op(op) {
            Op::Input { stream, ty } => Some((stream, ty)),
            _ => None,
        });
        let inputs: Tensors = streams
            .map(|(name, ty)| (name.clone(), random(ty, &format!("{name} {round}"))))
            .collect();
        let mut host = Streams {
            inputs: &inputs,
            outputs: BTreeMap::new(),
        };
        engine.run(&mut host).unwrap();
        let wanted = interpret::run(graph, &mut states, &inputs).unwrap();
        for (stream, wanted) in wanted {
            equal(&stream, &host.outputs[&stream], &wanted.data);
        }
        for (name, wanted) in &states {
            let mut bytes = vec![0; 4 * wanted.data.len()];
            engine.read_state(name, &mut bytes).unwrap();
            equal(name, &numbers(&bytes), &wanted.data);
        }
    }
}

/// State `cache`, and rows `r` of every matrix from stream `rows`.
fn cache_and_rows(b: &mut Builder<'_>, r: usize) -> (Value, Value) {
    let ty = TensorType::f32([MATRICES, POSITIONS, WIDTH]);
    let cache = b.parameter("cache", StateKind::Cache, ty).unwrap();
    let ty = TensorType::f32([MATRICES, r, WIDTH]);
    (cache, b.input("rows", ty).unwrap())
}

fn graph(build: impl FnOnce(&mut Builder<'_>)) -> Graph {
    let mut graph = Graph::new("forward");
    build(&mut Builder::new(&mut graph));
    graph
}

fn codelets(program: &Program, wanted: &Codelet) -> usize {
    let steps = program.procedures.iter().flat_map(|p| &p.steps);
    let groups = steps.filter_map(|step| match step {
        Step::Compute(set) => Some(&set.groups),
        _ => None,
    });
    groups.flatten().filter(|g| g.codelet == *wanted).count()
}

#[test]
fn rows_are_written_at_places_known_when_it_runs() {
    for (rows, tiles) in [(1, 8), (1, 64), (3, 64), (3, 1472)] {
        let graph = graph(|b| {
            let (cache, new) = cache_and_rows(b, rows);
            let first = b.input("first", TensorType::i32([MATRICES])).unwrap();
            let written = b.op("write", Op::WriteRows, &[cache, first, new]).unwrap();
            b.assign("cache", written).unwrap();
            b.output("written", written).unwrap();
        });
        check(&graph, tiles);
        assert_eq!(codelets(&compiled(&graph, tiles), &Codelet::WriteRows), 1);
    }
}

#[test]
fn rows_at_places_known_before_are_moved() {
    for first in [0.0, 17.0, (POSITIONS - 3) as f64] {
        let graph = graph(|b| {
            let (cache, new) = cache_and_rows(b, 3);
            let ty = TensorType::i32([MATRICES]);
            let first = b.constant("first", first, ty).unwrap();
            let written = b.op("write", Op::WriteRows, &[cache, first, new]).unwrap();
            b.assign("cache", written).unwrap();
        });
        check(&graph, 64);
        assert_eq!(codelets(&compiled(&graph, 64), &Codelet::WriteRows), 0);
    }
    let outside = graph(|b| {
        let (cache, new) = cache_and_rows(b, 3);
        let ty = TensorType::i32([MATRICES]);
        let first = b.constant("first", 38.0, ty).unwrap();
        let written = b.op("write", Op::WriteRows, &[cache, first, new]).unwrap();
        b.assign("cache", written).unwrap();
    });
    let module = Module {
        graphs: vec![outside],
    };
    let error = compile(module, &machine(1, 64), &CompileOptions::default(), vec![]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("outside 0..40"), "{error}");
}

#[test]
fn what_somebody_still_reads_is_not_written_over() {
    let graph = graph(|b| {
        let (cache, new) = cache_and_rows(b, 1);
        let first = b.input("first", TensorType::i32([MATRICES])).unwrap();
        let written = b.op("write", Op::WriteRows, &[cache, first, new]).unwrap();
        // Two others look at the state as it was, and what is written is no state.
        let zeros = b.constant("zeros", 0.0, TensorType::f32([MATRICES, POSITIONS, WIDTH]));
        let blank = b
            .op("blank", Op::WriteRows, &[zeros.unwrap(), first, new])
            .unwrap();
        let sum = b.add("sum", cache, blank).unwrap();
        b.output("sum", sum).unwrap();
        b.output("written", written).unwrap();
    });
    check(&graph, 64);
}

#[test]
fn columns_beyond_the_last_are_hidden() {
    for tiles in [8, 64, 1472] {
        let graph = graph(|b| {
            let x = b.input("x", TensorType::f32([MATRICES, 3, POSITIONS]));
            let last = b.input("last", TensorType::i32([MATRICES])).unwrap();
            let masked = b.op("mask", Op::MaskBeyond, &[x.unwrap(), last]).unwrap();
            b.output("masked", masked).unwrap();
        });
        check(&graph, tiles);
    }
}
