//! One connected socket, plain or (later) TLS.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use monoio::net::TcpStream;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

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
    Plain(TcpStream),
}

impl Transport {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// The driver could not register it.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        Ok(Self::Plain(TcpStream::from_std(stream)?))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
        }
    }

    #[allow(unsafe_code)]
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by the TcpStream in `self`, which closes it no earlier
        // than when it is dropped, and the borrow cannot outlive `self`.
        unsafe { BorrowedFd::borrow_raw(self.tcp().as_raw_fd()) }
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
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
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
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
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
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
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
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Peer::Quiet,
            Err(_) => Peer::Reset,
        }
    }

    /// Waits until there is something to read, a close or a reset. May be dropped at any time.
    ///
    /// # Errors
    /// The driver could not wait.
    pub async fn readable(&self) -> io::Result<()> {
        self.tcp().readable(false).await
    }

    /// Waits until there is room to write, or a reset. May be dropped at any time.
    ///
    /// # Errors
    /// The driver could not wait.
    pub async fn writable(&self) -> io::Result<()> {
        self.tcp().writable(false).await
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

    /// The peer's address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }
}

/// Connects to `addr`. The future may be dropped: the socket is then closed by the driver.
///
/// # Errors
/// As `connect(2)`.
pub async fn connect(addr: SocketAddr) -> io::Result<Transport> {
    let transport = Transport::Plain(TcpStream::connect_addr(addr).await?);
    transport.set_nodelay();
    Ok(transport)
}
