//! Cutting a long text where its tokens do not notice, so that the parts can be encoded in parallel.
//!
//! GPT-2's pre-tokenizer takes pieces from left to right: a contraction, or a run of letters, of digits or of other marks, each
//! with at most one space in front; or a run of white space. A white-space character that follows something else therefore
//! always begins a piece, and that piece is found without looking back. In front of it the piece before has ended for its
//! own reasons, without looking ahead. So the text may be cut there — but not inside or behind a run of white space, whose last
//! character belongs to the next word or not, depending on what follows.

/// Parts of `text`, in order and without gaps, each of at least `bytes_min` bytes but the last, cut in front of white space
/// that follows something else.
pub(super) fn split_before_space(text: &str, bytes_min: usize) -> Vec<&str> {
    let mut parts = Vec::with_capacity(text.len() / bytes_min.max(1) + 1);
    let mut rest = text;
    while let Some(cut) = first_cut(rest, bytes_min.max(1)) {
        let (part, after) = rest.split_at(cut);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}

/// The first allowed cut at or after byte `from`.
fn first_cut(text: &str, from: usize) -> Option<usize> {
    let from = (from..=text.len()).find(|&byte| text.is_char_boundary(byte))?;
    let mut after_space = text[..from].chars().next_back()?.is_whitespace();
    for (offset, character) in text[from..].char_indices() {
        let is_space = character.is_whitespace();
        if is_space && !after_space {
            return Some(from + offset);
        }
        after_space = is_space;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lie_before_the_first_space_of_a_run() {
        assert_eq!(split_before_space("ab  c d", 1), ["ab", "  c", " d"]);
        assert_eq!(split_before_space("ab  c d", 3), ["ab  c", " d"]);
        assert_eq!(split_before_space(" \n a", 1), [" \n a"]);
        assert_eq!(split_before_space("a ", 1), ["a", " "]);
        assert_eq!(split_before_space("é\u{a0}ü", 1), ["é", "\u{a0}ü"]);
        assert_eq!(split_before_space("", 0), [""]);
        assert_eq!(split_before_space("abc", 9), ["abc"]);
    }
}
