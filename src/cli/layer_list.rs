//! Layers on each IPU as one option's value.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerList(pub(super) Vec<u32>);

/// `[0 4 4 4]`, `0,4,4,4` or `[0, 4, 4, 4]` from the command line.
pub(super) fn parse_layers(text: &str) -> Result<LayerList, String> {
    let inside = text.trim().trim_start_matches('[').trim_end_matches(']');
    let counts: Result<Vec<u32>, _> = inside
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .map(str::parse)
        .collect();
    match counts {
        Ok(counts) if !counts.is_empty() => Ok(LayerList(counts)),
        _ => Err("write the number of layers of each IPU, as in \"[1 1]\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_lists_are_read_in_every_common_spelling() {
        for text in ["[1 2]", "1,2", "[1, 2]", " 1 2 "] {
            assert_eq!(parse_layers(text).unwrap().0, [1, 2]);
        }
        for text in ["", "[]", "1 x", "-1"] {
            assert!(parse_layers(text).is_err(), "{text}");
        }
    }
}
