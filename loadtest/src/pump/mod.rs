//! Bare pumps: they copy TCP bytes both ways, a thread a core, and know no HTTP. What they cost is
//! what the kernel's TCP costs; a relay's ratio to them is its own doing.

mod buffers;
mod epoll;
mod monoio;
mod uring;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Result;

use crate::origin::listen;

/// Which kernel interface a pump uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Edge-triggered readiness, recv and send.
    Epoll,
    /// The same, and upstream connections are kept for the next client.
    Keep,
    /// Multishot receives into provided buffers, sends from the same.
    Uring,
    /// The relay's runtime: reads and writes on monoio's ring, in tasks.
    Monoio,
}

/// Relays connections from `address` to `upstream` in `threads` threads until the process ends.
/// Each has a listener of its own; the kernel spreads connections over them.
pub fn run(kind: Kind, address: SocketAddr, upstream: SocketAddr, threads: usize) -> Result<()> {
    let listeners = (0..threads.max(1)).map(|_| listen(address)).collect::<Result<Vec<_>>>()?;
    let pump = |listener: &TcpListener| match kind {
        Kind::Epoll => epoll::run(listener, upstream, false),
        Kind::Keep => epoll::run(listener, upstream, true),
        Kind::Uring => uring::run(listener, upstream),
        Kind::Monoio => monoio::run(listener, upstream),
    };
    let Some((first, others)) = listeners.split_first() else { return Ok(()) };
    std::thread::scope(|scope| {
        for listener in others {
            scope.spawn(move || {
                if let Err(error) = pump(listener) {
                    eprintln!("pump: {error:#}");
                    std::process::exit(1); // half a pump would measure something else
                }
            });
        }
        pump(first)
    })
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
