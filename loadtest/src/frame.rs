//! The frames: an OpenAI-shaped chunk whose content carries the scheduled send time, the frame's
//! number and the stream's, at a fixed place. Written by the origin, checked byte for byte by the
//! client.

use std::fmt;

const LEAD: &str = concat!(
    r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","#,
    r#""choices":[{"index":0,"delta":{"content":""#
);
const TAIL: &str = "\"}}]}\n\n";
/// Marks the stamp in frames that a gateway has written anew.
const MARK: &[u8] = br#""content":""#;
/// The same in a page's tokens, each a JSON string, and the event that ends them.
const TOKEN: &[u8] = b"data: \"";
const TOKENS_DONE: &[u8] = b"event: done\n";
/// `<time 16 hex>.<sequence 8 hex>.<stream 8 hex>.`
const STAMP: usize = 16 + 1 + 8 + 1 + 8 + 1;
/// The stream's last frame.
pub const TERMINAL: &[u8] = b"data: [DONE]\n\n";
/// What SSE adds to the JSON.
const AROUND: usize = 8;
/// The least JSON that a frame can hold.
pub const SIZE_MIN: usize = LEAD.len() + STAMP + TAIL.len() - AROUND;
/// A lenient reader's longest frame.
const CARRY_MAX: usize = 1 << 20;

/// A frame of one size, to be stamped.
#[derive(Debug)]
pub struct Template {
    chunk: Vec<u8>,
    /// Where the frame lies in the chunk.
    start: usize,
    /// Bytes of the frame.
    pub len: usize,
}

impl Template {
    /// The template of frames with `size` bytes of JSON.
    pub fn new(size: usize) -> Self {
        let pad = size.saturating_sub(SIZE_MIN);
        let len = SIZE_MIN + pad + AROUND;
        let mut chunk = format!("{len:x}\r\n").into_bytes();
        let start = chunk.len();
        chunk.extend_from_slice(LEAD.as_bytes());
        chunk.extend_from_slice(b"0000000000000000.00000000.00000000.");
        chunk.extend((0..pad).map(|at| b'a' + (at % 26) as u8));
        chunk.extend_from_slice(TAIL.as_bytes());
        chunk.extend_from_slice(b"\r\n");
        Self { chunk, start, len }
    }

    /// Appends one chunk of one frame.
    pub fn write(&self, out: &mut Vec<u8>, time: u64, sequence: u32, id: u32) {
        let at = out.len() + self.start + LEAD.len();
        out.extend_from_slice(&self.chunk);
        hex(&mut out[at..at + 16], time);
        hex(&mut out[at + 17..at + 25], u64::from(sequence));
        hex(&mut out[at + 26..at + 34], u64::from(id));
    }

    fn frame(&self) -> &[u8] {
        &self.chunk[self.start..self.start + self.len]
    }
}

fn hex(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn unhex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A frame's bytes are not those sent.
    Bytes,
    /// A frame is missing, doubled or out of order.
    Sequence,
    /// A frame of another stream.
    Stream,
    /// Something after the terminal frame.
    AfterTerminal,
    /// The body ended without its terminal frame or without some frames.
    Truncated,
    /// The connection ended before any byte of a response.
    Unanswered,
    /// The connection ended within the response.
    Cut,
    /// The response's framing is broken.
    Framing,
    /// TLS failed.
    Tls,
    /// The connection could not be made.
    Connect,
    /// Nothing came to an end in the time given.
    Stuck,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Bytes => "bytes differ",
            Self::Sequence => "sequence broken",
            Self::Stream => "frame of another stream",
            Self::AfterTerminal => "bytes after the terminal",
            Self::Truncated => "ended without its terminal",
            Self::Unanswered => "closed without an answer",
            Self::Cut => "connection cut",
            Self::Framing => "framing broken",
            Self::Tls => "TLS failed",
            Self::Connect => "not connected",
            Self::Stuck => "not ended in time",
        };
        out.write_str(text)
    }
}

/// Checks the frames of one stream as they come in, in pieces of any size.
#[derive(Debug)]
pub struct Checker {
    id: u32,
    next: u32,
    carry: Vec<u8>,
    done: bool,
    lenient: bool,
}

impl Checker {
    /// A checker of stream `id`; a lenient one accepts frames written anew around the stamp.
    pub fn new(id: u32, lenient: bool) -> Self {
        Self { id, next: 0, carry: Vec::new(), done: false, lenient }
    }

