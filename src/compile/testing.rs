//! A small model, for tests of the compiler.

use serde_json::{Value, json};

use crate::frontend::Gpt2Config;

/// Two heads, width 32, up to 16 tokens.
pub(super) fn config(layers: usize, vocabulary: usize) -> Gpt2Config {
    let json = json!({
        "n_layer": layers, "n_head": 2, "n_embd": 32, "n_positions": 16, "vocab_size": vocabulary, "n_inner": Value::Null,
        "bos_token_id": vocabulary - 1, "eos_token_id": vocabulary - 1, "tie_word_embeddings": true,
    });
    Gpt2Config::from_json(json.to_string().as_bytes(), "config.json".as_ref()).unwrap()
}
