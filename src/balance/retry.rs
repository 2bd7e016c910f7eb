//! Whether a failed attempt is followed by another, and after what wait.
//!
//! The law: nothing is retried once a byte of the response went downstream. Before that, a
//! connection that could not be made and a reused one that closed before its first byte are
//! always retried; an answer of the upstream (429, 5xx), or the loss of a *fresh* connection that
//! had the request, only where the plan says so, because the upstream may have begun to work.

use std::time::Duration;

use crate::error::{Failure, Retryable};

/// How often and after what waits.
#[derive(Clone, Debug)]
pub struct RetryRule {
    /// Retries after the first attempt.
    pub retries: u32,
    /// First step of the backoff.
    pub backoff: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// Statuses that are retried.
    pub statuses: Vec<u16>,
    /// Also retry a request whose bytes reached a fresh connection that then failed.
    pub posts: bool,
}

impl RetryRule {
    /// The wait before the next attempt after `failure`, or `None` for no further one.
    /// `attempts` have been made; `replayable` says the request can be sent again; `jitter` is
    /// uniform in 0..1.
    pub fn after_failure(
        &self,
        failure: &Failure,
        attempts: u32,
        replayable: bool,
        jitter: f64,
    ) -> Option<Duration> {
        match failure.retryable {
            // The pool held a dead connection: that is no sign of trouble, so no wait, and not
            // one of the retries either (each dead connection leaves the pool, so this ends).
            Retryable::Reused if replayable => Some(Duration::ZERO),
            Retryable::Always if attempts <= self.retries => Some(self.backoff(attempts, jitter)),
            Retryable::Never
                if self.posts
                    && replayable
                    && attempts <= self.retries
                    && failure.outcome.is_before_first_byte() =>
            {
                Some(self.backoff(attempts, jitter))
            }
            _ => None,
        }
    }

    /// The wait before the next attempt after an answer with `status`, or `None` to pass it on.
    /// Retry-After is obeyed; one longer than the longest wait means that waiting is pointless.
    pub fn after_status(
        &self,
        status: u16,
        retry_after: Option<Duration>,
        attempts: u32,
        replayable: bool,
        jitter: f64,
    ) -> Option<Duration> {
        if !replayable || attempts > self.retries || !self.statuses.contains(&status) {
            return None;
        }
        match retry_after {
            Some(wait) if wait > self.backoff_max => None,
            Some(wait) => Some(wait),
            None => Some(self.backoff(attempts, jitter)),
        }
    }

    /// Exponential with full jitter: uniform between 0 and `backoff` · 2ⁿ, at most `backoff_max`.
    fn backoff(&self, attempts: u32, jitter: f64) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        doubled.min(self.backoff_max).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// Reads a Retry-After value (RFC 9110, section 10.2.3): seconds, or a date to compare with
/// `now`.
pub fn retry_after(value: &[u8], now: std::time::SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Phase;
    use crate::outcome::Outcome;

    fn rule() -> RetryRule {
        RetryRule {
            retries: 2,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            statuses: vec![429, 503],
            posts: false,
        }
    }

    fn failure(retryable: Retryable) -> Failure {
        Failure::upstream(Phase::Head, Outcome::UpstreamNoAnswer, "closed").retryable(retryable)
    }

    #[test]
    fn a_failed_connect_is_tried_again_with_growing_waits() {
        let rule = rule();
        let wait = |attempts| rule.after_failure(&failure(Retryable::Always), attempts, true, 1.0);
        assert_eq!(wait(1), Some(Duration::from_secs(1)));
        assert_eq!(wait(2), Some(Duration::from_secs(2)));
        assert_eq!(wait(3), None);
        let half = rule.after_failure(&failure(Retryable::Always), 2, true, 0.5);
        assert_eq!(half, Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_dead_pooled_connection_costs_no_wait_but_needs_the_request_again() {
        let rule = rule();
        let again = rule.after_failure(&failure(Retryable::Reused), 1, true, 1.0);
        assert_eq!(again, Some(Duration::ZERO));
        assert_eq!(rule.after_failure(&failure(Retryable::Reused), 1, false, 1.0), None);
    }

    #[test]
    fn a_request_that_reached_a_fresh_connection_is_retried_only_where_told() {
        let mut rule = rule();
        assert_eq!(rule.after_failure(&failure(Retryable::Never), 1, true, 1.0), None);
        rule.posts = true;
        assert!(rule.after_failure(&failure(Retryable::Never), 1, true, 1.0).is_some());
        assert_eq!(rule.after_failure(&failure(Retryable::Never), 1, false, 1.0), None);
    }

    #[test]
    fn statuses_are_retried_where_told_and_retry_after_is_obeyed() {
        let rule = rule();
        let second = Some(Duration::from_secs(1));
        assert_eq!(rule.after_status(500, None, 1, true, 1.0), None);
        assert_eq!(rule.after_status(429, None, 1, true, 1.0), second);
        assert_eq!(
            rule.after_status(429, Some(Duration::from_secs(7)), 1, true, 0.0).unwrap().as_secs(),
            7
        );
        assert_eq!(rule.after_status(429, Some(Duration::from_secs(31)), 1, true, 0.0), None);
        assert_eq!(rule.after_status(429, None, 3, true, 1.0), None);
    }

    #[test]
    fn retry_after_reads_seconds_and_dates() {
        let now = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(b" 12 ", now), Some(Duration::from_secs(12)));
        let date = b"Sun, 06 Nov 1994 08:49:47 GMT";
        assert_eq!(retry_after(date, now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after(b"soon", now), None);
    }
}
