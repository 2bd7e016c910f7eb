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
//!
//! A stream that is told in other words ([`Stream::shaped`]) goes another way from the decoder on:
//! each whole frame to its [`Shaper`], and what that makes of it to the queue.

use std::ops::Range;

use super::write_buffer::{LINE_BYTES_MAX, WriteBuffer};
use crate::buf::Block;
use crate::dialect::Dialect;
use crate::http1::body::{BodyDecoder, BodyError, Step};
use crate::http1::chunked::{encode_chunk_line, whole_chunk};
use crate::limits::READ_BUFFER_BYTES;
use crate::shape::Shaper;
use crate::sse::BOM;
use events::Events;
use shaped::Shaped;

pub use fault::StreamFault;

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

/// [`Marks`] as every stream keeps them; 4 GiB at most.
#[derive(Clone, Copy, Debug)]
struct OwnMarks {
    high: u32,
    low: u32,
    frame_max: u32,
}

impl From<Marks> for OwnMarks {
    fn from(marks: Marks) -> Self {
        let bytes = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        let Marks { high, low, frame_max } = marks;
        Self { high: bytes(high), low: bytes(low), frame_max: bytes(frame_max) }
    }
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

/// What a read has shown may go out. Positions.
struct Sendable {
    /// The end of the last frame seen.
    boundary: u64,
    /// The last place between two chunks that is also the end of a frame.
    clean_to: Option<u64>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Stream {
    buffer: WriteBuffer,
    decoder: BodyDecoder,
    outgoing: Outgoing,
    /// Present for event streams.
    events: Option<Events>,
    marks: OwnMarks,
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
    dropped: u8,
    /// A copy of the payload, for sending it again.
    kept: Option<Box<Kept>>,
    /// Frames, or errors alone, are told in other words.
    shaped: Option<Box<Shaped>>,
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
            marks: marks.into(),
            carried: Carried::default(),
            released: 0,
            pending: Vec::new(),
            paused: false,
            ended: false,
            finished: false,
            dropped: 0,
            kept: None,
            shaped: None,
        }
    }

    /// The same stream, keeping a copy of its payload as long as that has at most `bytes_max`
    /// bytes, so that it can be [restarted](Self::restart).
    #[must_use]
    pub fn keeping(mut self, bytes_max: usize) -> Self {
        self.kept = Some(Box::new(Kept { payload: Vec::new(), bytes_max }));
        self
    }

    /// The copy of the payload so far, while there is one.
    pub fn kept(&self) -> Option<&[u8]> {
        self.kept.as_ref().map(|kept| kept.payload.as_slice())
    }

    /// Queues the message's head before its body, so that both go in one write.
    pub fn begin(&mut self, head: Vec<u8>) {
        debug_assert_eq!(self.buffer.queued(), 0);
        self.buffer.push_own(head);
        if self.rewrites() {
            self.begin_shaped();
        }
    }

    /// Begins again for another receiver: what was queued is forgotten, `head` and the payload so
    /// far are queued afresh. Without a copy it does nothing and returns false.
    pub fn restart(&mut self, head: Vec<u8>) -> bool {
        let Some(kept) = &self.kept else { return false };
        let payload = kept.payload.clone();
        self.buffer.clear();
        self.buffer.push_own(head);
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
        let events = Events::new(dialect);
        Self { events: Some(events), ..Self::opaque(decoder, outgoing, marks) }
    }

    /// The same stream, told by `shaper`: all of it, or only what the relay says itself where the
    /// shaper [forwards](Shaper::forwards). To be called before anything is received or queued.
    #[must_use]
    pub fn shaped(mut self, shaper: Box<Shaper>) -> Self {
        // The upstream's own chunks are never sent on where frames are rewritten.
        self.clean &= shaper.forwards();
        self.shaped = Some(Box::new(Shaped::new(shaper, self.marks.frame_max as usize)));
        self
    }

    /// Whether frames are told in other words.
    #[inline]
    fn rewrites(&self) -> bool {
        self.shaped.as_ref().is_some_and(|shaped| shaped.rewrites())
    }

    /// Room to receive into.
    pub fn room(&mut self) -> &mut [u8] {
        match &mut self.shaped {
            Some(shaped) if shaped.rewrites() => shaped.room(),
            _ => self.buffer.room(),
        }
    }

    /// Takes `bytes` that were received elsewhere (behind a head, in the head's buffer); returns
    /// how many it took, at least one.
    ///
    /// # Errors
    /// As [`received`](Self::received).
    pub fn receive_copy(&mut self, bytes: &[u8]) -> Result<usize, StreamFault> {
        let room = self.room();
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        let unused = self.received(n)?;
        Ok(n - unused)
    }

    /// Takes `n` bytes written to the start of [`room`](Self::room) as received, and queues what
    /// may be sent. Returns how many bytes at their end lie behind the end of the body.
    ///
    /// # Errors
    /// The body's framing is broken, or a frame cannot be told; what came before the fault is
    /// queued.
    pub fn received(&mut self, n: usize) -> Result<usize, StreamFault> {
        if self.rewrites() {
            return self.received_shaped(n);
        }
        let first = self.buffer.received(n);
        Ok(self.take(first, n, 0)?)
    }

