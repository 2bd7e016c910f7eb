//! One downstream connection: its requests one after the other, until either side ends it.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::answer::{self, Own};
use super::exchange::Ran;
use super::inbox::{Filled, Inbox};
use super::resume::handover::{self, Parcel};
use super::resume::reader::{self, Reads};
use super::{Core, Registration, Stage, exchange, record};
use crate::clock;
use crate::dialect::{Dialect, ErrorText};
use crate::error::{Failure, Phase};
use crate::http1::Status;
use crate::http1::head::{RequestHead, parse_request};
use crate::limits::{LINGER_BYTES_MAX, LINGER_TIMEOUT};
use crate::net::stream::{Peer, Transport};
use crate::outcome::Outcome;

/// Time between two warnings about failed TLS handshakes of clients.
const HANDSHAKE_TOLD_EVERY: Duration = Duration::from_secs(10);

/// A connection and what it holds between requests.
pub struct Connection {
    /// The client's socket.
    pub transport: Transport,
    /// The client's address.
    pub peer: SocketAddr,
    /// Bytes received and not taken.
    pub inbox: Inbox,
    /// The end of an interim response that the client has not taken yet; goes before all else.
    pub unsent: Box<[u8]>,
    /// Its entry in the core.
    pub registration: Registration,
}

/// What an exchange leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The connection may carry another request.
    KeepAlive,
    /// An answer went out in full: close in order.
    Close,
    /// The answer was cut: the close itself must show it.
    Abort,
}

impl After {
    /// What an answer leaves behind that went out in full.
    pub(super) const fn whole(keep_alive: bool) -> Self {
        if keep_alive { Self::KeepAlive } else { Self::Close }
    }
}

/// What came instead of a request.
enum Next {
    Request(Box<RequestHead>),
    /// It was for another worker, which has the connection now.
    HandedOver,
    /// Nobody is there any more, or nothing is expected: close.
    Over,
    /// Answer with this status, then close.
    Refuse(u16, &'static str, String),
}

/// What a wait for input ended with.
enum Input {
    Readable,
    Late,
    Draining,
}

/// Serves one connection to its end.
pub fn serve(core: Rc<Core>, transport: Transport, peer: SocketAddr) -> impl Future<Output = ()> {
    let registration = core.register();
    let (inbox, unsent) = (Inbox::default(), Box::default());
    let mut connection = Connection { transport, peer, inbox, unsent, registration };
    // Used where it was captured: an `async fn` would move it and keep the room of both places.
    async move {
        connection.set_waker().await;
        if (!connection.transport.is_handshaking() || Box::pin(connection.shake_hands()).await)
            && let Some(reads) = requests(&mut connection, true).await
        {
            reader::go_on(connection, reads);
        }
    }
}

/// Serves the further requests of one.
#[expect(clippy::manual_async_fn, reason = "as for the first ones")]
pub(super) fn serve_more(mut connection: Connection) -> impl Future<Output = ()> {
    async move {
        connection.set_waker().await;
        if let Some(reads) = requests(&mut connection, false).await {
            reader::go_on(connection, reads);
        }
    }
}

/// Serves one that another core began, from a request's head on.
pub(super) fn serve_on(
    core: Rc<Core>,
    transport: Transport,
    parcel: Parcel,
) -> impl Future<Output = ()> {
    let registration = core.register();
    let Parcel { head, peer, inbox, unsent, .. } = parcel;
    let inbox = Inbox::holding(&inbox);
    let mut connection = Connection { transport, peer, inbox, unsent, registration };
    async move {
        connection.set_waker().await;
        let reads = match exchange::run(&mut connection, head).await {
            Ran::Reads(reads) => Some(reads),
            Ran::Over(After::KeepAlive) => requests(&mut connection, false).await,
            Ran::Over(After::Close) => {
                Box::pin(connection.linger()).await;
                None
            }
            Ran::Over(After::Abort) => None,
        };
        if let Some(reads) = reads {
            reader::go_on(connection, reads);
        }
    }
}

/// Serves requests, the `first` of the connection or later ones, to the connection's end, or until
/// it reads a stream that is kept: that is another task's, whose state lies together.
async fn requests(connection: &mut Connection, mut first: bool) -> Option<Box<Reads>> {
    let after = loop {
        match Box::pin(connection.next(first)).await {
            Next::Request(head) => match exchange::run(connection, head).await {
                Ran::Reads(reads) => return Some(reads),
                Ran::Over(After::KeepAlive) => first = false,
                Ran::Over(after) => break after,
            },
            Next::HandedOver => return None,
            Next::Over => {
                if !connection.transport.flush() {
                    Box::pin(connection.flush()).await;
                }
                connection.transport.close_notify();
                break After::Abort;
            }
            Next::Refuse(status, code, message) => {
                Box::pin(connection.refuse(status, code, &message)).await;
                break After::Close;
            }
        }
    };
    // Otherwise it is closed with what is left of it, now.
    if after == After::Close {
        Box::pin(connection.linger()).await;
    }
    None
}

impl Connection {
    /// The core it belongs to.
    pub fn core(&self) -> &Rc<Core> {
        &self.registration.core
    }

