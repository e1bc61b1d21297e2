//! Shapes known by name: the four published GPT-2 sizes, and one small enough to try things with.

use std::path::Path;

use serde_json::{Value, json};

use super::config::Gpt2Config;

/// name, n_layer, n_head, n_embd, n_positions. All have GPT-2's vocabulary.
const PRESETS: [(&str, usize, usize, usize, usize); 5] = [
    ("gpt2", 12, 12, 768, 1024),
    ("gpt2-medium", 24, 16, 1024, 1024),
    ("gpt2-large", 36, 20, 1280, 1024),
    ("gpt2-xl", 48, 25, 1600, 1024),
    // Ours: an LM head as wide as the real one behind a body that trains in seconds.
    ("gpt2-tiny", 4, 4, 128, 256),
];
const VOCAB_SIZE: usize = 50257;
const END_OF_TEXT: u32 = 50256;

/// The names [`preset`] knows.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.0)
}

/// The configuration called `name`, if there is one.
pub fn preset(name: &str) -> Option<Gpt2Config> {
    let &(_, n_layer, n_head, n_embd, n_positions) =
        PRESETS.iter().find(|preset| preset.0 == name)?;
    let file = json!({
        "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "n_inner": Value::Null,
        "n_positions": n_positions, "n_ctx": n_positions, "vocab_size": VOCAB_SIZE,
        "bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT, "tie_word_embeddings": true,
    });
    Gpt2Config::from_json(file.to_string().as_bytes(), Path::new(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_configuration() {
        for name in preset_names() {
            assert!(preset(name).is_some(), "{name}");
        }
        assert_eq!(preset("gpt3"), None);
    }

    #[test]
    fn published_sizes() {
        let total = |name: &str| preset(name).unwrap().parameter_count();
        assert_eq!(total("gpt2"), 124_439_808);
        assert_eq!(total("gpt2-medium"), 354_823_168);
        assert_eq!(total("gpt2-large"), 774_030_080);
        assert_eq!(total("gpt2-xl"), 1_557_611_200);
    }
}
