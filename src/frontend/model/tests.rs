//! The graph against the configuration it is built from.

use super::*;
use crate::frontend::preset;

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
    let graph = gpt2_next_token_graph(&small(), 3, 9).unwrap();
    assert_eq!(shape_of(&graph, "logits"), [3, 31]);
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
        build(|o| o.batch = 1 << 40),
        ModelError::TooManyRows {
            batch: 1 << 40,
            seq: 7
        }
    );
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
