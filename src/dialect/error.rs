//! A failure of the relay, told in the words of each provider.

use serde::Serialize;

use super::Dialect;

/// What is to be told, before it takes a dialect's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorText<'a> {
    /// The HTTP status that says it, also where the head has gone and it cannot be sent.
    pub status: u16,
    /// The outcome's word, e.g. `upstream_truncated`.
    pub code: &'a str,
    /// One line for people. May hold any character; it is escaped here.
    pub message: &'a str,
    /// The exchange's request id.
    pub request_id: &'a str,
    /// Frames the stream has brought so far; the Responses dialect numbers its events from 0, so
    /// this is the error's own `sequence_number`.
    pub sequence: u64,
}

impl Dialect {
    /// Appends one whole frame, blank line included, that tells a failure within the stream. It
    /// may go only between frames, and the connection must be aborted behind it: no dialect's end
    /// mark follows.
    ///
    /// | dialect | frame |
    /// |---|---|
    /// | openai-chat | `data: {"error":{"message","type","param":null,"code"}}` |
    /// | openai-responses | `event: error`, `data: {"type":"error","code","message","param":null,"sequence_number"}` |
    /// | anthropic | `event: error`, `data: {"type":"error","error":{"type","message"}}` |
    /// | gemini | `data: {"error":{"code","message","status"}}` |
    /// | dashscope | `event:error`, `status:N`, `data:{"code","message","request_id"}`; its client library compares the name with no space stripped |
    /// | generic | `event: error`, `data: {"code","message","request_id"}` |
    pub fn error_frame(self, text: &ErrorText<'_>, out: &mut Vec<u8>) {
        let ErrorText { status, code, message, request_id, sequence } = *text;
        match self {
            Self::OpenAiChat => {
                out.extend_from_slice(b"data: ");
                push_json(out, &open_ai(text));
            }
            Self::OpenAiResponses => {
                out.extend_from_slice(b"event: error\ndata: ");
                let error = ResponsesError {
                    kind: "error",
                    code,
                    message,
                    param: (),
                    sequence_number: sequence,
                };
                push_json(out, &error);
            }
            Self::Anthropic => {
                out.extend_from_slice(b"event: error\ndata: ");
                push_json(out, &anthropic(text, None));
            }
            Self::Gemini => {
                out.extend_from_slice(b"data: ");
                push_json(out, &gemini(text));
            }
            Self::DashScope => {
                out.extend_from_slice(b"event:error\nstatus:");
                out.extend_from_slice(status.to_string().as_bytes());
                out.extend_from_slice(b"\ndata:");
                push_json(out, &Plain { code, message, request_id });
            }
            Self::Generic => {
                out.extend_from_slice(b"event: error\ndata: ");
                push_json(out, &Plain { code, message, request_id });
            }
        }
        out.extend_from_slice(b"\n\n");
    }

    /// Appends the JSON body that tells a failure before the head was sent; the status is the
    /// caller's to send.
    ///
    /// | dialect | body |
    /// |---|---|
    /// | openai-chat, openai-responses | `{"error":{"message","type","param":null,"code"}}` |
    /// | anthropic | `{"type":"error","error":{"type","message"},"request_id"}` |
    /// | gemini | `{"error":{"code","message","status"}}` |
    /// | dashscope | `{"code","message","request_id"}` |
    /// | generic | `{"error":{"code","message","request_id"}}` |
    pub fn error_body(self, text: &ErrorText<'_>, out: &mut Vec<u8>) {
        let ErrorText { code, message, request_id, .. } = *text;
        let plain = Plain { code, message, request_id };
        match self {
            Self::OpenAiChat | Self::OpenAiResponses => push_json(out, &open_ai(text)),
            Self::Anthropic => push_json(out, &anthropic(text, Some(request_id))),
            Self::Gemini => push_json(out, &gemini(text)),
            Self::DashScope => push_json(out, &plain),
            Self::Generic => push_json(out, &Wrapped { error: plain }),
        }
    }
}

