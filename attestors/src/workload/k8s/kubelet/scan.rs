//! A walk over JSON that looks at brackets and strings alone.
//!
//! It tells where a value ends, not whether it is well-formed. No recursion, no allocation.

use std::ops::Range;

use memchr::memchr2;

use super::list::ListError;

/// Where the walk stands.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Whether an object's other members matter.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Walk {
    On,
    /// Leaves the walk in the middle of the object.
    Stop,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Walks an object: `member` is called with each key, and must pass the value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a [u8]) -> Result<Walk, ListError>,
    ) -> Result<(), ListError> {
        self.expect(b'{', "an object")?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':', "a colon")?;
            if member(self, key)? == Walk::Stop || self.closes(b'}')? {
                return Ok(());
            }
        }
    }

    /// Walks an array: `element` is called before each element, and must pass it.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), ListError>,
    ) -> Result<(), ListError> {
        self.expect(b'[', "an array")?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.closes(b']')? {
                return Ok(());
            }
        }
    }

    /// Passes a string, and gives what stands between its quotes, escapes and all.
    pub(super) fn string(&mut self) -> Result<&'a [u8], ListError> {
        self.expect(b'"', "a string")?;
        let start = self.at;
        self.pass_string()?;
        Ok(self.bytes.get(start..self.at - 1).unwrap_or_default())
    }

    /// Passes any value, and tells where it stands.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, ListError> {
        self.space();
        let start = self.at;
        match self.peek().ok_or(ListError::Truncated)? {
            b'"' => {
                self.at += 1;
                self.pass_string()?;
            }
            b'{' | b'[' => self.pass_nested()?,
            _ => self.pass_word()?,
        }
        Ok(start..self.at)
    }

    /// Passes the word `null`, if it stands here.
    pub(super) fn null(&mut self) -> bool {
        self.space();
        let is_null = self.rest().starts_with(b"null");
        if is_null {
            self.at += 4;
        }
        is_null
    }

    /// Nothing but white space is left.
    pub(super) fn end(&mut self) -> Result<(), ListError> {
        self.space();
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.unexpected("the end"))
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().iter().take_while(is_space).count();
    }

    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let is_here = self.peek() == Some(byte);
        self.at += usize::from(is_here);
        is_here
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), ListError> {
        if self.take(byte) {
            return Ok(());
        }
        Err(match self.peek() {
            None => ListError::Truncated,
            Some(_) => self.unexpected(expected),
        })
    }

    /// After a member or an element: the end, or a comma before the next.
    fn closes(&mut self, closing: u8) -> Result<bool, ListError> {
        if self.take(closing) {
            return Ok(true);
        }
        self.expect(b',', "a comma or the closing bracket")?;
        Ok(false)
    }

    /// From behind the opening quote to behind the closing one.
    fn pass_string(&mut self) -> Result<(), ListError> {
        loop {
            let offset = memchr2(b'"', b'\\', self.rest()).ok_or(ListError::Truncated)?;
            let is_quote = self.rest().get(offset) == Some(&b'"');
            self.at += offset + 1;
            if is_quote {
                return Ok(());
            }
            // Whatever is escaped is no quote.
            self.at += 1;
        }
    }

    /// From the opening bracket to behind the one that closes it.
    fn pass_nested(&mut self) -> Result<(), ListError> {
        let mut depth = 0_usize;
        loop {
            let byte = self.peek().ok_or(ListError::Truncated)?;
            self.at += 1;
            match byte {
                b'"' => self.pass_string()?,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }

    /// A number, `true`, `false`, `null`, or what stands in their place.
    fn pass_word(&mut self) -> Result<(), ListError> {
        let is_word = |byte: &&u8| {
            !matches!(
                byte,
                b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r'
            )
        };
        let length = self.rest().iter().take_while(is_word).count();
        self.at += length;
        if length == 0 {
            return Err(self.unexpected("a value"));
        }
        Ok(())
    }

    fn unexpected(&self, expected: &'static str) -> ListError {
        ListError::Unexpected {
            at: self.at,
            expected,
        }
    }
}
