use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::frontend::fixtures::fixture;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

/// A folder with only these files of the reference tokenizer.
fn folder_with(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in files {
        std::fs::copy(
            fixture("gpt2-tokenizer").join(name),
            folder.path().join(name),
        )
        .unwrap();
    }
    folder
}

fn gpt2() -> Tokenizer {
    Tokenizer::load(&fixture("gpt2-tokenizer")).unwrap()
}

/// The ids by the crate alone, in one call.
fn whole(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_part(text).unwrap()
}

/// The ids with the text cut wherever it may be.
fn in_parts(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let cuts = tokenizer.cuts.as_ref().unwrap();
    cuts.split(text, 1)
        .into_iter()
        .flat_map(|part| whole(tokenizer, part))
        .collect()
}

#[test]
fn reference_cases() {
    let cases = std::fs::read(fixture("gpt2-tokenizer").join("cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert_eq!(cases.len(), 200);
    let from_two_files = folder_with(&["vocab.json", "merges.txt"]);
    let two_files = Tokenizer::load(from_two_files.path()).unwrap();
    for tokenizer in [gpt2(), two_files] {
        assert!(tokenizer.cuts.is_some());
        for case in &cases {
            assert_eq!(
                tokenizer.encode(&case.text).unwrap(),
                case.ids,
                "{:?}",
                case.text
            );
            assert_eq!(
                in_parts(&tokenizer, &case.text),
                case.ids,
                "{:?} in parts",
                case.text
            );
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text);
        }
    }
}

#[test]
fn a_book() {
    let text = std::fs::read_to_string(fixture("text").join("austen.txt")).unwrap();
    let tokenizer = gpt2();
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(ids.len(), 282_385);
    assert_eq!(ids, whole(&tokenizer, &text));
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
}

#[test]
fn ids_of_the_reference_training_run() {
    #[derive(Deserialize)]
    struct Tokens {
        ids: Vec<Vec<Vec<Vec<u32>>>>,
    }
    let tokens = std::fs::read(fixture("small4").join("tokens.json")).unwrap();
    let tokens: Tokens = serde_json::from_slice(&tokens).unwrap();
    let expected: Vec<u32> = tokens.ids.concat().concat().concat();
    let text = std::fs::read_to_string(fixture("text").join("austen.txt")).unwrap();
    assert_eq!(gpt2().encode(&text).unwrap()[..expected.len()], expected);
}

/// Beyond a million white-space characters the crate's pattern gives up, and takes all that follows for one piece.
#[test]
fn very_long_runs() {
    let tokenizer = gpt2();
    for (unit, last) in [("\n", "\n"), (" ", " y"), ("\u{3000}", "\u{3000}")] {
        let run = unit.repeat(1_100_001);
        let end = if last == " y" { "" } else { "y" };
        let pieces = ["x", &run, last, end, " z", "'s"];
        let expected: Vec<u32> = pieces
            .iter()
            .flat_map(|piece| whole(&tokenizer, piece))
            .collect();
        assert!(
            tokenizer.encode(&pieces.concat()).unwrap() == expected,
            "{unit:?}"
        );
    }
    for unit in ["a", "!"] {
        let text = format!("x{} z", unit.repeat(100_000));
        assert!(
            tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap() == text,
            "{unit:?}"
        );
    }
}

#[test]
fn special_tokens_inside_text() {
    let tokenizer = gpt2();
    assert_eq!(tokenizer.token_id(END_OF_TEXT), Some(50256));
    assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [50256]);
    let text = "a<|endoftext|> b  <|endoftext|>\n\nc <|endoftext|>".repeat(3);
    assert_eq!(in_parts(&tokenizer, &text), whole(&tokenizer, &text));
    assert_eq!(tokenizer.decode(&whole(&tokenizer, &text)).unwrap(), text);
}

#[test]
fn vocabulary_sizes() {
    let tokenizer = gpt2();
    assert_eq!(tokenizer.vocab_size(), 50257);
    tokenizer.check_vocab(50257).unwrap();
    tokenizer.check_vocab(50264).unwrap();
    let message = tokenizer.check_vocab(512).unwrap_err().to_string();
    assert!(message.starts_with("tokenizer/vocab mismatch"), "{message}");
    assert!(
        message.contains("50256") && message.contains("512"),
        "{message}"
    );
    assert!(tokenizer.decode(&[15496, 4_000_000_000]).is_ok());
}

