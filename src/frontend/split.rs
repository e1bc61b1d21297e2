//! Cutting a long text where its tokens do not notice, so that the parts can be encoded by themselves: in parallel, and one after the other.
//!
//! GPT-2's pre-tokenizer takes pieces from left to right: a contraction; a run of letters, of digits or of other marks, with at
//! most one space in front; or a run of white space, which leaves its last character to what follows unless the text ends there.
//! So the last white-space character in front of a word begins a piece of the whole text. Cut there, the part before ends in the
//! same pieces (the rest of the run is now at the end of its text, and is taken as a whole), and the part after is read as before,
//! since the pattern never looks back. Where a special token follows instead of a word, the text in front of it ends
//! there anyway and the run is taken as a whole: no cut.
//!
//! For scripts that put no spaces, and for what is no prose: no piece goes on from a letter or digit to another mark (a contraction begins
//! with its mark), so a mark behind a letter or digit begins a piece, too. Which letters and marks are meant is spelled out: the crate's
//! tables and the standard library's need not be of the same age.
//!
//! A cut after each long run of white space also keeps the pattern within its backtracking limit.

/// Where a text may be cut, beside tokens that are found before pre-tokenization.
#[derive(Clone, Debug)]
pub(super) struct Cuts {
    /// The characters such tokens start with.
    pub(super) token_starts: Vec<char>,
    /// The length of the longest.
    pub(super) token_bytes_max: usize,
}

impl Cuts {
    /// Parts of `text`, in order and without gaps, each of at least `bytes_min` bytes but the last.
    pub(super) fn split<'a>(&self, text: &'a str, bytes_min: usize) -> Vec<&'a str> {
        let bytes_min = bytes_min.max(1);
        let mut parts = Vec::with_capacity(text.len() / bytes_min + 1);
        let mut rest = text;
        while let Some(cut) = self.first(rest, bytes_min) {
            let (part, after) = rest.split_at(cut);
            parts.push(part);
            rest = after;
        }
        parts.push(rest);
        parts
    }

    /// The first allowed cut at or after byte `from`. It holds whatever follows `text`.
    pub(super) fn first(&self, text: &str, from: usize) -> Option<usize> {
        let from = (from..text.len()).find(|&byte| text.is_char_boundary(byte))?;
        let mut before = text[..from].chars().next_back();
        let mut space_before = None;
        for (offset, character) in text[from..].char_indices() {
            let at = from + offset;
            if character.is_whitespace() {
                space_before = Some(at);
            } else if !self.token_starts.contains(&character) {
                if space_before.is_some() {
                    return space_before;
                }
                if is_mark(character) && before.is_some_and(ends_word) && !self.in_token(text, at) {
                    return Some(at);
                }
            }
            if !character.is_whitespace() {
                space_before = None;
            }
            before = Some(character);
        }
        None
    }

    /// Whether a token may have started so shortly before `at` that it reaches over it.
    fn in_token(&self, text: &str, at: usize) -> bool {
        let before = text[..at].char_indices().rev();
        before
            .take_while(|&(start, _)| at - start < self.token_bytes_max)
            .any(|(_, character)| self.token_starts.contains(&character))
    }
}

/// Letters and digits that have been such in every version of Unicode, of Latin and of the scripts without spaces.
fn ends_word(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(character, '\u{3041}'..='\u{3094}' | '\u{30a1}'..='\u{30fa}' | '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7a3}')
}

/// Marks that have been neither letters nor digits nor white space in any.
fn is_mark(character: char) -> bool {
    character.is_ascii_punctuation()
        || matches!(character, '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{ff01}'..='\u{ff0f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lie_before_the_last_space_of_a_run_or_a_mark_behind_a_word() {
        let cuts = Cuts {
            token_starts: vec!['<'],
            token_bytes_max: 4,
        };
        let split = |text, bytes_min| cuts.split(text, bytes_min);
        assert_eq!(split("ab  c d", 1), ["ab ", " c", " d"]);
        assert_eq!(split("ab  c d", 4), ["ab  c", " d"]);
        assert_eq!(split(" \n a", 1), [" \n", " a"]);
        assert_eq!(split("a  ", 1), ["a  "]);
        assert_eq!(split("a <b c", 1), ["a <b", " c"]);
        assert_eq!(split("é\u{a0}ü", 1), ["é", "\u{a0}ü"]);
        assert_eq!(split("", 0), [""]);
        assert_eq!(split("abc", 9), ["abc"]);
        assert_eq!(split("ab,c7.,d'e", 1), ["ab", ",c7", ".,d", "'e"]);
        assert_eq!(split("日本。語", 1), ["日本", "。語"]);
        // `<ab|` and `<abc` may be tokens, `<abcd` is too long for one; before `<` is no place either.
        assert_eq!(split("<ab| c", 1), ["<ab|", " c"]);
        assert_eq!(split("x<abcd|", 1), ["x<abcd", "|"]);
    }
}
