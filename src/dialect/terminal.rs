//! The events that end a stream.

use memchr::{memchr2, memrchr2};

use super::Dialect;
use crate::sse::event::{Field, fields, skip_gap};

/// Names of events that end an OpenAI Responses stream. `response.done` and `done` are not in its
/// reference, but compatible services and older interfaces send them.
const RESPONSES_ENDS: &[&[u8]] = &[
    b"response.completed",
    b"response.failed",
    b"response.incomplete",
    b"response.cancelled",
    b"response.done",
    b"error",
    b"done",
];
const ANTHROPIC_ENDS: &[&[u8]] = &[b"message_stop", b"error"];

impl Dialect {
    /// Bytes of a frame that suffice for [`Dialect::is_terminal`].
    pub const TERMINAL_PREFIX_BYTES: usize = 40;

    /// Whether a frame that begins with `frame_prefix` is the last of its stream: the dialect's
    /// end mark or its error. Always false where the dialect has none
    /// ([`Dialect::has_terminal`]).
    ///
    /// `frame_prefix` is the frame, or at least its first [`Self::TERMINAL_PREFIX_BYTES`] bytes.
    /// `[DONE]` must be the whole value: OpenAI's Python client takes any value that begins so,
    /// its Node client takes only this.
    pub fn is_terminal(self, frame_prefix: &[u8]) -> bool {
        if !self.has_terminal() {
            return false;
        }
        let frame = skip_gap(frame_prefix, false);
        let frame = &frame[..frame.len().min(Self::TERMINAL_PREFIX_BYTES)];
        if is_ordinary(frame) {
            return false;
        }
        // A line that the prefix cuts off may go on, so only whole lines are compared as such.
        let whole = memrchr2(b'\n', b'\r', frame).map_or(0, |end| end + 1);
        fields(&frame[..whole]).any(|field| self.is_end_mark(&field))
            || fields(frame).any(|field| field.name == b"data" && self.is_end_data(field.value))
    }

    /// Whether a whole line is an end mark.
    fn is_end_mark(self, field: &Field<'_>) -> bool {
        match (self, field.name) {
            (Self::OpenAiChat | Self::OpenAiResponses, b"data") => field.value == b"[DONE]",
            (Self::OpenAiResponses, b"event") => RESPONSES_ENDS.contains(&field.value),
            (Self::Anthropic, b"event") => ANTHROPIC_ENDS.contains(&field.value),
            _ => false,
        }
    }

    /// Whether data that begins with `value` is the JSON of a last event, for streams whose
    /// events have no names.
    fn is_end_data(self, value: &[u8]) -> bool {
        match self {
            Self::OpenAiChat => is_error_object(value),
            Self::OpenAiResponses => has_type(value, RESPONSES_ENDS),
            Self::Anthropic => has_type(value, ANTHROPIC_ENDS),
            Self::Gemini | Self::DashScope | Self::Generic => false,
        }
    }
}

/// Whether these bytes are one frame, and that nothing but a long line of JSON whose first member is
/// neither `error` nor `type`: nearly all of a stream's frames are, and none of them is an end.
#[inline]
pub fn is_ordinary_frame(frame: &[u8]) -> bool {
    frame.len() > Dialect::TERMINAL_PREFIX_BYTES + 2
        && begins_ordinary(frame)
        && frame.ends_with(b"\n\n")
        && memchr2(b'\n', b'\r', &frame[ORDINARY.len()..]) == Some(frame.len() - 2 - ORDINARY.len())
}

/// How such a frame begins.
const ORDINARY: &[u8; 8] = b"data: {\"";

#[inline]
fn begins_ordinary(frame: &[u8]) -> bool {
    frame.starts_with(ORDINARY) && !matches!(frame.get(ORDINARY.len()), None | Some(b'e' | b't'))
}

/// Whether a frame begins like one.
fn is_ordinary(frame: &[u8]) -> bool {
    begins_ordinary(frame) && memchr2(b'\n', b'\r', &frame[ORDINARY.len()..]).is_none()
}

/// Whether JSON that begins with `text` is an object whose first member is an `error` that is not
/// null.
fn is_error_object(text: &[u8]) -> bool {
    first_member(text, b"error").is_some_and(|value| matches!(value.first(), Some(b'{' | b'"')))
}

/// Whether JSON that begins with `text` is an object whose first member is a `type` from `ends`.
fn has_type(text: &[u8], ends: &[&[u8]]) -> bool {
    let value = first_member(text, b"type").and_then(|value| value.strip_prefix(b"\""));
    let Some(value) = value else { return false };
    ends.iter().any(|end| value.strip_prefix(*end).is_some_and(|rest| rest.starts_with(b"\"")))
}

