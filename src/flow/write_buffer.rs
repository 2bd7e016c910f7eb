//! The bytes of one direction of an exchange between their arrival and their departure.
//!
//! Bytes are received into blocks and never move in the ordinary case: what is to be sent is a
//! queue of *pieces*, ranges of received bytes and small lines of our own between them. Every
//! received byte has an absolute position (the first is 0), so pieces stay valid whatever
//! happens to the blocks, and a block can be exchanged for a smaller one under them.
//!
//! ```text
//!  position   0 ........ needed ............... received
//!             | gone    | written in part | held    | room of the last block
//!  pieces                [Raw][Line][Raw]
//! ```
//!
//! Invariants, checked in debug builds after each change:
//! - segments are contiguous in positions: each begins where the one before ends;
//! - every raw piece lies within `needed .. received`;
//! - `queued` is the sum of the pieces' lengths.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use crate::buf::Block;
use crate::http1::chunked::CHUNK_LINE_BYTES;
use crate::limits::{READ_BUFFER_BYTES, WRITE_SLICES_MAX};

/// Free bytes that make the last block worth receiving into; below, a new one is taken.
const ROOM_MIN: usize = 2 * 1024;

/// Bytes of our own between received ones: a chunk-size line, at most 16 digits and CRLF.
pub const LINE_BYTES_MAX: usize = CHUNK_LINE_BYTES;

#[derive(Debug)]
struct Segment {
    /// Position of the block's first byte.
    base: u64,
    /// Bytes received into it.
    len: usize,
    block: Block,
}

impl Segment {
    fn end(&self) -> u64 {
        self.base + self.len as u64
    }
}

#[derive(Debug)]
enum Piece {
    /// Received bytes, by position.
    Raw { start: u64, end: u64 },
    /// A short line made by us, kept inline.
    Line { bytes: [u8; LINE_BYTES_MAX], start: u8, end: u8 },
    /// Constant bytes.
    Static(&'static [u8]),
    /// A head, or a frame made by us (an error event); rare, so it may allocate.
    Own { bytes: Vec<u8>, start: u32 },
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Raw { start, end } => (end - start) as usize,
            Self::Line { start, end, .. } => usize::from(end - start),
            Self::Static(bytes) => bytes.len(),
            Self::Own { bytes, start } => bytes.len() - *start as usize,
        }
    }

    /// Drops `n` bytes at the front; `n` is less than the piece's length.
    fn advance(&mut self, n: usize) {
        debug_assert!(n < self.len());
        match self {
            Self::Raw { start, .. } => *start += n as u64,
            Self::Line { start, .. } => *start += n as u8,
            Self::Static(bytes) => *bytes = &bytes[n..],
            Self::Own { start, .. } => *start += n as u32,
        }
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    segments: VecDeque<Segment>,
    pieces: VecDeque<Piece>,
    /// Position after the last received byte.
    received: u64,
    /// Position before which no byte is wanted except by pieces: the caller still looks at, or
    /// holds, the bytes from here on.
    held_from: u64,
    /// Bytes of all pieces.
    queued: usize,
    /// Bytes of our own have gone out since the queue was last empty.
    had_own: bool,
}

/// Appends to a queue that mostly has one entry: the first takes no room for four.
fn push_lean<T>(queue: &mut VecDeque<T>, entry: T) {
    if queue.capacity() == 0 {
        queue.reserve_exact(1);
    }
    queue.push_back(entry);
}

impl WriteBuffer {
    /// Room to receive into: the rest of the last block, or a fresh block.
    pub fn room(&mut self) -> &mut [u8] {
        let fits = self.segments.back().is_some_and(|s| s.block.size() - s.len >= ROOM_MIN);
        if !fits {
            let block = Block::for_reading();
            push_lean(&mut self.segments, Segment { base: self.received, len: 0, block });
        }
        match self.segments.back_mut() {
            Some(segment) => &mut segment.block.bytes_mut()[segment.len..],
            None => &mut [],
        }
    }

    /// Takes `n` bytes, written to the start of [`room`](Self::room), as received. Returns the
    /// position of the first.
    pub fn received(&mut self, n: usize) -> u64 {
        let first = self.received;
        if let Some(segment) = self.segments.back_mut() {
            debug_assert!(segment.len + n <= segment.block.size());
            segment.len += n;
            self.received += n as u64;
        }
        first
    }

