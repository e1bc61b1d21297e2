//! The pod in `superstep report`: cycles of the pipeline add up, and other numbers of micro-batches take what is predicted for them.

mod program;

use program::{fixture, superstep, words};
use serde_json::Value;

/// A report of tiny over three IPUs and two replicas.
fn report(accumulation: u32, more: &str, flags: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.superstep");
    let line = format!(
        "compile --model_name_or_path {{}} --block_size 8 --machine pod8 --layers_per_ipu [0,1,1] --pipeline true --recompute all \
         --replication_factor 2 --gradient_accumulation_steps {accumulation} {more} -o {{}}"
    );
    superstep(&words(&line, &[&fixture("tiny"), &file])).ok();
    let line = format!("report {{}} --json - {flags}");
    let out = superstep(&words(&line, &[&file])).ok().out;
    serde_json::from_str(&out).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn sum(ledger: &Value) -> u64 {
    ledger.as_object().unwrap().values().map(number).sum()
}

#[test]
fn a_pipeline_adds_up_and_grows_as_predicted() {
    let at_16 = report(16, "", "--sensitivity");
    let pod = &at_16["pod"];
    let cycles = number(&at_16["time"]["cycles_per_update"]);
    let pipeline = &pod["pipeline"];
    // Four forward stages, and seven in all.
    assert_eq!(number(&pipeline["stages"]), 7);
    let stages = pod["stages"].as_array().unwrap();
    let ipus: Vec<u64> = stages.iter().map(|stage| number(&stage["ipu"])).collect();
    assert_eq!(ipus, [0, 1, 2, 0, 2, 1, 0]);
    assert_eq!(number(&pipeline["pipeline_cycles"]), 16 + 7 - 1);
    let parts = ["fill", "main", "flush", "update"];
    let parts: u64 = parts
        .iter()
        .map(|part| number(&pipeline[format!("{part}_cycles")]))
        .sum();
    assert_eq!(parts, cycles);

    let beat = &pod["beat"];
    let length = number(&beat["cycles"]);
    assert_eq!(
        number(&pipeline["main_cycles"]),
        length * (16 + 1 - 7),
        "every stage runs in so many cycles"
    );
    assert_eq!(sum(&beat["ledger"]), length);
    for (ipus, of) in [(&beat["ipus"], length), (&pod["step"], cycles)] {
        let ipus = ipus.as_array().unwrap();
        assert_eq!(ipus.len(), 3);
        for ipu in ipus {
            let busy = number(&ipu["busy_cycles"]);
            assert_eq!(sum(&ipu["ledger"]), busy);
            assert_eq!(busy + number(&ipu["waiting_cycles"]), of);
        }
    }

    // Another number of micro-batches, compiled: exactly what was foretold.
    let at_32 = report(32, "", "");
    let growth = pod["growth"].as_array().unwrap();
    let foretold = growth
        .iter()
        .find(|row| number(&row["gradient_accumulation_steps"]) == 32)
        .unwrap();
    assert_eq!(
        foretold["seconds_per_update"],
        at_32["time"]["seconds_per_update"]
    );
    assert_eq!(
        foretold["samples_per_second"],
        at_32["pod"]["rates"]["samples_per_second"]
    );

    // Rates are those of all replicas.
    let rate = pod["rates"]["samples_per_second"].as_f64().unwrap();
    let seconds = at_16["time"]["seconds_per_update"].as_f64().unwrap();
    assert!((rate * seconds / 32.0 - 1.0).abs() < 1e-9);

    // Numbers that do not matter to this program do not move it; the clock does.
    let rows = pod["sensitivity"].as_array().unwrap();
    let effect = |field: &str| {
        let row = rows.iter().find(|row| row["field"] == field).unwrap();
        row["effect"].as_f64().unwrap()
    };
    assert_eq!(effect("streaming_bytes_per_second"), 0.0);
    assert!(effect("clock_hz") > 0.2 && effect("sync_cycles") > 0.0);
    assert!(rows.windows(2).all(|pair| {
        let [a, b] = [&pair[0], &pair[1]].map(|row| row["effect"].as_f64().unwrap());
        a >= b
    }));
    assert!(pod["published"].is_null(), "nobody measured this");
}

/// The machine and the step are those of all replicas, as the rate is.
#[test]
fn a_summary_is_of_all_replicas_and_names_idle_ipus() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.superstep");
    let line = "compile --model_name_or_path {} --block_size 8 --machine pod8 --layers_per_ipu [1,0,1] --pipeline true \
         --replication_factor 2 --gradient_accumulation_steps 6 -o {}";
    let out = superstep(&words(line, &[&fixture("tiny"), &file])).ok().out;
    for says in [
        "pod8: 6 of 8 IPUs, 2 replicas of 3, ",
        "2 replicas × 6 × 1 samples of 8 tokens",
        "IPU 1: no layers, 0 tiles",
    ] {
        assert!(out.contains(says), "{says}: {out}");
    }
}

#[test]
fn the_published_style_of_execution_is_slower_by_its_powers() {
    let report = report(16, "--precision recipe", "--as_published");
    let styles = report["pod"]["published_style"].as_array().unwrap();
    let [traced, fused] = styles.as_slice() else {
        panic!("{styles:?}");
    };
    let beat = |style: &Value| number(&style["beat"]["cycles"]);
    assert!(beat(traced) > beat(fused));
    assert!(number(&traced["slower_beat"]["cycles"]) > beat(traced));
    let parts: u64 = fused["beat"]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| number(&part["cycles"]))
        .sum();
    assert_eq!(
        parts + number(&fused["beat"]["exchange_cycles"]),
        beat(fused)
    );
}
