//! One connected socket, plain or TLS.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use monoio::net::UnixStream;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
};

use super::tls::session::{Session, Shaken, Wire};
use super::tls::turns::Turns;

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

/// A connection's transport.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Plain(Socket),
    /// TLS over it.
    Tls(Box<Secured>),
}

/// A descriptor that the driver watches. Of the driver we want readiness and nothing else, which
/// is the same for every socket; its `TcpStream` would keep 72 bytes of addresses with each.
#[derive(Debug)]
pub struct Socket {
    /// The descriptor of `watched`, at hand: looking it up there costs two cache misses a call.
    fd: RawFd,
    watched: Rc<UnixStream>,
}

/// A socket with a TLS session on it.
#[derive(Debug)]
pub struct Secured {
    socket: Socket,
    session: RefCell<Session>,
}

/// The socket beneath a session.
struct Raw<'a>(BorrowedFd<'a>);

impl Wire for Raw<'_> {
    fn recv(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        recv(self.0, room)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        send(self.0, bytes)
    }
}

fn recv(fd: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::net::recv(fd, &mut *room, RecvFlags::DONTWAIT) {
            Ok((_, n)) => return Ok(Some(n)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Transport {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// The driver could not register it.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        Self::from_fd(stream.into())
    }

    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let watched = Rc::new(UnixStream::from_std(fd.into())?);
        Ok(Self::Plain(Socket { fd: watched.as_raw_fd(), watched }))
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => &secured.socket,
        }
    }

    /// Puts a TLS session on the connection; [`shake_hands`](Self::shake_hands) is next.
    #[must_use]
    pub fn secure(self, session: Session) -> Self {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => secured.socket,
        };
        Self::Tls(Box::new(Secured { socket, session: RefCell::new(session) }))
    }

    /// Takes the TLS session off again, where the peer does not speak TLS.
    ///
    /// # Errors
    /// No descriptor is left for it.
    pub fn make_plain(&mut self) -> io::Result<()> {
        if self.is_tls() {
            let fd = rustix::io::fcntl_dupfd_cloexec(self.fd(), 0)?;
            *self = Self::from_fd(fd)?;
        }
        Ok(())
    }

    /// Touches what a wait needs.
    #[inline]
    pub fn warm(&self) {
        std::hint::black_box(self.socket().watched.as_raw_fd());
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether its TLS handshake is still to be made.
    pub fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(secured) if secured.session.borrow().is_handshaking())
    }

    /// Whether its TLS session goes on where an earlier one was.
    pub fn is_resumed(&self) -> bool {
        matches!(self, Self::Tls(secured) if secured.session.borrow().is_resumed())
    }

    /// Makes the TLS handshake, in turn with the core's others. May be dropped at any time; true
    /// when it is made, false where the peer speaks plain text.
    ///
    /// # Errors
    /// It failed, and the peer was told why.
    pub async fn shake_hands(&self, turns: &Turns) -> io::Result<bool> {
        let Self::Tls(secured) = self else { return Ok(true) };
        if !secured.session.borrow().is_client() {
            // The client begins, and what waits for it need not stand in line.
            secured.socket.watched.readable(false).await?;
        }
        loop {
            let step = || secured.session.borrow_mut().shake_hands(&Raw(self.fd()));
            match turns.take(step).await? {
                Shaken::Done => return Ok(true),
                Shaken::PlainText => return Ok(false),
                Shaken::WantsRead => secured.socket.watched.readable(false).await?,
                Shaken::WantsWrite => secured.socket.watched.writable(false).await?,
            }
        }
    }

    /// A read would bring something although the socket has nothing.
    #[inline]
    pub fn has_buffered(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(secured) => secured.session.borrow().has_buffered(),
        }
    }

    #[allow(unsafe_code)]
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by the stream in `self`, which closes it no earlier
        // than when it is dropped, and the borrow cannot outlive `self`.
        unsafe { BorrowedFd::borrow_raw(self.socket().fd) }
    }

    /// Receives what is there into `room`, never waiting. `Ok(None)`: nothing there yet;
    /// `Ok(Some(0))`: the peer has closed its side.
    ///
    /// # Errors
    /// The connection was reset or has failed.
    pub fn try_recv(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(_) => recv(self.fd(), room),
            Self::Tls(secured) => secured.session.borrow_mut().read(&Raw(self.fd()), room),
        }
    }

    /// Sends what the socket has room for, never waiting. `Ok(None)`: no room.
    ///
    /// # Errors
    /// The peer is gone or the connection has failed.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(_) => send(self.fd(), bytes),
            Self::Tls(secured) => {
                secured.session.borrow_mut().write(&Raw(self.fd()), &[IoSlice::new(bytes)])
            }
        }
    }

    /// [`try_send`](Self::try_send) for several slices in one call.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub fn try_send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        if let Self::Tls(secured) = self {
            return secured.session.borrow_mut().write(&Raw(self.fd()), slices);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let mut control = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self.fd(), slices, &mut control, flags) {
                Ok(n) => return Ok(Some(n)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks at the peer without taking bytes.
    pub fn peer(&self) -> Peer {
        if let Self::Tls(secured) = self {
            let mut session = secured.session.borrow_mut();
            return match session.peek(&Raw(self.fd())) {
                Ok(false) => Peer::Quiet,
                Ok(true) if session.is_over() || session.is_truncated() => Peer::Closed,
                Ok(true) if !session.has_failed() => Peer::Talking,
                Ok(true) | Err(_) => Peer::Reset,
            };
        }
        let mut byte = [0_u8; 1];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        match rustix::net::recv(self.fd(), &mut byte, flags) {
            Ok((_, 0)) => Peer::Closed,
            Ok(_) => Peer::Talking,
            Err(Errno::AGAIN | Errno::INTR) => Peer::Quiet,
            Err(_) => Peer::Reset,
        }
    }

    /// Waits until there is something to read, a close or a reset. May be dropped at any time.
    ///
    /// # Errors
    /// The driver could not wait.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        self.socket().watched.readable(false)
    }

    /// [`readable`](Self::readable) as a future that borrows nothing.
    fn standing(&self) -> Pin<Box<dyn Future<Output = io::Result<()>>>> {
        let watched = Rc::clone(&self.socket().watched);
        Box::pin(async move { watched.readable(false).await })
    }

    /// Waits until there is room to write, or a reset. May be dropped at any time.
    ///
    /// # Errors
    /// The driver could not wait.
    pub fn writable(&self) -> impl Future<Output = io::Result<()>> + use<'_> {
        self.socket().watched.writable(false)
    }

    /// [`writable`](Self::writable) as a future that borrows nothing.
    pub fn room(&self) -> Pin<Box<dyn Future<Output = io::Result<()>>>> {
        let watched = Rc::clone(&self.socket().watched);
        Box::pin(async move { watched.writable(false).await })
    }

    /// Says goodbye in TLS, without closing: what was sent is all there was to come.
    pub fn close_notify(&self) {
        if let Self::Tls(secured) = self {
            secured.session.borrow_mut().close(&Raw(self.fd()));
        }
    }

    /// Tells the peer that nothing more comes (close_notify, FIN).
    pub fn shutdown_write(&self) {
        self.close_notify();
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
    }

    /// Ends both directions at once: the peer sees it without waiting for the descriptor's close,
    /// which waits for operations still armed on it.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
    }

    /// Resets the connection at once: the only honest end of a body that a close would delimit.
    pub fn reset(&self) {
        // Dissolving the association of a connected TCP socket sends RST (connect(2), AF_UNSPEC);
        // a plain close would have to wait for the waits still armed on the descriptor.
        let _ = rustix::net::sockopt::set_socket_linger(self.fd(), Some(Duration::ZERO));
        let _ = rustix::net::connect_unspec(self.fd());
    }

    /// Turns Nagle's algorithm off: a token must not wait for the acknowledgement of the last.
    pub fn set_nodelay(&self) {
        let _ = rustix::net::sockopt::set_tcp_nodelay(self.fd(), true);
    }
}

