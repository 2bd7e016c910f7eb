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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::tls::Pki;

    fn pair(
        client: Option<&Arc<ClientConfig>>,
        server: Option<&Arc<ServerConfig>>,
    ) -> (Transport, Transport) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (two, _) = listener.accept().expect("accepts");
        for socket in [&one, &two] {
            socket.set_nonblocking(true).expect("a flag");
        }
        let ends = (Transport::client(one, client), Transport::server(two, server));
        (ends.0.expect("begins"), ends.1.expect("begins"))
    }

    /// Sends `bytes` from one to the other, which receives at most `most` at a time.
    fn carry(
        from: &mut Transport,
        to: &mut Transport,
        bytes: &[u8],
        most: usize,
    ) -> io::Result<Vec<u8>> {
        let (mut sent, mut got, mut input) = (0, Vec::new(), vec![0; 64 << 10]);
        while got.len() < bytes.len() {
            if sent < bytes.len() {
                sent += from.write(&bytes[sent..]).or_else(none)?;
            }
            from.flush()?;
            let count = to.read(&mut input, most).or_else(none)?;
            got.extend_from_slice(&input[..count]);
            from.read(&mut input, usize::MAX).or_else(none)?; // the handshake goes both ways
        }
        Ok(got)
    }

    fn none(error: io::Error) -> io::Result<usize> {
        if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
    }

    #[test]
    fn bytes_come_through_whole_with_tls_and_without() {
        let pki = Pki::new().expect("made");
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        for secured in [false, true] {
            let client = secured.then(|| pki.client(true));
            let (mut one, mut two) = pair(client, secured.then_some(&pki.server));
            assert!(one.is_secured() == secured && one.handshake().is_none());
            assert!(carry(&mut one, &mut two, &bytes[..500], 1).expect("carried") == bytes[..500]);
            assert!(carry(&mut two, &mut one, &bytes, usize::MAX).expect("carried") == bytes);
            assert!(carry(&mut one, &mut two, &bytes, 20_000).expect("carried") == bytes);
            assert_eq!(one.handshake().is_some(), secured);
            assert!(!one.is_blocked() && !two.is_blocked());
            one.close();
            drop(one);
            let mut input = vec![0; 64 << 10];
            let end = loop {
                match two.read(&mut input, usize::MAX) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    end => break end,
                }
            };
            assert_eq!(end.expect("an orderly end"), 0);
        }
    }

    #[test]
    fn another_certificate_is_refused() {
        let (pki, other) = (Pki::new().expect("made"), Pki::new().expect("made"));
        let (mut one, mut two) = pair(Some(other.client(false)), Some(&pki.server));
        let refused = carry(&mut one, &mut two, b"hello", usize::MAX);
        assert_eq!(refused.expect_err("refused").kind(), io::ErrorKind::InvalidData);
    }
}
