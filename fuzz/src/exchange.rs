//! One direction of an exchange as a list of operations: the upstream's bytes arrive in pieces,
//! the downstream takes some, frames are inserted, either side ends. What goes out, read by the
//! naive decoder, must be the payload in order with the inserted frames at frame boundaries; a
//! frame goes out as soon as it is whole and never in part; memory keeps to its marks.

use std::io::IoSlice;

use millstream::dialect::Dialect;
use millstream::flow::stream::{Marks, Outgoing, Stream};
use millstream::http1::body::{BodyDecoder, Eof};
use millstream::http1::head::BodyFraming;
use millstream::limits::{READ_BUFFER_BYTES, WRITE_SLICES_MAX};
use millstream::sse::BOM;

use super::Choices;
use super::naive::{Places, Stop, unchunk};

/// Operations of one run; a bound on its time, as are the sizes below.
const OPERATIONS_MAX: usize = 200;
const WIRE_BYTES_MAX: usize = 1 << 20;

struct Run {
    stream: Stream,
    framing: BodyFraming,
    outgoing: Outgoing,
    events: bool,
    marks: Marks,
    /// What the upstream sends, and how much of it has arrived.
    wire: Vec<u8>,
    arrived: usize,
    /// The start of the chunk that is arriving, and the payload before it.
    chunk: (usize, usize),
    /// The payload that has arrived.
    places: Places,
    /// Sent bytes not checked yet.
    out: Vec<u8>,
    /// Payload sent and checked.
    checked: usize,
    /// Frames of our own not checked yet, each with the payload before it.
    inserted: Vec<(usize, Vec<u8>)>,
    inserted_bytes: usize,
    /// One of them came before any payload: a byte order mark behind it is dropped.
    own_first: bool,
    beats: u32,
    finished: bool,
    failed: bool,
}

/// See the module's description.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut run = Run::new(&mut choices);
    for _ in 0..OPERATIONS_MAX {
        if choices.is_empty() || run.failed {
            break;
        }
        run.operate(&mut choices);
    }
    run.end();
}

impl Run {
    fn new(choices: &mut Choices<'_>) -> Self {
        let (kind, size) = (choices.byte(), choices.byte());
        let framing = match kind & 3 {
            0 => BodyFraming::Close,
            1 => BodyFraming::Length(choices.number() as u64),
            _ => BodyFraming::Chunked,
        };
        let outgoing = if kind & 4 == 0 { Outgoing::Chunked } else { Outgoing::Plain };
        let high = [1, 100, 4096, 70_000][usize::from(size & 3)];
        let frame_max = [16, 40, 5000, 100_000][usize::from(size >> 2 & 3)];
        let marks = Marks { high, low: high / 2, frame_max };
        let events = kind & 8 == 0;
        let decoder = BodyDecoder::new(framing);
        let stream = if events {
            let dialect = Dialect::ALL[usize::from(kind >> 4) % Dialect::ALL.len()];
            Stream::events(decoder, outgoing, marks, dialect)
        } else {
            let kept_max = if kind & 16 == 0 { 64 } else { 1 << 20 };
            Stream::opaque(decoder, outgoing, marks).keeping(kept_max)
        };
        let mut run = Self {
            stream,
            framing,
            outgoing,
            events,
            marks,
            wire: Vec::new(),
            arrived: 0,
            chunk: (0, 0),
            places: Places::default(),
            out: Vec::new(),
            checked: 0,
            inserted: Vec::new(),
            inserted_bytes: 0,
            own_first: false,
            beats: 0,
            finished: false,
            failed: false,
        };
        if run.stream.nothing_to_come() {
            run.stream.end();
            run.finish();
        }
        run
    }

    fn operate(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 12 {
            0 => {
                let n = usize::from(choices.byte());
                let payload = choices.bytes(n).to_vec();
                self.write_payload(&payload, choices.byte());
            }
            1 => {
                let payload = pattern(choices);
                self.write_payload(&payload, choices.byte());
            }
            2 => {
                let n = usize::from(choices.byte() % 32);
                self.wire.extend_from_slice(choices.bytes(n));
            }
            3 => self.receive(1 + usize::from(choices.byte())),
            4 => self.receive(1 + choices.number()),
            5 => self.receive(usize::MAX),
            6 => self.take(usize::from(choices.byte())),
            7 => self.take(choices.number()),
            8 => self.take_all(),
            9 => {
                self.beats += 1;
                self.insert(format!(": beat {}\n\n", self.beats).as_bytes());
            }
            10 if choices.byte().is_multiple_of(4) => self.fail(),
            10 => self.stream.settle(),
            _ if self.framing == BodyFraming::Chunked && choices.byte().is_multiple_of(4) => {
                self.wire.extend_from_slice(b"0\r\nA: b\r\n\r\n");
            }
            _ => self.restart(),
        }
        self.check_memory();
    }

