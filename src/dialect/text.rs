//! Text a model added, as it stands in a frame, and what of it is cut between two frames.
//!
//! Most text goes from one JSON string into another, so it is carried as the content of a JSON
//! string and mostly copied as it is. A character may come in two frames: its UTF-16 halves as two
//! escapes, or its bytes. [`Joints`] holds the first half back until the second has come, so what
//! goes out is whole at every frame, and always valid UTF-8.

/// Text in one of the two forms it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// The content of a JSON string, escapes as they are.
    Json(&'a [u8]),
    /// Text as it is: a `data` line that is no JSON, or JSON that is to be told as a text.
    Plain(&'a [u8]),
}

impl<'a> Text<'a> {
    /// Its bytes.
    pub fn raw(self) -> &'a [u8] {
        match self {
            Self::Json(raw) | Self::Plain(raw) => raw,
        }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.raw().is_empty()
    }

    /// Appends it as the content of a JSON string, halves of characters replaced.
    pub fn push_json(self, out: &mut Vec<u8>) {
        let half = escape(self, out);
        if half > 0 {
            out.extend_from_slice(REPLACEMENT.as_bytes());
        }
    }
}

/// What a character that is none becomes.
const REPLACEMENT: &str = "\u{fffd}";

/// Which text a piece belongs to: pieces of different ones have no joints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strand {
    /// What the text is.
    pub kind: StrandKind,
    /// The choice it belongs to.
    pub choice: u32,
    /// The tool call it belongs to; 0 for other texts.
    pub call: u32,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrandKind {
    /// The answer.
    Answer,
    /// The model's reasoning.
    Reasoning,
    /// Why it does not answer.
    Refusal,
    /// The arguments of a tool call.
    Arguments,
}

/// Halves of characters whose other half is yet to come.
#[derive(Debug, Default)]
pub struct Joints {
    halves: Vec<(Strand, Half)>,
    joined: Vec<u8>,
    clean: Vec<u8>,
}

/// The last bytes of a text: a `\uD83D`, or up to three bytes of a character.
#[derive(Clone, Copy, Debug)]
struct Half {
    bytes: [u8; 6],
    len: u8,
}

impl Joints {
    /// The content of a JSON string that says `text`: valid UTF-8 without control characters, with
    /// the half that was held of this strand before it, and without the half at its end. It may be
    /// empty.
    pub fn join<'a>(&'a mut self, strand: Strand, text: Text<'a>) -> &'a [u8] {
        let held = self.halves.iter().position(|(of, _)| *of == strand);
        let Some(held) = held else {
            if is_clean(text) {
                return text.raw();
            }
            self.clean.clear();
            let half = escape(text, &mut self.clean);
            self.hold(strand, text.raw(), half);
            return &self.clean;
        };
        let (_, half) = self.halves.swap_remove(held);
        self.clean.clear();
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        joined.extend_from_slice(&half.bytes[..usize::from(half.len)]);
        let text = match text {
            Text::Plain(_) if half.bytes[0] == b'\\' => {
                // An escape's half before text without escapes.
                self.clean.extend_from_slice(REPLACEMENT.as_bytes());
                joined.clear();
                joined.extend_from_slice(text.raw());
                Text::Plain(&joined)
            }
            Text::Plain(raw) => {
                joined.extend_from_slice(raw);
                Text::Plain(&joined)
            }
            Text::Json(raw) => {
                joined.extend_from_slice(raw);
                Text::Json(&joined)
            }
        };
        let half = escape(text, &mut self.clean);
        self.hold(strand, text.raw(), half);
        self.joined = joined;
        &self.clean
    }

    fn hold(&mut self, strand: Strand, text: &[u8], len: usize) {
        if len > 0 {
            let mut bytes = [0; 6];
            bytes[..len].copy_from_slice(&text[text.len() - len..]);
            self.halves.push((strand, Half { bytes, len: len as u8 }));
        }
    }

