//! The lines of a frame that would get in the way of our ids.

use memchr::memchr2;

/// What becomes of an upstream's own `id` lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamIds {
    /// They are kept readable, as comments.
    #[default]
    Comment,
    /// They are left out.
    Drop,
}

/// What a look at a frame's lines shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its `id` lines.
    pub ids: usize,
    /// It has lines that are no comments.
    pub fields: bool,
    /// Where its last line ends, with its line end: what follows is the blank line.
    pub lines_end: usize,
}

/// Lends `each` the lines of `frame` with their ends; the blank line at its end too.
fn each_line(mut frame: &[u8], mut each: impl FnMut(&[u8])) {
    while !frame.is_empty() {
        let end = match memchr2(b'\n', b'\r', frame) {
            Some(at) if frame[at..].starts_with(b"\r\n") => at + 2,
            Some(at) => at + 1,
            None => frame.len(),
        };
        let (line, rest) = frame.split_at(end);
        each(line);
        frame = rest;
    }
}

fn is_id(line: &[u8]) -> bool {
    line.starts_with(b"id") && matches!(line.get(2), None | Some(b':' | b'\n' | b'\r'))
}

/// Looks at the lines of a frame.
pub(super) fn look(frame: &[u8]) -> Seen {
    let (mut seen, mut at) = (Seen::default(), 0);
    each_line(frame, |line| {
        at += line.len();
        match line[0] {
            b'\n' | b'\r' => return,
            b':' => {}
            b'i' if is_id(line) => (seen.ids, seen.fields) = (seen.ids + 1, true),
            _ => seen.fields = true,
        }
        seen.lines_end = at;
    });
    seen
}

/// The bytes by which a frame with so many `id` lines may grow.
pub(super) const fn growth(seen: Seen) -> usize {
    seen.ids * 2
}

/// Writes `frame` with its `id` lines as `ids` says; returns the length.
pub(super) fn write(frame: &[u8], ids: UpstreamIds, out: &mut [u8]) -> usize {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    each_line(frame, |line| match (is_id(line), ids) {
        (false, _) => put(line),
        (true, UpstreamIds::Comment) => {
            put(b": ");
            put(line);
        }
        (true, UpstreamIds::Drop) => {}
    });
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_comments_or_go_and_other_lines_stay() {
        for (frame, commented, dropped) in [
            ("data: a\n\n", "data: a\n\n", "data: a\n\n"),
            ("id: 1\ndata: a\n\n", ": id: 1\ndata: a\n\n", "data: a\n\n"),
            (
                "data: a\r\nid:x\r\nid\r\n\r\n",
                "data: a\r\n: id:x\r\n: id\r\n\r\n",
                "data: a\r\n\r\n",
            ),
            ("id\rdata: id\r\r", ": id\rdata: id\r\r", "data: id\r\r"),
            (
                "identity: 1\nid : 1\n ID: 1\n\n",
                "identity: 1\nid : 1\n ID: 1\n\n",
                "identity: 1\nid : 1\n ID: 1\n\n",
            ),
            ("data: id: 3\nid", "data: id: 3\n: id", "data: id: 3\n"),
        ] {
            let seen = look(frame.as_bytes());
            for (ids, expected) in [(UpstreamIds::Comment, commented), (UpstreamIds::Drop, dropped)]
            {
                let mut out = vec![0; frame.len() + growth(seen)];
                let len = write(frame.as_bytes(), ids, &mut out);
                assert_eq!(std::str::from_utf8(&out[..len]), Ok(expected), "{frame:?}");
            }
        }
    }

    #[test]
    fn comments_are_told_from_fields_and_the_blank_line_from_both() {
        fn seen(frame: &str) -> (bool, &str) {
            let seen = look(frame.as_bytes());
            (seen.fields, &frame[..seen.lines_end])
        }
        assert_eq!(seen(": a\n:b\n\n"), (false, ": a\n:b\n"));
        assert_eq!(seen(": a\r\n\r\n"), (false, ": a\r\n"));
        assert_eq!(seen(":\r\r"), (false, ":\r"));
        assert_eq!(seen(": a\ndata\n\n"), (true, ": a\ndata\n"));
    }
}
