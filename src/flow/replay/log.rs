//! One stream's frames and its readers' places.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::task::Waker;

use slab::Slab;

use super::ids::{self, UpstreamIds};
use crate::buf::Block;
use crate::flow::stream::Outgoing;
use crate::http1::chunked::{CHUNK_LINE_BYTES, chunk_line_len, encode_chunk_line};
use crate::limits::{READ_BUFFER_BYTES, READERS_MAX, WRITE_SLICES_MAX};
use crate::sse::event::skip_gap;
use crate::sse::frames::{FrameTooLarge, Frames};
use crate::sse::sequence::{StreamText, digits, digits_len};

/// What stands before each kept frame: its length, and whether it has a number.
const HEADER_BYTES: usize = 4;
/// The frame has no number: a comment, or the unfinished rest of a stream that ended.
const UNNUMBERED: u32 = 1 << 31;

/// Frames of one [`Log::gather`] at most: each takes two slices, and one ends the last.
pub const FRAMES_PER_GATHER: usize = (WRITE_SLICES_MAX - 1) / 2;
/// Bytes of what stands before a frame: the end of the chunk before, a chunk's line, the id's.
const LINE_BYTES_MAX: usize = 2 + CHUNK_LINE_BYTES + ID_BYTES_MAX;
/// Bytes of the line with an id.
const ID_BYTES_MAX: usize = 4 + StreamText::BYTES_MAX + 1 + 20 + 1;

/// Room for the lines that [`Log::gather`] makes for `N` frames.
pub struct Lines<const N: usize>([[u8; LINE_BYTES_MAX]; N]);

impl<const N: usize> Default for Lines<N> {
    fn default() -> Self {
        Self([[0; LINE_BYTES_MAX]; N])
    }
}

/// The bounds of a log, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What is kept of the stream. One read may go beyond.
    pub bytes_max: usize,
    /// Bytes that the furthest reader is behind at which the source pauses.
    pub high: usize,
    /// The same, at which it goes on.
    pub low: usize,
    /// A frame; a longer one cannot be kept.
    pub frame_max: usize,
}

/// Why there is no reading on from where somebody wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Frames behind it are no longer kept.
    Gap,
    /// There has been no such frame.
    Unknown,
}

/// One of a log's readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderKey(usize);

/// Memory with whole frames in it.
#[derive(Debug)]
struct Segment {
    /// Position of its first byte.
    base: u64,
    /// The number of the first numbered frame in it, or that comes behind it.
    first: u64,
    len: usize,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Block(Block),
    /// For a frame that no block has room for.
    Own(Box<[u8]>),
}

impl Memory {
    fn for_frames(bytes: usize) -> Self {
        if bytes <= READ_BUFFER_BYTES {
            Self::Block(Block::with_room(bytes))
        } else {
            Self::Own(vec![0; bytes].into_boxed_slice())
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Block(block) => block.bytes(),
            Self::Own(own) => own,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Block(block) => block.bytes_mut(),
            Self::Own(own) => own,
        }
    }
}

impl Segment {
    fn end(&self) -> u64 {
        self.base + self.len as u64
    }

    fn size(&self) -> usize {
        self.memory.bytes().len()
    }

    /// The frame whose header stands at `at`, which is below `len`; and whether it has a number.
    fn frame(&self, at: usize) -> (&[u8], bool) {
        let bytes = &self.memory.bytes()[at..self.len];
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return (&[], false);
        };
        let header = u32::from_le_bytes(*header);
        let len = (header & !UNNUMBERED) as usize;
        (rest.get(..len).unwrap_or_default(), header & UNNUMBERED == 0)
    }
}

/// A reader's place.
#[derive(Debug)]
struct Reader {
    /// The next frame's header.
    position: u64,
    /// The number of the next numbered frame.
    sequence: u64,
    /// Bytes of the next frame, as it is sent, that have been sent.
    offset: usize,
    waker: Option<Waker>,
    /// Another reader has come, perhaps in its place.
    suspect: bool,
    /// So many others have come that it must go.
    replaced: bool,
    /// How many came before it.
    number: u64,
}

/// The readers of a log. The first stands in the log itself: mostly there is one, and its place is
/// looked at with every frame.
#[derive(Debug, Default)]
struct Readers {
    first: Option<Reader>,
    others: Slab<Reader>,
}

impl Readers {
    fn get(&self, key: ReaderKey) -> Option<&Reader> {
        match key.0.checked_sub(1) {
            None => self.first.as_ref(),
            Some(other) => self.others.get(other),
        }
    }

