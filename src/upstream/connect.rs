//! Making one upstream connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{Failure, Phase, Retryable};
use crate::net::stream::{self, Transport};
use crate::outcome::Outcome;

/// Connects to the first of `addresses` that answers, each within `timeout` and all of them
/// before `deadline`.
///
/// # Errors
/// None answered: the last one's reason. Nothing reached an upstream, so it may be tried again.
pub async fn connect(
    authority: &str,
    addresses: &[SocketAddr],
    timeout: Duration,
    deadline: Instant,
) -> Result<Transport, Failure> {
    let mut last = unreachable(format!("upstream {authority} has no address"));
    for &address in addresses {
        let limit = timeout.min(deadline.saturating_duration_since(clock::now()));
        if limit.is_zero() {
            break;
        }
        match monoio::time::timeout(limit, stream::connect(address)).await {
            Ok(Ok(transport)) => return Ok(transport),
            Ok(Err(error)) => {
                last = unreachable(format!("upstream {authority} ({address}): {error}"));
            }
            Err(_) => {
                let message = format!(
                    "upstream {authority} ({address}) did not accept a connection within {limit:?}"
                );
                last = Failure::upstream(Phase::Connect, Outcome::ConnectTimeout, message)
                    .retryable(Retryable::Always);
            }
        }
    }
    Err(last)
}

/// No connection can be made at all.
pub fn unreachable(message: String) -> Failure {
    Failure::upstream(Phase::Connect, Outcome::UpstreamUnreachable, message)
        .retryable(Retryable::Always)
}
