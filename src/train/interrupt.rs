//! Ctrl-C: the first one asks the run to end after its current step, the next ends the program at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Signals that come so soon after the first are the same wish: `timeout` sends its signal to the program and then to its process group.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Whether the user wants the run to end. Clones share one answer.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// One that listens for Ctrl-C and for the polite kill, from now until the program ends.
    pub fn listen() -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let asked = interrupt.clone();
        let listener = move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                match first {
                    Some(first) if first.elapsed() >= SAME_WISH => {
                        signal_hook::low_level::exit(128 + signal)
                    }
                    Some(_) => {}
                    None => first = Some(Instant::now()),
                }
                asked.ask();
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listener)?;
        Ok(interrupt)
    }

    /// Asks the run to end, as Ctrl-C does.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}
