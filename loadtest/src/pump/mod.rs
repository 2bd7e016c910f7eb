//! Bare pumps: they copy TCP bytes both ways in one thread and know no HTTP. What they cost is
//! what the kernel's TCP costs; a relay's ratio to them is its own doing.

mod buffers;
mod epoll;
mod uring;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Result;

use crate::origin::listen;

/// Which kernel interface a pump uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Edge-triggered readiness, recv and send.
    Epoll,
    /// Multishot receives into provided buffers, sends from the same.
    Uring,
}

/// Relays connections from `address` to `upstream` until the process ends.
pub fn run(kind: Kind, address: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = listen(address)?;
    match kind {
        Kind::Epoll => epoll::run(&listener, upstream),
        Kind::Uring => uring::run(&listener, upstream),
    }
}

static SOURCE: AtomicU32 = AtomicU32::new(0);

/// A connection to the upstream. It blocks, which on loopback is over at once. A pump keeps no
/// connections, so on loopback it takes turns with source addresses lest it run out of ports.
fn connect(upstream: SocketAddr) -> io::Result<TcpStream> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(upstream), Type::STREAM, None)?;
    if upstream.is_ipv4() && upstream.ip().is_loopback() {
        let [.., high, low] = SOURCE.fetch_add(1, Relaxed).to_be_bytes();
        let address = Ipv4Addr::new(127, 2, high, low.max(1));
        socket.bind(&SocketAddr::from((address, 0)).into())?;
    }
    socket.connect(&upstream.into())?;
    let socket = TcpStream::from(socket);
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
