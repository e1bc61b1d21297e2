//! Text for people, and the checks made before work starts that its result can be kept.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::atomic_file;
use crate::compile::{IrSink, Origin};
use crate::error::Error;

/// Why the last text that could not be printed could not, such as a full disk behind stdout.
static UNPRINTED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints `text` and a newline. When the reader closed the pipe (`superstep report … | head`), the rest of the output is of no use
/// to anybody, but the command still does its work.
pub(super) fn say(text: impl std::fmt::Display) {
    print(format_args!("{text}\n"));
}

/// Prints `text` as it is.
pub(super) fn print(text: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    let written = write!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        *UNPRINTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Whether all that was said could be printed, for the end of a command.
pub(super) fn check_printed() -> Result<(), Error> {
    match UNPRINTED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
    {
        Some(error) => Err(Error::failed(format!("cannot write to stdout: {error}"))),
        None => Ok(()),
    }
}

/// Something worth knowing that is no error: one line on stderr.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "note: {text}");
}

/// Says where a training program came from, and how long it took.
pub(super) fn say_origin(origin: &Origin, seconds: f64) {
    match origin {
        Origin::Found(path) => say(format_args!(
            "compiled before: {}, read in {seconds:.2} s\n",
            path.display()
        )),
        Origin::MadeAnew(reason) => {
            note(format_args!("the kept program cannot be used: {reason}"));
            say(format_args!("compiled anew in {seconds:.2} s\n"));
        }
        Origin::Compiled => say(format_args!("compiled in {seconds:.2} s\n")),
    }
}

/// Prints graphs for `--print_ir_after`.
pub(super) struct IrPrinter;

impl IrSink for IrPrinter {
    fn graph(&mut self, pass: &str, text: &str) {
        say(format_args!("// after {pass}\n{text}"));
    }
}

/// Whether a file could be written at `path`, before there is anything to write.
pub(super) fn check_writable_file(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::failed(format!(
            "cannot write {}: it is a directory",
            path.display()
        )));
    }
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    probe(directory)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))
}

/// Creates the folder for results and makes sure that files can be written there.
pub(super) fn prepare_directory(path: &Path) -> Result<(), Error> {
    atomic_file::create_directory(path)?;
    probe(path)
        .map_err(|error| Error::failed(format!("cannot write into {}: {error}", path.display())))
}

/// Makes a file in `directory` and removes it again: the only question a file system answers truly.
fn probe(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(format!(".superstep-probe-{}", std::process::id()));
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)
}
