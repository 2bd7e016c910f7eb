//! The handshake, by rustls's unbuffered connections.
//!
//! rustls is given whole records and never one behind the record that completes the handshake:
//! what follows belongs to the record layer that takes over (`record.rs`).

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{Error, HandshakeKind};

use super::held::Held;
use super::record::{self, Kernel, Records};

/// Either side's connection while it is made.
pub(super) enum Unfinished {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A handshake under way.
pub(super) struct Handshake {
    connection: Unfinished,
    /// Bytes of the held ones that rustls may look at: whole records.
    window: usize,
}

/// What a handshake has led to.
pub(super) struct Finished {
    pub(super) records: Records,
    /// The keys come from an earlier connection.
    pub(super) resumed: bool,
}

/// How one look at the connection's state ended.
enum Step {
    /// Something was done; look again.
    Again,
    /// Another record is needed.
    Blocked,
    /// Payload may flow.
    Traffic,
    /// The peer said goodbye.
    Closed,
}

impl Handshake {
    pub(super) fn new(connection: Unfinished) -> Box<Self> {
        Box::new(Self { connection, window: 0 })
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.connection, Unfinished::Server(_))
    }

    /// Works through the records in `held`; what is to be sent goes to `out`. True when done:
    /// then what is left in `held` lies behind the handshake.
    ///
    /// # Errors
    /// Why there will be no connection; the alert that tells the peer is in `out`.
    pub(super) fn advance(&mut self, held: &mut Held, out: &mut Held) -> Result<bool, Error> {
        loop {
            let step = match self.look(held, out) {
                Ok(step) => step,
                Err(error) => {
                    // Where rustls fails it has an alert to send.
                    while self.wants_write() && matches!(self.look(held, out), Ok(Step::Again)) {}
                    return Err(error);
                }
            };
            match step {
                Step::Again => {}
                Step::Traffic if !self.is_handshaking() => return Ok(true),
                Step::Closed => {
                    let message = "the peer closed the connection during the handshake";
                    return Err(Error::General(message.into()));
                }
                Step::Blocked | Step::Traffic => {
                    match record::record_len(&held.bytes()[self.window..])? {
                        Some(len) if held.len() - self.window >= len => self.window += len,
                        _ => return Ok(false),
                    }
                }
            }
        }
    }

    fn wants_write(&self) -> bool {
        match &self.connection {
            Unfinished::Client(client) => client.wants_write(),
            Unfinished::Server(server) => server.wants_write(),
        }
    }

    fn is_handshaking(&self) -> bool {
        match &self.connection {
            Unfinished::Client(client) => client.is_handshaking(),
            Unfinished::Server(server) => server.is_handshaking(),
        }
    }

    /// Has rustls look at the records in its window once.
    fn look(&mut self, held: &mut Held, out: &mut Held) -> Result<Step, Error> {
        let incoming = &mut held.bytes_mut()[..self.window];
        let (discard, step) = match &mut self.connection {
            Unfinished::Client(client) => obey(client.process_tls_records(incoming), out),
            Unfinished::Server(server) => obey(server.process_tls_records(incoming), out),
        };
        held.consume(discard);
        self.window -= discard;
        step
    }

    /// Turns the finished handshake into the record layer.
    ///
    /// # Errors
    /// rustls does not part with the keys.
    pub(super) fn finish(self) -> Result<Finished, Error> {
        let (kind, secrets, kernel) = match self.connection {
            Unfinished::Client(client) => {
                let kind = client.handshake_kind();
                let (secrets, kernel) = client.dangerous_into_kernel_connection()?;
                (kind, secrets, Kernel::Client(kernel))
            }
            Unfinished::Server(server) => {
                let kind = server.handshake_kind();
                let (secrets, kernel) = server.dangerous_into_kernel_connection()?;
                (kind, secrets, Kernel::Server(kernel))
            }
        };
        let resumed = kind == Some(HandshakeKind::Resumed);
        Ok(Finished { records: Records::new(secrets, kernel)?, resumed })
    }
}

/// Does what rustls's state asks for; says how many bytes it is done with.
fn obey<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Held,
) -> (usize, Result<Step, Error>) {
    let step = status.state.and_then(|state| match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let wanted = match data.encode(&mut []) {
                Ok(_) => 0,
                Err(EncodeError::InsufficientSize(size)) => size.required_size,
                Err(EncodeError::AlreadyEncoded) => return Ok(Step::Again),
            };
            if let Ok(n) = data.encode(out.room(wanted)) {
                out.grew(n);
                return Ok(Step::Again);
            }
            Err(Error::General("a handshake message is larger than the relay sends".into()))
        }
        // It stands in `out`, which is sent before anything else.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Step::Blocked),
        ConnectionState::WriteTraffic(_) => Ok(Step::Traffic),
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Step::Closed),
        // No payload may come before the handshake's end: early data is never offered.
        _ => Err(Error::General("payload during the handshake".into())),
    });
    (status.discard, step)
}
