//! The whole body of a request, for a route that looks into it before anything goes up.

use std::future::poll_fn;
use std::task::Poll;

use super::Stage;
use super::attempt::Refusal;
use super::connection::Connection;
use super::inbox::Filled;
use crate::clock;
use crate::http1::body::BodyDecoder;
use crate::http1::head::{BodyFraming, RequestHead};
use crate::limits::READ_BUFFER_BYTES;
use crate::outcome::Outcome;
use crate::route::Route;

/// What a wait for more of the body ended with.
enum Waited {
    Stirred,
    Late,
    Ending,
}

/// Reads the body of the request with this head.
pub(super) async fn whole(
    connection: &mut Connection,
    head: &RequestHead,
    route: &Route,
) -> Result<Vec<u8>, Refusal> {
    let refuse = |status, outcome, message: &str| Refusal::new(status, outcome, message);
    let coding = head.field("content-encoding").unwrap_or(b"identity");
    if !coding.eq_ignore_ascii_case(b"identity") {
        let message = "the request's body must come without Content-Encoding here";
        return Err(refuse(415, Outcome::RequestRefused, message));
    }
    let wanted = head.framing() != BodyFraming::None && connection.inbox.is_empty();
    if head.expects_continue() && wanted {
        let sent = connection.send_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        sent.map_err(|outcome| refuse(502, outcome, "the client left"))?;
    }
    let timeout = route.exchange.first_byte_timeout;
    let bytes_max = route.exchange.body_bytes_max;
    let mut decoder = BodyDecoder::new(head.framing());
    let mut body = Vec::new();
    if let BodyFraming::Length(length) = head.framing() {
        // What is announced is believed as far as it costs nothing.
        body.reserve(usize::try_from(length).unwrap_or(usize::MAX).min(READ_BUFFER_BYTES));
    }
    let mut deadline = clock::now() + timeout;
    while !take(connection, &mut decoder, &mut body, bytes_max)? {
        let waited = poll_fn(|cx| {
            if connection.core().stage() == Stage::Ending {
                return Poll::Ready(Waited::Ending);
            }
            if connection.stirred(cx).is_ready() {
                return Poll::Ready(Waited::Stirred);
            }
            let late = connection.registration.poll_deadline(Some(deadline), clock::now());
            late.map(|()| Waited::Late)
        })
        .await;
        match waited {
            Waited::Stirred => {}
            Waited::Late => {
                let message = "the request's body did not arrive in time";
                return Err(refuse(408, Outcome::RequestTimeout, message));
            }
            Waited::Ending => {
                return Err(refuse(503, Outcome::Drained, "the relay is shutting down"));
            }
        }
        match connection.inbox.fill(&connection.transport) {
            Ok(Filled::More) => deadline = clock::now() + timeout,
            Ok(Filled::Nothing | Filled::Full) => {}
            Ok(Filled::Closed) | Err(_) => {
                let message = "the client left before its request was whole";
                return Err(refuse(502, Outcome::ClientGone, message));
            }
        }
    }
    Ok(body)
}

/// Takes what has been received of the body; true when it is whole.
fn take(
    connection: &mut Connection,
    decoder: &mut BodyDecoder,
    body: &mut Vec<u8>,
    bytes_max: u64,
) -> Result<bool, Refusal> {
    let malformed = |error| {
        let message = format!("the request's body is malformed: {error}");
        Refusal::new(400, Outcome::RequestRefused, message)
    };
    connection.inbox.decode(decoder, malformed, |payload| {
        if (body.len() + payload.len()) as u64 > bytes_max {
            let message = format!("the request's body is larger than {bytes_max} bytes");
            return Err(Refusal::new(413, Outcome::RequestRefused, message));
        }
        body.extend_from_slice(payload);
        Ok(())
    })
}
