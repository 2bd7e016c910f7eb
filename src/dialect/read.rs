//! What a frame says, whatever its dialect: text, reasoning, tool calls, the finish, usage, errors
//! and the end, as [`Delta`]s that borrow from the frame.
//!
//! | dialect | read |
//! |---|---|
//! | openai-chat | `choices[]`: `delta.content`, `.reasoning_content` or `.reasoning`, `.refusal`, `.tool_calls`, `finish_reason`; `text` of Completions; `usage`; `error`; `[DONE]`. vLLM, DeepSeek, DashScope's compatible mode and OpenRouter speak it too |
//! | openai-responses | `response.output_text.delta`, `.reasoning_text.delta`, `.reasoning_summary_text.delta`, `.refusal.delta`, function and custom tool calls, and the response's end in its four forms |
//! | anthropic | content blocks of text, thinking and tool use; `message_delta`, `message_stop`, `error` |
//! | gemini | `candidates[].content.parts[]`: text, thoughts, function calls; `usageMetadata`; `promptFeedback`; errors framed or not |
//! | dashscope | `output.text` or `output.choices[].message`; text so far is told as what is new in it |
//! | generic | the data as text, `[DONE]` as the end, `event: error` as an error |
//!
//! What is no text of the model for its reader is left out: signatures and redacted thinking,
//! citations, audio, log probabilities, and the calls of tools that the provider runs itself.
//!
//! Data that is not JSON where JSON is due and does not begin like it (a bare `ping`) says nothing.
//! Data that begins like JSON and is broken is [`Delta::Malformed`]: text may be missing, so the
//! stream can no longer be told as whole. So are more choices or calls than there can be.

mod anthropic;
mod dashscope;
mod gemini;
mod openai_chat;
mod openai_responses;
mod so_far;

use memchr::memchr2;

use super::Dialect;
use super::json::{Malformed, Value};
use super::text::Text;
use crate::limits::{CHOICES_MAX, TOOL_CALLS_MAX};
use crate::sse::event::{Line, fields, lines, skip_gap};
use so_far::SoFar;

/// What one frame says; in its order, several per frame at most dialects' last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delta<'a> {
    /// The stream names itself. Told once.
    Start(Start<'a>),
    /// Text of the answer.
    Text {
        /// The choice it belongs to, from 0.
        choice: u32,
        /// The text, never empty.
        text: Text<'a>,
    },
    /// Text of the model's reasoning.
    Reasoning {
        /// The choice it belongs to.
        choice: u32,
        /// The text, never empty.
        text: Text<'a>,
    },
    /// Why the model does not answer, in its words.
    Refusal {
        /// The choice it belongs to.
        choice: u32,
        /// The text, never empty.
        text: Text<'a>,
    },
    /// A part of a tool call.
    ToolCall(ToolCall<'a>),
    /// A choice is over.
    Finish {
        /// Which.
        choice: u32,
        /// Why.
        reason: Finish<'a>,
    },
    /// Tokens used; each replaces what was told before, member by member.
    Usage(Usage),
    /// The provider failed. Nothing of the answer follows.
    Error(Fault<'a>),
    /// The dialect's last event: the provider is done.
    End,
    /// The frame is broken.
    Malformed,
}

/// How a stream names itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start<'a> {
    /// The answer's id.
    pub id: Option<Text<'a>>,
    /// The model that answers.
    pub model: Option<Text<'a>>,
    /// When it was made, in Unix seconds.
    pub created: Option<u64>,
}

/// A part of a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolCall<'a> {
    /// The choice it belongs to.
    pub choice: u32,
    /// Which of the choice's calls it is, from 0, whatever the provider counts.
    pub call: u32,
    /// The call's id; with its first part, where the provider gives one.
    pub id: Option<Text<'a>>,
    /// The tool; with its first part.
    pub name: Option<Text<'a>>,
    /// What is new of its arguments, which together are JSON.
    pub arguments: Option<Text<'a>>,
}

/// Why a choice is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish<'a> {
    /// The model was done.
    Stop,
    /// It ran out of tokens.
    Length,
    /// It waits for tools.
    ToolCalls,
    /// It was cut off for what it said.
    ContentFilter,
    /// Another reason, in the provider's word.
    Other(Text<'a>),
}

/// Tokens used, as far as they are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read, those from a cache included.
    pub input: Option<u64>,
    /// Tokens written, reasoning included.
    pub output: Option<u64>,
    /// Both.
    pub total: Option<u64>,
    /// Tokens read from a cache.
    pub cached: Option<u64>,
    /// Tokens of reasoning.
    pub reasoning: Option<u64>,
}

impl Usage {
    /// Takes what `newer` says; what it does not say stays.
    pub fn update(&mut self, newer: Self) {
        self.input = newer.input.or(self.input);
        self.output = newer.output.or(self.output);
        self.total = newer.total.or(self.total);
        self.cached = newer.cached.or(self.cached);
        self.reasoning = newer.reasoning.or(self.reasoning);
    }

