//! One direction of an exchange: bytes as received on one side become bytes to send on the other.
//!
//! ```text
//!  received -> body decoder -> frame scanner -> release -> framing -> queued
//! ```
//!
//! *Release* is the one decision here: an event stream is released frame by frame, so that a
//! heartbeat or an error can stand between any two bytes that were sent, and a cut stream never
//! shows half an event; any other body is released as it comes.
//!
//! *Framing* costs no copy. Where both sides speak chunked and the upstream's chunks end where
//! frames end, which is how providers write, the upstream's own framing is sent on with the
//! payload as it lies in the buffer: one contiguous range, however many chunks it holds. Anything
//! else (a frame over several chunks, chunk extensions, other framing) becomes one chunk of ours
//! around the ranges of payload.

use std::ops::Range;

use super::write_buffer::{LINE_BYTES_MAX, WriteBuffer};
use crate::dialect::Dialect;
use crate::http1::body::{BodyDecoder, BodyError, Step};
use crate::http1::chunked::encode_chunk_line;
use crate::limits::READ_BUFFER_BYTES;
use crate::sse::BOM;
use crate::sse::scanner::Scanner;

/// How the body is framed on the side it is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// HTTP/1.1 chunks.
    Chunked,
    /// As it is: a length was announced, or the connection's close ends it.
    Plain,
}

/// Limits of one stream, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// Queued bytes at which reading pauses.
    pub high: usize,
    /// Queued bytes at which it resumes.
    pub low: usize,
    /// Bytes of a frame that is held until it is whole; a longer one is passed on in pieces.
    pub frame_max: usize,
}

/// What a stream has carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// Frames that ended.
    pub frames: u64,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes queued for the other side, without framing and without frames of our own.
    pub bytes_out: u64,
    /// Crossings of the high-water mark.
    pub pauses: u32,
}

#[derive(Debug)]
struct Events {
    scanner: Scanner,
    dialect: Dialect,
    /// The first bytes of the frame in progress, for telling the dialect's last event.
    prefix: [u8; Dialect::TERMINAL_PREFIX_BYTES],
    prefix_len: usize,
    /// The dialect's last event has passed.
    terminal: bool,
    /// A frame above the limit is on its way in pieces; nothing may be inserted until it ends.
    overlong: bool,
    /// A frame of our own went out before any payload.
    own_first: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Stream {
    buffer: WriteBuffer,
    decoder: BodyDecoder,
    outgoing: Outgoing,
    /// Present for event streams.
    events: Option<Events>,
    marks: Marks,
    carried: Carried,
    /// Position up to which received bytes have been dealt with: queued, or framing that is gone.
    released: u64,
    /// `released` is between two upstream chunks, and all framing since is canonical.
    clean: bool,
    /// Payload after `released`, in order; adjacent ranges are one.
    pending: Vec<Range<u64>>,
    paused: bool,
    ended: bool,
    /// The end is queued; nothing may follow it.
    finished: bool,
    /// Payload bytes that were dropped: a byte order mark behind a frame of our own.
    dropped: u64,
    /// A copy of the payload, for sending it again.
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    payload: Vec<u8>,
    bytes_max: usize,
}

impl Kept {
    /// Keeps more payload; false where that would be too much.
    fn take(&mut self, payload: &[u8]) -> bool {
        if self.payload.len() + payload.len() > self.bytes_max {
            return false;
        }
        self.payload.extend_from_slice(payload);
        true
    }
}

/// Ranges of payload one release may have; a body in more pieces (one-byte chunks) is moved
/// together instead.
const PENDING_RANGES_MAX: usize = 24;

impl Stream {
    /// A stream that passes every byte on as it comes.
    pub fn opaque(decoder: BodyDecoder, outgoing: Outgoing, marks: Marks) -> Self {
        Self {
            buffer: WriteBuffer::default(),
            clean: outgoing == Outgoing::Chunked && decoder.at_boundary(),
            decoder,
            outgoing,
            events: None,
            marks,
            carried: Carried::default(),
            released: 0,
            pending: Vec::new(),
            paused: false,
            ended: false,
            finished: false,
            dropped: 0,
            kept: None,
        }
    }

