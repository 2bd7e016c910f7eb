//! How each provider's stream talks: how it is recognised, kept alive, ended, and how a failure
//! is told in it.
//!
//! - [`detect`](Dialect::from_request) the dialect from a request or a first frame;
//! - [`Dialect::heartbeat`] frames that the provider's own client library takes as nothing;
//! - [`Dialect::is_terminal`]: whether a frame says that the stream is complete;
//! - [`Dialect::error_frame`] and [`Dialect::error_body`], from one [`ErrorText`];
//! - [`peek()`](peek::peek): `model` and `stream` of a request body.
//!
//! Recognition never holds bytes back: a wrong guess costs a better word in the log, not a byte.

mod detect;
mod error;
mod heartbeat;
pub mod json;
pub mod peek;
pub mod read;
pub mod refusal;
mod terminal;
pub mod text;

pub use error::ErrorText;
pub use peek::{Peek, peek};
pub use terminal::is_ordinary_frame;

/// How one provider's stream talks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// OpenAI Chat Completions and Completions, and all that copies them: ends with `[DONE]`.
    OpenAiChat,
    /// OpenAI Responses: named, numbered events; ends with `response.completed` and its like.
    OpenAiResponses,
    /// Anthropic Messages: named events; ends with `message_stop`.
    Anthropic,
    /// Google Gemini `streamGenerateContent?alt=sse`: bare `data` lines without a last event.
    Gemini,
    /// DashScope native: no space behind colons, a comment within each event, no last event.
    DashScope,
    /// Any other event stream.
    #[default]
    Generic,
}

impl Dialect {
    /// Every dialect, in the order of its metric cells.
    pub const ALL: &'static [Self] = &[
        Self::OpenAiChat,
        Self::OpenAiResponses,
        Self::Anthropic,
        Self::Gemini,
        Self::DashScope,
        Self::Generic,
    ];

    /// The word in the access log, in labels and in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai-chat",
            Self::OpenAiResponses => "openai-responses",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::DashScope => "dashscope",
            Self::Generic => "generic",
        }
    }

    /// Whether a whole stream of this dialect ends with an event that says so. Where it does, a
    /// body that ends without one was cut, however orderly the connection closed.
    pub const fn has_terminal(self) -> bool {
        matches!(self, Self::OpenAiChat | Self::OpenAiResponses | Self::Anthropic)
    }
}

impl std::fmt::Display for Dialect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_in_cell_order() {
        for (index, dialect) in Dialect::ALL.iter().enumerate() {
            assert_eq!(*dialect as usize, index);
            assert_eq!(Dialect::ALL.iter().filter(|d| d.as_str() == dialect.as_str()).count(), 1);
        }
    }
}