#[derive(Serialize)]
struct Wrapped<T> {
    error: T,
}

/// DashScope's error, and ours where the stream has no provider's.
#[derive(Serialize)]
struct Plain<'a> {
    code: &'a str,
    message: &'a str,
    request_id: &'a str,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: (),
    code: &'a str,
}

#[derive(Serialize)]
struct ResponsesError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    code: &'a str,
    message: &'a str,
    param: (),
    sequence_number: u64,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicDetail<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicDetail<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct GeminiError<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
}

fn open_ai<'a>(text: &ErrorText<'a>) -> Wrapped<OpenAiError<'a>> {
    let kind = open_ai_type(text.status);
    Wrapped { error: OpenAiError { message: text.message, kind, param: (), code: text.code } }
}

fn anthropic<'a>(text: &ErrorText<'a>, request_id: Option<&'a str>) -> AnthropicError<'a> {
    let error = AnthropicDetail { kind: anthropic_type(text.status), message: text.message };
    AnthropicError { kind: "error", error, request_id }
}

fn gemini<'a>(text: &ErrorText<'a>) -> Wrapped<GeminiError<'a>> {
    let status = gemini_status(text.status);
    Wrapped { error: GeminiError { code: text.status, message: text.message, status } }
}

const fn open_ai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        408 | 504 => "timeout",
        429 => "rate_limit_exceeded",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

const fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

const fn gemini_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        400..=498 => "INVALID_ARGUMENT",
        502 | 503 | 529 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}

