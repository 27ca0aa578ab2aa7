//! The words of HCL, first version.

use super::ConfigError;

/// The text of a file, and how far it has been read.
pub(super) struct Lexer<'a> {
    rest: &'a str,
    line: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A bare key. Among values only `true` and `false` may stand bare.
    Word(String),
    String(String),
    /// As written, with sign and base.
    Integer(String),
    Float(f64),
    Mark(char),
    End,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            line: 1,
        }
    }

    /// The next word, and its line.
    pub(super) fn next(&mut self) -> Result<(u32, Token), ConfigError> {
        self.skip_blanks_and_comments()?;
        let line = self.line;
        let token = match self.peek() {
            None => Token::End,
            Some('"') => self.string()?,
            Some('<') => self.heredoc()?,
            Some(mark @ ('{' | '}' | '[' | ']' | ',' | '=')) => {
                self.take_char();
                Token::Mark(mark)
            }
            Some(first) if is_letter(first) => {
                let more = |c: char| is_letter(c) || c.is_numeric() || c == '-' || c == '.';
                Token::Word(self.take_while(more).to_owned())
            }
            Some(first) if first.is_ascii_digit() || "-.".contains(first) => self.number()?,
            Some(other) => return Err(self.error(format!("unexpected character `{other}`"))),
        };
        Ok((line, token))
    }

    fn skip_blanks_and_comments(&mut self) -> Result<(), ConfigError> {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                let Some((comment, _)) = self.rest.split_once("*/") else {
                    return Err(self.error("comment does not end".to_owned()));
                };
                self.take(comment.len() + 2);
            } else {
                return Ok(());
            }
        }
    }

    fn string(&mut self) -> Result<Token, ConfigError> {
        let begun = self.line;
        let unended = || syntax(begun, "string does not end on its line".to_owned());
        self.take_char();
        let mut value = String::new();
        loop {
            if self.rest.starts_with("${") {
                // Left for whoever reads the value; quotes and newlines do not end it.
                value.push_str(self.interpolation().ok_or_else(unended)?);
                continue;
            }
            match self.take_char() {
                Some('"') => return Ok(Token::String(value)),
                Some('\\') => value.push(self.escape()?),
                None | Some('\n') => return Err(unended()),
                Some(plain) => value.push(plain),
            }
        }
    }

    fn interpolation(&mut self) -> Option<&'a str> {
        let mut open = 0_usize;
        let end = self.rest.char_indices().find_map(|(at, c)| {
            match c {
                '{' => open += 1,
                '}' => open -= 1,
                _ => return None,
            }
            (open == 0).then_some(at + 1)
        })?;
        Some(self.take(end))
    }

    fn escape(&mut self) -> Result<char, ConfigError> {
        let read = match self.take_char() {
            Some('a') => Some('\u{7}'),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('v') => Some('\u{b}'),
            Some(same @ ('\\' | '"')) => Some(same),
            Some('x') => self.code(2, 16, 0),
            Some('u') => self.code(4, 16, 0),
            Some('U') => self.code(8, 16, 0),
            Some(first @ '0'..='7') => self.code(2, 8, first.to_digit(8).unwrap_or(0)),
            _ => None,
        };
        read.ok_or_else(|| self.error("unknown escape in a string".to_owned()))
    }

    fn code(&mut self, digits: usize, base: u32, first: u32) -> Option<char> {
        let mut code = first;
        for _ in 0..digits {
            let digit = self.take_char()?.to_digit(base)?;
            code = code.checked_mul(base)?.checked_add(digit)?;
        }
        char::from_u32(code)
    }

    /// `<<ANCHOR`, lines, and a line with the anchor; `<<-ANCHOR` takes the anchor's indent off.
    fn heredoc(&mut self) -> Result<Token, ConfigError> {
        let refused = |what: &str| syntax(self.line, format!("heredoc {what}"));
        let Some(text) = self.rest.strip_prefix("<<") else {
            return Err(self.error("unexpected character `<`".to_owned()));
        };
        let (anchor, body) = text
            .split_once('\n')
            .ok_or_else(|| refused("does not end"))?;
        let (indented, anchor) = match anchor.strip_prefix('-') {
            Some(anchor) => (true, anchor),
            None => (false, anchor),
        };
        if anchor.is_empty() || !anchor.chars().all(|c| is_letter(c) || c.is_numeric()) {
            return Err(refused("has no anchor"));
        }
        let mut lines = Vec::new();
        let mut length = self.rest.len() - body.len();
        for line in body.split('\n') {
            length += line.len() + 1;
            if let Some(indent) = line.strip_suffix(anchor)
                && indent.chars().all(char::is_whitespace)
            {
                // The newline behind the anchor is left to count.
                self.take(length - 1);
                return Ok(Token::String(heredoc_value(
                    &lines,
                    if indented { indent } else { "" },
                )));
            }
            lines.push(line);
        }
        Err(refused("does not end"))
    }

    fn number(&mut self) -> Result<Token, ConfigError> {
        let sign = usize::from(self.rest.starts_with('-'));
        let unsigned = self.rest.get(sign..).unwrap_or_default();
        if let Some(digits) = unsigned
            .strip_prefix("0x")
            .or_else(|| unsigned.strip_prefix("0X"))
        {
            let count = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
            return match count {
                0 => Err(self.error("`0x` without a digit".to_owned())),
                _ => Ok(Token::Integer(self.take(sign + 2 + count).to_owned())),
            };
        }
        let whole = unsigned.bytes().take_while(u8::is_ascii_digit).count();
        let length =
            sign + whole + fraction_and_exponent(unsigned.get(whole..).unwrap_or_default());
        let text = self.take(length);
        if length == sign + whole && whole > 0 {
            return Ok(Token::Integer(text.to_owned()));
        }
        let number = text
            .parse()
            .map_err(|_malformed| syntax(self.line, format!("malformed number `{text}`")))?;
        Ok(Token::Float(number))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take_char(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.take(next.len_utf8());
        Some(next)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        let lines = taken.bytes().filter(|byte| *byte == b'\n').count();
        self.line = self
            .line
            .saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.rest = rest;
        taken
    }

    fn error(&self, what: String) -> ConfigError {
        syntax(self.line, what)
    }
}

pub(super) fn syntax(line: u32, what: String) -> ConfigError {
    ConfigError::Syntax { line, what }
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn fraction_and_exponent(text: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let fraction = text.strip_prefix('.').map_or(0, |text| 1 + digits(text));
    let rest = text.get(fraction..).unwrap_or_default();
    let exponent = rest.strip_prefix(['e', 'E']).map_or(0, |power| {
        let unsigned = power.strip_prefix(['+', '-']).unwrap_or(power);
        1 + power.len() - unsigned.len() + digits(unsigned)
    });
    fraction + exponent
}

fn heredoc_value(lines: &[&str], indent: &str) -> String {
    // If one line is indented less than the anchor, none is changed.
    let indent = if lines.iter().all(|line| line.starts_with(indent)) {
        indent
    } else {
        ""
    };
    let mut value = String::new();
    for line in lines {
        value.push_str(line.strip_prefix(indent).unwrap_or(line));
        value.push('\n');
    }
    value
}
