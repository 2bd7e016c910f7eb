//! A stream that is told in other words: frames are read where they were received, and what they
//! are told as is queued in their place.
//!
//! What is received lies in a block of its own, which goes back to the pool as soon as it has been
//! read; only a frame that is not whole yet is kept, up to the frame limit. What is told is written
//! behind the bytes of the write buffer, where the marks count it: one read of
//! [`SHAPED_READ_BYTES`] and one frame are told before they are asked.

use std::cell::Cell;

use super::{Outgoing, Stream, StreamFault};
use crate::buf::Block;
use crate::dialect::ErrorText;
use crate::http1::body::{BodyDecoder, Step};
use crate::limits::SHAPED_READ_BYTES;
use crate::shape::Shaper;
use crate::sse::frames::Frames;

/// Bytes of the buffer for what is told that a core keeps between reads.
const TOLD_KEPT_BYTES: usize = 256 * 1024;

thread_local! {
    /// What the frames of one read are told as, before it is queued.
    static TOLD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[derive(Debug)]
pub(super) struct Shaped {
    shaper: Box<Shaper>,
    frames: Frames,
    /// Received bytes, between [`Stream::room`] and [`Stream::received`].
    input: Option<Block>,
    /// What goes before the first frame has been queued.
    begun: bool,
}

impl Shaped {
    pub(super) fn new(shaper: Box<Shaper>, frame_bytes_max: usize) -> Self {
        Self { shaper, frames: Frames::new(frame_bytes_max), input: None, begun: false }
    }

    pub(super) fn shaper(&self) -> &Shaper {
        &self.shaper
    }

    /// Whether frames are told in other words, not errors alone.
    #[inline]
    pub(super) fn rewrites(&self) -> bool {
        !self.shaper.forwards()
    }

    pub(super) fn room(&mut self) -> &mut [u8] {
        let input = self.input.get_or_insert_with(|| Block::with_room(SHAPED_READ_BYTES));
        input.bytes_mut()
    }

    pub(super) fn error(&mut self, text: &ErrorText<'_>, timeout: bool, out: &mut Vec<u8>) {
        self.begin(out);
        self.shaper.error(text, timeout, out);
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.shaper.begin(out);
        }
    }

    fn take(&mut self, payload: &[u8], told: &mut Vec<u8>) -> (u64, Result<(), StreamFault>) {
        let Self { shaper, frames, .. } = self;
        let mut count = 0;
        let result = frames.feed(payload, |frame| {
            count += 1;
            shaper.frame(frame, told).map_err(StreamFault::from)
        });
        (count, result)
    }

    pub(super) fn settle(&mut self) {
        self.input = None;
        self.frames.settle();
        self.shaper.settle();
    }
}

impl Stream {
    /// Lends `tell` the buffer for what is told, and queues what it has put there.
    fn queue_told<R>(&mut self, tell: impl FnOnce(&mut Self, &mut Vec<u8>) -> R) -> R {
        let mut told = TOLD.take();
        told.clear();
        let result = tell(self, &mut told);
        self.push_told(&told);
        if told.capacity() <= TOLD_KEPT_BYTES {
            TOLD.set(told);
        }
        result
    }

    fn push_told(&mut self, told: &[u8]) {
        if told.is_empty() {
            return;
        }
        self.carried.bytes_out += told.len() as u64;
        self.begin_chunk(told.len());
        let mut rest = told;
        while !rest.is_empty() {
            let room = self.buffer.room();
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            let first = self.buffer.received(now.len());
            self.buffer.push_raw(first..first + now.len() as u64);
            rest = later;
        }
        self.buffer.hold_nothing();
        self.end_chunk();
    }

    /// Queues what goes before the first frame.
    pub(super) fn begin_shaped(&mut self) {
        self.queue_told(|stream, told| {
            if let Some(shaped) = &mut stream.shaped {
                shaped.begin(told);
            }
        });
    }

    /// [`received`](Stream::received) for a stream in other words.
    pub(super) fn received_shaped(&mut self, n: usize) -> Result<usize, StreamFault> {
        let Some(input) = self.shaped.as_mut().and_then(|shaped| shaped.input.take()) else {
            return Ok(n);
        };
        let result = self.queue_told(|stream, told| stream.tell_payload(&input.bytes()[..n], told));
        self.ended |= result.is_err();
        self.pause_if_full();
        result
    }

    fn tell_payload(&mut self, bytes: &[u8], told: &mut Vec<u8>) -> Result<usize, StreamFault> {
        let Some(shaped) = &mut self.shaped else { return Ok(bytes.len()) };
        shaped.begin(told);
        let mut at = 0;
        loop {
            if self.ended || at == bytes.len() && !self.decoder.is_done() {
                return Ok(bytes.len() - at);
            }
            match self.decoder.step(&bytes[at..])? {
                Step::Data(len) => {
                    let (frames, result) = shaped.take(&bytes[at..at + len], told);
                    self.carried.frames += frames;
                    self.carried.bytes_in += len as u64;
                    at += len;
                    result?;
                }
                Step::Framing(len) => at += len,
                Step::End(len) => {
                    at += len;
                    self.ended = true;
                }
                Step::NeedMore => return Ok(0),
            }
        }
    }

    /// Queues the end of a body that ended in order.
    pub(super) fn finish_shaped(&mut self) {
        let delimited = !matches!(self.decoder, BodyDecoder::Close);
        self.queue_told(|stream, told| {
            if let Some(shaped) = stream.shaped.as_deref_mut() {
                shaped.begin(told);
                let Shaped { shaper, frames, .. } = shaped;
                shaper.finish(frames.rest(), delimited, told);
            }
        });
        if self.outgoing == Outgoing::Chunked {
            self.buffer.push_static(b"0\r\n\r\n");
        }
        self.finished = true;
    }
}
