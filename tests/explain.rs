//! `superstep explain`: a lone product, the products of an executable, a graph in textual form, and what it refuses.

use std::path::Path;
use std::process::{Command, Output};

fn superstep(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_superstep"))
        .current_dir(folder)
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = superstep(folder, arguments);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out
}

fn fails(folder: &Path, arguments: &[&str], code: i32, says: &str) {
    let output = superstep(folder, arguments);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
    assert!(err.contains(says), "{arguments:?}: {err}");
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_lone_product_on_one_tile_costs_the_published_cycles() {
    let folder = tempfile::tempdir().unwrap();
    let machine = folder.path().join("one.toml");
    std::fs::write(
        &machine,
        "base = \"mk2\"\nname = \"one\"\ntiles_per_ipu = 1\n",
    )
    .unwrap();
    for (extents, cycles) in [("6,16,16", 369), ("48,64,64", 6_735), ("96,128,64", 19_555)] {
        let out = succeeds(
            folder.path(),
            &[
                "explain",
                "--matmul",
                extents,
                "--dtype",
                "f16.16",
                "--machine",
                "one.toml",
                "--json",
                "-",
            ],
        );
        let e = json(&out);
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
    let explain = |extents: &str, style: &str| {
        let arguments = [
            "explain", "--matmul", extents, "--plan", style, "--json", "out.json",
        ];
        let text = succeeds(folder.path(), &arguments);
        assert!(text.contains("the best of each kind"), "{text}");
        let e = json(&std::fs::read_to_string(folder.path().join("out.json")).unwrap());
        (e["cycles"].as_u64().unwrap(), !e["plan"]["ring"].is_null())
    };
    for extents in ["1024,768,3072", "256,256,256", "7,24,1", "1,1,1"] {
        let (auto, gather, shift) = (
            explain(extents, "auto"),
            explain(extents, "gather"),
            explain(extents, "shift"),
        );
        assert!(auto.0 <= gather.0.min(shift.0), "{extents}");
        assert!(!gather.1);
        assert_eq!(
            shift.1,
            !["7,24,1", "1,1,1"].contains(&extents),
            "{extents}"
        );
    }
}

#[test]
fn products_and_other_ops_of_an_executable() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(
        folder,
        &[
            "compile",
            "--model_name_or_path",
            "gpt2-tiny",
            "--machine",
            "ipu",
            "-o",
            "tiny.superstep",
        ],
    );
    let all = succeeds(folder, &["explain", "tiny.superstep"]);
    assert!(all.contains("h.*.mlp.c_fc.grad_w"), "{all}");
    let product = succeeds(
        folder,
        &["explain", "tiny.superstep", "--op", "h.0.mlp.c_fc"],
    );
    assert!(
        product.contains("why not") && product.contains("amp_matmul"),
        "{product}"
    );
    let softmax = json(&succeeds(
        folder,
        &[
            "explain",
            "tiny.superstep",
            "--op",
            "h.0.attn.probs",
            "--json",
            "-",
        ],
    ));
    assert!(softmax["product"].is_null());
    let steps = softmax["steps"]["steps"].as_array().unwrap();
    let sum: u64 = steps.iter().map(|s| s["cycles"].as_u64().unwrap()).sum();
    assert!(sum > 0 && softmax["steps"]["cycles"] == sum);
    fails(
        folder,
        &["explain", "tiny.superstep", "--op", "h.0.mlp.c_fcc"],
        1,
        "no op",
    );
    fails(folder, &["explain", "none.superstep"], 1, "none.superstep");
}

#[test]
fn a_graph_in_textual_form() {
    let folder = tempfile::tempdir().unwrap();
    let graph =
        "graph @layer {\n  %0 = parameter {state: \"w\", kind: weight} : f32[64, 96]  // w\n}\n";
    std::fs::write(folder.path().join("broken.ir"), graph).unwrap();
    let compiled = succeeds(
        folder.path(),
        &[
            "compile",
            "--model_name_or_path",
            "gpt2-tiny",
            "--machine",
            "ipu",
            "--print_ir_after",
            "fuse_elementwise",
            "-o",
            "tiny.superstep",
        ],
    );
    let start = compiled
        .find("graph @micro_batch")
        .or_else(|| compiled.find("graph"));
    let text = &compiled[start.expect("a graph is printed")..];
    let end = text.find("\npass ").unwrap_or(text.len());
    let graphs = text[..end].replace("// after", "//");
    std::fs::write(folder.path().join("module.ir"), graphs).unwrap();
    let out = succeeds(folder.path(), &["explain", "module.ir", "--machine", "mk2"]);
    assert!(out.contains("mlp.c_fc"), "{out}");
    fails(folder.path(), &["explain", "broken.ir"], 1, "broken.ir");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fails(folder, &["explain"], 2, "nothing to explain");
    fails(folder, &["explain", "--matmul", "1,2"], 2, "M,K,N");
    fails(folder, &["explain", "--matmul", "0,2,3"], 2, "from 1");
    fails(
        folder,
        &["explain", "--matmul", "4,4,99999999999999999999"],
        2,
        "whole numbers",
    );
    fails(
        folder,
        &["explain", "--matmul", "8,8,8", "--dtype", "f8"],
        2,
        "f16.16",
    );
    fails(
        folder,
        &["explain", "--matmul", "8,8,8", "--plan", "best"],
        2,
        "gather",
    );
    fails(
        folder,
        &[
            "explain",
            "--matmul",
            "8,8,8",
            "--available_memory_proportion",
            "nan",
        ],
        2,
        "at most 1",
    );
    fails(
        folder,
        &["explain", "--matmul", "8,8,8", "--json", "no/such/folder/x"],
        1,
        "no/such",
    );
    // Absurd but possible: answered at once.
    succeeds(
        folder,
        &["explain", "--matmul", "16777216,16777216,16777216"],
    );
}

/// Takes half a minute: `cargo test --release --test explain -- --ignored`.
#[test]
#[ignore = "compiles a model several times"]
fn an_overflow_names_changes_that_fit() {
    let folder = tempfile::tempdir().unwrap();
    let machine = "base = \"mk2\"\nname = \"small\"\ntile_memory = 150000\n";
    std::fs::write(folder.path().join("small.toml"), machine).unwrap();
    let output = superstep(
        folder.path(),
        &[
            "compile",
            "--model_name_or_path",
            "gpt2-tiny",
            "--machine",
            "small.toml",
            "--per_device_train_batch_size",
            "4",
            "-o",
            "x.superstep",
        ],
    );
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("overflows by"), "{err}");
    assert!(err.contains("--machine pod4: fits"), "{err}");
    assert!(!folder.path().join("x.superstep").exists());
}
