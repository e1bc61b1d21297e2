//! GPT-2's tokenizer with fewer tokens: its bytes and its first merges.
//!
//! Merges are learnt one after the other and each only uses tokens that came before, so the first so many of them are a tokenizer of their
//! own, and the ids are GPT-2's (but for the token that ends a text, which is always the last).

use std::fmt::Write;

use crate::atomic_file;
use crate::error::Error;
use crate::frontend::Tokenizer;
use crate::frontend::tokenizer::END_OF_TEXT;

const MERGES: &str = include_str!("../../../tests/fixtures/gpt2-tokenizer/merges.txt");
const BYTES: usize = 256;

/// The tokenizer with `vocab_size` tokens: 256 bytes, merges, and the end of a text.
pub(super) fn tokenizer(vocab_size: usize) -> Result<Tokenizer, Error> {
    let merges: Vec<&str> = merges()
        .take(vocab_size.saturating_sub(BYTES + 1))
        .collect();
    let folder = tempfile::tempdir()
        .map_err(|error| Error::failed(format!("cannot make a temporary folder: {error}")))?;
    atomic_file::write(
        &folder.path().join("vocab.json"),
        vocab_json(&merges).as_bytes(),
    )?;
    let mut text = String::from("#version: 0.2\n");
    for merge in merges {
        let _ = writeln!(text, "{merge}");
    }
    atomic_file::write(&folder.path().join("merges.txt"), text.as_bytes())?;
    Ok(Tokenizer::load(folder.path())?)
}

fn merges() -> impl Iterator<Item = &'static str> {
    MERGES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("#version"))
}

fn vocab_json(merges: &[&str]) -> String {
    let bytes = byte_letters().map(String::from);
    let pairs = merges.iter().map(|merge| merge.replace(' ', ""));
    let tokens = bytes.chain(pairs).chain([END_OF_TEXT.to_owned()]);
    let map: serde_json::Map<String, serde_json::Value> = tokens
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    serde_json::Value::Object(map).to_string()
}

/// The letter that stands for each byte, in the order of GPT-2's ids: printable bytes stand for themselves and come first, the others
/// are moved to the letters from U+0100 on.
fn byte_letters() -> impl Iterator<Item = char> {
    let printable = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    let moved = BYTES - printable.clone().count();
    printable.chain((0..moved).filter_map(|i| char::from_u32(0x100 + i as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_gpt2_as_far_as_they_go() {
        let small = tokenizer(300).unwrap();
        assert_eq!(small.vocab_size(), 300);
        assert_eq!(small.token_id(END_OF_TEXT), Some(299));
        // From GPT-2's vocab.json.
        for (token, id) in [
            ("!", 0),
            ("~", 93),
            ("\u{a1}", 94),
            ("\u{100}", 188),
            ("\u{120}t", 256),
            ("he", 258),
        ] {
            assert_eq!(small.token_id(token), Some(id), "{token}");
        }
        let text = "the hat — naïve, 7 œufs\n";
        assert_eq!(small.decode(&small.encode(text).unwrap()).unwrap(), text);
    }
}
