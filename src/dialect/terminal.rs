//! The events that end a stream.

use memchr::memrchr2;

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

/// Whether JSON that begins with `text` is an object whose first member is an `error` that is not
/// null.
fn is_error_object(text: &[u8]) -> bool {
    first_member(text, b"error").is_some_and(|value| matches!(value.first(), Some(b'{' | b'"')))
}

/// Whether JSON that begins with `text` is an object whose first member is a `type` from `ends`.
fn has_type(text: &[u8], ends: &[&[u8]]) -> bool {
    let value = first_member(text, b"type").and_then(|value| value.strip_prefix(b"\""));
    let Some(value) = value else { return false };
    ends.iter().any(|end| {
        value
            .strip_prefix(*end)
            .is_some_and(|rest| rest.starts_with(b"\""))
    })
}

/// The value of the object's first member if that member is `name`.
fn first_member<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let text = text
        .trim_ascii_start()
        .strip_prefix(b"{")?
        .trim_ascii_start();
    let text = text
        .strip_prefix(b"\"")?
        .strip_prefix(name)?
        .strip_prefix(b"\"")?;
    Some(
        text.trim_ascii_start()
            .strip_prefix(b":")?
            .trim_ascii_start(),
    )
}
