//! Streams that survive their connection.
//!
//! ```text
//!  upstream ─▶ source ─▶ log ─▶ reader (the client's connection)
//!                         └───▶ reader that came back, or a second one
//! ```
//!
//! On a route that resumes, the upstream's side of a response is a `Source` (`source.rs`), which
//! keeps whole frames in the core's [`Shelf`]; each connection's reader (`reader.rs`) sends them from
//! there. One of the readers drives the source in its own task; when it leaves, another does, or a
//! task that has nothing else to do, for the route's grace. So nothing happens to the source when a
//! connection is lost. Who comes back on another core's connection is [handed over](handover) to the
//! stream's owner, with its connection, before anything is read of its body: frames never cross
//! cores.
//!
//! The account of the exchange is the source's: it says how the generation ended. A client that
//! comes back has one of its own.

pub mod handover;
pub(super) mod reader;
pub(super) mod request;
pub(super) mod source;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use super::Core;
use crate::clock;
use crate::flow::replay::{Kept, ReaderKey, Shelf};
use crate::sse::sequence::Epoch;
use crate::telemetry::metrics::WorkerMetrics;
use handover::Neighbours;
use request::Named;
use source::Source;

/// What one core knows of streams that are kept.
pub struct Resume {
    pub(super) shelf: RefCell<Shelf>,
    /// Sources that wait for one of their readers, by their streams' places.
    parked: RefCell<HashMap<u32, Box<Source>>>,
    neighbours: Option<Neighbours>,
}

/// What a core's [`Resume`] is made of.
pub struct ResumeParts {
    /// The process.
    pub epoch: Epoch,
    /// Bytes of frames this core keeps.
    pub bytes_max: usize,
    /// The way to the other workers, where there are any.
    pub neighbours: Option<Neighbours>,
}

impl Resume {
    /// The shelf of the core of this number.
    pub(super) fn new(core: usize, parts: ResumeParts) -> Self {
        let number = u16::try_from(core).unwrap_or(u16::MAX);
        let shelf = Shelf::new(number, parts.epoch, parts.bytes_max);
        let parked = RefCell::default();
        Self { shelf: RefCell::new(shelf), parked, neighbours: parts.neighbours }
    }

    /// Streams that are kept.
    pub(super) fn streams(&self) -> usize {
        self.shelf.borrow().streams()
    }

    /// The route of the stream that a request names, if it could be one: who may have it is asked
    /// later.
    pub(super) fn route_of(&self, named: Named) -> Option<usize> {
        let Named::Id(id) = named else { return None };
        self.shelf.borrow().stream(id.stream.slot).map(Kept::route)
    }

    /// Drops what has been kept long enough.
    pub(super) fn sweep(&self, now: Instant, metrics: &WorkerMetrics) {
        let mut shelf = self.shelf.borrow_mut();
        shelf.sweep(now);
        metrics.kept_streams.set(shelf.streams() as i64);
        metrics.kept_bytes.set(shelf.bytes() as i64);
        metrics.kept_evicted.add(shelf.evicted() - metrics.kept_evicted.get());
    }
}

/// A reader's place at a stream, given up when it is dropped.
pub(super) struct Seat {
    core: Rc<Core>,
    slot: u32,
    reader: ReaderKey,
}

impl Seat {
    /// The stream's place on the shelf.
    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    fn with<R>(&self, act: impl FnOnce(&mut Shelf) -> R) -> Option<R> {
        self.core.with_shelf(act)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (slot, reader) = (self.slot, self.reader);
        let left = self.with(|shelf| {
            shelf.leave(slot, reader, clock::now());
            let kept = shelf.stream(slot);
            kept.is_some_and(|kept| kept.log.readers() == 0 && !kept.log.is_over())
        });
        if left == Some(true) {
            self.core.metrics.detached.inc();
        }
    }
}
