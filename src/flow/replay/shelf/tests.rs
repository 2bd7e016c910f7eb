//! A simulation: streams on several cores, clients that lose their connections and what was on its
//! way, come back to any core, bring a second reader, are too slow, show the wrong credentials; time
//! passes and memory is short. Every client must have got exactly the frames 1..n in order, or have
//! been told why not. Schedules are random and replayed by their seed.

use std::collections::HashMap;
use std::io::IoSlice;

use fastrand::Rng;

use super::*;
use crate::clock;
use crate::flow::replay::log::{FRAMES_PER_GATHER, Lines};
use crate::flow::stream::Outgoing;
use crate::limits::WRITE_SLICES_MAX;
use crate::sse::sequence::Epoch;
use crate::sse::{Message, Parser};

const CORES: u16 = 3;
const BYTES_MAX: usize = 16 * 1024;
const SHELF_BYTES_MAX: usize = 80 * 1024;
const KEEP: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(30);
const RIGHT: Credential = [1; 32];
/// What may stand beyond a bound: one frame's segment, and the one that is being written.
const SLACK: usize = 20 * 1024;

fn terms() -> Terms {
    let (high, low) = (BYTES_MAX / 2, BYTES_MAX / 4);
    let limits = Limits { bytes_max: BYTES_MAX, high, low, frame_max: BYTES_MAX / 2 };
    Terms { limits, upstream_ids: UpstreamIds::Comment, keep: KEEP, grace: GRACE }
}

/// What the upstream says as its frame of this number.
fn frame(seed: u64, number: u64) -> String {
    let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9));
    let len = if rng.u8(0..20) == 0 { rng.usize(1000..4000) } else { rng.usize(0..200) };
    format!("data: {number} {}\n\n", "x".repeat(len))
}

/// A stream as its upstream and the model know it.
struct Stream {
    core: u16,
    slot: u32,
    text: StreamText,
    seed: u64,
    /// Frames that came.
    frames: u64,
    /// Frames it will have.
    length: u64,
    over_at: Option<Instant>,
    cancelled: bool,
    unread_since: Option<Instant>,
}

/// A client and its connection, where it has one.
struct Client {
    stream: usize,
    seat: Option<ReaderKey>,
    /// Sent on this connection.
    sent: Vec<u8>,
    /// The number of the last frame it has whole.
    has: u64,
    /// It was told that there is no going on.
    told: Option<Found>,
}