/// A wait for one transport to become readable that stands through the phases of a connection:
/// ending one wait and beginning the next would cost the driver a cancellation each time.
///
/// It is looked at on every wake of its task and nearly never over, so a bell tells whether
/// looking is worth the cache misses.
#[derive(Default)]
pub struct Watch {
    armed: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
    bell: Option<Arc<Bell>>,
}

/// Wakes a task, and leaves a mark that it was this that woke it.
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Relaxed);
        self.task.wake_by_ref();
    }
}

impl Watch {
    /// Ready when there may be something to read, a close or a reset. Always to be called with the
    /// same transport, by the same task.
    pub fn poll(&mut self, transport: &Transport, cx: &mut Context<'_>) -> Poll<()> {
        if transport.has_buffered() {
            return Poll::Ready(());
        }
        let bell = self.bell.get_or_insert_with(|| {
            Arc::new(Bell { rung: AtomicBool::new(false), task: cx.waker().clone() })
        });
        let armed = match &mut self.armed {
            Some(_) if !bell.rung.load(Relaxed) => return Poll::Pending,
            Some(armed) => armed,
            none => none.insert(transport.standing()),
        };
        bell.rung.store(false, Relaxed);
        let waker = Waker::from(Arc::clone(bell));
        // That the driver could not wait shows when the socket is read.
        let _ = ready!(armed.as_mut().poll(&mut Context::from_waker(&waker)));
        self.armed = None;
        Poll::Ready(())
    }
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
    let transport = Transport::from_fd(fd)?;
    if pending {
        transport.writable().await?;
        rustix::net::sockopt::socket_error(transport.fd())??;
    }
    transport.set_nodelay();
    Ok(transport)
}