    /// What an object in OpenAI's shape says: `names` are those of its input, output and total, and
    /// of the details of input and output.
    #[inline(always)] // so that the names are constants where they are compared
    fn of_openai(usage: Value<'_>, names: [&[u8]; 5]) -> Result<Self, Malformed> {
        let [input, output, total, read, written] = usage.members(names)?;
        let [cached] = read.members([b"cached_tokens"])?;
        let [reasoning] = written.members([b"reasoning_tokens"])?;
        Ok(Self {
            input: input.number(),
            output: output.number(),
            total: total.number(),
            cached: cached.number(),
            reasoning: reasoning.number(),
        })
    }

    /// Whether nothing is known.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A provider's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// What happened, for people.
    pub message: Text<'a>,
    /// The provider's kind of error.
    pub kind: Option<Text<'a>>,
    /// The provider's code.
    pub code: Option<Text<'a>>,
    /// The HTTP status that says it, where there is one.
    pub status: Option<u16>,
}

/// Who is told the deltas of a frame.
type Each<'e> = &'e mut dyn FnMut(Delta<'_>);

/// Whether a DashScope stream repeats the text so far in each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Increments {
    /// Found out from the stream: it does if its second text begins with all of its first. That
    /// may be wrong where the answer begins with a repetition ("ha", "haha"), so say it where the
    /// request is known.
    #[default]
    Unknown,
    /// Each frame brings what is new (`incremental_output: true`).
    New,
    /// Each frame brings all so far.
    SoFar,
}

/// Reads the frames of one stream, in order.
#[derive(Debug)]
pub struct Reader {
    dialect: Dialect,
    /// The dialect is known, or known to be none.
    settled: bool,
    /// The stream has named itself.
    started: bool,
    calls: Vec<Call>,
    so_far: SoFar,
    /// The data of a frame that has several lines of it.
    data: Vec<u8>,
}

/// A tool call in progress.
#[derive(Clone, Copy, Debug)]
struct Call {
    choice: u32,
    /// What the provider calls it by.
    key: u32,
    /// Some of its arguments have been told.
    argued: bool,
}

impl Reader {
    /// A reader at the start of a stream. [`Dialect::Generic`] is what the stream's first frame
    /// with data shows it to be, or text.
    pub fn new(dialect: Dialect, increments: Increments) -> Self {
        Self {
            dialect,
            settled: dialect != Dialect::Generic,
            started: false,
            calls: Vec::new(),
            so_far: SoFar::new(increments),
            data: Vec::new(),
        }
    }

    /// The stream's dialect, as known by now.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Tells `each` what a whole frame says. Gap bytes before it may be there.
    pub fn read(&mut self, frame: &[u8], each: Each<'_>) {
        self.recognise(frame);
        let frame = skip_gap(frame, true);
        let mut buffer = std::mem::take(&mut self.data);
        let parts = Parts::of(frame, &mut buffer);
        let read = match self.dialect {
            Dialect::OpenAiChat => self.openai_chat(&parts, each),
            Dialect::OpenAiResponses => self.openai_responses(&parts, each),
            Dialect::Anthropic => self.anthropic(&parts, each),
            Dialect::Gemini => self.gemini(&parts, frame, each),
            Dialect::DashScope => self.dashscope(&parts, each),
            Dialect::Generic => {
                generic(&parts, each);
                Ok(())
            }
        };
        if read.is_err() {
            each(Delta::Malformed);
        }
        self.data = buffer;
    }

    /// Gives memory back.
    pub fn settle_memory(&mut self) {
        if self.data.capacity() > 1024 {
            self.data = Vec::new();
        }
    }

    /// Finds out the stream's dialect by a whole frame, where it is not known yet.
    pub fn recognise(&mut self, frame: &[u8]) {
        if self.settled {
            return;
        }
        if let Some(dialect) = Dialect::from_first_frame(frame) {
            self.dialect = dialect;
            self.settled = true;
        } else {
            self.settled = fields(skip_gap(frame, true)).any(|field| field.name == b"data");
        }
    }

    /// The stream names itself, unless it has; what is empty names nothing.
    fn start(&mut self, start: Start<'_>, each: Each<'_>) {
        if !self.started && (start.id.is_some() || start.model.is_some()) {
            self.started = true;
            each(Delta::Start(start));
        }
    }

    /// Which of its choice's calls the provider's `key` is, counted from 0, and whether it is new.
    ///
    /// # Errors
    /// There are too many.
    fn call(&mut self, choice: u32, key: u32) -> Result<(u32, bool), Malformed> {
        let mut of_choice = self.calls.iter().filter(|call| call.choice == choice);
        if let Some(at) = of_choice.clone().position(|call| call.key == key) {
            return Ok((at as u32, false));
        }
        if self.calls.len() == TOOL_CALLS_MAX {
            return Err(Malformed);
        }
        let at = of_choice.by_ref().count() as u32;
        self.calls.push(Call { choice, key, argued: false });
        Ok((at, true))
    }

