//! Comma-separated values, as RFC 4180 has them.

/// A cell, in quotes where it must be.
pub fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_only_where_needed() {
        assert_eq!(quoted("h.0.mlp"), "h.0.mlp");
        assert_eq!(quoted("f32[7, 24]"), "\"f32[7, 24]\"");
        assert_eq!(quoted("a \"b\""), "\"a \"\"b\"\"\"");
    }
}
