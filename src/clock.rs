//! The time of one core's loop. The I/O floors ask it; codecs and policy never do, they are told
//! `now`.
//!
//! While a task of a connection runs, time stands still: the clock is read when it is first asked
//! for, and that is the answer until the task waits again. A request asks eighteen times in three
//! wakes, and a look at the clock costs as much as parsing a field.

use std::cell::Cell;
use std::time::Instant;

#[derive(Clone, Copy)]
enum Held {
    /// No task runs that would hold it.
    Not,
    /// One runs, and nobody has asked yet.
    Unread,
    /// What is answered while it runs.
    At(Instant),
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held::Not) };
}

/// The present moment.
#[inline]
pub fn now() -> Instant {
    match HELD.get() {
        Held::At(now) => now,
        Held::Not => Instant::now(),
        Held::Unread => {
            let now = Instant::now();
            HELD.set(Held::At(now));
            now
        }
    }
}

/// Runs one wake of a task, during which time stands still. It must not unwind.
#[inline]
pub fn held<R>(wake: impl FnOnce() -> R) -> R {
    HELD.set(Held::Unread);
    let result = wake();
    HELD.set(Held::Not);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_within_a_wake_and_goes_on_behind_it() {
        let before = now();
        let (first, second) = held(|| {
            let first = now();
            while Instant::now() == first {}
            (first, now())
        });
        assert_eq!(first, second);
        assert!(before <= first && first < now());
        assert!(held(now) > first, "each wake reads it anew");
    }
}
