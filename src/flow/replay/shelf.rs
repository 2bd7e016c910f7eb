//! The logs of one core.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::UpstreamIds;
use super::log::{Limits, Log, ReaderKey, Refused};
use crate::outcome::Outcome;
use crate::sse::sequence::{Epoch, EventId, StreamId, StreamText};

/// Bytes that only the client can show which began a stream: a digest of its credentials.
pub type Credential = [u8; 32];

/// On what terms a stream is kept.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The bounds of its log.
    pub limits: Limits,
    /// What becomes of the upstream's own ids.
    pub upstream_ids: UpstreamIds,
    /// Time it is kept once it is over.
    pub keep: Duration,
    /// Time its source goes on without a reader.
    pub grace: Duration,
}

/// Who wants a stream.
#[derive(Clone, Copy, Debug)]
pub struct Coming<'a> {
    /// What it says it has.
    pub id: &'a EventId,
    /// Its route.
    pub route: usize,
    /// Its credentials.
    pub credential: &'a Credential,
}

/// A stream that somebody may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A reader was added.
    Reader(u32, ReaderKey),
    /// It is over, and there is nothing that the client has not got.
    Over,
    /// Frames that the client has not got are no longer kept.
    Gap,
    /// There is no such stream, or it is none of this client's.
    Unknown,
}

/// One stream.
#[derive(Debug)]
#[repr(C)] // what is looked at with every frame stands together, in few cache lines
pub struct Kept {
    /// Its frames.
    pub log: Log,
    /// What keeps a silent connection alive, where its readers bear something.
    pub heartbeat: Option<&'static [u8]>,
    /// Somebody wants it ended.
    pub cancelled: bool,
    /// Its source waits for a reader to drive it.
    pub parked: bool,
    starved: bool,
    /// It ended in order.
    pub whole: bool,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Its name, as it stands in every id.
    pub text: StreamText,
    source: Option<Waker>,
    /// Since when nobody reads it.
    unread_since: Option<Instant>,
    over_since: Option<Instant>,
    secret: [u8; 14],
    route: usize,
    credential: Credential,
    terms: Terms,
}

impl Kept {
    /// The number of its route; none that there is, once it is cancelled.
    pub fn route(&self) -> usize {
        self.route
    }

    /// When its source is to be ended for want of a reader.
    pub fn deadline(&self) -> Option<Instant> {
        self.unread_since.map(|since| since + self.terms.grace)
    }