    /// The upstream sends payload; `style` says in what chunks.
    fn write_payload(&mut self, payload: &[u8], style: u8) {
        if self.framing != BodyFraming::Chunked {
            self.wire.extend_from_slice(payload);
        } else {
            let size = [usize::MAX, 1, 7, 1000][usize::from(style & 3)];
            for part in payload.chunks(size) {
                let n = part.len();
                let line = match style >> 2 & 7 {
                    0 | 1 => format!("{n:x}"),
                    2 => format!("{n:X}"),
                    3 => format!("{n:09x}"),
                    4 => format!("{n:x};a=\"b\""),
                    5 => format!("{n:x} ;{}", "e".repeat(usize::from(style) * 8)),
                    6 => format!("{n:x}\t"),
                    _ => format!("{n:08x}"),
                };
                self.wire.extend_from_slice(line.as_bytes());
                self.wire.extend_from_slice(b"\r\n");
                self.wire.extend_from_slice(part);
                self.wire.extend_from_slice(b"\r\n");
            }
        }
        self.wire.truncate(WIRE_BYTES_MAX);
    }

    /// Up to `n` bytes arrive, as long as the stream wants any.
    fn receive(&mut self, n: usize) {
        let to = self.arrived.saturating_add(n).min(self.wire.len());
        while self.arrived < to && self.stream.wants_more() && !self.failed {
            let offered = &self.wire[self.arrived..to];
            let room = self.stream.room().len();
            match self.stream.receive_copy(offered) {
                Ok(taken) => {
                    assert!(taken > 0 && taken <= room, "no progress");
                    self.arrived += taken;
                    self.note_arrival();
                }
                Err(_) => {
                    self.arrived += room.min(offered.len());
                    assert_eq!(self.note_payload(), Stop::Fault, "an error without a fault");
                    self.fail();
                }
            }
        }
    }

    fn note_arrival(&mut self) {
        match self.note_payload() {
            Stop::Fault => panic!("a fault went unnoticed"),
            Stop::Partial => assert!(!self.stream.is_ended()),
            Stop::Done(at) => {
                assert_eq!(at, self.arrived, "bytes behind the body were taken");
                assert!(self.stream.is_ended());
                self.finish();
            }
        }
        let carried = self.stream.carried();
        assert_eq!(carried.bytes_in as usize, self.payload());
        if self.events {
            assert_eq!(carried.frames, self.places.at(self.payload()).frames);
        }
    }

    fn payload(&self) -> usize {
        self.places.stream().len()
    }

    /// Reads what has arrived.
    fn note_payload(&mut self) -> Stop {
        let known = self.payload();
        let bytes = &self.wire[..self.arrived];
        match self.framing {
            BodyFraming::None => Stop::Done(0),
            BodyFraming::Close => {
                self.places.extend(&bytes[known..]);
                Stop::Partial
            }
            BodyFraming::Length(length) => {
                let length = length as usize;
                self.places.extend(&bytes[known..bytes.len().min(length)]);
                if bytes.len() >= length { Stop::Done(length) } else { Stop::Partial }
            }
            BodyFraming::Chunked => {
                let (at, before) = self.chunk;
                let body = unchunk(&bytes[at..]);
                self.places.extend(&body.payload[known - before..]);
                self.chunk = (at + body.boundary.0, before + body.boundary.1);
                match body.stop {
                    Stop::Done(n) => Stop::Done(at + n),
                    stop => stop,
                }
            }
        }
    }

    fn finish(&mut self) {
        self.stream.finish();
        self.finished = true;
    }

    /// The downstream takes up to `n` bytes.
    fn take(&mut self, n: usize) {
        let mut left = n.min(self.stream.buffer().queued());
        while left > 0 {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let buffer = self.stream.buffer();
            let used = buffer.gather(&mut slices);
            let before = self.out.len();
            for slice in &slices[..used] {
                let n = slice.len().min(left - (self.out.len() - before));
                self.out.extend_from_slice(&slice[..n]);
            }
            let sent = self.out.len() - before;
            assert!(sent > 0, "queued bytes that cannot be had");
            if let Some(single) = buffer.single() {
                assert_eq!(&single[..sent], &self.out[before..]);
            }
            let was_paused = !self.stream.wants_more();
            if self.stream.sent(sent) {
                assert!(was_paused && self.stream.buffer().queued() <= self.marks.low);
            }
            left -= sent;
        }
        if self.stream.buffer().queued() == 0 {
            self.check_sent();
        }
    }

    fn take_all(&mut self) {
        self.take(usize::MAX);
        self.stream.settle();
        if !self.stream.is_ended() {
            assert!(self.stream.wants_more(), "nothing would ever move again");
        }
        self.check_sent();
    }

