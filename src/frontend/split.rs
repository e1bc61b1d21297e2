//! Cutting a long text where its tokens do not notice, so that the parts can be encoded in parallel.
//!
//! GPT-2's pre-tokenizer takes pieces from left to right: a contraction; a run of letters, of digits or of other marks, with at
//! most one space in front; or a run of white space, which leaves its last character to what follows unless the text ends there.
//! So the last white-space character in front of a word begins a piece of the whole text. Cut there, the part before ends in the
//! same pieces (the rest of the run is now at the end of its text, and is taken as a whole), and the part after is read as before,
//! since the pattern never looks back. Where a special token follows instead of a word, the text in front of it ends
//! there anyway and the run is taken as a whole: no cut.
//!
//! A cut after each long run of white space also keeps the pattern within its backtracking limit.

/// Parts of `text`, in order and without gaps, each of at least `bytes_min` bytes but the last. `token_starts` are the
/// characters a special token may begin with.
pub(super) fn split_text<'a>(
    text: &'a str,
    bytes_min: usize,
    token_starts: &[char],
) -> Vec<&'a str> {
    let bytes_min = bytes_min.max(1);
    let mut parts = Vec::with_capacity(text.len() / bytes_min + 1);
    let mut rest = text;
    while let Some(cut) = first_cut(rest, bytes_min, token_starts) {
        let (part, after) = rest.split_at(cut);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}

/// The first allowed cut at or after byte `from`.
fn first_cut(text: &str, from: usize, token_starts: &[char]) -> Option<usize> {
    let from = (from..text.len()).find(|&byte| text.is_char_boundary(byte))?;
    let mut space_before = None;
    for (offset, character) in text[from..].char_indices() {
        if character.is_whitespace() {
            space_before = Some(from + offset);
        } else if let Some(cut) = space_before.take()
            && !token_starts.contains(&character)
        {
            return Some(cut);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lie_before_the_last_space_of_a_run() {
        let split = |text, bytes_min| split_text(text, bytes_min, &['<']);
        assert_eq!(split("ab  c d", 1), ["ab ", " c", " d"]);
        assert_eq!(split("ab  c d", 4), ["ab  c", " d"]);
        assert_eq!(split(" \n a", 1), [" \n", " a"]);
        assert_eq!(split("a  ", 1), ["a  "]);
        assert_eq!(split("a <b c", 1), ["a <b", " c"]);
        assert_eq!(split("é\u{a0}ü", 1), ["é", "\u{a0}ü"]);
        assert_eq!(split("", 0), [""]);
        assert_eq!(split("abc", 9), ["abc"]);
    }
}
