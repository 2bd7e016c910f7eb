//! A connection on its way to the worker that owns its client's stream.
//!
//! The kernel spreads connections over the workers, so a client that comes back mostly lands on
//! another one than its stream. It is handed over once, with its connection, before anything of
//! the request but its head has been looked at; from there on the owner serves it as if it had come
//! there, further requests too.
//!
//! The other way, reading the log across, would cost each frame of such a client the wake of another
//! core's thread, which is what handing over a connection costs once: there and back 49 µs, both
//! (`benches/handover.rs`, two virtual EPYC cores).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::Core;
use super::super::connection::{self, Connection};
use super::super::task::spawn_caught;
use super::request::{Named, named};
use crate::http1::head::RequestHead;
use crate::limits::HANDED_OVER_MAX;
use crate::net::handover::{self, Received};
use crate::net::ready::Watched;
use crate::net::stream::Transport;
use crate::net::tls::session::Packed;

/// All of a connection but its socket.
pub(in super::super) struct Parcel {
    pub head: Box<RequestHead>,
    pub peer: SocketAddr,
    /// Bytes received behind the head.
    pub inbox: Vec<u8>,
    /// Bytes that go before all else.
    pub unsent: Box<[u8]>,
    session: Option<Packed>,
}

/// Parcels whose sockets are on their way to one worker, by number.
#[derive(Default)]
struct Waiting {
    parcels: VecDeque<(u64, Parcel)>,
    number: u64,
}

/// The way to one worker.
struct Door {
    socket: OwnedFd,
    waiting: Arc<Mutex<Waiting>>,
}

/// The way from one worker to the others.
pub struct Neighbours {
    /// By their numbers; its own too.
    doors: Vec<Door>,
    /// Where connections arrive.
    arrivals: OwnedFd,
}

impl Neighbours {
    /// Connects so many workers with each other.
    ///
    /// # Errors
    /// No descriptor or memory is left.
    pub fn connect(workers: usize) -> io::Result<Vec<Self>> {
        let (mut doors, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (socket, end) = handover::pair()?;
            doors.push(Door { socket, waiting: Arc::default() });
            ends.push(end);
        }
        let copy = |door: &Door| {
            let waiting = Arc::clone(&door.waiting);
            Ok(Door { socket: door.socket.try_clone()?, waiting })
        };
        let neighbours = |arrivals| {
            let doors = doors.iter().map(copy).collect::<io::Result<_>>()?;
            Ok(Self { doors, arrivals })
        };
        ends.into_iter().map(neighbours).collect()
    }

    /// The descriptors a worker takes with it.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let doors = self.doors.iter().map(|door| door.socket.as_raw_fd());
        doors.chain([self.arrivals.as_raw_fd()])
    }
}

/// The worker that the request is to be handed to.
pub(in super::super) fn owner(core: &Core, head: &RequestHead) -> Option<usize> {
    let resume = core.resume.as_ref()?;
    let neighbours = resume.neighbours.as_ref()?;
    let Named::Id(id) = named(head) else { return None };
    let owner = usize::from(resume.shelf.borrow().owner_elsewhere(&id)?);
    (owner < neighbours.doors.len()).then_some(owner)
}

/// Hands a connection over; false where it cannot be.
pub(in super::super) fn hand_over(
    connection: &mut Connection,
    owner: usize,
    head: Box<RequestHead>,
) -> bool {
    let core = Rc::clone(connection.core());
    let door = core.resume.as_ref().and_then(|resume| resume.neighbours.as_ref()?.doors.get(owner));
    let Some(door) = door else { return false };
    // Held until the parcel is there: its socket must not arrive first.
    let mut waiting = door.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.parcels.len() >= HANDED_OVER_MAX {
        return false;
    }
    waiting.number += 1;
    let number = waiting.number;
    match connection.transport.send_through(&door.socket, number) {
        Ok(Some(session)) => {
            let inbox = connection.inbox.bytes().to_vec();
            let unsent = std::mem::take(&mut connection.unsent);
            let parcel = Parcel { head, peer: connection.peer, inbox, unsent, session: *session };
            waiting.parcels.push_back((number, parcel));
            core.metrics.resume_handovers.inc();
            true
        }
        Ok(None) => false,
        Err(error) => {
            log::error!("worker {}: a connection cannot be handed over: {error}", core.worker);
            false
        }
    }
}

/// Takes over what other workers hand to this one, for as long as it lives.
pub async fn take_over(core: Rc<Core>) {
    let neighbours = core.resume.as_ref().and_then(|resume| resume.neighbours.as_ref());
    let Some(neighbours) = neighbours else { return };
    let waiting = neighbours.doors.get(core.worker).map(|door| Arc::clone(&door.waiting));
    let arrivals = neighbours.arrivals.try_clone().and_then(Watched::new);
    let (Some(waiting), Ok(arrivals)) = (waiting, arrivals) else {
        log::error!("worker {}: takes over no connections: no descriptor is left", core.worker);
        return;
    };
    loop {
        std::future::poll_fn(|cx| arrivals.poll_readable(cx)).await;
        let (number, socket) = match handover::receive(&arrivals) {
            Ok(Received::Socket(number, socket)) => (number, Some(socket)),
            Ok(Received::Lost(number)) => (number, None),
            Ok(Received::Nothing) => {
                arrivals.drained();
                continue;
            }
            Ok(Received::Closed) => return,
            Err(error) => {
                log::error!("worker {}: takes over no more connections: {error}", core.worker);
                return;
            }
        };
        let parcel = {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let at = waiting.parcels.iter().position(|(known, _)| *known == number);
            at.and_then(|at| waiting.parcels.remove(at))
        };
        let (Some((_, parcel)), Some(socket)) = (parcel, socket) else {
            core.metrics.accept_errors.inc();
            continue;
        };
        serve(&core, parcel, socket);
    }
}

fn serve(core: &Rc<Core>, mut parcel: Parcel, socket: OwnedFd) {
    let session = parcel.session.take();
    match Transport::from_std(socket.into()) {
        Ok(transport) => {
            let transport = match session {
                Some(session) => transport.secure(session.unpack()),
                None => transport,
            };
            spawn_caught(core, connection::serve_on(Rc::clone(core), transport, parcel));
        }
        Err(error) => {
            core.metrics.accept_errors.inc();
            log::warn!("a connection could not be registered: {error}");
        }
    }
}