    /// Frames seen.
    pub fn frames(&self) -> u32 {
        self.next
    }

    /// Whether the stream ended as it should, having had `frames` (0: any number).
    pub fn complete(&self, frames: u32) -> bool {
        self.done && self.carry.is_empty() && (frames == 0 || frames == self.next)
    }

    /// Takes payload; `seen` is told every frame's scheduled time.
    pub fn feed(
        &mut self,
        template: &Template,
        mut bytes: &[u8],
        seen: &mut impl FnMut(u64),
    ) -> Result<(), Fault> {
        let len = template.len;
        while !bytes.is_empty() {
            if self.carry.is_empty() && !self.lenient {
                while bytes.len() >= len && bytes[6] == b'{' {
                    self.check(template, &bytes[..len], seen)?;
                    bytes = &bytes[len..];
                }
                if bytes.is_empty() {
                    return Ok(());
                }
            }
            bytes = self.gather(template, bytes, seen)?;
        }
        Ok(())
    }

    /// Moves bytes of one frame into the carry and judges it once it is whole.
    fn gather<'a>(
        &mut self,
        template: &Template,
        bytes: &'a [u8],
        seen: &mut impl FnMut(u64),
    ) -> Result<&'a [u8], Fault> {
        let want = match (self.carry.first().or_else(|| bytes.first()), self.carry.get(6)) {
            (Some(b'd'), Some(b'{')) if !self.lenient => template.len,
            (Some(b'd'), Some(_)) if !self.lenient => TERMINAL.len(),
            (Some(b'd'), None) if !self.lenient => 7,
            _ => self.carry.len() + 1,
        };
        let take = (want - self.carry.len()).min(bytes.len());
        self.carry.extend_from_slice(&bytes[..take]);
        let whole = self.carry.ends_with(b"\n\n");
        if whole || self.carry.len() >= template.len.max(CARRY_MAX) {
            let frame = std::mem::take(&mut self.carry);
            self.whole(template, &frame, seen)?;
            self.carry = frame;
            self.carry.clear();
        } else if !self.lenient && self.carry.len() == want && want != 7 && self.carry[0] == b'd' {
            return Err(Fault::Bytes);
        }
        Ok(&bytes[take..])
    }

    fn whole(
        &mut self,
        template: &Template,
        frame: &[u8],
        seen: &mut impl FnMut(u64),
    ) -> Result<(), Fault> {
        if self.done {
            return Err(Fault::AfterTerminal);
        }
        if frame.starts_with(b":") {
            return Ok(()); // a heartbeat
        }
        if frame == TERMINAL || self.lenient && frame.starts_with(TOKENS_DONE) {
            self.done = true;
            return Ok(());
        }
        if !self.lenient {
            return self.check(template, frame, seen);
        }
        let marked = || frame.windows(MARK.len()).position(|at| at == MARK);
        let found = if frame.starts_with(TOKEN) {
            Some(TOKEN.len())
        } else {
            marked().map(|at| at + MARK.len())
        };
        let stamp = found.and_then(|at| frame.get(at..at + STAMP));
        stamp.map_or(Ok(()), |stamp| self.stamp(stamp, seen)) // a frame of the gateway's own
    }

    fn check(
        &mut self,
        template: &Template,
        frame: &[u8],
        seen: &mut impl FnMut(u64),
    ) -> Result<(), Fault> {
        let model = template.frame();
        let (from, to) = (LEAD.len(), LEAD.len() + STAMP);
        let same = frame.len() == model.len()
            && frame[..from] == model[..from]
            && frame[to..] == model[to..];
        if self.done {
            return Err(Fault::AfterTerminal);
        }
        if !same {
            return Err(Fault::Bytes);
        }
        self.stamp(&frame[from..to], seen)
    }

    fn stamp(&mut self, stamp: &[u8], seen: &mut impl FnMut(u64)) -> Result<(), Fault> {
        if [stamp[16], stamp[25], stamp[34]] != *b"..." {
            return Err(Fault::Bytes);
        }
        let time = unhex(&stamp[..16]).ok_or(Fault::Bytes)?;
        let sequence = unhex(&stamp[17..25]).ok_or(Fault::Bytes)?;
        let id = unhex(&stamp[26..34]).ok_or(Fault::Bytes)?;
        if id != u64::from(self.id) {
            return Err(Fault::Stream);
        }
        if sequence != u64::from(self.next) {
            return Err(Fault::Sequence);
        }
        self.next += 1;
        seen(time);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(template: &Template, times: &[(u64, u32)], id: u32) -> Vec<u8> {
        let mut frames = Vec::new();
        for &(time, sequence) in times {
            let mut chunk = Vec::new();
            template.write(&mut chunk, time, sequence, id);
            let start = template.start;
            frames.extend_from_slice(&chunk[start..start + template.len]);
        }
        frames.extend_from_slice(TERMINAL);
        frames
    }

    fn run(pieces: &[&[u8]], lenient: bool) -> Result<(Vec<u64>, bool), Fault> {
        let template = Template::new(200);
        let mut checker = Checker::new(7, lenient);
        let mut times = Vec::new();
        for piece in pieces {
            checker.feed(&template, piece, &mut |time| times.push(time))?;
        }
        Ok((times, checker.complete(3)))
    }

    #[test]
    fn a_pages_tokens_are_read_by_their_stamps() {
        let tokens = |numbers: [u32; 3]| {
            let mut told = b"event: start\ndata: \n\n".to_vec();
            for (time, sequence) in [11, 22, 33].into_iter().zip(numbers) {
                told.extend(
                    format!("data: \"{time:016x}.{sequence:08x}.00000007.abc\"\n\n").bytes(),
                );
            }
            told.extend_from_slice(b"event: done\ndata: \n\n");
            told
        };
        let told = tokens([0, 1, 2]);
        for cut in 0..told.len() {
            let read = run(&[&told[..cut], &told[cut..]], true);
            assert_eq!(read, Ok((vec![11, 22, 33], true)), "{cut}");
        }
        assert_eq!(run(&[&tokens([0, 2, 1])], true), Err(Fault::Sequence));
    }

    const THREE: [(u64, u32); 3] = [(11, 0), (22, 1), (33, 2)];

    #[test]
    fn a_frame_has_the_size_asked_for() {
        let template = Template::new(200);
        let mut chunk = Vec::new();
        template.write(&mut chunk, u64::MAX, u32::MAX, 0);
        assert_eq!((template.len, chunk.len()), (208, 214));
        assert!(chunk.starts_with(b"d0\r\ndata: {") && chunk.ends_with(b"}\n\n\r\n"));
        let json = &chunk[10..chunk.len() - 4];
        serde_json::from_slice::<serde_json::Value>(json).expect("JSON");
        assert_eq!(Template::new(0).len, SIZE_MIN + AROUND);
    }

    #[test]
    fn frames_are_seen_however_they_are_cut() {
        let bytes = payload(&Template::new(200), &THREE, 7);
        for lenient in [false, true] {
            for cut in 0..=bytes.len() {
                let seen = run(&[&bytes[..cut], &bytes[cut..]], lenient).expect("clean");
                assert_eq!(seen, (vec![11, 22, 33], true), "cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(run(&single, lenient).expect("clean").0.len(), 3);
        }
    }

    #[test]
    fn heartbeats_pass_uncounted() {
        let bytes = payload(&Template::new(200), &THREE, 7);
        let beaten = [b": ping\n\n", &bytes[..208], b":\n\n", &bytes[208..]].concat();
        assert_eq!(run(&[&beaten], false).expect("clean").0.len(), 3);
        let seen = run(&[b": ping\n\n", &bytes[..208], b":\n\n", &bytes[208..]], false);
        assert_eq!(seen.expect("clean"), (vec![11, 22, 33], true));
    }

    #[test]
    fn every_damage_is_noticed() {
        let template = Template::new(200);
        let good = payload(&template, &THREE, 7);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // The low bits of a send time may differ and still be one.
            let seen = run(&[&bad], false);
            let time = at < 624 && (LEAD.len()..LEAD.len() + 16).contains(&(at % 208));
            assert!(time || !seen.is_ok_and(|seen| seen.1), "byte {at}");
        }
        let lost = payload(&template, &[(1, 0), (3, 2)], 7);
        assert_eq!(run(&[&lost], false), Err(Fault::Sequence));
        let other = payload(&template, &THREE, 8);
        assert_eq!(run(&[&other], true), Err(Fault::Stream));
        let short = payload(&template, &THREE[..2], 7);
        assert!(!run(&[&short], false).expect("clean").1);
        assert!(!run(&[&good[..624]], false).expect("clean").1);
        assert_eq!(run(&[&good, &good], false), Err(Fault::AfterTerminal));
    }
}
