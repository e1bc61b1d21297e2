//! Damaged model folders: whatever happens to a file, loading returns. A panic, an abort for lack of memory or a hang would
//! end the test run.

use std::path::Path;

use superstep_ir::random::Stream;

use super::fixtures::{fixture, tiny};
use super::{FrontendError, Gpt2Config, Tokenizer, load_weights};

/// Random damage, the same in every run.
struct Damage {
    stream: Stream,
    next: u64,
}

impl Damage {
    fn new(name: &str) -> Self {
        Self {
            stream: Stream::named(0, name),
            next: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next += 1;
        self.stream.bits(self.next) as usize % bound
    }

    /// Some bits flipped, some bytes overwritten by ones that matter to JSON, or a stretch removed.
    fn apply(&mut self, bytes: &[u8], within: usize) -> Vec<u8> {
        const TELLING: &[u8] = b"\"{}[]:,0-9e.\\n\0\xff ";
        let mut damaged = bytes.to_vec();
        let within = within.min(bytes.len());
        match self.below(3) {
            0 => {
                (0..=self.below(3)).for_each(|_| damaged[self.below(within)] ^= 1 << self.below(8))
            }
            1 => (0..=self.below(3))
                .for_each(|_| damaged[self.below(within)] = TELLING[self.below(TELLING.len())]),
            _ => {
                let start = self.below(within);
                let end = (start + 1 + self.below(40)).min(damaged.len());
                damaged.drain(start..end);
            }
        }
        damaged
    }
}

fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

#[test]
fn cut_weights() {
    let (config, _) = tiny();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(fixture("tiny").join("model.safetensors")).unwrap();
    let header = header_end(&bytes);
    let ends = (0..64)
        .chain((64..header + 64).step_by(37))
        .chain((header..bytes.len()).step_by(9_973));
    for end in ends.chain([bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let outcome = load_weights(folder.path(), &config);
        assert!(
            matches!(outcome, Err(FrontendError::Safetensors { .. })),
            "cut at {end}"
        );
    }
}

#[test]
fn damaged_weights() {
    let (config, weights) = tiny();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(fixture("tiny").join("model.safetensors")).unwrap();
    let header = header_end(&bytes);
    let mut damage = Damage::new("weights");
    let mut refused = 0;
    for round in 0..1_500 {
        // Mostly the first bytes, which say how long the header is, and the header.
        let within = if round % 5 == 0 { 16 } else { header };
        std::fs::write(&path, damage.apply(&bytes, within)).unwrap();
        match load_weights(folder.path(), &config) {
            // Damage to the metadata or the padding goes unnoticed; what is loaded is still of the right shape.
            Ok(loaded) => assert_eq!(loaded.weights.element_count(), weights.element_count()),
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("model.safetensors"), "{error}");
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn damaged_configurations() {
    let bytes = std::fs::read(fixture("tiny").join("config.json")).unwrap();
    let parse = |bytes: &[u8]| Gpt2Config::from_json(bytes, Path::new("config.json"));
    for end in 0..bytes.len() - 2 {
        assert!(
            matches!(parse(&bytes[..end]), Err(FrontendError::Json { .. })),
            "cut at {end}"
        );
    }
    let mut damage = Damage::new("config");
    for _ in 0..20_000 {
        if let Ok(config) = parse(&damage.apply(&bytes, bytes.len())) {
            // What is accepted must be usable.
            assert!(config.parameter_count() > 0);
            assert_eq!(config.head_size() * config.n_head, config.n_embd);
            assert!(parse(config.to_json().as_bytes()).is_ok());
        }
    }
}

#[test]
fn damaged_shard_indices() {
    let (config, weights) = tiny();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture("tiny").join("model.safetensors"),
        folder.path().join("a.safetensors"),
    )
    .unwrap();
    let map: serde_json::Map<String, serde_json::Value> = weights
        .iter()
        .map(|(name, _)| (format!("transformer.{name}"), "a.safetensors".into()))
        .collect();
    let index = serde_json::json!({ "weight_map": map })
        .to_string()
        .into_bytes();
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, &index).unwrap();
    assert_eq!(
        load_weights(folder.path(), &config).unwrap().weights,
        weights
    );
    let mut damage = Damage::new("index");
    for _ in 0..500 {
        std::fs::write(&path, damage.apply(&index, index.len())).unwrap();
        if let Ok(loaded) = load_weights(folder.path(), &config) {
            assert_eq!(loaded.weights, weights);
        }
    }
}

/// A tokenizer small enough to be damaged thousands of times.
const SMALL_TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":6,"content":"<|endoftext|>",
"single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":true}],"normalizer":null,"pre_tokenizer":{"type":
"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":{"type":"ByteLevel","add_prefix_space"
:true,"trim_offsets":false,"use_regex":true},"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":
true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":
false,"byte_fallback":false,"ignore_merges":false,"vocab":{"a":0,"b":1,"Ġ":2,"ab":3,"Ġab":4,"c":5,"<|endoftext|>":6},"merges":[["a",
"b"],["Ġ","ab"]]}}"#;

#[test]
fn damaged_tokenizers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let bytes = SMALL_TOKENIZER.as_bytes();
    std::fs::write(&path, bytes).unwrap();
    let sound = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(sound.encode("ab ab<|endoftext|>c").unwrap(), [3, 4, 6, 5]);
    for end in 0..bytes.len() {
        std::fs::write(&path, &bytes[..end]).unwrap();
        assert!(Tokenizer::load(folder.path()).is_err(), "cut at {end}");
    }
    let mut damage = Damage::new("tokenizer");
    for _ in 0..4_000 {
        std::fs::write(&path, damage.apply(bytes, bytes.len())).unwrap();
        if let Ok(tokenizer) = Tokenizer::load(folder.path()) {
            let ids = tokenizer
                .encode("ab ab<|endoftext|>c \n x")
                .unwrap_or_default();
            let _ = tokenizer.decode(&ids);
            let _ = tokenizer.decode(&[0, 3, 6, 99]);
            let _ = tokenizer.check_vocab(7);
        }
    }
}