#[test]
fn what_is_saved_is_what_was_read() {
    let folder = folder_with(&["vocab.json", "merges.txt", "tokenizer_config.json"]);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    drop(folder);
    tokenizer.save(copy.path()).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(copy.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["merges.txt", "tokenizer_config.json", "vocab.json"]);
    assert_eq!(
        Tokenizer::load(copy.path())
            .unwrap()
            .encode("Hello world")
            .unwrap(),
        [15496, 995]
    );
}

#[test]
fn settings_of_a_batch_are_not_the_tokenizers() {
    let folder = folder_with(&["tokenizer.json"]);
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["truncation"] = serde_json::json!(
        { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 }
    );
    std::fs::write(&path, json.to_string()).unwrap();
    assert_eq!(
        Tokenizer::load(folder.path())
            .unwrap()
            .encode("Hello world, hello")
            .unwrap()
            .len(),
        4
    );

    json["model"]["dropout"] = 0.1.into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(
        Tokenizer::load(folder.path())
            .unwrap_err()
            .to_string()
            .contains("dropout")
    );

    // Forms for which cutting is not known to be right are encoded whole.
    json["model"]["dropout"] = serde_json::Value::Null;
    json["pre_tokenizer"]["add_prefix_space"] = true.into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap().cuts.is_none());
    json["pre_tokenizer"]["add_prefix_space"] = false.into();
    json["added_tokens"][0]["lstrip"] = true.into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap().cuts.is_none());
}

#[test]
fn merges() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        parse_merges(b"#version: 0.2\na b\n\n# c\n").unwrap(),
        [pair("a", "b"), pair("#", "c")]
    );
    assert_eq!(
        parse_merges("\u{120} t\r\nx y".as_bytes()).unwrap(),
        [pair("\u{120}", "t"), pair("x", "y")]
    );
    for (text, says) in [
        ("a b\nab", "line 2"),
        ("a b c", "line 1"),
        (" a", "line 1"),
        ("a ", "line 1"),
    ] {
        assert!(
            parse_merges(text.as_bytes()).unwrap_err().contains(says),
            "{text:?}"
        );
    }
    assert!(parse_merges(b"\xff a").is_err());
}

#[test]
fn broken_folders() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Tokenizer::load(empty.path()),
        Err(FrontendError::NoTokenizer { .. })
    ));
    for alone in ["vocab.json", "merges.txt"] {
        let half = folder_with(&[alone]);
        assert!(
            matches!(
                Tokenizer::load(half.path()),
                Err(FrontendError::NoTokenizer { .. })
            ),
            "{alone}"
        );
    }
    let pair = folder_with(&["vocab.json", "merges.txt"]);
    std::fs::write(pair.path().join("merges.txt"), "no_such_token other\n").unwrap();
    assert!(
        Tokenizer::load(pair.path())
            .unwrap_err()
            .to_string()
            .contains("merges.txt")
    );
    std::fs::write(pair.path().join("vocab.json"), "[1]").unwrap();
    assert!(matches!(
        Tokenizer::load(pair.path()),
        Err(FrontendError::Json { .. })
    ));
    std::fs::write(pair.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(
        Tokenizer::load(pair.path()),
        Err(FrontendError::Tokenizer { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cutting_changes_nothing(words in prop::collection::vec(
        prop::sample::select(vec![
            " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u{a0}", "\u{3000}", "\u{85}", "\u{200b}", "a", "don't", "'s", "'", "42", "½",
            "!?", "é", "日本", "🙂", "<|endoftext|>", "<|", "\u{301}", "\0", "|", "text", ",", "。", "）", "ア",
        ]), 0..40)
    ) {
        thread_local!(static GPT2: Tokenizer = gpt2());
        let text = words.concat();
        GPT2.with(|tokenizer| {
            let ids = whole(tokenizer, &text);
            prop_assert_eq!(&in_parts(tokenizer, &text), &ids);
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            Ok(())
        })?;
    }
}
