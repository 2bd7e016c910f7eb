//! A stream folded into one JSON answer, for clients that ask for no stream while the provider
//! should send one: a long thought then keeps its connections alive, and a cut is noticed early.
//!
//! The answer is an OpenAI `chat.completion`, whatever the provider speaks. A stream that fails, is
//! cut or outgrows its bound gives an error, never a part of an answer.

use std::fmt;

use super::template::{push_number, push_string, push_usage};
use super::tokens::push_finish;
use super::{FrameMalformed, Naming, Progress};
use crate::dialect::Dialect;
use crate::dialect::read::{Delta, Fault, Increments, Reader, ToolCall, Usage};
use crate::dialect::text::{Joints, Strand, StrandKind, Text, push_plain};
use crate::sse::frames::{FrameTooLarge, Frames};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectError {
    /// The provider told an error in its stream.
    Upstream {
        /// The HTTP status that says it; 502 where the provider gave none.
        status: u16,
        /// The provider's code or kind of error; empty where it gave none.
        code: String,
        /// What happened, in its words.
        message: String,
    },
    /// The stream ended before the provider was done.
    Unfinished,
    /// A frame is broken JSON.
    Malformed,
    /// A frame is too long.
    FrameTooLarge(FrameTooLarge),
    /// The answer is too long.
    TooLarge {
        /// The cap, in bytes.
        bytes_max: usize,
    },
}

impl CollectError {
    /// The HTTP status that tells it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Upstream { status, .. } => *status,
            _ => 502,
        }
    }
}

impl fmt::Display for CollectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream { message, .. } => f.write_str(message),
            Self::Unfinished => f.write_str("the upstream ended its stream before it was finished"),
            Self::Malformed => FrameMalformed.fmt(f),
            Self::FrameTooLarge(error) => error.fmt(f),
            Self::TooLarge { bytes_max } => {
                write!(f, "the answer is longer than {bytes_max} bytes")
            }
        }
    }
}

impl std::error::Error for CollectError {}

impl From<FrameTooLarge> for CollectError {
    fn from(error: FrameTooLarge) -> Self {
        Self::FrameTooLarge(error)
    }
}

/// Folds one stream.
#[derive(Debug)]
pub struct Collector {
    frames: Frames,
    reader: Reader,
    folded: Folded,
    progress: Progress,
}

/// The answer so far. Texts are contents of JSON strings.
#[derive(Debug)]
struct Folded {
    id: Vec<u8>,
    model: Vec<u8>,
    created: u64,
    choices: Vec<Choice>,
    usage: Usage,
    joints: Joints,
    bytes: usize,
    bytes_max: usize,
    error: Option<CollectError>,
}

#[derive(Debug, Default)]
struct Choice {
    index: u32,
    content: Vec<u8>,
    reasoning: Vec<u8>,
    refusal: Vec<u8>,
    calls: Vec<Call>,
    finish: Vec<u8>,
}

#[derive(Debug, Default)]
struct Call {
    number: u32,
    id: Vec<u8>,
    name: Vec<u8>,
    arguments: Vec<u8>,
}

/// Bytes that a choice or a call costs beside its texts.
const ENTRY_BYTES: usize = 256;

impl Collector {
    /// The start of a stream whose frames have at most `frame_bytes_max` bytes each, and whose
    /// answer may take `bytes_max`.
    pub fn new(
        dialect: Dialect,
        increments: Increments,
        naming: Naming<'_>,
        frame_bytes_max: usize,
        bytes_max: usize,
    ) -> Self {
        let [mut id, mut model] = [Vec::new(), Vec::new()];
        Text::Plain(naming.id.as_bytes()).push_json(&mut id);
        Text::Plain(naming.model.as_bytes()).push_json(&mut model);
        Self {
            frames: Frames::new(frame_bytes_max),
            reader: Reader::new(dialect, increments),
            folded: Folded {
                id,
                model,
                created: naming.created,
                choices: Vec::new(),
                usage: Usage::default(),
                joints: Joints::default(),
                bytes: 0,
                bytes_max,
                error: None,
            },
            progress: Progress::default(),
        }
    }

