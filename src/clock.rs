//! The time of one core's loop. The I/O floors ask it once per wake-up; codecs and policy never
//! do, they are told `now`.

use std::time::Instant;

/// The present moment. Costs a vDSO call, so it is asked per wake-up, not per
/// frame.
#[inline]
pub fn now() -> Instant {
    Instant::now()
}