struct World {
    rng: Rng,
    now: Instant,
    cores: Vec<Shelf>,
    streams: Vec<Stream>,
    clients: Vec<Client>,
    gaps: u32,
    back: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let epoch = Epoch::new([9; 6]);
        let shelf = |core| Shelf::new(core, epoch, SHELF_BYTES_MAX);
        Self {
            rng: Rng::with_seed(seed),
            now: clock::now(),
            cores: (0..CORES).map(shelf).collect(),
            streams: Vec::new(),
            clients: Vec::new(),
            gaps: 0,
            back: 0,
        }
    }

    fn begin(&mut self) {
        let core = self.rng.u16(0..CORES);
        let mut secret = [0; 14];
        self.rng.fill(&mut secret);
        let shelf = &mut self.cores[usize::from(core)];
        let (slot, reader) = shelf.begin(secret, 4, RIGHT, terms());
        let text = shelf.stream(slot).expect("just begun").text;
        let (seed, length) = (self.rng.u64(..), self.rng.u64(1..400));
        let (frames, over_at, cancelled, unread_since) = (0, None, false, None);
        self.streams.push(Stream {
            core,
            slot,
            text,
            seed,
            frames,
            length,
            over_at,
            cancelled,
            unread_since,
        });
        let stream = self.streams.len() - 1;
        let client = Client { stream, seat: reader, sent: Vec::new(), has: 0, told: None };
        self.clients.push(client);
    }

    fn shelf(&mut self, stream: usize) -> (&mut Shelf, u32) {
        let Stream { core, slot, .. } = self.streams[stream];
        (&mut self.cores[usize::from(core)], slot)
    }

    /// The upstream says some more, as far as the relay reads it.
    fn source(&mut self, stream: usize) {
        for _ in 0..self.rng.u32(1..30) {
            let now = self.now;
            let Stream { seed, frames, length, over_at, cancelled, .. } = self.streams[stream];
            if over_at.is_some() {
                return;
            }
            let (shelf, slot) = self.shelf(stream);
            let due = shelf.stream(slot).and_then(Kept::deadline).is_some_and(|at| at <= now);
            if cancelled || due || frames == length {
                shelf.finish(slot, Outcome::Done, frames == length, now);
                self.streams[stream].over_at = Some(now);
                return;
            }
            if !shelf.wants_more(slot) {
                return;
            }
            let text = frame(seed, frames + 1);
            shelf.change(slot, |log| log.feed(text.as_bytes())).expect("there").expect("short");
            self.streams[stream].frames += 1;
        }
    }

    /// The socket takes some of what a client is to be sent.
    fn send(&mut self, client: usize) {
        let Client { stream, seat: Some(reader), .. } = self.clients[client] else { return };
        let text = self.streams[stream].text;
        let part = self.rng.f64();
        let how = (&text, Outgoing::Plain);
        let (shelf, slot) = self.shelf(stream);
        let kept = shelf.stream_mut(slot).expect("it has a reader");
        if kept.log.has_gap(reader) {
            self.gaps += 1;
            self.drop_connection(client);
            return;
        }
        let (mut lines, mut slices) =
            (Lines::<FRAMES_PER_GATHER>::default(), [IoSlice::new(&[]); WRITE_SLICES_MAX]);
        let used = kept.log.gather(reader, how, &mut lines, &mut slices);
        let mut bytes: Vec<u8> =
            slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        bytes.truncate((bytes.len() as f64 * (part * 1.3).min(1.0)) as usize);
        kept.log.sent(reader, how, bytes.len());
        let over = kept.log.is_over() && kept.log.is_caught_up(reader);
        self.clients[client].sent.extend_from_slice(&bytes);
        if over {
            self.receive(client, 1.0);
            self.leave(client);
        }
    }

    /// The client gets this share of what was sent to it, and sees that it is in order.
    fn receive(&mut self, client: usize, share: f64) {
        let sent = std::mem::take(&mut self.clients[client].sent);
        let sent = &sent[..(sent.len() as f64 * share) as usize];
        let (mut parser, mut messages) = (Parser::new(1 << 20), Vec::<Message>::new());
        parser.feed(sent, &mut messages).expect("short");
        let Client { stream, has, .. } = &mut self.clients[client];
        let Stream { seed, text, .. } = &self.streams[*stream];
        for message in messages {
            *has += 1;
            let said = frame(*seed, *has);
            let said = said.strip_prefix("data: ").and_then(|said| said.strip_suffix("\n\n"));
            assert_eq!(Some(message.data.as_slice()), said.map(str::as_bytes));
            let id = format!("{}.{has}", text.as_str());
            assert_eq!(message.last_event_id, id.as_bytes());
        }
    }

    fn leave(&mut self, client: usize) {
        let (stream, now) = (self.clients[client].stream, self.now);
        let Some(reader) = self.clients[client].seat.take() else { return };
        let (shelf, slot) = self.shelf(stream);
        shelf.leave(slot, reader, now);
        let readers = shelf.stream(slot).map_or(0, |kept| kept.log.readers());
        if readers == 0 {
            self.streams[stream].unread_since = Some(now);
        }
    }

    /// The connection is lost, with some of what was on its way.
    fn drop_connection(&mut self, client: usize) {
        let share = self.rng.f64();
        self.receive(client, share);
        self.leave(client);
    }

    /// The client comes back, to any core.
    fn come_back(&mut self, client: usize, credential: Credential) {
        let Client { stream, has, .. } = self.clients[client];
        let text = format!("{}.{has}", self.streams[stream].text.as_str());
        let id = EventId::read(text.as_bytes()).expect("ours");
        let landed = self.rng.u16(0..CORES);
        let owner = self.cores[usize::from(landed)].owner_elsewhere(&id).unwrap_or(landed);
        assert_eq!(owner, self.streams[stream].core);
        let coming = Coming { id: &id, route: 4, credential: &credential };
        for wrong in [
            Coming { route: 3, ..coming },
            Coming { credential: &[2; 32], ..coming },
            Coming { id: &EventId { sequence: 1 << 40, ..id }, ..coming },
        ] {
            assert_eq!(self.cores[usize::from(owner)].resume(wrong), Found::Unknown);
        }
        let found = self.cores[usize::from(owner)].resume(coming);
        let (now, evicted) = (self.now, self.cores[usize::from(owner)].evicted() > 0);
        let known = &mut self.streams[stream];
        match found {
            Found::Reader(slot, reader) => {
                assert_eq!(slot, known.slot);
                assert!(!known.cancelled);
                known.unread_since = None;
                self.back += 1;
                self.clients[client].seat = Some(reader);
            }
            Found::Over => assert!(known.over_at.is_some() && has == known.frames),
            Found::Gap => assert!(has < known.frames, "frames are missing"),
            Found::Unknown => {
                let since = known.over_at.zip(known.unread_since).map(|(a, b)| a.max(b));
                let expired = since.is_some_and(|since| since + KEEP <= now);
                // What was over may have made room for others.
                let evicted = known.over_at.is_some() && evicted;
                assert!(known.cancelled || expired || evicted, "it should be there");
            }
        }
        if !matches!(found, Found::Reader(..)) {
            self.clients[client].told = Some(found);
        }
    }

    fn cancel(&mut self, stream: usize) {
        let id = EventId::read(self.streams[stream].text.as_bytes()).expect("ours");
        let (shelf, _) = self.shelf(stream);
        assert!(!shelf.cancel(Coming { id: &id, route: 4, credential: &[0; 32] }));
        if shelf.cancel(Coming { id: &id, route: 4, credential: &RIGHT }) {
            self.streams[stream].cancelled = true;
        }
    }

    fn step(&mut self) {
        let client = self.rng.usize(0..self.clients.len());
        let stream = self.rng.usize(0..self.streams.len());
        let (seated, told) = (self.clients[client].seat.is_some(), self.clients[client].told);
        match self.rng.u8(0..100) {
            0..=39 => self.source(stream),
            40..=79 => self.send(client),
            80..=89 if seated => self.drop_connection(client),
            80..=93 if !seated && told.is_none() => self.come_back(client, RIGHT),
            94..=95 if self.clients.len() < 40 => {
                let (stream, has) = (self.clients[client].stream, 0);
                self.clients.push(Client { stream, seat: None, sent: Vec::new(), has, told: None });
            }
            96 if self.streams.len() < 12 => self.begin(),
            97 if self.rng.u8(0..10) == 0 => self.cancel(stream),
            98..=99 => {
                self.now += Duration::from_secs(self.rng.u64(0..8));
                let now = self.now;
                self.cores.iter_mut().for_each(|shelf| {
                    shelf.sweep(now);
                });
            }
            _ => {}
        }
    }

    fn check(&self) {
        for shelf in &self.cores {
            let logs = shelf.kept.iter().map(|(_, kept)| kept.log.bytes());
            assert_eq!(shelf.bytes(), logs.clone().sum::<usize>());
            logs.for_each(|bytes| assert!(bytes <= BYTES_MAX + SLACK, "{bytes}"));
            let live = shelf.kept.len() * SLACK;
            assert!(shelf.bytes() <= SHELF_BYTES_MAX + live, "{}", shelf.bytes());
        }
    }

    /// Everybody comes back and reads to the end, and then nothing is left.
    fn settle(&mut self) {
        for _ in 0..5000 {
            let waiting: Vec<usize> =
                (0..self.clients.len()).filter(|n| self.clients[*n].told.is_none()).collect();
            if waiting.is_empty() {
                break;
            }
            for client in waiting {
                if self.clients[client].seat.is_none() {
                    self.come_back(client, RIGHT);
                }
                self.send(client);
            }
            for stream in 0..self.streams.len() {
                self.source(stream);
            }
        }
        let mut ends = HashMap::new();
        for client in &self.clients {
            let told = client.told.expect("everybody comes to an end");
            *ends.entry(format!("{told:?}")).or_insert(0) += 1;
            let stream = &self.streams[client.stream];
            if told == Found::Over {
                assert_eq!(client.has, stream.frames);
            }
        }
        self.now += GRACE + KEEP;
        for stream in 0..self.streams.len() {
            self.source(stream);
        }
        self.now += KEEP;
        for shelf in &mut self.cores {
            shelf.sweep(self.now);
            assert_eq!((shelf.streams(), shelf.bytes(), shelf.over.len()), (0, 0, 0));
        }
    }
}

