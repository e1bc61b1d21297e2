//! Speed of tokenising, against the tokenizers crate's own `encode_batch` over the same lines on the same threads; and peak memory.
//!
//!     cargo run --release --example tokenise -- TOKENIZER_DIR FILE.txt [ROUNDS]
//!     cargo run --release --example tokenise -- TOKENIZER_DIR FILE|FOLDER 0          only superstep, any kind of file, with its peak memory

use std::path::Path;
use std::time::Instant;

use superstep::data::Corpus;
use superstep::data::tokenise::tokenise;
use superstep::frontend::Tokenizer;

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
        let start = Instant::now();
        let counts = tokenise(&corpus, &ours, 1024, &mut |_| Ok(()), &mut |_| {})?;
        let superstep = megabytes / start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut tokens = 0;
        for batch in text.split_inclusive('\n').collect::<Vec<_>>().chunks(1000) {
            let encodings = theirs
                .encode_batch(batch.to_vec(), true)
                .map_err(|error| error.to_string())?;
            tokens += encodings.iter().map(|e| e.get_ids().len()).sum::<usize>();
        }
        let crate_itself = megabytes / start.elapsed().as_secs_f64();
        assert_eq!(tokens as u64, counts.tokens);
        println!(
            "superstep {superstep:.2} MB/s, encode_batch {crate_itself:.2} MB/s, ratio {:.2}",
            superstep / crate_itself
        );
    }
    Ok(())
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
