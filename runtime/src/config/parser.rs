//! The sentences of HCL, first version.

use super::ConfigError;
use super::lexer::{Lexer, Token, syntax};
use super::tree::{MAX_DEPTH, Node, Object, Value};

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Object, ConfigError> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        ahead: None,
    };
    parser.object(&Token::End, MAX_DEPTH)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Option<(u32, Token)>,
}

impl Parser<'_> {
    /// Reads `key = value`, `key { .. }` and `key "label" { .. }` up to `end`. Commas may stand
    /// between them.
    fn object(&mut self, end: &Token, depth: usize) -> Result<Object, ConfigError> {
        let mut items = Vec::new();
        loop {
            let (line, token) = self.next()?;
            match token {
                token if token == *end => return Ok(Object(items)),
                Token::Word(key) | Token::String(key) => {
                    items.push((key, self.item(line, depth)?));
                    if self.peek()? == &Token::Mark(',') {
                        self.next()?;
                    }
                }
                other => return Err(unexpected(line, &other, "a key")),
            }
        }
    }

    /// Reads what follows the key of an item.
    fn item(&mut self, line: u32, depth: usize) -> Result<Node, ConfigError> {
        let depth = one_deeper(line, depth)?;
        match self.next()? {
            (_, Token::Mark('=')) => self.value(depth),
            (_, Token::Mark('{')) => {
                let object = self.object(&Token::Mark('}'), depth)?;
                Ok(Node(line, Value::Object(object)))
            }
            (_, Token::Word(label) | Token::String(label)) => {
                if self.peek()? == &Token::Mark('=') {
                    return Err(syntax(line, "a key with a label needs a block".to_owned()));
                }
                // A label is a key of the block that it stands before.
                let inner = self.item(line, depth)?;
                Ok(Node(line, Value::Object(Object(vec![(label, inner)]))))
            }
            (line, other) => Err(unexpected(line, &other, "`=` or a block")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, ConfigError> {
        let (line, token) = self.next()?;
        let value = match token {
            Token::String(text) => Value::String(text),
            Token::Integer(text) => Value::Integer(text),
            Token::Float(number) => Value::Float(number),
            Token::Word(word) if word == "true" => Value::Bool(true),
            Token::Word(word) if word == "false" => Value::Bool(false),
            Token::Word(word) => {
                let what = format!("`{word}` is no value: write a string in quotes");
                return Err(syntax(line, what));
            }
            Token::Mark('{') => Value::Object(self.object(&Token::Mark('}'), depth)?),
            Token::Mark('[') => Value::List(self.list(line, depth)?),
            other => return Err(unexpected(line, &other, "a value")),
        };
        Ok(Node(line, value))
    }

    fn list(&mut self, line: u32, depth: usize) -> Result<Vec<Node>, ConfigError> {
        let depth = one_deeper(line, depth)?;
        let mut nodes = Vec::new();
        loop {
            if self.peek()? == &Token::Mark(']') {
                self.next()?;
                return Ok(nodes);
            }
            nodes.push(self.value(depth)?);
            match self.next()? {
                (_, Token::Mark(',')) => {}
                (_, Token::Mark(']')) => return Ok(nodes),
                (line, other) => return Err(unexpected(line, &other, "`,` or `]`")),
            }
        }
    }

    fn next(&mut self) -> Result<(u32, Token), ConfigError> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }

    fn peek(&mut self) -> Result<&Token, ConfigError> {
        let next = self.next()?;
        Ok(&self.ahead.insert(next).1)
    }
}

/// Each level takes a frame of the stack, here and wherever the tree is walked.
fn one_deeper(line: u32, depth: usize) -> Result<usize, ConfigError> {
    depth
        .checked_sub(1)
        .ok_or_else(|| syntax(line, "nests too deep".to_owned()))
}

fn unexpected(line: u32, token: &Token, wanted: &str) -> ConfigError {
    let found = match token {
        Token::Word(word) => format!("`{word}`"),
        Token::String(_) => "a string".to_owned(),
        Token::Integer(text) => format!("`{text}`"),
        Token::Float(number) => format!("`{number}`"),
        Token::Mark(mark) => format!("`{mark}`"),
        Token::End => "the end of the file".to_owned(),
    };
    syntax(line, format!("expected {wanted}, found {found}"))
}
