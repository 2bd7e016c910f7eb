//! The ids of a resumable stream's events.
//!
//! ```text
//!  id: mYGr0wKlqfKj7eJdUe3nq1Zk.3.Fq2x9_Lw.1742
//!      └ name, 24 ────────────┘ │ └ epoch┘ └ sequence
//!                               └ core
//! ```
//!
//! The *name* cannot be guessed: 112 random bits, and before them the place where the stream is
//! kept, so that it is found without a search whose time would depend on what else is there. The
//! *core* is the worker that owns the stream, the *epoch* the process it runs in: after a restart
//! no old id can name a new stream. The *sequence* counts frames from 1.
//!
//! Letters, digits, `-`, `_` and `.` only, and at most [`EventId::BYTES_MAX`] bytes: with anything
//! else in `Last-Event-ID` a browser asks for leave first (Fetch Standard, section 2.2.2,
//! "CORS-unsafe request-header byte").

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Bytes of a name: four say where the stream is kept, the others are random.
const NAME_BYTES: usize = 18;
/// The same, written.
const NAME_CHARS: usize = NAME_BYTES / 3 * 4;
const EPOCH_CHARS: usize = 8;

/// The process: 48 random bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch([u8; 6]);

impl Epoch {
    /// The epoch of these bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

/// Which stream: what `X-Stream-Id` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId {
    /// The place where its owner keeps it.
    pub slot: u32,
    /// What nobody can guess.
    pub secret: [u8; NAME_BYTES - 4],
    /// The worker that owns it.
    pub core: u16,
    /// The process.
    pub epoch: Epoch,
}

/// A [`StreamId`] as it is written.
#[derive(Clone, Copy, Debug)]
pub struct StreamText {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
}

impl StreamText {
    /// Its longest form, in bytes.
    pub const BYTES_MAX: usize = NAME_CHARS + 1 + 5 + 1 + EPOCH_CHARS;

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl StreamId {
    /// As it is written: everything of an event's id before the sequence and its dot.
    pub fn text(&self) -> StreamText {
        let mut text = StreamText { bytes: [0; StreamText::BYTES_MAX], len: 0 };
        let mut name = [0; NAME_BYTES];
        name[..4].copy_from_slice(&self.slot.to_be_bytes());
        name[4..].copy_from_slice(&self.secret);
        let mut at = encode(&name, &mut text.bytes);
        text.bytes[at] = b'.';
        at += 1 + digits(u64::from(self.core), &mut text.bytes[at + 1..]);
        text.bytes[at] = b'.';
        at += 1 + encode(&self.epoch.0, &mut text.bytes[at + 1..]);
        text.len = at as u8;
        text
    }

    /// Reads one; `None` where it is none, or not written as [`text`](Self::text) writes it.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut parts = text.split(|byte| *byte == b'.');
        let id = Self::read_parts(&mut parts)?;
        parts.next().is_none().then_some(id)
    }

    fn read_parts<'t>(parts: &mut impl Iterator<Item = &'t [u8]>) -> Option<Self> {
        let name: [u8; NAME_BYTES] = decode(parts.next()?)?;
        let core = u16::try_from(number(parts.next()?)?).ok()?;
        let epoch = Epoch(decode(parts.next()?)?);
        let (slot, secret) = name.split_at(4);
        let slot = u32::from_be_bytes(slot.try_into().ok()?);
        Some(Self { slot, secret: secret.try_into().ok()?, core, epoch })
    }
}

/// Which frame of which stream: what `Last-Event-ID` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The stream.
    pub stream: StreamId,
    /// The frame's number, from 1; 0 is before the first.
    pub sequence: u64,
}

impl EventId {
    /// Its longest form, in bytes: 15 digits of sequence are 3,000 years at 10,000 frames a second.
    pub const BYTES_MAX: usize = 64;

