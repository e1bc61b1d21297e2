//! `superstep sweep` as a user meets it: figures for every machine, and plain errors before anything is compiled.

mod program;

use std::path::Path;

use program::{fixture, superstep, words};
use serde_json::Value;

const TINY: &str = "--model_name_or_path {} --block_size 8 --machine ipu";

fn tiny() -> std::path::PathBuf {
    fixture("tiny")
}

fn lines(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let cells = |line: &str| line.split(',').map(str::to_owned).collect();
    text.lines().map(cells).collect()
}

#[test]
fn every_combination_has_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("out.csv");
    let line = format!(
        "sweep {TINY} --set exchange-bytes-per-cycle=4,16 --set tile_memory=8KiB,624KiB,1MiB -o {{}}"
    );
    let out = superstep(&words(&line, &[&tiny(), &csv])).ok().out;
    assert!(out.contains("6 points: compiled for each"), "{out}");
    assert!(
        out.contains("does not fit") && out.contains("samples/s"),
        "{out}"
    );

    let rows = lines(&csv);
    assert_eq!(rows.len(), 7);
    assert_eq!(
        rows[0][..4],
        ["exchange_bytes_per_cycle", "tile_memory", "status", "ipus"]
    );
    let column = |name: &str| rows[0].iter().position(|cell| cell == name).expect(name);
    let (cycles, exchange) = (column("cycles"), column("exchange_cycles"));
    // 8 KiB of a tile is too little; the error says so.
    for small in [&rows[1], &rows[4]] {
        assert_eq!(small[2], "does not fit");
        assert!(small[column("error")].contains("overflow"), "{small:?}");
    }
    let number = |row: &[String], i: usize| row[i].parse::<u64>().unwrap();
    for row in [&rows[2], &rows[3], &rows[5], &rows[6]] {
        assert_eq!(row[2], "fits");
        let kinds = ["compute", "exchange", "sync", "inter_ipu", "host"];
        let sum: u64 = kinds
            .iter()
            .map(|k| number(row, column(&format!("{k}_cycles"))))
            .sum();
        assert_eq!(sum, number(row, cycles));
    }
    assert!(
        number(&rows[5], exchange) < number(&rows[2], exchange),
        "a wider exchange is faster"
    );
}

#[test]
fn an_executable_keeps_its_plan() {
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (
        folder.path().join("tiny.superstep"),
        folder.path().join("out.json"),
    );
    superstep(&words(
        &format!("compile {TINY} -o {{}}"),
        &[&tiny(), &file],
    ))
    .ok();
    let line = "sweep --executable {} --set sync_cycles=0,126 --set clock_hz=1e9,2e9 -o {}";
    let out = superstep(&words(line, &[&file, &json])).ok().out;
    assert!(
        out.contains("the executable's plan, timed on each"),
        "{out}"
    );
    let sweep: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(sweep["schema"], "superstep.sweep/1");
    assert_eq!(sweep["recompiled"], false);
    assert_eq!(
        sweep["parameters"],
        serde_json::json!(["sync_cycles", "clock_hz"])
    );
    let points = sweep["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    assert_eq!(points[0]["sync_cycles"], 0);
    assert_eq!(points[2]["compute_cycles"], points[0]["compute_cycles"]);
    assert!(points[2]["sync_cycles"].as_u64() > Some(0));

    let line = "sweep --executable {} --set tile_memory=1MiB";
    superstep(&words(line, &[&file])).fails(2, "tile_memory cannot change in an executable");
    let line = "sweep --executable {} --set workers=6 --machine pod4";
    superstep(&words(line, &[&file])).fails(2, "--machine");
    let line = "sweep --executable {} --set workers=6 --block_size 7";
    superstep(&words(line, &[&file])).fails(1, "--block_size 7 contradicts");
}

#[test]
fn a_point_that_cannot_be_compiled_is_a_row_too() {
    let line = format!("sweep {TINY} --set ipus=1,2 --layers_per_ipu 1,1");
    let out = superstep(&words(&line, &[&tiny()])).ok().out;
    assert!(
        out.contains("cannot compile") && out.contains("ipus=1: "),
        "{out}"
    );
}

#[test]
fn wrong_sweeps_end_before_anything_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny();
    let fails = |more: &str, code, what: &str| {
        let line = format!("sweep {TINY} {more}");
        superstep(&words(&line, &[&model, folder.path()])).fails(code, what);
    };
    fails("", 2, "--set");
    fails("--set workers", 2, "KEY=VALUE");
    fails("--set workers=", 2, "a value of workers is missing");
    fails("--set workers=6,6", 2, "twice");
    fails("--set workers=5 --set workers=6", 2, "comes twice");
    fails("--set wrkers=6", 2, "perhaps `workers` is meant");
    fails("--set workers=six", 2, "`workers`: `six` is no value");
    fails("--set workers=-1", 2, "`workers`: ");
    fails("--set workers=0", 2, "must not be 0");
    fails("--set clock_hz=nan", 2, "must be a finite number");
    fails("--set name=1", 2, "not a parameter");
    let many: Vec<String> = (1..=300).map(|n| n.to_string()).collect();
    fails(
        &format!("--set sync_cycles={}", many.join(",")),
        2,
        "at most 256 points",
    );
    fails(
        "--set workers=6 -o {}/out.txt",
        2,
        "must end in .csv or .json",
    );
    fails("--set workers=6 -o {}/no/out.csv", 1, "cannot write");
    fails("--set workers=6 --print_ir_after all", 2, "not for a sweep");
    superstep(&["sweep", "--set", "workers=6"]).fails(2, "no model");
}
