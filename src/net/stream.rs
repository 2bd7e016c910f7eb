//! One connected socket, plain or (later) TLS.

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

/// A connection's transport. (TLS becomes a second variant.)
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Plain(Socket),
}

/// A descriptor that the driver watches. Of the driver we want readiness and nothing else, which
/// is the same for every socket; its `TcpStream` would keep 72 bytes of addresses with each.
#[derive(Debug)]
pub struct Socket {
    /// The descriptor of `watched`, at hand: looking it up there costs two cache misses a call.
    fd: RawFd,
    watched: Rc<UnixStream>,
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
        loop {
            match rustix::net::recv(self.fd(), &mut *room, RecvFlags::DONTWAIT) {
                Ok((_, n)) => return Ok(Some(n)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what the socket has room for, never waiting. `Ok(None)`: no room.
    ///
    /// # Errors
    /// The peer is gone or the connection has failed.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::net::send(self.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => return Ok(Some(n)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// [`try_send`](Self::try_send) for several slices in one call.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub fn try_send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
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

    /// Tells the peer that nothing more comes (FIN).
    pub fn shutdown_write(&self) {
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
