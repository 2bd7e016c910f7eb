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

/// One answer, frame by frame; rendered as it is sent, however long it is.
pub struct Answer<'a> {
    pub(super) script: &'a Script,
    pub(super) dialect: Dialect,
    model: String,
    id: String,
    usage: bool,
    pub(super) incremental: bool,
    messages: bool,
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
    /// The answer as messages of choices (DashScope).
    pub messages: bool,
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
            messages: body["parameters"]["result_format"] == "message",
        }
    }
}

impl<'a> Answer<'a> {
    /// The answer to `asked` by `script`.
    pub fn new(script: &'a Script, dialect: Dialect, asked: Asked) -> Self {
        let id = format!("mock{:016x}", fastrand::Rng::with_seed(script.seed).u64(..));
        let Asked { model, usage, incremental, messages, .. } = asked;
        // Calls have a place in messages alone.
        let messages = messages || script.tools > 0;
        Self { script, dialect, model, id, usage, incremental, messages }
    }

    fn tokens(&self) -> impl Iterator<Item = String> + use<'a> {
        let script = self.script;
        let mut rng = fastrand::Rng::with_seed(script.seed.wrapping_add(1));
        (0..script.tokens).map(move |_| {
            let mut token = format!("{} ", WORDS[rng.usize(..WORDS.len())]);
            if token.len() < script.size {
                token.extend(std::iter::repeat_n('.', script.size - token.len()));
            }
            token
        })
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.tokens().collect()
    }

    /// Every frame in order, line ends as the script says.
    pub fn frames(&self) -> impl Iterator<Item = Vec<u8>> {
        let opening = self.opening();
        let whole = opening.len() + self.script.tokens as usize + self.closing_frames();
        let whole = whole - usize::from(self.script.no_terminal && whole > 0);
        let mut so_far = String::new();
        let tokens = self.tokens().enumerate();
        let tokens = tokens.map(move |(n, token)| self.token(n, &token, &mut so_far));
        let closing = std::iter::once_with(|| self.closing()).flatten();
        let frames = opening.into_iter().chain(tokens).chain(closing).take(whole);
        let huge = move |n| {
            let here = self.script.huge > 0 && n == whole / 2;
            here.then(|| format!(": huge\ndata: {}\n\n", "x".repeat(self.script.huge)))
        };
        let frames =
            frames.enumerate().flat_map(move |(n, frame)| huge(n).into_iter().chain([frame]));
        let kept = self.script.error_at.map_or(usize::MAX, |at| at as usize);
        let eol = self.script.eol;
        frames.take(kept).chain(self.script.error_at.map(|at| self.error(at))).map(move |frame| {
            if eol == "\n" { frame } else { frame.replace('\n', eol) }.into_bytes()
        })
    }

    fn error(&self, at: u32) -> String {
        let error = ErrorText {
            status: 529,
            code: "overloaded",
            message: "the mock was told to fail here",
            request_id: &self.id,
            sequence: u64::from(at),
        };
        let mut frame = Vec::new();
        self.dialect.error_frame(&error, &mut frame);
        String::from_utf8_lossy(&frame).into_owned()
    }

    /// The frames before the first token.
    fn opening(&self) -> Vec<String> {
        match self.dialect {
            Dialect::OpenAiChat => {
                let role = json!({"role": "assistant", "content": ""});
                vec![self.chunk(delta(&role, Value::Null), Value::Null)]
            }
            Dialect::OpenAiResponses => self.responses_opening(),
            Dialect::Anthropic => self.anthropic_opening(),
            Dialect::DashScope | Dialect::Gemini | Dialect::Generic => Vec::new(),
        }
    }

    /// The frame of token `n`; `so_far` collects the text where a dialect repeats it.
    fn token(&self, n: usize, token: &str, so_far: &mut String) -> String {
        let last = n + 1 == self.script.tokens as usize;
        match self.dialect {
            Dialect::OpenAiChat => {
                self.chunk(delta(&json!({"content": token}), Value::Null), Value::Null)
            }
            Dialect::OpenAiResponses => {
                let data = json!({"type": "response.output_text.delta", "delta": token,
                    "logprobs": []});
                numbered(RESPONSES_OPENING + n, self.placed(data))
            }
            Dialect::Anthropic => named(&json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": token}})),
            Dialect::DashScope => {
                if !self.incremental {
                    so_far.push_str(token);
                }
                let text = if self.incremental { token } else { so_far.as_str() };
                let finish = if last && !self.calls_tools() { "stop" } else { "null" };
                self.dashscope_frame(n + 1, &self.dashscope_data(text, finish, n + 1))
            }
            Dialect::Gemini => self.gemini(n, token, last),
            Dialect::Generic => format!("data: {}\n\n", token.replace('\n', "\ndata: ")),
        }
    }

    /// How many frames [`closing`](Self::closing) has.
    fn closing_frames(&self) -> usize {
        self.tool_frames_count()
            + match self.dialect {
                Dialect::OpenAiChat => 2 + usize::from(self.usage),
                Dialect::OpenAiResponses => 4,
                Dialect::Anthropic => 3,
                Dialect::DashScope | Dialect::Gemini => 0,
                Dialect::Generic => 1,
            }
    }

    /// The frames behind the last token.
    fn closing(&self) -> Vec<String> {
        let done = || "data: [DONE]\n\n".to_owned();
        match self.dialect {
            Dialect::OpenAiChat => {
                let finish = if self.calls_tools() { "tool_calls" } else { "stop" };
                let mut frames = self.tool_frames();
                frames.push(self.chunk(delta(&json!({}), json!(finish)), Value::Null));
                if self.usage {
                    frames.push(self.chunk(json!([]), self.openai_usage()));
                }
                frames.push(done());
                frames
            }
            Dialect::OpenAiResponses => self.responses_closing(),
            Dialect::Anthropic => {
                let mut frames = vec![named(&json!({"type": "content_block_stop", "index": 0}))];
                frames.extend(self.tool_frames());
                frames.push(named(&json!({"type": "message_delta",
                    "delta": {"stop_reason": self.anthropic_stop(), "stop_sequence": null},
                    "usage": {"output_tokens": self.script.tokens}})));
                frames.push(named(&json!({"type": "message_stop"})));
                frames
            }
            Dialect::DashScope => self.tool_frames(),
            Dialect::Gemini => Vec::new(),
            Dialect::Generic => vec![done()],
        }
    }

    fn anthropic_stop(&self) -> &'static str {
        if self.calls_tools() { "tool_use" } else { "end_turn" }
    }

    pub(super) fn chunk(&self, choices: Value, usage: Value) -> String {
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", self.id), "object": "chat.completion.chunk",
            "created": 1_700_000_000, "model": self.model, "system_fingerprint": null,
            "choices": choices,
        });
        if self.usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    }

    fn openai_usage(&self) -> Value {
        let n = self.script.tokens;
        json!({"prompt_tokens": 7, "completion_tokens": n, "total_tokens": n + 7})
    }

    fn anthropic_opening(&self) -> Vec<String> {
        let mut message = self.anthropic_message("");
        message["content"] = json!([]);
        message["stop_reason"] = Value::Null;
        message["usage"]["output_tokens"] = json!(1);
        vec![
            named(&json!({"type": "message_start", "message": message})),
            named(&json!({"type": "content_block_start", "index": 0,
                "content_block": {"type": "text", "text": ""}})),
            named(&json!({"type": "ping"})),
        ]
    }

    fn anthropic_message(&self, text: &str) -> Value {
        let mut content = vec![json!({"type": "text", "text": text})];
        content.extend(self.whole_calls());
        json!({"id": format!("msg_{}", self.id), "type": "message", "role": "assistant",
            "model": self.model, "content": content,
            "stop_reason": self.anthropic_stop(), "stop_sequence": null,
            "usage": {"input_tokens": 7, "output_tokens": self.script.tokens}})
    }

    fn responses_opening(&self) -> Vec<String> {
        let started = self.response("in_progress");
        let events: [Value; RESPONSES_OPENING] = [
            json!({"type": "response.created", "response": started}),
            json!({"type": "response.in_progress", "response": started}),
            json!({"type": "response.output_item.added", "output_index": 0, "item": {
                "id": format!("msg_{}", self.id), "type": "message", "status": "in_progress",
                "role": "assistant", "content": []}}),
            self.placed(json!({"type": "response.content_part.added", "part": part("")})),
        ];
        events.into_iter().enumerate().map(|(n, data)| numbered(n, data)).collect()
    }

    fn responses_closing(&self) -> Vec<String> {
        let text = self.text();
        let done = self.response("completed");
        let first = RESPONSES_OPENING + self.script.tokens as usize;
        let events = [
            self.placed(json!({"type": "response.output_text.done", "text": text, "logprobs": []})),
            self.placed(json!({"type": "response.content_part.done", "part": part(&text)})),
            json!({"type": "response.output_item.done", "output_index": 0,
                "item": done["output"][0]}),
            json!({"type": "response.completed", "response": done}),
        ];
        events.into_iter().enumerate().map(|(n, data)| numbered(first + n, data)).collect()
    }

    /// Says which part of the answer an event of the Responses API belongs to.
    fn placed(&self, mut data: Value) -> Value {
        data["item_id"] = json!(format!("msg_{}", self.id));
        data["output_index"] = json!(0);
        data["content_index"] = json!(0);
        data
    }

    fn response(&self, status: &str) -> Value {
        let done = status == "completed";
        let output = json!([{"id": format!("msg_{}", self.id), "type": "message",
            "status": "completed", "role": "assistant", "content": [
                {"type": "output_text", "text": self.text(), "annotations": []}]}]);
        let n = self.script.tokens;
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

    fn dashscope_data(&self, text: &str, finish: &str, output: usize) -> Value {
        let message = json!({"role": "assistant", "content": text});
        let said = if self.messages {
            json!({ "choices": [{"message": message, "finish_reason": finish}] })
        } else {
            json!({"text": text, "finish_reason": finish})
        };
        self.dashscope_answer(&said, output)
    }

    pub(super) fn dashscope_answer(&self, said: &Value, output: usize) -> Value {
        json!({"output": said,
            "usage": {"input_tokens": 7, "output_tokens": output, "total_tokens": output + 7},
            "request_id": self.id})
    }

    /// An event as DashScope frames it: no space behind the colons, its status in a comment.
    pub(super) fn dashscope_frame(&self, number: usize, data: &Value) -> String {
        format!("id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:{data}\n\n")
    }

    fn gemini(&self, n: usize, token: &str, last: bool) -> String {
        let mut candidate = json!({"index": 0,
            "content": {"parts": [{"text": token}], "role": "model"}});
        if last {
            candidate["finishReason"] = json!("STOP");
        }
        let data = json!({"candidates": [candidate], "modelVersion": self.model,
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": n + 1,
                "totalTokenCount": n + 8}});
        format!("data: {data}\n\n")
    }

    /// The whole answer as one JSON document.
    pub fn document(&self) -> Value {
        match self.dialect {
            Dialect::OpenAiChat => {
                let mut message =
                    json!({"role": "assistant", "content": self.text(), "refusal": null});
                if self.calls_tools() {
                    message["tool_calls"] = json!(self.whole_calls());
                }
                let finish = if self.calls_tools() { "tool_calls" } else { "stop" };
                json!({"id": format!("chatcmpl-{}", self.id),
                    "object": "chat.completion", "created": 1_700_000_000, "model": self.model,
                    "choices": [{"index": 0, "finish_reason": finish, "logprobs": null,
                        "message": message}],
                    "usage": self.openai_usage()})
            }
            Dialect::OpenAiResponses => self.response("completed"),
            Dialect::Anthropic => self.anthropic_message(&self.text()),
            Dialect::DashScope => {
                let finish = if self.calls_tools() { "tool_calls" } else { "stop" };
                let tokens = self.script.tokens as usize;
                let mut data = self.dashscope_data(&self.text(), finish, tokens);
                if self.calls_tools() {
                    data["output"]["choices"][0]["message"]["tool_calls"] =
                        json!(self.whole_calls());
                }
                data
            }
            Dialect::Gemini | Dialect::Generic => json!({"text": self.text()}),
        }
    }
}

/// Frames of the Responses API before the first token.
const RESPONSES_OPENING: usize = 4;

pub(super) fn delta(delta: &Value, finish: Value) -> Value {
    json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}])
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

/// An event named by its type.
pub(super) fn named(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// The same with its number (Responses API).
fn numbered(number: usize, mut data: Value) -> String {
    data["sequence_number"] = json!(number);
    named(&data)
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
            let frames: Vec<_> = answer.frames().collect();
            let again = Answer::new(&script, dialect, asked());
            assert_eq!(frames, again.frames().collect::<Vec<_>>());
            let parts = answer.opening().len() + 40 + answer.closing().len();
            assert_eq!((frames.len(), answer.closing().len()), (parts, answer.closing_frames()));
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
