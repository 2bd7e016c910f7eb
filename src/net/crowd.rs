//! What is received for many before the first of them is woken, and sent for all when the last has
//! had its turn.
//!
//! A relayed frame is one `recv` and one `send`. Task by task they alternate. Received for all whose
//! sockets are ready, judged by their tasks, and then sent for all, each kind follows its like: the
//! kernel's code for it is in the cache, and a peer's thread that the first `send` woke is awake for
//! the others. What may pass as it came is sent from where it was received.
//!
//! ```text
//!  look ─▶ recv recv recv ─▶ task task task ─▶ send send send ─▶ look …
//!               └──────── one turn's memory ────────┘
//! ```
//!
//! A task that posts bytes goes on as after a send: nearly always the socket has room for them.
//! Where it has not, what is left waits here, like in a send buffer that is a little longer, and goes
//! out before anything else of that socket's.
//!
//! It is for what trickles. Where much comes at a time, the task receives it straight to where it is
//! used, and sends it at once. Figures: loadtest/NOTES.md.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Bytes received ahead for one socket, who has more comes for the rest itself; and bytes posted at a
/// time, more being worth a call of its own.
pub(super) const TRICKLE_BYTES_MAX: usize = 2048;
/// Bytes of one turn. In it a place is told by 16 bits.
const ROOM_BYTES: usize = 60 * 1024;
const LINE_BYTES: usize = 64;

const _: () = assert!(ROOM_BYTES < Piece::ASIDE as usize);

/// Where in [`Crowd`] some of a socket's bytes are, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    start: u16,
    len: u16,
}

impl Piece {
    /// The start of what is not in this turn's memory.
    const ASIDE: u16 = u16::MAX;

    #[inline]
    pub(super) fn is_some(self) -> bool {
        self.len != 0
    }

    /// Whether it goes with this turn.
    #[inline]
    fn is_fresh(self) -> bool {
        self.is_some() && self.start != Self::ASIDE
    }

    /// Marks it as not in this turn's memory; returns where it was, if it was there.
    pub(super) fn set_aside(&mut self) -> Option<Self> {
        let was = *self;
        if !was.is_fresh() {
            return None;
        }
        self.start = Self::ASIDE;
        Some(was)
    }

    fn range(self) -> Range<usize> {
        self.start.into()..usize::from(self.start) + usize::from(self.len)
    }
}

/// What a receive came to.
#[derive(Debug)]
pub(super) struct Came {
    /// Where it is; nowhere if there was nothing.
    pub(super) piece: Piece,
    /// Nothing is left in the socket.
    pub(super) drained: bool,
}

/// What outlasts its turn. An error is told once by the kernel, so it is kept as bytes are.
#[derive(Debug)]
enum Aside {
    Bytes(Vec<u8>),
    Failed(Errno),
}

/// Copies `slices` one behind the other to `room`, which holds them all.
#[inline]
pub(super) fn join(slices: &[impl Deref<Target = [u8]>], mut room: &mut [u8]) {
    for slice in slices {
        let (own, rest) = room.split_at_mut(slice.len());
        own.copy_from_slice(slice);
        room = rest;
    }
}

/// The bytes of a turn, by the keys of their sockets.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    bytes: Vec<u8>,
    used: usize,
    /// Sockets that were received for in the last look, and how many of them nobody has come for.
    came: Vec<u32>,
    fresh: usize,
    /// To be sent.
    posts: Vec<(u32, Piece)>,
    /// Received, and not taken in their turn.
    aside: HashMap<u32, Aside>,
    /// Posted, and not taken by their sockets.
    left: HashMap<u32, Vec<u8>>,
}

impl Crowd {
    /// Before a look; nothing is posted. `set_aside` does so to the piece of a socket, by its key:
    /// to what was received in an earlier turn and nobody came for.
    pub(super) fn begin(&mut self, set_aside: impl FnMut(u32) -> Option<Piece>) {
        debug_assert!(self.posts.is_empty(), "they lie in the memory that is used anew");
        if self.fresh > 0 {
            self.keep(set_aside);
        }
        self.came.clear();
        self.used = 0;
        self.bytes.resize(ROOM_BYTES, 0);
    }

    /// Moves aside what a task left that had no room for more after all.
    #[cold]
    fn keep(&mut self, mut set_aside: impl FnMut(u32) -> Option<Piece>) {
        for &key in &self.came {
            if let Some(piece) = set_aside(key) {
                let bytes = self.bytes[piece.range()].to_vec();
                self.aside.insert(key, Aside::Bytes(bytes));
            }
        }
        self.fresh = 0;
    }