    /// Whether it holds nothing: no block, nothing queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.pieces.is_empty()
    }

    /// Takes `n` bytes as received and gone without having been here; only while it is empty.
    #[inline]
    pub fn pass(&mut self, n: usize) {
        debug_assert!(self.is_empty());
        self.received += n as u64;
        self.held_from = self.received;
    }

    /// Makes `block` the one that bytes are received into.
    pub fn adopt(&mut self, block: Block) {
        push_lean(&mut self.segments, Segment { base: self.received, len: 0, block });
    }

    /// The bytes from `start` to the last received; they must lie in the last block, as the ones
    /// received by one call do.
    pub fn fresh(&self, start: u64) -> &[u8] {
        match self.segments.back() {
            Some(segment) => {
                let from = (start - segment.base) as usize;
                &segment.block.bytes()[from..segment.len]
            }
            None => &[],
        }
    }

    /// Says that bytes before `position` are wanted by no one but the pieces.
    pub fn hold_from(&mut self, position: u64) {
        self.held_from = position;
    }

    /// Says that no byte is wanted by anyone but the pieces.
    pub fn hold_nothing(&mut self) {
        self.held_from = self.received;
    }

    /// Moves the bytes of `ranges` together where they lie in one block, overwriting what is
    /// between them, and joins the ranges so. For held bytes only: no piece may reach there.
    pub fn compact(&mut self, ranges: &mut Vec<Range<u64>>) {
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges.drain(..) {
            let target = joined.last_mut().and_then(|last| {
                let holds = |s: &&mut Segment| s.base < last.end && range.end <= s.end();
                self.segments.iter_mut().find(holds).map(|segment| (segment, last))
            });
            match target {
                Some((segment, last)) => {
                    let at = |position: u64| (position - segment.base) as usize;
                    let (from, to, into) = (at(range.start), at(range.end), at(last.end));
                    segment.block.bytes_mut().copy_within(from..to, into);
                    last.end += range.end - range.start;
                }
                None => joined.push(range),
            }
        }
        *ranges = joined;
    }

    /// Whether the bytes of `ranges`, one behind the other, begin with `prefix`.
    pub fn starts_with(&self, ranges: &[Range<u64>], prefix: &[u8]) -> bool {
        let mut positions = ranges.iter().cloned().flatten();
        let byte = |position: u64| {
            let segment = self.segments.iter().find(|segment| position < segment.end())?;
            segment.block.bytes().get((position - segment.base) as usize)
        };
        prefix.iter().all(|wanted| positions.next().and_then(byte) == Some(wanted))
    }

    /// Bytes queued to be sent.
    #[inline]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes received and held, not yet queued.
    #[inline]
    pub fn held(&self) -> usize {
        (self.received - self.held_from) as usize
    }

    /// Bytes of memory its blocks take.
    pub fn footprint(&self) -> usize {
        self.segments.iter().map(|segment| segment.block.size()).sum()
    }

    /// Whether another read would have to take a block beyond `bytes_max` of footprint.
    pub fn is_full(&self, bytes_max: usize) -> bool {
        self.segments.back().is_some_and(|s| s.block.size() - s.len < ROOM_MIN)
            && self.footprint() >= bytes_max
    }

    /// Queues received bytes. Adjacent ranges become one piece.
    pub fn push_raw(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.queued += (range.end - range.start) as usize;
        if let Some(Piece::Raw { end, .. }) = self.pieces.back_mut()
            && *end == range.start
        {
            *end = range.end;
        } else {
            push_lean(&mut self.pieces, Piece::Raw { start: range.start, end: range.end });
        }
    }

    /// Queues a short line; `line` has at most [`LINE_BYTES_MAX`] bytes.
    pub fn push_line(&mut self, line: &[u8]) {
        let mut bytes = [0; LINE_BYTES_MAX];
        let len = line.len().min(LINE_BYTES_MAX);
        debug_assert_eq!(len, line.len());
        bytes[..len].copy_from_slice(&line[..len]);
        self.queued += len;
        push_lean(&mut self.pieces, Piece::Line { bytes, start: 0, end: len as u8 });
    }

    /// Queues constant bytes.
    pub fn push_static(&mut self, bytes: &'static [u8]) {
        self.queued += bytes.len();
        push_lean(&mut self.pieces, Piece::Static(bytes));
    }

    /// Queues bytes of our own.
    pub fn push_own(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.queued += bytes.len();
        if self.pieces.capacity() == 0 {
            // Behind a head comes the beginning of its body.
            self.pieces.reserve_exact(2);
        }
        self.pieces.push_back(Piece::Own { bytes, start: 0 });
    }

    /// The queued bytes as one slice, where they are one (the usual case of a stream that keeps
    /// up: a plain send is cheaper than a vectored one).
    pub fn single(&self) -> Option<&[u8]> {
        if self.pieces.len() != 1 {
            return None;
        }
        let (start, end) = match self.pieces.front()? {
            Piece::Raw { start, end } => (start, end),
            Piece::Own { bytes, start } => return Some(&bytes[*start as usize..]),
            Piece::Line { .. } | Piece::Static(_) => return None,
        };
        let segment = self.segments.iter().find(|segment| *start < segment.end())?;
        if *end > segment.end() {
            return None;
        }
        let from = (start - segment.base) as usize;
        Some(&segment.block.bytes()[from..from + (end - start) as usize])
    }

    /// Fills `slices` with the queued bytes from the front; returns how many slices it used.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; WRITE_SLICES_MAX]) -> usize {
        let mut used = 0;
        let mut segments = self.segments.iter().peekable();
        for piece in &self.pieces {
            if used == slices.len() {
                break;
            }
            match piece {
                Piece::Line { bytes, start, end } => {
                    slices[used] = IoSlice::new(&bytes[usize::from(*start)..usize::from(*end)]);
                    used += 1;
                }
                Piece::Static(bytes) => {
                    slices[used] = IoSlice::new(bytes);
                    used += 1;
                }
                Piece::Own { bytes, start } => {
                    slices[used] = IoSlice::new(&bytes[*start as usize..]);
                    used += 1;
                }
                Piece::Raw { start, end } => {
                    let mut at = *start;
                    while at < *end && used < slices.len() {
                        while segments.next_if(|segment| segment.end() <= at).is_some() {}
                        let Some(segment) = segments.peek() else {
                            break;
                        };
                        let upto = segment.end().min(*end);
                        let from = (at - segment.base) as usize;
                        let to = (upto - segment.base) as usize;
                        slices[used] = IoSlice::new(&segment.block.bytes()[from..to]);
                        used += 1;
                        at = upto;
                    }
                }
            }
        }
        used
    }

    /// Takes `n` bytes at the front of the queue as sent.
    pub fn sent(&mut self, mut n: usize) {
        debug_assert!(n <= self.queued);
        self.queued -= n.min(self.queued);
        while n > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                break;
            };
            let len = piece.len();
            if n < len {
                piece.advance(n);
                break;
            }
            n -= len;
            self.had_own |= matches!(self.pieces.pop_front(), Some(Piece::Own { .. }));
        }
        if self.had_own && self.pieces.is_empty() {
            // It grew for a head and what came with it, and seldom needs that again.
            self.pieces = VecDeque::new();
            self.had_own = false;
        }
    }

    /// The position before which nothing is needed any more.
    fn needed_from(&self) -> u64 {
        let queued = self.pieces.iter().find_map(|piece| match piece {
            Piece::Raw { start, .. } => Some(*start),
            _ => None,
        });
        queued.map_or(self.held_from, |start| start.min(self.held_from))
    }

    /// To be called when the caller has done what it can for now: blocks with nothing needed go
    /// back to the pool, and a few bytes left in a large block move to a small one, so that a
    /// waiting stream pins little memory.
    pub fn settle(&mut self) {
        let needed = self.needed_from();
        while self.segments.front().is_some_and(|segment| segment.end() <= needed) {
            self.segments.pop_front();
        }
        if let Some(last) = self.segments.back() {
            let from = needed.max(last.base);
            let live = (last.end() - from) as usize;
            if live == 0 {
                self.segments.pop_back();
            } else if last.block.size() == READ_BUFFER_BYTES && live <= READ_BUFFER_BYTES / 8 {
                self.shrink_last(from, live);
            }
        }
        self.check_invariants();
    }

    /// Moves the live bytes of the last block, from position `from` on, behind those of the block
    /// before where they fit, or to a small block of their own. Sizes grow fourfold from one
    /// block to the next, so that many small arrivals do not make many small blocks.
    fn shrink_last(&mut self, from: u64, live: usize) {
        let Some(last) = self.segments.pop_back() else {
            return;
        };
        let bytes = &last.block.bytes()[(from - last.base) as usize..last.len];
        debug_assert_eq!(bytes.len(), live);
        let mut wanted = live;
        if let Some(previous) = self.segments.back_mut() {
            let spare = previous.block.size() - previous.len;
            if spare >= live && previous.end() == from {
                previous.block.bytes_mut()[previous.len..previous.len + live]
                    .copy_from_slice(bytes);
                previous.len += live;
                return;
            }
            wanted = wanted.max(previous.block.size() * 4);
        }
        if wanted >= READ_BUFFER_BYTES {
            push_lean(&mut self.segments, last);
            return;
        }
        let mut block = Block::with_room(wanted);
        block.bytes_mut()[..live].copy_from_slice(bytes);
        push_lean(&mut self.segments, Segment { base: from, len: live, block });
    }

    /// Forgets everything queued and held (the stream is over).
    pub fn clear(&mut self) {
        self.segments.clear();
        self.pieces.clear();
        self.held_from = self.received;
        self.queued = 0;
    }

    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            let mut expected = None;
            for segment in &self.segments {
                assert!(expected.is_none_or(|end| end == segment.base), "a hole in the positions");
                assert!(segment.len <= segment.block.size());
                expected = Some(segment.end());
            }
            assert!(expected.is_none_or(|end| end == self.received));
            assert_eq!(self.queued, self.pieces.iter().map(Piece::len).sum::<usize>());
            let needed = self.needed_from();
            if needed < self.received {
                let first = self.segments.front().map(|segment| segment.base);
                assert!(first.is_some_and(|base| base <= needed), "needed bytes are gone");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(buffer: &mut WriteBuffer, bytes: &[u8]) -> u64 {
        let mut first = None;
        for part in bytes.chunks(1000) {
            let room = buffer.room();
            room[..part.len()].copy_from_slice(part);
            let at = buffer.received(part.len());
            assert_eq!(buffer.fresh(at), part);
            first = first.or(Some(at));
        }
        first.unwrap_or(0)
    }

    fn queued_bytes(buffer: &WriteBuffer) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let used = buffer.gather(&mut slices);
        slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn what_is_received_and_queued_comes_out_around_our_lines() {
        let mut buffer = WriteBuffer::default();
        let first = receive(&mut buffer, b"hello world");
        buffer.push_line(b"5\r\n");
        buffer.push_raw(first..first + 5);
        buffer.push_static(b"\r\n");
        buffer.push_own(b"!".to_vec());
        buffer.hold_from(first + 5);
        assert_eq!(queued_bytes(&buffer), b"5\r\nhello\r\n!");
        assert_eq!((buffer.queued(), buffer.held()), (11, 6));
        for sent in 0..=11 {
            let mut copy = WriteBuffer::default();
            let first = receive(&mut copy, b"hello world");
            copy.push_line(b"5\r\n");
            copy.push_raw(first..first + 5);
            copy.push_static(b"\r\n");
            copy.push_own(b"!".to_vec());
            copy.hold_from(first + 5);
            copy.sent(sent);
            copy.settle();
            assert_eq!(queued_bytes(&copy), &b"5\r\nhello\r\n!"[sent..], "after {sent}");
            assert_eq!(copy.held(), 6);
        }
    }

    #[test]
    fn nothing_queued_and_nothing_held_keeps_no_block() {
        let mut buffer = WriteBuffer::default();
        let first = receive(&mut buffer, &[7; 500]);
        buffer.hold_from(first + 500);
        buffer.push_raw(first..first + 500);
        assert_eq!(buffer.single(), Some(&[7; 500][..]));
        buffer.sent(500);
        buffer.settle();
        assert_eq!(buffer.footprint(), 0);
    }

    #[test]
    fn a_few_bytes_left_over_do_not_pin_a_large_block() {
        let mut buffer = WriteBuffer::default();
        let mut expected = Vec::new();
        for round in 0..50_u8 {
            let first = receive(&mut buffer, &[round; 200]);
            expected.extend([round; 200]);
            buffer.hold_from(first + 200);
            buffer.push_raw(first..first + 200);
            buffer.settle();
        }
        assert_eq!(queued_bytes(&buffer), expected);
        assert!(buffer.footprint() <= 40 * 1024, "{} for 10000 bytes", buffer.footprint());
        buffer.sent(10_000);
        buffer.settle();
        assert_eq!(buffer.footprint(), 0);
    }

    /// The model is a plain vector of bytes; the schedule is random and replayed by its seed.
    #[test]
    fn random_schedules_agree_with_a_plain_vector() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut buffer = WriteBuffer::default();
            let (mut model, mut held) = (VecDeque::new(), VecDeque::new());
            let mut next = 0_u8;
            let mut held_from = 0;
            for _ in 0..200 {
                match rng.u8(0..6) {
                    0 | 1 => {
                        let n = rng.usize(1..5000);
                        let room = buffer.room();
                        let n = n.min(room.len());
                        for byte in &mut room[..n] {
                            *byte = next;
                            held.push_back(next);
                            next = next.wrapping_add(1);
                        }
                        buffer.received(n);
                    }
                    2 | 3 => {
                        let n = rng.usize(0..=held.len());
                        buffer.push_line(b"<");
                        buffer.push_raw(held_from..held_from + n as u64);
                        held_from += n as u64;
                        buffer.hold_from(held_from);
                        model.push_back(b'<');
                        model.extend(held.drain(..n));
                    }
                    4 => {
                        let out = queued_bytes(&buffer);
                        let n = rng.usize(0..=out.len());
                        assert!(model.drain(..n).eq(out[..n].iter().copied()), "seed {seed}");
                        buffer.sent(n);
                    }
                    _ => buffer.settle(),
                }
                assert_eq!(buffer.held(), held.len());
                assert_eq!(buffer.queued(), model.len());
            }
        }
    }
}
