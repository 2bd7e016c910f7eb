//! How an exchange ended. Good ends have names too: the access log and the metrics say the same
//! word, and every path through the relay yields exactly one of them.

use std::fmt;

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The one named end of an exchange.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Outcome { $($(#[$doc])* $name,)* }

        impl Outcome {
            /// Every outcome, in the order of its metric cells.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The number of outcomes.
            pub const COUNT: usize = Self::ALL.len();

            /// The word in the access log and in the `outcome` label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

outcomes! {
    /// The upstream finished its body, and its dialect's last event was seen where it has one.
    Done = "done",
    /// The upstream ended its body in order, but without its dialect's last event, or by closing
    /// a connection whose close is the only sign of an end.
    UpstreamClosed = "upstream_closed",
    /// The upstream closed before the body was whole.
    UpstreamTruncated = "upstream_truncated",
    /// The upstream reset the connection while it answered.
    UpstreamReset = "upstream_reset",
    /// The upstream broke the protocol: a malformed head, chunk or length.
    UpstreamProtocol = "upstream_protocol",
    /// A frame of a stream that is told in other words is longer than `--max-frame-bytes`.
    FrameTooLarge = "frame_too_large",
    /// No upstream connection could be made.
    UpstreamUnreachable = "upstream_unreachable",
    /// The upstream closed or reset before its first byte, and no retry was left or allowed.
    UpstreamNoAnswer = "upstream_no_answer",
    /// Connecting took longer than `--connect-timeout`.
    ConnectTimeout = "connect_timeout",
    /// No response head and first frame within `--first-byte-timeout`.
    FirstByteTimeout = "first_byte_timeout",
    /// No byte from upstream within `--idle-timeout`.
    IdleTimeout = "idle_timeout",
    /// The stream lasted longer than `--stream-timeout`.
    StreamTimeout = "stream_timeout",
    /// The client left: it closed or reset its connection.
    ClientGone = "client_gone",
    /// The client took no byte within `--write-timeout`.
    ClientStalled = "client_stalled",
    /// The client read so much slower than another reader of its stream that what it still wanted
    /// was no longer kept.
    ClientLagging = "client_lagging",
    /// The client asked for the end of its stream.
    Cancelled = "cancelled",
    /// A client wanted to go on with a stream that is not known, or not its own.
    StreamUnknown = "stream_unknown",
    /// A client wanted to go on where frames are no longer kept.
    StreamGap = "stream_gap",
    /// The client did not send its request in time.
    RequestTimeout = "request_timeout",
    /// The client's request was malformed, too large, or not of a kind the relay carries.
    RequestRefused = "request_refused",
    /// The relay was full.
    Overloaded = "overloaded",
    /// The stream was cut because the drain grace ran out.
    Drained = "drained",
    /// A fault of the relay itself, caught so that it ended this stream alone.
    Panicked = "panicked",
}

impl Outcome {
    /// Whether a limit of time ran out on the upstream's side.
    pub const fn is_timeout(self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout | Self::FirstByteTimeout | Self::IdleTimeout | Self::StreamTimeout
        )
    }

    /// Whether the attempt failed before the upstream said anything.
    pub const fn is_before_first_byte(self) -> bool {
        matches!(self, Self::UpstreamNoAnswer | Self::FirstByteTimeout)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_in_cell_order() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            assert_eq!(Outcome::ALL.iter().filter(|o| o.as_str() == outcome.as_str()).count(), 1);
        }
    }
}
