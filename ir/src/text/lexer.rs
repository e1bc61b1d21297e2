//! From characters to tokens; comments and white space fall away.

use super::error::{ParseError, ParseErrorKind};

/// The smallest unit of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'s> {
    /// `matmul`, `f32`, `h.0`: a letter or `_`, then letters, digits, `_` and `.`.
    Word(&'s str),
    /// `%name`, without the sign; may start with a digit.
    Value(&'s str),
    /// Digits with an optional fraction and exponent, without a sign.
    Number(&'s str),
    /// A quoted name, escapes resolved.
    Quoted(String),
    /// One of `{ } ( ) [ ] , : ; = @ $ -`.
    Sign(char),
    End,
}

impl Token<'_> {
    /// How an error calls the token.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(w) => format!("`{w}`"),
            Token::Value(v) => format!("`%{v}`"),
            Token::Number(n) => format!("`{n}`"),
            Token::Quoted(q) => format!("{q:?}"),
            Token::Sign(c) => format!("`{c}`"),
            Token::End => "the end of the text".into(),
        }
    }
}

/// A token and the byte offset at which it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed<'s> {
    pub(super) token: Token<'s>,
    pub(super) at: usize,
}

/// True for characters that may stand inside a word.
pub(super) const fn is_word_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// True when `text` would be lexed as one word.
pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(is_word_character)
}

/// All tokens of `text`; the last one is [`Token::End`].
pub(super) fn lex(text: &str) -> Result<Vec<Placed<'_>>, ParseError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let at = lexer.at;
        let token = lexer.token()?;
        let is_end = token == Token::End;
        tokens.push(Placed { token, at });
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'s> {
    text: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            if !self.rest().starts_with("//") {
                return;
            }
            let comment = self.rest();
            self.at += comment.find('\n').unwrap_or(comment.len());
        }
    }

    /// Takes the longest run of characters that `accept` allows.
    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'s str {
        let rest = self.rest();
        let len = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn token(&mut self) -> Result<Token<'s>, ParseError> {
        let start = self.at;
        let Some(c) = self.peek() else {
            return Ok(Token::End);
        };
        match c {
            '"' => self.quoted(),
            '%' => {
                self.at += 1;
                match self.take_while(is_word_character) {
                    "" => Err(ParseError::at(
                        self.text,
                        start,
                        ParseErrorKind::Character(c),
                    )),
                    name => Ok(Token::Value(name)),
                }
            }
            '{' | '}' | '(' | ')' | '[' | ']' | ',' | ':' | ';' | '=' | '@' | '$' | '-' => {
                self.at += 1;
                Ok(Token::Sign(c))
            }
            _ if c.is_ascii_digit() => Ok(self.number()),
            _ if c.is_ascii_alphabetic() || c == '_' => {
                Ok(Token::Word(self.take_while(is_word_character)))
            }
            _ => Err(ParseError::at(
                self.text,
                start,
                ParseErrorKind::Character(c),
            )),
        }
    }

    fn number(&mut self) -> Token<'s> {
        let start = self.at;
        self.take_while(|c| c.is_ascii_digit());
        if self.rest().starts_with('.') {
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        if self.rest().starts_with(['e', 'E']) {
            self.at += 1;
            if self.rest().starts_with(['+', '-']) {
                self.at += 1;
            }
            self.take_while(|c| c.is_ascii_digit());
        }
        Token::Number(&self.text[start..self.at])
    }

    fn quoted(&mut self) -> Result<Token<'s>, ParseError> {
        let start = self.at;
        let mut out = String::new();
        self.at += 1;
        while let Some(c) = self.peek() {
            let here = self.at;
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(Token::Quoted(out)),
                '\n' => break,
                '\\' => match self.escape() {
                    Some(c) => out.push(c),
                    None => return Err(ParseError::at(self.text, here, ParseErrorKind::Escape)),
                },
                c => out.push(c),
            }
        }
        Err(ParseError::at(
            self.text,
            start,
            ParseErrorKind::UnterminatedString,
        ))
    }

    /// The character behind a backslash.
    fn escape(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        match c {
            '"' | '\\' => Some(c),
            'n' => Some('\n'),
            't' => Some('\t'),
            'u' => {
                let rest = self.rest().strip_prefix('{')?;
                let (hex, _) = rest.split_once('}')?;
                self.at += hex.len() + 2;
                u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)
            }
            _ => None,
        }
    }
}

/// `text` in quotes, so that the lexer gives it back.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
