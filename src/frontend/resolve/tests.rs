use std::collections::HashMap;

use super::*;
use crate::frontend::fixtures::fixture;

/// A cache with `config.json` of the reference model under the given snapshots, and `refs/main` if given.
fn cache_with(
    model: &str,
    snapshots: &[&str],
    main: Option<&str>,
) -> (tempfile::TempDir, CacheLocation) {
    let hub = tempfile::tempdir().unwrap();
    let model = hub.path().join(model);
    for snapshot in snapshots {
        let dir = model.join("snapshots").join(snapshot);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(fixture("tiny").join("config.json"), dir.join("config.json")).unwrap();
    }
    if let Some(main) = main {
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::write(model.join("refs/main"), main).unwrap();
    }
    let cache = CacheLocation {
        hub: Some(hub.path().to_path_buf()),
    };
    (hub, cache)
}

const NOWHERE: CacheLocation = CacheLocation { hub: None };

#[track_caller]
fn ends_with(source: ModelSource, end: &str) {
    let dir = source.directory().unwrap();
    assert!(dir.ends_with(end), "{}", dir.display());
}

#[test]
fn a_folder_comes_first() {
    let name = fixture("tiny").display().to_string();
    let source = resolve(&name, &NOWHERE).unwrap();
    assert_eq!(source, ModelSource::Directory(fixture("tiny")));
    assert_eq!(source.config().unwrap().n_layer, 2);
}

#[test]
fn snapshots_in_the_cache() {
    let (_hub, cache) = cache_with("models--org--name", &["abc", "def"], Some("def\n"));
    ends_with(resolve("org/name", &cache).unwrap(), "snapshots/def");
    let (_hub, cache) = cache_with("models--org--name", &["abc"], None);
    ends_with(resolve("org/name", &cache).unwrap(), "snapshots/abc");
    let (_hub, cache) = cache_with("models--org--name", &["abc"], Some("../../../secret"));
    ends_with(resolve("org/name", &cache).unwrap(), "snapshots/abc");
    let (_hub, cache) = cache_with("models--org--name", &["abc", "def"], None);
    let message = resolve("org/name", &cache).unwrap_err().to_string();
    assert!(
        message.contains("several snapshots") && message.contains("snapshots/def"),
        "{message}"
    );
}

#[test]
fn presets_prefer_trained_files() {
    for model in ["models--gpt2", "models--openai-community--gpt2"] {
        let (_hub, cache) = cache_with(model, &["abc"], Some("abc"));
        ends_with(resolve("gpt2", &cache).unwrap(), "snapshots/abc");
    }
    let (_hub, cache) = cache_with("models--other", &["abc"], None);
    let source = resolve("gpt2", &cache).unwrap();
    assert_eq!(source.config().unwrap().n_layer, 12);
    let message = source.directory().unwrap_err().to_string();
    assert!(
        message.contains("model.safetensors") && message.contains("models--gpt2"),
        "{message}"
    );
    assert!(
        message.contains("models--openai-community--gpt2"),
        "{message}"
    );
}

#[test]
fn names_that_mean_nothing() {
    let (_hub, cache) = cache_with("models--org--name", &["abc"], None);
    for name in [
        "",
        "gpt5",
        "org/other",
        "org/name/extra",
        "../org",
        "/no/such",
        "./gpt2",
        "a/..",
        "..",
        "org/",
        "/name",
    ] {
        if Path::new(name).is_dir() {
            continue;
        }
        let message = resolve(name, &cache).unwrap_err().to_string();
        assert!(
            message.contains("looked for a folder") && message.contains("gpt2-medium"),
            "{message}"
        );
    }
    let message = resolve("org/other", &cache).unwrap_err().to_string();
    assert!(
        message.contains("models--org--other/snapshots"),
        "{message}"
    );
    let file = fixture("tiny").join("config.json").display().to_string();
    assert!(
        resolve(&file, &cache)
            .unwrap_err()
            .to_string()
            .contains("that is a file")
    );
}

#[test]
fn where_the_cache_is() {
    let located = |variables: &[(&str, &str)]| {
        let map: HashMap<&str, &str> = variables.iter().copied().collect();
        CacheLocation::from_lookup(|name| map.get(name).map(OsString::from)).hub
    };
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(
        located(&[("HOME", "/h")]),
        path("/h/.cache/huggingface/hub")
    );
    assert_eq!(
        located(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
        path("/x/huggingface/hub")
    );
    assert_eq!(
        located(&[("HOME", "/h"), ("HF_HOME", "/f")]),
        path("/f/hub")
    );
    assert_eq!(
        located(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f")]),
        path("/c")
    );
    assert_eq!(
        located(&[("HF_HOME", ""), ("HOME", "/h")]),
        path("/h/.cache/huggingface/hub")
    );
    assert_eq!(located(&[]), None);
}
