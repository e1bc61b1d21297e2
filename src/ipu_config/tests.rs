use super::*;

fn config(text: &str) -> IpuConfig {
    IpuConfig::parse("test.json".into(), text.as_bytes()).unwrap()
}

fn settings(text: &str) -> Result<IpuSettings, String> {
    let mut config = config(text);
    let found = config
        .specialise(None, None)
        .and_then(|()| config.settings(12));
    found.map(|s| s.0).map_err(|error| error.to_string())
}

#[test]
fn built_in_configurations_are_those_that_were_published() {
    for (name, layers, pod, replicas, parts) in [
        ("Graphcore/gpt2-small-ipu", 12, "pod16", 4, vec![0, 4, 4, 4]),
        (
            "Graphcore/gpt2-medium-ipu",
            24,
            "pod16",
            2,
            vec![0, 3, 3, 3, 3, 4, 4, 4],
        ),
        (
            "Graphcore/gpt2-large-ipu",
            36,
            "pod16",
            2,
            vec![1, 5, 5, 5, 5, 5, 5, 5],
        ),
    ] {
        let mut config = IpuConfig::load(name, None).unwrap();
        config.specialise(Some(pod), None).unwrap();
        let (settings, remarks) = config.settings(layers).unwrap();
        assert_eq!(settings.layers_per_ipu, Some(parts));
        assert_eq!(settings.replication_factor, Some(replicas));
        assert_eq!(settings.precision, Precision::Recipe);
        assert_eq!(settings.head_slices, Some(4));
        assert_eq!(remarks.len(), 1, "{remarks:?}");
    }
}

#[test]
fn values_depend_on_the_pod() {
    let text = r#"{"replication_factor": {"pod4": 1, "pod16": 4, "default": 2}}"#;
    for (pod, expected) in [
        (Some("pod4"), 1),
        (Some("pod16"), 4),
        (Some("pod64"), 2),
        (None, 2),
    ] {
        let mut config = config(text);
        config.specialise(pod, None).unwrap();
        let found = config.settings(12).unwrap().0;
        assert_eq!(found.replication_factor, Some(expected));
    }
    let only = r#"{"replication_factor": {"pod4": 1}}"#;
    let without = config(only).specialise(None, None).unwrap_err().to_string();
    assert!(without.contains("--pod_type"), "{without}");
    let other = config(only)
        .specialise(Some("pod64"), None)
        .unwrap_err()
        .to_string();
    assert!(other.contains("no value for pod64"), "{other}");
}