/// Appends `value` on one line: JSON escapes CR and LF, so it is one `data` line.
fn push_json(out: &mut Vec<u8>, value: &impl Serialize) {
    let begin = out.len();
    // Strings and numbers into memory: neither side can fail. Were it to, an empty object is
    // still a whole frame.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(begin);
        out.extend_from_slice(b"{}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::{Event, Scanner};
    use serde_json::{Value, json};

    /// A message with all that could break a frame or a string.
    const NASTY: &str = "cut \"here\"\r\n\ndata: [DONE]\r\0\u{2028}\\";

    const TEXT: ErrorText<'_> = ErrorText {
        status: 503,
        code: "upstream_truncated",
        message: NASTY,
        request_id: "r-1",
        sequence: 42,
    };

    fn frame(dialect: Dialect, text: &ErrorText<'_>) -> (Vec<u8>, Option<Vec<u8>>, Value) {
        let mut out = Vec::new();
        dialect.error_frame(text, &mut out);
        assert_eq!(Scanner::new().next_frame(&out), Some(out.len()), "{dialect}: one frame");
        let event = Event::parse(&out);
        let name = event.event.map(<[u8]>::to_vec);
        let data = serde_json::from_slice(&event.data.unwrap_or_default()).unwrap();
        (out, name, data)
    }

    fn body(dialect: Dialect, text: &ErrorText<'_>) -> Value {
        let mut out = Vec::new();
        dialect.error_body(text, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    fn name(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn frames_read_back_as_their_provider_writes_them() {
        let code = TEXT.code;
        let (_, event, data) = frame(Dialect::OpenAiChat, &TEXT);
        assert_eq!(event, None);
        let error = json!({"message": NASTY, "type": "server_error", "param": null,
            "code": code});
        assert_eq!(data, json!({ "error": error }));

        let (_, event, data) = frame(Dialect::OpenAiResponses, &TEXT);
        assert_eq!(event, name("error"));
        let error = json!({"type": "error", "code": code, "message": NASTY, "param": null,
            "sequence_number": 42});
        assert_eq!(data, error);

        let (_, event, data) = frame(Dialect::Anthropic, &TEXT);
        assert_eq!(event, name("error"));
        let error = json!({"type": "overloaded_error", "message": NASTY});
        assert_eq!(data, json!({"type": "error", "error": error}));

        let (_, event, data) = frame(Dialect::Gemini, &TEXT);
        assert_eq!(event, None);
        let error = json!({"code": 503, "message": NASTY, "status": "UNAVAILABLE"});
        assert_eq!(data, json!({ "error": error }));

        let plain = json!({"code": code, "message": NASTY, "request_id": "r-1"});
        let (bytes, event, data) = frame(Dialect::DashScope, &TEXT);
        assert!(bytes.starts_with(b"event:error\nstatus:503\ndata:{"), "no space behind a colon");
        assert_eq!((event, &data), (name("error"), &plain));

        let (_, event, data) = frame(Dialect::Generic, &TEXT);
        assert_eq!((event, &data), (name("error"), &plain));
    }

    #[test]
    fn gemini_frames_have_data_lines_only() {
        let (bytes, ..) = frame(Dialect::Gemini, &TEXT);
        assert!(bytes.starts_with(b"data: {"));
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 2);
    }

    #[test]
    fn an_error_frame_ends_the_stream_where_the_dialect_knows_ends() {
        for dialect in Dialect::ALL {
            let (bytes, ..) = frame(*dialect, &TEXT);
            // Never the mark of a *whole* stream: that would be a forged end.
            let lines: Vec<_> = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).collect();
            assert!(!lines.contains(&b"data: [DONE]".as_slice()));
            let by_own_rule = *dialect == Dialect::OpenAiChat && bytes.starts_with(b"data: {\"err");
            let named = matches!(dialect, Dialect::OpenAiResponses | Dialect::Anthropic);
            assert_eq!(dialect.is_terminal(&bytes), by_own_rule || named, "{dialect}");
        }
    }

    #[test]
    fn bodies_have_their_providers_shape() {
        let text = ErrorText { status: 429, code: "overloaded", ..TEXT };
        let open_ai = json!({"error": {"message": NASTY, "type": "rate_limit_exceeded",
            "param": null, "code": "overloaded"}});
        assert_eq!(body(Dialect::OpenAiChat, &text), open_ai);
        assert_eq!(body(Dialect::OpenAiResponses, &text), open_ai);
        let error = json!({"type": "rate_limit_error", "message": NASTY});
        let anthropic = json!({"type": "error", "error": error, "request_id": "r-1"});
        assert_eq!(body(Dialect::Anthropic, &text), anthropic);
        let error = json!({"code": 429, "message": NASTY, "status": "RESOURCE_EXHAUSTED"});
        assert_eq!(body(Dialect::Gemini, &text), json!({ "error": error }));
        let plain = json!({"code": "overloaded", "message": NASTY, "request_id": "r-1"});
        assert_eq!(body(Dialect::DashScope, &text), plain);
        assert_eq!(body(Dialect::Generic, &text), json!({ "error": plain }));
    }

    #[test]
    fn statuses_become_each_providers_words() {
        let cases = [
            (400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
            (401, "authentication_error", "authentication_error", "UNAUTHENTICATED"),
            (403, "permission_error", "permission_error", "PERMISSION_DENIED"),
            (404, "invalid_request_error", "not_found_error", "NOT_FOUND"),
            (408, "timeout", "timeout_error", "DEADLINE_EXCEEDED"),
            (413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT"),
            (429, "rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"),
            (499, "invalid_request_error", "invalid_request_error", "CANCELLED"),
            (500, "server_error", "api_error", "INTERNAL"),
            (502, "server_error", "api_error", "UNAVAILABLE"),
            (503, "server_error", "overloaded_error", "UNAVAILABLE"),
            (504, "timeout", "timeout_error", "DEADLINE_EXCEEDED"),
            (529, "server_error", "overloaded_error", "UNAVAILABLE"),
        ];
        for (status, open_ai, anthropic, gemini) in cases {
            let words = (open_ai_type(status), anthropic_type(status), gemini_status(status));
            assert_eq!(words, (open_ai, anthropic, gemini), "{status}");
        }
    }

    #[test]
    fn what_stood_in_the_buffer_stays() {
        let mut out = b"before".to_vec();
        Dialect::Generic.error_body(&TEXT, &mut out);
        assert!(out.starts_with(b"before{"));
    }
}
