//! One TLS connection without its socket: bytes come and go through a [`Wire`], so every step can
//! be tested at every split.
//!
//! A session that waits holds no buffer: an unfinished record, payload that found no room and
//! records the socket did not take are kept in blocks of their size (`held.rs`) and given back.

use std::io::{self, ErrorKind, IoSlice};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use super::TlsError;
use super::handshake::{Handshake, Unfinished};
use super::held::Held;
use super::record::{
    PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX, Records, SEALED_EXTRA_MAX, content, record_len,
};
use crate::buf::Block;
use crate::limits::READ_BUFFER_BYTES;

/// Payload bytes one write seals: as many records as fit one block.
const WRITE_BYTES_MAX: usize = READ_BUFFER_BYTES - 4 * SEALED_EXTRA_MAX - 2 * CONTROL_BYTES_MAX;
/// Payload bytes of a server's early records: one fits one packet of Ethernet's 1500 bytes, behind
/// the heads of IPv6 and of TCP with timestamps. A record can be read only as a whole, and on a
/// connection that just began (a phone that comes back over a bad network) a large one waits for
/// packets the peer's window has no room for yet.
const EARLY_RECORD_BYTES: usize = 1500 - 40 - 20 - 12 - SEALED_EXTRA_MAX;
/// Payload bytes a server sends so: by then the window has grown, and fewer records cost less.
const EARLY_BYTES: usize = 3 * EARLY_RECORDS_MAX * EARLY_RECORD_BYTES;
/// Early records that one write seals.
const EARLY_RECORDS_MAX: usize = 16;
/// Records without payload (tickets, key updates, empty ones) that may come one behind the other.
/// rustls allows 32 of each kind; a peer that sends more is keeping the core busy for nothing.
const IDLE_RECORDS_MAX: u8 = 64;
/// Bytes of one message behind the handshake, which may span records: a ticket is at most 64 KiB,
/// and real ones have less than 1 KiB.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Bytes one read of a handshake has room for.
const SHAKE_READ_BYTES: usize = 2048;
/// Room for an alert or a key update, sealed.
const CONTROL_BYTES_MAX: usize = 64;

/// What carries the records: a socket, or a test.
pub trait Wire {
    /// Receives what is there, never waiting; see `Transport::try_recv`.
    ///
    /// # Errors
    /// The connection was reset or has failed.
    fn recv(&self, room: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends what there is room for, never waiting; see `Transport::try_send`.
    ///
    /// # Errors
    /// The peer is gone or the connection has failed.
    fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>>;
}

/// How far the handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shaken {
    /// Payload may flow.
    Done,
    /// The peer must say more.
    WantsRead,
    /// The socket must take more.
    WantsWrite,
    /// The peer does not speak TLS but something that begins like an HTTP request.
    PlainText,
}

enum Stage {
    Handshake(Box<Handshake>),
    Open(Box<Records>),
    Failed,
}

/// See the module's description.
pub struct Session<B = Held> {
    stage: Stage,
    /// Received and not opened yet.
    held: B,
    /// Opened and not read yet.
    payload: B,
    /// A message behind the handshake that is not whole yet.
    message: B,
    /// Sealed and not sent yet.
    out: B,
    /// Payload bytes that are sealed but were not reported as sent.
    owed: usize,
    /// Payload bytes that are still to be sent in early records.
    early: u32,
    /// What is held may contain a whole record.
    more: bool,
    /// The peer asked for our next key.
    update_due: bool,
    /// The peer has said goodbye.
    closed: bool,
    /// We have.
    said_goodbye: bool,
    resumed: bool,
    /// This side began.
    client: bool,
    idle_records: u8,
    fault: Option<Box<Fault>>,
}

/// A session on its way to another core: blocks are a core's own, so it has none.
pub type Packed = Session<Vec<u8>>;

impl<B> Session<B> {
    /// The same with its bytes held in another way.
    fn rehold<C>(self, hold: impl Fn(B) -> C) -> Session<C> {
        Session {
            stage: self.stage,
            held: hold(self.held),
            payload: hold(self.payload),
            message: hold(self.message),
            out: hold(self.out),
            owed: self.owed,
            early: self.early,
            more: self.more,
            update_due: self.update_due,
            closed: self.closed,
            said_goodbye: self.said_goodbye,
            resumed: self.resumed,
            client: self.client,
            idle_records: self.idle_records,
            fault: self.fault,
        }
    }
}

