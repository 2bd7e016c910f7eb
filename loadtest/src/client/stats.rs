//! What a generator thread counts, and how threads are put together.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::frame::Fault;

/// Nanoseconds to three digits.
#[derive(Clone, Debug)]
pub struct Hist(pub Histogram<u64>);

impl Default for Hist {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(100, 600_000_000_000, 3).unwrap_or_else(|_| unreachable!()))
    }
}

impl Hist {
    /// Counts one duration.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        let _ = self.0.add(&other.0);
    }

    /// The value at quantile `q` in milliseconds; nothing if nothing was counted.
    pub fn millis(&self, q: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(q) as f64 / 1e6)
    }
}

/// Streams that were cut and came back.
#[derive(Clone, Debug, Default)]
pub struct Resumes {
    /// Connections cut by the client.
    pub cuts: u64,
    /// Those cut within a frame.
    pub within_frame: u64,
    /// Those ended with a reset rather than a FIN.
    pub resets: u64,
    /// Connections that were not cut by the client and ended before their stream.
    pub unasked: u64,
    /// Requests to go on that were answered with the rest of the stream.
    pub resumed: u64,
    /// Those that were told the stream is over.
    pub over: u64,
    /// Request to the first byte of the answer.
    pub latency: Hist,
    /// The first frame that was not as it should be.
    pub odd: Option<String>,
}

impl Resumes {
    fn merge(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.within_frame += other.within_frame;
        self.resets += other.resets;
        self.unasked += other.unasked;
        self.resumed += other.resumed;
        self.over += other.over;
        self.latency.merge(&other.latency);
        self.odd = self.odd.take().or(other.odd);
    }
}

/// What one group saw.
#[derive(Clone, Debug, Default)]
pub struct GroupStats {
    /// Frames over all.
    pub frames: u64,
    /// Frames received in the window.
    pub window_frames: u64,
    /// Bytes received in the window, framing included.
    pub window_bytes: u64,
    /// Requests that ended well in the window.
    pub window_requests: u64,
    /// Requests that were answered otherwise than with 200, or not at all, in the window.
    pub window_refused: u64,
    /// Requests that ended well.
    pub requests: u64,
    /// Receive time less scheduled send time, in the window.
    pub latency: Hist,
    /// Request to response head, in the window.
    pub head: Hist,
    /// Request to response head, before the window.
    pub ramp_head: Hist,
    /// Request to end, in the window.
    pub whole: Hist,
    /// Opening to the end of the TLS handshake, in the window.
    pub handshake: Hist,
    /// TLS handshakes that began a session, in the window or not.
    pub full: u64,
    /// Those that resumed one.
    pub resumed: u64,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// What went wrong.
    pub faults: BTreeMap<Fault, u64>,
    /// What became of streams that were cut and came back.
    pub resumes: Resumes,
    /// When which stream was left.
    pub left: Vec<(u32, u64)>,
    /// Frames in the window of each connection that was there at the end.
    pub each: Vec<u64>,
    /// When the last end was seen.
    pub last_end: u64,
}

impl GroupStats {
    /// Adds what another thread saw of the same group.
    pub fn merge(&mut self, other: Self) {
        self.frames += other.frames;
        self.window_frames += other.window_frames;
        self.window_bytes += other.window_bytes;
        self.window_requests += other.window_requests;
        self.window_refused += other.window_refused;
        self.requests += other.requests;
        self.each.extend(other.each);
        self.latency.merge(&other.latency);
        self.head.merge(&other.head);
        self.ramp_head.merge(&other.ramp_head);
        self.whole.merge(&other.whole);
        self.handshake.merge(&other.handshake);
        self.full += other.full;
        self.resumed += other.resumed;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.resumes.merge(other.resumes);
        self.left.extend(other.left);
        self.last_end = self.last_end.max(other.last_end);
    }

    /// Counts a fault.
    pub fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_loses_nothing() {
        let mut one = GroupStats { frames: 2, last_end: 5, ..GroupStats::default() };
        let mut two = GroupStats { frames: 3, last_end: 4, ..GroupStats::default() };
        (1..=900).for_each(|_| one.latency.record(1_000_000));
        (1..=100).for_each(|_| two.latency.record(80_000_000));
        one.fault(Fault::Bytes);
        two.fault(Fault::Bytes);
        two.statuses.insert(503, 4);
        one.merge(two);
        assert_eq!((one.frames, one.last_end, one.latency.0.len()), (5, 5, 1000));
        assert_eq!(one.faults[&Fault::Bytes], 2);
        assert_eq!(one.statuses[&503], 4);
        let p90 = one.latency.millis(0.9).expect("counted");
        let p91 = one.latency.millis(0.91).expect("counted");
        assert!((0.99..1.01).contains(&p90) && (79.9..80.2).contains(&p91), "{p90} {p91}");
        assert_eq!(Hist::default().millis(0.5), None);
    }
}
