//! `superstep solve offsets` on the hard public instances and on tables that make no sense.

mod program;

use std::path::{Path, PathBuf};

use program::{Run, file, fixture, superstep, words};

const CAPACITY: u64 = 1_048_576;

fn instance(name: &str) -> PathBuf {
    fixture("minimalloc").join(format!("{name}.1048576.csv"))
}

fn solve(file: &Path, capacity: u64, out: &Path, more: &str) -> Run {
    let line = format!("solve offsets {{}} --capacity {capacity} -o {{}} {more}");
    superstep(&words(&line, &[file, out]))
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
    for name in ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K"] {
        let (file, out) = (instance(name), folder.path().join("out.csv"));
        solve(&file, CAPACITY, &out, "").ok();
        check(&file, &out);
    }
}

#[test]
fn what_cannot_fit_is_said_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.csv");
    let run = solve(&instance("F"), CAPACITY - 1, &out, "").fails(1, "cannot fit");
    assert!(run.err.contains("1,048,576"), "{}", run.err);
    let run = solve(&instance("E"), CAPACITY, &out, "--budget 100").fails(1, "there may be one");
    assert!(run.err.contains("--budget"), "{}", run.err);
    assert!(!out.exists());
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.csv");
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
        let file = file(folder.path(), "in.csv", text.as_bytes());
        solve(&file, CAPACITY, &out, "").fails(1, says);
    }
    solve(&folder.path().join("none.csv"), 1, &out, "").fails(1, "none.csv");
}
