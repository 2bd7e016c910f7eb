//! What the mock says: prose by seed, told as each provider tells it. Shapes are those of the
//! providers' published API references.

use serde_json::{Value, json};

use super::script::Script;
use crate::dialect::{Dialect, ErrorText};

const WORDS: [&str; 24] = [
    "a",
    "stream",
    "of",
    "small",
    "words",
    "arrives",
    "one",
    "by",
    "one",
    "and",
    "nobody",
    "waits",
    "模型",
    "逐字",
    "回答",
    "🙂",
    "\"quoted\"",
    "back\\slash",
    "line\nbreak",
    "naïve",
    "the",
    "relay",
    "carries",
    "it",
];

/// One answer, frame by frame.
pub struct Answer<'a> {
    script: &'a Script,
    dialect: Dialect,
    model: String,
    id: String,
    usage: bool,
    incremental: bool,
    tokens: Vec<String>,
}

/// What of a request the answer depends on.
#[derive(Debug, Default)]
pub struct Asked {
    /// The model asked for.
    pub model: String,
    /// A stream is wanted.
    pub stream: bool,
    /// A usage chunk is wanted (OpenAI).
    pub usage: bool,
    /// Deltas instead of the text so far (DashScope).
    pub incremental: bool,
}

impl Asked {
    /// Reads a request's body; what is not JSON asks for nothing.
    pub fn read(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        Self {
            model: body["model"].as_str().unwrap_or("mock").to_owned(),
            stream: body["stream"].as_bool().unwrap_or(false),
            usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            incremental: body["parameters"]["incremental_output"].as_bool().unwrap_or(false),
        }
    }
}

impl<'a> Answer<'a> {
    /// The answer to `asked` by `script`.
    pub fn new(script: &'a Script, dialect: Dialect, asked: Asked) -> Self {
        let mut rng = fastrand::Rng::with_seed(script.seed);
        let id = format!("mock{:016x}", rng.u64(..));
        let tokens = (0..script.tokens).map(|_| {
            let mut token = format!("{} ", WORDS[rng.usize(..WORDS.len())]);
            while token.len() < script.size {
                token.push('.');
            }
            token
        });
        let tokens = tokens.collect();
        let (usage, incremental) = (asked.usage, asked.incremental);
        Self { script, dialect, model: asked.model, id, usage, incremental, tokens }
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.tokens.concat()
    }

