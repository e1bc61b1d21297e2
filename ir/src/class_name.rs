//! Names of ops and states without the numbers of layers, chunks and slices: what has the same one does the same.

/// `h.3.mlp.c_fc` → `h.*.mlp.c_fc`.
pub fn class_name(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = name
        .split('.')
        .map(|part| if is_number(part) { "*" } else { part })
        .collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_chunks_have_no_number() {
        assert_eq!(class_name("h.11.mlp.c_fc.grad_w"), "h.*.mlp.c_fc.grad_w");
        assert_eq!(class_name("chunk.0.lm_head"), "chunk.*.lm_head");
        assert_eq!(class_name("ln_f"), "ln_f");
        assert_eq!(class_name("h.0"), "h.*");
    }
}
