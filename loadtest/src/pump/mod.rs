//! Bare pumps: they copy TCP bytes both ways in one thread and know no HTTP. What they cost is
//! what the kernel's TCP costs; a relay's ratio to them is its own doing.

mod buffers;
mod epoll;
mod uring;

use std::io;
use std::net::{SocketAddr, TcpStream};

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

/// A connection to the upstream. It blocks, which on loopback is over at once.
fn connect(upstream: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(upstream)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