#[test]
fn every_schedule_ends_with_all_frames_in_order_or_a_told_reason() {
    let (mut back, mut gaps, mut over) = (0, 0, 0);
    for seed in 0..24 {
        let mut world = World::new(seed);
        world.begin();
        for _ in 0..1500 {
            world.step();
            world.check();
        }
        world.settle();
        (back, gaps) = (back + world.back, gaps + world.gaps);
        let all = world.clients.iter().filter(|client| client.told == Some(Found::Over));
        over += all.count();
    }
    // The schedules do come to what they are about.
    assert!(back > 400 && gaps > 10 && over > 150, "{back} {gaps} {over}");
}

#[test]
fn a_stream_whose_place_is_taken_by_another_is_not_found_in_it() {
    let mut shelf = Shelf::new(0, Epoch::new([1; 6]), 1 << 20);
    let now = clock::now();
    let (slot, reader) = shelf.begin([1; 14], 0, RIGHT, terms());
    let old = shelf.stream(slot).expect("there").text;
    shelf.finish(slot, Outcome::Done, true, now);
    shelf.leave(slot, reader.expect("fresh"), now);
    assert_eq!((shelf.sweep(now), shelf.sweep(now + KEEP)), (0, 1));
    let (again, _) = shelf.begin([2; 14], 0, RIGHT, terms());
    assert_eq!(again, slot);
    let id = EventId::read(old.as_bytes()).expect("ours");
    let found = shelf.resume(Coming { id: &id, route: 0, credential: &RIGHT });
    assert_eq!(found, Found::Unknown);
}