    /// Whether bytes may pass that never were in the buffer: it is empty, and the stream stands
    /// between two chunks and two frames.
    #[inline]
    pub fn is_clear(&self) -> bool {
        self.buffer.is_empty() && !self.ended && !self.paused && self.takes_whole_chunks()
    }

    /// [`is_clear`](Self::is_clear) for one whose frames are kept, whatever framing they go out in.
    #[inline]
    pub fn keeps_whole_chunks(&self) -> bool {
        self.buffer.is_empty() && !self.ended && !self.rewrites() && self.stands_between()
    }

    /// Takes of `bytes`, received elsewhere while the stream [is clear](Self::is_clear), whole
    /// chunks of whole frames, and returns their length. Where that is all of them they may be
    /// sent as they lie, to be told by [`passed`](Self::passed); else, and for what the socket
    /// does not take, [`received_in`](Self::received_in) follows.
    #[inline]
    pub fn take_passing(&mut self, bytes: &[u8]) -> usize {
        take_whole_chunks(self.events.as_mut(), &mut self.carried, bytes)
    }

    /// `n` bytes have passed.
    #[inline]
    pub fn passed(&mut self, n: usize) {
        self.buffer.pass(n);
        self.released += n as u64;
        self.carried.bytes_out = self.carried.bytes_in - u64::from(self.dropped);
    }

    /// Takes over `block`, the first `n` bytes of which were received and the first `taken` of
    /// these taken as passing.
    ///
    /// # Errors
    /// As [`received`](Self::received).
    pub fn received_in(
        &mut self,
        block: Block,
        n: usize,
        taken: usize,
    ) -> Result<usize, StreamFault> {
        self.buffer.adopt(block);
        let first = self.buffer.received(n);
        Ok(self.take(first, n, taken)?)
    }

    /// Takes `n` bytes from position `first` on, the first `at` of which are whole chunks that
    /// have been taken.
    fn take(&mut self, first: u64, n: usize, mut at: usize) -> Result<usize, BodyError> {
        let clean_to = (at > 0).then_some(first + at as u64);
        let mut sendable = Sendable { boundary: self.released, clean_to };
        let result = loop {
            if self.takes_whole_chunks() {
                let bytes = &self.buffer.fresh(first)[at..];
                let whole = take_whole_chunks(self.events.as_mut(), &mut self.carried, bytes);
                if whole > 0 {
                    at += whole;
                    sendable.clean_to = Some(first + at as u64);
                }
            }
            // A body with a length is over with its last byte; only asking the decoder tells.
            if self.ended || (at == n && !self.decoder.is_done()) {
                break Ok(n - at);
            }
            match self.decoder.step(&self.buffer.fresh(first)[at..]) {
                Ok(Step::Data(len)) => {
                    let start = first + at as u64;
                    at += len;
                    self.take_payload(start..first + at as u64, &mut sendable);
                }
                Ok(Step::Framing(len)) => {
                    at += len;
                    self.take_framing(first + at as u64, &mut sendable);
                }
                Ok(Step::End(len)) => {
                    at += len;
                    self.ended = true;
                    // The last chunk is not part of a clean range: the end is ours to tell.
                    sendable.boundary = first + at as u64;
                }
                Ok(Step::NeedMore) => break Ok(0),
                Err(error) => break Err(error),
            }
        };
        self.ended |= result.is_err();
        self.release(&sendable, first + n as u64);
        result
    }

    fn take_payload(&mut self, range: Range<u64>, sendable: &mut Sendable) {
        let len = (range.end - range.start) as usize;
        let bytes = &self.buffer.fresh(range.start)[..len];
        let scanned = match &mut self.events {
            Some(events) => {
                let (frames, end) = events.take(bytes);
                self.carried.frames += frames;
                end
            }
            None => len,
        };
        if scanned > 0 {
            sendable.boundary = range.start + scanned as u64;
        }
        if let Some(kept) = &mut self.kept
            && !kept.take(bytes)
        {
            self.kept = None;
        }
        if self.pending.len() == PENDING_RANGES_MAX {
            // Positions mean nothing across a join: what may go out goes before it.
            if let Some(position) = sendable.clean_to.take() {
                self.release_clean(position);
            }
            self.release_to(sendable.boundary.min(range.start));
            self.join_pending();
        }
        let before = self.carried.bytes_in;
        self.carried.bytes_in += len as u64;
        self.hold(range);
        if before < BOM.len() as u64 {
            self.drop_mark();
        }
    }

    /// Takes framing that ends at `position`.
    fn take_framing(&mut self, position: u64, sendable: &mut Sendable) {
        if self.decoder.at_boundary() && self.at_frame_boundary() {
            if self.pending.is_empty() {
                self.released = position;
                self.clean = self.outgoing == Outgoing::Chunked;
            } else if self.clean && self.decoder.plain() {
                sendable.clean_to = Some(position);
                self.pending.clear();
            }
        }
        self.clean &= self.decoder.plain();
    }

