//! How a graph looks.

use super::*;

#[test]
fn columns_are_aligned_and_names_are_not_repeated() {
    let mut graph = Graph::new("micro_batch");
    let mut b = Builder::new(&mut graph);
    let x = b.input("x", TensorType::f32([6, 8])).unwrap();
    let w = b
        .parameter(
            "h.0.mlp.c_fc.weight",
            StateKind::Weight,
            TensorType::f32([8, 16]),
        )
        .unwrap();
    b.scope("h.0.mlp");
    b.place = Place {
        ipu: Some(IpuId(0)),
        stage: Some(StageId(1)),
        phase: Phase::Forward,
        layer: Some(0),
        member: None,
    };
    let fc = b.matmul("c_fc", x, w, false, false).unwrap();
    let act = b.unary("gelu (tanh)", UnaryOp::GeluTanh, fc).unwrap();
    b.output("y", act).unwrap();
    let expected = r#"graph @micro_batch {
  %x = input "x"                                                : f32[6, 8]
  %h.0.mlp.c_fc.weight = parameter "h.0.mlp.c_fc.weight" {weight}  : f32[8, 16]
  %h.0.mlp.c_fc = matmul %x, %h.0.mlp.c_fc.weight               : f32[6, 16]  @ipu 0 stage 1 forward layer 0
  %h.0.mlp.gelu__tanh_ = gelu_tanh %h.0.mlp.c_fc                : f32[6, 16]  "h.0.mlp.gelu (tanh)"  @ipu 0 stage 1 forward layer 0
  output "y" %h.0.mlp.gelu__tanh_                                             @ipu 0 stage 1 forward layer 0
}
"#;
    let squeeze = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = print_graph(&graph);
    assert_eq!(squeeze(&text), squeeze(expected));
    let columns: std::collections::BTreeSet<Option<usize>> = text
        .lines()
        .filter(|l| l.contains(" = "))
        .map(|l| l.find(" : "))
        .collect();
    assert_eq!(columns.len(), 1, "one type column:\n{text}");
}
