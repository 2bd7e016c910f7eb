//! Idle upstream connections of one core, for one endpoint.
//!
//! Last in, first out: the connection used most recently is the least likely to have been closed
//! by the other side, and the rest age and expire. A connection is looked at (no request spent)
//! when it is leased and whenever the pool is swept: one that was closed, reset, or talks without
//! being asked is dropped. The look is at what the kernel has told of it, and at the socket itself
//! only where that is something; a close that is told a moment later costs the attempt, and those
//! on used connections are always made again (`balance/retry.rs`).

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::net::stream::{Peer, Transport};

/// What a sweep or a lease dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Closed, reset or talking out of turn.
    pub dead: u64,
    /// Idle for too long, or one too many.
    pub expired: u64,
}

#[derive(Debug)]
struct Idle {
    transport: Transport,
    since: Instant,
}

fn is_alive(transport: &Transport) -> bool {
    !transport.has_stirred() || transport.peer() == Peer::Quiet
}

/// The idle connections of one core.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<Vec<Idle>>,
    idle_max: usize,
    idle_timeout: Duration,
}

impl Pool {
    /// A pool that keeps `idle_max` connections, each for `idle_timeout`.
    pub fn new(idle_max: usize, idle_timeout: Duration) -> Self {
        Self { idle: RefCell::default(), idle_max, idle_timeout }
    }

    /// The most recently used connection that is alive.
    pub fn lease(&self, now: Instant) -> (Option<Transport>, Dropped) {
        let mut dropped = Dropped::default();
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if now.duration_since(candidate.since) >= self.idle_timeout {
                candidate.transport.close_notify();
                dropped.expired += 1;
            } else if is_alive(&candidate.transport) {
                return (Some(candidate.transport), dropped);
            } else {
                dropped.dead += 1;
            }
        }
        (None, dropped)
    }

    /// Takes back a connection whose exchange ended in order. Where the pool is full the oldest
    /// goes.
    pub fn give_back(&self, transport: Transport, now: Instant) -> Dropped {
        let mut dropped = Dropped::default();
        let mut idle = self.idle.borrow_mut();
        if self.idle_max == 0 {
            transport.close_notify();
            dropped.expired += 1;
            return dropped;
        }
        if idle.len() >= self.idle_max {
            idle.remove(0).transport.close_notify();
            dropped.expired += 1;
        }
        transport.forget_task();
        idle.push(Idle { transport, since: now });
        dropped
    }

    /// Drops what has died or expired.
    pub fn sweep(&self, now: Instant) -> Dropped {
        let mut dropped = Dropped::default();
        self.idle.borrow_mut().retain(|candidate| {
            let expired = now.duration_since(candidate.since) >= self.idle_timeout;
            let dead = !expired && !is_alive(&candidate.transport);
            if expired {
                candidate.transport.close_notify();
            }
            dropped.expired += u64::from(expired);
            dropped.dead += u64::from(dead);
            !expired && !dead
        });
        dropped
    }

    /// Connections kept now.
    pub fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes all (the worker drains).
    pub fn clear(&self) {
        for idle in self.idle.borrow_mut().drain(..) {
            idle.transport.close_notify();
        }
    }
}
