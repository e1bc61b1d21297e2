use super::*;
use crate::frontend::fixtures::fixture;
use crate::frontend::preset;

/// A sound configuration with `field` replaced by `value` (JSON).
fn with_field(field: &str, value: &str) -> Result<Gpt2Config, FrontendError> {
    let mut map = preset("gpt2").unwrap().to_map();
    map.insert(field.to_owned(), serde_json::from_str(value).unwrap());
    Gpt2Config::from_json(
        Value::Object(map).to_string().as_bytes(),
        Path::new("m/config.json"),
    )
}

#[track_caller]
fn refused(field: &str, value: &str) -> String {
    let message = with_field(field, value).unwrap_err().to_string();
    assert!(
        message.starts_with("m/config.json: `"),
        "{field} = {value}: {message}"
    );
    message
}

#[test]
fn reads_what_transformers_writes() {
    let config = Gpt2Config::load(&fixture("tiny")).unwrap();
    assert_eq!(
        (config.n_layer, config.n_head, config.n_embd, config.n_inner),
        (2, 2, 32, 128)
    );
    assert_eq!(
        (config.n_positions, config.vocab_size, config.head_size()),
        (64, 512, 16)
    );
    assert_eq!((config.resid_pdrop, config.initializer_range), (0.0, 0.08));
    assert_eq!(config.activation_function, Activation::GeluNew);
    assert_eq!(config.eos_token_id, Some(511));
    assert_eq!(config.layer_norm_epsilon, 1e-5);
}

