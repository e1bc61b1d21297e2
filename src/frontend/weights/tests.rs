use std::path::PathBuf;

use super::*;
use crate::frontend::fixtures::{fixture, tiny};
use crate::frontend::safetensors_out::{TensorOut, Values, write_safetensors};

/// A folder whose files hold `tensors` (name in the file, shape, values).
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, file: &str, tensors: &[(String, Tensor)]) -> PathBuf {
        let out: Vec<TensorOut> = tensors
            .iter()
            .map(|(name, tensor)| TensorOut {
                name: name.clone(),
                shape: &tensor.shape,
                data: Values::F32(&tensor.data),
            })
            .collect();
        let path = self.path().join(file);
        write_safetensors(&path, &out).unwrap();
        path
    }
}

/// The reference weights as files name them, with `prefix` in front.
fn named(weights: &Weights, prefix: &str) -> Vec<(String, Tensor)> {
    weights
        .iter()
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone()))
        .collect()
}

fn load(tensors: &[(String, Tensor)], config: &Gpt2Config) -> Result<Loaded, FrontendError> {
    let folder = Folder::new();
    folder.write("model.safetensors", tensors);
    load_weights(folder.path(), config)
}

fn tensor(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor {
        shape: shape.to_vec(),
        data: data.to_vec(),
    }
}

#[test]
fn reads_the_reference_models() {
    let (config, weights) = tiny();
    weights.check(&config).unwrap();
    assert_eq!(weights.element_count(), config.parameter_count());
    let names: Vec<&str> = weights.iter().map(|(name, _)| name).collect();
    let parameters = config.parameters();
    assert_eq!(
        names,
        parameters
            .iter()
            .map(|p| p.name.as_str())
            .collect::<Vec<_>>()
    );

    // Stored in half precision; biases and scales are not at their defaults.
    let dir = fixture("small4");
    let config = Gpt2Config::load(&dir).unwrap();
    let loaded = load_weights(&dir, &config).unwrap();
    assert!(loaded.warnings.is_empty());
    assert_eq!(
        loaded.weights.get("wte.weight").unwrap().shape,
        [50257, 128]
    );
    assert!(
        loaded
            .weights
            .get("h.3.attn.c_attn.bias")
            .unwrap()
            .data
            .iter()
            .any(|x| *x != 0.0)
    );
}