    /// Ready when the client may have sent something, or left.
    pub fn stirred(&self, cx: &Context<'_>) -> Poll<()> {
        self.transport.poll_readable(cx)
    }

    pub(super) async fn set_waker(&self) {
        poll_fn(|cx| {
            self.registration.set_waker(cx.waker());
            Poll::Ready(())
        })
        .await;
    }

    /// Hands the connection to the worker whose stream the request is about, if that is another.
    fn bring_home(&mut self, head: Box<RequestHead>) -> Next {
        let Some(owner) = handover::owner(self.core(), &head) else { return Next::Request(head) };
        if handover::hand_over(self, owner, head) {
            return Next::HandedOver;
        }
        let message = "the worker of this stream has no room; come back in a moment";
        Next::Refuse(503, "overloaded", message.into())
    }

    /// Makes the TLS handshake; false where it is over with the connection.
    async fn shake_hands(&mut self) -> bool {
        let deadline = clock::now() + self.core().plan.tls_handshake_timeout;
        let shaken = {
            let mut shaking = pin!(self.transport.shake_hands(&self.registration.core.turns));
            poll_fn(|cx| {
                if let Poll::Ready(shaken) = shaking.as_mut().poll(cx) {
                    return Poll::Ready(Some(shaken));
                }
                let over = self.core().stage() == Stage::Ending
                    || self.registration.poll_deadline(Some(deadline), clock::now()).is_ready();
                if over { Poll::Ready(None) } else { Poll::Pending }
            })
            .await
        };
        if let Some(Ok(true)) = shaken {
            return true;
        }
        self.core().metrics.tls_handshake_errors.inc();
        match shaken {
            Some(Ok(_)) => {
                self.transport.make_plain();
                let message = "this port speaks TLS: use https://";
                self.refuse(400, "tls_required", message).await;
                self.linger().await;
            }
            Some(Err(error)) => {
                // One that comes and goes is a probe of the port, or of no account.
                let probe = error.kind() != ErrorKind::InvalidData;
                self.tell_handshake(probe, &error.to_string());
                self.transport.shutdown();
            }
            None => {
                self.tell_handshake(true, "it was not done in time (--tls-handshake-timeout)");
                self.transport.shutdown();
            }
        }
        false
    }

    /// Logs why a client's handshake failed. There is no exchange to account for it; but anybody
    /// can fail one at any rate, so a worker warns of few.
    fn tell_handshake(&self, quietly: bool, why: &str) {
        let (core, now) = (self.core(), clock::now());
        let told = core.handshake_told.get().is_some_and(|at| now < at + HANDSHAKE_TOLD_EVERY);
        let level = if quietly || told { log::Level::Debug } else { log::Level::Warn };
        if level == log::Level::Warn {
            core.handshake_told.set(Some(now));
        }
        log::log!(level, "client {}: TLS handshake failed: {why}", self.peer);
    }