/// The value of the object's first member if that member is `name`.
fn first_member<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let text = text.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    let text = text.strip_prefix(b"\"")?.strip_prefix(name)?.strip_prefix(b"\"")?;
    Some(text.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: &[(Dialect, &[&str])] = &[
        (
            Dialect::OpenAiChat,
            &[
                "data: [DONE]\n\n",
                "data:[DONE]\n\n",
                "data: [DONE]\r\n\r\n",
                "data: [DONE]\r\r",
                "\n\r\ndata: [DONE]\n\n",
                ": bye\ndata: [DONE]\n\n",
                "event: done\ndata: [DONE]\n\n",
                "data: {\"error\":{\"message\":\"x\"}}\n\n",
                "data: { \"error\" : {\"message\":\"x\"}}\n\n",
                "data:{\"error\":\"x\"}\n\n",
            ],
        ),
        (
            Dialect::OpenAiResponses,
            &[
                "event: response.completed\ndata: {}\n\n",
                "event:response.failed\ndata:{}\n\n",
                "event: response.incomplete\ndata: {}\n\n",
                "event: response.done\r\ndata: {}\r\n\r\n",
                "event: error\ndata: {}\n\n",
                "event: done\ndata: {}\n\n",
                "data: [DONE]\n\n",
                "data:[DONE]\n\n",
                "data: {\"type\":\"response.completed\",\"response\":{}}\n\n",
                "data: {\"type\": \"response.incomplete\",\"response\":{}}\n\n",
                "data: {\"type\":\"error\",\"code\":null}\n\n",
            ],
        ),
        (
            Dialect::Anthropic,
            &[
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                "event:message_stop\ndata:{\"type\":\"message_stop\"}\n\n",
                "data: {\"type\": \"message_stop\"}\n\n",
                "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n",
                "data: {\"type\":\"error\",\"error\":{}}\n\n",
            ],
        ),
    ];

    const LOOKALIKES: &[&str] = &[
        "",
        "\n\n",
        "data: [DONE] x\n\n",
        "data: [DONE]",
        "data: x[DONE]\n\n",
        "data:  [DONE]\n\n",
        "data: \"[DONE]\"\n\n",
        ": data: [DONE]\n\n",
        ":[DONE]\n\n",
        "datum: [DONE]\n\n",
        "id: [DONE]\n\n",
        "data: {\"error\":null,\"choices\":[]}\n\n",
        "data: {\"errors\":{}}\n\n",
        "data: {\"id\":\"x\",\"error\":{}}\n\n",
        "data: {\"type\":\"message_stopped\"}\n\n",
        "data: {\"type\":\"message_delta\"}\n\n",
        "data: {\"text\":\"message_stop\"}\n\n",
        "event: message_stops\ndata: {}\n\n",
        "event: response.completed.not\ndata: {}\n\n",
        "event: response.output_text.done\ndata: {}\n\n",
        "event: errors\ndata: {}\n\n",
        "data: event: message_stop\n\n",
        // Cut in the middle of a name by the prefix's length, the rest would read `error`.
        ": twenty-seven bytes of text\nevent: errors\ndata: {}\n\n",
        "data: the story ends with [DONE]\n\n",
    ];

    #[test]
    fn every_end_of_a_dialect_is_known_also_by_its_prefix() {
        for (dialect, frames) in ENDS {
            assert!(dialect.has_terminal());
            for frame in *frames {
                let bytes = frame.as_bytes();
                assert!(dialect.is_terminal(bytes), "{dialect}: {frame:?}");
                let prefix = &bytes[..bytes.len().min(Dialect::TERMINAL_PREFIX_BYTES)];
                assert!(dialect.is_terminal(prefix), "{dialect}: prefix of {frame:?}");
            }
        }
    }

    #[test]
    fn lookalikes_are_not_taken_for_ends() {
        for dialect in Dialect::ALL {
            for frame in LOOKALIKES {
                assert!(!dialect.is_terminal(frame.as_bytes()), "{dialect}: {frame:?}");
            }
        }
    }

    #[test]
    fn a_prefix_and_its_frame_always_say_the_same() {
        let all = ENDS.iter().flat_map(|(_, frames)| *frames).chain(LOOKALIKES);
        for frame in all.map(|frame| frame.as_bytes()) {
            let prefix = &frame[..frame.len().min(Dialect::TERMINAL_PREFIX_BYTES)];
            for dialect in Dialect::ALL {
                assert_eq!(dialect.is_terminal(frame), dialect.is_terminal(prefix));
            }
        }
    }

    #[test]
    fn dialects_without_an_end_mark_have_none() {
        for dialect in [Dialect::Gemini, Dialect::DashScope, Dialect::Generic] {
            assert!(!dialect.has_terminal());
            for frame in ENDS.iter().flat_map(|(_, frames)| *frames) {
                assert!(!dialect.is_terminal(frame.as_bytes()), "{dialect}: {frame:?}");
            }
        }
    }

    #[test]
    fn the_ends_of_one_dialect_end_no_other() {
        assert!(!Dialect::OpenAiChat.is_terminal(b"event: message_stop\ndata: {}\n\n"));
        assert!(!Dialect::Anthropic.is_terminal(b"data: [DONE]\n\n"));
        assert!(!Dialect::OpenAiResponses.is_terminal(b"event: message_stop\ndata: {}\n\n"));
    }
}