    /// Everything queued has been sent: reads it back.
    fn check_sent(&mut self) {
        let out = std::mem::take(&mut self.out);
        let got = if self.outgoing == Outgoing::Chunked {
            let body = unchunk(&out);
            if self.finished {
                assert!(out.is_empty() || body.stop == Stop::Done(out.len()), "{:?}", body.stop);
            } else {
                assert_eq!((body.stop, body.boundary.0), (Stop::Partial, out.len()));
            }
            body.payload
        } else {
            out
        };
        let upto = self.sent_payload();
        let mut expected = Vec::new();
        let mark = if self.drops_mark() { BOM.len() } else { 0 };
        for (position, frame) in self.inserted.drain(..) {
            let from = self.checked.max(mark).min(position);
            expected.extend_from_slice(&self.places.stream()[from..position]);
            expected.extend_from_slice(&frame);
            self.checked = position;
        }
        let from = self.checked.max(mark).min(upto);
        expected.extend_from_slice(&self.places.stream()[from..upto]);
        self.checked = upto;
        assert!(got == expected, "{got:?} went out instead of {expected:?}");
        self.check_released(upto);
    }

    /// Whole frames only, and every whole frame.
    fn check_released(&self, sent: usize) {
        let payload = self.payload();
        if !self.events || self.finished {
            assert_eq!(sent, payload);
            return;
        }
        let boundary = self.places.last_between(payload);
        assert!(sent >= boundary, "{sent} sent of {boundary} bytes in whole frames");
        if sent > boundary {
            let begun = payload - boundary;
            let wire_max = self.marks.frame_max + READ_BUFFER_BYTES;
            let large = begun > self.marks.frame_max || self.arrived > wire_max;
            assert!(large, "{begun} bytes of a frame did not wait for its end");
        }
    }

    fn drops_mark(&self) -> bool {
        self.own_first && self.places.stream().starts_with(BOM)
    }

    /// The payload that has been dealt with.
    fn sent_payload(&self) -> usize {
        let mark = if self.drops_mark() { BOM.len() } else { 0 };
        self.stream.carried().bytes_out as usize + mark
    }

    /// A frame of our own; it may be refused only within an over-long frame or at the end.
    fn insert(&mut self, frame: &[u8]) -> bool {
        let position = self.sent_payload();
        let between = self.places.at(position).between;
        let taken = self.stream.insert(frame);
        assert_eq!(taken, self.events && between && !self.finished, "at {position}");
        if taken {
            self.own_first |= self.stream.carried().bytes_out == 0;
            self.inserted.push((position, frame.to_vec()));
            self.inserted_bytes += frame.len();
        }
        taken
    }

    /// The exchange fails: what is held is given up, and the error is told where it can be.
    fn fail(&mut self) {
        self.failed = true;
        self.stream.discard_held();
        self.insert(b"data: {\"error\":{}}\n\n");
    }

    fn restart(&mut self) {
        if self.events || self.failed || !self.stream.restart(Vec::new()) {
            return;
        }
        assert_eq!(self.stream.kept(), Some(self.places.stream()));
        self.out.clear();
        self.checked = 0;
    }

    /// Everything that is left arrives, the upstream closes, and the downstream takes all.
    fn end(&mut self) {
        while !self.failed && !self.finished && self.arrived < self.wire.len() {
            self.take_all();
            self.receive(usize::MAX);
            self.check_memory();
        }
        if !self.failed && !self.finished {
            if self.stream.decoder().at_eof() == Eof::Complete {
                assert_eq!(self.framing, BodyFraming::Close);
                self.stream.end();
                self.finish();
            } else {
                self.fail();
            }
        }
        self.take_all();
        assert_eq!(self.stream.buffer().footprint(), 0, "memory is kept for nothing");
    }

    fn check_memory(&mut self) {
        let queued = self.stream.buffer().queued();
        let held_max = self.marks.frame_max + READ_BUFFER_BYTES;
        let queued_max = self.marks.high + held_max + READ_BUFFER_BYTES + self.inserted_bytes + 64;
        // A restarted body is queued whole.
        let kept = self.stream.kept().map_or(0, <[u8]>::len);
        assert!(queued <= queued_max + kept, "{queued} queued of {queued_max}");
        let footprint = self.stream.buffer().footprint();
        let footprint_max = self.marks.high + held_max + 4 * READ_BUFFER_BYTES;
        assert!(footprint <= footprint_max, "{footprint} taken of {footprint_max}");
    }
}

/// Payload of a kind and size that few bytes of input can make.
fn pattern(choices: &mut Choices<'_>) -> Vec<u8> {
    let (kind, n) = (choices.byte(), choices.number());
    let unit: &[u8] = match kind % 8 {
        0 => b"data: token\n\n",
        1 => b"data: token\r\n\r\n",
        2 => b"event: a\rdata: b\r\r",
        3 => b"x",
        4 => b"\n",
        5 => b"data: a\ndata: b\n",
        6 => b": c\n\ndata: [DONE]\n\n",
        _ => b"\xEF\xBB\xBFdata: mark\n\n",
    };
    let n = if kind & 8 == 0 { n % 64 } else { n };
    unit.iter().copied().cycle().take(n).collect()
}