#[test]
fn overrides_have_the_syntax_of_optimum() {
    let mut config = config(r#"{"optimizer_state_offchip": false, "layers_per_ipu": [12]}"#);
    let overrides = "optimizer_state_offchip=yes,embedding_serialization_factor=4, layers_per_ipu=[0 4 4 4],\
                     matmul_proportion=[0.2 0.1 0.1 0.1],executable_cache_dir=disabled,tensor_parallel=2";
    config.specialise(None, Some(overrides)).unwrap();
    let found = config.settings(12).unwrap().0;
    assert_eq!(found.optimizer_state_offchip, Some(true));
    assert_eq!(found.head_slices, Some(4));
    assert_eq!(found.layers_per_ipu, Some(vec![0, 4, 4, 4]));
    assert_eq!(found.matmul_proportion, [0.2, 0.1, 0.1, 0.1]);
    assert_eq!(found.executable_cache_dir, None);
    assert_eq!(found.tensor_parallel, Some(2));
    for (text, says) in [
        ("colour=blue", "no field"),
        ("device_iterations", "key=value"),
        ("device_iterations=two", "above 0"),
        ("device_iterations=0", "above 0"),
        ("layers_per_ipu=0 4 4 4", "list"),
        ("optimizer_state_offchip=maybe", "true or false"),
        ("matmul_proportion=1.5", "up to 1"),
        ("", "key=value"),
    ] {
        let error = config.clone().specialise(None, Some(text)).unwrap_err();
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}

#[test]
fn what_contradicts_itself_or_the_model_is_refused() {
    for (text, says) in [
        (
            r#"{"layers_per_ipu": [1, 11], "ipus_per_replica": 4}"#,
            "names 2 IPUs",
        ),
        (
            r#"{"layers_per_ipu": [4, 4]}"#,
            "places 8 layers, the model has 12",
        ),
        (r#"{"layers_per_ipu": [14, -1]}"#, "places 14 layers"),
        (
            r#"{"layers_per_ipu": [0, 6, 6], "ipus_per_replica": 3, "tensor_parallel": 2}"#,
            "names 3 groups of 2 IPUs, which are 6 IPUs",
        ),
        (r#"{"tensor_parallel": 0}"#, "above 0"),
        (r#"{"layers_per_ipu": []}"#, "must be a list"),
        (r#"{"layers_per_ipu": [-2, 12]}"#, "must be a list"),
        (r#"{"layers_per_ipu": 4}"#, "must be a list"),
        (r#"{"gradient_accumulation_steps": 0}"#, "above 0"),
        (r#"{"gradient_accumulation_steps": "many"}"#, "above 0"),
        (r#"{"replicated_tensor_sharding": 1}"#, "true or false"),
        (r#"{"output_mode": "every"}"#, "all, sum"),
        (r#"{"parallelize_kwargs": {"a": 1}}"#, "not supported"),
        (
            r#"{"execute_encoder_on_cpu_for_generation": true}"#,
            "not supported",
        ),
        (
            r#"{"serialized_embedding_splits_per_ipu": [1, 1]}"#,
            "not supported",
        ),
        (r#"{"profile_dir": "here"}"#, "superstep report"),
        (
            r#"{"enable_half_partials": false, "enable_half_first_order_momentum": true}"#,
            "needs `enable_half_partials`",
        ),
        (
            r#"{"replication_factor": {"pod3": 1}}"#,
            "pod4, pod8, pod16",
        ),
        (
            r#"{"layers_per_ipu": [6, 6], "matmul_proportion": [0.1, 0.2, 0.3]}"#,
            "3 values for 2 IPUs",
        ),
    ] {
        let error = settings(text).unwrap_err();
        assert!(
            error.contains(says) && error.contains("test.json"),
            "{text}: {error}"
        );
    }
}

#[test]
fn open_places_get_even_shares() {
    let layers = |text: &str| settings(text).unwrap().layers_per_ipu;
    assert_eq!(
        layers(r#"{"layers_per_ipu": [0, -1, -1, -1]}"#),
        Some(vec![0, 4, 4, 4])
    );
    assert_eq!(
        layers(r#"{"layers_per_ipu": [2, -1, -1, -1]}"#),
        Some(vec![2, 3, 3, 4])
    );
    assert_eq!(layers(r#"{"layers_per_ipu": [-1]}"#), None);
    assert_eq!(layers(r#"{"layers_per_ipu": null}"#), None);
    assert_eq!(layers("{}"), None);
}

#[test]
fn nothing_is_lost_on_the_way_through() {
    let mut config = config(r#"{"colour": {"pod4x": [1, 2.5, null]}, "seed": 7}"#);
    config.specialise(None, None).unwrap();
    let (_, remarks) = config.settings(12).unwrap();
    assert!(
        remarks[0].contains("--seed") || remarks[1].contains("--seed"),
        "{remarks:?}"
    );
    assert!(
        remarks
            .iter()
            .any(|r| r.contains("unknown fields, kept: colour"))
    );
    config.set("device_iterations", 3.into());
    let again = IpuConfig::parse("again".into(), config.to_json().as_bytes()).unwrap();
    assert_eq!(again.map, config.map);
}

#[test]
fn files_folders_and_caches() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"device_iterations": 3}"#;
    std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
    let by_folder = IpuConfig::load(folder.path().to_str().unwrap(), None).unwrap();
    assert_eq!(by_folder.settings(1).unwrap().0.device_iterations, Some(3));
    let snapshot = folder.path().join("models--you--yours-ipu/snapshots/main");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join(FILE_NAME), text).unwrap();
    let cached = IpuConfig::load("you/yours-ipu", Some(folder.path())).unwrap();
    assert_eq!(cached.settings(1).unwrap().0.device_iterations, Some(3));
    let missing = IpuConfig::load("you/other-ipu", Some(folder.path())).unwrap_err();
    let hint = missing.hint().unwrap();
    assert!(
        hint.contains("models--you--other-ipu") && hint.contains("gpt2-small-ipu"),
        "{hint}"
    );
}

#[test]
fn a_file_is_an_object_with_each_field_once() {
    let parsed = |bytes: &[u8]| IpuConfig::parse("test.json".into(), bytes);
    let marked = parsed(b"\xef\xbb\xbf{\"device_iterations\": 3}").unwrap();
    assert_eq!(marked.settings(1).unwrap().0.device_iterations, Some(3));
    for (text, says) in [
        ("", "not valid JSON"),
        ("{\"seed\": 1,}", "not valid JSON"),
        ("[1]", "expected an object"),
        ("null", "expected an object"),
        ("{\"seed\": 1, \"seed\": 2}", "`seed` is there twice"),
    ] {
        let error = parsed(text.as_bytes()).unwrap_err().to_string();
        assert!(
            error.contains(says) && error.contains("test.json"),
            "{text}: {error}"
        );
    }
}

/// Nobody knows what they mean, so nothing is made of them, and they cannot play with a terminal.
#[test]
fn unknown_fields_stay_as_they_are() {
    let text = r#"{"colour": {"pod64": 1}, "\u001b[31m": 2}"#;
    let mut config = config(text);
    config.specialise(Some("pod4"), None).unwrap();
    assert_eq!(config.map["colour"]["pod64"], 1);
    let (_, remarks) = config.settings(12).unwrap();
    assert!(
        remarks[0].contains("colour") && !remarks[0].contains('\u{1b}'),
        "{remarks:?}"
    );
}

#[test]
fn slices_of_the_head_go_before_those_of_the_embedding_and_that_is_said() {
    let both = r#"{"projection_serialization_factor": 4, "embedding_serialization_factor": 2,
        "inference_projection_serialization_factor": 3, "inference_embedding_serialization_factor": 3}"#;
    let (settings, remarks) = config(both).settings(12).unwrap();
    assert_eq!(settings.head_slices, Some(4));
    assert_eq!(settings.inference.head_slices, Some(3));
    assert_eq!(remarks.len(), 1);
    assert!(
        remarks[0].contains("`embedding_serialization_factor` 2 has no effect"),
        "{remarks:?}"
    );
}

#[test]
fn pods_have_names() {
    check_pod("pod16").unwrap();
    for name in ["pod3", "pod", "16", "POD16", "default"] {
        assert!(check_pod(name).unwrap_err().contains("pod64"), "{name}");
    }
}
