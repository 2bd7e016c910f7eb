//! The frames of a stream that can be resumed: kept for a while, and read by any number of readers
//! that come, go and come back.
//!
//! ```text
//!  source ─▶ frames ─▶ log ─┬▶ reader, at its own place
//!                           ├▶ reader
//!                           └▶ (a reader that comes back with the id of its last frame)
//! ```
//!
//! - [`Log`]: one stream's frames, its readers' places, and whether its source may go on;
//! - [`Shelf`]: the logs of one core: who may have which, what is kept for how long, and what goes
//!   first when memory is short.
//!
//! Frames are kept as they will be sent; the line with the id is made while sending
//! ([`Log::gather`]), so each reader's frames go out from where they lie.
//!
//! # Who waits for whom
//!
//! The source waits for its *furthest* reader, as it would for its only one: at the high-water mark
//! it pauses. Others may lag behind that one as far as the log reaches back; who falls out of it has
//! a [gap](Refused::Gap). Without any reader nothing is dropped that the furthest had not been
//! sent, nor the last half of the log before that (what was sent may not have arrived), and the
//! source pauses when the log is full.

mod ids;
mod log;
mod shelf;

pub use ids::UpstreamIds;
pub use log::{FRAMES_PER_GATHER, Limits, Lines, Log, ReaderKey, Refused};
pub use shelf::{Coming, Credential, Found, Kept, Shelf, Terms};
