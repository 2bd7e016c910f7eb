//! TLS over a non-blocking socket.
//!
//! ```text
//!  rustls: handshake, certificates, key schedule, tickets      (handshake.rs, config.rs)
//!             │ keys, once
//!  records:   ▼  socket ─recv→ block ─decrypt→ the reader's room   (record.rs, session.rs)
//!                the writer's queue ─encrypt→ block ─send→ socket
//! ```
//!
//! One pass over the bytes each way, no allocation per record, and nothing held while a stream
//! waits but its keys.

pub mod config;
mod fault;
mod handshake;
mod held;
mod record;
pub mod session;
pub mod turns;

pub use fault::TlsError;
