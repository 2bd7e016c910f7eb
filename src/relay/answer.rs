//! Answers the relay makes itself: an error before the head, in the words of the client's
//! dialect.

use std::time::SystemTime;

use crate::dialect::Dialect;
use crate::dialect::ErrorText;
use crate::http1::forward::encode_own;

/// An answer of the relay's own.
pub struct Own<'a> {
    /// Its status.
    pub status: u16,
    /// One word for programs.
    pub code: &'a str,
    /// One line for people.
    pub message: &'a str,
    /// The exchange's id.
    pub request_id: &'a str,
    /// Whether the connection ends with it.
    pub close: bool,
    /// The request was HEAD: fields only.
    pub head_only: bool,
    /// Fields beside the usual ones.
    pub fields: &'a [(&'static str, String)],
}

/// Writes `own` in the shape of `dialect`.
pub fn encode(dialect: Dialect, own: &Own<'_>) -> Vec<u8> {
    let text = ErrorText {
        status: own.status,
        code: own.code,
        message: own.message,
        request_id: own.request_id,
        sequence: 0,
    };
    let mut body = Vec::new();
    dialect.error_body(&text, &mut body);
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut fields = vec![
        ("Date", date.as_str()),
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("X-Request-Id", own.request_id),
    ];
    if own.status == 503 {
        fields.push(("Retry-After", "1"));
    }
    fields.extend(own.fields.iter().map(|(name, value)| (*name, value.as_str())));
    let mut out = Vec::new();
    encode_own(own.status, &fields, &body, own.close, own.head_only, &mut out);
    out
}

/// Writes the answer to a preflight, which is its fields.
pub fn encode_preflight(
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