#[test]
fn every_way_to_name_the_same_tensors() {
    let (config, weights) = tiny();
    for prefix in ["", PREFIX] {
        let mut tensors = named(&weights, prefix);
        tensors.push((
            format!("{prefix}h.0.attn.bias"),
            tensor(&[1, 1, 2, 2], &[1.0, 0.0, 1.0, 1.0]),
        ));
        tensors.push((
            format!("{prefix}h.1.attn.masked_bias"),
            tensor(&[], &[-1e4]),
        ));
        tensors.push((HEAD.to_owned(), weights.get(EMBEDDING).unwrap().clone()));
        tensors.reverse();
        let loaded = load(&tensors, &config).unwrap();
        assert_eq!(loaded.weights, weights);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}

#[test]
fn strangers_and_infinities_are_warned_of() {
    let (config, mut weights) = tiny();
    weights.get_mut("ln_f.bias").unwrap().data[3] = f32::NAN;
    weights.get_mut("ln_f.bias").unwrap().data[4] = f32::NEG_INFINITY;
    let mut tensors = named(&weights, PREFIX);
    for name in [
        "score.weight",
        "transformer.h.2.ln_1.bias",
        "h.x.attn.bias",
        "h.0.attn.c_attn.bias.attn.bias",
    ] {
        tensors.push((name.to_owned(), tensor(&[1], &[0.0])));
    }
    let warnings = load(&tensors, &config).unwrap().warnings;
    let unexpected = |name: &str| WeightWarning::Unexpected {
        name: name.to_owned(),
    };
    for name in [
        "score.weight",
        "h.2.ln_1.bias",
        "h.x.attn.bias",
        "h.0.attn.c_attn.bias.attn.bias",
    ] {
        assert!(warnings.contains(&unexpected(name)), "{name}: {warnings:?}");
    }
    assert!(warnings.contains(&WeightWarning::NonFinite {
        name: "ln_f.bias".into(),
        count: 2
    }));
    assert_eq!(warnings.len(), 5);
}

#[test]
fn what_does_not_fit_is_named() {
    let (config, weights) = tiny();
    let mut tensors = named(&weights, PREFIX);
    tensors.retain(|(name, _)| !name.contains("h.1.") && !name.ends_with("ln_f.bias"));
    match load(&tensors, &config).unwrap_err() {
        FrontendError::TensorsMissing { names, .. } => {
            assert_eq!(names.len(), 13);
            assert_eq!(
                (names[0].as_str(), names[12].as_str()),
                ("h.1.ln_1.weight", "ln_f.bias")
            );
        }
        other => panic!("{other}"),
    }
    let message = load(&tensors, &config).unwrap_err().to_string();
    assert!(message.ends_with("and 5 more"), "{message}");

    let mut tensors = named(&weights, PREFIX);
    let bias = tensors
        .iter_mut()
        .find(|(name, _)| name.ends_with("h.0.mlp.c_fc.weight"))
        .unwrap();
    bias.1.shape.reverse();
    let message = load(&tensors, &config).unwrap_err().to_string();
    assert!(
        message.contains("`transformer.h.0.mlp.c_fc.weight` has shape [128, 32]"),
        "{message}"
    );
    assert!(message.contains("asks for [32, 128]"), "{message}");

    let mut tensors = named(&weights, PREFIX);
    tensors.push((
        "ln_f.bias".into(),
        weights.get("ln_f.bias").unwrap().clone(),
    ));
    assert!(matches!(
        load(&tensors, &config),
        Err(FrontendError::TensorTwice { .. })
    ));
}

#[test]
fn a_head_of_its_own_is_refused() {
    let (config, weights) = tiny();
    let mut tensors = named(&weights, PREFIX);
    let mut head = weights.get(EMBEDDING).unwrap().clone();
    head.data[77] += 1.0;
    tensors.push((HEAD.to_owned(), head));
    match load(&tensors, &config).unwrap_err() {
        FrontendError::UntiedHead { element: 77, .. } => {}
        other => panic!("{other}"),
    }
    tensors.last_mut().unwrap().1 = tensor(&[1], &[0.0]);
    assert!(matches!(
        load(&tensors, &config),
        Err(FrontendError::TensorShape { .. })
    ));
}

fn index(entries: &[(&str, &str)]) -> String {
    let map: IndexMap<&str, &str> = entries.iter().copied().collect();
    serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string()
}

#[test]
fn shards() {
    let (config, weights) = tiny();
    let tensors = named(&weights, PREFIX);
    let folder = Folder::new();
    let (first, second) = tensors.split_at(11);
    folder.write("model-1.safetensors", first);
    folder.write("model-2.safetensors", second);
    let entries: Vec<(&str, &str)> = first
        .iter()
        .map(|(name, _)| (name.as_str(), "model-1.safetensors"))
        .chain(
            second
                .iter()
                .map(|(name, _)| (name.as_str(), "model-2.safetensors")),
        )
        .collect();
    let index_path = folder.path().join("model.safetensors.index.json");
    let attempt = |entries: &[(&str, &str)]| {
        std::fs::write(&index_path, index(entries)).unwrap();
        load_weights(folder.path(), &config)
    };
    let loaded = attempt(&entries).unwrap();
    assert_eq!(loaded.weights, weights);
    assert!(loaded.warnings.is_empty());

    // A tensor the index does not list is as good as absent.
    let lacking = attempt(&entries[1..]).unwrap_err();
    assert!(
        matches!(lacking, FrontendError::TensorsMissing { .. }),
        "{lacking}"
    );
    // One that it lists in the wrong shard is missed there.
    let mut wrong = entries.clone();
    wrong[0].1 = "model-2.safetensors";
    assert!(
        attempt(&wrong)
            .unwrap_err()
            .to_string()
            .contains("model-2.safetensors lacks")
    );
    for outside in [
        "../model-1.safetensors",
        "/model-1.safetensors",
        "",
        ".",
        "a/b",
    ] {
        wrong[0].1 = outside;
        assert!(
            matches!(attempt(&wrong), Err(FrontendError::ShardIndex { .. })),
            "{outside}"
        );
    }
    wrong[0].1 = "model-3.safetensors";
    assert!(
        attempt(&wrong)
            .unwrap_err()
            .to_string()
            .contains("model-3.safetensors")
    );
    for broken in [
        "",
        "{}",
        "[]",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"a":3}}"#,
    ] {
        std::fs::write(&index_path, broken).unwrap();
        assert!(
            matches!(
                load_weights(folder.path(), &config),
                Err(FrontendError::Json { .. })
            ),
            "{broken}"
        );
    }
}

#[test]
fn folders_without_weights() {
    let (config, _) = tiny();
    let folder = Folder::new();
    let message = load_weights(folder.path(), &config)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("model.safetensors.index.json"),
        "{message}"
    );
    std::fs::write(folder.path().join("pytorch_model.bin"), b"").unwrap();
    assert!(
        load_weights(folder.path(), &config)
            .unwrap_err()
            .to_string()
            .contains("pytorch_model.bin")
    );
    assert!(load_weights(Path::new("/no/such/folder"), &config).is_err());
}
