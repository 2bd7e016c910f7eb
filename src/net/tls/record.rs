//! The record layer of an established connection (RFC 8446, section 5; RFC 5246, section 6.2).
//!
//! rustls makes the connection: handshake, certificates, keys. From then on its own record layer
//! would copy each record twice and take memory for each; here a record is decrypted by one pass
//! from where it was received to where frames are scanned, and payload is encrypted by one pass
//! from where it lies to where it is sent from. rustls remains the owner of the key schedule: it
//! answers key updates and stores session tickets.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    ConnectionTrafficSecrets, Error, ExtractedSecrets, InvalidMessage, ProtocolVersion,
    SupportedCipherSuite,
};

/// Bytes of a record's header: type, version, length.
pub(super) const HEADER_BYTES: usize = 5;
/// Payload bytes of one record.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes a record may be longer than its payload, as TLS 1.2 has it (1.3 allows 256).
const EXPANSION_BYTES_MAX: usize = 2048;
/// Bytes of one record on the wire.
pub(super) const RECORD_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX + EXPANSION_BYTES_MAX;
/// Bytes a sealed record of ours is longer than its payload, at most.
pub(super) const SEALED_EXTRA_MAX: usize = HEADER_BYTES + EXPLICIT_NONCE_BYTES + TAG_BYTES + 1;
const TAG_BYTES: usize = 16;
/// The part of a TLS 1.2 GCM nonce that each record carries (RFC 5288, section 3).
const EXPLICIT_NONCE_BYTES: usize = 8;

/// Content types.
pub(super) mod content {
    pub(in super::super) const ALERT: u8 = 21;
    pub(in super::super) const HANDSHAKE: u8 = 22;
    pub(in super::super) const DATA: u8 = 23;
}

/// The length of the record that `bytes` begin with, header included; `None` while the header is
/// not whole.
///
/// # Errors
/// This is no TLS record.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    if bytes.first().is_some_and(|typ| !(20..=23).contains(typ)) {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    let &[_, major, _, high, low, ..] = bytes else { return Ok(None) };
    if major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let len = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if len > RECORD_BYTES_MAX {
        return Err(InvalidMessage::MessageTooLarge.into());
    }
    Ok(Some(len))
}

/// rustls's part of an established connection.
pub(super) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    fn update_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn update_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// One direction's keys.
struct Half {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    sequence: u64,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv)
            }
            _ => return Err(Error::General("a cipher this relay does not know".into())),
        };
        let unfit = || Error::General("a key of the wrong length".into());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unfit())?;
        let iv = iv.as_ref().try_into().map_err(|_| unfit())?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The initialisation vector with the sequence number in its last eight bytes.
    fn mixed(&self) -> [u8; aead::NONCE_LEN] {
        let mut mixed = self.iv;
        for (byte, part) in mixed[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= part;
        }
        mixed
    }
}

/// Additional data: what is authenticated beside the payload.
struct Additional {
    bytes: [u8; 13],
    len: usize,
}

impl Additional {
    fn as_aad(&self) -> Aad<&[u8]> {
        Aad::from(&self.bytes[..self.len])
    }
}

/// Both directions of an established connection.
pub(super) struct Records {
    tx: Half,
    rx: Half,
    kernel: Kernel,
    modern: bool,
    /// Records carry half of their nonce (TLS 1.2 with AES-GCM).
    explicit: bool,
    /// Records one key may seal.
    sealed_max: u64,
}

impl Records {
    pub(super) fn new(secrets: ExtractedSecrets, kernel: Kernel) -> Result<Self, Error> {
        let (version, suite) = match &kernel {
            Kernel::Client(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
            Kernel::Server(kernel) => (kernel.protocol_version(), kernel.negotiated_cipher_suite()),
        };
        let modern = version == ProtocolVersion::TLSv1_3;
        let gcm = !matches!(secrets.tx.1, ConnectionTrafficSecrets::Chacha20Poly1305 { .. });
        let sealed_max = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        };
        Ok(Self {
            tx: Half::new(secrets.tx)?,
            rx: Half::new(secrets.rx)?,
            kernel,
            modern,
            explicit: gcm && !modern,
            sealed_max,
        })
    }

    /// TLS 1.3.
    pub(super) fn is_modern(&self) -> bool {
        self.modern
    }

    pub(super) fn is_client(&self) -> bool {
        matches!(self.kernel, Kernel::Client(_))
    }

    /// Room the payload of a record of `len` bytes takes while it is opened.
    pub(super) fn opened_len(&self, len: usize) -> usize {
        len.saturating_sub(self.prefix() + TAG_BYTES)
    }

