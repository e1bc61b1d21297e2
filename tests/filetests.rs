//! Tests written in the textual form: `tests/ir/<pass>/*.ir`, one file a test.
//!
//! The first line says what is done with the text below it:
//!
//! - `// test: opt --passes cse,dead_code` runs these passes over every graph. The result must be, letter for letter, what stands
//!   after `// ---- becomes`, and it must mean the same: both are interpreted on random inputs and states.
//! - `// test: print` parses and prints; the result stands after `// ---- becomes`.
//! - `// test: verify` parses and verifies. A line with `// error: text` must give an error that contains `text`, and all others none;
//!   errors of a whole graph belong to its first line.
//!
//! `SUPERSTEP_BLESS=1 cargo test --test filetests` rewrites the part after `// ---- becomes`. Read the difference like code. A bug that
//! was found becomes a file `tests/ir/<pass>/<what_was_wrong>.ir`.

#[path = "filetests/errors.rs"]
mod errors;
#[path = "filetests/file.rs"]
mod file;
#[path = "filetests/meaning.rs"]
mod meaning;
#[path = "filetests/passes.rs"]
mod passes;

use std::path::{Path, PathBuf};

use file::{Command, TestFile};

#[test]
fn every_file_does_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ir");
    let files = files_below(&root);
    assert!(!files.is_empty(), "no tests in {}", root.display());
    let bless = std::env::var_os("SUPERSTEP_BLESS").is_some_and(|v| v == "1");
    let mut failures = Vec::new();
    for path in &files {
        if let Err(failure) = run(path, bless) {
            let name = path.strip_prefix(&root).unwrap_or(path);
            failures.push(format!("--- {}\n{failure}", name.display()));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} files fail; SUPERSTEP_BLESS=1 rewrites what they expect\n{}",
        failures.len(),
        files.len(),
        failures.join("\n")
    );
}

/// Every `.ir` file below a folder, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return files;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_some_and(|e| e == "ir") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn run(path: &Path, bless: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let file = TestFile::parse(&text)?;
    let result = match &file.command {
        Command::Verify => return errors::check(file.input),
        Command::Print => passes::optimise(file.input, &[])?,
        Command::Opt(names) => passes::optimise(file.input, names)?,
    };
    if bless && file.expected != Some(result.as_str()) {
        return std::fs::write(path, file.with_expected(&result)).map_err(|e| e.to_string());
    }
    match file.expected {
        Some(expected) if expected == result => Ok(()),
        Some(expected) => Err(first_difference(expected, &result)),
        None => Err(format!("nothing after `{}`:\n{result}", file::SEPARATOR)),
    }
}

/// Where two texts part, and the whole of the second.
fn first_difference(expected: &str, result: &str) -> String {
    let mut pairs = expected.lines().zip(result.lines());
    let at = pairs
        .position(|(e, r)| e != r)
        .unwrap_or(expected.lines().count().min(result.lines().count()));
    let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_string();
    format!(
        "line {} after the separator\n  expected: {}\n  is:       {}\nthe result is\n{result}",
        at + 1,
        line(expected),
        line(result)
    )
}
