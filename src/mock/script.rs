//! What one request asks of the mock: pacing and faults, by query (`mock_NAME=VALUE`) or header
//! (`X-Mock-NAME: VALUE`); the query wins.

use std::time::Duration;

/// Every name with what it does, as `/mock` shows them.
pub const NAMES: [(&str, &str); 27] = [
    ("tokens", "tokens of the answer"),
    ("tools", "tool calls behind the text (OpenAI chat, Anthropic, DashScope)"),
    ("rate", "tokens per second, 0 for as fast as it goes"),
    ("batch", "write so many tokens at once, at the same mean rate"),
    ("jitter", "percent by which each token's time varies, by seed"),
    ("seed", "seed of the text"),
    ("size", "pad each token to so many bytes"),
    ("head_delay", "milliseconds before the response head"),
    ("first_delay", "milliseconds before the first frame"),
    ("stall", "AFTER:MS, a silence after so many frames"),
    ("split", "write so many bytes at a time, each its own chunk"),
    ("eol", "lf, crlf or cr"),
    ("huge", "bytes of one huge frame in the middle"),
    ("status", "answer with this status and a JSON error"),
    ("strict", "1: refuse what the provider would (Anthropic, DashScope)"),
    ("early", "answer with this status before the body is read, then close"),
    ("retry_after", "seconds, beside status"),
    ("fail_first", "N:STATUS or N:close, for the first N requests with the same key"),
    ("key", "the key of fail_first"),
    ("error_at", "an in-band error frame after so many frames, then the end"),
    ("truncate", "close after so many body bytes, without an end"),
    ("reset_at", "reset the connection after so many body bytes"),
    ("bad_chunk", "a malformed chunk size after so many frames"),
    ("framing", "chunked, length or close"),
    ("gzip", "1: compress although identity was asked for"),
    ("no_terminal", "1: end in order, but without the last event"),
    ("odd", "interim, te_cl, chunk_ext or trailers: unusual shapes of the response"),
];

/// How the response body is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// HTTP chunks.
    #[default]
    Chunked,
    /// Content-Length.
    Length,
    /// The close ends it.
    Close,
}

/// A fault before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// An error status.
    Status(u16),
    /// The connection is closed without an answer.
    Close,
}

/// What one request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // see NAMES
pub struct Script {
    pub tokens: u32,
    pub tools: u32,
    pub rate: f64,
    pub batch: u32,
    pub jitter: u32,
    pub seed: u64,
    pub size: usize,
    pub head_delay: Duration,
    pub first_delay: Duration,
    pub stall: Option<(u32, Duration)>,
    pub split: usize,
    pub eol: &'static str,
    pub huge: usize,
    pub status: Option<u16>,
    pub strict: bool,
    pub early: Option<u16>,
    pub retry_after: Option<u64>,
    pub fail_first: Option<(u32, Failing)>,
    pub key: String,
    pub error_at: Option<u32>,
    pub truncate: Option<u64>,
    pub reset_at: Option<u64>,
    pub bad_chunk: Option<u32>,
    pub framing: Framing,
    pub gzip: bool,
    pub no_terminal: bool,
    pub odd: String,
}

impl Script {
    /// When frame `number` is due after the first.
    pub fn due(&self, number: u32) -> Duration {
        if self.rate <= 0.0 {
            return Duration::ZERO;
        }
        let batch = self.batch.max(1);
        let at = f64::from(number / batch * batch);
        let mut rng = fastrand::Rng::with_seed(self.seed ^ u64::from(number / batch) << 20);
        let early = f64::from(self.jitter) / 100.0 * rng.f64() * f64::from(batch);
        // Never before the frame in front of it: jitter takes at most one step away.
        let longest = Duration::from_secs(30 * 24 * 3600);
        let due = Duration::try_from_secs_f64((at - early).max(0.0) / self.rate);
        due.map_or(longest, |due| due.min(longest))
    }

