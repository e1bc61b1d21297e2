//! How a command ends when it fails: one plain error on stderr, a hint if there is one, and an exit code.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// What the last panic said and where. Printing waits until it is clear that nobody catches the panic on the way up.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs a command; any error is printed once.
pub(super) fn guarded(command: impl FnOnce() -> Result<ExitCode, Error>) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("no message");
        let place = info
            .location()
            .map(|at| format!(" at {}:{}", at.file(), at.line()))
            .unwrap_or_default();
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{what}{place}"));
    }));
    match catch_unwind(AssertUnwindSafe(command)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            complain(&error.to_string(), error.hint().as_deref());
            ExitCode::from(error.exit_code())
        }
        Err(_) => {
            let last = LAST_PANIC
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let what = last.unwrap_or_else(|| "unknown".into()).replace('\n', " ");
            complain(
                &format!("internal error: {what}"),
                Some("this is a bug of superstep; your files are as they were"),
            );
            ExitCode::from(1)
        }
    }
}

fn complain(message: &str, hint: Option<&str>) {
    let mut err = std::io::stderr().lock();
    // There is nowhere left to report a failure to report.
    let _ = writeln!(err, "error: {message}");
    if let Some(hint) = hint {
        let _ = writeln!(err, "  hint: {hint}");
    }
}