    /// Reads the next request's head.
    async fn next(&mut self, first: bool) -> Next {
        let plan = &self.core().plan;
        let (head_timeout, keep_alive) = (plan.head_timeout, plan.keep_alive_timeout);
        let mut begun: Option<Instant> = None;
        let waiting_since = clock::now();
        let mut searched = 0;
        // Nobody sends the next request before the answer is there, but for pipelining, and that
        // has been read.
        let mut look = first || self.core().stage() != Stage::Serving;
        loop {
            if !self.inbox.is_empty() {
                begun.get_or_insert_with(clock::now);
                match parse_request(self.inbox.bytes(), &mut searched) {
                    Ok(Status::Complete((head, consumed))) => {
                        self.inbox.consume(consumed);
                        return self.bring_home(Box::new(head));
                    }
                    Ok(Status::Partial) => {}
                    Err(error) => {
                        return Next::Refuse(error.status(), "bad_request", error.to_string());
                    }
                }
            }
            let filled = if look { self.inbox.fill(&self.transport) } else { Ok(Filled::Nothing) };
            look = true;
            match filled {
                Ok(Filled::More) => continue,
                Ok(Filled::Nothing) => {}
                Ok(Filled::Full) => {
                    return Next::Refuse(
                        431,
                        "bad_request",
                        "the request head is too large".into(),
                    );
                }
                Ok(Filled::Closed) | Err(_) => return Next::Over,
            }
            let idle = if first { head_timeout } else { keep_alive };
            let deadline = begun.map_or(waiting_since + idle, |at| at + head_timeout);
            self.inbox.settle();
            match self.input(deadline, begun.is_none() && !first).await {
                Input::Readable => {}
                Input::Late if begun.is_none() => return Next::Over,
                Input::Late => {
                    let message = "the request head did not arrive in time";
                    return Next::Refuse(408, "request_timeout", message.into());
                }
                Input::Draining => return Next::Over,
            }
        }
    }

    /// Waits for input; a connection that is `idle` between requests also ends at drain.
    async fn input(&mut self, deadline: Instant, idle: bool) -> Input {
        poll_fn(|cx| {
            let stage = self.core().stage();
            if self.stirred(cx).is_ready() {
                return Poll::Ready(Input::Readable);
            }
            if stage == Stage::Ending || (idle && stage == Stage::Draining) {
                return Poll::Ready(Input::Draining);
            }
            if self.registration.poll_deadline(Some(deadline), clock::now()).is_ready() {
                return Poll::Ready(Input::Late);
            }
            Poll::Pending
        })
        .await
    }

    /// Answers what never became a request.
    async fn refuse(&mut self, status: u16, code: &str, message: &str) {
        let text = ErrorText { status, code, message, request_id: "-", sequence: 0 };
        let own = Own { text, close: true, head_only: false, fields: &[] };
        let bytes = answer::encode(Dialect::Generic, &own);
        let outcome = if status == 408 { Outcome::RequestTimeout } else { Outcome::RequestRefused };
        record::refused(self.core(), self.peer, status, outcome, message);
        log::debug!("{}: refused with {status}: {message}", self.peer);
        let _ = self.send_all(&bytes).await;
    }

    /// Sends bytes of our own making.
    ///
    /// # Errors
    /// The client is gone, or takes nothing for the write timeout.
    pub async fn send_all(&mut self, bytes: &[u8]) -> Result<(), Outcome> {
        let unsent = std::mem::take(&mut self.unsent);
        self.send(&unsent).await?;
        self.send(bytes).await
    }

    async fn send(&self, mut bytes: &[u8]) -> Result<(), Outcome> {
        while !bytes.is_empty() {
            match self.transport.try_send(bytes) {
                Ok(Some(n)) => bytes = &bytes[n..],
                Ok(None) => self.writable().await?,
                Err(_) => return Err(Outcome::ClientGone),
            }
        }
        Ok(())
    }

