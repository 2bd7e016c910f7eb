//! What must be true at every step: the marks, their crossings, and the deadlines, counted from
//! what was seen to happen.

use std::time::Duration;

use millstream::flow::stream::{Marks, Stream};
use millstream::flow::timers::{Due, Timeouts};
use millstream::limits::READ_BUFFER_BYTES;

use super::world::Plan;

/// What our own lines and frames may add to a queue beyond payload.
const OWN_BYTES_MAX: usize = 4096;

pub(crate) struct Watch {
    marks: Marks,
    timeouts: Timeouts,
    heartbeats: bool,
    /// How late a turn may notice.
    slack: Duration,
    paused: bool,
    pauses: u32,
    any_read: bool,
    /// Since when reading has been open and brought nothing.
    open_since: Option<Duration>,
    /// The downstream last took bytes, or a heartbeat was due.
    quiet_since: Duration,
    /// The downstream last took bytes.
    taken_at: Duration,
    /// Since when it has refused some.
    refused_since: Option<Duration>,
}

impl Watch {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            marks: plan.marks,
            timeouts: plan.timeouts,
            heartbeats: plan.timeouts.heartbeat.is_some(),
            slack: plan.turn * 4,
            paused: false,
            pauses: 0,
            any_read: false,
            open_since: Some(Duration::ZERO),
            quiet_since: Duration::ZERO,
            taken_at: Duration::ZERO,
            refused_since: None,
        }
    }

    pub(crate) fn read(&mut self, now: Duration) {
        assert!(!self.paused || now.is_zero(), "read while paused");
        self.any_read = true;
        self.open_since = Some(now);
    }

    /// Part of a write was taken; `resumed` is what the stream said.
    pub(crate) fn sent(&mut self, resumed: bool, stream: &Stream) {
        let crossed = self.paused && stream.buffer().queued() <= self.marks.low;
        assert_eq!(resumed, crossed, "reading resumes at the low-water mark and only there");
        self.paused &= !crossed;
    }

    /// A write was tried.
    pub(crate) fn wrote(&mut self, now: Duration, any: bool, left: bool) {
        if any {
            (self.taken_at, self.quiet_since) = (now, now);
            self.refused_since = None;
        }
        if left {
            self.refused_since.get_or_insert(now);
        }
    }

    /// Something was done.
    pub(crate) fn step(&mut self, now: Duration, stream: &Stream) {
        let (queued, held) = (stream.buffer().queued(), stream.buffer().held());
        if !self.paused && queued >= self.marks.high && stream.carried().pauses > self.pauses {
            self.paused = true;
            self.pauses += 1;
        }
        assert_eq!(stream.carried().pauses, self.pauses, "each crossing counts once");
        let most = self.marks.high + READ_BUFFER_BYTES + self.marks.frame_max + OWN_BYTES_MAX;
        assert!(queued <= most, "{queued} bytes queued, {most} allowed");
        let held_most = self.marks.frame_max + READ_BUFFER_BYTES;
        assert!(stream.is_ended() || held <= held_most, "{held} bytes held, {held_most} allowed");
        // Blocks are of the size of a read; a queue and a held frame may each begin and end
        // within one.
        let footprint = stream.buffer().footprint();
        let blocks = most + held_most + 4 * READ_BUFFER_BYTES;
        assert!(footprint <= blocks, "{footprint} bytes of memory, {blocks} allowed");
        if !stream.wants_more() {
            self.open_since = None;
        } else if self.open_since.is_none() {
            self.open_since = Some(now);
        }
        if stream.wants_more() {
            assert!(!self.paused && !stream.is_ended());
        } else {
            let full = queued > 0 && stream.buffer().is_full(self.marks.high);
            assert!(self.paused || stream.is_ended() || full, "reading stopped without a reason");
        }
    }

    /// A wait ended: it must not have outlasted a deadline.
    pub(crate) fn woke(&mut self, now: Duration, stream: &Stream, blocked: bool) {
        let within = |since: Duration, limit: Option<Duration>, what: &str| {
            let late = limit.is_some_and(|limit| now > since + limit + self.slack);
            assert!(!late, "{what} was due since {since:?}, now is {now:?}");
        };
        within(Duration::ZERO, self.timeouts.stream, "the stream timeout");
        if let Some(since) = self.open_since {
            if self.any_read {
                within(since, self.timeouts.idle, "the idle timeout");
            } else {
                within(Duration::ZERO, Some(self.timeouts.first_byte), "the first-byte timeout");
            }
        }
        if let Some(since) = self.refused_since {
            within(since, Some(self.timeouts.write), "the write timeout");
        } else if !blocked && !stream.is_ended() {
            within(self.quiet_since, self.timeouts.heartbeat, "a heartbeat");
        }
    }

    /// Something is said to be due: it must not be early.
    pub(crate) fn due(&mut self, now: Duration, due: Due) {
        let limits = self.timeouts;
        let passed = |since: Duration, limit: Option<Duration>| {
            let limit = limit.expect("a deadline that is off is never due");
            assert!(now >= since + limit, "{due:?} at {now:?}, counted from {since:?}");
        };
        match due {
            Due::FirstByte => {
                assert!(!self.any_read);
                passed(Duration::ZERO, Some(limits.first_byte));
            }
            Due::Idle => {
                let since = self.open_since.expect("a paused upstream is not idle");
                assert!(self.any_read);
                // A pause within one turn is none.
                passed(since.saturating_sub(self.slack), limits.idle);
            }
            Due::Stream => passed(Duration::ZERO, limits.stream),
            Due::Stalled => {
                assert!(self.refused_since.is_some());
                passed(self.taken_at, Some(limits.write));
            }
            Due::Heartbeat => {
                assert!(self.heartbeats && self.refused_since.is_none());
                passed(self.quiet_since, limits.heartbeat);
                self.quiet_since = now;
            }
        }
    }
}
