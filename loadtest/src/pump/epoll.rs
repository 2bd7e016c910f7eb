//! The pump over edge-triggered epoll.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::Result;
use rustix::event::epoll::{self, EventData, EventFlags};

const LISTENER: u64 = u64::MAX;
/// The one read buffer.
const BUFFER: usize = 64 << 10;

struct Side {
    socket: TcpStream,
    /// Bytes for this socket that it has not taken; while there are any, its peer is not read.
    left: Vec<u8>,
    /// Its peer has been read to the end and it has been told.
    ended: bool,
}

struct Pump {
    epoll: rustix::fd::OwnedFd,
    pairs: Vec<Option<[Side; 2]>>,
    free: Vec<usize>,
}

pub(super) fn run(listener: &TcpListener, upstream: SocketAddr) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut pump = Pump { epoll, pairs: Vec::new(), free: Vec::new() };
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
            let Ok((client, _)) = listener.accept() else { return };
            let set_up = client.set_nonblocking(true).and_then(|()| client.set_nodelay(true));
            let Ok(server) = set_up.and_then(|()| super::connect(upstream)) else { continue };
            let at = self.free.pop().unwrap_or(self.pairs.len());
            if at == self.pairs.len() {
                self.pairs.push(None);
            }
            let side = |socket| Side { socket, left: Vec::new(), ended: false };
            let pair = [side(client), side(server)];
            let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            let added = pair.iter().enumerate().all(|(which, side)| {
                let token = EventData::new_u64((at * 2 + which) as u64);
                epoll::add(&self.epoll, &side.socket, token, interest).is_ok()
            });
            if added {
                self.pairs[at] = Some(pair);
            } else {
                self.free.push(at);
            }
        }
    }

    fn ready(&mut self, at: usize, which: usize, flags: EventFlags, buffer: &mut [u8]) {
        let Some(pair) = self.pairs[at].as_mut() else { return };
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
        if result.is_err() || (pair[0].ended && pair[1].ended) {
            self.pairs[at] = None;
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
