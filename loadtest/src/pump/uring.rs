//! The pump over io_uring: multishot accept and receive, provided buffers, sends from the same.
#![allow(unsafe_code)] // submissions name memory and descriptors the kernel uses later

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::{Context, Result};
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::buffers::Buffers;

const GROUP: u16 = 7;
const BUFFERS: u16 = 2048;
const BUFFER: usize = 32 << 10;
/// Buffers that may wait for one slow socket before its peer's receive is cancelled; fewer where
/// many connections share the buffers.
const QUEUE_MAX: usize = 16;
const NO_SIGNAL: i32 = 0x4000;
const NO_BUFFERS: i32 = -rustix::io::Errno::NOBUFS.raw_os_error();

const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const CANCEL: u64 = 3;

struct Side {
    socket: TcpStream,
    /// Received for this socket: buffer, bytes done, bytes in all.
    queue: VecDeque<(u16, usize, usize)>,
    sending: bool,
    receiving: bool,
    cancelled: bool,
    /// Nothing more will be received from it.
    ended: bool,
}

struct Pair {
    sides: [Side; 2],
    /// Completions still to come.
    pending: u32,
    broken: bool,
}

struct Pump {
    // The ring goes before the buffers its operations point into.
    ring: IoUring,
    buffers: Buffers,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    /// Sides whose receive ended for want of buffers.
    starved: VecDeque<usize>,
    upstream: SocketAddr,
}

pub(super) fn run(listener: &TcpListener, upstream: SocketAddr) -> Result<()> {
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(16 << 10)
        .build(4096)
        .context("io_uring")?;
    let buffers = Buffers::register(&ring.submitter(), GROUP, BUFFERS, BUFFER)
        .context("a ring of buffers")?;
    let (pairs, free, starved) = (Vec::new(), Vec::new(), VecDeque::new());
    let mut pump = Pump { ring, buffers, pairs, free, starved, upstream };
    listener.set_nonblocking(false)?;
    let accept = || opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build().user_data(ACCEPT);
    pump.push(&accept())?;
    let mut done: Vec<(u64, i32, u32)> = Vec::new();
    loop {
        match pump.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        done.extend(pump.ring.completion().map(|e| (e.user_data(), e.result(), e.flags())));
        for (data, result, flags) in done.drain(..) {
            if data & 3 != ACCEPT {
                pump.completed(data, result, flags)?;
                continue;
            }
            if result >= 0 {
                pump.accepted(result)?;
            }
            if !cqueue::more(flags) {
                pump.push(&accept())?;
            }
        }
    }
}

impl Pump {
    fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: descriptors belong to pairs, which live until their operations have completed;
        // buffers live as long as the ring.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    fn accepted(&mut self, descriptor: i32) -> Result<()> {
        // SAFETY: a descriptor the kernel has just made for us.
        let client = unsafe { TcpStream::from_raw_fd(descriptor) };
        let Ok(server) = super::connect(self.upstream) else { return Ok(()) };
        let _ = client.set_nodelay(true);
        let at = self.free.pop().unwrap_or(self.pairs.len());
        if at == self.pairs.len() {
            self.pairs.push(None);
        }
        let side = |socket| Side {
            socket,
            queue: VecDeque::new(),
            sending: false,
            receiving: false,
            cancelled: false,
            ended: false,
        };
        let sides = [side(client), side(server)];
        self.pairs[at] = Some(Pair { sides, pending: 0, broken: false });
        self.receive(at * 2)?;
        self.receive(at * 2 + 1)
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let Some(pair) = self.pairs[index / 2].as_mut() else { return Ok(()) };
        let side = &mut pair.sides[index % 2];
        if side.receiving || side.ended {
            return Ok(());
        }
        side.receiving = true;
        side.cancelled = false;
        pair.pending += 1;
        let fd = Fd(side.socket.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        self.push(&entry.user_data((index as u64) << 2 | RECEIVE))
    }

    fn send(&mut self, index: usize) -> Result<()> {
        let Some(pair) = self.pairs[index / 2].as_mut() else { return Ok(()) };
        let side = &mut pair.sides[index % 2];
        let Some(&(buffer, from, to)) = side.queue.front().filter(|_| !side.sending) else {
            return Ok(());
        };
        side.sending = true;
        pair.pending += 1;
        let fd = Fd(side.socket.as_raw_fd());
        let entry = opcode::Send::new(fd, self.buffers.at(buffer, from), (to - from) as u32)
            .flags(NO_SIGNAL)
            .build();
        self.push(&entry.user_data((index as u64) << 2 | SEND))
    }

