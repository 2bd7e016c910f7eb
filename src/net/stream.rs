//! One connected socket, plain or TLS.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
};

use super::crowd::join;
use super::handover;
use super::ready::Watched;
use super::tls::session::{Packed, Session, Shaken, Wire};
use super::tls::turns::Turns;
use crate::buf::Block;

/// As many bytes of several slices are copied together for a plain send, which costs less than
/// what the kernel does to read a list of slices.
const JOINED_BYTES_MAX: usize = 4096;

/// What a look at a socket shows, without taking anything from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nothing to read.
    Quiet,
    /// Bytes wait to be read.
    Talking,
    /// The peer has closed its side.
    Closed,
    /// The connection was reset or has failed.
    Reset,
}

/// One connected socket, with or without TLS.
#[derive(Debug)]
pub struct Transport {
    socket: Watched,
    session: Option<Box<RefCell<Session>>>,
}

impl Wire for Watched {
    fn recv(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let wanted = room.len();
        if let Some(taken) = self.take_ahead(room) {
            return Ok(Some(taken?));
        }
        loop {
            match rustix::net::recv(self, &mut *room, RecvFlags::DONTWAIT) {
                Ok((_, n)) => {
                    self.brought(n, wanted);
                    return Ok(Some(n));
                }
                Err(Errno::AGAIN) => {
                    self.drained();
                    return Ok(None);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        if !self.flush() {
            return Ok(None);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sent(self, bytes.len(), || rustix::net::send(self, bytes, flags))
    }
}

/// A socket to which records are posted.
struct Posting<'a>(&'a Watched);

impl Wire for Posting<'_> {
    fn recv(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        self.0.recv(room)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        if self.0.post(&[bytes]) { Ok(Some(bytes.len())) } else { self.0.send(bytes) }
    }
}

/// Sends to `socket` by `call`, which is given `wanted` bytes.
#[inline]
fn sent(
    socket: &Watched,
    wanted: usize,
    mut call: impl FnMut() -> Result<usize, Errno>,
) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(n) => {
                if n < wanted {
                    socket.filled();
                }
                return Ok(Some(n));
            }
            Err(Errno::AGAIN) => {
                socket.filled();
                return Ok(None);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Transport {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        Ok(Self { socket: Watched::new(stream.into())?, session: None })
    }

    /// Puts a TLS session on the connection; [`shake_hands`](Self::shake_hands) is next.
    #[must_use]
    pub fn secure(self, session: Session) -> Self {
        Self { session: Some(Box::new(RefCell::new(session))), ..self }
    }

    /// Takes the TLS session off again, where the peer does not speak TLS.
    pub fn make_plain(&mut self) {
        self.session = None;
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.session.is_some()
    }

    /// Whether its TLS handshake is still to be made.
    pub fn is_handshaking(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.borrow().is_handshaking())
    }

    /// Whether its TLS session goes on where an earlier one was.
    pub fn is_resumed(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.borrow().is_resumed())
    }

    /// Makes the TLS handshake, in turn with the core's others. May be dropped at any time; true
    /// when it is made, false where the peer speaks plain text.
    ///
    /// # Errors
    /// It failed, and the peer was told why.
    pub async fn shake_hands(&self, turns: &Turns) -> io::Result<bool> {
        let Some(session) = &self.session else { return Ok(true) };
        if !session.borrow().is_client() {
            // The client begins, and what waits for it need not stand in line.
            self.socket_readable().await;
        }
        loop {
            let step = || session.borrow_mut().shake_hands(&self.socket);
            match turns.take(step).await? {
                Shaken::Done => return Ok(true),
                Shaken::PlainText => return Ok(false),
                Shaken::WantsRead => self.socket_readable().await,
                Shaken::WantsWrite => self.writable().await,
            }
        }
    }

    async fn socket_readable(&self) {
        poll_fn(|cx| self.socket.poll_readable(cx)).await;
    }

