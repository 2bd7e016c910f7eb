//! Tool calls behind the mock's text, and the requests that a provider would refuse.

use serde_json::{Value, json};

use super::text::{Answer, delta, named};
use crate::dialect::Dialect;

/// The tool that is called.
const TOOL: &str = "look_up";

/// Frames that one call takes in each dialect that has calls; 0 where the mock makes none.
const fn call_frames(dialect: Dialect) -> usize {
    match dialect {
        Dialect::OpenAiChat | Dialect::DashScope => 3,
        Dialect::Anthropic => 4,
        Dialect::OpenAiResponses | Dialect::Gemini | Dialect::Generic => 0,
    }
}

/// The arguments of call `n`, in two parts that cut a string.
fn arguments(n: usize) -> [String; 2] {
    ["{\"query\": \"模".to_owned(), format!("型 \\\"{n}\\\"\"}}")]
}

impl Answer<'_> {
    /// Whether the answer ends with calls.
    pub(super) fn calls_tools(&self) -> bool {
        self.script.tools > 0 && call_frames(self.dialect) > 0
    }

    /// How many frames [`tool_frames`](Self::tool_frames) has.
    pub(super) fn tool_frames_count(&self) -> usize {
        self.script.tools as usize * call_frames(self.dialect)
    }

    /// The frames of all calls.
    pub(super) fn tool_frames(&self) -> Vec<String> {
        (0..self.script.tools as usize).flat_map(|n| self.call(n)).collect()
    }

    fn call(&self, n: usize) -> Vec<String> {
        let [first, second] = arguments(n);
        match self.dialect {
            Dialect::OpenAiChat => {
                let part = |call: Value| {
                    self.chunk(delta(&json!({ "tool_calls": [call] }), Value::Null), Value::Null)
                };
                let more = |text: &str| part(json!({"index": n, "function": {"arguments": text}}));
                let head = json!({"index": n, "id": format!("call_{n}"), "type": "function",
                    "function": {"name": TOOL, "arguments": ""}});
                vec![part(head), more(&first), more(&second)]
            }
            Dialect::Anthropic => {
                // Block 0 is the text.
                let index = n + 1;
                let more = |text: &str| {
                    named(&json!({"type": "content_block_delta", "index": index,
                        "delta": {"type": "input_json_delta", "partial_json": text}}))
                };
                let block = json!({"type": "tool_use", "id": format!("call_{n}"), "name": TOOL,
                    "input": {}});
                vec![
                    named(&json!({"type": "content_block_start", "index": index,
                        "content_block": block})),
                    more(&first),
                    more(&second),
                    named(&json!({"type": "content_block_stop", "index": index})),
                ]
            }
            Dialect::DashScope => self.dashscope_call(n, &first, &second),
            Dialect::OpenAiResponses | Dialect::Gemini | Dialect::Generic => Vec::new(),
        }
    }

    fn dashscope_call(&self, n: usize, first: &str, second: &str) -> Vec<String> {
        let whole = format!("{first}{second}");
        let parts = if self.incremental { ["", first, second] } else { ["", first, &whole] };
        let earlier = |n: usize| tool_call(n, &arguments(n).concat());
        let frames = (0..).zip(parts).map(|(part, text)| {
            let mut calls: Vec<Value> =
                if self.incremental { Vec::new() } else { (0..n).map(earlier).collect() };
            calls.push(tool_call(n, text));
            let last = n + 1 == self.script.tools as usize && part == 2;
            let said = if self.incremental { String::new() } else { self.text() };
            let message = json!({"role": "assistant", "content": said, "tool_calls": calls});
            let finish = if last { "tool_calls" } else { "null" };
            let output = json!({ "choices": [{"message": message, "finish_reason": finish}] });
            let number = self.script.tokens as usize + n * call_frames(self.dialect) + part;
            let tokens = self.script.tokens as usize;
            self.dashscope_frame(number + 1, &self.dashscope_answer(&output, tokens))
        });
        frames.collect()
    }

    /// The calls of an answer that is no stream, as its dialect has them.
    pub(super) fn whole_calls(&self) -> Vec<Value> {
        let call = |n: usize| match self.dialect {
            Dialect::Anthropic => json!({"type": "tool_use", "id": format!("call_{n}"),
                "name": TOOL, "input": {"query": format!("模型 \"{n}\"")}}),
            _ => tool_call(n, &arguments(n).concat()),
        };
        (0..self.script.tools as usize).map(call).collect()
    }
}

/// A call in the words that OpenAI and DashScope share.
fn tool_call(n: usize, arguments: &str) -> Value {
    json!({"index": n, "id": format!("call_{n}"), "type": "function",
        "function": {"name": TOOL, "arguments": arguments}})
}

