//! What went wrong in TLS, in words that say what to do about it.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// A failure of TLS, told to the one who runs the relay.
#[derive(Clone, Debug)]
pub struct TlsError {
    error: Error,
    /// The relay was the client: the peer is an upstream.
    client: bool,
}

impl TlsError {
    /// A failure on a connection where the relay was the client or the server.
    pub fn new(error: Error, client: bool) -> Self {
        Self { error, client }
    }

    /// What rustls says.
    pub fn cause(&self) -> &Error {
        &self.error
    }
}

impl std::error::Error for TlsError {}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            Error::InvalidCertificate(error) => certificate(error, f),
            Error::AlertReceived(alert) => alerted(*alert, self.client, f),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) if self.client => {
                f.write_str("it does not speak TLS; if it is plain HTTP, write http:// for it")
            }
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                f.write_str("it does not speak TLS")
            }
            Error::DecryptError => f.write_str("a TLS record was damaged on its way"),
            Error::PeerIncompatible(why) => write!(f, "no common ground in TLS: {why:?}"),
            other => write!(f, "TLS failed: {other}"),
        }
    }
}

fn date(time: &UnixTime) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}

fn certificate(error: &CertificateError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use CertificateError as Why;
    match error {
        // Of an authority with a known name and another key it is the signature that is wrong.
        Why::UnknownIssuer | Why::BadSignature => f.write_str(
            "its certificate is not signed by an authority known here; name that authority with \
             --upstream-ca FILE",
        ),
        Why::ExpiredContext { not_after, .. } => {
            let at = date(not_after);
            write!(f, "its certificate expired on {at}; have it renewed, or set this clock right")
        }
        Why::Expired => f.write_str("its certificate has expired; have it renewed"),
        Why::NotValidYetContext { not_before, .. } => {
            let at = date(not_before);
            write!(f, "its certificate is valid only from {at}; is this clock right?")
        }
        Why::NotValidYet => f.write_str("its certificate is not valid yet; is this clock right?"),
        Why::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            write!(f, "its certificate is not for {expected}, but for {}", presented.join(", "))?;
            f.write_str("; give the right name with --upstream-tls-name NAME")
        }
        Why::NotValidForName => f.write_str(
            "its certificate is for another name; give the right one with --upstream-tls-name NAME",
        ),
        Why::Revoked => f.write_str("its certificate was revoked"),
        Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => {
            f.write_str("its certificate is not one for servers")
        }
        Why::Other(why) if format!("{why:?}").contains("CaUsedAsEndEntity") => f.write_str(
            "its certificate is an authority's own and not one for servers; have the authority \
             sign one, or use --upstream-insecure on a network you trust",
        ),
        other => write!(f, "its certificate is refused: {other}"),
    }
}

fn alerted(alert: AlertDescription, client: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use AlertDescription as Alert;
    if !client {
        return match alert {
            Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown => write!(
                f,
                "the client does not trust the certificate it is shown ({alert:?}); --tls-cert \
                 must be for the name it asks for and hold the whole chain below an authority it \
                 knows"
            ),
            Alert::CertificateExpired => {
                f.write_str("the certificate shown has expired; renew the file of --tls-cert")
            }
            _ => write!(f, "the client refused TLS with the alert {alert:?}"),
        };
    }
    match alert {
        Alert::CertificateRequired => f.write_str(
            "it wants a client certificate; give one with --upstream-cert and --upstream-key",
        ),
        Alert::UnknownCA
        | Alert::BadCertificate
        | Alert::CertificateExpired
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::UnsupportedCertificate
        | Alert::AccessDenied => {
            write!(f, "it refused the client certificate ({alert:?}); check --upstream-cert")
        }
        Alert::UnrecognisedName => f.write_str(
            "it does not know the name asked for; give the right one with --upstream-tls-name NAME",
        ),
        Alert::HandshakeFailure => f.write_str(
            "it refused the TLS handshake; it may want a client certificate (--upstream-cert) or \
             ciphers this relay does not have",
        ),
        Alert::NoApplicationProtocol => f.write_str("it does not speak HTTP/1.1 over TLS"),
        Alert::ProtocolVersion => f.write_str("it has neither TLS 1.3 nor 1.2"),
        other => write!(f, "it refused TLS with the alert {other:?}"),
    }
}