impl Session {
    /// Takes it off this core.
    pub fn pack(self) -> Packed {
        self.rehold(|held| held.bytes().to_vec())
    }
}

impl Packed {
    /// Puts it on this core.
    pub fn unpack(self) -> Session {
        self.rehold(|bytes| {
            let mut held = Held::default();
            held.append(&bytes);
            held
        })
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// Why nothing more can be read.
#[derive(Clone, Debug)]
enum Fault {
    /// TLS itself.
    Tls(TlsError),
    /// The connection ended without the peer's close_notify.
    Truncated,
}

impl Fault {
    fn to_io(&self) -> io::Error {
        match self {
            Self::Tls(error) => io::Error::new(ErrorKind::InvalidData, error.clone()),
            Self::Truncated => io::Error::new(
                ErrorKind::UnexpectedEof,
                "the connection ended without TLS's close_notify",
            ),
        }
    }
}

impl Session {
    /// A client's side, before its first byte.
    pub fn client(connection: UnbufferedClientConnection) -> Self {
        Self { client: true, early: 0, ..Self::new(Unfinished::Client(connection)) }
    }

    /// A server's side, before its first byte.
    pub fn server(connection: UnbufferedServerConnection) -> Self {
        Self::new(Unfinished::Server(connection))
    }

    fn new(connection: Unfinished) -> Self {
        Self {
            stage: Stage::Handshake(Handshake::new(connection)),
            held: Held::default(),
            payload: Held::default(),
            message: Held::default(),
            out: Held::default(),
            owed: 0,
            early: EARLY_BYTES as u32,
            more: false,
            update_due: false,
            closed: false,
            said_goodbye: false,
            resumed: false,
            client: false,
            idle_records: 0,
            fault: None,
        }
    }

    /// The handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Handshake(_))
    }

    /// This side began the connection.
    pub fn is_client(&self) -> bool {
        self.client
    }

    /// The connection goes on where an earlier one was.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// TLS 1.3 (and not 1.2).
    pub fn is_modern(&self) -> bool {
        matches!(&self.stage, Stage::Open(records) if records.is_modern())
    }

    /// A read would bring something without the socket: readiness of the socket is not to be
    /// waited for.
    pub fn has_buffered(&self) -> bool {
        self.more || self.closed || !self.payload.is_empty() || self.fault.is_some()
    }

    /// What was received and not understood: the beginning of a peer's plain text.
    pub fn take_received(&mut self) -> Vec<u8> {
        let bytes = self.held.bytes().to_vec();
        self.held = Held::default();
        bytes
    }

    /// Goes on with the handshake as far as the wire allows.
    ///
    /// # Errors
    /// It failed; the peer was told why.
    pub fn shake_hands(&mut self, wire: &impl Wire) -> io::Result<Shaken> {
        loop {
            if !self.flush(wire)? {
                return Ok(Shaken::WantsWrite);
            }
            let Stage::Handshake(handshake) = &mut self.stage else {
                return Ok(Shaken::Done);
            };
            let first = self.held.bytes().first();
            if handshake.is_server() && first.is_some_and(u8::is_ascii_alphabetic) {
                return Ok(Shaken::PlainText);
            }
            match handshake.advance(&mut self.held, &mut self.out) {
                Ok(true) => {
                    self.open_records()?;
                    continue;
                }
                Ok(false) if !self.out.is_empty() => continue,
                Ok(false) => {}
                Err(error) => {
                    let _ = self.flush(wire);
                    return Err(self.fail(error));
                }
            }
            let room = self.held.room(SHAKE_READ_BYTES);
            if room.is_empty() {
                return Err(self.fail(InvalidMessage::HandshakePayloadTooLarge.into()));
            }
            match wire.recv(room)? {
                None => {
                    self.held.grew(0);
                    return Ok(Shaken::WantsRead);
                }
                Some(0) => return Err(self.broke_off()),
                Some(n) => self.held.grew(n),
            }
        }
    }

    fn broke_off(&mut self) -> io::Error {
        self.stage = Stage::Failed;
        self.fault = Some(Box::new(Fault::Truncated));
        Fault::Truncated.to_io()
    }

    /// The handshake is over: the record layer takes its place.
    fn open_records(&mut self) -> io::Result<()> {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        let Stage::Handshake(handshake) = stage else { return Ok(()) };
        match handshake.finish() {
            Ok(finished) => {
                self.stage = Stage::Open(Box::new(finished.records));
                self.resumed = finished.resumed;
                self.more = !self.held.is_empty();
                self.held.shrink();
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn fail(&mut self, error: Error) -> io::Error {
        self.stage = Stage::Failed;
        let fault = Fault::Tls(TlsError::new(error, self.client));
        let told = fault.to_io();
        self.fault = Some(Box::new(fault));
        told
    }

    /// Receives payload into `room`, never waiting. `Ok(None)`: nothing there yet; `Ok(Some(0))`:
    /// the peer has said goodbye.
    ///
    /// # Errors
    /// The connection failed, or ended without a goodbye (`UnexpectedEof`).
    pub fn read(&mut self, wire: &impl Wire, room: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.payload.is_empty() {
            return Ok(Some(self.payload.move_to(room)));
        }
        let made = self.pull(wire, room)?;
        match made {
            0 if !self.payload.is_empty() => Ok(Some(self.payload.move_to(room))),
            0 if self.closed => Ok(Some(0)),
            0 => match &self.fault {
                Some(fault) => Err(fault.to_io()),
                None => Ok(None),
            },
            made => Ok(Some(made)),
        }
    }

    /// Looks for payload or an end without taking any: true where a read would bring something.
    ///
    /// # Errors
    /// The connection failed.
    pub fn peek(&mut self, wire: &impl Wire) -> io::Result<bool> {
        if !self.has_buffered() || (self.more && self.payload.is_empty()) {
            self.pull(wire, &mut [])?;
        }
        Ok(self.has_buffered())
    }

    /// The peer has said goodbye and all it said before was read.
    pub fn is_over(&self) -> bool {
        self.closed && self.payload.is_empty()
    }

    /// The connection ended without the peer's goodbye, and all it said was read.
    pub fn is_truncated(&self) -> bool {
        self.payload.is_empty() && matches!(self.fault.as_deref(), Some(Fault::Truncated))
    }

    /// Nothing more comes, because TLS failed.
    pub fn has_failed(&self) -> bool {
        self.fault.is_some() && self.payload.is_empty()
    }

    /// Receives and opens records until there is payload, an end, or nothing more to receive.
    fn pull(&mut self, wire: &impl Wire, room: &mut [u8]) -> io::Result<usize> {
        if self.closed || self.fault.is_some() {
            return Ok(0);
        }
        let mut block = Block::for_reading();
        let mut len = self.held.move_to(block.bytes_mut());
        let mut ready = std::mem::take(&mut self.more);
        loop {
            let mut drained = false;
            if !ready {
                let end = (len + self.wanted(&block.bytes()[..len], room.len())).min(block.size());
                match wire.recv(&mut block.bytes_mut()[len..end]) {
                    Ok(Some(0)) => {
                        self.fault = Some(Box::new(Fault::Truncated));
                        return Ok(0);
                    }
                    Ok(Some(n)) => {
                        len += n;
                        drained = len < end;
                    }
                    Ok(None) => {
                        self.held.keep(block, 0, len);
                        return Ok(0);
                    }
                    Err(error) => {
                        self.held.keep(block, 0, len);
                        return Err(error);
                    }
                }
            }
            ready = false;
            let (used, made) = match self.open_all(&block.bytes()[..len], room) {
                Ok(opened) => opened,
                Err((made, error)) => {
                    self.tell(wire, &error);
                    let _ = self.fail(error);
                    return Ok(made);
                }
            };
            if !self.out.is_empty() {
                let _ = self.flush(wire);
            }
            if made > 0 || self.closed || !self.payload.is_empty() || drained {
                self.held.keep(block, used, len);
                return Ok(made);
            }
            block.bytes_mut().copy_within(used..len, 0);
            len -= used;
        }
    }

    /// Bytes worth receiving behind `held` ones: as much as `room` has room for, and at least the
    /// rest of the record begun.
    fn wanted(&self, held: &[u8], room: usize) -> usize {
        let rest = record_rest(held);
        if held.len() < 5 && room >= 1024 { room } else { room.max(rest) }
    }

    /// Opens the whole records of `wire` into `room`. Returns the bytes used and the bytes made.
    fn open_all(&mut self, wire: &[u8], room: &mut [u8]) -> Result<(usize, usize), (usize, Error)> {
        let (mut used, mut made) = (0, 0);
        while !self.closed {
            let rest = &wire[used..];
            let Some(len) = record_len(rest).map_err(|error| (made, error))? else { break };
            let (Some(record), Stage::Open(records)) = (rest.get(..len), &mut self.stage) else {
                break;
            };
            let needed = records.opened_len(len);
            let fits = room.len() - made >= needed;
            // What stands aside comes before anything behind it.
            if (!fits && made > 0) || !self.payload.is_empty() {
                self.more = true;
                break;
            }
            let mut aside = if fits { None } else { Some(Block::with_room(needed)) };
            let target = match &mut aside {
                Some(block) => block.bytes_mut(),
                None => &mut room[made..],
            };
            let (typ, n) = records.open(record, target).map_err(|error| (made, error))?;
            used += len;
            if typ == content::DATA && n > 0 {
                self.idle_records = 0;
                if !self.message.is_empty() {
                    return Err((made, interleaved()));
                }
                match aside {
                    None => made += n,
                    Some(block) => self.payload.set(block, 0, n),
                }
                continue;
            }
            self.idle_records += 1;
            if self.idle_records > IDLE_RECORDS_MAX {
                return Err((made, PeerMisbehaved::TooManyEmptyFragments.into()));
            }
            if typ != content::DATA {
                let text = target[..n].to_vec();
                self.control(typ, &text).map_err(|error| (made, error))?;
            }
        }
        Ok((used, made))
    }

    /// Deals with a record that is no payload.
    fn control(&mut self, typ: u8, text: &[u8]) -> Result<(), Error> {
        match typ {
            _ if typ != content::HANDSHAKE && !self.message.is_empty() => Err(interleaved()),
            content::ALERT => self.alerted(text),
            content::HANDSHAKE => {
                if self.message.len() + text.len() > MESSAGE_BYTES_MAX {
                    return Err(InvalidMessage::HandshakePayloadTooLarge.into());
                }
                self.message.append(text);
                self.messages()
            }
            _ => Err(InvalidMessage::InvalidContentType.into()),
        }
    }

    fn alerted(&mut self, text: &[u8]) -> Result<(), Error> {
        let &[level, description] = text else {
            return Err(InvalidMessage::MessageTooShort.into());
        };
        match (level, description) {
            (_, alert::CLOSE_NOTIFY) => {
                self.closed = true;
                Ok(())
            }
            (_, alert::USER_CANCELED) => Ok(()),
            (alert::WARNING, _) if !self.is_modern() => Ok(()),
            _ => Err(Error::AlertReceived(AlertDescription::from(description))),
        }
    }

    /// Takes the whole messages that came behind the handshake.
    fn messages(&mut self) -> Result<(), Error> {
        loop {
            let &[typ, a, b, c, ref rest @ ..] = self.message.bytes() else { return Ok(()) };
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if len > MESSAGE_BYTES_MAX {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let Some(body) = rest.get(..len) else { return Ok(()) };
            let body = body.to_vec();
            self.message.consume(4 + len);
            let Stage::Open(records) = &mut self.stage else { return Ok(()) };
            match (typ, records.is_modern()) {
                (message::TICKET, true) if records.is_client() => records.keep_ticket(&body)?,
                (message::KEY_UPDATE, true) => self.key_update(&body)?,
                // Renegotiation is never done. A server's wish is passed over (RFC 5246, section
                // 7.4.1.1): told, OpenSSL would end the connection. A client is told.
                (message::HELLO_REQUEST, false) if records.is_client() => {}
                (message::CLIENT_HELLO, false) if !records.is_client() => {
                    self.put(content::ALERT, &[alert::WARNING, alert::NO_RENEGOTIATION])?;
                }
                _ => return Err(InvalidMessage::UnexpectedMessage("after the handshake").into()),
            }
        }
    }

    /// The peer uses its next key from here on (RFC 8446, section 4.6.3).
    fn key_update(&mut self, body: &[u8]) -> Result<(), Error> {
        // Nothing may follow in the record: it would be sealed with the old key.
        let (&[request], true) = (body, self.message.is_empty()) else {
            return Err(InvalidMessage::InvalidKeyUpdate.into());
        };
        if request > 1 {
            return Err(InvalidMessage::InvalidKeyUpdate.into());
        }
        if let Stage::Open(records) = &mut self.stage {
            records.update_rx()?;
        }
        // Behind what is sealed already there may be no room; one answer does for many requests.
        self.update_due |= request == 1;
        if self.update_due && self.out.is_empty() { self.update_key() } else { Ok(()) }
    }

    /// Tells the peer that our next key follows, and takes it.
    fn update_key(&mut self) -> Result<(), Error> {
        self.put(content::HANDSHAKE, &[message::KEY_UPDATE, 0, 0, 1, 0])?;
        self.update_due = false;
        if let Stage::Open(records) = &mut self.stage {
            records.update_tx()?;
        }
        Ok(())
    }

    /// Queues a short record, where there is room for it: a peer that does not read misses what it
    /// would be told.
    fn put(&mut self, typ: u8, text: &[u8]) -> Result<(), Error> {
        let fits = self.out.len() + CONTROL_BYTES_MAX <= READ_BUFFER_BYTES;
        if let Stage::Open(records) = &mut self.stage
            && fits
        {
            let n = records.seal(typ, text, self.out.room(CONTROL_BYTES_MAX))?;
            self.out.grew(n);
        }
        Ok(())
    }

    /// Tells the peer why the connection ends.
    fn tell(&mut self, wire: &impl Wire, error: &Error) {
        let description = match error {
            Error::AlertReceived(_) => return,
            Error::DecryptError => alert::BAD_RECORD_MAC,
            Error::InvalidMessage(InvalidMessage::MessageTooLarge) => alert::RECORD_OVERFLOW,
            Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => alert::ILLEGAL_PARAMETER,
            Error::InvalidMessage(InvalidMessage::MessageTooShort) => alert::DECODE_ERROR,
            _ => alert::UNEXPECTED_MESSAGE,
        };
        self.said_goodbye = true;
        if self.put(content::ALERT, &[alert::FATAL, description]).is_ok() {
            let _ = self.flush(wire);
        }
    }

    /// Sends payload, never waiting; returns how many bytes count as sent. `Ok(None)`: no room.
    ///
    /// What the wire does not take at once is kept, sealed. As long as there is any, the last
    /// byte sealed is not counted as sent: the caller comes with it again once there is room, as
    /// it would with bytes a socket refused, and that is what completes the sending.
    ///
    /// # Errors
    /// The peer is gone or the connection has failed.
    pub fn write(&mut self, wire: &impl Wire, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        if !self.flush(wire)? {
            return Ok(None);
        }
        if self.said_goodbye || !matches!(self.stage, Stage::Open(_)) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let owed = std::mem::take(&mut self.owed).min(total);
        if owed == total {
            return Ok(Some(total));
        }
        let sealed = self.seal(slices, owed).map_err(|error| self.fail(error))?;
        if self.flush(wire)? {
            return Ok(Some(owed + sealed));
        }
        self.owed = 1;
        let counted = owed + sealed - 1;
        Ok((counted > 0).then_some(counted))
    }

    /// Payload bytes of the next records, and of all that one write seals.
    fn sizes(&self) -> (usize, usize) {
        match self.early {
            0 => (PAYLOAD_BYTES_MAX, WRITE_BYTES_MAX),
            _ => (EARLY_RECORD_BYTES, EARLY_RECORDS_MAX * EARLY_RECORD_BYTES),
        }
    }

    /// Seals what `slices` have behind the first `skip` bytes, as far as one block goes.
    fn seal(&mut self, slices: &[IoSlice<'_>], mut skip: usize) -> Result<usize, Error> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let (record, most) = self.sizes();
        let taken = (total - skip).min(most);
        self.early = self.early.saturating_sub(taken as u32);
        let mut left = taken;
        let mut rest = slices;
        if let Stage::Open(records) = &self.stage
            && (records.is_worn() || self.update_due)
        {
            if !records.is_modern() {
                return Err(Error::EncryptError);
            }
            self.update_key()?;
        }
        let before = self.out.len();
        let mut block =
            Block::with_room(before + taken + taken.div_ceil(record) * SEALED_EXTRA_MAX);
        block.bytes_mut()[..before].copy_from_slice(self.out.bytes());
        let mut at = before;
        let Stage::Open(records) = &mut self.stage else { return Err(Error::EncryptError) };
        while left > 0 {
            let n = left.min(record);
            let out = &mut block.bytes_mut()[at..];
            while let [first, others @ ..] = rest
                && skip >= first.len()
            {
                skip -= first.len();
                rest = others;
            }
            let whole = rest.first().and_then(|first| first.get(skip..skip + n));
            if let Some(whole) = whole {
                at += records.seal(content::DATA, whole, out)?;
                skip += n;
            } else {
                let mut placed = records.prefix();
                let end = placed + n;
                while placed < end
                    && let [first, others @ ..] = rest
                {
                    let part = &first[skip..first.len().min(skip + end - placed)];
                    out[placed..placed + part.len()].copy_from_slice(part);
                    placed += part.len();
                    skip += part.len();
                    if skip == first.len() {
                        (rest, skip) = (others, 0);
                    }
                }
                at += records.seal_placed(content::DATA, n, out)?;
            }
            left -= n;
        }
        self.out.set(block, 0, at);
        Ok(taken)
    }

    /// Sends what is sealed; true when nothing is left.
    ///
    /// # Errors
    /// The peer is gone or the connection has failed.
    pub fn flush(&mut self, wire: &impl Wire) -> io::Result<bool> {
        while !self.out.is_empty() {
            match wire.send(self.out.bytes())? {
                Some(n) => self.out.consume(n),
                None => {
                    self.out.shrink();
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Says goodbye, as far as the wire takes it at once.
    pub fn close(&mut self, wire: &impl Wire) {
        if self.said_goodbye {
            return;
        }
        self.said_goodbye = true;
        if self.put(content::ALERT, &[alert::WARNING, alert::CLOSE_NOTIFY]).is_ok() {
            let _ = self.flush(wire);
        }
    }

    /// Takes the next key for sending (for tests: a connection does it when its key is worn).
    ///
    /// # Errors
    /// Not in TLS 1.3, or the connection has failed.
    pub fn refresh_key(&mut self) -> Result<(), Error> {
        self.update_key()
    }
}

/// Alert levels and descriptions (RFC 8446, section 6).
mod alert {
    pub(super) const WARNING: u8 = 1;
    pub(super) const FATAL: u8 = 2;
    pub(super) const CLOSE_NOTIFY: u8 = 0;
    pub(super) const UNEXPECTED_MESSAGE: u8 = 10;
    pub(super) const BAD_RECORD_MAC: u8 = 20;
    pub(super) const RECORD_OVERFLOW: u8 = 22;
    pub(super) const ILLEGAL_PARAMETER: u8 = 47;
    pub(super) const DECODE_ERROR: u8 = 50;
    pub(super) const USER_CANCELED: u8 = 90;
    pub(super) const NO_RENEGOTIATION: u8 = 100;
}

/// Messages that may come behind a handshake.
mod message {
    pub(super) const HELLO_REQUEST: u8 = 0;
    pub(super) const CLIENT_HELLO: u8 = 1;
    pub(super) const TICKET: u8 = 4;
    pub(super) const KEY_UPDATE: u8 = 24;
}

fn interleaved() -> Error {
    PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into()
}

/// Bytes that are missing of the record `held` begins with.
fn record_rest(held: &[u8]) -> usize {
    match record_len(held) {
        Ok(Some(len)) => len.saturating_sub(held.len()),
        _ => RECORD_BYTES_MAX - held.len().min(RECORD_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests;
