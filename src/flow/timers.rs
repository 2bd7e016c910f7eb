//! The deadlines of one exchange. They are compared when the stream wakes, never re-armed per
//! frame: one timer sleeps until the earliest deadline known when it was set, and a deadline that
//! has moved on meanwhile costs one more sleep.

use std::rc::Rc;
use std::time::{Duration, Instant};

/// The durations of an exchange; `None` is off.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the request sent to the response head and first frame.
    pub first_byte: Duration,
    /// Between two reads of the response.
    pub idle: Option<Duration>,
    /// The whole stream, from its request.
    pub stream: Option<Duration>,
    /// A downstream that takes no byte.
    pub write: Duration,
    /// Silence towards the downstream after which a heartbeat is due.
    pub heartbeat: Option<Duration>,
}

/// What has become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The first frame did not come in time.
    FirstByte,
    /// The upstream has been silent for too long.
    Idle,
    /// The stream has lasted too long.
    Stream,
    /// The downstream has taken nothing for too long.
    Stalled,
    /// The downstream has heard nothing for a while.
    Heartbeat,
}

/// The moments the deadlines are counted from.
#[derive(Clone, Debug)]
pub struct Timers {
    timeouts: Rc<Timeouts>,
    started: Instant,
    /// The last bytes from upstream; absent until the first frame.
    last_read: Option<Instant>,
    /// The last bytes taken by the downstream.
    last_write: Instant,
    /// Since when the downstream has refused bytes.
    blocked_since: Option<Instant>,
    /// Reading is paused by the high-water mark: the upstream's silence is our doing.
    paused: bool,
    /// Frames of our own may fill a silence.
    heartbeats: bool,
    /// Something has happened that may bring the next deadline forward.
    stale: bool,
}

impl Timers {
    /// Timers of an exchange whose request was sent at `started`, and whose head goes downstream
    /// at `now`; `heartbeats` if it may carry them.
    pub fn new(timeouts: &Rc<Timeouts>, started: Instant, now: Instant, heartbeats: bool) -> Self {
        Self {
            timeouts: Rc::clone(timeouts),
            heartbeats,
            started,
            last_read: None,
            last_write: now,
            blocked_since: None,
            paused: false,
            stale: true,
        }
    }

    /// Whether the next deadline may have come forward since the last call: only then, or when the
    /// one known has passed, [`next`](Self::next) is worth asking. Nothing that happens with every
    /// frame does that.
    #[inline]
    pub fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    /// Something else may be due before the next deadline known here.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// Bytes came from upstream.
    #[inline]
    pub fn read(&mut self, now: Instant) {
        self.stale |= self.last_read.is_none();
        self.last_read = Some(now);
    }

    /// The downstream took bytes; `blocked` when it did not take all.
    #[inline]
    pub fn wrote(&mut self, now: Instant, blocked: bool) {
        self.last_write = now;
        self.stale |= blocked != self.blocked_since.is_some();
        self.blocked_since = blocked.then_some(now);
    }

    /// The downstream took nothing.
    #[inline]
    pub fn refused(&mut self, now: Instant) {
        self.stale |= self.blocked_since.is_none();
        self.blocked_since.get_or_insert(now);
    }

    /// Reading is paused or not. A resumed upstream gets a fresh idle time. True if that is new.
    pub fn set_paused(&mut self, now: Instant, paused: bool) -> bool {
        if self.paused == paused {
            return false;
        }
        if !paused && self.last_read.is_some() {
            self.last_read = Some(now);
        }
        self.paused = paused;
        self.stale = true;
        true
    }

    /// The earliest deadline and what it means.
    pub fn next(&self) -> Option<(Instant, Due)> {
        let upstream = match self.last_read {
            None => Some((self.started + self.timeouts.first_byte, Due::FirstByte)),
            Some(at) => self.timeouts.idle.map(|idle| (at + idle, Due::Idle)),
        };
        let upstream = upstream.filter(|_| !self.paused);
        let stream = self.timeouts.stream.map(|stream| (self.started + stream, Due::Stream));
        let stalled = self.blocked_since.map(|at| (at + self.timeouts.write, Due::Stalled));
        let heartbeat = match self.blocked_since {
            None if self.heartbeats => {
                self.timeouts.heartbeat.map(|every| (self.last_write + every, Due::Heartbeat))
            }
            // What waits to be written will keep the connection busy by itself.
            _ => None,
        };
        [upstream, stream, stalled, heartbeat].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// What is due at `now`.
    pub fn due(&self, now: Instant) -> Option<Due> {
        self.next().filter(|(at, _)| *at <= now).map(|(_, due)| due)
    }

    /// A heartbeat was skipped (an over-long frame is on its way): ask again after another
    /// silence.
    pub fn skip_heartbeat(&mut self, now: Instant) {
        self.last_write = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timers(now: Instant) -> Timers {
        let timeouts = Timeouts {
            first_byte: 100 * SECOND,
            idle: Some(30 * SECOND),
            stream: Some(300 * SECOND),
            write: 20 * SECOND,
            heartbeat: Some(15 * SECOND),
        };
        Timers::new(&Rc::new(timeouts), now, now, true)
    }

    #[test]
    fn heartbeats_come_in_silence_and_the_first_byte_is_waited_for() {
        let t0 = Instant::now();
        let mut timers = timers(t0);
        assert_eq!(timers.next(), Some((t0 + 15 * SECOND, Due::Heartbeat)));
        for beat in 1..=6 {
            assert_eq!(timers.due(t0 + beat * 15 * SECOND), Some(Due::Heartbeat));
            timers.wrote(t0 + beat * 15 * SECOND, false);
        }
        assert_eq!(timers.due(t0 + 100 * SECOND), Some(Due::FirstByte));
    }

    #[test]
    fn idle_counts_from_the_last_read_but_not_while_paused() {
        let t0 = Instant::now();
        let mut timers = timers(t0);
        timers.heartbeats = false;
        timers.read(t0 + SECOND);
        assert_eq!(timers.next(), Some((t0 + 31 * SECOND, Due::Idle)));
        timers.refused(t0 + 2 * SECOND);
        timers.set_paused(t0 + 2 * SECOND, true);
        assert_eq!(timers.next(), Some((t0 + 22 * SECOND, Due::Stalled)));
        timers.refused(t0 + 5 * SECOND);
        assert_eq!(
            timers.next(),
            Some((t0 + 22 * SECOND, Due::Stalled)),
            "since the first refusal"
        );
        timers.wrote(t0 + 20 * SECOND, false);
        assert_eq!(timers.next(), Some((t0 + 300 * SECOND, Due::Stream)));
        timers.set_paused(t0 + 21 * SECOND, false);
        assert_eq!(timers.next(), Some((t0 + 51 * SECOND, Due::Idle)), "a fresh idle time");
    }
}
