//! Tile memory: code counts against it, products can be made in slices by name, and an overflow says what is stacked and what would help.

mod program;
mod support;

use program::{fixture, superstep, words};
use superstep_ir::ids::IpuId;
use superstep_ir::program::footprint::Footprint;
use superstep_passes::serialise::Serialise;
use superstep_passes::{CompileOptions, Compiled, compile};
use support::{Golden, machine};

fn sliced(layers: &[u32], rules: &[&str]) -> Compiled {
    let golden = Golden::load("small4");
    let module = golden.training_module(&golden.hyper(""), 2);
    let rules = rules.iter().map(|rule| Serialise::parse(rule).unwrap());
    let options = CompileOptions {
        layers_per_ipu: Some(layers.to_vec()),
        gradient_accumulation_steps: 2,
        serialise: rules.collect(),
        ..CompileOptions::default()
    };
    let machine = machine(layers.len() as u32, 1472);
    compile(module, &machine, &options, vec![]).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn variables_lie_above_the_code_of_every_tile() {
    for layers in [&[4][..], &[0, 2, 2]] {
        let program = sliced(layers, &[]).program;
        let footprint = Footprint::of_program(&program);
        for ipu in (0..program.ipus).map(IpuId) {
            let from = program.variables_from[ipu.index()];
            assert_eq!(u64::from(from), footprint.fullest(ipu).total());
            assert!(from > 4096, "{from}");
            for v in program.variables.iter() {
                assert!(
                    program.grid(v.grid).ipu != ipu || v.address >= from,
                    "{}",
                    v.name
                );
            }
        }
    }
}

#[test]
fn a_serialised_product_takes_less_memory_and_computes_the_same() {
    let name = "h.*.mlp.c_fc";
    let plan = |compiled: &Compiled| {
        let product = compiled.products.iter().find(|p| p.op == "h.1.mlp.c_fc");
        product.unwrap().plan
    };
    let whole = plan(&sliced(&[4], &[]));
    let halves = plan(&sliced(&[4], &[&format!("{name}=2")]));
    let need = |p: &superstep_passes::plan::matmul::MatmulPlan| p.cost.working_bytes();
    assert!(need(&halves) * 2 <= need(&whole), "{halves:?} {whole:?}");
    assert!(halves.cost.cycles() > whole.cost.cycles());
}

#[test]
fn a_rule_for_no_product_names_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.superstep");
    let line = "compile --model_name_or_path {} --machine ipu --block_size 8 -o {} --serialise";
    for (rule, expected) in [
        ("h.*.mlp.fc=2", "the products are "),
        ("h.0.mlp.c_fc", "a number of slices"),
        ("h.0.mlp.c_fc=0", "a number of slices"),
    ] {
        let mut args = words(line, &[&fixture("tiny"), &out]);
        args.push(rule.into());
        let run = superstep(&args);
        assert!(run.err.contains(expected), "{}", run.err);
        assert!(!out.exists());
    }
}

/// A tile that is a little too small: what is there is named with the code beside it, and the slices that help with their cost.
#[test]
fn an_overflow_comes_with_slices_that_help() {
    let folder = tempfile::tempdir().unwrap();
    let (out, small) = (
        folder.path().join("x.superstep"),
        folder.path().join("small.toml"),
    );
    std::fs::write(
        &small,
        "base = \"ipu\"\nname = \"small\"\ntiles_per_ipu = 16\ntile_memory = 60000\n",
    )
    .unwrap();
    let line = "compile --model_name_or_path {} --machine {} --block_size 8 -o {}";
    let run = superstep(&words(line, &[&fixture("tiny"), &small, &out]));
    assert!(run.err.contains("bytes needed"), "{}", run.err);
    assert!(run.err.contains("of code ("), "{}", run.err);
    assert!(run.err.contains("always live"), "{}", run.err);
}