#[test]
fn unknown_fields_and_null_survive_a_round_trip() {
    let text = std::fs::read(fixture("tiny").join("config.json")).unwrap();
    let before: Value = serde_json::from_slice(&text).unwrap();
    let config = Gpt2Config::load(&fixture("tiny")).unwrap();
    let after: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(before, after);

    let half = Gpt2Config::load(&fixture("small4")).unwrap();
    let after: Value = serde_json::from_str(&half.to_json()).unwrap();
    assert_eq!(
        after["dtype"], "float32",
        "what is written beside it is f32"
    );

    let odd = with_field("my_field", r#"{"a": [1, null]}"#).unwrap();
    assert!(odd.to_json().contains("my_field"));
    let again = Gpt2Config::from_json(odd.to_json().as_bytes(), Path::new("x")).unwrap();
    assert_eq!(again.to_json(), odd.to_json());
}

#[test]
fn defaults_and_older_names() {
    let minimal = br#"{"n_layer":1,"n_head":1,"n_embd":3,"n_ctx":7,"vocab_size":5}"#;
    let config = Gpt2Config::from_json(minimal, Path::new("x")).unwrap();
    assert_eq!((config.n_positions, config.n_inner), (7, 12));
    assert_eq!(
        (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop),
        (0.1, 0.1, 0.1)
    );
    assert!(config.scale_attn_weights && !config.scale_attn_by_inverse_layer_idx);
    assert_eq!(config.bos_token_id, None);
    for field in ["n_layer", "n_head", "n_embd", "n_ctx", "vocab_size"] {
        let mut map: Map<String, Value> = serde_json::from_slice(minimal).unwrap();
        map.remove(field);
        let error =
            Gpt2Config::from_json(Value::Object(map).to_string().as_bytes(), Path::new("x"))
                .unwrap_err();
        assert!(
            matches!(error, FrontendError::FieldMissing { .. }),
            "{error}"
        );
    }
}

#[test]
fn impossible_shapes_are_named() {
    for field in [
        "n_layer",
        "n_head",
        "n_embd",
        "n_positions",
        "vocab_size",
        "n_inner",
        "n_ctx",
    ] {
        let bad = [
            "0",
            "-1",
            "2.5",
            "1e3",
            "\"12\"",
            "[]",
            "{}",
            "true",
            "9223372036854775807",
        ];
        for value in bad {
            let message = refused(field, value);
            assert!(
                message.contains(&format!("`{field}` is {value}")) || value == "1e3",
                "{message}"
            );
        }
    }
    assert!(refused("n_layer", "99999999999999999999").contains("`n_layer`"));
    assert!(
        refused("n_head", "7").contains("`n_embd` is 768, but it must be a multiple of n_head, 7")
    );
    assert!(refused("n_head", "769").contains("multiple of n_head"));
    assert!(refused("n_layer", "1025").contains("1024"));
    assert!(refused("n_layer", "2147483647").contains("n_layer"));
    // Each factor is acceptable, their product is not.
    assert!(refused("vocab_size", "2147483647").contains("parameters"));
    assert!(refused("n_positions", "2147483647").contains("parameters"));
    assert!(refused("n_inner", "2147483647").contains("parameters"));
    assert!(refused("n_embd", "2147483640").contains("`n_embd`"));
    assert!(with_field("n_inner", "null").is_ok());
    for field in ["n_layer", "n_embd"] {
        assert!(matches!(
            with_field(field, "null"),
            Err(FrontendError::FieldMissing { .. })
        ));
    }
}

#[test]
fn other_fields_have_types_and_ranges() {
    for field in ["resid_pdrop", "embd_pdrop", "attn_pdrop"] {
        for value in ["-0.1", "1", "1.0", "2", "\"0.1\"", "true"] {
            assert!(refused(field, value).contains("probability"));
        }
        assert!(with_field(field, "0").is_ok() && with_field(field, "0.999").is_ok());
    }
    for value in ["0", "-1e-5", "1e-60", "2", "\"x\""] {
        refused("layer_norm_epsilon", value);
    }
    for value in ["-0.1", "1e30", "[]"] {
        refused("initializer_range", value);
    }
    for field in [
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
    ] {
        refused(field, "1");
        assert!(with_field(field, "true").is_ok() && with_field(field, "false").is_ok());
    }
    for value in ["-1", "[1, 2]", "\"a\"", "1.5", "4294967296"] {
        refused("eos_token_id", value);
    }
    assert!(
        with_field("eos_token_id", "null")
            .unwrap()
            .eos_token_id
            .is_none()
    );
}

#[test]
fn what_is_not_gpt2_is_refused_by_name() {
    assert!(refused("model_type", "\"llama\"").contains("\"llama\""));
    assert!(refused("tie_word_embeddings", "false").contains("tie_word_embeddings"));
    assert!(refused("add_cross_attention", "true").contains("cross"));
    for name in ["silu", "gelu_fast", "tanh", "GELU", ""] {
        assert!(refused("activation_function", &format!("\"{name}\"")).contains(name));
    }
    refused("activation_function", "3");
    for activation in [Activation::GeluNew, Activation::Gelu, Activation::Relu] {
        let config =
            with_field("activation_function", &format!("\"{}\"", activation.name())).unwrap();
        assert_eq!(config.activation_function, activation);
    }
}

#[test]
fn not_an_object() {
    for text in [
        "",
        "[]",
        "null",
        "3",
        "{",
        "{\"n_layer\": NaN}",
        "\u{feff}{}",
        "{\"a\":1}x",
    ] {
        let error = Gpt2Config::from_json(text.as_bytes(), Path::new("x")).unwrap_err();
        assert!(
            matches!(error, FrontendError::Json { .. }),
            "{text}: {error}"
        );
    }
    assert!(Gpt2Config::from_json(&b"[".repeat(100_000), Path::new("x")).is_err());
    let long = format!("\"{}\"", "é".repeat(1000));
    assert!(refused("n_layer", &long).len() < 300);
}

#[test]
fn overrides() {
    let gpt2 = preset("gpt2").unwrap();
    let small = gpt2
        .with_overrides("n_layer=2, n_embd=48,n_head = 3,resid_pdrop=0.0,n_positions=32")
        .unwrap();
    assert_eq!(
        (
            small.n_layer,
            small.n_embd,
            small.n_inner,
            small.resid_pdrop
        ),
        (2, 48, 192, 0.0)
    );
    assert!(small.to_json().contains("\"n_ctx\": 32"));
    let relu = gpt2
        .with_overrides("activation_function=relu,scale_attn_weights=False,bos_token_id=None")
        .unwrap();
    assert_eq!(
        (relu.activation_function, relu.scale_attn_weights),
        (Activation::Relu, false)
    );
    assert_eq!(
        gpt2.with_overrides("").unwrap(),
        gpt2.with_overrides(" , ").unwrap()
    );
    for wrong in [
        "n_layer",
        "n_layers=3",
        "n_layer=three",
        "n_layer=",
        "=3",
        "n_head=5",
        "tie_word_embeddings=false",
    ] {
        assert!(gpt2.with_overrides(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn block_sizes() {
    let gpt2 = preset("gpt2").unwrap();
    assert_eq!(gpt2.block_size(None).unwrap(), 1024);
    assert_eq!(gpt2.block_size(Some(7)).unwrap(), 7);
    assert!(gpt2.block_size(Some(0)).is_err() && gpt2.block_size(Some(1025)).is_err());
    assert_eq!(preset("gpt2-tiny").unwrap().block_size(None).unwrap(), 256);
    let long = gpt2.with_overrides("n_positions=4096").unwrap();
    assert_eq!(
        (
            long.block_size(None).unwrap(),
            long.block_size(Some(4096)).unwrap()
        ),
        (1024, 4096)
    );
}

#[test]
fn absent_files_and_folders() {
    let directory = tempfile::tempdir().unwrap();
    let error = Gpt2Config::load(directory.path()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
    std::fs::create_dir(directory.path().join("config.json")).unwrap();
    assert!(matches!(
        Gpt2Config::load(directory.path()),
        Err(FrontendError::NotAFile { .. })
    ));
    let big = directory.path().join("big.json");
    std::fs::File::create(&big)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert!(matches!(
        Gpt2Config::load_file(&big),
        Err(FrontendError::TooLarge { .. })
    ));
}
