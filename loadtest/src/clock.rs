//! The monotonic clock, in nanoseconds: one clock for every process of a machine.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    nanos(time.tv_sec) * 1_000_000_000 + nanos(time.tv_nsec)
}

fn nanos(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The time from `now` to `due`, for a poll's timeout; at most `cap`.
pub fn until(due: Option<u64>, now: u64, cap: Duration) -> Timespec {
    let cap = u64::try_from(cap.as_nanos()).unwrap_or(u64::MAX);
    let wait = due.map_or(cap, |due| due.saturating_sub(now).min(cap));
    Timespec {
        tv_sec: i64::try_from(wait / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(wait % 1_000_000_000).unwrap_or(0),
    }
}

/// Sleeps in short steps; false as soon as `interrupted` says so.
pub fn sleep_until(due: u64, interrupted: &dyn Fn() -> bool) -> bool {
    loop {
        let left = due.saturating_sub(now());
        if interrupted() {
            return false;
        }
        if left == 0 {
            return true;
        }
        std::thread::sleep(Duration::from_nanos(left.min(20_000_000)));
    }
}
