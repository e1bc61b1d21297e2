//! The graph against the configuration it is built from.

use super::*;
use crate::frontend::preset;
use superstep_ir::interpret::Tensor;

fn options() -> GraphOptions {
    GraphOptions {
        batch: 2,
        seq: 7,
        labels: true,
        logits: true,
        dropout: true,
        loss_chunks: 1,
        vocabulary: VocabularySlices::whole(31),
    }
}

fn small() -> Gpt2Config {
    preset("gpt2")
        .unwrap()
        .with_overrides("n_layer=2,n_head=3,n_embd=24,n_positions=9,vocab_size=31")
        .unwrap()
}

fn shape_of(graph: &Graph, stream: &str) -> Vec<usize> {
    let output = graph
        .ops()
        .find(|&op| matches!(graph.op(op), Op::Output { stream: s } if s == stream))
        .unwrap();
    graph
        .ty(graph.node(output).operands()[0])
        .shape
        .dims()
        .to_vec()
}

fn dropout_keys(graph: &Graph) -> Vec<u32> {
    let key = |op| match graph.op(op) {
        Op::Dropout { key, .. } => Some(*key),
        _ => None,
    };
    graph.ops().filter_map(key).collect()
}

#[test]
fn reads_every_parameter_of_the_configuration_once() {
    let config = small();
    let graph = gpt2_graph(&config, options()).unwrap();
    let mut read: Vec<(String, Vec<usize>, Option<u32>)> = graph
        .parameters()
        .map(|(op, name, _, ty)| {
            (
                name.to_owned(),
                ty.shape.dims().to_vec(),
                graph.node(op).place.layer,
            )
        })
        .collect();
    let mut expected: Vec<_> = config
        .parameters()
        .into_iter()
        .map(|p| {
            // Positions and the last norm go with the layers beside them.
            let layer = match p.name.as_str() {
                "wpe.weight" => Some(0),
                "ln_f.weight" | "ln_f.bias" => Some(1),
                _ => p.layer.map(|l| l as u32),
            };
            (p.name, p.shape, layer)
        })
        .collect();
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
}

#[test]
fn outputs_have_the_promised_shapes_whatever_the_chunks() {
    for loss_chunks in [1, 3, 14] {
        let graph = gpt2_graph(
            &small(),
            GraphOptions {
                loss_chunks,
                ..options()
            },
        )
        .unwrap();
        assert_eq!(shape_of(&graph, "loss"), [0usize; 0]);
        assert_eq!(shape_of(&graph, "logits"), [14, 31]);
    }
    for slices in [1, 3, 4, 31] {
        let vocabulary = VocabularySlices::new(31, slices, 2);
        let graph = gpt2_graph(
            &small(),
            GraphOptions {
                vocabulary,
                ..options()
            },
        )
        .unwrap();
        assert_eq!(shape_of(&graph, "logits"), [14, 31]);
    }
    let shape = CacheShape {
        batch: 3,
        prompt: 4,
        positions: 9,
    };
    for graph in [gpt2_prefill_graph, gpt2_decode_graph] {
        let graph = graph(&small(), shape).unwrap();
        assert_eq!(shape_of(&graph, "logits"), [3, 31]);
    }
}

#[test]
fn dropouts_differ_and_go_away() {
    let keys = dropout_keys(&gpt2_graph(&small(), options()).unwrap());
    assert_eq!(keys, (0..1 + 3 * 2).collect::<Vec<u32>>());
    let without = gpt2_graph(
        &small(),
        GraphOptions {
            dropout: false,
            ..options()
        },
    )
    .unwrap();
    assert!(dropout_keys(&without).is_empty());
}

#[test]
fn scores_are_scaled_as_the_configuration_says() {
    let config = small();
    assert_eq!(score_factor(&config, 1), Some(1.0 / 8f64.sqrt()));
    let by_layer = config
        .with_overrides("scale_attn_weights=false,scale_attn_by_inverse_layer_idx=true")
        .unwrap();
    assert_eq!(score_factor(&by_layer, 1), Some(0.5));
    let plain = config.with_overrides("scale_attn_weights=false").unwrap();
    assert_eq!(score_factor(&plain, 1), None);
}

