//! Speed of tokenising, against the tokenizers crate's own `encode_batch` over the same lines on the same threads; and peak memory.
//!
//!     cargo run --release --example tokenise -- TOKENIZER_DIR FILE.txt [ROUNDS]
//!     cargo run --release --example tokenise -- TOKENIZER_DIR FILE|FOLDER 0          only superstep, any kind of file, with its peak memory

use std::path::Path;
use std::time::Instant;

use superstep::data::Corpus;
use superstep::data::tokenise::tokenise;
use superstep::frontend::Tokenizer;

/// The unit of times in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let (folder, file) = (Path::new(&arguments[1]), Path::new(&arguments[2]));
    let rounds: usize = arguments.get(3).map_or(Ok(3), |text| text.parse())?;
    let ours = Tokenizer::load(folder)?;
    let theirs = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json"))
        .map_err(|error| error.to_string())?;
    let corpus = Corpus::at(file, None)?;
    if rounds == 0 {
        return alone(&corpus, &ours);
    }
    let text = std::fs::read_to_string(file)?;
    let megabytes = text.len() as f64 / 1e6;
    for _ in 0..rounds {
        let start = Stopwatch::start();
        let counts = tokenise(&corpus, &ours, 1024, &mut |_| Ok(()), &mut |_| {})?;
        let superstep = start.megabytes_per_second(megabytes);
        let start = Stopwatch::start();
        let mut tokens = 0;
        for batch in text.split_inclusive('\n').collect::<Vec<_>>().chunks(1000) {
            let encodings = theirs
                .encode_batch(batch.to_vec(), true)
                .map_err(|error| error.to_string())?;
            tokens += encodings.iter().map(|e| e.get_ids().len()).sum::<usize>();
        }
        let crate_itself = start.megabytes_per_second(megabytes);
        assert_eq!(tokens as u64, counts.tokens);
        for (clock, ours, theirs) in [
            ("clock", superstep.0, crate_itself.0),
            ("processor", superstep.1, crate_itself.1),
        ] {
            println!(
                "MB a second of {clock} time: superstep {ours:.2}, encode_batch {theirs:.2}, ratio {:.2}",
                ours / theirs
            );
        }
    }
    Ok(())
}

/// Time as the clock has it, and as the processors spent it on this process: the latter says something on a busy machine too.
struct Stopwatch {
    clock: Instant,
    processor: f64,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch {
            clock: Instant::now(),
            processor: processor_seconds(),
        }
    }

    fn megabytes_per_second(&self, megabytes: f64) -> (f64, f64) {
        let clock = self.clock.elapsed().as_secs_f64();
        (
            megabytes / clock,
            megabytes / (processor_seconds() - self.processor),
        )
    }
}

/// Seconds of all threads, from Linux; not a number elsewhere.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse().unwrap_or(f64::NAN))
        .sum::<f64>()
        / TICKS_PER_SECOND
}

/// Tokenises a corpus once, and says how fast that was and how much memory the process had at most.
fn alone(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let counts = tokenise(corpus, tokenizer, 1024, &mut |_| Ok(()), &mut |_| {})?;
    let speed = counts.text_bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!(
        "{} rows, {} bytes, {} tokens, {} forced cuts, {speed:.2} MB/s, {}",
        counts.rows,
        counts.text_bytes,
        counts.tokens,
        counts.forced_cuts,
        peak.unwrap_or("peak memory unknown")
    );
    Ok(())
}