    /// Receives what is there, never waiting; `None` where nothing was asked.
    ///
    /// `fd` must be open, and be the caller's thread's.
    pub(super) fn receive(&mut self, key: u32, fd: RawFd) -> Option<Came> {
        let room = self.bytes.get_mut(self.used..self.used + TRICKLE_BYTES_MAX)?;
        // SAFETY: borrowed for this one call, in which nobody closes it.
        #[allow(unsafe_code)]
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let n = match recv(socket, room, RecvFlags::DONTWAIT) {
            // An end comes as often as it is asked for.
            Ok((_, 0)) | Err(Errno::INTR) => return None,
            Err(Errno::AGAIN) => return Some(Came { piece: Piece::default(), drained: true }),
            Ok((_, n)) => n,
            Err(error) => {
                self.aside.insert(key, Aside::Failed(error));
                let piece = Piece { start: Piece::ASIDE, len: 1 };
                return Some(Came { piece, drained: false });
            }
        };
        // Both are below ROOM_BYTES.
        let piece = Piece { start: self.used as u16, len: n as u16 };
        self.used += n.next_multiple_of(LINE_BYTES);
        self.came.push(key);
        self.fresh += 1;
        Some(Came { piece, drained: n < TRICKLE_BYTES_MAX })
    }

    /// Moves what is at `piece` to `room`, as far as it goes; nothing is left there with the last
    /// of it.
    #[inline]
    pub(super) fn take(
        &mut self,
        key: u32,
        piece: &mut Piece,
        room: &mut [u8],
    ) -> Result<usize, Errno> {
        if !piece.is_fresh() {
            return self.take_aside(key, piece, room);
        }
        let n = room.len().min(piece.len.into());
        room[..n].copy_from_slice(&self.bytes[piece.range()][..n]);
        piece.start += n as u16;
        piece.len -= n as u16;
        self.fresh -= usize::from(piece.len == 0);
        Ok(n)
    }

    #[cold]
    fn take_aside(&mut self, key: u32, piece: &mut Piece, room: &mut [u8]) -> Result<usize, Errno> {
        let result = match self.aside.get_mut(&key) {
            None => Err(Errno::AGAIN),
            Some(Aside::Failed(error)) => Err(*error),
            Some(Aside::Bytes(bytes)) => {
                let n = room.len().min(bytes.len());
                room[..n].copy_from_slice(&bytes[..n]);
                bytes.drain(..n);
                Ok((n, !bytes.is_empty()))
            }
        };
        if !matches!(result, Ok((_, true))) {
            self.aside.remove(&key);
            *piece = Piece::default();
        }
        result.map(|(n, _)| n)
    }

    /// What is at `piece`, where it lies as it was received; else none.
    #[inline]
    pub(super) fn received(&self, piece: Piece) -> Option<&[u8]> {
        self.bytes.get(piece.range()).filter(|_| piece.is_fresh())
    }

    /// Posts what was [received](Self::received) at `piece` for the socket of `key`.
    #[inline]
    pub(super) fn post_received(&mut self, key: u32, piece: &mut Piece) {
        self.posts.push((key, std::mem::take(piece)));
        self.fresh -= 1;
    }

    /// Posts `slices` for the socket of `key`, one behind the other; false where there is no room,
    /// or nothing to send.
    #[inline]
    pub(super) fn post(&mut self, key: u32, slices: &[impl Deref<Target = [u8]>]) -> bool {
        let len = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let room = self.bytes.get_mut(self.used..self.used + len);
        let Some(room) = room.filter(|_| (1..=TRICKLE_BYTES_MAX).contains(&len)) else {
            return false;
        };
        join(slices, room);
        self.posts.push((key, Piece { start: self.used as u16, len: len as u16 }));
        self.used += len.next_multiple_of(LINE_BYTES);
        true
    }

    #[inline]
    pub(super) fn has_posts(&self) -> bool {
        !self.posts.is_empty()
    }

    /// Sends what was posted by `send`, which is told the socket's key and returns how much is left.
    pub(super) fn send(&mut self, mut send: impl FnMut(u32, &[u8]) -> usize) {
        for (key, piece) in self.posts.drain(..) {
            let bytes = &self.bytes[piece.range()];
            let left = send(key, bytes);
            if left > 0 {
                self.left.insert(key, bytes[bytes.len() - left..].to_vec());
            }
        }
    }

    /// Sends what is left of the socket of `key` by `send`, which returns how much still is.
    #[cold]
    pub(super) fn send_left(&mut self, key: u32, send: impl FnOnce(&[u8]) -> usize) {
        let Some(bytes) = self.left.get_mut(&key) else { return };
        let sent = bytes.len() - send(bytes);
        bytes.drain(..sent);
        if bytes.is_empty() {
            self.left.remove(&key);
        }
    }

    /// Nobody comes for what is at `piece` any more.
    #[inline]
    pub(super) fn forget(&mut self, key: u32, piece: Piece) {
        if piece.is_fresh() {
            self.fresh -= 1;
        } else if piece.is_some() {
            self.aside.remove(&key);
        }
    }

    /// Bytes that are left of the socket of `key`.
    pub(super) fn left(&self, key: u32) -> usize {
        self.left.get(&key).map_or(0, Vec::len)
    }

    /// Nothing more is sent to the socket of `key`.
    #[cold]
    pub(super) fn forget_left(&mut self, key: u32) {
        self.left.remove(&key);
    }
}

#[cfg(test)]
impl Crowd {
    /// Those that nobody has taken.
    pub(super) fn pieces(&self) -> usize {
        self.fresh + self.aside.len()
    }
}

#[cfg(test)]
mod tests;
