//! Bytes that were received before the tasks they are for were woken.
//!
//! A relayed frame is one `recv` and one `send`. Task by task they alternate; received for all whose
//! sockets are ready and then sent for all, one kind follows its like: the kernel's code for it is in
//! the cache, and a peer's thread that the first `send` woke is awake for the others. That is 6 to 9 %
//! of a frame's CPU at 1000 streams (loadtest/NOTES.md).
//!
//! It is for what trickles. Where much comes at a time, the task receives it straight to where it is
//! used.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use slab::Slab;

/// Bytes received ahead for one socket; who has more comes for the rest itself.
pub(super) const AHEAD_BYTES_MAX: usize = 2048;
/// Bytes received ahead in one look at the sockets.
const ROOM_BYTES: usize = 32 * 1024;
const LINE_BYTES: usize = 64;

/// Where in [`Received`] what one socket brought is, if anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    #[inline]
    pub(super) fn is_some(self) -> bool {
        self.0 != 0
    }

    fn key(self) -> usize {
        (self.0 as usize).wrapping_sub(1)
    }
}

/// What a receive came to.
#[derive(Debug)]
pub(super) struct Came {
    /// Where it is; nowhere if there was nothing.
    pub(super) place: Place,
    /// Nothing is left in the socket.
    pub(super) drained: bool,
}

/// What one socket brought: bytes, or why there are none. An error is told once by the kernel, so
/// it is kept as bytes are.
#[derive(Debug)]
struct Piece {
    start: u32,
    end: u32,
    failed: Option<Errno>,
    /// Its bytes, where nobody came for them before the next look.
    kept: Option<Box<[u8]>>,
}

/// What was received in one look, for those who come for it in the turn that follows.
#[derive(Debug, Default)]
pub(super) struct Received {
    bytes: Vec<u8>,
    used: usize,
    pieces: Slab<Piece>,
    /// Pieces of the last look that nobody has taken.
    fresh: usize,
}

impl Received {
    /// Before a look.
    pub(super) fn begin(&mut self) {
        if self.fresh > 0 {
            self.keep();
        }
        self.used = 0;
        self.bytes.resize(ROOM_BYTES, 0);
    }

    /// Moves aside what a task left that had no room for more after all.
    #[cold]
    fn keep(&mut self) {
        for (_, piece) in self.pieces.iter_mut().filter(|(_, piece)| piece.kept.is_none()) {
            piece.kept = Some(self.bytes[piece.start as usize..piece.end as usize].into());
            (piece.start, piece.end) = (0, piece.end - piece.start);
        }
        self.fresh = 0;
    }

    /// Receives what is there, never waiting; `None` where nothing was asked.
    ///
    /// `fd` must be open, and be the caller's thread's.
    pub(super) fn receive(&mut self, fd: RawFd) -> Option<Came> {
        let room = self.bytes.get_mut(self.used..self.used + AHEAD_BYTES_MAX)?;
        // SAFETY: borrowed for this one call, in which nobody closes it.
        #[allow(unsafe_code)]
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let (start, mut end, mut failed) = (self.used, self.used, None);
        let mut drained = false;
        match recv(socket, room, RecvFlags::DONTWAIT) {
            // An end comes as often as it is asked for.
            Ok((_, 0)) | Err(Errno::INTR) => return None,
            Err(Errno::AGAIN) => return Some(Came { place: Place::default(), drained: true }),
            Ok((_, n)) => {
                end += n;
                drained = n < AHEAD_BYTES_MAX;
            }
            Err(error) => failed = Some(error),
        }
        self.used = end.next_multiple_of(LINE_BYTES);
        self.fresh += 1;
        let piece = Piece { start: start as u32, end: end as u32, failed, kept: None };
        // One for each socket at most.
        let place = Place(self.pieces.insert(piece) as u32 + 1);
        Some(Came { place, drained })
    }

