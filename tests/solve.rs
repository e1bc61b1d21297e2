//! `superstep solve offsets` on the hard public instances and on tables that make no sense.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CAPACITY: u64 = 1_048_576;

fn instance(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/minimalloc");
    folder.join(format!("{name}.1048576.csv"))
}

fn solve(file: &Path, capacity: u64, out: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_superstep"))
        .args(["solve", "offsets"])
        .arg(file)
        .args(["--capacity", &capacity.to_string(), "-o"])
        .arg(out)
        .args(more)
        .output()
        .expect("the binary runs")
}

/// Checks the written table against the instance.
fn check(file: &Path, out: &Path) {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let (before, after) = (read(file), read(out));
    assert_eq!(before.lines().count(), after.lines().count());
    let mut blocks: Vec<[u64; 4]> = Vec::new();
    for (a, b) in before.lines().zip(after.lines()) {
        let (kept, offset) = b.rsplit_once(',').unwrap();
        assert_eq!(a, kept);
        let Ok(offset) = offset.parse::<u64>() else {
            assert_eq!(offset, "offset");
            continue;
        };
        let numbers: Vec<u64> = a.split(',').map(|n| n.parse().unwrap()).collect();
        blocks.push([numbers[1], numbers[2], offset, offset + numbers[3]]);
    }
    for (i, a) in blocks.iter().enumerate() {
        assert!(a[3] <= CAPACITY);
        for b in &blocks[i + 1..] {
            let together = a[0] < b[1] && b[0] < a[1];
            assert!(!together || a[3] <= b[2] || b[3] <= a[2], "{a:?} {b:?}");
        }
    }
}

#[test]
fn hard_instances_fit() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["A", "C", "D", "F", "G", "J", "K"] {
        let (file, out) = (instance(name), folder.path().join("out.csv"));
        let output = solve(&file, CAPACITY, &out, &[]);
        assert!(output.status.success(), "{name}: {output:?}");
        check(&file, &out);
    }
}

#[test]
fn what_cannot_fit_is_said_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.csv");
    let output = solve(&instance("F"), CAPACITY - 1, &out, &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("cannot fit") && error.contains("1,048,576"),
        "{error}"
    );
    let output = solve(&instance("E"), CAPACITY, &out, &["--budget", "100"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("there may be one") && error.contains("--budget"),
        "{error}"
    );
    assert!(!out.exists());
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("in.csv"), folder.path().join("out.csv"));
    for (text, says) in [
        ("", "empty"),
        ("id,lower,upper\n0,1,2\n", "no column `size`"),
        ("id,lower,upper,size\n", "no blocks"),
        ("id,lower,upper,size\n0,1,2\n", "line 2"),
        ("id,lower,upper,size\n0,2,2,5\n", "not below"),
        ("id,lower,upper,size\n0,1,2,NaN\n", "NaN"),
        ("id,lower,upper,size\n0,1,2,0\n", "not possible"),
        (
            "id,lower,upper,size\n0,1,2,18446744073709551615\n",
            "not possible",
        ),
        ("id,lower,upper,size\n0,1,2,3\n0,1,2,3\n", "twice"),
        ("id,lower,upper,size,offset\n0,1,2,3,4\n", "already"),
        ("id,lower,upper,size\n0,1,2,2000000\n", "cannot fit"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = solve(&file, CAPACITY, &out, &[]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text:?}: {error}");
        assert!(error.contains(says), "{text:?}: {error}");
    }
    assert!(
        !solve(&folder.path().join("none.csv"), 1, &out, &[])
            .status
            .success()
    );
}
