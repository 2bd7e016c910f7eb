//! The flow of one direction of an exchange: what is buffered, when it may be sent, when time is
//! up. Bytes and `now` go in, bytes and deadlines come out.

pub mod deadlines;
pub mod replay;
pub mod stream;
pub mod timers;
pub mod write_buffer;
