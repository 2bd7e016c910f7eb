//! Listening sockets: one per worker on the same address, so that the kernel spreads connections
//! and no core hands one to another.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::UNSENT_BYTES_MAX;

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Seconds for which a silent connection is left to the kernel, which counts in retransmissions of
/// its SYN-ACK: one.
const SILENT_SECONDS: libc::c_int = 1;

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

/// Has connections accepted with their first bytes (TCP_DEFER_ACCEPT), where clients speak first, as
/// in HTTP and TLS. A new connection then costs a tenth less CPU (loadtest/NOTES.md), and none that
/// only connects takes a task and a descriptor. One that stays silent is accepted a second later, so
/// it still meets its deadline; one that closes, at once. One that is silent when the listener is
/// closed is reset when it speaks, as one amid its handshake is.
///
/// # Errors
/// As `setsockopt(2)`; nothing has changed then.
#[allow(unsafe_code)] // an option no crate of ours has a call for
pub fn accept_with_bytes(listener: &impl AsFd) -> io::Result<()> {
    let (seconds, size) = (SILENT_SECONDS, size_of::<libc::c_int>());
    // SAFETY: the descriptor is borrowed for the call, which reads `size` bytes of `seconds`.
    let set = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Ipv4Addr;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// The next connection, within ten seconds.
    fn next(listener: &std::net::TcpListener) -> (TcpStream, SocketAddr) {
        let limit = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
        loop {
            let told = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit));
            assert_eq!(told.expect("polls"), 1, "nothing to accept");
            match accept(listener) {
                Accepted::Connection(stream, peer) => return (stream, peer),
                Accepted::Nothing => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn listening() -> (std::net::TcpListener, SocketAddr) {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("binds");
        accept_with_bytes(&listener).expect("set");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    #[test]
    fn who_speaks_is_accepted_before_who_came_first_and_is_silent() {
        // Who is kept from running for a second between two calls finds the silent one handed
        // over: then once more.
        let overtaken = (0..5).any(|_| {
            let (listener, address) = listening();
            let silent = TcpStream::connect(address).expect("connects");
            let mut talking = TcpStream::connect(address).expect("connects");
            talking.write_all(b"GET").expect("sends");
            let (mut stream, peer) = next(&listener);
            let first = peer == talking.local_addr().expect("bound");
            if first {
                assert_eq!(stream.read(&mut [0; 8]).expect("is there already"), 3);
                let (_, peer) = next(&listener);
                assert_eq!(peer, silent.local_addr().expect("bound"), "accepted in the end");
            }
            first
        });
        assert!(overtaken);
    }

    #[test]
    fn who_closes_without_a_word_is_accepted() {
        let (listener, address) = listening();
        drop(TcpStream::connect(address).expect("connects"));
        let (mut stream, _) = next(&listener);
        assert_eq!(stream.read(&mut [0; 8]).expect("an end"), 0);
    }
}
