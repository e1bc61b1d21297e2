//! Plans of earlier compilations: a file for every machine and compiler.
//!
//! A file starts with a line of text, `superstep plans 1 DIGEST`, and goes on with a [`PlanBook`] as JSON, whose blake3 digest that is. All that a
//! book says can be found again, so a file that cannot be read, or is not what was written, counts as absent, and the next compilation replaces it.
//! Files are replaced whole: of two compilations that end at the same time one may lose its plans, none finds half a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use superstep_ir::machine::Machine;
use superstep_passes::plan::PlanBook;

use super::compiler;
use crate::atomic_file::{self, AtomicWriteError};

const FORMAT: u32 = 1;
const EXTENSION: &str = "plans";
/// Larger books forget what they learnt first. GPT-2 small takes a hundredth of it.
const MOST_BOOK_BYTES: usize = 16 << 20;
/// When the files are larger together, those that were not used for longest go.
const MOST_BYTES: u64 = 128 << 20;

/// Where plans are kept, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct PlanCache {
    directory: Option<PathBuf>,
}

impl PlanCache {
    /// Keeps nothing.
    pub const fn none() -> PlanCache {
        PlanCache { directory: None }
    }

    /// Keeps plans in `directory`, which is created.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn at(directory: PathBuf) -> Result<PlanCache, AtomicWriteError> {
        atomic_file::create_directory(&directory)?;
        atomic_file::remove_stale(&directory);
        Ok(PlanCache {
            directory: Some(directory),
        })
    }

    /// What is known about a machine; an empty book if there is nothing that can be used.
    pub fn open(&self, machine: &Machine) -> PlanBook {
        let path = self.file(machine);
        let book = path.and_then(|path| read(&path, machine));
        book.unwrap_or_else(|| PlanBook::new(machine))
    }

    /// Keeps what a book says, with what others have written about the machine meanwhile. A cache that cannot be written costs time and nothing
    /// else, so that is no error.
    pub fn keep(&self, book: PlanBook) {
        let Some(path) = self.file(book.machine()) else {
            return;
        };
        if !book.is_changed() {
            let now = SystemTime::now();
            // Recently used is recently written.
            let _ = File::options()
                .append(true)
                .open(&path)
                .and_then(|file| file.set_modified(now));
            return;
        }
        let mut all = self.open(book.machine());
        all.merge(book);
        let Some(bytes) = encode(all) else {
            return;
        };
        if atomic_file::write(&path, &bytes).is_ok() {
            let _ = tidy(&path, MOST_BYTES);
        }
    }

    fn file(&self, machine: &Machine) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        let compiler = compiler::digest()?;
        let key = blake3::hash(format!("{FORMAT} {compiler} {machine:?}").as_bytes()).to_hex();
        Some(directory.join(format!("{}.{EXTENSION}", &key[..32])))
    }
}

/// The first line of a file with these contents.
fn heading(book: &[u8]) -> String {
    format!("superstep plans {FORMAT} {}\n", blake3::hash(book).to_hex())
}

fn read(path: &Path, machine: &Machine) -> Option<PlanBook> {
    let known = fs::metadata(path).ok()?;
    if !known.is_file() || known.len() > 2 * MOST_BOOK_BYTES as u64 {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let start = bytes.iter().position(|&byte| byte == b'\n')? + 1;
    let (first, book) = bytes.split_at(start);
    if first != heading(book).as_bytes() {
        return None;
    }
    let book: PlanBook = serde_json::from_slice(book).ok()?;
    (book.machine() == machine && book.is_sound()).then_some(book)
}

/// The bytes of a file, with as much of the book as may be kept.
fn encode(mut book: PlanBook) -> Option<Vec<u8>> {
    let mut text = serde_json::to_vec(&book).ok()?;
    while text.len() > MOST_BOOK_BYTES {
        if !book.forget_half() {
            return None;
        }
        text = serde_json::to_vec(&book).ok()?;
    }
    let mut bytes = heading(&text).into_bytes();
    bytes.append(&mut text);
    Some(bytes)
}

/// Removes the files beside `path` that were not used for longest, until all together have at most so many bytes.
fn tidy(path: &Path, most_bytes: u64) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new(".")))? {
        let file = entry?.path();
        if file.extension().is_none_or(|e| e != EXTENSION) {
            continue;
        }
        // Another compilation may have removed it.
        if let Ok(known) = fs::symlink_metadata(&file)
            && known.is_file()
        {
            files.push((known.modified()?, known.len(), file));
        }
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|file| file.1).sum();
    for (_, length, file) in files {
        if bytes <= most_bytes {
            break;
        }
        if file != path {
            fs::remove_file(&file)?;
            bytes -= length;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
