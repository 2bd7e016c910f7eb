//! What a seed stands for: an upstream's answer, how both sides behave in time, and the limits.

use std::time::Duration;

use fastrand::Rng;
use millstream::dialect::Dialect;
use millstream::flow::stream::{Marks, Outgoing};
use millstream::flow::timers::Timeouts;
use millstream::http1::head::BodyFraming;

/// What goes wrong at the upstream, at which byte of its body's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It closes there.
    Truncate(usize),
    /// It resets there.
    Reset(usize),
    /// What follows is no chunk.
    BadChunk(usize),
    /// It says nothing more.
    Silence(usize),
    /// It sends bytes behind its body.
    Extra,
}

/// How the client takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// All at once.
    Quick,
    /// So many bytes every so many milliseconds.
    Slow(usize, u64),
    /// Quickly, but after so many bytes nothing more.
    Stalls(usize),
    /// Nothing for so many milliseconds after so many bytes, then quickly.
    Pauses(usize, u64),
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) dialect: Dialect,
    pub(crate) outgoing: Outgoing,
    pub(crate) framing: BodyFraming,
    /// The body as it is written, up to its fault and with it.
    pub(crate) wire: Vec<u8>,
    /// The payload that is in `wire`.
    pub(crate) payload: Vec<u8>,
    /// The body is whole on the wire.
    pub(crate) whole: bool,
    /// The dialect's last event is in `payload`.
    pub(crate) terminal: bool,
    pub(crate) fault: Fault,
    /// When how many bytes of the wire arrive.
    pub(crate) arrivals: Vec<(Duration, usize)>,
    /// Bytes one read brings at most.
    pub(crate) recv_max: usize,
    /// What a turn of the loop costs.
    pub(crate) turn: Duration,
    pub(crate) taking: Taking,
    /// The client leaves then.
    pub(crate) leaves: Option<Duration>,
    /// The relay ends then.
    pub(crate) ends: Option<Duration>,
    pub(crate) marks: Marks,
    pub(crate) timeouts: Timeouts,
}

const DIALECTS: [Dialect; 6] = [
    Dialect::OpenAiChat,
    Dialect::OpenAiResponses,
    Dialect::Anthropic,
    Dialect::Gemini,
    Dialect::DashScope,
    Dialect::Generic,
];

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let dialect = DIALECTS[rng.usize(..DIALECTS.len())];
        let high = *rng.choice(&[4096, 8192, 20_000, 65_536]).expect("some");
        let low = if rng.bool() { high / 2 } else { rng.usize(0..high) };
        let frame_max = *rng.choice(&[1024, 4096, 30_000, 200_000]).expect("some");
        let marks = Marks { high, low, frame_max };
        let (payload, terminal_at) = payload(&mut rng, dialect, frame_max);
        let outgoing = if rng.u8(..8) == 0 { Outgoing::Plain } else { Outgoing::Chunked };
        let (framing, mut wire) = frame_body(&mut rng, &payload);
        let fault = fault(&mut rng, framing, wire.len());
        cut(&mut wire, fault);
        let (payload, whole) = match framing {
            BodyFraming::Chunked => super::check::unchunk(&wire),
            BodyFraming::Close => (wire.clone(), true),
            _ => (wire[..wire.len().min(payload.len())].to_vec(), wire.len() >= payload.len()),
        };
        let terminal = terminal_at.is_some_and(|at| payload.len() >= at);
        let arrivals = arrivals(&mut rng, wire.len());
        let ms = |rng: &mut Rng, range| Duration::from_millis(rng.u64(range));
        let timeouts = Timeouts {
            first_byte: ms(&mut rng, 200..3000),
            idle: (rng.u8(..4) > 0).then(|| ms(&mut rng, 100..4000)),
            stream: (rng.u8(..4) == 0).then(|| ms(&mut rng, 5..4000)),
            write: ms(&mut rng, 200..2000),
            heartbeat: (rng.u8(..4) > 0).then(|| ms(&mut rng, 20..1500)),
        };
        // Something must end a stream whose upstream falls silent or never ends.
        let timeouts = match (timeouts.idle, timeouts.stream, fault) {
            (None, None, Fault::Silence(_)) => {
                Timeouts { idle: Some(ms(&mut rng, 100..500)), ..timeouts }
            }
            _ => timeouts,
        };
        Self {
            dialect,
            outgoing,
            framing,
            wire,
            payload,
            whole,
            terminal,
            fault,
            arrivals,
            recv_max: *rng.choice(&[65_536, 65_536, 4096, 60]).expect("some"),
            turn: Duration::from_micros(rng.u64(1..200)),
            taking: taking(&mut rng),
            leaves: (rng.u8(..16) == 0).then(|| ms(&mut rng, 0..1500)),
            ends: (rng.u8(..24) == 0).then(|| ms(&mut rng, 0..1500)),
            marks,
            timeouts,
        }
    }
}

fn taking(rng: &mut Rng) -> Taking {
    match rng.u8(..10) {
        0..5 => Taking::Quick,
        5..8 => Taking::Slow(rng.usize(200..20_000), rng.u64(1..60)),
        8 => Taking::Stalls(rng.usize(..60_000)),
        _ => Taking::Pauses(rng.usize(..30_000), rng.u64(..3000)),
    }
}

