//! `superstep explain`: a lone product, the products of an executable, a graph in textual form, and what it refuses.

mod program;

use std::path::{Path, PathBuf};

use program::{file, fixture, superstep, words};

/// Runs `superstep explain` with the words of `line`, paths for each `{}`; gives what it prints.
fn explain(line: &str, paths: &[&Path]) -> String {
    superstep(&words(&format!("explain {line}"), paths))
        .ok()
        .out
}

fn refused(line: &str, paths: &[&Path], code: i32, says: &str) {
    superstep(&words(&format!("explain {line}"), paths)).fails(code, says);
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

/// An executable of the smallest preset, and what compiling it printed.
fn tiny(folder: &Path, more: &str) -> (PathBuf, String) {
    let out = folder.join("tiny.superstep");
    let line = format!("compile --model_name_or_path gpt2-tiny --machine ipu {more} -o {{}}");
    let printed = superstep(&words(&line, &[&out])).ok().out;
    (out, printed)
}

#[test]
fn a_lone_product_on_one_tile_costs_the_published_cycles() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"base = \"mk2\"\nname = \"one\"\ntiles_per_ipu = 1\n";
    let machine = file(folder.path(), "one.toml", text);
    for (extents, cycles) in [("6,16,16", 369), ("48,64,64", 6_735), ("96,128,64", 19_555)] {
        let line = format!("--matmul {extents} --dtype f16.16 --machine {{}} --json -");
        let e = json(&explain(&line, &[&machine]));
        assert_eq!(e["compute_cycles"], cycles, "{extents}");
        assert_eq!(e["tiles"], 1);
        let parts = ["compute_cycles", "exchange_cycles", "sync_cycles"];
        let sum: u64 = parts.iter().map(|p| e[p].as_u64().unwrap()).sum();
        assert_eq!(e["cycles"].as_u64().unwrap(), sum);
    }
}

#[test]
fn the_free_choice_is_never_worse_than_a_forced_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.json");
    let explained = |extents: &str, style: &str| {
        let line = format!("--matmul {extents} --plan {style} --json {{}}");
        let text = explain(&line, &[&out]);
        assert!(text.contains("the best of each kind"), "{text}");
        let e = json(&std::fs::read_to_string(&out).unwrap());
        (e["cycles"].as_u64().unwrap(), !e["plan"]["ring"].is_null())
    };
    for extents in ["1024,768,3072", "256,256,256", "7,24,1", "1,1,1"] {
        let (auto, gather, shift) = (
            explained(extents, "auto"),
            explained(extents, "gather"),
            explained(extents, "shift"),
        );
        assert!(auto.0 <= gather.0.min(shift.0), "{extents}");
        assert!(!gather.1);
        let has_ring = !["7,24,1", "1,1,1"].contains(&extents);
        assert_eq!(shift.1, has_ring, "{extents}");
    }
}

#[test]
fn products_and_other_ops_of_an_executable() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, _) = tiny(folder.path(), "");
    let all = explain("{}", &[&tiny]);
    assert!(all.contains("h.*.mlp.c_fc.grad_w"), "{all}");
    let product = explain("{} --op h.0.mlp.c_fc", &[&tiny]);
    assert!(
        product.contains("why not") && product.contains("amp_matmul"),
        "{product}"
    );
    let softmax = json(&explain("{} --op h.0.attn.probs --json -", &[&tiny]));
    assert!(softmax["product"].is_null());
    let steps = softmax["steps"]["steps"].as_array().unwrap();
    let sum: u64 = steps.iter().map(|s| s["cycles"].as_u64().unwrap()).sum();
    assert!(sum > 0 && softmax["steps"]["cycles"] == sum);
    refused("{} --op h.0.mlp.c_fcc", &[&tiny], 1, "no op");
    let none = folder.path().join("none.superstep");
    refused("{}", &[&none], 1, "none.superstep");
}

#[test]
fn a_graph_in_textual_form() {
    let folder = tempfile::tempdir().unwrap();
    let graph =
        b"graph @layer {\n  %0 = parameter {state: \"w\", kind: weight} : f32[64, 96]  // w\n}\n";
    let broken = file(folder.path(), "broken.ir", graph);
    let (_, printed) = tiny(folder.path(), "--print_ir_after fuse_elementwise");
    let start = printed.find("graph").expect("a graph is printed");
    let text = &printed[start..];
    let end = text.find("\npass ").unwrap_or(text.len());
    let graphs = text[..end].replace("// after", "//");
    let module = file(folder.path(), "module.ir", graphs.as_bytes());
    let out = explain("{} --machine mk2", &[&module]);
    assert!(out.contains("mlp.c_fc"), "{out}");
    refused("{}", &[&broken], 1, "broken.ir");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, code, says) in [
        ("", 2, "nothing to explain"),
        ("--matmul 1,2", 2, "M,K,N"),
        ("--matmul 0,2,3", 2, "from 1"),
        ("--matmul 4,4,99999999999999999999", 2, "whole numbers"),
        ("--matmul 8,8,8 --dtype f8", 2, "f16.16"),
        ("--matmul 8,8,8 --plan best", 2, "gather"),
        (
            "--matmul 8,8,8 --available_memory_proportion nan",
            2,
            "at most 1",
        ),
        ("--matmul 8,8,8 --json no/such/folder/x", 1, "no/such"),
    ] {
        refused(line, &[], code, says);
    }
    // Absurd but possible: answered at once.
    explain("--matmul 16777216,16777216,16777216", &[]);
}

/// Takes half a minute: `cargo test --release --test explain -- --ignored`.
#[test]
#[ignore = "compiles a model several times"]
fn an_overflow_names_changes_that_fit() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"base = \"mk2\"\nname = \"small\"\ntile_memory = 150000\n";
    let machine = file(folder.path(), "small.toml", text);
    let out = folder.path().join("x.superstep");
    let line =
        "compile --model_name_or_path gpt2-tiny --machine {} --per_device_train_batch_size 4 -o {}";
    let run = superstep(&words(line, &[&machine, &out])).fails(1, "overflows by");
    assert!(run.err.contains("4 IPUs instead of 1: fits"), "{}", run.err);
    assert!(!out.exists());
    // What is named does fit.
    let more = [text.as_slice(), b"ipus = 4\n"].concat();
    let machine = file(folder.path(), "more.toml", &more);
    superstep(&words(line, &[&machine, &out])).ok();
}

/// Rows that come in unequal chunks: what rotates over the rows of one need not for the other.
#[test]
fn unequal_chunks_of_the_loss_are_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.superstep");
    let line = "compile --config_name {} --config_overrides n_embd=16,n_inner=32,vocab_size=127,n_head=1,n_layer=1 --block_size 57 \
        --loss_chunks 2 --machine mk2 -o {}";
    superstep(&words(line, &[&fixture("tiny"), &file])).ok();
}
