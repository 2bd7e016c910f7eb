//! Readiness: which of a core's descriptors can be read or written.
//!
//! ```text
//!  sockets ─▶ one edge-triggered epoll set a core ─▶ bits of each ─▶ the tasks that want them
//!                        │
//!                        └ one poll request on the ring, for the set as a whole
//! ```
//!
//! A socket is put into the set once, when it is opened, and leaves it when it is closed. Its bits
//! are set by what the kernel tells and cleared by whoever finds the socket empty or full; so a
//! wait costs no system call, no submission and no memory of its own, and can be dropped at any
//! time. The loop's driver sees one descriptor, the set, whose request is made anew only when the
//! core has nothing left to do.
//!
//! Against a poll request on the ring for each wait, which this replaced, see loadtest/NOTES.md.
//!
//! Where a look brings several, bytes are received for all of those who [wait to
//! receive](Watched::poll_arrived) before the first is woken (`ahead.rs`).
//!
//! Edge triggered means: what is there already is not told again. A bit is cleared only by a read
//! that found less than it had room for, or a write that was taken in part, never on a guess; and
//! a peer's close, which may have come with the last bytes, keeps its socket readable for ever.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::ahead::{AHEAD_BYTES_MAX, Place, Received};
use super::wait::poll_slot;
use crate::buf::prefetch_from;

/// What is asked of the kernel for every descriptor.
const TOLD: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// Events taken in one look; more are taken by the next.
const EVENTS_PER_LOOK: usize = 256;

/// Bytes of a connection's task that are asked for when it is woken.
const TASK_BYTES: usize = 1152;

const READ: u8 = 1;
const WRITE: u8 = 2;
/// The peer has closed, or the connection has failed: reading stays possible for ever.
const CLOSED: u8 = 4;
/// The task receives as soon as it is woken, so it may be done for it.
const AHEAD: u8 = 8;

/// One descriptor in the set. Never in two lines of the cache.
#[repr(align(32))]
#[derive(Default)]
struct Entry {
    /// What can be done, as far as is known.
    ready: u8,
    /// What its task waits for.
    wanted: u8,
    /// What came last was little, and so what comes may be received ahead.
    trickles: bool,
    fd: RawFd,
    /// Where what was received ahead is.
    ahead: Place,
    task: Option<Waker>,
}

const _: () = assert!(size_of::<Entry>() == 32, "two of them in a line");

impl Entry {
    fn poll(&mut self, bits: u8, cx: &Context<'_>) -> Poll<()> {
        if self.ready & bits != 0 || (bits & READ != 0 && self.ahead.is_some()) {
            return Poll::Ready(());
        }
        if bits & READ != 0 {
            self.wanted &= !AHEAD;
        }
        self.wanted |= bits;
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes what the kernel tells; `ahead` where bytes may be received before the task is woken.
    fn told(&mut self, flags: EventFlags, ahead: Option<&mut Received>) {
        let mut bits = 0;
        if flags.contains(EventFlags::IN) {
            bits |= READ;
        }
        if flags.contains(EventFlags::OUT) {
            bits |= WRITE;
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            bits |= CLOSED;
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            // Writing fails at once, which is how the writer learns of it.
            bits |= WRITE;
        }
        self.ready |= bits;
        // A close is news to readers.
        let news = if bits & CLOSED == 0 { bits } else { bits | READ };
        if self.wanted & news == 0 {
            return;
        }
        let Some(task) = &self.task else { return };
        // All at once, or each of its lines would be waited for in turn; and before the receive,
        // during which they come.
        prefetch_from(task.data(), TASK_BYTES);
        if let Some(received) = ahead
            && self.wanted & AHEAD != 0
            && self.trickles
            && self.ready & (READ | CLOSED) == READ
        {
            self.receive(received);
        }
        self.wanted = 0;
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    fn receive(&mut self, received: &mut Received) {
        let Some(came) = received.receive(self.fd) else { return };
        self.ahead = came.place;
        self.trickles = came.drained;
        if came.drained {
            self.ready &= !READ;
        }
    }
}

/// The entries by their numbers. Where one is can be told without looking at it, so its memory can
/// be asked for.
#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    free: Vec<u32>,
}

impl Entries {
    fn insert(&mut self, entry: Entry) -> u32 {
        match self.free.pop() {
            Some(key) => {
                self.all[key as usize] = entry;
                key
            }
            None => {
                self.all.push(entry);
                // A core has far fewer than 2^32 descriptors.
                self.all.len() as u32 - 1
            }
        }
    }