    fn completed(&mut self, data: u64, result: i32, flags: u32) -> Result<()> {
        let (index, what) = ((data >> 2) as usize, data & 3);
        if let Some(pair) = self.pairs[index / 2].as_mut() {
            pair.pending -= u32::from(!cqueue::more(flags));
        }
        match what {
            RECEIVE => self.received(index, result, flags)?,
            SEND => self.sent(index, result)?,
            _ => {}
        }
        self.settle(index / 2);
        Ok(())
    }

    fn received(&mut self, index: usize, result: i32, flags: u32) -> Result<()> {
        let buffer = cqueue::buffer_select(flags);
        let queue_max = self.queue_max();
        let Some(pair) = self.pairs[index / 2].as_mut() else { return Ok(()) };
        let more = cqueue::more(flags);
        pair.sides[index % 2].receiving = more;
        let peer = index ^ 1;
        match (result, buffer) {
            (1.., Some(buffer)) if !pair.broken => {
                let side = &mut pair.sides[peer % 2];
                side.queue.push_back((buffer, 0, result as usize));
                let full = side.queue.len() >= queue_max;
                self.send(peer)?;
                if full && more {
                    self.cancel(index)?;
                } else if !more && !full {
                    self.receive(index)?;
                }
                return Ok(());
            }
            (NO_BUFFERS, _) => self.starved.push_back(index),
            (0, _) => pair.sides[index % 2].ended = true,
            // Cancelled for a slow peer: goes on when that one has caught up.
            (..0, _) if pair.sides[index % 2].cancelled => {
                let low = pair.sides[peer % 2].queue.len() <= queue_max / 4;
                if low {
                    self.receive(index)?;
                }
            }
            (..0, _) => pair.broken = true,
            _ => {}
        }
        if let Some(buffer) = buffer {
            self.recycle(buffer)?;
        }
        Ok(())
    }

    fn cancel(&mut self, index: usize) -> Result<()> {
        let Some(pair) = self.pairs[index / 2].as_mut() else { return Ok(()) };
        let side = &mut pair.sides[index % 2];
        if std::mem::replace(&mut side.cancelled, true) {
            return Ok(());
        }
        pair.pending += 1;
        let data = (index as u64) << 2;
        self.push(&opcode::AsyncCancel::new(data | RECEIVE).build().user_data(data | CANCEL))
    }

    fn queue_max(&self) -> usize {
        let pairs = (self.pairs.len() - self.free.len()).max(1);
        (usize::from(BUFFERS) / 2 / pairs).clamp(2, QUEUE_MAX)
    }

    fn sent(&mut self, index: usize, result: i32) -> Result<()> {
        let queue_max = self.queue_max();
        let Some(pair) = self.pairs[index / 2].as_mut() else { return Ok(()) };
        let side = &mut pair.sides[index % 2];
        side.sending = false;
        if result < 0 {
            pair.broken = true;
            return Ok(());
        }
        let mut through = None;
        if let Some((buffer, from, to)) = side.queue.front_mut() {
            *from += result as usize;
            through = (*from == *to).then_some(*buffer);
        }
        if let Some(buffer) = through {
            side.queue.pop_front();
            let low = side.queue.len() <= queue_max / 4;
            self.recycle(buffer)?;
            if low {
                self.receive(index ^ 1)?;
            }
        }
        self.send(index)
    }

    fn recycle(&mut self, buffer: u16) -> Result<()> {
        self.buffers.give(buffer);
        if let Some(index) = self.starved.pop_front() {
            self.receive(index)?;
        }
        Ok(())
    }

    /// Passes ends on, and drops a pair that is through.
    fn settle(&mut self, at: usize) {
        let Some(pair) = self.pairs[at].as_mut() else { return };
        let [one, two] = &pair.sides;
        if pair.broken {
            let _ = one.socket.shutdown(Shutdown::Both);
            let _ = two.socket.shutdown(Shutdown::Both);
        }
        for (from, to) in [(one, two), (two, one)] {
            if from.ended && to.queue.is_empty() {
                let _ = to.socket.shutdown(Shutdown::Write);
            }
        }
        let ended = one.ended && two.ended && one.queue.is_empty() && two.queue.is_empty();
        if pair.pending == 0 && (pair.broken || ended) {
            let queues = pair.sides.iter().flat_map(|side| &side.queue);
            let unsent: Vec<u16> = queues.map(|entry| entry.0).collect();
            self.pairs[at] = None;
            self.free.push(at);
            unsent.into_iter().for_each(|buffer| self.buffers.give(buffer));
        }
    }
}