    /// A read would bring something although the socket has nothing.
    #[inline]
    pub fn has_buffered(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.borrow().has_buffered())
    }

    /// Receives what is there into `room`, never waiting. `Ok(None)`: nothing there yet;
    /// `Ok(Some(0))`: the peer has closed its side.
    ///
    /// # Errors
    /// The connection was reset or has failed.
    pub fn try_recv(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match &self.session {
            None => self.socket.recv(room),
            Some(session) => session.borrow_mut().read(&self.socket, room),
        }
    }

    /// Sends what the socket has room for, never waiting. `Ok(None)`: no room.
    ///
    /// # Errors
    /// The peer is gone or the connection has failed.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match &self.session {
            None => self.socket.send(bytes),
            Some(session) => session.borrow_mut().write(&self.socket, &[IoSlice::new(bytes)]),
        }
    }

    /// [`try_send_vectored`](Self::try_send_vectored) of what need not go before those who are awake
    /// have had their turn. It may fail to go then, and the next that is sent or received tells.
    /// Before the connection is closed it is [flushed](Self::flush).
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    #[inline]
    pub fn post(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        if let Some(session) = &self.session {
            return session.borrow_mut().write(&Posting(&self.socket), slices);
        }
        if self.socket.post(slices) {
            return Ok(Some(slices.iter().map(|slice| slice.len()).sum()));
        }
        match slices {
            [slice] => self.socket.send(slice),
            slices => self.try_send_vectored(slices),
        }
    }

    /// Sends what was [posted](Self::post); false where the socket has no room for all of it, and
    /// will be writable when it is gone.
    pub fn flush(&self) -> bool {
        self.socket.flush()
    }

    /// Passes bytes that have come ahead on to `to`, if `judge` says that all of them may go; see
    /// [`Watched::pass_ahead`].
    #[inline]
    pub fn pass_ahead(
        &self,
        to: &Self,
        judge: impl FnOnce(&[u8]) -> usize,
    ) -> Option<(usize, usize)> {
        if self.session.is_some() || to.session.is_some() {
            return None;
        }
        self.socket.pass_ahead(&to.socket, judge)
    }

    /// [`try_send`](Self::try_send) for several slices in one call.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub fn try_send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        if let Some(session) = &self.session {
            return session.borrow_mut().write(&self.socket, slices);
        }
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        if wanted <= JOINED_BYTES_MAX {
            let mut joined = Block::with_room(wanted);
            join(slices, joined.bytes_mut());
            return self.socket.send(&joined.bytes()[..wanted]);
        }
        if !self.socket.flush() {
            return Ok(None);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sent(&self.socket, wanted, || {
            let mut control = SendAncillaryBuffer::default();
            rustix::net::sendmsg(&self.socket, slices, &mut control, flags)
        })
    }

    /// Whether the peer may have sent something or closed, as far as the kernel has told; asks
    /// nobody.
    pub fn has_stirred(&self) -> bool {
        self.has_buffered() || self.socket.has_stirred()
    }

    /// Looks at the peer without taking bytes.
    pub fn peer(&self) -> Peer {
        if let Some(session) = &self.session {
            let mut session = session.borrow_mut();
            return match session.peek(&self.socket) {
                Ok(false) => Peer::Quiet,
                Ok(true) if session.is_over() || session.is_truncated() => Peer::Closed,
                Ok(true) if !session.has_failed() => Peer::Talking,
                Ok(true) | Err(_) => Peer::Reset,
            };
        }
        if self.socket.has_ahead() {
            return Peer::Talking;
        }
        let mut byte = [0_u8; 1];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        match rustix::net::recv(&self.socket, &mut byte, flags) {
            Ok((_, 0)) => Peer::Closed,
            Ok(_) => Peer::Talking,
            Err(Errno::AGAIN) => {
                self.socket.drained();
                Peer::Quiet
            }
            Err(Errno::INTR) => Peer::Quiet,
            Err(_) => Peer::Reset,
        }
    }

    /// Ready when there may be something to read, a close or a reset. One task at a time.
    #[inline]
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_buffered() { Poll::Ready(()) } else { self.socket.poll_readable(cx) }
    }

    /// As [`poll_readable`](Self::poll_readable), by a task that receives as soon as it is woken:
    /// what is there may have been received by then.
    #[inline]
    pub fn poll_arrived(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_buffered() { Poll::Ready(()) } else { self.socket.poll_arrived(cx) }
    }

    /// Ready when there may be room to write, or a reset. By the task that reads.
    #[inline]
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.socket.poll_writable(cx)
    }

    /// Asks for the memory of its readiness ahead of its use.
    #[inline]
    pub fn ask_ahead(&self) {
        self.socket.ask_ahead();
    }

    /// Forgets the task that waited last, whose memory it would keep.
    pub fn forget_task(&self) {
        self.socket.forget_task();
    }

    /// Waits until there may be something to read, a close or a reset. May be dropped at any time.
    pub async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Waits until there may be room to write, or a reset. May be dropped at any time.
    pub async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    /// Bytes sent that the peer's kernel has not acknowledged, TLS's own among them.
    pub fn unacknowledged(&self) -> i64 {
        let owed = self.socket.owed() as i64;
        owed + unacknowledged(&self.socket)
    }

    /// Sends the socket to another thread, under a number. When it has gone, nothing is left here
    /// but a descriptor to be closed; what there is of TLS is given back, for the other side to
    /// [secure](Self::secure) it with. `Ok(None)`: too many are on their way.
    ///
    /// # Errors
    /// It did not go, and may be used on.
    #[allow(clippy::type_complexity)]
    pub fn send_through(
        &mut self,
        way: &OwnedFd,
        number: u64,
    ) -> io::Result<Option<Box<Option<Packed>>>> {
        if !self.flush() {
            return Err(Errno::AGAIN.into());
        }
        self.socket.leave()?;
        match handover::send(way, self.socket.as_fd(), number) {
            Ok(true) => {
                let session = self.session.take();
                Ok(Some(Box::new(session.map(|session| session.into_inner().pack()))))
            }
            other => {
                self.socket.come_back()?;
                other.map(|_| None)
            }
        }
    }

    /// Says goodbye in TLS, without closing: what was sent is all there was to come.
    pub fn close_notify(&self) {
        if let Some(session) = &self.session {
            session.borrow_mut().close(&self.socket);
        }
    }

    /// Tells the peer that nothing more comes (close_notify, FIN).
    pub fn shutdown_write(&self) {
        self.close_notify();
        self.flush();
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Ends both directions at once, where there is still something to do before it is closed.
    pub fn shutdown(&self) {
        self.flush();
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Resets the connection at once: the only honest end of a body that a close would delimit.
    pub fn reset(&self) {
        self.flush();
        // Dissolving the association of a connected TCP socket sends RST (connect(2), AF_UNSPEC).
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        let _ = rustix::net::connect_unspec(&self.socket);
    }

    /// Turns Nagle's algorithm off: a token must not wait for the acknowledgement of the last.
    pub fn set_nodelay(&self) {
        let _ = rustix::net::sockopt::set_tcp_nodelay(&self.socket, true);
    }
}

/// See tcp(7), SIOCOUTQ, which is the same number.
#[allow(unsafe_code)]
fn unacknowledged(socket: &Watched) -> i64 {
    use rustix::ioctl::{Getter, ioctl};
    /// TIOCOUTQ of asm-generic/ioctls.h.
    const OUTQ: rustix::ioctl::Opcode = 0x5411;
    if cfg!(any(target_arch = "powerpc64", target_arch = "mips64", target_arch = "sparc64")) {
        // There it has another number. Nothing is ever taken for dead by it.
        return 0;
    }
    // SAFETY: the request is one that writes an int, which is what is made room for.
    let asked = unsafe { ioctl(socket, Getter::<OUTQ, i32>::new()) };
    asked.map_or(0, i64::from)
}

/// Connects to `addr`. The future may be dropped at any time.
///
/// # Errors
/// As `connect(2)`.
pub async fn connect(addr: SocketAddr) -> io::Result<Transport> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let pending = match rustix::net::connect(&fd, &addr) {
        Ok(()) => false,
        Err(Errno::INPROGRESS | Errno::INTR) => true,
        Err(error) => return Err(error.into()),
    };
    let socket = if pending { Watched::connecting(fd)? } else { Watched::new(fd)? };
    let transport = Transport { socket, session: None };
    if pending {
        transport.writable().await;
        rustix::net::sockopt::socket_error(&transport.socket)??;
    }
    transport.set_nodelay();
    Ok(transport)
}