    fn remove(&mut self, key: u32) -> Entry {
        self.free.push(key);
        std::mem::take(&mut self.all[key as usize])
    }

    #[inline]
    fn ask_ahead(&self, key: u32) {
        prefetch_from(self.all.as_ptr().wrapping_add(key as usize).cast(), size_of::<Entry>());
    }

    /// Gives back what lies behind the last entry in use. Looks at all of them.
    fn shrink(&mut self) {
        let mut vacant = vec![false; self.all.len()];
        self.free.iter().for_each(|&key| vacant[key as usize] = true);
        let len = vacant.iter().rposition(|vacant| !vacant).map_or(0, |last| last + 1);
        self.all.truncate(len);
        self.all.shrink_to_fit();
        self.free.retain(|&key| (key as usize) < len);
        self.free.shrink_to_fit();
        // The first places are taken first, so that the last can go the next time.
        self.free.sort_unstable_by_key(|&key| std::cmp::Reverse(key));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }
}

/// One core's set.
struct Set {
    /// Fails for want of a descriptor only; every use of the set then says so.
    epoll: Result<OwnedFd, Errno>,
    entries: RefCell<Entries>,
    received: RefCell<Received>,
    /// Those who let everyone else go first.
    behind: RefCell<Vec<Waker>>,
    /// The task that looks at the set, while there is one.
    looker: RefCell<Option<Waker>>,
    looked_after: Cell<bool>,
}

thread_local! {
    static SET: Set = Set {
        epoll: epoll::create(CreateFlags::CLOEXEC),
        entries: RefCell::default(),
        received: RefCell::default(),
        behind: RefCell::default(),
        looker: RefCell::default(),
        looked_after: Cell::new(false),
    };
}

impl Set {
    fn epoll(&self) -> io::Result<&OwnedFd> {
        self.epoll.as_ref().map_err(|error| (*error).into())
    }

    /// Begins to look at the set, in a task of this thread's runtime.
    fn begin(&self) -> io::Result<()> {
        if self.looked_after.get() {
            return Ok(());
        }
        // Of the driver we want readiness alone, which is the same for every descriptor.
        let watched = monoio::net::UnixStream::from_std(self.epoll()?.try_clone()?.into())?;
        self.looked_after.set(true);
        monoio::spawn(look_after(watched));
        Ok(())
    }

    fn add(&self, fd: &OwnedFd, ready: u8) -> io::Result<u32> {
        self.begin()?;
        let key = self.entries.borrow_mut().insert(Entry {
            ready,
            fd: fd.as_raw_fd(),
            ..Entry::default()
        });
        let added = epoll::add(self.epoll()?, fd, EventData::new_u64(u64::from(key)), TOLD);
        if let Err(error) = added {
            self.entries.borrow_mut().remove(key);
            return Err(error.into());
        }
        Ok(key)
    }

    /// Takes what the kernel has to tell; returns how many events that were.
    fn look(&self) -> usize {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_PER_LOOK];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(epoll) = &self.epoll else { return 0 };
        let Ok((events, _)) = epoll::wait(epoll, &mut events[..], Some(&at_once)) else {
            return 0;
        };
        let mut entries = self.entries.borrow_mut();
        // For one alone it would be a copy for nothing.
        let mut ahead = (events.len() > 1).then(|| self.received.borrow_mut());
        if let Some(received) = &mut ahead {
            received.begin();
        }
        for event in events.iter() {
            let data = event.data;
            entries.ask_ahead(data.u64() as u32);
        }
        for event in events.iter() {
            // Copied out of the kernel's packed layout.
            let (data, flags) = (event.data, event.flags);
            if let Some(entry) = entries.all.get_mut(data.u64() as usize) {
                entry.told(flags, ahead.as_deref_mut());
            }
        }
        events.len()
    }