    /// Whether nothing is left open that would keep [whole chunks](take_whole_chunks) from being
    /// taken as they are.
    #[inline]
    fn takes_whole_chunks(&self) -> bool {
        self.clean && self.stands_between()
    }

    /// Whether the stream stands between two chunks and two frames, with nothing held.
    #[inline]
    fn stands_between(&self) -> bool {
        // The first bytes may be a byte order mark's.
        self.carried.bytes_in >= BOM.len() as u64
            && self.decoder.at_boundary()
            && self.decoder.plain()
            && self.pending.is_empty()
            && self.kept.is_none()
            && self.events.as_ref().is_some_and(|events| events.scanner.at_boundary())
    }

    /// Queues what may go out, and says what is still wanted of the bytes before `received`.
    fn release(&mut self, sendable: &Sendable, received: u64) {
        if let Some(position) = sendable.clean_to {
            self.release_clean(position);
        }
        self.release_to(sendable.boundary);
        // What stands between pieces of payload (chunk extensions) takes memory like them.
        let span = (received - self.held_from(received)) as usize;
        let frame_max = self.marks.frame_max as usize;
        let too_long =
            self.held() > frame_max || span > frame_max.saturating_add(READ_BUFFER_BYTES);
        if too_long || self.is_overlong() {
            self.release_overlong();
        }
        self.buffer.hold_from(self.held_from(received));
        self.pause_if_full();
    }

    #[inline]
    fn pause_if_full(&mut self) {
        if self.buffer.queued() >= self.marks.high as usize && !self.paused {
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
        if self.pending.capacity() == 0 {
            // Of most streams one range is held at a time: no room for four then.
            self.pending.reserve_exact(1);
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
        self.dropped = BOM.len() as u8;
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
        self.carried.bytes_out = self.carried.bytes_in - payload - u64::from(self.dropped);
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

    /// The frame that keeps this stream alive, where its reader bears one.
    pub fn heartbeat(&self) -> Option<&'static [u8]> {
        match &self.shaped {
            Some(shaped) => Some(shaped.shaper().heartbeat()),
            None => self.events.as_ref().and_then(|events| events.dialect.heartbeat()),
        }
    }

    /// Queues payload of our own, framed.
    fn push_frame(&mut self, payload: Vec<u8>) {
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
        if self.rewrites() {
            return self.finish_shaped();
        }
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
        if self.paused && self.buffer.queued() <= self.marks.low as usize {
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
        if let Some(shaped) = &mut self.shaped {
            shaped.settle();
        }
    }

    /// Whether more may be read: the body goes on and the queue is below its mark. A held frame
    /// alone never stops reading, or it could not become whole.
    pub fn wants_more(&self) -> bool {
        let full = self.buffer.queued() > 0 && self.buffer.is_full(self.marks.high as usize);
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
        if self.rewrites() {
            return self.is_finished_by_dialect_event();
        }
        self.events.as_ref().is_none_or(|events| events.terminal || !events.dialect.has_terminal())
    }

    /// Whether the dialect's last event has passed.
    pub fn is_finished_by_dialect_event(&self) -> bool {
        if let Some(shaped) = self.shaped.as_ref().filter(|shaped| shaped.rewrites()) {
            return shaped.shaper().is_finished();
        }
        self.events.as_ref().is_some_and(|events| events.terminal)
    }

    /// Whether the body is empty from the start (no framing, or a length of 0).
    pub fn nothing_to_come(&self) -> bool {
        self.decoder.is_done()
    }

    /// The stream's dialect, as known by now.
    pub fn dialect(&self) -> Option<Dialect> {
        if let Some(shaped) = self.shaped.as_ref().filter(|shaped| shaped.rewrites()) {
            return Some(shaped.shaper().dialect());
        }
        self.events.as_ref().map(|events| events.dialect)
    }
}

/// The usual shape of a stream, taken at a stroke: chunks that are all there, each of whole
/// frames, as many as follow each other. Returns the length of them all: 0 where the first has
/// another shape.
#[inline]
fn take_whole_chunks(events: Option<&mut Events>, carried: &mut Carried, bytes: &[u8]) -> usize {
    let Some(events) = events else { return 0 };
    let mut at = 0;
    while let Some((line, len)) = whole_chunk(&bytes[at..]) {
        let payload = &bytes[at + line..at + line + len];
        if events.is_ordinary(payload) {
            carried.frames += 1;
        // From one boundary a blank line at the end leads to the next, whatever lies between.
        } else if payload.ends_with(b"\n\n") || payload.ends_with(b"\r\n\r\n") {
            let (frames, end) = events.take(payload);
            debug_assert_eq!(end, len);
            carried.frames += frames;
        } else {
            break;
        }
        carried.bytes_in += len as u64;
        at += line + len + 2;
    }
    at
}

mod events;
mod fault;
mod shaped;
#[cfg(test)]
mod tests;
mod told;