/// An event stream, and at which byte the dialect's last event is over, if it is in there.
fn payload(rng: &mut Rng, dialect: Dialect, frame_max: usize) -> (Vec<u8>, Option<usize>) {
    let mut out = Vec::new();
    if rng.u8(..8) == 0 {
        out.extend_from_slice(b"\xef\xbb\xbf");
    }
    let eol: &[u8] = rng.choice([&b"\n"[..], b"\n", b"\r\n", b"\r"]).expect("some");
    let frames = if rng.u8(..10) == 0 { rng.usize(..400) } else { rng.usize(..60) };
    for _ in 0..frames {
        let text = match rng.u8(..40) {
            0 => rng.usize(..3 * frame_max.min(10_000)),
            1..6 => rng.usize(..1500),
            _ => rng.usize(..200),
        };
        let text = "x".repeat(text);
        let name = match dialect {
            Dialect::DashScope => "id:1|event:result|:HTTP_STATUS/200|data:",
            Dialect::Anthropic => "event: content_block_delta|data: ",
            Dialect::OpenAiResponses => "event: response.output_text.delta|data: ",
            _ if rng.u8(..5) == 0 => ": a comment|data: ",
            _ => "data: ",
        };
        let mut lines: Vec<String> = name.split('|').map(str::to_owned).collect();
        lines.last_mut().expect("one").push_str(&text);
        for line in lines {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(eol);
        }
        out.extend_from_slice(eol);
        if rng.u8(..20) == 0 {
            // More blank lines: a gap.
            out.extend_from_slice(eol);
        }
    }
    let last = match dialect {
        Dialect::OpenAiChat => "data: [DONE]",
        Dialect::OpenAiResponses => "event: response.completed|data: {}",
        Dialect::Anthropic => "event: message_stop|data: {\"type\":\"message_stop\"}",
        _ => "",
    };
    let terminal = !last.is_empty() && rng.u8(..5) > 0;
    if terminal {
        for line in last.split('|') {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(eol);
        }
        out.extend_from_slice(eol);
    } else if rng.u8(..4) == 0 {
        out.extend_from_slice(b"data: unfinished");
    }
    // The CR of a blank line ends it: the LF behind it is not waited for.
    let terminal_at = terminal.then(|| out.len() - usize::from(eol == b"\r\n"));
    (out, terminal_at)
}

fn frame_body(rng: &mut Rng, payload: &[u8]) -> (BodyFraming, Vec<u8>) {
    match rng.u8(..5) {
        0 => (BodyFraming::Length(payload.len() as u64), payload.to_vec()),
        1 => (BodyFraming::Close, payload.to_vec()),
        _ => {
            // By frames, by random cuts, or byte by byte; with extensions short and long.
            let by_frames = rng.bool();
            let most = *rng.choice(&[2, 100, 5000]).expect("some");
            let ext = match rng.u8(..12) {
                0..8 => 0,
                8..11 => 4,
                // Chunks that are nearly all extension, of a whole that stays small.
                _ => rng.usize(..4000).min(most * 100_000 / (payload.len() + 1)),
            };
            let ext = if ext == 0 { String::new() } else { format!(";{}", "e".repeat(ext)) };
            let between = super::check::boundaries(payload);
            let (mut wire, mut at) = (Vec::new(), 0);
            while at < payload.len() {
                let size = if by_frames {
                    let next = (at + 1..payload.len()).find(|to| between[*to]);
                    next.unwrap_or(payload.len()) - at
                } else {
                    rng.usize(1..most)
                };
                let part = &payload[at..payload.len().min(at + size)];
                wire.extend_from_slice(format!("{:x}{ext}\r\n", part.len()).as_bytes());
                wire.extend_from_slice(part);
                wire.extend_from_slice(b"\r\n");
                at += part.len();
            }
            let trailer = if rng.u8(..6) == 0 { "X-T: 1\r\n" } else { "" };
            wire.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
            (BodyFraming::Chunked, wire)
        }
    }
}

fn fault(rng: &mut Rng, framing: BodyFraming, len: usize) -> Fault {
    let at = rng.usize(..=len);
    match rng.u8(..12) {
        0 if framing == BodyFraming::Chunked => Fault::BadChunk(at),
        1 => Fault::Truncate(at),
        2 => Fault::Reset(at),
        3 => Fault::Silence(at),
        4 if framing != BodyFraming::Close => Fault::Extra,
        _ => Fault::None,
    }
}

/// Applies the fault to the wire.
fn cut(wire: &mut Vec<u8>, fault: Fault) {
    match fault {
        Fault::None => {}
        Fault::Extra => wire.extend_from_slice(b"HTTP/1.1 what?"),
        Fault::Truncate(at) | Fault::Reset(at) | Fault::Silence(at) => wire.truncate(at),
        Fault::BadChunk(at) => {
            // In a chunk this is payload up to the chunk's end; anywhere else it is nothing.
            wire.truncate(at);
            wire.extend_from_slice(&[b'z'; 1 << 15]);
        }
    }
}

fn arrivals(rng: &mut Rng, len: usize) -> Vec<(Duration, usize)> {
    let burst = *rng.choice(&[1, 40, 3000, 200_000]).expect("some");
    let gap = *rng.choice(&[0, 0, 3, 40]).expect("some");
    let (mut arrivals, mut at) = (Vec::new(), 0);
    let mut time = if rng.u8(..20) == 0 { rng.u64(..4000) } else { 0 };
    while at < len {
        let size = if arrivals.len() > 300 { len } else { rng.usize(1..=burst) }.min(len - at);
        time += match rng.u8(..200) {
            0 => rng.u64(..2500),
            _ => rng.u64(..=gap),
        };
        arrivals.push((Duration::from_millis(time), size));
        at += size;
    }
    arrivals
}
