//! Frames that keep a silent stream alive and mean nothing.

use super::Dialect;

impl Dialect {
    /// One whole frame, blank line included, to insert at a frame boundary after a silence;
    /// `None` where the dialect's client libraries bear none.
    ///
    /// | dialect | frame | why |
    /// |---|---|---|
    /// | openai-chat, generic | a comment | the standard's own advice (HTML, section 9.2.7) |
    /// | anthropic | `event: ping` | what the API itself sends; its clients expect the type in the data |
    /// | dashscope | `:keepalive` | what its agents send, without a space |
    /// | openai-responses | none | strict clients number the events, and the API sends no idle ones |
    /// | gemini | none | Google's Python client takes any line without `data: ` for a JSON error body |
    pub const fn heartbeat(self) -> Option<&'static [u8]> {
        match self {
            Self::OpenAiChat | Self::Generic => Some(b": keepalive\n\n"),
            Self::Anthropic => Some(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"),
            Self::DashScope => Some(b":keepalive\n\n"),
            Self::OpenAiResponses | Self::Gemini => None,
        }
    }
}