    /// Wakes the source's task when readers come, go, or make room.
    pub fn watch(&mut self, waker: &Waker) {
        match &mut self.source {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Wakes the source.
    pub fn wake_source(&self) {
        if let Some(source) = &self.source {
            source.wake_by_ref();
        }
    }

    fn expires(&self) -> Option<Instant> {
        let since = self.over_since?.max(self.unread_since?);
        Some(since + self.terms.keep)
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Shelf {
    core: u16,
    epoch: Epoch,
    bytes_max: usize,
    bytes: usize,
    kept: Slab<Box<Kept>>,
    /// Streams that had to make room before their time, ever.
    evicted: u64,
    /// Those that are over, the oldest first. An entry may be stale.
    over: VecDeque<(u32, [u8; 14])>,
}

/// Whether two byte strings are the same, in a time that does not depend on where they differ.
fn same<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
    let differing = a.iter().zip(b).fold(0, |bits, (a, b)| bits | (a ^ b));
    std::hint::black_box(differing) == 0
}

impl Shelf {
    /// An empty shelf of this core, for `bytes_max` bytes of frames.
    pub fn new(core: u16, epoch: Epoch, bytes_max: usize) -> Self {
        let (kept, over) = (Slab::new(), VecDeque::new());
        Self { core, epoch, bytes_max, bytes: 0, kept, evicted: 0, over }
    }

    /// Streams that are kept.
    pub fn streams(&self) -> usize {
        self.kept.len()
    }

    /// Memory that frames take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Streams that had to make room before their time, ever.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The core an id belongs to, if that is another than this one, in this process.
    pub fn owner_elsewhere(&self, id: &EventId) -> Option<u16> {
        let stream = &id.stream;
        (stream.epoch == self.epoch && stream.core != self.core).then_some(stream.core)
    }

    /// Begins a stream with its first reader. `secret` is random.
    pub fn begin(
        &mut self,
        secret: [u8; 14],
        route: usize,
        credential: Credential,
        terms: Terms,
    ) -> (u32, Option<ReaderKey>) {
        let place = self.kept.vacant_entry();
        // A core has far fewer than 2^32 streams.
        let slot = place.key() as u32;
        let text = StreamId { slot, secret, core: self.core, epoch: self.epoch }.text();
        let mut log = Log::new(terms.limits, terms.upstream_ids);
        let reader = log.attach(0).ok();
        place.insert(Box::new(Kept {
            secret,
            route,
            credential,
            terms,
            text,
            log,
            outcome: None,
            whole: false,
            heartbeat: None,
            cancelled: false,
            parked: false,
            source: None,
            unread_since: None,
            over_since: None,
            starved: false,
        }));
        (slot, reader)
    }

    /// Where a stream is found, and what of it every frame takes: for asking ahead.
    pub fn near(&self, slot: u32) -> (*const (), *const (), *const ()) {
        let null = std::ptr::null;
        let Some(kept) = self.kept.get(slot as usize) else { return (null(), null(), null()) };
        let (place, stream): (*const Box<Kept>, *const Kept) = (kept, &raw const **kept);
        (place.cast(), stream.cast(), kept.log.tail())
    }

    /// A stream by its place.
    pub fn stream(&self, slot: u32) -> Option<&Kept> {
        self.kept.get(slot as usize).map(|kept| &**kept)
    }

    /// A stream by its place.
    pub fn stream_mut(&mut self, slot: u32) -> Option<&mut Kept> {
        self.kept.get_mut(slot as usize).map(|kept| &mut **kept)
    }

    /// The place of the stream that somebody wants and may have. What is wrong with any other
    /// makes no difference, in the answer or the time it takes.
    fn find(&self, coming: Coming<'_>) -> Option<u32> {
        let Coming { id, route, credential } = coming;
        let StreamId { slot, secret, core, epoch } = &id.stream;
        let kept = self.kept.get(*slot as usize);
        let (own_secret, own_credential, own_route) = kept
            .map_or((&[0; 14], &[0; 32], usize::MAX), |kept| {
                (&kept.secret, &kept.credential, kept.route)
            });
        let fits = same(own_secret, secret) & same(own_credential, credential);
        let fits = fits & (own_route == route) & (*core == self.core) & (*epoch == self.epoch);
        (fits && kept.is_some()).then_some(*slot)
    }

    /// Lets a client read on.
    pub fn resume(&mut self, coming: Coming<'_>) -> Found {
        let Some(slot) = self.find(coming) else { return Found::Unknown };
        let Some(kept) = self.stream_mut(slot) else { return Found::Unknown };
        if kept.log.is_over() && coming.id.sequence == kept.log.last() {
            return Found::Over;
        }
        match kept.log.attach(coming.id.sequence) {
            Ok(reader) => {
                kept.unread_since = None;
                kept.wake_source();
                Found::Reader(slot, reader)
            }
            Err(Refused::Gap) => Found::Gap,
            Err(Refused::Unknown) => Found::Unknown,
        }
    }

    /// Asks for a stream's end; false if there is no such stream, or it is none of this client's.
    pub fn cancel(&mut self, coming: Coming<'_>) -> bool {
        let Some(slot) = self.find(coming) else { return false };
        let Some(kept) = self.stream_mut(slot) else { return false };
        kept.cancelled = true;
        // From here on its ids name nothing.
        kept.route = usize::MAX;
        if kept.log.is_over() {
            self.forget_unread(slot);
        } else {
            kept.wake_source();
        }
        true
    }

    /// A reader has left.
    pub fn leave(&mut self, slot: u32, reader: ReaderKey, now: Instant) {
        let Some(kept) = self.stream_mut(slot) else { return };
        kept.log.detach(reader);
        if kept.log.readers() == 0 {
            kept.unread_since = Some(now);
        }
        kept.wake_source();
        if kept.cancelled {
            self.forget_unread(slot);
        }
    }

    /// Takes frames of a stream into account, which `change` may add; makes room where there is too
    /// little.
    pub fn change<R>(&mut self, slot: u32, change: impl FnOnce(&mut Log) -> R) -> Option<R> {
        let kept = self.kept.get_mut(slot as usize)?;
        let before = kept.log.bytes();
        let result = change(&mut kept.log);
        self.bytes = self.bytes + kept.log.bytes() - before;
        if self.bytes > self.bytes_max {
            self.make_room(slot);
        }
        Some(result)
    }

    /// Whether the source of a stream may go on.
    pub fn wants_more(&mut self, slot: u32) -> bool {
        let starved = self.bytes > self.bytes_max;
        let Some(kept) = self.stream_mut(slot) else { return false };
        kept.starved = starved;
        kept.log.wants_more(starved)
    }

    /// Drops what is over and unread, the oldest first; then this stream's own past.
    fn make_room(&mut self, slot: u32) {
        let mut left = self.over.len();
        while self.bytes > self.bytes_max && left > 0 {
            left -= 1;
            let Some((oldest, secret)) = self.over.pop_front() else { break };
            let known = self.stream(oldest).filter(|kept| kept.secret == secret);
            match known.map(|kept| kept.log.readers()) {
                None => {}
                Some(0) => {
                    self.evicted += 1;
                    self.forget(oldest);
                }
                Some(_) => self.over.push_back((oldest, secret)),
            }
        }
        while self.bytes > self.bytes_max {
            let Some(kept) = self.kept.get_mut(slot as usize) else { break };
            let before = kept.log.bytes();
            if !kept.log.shed() {
                break;
            }
            self.bytes = self.bytes + kept.log.bytes() - before;
        }
    }

    /// The stream is over; `whole` says that it ended in order.
    pub fn finish(&mut self, slot: u32, outcome: Outcome, whole: bool, now: Instant) {
        self.change(slot, |log| log.finish(whole));
        let Some(kept) = self.stream_mut(slot) else { return };
        (kept.outcome, kept.whole) = (Some(outcome), whole);
        (kept.over_since, kept.source) = (Some(now), None);
        kept.log.wake_readers();
        let entry = (slot, kept.secret);
        let (cancelled, unread) = (kept.cancelled, kept.log.readers() == 0);
        if unread {
            kept.unread_since.get_or_insert(now);
        }
        self.over.push_back(entry);
        if cancelled {
            self.forget_unread(slot);
        }
    }

    fn forget_unread(&mut self, slot: u32) {
        if self.stream(slot).is_some_and(|kept| kept.log.is_over() && kept.log.readers() == 0) {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: u32) {
        let Some(kept) = self.kept.try_remove(slot as usize) else { return };
        self.bytes -= kept.log.bytes();
        self.wake_starved();
    }

    fn wake_starved(&self) {
        if self.bytes <= self.bytes_max {
            let starved = self.kept.iter().filter(|(_, kept)| kept.starved);
            starved.for_each(|(_, kept)| kept.wake_source());
        }
    }

    /// Drops what has been kept long enough; to be called now and then. Returns how many streams
    /// that were.
    pub fn sweep(&mut self, now: Instant) -> usize {
        let due = |kept: &Kept| kept.expires().is_some_and(|at| at <= now);
        let expired: Vec<usize> =
            self.kept.iter().filter(|(_, kept)| due(kept)).map(|(slot, _)| slot).collect();
        for slot in &expired {
            self.forget(*slot as u32);
        }
        let kept = &self.kept;
        self.over.retain(|(slot, secret)| {
            kept.get(*slot as usize).is_some_and(|kept| kept.secret == *secret)
        });
        if !expired.is_empty() {
            self.over.shrink_to_fit();
            self.kept.shrink_to_fit();
        }
        expired.len()
    }
}

#[cfg(test)]
mod tests;
