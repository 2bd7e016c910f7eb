//! Sockets as the data path uses them: wait for readiness, then move the bytes with non-blocking
//! calls.
//!
//! Why readiness and not reads and writes in flight: a read that is in flight owns its buffer, so
//! every idle stream would pin one; and a read or write must never be dropped, because the kernel
//! may have moved bytes already. Waiting for readiness owns nothing and may be dropped at any
//! time. The bytes go by `recv` and `sendmsg` with `MSG_DONTWAIT`, so a socket with room is
//! written to at once, without a turn through the ring; or, where many have something to send, when
//! all of them have had their turn (`crowd.rs`). [`ready`] says how readiness is learnt.

mod crowd;
pub mod handover;
pub mod listener;
pub mod ready;
pub mod resolver;
pub mod runtime;
pub mod stream;
pub mod table;
pub mod timer;
pub mod tls;
pub mod wait;
