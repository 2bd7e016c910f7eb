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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::{Event, Message, Parser, Scanner};

    #[test]
    fn a_heartbeat_is_one_frame_and_means_nothing() {
        for dialect in Dialect::ALL {
            let Some(frame) = dialect.heartbeat() else {
                continue;
            };
            let mut scanner = Scanner::new();
            assert_eq!(scanner.next_frame(frame), Some(frame.len()), "{dialect}");
            assert!(!dialect.is_terminal(frame));
            assert_eq!(Dialect::from_first_frame(frame), None);
            let event = Event::parse(frame);
            if *dialect == Dialect::Anthropic {
                assert_eq!(event.event, Some(&b"ping"[..]));
                let data = event.data.unwrap_or_default();
                let data: serde_json::Value = serde_json::from_slice(&data).unwrap();
                assert_eq!(data, serde_json::json!({"type": "ping"}));
            } else {
                assert_eq!(event, Event::default(), "{dialect}");
            }
        }
    }

    #[test]
    fn heartbeats_between_any_two_frames_change_no_event() {
        let frames: [&[u8]; 3] =
            [b"id:1\ndata: a\n\n", b"event: e\r\ndata: b\r\n\r", b"\ndata: c\n\n"];
        let read = |stream: &[u8]| {
            let (mut parser, mut messages) = (Parser::new(1 << 10), Vec::<Message>::new());
            parser.feed(stream, &mut messages).unwrap();
            messages.retain(|message| message.event != b"ping");
            messages
        };
        for dialect in Dialect::ALL {
            let beat = dialect.heartbeat().unwrap_or_default();
            assert_eq!(read(&frames.join(beat)), read(&frames.concat()), "{dialect}");
        }
    }
}