    /// The same stream, keeping a copy of its payload as long as that has at most `bytes_max`
    /// bytes, so that it can be [restarted](Self::restart).
    #[must_use]
    pub fn keeping(mut self, bytes_max: usize) -> Self {
        self.kept = Some(Kept { payload: Vec::new(), bytes_max });
        self
    }

    /// The copy of the payload so far, while there is one.
    pub fn kept(&self) -> Option<&[u8]> {
        self.kept.as_ref().map(|kept| kept.payload.as_slice())
    }

    /// Begins again for another receiver: what was queued is forgotten, and the payload so far is
    /// queued afresh. Without a copy it does nothing and returns false.
    pub fn restart(&mut self) -> bool {
        let Some(kept) = &self.kept else { return false };
        let payload: Box<[u8]> = kept.payload.as_slice().into();
        self.buffer.clear();
        self.pending.clear();
        self.clean = false;
        self.paused = false;
        self.finished = false;
        self.push_frame(payload);
        if self.ended {
            self.finish();
        }
        true
    }

    /// An event stream: whole frames only.
    pub fn events(
        decoder: BodyDecoder,
        outgoing: Outgoing,
        marks: Marks,
        dialect: Dialect,
    ) -> Self {
        let events = Events {
            scanner: Scanner::default(),
            dialect,
            prefix: [0; Dialect::TERMINAL_PREFIX_BYTES],
            prefix_len: 0,
            terminal: false,
            overlong: false,
            own_first: false,
        };
        Self { events: Some(events), ..Self::opaque(decoder, outgoing, marks) }
    }

    /// Room to receive into.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.room()
    }

    /// Takes `bytes` that were received elsewhere (behind a head, in the head's buffer); returns
    /// how many it took, at least one.
    ///
    /// # Errors
    /// As [`received`](Self::received).
    pub fn receive_copy(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let room = self.buffer.room();
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        let unused = self.received(n)?;
        Ok(n - unused)
    }

    /// Takes `n` bytes written to the start of [`room`](Self::room) as received, and queues what
    /// may be sent. Returns how many bytes at their end lie behind the end of the body.
    ///
    /// # Errors
    /// The body's framing is broken; what came before the fault is queued.
    pub fn received(&mut self, n: usize) -> Result<usize, BodyError> {
        let first = self.buffer.received(n);
        let mut at = 0;
        // Positions: the end of the last frame seen, and the last place between two chunks that
        // is also the end of a frame.
        let mut boundary = self.released;
        let mut clean_to = None;
        let result = loop {
            // A body with a length is over with its last byte; only asking the decoder tells.
            if self.ended || (at == n && !self.decoder.is_done()) {
                break Ok(n - at);
            }
            let bytes = &self.buffer.fresh(first)[at..];
            match self.decoder.step(bytes) {
                Ok(Step::Data(len)) => {
                    let payload = first + at as u64;
                    let scanned = match &mut self.events {
                        Some(events) => {
                            let (frames, end) = events.take(&bytes[..len]);
                            self.carried.frames += frames;
                            end
                        }
                        None => len,
                    };
                    if scanned > 0 {
                        boundary = payload + scanned as u64;
                    }
                    if let Some(kept) = &mut self.kept
                        && !kept.take(&bytes[..len])
                    {
                        self.kept = None;
                    }
                    at += len;
                    if self.pending.len() == PENDING_RANGES_MAX {
                        // Positions mean nothing across a join: what may go out goes before it.
                        if let Some(position) = clean_to.take() {
                            self.release_clean(position);
                        }
                        self.release_to(boundary.min(payload));
                        self.join_pending();
                    }
                    let before = self.carried.bytes_in;
                    self.carried.bytes_in += len as u64;
                    self.hold(payload..first + at as u64);
                    if before < BOM.len() as u64 {
                        self.drop_mark();
                    }
                }
                Ok(Step::Framing(len)) => {
                    at += len;
                    let position = first + at as u64;
                    if self.decoder.at_boundary() && self.at_frame_boundary() {
                        if self.pending.is_empty() {
                            self.released = position;
                            self.clean = self.outgoing == Outgoing::Chunked;
                        } else if self.clean && self.decoder.plain() {
                            clean_to = Some(position);
                            self.pending.clear();
                        }
                    }
                    self.clean &= self.decoder.plain();
                }
                Ok(Step::End(len)) => {
                    at += len;
                    self.ended = true;
                    // The last chunk is not part of a clean range: the end is ours to tell.
                    boundary = first + at as u64;
                }
                Ok(Step::NeedMore) => break Ok(0),
                Err(error) => break Err(error),
            }
        };
        self.ended |= result.is_err();
        self.release(boundary, clean_to, first + n as u64);
        result
    }