    /// Every frame in order, line ends as the script says.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = match self.dialect {
            Dialect::OpenAiChat => self.openai(),
            Dialect::OpenAiResponses => self.responses(),
            Dialect::Anthropic => self.anthropic(),
            Dialect::DashScope => self.dashscope(),
            Dialect::Gemini => self.gemini(),
            Dialect::Generic => self.plain(),
        };
        if self.script.no_terminal {
            frames.pop();
        }
        if self.script.huge > 0 {
            let huge = format!(": huge\ndata: {}\n\n", "x".repeat(self.script.huge));
            frames.insert(frames.len() / 2, huge);
        }
        if let Some(at) = self.script.error_at {
            frames.truncate(at as usize);
            let error = ErrorText {
                status: 529,
                code: "overloaded",
                message: "the mock was told to fail here",
                request_id: &self.id,
                sequence: u64::from(at),
            };
            let mut frame = Vec::new();
            self.dialect.error_frame(&error, &mut frame);
            frames.push(String::from_utf8_lossy(&frame).into_owned());
        }
        let eol = self.script.eol;
        let ends = |frame: String| {
            if eol == "\n" { frame } else { frame.replace('\n', eol) }
        };
        frames.into_iter().map(|frame| ends(frame).into_bytes()).collect()
    }

    fn openai(&self) -> Vec<String> {
        let chunk = |choices: Value, usage: Value| {
            let mut chunk = json!({
                "id": format!("chatcmpl-{}", self.id), "object": "chat.completion.chunk",
                "created": 1_700_000_000, "model": self.model, "system_fingerprint": null,
                "choices": choices,
            });
            if self.usage {
                chunk["usage"] = usage;
            }
            format!("data: {chunk}\n\n")
        };
        let delta = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        let role = delta(json!({"role": "assistant", "content": ""}), Value::Null);
        let mut frames = vec![chunk(role, Value::Null)];
        for token in &self.tokens {
            frames.push(chunk(delta(json!({"content": token}), Value::Null), Value::Null));
        }
        frames.push(chunk(delta(json!({}), json!("stop")), Value::Null));
        if self.usage {
            frames.push(chunk(json!([]), self.openai_usage()));
        }
        frames.push("data: [DONE]\n\n".to_owned());
        frames
    }

    fn openai_usage(&self) -> Value {
        let n = self.tokens.len();
        json!({"prompt_tokens": 7, "completion_tokens": n, "total_tokens": n + 7})
    }

    fn anthropic(&self) -> Vec<String> {
        let event = |data: Value| {
            format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
        };
        let mut message = self.anthropic_message();
        message["content"] = json!([]);
        message["stop_reason"] = Value::Null;
        message["usage"]["output_tokens"] = json!(1);
        let mut frames = vec![
            event(json!({"type": "message_start", "message": message})),
            event(json!({"type": "content_block_start", "index": 0,
                "content_block": {"type": "text", "text": ""}})),
            event(json!({"type": "ping"})),
        ];
        for token in &self.tokens {
            frames.push(event(json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": token}})));
        }
        frames.push(event(json!({"type": "content_block_stop", "index": 0})));
        frames.push(event(json!({"type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": self.tokens.len()}})));
        frames.push(event(json!({"type": "message_stop"})));
        frames
    }

    fn anthropic_message(&self) -> Value {
        json!({"id": format!("msg_{}", self.id), "type": "message", "role": "assistant",
            "model": self.model, "content": [{"type": "text", "text": self.text()}],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 7, "output_tokens": self.tokens.len()}})
    }

    fn responses(&self) -> Vec<String> {
        let mut sequence = 0;
        let mut event = |mut data: Value| {
            data["sequence_number"] = json!(sequence);
            sequence += 1;
            format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
        };
        let item = format!("msg_{}", self.id);
        let started = self.response("in_progress");
        let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
        let place = json!({"item_id": item, "output_index": 0, "content_index": 0});
        let placed = |mut data: Value| {
            for (key, value) in place.as_object().into_iter().flatten() {
                data[key] = value.clone();
            }
            data
        };
        let mut frames = vec![
            event(json!({"type": "response.created", "response": started})),
            event(json!({"type": "response.in_progress", "response": started})),
            event(json!({"type": "response.output_item.added", "output_index": 0, "item": {
                "id": item, "type": "message", "status": "in_progress", "role": "assistant",
                "content": []}})),
            event(placed(json!({"type": "response.content_part.added", "part": part("")}))),
        ];
        for token in &self.tokens {
            frames.push(event(placed(
                json!({"type": "response.output_text.delta", "delta": token, "logprobs": []}),
            )));
        }
        let text = self.text();
        frames.push(event(placed(
            json!({"type": "response.output_text.done", "text": text, "logprobs": []}),
        )));
        frames.push(event(placed(
            json!({"type": "response.content_part.done", "part": part(&text)}),
        )));
        let done = self.response("completed");
        frames.push(event(json!({"type": "response.output_item.done", "output_index": 0,
            "item": done["output"][0]})));
        frames.push(event(json!({"type": "response.completed", "response": done})));
        frames
    }

    fn response(&self, status: &str) -> Value {
        let done = status == "completed";
        let output = json!([{"id": format!("msg_{}", self.id), "type": "message",
            "status": "completed", "role": "assistant", "content": [
                {"type": "output_text", "text": self.text(), "annotations": []}]}]);
        let n = self.tokens.len();
        let usage = json!({"input_tokens": 7, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": n, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": n + 7});
        json!({"id": format!("resp_{}", self.id), "object": "response",
            "created_at": 1_700_000_000, "status": status, "model": self.model, "error": null,
            "incomplete_details": null, "instructions": null, "metadata": {},
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "temperature": 1.0,
            "top_p": 1.0, "output": if done { output } else { json!([]) },
            "usage": if done { usage } else { Value::Null }})
    }

    fn dashscope(&self) -> Vec<String> {
        let mut so_far = String::new();
        let last = self.tokens.len().saturating_sub(1);
        let frames = self.tokens.iter().enumerate().map(|(n, token)| {
            so_far.push_str(token);
            let text = if self.incremental { token } else { &so_far };
            let data = self.dashscope_data(text, if n == last { "stop" } else { "null" }, n + 1);
            format!("id:{}\nevent:result\n:HTTP_STATUS/200\ndata:{data}\n\n", n + 1)
        });
        frames.collect()
    }

    fn dashscope_data(&self, text: &str, finish: &str, output: usize) -> Value {
        json!({"output": {"text": text, "finish_reason": finish},
            "usage": {"input_tokens": 7, "output_tokens": output, "total_tokens": output + 7},
            "request_id": self.id})
    }

    fn gemini(&self) -> Vec<String> {
        let last = self.tokens.len().saturating_sub(1);
        let frames = self.tokens.iter().enumerate().map(|(n, token)| {
            let mut candidate = json!({"index": 0,
                "content": {"parts": [{"text": token}], "role": "model"}});
            if n == last {
                candidate["finishReason"] = json!("STOP");
            }
            let data = json!({"candidates": [candidate], "modelVersion": self.model,
                "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": n + 1,
                    "totalTokenCount": n + 8}});
            format!("data: {data}\n\n")
        });
        frames.collect()
    }

    fn plain(&self) -> Vec<String> {
        let tokens = self.tokens.iter().map(|token| token.replace('\n', "\ndata: "));
        let frames = tokens.map(|token| format!("data: {token}\n\n"));
        frames.chain(["data: [DONE]\n\n".to_owned()]).collect()
    }

    /// The whole answer as one JSON document.
    pub fn document(&self) -> Value {
        match self.dialect {
            Dialect::OpenAiChat => json!({"id": format!("chatcmpl-{}", self.id),
                "object": "chat.completion", "created": 1_700_000_000, "model": self.model,
                "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null,
                    "message": {"role": "assistant", "content": self.text(), "refusal": null}}],
                "usage": self.openai_usage()}),
            Dialect::OpenAiResponses => self.response("completed"),
            Dialect::Anthropic => self.anthropic_message(),
            Dialect::DashScope => self.dashscope_data(&self.text(), "stop", self.tokens.len()),
            Dialect::Gemini | Dialect::Generic => json!({"text": self.text()}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::event::Event;

    #[test]
    fn every_dialect_says_the_same_text_and_the_same_bytes_each_time() {
        for &dialect in Dialect::ALL {
            let script = Script { tokens: 40, seed: 3, eol: "\n", ..Script::default() };
            let asked = || Asked { incremental: true, ..Asked::default() };
            let answer = Answer::new(&script, dialect, asked());
            let frames = answer.frames();
            assert_eq!(frames, Answer::new(&script, dialect, asked()).frames());
            let mut text = String::new();
            for frame in &frames {
                let data = Event::parse(frame).data.expect("every frame has data");
                let data = String::from_utf8(data.into_owned()).expect("UTF-8");
                let json = serde_json::from_str::<Value>(&data).ok().filter(Value::is_object);
                let Some(json) = json else {
                    if data != "[DONE]" {
                        text.push_str(&data);
                    }
                    continue;
                };
                for pointer in [
                    "/choices/0/delta/content",
                    "/delta/text",
                    "/output/text",
                    "/candidates/0/content/parts/0/text",
                ] {
                    text.push_str(json.pointer(pointer).and_then(Value::as_str).unwrap_or(""));
                }
                text.push_str(json["delta"].as_str().unwrap_or(""));
            }
            assert_eq!(text, answer.text(), "{dialect:?}");
        }
    }
}