    /// Whether any half waits for its other.
    pub fn are_holding(&self) -> bool {
        !self.halves.is_empty()
    }

    /// Gives up a half whose other half did not come; what is to be told in its place. To be asked
    /// until there is none, when a text is over.
    pub fn give_up(&mut self) -> Option<(Strand, Text<'static>)> {
        let (strand, _) = self.halves.pop()?;
        Some((strand, Text::Plain(REPLACEMENT.as_bytes())))
    }

    /// Gives memory back.
    pub fn settle(&mut self) {
        for buffer in [&mut self.joined, &mut self.clean] {
            if buffer.capacity() > 1024 {
                *buffer = Vec::new();
            }
        }
    }
}

/// Whether a text can stand in a JSON string as it is and ends with a whole character.
fn is_clean(text: Text<'_>) -> bool {
    let raw = text.raw();
    if std::str::from_utf8(raw).is_err() {
        return false;
    }
    match text {
        Text::Plain(raw) => raw.iter().all(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\'),
        Text::Json(raw) => {
            let mut rest = raw;
            while let Some(slash) = memchr::memchr(b'\\', rest) {
                if !matches!(
                    rest.get(slash + 1),
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
                ) {
                    return false;
                }
                rest = &rest[slash + 2..];
            }
            true
        }
    }
}

/// Appends `text` as the content of a JSON string, except for half a character at its end, whose
/// length it returns. Halves elsewhere and bytes that are no UTF-8 are replaced.
fn escape(text: Text<'_>, out: &mut Vec<u8>) -> usize {
    let json = matches!(text, Text::Json(_));
    let mut rest = text.raw();
    loop {
        let (valid, fault) = match std::str::from_utf8(rest) {
            Ok(valid) => (valid.as_bytes(), None),
            Err(error) => (&rest[..error.valid_up_to()], Some(error.error_len())),
        };
        let last = fault.is_none();
        let half = if json { escape_json(valid, last, out) } else { escape_plain(valid, out) };
        match fault {
            None => return half,
            Some(None) => return rest.len() - valid.len(),
            Some(Some(len)) => {
                out.extend_from_slice(REPLACEMENT.as_bytes());
                rest = &rest[valid.len() + len..];
            }
        }
    }
}

fn escape_plain(text: &[u8], out: &mut Vec<u8>) -> usize {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[HEX[high], HEX[low]]);
            }
            _ => out.push(byte),
        }
    }
    0
}

/// Copies the content of a JSON string; returns the length of a high surrogate at its very end, if
/// the text ends there, and leaves it out.
fn escape_json(text: &[u8], last: bool, out: &mut Vec<u8>) -> usize {
    let mut rest = text;
    while let Some(slash) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..slash]);
        rest = &rest[slash..];
        let taken = match rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                out.extend_from_slice(&rest[..2]);
                2
            }
            Some(b'u') => match unit(rest) {
                Some(0xD800..0xDC00) if matches!(unit(&rest[6..]), Some(0xDC00..0xE000)) => {
                    out.extend_from_slice(&rest[..12]);
                    12
                }
                Some(0xD800..0xDC00) if last && rest.len() == 6 => return 6,
                Some(0xD800..0xE000) => {
                    out.extend_from_slice(REPLACEMENT.as_bytes());
                    6
                }
                Some(_) => {
                    out.extend_from_slice(&rest[..6]);
                    6
                }
                None => {
                    out.extend_from_slice(REPLACEMENT.as_bytes());
                    2
                }
            },
            // No escape of JSON's: the character behind the backslash stays.
            _ => {
                out.extend_from_slice(REPLACEMENT.as_bytes());
                1
            }
        };
        rest = &rest[taken..];
    }
    out.extend_from_slice(rest);
    0
}

