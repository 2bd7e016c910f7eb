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
//! receive](Watched::poll_arrived) before the first is woken (`crowd.rs`).
//!
//! Edge triggered means: what is there already is not told again. A bit is cleared only by a read
//! that found less than it had room for, or a write that was taken in part, never on a guess; and
//! a peer's close, which may have come with the last bytes, keeps its socket readable for ever.

mod entries;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use self::entries::{AHEAD, CLOSED, Entries, Entry, Owes, READ, WRITE};
use super::crowd::{Crowd, TRICKLE_BYTES_MAX};
use super::wait::poll_slot;

/// What is asked of the kernel for every descriptor.
const TOLD: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// Events taken in one look; more are taken by the next.
const EVENTS_PER_LOOK: usize = 256;

/// One core's set.
struct Set {
    /// Fails for want of a descriptor only; every use of the set then says so.
    epoll: Result<OwnedFd, Errno>,
    entries: RefCell<Entries>,
    crowd: RefCell<Crowd>,
    /// Several were woken that have not had their turn yet.
    crowded: Cell<bool>,
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
        crowd: RefCell::default(),
        crowded: Cell::new(false),
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

    /// Takes what the kernel has to tell.
    fn look(&self) {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_PER_LOOK];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(epoll) = &self.epoll else { return };
        let Ok((events, _)) = epoll::wait(epoll, &mut events[..], Some(&at_once)) else {
            return;
        };
        let mut entries = self.entries.borrow_mut();
        // For one alone it would be a copy for nothing.
        let crowded = events.len() > 1;
        self.crowded.set(crowded || self.crowded.get());
        let mut crowd = self.crowd.borrow_mut();
        if crowded {
            crowd.begin(|key| entries.all.get_mut(key as usize)?.ahead.set_aside());
        }
        for event in events.iter() {
            let data = event.data;
            entries.ask_ahead(data.u64() as u32);
        }
        for event in events.iter() {
            // Copied out of the kernel's packed layout.
            let (data, mut flags) = (event.data, event.flags);
            let key = data.u64() as u32;
            let Some(entry) = entries.all.get_mut(key as usize) else { continue };
            if entry.owes == Owes::Left && flags.contains(EventFlags::OUT) {
                crowd.send_left(key, |left| entry.send(left));
                flags.set(EventFlags::OUT, entry.owes == Owes::Nothing);
            }
            entry.told(key, flags, crowded.then_some(&mut crowd));
        }
    }

    /// Sends what was posted.
    fn flush(&self) {
        let mut crowd = self.crowd.borrow_mut();
        if crowd.has_posts() {
            let mut entries = self.entries.borrow_mut();
            crowd.send(|key, bytes| {
                entries.all.get_mut(key as usize).map_or(0, |entry| entry.send(bytes))
            });
        }
    }

    /// What was posted first has to be sent when those who are awake have had their turn.
    #[inline]
    fn posts(&self, first: bool) {
        if first && let Some(looker) = &*self.looker.borrow() {
            looker.wake_by_ref();
        }
    }

    /// Wakes those who gave way.
    fn call_behind(&self) {
        self.behind.take().into_iter().for_each(Waker::wake);
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
            // Whoever was woken has had their turn.
            set.flush();
            set.crowded.set(false);
            loop {
                if let Some(wait) = armed.as_mut().as_pin_mut() {
                    if wait.poll(cx).is_ready() {
                        armed.set(None);
                    } else if set.behind.borrow().is_empty() {
                        // It was woken to send, and the loop will say when there is more.
                        return Poll::Pending;
                    }
                }
                set.look();
                set.call_behind();
                // Ready at once, or in the turn that follows, if there was more than one look takes.
                // (To wake itself would not do: monoio runs such a task before all others.)
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
            Some(set.crowd.borrow_mut().take(self.key, &mut entry.ahead, room))
        })
    }

    /// Passes what was received ahead on to `to`, from where it lies, if `judge` says that all of
    /// it may go: it is told the bytes, and returns how many. Returns both numbers; none where
    /// nobody was asked. What did not go is still here.
    #[inline]
    pub fn pass_ahead(
        &self,
        to: &Self,
        judge: impl FnOnce(&[u8]) -> usize,
    ) -> Option<(usize, usize)> {
        SET.with(|set| {
            if !set.crowded.get() {
                return None;
            }
            let mut entries = set.entries.borrow_mut();
            if !entries.all.get(to.key as usize)?.takes_posts() {
                return None;
            }
            let entry = entries.all.get_mut(self.key as usize)?;
            let mut crowd = set.crowd.borrow_mut();
            let bytes = crowd.received(entry.ahead)?;
            let (n, may_go) = (bytes.len(), judge(bytes));
            if may_go == n {
                let first = !crowd.has_posts();
                crowd.post_received(to.key, &mut entry.ahead);
                entries.all.get_mut(to.key as usize)?.owes = Owes::Posted;
                set.posts(first);
            }
            Some((n, may_go))
        })
    }

    /// Takes bytes to be sent when those who are awake have had their turn; false where that is
    /// not the way.
    #[inline]
    pub fn post(&self, slices: &[impl Deref<Target = [u8]>]) -> bool {
        SET.with(|set| {
            if !set.crowded.get() {
                return false;
            }
            let mut entries = set.entries.borrow_mut();
            let mut crowd = set.crowd.borrow_mut();
            let first = !crowd.has_posts();
            let entry = entries.all.get_mut(self.key as usize);
            let Some(entry) = entry.filter(|entry| entry.takes_posts()) else { return false };
            if !crowd.post(self.key, slices) {
                return false;
            }
            entry.owes = Owes::Posted;
            set.posts(first);
            true
        })
    }

    /// Sends what was posted; false where the socket has no room for all of it.
    #[inline]
    pub fn flush(&self) -> bool {
        let owes = self.with(|entry| entry.owes).unwrap_or_default();
        owes == Owes::Nothing || self.settle(owes)
    }

    #[cold]
    fn settle(&self, owes: Owes) -> bool {
        SET.with(|set| {
            if owes == Owes::Posted {
                set.flush();
            }
            let mut entries = set.entries.borrow_mut();
            let Some(entry) = entries.all.get_mut(self.key as usize) else { return true };
            if entry.owes == Owes::Left && entry.ready & WRITE != 0 {
                set.crowd.borrow_mut().send_left(self.key, |left| entry.send(left));
            }
            entry.owes == Owes::Nothing
        })
    }

    /// Bytes that were posted and are not in the socket.
    pub fn owed(&self) -> usize {
        if self.flush() { 0 } else { SET.with(|set| set.crowd.borrow().left(self.key)) }
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
            entry.trickles = n < TRICKLE_BYTES_MAX;
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
            let owes = set.entries.borrow().all.get(self.key as usize).map(|entry| entry.owes);
            if owes == Some(Owes::Posted) {
                // Later its number would mean another socket.
                set.flush();
            }
            let entry = set.entries.borrow_mut().remove(self.key);
            let mut crowd = set.crowd.borrow_mut();
            crowd.forget(self.key, entry.ahead);
            if entry.owes != Owes::Nothing {
                crowd.forget_left(self.key);
            }
            entry
        });
        drop(entry);
    }
}

#[cfg(test)]
mod tests;
