//! The frames: an OpenAI-shaped chunk whose content carries the scheduled send time, the frame's
//! number and the stream's, at a fixed place. Written by the origin, checked byte for byte by the
//! client.

use std::fmt;

use crate::numbered::{is_comment, undress};

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
    /// A frame of a resumable stream without a proper id.
    Id,
    /// A frame again, by its id.
    Duplicate,
    /// Frames missing, by their ids or as the system says.
    Gap,
    /// The system does not know a stream that is to go on.
    Unknown,
    /// A request to go on was answered otherwise.
    Refused,
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
            Self::Id => "without a proper id",
            Self::Duplicate => "frame doubled",
            Self::Gap => "frames missing",
            Self::Unknown => "stream unknown on coming back",
            Self::Refused => "refused on coming back",
        };
        out.write_str(text)
    }
}

/// How frames are expected to arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As the origin sent them.
    #[default]
    AsSent,
    /// Written anew around the stamp.
    Rewritten,
    /// As they were sent, an id before each: a stream that can be resumed.
    Numbered,
}

/// Checks the frames of one stream as they come in, in pieces of any size.
#[derive(Debug)]
pub struct Checker {
    id: u32,
    next: u32,
    carry: Vec<u8>,
    done: bool,
    form: Form,
    /// The name of a stream that can be resumed, once it is known.
    stream: String,
    /// Whether a frame came in the response at hand.
    begun: bool,
    /// Nanoseconds between frames, where their times are checked; and the first one's time.
    interval: f64,
    start: u64,
    /// The frame that was not as it should be.
    odd: Vec<u8>,
}

impl Checker {
    /// A checker of stream `id`.
    pub fn new(id: u32, form: Form) -> Self {
        Self {
            id,
            next: 0,
            carry: Vec::new(),
            done: false,
            form,
            stream: String::new(),
            begun: false,
            interval: 0.0,
            start: 0,
            odd: Vec::new(),
        }
    }

    /// The same for frames scheduled at `rate` a second: their times are checked as well, so that
    /// no byte is left unchecked. For streams that are seen from their first frame on.
    #[must_use]
    pub fn paced(self, rate: f64) -> Self {
        Self { interval: if rate > 0.0 { 1e9 / rate } else { 0.0 }, ..self }
    }

    /// Frames seen, the terminal one not counted.
    pub fn frames(&self) -> u32 {
        self.next
    }

    /// Whether the stream ended as it should, having had `frames` (0: any number).
    pub fn complete(&self, frames: u32) -> bool {
        let rest = self.carry.is_empty() || self.form == Form::Numbered && is_comment(&self.carry);
        self.done && rest && (frames == 0 || frames == self.next)
    }

    /// The name of a stream that can be resumed is this, as the head or an id says.
    ///
    /// # Errors
    /// `Fault::Stream` if it had another.
    pub fn name(&mut self, stream: &str) -> Result<(), Fault> {
        if self.stream.is_empty() {
            stream.clone_into(&mut self.stream);
        }
        if self.stream == stream { Ok(()) } else { Err(Fault::Stream) }
    }

    /// The id of the last whole frame, the terminal one included; nothing as long as the stream
    /// has no name.
    pub fn last_event_id(&self) -> Option<String> {
        (!self.stream.is_empty()).then(|| format!("{}.{}", self.stream, self.had()))
    }

    fn had(&self) -> u32 {
        self.next + u32::from(self.done)
    }

    /// The connection is gone: a frame begun does not count. Returns whether there was one.
    pub fn cut(&mut self) -> bool {
        let begun = !self.carry.is_empty();
        self.carry.clear();
        self.begun = false;
        begun
    }