    /// Takes one setting.
    ///
    /// # Errors
    /// The name is unknown or the value does not fit: one line for the caller.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("{name}: {value:?} does not fit; see GET /mock"))
        }
        let millis = || number(name, value).map(Duration::from_millis);
        match name {
            "tokens" => self.tokens = number(name, value)?,
            "tools" => self.tools = number::<u32>(name, value)?.min(100),
            "rate" => self.rate = number(name, value)?,
            "batch" => self.batch = number(name, value)?,
            "jitter" => self.jitter = number::<u32>(name, value)?.min(100),
            "seed" => self.seed = number(name, value)?,
            "size" => self.size = number::<usize>(name, value)?.min(1 << 20),
            "head_delay" => self.head_delay = millis()?,
            "first_delay" => self.first_delay = millis()?,
            "stall" => {
                let (after, ms) = value.split_once(':').unwrap_or((value, "1000"));
                let wait = Duration::from_millis(number(name, ms)?);
                self.stall = Some((number(name, after)?, wait));
            }
            "split" => self.split = number(name, value)?,
            "eol" => {
                self.eol = match value {
                    "lf" => "\n",
                    "crlf" => "\r\n",
                    "cr" => "\r",
                    _ => return Err("eol: write lf, crlf or cr".into()),
                }
            }
            "huge" => self.huge = number::<usize>(name, value)?.min(256 << 20),
            "status" => self.status = Some(number(name, value)?),
            "strict" => self.strict = value == "1",
            "early" => self.early = Some(number(name, value)?),
            "retry_after" => self.retry_after = Some(number(name, value)?),
            "fail_first" => {
                let (times, how) = value.split_once(':').unwrap_or((value, "503"));
                let how = match how {
                    "close" => Failing::Close,
                    status => Failing::Status(number(name, status)?),
                };
                self.fail_first = Some((number(name, times)?, how));
            }
            "key" => self.key = value.to_owned(),
            "error_at" => self.error_at = Some(number(name, value)?),
            "truncate" => self.truncate = Some(number(name, value)?),
            "reset_at" => self.reset_at = Some(number(name, value)?),
            "bad_chunk" => self.bad_chunk = Some(number(name, value)?),
            "framing" => {
                self.framing = match value {
                    "chunked" => Framing::Chunked,
                    "length" => Framing::Length,
                    "close" => Framing::Close,
                    _ => return Err("framing: write chunked, length or close".into()),
                }
            }
            "gzip" => self.gzip = value == "1",
            "no_terminal" => self.no_terminal = value == "1",
            "odd" => self.odd = value.to_owned(),
            _ => return Err(format!("{name}: no such setting; see GET /mock")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_at_the_rate_in_batches_and_with_jitter_in_order() {
        let steady = Script { rate: 20.0, ..Script::default() };
        assert_eq!(steady.due(40), Duration::from_secs(2));
        let batched = Script { batch: 10, ..steady.clone() };
        assert_eq!((batched.due(49), batched.due(50)), (steady.due(40), steady.due(50)));
        let varied = Script { jitter: 100, seed: 7, ..steady.clone() };
        let times: Vec<_> = (0..1000).map(|n| varied.due(n)).collect();
        assert!(
            times.is_sorted() && times[999] <= steady.due(999) && times != [steady.due(5); 1000]
        );
        assert_eq!(times, (0..1000).map(|n| varied.due(n)).collect::<Vec<_>>());
        assert_eq!(Script::default().due(9), Duration::ZERO);
    }

    #[test]
    fn every_documented_name_is_taken_and_no_other() {
        for (name, _) in NAMES {
            let value = match name {
                "eol" => "crlf",
                "framing" => "close",
                "stall" => "3:5",
                "fail_first" => "2:close",
                _ => "1",
            };
            let mut script = Script::default();
            assert_eq!(script.set(name, value), Ok(()), "{name}");
            assert_ne!(script, Script::default(), "{name} changes nothing");
        }
        assert!(Script::default().set("tokns", "1").is_err());
        assert!(Script::default().set("tokens", "x").is_err());
    }
}
