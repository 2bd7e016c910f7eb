//! HTTP/1.1 messages as bytes: heads, body framing, chunks (RFC 9110, RFC 9112).
//!
//! Tokens are read by `httparse`; what makes a message unambiguous for everyone on its way is
//! decided here, and strictly: a shape that two parsers could read differently is refused.

pub mod body;
pub mod chunked;
pub mod date;
pub mod edits;
pub mod forward;
pub mod head;
pub mod name;
pub mod query;

/// What a parser has, given the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status<T> {
    /// All of it.
    Complete(T),
    /// More bytes are needed.
    Partial,
}

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}