    /// The beginning of the numbered frame that was not as it should be.
    pub fn odd(&self) -> Option<String> {
        (!self.odd.is_empty()).then(|| String::from_utf8_lossy(&self.odd).into_owned())
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
            if self.carry.is_empty() && self.form == Form::AsSent {
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
        let exact = self.form == Form::AsSent;
        let line = || bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()) + 1;
        let want = match (self.carry.first().or_else(|| bytes.first()), self.carry.get(6)) {
            (Some(b'd'), Some(b'{')) if exact => template.len,
            (Some(b'd'), Some(_)) if exact => TERMINAL.len(),
            (Some(b'd'), None) if exact => 7,
            _ => self.carry.len() + line(),
        };
        let take = (want - self.carry.len()).min(bytes.len());
        self.carry.extend_from_slice(&bytes[..take]);
        let whole = self.carry.ends_with(b"\n\n");
        if whole || self.carry.len() >= template.len.max(CARRY_MAX) {
            let frame = std::mem::take(&mut self.carry);
            if self.form == Form::Numbered {
                let judged = self.numbered(template, &frame, seen);
                judged.inspect_err(|_| self.odd = frame[..frame.len().min(200)].to_vec())?;
            } else {
                self.whole(template, &frame, seen)?;
            }
            self.carry = frame;
            self.carry.clear();
        } else if exact && self.carry.len() == want && want != 7 && self.carry[0] == b'd' {
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
        if frame == TERMINAL || self.form == Form::Rewritten && frame.starts_with(TOKENS_DONE) {
            self.done = true;
            return Ok(());
        }
        if self.form == Form::AsSent {
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

    /// Judges a frame with an id: the next of its stream, and the rest as it was sent.
    fn numbered(
        &mut self,
        template: &Template,
        frame: &[u8],
        seen: &mut impl FnMut(u64),
    ) -> Result<(), Fault> {
        let Some((id, rest)) = undress(frame, !self.begun)? else { return Ok(()) };
        self.name(id.stream)?;
        if id.number == 0 && !self.begun && rest.starts_with(b"retry:") {
            return Ok(()); // what goes before the first frame
        }
        self.begun = true;
        if id.number <= self.had() {
            return Err(Fault::Duplicate);
        }
        if id.number > self.had() + 1 {
            return Err(Fault::Gap);
        }
        if rest == TERMINAL && !self.done {
            self.done = true;
            return Ok(());
        }
        self.check(template, rest, seen)
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
        if self.next == 0 {
            self.start = time;
        } else if self.interval > 0.0 {
            let due = (f64::from(self.next) * self.interval) as u64;
            if time != self.start + due {
                return Err(Fault::Bytes);
            }
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

    fn run(pieces: &[&[u8]], form: Form) -> Result<(Vec<u64>, bool), Fault> {
        let template = Template::new(200);
        let mut checker = Checker::new(7, form);
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
            let read = run(&[&told[..cut], &told[cut..]], Form::Rewritten);
            assert_eq!(read, Ok((vec![11, 22, 33], true)), "{cut}");
        }
        assert_eq!(run(&[&tokens([0, 2, 1])], Form::Rewritten), Err(Fault::Sequence));
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
        for form in [Form::AsSent, Form::Rewritten] {
            for cut in 0..=bytes.len() {
                let seen = run(&[&bytes[..cut], &bytes[cut..]], form).expect("clean");
                assert_eq!(seen, (vec![11, 22, 33], true), "cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(run(&single, form).expect("clean").0.len(), 3);
        }
    }

    #[test]
    fn heartbeats_pass_uncounted() {
        let bytes = payload(&Template::new(200), &THREE, 7);
        let beaten = [b": ping\n\n", &bytes[..208], b":\n\n", &bytes[208..]].concat();
        assert_eq!(run(&[&beaten], Form::AsSent).expect("clean").0.len(), 3);
        let seen = run(&[b": ping\n\n", &bytes[..208], b":\n\n", &bytes[208..]], Form::AsSent);
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
            let seen = run(&[&bad], Form::AsSent);
            let time = at < 624 && (LEAD.len()..LEAD.len() + 16).contains(&(at % 208));
            assert!(time || !seen.is_ok_and(|seen| seen.1), "byte {at}");
        }
        let lost = payload(&template, &[(1, 0), (3, 2)], 7);
        assert_eq!(run(&[&lost], Form::AsSent), Err(Fault::Sequence));
        let other = payload(&template, &THREE, 8);
        assert_eq!(run(&[&other], Form::Rewritten), Err(Fault::Stream));
        let short = payload(&template, &THREE[..2], 7);
        assert!(!run(&[&short], Form::AsSent).expect("clean").1);
        assert!(!run(&[&good[..624]], Form::AsSent).expect("clean").1);
        assert_eq!(run(&[&good, &good], Form::AsSent), Err(Fault::AfterTerminal));
    }

    /// What a system sends of stream `s.1.e` from the frame behind `last` on: frames of 20 a
    /// second, the terminal one their last.
    fn body(template: &Template, frames: u32, last: u32) -> Vec<u8> {
        let mut out = b"retry: 1000\n".to_vec();
        for number in last + 1..=frames + 1 {
            if number % 2 == 0 {
                out.extend_from_slice(b": beat\n");
            }
            out.extend_from_slice(format!("id: s.1.e.{number}\n").as_bytes());
            if number > frames {
                out.extend_from_slice(TERMINAL);
            } else {
                let mut chunk = Vec::new();
                let due = 1_000 + u64::from(number - 1) * 50_000_000;
                template.write(&mut chunk, due, number - 1, 7);
                out.extend_from_slice(&chunk[template.start..template.start + template.len]);
            }
        }
        out
    }

    fn numbered() -> Checker {
        Checker::new(7, Form::Numbered).paced(20.0)
    }

    /// Comes back as often as there are `cuts`, each a number of bytes read of the response.
    fn through_cuts(template: &Template, cuts: &[usize]) -> (Vec<u64>, bool) {
        let (mut checker, mut times, mut last) = (numbered(), Vec::new(), 0);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let body = body(template, 3, last);
            let read = &body[..cut.min(body.len())];
            checker.feed(template, read, &mut |time| times.push(time)).expect("clean");
            if cut == usize::MAX {
                break;
            }
            // All that a client knows of where it was.
            checker.cut();
            let id = checker.last_event_id().unwrap_or_else(|| "s.1.e.0".into());
            last = crate::numbered::Id::parse(id.as_bytes()).expect("proper").number;
            if last == 4 {
                break; // told that the stream is over
            }
        }
        (times, checker.complete(3))
    }

    #[test]
    fn numbered_frames_are_seen_once_wherever_the_stream_is_cut() {
        let template = Template::new(200);
        let whole = vec![1_000, 50_001_000, 100_001_000];
        let len = body(&template, 3, 0).len();
        for cut in 0..=len {
            assert_eq!(through_cuts(&template, &[cut]), (whole.clone(), true), "cut at {cut}");
            let again = [cut, (cut * 7) % (len + 1), 3, (cut * 13) % 300];
            assert_eq!(through_cuts(&template, &again), (whole.clone(), true), "{again:?}");
        }
    }

    #[test]
    fn numbered_frames_are_seen_however_they_come() {
        let template = Template::new(200);
        let bytes = body(&template, 3, 0);
        for cut in 0..=bytes.len() {
            let (mut checker, mut seen) = (numbered(), 0);
            for piece in [&bytes[..cut], &bytes[cut..]] {
                checker.feed(&template, piece, &mut |_| seen += 1).expect("clean");
            }
            assert!(seen == 3 && checker.complete(3), "cut at {cut}");
        }
        let mut checker = numbered();
        bytes.chunks(1).for_each(|byte| {
            checker.feed(&template, byte, &mut |_| ()).expect("clean");
        });
        assert!(checker.complete(3) && !checker.complete(4));
        assert_eq!(checker.last_event_id().as_deref(), Some("s.1.e.4"));
        // A heartbeat behind the last frame, and a client that was told only of the name.
        checker.feed(&template, b": beat\n", &mut |_| ()).expect("clean");
        assert!(checker.complete(3));
        let mut checker = numbered();
        assert_eq!(checker.last_event_id(), None);
        checker.name("s.1.e").expect("the first");
        assert_eq!(checker.last_event_id().as_deref(), Some("s.1.e.0"));
        assert_eq!(checker.name("s.1.f"), Err(Fault::Stream));
        let opened = [b"id: s.1.e.0\nretry: 1000\n\n", &bytes[12..]].concat();
        checker.feed(&template, &opened, &mut |_| ()).expect("clean");
        assert!(checker.complete(3));
    }

    #[test]
    fn gaps_doubles_and_any_other_byte_are_noticed() {
        let template = Template::new(200);
        let good = body(&template, 3, 0);
        let judge = |bytes: &[u8]| {
            let mut checker = numbered();
            checker.feed(&template, bytes, &mut |_| ()).map(|()| checker.complete(3))
        };
        assert_eq!(judge(&good), Ok(true));
        let id = |number| {
            let id = format!("id: s.1.e.{number}\n").into_bytes();
            good.windows(id.len()).position(|at| *at == id[..]).expect("there")
        };
        let again = [&good[..id(2)], &good[id(1)..]].concat();
        assert_eq!(judge(&again), Err(Fault::Duplicate));
        let lost = [&good[..id(1)], &good[id(2)..]].concat();
        assert_eq!(judge(&lost), Err(Fault::Gap));
        let terminal = &good[id(4)..];
        assert_eq!(
            judge(&[&good, &b"id: s.1.e.5\n"[..], TERMINAL].concat()),
            Err(Fault::AfterTerminal)
        );
        assert_eq!(judge(&[&good[..], terminal].concat()), Err(Fault::Duplicate));
        assert_eq!(judge(&good[..id(4)]), Ok(false));
        for at in good.iter().enumerate().map(|(at, _)| at).skip(id(1)) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let line = bad[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            if good[line] == b':' && at > line && at < line + 6 {
                continue; // within a heartbeat
            }
            // The first id gives the name, the first frame the time that others are held to.
            assert!(judge(&bad) != Ok(true), "byte {at}");
        }
    }
}