    /// Takes the next bytes of the body, without its framing.
    ///
    /// # Errors
    /// There will be no answer; the upstream need not be read on.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), CollectError> {
        let Self { frames, reader, folded, progress } = self;
        frames.feed(bytes, |frame| fold(reader, folded, progress, frame))
    }

    /// The answer's body, of content type `application/json`. The body must have ended in order;
    /// `delimited` as for [`Shaper::finish`](super::Shaper::finish).
    ///
    /// # Errors
    /// The stream was not whole.
    pub fn finish(mut self, delimited: bool) -> Result<Vec<u8>, CollectError> {
        if delimited && !self.frames.rest().is_empty() {
            let rest = [self.frames.rest(), b"\n\n"].concat();
            fold(&mut self.reader, &mut self.folded, &mut self.progress, &rest)?;
        }
        if !self.progress.is_whole(self.reader.dialect(), delimited) {
            return Err(CollectError::Unfinished);
        }
        Ok(self.folded.body(self.reader.dialect() == Dialect::Generic))
    }
}

fn fold(
    reader: &mut Reader,
    folded: &mut Folded,
    progress: &mut Progress,
    frame: &[u8],
) -> Result<(), CollectError> {
    reader.read(frame, &mut |delta| {
        if progress.takes(&delta) {
            folded.take(delta);
        }
    });
    folded.error.take().map_or(Ok(()), Err)
}

impl Folded {
    fn take(&mut self, delta: Delta<'_>) {
        match delta {
            Delta::Start(start) => {
                for (text, kept) in [(start.id, &mut self.id), (start.model, &mut self.model)] {
                    if let Some(text) = text {
                        kept.clear();
                        text.push_json(kept);
                    }
                }
                self.created = start.created.unwrap_or(self.created);
            }
            Delta::Text { choice, text } => self.add(StrandKind::Answer, choice, 0, text),
            Delta::Reasoning { choice, text } => self.add(StrandKind::Reasoning, choice, 0, text),
            Delta::Refusal { choice, text } => self.add(StrandKind::Refusal, choice, 0, text),
            Delta::ToolCall(part) => self.call(&part),
            Delta::Finish { choice, reason } => {
                let finish = &mut self.choice(choice).finish;
                finish.clear();
                push_finish(reason, finish);
            }
            Delta::Usage(usage) => self.usage.update(usage),
            Delta::Error(fault) => self.error = Some(upstream(&fault)),
            Delta::Malformed => self.error = Some(CollectError::Malformed),
            Delta::End => {}
        }
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let at = match self.choices.iter().position(|choice| choice.index == index) {
            Some(at) => at,
            None => {
                self.choices.push(Choice { index, ..Choice::default() });
                self.choices.len() - 1
            }
        };
        &mut self.choices[at]
    }

    fn call(&mut self, part: &ToolCall<'_>) {
        let call = self.choice(part.choice).call(part.call);
        part.id.into_iter().for_each(|id| id.push_json(&mut call.id));
        part.name.into_iter().for_each(|name| name.push_json(&mut call.name));
        let named = [part.id, part.name].into_iter().flatten().map(|text| text.raw().len());
        self.count(named.sum());
        if let Some(arguments) = part.arguments {
            self.add(StrandKind::Arguments, part.choice, part.call, arguments);
        }
    }

