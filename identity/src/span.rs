//! Where a part of some bytes lies in them: what is kept in one piece is not kept a second time in parts.

/// A part of bytes that are kept beside it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part` lies in `whole`; `None` if it is no part of it, or `whole` has 4 GiB.
    pub(crate) fn of(part: &[u8], whole: &[u8]) -> Option<Self> {
        let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
        let end = start.checked_add(part.len())?;
        whole.get(start..end)?;
        Some(Self {
            start: u32::try_from(start).ok()?,
            end: u32::try_from(end).ok()?,
        })
    }

    /// The part of the same bytes, or of a copy of them; nothing where they are too short.
    pub(crate) fn take(self, whole: &[u8]) -> &[u8] {
        let (start, end) = (usize::try_from(self.start), usize::try_from(self.end));
        start
            .ok()
            .zip(end.ok())
            .and_then(|(start, end)| whole.get(start..end))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Span;

    #[test]
    fn a_part_is_found_again_in_a_copy_and_nothing_else_is_a_part() {
        let whole = b"0123456789".to_vec();
        let copy = *b"0123456789";
        let span = Span::of(&whole[2..5], &whole).unwrap();
        assert_eq!(span.take(&copy), b"234");
        assert_eq!(span.take(b"0123"), b"");
        assert_eq!(Span::of(&whole[10..], &whole).unwrap().take(&whole), b"");
        assert_eq!(Span::of(b"234", &whole), None);
        assert_eq!(Span::of(&whole, &whole[1..]), None);
        assert_eq!(Span::of(&whole, &whole[..9]), None);
    }
}
