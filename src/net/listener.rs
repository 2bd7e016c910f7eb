//! Listening sockets: one per worker on the same address, so that the kernel spreads connections
//! and no core hands one to another.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::UNSENT_BYTES_MAX;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Binds a listener that shares its address with its siblings.
///
/// # Errors
/// As `bind(2)`: the address is in use by another program, or not ours.
pub fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it, which saves a call each.
    socket.set_tcp_nodelay(true)?;
    // So do they this: what a slow client has not taken waits with us, where it is counted.
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What one call to accept brought.
#[derive(Debug)]
pub enum Accepted {
    /// A connection and its peer.
    Connection(TcpStream, SocketAddr),
    /// None waits.
    Nothing,
    /// The connection was gone before it was accepted: go on.
    Aborted,
    /// Out of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM): wait before going on.
    Exhausted(io::Error),
    /// The listener is broken.
    Failed(io::Error),
}

/// Takes one waiting connection, never blocking. Direct instead of on the ring: an accept in
/// flight would have to be cancelled and awaited at drain, or the connection it took is lost.
pub fn accept(listener: &impl AsFd) -> Accepted {
    use rustix::io::Errno;
    let fd: BorrowedFd<'_> = listener.as_fd();
    match rustix::net::acceptfrom_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok((fd, addr)) => match addr.map(SocketAddr::try_from) {
            Some(Ok(addr)) => Accepted::Connection(TcpStream::from(fd), addr),
            _ => Accepted::Aborted,
        },
        Err(Errno::AGAIN) => Accepted::Nothing,
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
            Accepted::Exhausted(error.into())
        }
        // accept(2): network errors of the new socket are passed on here and mean "try again".
        Err(
            Errno::CONNABORTED
            | Errno::INTR
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::OPNOTSUPP
            | Errno::PERM,
        ) => Accepted::Aborted,
        Err(error) => Accepted::Failed(error.into()),
    }
}
