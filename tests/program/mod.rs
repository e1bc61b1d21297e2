//! Runs the built program as a user does.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a run left behind.
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    fn of(output: Output) -> Run {
        Run {
            code: output.status.code().expect("the program ends by itself"),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// The run, which must have gone well.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The run, which must have failed with this exit code and one plain error that contains `what`.
    #[track_caller]
    pub fn fails(self, code: i32, what: &str) -> Run {
        let shown = format!("stdout:\n{}\nstderr:\n{}", self.out, self.err);
        assert_eq!(self.code, code, "{shown}");
        assert_eq!(
            self.err
                .lines()
                .filter(|line| line.starts_with("error:"))
                .count(),
            1,
            "{shown}"
        );
        assert!(self.err.contains(what), "no {what:?} in\n{shown}");
        for word in ["panicked", "internal error", "RUST_BACKTRACE"] {
            assert!(!self.err.contains(word), "{shown}");
        }
        self
    }
}

/// Runs `superstep` with these arguments, away from any Hugging Face cache of the user.
pub fn superstep<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_superstep"));
    command
        .args(arguments)
        .env("HF_HUB_CACHE", "/nonexistent")
        .env("SUPERSTEP_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"))
        .env_remove("RUST_BACKTRACE");
    Run::of(command.output().expect("the program starts"))
}

/// The words of a command line; `{}` stands for the next path.
pub fn words(line: &str, paths: &[&Path]) -> Vec<String> {
    let mut paths = paths.iter();
    line.split_whitespace()
        .map(|word| match word.contains("{}") {
            true => word.replace(
                "{}",
                paths
                    .next()
                    .expect("a path for every {}")
                    .to_str()
                    .expect("UTF-8"),
            ),
            false => word.to_owned(),
        })
        .collect()
}

/// Writes a file of this name into `folder`.
pub fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A file or folder of the reference data.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A folder with the tiny reference model and a tokenizer of single bytes, whose ids it has.
pub fn tiny_with_tokenizer(folder: &Path) -> PathBuf {
    let dir = folder.join("model");
    std::fs::create_dir(&dir).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("tiny").join(file), dir.join(file)).unwrap();
    }
    write_byte_tokenizer(&dir);
    dir
}

/// The 256 byte tokens of GPT-2 and no merges.
pub fn write_byte_tokenizer(dir: &Path) {
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let moved = (0..68).map(|i| char::from_u32(0x100 + i).unwrap());
    let entries: Vec<String> = printable
        .chain(moved)
        .enumerate()
        .map(|(id, letter)| {
            format!(
                "{}: {id}",
                serde_json::to_string(&letter.to_string()).unwrap()
            )
        })
        .collect();
    std::fs::write(
        dir.join("vocab.json"),
        format!("{{{}}}", entries.join(", ")),
    )
    .unwrap();
    std::fs::write(dir.join("merges.txt"), "#version: 0.2\n").unwrap();
}