    /// Wakes those who gave way; false where there are none.
    fn call_behind(&self) -> bool {
        let behind = self.behind.take();
        let any = !behind.is_empty();
        behind.into_iter().for_each(Waker::wake);
        any
    }
}

/// Forgets who looks at this thread's set; to be called before a runtime is run on it. (The tasks
/// of an earlier runtime are leaked with it where they wait.)
pub fn forget() {
    SET.with(|set| {
        set.looked_after.set(false);
        set.looker.take();
        drop(set.behind.take());
    });
}

/// Gives back the memory of sockets that have gone; for when many have.
pub fn trim() {
    SET.with(|set| set.entries.borrow_mut().shrink());
}

/// Looks at the set whenever the loop says that there is something, or somebody gave way.
async fn look_after(watched: monoio::net::UnixStream) -> Infallible {
    let mut armed = pin!(Some(watched.readable(false)));
    poll_fn(|cx| {
        SET.with(|set| {
            set.looker.borrow_mut().get_or_insert_with(|| cx.waker().clone());
            loop {
                if let Some(wait) = armed.as_mut().as_pin_mut()
                    && wait.poll(cx).is_ready()
                {
                    armed.set(None);
                }
                let told = set.look();
                if set.call_behind() || told == EVENTS_PER_LOOK {
                    // Again, behind those who are awake now.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if poll_slot(armed.as_mut(), || watched.readable(false), cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
    })
    .await
}

/// Lets everyone go first who is awake, or whose socket has become ready by now.
pub async fn give_way() {
    let mut gone = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut gone, true) {
            return Poll::Ready(());
        }
        poll_give_way(cx);
        Poll::Pending
    })
    .await;
}

/// Wakes the task again when it has [given way](give_way).
pub fn poll_give_way(cx: &Context<'_>) {
    SET.with(|set| {
        if set.begin().is_err() {
            // There is nobody else's socket either.
            return cx.waker().wake_by_ref();
        }
        set.behind.borrow_mut().push(cx.waker().clone());
        if let Some(looker) = &*set.looker.borrow() {
            looker.wake_by_ref();
        }
    });
}

/// A descriptor of ours that the core watches, and closes when this is dropped. It must not be
/// duplicated: the set would go on telling of it.
#[derive(Debug)]
pub struct Watched {
    fd: OwnedFd,
    key: u32,
}

impl Watched {
    /// Watches `fd`, which has nothing to read as far as is known.
    ///
    /// # Errors
    /// No descriptor or memory is left, or `fd` cannot be watched (a file).
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let key = SET.with(|set| set.add(&fd, WRITE))?;
        Ok(Self { fd, key })
    }

    /// Watches `fd`, which cannot be written yet: a socket that connects.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn connecting(fd: OwnedFd) -> io::Result<Self> {
        let key = SET.with(|set| set.add(&fd, 0))?;
        Ok(Self { fd, key })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        SET.with(|set| set.entries.borrow_mut().all.get_mut(self.key as usize).map(act))
    }

    fn poll(&self, bits: u8, cx: &Context<'_>) -> Poll<()> {
        self.with(|entry| entry.poll(bits, cx)).unwrap_or(Poll::Ready(()))
    }

    /// Ready when reading may bring bytes, the end or an error. One task at a time.
    #[inline]
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(READ | CLOSED, cx)
    }

    /// As [`poll_readable`](Self::poll_readable), by a task that receives as soon as it is woken:
    /// what is there may have been received by then.
    #[inline]
    pub fn poll_arrived(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(READ | CLOSED | AHEAD, cx)
    }

    /// Takes what was received ahead, as `recv` would; none where nothing was.
    #[inline]
    pub fn take_ahead(&self, room: &mut [u8]) -> Option<Result<usize, Errno>> {
        SET.with(|set| {
            let mut entries = set.entries.borrow_mut();
            let entry = entries.all.get_mut(self.key as usize)?;
            if !entry.ahead.is_some() {
                return None;
            }
            Some(set.received.borrow_mut().take(&mut entry.ahead, room))
        })
    }

    /// Whether something was received ahead that nobody has taken.
    pub fn has_ahead(&self) -> bool {
        self.with(|entry| entry.ahead.is_some()).unwrap_or(false)
    }

    /// Ready when writing may be possible, or fail. By the task that reads.
    #[inline]
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(WRITE, cx)
    }

    /// Whether reading may bring something, as far as the kernel has told.
    #[inline]
    pub fn has_stirred(&self) -> bool {
        self.with(|entry| entry.ahead.is_some() || entry.ready & (READ | CLOSED) != 0)
            .unwrap_or(true)
    }

    /// Asks for the memory of its readiness ahead of its use.
    #[inline]
    pub fn ask_ahead(&self) {
        SET.with(|set| set.entries.borrow().ask_ahead(self.key));
    }

    /// Forgets the task that waited last.
    pub fn forget_task(&self) {
        let task = self.with(|entry| {
            entry.wanted = 0;
            entry.task.take()
        });
        // Outside the borrow, as in `drop`.
        drop(task);
    }

    /// Takes it out of the set, before another thread has a descriptor of the same socket: then
    /// closing this one would not.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn leave(&self) -> io::Result<()> {
        SET.with(|set| Ok(epoll::delete(set.epoll()?, &self.fd)?))
    }

    /// Puts it into the set again.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn come_back(&self) -> io::Result<()> {
        let key = EventData::new_u64(u64::from(self.key));
        SET.with(|set| Ok(epoll::add(set.epoll()?, &self.fd, key, TOLD)?))
    }

    /// To be called when a read found less than it had room for.
    #[inline]
    pub fn drained(&self) {
        self.with(|entry| entry.ready &= !READ);
    }

    /// To be called when a read has brought `n` bytes, of which it had room for `wanted`.
    #[inline]
    pub fn brought(&self, n: usize, wanted: usize) {
        self.with(|entry| {
            entry.trickles = n < AHEAD_BYTES_MAX;
            if n < wanted {
                entry.ready &= !READ;
            }
        });
    }

    /// To be called when a write was taken in part or not at all.
    #[inline]
    pub fn filled(&self) {
        self.with(|entry| entry.ready &= !WRITE);
    }
}