    /// Waits until the client takes bytes, but not longer than the write timeout.
    async fn writable(&self) -> Result<(), Outcome> {
        let deadline = clock::now() + self.core().plan.write_timeout;
        poll_fn(|cx| {
            if self.transport.poll_writable(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if self.core().stage() == Stage::Ending {
                return Poll::Ready(Err(Outcome::Drained));
            }
            let late = self.registration.poll_deadline(Some(deadline), clock::now());
            late.map(|()| Err(Outcome::ClientStalled))
        })
        .await
    }

    /// Waits until what was [posted](Transport::post) is in the socket, or the client takes nothing.
    async fn flush(&self) {
        while !self.transport.flush() && self.writable().await.is_ok() {}
    }

    /// Looks at the client, whose side became readable: it left, or sends its next request early.
    /// `watching` becomes false where looking on would show nothing.
    ///
    /// # Errors
    /// It left.
    pub(super) fn look(&mut self, watching: &mut bool) -> Result<(), Failure> {
        let gone = |message| Err(Failure::downstream(Phase::Body, Outcome::ClientGone, message));
        match self.transport.peer() {
            Peer::Quiet => Ok(()),
            Peer::Closed if self.core().plan.half_close => {
                // From here on only a reset or a failing write shows that it left.
                *watching = false;
                Ok(())
            }
            Peer::Closed => gone("the client closed its connection"),
            Peer::Reset => gone("the client reset its connection"),
            Peer::Talking => match self.inbox.fill(&self.transport) {
                // A full inbox cannot be drained before this exchange is over; a client that
                // sends so much ahead is noticed leaving by its writes failing.
                Ok(Filled::Full) => {
                    *watching = false;
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(_) => gone("the client reset its connection"),
            },
        }
    }

    /// Waits for `work`, which never touches the client, while the client may leave; then `work`
    /// is dropped.
    ///
    /// # Errors
    /// The client left, or the drain's grace is over.
    pub async fn beside<F: Future>(&mut self, work: F) -> Result<F::Output, Failure> {
        let mut work = pin!(work);
        let Self { registration, transport, inbox, .. } = self;
        let core = &registration.core;
        let mut watching = true;
        poll_fn(|cx| {
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if core.stage() == Stage::Ending {
                let message = "the relay is shutting down";
                let failure = Failure::upstream(Phase::Connect, Outcome::Drained, message);
                return Poll::Ready(Err(failure));
            }
            while watching && transport.poll_readable(cx).is_ready() {
                match inbox.fill(transport) {
                    Ok(Filled::More | Filled::Nothing) => {}
                    // More than an inbox holds: it is noticed leaving when that is taken.
                    Ok(Filled::Full) => watching = false,
                    Ok(Filled::Closed) if core.plan.half_close => watching = false,
                    Ok(Filled::Closed) | Err(_) => {
                        let message = "the client left before the request was sent";
                        let gone = Outcome::ClientGone;
                        return Poll::Ready(Err(Failure::downstream(
                            Phase::Connect,
                            gone,
                            message,
                        )));
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Closes in order: tells the client that nothing more comes, and takes what it is still
    /// sending for a while, so that the kernel's reset does not overtake our answer
    /// (RFC 9112, section 9.6).
    pub(super) async fn linger(&mut self) {
        self.flush().await;
        self.transport.shutdown_write();
        self.inbox = Inbox::default();
        let deadline = clock::now() + LINGER_TIMEOUT.min(Duration::from_secs(30));
        let mut left = LINGER_BYTES_MAX;
        loop {
            match self.inbox.fill(&self.transport) {
                Ok(Filled::More) => {
                    let n = self.inbox.bytes().len();
                    self.inbox.consume(n);
                    if n >= left {
                        return;
                    }
                    left -= n;
                }
                Ok(Filled::Nothing) => match self.input(deadline, true).await {
                    Input::Readable => {}
                    Input::Late | Input::Draining => return,
                },
                Ok(Filled::Closed | Filled::Full) | Err(_) => return,
            }
        }
    }
}