    /// Queues what may go out, and says what is still wanted of the bytes before `received`.
    fn release(&mut self, boundary: u64, clean_to: Option<u64>, received: u64) {
        if let Some(position) = clean_to {
            self.release_clean(position);
        }
        self.release_to(boundary);
        // What stands between pieces of payload (chunk extensions) takes memory like them.
        let span = (received - self.held_from(received)) as usize;
        let too_long = self.held() > self.marks.frame_max
            || span > self.marks.frame_max.saturating_add(READ_BUFFER_BYTES);
        if too_long || self.is_overlong() {
            self.release_overlong();
        }
        self.buffer.hold_from(self.held_from(received));
        if self.buffer.queued() >= self.marks.high && !self.paused {
            self.paused = true;
            self.carried.pauses += 1;
        }
    }

    /// Notes payload that was received.
    fn hold(&mut self, range: Range<u64>) {
        if let Some(last) = self.pending.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        self.pending.push(range);
    }

    /// Drops the stream's byte order mark, just received, behind a frame of our own: there a
    /// reader would take it for the start of a field's name.
    fn drop_mark(&mut self) {
        let first = self.events.as_ref().is_some_and(|events| events.own_first);
        let whole = self.held() as u64 == self.carried.bytes_in && self.held() >= BOM.len();
        if !first || !whole || !self.buffer.starts_with(&self.pending, BOM) {
            return;
        }
        for _ in BOM {
            self.pending[0].start += 1;
            if self.pending[0].is_empty() {
                self.pending.remove(0);
            }
        }
        self.dropped = BOM.len() as u64;
        self.clean = false;
    }

    /// Puts scattered payload into one buffer of its own, so that a body in tiny chunks cannot
    /// make the queue longer than its bytes.
    fn join_pending(&mut self) {
        self.clean = false;
        self.buffer.compact(&mut self.pending);
    }

    /// Sends on the upstream's own chunks up to `position`.
    fn release_clean(&mut self, position: u64) {
        let payload: u64 = self.pending.iter().map(|range| range.end - range.start).sum();
        debug_assert!(self.pending.iter().all(|range| range.start >= position));
        self.carried.bytes_out = self.carried.bytes_in - payload - self.dropped;
        self.buffer.push_raw(self.released..position);
        self.released = position;
    }

    /// Queues the payload before `boundary`, as one chunk where the other side wants chunks.
    fn release_to(&mut self, boundary: u64) {
        let payload: u64 = self
            .pending
            .iter()
            .map(|range| boundary.min(range.end).saturating_sub(range.start))
            .sum();
        if payload == 0 {
            return;
        }
        self.carried.bytes_out += payload;
        self.begin_chunk(payload as usize);
        let mut whole = 0;
        for range in &mut self.pending {
            let end = range.end.min(boundary);
            if range.start < end {
                self.buffer.push_raw(range.start..end);
                range.start = end;
            }
            whole += usize::from(range.start == range.end);
        }
        self.pending.drain(..whole);
        self.end_chunk();
        self.released = boundary;
        self.clean = false;
    }