impl AsFd for Watched {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Taken out of the borrow before it is dropped: a waker may own the last of a task with
        // sockets of its own. Closing the descriptor takes it out of the set.
        let entry = SET.try_with(|set| {
            let mut entry = set.entries.borrow_mut().remove(self.key);
            set.received.borrow_mut().forget(&mut entry.ahead);
            entry
        });
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use super::*;
    use crate::net::runtime::tests::on_both;
    use crate::net::tls::session::Wire;

    fn pair() -> (Watched, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("sets");
        theirs.set_nonblocking(true).expect("sets");
        (Watched::new(ours.into()).expect("watched"), theirs)
    }

    async fn readable(socket: &Watched) {
        poll_fn(|cx| socket.poll_readable(cx)).await;
    }

    /// Whether it is readable as far as the kernel has told by now.
    async fn is_readable(socket: &Watched) -> bool {
        give_way().await;
        poll_fn(|cx| Poll::Ready(socket.poll_readable(cx).is_ready())).await
    }

    #[test]
    fn bytes_make_it_readable_until_it_is_drained_and_a_close_for_ever() {
        on_both(2, async || {
            let (ours, mut theirs) = pair();
            assert!(!is_readable(&ours).await);
            let writing = std::thread::spawn(move || {
                theirs.write_all(b"one").expect("sends");
                theirs
            });
            readable(&ours).await;
            let mut theirs = writing.join().expect("no panic");
            assert!(is_readable(&ours).await, "nobody has read yet");
            let mut room = [0; 8];
            assert_eq!(rustix::io::read(&ours, &mut room).expect("reads"), 3);
            ours.drained();
            assert!(!is_readable(&ours).await);
            theirs.write_all(b"two").expect("sends");
            assert!(is_readable(&ours).await, "more has come");
            drop(theirs);
            give_way().await;
            assert_eq!(rustix::io::read(&ours, &mut room).expect("reads"), 3);
            ours.drained();
            assert!(is_readable(&ours).await, "the close came with the last bytes");
            assert_eq!(rustix::io::read(&ours, &mut room).expect("reads"), 0);
            ours.drained();
            assert!(is_readable(&ours).await);
        });
    }

