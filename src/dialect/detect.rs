//! Which dialect a stream speaks.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Dialect;
use crate::limits::PEEK_BODY_BYTES_MAX;
use crate::sse::event::{Event, Line, lines, skip_gap};

impl Dialect {
    /// The dialect of the answer to a request for `path` (its query may be on it); `field` says
    /// whether the request has a header field of that name, asked in lower case.
    ///
    /// | dialect | recognised by |
    /// |---|---|
    /// | openai-chat | a path that ends with `/completions` (so `/chat/completions` too) |
    /// | openai-responses | `/responses`, `/responses/{id}` |
    /// | anthropic | `/v1/messages`, or any `/messages` with an `anthropic-version` field |
    /// | gemini | `:streamGenerateContent` |
    /// | dashscope | `/services/aigc/` in the path, or an `x-dashscope-sse` field |
    /// | generic | all else |
    pub fn from_request(path: &str, field: impl Fn(&str) -> bool) -> Self {
        let end = memchr::memchr2(b'?', b'#', path.as_bytes());
        let path = &path[..end.unwrap_or(path.len())];
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.ends_with("/completions") {
            Self::OpenAiChat
        } else if path.ends_with("/responses") || path.contains("/responses/") {
            Self::OpenAiResponses
        } else if path.ends_with("/v1/messages")
            || path.ends_with("/messages") && field("anthropic-version")
        {
            Self::Anthropic
        } else if path.ends_with(":streamGenerateContent") {
            Self::Gemini
        } else if path.contains("/services/aigc/") || field("x-dashscope-sse") {
            Self::DashScope
        } else {
            Self::Generic
        }
    }

    /// The dialect that a stream's first frame gives away, where the request did not: `None` if
    /// this frame does not tell (a comment, say), and the next one may.
    pub fn from_first_frame(frame: &[u8]) -> Option<Self> {
        let frame = skip_gap(frame, true);
        if frame.len() > PEEK_BODY_BYTES_MAX {
            return None;
        }
        let status =
            |line| matches!(line, Line::Comment(text) if text.starts_with(b"HTTP_STATUS/"));
        if lines(frame).any(status) {
            return Some(Self::DashScope);
        }
        let event = Event::parse(frame);
        let data = event.data?;
        if *data == *b"[DONE]" {
            return Some(Self::OpenAiChat);
        }
        let probe: Probe<'_> = serde_json::from_slice(&data).ok()?;
        let kind = probe.kind.as_deref().unwrap_or_default();
        let object = probe.object.as_deref().unwrap_or_default();
        if kind == "message_start" {
            Some(Self::Anthropic)
        } else if kind.starts_with("response.") {
            Some(Self::OpenAiResponses)
        } else if matches!(object, "chat.completion.chunk" | "text_completion")
            || probe.choices.is_some()
        {
            Some(Self::OpenAiChat)
        } else if probe.candidates.is_some() {
            Some(Self::Gemini)
        } else if probe.output.is_some() && probe.request_id.is_some() {
            Some(Self::DashScope)
        } else {
            None
        }
    }
}

/// The members by which the first event of a dialect is known.
#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    object: Option<std::borrow::Cow<'a, str>>,
    choices: Option<IgnoredAny>,
    candidates: Option<IgnoredAny>,
    output: Option<IgnoredAny>,
    request_id: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_known_by_path_and_fields() {
        let cases: &[(&str, &[&str], Dialect)] = &[
            ("/v1/chat/completions", &[], Dialect::OpenAiChat),
            ("/chat/completions/", &[], Dialect::OpenAiChat),
            ("/openai/deployments/x/chat/completions?api-version=1", &[], Dialect::OpenAiChat),
            ("/compatible-mode/v1/chat/completions", &["x-dashscope-sse"], Dialect::OpenAiChat),
            ("/v1beta/openai/chat/completions", &[], Dialect::OpenAiChat),
            ("/v1/completions", &[], Dialect::OpenAiChat),
            ("/v1/responses", &[], Dialect::OpenAiResponses),
            ("/v1/responses/resp_1?stream=true", &[], Dialect::OpenAiResponses),
            ("/v1/messages", &[], Dialect::Anthropic),
            ("/v1/messages?beta=true", &["anthropic-version"], Dialect::Anthropic),
            ("/api/messages", &["anthropic-version"], Dialect::Anthropic),
            ("/api/messages", &[], Dialect::Generic),
            ("/v1beta/models/g:streamGenerateContent?alt=sse", &[], Dialect::Gemini),
            ("/v1beta/models/g:generateContent", &[], Dialect::Generic),
            ("/api/v1/services/aigc/text-generation/generation", &[], Dialect::DashScope),
            ("/api/v1/apps/7/completion", &["x-dashscope-sse"], Dialect::DashScope),
            ("/events", &[], Dialect::Generic),
            ("/search?next=/v1/chat/completions", &[], Dialect::Generic),
            ("", &[], Dialect::Generic),
            ("*", &[], Dialect::Generic),
        ];
        for (path, fields, dialect) in cases {
            let got = Dialect::from_request(path, |name| fields.contains(&name));
            assert_eq!(got, *dialect, "{path} with {fields:?}");
        }
    }

    #[test]
    fn first_frames_give_their_dialect_away() {
        let cases: &[(&str, Option<Dialect>)] = &[
            (
                "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\n",
                Some(Dialect::OpenAiChat),
            ),
            ("\u{feff}data:{\"choices\":[]}\r\n\r\n", Some(Dialect::OpenAiChat)),
            ("data: [DONE]\n\n", Some(Dialect::OpenAiChat)),
            (
                "event: response.created\ndata: {\"type\":\"response.created\"}\n\n",
                Some(Dialect::OpenAiResponses),
            ),
            (
                "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n",
                Some(Dialect::Anthropic),
            ),
            ("data: {\"candidates\": [{}]}\r\n\r\n", Some(Dialect::Gemini)),
            ("id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n", Some(Dialect::DashScope)),
            ("data:{\"output\":{},\"request_id\":\"r\"}\n\n", Some(Dialect::DashScope)),
            (": OPENROUTER PROCESSING\n\n", None),
            ("data: {\"output\":1}\n\n", None),
            ("data: {\"type\":7}\n\n", None),
            ("data: hello\n\n", None),
            ("data\n\n", None),
            ("", None),
        ];
        for (frame, dialect) in cases {
            assert_eq!(Dialect::from_first_frame(frame.as_bytes()), *dialect, "{frame:?}");
        }
        let huge = format!("data: {{\"choices\":[],\"x\":\"{}\"}}\n\n", "x".repeat(1 << 20));
        assert_eq!(Dialect::from_first_frame(huge.as_bytes()), None);
    }
}