    /// Reads one, or a stream's id alone, which is before its first frame. `None` where it is
    /// neither, or written in another way than we write it.
    pub fn read(text: &[u8]) -> Option<Self> {
        if text.len() > Self::BYTES_MAX {
            return None;
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let stream = StreamId::read_parts(&mut parts)?;
        let sequence = parts.next().map_or(Some(0), number)?;
        parts.next().is_none().then_some(Self { stream, sequence })
    }
}

/// Writes `bytes`, whose number is a multiple of three, in base64url (RFC 4648, section 5); returns
/// the length.
fn encode(bytes: &[u8], out: &mut [u8]) -> usize {
    debug_assert_eq!(bytes.len() % 3, 0);
    let mut at = 0;
    for three in bytes.chunks_exact(3) {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for shift in [18, 12, 6, 0] {
            out[at] = ALPHABET[(bits >> shift & 63) as usize];
            at += 1;
        }
    }
    at
}

fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    debug_assert_eq!(N % 3, 0);
    if text.len() != N / 3 * 4 {
        return None;
    }
    let mut out = [0; N];
    for (four, three) in text.chunks_exact(4).zip(out.chunks_exact_mut(3)) {
        let mut bits = 0;
        for byte in four {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        three.copy_from_slice(&bits.to_be_bytes()[1..]);
    }
    Some(out)
}

/// Writes a number; returns the length. `out` has room for it.
pub fn digits(mut number: u64, out: &mut [u8]) -> usize {
    let len = digits_len(number);
    for place in out[..len].iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
    len
}

/// The digits a number has.
pub const fn digits_len(number: u64) -> usize {
    match number.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

/// A number as [`digits`] writes it, and in no other way.
fn number(text: &[u8]) -> Option<u64> {
    let canonical = text.len() == 1 || text.first().is_some_and(|first| *first != b'0');
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    (canonical && digits).then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(slot: u32, secret: [u8; 14], core: u16, epoch: [u8; 6]) -> StreamId {
        StreamId { slot, secret, core, epoch: Epoch::new(epoch) }
    }

    #[test]
    fn the_longest_id_has_the_bytes_it_may_have_and_no_other_ones() {
        let id = stream(u32::MAX, [0xFF; 14], u16::MAX, [0xFF; 6]);
        let text = format!("{}.{}", id.text().as_str(), 10_u64.pow(15) - 1);
        assert!(text.len() <= EventId::BYTES_MAX, "{text}");
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
    }

    #[test]
    fn what_is_written_in_another_way_names_nothing() {
        let id = stream(7, *b"fourteen bytes", 3, *b"epoch!").text();
        let id = id.as_str();
        let first = id.split_once('.').map_or(id, |(name, _)| name);
        assert_eq!(EventId::read(id.as_bytes()).map(|id| id.sequence), Some(0));
        for text in [
            String::new(),
            "42".to_owned(),
            format!("{id}."),
            format!("{id}.x"),
            format!("{id}.-1"),
            format!("{id}.01"),
            format!("{id}.1.2"),
            format!("{id}.18446744073709551616"),
            format!("{id}.1 "),
            format!(" {id}.1"),
            id.replace(".3.", ".03."),
            id.replace(".3.", ".65536."),
            id.replace(first, &first[1..]),
            id.replace(first, &format!("{first}A")),
            id.replace(first, &format!("{}+", &first[1..])),
            format!("{id}.{}", "1".repeat(64)),
        ] {
            assert_eq!(EventId::read(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            slot: u32, secret: [u8; 14], core: u16, epoch: [u8; 6], sequence in 0..10_u64.pow(15),
        ) {
            let stream = stream(slot, secret, core, epoch);
            let mut text = stream.text().as_bytes().to_vec();
            prop_assert_eq!(StreamId::read(&text), Some(stream));
            let mut number = [0; 20];
            let len = digits(sequence, &mut number);
            text.push(b'.');
            text.extend_from_slice(&number[..len]);
            let written = sequence.to_string();
            prop_assert_eq!(&text[text.len() - len..], written.as_bytes());
            prop_assert_eq!(EventId::read(&text), Some(EventId { stream, sequence }));
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(id) = EventId::read(&text) {
                prop_assert!(text.starts_with(id.stream.text().as_bytes()));
            }
        }
    }
}