    fn release_overlong(&mut self) {
        let end = self.pending.last().map_or(self.released, |range| range.end);
        self.release_to(end);
        let at_boundary = self.at_frame_boundary();
        if let Some(events) = &mut self.events {
            events.overlong = !at_boundary;
        }
    }

    /// The position from which received bytes are still wanted. A clean range yet to come is sent
    /// with its framing, so that is held as well.
    fn held_from(&self, received: u64) -> u64 {
        match self.pending.first() {
            _ if self.clean && !self.ended => self.released,
            Some(range) => range.start,
            None => received,
        }
    }

    fn held(&self) -> usize {
        self.pending.iter().map(|range| (range.end - range.start) as usize).sum()
    }

    fn at_frame_boundary(&self) -> bool {
        self.events.as_ref().is_none_or(|events| events.scanner.at_boundary())
    }

    /// Whether a frame above the limit is being passed on in pieces.
    pub fn is_overlong(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.overlong)
    }

    /// Queues a frame of our own (heartbeat, error) between two frames. Returns false, and
    /// queues nothing, while an over-long frame is on its way or behind the end.
    pub fn insert(&mut self, frame: &[u8]) -> bool {
        if self.is_overlong() || self.finished || frame.is_empty() {
            return false;
        }
        let Some(events) = &mut self.events else { return false };
        events.own_first |= self.carried.bytes_out == 0;
        self.push_frame(frame.into());
        true
    }

    /// Queues payload of our own, framed.
    fn push_frame(&mut self, payload: Box<[u8]>) {
        if payload.is_empty() {
            return;
        }
        self.begin_chunk(payload.len());
        self.buffer.push_own(payload);
        self.end_chunk();
    }

    /// What goes before so many bytes of payload.
    fn begin_chunk(&mut self, bytes: usize) {
        if self.outgoing == Outgoing::Chunked {
            let mut line = [0; LINE_BYTES_MAX];
            let len = encode_chunk_line(bytes, &mut line);
            self.buffer.push_line(&line[..len]);
        }
    }

    /// What goes behind it.
    fn end_chunk(&mut self) {
        if self.outgoing == Outgoing::Chunked {
            self.buffer.push_static(b"\r\n");
        }
    }

    /// The body is over because its connection closed, which is how it ends.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Ends the body in order: what is held goes out as it stands (the bytes are not ours to
    /// drop; a parser discards an unfinished event), then the last chunk.
    pub fn finish(&mut self) {
        let end = self.pending.last().map_or(self.released, |range| range.end);
        self.release_to(end);
        self.buffer.hold_nothing();
        self.finished = true;
        if self.outgoing == Outgoing::Chunked {
            self.buffer.push_static(b"0\r\n\r\n");
        }
        self.finished = true;
    }

    /// Gives up what is held: half an event of a broken body must not go out.
    pub fn discard_held(&mut self) {
        self.pending.clear();
        self.clean = false;
        self.buffer.hold_nothing();
    }

    /// The bytes to send.
    pub fn buffer(&self) -> &WriteBuffer {
        &self.buffer
    }

    /// Takes `n` queued bytes as sent; true when this lets reading resume.
    pub fn sent(&mut self, n: usize) -> bool {
        self.buffer.sent(n);
        if self.paused && self.buffer.queued() <= self.marks.low {
            self.paused = false;
            return true;
        }
        false
    }

    /// Gives memory back before waiting.
    pub fn settle(&mut self) {
        self.buffer.settle();
        if self.pending.is_empty() && self.pending.capacity() > 4 {
            self.pending = Vec::new();
        }
    }

    /// Whether more may be read: the body goes on and the queue is below its mark. A held frame
    /// alone never stops reading, or it could not become whole.
    pub fn wants_more(&self) -> bool {
        let full = self.buffer.queued() > 0 && self.buffer.is_full(self.marks.high);
        !(self.ended || self.paused || full)
    }

    /// Whether the body is over (in order or by a fault).
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The body's decoder.
    pub fn decoder(&self) -> &BodyDecoder {
        &self.decoder
    }

    /// Whether it is an event stream.
    pub fn is_events(&self) -> bool {
        self.events.is_some()
    }

    /// What has been carried so far.
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// Whether the dialect's last event has passed, or the dialect has none.
    pub fn is_finished_by_dialect(&self) -> bool {
        self.events.as_ref().is_none_or(|events| events.terminal || !events.dialect.has_terminal())
    }

    /// Whether the dialect's last event has passed.
    pub fn is_finished_by_dialect_event(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.terminal)
    }

    /// Whether the body is empty from the start (no framing, or a length of 0).
    pub fn nothing_to_come(&self) -> bool {
        self.decoder.is_done()
    }

    /// The stream's dialect, as known by now.
    pub fn dialect(&self) -> Option<Dialect> {
        self.events.as_ref().map(|events| events.dialect)
    }
}