#[test]
fn what_finished_first_makes_room_first_and_readers_keep_theirs() {
    let mut shelf = Shelf::new(0, Epoch::new([1; 6]), 64 * 1024);
    let now = clock::now();
    let mut begun = |secret: u8, leaves: bool| {
        let (slot, reader) = shelf.begin([secret; 14], 0, RIGHT, terms());
        let reader = reader.expect("fresh");
        for _ in 0..14 {
            let frame = format!("data: {}\n\n", "x".repeat(1000));
            shelf.change(slot, |log| log.feed(frame.as_bytes())).expect("there").expect("short");
        }
        shelf.finish(slot, Outcome::Done, true, now);
        if leaves {
            shelf.leave(slot, reader, now);
        }
        slot
    };
    let slots = [begun(1, true), begun(2, false), begun(3, true), begun(4, true)];
    let there = |shelf: &Shelf| slots.map(|slot| shelf.stream(slot).is_some());
    assert_eq!(there(&shelf), [true; 4]);
    let (slot, _) = shelf.begin([5; 14], 0, RIGHT, terms());
    for _ in 0..12 {
        let frame = format!("data: {}\n\n", "x".repeat(1000));
        shelf.change(slot, |log| log.feed(frame.as_bytes())).expect("there").expect("short");
    }
    assert_eq!(there(&shelf), [false, true, true, true], "{}", shelf.bytes());
}
