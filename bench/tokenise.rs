//! Speed of tokenising a file, against the tokenizers crate's own `encode_batch` over the same lines on the same threads.
//!
//!     cargo run --release --example tokenise -- TOKENIZER_DIR FILE.txt [ROUNDS]

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
