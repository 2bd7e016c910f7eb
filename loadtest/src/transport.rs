//! A non-blocking socket of the load's, with TLS on it or without.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Connection, HandshakeKind, ServerConfig};
use rustls::{ClientConnection, ServerConnection};

use crate::tls::NAME;

/// Room in a caller's buffer for what an earlier read left of a record.
const RECORD: usize = 18 << 10;

thread_local! {
    /// Records as they come: one receive for many of them.
    static RECEIVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection's bytes.
#[derive(Debug)]
pub struct Transport {
    socket: TcpStream,
    session: Option<Box<Connection>>,
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Transport {
    /// The client's end of `socket`, with TLS where there is a `tls`.
    pub fn client(socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let session = |config: &Arc<ClientConfig>| {
            let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
            ClientConnection::new(Arc::clone(config), name).map_err(broken)
        };
        Self::new(socket, tls.map(session).transpose()?.map(Connection::Client))
    }

    /// The server's end of `socket`, with TLS where there is a `tls`.
    pub fn server(socket: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        let session =
            |config: &Arc<ServerConfig>| ServerConnection::new(Arc::clone(config)).map_err(broken);
        Self::new(socket, tls.map(session).transpose()?.map(Connection::Server))
    }

    fn new(socket: TcpStream, session: Option<Connection>) -> io::Result<Self> {
        let session = session.map(|mut session| {
            // Callers stop while records wait; a limit would cut their bytes instead.
            session.set_buffer_limit(None);
            Box::new(session)
        });
        Ok(Self { socket, session })
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether there is TLS on it.
    pub fn is_secured(&self) -> bool {
        self.session.is_some()
    }

    /// How the handshake ended, once it has.
    pub fn handshake(&self) -> Option<HandshakeKind> {
        let session = self.session.as_ref().filter(|session| !session.is_handshaking())?;
        session.handshake_kind()
    }

    /// Whether records wait for room in the socket.
    pub fn is_blocked(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_write())
    }

    /// Receives at most `most` bytes from the socket; returns how many bytes of payload that gave.
    ///
    /// # Errors
    /// `WouldBlock` if it gave none, `InvalidData` where TLS fails.
    pub fn read(&mut self, input: &mut [u8], most: usize) -> io::Result<usize> {
        let Some(session) = self.session.as_mut() else {
            let most = most.min(input.len());
            return self.socket.read(&mut input[..most]);
        };
        let (socket, most) = (&mut self.socket, most.min(input.len() - RECORD));
        let taken = RECEIVED.with_borrow_mut(|received| {
            received.resize(received.len().max(most), 0);
            let count = socket.read(&mut received[..most])?;
            open(session, &received[..count], input)
        });
        self.flush()?;
        taken
    }

    /// Sends `bytes` or the first of them; with TLS all are taken, and wait as records.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.session.as_mut() {
            None => self.socket.write(bytes),
            Some(session) => {
                session.writer().write_all(bytes)?;
                self.flush().map(|()| bytes.len())
            }
        }
    }

    /// Sends records that wait, as far as the socket takes them.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(session) = self.session.as_mut() else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be sent, as TLS has it.
    pub fn close(&mut self) {
        if let Some(session) = self.session.as_mut() {
            session.send_close_notify();
            let _ = self.flush();
        }
    }
}

/// Opens the records of `received` into `input`.
fn open(session: &mut Connection, mut received: &[u8], input: &mut [u8]) -> io::Result<usize> {
    let (mut filled, mut closed) = (0, received.is_empty());
    while !received.is_empty() {
        session.read_tls(&mut received)?;
        session.process_new_packets().map_err(broken)?;
        loop {
            match session.reader().read(&mut input[filled..]) {
                Ok(0) => {
                    closed = true;
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if closed {
            break; // close_notify; nothing behind it counts
        }
    }
    if filled == 0 && !closed { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(filled) }
}
