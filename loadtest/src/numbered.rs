//! Frames of a resumable stream: each begins with its id, which names the stream and the frame's
//! number in it, counted from one.

use crate::frame::Fault;

/// The longest id, and what it may hold: anything else would cost a browser a preflight.
const ID_MAX: usize = 64;

/// A frame's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// The frame's number, counted from one; nought is "from the start".
    pub number: u32,
}

impl<'a> Id<'a> {
    /// Reads `<stream>.<number>`.
    ///
    /// # Errors
    /// `Fault::Id` where it is too long, holds other bytes than may be, or has no number.
    pub fn parse(text: &'a [u8]) -> Result<Self, Fault> {
        let may = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if text.len() > ID_MAX || !text.iter().all(may) {
            return Err(Fault::Id);
        }
        let text = std::str::from_utf8(text).map_err(|_| Fault::Id)?;
        let (stream, number) = text.rsplit_once('.').ok_or(Fault::Id)?;
        let number = number.parse().map_err(|_| Fault::Id)?;
        if stream.is_empty() { Err(Fault::Id) } else { Ok(Self { stream, number }) }
    }
}

fn after_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Whether there is nothing but whole comment lines, such as heartbeats.
pub fn is_comment(mut bytes: &[u8]) -> bool {
    while let Some((_, rest)) = after_line(bytes).filter(|(line, _)| line.starts_with(b":")) {
        bytes = rest;
    }
    bytes.is_empty()
}

/// Takes the id off a whole frame, and what stands before it: comment lines and, in the `first`
/// frame of a response, the hint how soon to come back. Returns the rest as it was sent; nothing
/// for what is no frame of the stream's.
///
/// # Errors
/// `Fault::Id` where the frame has no proper id.
pub fn undress(frame: &[u8], first: bool) -> Result<Option<(Id<'_>, &[u8])>, Fault> {
    let mut rest = frame;
    while let Some((line, after)) = after_line(rest) {
        let hint = first && line.starts_with(b"retry:");
        if line.is_empty() {
            return Ok(None);
        }
        if !hint && !line.starts_with(b":") {
            let id = Id::parse(line.strip_prefix(b"id: ").ok_or(Fault::Id)?)?;
            return Ok(Some((id, after)));
        }
        rest = after;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_of_few_kinds_of_bytes() {
        let id = Id::parse(b"aB-9_x.1.f3.12").expect("proper");
        assert_eq!((id.stream, id.number), ("aB-9_x.1.f3", 12));
        let long = format!("{}.1", "a".repeat(ID_MAX - 2));
        assert!(Id::parse(long.as_bytes()).is_ok());
        for bad in [
            &b""[..],
            b"a",
            b".1",
            b"a.",
            b"a.x",
            b"a.-1",
            b"a b.1",
            b"a\r.1",
            b"a.4294967296",
            format!("{}.1", "a".repeat(ID_MAX - 1)).as_bytes(),
            "é.1".as_bytes(),
        ] {
            assert_eq!(Id::parse(bad), Err(Fault::Id), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_rest_is_what_was_sent() {
        let id = |number| Id { stream: "s.0.1", number };
        let whole = |frame| undress(frame, true).expect("proper");
        assert_eq!(whole(b"id: s.0.1.7\ndata: x\n\n"), Some((id(7), &b"data: x\n\n"[..])));
        assert_eq!(
            whole(b": beat\nretry: 1000\n:\nid: s.0.1.7\n: id: up\ndata: x\n\n"),
            Some((id(7), &b": id: up\ndata: x\n\n"[..]))
        );
        assert_eq!(whole(b"id: s.0.1.0\nretry: 1000\n\n"), Some((id(0), &b"retry: 1000\n\n"[..])));
        assert_eq!(whole(b": only a comment\n\n"), None);
        assert_eq!(undress(b"retry: 5\nid: s.0.1.7\n\n", false), Err(Fault::Id));
        assert_eq!(undress(b"data: x\n\n", true), Err(Fault::Id));
        assert!(is_comment(b": a\n:\n") && is_comment(b"") && !is_comment(b": a"));
        assert!(!is_comment(b"retry: 1\n"));
    }
}
