//! The JSON body by which a provider tells an error beside its status, whichever provider it is.
//!
//! | written by | body |
//! |---|---|
//! | OpenAI, vLLM, DashScope's compatible mode | `{"error":{"message","type","param","code"}}` |
//! | Anthropic | `{"type":"error","error":{"type","message"},"request_id"}` |
//! | Gemini | `{"error":{"code":429,"message","status"}}`, the same in a list |
//! | DashScope | `{"code","message","request_id"}` |
//! | older vLLM | `{"object":"error","message","type","param","code":400}` |
//! | Ollama, web frameworks | `{"error":"…"}`, `{"message":"…"}`, `{"detail":"…"}` |

use super::json::{Malformed, Value};
use super::text::{Text, push_plain};

/// What an error's body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// What happened, in the provider's words; never empty.
    pub message: String,
    /// Its word for that: its code, or else its type; empty where there is neither.
    pub code: String,
    /// The message stands where OpenAI's clients look for it.
    pub is_openai: bool,
}

impl Refusal {
    /// Reads a body; `None` where nothing in it is known to be an error's message.
    pub fn read(body: &[u8]) -> Option<Self> {
        Self::of(Value::of(body).ok()?).ok().flatten()
    }

    fn of(body: Value<'_>) -> Result<Option<Self>, Malformed> {
        let body = match body.items().next() {
            Some(first) => first?,
            None => body,
        };
        let [error, detail] = body.members([b"error", b"detail"])?;
        let told = if error.is_object() { error } else { body };
        let [message, code, kind, state] =
            told.members([b"message", b"code", b"type", b"status"])?;
        let Some(message) = [message, error, detail].into_iter().find_map(Value::text) else {
            return Ok(None);
        };
        // A number as a code repeats the status.
        let code = [code, kind, state].into_iter().find_map(Value::text).unwrap_or_default();
        Ok(Some(Self { message: plain(message), code: plain(code), is_openai: error.is_object() }))
    }
}

/// The text that the content of a JSON string stands for.
fn plain(content: &[u8]) -> String {
    let (mut whole, mut out) = (Vec::new(), Vec::new());
    Text::Json(content).push_json(&mut whole);
    push_plain(&whole, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, ErrorText};
    use super::*;

    fn read(body: &str) -> Option<(String, String)> {
        Refusal::read(body.as_bytes()).map(|refusal| (refusal.message, refusal.code))
    }

    #[test]
    fn every_providers_body_is_read() {
        for (body, message, code) in [
            (r#"{"error":{"message":"a","type":"t","param":null,"code":"c"}}"#, "a", "c"),
            (r#"{"error":{"message":"a","type":"t","param":null,"code":null}}"#, "a", "t"),
            (r#"{"type":"error","error":{"type":"o","message":"a"},"request_id":"r"}"#, "a", "o"),
            (r#"{"error":{"code":429,"message":"a","status":"EXHAUSTED"}}"#, "a", "EXHAUSTED"),
            (r#" [{"error":{"code":429,"message":"a","status":"E"}}] "#, "a", "E"),
            (r#"{"code":"InvalidApiKey","message":"a","request_id":"r"}"#, "a", "InvalidApiKey"),
            (r#"{"object":"error","message":"a","type":"B","param":null,"code":400}"#, "a", "B"),
            (r#"{"error":"a"}"#, "a", ""),
            (r#"{"detail":"Not Found"}"#, "Not Found", ""),
            (r#"{"message":"\u4f60\"\n"}"#, "你\"\n", ""),
        ] {
            assert_eq!(read(body), Some((message.to_owned(), code.to_owned())), "{body}");
        }
        for body in [
            "",
            "<html>",
            "{}",
            "[]",
            "[1]",
            "{\"error\":{}}",
            "{\"error\":",
            "\"a\"",
            "{\"error\":7}",
        ] {
            assert_eq!(read(body), None, "{body}");
        }
    }

    #[test]
    fn our_own_bodies_are_read_in_every_dialect() {
        let text = ErrorText {
            status: 503,
            code: "word",
            message: "it \"broke\"\n\u{2028}",
            request_id: "r",
            sequence: 0,
        };
        for dialect in Dialect::ALL {
            let mut body = Vec::new();
            dialect.error_body(&text, &mut body);
            let refusal = Refusal::read(&body).expect("a message");
            assert_eq!(refusal.message, text.message, "{dialect}");
            assert_eq!(refusal.is_openai, *dialect != Dialect::DashScope, "{dialect}");
        }
    }
}
