//! The text of `/proc/PID/status`: the effective ids and the supplementary groups.

/// Longer texts are refused. It holds some 6,000 supplementary groups.
pub const MAX_BYTES: usize = 64 * 1024;

/// What a process may do, in the ids of the reader's user namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    /// The supplementary groups, in the kernel's order.
    pub groups: Vec<u32>,
}

impl Status {
    /// Reads the text of the kernel.
    ///
    /// A process chooses its name, and it stands in the first line; the kernel escapes a line end in
    /// it, so the name cannot forge a line. A line that stands twice is refused all the same.
    pub fn parse(text: &[u8]) -> Result<Self, StatusError> {
        if text.len() > MAX_BYTES {
            return Err(StatusError::TooLong);
        }
        let (mut uid, mut gid, mut groups) = (None, None, None);
        for line in text.split(|&byte| byte == b'\n') {
            if let Some(ids) = line.strip_prefix(b"Uid:") {
                once(&mut uid, effective(ids)?)?;
            } else if let Some(ids) = line.strip_prefix(b"Gid:") {
                once(&mut gid, effective(ids)?)?;
            } else if let Some(ids) = line.strip_prefix(b"Groups:") {
                let ids = words(ids).map(number).collect::<Result<_, _>>()?;
                once(&mut groups, ids)?;
            }
        }
        Ok(Self {
            uid: uid.ok_or(StatusError::Missing)?,
            gid: gid.ok_or(StatusError::Missing)?,
            groups: groups.ok_or(StatusError::Missing)?,
        })
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), StatusError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(StatusError::Repeated),
    }
}

/// The real, effective, saved and file-system ids stand in this order.
fn effective(ids: &[u8]) -> Result<u32, StatusError> {
    let mut words = words(ids);
    let effective = words.nth(1).ok_or(StatusError::NotANumber)?;
    if words.count() != 2 {
        return Err(StatusError::NotANumber);
    }
    number(effective)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

fn number(word: &[u8]) -> Result<u32, StatusError> {
    if !word.iter().all(u8::is_ascii_digit) {
        return Err(StatusError::NotANumber);
    }
    str::from_utf8(word)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(StatusError::NotANumber)
}

/// Why a text is not that of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StatusError {
    /// It is longer than [`MAX_BYTES`].
    #[error("the process status is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// A line with ids is not there.
    #[error("the process status has no line `Uid`, `Gid` or `Groups`")]
    Missing,
    /// A line with ids is there twice.
    #[error("the process status has a line twice")]
    Repeated,
    /// An id is not a number, or there are not four of them.
    #[error("the process status has an id that is no number")]
    NotANumber,
}

impl StatusError {
    /// A stable label for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "status_too_long",
            Self::Missing => "status_line_missing",
            Self::Repeated => "status_line_repeated",
            Self::NotANumber => "status_not_a_number",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_the_effective_ids_from_the_second_column() {
        let text = b"Name:\tcat\nUmask:\t0022\nTgid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t10 20 \n";
        let expected = Status {
            uid: 2,
            gid: 6,
            groups: vec![10, 20],
        };
        assert_eq!(Status::parse(text), Ok(expected));
    }

    #[test]
    fn an_empty_line_of_groups_is_no_group() {
        let status = Status::parse(b"Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n").unwrap();
        assert!(status.groups.is_empty());
    }

    #[test]
    fn a_name_with_an_escaped_line_end_forges_nothing() {
        let text = b"Name:\tx\\nUid:\t0\t0\t0\t0\nUid:\t9\t9\t9\t9\nGid:\t9\t9\t9\t9\nGroups:\n";
        assert_eq!(Status::parse(text).unwrap().uid, 9);
    }

    #[test]
    fn refuses_texts_that_the_kernel_does_not_write() {
        for (text, error) in [
            (&b""[..], StatusError::Missing),
            (
                b"Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n",
                StatusError::Missing,
            ),
            (
                b"Uid:\t0\t0\t0\t0\nUid:\t0\t0\t0\t0\n",
                StatusError::Repeated,
            ),
            (b"Uid:\t0\t0\t0\n", StatusError::NotANumber),
            (b"Uid:\t0\t0\t0\t0\t0\n", StatusError::NotANumber),
            (b"Uid:\t0\t-1\t0\t0\n", StatusError::NotANumber),
            (b"Uid:\t0\t+1\t0\t0\n", StatusError::NotANumber),
            (b"Uid:\t0\t4294967296\t0\t0\n", StatusError::NotANumber),
            (b"Groups:\t1 x\n", StatusError::NotANumber),
            (&[b' '; MAX_BYTES + 1], StatusError::TooLong),
        ] {
            assert_eq!(Status::parse(text), Err(error), "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_a_kernel_would_write(
            name in "[^\\n]{0,15}",
            uid: [u32; 4],
            gid: [u32; 4],
            groups in proptest::collection::vec(any::<u32>(), 0..50),
        ) {
            let ids = |ids: &[u32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
            let text = format!(
                "Name:\t{name}\nState:\tR (running)\nUid:\t{}\nGid:\t{}\nGroups:\t{} \nThreads:\t1\n",
                ids(&uid).join("\t"),
                ids(&gid).join("\t"),
                ids(&groups).join(" "),
            );
            let expected = Status { uid: uid[1], gid: gid[1], groups };
            prop_assert_eq!(Status::parse(text.as_bytes()), Ok(expected));
        }

        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Status::parse(&text);
        }

        #[test]
        fn no_text_with_the_right_lines_makes_it_panic(text in "(Uid:|Gid:|Groups:|[0-9\\t \\n-]){0,60}") {
            let _ = Status::parse(text.as_bytes());
        }
    }
}