#[test]
fn impossible_options_are_named() {
    let build = |change: fn(&mut GraphOptions)| {
        let mut options = options();
        change(&mut options);
        gpt2_graph(&small(), options).unwrap_err()
    };
    assert_eq!(build(|o| o.batch = 0), ModelError::EmptyBatch);
    assert_eq!(
        build(|o| o.seq = 10),
        ModelError::Sequence {
            seq: 10,
            n_positions: 9
        }
    );
    assert_eq!(build(|o| o.seq = 1), ModelError::NothingToPredict);
    assert_eq!(
        build(|o| o.loss_chunks = 15),
        ModelError::Chunks {
            chunks: 15,
            rows: 14
        }
    );
    assert_eq!(
        build(|o| o.vocabulary = VocabularySlices::new(31, 32, 1)),
        ModelError::Slices {
            slices: 32,
            vocabulary: 31
        }
    );
    assert_eq!(
        build(|o| o.batch = 1 << 40),
        ModelError::TooManyRows {
            batch: 1 << 40,
            seq: 7
        }
    );
}

/// Logits and loss of the model, by the interpreter, with the head cut like that.
fn interpreted(vocabulary: VocabularySlices, loss_chunks: usize) -> [Vec<f64>; 2] {
    let options = GraphOptions {
        dropout: false,
        vocabulary,
        loss_chunks,
        ..options()
    };
    let graph = gpt2_graph(&small(), options).unwrap();
    let random = |name: &str, n: usize| -> Vec<f64> {
        let stream = superstep_ir::random::Stream::named(5, name);
        (0..n as u64).map(|i| stream.uniform_f64(i) - 0.5).collect()
    };
    let mut states = std::collections::BTreeMap::new();
    for (_, state, _, ty) in graph.parameters() {
        if !state.starts_with(TABLE) {
            let data = random(state, ty.shape.elements());
            states.insert(
                state.to_string(),
                Tensor {
                    ty: ty.clone(),
                    data,
                },
            );
        }
    }
    let table = vocabulary.cut(&random(TABLE, 31 * 24), 24);
    for (name, data) in vocabulary.states(TABLE).zip(table) {
        let ty = TensorType::f32([vocabulary.rows(), 24]);
        states.insert(name, Tensor { ty, data });
    }
    let ids = |shift: usize| (0..14).map(|i| ((i * 5 + shift) % 31) as f64).collect();
    let ids = |shift| Tensor {
        ty: TensorType::i32([2, 7]),
        data: ids(shift),
    };
    let inputs = [
        ("tokens".to_string(), ids(0)),
        ("labels".to_string(), ids(5)),
    ]
    .into();
    let out = superstep_ir::interpret::run(&graph, &mut states, &inputs).unwrap();
    ["logits", "loss"].map(|name| out[name].data.clone())
}

#[test]
fn slices_and_padding_do_not_change_the_model() {
    let whole = interpreted(VocabularySlices::whole(31), 1);
    for (slices, replicas, chunks) in [(2, 1, 1), (4, 1, 3), (4, 4, 1), (31, 1, 2), (30, 1, 1)] {
        let got = interpreted(VocabularySlices::new(31, slices, replicas), chunks);
        for (got, want) in got.iter().zip(&whole) {
            assert_eq!(got.len(), want.len());
            let off = got.iter().zip(want).map(|(g, w)| (g - w).abs());
            assert!(off.fold(0.0, f64::max) < 1e-12, "{slices} slices");
        }
    }
}

#[test]
fn chunks_cover_the_rows() {
    for (rows, chunks) in [(14, 1), (14, 3), (14, 14), (1024, 7)] {
        let mut next = 0;
        for i in 0..chunks {
            let (start, len) = chunk(rows, chunks, i);
            assert!(start == next && len > 0);
            next += len;
        }
        assert_eq!(next, rows);
    }
}
