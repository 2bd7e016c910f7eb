//! Answers the relay makes itself: an error before the head, in the words of the client's
//! dialect.

use std::time::SystemTime;

use crate::dialect::Dialect;
use crate::dialect::ErrorText;
use crate::http1::forward::encode_own;

/// An answer of the relay's own.
pub struct Own<'a> {
    /// Status, code, message and the exchange's id.
    pub text: ErrorText<'a>,
    /// Whether the connection ends with it.
    pub close: bool,
    /// The request was HEAD: fields only.
    pub head_only: bool,
    /// Fields beside the usual ones.
    pub fields: &'a [(&'static str, String)],
}

/// Writes `own` in the shape of `dialect`.
pub fn encode(dialect: Dialect, own: &Own<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    dialect.error_body(&own.text, &mut body);
    let mut fields = vec![("Content-Type", "application/json"), ("Cache-Control", "no-store")];
    if own.text.status == 503 {
        fields.push(("Retry-After", "1"));
    }
    put(own, own.text.status, &fields, &body)
}

/// Writes `events`, which tell it, as a whole stream.
pub fn encode_events(own: &Own<'_>, events: &[u8]) -> Vec<u8> {
    let fields = [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ];
    put(own, 200, &fields, events)
}

fn put(own: &Own<'_>, status: u16, usual: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut fields = vec![("Date", date.as_str()), ("X-Request-Id", own.text.request_id)];
    fields.extend_from_slice(usual);
    fields.extend(own.fields.iter().map(|(name, value)| (*name, value.as_str())));
    let mut out = Vec::new();
    encode_own(status, &fields, body, own.close, own.head_only, &mut out);
    out
}

/// Writes an answer that is its fields: to a preflight, or that nothing more is to come.
pub fn encode_no_content(
    fields: &[(&'static str, String)],
    request_id: &str,
    close: bool,
) -> Vec<u8> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut all = vec![("Date", date.as_str()), ("X-Request-Id", request_id)];
    all.extend(fields.iter().map(|(name, value)| (*name, value.as_str())));
    let mut out = Vec::new();
    encode_own(204, &all, &[], close, false, &mut out);
    out
}
