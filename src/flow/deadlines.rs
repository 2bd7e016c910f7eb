//! The deadlines of all connections of a core, so that one timer serves them all.

use std::collections::BTreeSet;
use std::time::Instant;

/// Who is to be woken when: at most one deadline for each number.
#[derive(Debug, Default)]
pub struct Deadlines {
    queue: BTreeSet<(Instant, usize)>,
}

impl Deadlines {
    /// Sets the deadline of `key` to `at` in place of `before`. True when it is the first of all.
    pub fn set(&mut self, key: usize, before: Option<Instant>, at: Instant) -> bool {
        if let Some(before) = before {
            self.queue.remove(&(before, key));
        }
        self.queue.insert((at, key));
        self.queue.first() == Some(&(at, key))
    }

    /// Takes back the deadline of `key`, which is `at`.
    pub fn clear(&mut self, key: usize, at: Instant) {
        self.queue.remove(&(at, key));
    }

    /// The first deadline.
    pub fn first(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes one that is over at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<usize> {
        match self.queue.first() {
            Some((at, _)) if *at <= now => self.queue.pop_first().map(|(_, key)| key),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_is_taken_once_in_order_and_none_before_its_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::default();
        assert!(deadlines.set(1, None, at(30)));
        assert!(!deadlines.set(2, None, at(50)));
        assert!(deadlines.set(3, None, at(10)));
        assert!(deadlines.set(2, Some(at(50)), at(5)));
        deadlines.clear(3, at(10));
        assert_eq!(deadlines.first(), Some(at(5)));
        assert_eq!(deadlines.take_due(at(4)), None);
        assert_eq!(deadlines.take_due(at(30)), Some(2));
        assert_eq!(deadlines.take_due(at(30)), Some(1));
        assert_eq!((deadlines.take_due(at(99)), deadlines.first()), (None, None));
    }
}