    #[test]
    fn a_full_socket_can_be_written_when_its_peer_has_read() {
        on_both(2, async || {
            let (ours, mut theirs) = pair();
            let block = [7; 4096];
            while rustix::io::write(&ours, &block).is_ok() {}
            ours.filled();
            let reading = std::thread::spawn(move || {
                let mut room = [0; 4096];
                while theirs.read(&mut room).is_ok() {}
                theirs
            });
            poll_fn(|cx| ours.poll_writable(cx)).await;
            let _theirs = reading.join().expect("no panic");
            assert!(rustix::io::write(&ours, &block).is_ok());
        });
    }

    #[test]
    fn who_gives_way_comes_behind_everyone_whose_socket_is_ready() {
        on_both(2, async || {
            let (ours, mut theirs) = pair();
            let order = Rc::new(RefCell::new(Vec::new()));
            let seen = Rc::clone(&order);
            let reading = monoio::spawn(async move {
                readable(&ours).await;
                seen.borrow_mut().push("ready");
            });
            let seen = Rc::clone(&order);
            let yielding = monoio::spawn(async move {
                theirs.write_all(b"now").expect("sends");
                give_way().await;
                seen.borrow_mut().push("gave way");
            });
            reading.await;
            yielding.await;
            assert_eq!(*order.borrow(), ["ready", "gave way"]);
        });
    }

    #[test]
    fn what_is_dropped_leaves_no_entry_and_no_task_behind() {
        on_both(2, async || {
            let before = SET.with(|set| set.entries.borrow().len());
            let held = Rc::new(());
            let (ours, theirs) = pair();
            let kept = Rc::clone(&held);
            let waiting = monoio::spawn(async move {
                let _kept = kept;
                readable(&ours).await;
                ours.forget_task();
                ours
            });
            drop(theirs);
            let ours = waiting.await;
            assert_eq!(Rc::strong_count(&held), 1, "the task is gone, its socket is here");
            drop(ours);
            assert_eq!(SET.with(|set| set.entries.borrow().len()), before);
        });
    }

    /// Reads `socket` to its end, `room` bytes at a time; says how often bytes had come ahead.
    async fn read_all(socket: Watched, room: usize) -> (Vec<u8>, u32) {
        let (mut all, mut ahead) = (Vec::new(), 0);
        let mut room = vec![0; room];
        loop {
            poll_fn(|cx| socket.poll_arrived(cx)).await;
            ahead += u32::from(socket.has_ahead());
            match socket.recv(&mut room).expect("reads") {
                Some(0) => return (all, ahead),
                Some(n) => all.extend_from_slice(&room[..n]),
                None => {}
            }
        }
    }

