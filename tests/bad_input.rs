//! Bad input of every kind: one plain error on stderr, exit code 1 (2 for a wrong command line), nothing half-written, no panic.

mod program;

use std::path::{Path, PathBuf};

use program::{fixture, superstep, tiny_with_tokenizer, words};

/// A folder with a copy of the tiny model, one file of which is changed.
fn spoilt(folder: &Path, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> PathBuf {
    let model = tiny_with_tokenizer(folder);
    let path = model.join(file);
    let bytes = change(std::fs::read(&path).unwrap());
    std::fs::write(path, bytes).unwrap();
    model
}

fn with_config(folder: &Path, field: &str, value: &str) -> PathBuf {
    spoilt(folder, "config.json", |bytes| {
        let mut config: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        config[field] = serde_json::from_str(value).unwrap();
        config.to_string().into_bytes()
    })
}

#[track_caller]
fn train(model: &Path, more: &str, paths: &[&Path], what: &str) {
    let tokens = fixture("tiny").join("tokens.json");
    let all: Vec<&Path> = [model, &tokens]
        .into_iter()
        .chain(paths.iter().copied())
        .collect();
    let line = format!(
        "train --model_name_or_path {{}} --train_tokens {{}} --max_steps 1 --machine ipu {more}"
    );
    superstep(&words(&line, &all)).fails(1, what);
}

#[test]
fn wrong_command_lines() {
    let tiny = fixture("tiny");
    for (line, what) in [
        ("train --model_name_or_path {}", "no data"),
        ("train --train_tokens {}", "no model"),
        ("train --learning_rate x", "learning_rate"),
        ("train --learning_rate nan", "at least 0"),
        ("train --warmup_ratio 2", "from 0 to 1"),
        ("train --lr_scheduler_type zigzag", "zigzag"),
        ("train --optim lion", "lion"),
        ("train --max_steps 0", "at least 1"),
        ("train --per_device_train_batch_size 0", "at least 1"),
        (
            "train --train_file a --train_tokens b",
            "cannot be used with",
        ),
        ("train --flux 3", "--flux"),
        ("train --do_train false", "nothing to do"),
        ("train --eval_steps 3", "--do_eval"),
        (
            "train --do_eval --early_stopping_patience 2",
            "counts evaluations during training",
        ),
        ("train --logging_dir x", "--output_dir"),
        ("compile --model_name_or_path {}", "--output"),
        (
            "compile --model_name_or_path {} -o x --layers_per_ipu nine",
            "layers of each IPU",
        ),
        ("compile --gradient_accumulation_steps 0", "at least 1"),
        ("generate --model_name_or_path {}", "--prompt"),
        (
            "generate --model_name_or_path {} --prompt It --num_return_sequences 2",
            "--temperature",
        ),
        ("report", "<FILE>"),
        ("fly", "fly"),
    ] {
        let paths: Vec<&Path> = line.matches("{}").map(|_| tiny.as_path()).collect();
        superstep(&words(line, &paths)).fails(2, what);
    }
}

#[test]
fn broken_model_folders() {
    let tiny = fixture("tiny");
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    train(&empty, "", &[], "config.json");
    train(&folder.path().join("absent"), "", &[], "absent");
    train(&tiny.join("config.json"), "", &[], "that is a file");

    let cut = |n: usize| move |bytes: Vec<u8>| bytes[..n].to_vec();
    for n in [0, 7, 100, 178_000] {
        let folder = tempfile::tempdir().unwrap();
        train(
            &spoilt(folder.path(), "model.safetensors", cut(n)),
            "",
            &[],
            "model.safetensors",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    // A header that claims to be larger than the world.
    let forged = spoilt(folder.path(), "model.safetensors", |mut bytes| {
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    });
    train(&forged, "", &[], "model.safetensors");

    // Tensors that lie beyond the file, have another type, or overflow.
    for (from, to, what) in [
        ("F32", "F99", "F99"),
        ("F32", "I64", "bad header"),
        (
            "\"shape\":[32]",
            "\"shape\":[4294967296,4294967296]",
            "bad header",
        ),
        ("transformer.wte", "transformer.wxe", "wte.weight"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let forged = spoilt(folder.path(), "model.safetensors", |bytes| {
            let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header = std::str::from_utf8(&bytes[8..end]).unwrap();
            assert!(header.contains(from), "{header}");
            let header = header.replacen(from, to, 1);
            let length = (header.len() as u64).to_le_bytes();
            [&length, header.as_bytes(), &bytes[end..]].concat()
        });
        train(&forged, "", &[], what);
    }

    let folder = tempfile::tempdir().unwrap();
    let missing = tiny_with_tokenizer(folder.path());
    std::fs::remove_file(missing.join("model.safetensors")).unwrap();
    train(&missing, "", &[], "no weights");
}

#[test]
fn impossible_configurations() {
    for (field, value, what) in [
        ("n_head", "0", "n_head"),
        ("n_head", "7", "multiple of n_head"),
        ("n_embd", "-32", "n_embd"),
        ("n_layer", "999999999999", "n_layer"),
        ("n_layer", "1025", "from 1 to 1024"),
        ("n_embd", "1099511627776", "n_embd"),
        ("n_inner", "1125899906842624", "n_inner"),
        ("layer_norm_epsilon", "-1", "layer_norm_epsilon"),
        ("n_layer", "1e300", "n_layer"),
        ("vocab_size", "2000000000000", "vocab_size"),
        ("n_positions", "\"many\"", "n_positions"),
        (
            "activation_function",
            "\"quick_gelu\"",
            "activation_function",
        ),
        ("attn_pdrop", "1.5", "attn_pdrop"),
        ("model_type", "\"bert\"", "model_type"),
        // Possible, but not what the weights are.
        ("n_layer", "3", "h.2."),
        ("n_embd", "64", "shape"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        train(&with_config(folder.path(), field, value), "", &[], what);
    }
    let folder = tempfile::tempdir().unwrap();
    let broken = spoilt(folder.path(), "config.json", |bytes| bytes[..40].to_vec());
    train(&broken, "", &[], "config.json");
    for batch in ["4294967296", "18446744073709551615"] {
        let more = format!("--per_device_train_batch_size {batch}");
        train(&fixture("tiny"), &more, &[], "32-bit indices");
    }
}

#[test]
fn unusable_data() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let file = |name: &str, content: &[u8]| program::file(folder.path(), name, content);
    let tokens = |path: &Path, more: &str, what: &str| {
        let line =
            format!("train --model_name_or_path {{}} --train_tokens {{}} --machine ipu {more}");
        superstep(&words(&line, &[&model, path])).fails(1, what);
    };
    tokens(
        &file("range.json", b"[[1, 2, 512]]"),
        "",
        "token id 512 at position 2",
    );
    tokens(
        &file("negative.json", b"[[1, -2, 3]]"),
        "",
        "-2 at position 1",
    );
    tokens(&file("ragged.json", b"[[1, 2], [3]]"), "", "ragged");
    tokens(&file("broken.json", b"[[1, 2"), "", "JSON");
    tokens(&file("empty.json", b"[]"), "", "0 tokens");
    tokens(&file("array.npy", b"\x93NUMPY\x01\x00"), "", "header");
    tokens(&file("array.csv", b"1,2"), "", ".npy or .json");
    tokens(
        &file("other.json", b"[[1, 2, 3]]"),
        "--block_size 4",
        "sequences of 3 tokens",
    );
    tokens(
        &file("one.json", b"[[1, 2, 3]]"),
        "--gradient_accumulation_steps 2",
        "one optimiser step needs 2",
    );
    tokens(
        &file("many.json", b"[[1, 2, 3]]"),
        "--device_iterations 9223372036854775809 --per_device_train_batch_size 2",
        "one optimiser step needs 18446744073709551615",
    );
    tokens(
        &file("long.json", format!("[{:?}]", vec![1; 65]).as_bytes()),
        "",
        "n_positions",
    );
    tokens(&folder.path().join("absent.json"), "", "absent.json");
    tokens(folder.path(), "", ".npy or .json");

    let text = |path: &Path, more: &str, what: &str| {
        let line =
            format!("train --model_name_or_path {{}} --train_file {{}} --machine ipu {more}");
        superstep(&words(&line, &[&model, path])).fails(1, what);
    };
    text(&file("empty.txt", b""), "", "no text");
    text(Path::new("/dev/null"), "", "no ordinary file");
    text(&file("blank.txt", b" \n\n"), "", "no text");
    text(
        &file("short.txt", b"It is"),
        "",
        "5 tokens, not enough for one block of 64",
    );
    text(&file("latin1.txt", b"na\xEFve"), "", "offset 2");
    text(
        &file("fine.txt", &[b'a'; 99]),
        "--block_size 65",
        "n_positions",
    );
    let no_data = folder.path().join("no data");
    std::fs::create_dir(&no_data).unwrap();
    text(&no_data, "", "has no files of text");
    let gpt2 = fixture("gpt2-tokenizer");
    let line = "train --model_name_or_path {} --tokenizer_name {} --train_file {}";
    superstep(&words(line, &[&model, &gpt2, &file("x.txt", b"word")]))
        .fails(1, "tokenizer/vocab mismatch");
    let line = "train --model_name_or_path gpt2-tiny --train_file {}";
    superstep(&words(line, &[&file("y.txt", b"word")])).fails(1, "without a tokenizer");
}

#[test]
fn tokenizers_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_with_tokenizer(folder.path());
    let text = program::file(folder.path(), "text.txt", &b"It is a truth. ".repeat(99));
    let sound = std::fs::read_to_string(fixture("gpt2-tokenizer/tokenizer.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&sound).unwrap();
    let forged = |pointer: &str, value: serde_json::Value| {
        let mut json = json.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        json.to_string()
    };
    let merges = json["model"]["merges"].as_array().unwrap().len() - 1;
    for (content, what) in [
        (sound[..100_000].to_owned(), "not valid JSON"),
        (String::new(), "not valid JSON"),
        ("[".repeat(200_000), "not valid JSON"),
        ("7".to_owned(), "not a usable tokenizer"),
        (
            forged("/model/type", "Other".into()),
            "not a usable tokenizer",
        ),
        (
            forged("/model/vocab/the", (-1).into()),
            "not a usable tokenizer",
        ),
        (
            forged(
                &format!("/model/merges/{merges}"),
                serde_json::json!(["no such", "token"]),
            ),
            "not a usable tokenizer",
        ),
        (
            forged("/model/vocab/the", 49_999_999.into()),
            "tokenizer/vocab mismatch",
        ),
    ] {
        std::fs::write(model.join("tokenizer.json"), content).unwrap();
        let line = "train --model_name_or_path {} --train_file {} --max_steps 1 --machine ipu";
        let run = superstep(&words(line, &[&model, &text])).fails(1, what);
        assert!(run.err.contains("tokenizer.json"), "{}", run.err);
    }
}

#[test]
fn outputs_that_cannot_be_written_are_found_before_the_work() {
    let tiny = fixture("tiny");
    train(&tiny, "--output_dir /dev/null/out", &[], "/dev/null/out");
    for out in ["/nonexistent/x.superstep", "/dev/null/x.superstep", "/tmp"] {
        let line = format!("compile --model_name_or_path {{}} -o {out}");
        superstep(&words(&line, &[&tiny])).fails(1, "cannot write");
    }
}

#[test]
fn damaged_executables() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = fixture("tiny");
    let file = folder.path().join("tiny.superstep");
    superstep(&words(
        "compile --model_name_or_path {} --block_size 8 --machine ipu -o {}",
        &[&tiny, &file],
    ))
    .ok();
    // It is not for a model that computes something else with weights of the same shapes.
    let other = with_config(folder.path(), "n_head", "4");
    for (model, what) in [
        ("--model_name_or_path {}", "`n_head` is 4 here and 2 there"),
        (
            "--config_overrides activation_function=relu,resid_pdrop=0.5",
            "`resid_pdrop` is 0.5 here and 0.0 there",
        ),
    ] {
        let line = format!("train --executable {{}} --train_tokens {{}} {model}");
        let tokens = fixture("tiny").join("tokens.json");
        superstep(&words(&line, &[&file, &tokens, &other])).fails(1, what);
    }
    let whole = std::fs::read(&file).unwrap();
    let damaged = folder.path().join("damaged.superstep");
    let fails = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        superstep(&words("report {}", &[&damaged])).fails(1, "damaged.superstep");
        let tokens = fixture("tiny").join("tokens.json");
        superstep(&words(
            "train --executable {} --train_tokens {}",
            &[&damaged, &tokens],
        ))
        .fails(1, "damaged.superstep");
    };
    fails(b"");
    fails(b"not an executable at all");
    for share in [1, 3, 7] {
        fails(&whole[..whole.len() * share / 8]);
    }
    for share in 0..8 {
        let mut flipped = whole.clone();
        flipped[whole.len() * share / 8 + 3] ^= 0x10;
        fails(&flipped);
    }
    fails(&[&whole[..], b"x"].concat());
    fails(&std::fs::read(tiny.join("model.safetensors")).unwrap());
    superstep(&words("report {}", &[&folder.path().join("absent")])).fails(1, "absent");
    superstep(&words("report {}", &[folder.path()])).fails(1, "directory");
}

#[test]
fn placements_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.superstep");
    let tiny = fixture("tiny");
    let small = folder.path().join("small.toml");
    std::fs::write(&small, "base = \"ipu\"\nname = \"small\"\ntiles_per_ipu = 4\ntile_memory = 65536\nreserved_bytes = 0\n").unwrap();
    let compile = |more: &str, paths: &[&Path], what: &str| {
        let all: Vec<&Path> = [tiny.as_path(), &out]
            .into_iter()
            .chain(paths.iter().copied())
            .collect();
        let line = format!("compile --model_name_or_path {{}} --block_size 48 -o {{}} {more}");
        superstep(&words(&line, &all)).fails(1, what);
        assert!(!out.exists());
    };
    compile("--machine pod5", &[], "no machine `pod5`");
    compile(
        "--machine {}",
        &[&folder.path().join("absent.toml")],
        "absent.toml",
    );
    compile("--machine ipu --layers_per_ipu 1,1", &[], "layers_per_ipu");
    compile("--machine pod4 --layers_per_ipu 1,2", &[], "layers_per_ipu");
    compile("--machine {}", &[&small], "tile");
    compile("--ipu_config_name {}", &[&small], "not valid JSON");
    compile(
        "--per_device_train_batch_size 99999999999",
        &[],
        "positions",
    );
    compile("--loss_chunks 49", &[], "loss chunks");
    compile(
        "--embedding_serialization_factor 513",
        &[],
        "513 slices of a vocabulary of 512",
    );
    compile(
        "--embedding_serialization_factor 3 --adam_epsilon 0",
        &[],
        "--adam_epsilon 0 does not allow",
    );
    for value in ["0", "2.5", "\"4\""] {
        let line = format!(
            "--ipu_config_name Graphcore/gpt2-small-ipu --ipu_config_overrides embedding_serialization_factor={value}"
        );
        compile(&line, &[], "embedding_serialization_factor");
    }
    for (more, what) in [
        ("--tensor_parallel 2", "groups of 2 IPUs need a pipeline"),
        (
            "--tensor_parallel 2 --layers_per_ipu 0,2 --gradient_accumulation_steps 5",
            "groups of 2 IPUs need a pipeline",
        ),
        (
            "--tensor_parallel 2 --layers_per_ipu 0,1,1 --gradient_accumulation_steps 7 --pipeline true",
            "3 groups of 2 IPUs, which are 6; pod4 has 4",
        ),
        (
            "--tensor_parallel 2 --layers_per_ipu 0,1 --gradient_accumulation_steps 7 --pipeline true",
            "places 1 layers, the model has 2",
        ),
        (
            "--tensor_parallel 3 --layers_per_ipu 2 --pipeline true",
            "2 attention heads cannot be divided over 3 IPUs",
        ),
        (
            "--tensor_parallel 2 --layers_per_ipu 2 --pipeline true --config_overrides n_inner=33",
            "33 hidden columns of an MLP cannot be divided over 2 IPUs",
        ),
        (
            "--tensor_parallel 2 --ipu_config_name Graphcore/gpt2-small-ipu --config_overrides n_layer=12",
            "`layers_per_ipu` names 4 groups of 2 IPUs, which are 8 IPUs, but `ipus_per_replica` is 4",
        ),
        (
            "--recompute [99]",
            "recompute names layer 99, the model has layers 0 to 1",
        ),
        ("--recompute [0,2]", "recompute names layer 2"),
        (
            "--replication_factor 3",
            "3 replicas cannot share the 4 IPUs of pod4 evenly",
        ),
        (
            "--replication_factor 4 --layers_per_ipu 1,1",
            "layers_per_ipu names 2 IPUs, each of 4 replicas on pod4 has 1",
        ),
        ("--replication_factor 5", "5 replicas need at least as many"),
    ] {
        compile(&format!("{more} --machine pod4"), &[], what);
    }
    for (fields, what) in [
        (
            r#""layers_per_ipu": [-1], "ipus_per_replica": 99"#,
            "ipus_per_replica is 99, pod4 has 4",
        ),
        (
            r#""ipus_per_replica": 4, "replication_factor": 2"#,
            "ipus_per_replica is 4, each of 2 replicas on pod4 has 2",
        ),
        (
            r#""ipus_per_replica": 4"#,
            "ipus_per_replica is 4, but 2 layers, with embedding and head on IPU 0, are for 3 at most",
        ),
        (
            r#""ipus_per_replica": 2, "matmul_proportion": [0.2, 0.1, 0.1]"#,
            "matmul_proportion has 3 values for 2 IPUs",
        ),
    ] {
        let config = folder.path().join("ipu.json");
        let text = format!("{{\"gradient_accumulation_steps\": 9, {fields}}}");
        std::fs::write(&config, text).unwrap();
        compile("--machine pod4 --ipu_config_name {}", &[&config], what);
    }
    let line = "compile --model_name_or_path {} -o {} --machine pod16";
    for (more, what) in [
        ("--pod_type pod3", "--pod_type: there is no pod `pod3`"),
        ("--n_ipu 5", "--n_ipu: there is no pod `pod5`"),
    ] {
        superstep(&words(&format!("{line} {more}"), &[&tiny, &out])).fails(2, what);
    }
    let kept = ["--recompute", "all keep [99]", "--machine", "ipu"].map(String::from);
    let line = words(
        "compile --model_name_or_path {} --block_size 48 -o {}",
        &[&tiny, &out],
    );
    superstep(&[line, kept.into()].concat()).fails(1, "recompute names layer 99");
    for members in ["0", "-1", "two", "1.5"] {
        let line = format!("compile --model_name_or_path {{}} --tensor_parallel={members} -o {{}}");
        superstep(&words(&line, &[&tiny, &out])).fails(2, "--tensor_parallel");
    }
    let below_a_file = small.join("plans");
    compile("--plan_cache_dir {}", &[&below_a_file], "small.toml/plans");
    compile("--print_ir_after flux", &[], "no pass `flux`");
}

#[test]
fn graphs_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("graph.ir");
    for text in [
        "",
        "graph",
        "graph @f {",
        "graph @f {\n  %y = gelu %x : f32[4]\n}\n",
        "\u{0}\u{1}",
        "graph @f {\n  %x = input \"x\" : f32[4, }",
    ] {
        std::fs::write(&file, text).unwrap();
        let run = superstep(&words("opt {} --passes dead_code", &[&file]));
        if !text.is_empty() {
            run.fails(1, "graph.ir");
        }
    }
    superstep(&words("opt {} --passes flux", &[&file])).fails(1, "graph.ir");
    std::fs::write(
        &file,
        "graph @f {\n  %x = input \"x\" : f32[4]\n  output \"y\" %x\n}\n",
    )
    .unwrap();
    superstep(&words("opt {} --passes flux", &[&file])).fails(1, "no pass `flux`");
    superstep(&words(
        "opt {} --passes dead_code",
        &[&folder.path().join("absent")],
    ))
    .fails(1, "absent");
}