/// Why the provider that speaks `dialect` would refuse this request, as far as the mock knows its
/// rules: those that a request made for another provider breaks first.
pub(super) fn refusal(dialect: Dialect, body: &[u8]) -> Option<String> {
    /// Members of a request of Anthropic's Messages.
    const ANTHROPIC: [&str; 15] = [
        "model",
        "messages",
        "max_tokens",
        "system",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "tools",
        "tool_choice",
        "metadata",
        "thinking",
        "service_tier",
        "container",
    ];
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match dialect {
        Dialect::Anthropic => {
            if !body["max_tokens"].is_u64() {
                return Some("max_tokens: Field required".to_owned());
            }
            if let Some(name) = body
                .as_object()
                .and_then(|object| object.keys().find(|name| !ANTHROPIC.contains(&name.as_str())))
            {
                return Some(format!("{name}: Extra inputs are not permitted"));
            }
            if !(body["stop_sequences"].is_null() || body["stop_sequences"].is_array()) {
                return Some("stop_sequences: Input should be a valid list".to_owned());
            }
            for (n, message) in list(&body["messages"]).iter().enumerate() {
                let role = message["role"].as_str().unwrap_or_default();
                if !matches!(role, "user" | "assistant") {
                    return Some(format!("messages: Unexpected role {role:?} at {n}"));
                }
                if !message["tool_calls"].is_null() {
                    return Some(format!(
                        "messages.{n}.tool_calls: Extra inputs are not permitted"
                    ));
                }
            }
            let wrong = |tool: &Value| !tool["function"].is_null() || !tool["name"].is_string();
            let n = list(&body["tools"]).iter().position(wrong)?;
            Some(format!("tools.{n}.name: Field required"))
        }
        Dialect::DashScope => {
            let input = &body["input"];
            let has = input["prompt"].is_string() || input["messages"].is_array();
            (!has).then(|| "Required body invalid: no input".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::super::text::Asked;
    use super::*;
    use crate::dialect::read::{Delta, Finish, Increments, Reader};

    #[test]
    fn calls_are_read_as_they_were_meant() {
        let script = Script { tokens: 3, tools: 2, eol: "\n", ..Script::default() };
        for (dialect, incremental) in [
            (Dialect::OpenAiChat, true),
            (Dialect::Anthropic, true),
            (Dialect::DashScope, true),
            (Dialect::DashScope, false),
        ] {
            let asked = Asked { incremental, ..Asked::default() };
            let answer = Answer::new(&script, dialect, asked);
            let increments = if incremental { Increments::New } else { Increments::SoFar };
            let mut reader = Reader::new(dialect, increments);
            let (mut calls, mut text) = (vec![Vec::new(); 2], Vec::new());
            let mut finished = false;
            for frame in answer.frames() {
                reader.read(&frame, &mut |delta| match delta {
                    Delta::ToolCall(part) => {
                        let into = &mut calls[part.call as usize];
                        part.arguments.into_iter().for_each(|text| text.push_json(into));
                    }
                    Delta::Text { text: part, .. } => part.push_json(&mut text),
                    Delta::Finish { reason, .. } => finished |= reason == Finish::ToolCalls,
                    Delta::Malformed | Delta::Error(_) => panic!("{dialect}: {delta:?}"),
                    _ => {}
                });
            }
            let plain = |json: &[u8]| -> String {
                let quoted = [b"\"", json, b"\""].concat();
                serde_json::from_slice(&quoted).expect("a string")
            };
            assert_eq!(plain(&text), answer.text(), "{dialect}");
            for (n, call) in calls.iter().enumerate() {
                assert_eq!(plain(call), arguments(n).concat(), "{dialect}");
                let whole: Value = serde_json::from_str(&plain(call)).expect("JSON");
                assert_eq!(whole["query"], format!("模型 \"{n}\""));
            }
            assert!(finished, "{dialect}");
        }
    }

    #[test]
    fn requests_for_another_provider_are_refused() {
        let refused = |dialect, body: &str| refusal(dialect, body.as_bytes());
        let anthropic = |body: &str| refused(Dialect::Anthropic, body);
        assert!(anthropic("{}").is_some_and(|why| why.starts_with("max_tokens")));
        for (member, why) in [
            (r#""stream_options":{}"#, "stream_options"),
            (r#""messages":[{"role":"system"}]"#, "Unexpected role \"system\""),
            (r#""messages":[{"role":"assistant","tool_calls":[]}]"#, "tool_calls"),
            (r#""tools":[{"type":"function","function":{}}]"#, "tools.0.name"),
            (r#""stop_sequences":"x""#, "stop_sequences"),
        ] {
            let told = anthropic(&format!("{{\"max_tokens\":1,{member}}}")).unwrap_or_default();
            assert!(told.contains(why), "{member}: {told}");
        }
        let fine = r#"{"max_tokens":1,"messages":[{"role":"user","content":"x"}],
            "tools":[{"name":"t","input_schema":{}}],"stop_sequences":["x"]}"#;
        assert_eq!(anthropic(fine), None);
        assert!(refused(Dialect::DashScope, r#"{"messages":[]}"#).is_some());
        assert_eq!(refused(Dialect::DashScope, r#"{"input":{"messages":[]}}"#), None);
        assert_eq!(refused(Dialect::OpenAiChat, "{}"), None);
    }
}