    #[test]
    fn what_trickles_to_several_comes_ahead_and_in_order() {
        on_both(2, async || {
            for room in [3, 64, 65_536] {
                let (ours, mut theirs): (Vec<_>, Vec<_>) = (0..40).map(|_| pair()).unzip();
                let readers: Vec<_> =
                    ours.into_iter().map(|socket| monoio::spawn(read_all(socket, room))).collect();
                let mut said = vec![Vec::new(); theirs.len()];
                for turn in 0..30_usize {
                    // Sometimes one alone, sometimes more than has room ahead.
                    let of = if turn % 7 == 3 { 1 } else { theirs.len() };
                    for (at, socket) in theirs[..of].iter_mut().enumerate() {
                        let len = if turn % 5 == 4 { 5000 } else { 1 + (turn * 131 + at) % 2100 };
                        let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + turn + at) as u8).collect();
                        socket.write_all(&bytes).expect("sends");
                        said[at].extend(bytes);
                    }
                    give_way().await;
                }
                drop(theirs);
                let mut ahead = 0;
                for (reader, said) in readers.into_iter().zip(said) {
                    let (read, times) = reader.await;
                    assert!(read == said, "{} of {} bytes", read.len(), said.len());
                    ahead += times;
                }
                assert!(ahead > 100, "bytes came ahead {ahead} times");
                SET.with(|set| assert_eq!(set.received.borrow().pieces(), 0));
            }
        });
    }

    /// Two sockets that have something ahead, and their peers.
    async fn two_with_bytes_ahead() -> [(Watched, UnixStream); 2] {
        let mut pairs = [pair(), pair()];
        for text in [b"one", b"two"] {
            for (ours, theirs) in &mut pairs {
                assert!(poll_fn(|cx| Poll::Ready(ours.poll_arrived(cx))).await.is_pending());
                theirs.write_all(text).expect("sends");
            }
            give_way().await;
            if text == b"one" {
                // Before the first short read they are not taken to trickle.
                for (ours, _) in &pairs {
                    assert!(!ours.has_ahead());
                    assert_eq!(ours.recv(&mut [0; 8]).expect("reads"), Some(3));
                }
            }
        }
        assert!(pairs.iter().all(|(ours, _)| ours.has_ahead() && ours.has_stirred()));
        pairs
    }

    #[test]
    fn what_nobody_comes_for_is_there_later_and_goes_with_its_socket() {
        on_both(2, async || {
            let [(ours, mut theirs), (others, _theirs)] = two_with_bytes_ahead().await;
            theirs.write_all(b"three").expect("sends");
            for _ in 0..3 {
                give_way().await;
            }
            drop(others);
            assert!(is_readable(&ours).await);
            let mut room = [0; 2];
            let mut read = Vec::new();
            while let Some(n) = ours.recv(&mut room).expect("reads") {
                read.extend_from_slice(&room[..n]);
            }
            assert_eq!(read, b"twothree");
            assert!(!is_readable(&ours).await);
            SET.with(|set| assert_eq!(set.received.borrow().pieces(), 0));
        });
    }

    #[test]
    fn who_only_looks_has_nothing_received_ahead() {
        on_both(2, async || {
            let mut pairs = two_with_bytes_ahead().await;
            for (ours, theirs) in &mut pairs {
                assert_eq!(ours.recv(&mut [0; 8]).expect("reads"), Some(3));
                assert!(poll_fn(|cx| Poll::Ready(ours.poll_arrived(cx))).await.is_pending());
                assert!(poll_fn(|cx| Poll::Ready(ours.poll_readable(cx))).await.is_pending());
                theirs.write_all(b"more").expect("sends");
            }
            give_way().await;
            assert!(pairs.iter().all(|(ours, _)| !ours.has_ahead() && ours.has_stirred()));
        });
    }

    #[test]
    fn the_memory_of_many_goes_with_them_and_who_stays_is_served() {
        on_both(2, async || {
            let mut many: Vec<_> = (0..300).map(|_| pair()).collect();
            let (ours, mut theirs) = many.swap_remove(200);
            drop(many);
            let places = || SET.with(|set| set.entries.borrow().all.len());
            let before = places();
            trim();
            assert!(places() < before && places() > 200, "{before} places, {} left", places());
            // New ones take the first places, and their end leaves the last one last.
            let (new, _theirs) = pair();
            theirs.write_all(b"here").expect("sends");
            readable(&ours).await;
            assert_eq!(ours.recv(&mut [0; 8]).expect("reads"), Some(4));
            drop(ours);
            trim();
            assert!(places() <= 100, "{} places", places());
            assert!(!is_readable(&new).await);
        });
    }
}
