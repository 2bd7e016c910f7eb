//! What is known of each descriptor of a core.

use std::os::fd::{BorrowedFd, RawFd};
use std::task::{Context, Poll, Waker};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::super::crowd::{Came, Crowd, Piece};
use crate::buf::prefetch_from;

/// Bytes of a connection's task that are asked for when it is woken.
const TASK_BYTES: usize = 1152;

pub(super) const READ: u8 = 1;
pub(super) const WRITE: u8 = 2;
/// The peer has closed, or the connection has failed: reading stays possible for ever.
pub(super) const CLOSED: u8 = 4;
/// The task receives as soon as it is woken, so it may be done for it.
pub(super) const AHEAD: u8 = 8;

/// One descriptor in the set. Never in two lines of the cache.
#[repr(align(32))]
#[derive(Default)]
pub(super) struct Entry {
    /// What can be done, as far as is known.
    pub(super) ready: u8,
    /// What its task waits for.
    pub(super) wanted: u8,
    /// What came last was little, and so what comes may be received ahead.
    pub(super) trickles: bool,
    /// What was posted and is not in the socket.
    pub(super) owes: Owes,
    pub(super) fd: RawFd,
    /// Where what was received ahead is.
    pub(super) ahead: Piece,
    pub(super) task: Option<Waker>,
}

const _: () = assert!(size_of::<Entry>() == 32, "two of them in a line");

/// What of a socket's is not in the kernel's hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Owes {
    #[default]
    Nothing,
    /// It was posted in this turn.
    Posted,
    /// The socket had no room for all of it.
    Left,
}

impl Entry {
    pub(super) fn poll(&mut self, bits: u8, cx: &Context<'_>) -> Poll<()> {
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
    pub(super) fn told(&mut self, key: u32, flags: EventFlags, ahead: Option<&mut Crowd>) {
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
        if let Some(crowd) = ahead
            && self.wanted & AHEAD != 0
            && self.trickles
            && self.ready & (READ | CLOSED) == READ
            && let Some(Came { piece, drained }) = crowd.receive(key, self.fd)
        {
            (self.ahead, self.trickles) = (piece, drained);
            if drained {
                self.ready &= !READ;
            }
        }
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        self.wanted = 0;
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Whether bytes may be posted for it: it has room as far as is known.
    #[inline]
    pub(super) fn takes_posts(&self) -> bool {
        self.owes == Owes::Nothing && self.ready & WRITE != 0
    }

    /// Sends posted `bytes`; returns how many the socket had no room for.
    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        // SAFETY: borrowed for this one call; an entry's descriptor is open.
        #[allow(unsafe_code)]
        let socket = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = loop {
            match rustix::net::send(socket, bytes, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break 0,
                Ok(n) => break n,
                Err(_) => {
                    // Told once, and whoever posted has gone on. From now on the socket can be read
                    // to its end, which is how the task learns of it; and whatever the failure was,
                    // nothing goes out behind a gap.
                    let _ = rustix::net::shutdown(socket, Shutdown::Both);
                    (self.owes, self.ready) = (Owes::Nothing, self.ready | CLOSED | WRITE);
                    self.wake();
                    return 0;
                }
            }
        };
        if sent == bytes.len() {
            self.owes = Owes::Nothing;
        } else {
            (self.owes, self.ready) = (Owes::Left, self.ready & !WRITE);
        }
        bytes.len() - sent
    }
}

/// The entries by their numbers. Where one is can be told without looking at it, so its memory can
/// be asked for.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) all: Vec<Entry>,
    pub(super) free: Vec<u32>,
}

impl Entries {
    pub(super) fn insert(&mut self, entry: Entry) -> u32 {
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

    pub(super) fn remove(&mut self, key: u32) -> Entry {
        self.free.push(key);
        std::mem::take(&mut self.all[key as usize])
    }

    #[inline]
    pub(super) fn ask_ahead(&self, key: u32) {
        prefetch_from(self.all.as_ptr().wrapping_add(key as usize).cast(), size_of::<Entry>());
    }

    /// Gives back what lies behind the last entry in use. Looks at all of them.
    pub(super) fn shrink(&mut self) {
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
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }
}
