//! The parser's hands: taking tokens, numbers and names, and saying what was expected instead.

use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Placed, Token, lex};
use crate::types::{DType, Real};

pub(super) type Parse<T> = Result<T, ParseError>;

/// The tokens of a text and how far they are used up.
pub(super) struct Parser<'s> {
    pub(super) text: &'s str,
    tokens: Vec<Placed<'s>>,
    next: usize,
}

impl<'s> Parser<'s> {
    pub(super) fn new(text: &'s str) -> Parse<Parser<'s>> {
        Ok(Parser {
            text,
            tokens: lex(text)?,
            next: 0,
        })
    }

    pub(super) fn peek(&self) -> &Token<'s> {
        &self.tokens[self.next].token
    }

    /// The byte offset of the next token.
    pub(super) fn position(&self) -> usize {
        self.tokens[self.next].at
    }

    /// Takes a token; the end stays.
    pub(super) fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    pub(super) fn fail_at<T>(&self, at: usize, kind: ParseErrorKind) -> Parse<T> {
        Err(ParseError::at(self.text, at, kind))
    }

    pub(super) fn fail<T>(&self, kind: ParseErrorKind) -> Parse<T> {
        self.fail_at(self.position(), kind)
    }

    pub(super) fn expected<T>(&self, expected: &'static str) -> Parse<T> {
        let found = self.peek().describe();
        self.fail(ParseErrorKind::Expected { expected, found })
    }

    pub(super) fn take_sign(&mut self, sign: char) -> bool {
        let is_there = *self.peek() == Token::Sign(sign);
        if is_there {
            self.advance();
        }
        is_there
    }

    pub(super) fn sign(&mut self, sign: char, expected: &'static str) -> Parse<()> {
        if self.take_sign(sign) {
            Ok(())
        } else {
            self.expected(expected)
        }
    }

    pub(super) fn take_word(&mut self) -> Option<&'s str> {
        let Token::Word(word) = *self.peek() else {
            return None;
        };
        self.advance();
        Some(word)
    }

    pub(super) fn take_value(&mut self) -> Option<(&'s str, usize)> {
        let at = self.position();
        let Token::Value(name) = *self.peek() else {
            return None;
        };
        self.advance();
        Some((name, at))
    }

    pub(super) fn take_quoted(&mut self) -> Option<String> {
        let Token::Quoted(text) = self.peek() else {
            return None;
        };
        let text = text.clone();
        self.advance();
        Some(text)
    }

    /// `name =`, the head of a term of an expression.
    pub(super) fn take_definition(&mut self) -> Option<&'s str> {
        let after = self.tokens.get(self.next + 1).map(|t| &t.token);
        let Token::Word(word) = *self.peek() else {
            return None;
        };
        if after != Some(&Token::Sign('=')) {
            return None;
        }
        self.advance();
        self.advance();
        Some(word)
    }

    /// `as f16`, if it is next.
    pub(super) fn take_result_type(&mut self) -> Parse<Option<DType>> {
        if *self.peek() != Token::Word("as") {
            return Ok(None);
        }
        self.advance();
        let at = self.position();
        let Some(word) = self.take_word() else {
            return self.expected("an element type");
        };
        match DType::from_name(word) {
            Some(dtype) => Ok(Some(dtype)),
            None => self.fail_at(at, ParseErrorKind::UnknownDType(word.into())),
        }
    }

    /// A number without sign or fraction.
    pub(super) fn whole_number<N: std::str::FromStr>(
        &mut self,
        expected: &'static str,
    ) -> Parse<N> {
        let Token::Number(digits) = *self.peek() else {
            return self.expected(expected);
        };
        match digits.parse() {
            Ok(n) => {
                self.advance();
                Ok(n)
            }
            Err(_) => self.fail(ParseErrorKind::Number(digits.into())),
        }
    }

    /// A real number, if one is next: digits with or without sign, `inf`, `NaN`, or `bits "…"`.
    pub(super) fn take_real(&mut self) -> Parse<Option<Real>> {
        let negative = self.take_sign('-');
        let value = match *self.peek() {
            Token::Number(digits) => match digits.parse::<f64>() {
                Ok(v) => v,
                Err(_) => return self.fail(ParseErrorKind::Number(digits.into())),
            },
            Token::Word("inf") => f64::INFINITY,
            Token::Word("NaN") if !negative => f64::NAN,
            Token::Word("bits") if !negative => {
                self.advance();
                let bits = match self.peek() {
                    Token::Quoted(hex) => u64::from_str_radix(hex, 16).ok(),
                    _ => None,
                };
                match bits {
                    Some(bits) => f64::from_bits(bits),
                    None => return self.expected("sixteen quoted hexadecimal digits"),
                }
            }
            _ if negative => return self.expected("a number"),
            _ => return Ok(None),
        };
        self.advance();
        Ok(Some(Real(if negative { -value } else { value })))
    }
}