impl Events {
    /// Scans payload; returns the frames that ended in it and the offset after the last.
    fn take(&mut self, payload: &[u8]) -> (u64, usize) {
        let scan = self.scanner.scan(payload);
        if scan.frames > 0 {
            let start = if scan.last_continued { 0 } else { scan.last };
            if !scan.last_continued {
                self.prefix_len = 0;
            }
            self.keep_prefix(&payload[start..scan.end]);
            let prefix = &self.prefix[..self.prefix_len];
            if self.dialect == Dialect::Generic
                && let Some(dialect) = Dialect::from_first_frame(prefix)
            {
                self.dialect = dialect;
            }
            self.terminal |= self.dialect.is_terminal(prefix);
        }
        if scan.end > 0 {
            self.prefix_len = 0;
            self.overlong = false;
        }
        self.keep_prefix(&payload[scan.end..]);
        (u64::from(scan.frames), scan.end)
    }

    fn keep_prefix(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(self.prefix.len() - self.prefix_len);
        self.prefix[self.prefix_len..self.prefix_len + n].copy_from_slice(&bytes[..n]);
        self.prefix_len += n;
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::http1::chunked::ChunkedDecoder;
    use crate::limits::WRITE_SLICES_MAX;

    const MARKS: Marks = Marks { high: 1 << 20, low: 1 << 19, frame_max: 4096 };

    /// Takes everything queued.
    fn drain(stream: &mut Stream) -> Vec<u8> {
        let mut out = Vec::new();
        while stream.buffer().queued() > 0 {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let used = stream.buffer().gather(&mut slices);
            let sent: Vec<u8> = slices[..used].iter().flat_map(|s| s.iter().copied()).collect();
            stream.sent(sent.len());
            out.extend(sent);
        }
        stream.settle();
        out
    }

    fn receive(stream: &mut Stream, mut bytes: &[u8]) -> Result<(), BodyError> {
        while !bytes.is_empty() && !stream.is_ended() {
            let taken = stream.receive_copy(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The payload of a chunked body, and whether it ended.
    fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut decoder = ChunkedDecoder::default();
        let mut payload = Vec::new();
        loop {
            match decoder.step(bytes).expect("our framing is right") {
                Step::Framing(n) => bytes = &bytes[n..],
                Step::Data(n) => {
                    payload.extend_from_slice(&bytes[..n]);
                    bytes = &bytes[n..];
                }
                Step::End(_) => return (payload, true),
                Step::NeedMore => return (payload, false),
            }
        }
    }

    fn chunks(parts: &[&[u8]], ext: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            out.extend_from_slice(format!("{:x}{ext}\r\n", part.len()).as_bytes());
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    fn chunked_events() -> Stream {
        let decoder = BodyDecoder::Chunked(ChunkedDecoder::default());
        Stream::events(decoder, Outgoing::Chunked, MARKS, Dialect::OpenAiChat)
    }

    #[test]
    fn chunks_that_hold_whole_frames_are_sent_on_as_they_are() {
        let body = chunks(&[b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"], "");
        let mut stream = chunked_events();
        receive(&mut stream, &body).expect("in order");
        stream.finish();
        assert_eq!(drain(&mut stream), body);
        assert!(stream.is_ended() && stream.is_finished_by_dialect());
        assert_eq!((stream.carried().frames, stream.carried().bytes_out), (3, 32));
    }

    #[test]
    fn every_pair_of_splits_keeps_payload_frames_and_atomicity() {
        let frames: &[&[u8]] = &[b"data: a\n\n", b": c\r\n\r\n", b"data: [DONE]\n\n"];
        let payload = frames.concat();
        let together = [payload.as_slice()];
        let bytes: Vec<&[u8]> = payload.chunks(1).collect();
        let layouts: [&[&[u8]]; 4] =
            [frames, &together, &[&payload[..5], &payload[5..20], &payload[20..]], &bytes];
        for (layout, ext) in layouts.iter().flat_map(|layout| [(layout, ""), (layout, ";x")]) {
            let body = chunks(layout, ext);
            for a in 0..=body.len() {
                for b in [a, (a + 3).min(body.len()), (a + 17).min(body.len())] {
                    let mut stream = chunked_events();
                    let mut out = Vec::new();
                    for part in [&body[..a], &body[a..b], &body[b..]] {
                        receive(&mut stream, part).expect("in order");
                        out.extend(drain(&mut stream));
                        let (sent, _) = unchunk(&out);
                        // 15: the CR of a blank line ends its frame without waiting for LF.
                        let whole = [0, 9, 15, 16, 30].contains(&sent.len());
                        assert!(whole || stream.is_ended(), "half a frame went out: {sent:?}");
                    }
                    stream.finish();
                    out.extend(drain(&mut stream));
                    assert_eq!(unchunk(&out), (payload.clone(), true), "split at {a}, {b}");
                    assert_eq!(stream.carried().frames, 3);
                    assert!(stream.is_finished_by_dialect());
                    assert_eq!(stream.buffer().footprint(), 0, "a waiting stream holds nothing");
                }
            }
        }
    }

    #[test]
    fn a_frame_above_the_limit_passes_in_pieces_and_nothing_gets_between() {
        let huge = [b"data: ".as_slice(), &[b'x'; 20_000], b"\n\n"].concat();
        let mut stream = chunked_events();
        let body = chunks(&[&huge, b"data: 2\n\n"], "");
        receive(&mut stream, &body[..10_000]).expect("in order");
        assert!(stream.is_overlong() && !stream.insert(b": beat\n\n"));
        let mut out = drain(&mut stream);
        assert!(out.len() > 9_000, "it does not wait for its end");
        receive(&mut stream, &body[10_000..]).expect("in order");
        assert!(!stream.is_overlong());
        stream.finish();
        out.extend(drain(&mut stream));
        assert_eq!(unchunk(&out), ([huge.as_slice(), b"data: 2\n\n"].concat(), true));
    }

    #[test]
    fn frames_of_our_own_stand_between_frames_and_half_an_event_is_given_up() {
        for outgoing in [Outgoing::Chunked, Outgoing::Plain] {
            let mut stream = Stream::events(BodyDecoder::Close, outgoing, MARKS, Dialect::Generic);
            receive(&mut stream, b"data: 1\n\ndata: ha").expect("in order");
            assert!(stream.insert(b": beat\n\n"));
            stream.discard_held();
            let out = drain(&mut stream);
            let payload = if outgoing == Outgoing::Chunked { unchunk(&out).0 } else { out };
            assert_eq!(payload, b"data: 1\n\n: beat\n\n");
        }
    }

    #[test]
    fn every_payload_byte_counts_once_in_tiny_chunks_too() {
        let payload = b"data: a\n\n".repeat(20);
        let parts: Vec<&[u8]> = payload.chunks(1).collect();
        let mut stream = chunked_events();
        receive(&mut stream, &chunks(&parts, ";e")).expect("in order");
        stream.finish();
        drain(&mut stream);
        let carried = stream.carried();
        assert_eq!((carried.bytes_in, carried.bytes_out), (180, 180));
    }

    #[test]
    fn marks_pause_once_and_resume_once() {
        let marks = Marks { high: 1000, low: 500, frame_max: 4096 };
        let mut stream = Stream::opaque(BodyDecoder::Close, Outgoing::Plain, marks);
        receive(&mut stream, &[7; 999]).expect("in order");
        assert!(stream.wants_more());
        receive(&mut stream, &[7; 1]).expect("in order");
        assert!(!stream.wants_more());
        assert!(!stream.sent(499));
        assert!(stream.sent(1), "at the low mark");
        assert!(!stream.sent(1), "only once");
        assert!(stream.wants_more());
        assert_eq!(stream.carried().pauses, 1);
    }

    #[test]
    fn a_held_frame_alone_never_stops_reading() {
        let marks = Marks { high: 4096, low: 2048, frame_max: 1 << 20 };
        let mut stream =
            Stream::events(BodyDecoder::Close, Outgoing::Chunked, marks, Dialect::Generic);
        receive(&mut stream, &[b'x'; 500_000]).expect("in order");
        assert!(stream.wants_more() && stream.buffer().queued() == 0);
    }

    #[test]
    fn a_kept_body_can_begin_again() {
        for split in 0..5 {
            let decoder = BodyDecoder::Chunked(ChunkedDecoder::default());
            let mut stream = Stream::opaque(decoder, Outgoing::Chunked, MARKS).keeping(100);
            let body = chunks(&[b"abc", b"de"], ";x");
            let at = body.len() * split / 4;
            receive(&mut stream, &body[..at]).expect("in order");
            if stream.is_ended() {
                stream.finish();
            }
            let first = stream.buffer().queued() / 2;
            stream.sent(first);
            assert!(stream.restart());
            receive(&mut stream, &body[at..]).expect("in order");
            if at < body.len() {
                stream.finish();
            }
            assert_eq!(unchunk(&drain(&mut stream)), (b"abcde".to_vec(), true), "at {at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_chunking_and_any_reads_carry_the_same_payload(
            payload in proptest::collection::vec(
                proptest::sample::select(b"ab:d \r\n\n\n".to_vec()), 0..3000),
            sizes in proptest::collection::vec(1_usize..200, 1..40),
            reads in proptest::collection::vec(1_usize..500, 1..40),
            ext in proptest::bool::ANY,
        ) {
            let mut rest = payload.as_slice();
            let mut parts = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (part, more) = rest.split_at((*size).min(rest.len()));
                parts.push(part);
                rest = more;
            }
            let body = chunks(&parts, if ext { ";e" } else { "" });
            let mut stream = chunked_events();
            let (mut out, mut at) = (Vec::new(), 0);
            for (turn, read) in reads.iter().cycle().enumerate() {
                if at == body.len() { break; }
                let to = (at + read).min(body.len());
                receive(&mut stream, &body[at..to]).expect("in order");
                at = to;
                if turn % 3 != 0 {
                    out.extend(drain(&mut stream));
                }
            }
            stream.finish();
            out.extend(drain(&mut stream));
            let (got, ended) = unchunk(&out);
            proptest::prop_assert!(ended && got == payload);
            proptest::prop_assert_eq!(stream.carried().bytes_out, payload.len() as u64);
        }
    }
}