/// The UTF-16 unit of an escape `\uXXXX` at the start of `text`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits
        .iter()
        .try_fold(0, |unit: u16, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

/// Appends what the content of a JSON string says. Halves of characters and what is no escape are
/// replaced.
pub fn push_plain(content: &[u8], out: &mut Vec<u8>) {
    let mut rest = content;
    while let Some(slash) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..slash]);
        rest = &rest[slash..];
        let simple = match rest.get(1) {
            Some(&byte @ (b'"' | b'\\' | b'/')) => Some(byte),
            Some(b'b') => Some(0x08),
            Some(b'f') => Some(0x0c),
            Some(b'n') => Some(b'\n'),
            Some(b'r') => Some(b'\r'),
            Some(b't') => Some(b'\t'),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            rest = &rest[2..];
            continue;
        }
        let (character, taken) = match unit(rest) {
            Some(high @ 0xD800..0xDC00) => match unit(&rest[6..]) {
                Some(low @ 0xDC00..0xE000) => {
                    let code = 0x10000 + (u32::from(high - 0xD800) << 10) + u32::from(low - 0xDC00);
                    (char::from_u32(code), 12)
                }
                _ => (None, 6),
            },
            Some(unit) => (char::from_u32(u32::from(unit)), 6),
            None => (None, 1),
        };
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[taken..];
    }
    out.extend_from_slice(rest);
}