    fn get_mut(&mut self, key: ReaderKey) -> Option<&mut Reader> {
        match key.0.checked_sub(1) {
            None => self.first.as_mut(),
            Some(other) => self.others.get_mut(other),
        }
    }

    fn insert(&mut self, reader: Reader) -> ReaderKey {
        if self.first.is_none() {
            self.first = Some(reader);
            return ReaderKey(0);
        }
        ReaderKey(self.others.insert(reader) + 1)
    }

    fn remove(&mut self, key: ReaderKey) -> Option<Reader> {
        match key.0.checked_sub(1) {
            None => self.first.take(),
            Some(other) => {
                let removed = self.others.try_remove(other);
                if self.others.is_empty() {
                    self.others = Slab::new();
                }
                removed
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Reader> {
        let others = self.others.iter().map(|(_, reader)| reader);
        self.first.iter().chain(others)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Reader> {
        let others = self.others.iter_mut().map(|(_, reader)| reader);
        self.first.iter_mut().chain(others)
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Log {
    /// What is being written. It stands in the log itself, for it is looked at with every frame.
    last: Option<Segment>,
    /// What came before it, the oldest first.
    segments: VecDeque<Segment>,
    /// Position behind the last frame.
    end: u64,
    /// The number of the next frame.
    next: u64,
    /// Memory of the segments.
    bytes: usize,
    limits: Limits,
    frames: Frames,
    /// Before the stream's first frame a byte order mark may stand.
    fresh: bool,
    upstream_ids: UpstreamIds,
    readers: Readers,
    /// Readers that ever came.
    came: u64,
    /// The furthest place any reader has ever had.
    read_to: u64,
    paused: bool,
    over: bool,
}

impl Log {
    /// The log of a stream that begins.
    pub fn new(limits: Limits, upstream_ids: UpstreamIds) -> Self {
        Self {
            last: None,
            segments: VecDeque::new(),
            end: 0,
            next: 1,
            bytes: 0,
            limits,
            frames: Frames::new(limits.frame_max),
            fresh: true,
            upstream_ids,
            readers: Readers::default(),
            came: 0,
            read_to: 0,
            paused: false,
            over: false,
        }
    }

    /// Memory it takes for frames.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the last frame.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Takes the next bytes of the stream; the frames that end in them are kept.
    ///
    /// # Errors
    /// A frame is too long to be kept.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), FrameTooLarge> {
        // Lent to the splitter and to itself at once.
        let mut frames = std::mem::replace(&mut self.frames, Frames::new(0));
        let fed = frames.feed(bytes, |frame| {
            let fresh = std::mem::replace(&mut self.fresh, false);
            self.push(skip_gap(frame, fresh));
            Ok(())
        });
        frames.settle();
        self.frames = frames;
        fed
    }

    /// Keeps one whole frame.
    pub fn push(&mut self, frame: &[u8]) {
        let seen = ids::look(frame);
        if seen.fields {
            self.keep(frame, seen, true);
        } else {
            // Comments. Without the blank line: client libraries that have seen an id take what it
            // ends for an event, and its missing data for broken JSON.
            self.keep(&frame[..seen.lines_end], seen, false);
        }
    }

    fn keep(&mut self, frame: &[u8], seen: ids::Seen, numbered: bool) {
        if frame.is_empty() {
            return;
        }
        let upstream_ids = self.upstream_ids;
        // The LF of a closing CRLF may have come too late to be part of it.
        let cut = numbered && frame.ends_with(b"\r");
        let room = HEADER_BYTES + frame.len() + ids::growth(seen) + usize::from(cut);
        let (first, base) = (self.next, self.end);
        if self.last.as_ref().is_none_or(|last| last.size() - last.len < room) {
            let memory = Memory::for_frames(room.max(self.segment_bytes()));
            self.bytes += memory.bytes().len();
            let next = Segment { base, first, len: 0, memory };
            self.segments.extend(self.last.replace(next));
        }
        let Some(last) = &mut self.last else { return };
        let at = last.len + HEADER_BYTES;
        let out = &mut last.memory.bytes_mut()[last.len..];
        let mut len = if seen.ids == 0 {
            out[HEADER_BYTES..HEADER_BYTES + frame.len()].copy_from_slice(frame);
            frame.len()
        } else {
            ids::write(frame, upstream_ids, &mut out[HEADER_BYTES..])
        };
        if len == 0 {
            // A line with an id was all there was of it. As a chunk it would end the body.
            return;
        }
        if cut {
            out[HEADER_BYTES + len] = b'\n';
            len += 1;
        }
        let header = len as u32 | if numbered { 0 } else { UNNUMBERED };
        out[..HEADER_BYTES].copy_from_slice(&header.to_le_bytes());
        self.end += (at + len - last.len) as u64;
        last.len = at + len;
        self.next += u64::from(numbered);
        self.trim();
    }

    /// The stream is over: nothing follows. `rest` says that what is left of an unfinished frame
    /// is part of it (it ended in order: the bytes are not ours to drop).
    pub fn finish(&mut self, rest: bool) {
        let frames = std::mem::replace(&mut self.frames, Frames::new(0));
        if rest && !self.over {
            let rest = skip_gap(frames.rest(), std::mem::replace(&mut self.fresh, false));
            self.keep(rest, ids::look(rest), false);
        }
        self.over = true;
    }

    /// Whether nothing follows.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Memory for the next frames: little while there are few, and never much of the bound.
    fn segment_bytes(&self) -> usize {
        let most = (self.limits.bytes_max / 16).clamp(Block::SMALLEST, READ_BUFFER_BYTES);
        self.bytes.clamp(Block::SMALLEST, most)
    }

    /// The position up to which frames may be dropped.
    fn droppable(&self) -> u64 {
        match self.furthest() {
            Some(furthest) => furthest,
            None => self.read_to.saturating_sub(self.limits.bytes_max as u64 / 2),
        }
    }

    /// Drops the oldest frames while there are more than are kept.
    fn trim(&mut self) {
        while self.bytes > self.limits.bytes_max && self.shed() {}
    }

    /// Drops the oldest frames of one piece of memory; false where none may go.
    pub(super) fn shed(&mut self) -> bool {
        let droppable = self.droppable();
        let oldest = self.segments.front().filter(|oldest| oldest.end() <= droppable);
        if oldest.is_none() {
            return false;
        }
        self.bytes -= self.segments.pop_front().map_or(0, |oldest| oldest.size());
        true
    }

    /// The position of the first frame that is kept, and its number.
    fn start(&self) -> (u64, u64) {
        let oldest = self.segments.front().or(self.last.as_ref());
        oldest.map_or((self.end, self.next), |oldest| (oldest.base, oldest.first))
    }

    fn furthest(&self) -> Option<u64> {
        let staying = self.readers.iter().filter(|reader| !reader.replaced);
        staying.map(|reader| reader.position).max()
    }

    /// Readers there are.
    pub fn readers(&self) -> usize {
        self.readers.len()
    }

    /// Whether the source may go on. `starved` says that the core has no memory left for what
    /// nobody has read yet.
    pub fn wants_more(&mut self, starved: bool) -> bool {
        if self.over {
            return false;
        }
        self.paused = match self.furthest() {
            Some(furthest) => {
                let behind = self.end - furthest;
                let mark = if self.paused { self.limits.low } else { self.limits.high };
                behind as usize > mark || starved && behind > 0
            }
            None => {
                let oldest = self.segments.front().or(self.last.as_ref());
                let oldest = oldest.map_or(self.end, Segment::end);
                let stuck = oldest > self.droppable();
                let kept = (self.end - self.start().0) as usize;
                stuck && (starved || kept + self.segment_bytes() > self.limits.bytes_max)
            }
        };
        !self.paused
    }

    /// Adds a reader that has the frame of this number (0 for none), and all before.
    ///
    /// # Errors
    /// It cannot go on from there.
    pub fn attach(&mut self, after: u64) -> Result<ReaderKey, Refused> {
        let (start, first) = self.start();
        if after >= self.next {
            return Err(Refused::Unknown);
        }
        if after + 1 < first {
            return Err(Refused::Gap);
        }
        let position = self.position_behind(after).unwrap_or(start);
        let sequence = after + 1;
        for other in self.readers.iter_mut() {
            other.suspect = true;
        }
        let staying = self.readers.iter().filter(|reader| !reader.replaced);
        if staying.count() >= READERS_MAX {
            // A client that has lost so many connections which seem to live must not be refused.
            let staying = self.readers.iter_mut().filter(|reader| !reader.replaced);
            if let Some(oldest) = staying.min_by_key(|reader| reader.number) {
                oldest.replaced = true;
            }
        }
        self.wake_readers();
        let number = self.came;
        self.came += 1;
        let (offset, waker, suspect, replaced) = (0, None, false, false);
        let reader = Reader { position, sequence, offset, waker, suspect, replaced, number };
        Ok(self.readers.insert(reader))
    }

    /// Where the frame behind the one of this number stands, if that one is kept.
    fn position_behind(&self, number: u64) -> Option<u64> {
        if number == self.next - 1 && number > 0 {
            // Comments may stand behind it, but mean nothing.
            return Some(self.end);
        }
        let segment = match &self.last {
            Some(last) if last.first <= number => last,
            _ => {
                let at = self.segments.partition_point(|segment| segment.first <= number);
                self.segments.get(at.checked_sub(1)?)?
            }
        };
        let (mut at, mut next) = (0, segment.first);
        while at < segment.len {
            let (frame, numbered) = segment.frame(at);
            at += HEADER_BYTES + frame.len();
            if numbered && next == number {
                return Some(segment.base + at as u64);
            }
            next += u64::from(numbered);
        }
        None
    }

    /// Takes a reader away.
    pub fn detach(&mut self, key: ReaderKey) {
        if let Some(reader) = self.readers.remove(key) {
            self.read_to = self.read_to.max(reader.position);
        }
    }

    /// Whether another reader has come since this was asked last, perhaps in this one's place.
    pub fn take_suspicion(&mut self, key: ReaderKey) -> bool {
        self.readers.get_mut(key).is_some_and(|reader| std::mem::take(&mut reader.suspect))
    }

    /// Whether a paused source may go on now.
    pub fn may_resume(&self) -> bool {
        let near = |furthest| (self.end - furthest) as usize <= self.limits.low;
        self.paused && self.furthest().is_some_and(near)
    }

    /// Whether a reader has fallen out of the log: frames it still wants are no longer kept.
    pub fn has_gap(&self, key: ReaderKey) -> bool {
        self.readers.get(key).is_none_or(|reader| reader.position < self.start().0)
    }

    /// Whether a reader must go, because so many came after it.
    pub fn is_replaced(&self, key: ReaderKey) -> bool {
        self.readers.get(key).is_none_or(|reader| reader.replaced)
    }

    /// Whether a reader has been sent all there is.
    pub fn is_caught_up(&self, key: ReaderKey) -> bool {
        self.readers.get(key).is_none_or(|reader| reader.position == self.end)
    }

    /// Whether a reader stands between two frames.
    pub fn is_between(&self, key: ReaderKey) -> bool {
        self.readers.get(key).is_none_or(|reader| reader.offset == 0)
    }

    /// Frames a reader has been sent whole: the number of the last.
    pub fn sent_up_to(&self, key: ReaderKey) -> u64 {
        self.readers.get(key).map_or(0, |reader| reader.sequence - 1)
    }

    /// Wakes the reader's task when there is news.
    pub fn watch(&mut self, key: ReaderKey, waker: &Waker) {
        if let Some(reader) = self.readers.get_mut(key) {
            match &mut reader.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// Wakes it no more.
    pub fn unwatch(&mut self, key: ReaderKey) {
        if let Some(reader) = self.readers.get_mut(key) {
            reader.waker = None;
        }
    }

    /// Wakes all readers.
    pub fn wake_readers(&self) {
        for reader in self.readers.iter() {
            if let Some(waker) = &reader.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Whether there is one frame for a reader and no more, as there mostly is.
    pub fn is_one_behind(&self, key: ReaderKey) -> bool {
        let (Some(reader), Some(last)) = (self.readers.get(key), &self.last) else {
            return false;
        };
        let at = reader.position.checked_sub(last.base).filter(|at| *at < last.len as u64);
        at.is_some_and(|at| {
            let (frame, _) = last.frame(at as usize);
            at as usize + HEADER_BYTES + frame.len() == last.len
        })
    }

    /// Fills `slices` with what a reader is to be sent next, as many as `N` frames, each behind the
    /// line with its id; returns how many slices it used: up to two a frame and one more. `lines`
    /// is room for what is not kept.
    pub fn gather<'a, const N: usize>(
        &'a self,
        key: ReaderKey,
        (stream, framing): (&StreamText, Outgoing),
        lines: &'a mut Lines<N>,
        slices: &mut [IoSlice<'a>],
    ) -> usize {
        let Some(reader) = self.readers.get(key) else { return 0 };
        let mut frames: [(&[u8], usize); N] = [(&[], 0); N];
        let mut count = 0;
        for ((frame, number), line) in self.from(reader).zip(&mut lines.0) {
            let chunk_end = count > 0 && framing == Outgoing::Chunked;
            let len = put_line((stream, framing), chunk_end, number, frame.len(), line);
            frames[count] = (frame, len);
            count += 1;
        }
        if count == 0 {
            return 0;
        }
        let lines: &'a Lines<N> = lines;
        let (mut used, mut skip) = (0, reader.offset);
        let mut push = |bytes: &'a [u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() {
                slices[used] = IoSlice::new(&bytes[skipped..]);
                used += 1;
            }
        };
        for ((frame, len), line) in frames[..count].iter().zip(&lines.0) {
            push(&line[..*len]);
            push(frame);
        }
        if framing == Outgoing::Chunked {
            push(b"\r\n");
        }
        used
    }

    /// Where the next frame will be kept, and the address of that: for asking ahead.
    pub fn tail(&self) -> *const () {
        self.segments
            .back()
            .map_or(std::ptr::null(), |last| last.memory.bytes()[last.len..].as_ptr().cast())
    }

    /// The frames a reader wants next, and their numbers.
    fn from(&self, reader: &Reader) -> impl Iterator<Item = (&[u8], Option<u64>)> {
        let (mut position, mut sequence) = (reader.position, reader.sequence);
        let segments = self.segments.len();
        let mut index = match &self.last {
            Some(last) if last.base <= position => segments,
            _ => self.segments.partition_point(|segment| segment.end() <= position),
        };
        let at = move |index| {
            if index == segments { self.last.as_ref() } else { self.segments.get(index) }
        };
        std::iter::from_fn(move || {
            let mut segment = at(index)?;
            if position >= segment.end() {
                index += 1;
                segment = at(index).filter(|segment| position < segment.end())?;
            }
            let (frame, numbered) = segment.frame(position.checked_sub(segment.base)? as usize);
            position += (HEADER_BYTES + frame.len()) as u64;
            let number = numbered.then_some(sequence);
            sequence += u64::from(numbered);
            Some((frame, number))
        })
    }

    /// Takes `n` bytes of what was [gathered](Self::gather) as sent; returns how many frames with
    /// a number that completes.
    pub fn sent(
        &mut self,
        key: ReaderKey,
        (stream, framing): (&StreamText, Outgoing),
        n: usize,
    ) -> u64 {
        let Some(reader) = self.readers.get(key) else { return 0 };
        let (mut left, mut bytes, mut frames) = (n + reader.offset, 0, 0);
        for (frame, number) in self.from(reader) {
            let len = sent_len((stream, framing), number, frame.len());
            if left < len {
                break;
            }
            left -= len;
            bytes += HEADER_BYTES + frame.len();
            frames += u64::from(number.is_some());
            if left == 0 {
                break;
            }
        }
        if let Some(reader) = self.readers.get_mut(key) {
            reader.offset = left;
            reader.position += bytes as u64;
            reader.sequence += frames;
            self.read_to = self.read_to.max(reader.position);
        }
        frames
    }
}

fn id_len(stream: &StreamText, number: Option<u64>) -> usize {
    number.map_or(0, |number| 4 + stream.as_bytes().len() + 1 + digits_len(number) + 1)
}

/// The bytes a frame takes as it is sent.
fn sent_len(
    (stream, framing): (&StreamText, Outgoing),
    number: Option<u64>,
    frame_len: usize,
) -> usize {
    let payload = id_len(stream, number) + frame_len;
    match framing {
        Outgoing::Plain => payload,
        Outgoing::Chunked => chunk_line_len(payload) + payload + 2,
    }
}

/// Writes what stands before a frame; returns the length. `chunk_end` ends the chunk before it.
fn put_line(
    (stream, framing): (&StreamText, Outgoing),
    chunk_end: bool,
    number: Option<u64>,
    frame_len: usize,
    out: &mut [u8],
) -> usize {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    if chunk_end {
        put(b"\r\n");
    }
    if framing == Outgoing::Chunked {
        let payload = id_len(stream, number) + frame_len;
        let mut line = [0; CHUNK_LINE_BYTES];
        let len = encode_chunk_line(payload, &mut line);
        put(&line[..len]);
    }
    if let Some(number) = number {
        let mut text = [0; 20];
        let len = digits(number, &mut text);
        put(b"id: ");
        put(stream.as_bytes());
        put(b".");
        put(&text[..len]);
        put(b"\n");
    }
    at
}

#[cfg(test)]
mod tests;
