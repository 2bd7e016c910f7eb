//! When a stream's frames are due: an absolute schedule, so that a late frame delays no other.

use crate::shape::Shape;

/// The due times of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: u64,
    interval: f64,
}

impl Schedule {
    /// The schedule of a stream asked for at `asked`. Streams of one rate are spread evenly over
    /// the interval by their number (golden-ratio steps), so that they do not tick together.
    pub fn new(shape: &Shape, asked: u64) -> Self {
        let interval = if shape.rate > 0.0 { 1e9 / shape.rate } else { 0.0 };
        let turn = (f64::from(shape.id) * 0.618_033_988_749_895).fract();
        let base = if shape.at > 0 { shape.at } else { asked + shape.first_ms * 1_000_000 };
        Self { start: base + (turn * interval) as u64, interval }
    }

    /// When frame `sequence`, counted from nought, is due.
    pub fn due(&self, sequence: u32) -> u64 {
        self.start + (f64::from(sequence) * self.interval) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_are_absolute_and_spread() {
        let shape = |id| Shape { id, rate: 20.0, ..Shape::default() };
        let one = Schedule::new(&shape(1), 1_000);
        assert_eq!(one.due(1) - one.due(0), 50_000_000);
        assert_eq!(one.due(100_000) - one.due(0), 100_000 * 50_000_000);
        let mut phases: Vec<u64> =
            (0..1000).map(|id| Schedule::new(&shape(id), 0).due(0)).collect();
        phases.sort_unstable();
        assert!(phases[999] < 50_000_000);
        let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).max().expect("some");
        assert!(widest < 3 * 50_000, "a gap of {widest} ns in a spread of 50 µs steps");
    }

    #[test]
    fn a_burst_is_due_at_once_and_at_the_time_asked() {
        let shape = Shape { rate: 0.0, at: 77, first_ms: 5, id: 3, ..Shape::default() };
        assert_eq!(Schedule::new(&shape, 10).due(0), 77);
        assert_eq!(Schedule::new(&shape, 10).due(9_000), 77);
        let shape = Shape { at: 0, ..shape };
        assert_eq!(Schedule::new(&shape, 10).due(4), 5_000_010);
    }
}