/// Whether every text of a frame stands on its own: valid UTF-8 without half a pair of surrogates.
pub fn is_whole(frame: &[u8]) -> bool {
    if std::str::from_utf8(frame).is_err() {
        return false;
    }
    let mut rest = frame;
    while let Some(slash) = memchr::memchr(b'\\', rest) {
        rest = &rest[slash..];
        let taken = match unit(rest) {
            Some(0xD800..0xDC00) if matches!(unit(&rest[6..]), Some(0xDC00..0xE000)) => 12,
            Some(0xD800..0xE000) => return false,
            Some(_) => 6,
            None => 2,
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Strand = Strand { kind: StrandKind::Answer, choice: 0, call: 0 };

    /// What the pieces say when each goes out on its own.
    fn told(pieces: &[Text<'_>]) -> String {
        let mut joints = Joints::default();
        let mut text = String::new();
        let mut tell = |content: &[u8]| {
            let content = std::str::from_utf8(content).expect("valid UTF-8");
            let piece: String = serde_json::from_str(&format!("\"{content}\"")).expect("JSON");
            let mut plain = Vec::new();
            push_plain(content.as_bytes(), &mut plain);
            assert_eq!(plain, piece.as_bytes());
            text.push_str(&piece);
        };
        for &piece in pieces {
            tell(joints.join(ANSWER, piece));
        }
        while let Some((strand, text)) = joints.give_up() {
            assert_eq!(strand, ANSWER);
            tell(text.raw());
        }
        text
    }

    #[test]
    fn characters_cut_between_frames_come_out_whole() {
        let json = |pieces: &[&'static str]| {
            told(&pieces.iter().map(|piece| Text::Json(piece.as_bytes())).collect::<Vec<_>>())
        };
        assert_eq!(json(&[r"a\uD83D", r"\uDE00b"]), "a😀b");
        assert_eq!(json(&[r"\ud83d", "", r"\ude00"]), "😀");
        assert_eq!(json(&[r"\ud83d", "x"]), "\u{fffd}x");
        assert_eq!(json(&[r"\ud83d", r"\ud83d", r"\ude00"]), "\u{fffd}😀");
        assert_eq!(json(&[r"\ud83d"]), "\u{fffd}");
        assert_eq!(json(&[r"\ude00\ud83d-\uD83D\uDE00\u0041"]), "\u{fffd}\u{fffd}-😀A");
        assert_eq!(json(&[r#"\n\t\"\\\/\b\f\r"#]), "\n\t\"\\/\u{8}\u{c}\r");
        assert_eq!(json(&[r"\x\u12"]), "\u{fffd}x\u{fffd}12");
        assert_eq!(json(&[r"\\ud83d"]), r"\ud83d");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let plain = |pieces: &[&'static [u8]]| {
            told(&pieces.iter().map(|piece| Text::Plain(piece)).collect::<Vec<_>>())
        };
        assert_eq!(plain(&[b"\xe4\xbd", b"\xa0"]), "你");
        assert_eq!(plain(&[b"\xf0", b"\x9f\x98", b"\x80!"]), "😀!");
        assert_eq!(plain(&[b"a\xffb", b"\x80"]), "a\u{fffd}b\u{fffd}");
        assert_eq!(plain(&[b"\xe4\xbd", b"x"]), "\u{fffd}x");
        assert_eq!(plain(&[b"\xe4\xbd"]), "\u{fffd}");
        assert_eq!(plain(&[b"\"\\\n\r\t\0\x1f\x7f"]), "\"\\\n\r\t\0\u{1f}\u{7f}");
        assert_eq!(told(&[Text::Json(b"\\ud83d"), Text::Plain(b"\\ude00")]), "\u{fffd}\\ude00");
    }

    #[test]
    fn a_frame_with_half_a_pair_is_not_whole() {
        assert!(is_whole("{\"a\":\"\\ud83d\\ude00 😀 \\n \\\\ud83d\"}".as_bytes()));
        assert!(!is_whole(br#"{"a":"\ud83d"}"#) && !is_whole(br#"{"a":"\uDE00"}"#));
        assert!(!is_whole(b"\xe4\xbd") && is_whole(br#"\"#));
    }

    proptest::proptest! {
        /// However a text is escaped and cut, it comes out as it was.
        #[test]
        fn text_out_is_text_in(text in "[a\"\\\\\n\u{0}-\u{1f}é你\u{2028}😀𝄞]{0,30}",
                               cuts in proptest::collection::vec(0.0..1.0_f64, 0..6),
                               ascii in proptest::bool::ANY) {
            let mut units: Vec<Vec<u8>> = Vec::new();
            for character in text.chars() {
                if ascii {
                    let escaped = character.encode_utf16(&mut [0; 2]).iter()
                        .map(|unit| format!("\\u{unit:04X}").into_bytes()).collect::<Vec<_>>();
                    units.extend(escaped);
                } else {
                    let escaped = serde_json::to_string(&character).expect("JSON");
                    let content = &escaped.as_bytes()[1..escaped.len() - 1];
                    // An escape is not cut; the bytes of a character may be.
                    if content[0] == b'\\' { units.push(content.to_vec()); }
                    else { units.extend(content.iter().map(|&byte| vec![byte])); }
                }
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| (cut * units.len() as f64) as usize).collect();
            at.extend([0, units.len()]);
            at.sort_unstable();
            let pieces: Vec<Vec<u8>> = at.windows(2).map(|pair| units[pair[0]..pair[1]].concat()).collect();
            let json: Vec<_> = pieces.iter().map(|piece| Text::Json(piece)).collect();
            proptest::prop_assert_eq!(told(&json), text.clone());
            let bytes = text.as_bytes();
            let pieces: Vec<_> = bytes.chunks(1 + cuts.len()).map(Text::Plain).collect();
            proptest::prop_assert_eq!(told(&pieces), text.clone());
        }

        #[test]
        fn no_bytes_make_it_panic_or_leave_what_is_no_text(
            pieces in proptest::collection::vec(proptest::collection::vec(
                proptest::sample::select(b"\\uD83dE0\"n\xe4\xbd\xa0\xff\x01".to_vec()), 0..20), 0..5),
            json in proptest::bool::ANY,
        ) {
            let pieces: Vec<_> = pieces.iter().map(|piece| {
                if json { Text::Json(piece) } else { Text::Plain(piece) }
            }).collect();
            if !json || pieces.iter().all(|piece| !piece.raw().contains(&b'"') && !piece.raw().contains(&1)) {
                told(&pieces);
            }
        }
    }
}
