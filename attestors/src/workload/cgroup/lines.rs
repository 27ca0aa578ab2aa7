//! The lines of `/proc/PID/cgroup`: `ID:CONTROLLERS:PATH`, one for each hierarchy.

use super::{CgroupError, MAX_BYTES, MAX_LINES};

/// One hierarchy.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// `cpu,cpuacct`, `name=systemd`, or empty for version 2: the name of the hierarchy, which is the
    /// same for every process of the node, unlike its number across boots.
    pub(super) controllers: &'a [u8],
    pub(super) path: Path<'a>,
}

/// A cgroup, seen from the root of the reader's cgroup namespace.
#[derive(Debug)]
pub(super) struct Path<'a> {
    /// How many `..` lead out of that namespace.
    pub(super) up: usize,
    /// INVARIANT: none is empty, `.` or `..`.
    pub(super) components: Vec<&'a [u8]>,
}

pub(super) fn parse(text: &[u8]) -> Result<Vec<Line<'_>>, CgroupError> {
    if text.len() > MAX_BYTES {
        return Err(CgroupError::TooLong);
    }
    // The kernel ends each line; a text without its last end is taken as well.
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut lines: Vec<Line<'_>> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if lines.len() == MAX_LINES {
            return Err(CgroupError::TooLong);
        }
        let line = line_of(line).ok_or(CgroupError::Malformed)?;
        // A second line of one hierarchy is the end of a name with a line break in it, which kernels
        // before 3.17 let anyone make.
        if lines
            .iter()
            .any(|known| known.controllers == line.controllers)
        {
            return Err(CgroupError::Malformed);
        }
        lines.push(line);
    }
    Ok(lines)
}

/// A path may contain colons, the fields before it cannot.
fn line_of(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(3, |byte| *byte == b':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    is_number.then_some(())?;
    Some(Line {
        controllers,
        path: path_of(path)?,
    })
}

fn path_of(path: &[u8]) -> Option<Path<'_>> {
    let inner = path.strip_prefix(b"/")?;
    if inner.is_empty() {
        return Some(Path {
            up: 0,
            components: Vec::new(),
        });
    }
    let all: Vec<_> = inner.split(|byte| *byte == b'/').collect();
    let up = all.iter().take_while(|part| **part == b"..").count();
    let components: Vec<_> = all.into_iter().skip(up).collect();
    let is_named = |part: &&[u8]| !part.is_empty() && *part != b"." && *part != b"..";
    components
        .iter()
        .all(is_named)
        .then_some(Path { up, components })
}