    /// Opens one whole record into the front of `out`, which has room for
    /// [`opened_len`](Self::opened_len). Returns its content's type and length.
    ///
    /// # Errors
    /// It was tampered with, or is no record of this connection.
    pub(super) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<(u8, usize), Error> {
        let len = self.opened_len(record.len());
        if record.len() < self.prefix() + TAG_BYTES || self.rx.sequence == u64::MAX {
            return Err(Error::DecryptError);
        }
        if self.modern && record[0] != content::DATA {
            return Err(InvalidMessage::InvalidContentType.into());
        }
        let mut nonce = self.rx.mixed();
        if self.explicit {
            nonce[..4].copy_from_slice(&self.rx.iv[..4]);
            nonce[4..].copy_from_slice(&record[HEADER_BYTES..HEADER_BYTES + EXPLICIT_NONCE_BYTES]);
        }
        let header = [record[0], record[1], record[2], record[3], record[4]];
        let additional = self.additional(header, self.rx.sequence, len);
        let (sealed, tag) = record[self.prefix()..].split_at(len);
        let (nonce, out) = (Nonce::assume_unique_for_key(nonce), &mut out[..len]);
        let opened = self.rx.key.open_separate_gather(nonce, additional.as_aad(), sealed, tag, out);
        opened.map_err(|_| Error::DecryptError)?;
        self.rx.sequence += 1;
        let (typ, len) = if self.modern {
            // Behind the content stand its type and padding of zeros.
            let at = out.iter().rposition(|byte| *byte != 0);
            let at = at.ok_or(InvalidMessage::InvalidEmptyPayload)?;
            (out[at], at)
        } else {
            (record[0], len)
        };
        if len > PAYLOAD_BYTES_MAX {
            return Err(InvalidMessage::MessageTooLarge.into());
        }
        Ok((typ, len))
    }

    /// Bytes of a sealed record before its payload.
    pub(super) fn prefix(&self) -> usize {
        HEADER_BYTES + if self.explicit { EXPLICIT_NONCE_BYTES } else { 0 }
    }

    /// The key has sealed all it may, but for the records of one write.
    pub(super) fn is_worn(&self) -> bool {
        self.tx.sequence >= self.sealed_max.saturating_sub(8)
    }

    /// Seals `payload` as one record into the front of `out`; returns the record's length.
    ///
    /// # Errors
    /// The key has sealed all it ever may.
    pub(super) fn seal(&mut self, typ: u8, payload: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (nonce, additional) = self.begin(typ, payload.len(), out)?;
        let (prefix, extra) = (self.prefix(), [typ]);
        let extra = &extra[..usize::from(self.modern)];
        let (sealed, rest) = out[prefix..].split_at_mut(payload.len());
        let rest = &mut rest[..extra.len() + TAG_BYTES];
        let (key, aad) = (&self.tx.key, additional.as_aad());
        key.seal_out_of_place_scatter(nonce, aad, payload, sealed, extra, rest)
            .map_err(|_| Error::EncryptError)?;
        self.tx.sequence += 1;
        Ok(prefix + payload.len() + rest.len())
    }

    /// Like [`seal`](Self::seal), for payload of `len` bytes that stands in `out` already, behind
    /// [`prefix`](Self::prefix) bytes.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub(super) fn seal_placed(
        &mut self,
        typ: u8,
        len: usize,
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let (nonce, additional) = self.begin(typ, len, out)?;
        let (prefix, extra) = (self.prefix(), [typ]);
        let extra = &extra[..usize::from(self.modern)];
        let (payload, rest) = out[prefix..].split_at_mut(len);
        let rest = &mut rest[..extra.len() + TAG_BYTES];
        let (key, aad) = (&self.tx.key, additional.as_aad());
        key.seal_in_place_scatter(nonce, aad, payload, extra, rest)
            .map_err(|_| Error::EncryptError)?;
        self.tx.sequence += 1;
        Ok(prefix + len + rest.len())
    }

    /// Writes the header of a record of ours.
    fn begin(&self, typ: u8, len: usize, out: &mut [u8]) -> Result<(Nonce, Additional), Error> {
        if self.tx.sequence == u64::MAX {
            return Err(Error::EncryptError);
        }
        let body = if self.modern { len + 1 } else { len } + self.prefix() - HEADER_BYTES;
        let body = u16::try_from(body + TAG_BYTES).map_err(|_| Error::EncryptError)?;
        let [high, low] = body.to_be_bytes();
        let header = [if self.modern { content::DATA } else { typ }, 3, 3, high, low];
        out[..HEADER_BYTES].copy_from_slice(&header);
        let mut nonce = self.tx.mixed();
        if self.explicit {
            out[HEADER_BYTES..HEADER_BYTES + EXPLICIT_NONCE_BYTES].copy_from_slice(&nonce[4..]);
            nonce[..4].copy_from_slice(&self.tx.iv[..4]);
        }
        let additional = self.additional(header, self.tx.sequence, len);
        Ok((Nonce::assume_unique_for_key(nonce), additional))
    }

    fn additional(&self, header: [u8; HEADER_BYTES], sequence: u64, len: usize) -> Additional {
        let mut bytes = [0; 13];
        if self.modern {
            bytes[..HEADER_BYTES].copy_from_slice(&header);
            return Additional { bytes, len: HEADER_BYTES };
        }
        bytes[..8].copy_from_slice(&sequence.to_be_bytes());
        bytes[8..11].copy_from_slice(&header[..3]);
        bytes[11..].copy_from_slice(&(len as u16).to_be_bytes());
        Additional { bytes, len: 13 }
    }

    /// Takes the next key for sending (TLS 1.3), after the peer was told.
    pub(super) fn update_tx(&mut self) -> Result<(), Error> {
        self.tx = Half::new(self.kernel.update_tx()?)?;
        Ok(())
    }

    /// Takes the next key for receiving (TLS 1.3): the peer said that it has done so.
    pub(super) fn update_rx(&mut self) -> Result<(), Error> {
        self.rx = Half::new(self.kernel.update_rx()?)?;
        Ok(())
    }

    /// Keeps a session ticket for the next connection.
    pub(super) fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Error> {
        match &mut self.kernel {
            Kernel::Client(kernel) => kernel.handle_new_session_ticket(ticket),
            Kernel::Server(_) => Err(InvalidMessage::UnexpectedMessage("ticket").into()),
        }
    }
}
