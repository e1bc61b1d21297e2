//! Random graphs come back; random texts are refused or understood, never a panic.

use proptest::prelude::*;

use super::*;

fn reals() -> impl Strategy<Value = Real> {
    prop_oneof![
        any::<f64>().prop_map(Real),
        any::<u64>().prop_map(|bits| Real(f64::from_bits(bits))),
        Just(Real(0.5)),
    ]
}

/// Well-formed expressions of two operands, with shared, unused and repeated nodes.
fn expressions() -> impl Strategy<Value = MapExpr> {
    let node = (
        0usize..5,
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        reals(),
    );
    let outputs = prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..4);
    let nodes = prop::collection::vec(node, 1..24);
    (nodes, outputs, any::<bool>()).prop_map(|(nodes, outputs, is_typed)| {
        let mut expr = MapExpr {
            operands: 2,
            ..MapExpr::default()
        };
        for (i, (kind, a, b, value)) in nodes.into_iter().enumerate() {
            let earlier = |a: prop::sample::Index| a.index(i.max(1)) as u32;
            let node = match kind {
                _ if i == 0 => MapNode::Operand(1),
                0 => MapNode::Operand(a.index(2) as u32),
                1 => MapNode::Constant(value),
                2 => MapNode::Unary(UnaryOp::ALL[b.index(UnaryOp::ALL.len())], earlier(a)),
                // Chains like a front end makes them.
                3 => MapNode::Unary(UnaryOp::Tanh, i as u32 - 1),
                _ => MapNode::Binary(
                    BinaryOp::ALL[i % BinaryOp::ALL.len()],
                    earlier(a),
                    i as u32 - 1,
                ),
            };
            expr.nodes.push(node);
        }
        let len = expr.nodes.len();
        expr.outputs = outputs.iter().map(|o| o.0.index(len) as u32).collect();
        if is_typed {
            let dtype = |is_half| [DType::F32, DType::F16][usize::from(is_half)];
            expr.types = outputs.iter().map(|o| dtype(o.1)).collect();
        }
        expr
    })
}

fn places() -> impl Strategy<Value = Place> {
    let number = || prop::option::of(any::<u32>());
    (number(), number(), 0usize..3, number(), number()).prop_map(
        |(ipu, stage, phase, layer, member)| Place {
            ipu: ipu.map(IpuId),
            stage: stage.map(StageId),
            phase: Phase::ALL[phase],
            layer,
            member,
        },
    )
}

proptest! {
    #[test]
    fn expressions_names_and_places_round_trip(
        expr in expressions(),
        names in prop::collection::vec("\\PC*|[a-z.]{0,4}", 4),
        value in reals(),
        place in places(),
    ) {
        let mut graph = Graph::new(names[0].clone());
        let mut b = Builder::new(&mut graph);
        b.place = place;
        let x = b.input(&names[1], TensorType::f32([3, 2])).unwrap();
        let y = b.constant(&names[2], value.0, TensorType::f32([2])).unwrap();
        let results = b.results(&names[3], Op::Map(expr), &[x, y]).unwrap();
        b.output(&names[0], results[0]).unwrap();
        round_trip(&graph);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(e) = parse_module(&text) {
            let _ = e.to_string();
        }
    }

    #[test]
    fn random_tokens_do_not_panic(
        words in prop::collection::vec("graph|@|f|\\{|\\}|%x|%y|=|neg|map|f32|\\[|\\]|,|:|;|[0-9]{1,25}|\\$|-|\"a\"|add|\\(|\\)|inf|axis", 0..60),
    ) {
        let _ = parse_module(&format!("graph @f {{ %x = input \"x\" : f32[2] {}", words.join(" ")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn mutated_text_is_refused_or_understood(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..4, any::<char>()), 1..4),
    ) {
        let mut text: Vec<char> = every_op().to_string().chars().collect();
        for (at, other, kind, c) in edits {
            let at = at.index(text.len());
            let other = other.index(text.len());
            match kind {
                0 => text[at] = c,
                1 => text[at] = text[other],
                2 => { text.drain(at..(at + other % 30).min(text.len())); }
                _ => {
                    let piece: Vec<char> = text[other..(other + 25).min(text.len())].to_vec();
                    text.splice(at..at, piece);
                }
            }
        }
        let text: String = text.into_iter().collect();
        match parse_graph(&text) {
            Ok(graph) => round_trip(&graph),
            Err(e) => { let _ = e.to_string(); }
        }
    }
}
