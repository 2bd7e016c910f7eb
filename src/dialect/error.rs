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
        let ErrorText {
            status,
            code,
            message,
            request_id,
            sequence,
        } = *text;
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
                push_json(
                    out,
                    &Plain {
                        code,
                        message,
                        request_id,
                    },
                );
            }
            Self::Generic => {
                out.extend_from_slice(b"event: error\ndata: ");
                push_json(
                    out,
                    &Plain {
                        code,
                        message,
                        request_id,
                    },
                );
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
        let ErrorText {
            code,
            message,
            request_id,
            ..
        } = *text;
        let plain = Plain {
            code,
            message,
            request_id,
        };
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
    Wrapped {
        error: OpenAiError {
            message: text.message,
            kind,
            param: (),
            code: text.code,
        },
    }
}

fn anthropic<'a>(text: &ErrorText<'a>, request_id: Option<&'a str>) -> AnthropicError<'a> {
    let error = AnthropicDetail {
        kind: anthropic_type(text.status),
        message: text.message,
    };
    AnthropicError {
        kind: "error",
        error,
        request_id,
    }
}

fn gemini<'a>(text: &ErrorText<'a>) -> Wrapped<GeminiError<'a>> {
    let status = gemini_status(text.status);
    Wrapped {
        error: GeminiError {
            code: text.status,
            message: text.message,
            status,
        },
    }
}

const fn open_ai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout",
        429 => "rate_limit_exceeded",
        400..=499 => "invalid_request_error",
        503 | 529 => "service_unavailable",
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