    /// Moves what is at `place` to `room`, as far as it goes; nothing is left there with the last
    /// of it.
    #[inline]
    pub(super) fn take(&mut self, place: &mut Place, room: &mut [u8]) -> Result<usize, Errno> {
        let Some(piece) = self.pieces.get_mut(place.key()) else { return Err(Errno::AGAIN) };
        let (start, end) = (piece.start as usize, piece.end as usize);
        let n = room.len().min(end - start);
        let bytes = piece.kept.as_deref().unwrap_or(&self.bytes);
        room[..n].copy_from_slice(&bytes[start..start + n]);
        piece.start += n as u32;
        let failed = piece.failed;
        if start + n == end {
            self.forget(place);
        }
        failed.map_or(Ok(n), Err)
    }

    /// Nobody comes for what is at `place`.
    #[inline]
    pub(super) fn forget(&mut self, place: &mut Place) {
        let gone = self.pieces.try_remove(std::mem::take(place).key());
        if gone.is_some_and(|piece| piece.kept.is_none()) {
            self.fresh -= 1;
        }
    }
}

#[cfg(test)]
impl Received {
    /// Those that nobody has taken.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        (ours, listener.accept().expect("accepts").0)
    }

    #[test]
    fn a_reset_is_told_once_and_is_not_taken_for_an_end() {
        let (ours, theirs) = pair();
        rustix::net::sockopt::set_socket_linger(&theirs, Some(Duration::ZERO)).expect("sets");
        drop(theirs);
        let mut received = Received::default();
        received.begin();
        let mut came = received.receive(ours.as_raw_fd()).expect("has room");
        assert!(came.place.is_some());
        // It is still known after other looks.
        received.begin();
        received.begin();
        assert_eq!(received.take(&mut came.place, &mut [0; 8]), Err(Errno::CONNRESET));
        assert!(!came.place.is_some() && received.pieces() == 0);
    }

    #[test]
    fn an_end_and_an_empty_socket_take_no_place() {
        let (ours, theirs) = pair();
        let mut received = Received::default();
        received.begin();
        let came = received.receive(ours.as_raw_fd()).expect("has room");
        assert!(!came.place.is_some() && came.drained);
        drop(theirs);
        ours.peek(&mut [0]).expect("has ended");
        assert!(received.receive(ours.as_raw_fd()).is_none());
        assert_eq!(received.pieces(), 0);
    }

    #[test]
    fn a_look_receives_as_much_as_it_has_room_for() {
        let mut received = Received::default();
        received.begin();
        let mut places = Vec::new();
        let pairs: Vec<_> = (0..2 * ROOM_BYTES / AHEAD_BYTES_MAX).map(|_| pair()).collect();
        for (ours, theirs) in &pairs {
            (&*theirs).write_all(&[places.len() as u8; 3000]).expect("sends");
            ours.peek(&mut [0]).expect("has come");
            let Some(came) = received.receive(ours.as_raw_fd()) else { break };
            assert!(!came.drained);
            places.push(came.place);
        }
        assert_eq!(places.len(), ROOM_BYTES / AHEAD_BYTES_MAX);
        let mut room = [0; 4096];
        for (at, place) in places.iter_mut().enumerate() {
            assert_eq!(received.take(place, &mut room), Ok(AHEAD_BYTES_MAX));
            assert!(room[..AHEAD_BYTES_MAX].iter().all(|&byte| byte == at as u8));
        }
        received.begin();
        let came = received.receive(pairs[0].0.as_raw_fd()).expect("has room again");
        assert!(came.place.is_some());
    }

    #[test]
    fn what_nobody_took_outlasts_the_next_looks() {
        let mut received = Received::default();
        let mut places = Vec::new();
        for text in ["one", "two", "three"] {
            let (ours, mut theirs) = pair();
            theirs.write_all(text.as_bytes()).expect("sends");
            ours.peek(&mut [0]).expect("has come");
            received.begin();
            places.push((text, received.receive(ours.as_raw_fd()).expect("has room").place));
        }
        for (text, mut place) in places {
            let mut room = [0; 8];
            assert_eq!(received.take(&mut place, &mut room), Ok(text.len()));
            assert_eq!(&room[..text.len()], text.as_bytes());
        }
        assert_eq!((received.pieces(), received.fresh), (0, 0));
    }
}