    fn add(&mut self, kind: StrandKind, choice: u32, call: u32, text: Text<'_>) {
        let mut joints = std::mem::take(&mut self.joints);
        let text = joints.join(Strand { kind, choice, call }, text);
        let into = self.choice(choice);
        match kind {
            StrandKind::Answer => &mut into.content,
            StrandKind::Reasoning => &mut into.reasoning,
            StrandKind::Refusal => &mut into.refusal,
            StrandKind::Arguments => &mut into.call(call).arguments,
        }
        .extend_from_slice(text);
        self.count(text.len());
        self.joints = joints;
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        let entries: usize = self.choices.iter().map(|choice| 1 + choice.calls.len()).sum();
        if self.bytes + entries * ENTRY_BYTES > self.bytes_max {
            self.error = Some(CollectError::TooLarge { bytes_max: self.bytes_max });
        }
    }

    fn body(mut self, plain: bool) -> Vec<u8> {
        while let Some((strand, text)) = self.joints.give_up() {
            self.add(strand.kind, strand.choice, strand.call, text);
        }
        if plain {
            // Text has no reasons: that it is whole is all there is to tell.
            self.choice(0).finish.extend_from_slice(b"stop");
        }
        self.choices.sort_by_key(|choice| choice.index);
        let mut out = Vec::with_capacity(self.bytes + 1024);
        out.extend_from_slice(b"{\"id\":");
        push_string(&self.id, &mut out);
        out.extend_from_slice(b",\"object\":\"chat.completion\",\"created\":");
        push_number(self.created, &mut out);
        out.extend_from_slice(b",\"model\":");
        push_string(&self.model, &mut out);
        out.extend_from_slice(b",\"choices\":[");
        for (position, choice) in self.choices.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            choice.push(&self.id, &mut out);
        }
        out.push(b']');
        if !self.usage.is_empty() {
            out.extend_from_slice(b",\"usage\":");
            push_usage(self.usage, &mut out);
        }
        out.push(b'}');
        out
    }
}

impl Choice {
    fn call(&mut self, number: u32) -> &mut Call {
        let at = match self.calls.iter().position(|call| call.number == number) {
            Some(at) => at,
            None => {
                self.calls.push(Call { number, ..Call::default() });
                self.calls.len() - 1
            }
        };
        &mut self.calls[at]
    }

    fn push(&self, answer_id: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"index\":");
        push_number(u64::from(self.index), out);
        out.extend_from_slice(b",\"message\":{\"role\":\"assistant\",\"content\":");
        if self.content.is_empty() && !(self.calls.is_empty() && self.refusal.is_empty()) {
            out.extend_from_slice(b"null");
        } else {
            push_string(&self.content, out);
        }
        out.extend_from_slice(b",\"refusal\":");
        if self.refusal.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            push_string(&self.refusal, out);
        }
        if !self.reasoning.is_empty() {
            out.extend_from_slice(b",\"reasoning_content\":");
            push_string(&self.reasoning, out);
        }
        if !self.calls.is_empty() {
            out.extend_from_slice(b",\"tool_calls\":[");
            for (position, call) in self.calls.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                call.push(answer_id, out);
            }
            out.push(b']');
        }
        out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":");
        if self.finish.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            push_string(&self.finish, out);
        }
        out.push(b'}');
    }
}

impl Call {
    fn push(&self, answer_id: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":\"");
        if self.id.is_empty() {
            out.extend_from_slice(b"call_");
            out.extend_from_slice(answer_id);
            out.push(b'_');
            push_number(u64::from(self.number), out);
        } else {
            out.extend_from_slice(&self.id);
        }
        out.extend_from_slice(b"\",\"type\":\"function\",\"function\":{\"name\":");
        push_string(&self.name, out);
        out.extend_from_slice(b",\"arguments\":");
        push_string(&self.arguments, out);
        out.extend_from_slice(b"}}");
    }
}

fn upstream(fault: &Fault<'_>) -> CollectError {
    let plain = |text: Text<'_>| {
        let (mut content, mut out) = (Vec::new(), Vec::new());
        text.push_json(&mut content);
        push_plain(&content, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    CollectError::Upstream {
        status: fault.status.unwrap_or(502),
        code: fault.code.or(fault.kind).map(plain).unwrap_or_default(),
        message: plain(fault.message),
    }
}