    /// The number of a call that was told of.
    fn known_call(&mut self, choice: u32, key: u32) -> Option<(u32, &mut Call)> {
        let of_choice = self.calls.iter_mut().filter(|call| call.choice == choice);
        let mut numbered = (0..).zip(of_choice);
        numbered.find(|(_, call)| call.key == key)
    }

    /// Whether a choice has called a tool.
    fn has_calls(&self, choice: u32) -> bool {
        self.calls.iter().any(|call| call.choice == choice)
    }
}

/// The lines of a frame that matter.
#[derive(Clone, Copy, Debug, Default)]
struct Parts<'a> {
    event: &'a [u8],
    data: Option<&'a [u8]>,
    /// DashScope's in-event status, from a comment or a field.
    status: Option<u16>,
}

impl<'a> Parts<'a> {
    fn of(frame: &'a [u8], buffer: &'a mut Vec<u8>) -> Self {
        let mut parts = Self::default();
        // Nearly every frame is one line of data.
        if let Some(rest) = frame.strip_prefix(b"data: ")
            && let Some(end) = memchr2(b'\n', b'\r', rest)
            && matches!(rest[end..], [b'\n', b'\n'] | [b'\r', b'\n', b'\r', b'\n'])
        {
            parts.data = Some(&rest[..end]);
            return parts;
        }
        let mut several = false;
        for line in lines(frame) {
            match line {
                Line::Comment(text) => {
                    if let Some(status) = text.strip_prefix(b"HTTP_STATUS/") {
                        parts.status = status_code(status);
                    }
                }
                Line::Field(field) => match field.name {
                    b"data" => {
                        several |= parts.data.is_some();
                        parts.data = Some(field.value);
                    }
                    b"event" => parts.event = field.value.trim_ascii(),
                    b"status" => parts.status = status_code(field.value),
                    _ => {}
                },
            }
        }
        if several {
            buffer.clear();
            for line in lines(frame) {
                if let Line::Field(field) = line
                    && field.name == b"data"
                {
                    buffer.extend_from_slice(field.value);
                    buffer.push(b'\n');
                }
            }
            buffer.pop();
            parts.data = Some(buffer);
        }
        parts
    }

    /// The data as JSON; `None` where there is none and none was meant.
    fn json(&self) -> Result<Option<Value<'a>>, Malformed> {
        let data = self.data.unwrap_or_default().trim_ascii();
        if data.first() == Some(&b'{') { Value::of(data).map(Some) } else { Ok(None) }
    }

    /// Whether the data is `[DONE]`.
    fn is_done(&self) -> bool {
        self.data.is_some_and(|data| data.trim_ascii() == b"[DONE]")
    }
}

fn status_code(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.trim().parse().ok().filter(|status| (100..600).contains(status))
}

/// The number of a choice.
///
/// # Errors
/// There are too many.
fn choice_of(index: Value<'_>) -> Result<u32, Malformed> {
    let choice = index.index();
    if choice < CHOICES_MAX { Ok(choice) } else { Err(Malformed) }
}

/// A value as a text: a string's content, or anything else as it stands.
fn text_of(value: Value<'_>) -> Option<Text<'_>> {
    match value.string() {
        Some(content) => (!content.is_empty()).then_some(Text::Json(content)),
        None => value.is_some().then_some(Text::Plain(value.raw())),
    }
}

/// Tells an error that is an object with a message, a text, or anything.
fn fault<'a>(error: Value<'a>, status: Option<u16>) -> Result<Fault<'a>, Malformed> {
    let [message, kind, code, state] = error.members([b"message", b"type", b"code", b"status"])?;
    let status = status.or_else(|| {
        let of = |value: Value<'_>| value.number().filter(|n| (400..600).contains(n));
        of(code).or_else(|| of(state)).map(|status| status as u16)
    });
    Ok(Fault {
        message: text_of(message).or_else(|| text_of(error)).unwrap_or(Text::Plain(b"unknown")),
        kind: text_of(kind).or_else(|| state.text().map(Text::Json)),
        code: text_of(code),
        status,
    })
}

fn generic(parts: &Parts<'_>, each: Each<'_>) {
    const NOTHING: [&[u8]; 4] = [b"ping", b"heartbeat", b"keepalive", b"keep-alive"];
    let Some(data) = parts.data.filter(|_| !NOTHING.contains(&parts.event)) else { return };
    if parts.is_done() {
        each(Delta::End);
    } else if parts.event == b"error" {
        let json = parts.json().ok().flatten();
        let told = json.and_then(|error| fault(error, None).ok());
        let message = Text::Plain(data);
        each(Delta::Error(told.unwrap_or(Fault { message, kind: None, code: None, status: None })));
    } else if !data.is_empty() {
        each(Delta::Text { choice: 0, text: Text::Plain(data) });
    }
}

#[cfg(test)]
mod tests;
