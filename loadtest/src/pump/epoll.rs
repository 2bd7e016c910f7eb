//! The pump over edge-triggered epoll. Where it keeps upstream connections, a client that leaves
//! gives its own back and the next is lent it: what new connections cost that end with their answer
//! when nobody reads what they say.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::Result;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::SocketFlags;

const LISTENER: u64 = u64::MAX;
/// The one read buffer.
const BUFFER: usize = 64 << 10;

struct Side {
    socket: TcpStream,
    /// Bytes for this socket that it has not taken; while there are any, its peer is not read.
    left: Vec<u8>,
    /// Its peer has been read to the end and it has been told, unless it is kept.
    ended: bool,
    /// It outlives its peer.
    kept: bool,
}

impl Side {
    fn new(socket: TcpStream, kept: bool) -> Self {
        Self { socket, left: Vec::new(), ended: false, kept }
    }
}

struct Pump {
    epoll: rustix::fd::OwnedFd,
    pairs: Vec<Option<[Side; 2]>>,
    free: Vec<usize>,
    /// Upstream connections without a client, each with the place that its events name.
    idle: Vec<(usize, Side)>,
    keeps: bool,
}

pub(super) fn run(listener: &TcpListener, upstream: SocketAddr, keeps: bool) -> Result<()> {
    // Accepted sockets inherit it.
    rustix::net::sockopt::set_tcp_nodelay(listener, true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let (pairs, free, idle) = (Vec::new(), Vec::new(), Vec::new());
    let mut pump = Pump { epoll, pairs, free, idle, keeps };
    let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
    let mut buffer = vec![0; BUFFER];
    loop {
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&pump.epoll, spare, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            if event.data.u64() == LISTENER {
                pump.accept(listener, upstream);
            } else {
                let token = event.data.u64() as usize;
                pump.ready(token / 2, token % 2, event.flags, &mut buffer);
            }
        }
    }
}

impl Pump {
    fn accept(&mut self, listener: &TcpListener, upstream: SocketAddr) {
        for _ in 0..64 {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let Ok(client) = rustix::net::accept_with(listener, flags) else { return };
            let client = TcpStream::from(client);
            let (at, server) = match self.idle.pop() {
                Some(kept) => kept,
                None => match self.connect(upstream) {
                    Ok(made) => made,
                    Err(_) => continue,
                },
            };
            if self.watch(&client, at * 2).is_ok() {
                self.pairs[at] = Some([Side::new(client, false), server]);
            } else {
                self.free.push(at);
            }
        }
    }

    /// A connection to the upstream, and its place.
    fn connect(&mut self, upstream: SocketAddr) -> io::Result<(usize, Side)> {
        let server = super::connect(upstream)?;
        let at = self.free.pop().unwrap_or(self.pairs.len());
        if at == self.pairs.len() {
            self.pairs.push(None);
        }
        let watched = self.watch(&server, at * 2 + 1);
        watched.inspect_err(|_| self.free.push(at))?;
        Ok((at, Side::new(server, self.keeps)))
    }

    fn watch(&self, socket: &TcpStream, token: usize) -> io::Result<()> {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(token as u64), interest)?;
        Ok(())
    }

    fn ready(&mut self, at: usize, which: usize, flags: EventFlags, buffer: &mut [u8]) {
        let Some(pair) = self.pairs[at].as_mut() else { return self.stirred(at, flags) };
        let mut result = Ok(());
        if flags.contains(EventFlags::OUT) && !pair[which].left.is_empty() {
            let left = std::mem::take(&mut pair[which].left);
            result = send(&mut pair[which], &left);
            if result.is_ok() && pair[which].left.is_empty() {
                // An end may have come while it was not read.
                result = relay(pair, 1 - which, buffer, true);
            }
        }
        let readable = EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if result.is_ok() && flags.intersects(readable) {
            let ends = !(flags & !(EventFlags::IN | EventFlags::OUT)).is_empty();
            result = relay(pair, which, buffer, ends);
        }
        let [client, server] = &*pair;
        if result.is_ok() && server.kept && server.ended && !client.ended && server.left.is_empty()
        {
            let pair = self.pairs[at].take();
            self.idle.extend(pair.map(|[_, server]| (at, Side { ended: false, ..server })));
        } else if result.is_err() || (client.ended && server.ended) {
            self.pairs[at] = None;
            self.free.push(at);
        }
    }

    /// Drops a kept connection that is told of without a client: that it can be written is no
    /// news, all else means its end.
    fn stirred(&mut self, at: usize, flags: EventFlags) {
        if flags != EventFlags::OUT
            && let Some(found) = self.idle.iter().position(|&(place, _)| place == at)
        {
            self.idle.swap_remove(found);
            self.free.push(at);
        }
    }
}

/// Moves bytes from one side to the other until there are none or no room; if it `ends`, up to
/// the end, of which no other edge will tell.
fn relay(pair: &mut [Side; 2], from: usize, buffer: &mut [u8], ends: bool) -> io::Result<()> {
    let to = 1 - from;
    while pair[to].left.is_empty() && !pair[to].ended {
        match pair[from].socket.read(buffer) {
            Ok(0) => {
                pair[to].ended = true;
                if pair[to].kept {
                    return Ok(());
                }
                return pair[to].socket.shutdown(Shutdown::Write);
            }
            Ok(count) => {
                send(&mut pair[to], &buffer[..count])?;
                // Edges come anew for what arrives after a short read.
                if count < buffer.len() && !ends {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send(side: &mut Side, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match side.socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                side.left.extend_from_slice(bytes);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
