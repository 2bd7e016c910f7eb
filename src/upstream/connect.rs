//! Making one upstream connection.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{Failure, Phase, Retryable};
use crate::net::stream::{self, Transport};
use crate::net::tls::TlsError;
use crate::net::tls::config::UpstreamTls;
use crate::net::tls::turns::Turns;
use crate::outcome::Outcome;

/// What is connected to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Its name, for messages.
    pub authority: &'a str,
    /// Where it is.
    pub addresses: &'a [SocketAddr],
    /// How it is spoken to, where that is TLS, and whose turn it is.
    pub tls: Option<(&'a UpstreamTls, &'a Turns)>,
}

/// Connects to the first of the target's addresses that answers, each within `timeout` (its TLS
/// handshake included) and all of them before `deadline`.
///
/// # Errors
/// None answered: the last one's reason. Nothing reached an upstream, so it may be tried again;
/// but not where TLS itself failed, which would only fail again.
pub async fn connect(
    target: Target<'_>,
    timeout: Duration,
    deadline: Instant,
) -> Result<Transport, Failure> {
    let authority = target.authority;
    let mut last = unreachable(format!("upstream {authority} has no address"));
    for &address in target.addresses {
        let limit = timeout.min(deadline.saturating_duration_since(clock::now()));
        if limit.is_zero() {
            break;
        }
        match monoio::time::timeout(limit, reach(address, target.tls)).await {
            Ok(Ok(transport)) => return Ok(transport),
            Ok(Err(error)) => {
                last = unreachable(format!("upstream {authority} ({address}): {error}"));
                if error.get_ref().is_some_and(|inner| inner.is::<TlsError>()) {
                    return Err(last.retryable(Retryable::Never));
                }
            }
            Err(_) => {
                let what = if target.tls.is_some() {
                    "did not accept a connection and its TLS handshake"
                } else {
                    "did not accept a connection"
                };
                let message = format!("upstream {authority} ({address}) {what} within {limit:?}");
                last = Failure::upstream(Phase::Connect, Outcome::ConnectTimeout, message)
                    .retryable(Retryable::Always);
            }
        }
    }
    Err(last)
}

async fn reach(address: SocketAddr, tls: Option<(&UpstreamTls, &Turns)>) -> io::Result<Transport> {
    let transport = stream::connect(address).await?;
    let Some((tls, turns)) = tls else { return Ok(transport) };
    let session = tls.session().map_err(io::Error::other)?;
    let transport = transport.secure(session);
    transport.shake_hands(turns).await?;
    Ok(transport)
}

/// No connection can be made at all.
pub fn unreachable(message: String) -> Failure {
    Failure::upstream(Phase::Connect, Outcome::UpstreamUnreachable, message)
        .retryable(Retryable::Always)
}
