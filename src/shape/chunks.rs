//! A stream as OpenAI chat chunks.
//!
//! A choice begins with its role, then come its deltas, then why it is over. Tokens used follow in
//! a chunk without choices, where they are asked for, and `[DONE]` where the provider was done.
//! Reasoning goes where vLLM, DeepSeek and Qwen put it: `delta.reasoning_content`.

use std::sync::Arc;

use super::Naming;
use super::template::{holds, push_number, push_string, push_usage};
use super::tokens::push_finish;
use crate::dialect::read::{Delta, Fault, Finish, Start, ToolCall, Usage};
use crate::dialect::text::{Joints, Strand, StrandKind, Text, is_whole};

/// What a route tells, and how.
#[derive(Clone, Debug)]
pub struct OpenAiRule {
    /// Tokens used are told, as `stream_options.include_usage` asks.
    pub include_usage: bool,
    /// The delta's member that reasoning goes in; `None` leaves it out.
    pub reasoning_member: Option<Box<str>>,
}

impl Default for OpenAiRule {
    fn default() -> Self {
        Self { include_usage: false, reasoning_member: Some("reasoning_content".into()) }
    }
}

/// Tells one stream.
#[derive(Debug)]
pub(super) struct Chunks {
    rule: Arc<OpenAiRule>,
    /// Id and model, as contents of JSON strings.
    id: Vec<u8>,
    model: Vec<u8>,
    created: u64,
    /// A chunk up to the number of its choice; made when the first is told.
    head: Vec<u8>,
    /// Choices, by bit, whose role has been told.
    roles: u128,
    /// Choices and calls that have been told of.
    calls: Vec<(u32, u32)>,
    usage: Usage,
    joints: Joints,
    /// Halves of characters are held.
    holding: bool,
    /// Frames of the provider can be kept: found out by the first.
    keeping: Option<bool>,
    /// A choice has been told to be over.
    finished: bool,
    /// The provider has named its answer, so it has reasons for its end too.
    named: bool,
}

impl Chunks {
    pub(super) fn new(rule: Arc<OpenAiRule>, naming: Naming<'_>) -> Self {
        let [mut id, mut model] = [Vec::new(), Vec::new()];
        Text::Plain(naming.id.as_bytes()).push_json(&mut id);
        Text::Plain(naming.model.as_bytes()).push_json(&mut model);
        Self {
            rule,
            id,
            model,
            created: naming.created,
            head: Vec::new(),
            roles: 0,
            calls: Vec::new(),
            usage: Usage::default(),
            joints: Joints::default(),
            holding: false,
            keeping: None,
            finished: false,
            named: false,
        }
    }

    /// Whether a frame of OpenAI chat can go on as it came: it is no Completion, and no character
    /// is cut at either of its ends.
    pub(super) fn keeps(&mut self, frame: &[u8]) -> bool {
        let keeping = *self.keeping.get_or_insert_with(|| !holds(frame, b"\"text_completion\""));
        keeping && !self.holding && is_whole(frame)
    }

    /// Notes what a frame says that goes on as it came.
    pub(super) fn note(&mut self, delta: &Delta<'_>) {
        match *delta {
            Delta::Start(start) => self.start(start),
            Delta::Text { choice, .. }
            | Delta::Reasoning { choice, .. }
            | Delta::Refusal { choice, .. } => self.take_role(choice),
            Delta::ToolCall(part) => {
                self.take_role(part.choice);
                self.is_new_call(&part);
            }
            Delta::Finish { .. } => self.finished = true,
            Delta::Usage(_) | Delta::Error(_) | Delta::End | Delta::Malformed => {}
        }
    }

    pub(super) fn tell(&mut self, delta: Delta<'_>, out: &mut Vec<u8>) {
        match delta {
            Delta::Start(start) => self.start(start),
            Delta::Text { choice, text } => self.text(StrandKind::Answer, choice, text, out),
            Delta::Reasoning { choice, text } => {
                self.text(StrandKind::Reasoning, choice, text, out);
            }
            Delta::Refusal { choice, text } => self.text(StrandKind::Refusal, choice, text, out),
            Delta::ToolCall(part) => self.call(&part, out),
            Delta::Finish { choice, reason } => {
                self.flush(out);
                self.role(choice, out);
                self.finish(choice, reason, out);
            }
            Delta::Usage(usage) => self.usage.update(usage),
            Delta::Error(fault) => self.fault(&fault, out),
            Delta::End => self.done(out),
            Delta::Malformed => {}
        }
    }

    fn start(&mut self, start: Start<'_>) {
        self.named = true;
        for (text, kept) in [(start.id, &mut self.id), (start.model, &mut self.model)] {
            if let Some(text) = text {
                kept.clear();
                text.push_json(kept);
            }
        }
        self.created = start.created.unwrap_or(self.created);
        self.head.clear();
    }

    /// Appends a chunk up to its choice's delta.
    fn begin(&mut self, choice: u32, out: &mut Vec<u8>) {
        if self.head.is_empty() {
            self.head.extend_from_slice(b"data: {\"id\":");
            push_string(&self.id, &mut self.head);
            self.head.extend_from_slice(b",\"object\":\"chat.completion.chunk\",\"created\":");
            push_number(self.created, &mut self.head);
            self.head.extend_from_slice(b",\"model\":");
            push_string(&self.model, &mut self.head);
            self.head.extend_from_slice(b",\"choices\":[");
        }
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":");
        push_number(u64::from(choice), out);
        out.extend_from_slice(b",\"delta\":{");
    }

    /// Appends the rest of a chunk behind its delta.
    fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"},\"finish_reason\":null}]");
        self.close(out);
    }

    fn close(&self, out: &mut Vec<u8>) {
        let tail: &[u8] = if self.rule.include_usage { b",\"usage\":null}\n\n" } else { b"}\n\n" };
        out.extend_from_slice(tail);
    }

    fn take_role(&mut self, choice: u32) {
        self.roles |= 1_u128.checked_shl(choice).unwrap_or(0);
    }

    /// Tells a choice's role before anything else of it. (OpenAI allows 128 choices.)
    fn role(&mut self, choice: u32, out: &mut Vec<u8>) {
        let bit = 1_u128.checked_shl(choice).unwrap_or(0);
        if bit & !self.roles != 0 {
            self.roles |= bit;
            self.begin(choice, out);
            out.extend_from_slice(b"\"role\":\"assistant\",\"content\":\"\"");
            self.end(out);
        }
    }

    fn text(&mut self, kind: StrandKind, choice: u32, text: Text<'_>, out: &mut Vec<u8>) {
        if kind == StrandKind::Reasoning && self.rule.reasoning_member.is_none() {
            return;
        }
        self.role(choice, out);
        let start = out.len();
        self.begin(choice, out);
        out.push(b'"');
        let member = match kind {
            StrandKind::Reasoning => self.rule.reasoning_member.as_deref().unwrap_or_default(),
            StrandKind::Refusal => "refusal",
            StrandKind::Answer | StrandKind::Arguments => "content",
        };
        out.extend_from_slice(member.as_bytes());
        out.extend_from_slice(b"\":\"");
        let text = self.joints.join(Strand { kind, choice, call: 0 }, text);
        if text.is_empty() {
            // Half a character: it waits for the rest.
            out.truncate(start);
        } else {
            out.extend_from_slice(text);
            out.push(b'"');
            self.end(out);
        }
        self.holding = self.joints.are_holding();
    }

    /// Whether a call has not been told of; from now on it has.
    fn is_new_call(&mut self, part: &ToolCall<'_>) -> bool {
        let key = (part.choice, part.call);
        let new = !self.calls.contains(&key);
        if new {
            self.calls.push(key);
        }
        new
    }

    fn call(&mut self, part: &ToolCall<'_>, out: &mut Vec<u8>) {
        self.role(part.choice, out);
        let new = self.is_new_call(part);
        let start = out.len();
        self.begin(part.choice, out);
        out.extend_from_slice(b"\"tool_calls\":[{\"index\":");
        push_number(u64::from(part.call), out);
        if new {
            out.extend_from_slice(b",\"id\":\"");
            match part.id {
                Some(id) => id.push_json(out),
                None => {
                    // Clients answer by it, and some providers give none.
                    out.extend_from_slice(b"call_");
                    out.extend_from_slice(&self.id);
                    out.push(b'_');
                    push_number(u64::from(part.call), out);
                }
            }
            out.extend_from_slice(b"\",\"type\":\"function\"");
        }
        out.extend_from_slice(b",\"function\":{");
        if new {
            out.extend_from_slice(b"\"name\":\"");
            part.name.into_iter().for_each(|name| name.push_json(out));
            out.extend_from_slice(b"\",");
        }
        out.extend_from_slice(b"\"arguments\":\"");
        let strand = Strand { kind: StrandKind::Arguments, choice: part.choice, call: part.call };
        let arguments = self.joints.join(strand, part.arguments.unwrap_or(Text::Json(b"")));
        if arguments.is_empty() && !new {
            out.truncate(start);
        } else {
            out.extend_from_slice(arguments);
            out.extend_from_slice(b"\"}}]");
            self.end(out);
        }
        self.holding = self.joints.are_holding();
    }

    fn finish(&mut self, choice: u32, reason: Finish<'_>, out: &mut Vec<u8>) {
        self.finished = true;
        self.begin(choice, out);
        out.extend_from_slice(b"},\"finish_reason\":\"");
        push_finish(reason, out);
        out.extend_from_slice(b"\"}]");
        self.close(out);
    }

    /// Tells what was held back for a half that did not come.
    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some((strand, text)) = self.joints.give_up() {
            if strand.kind == StrandKind::Arguments {
                let Strand { choice, call, .. } = strand;
                let arguments = Some(text);
                self.call(&ToolCall { choice, call, id: None, name: None, arguments }, out);
            } else {
                self.text(strand.kind, strand.choice, text, out);
            }
        }
    }

    fn done(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        if !self.finished && !self.named {
            // Plain text has no reasons: that it is whole is all there is to tell.
            self.role(0, out);
            self.finish(0, Finish::Stop, out);
        }
        if self.rule.include_usage && !self.usage.is_empty() {
            self.begin(0, out);
            // Without choices.
            let opened = b"{\"index\":0,\"delta\":{".len();
            out.truncate(out.len() - opened);
            out.extend_from_slice(b"],\"usage\":");
            push_usage(self.usage, out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// The provider's own error.
    fn fault(&mut self, fault: &Fault<'_>, out: &mut Vec<u8>) {
        self.flush(out);
        out.extend_from_slice(b"data: {\"error\":{\"message\":\"");
        fault.message.push_json(out);
        out.extend_from_slice(b"\",\"type\":\"");
        fault.kind.unwrap_or(Text::Plain(b"server_error")).push_json(out);
        out.extend_from_slice(b"\",\"param\":null,\"code\":");
        match (fault.code, fault.status) {
            (Some(code), _) => {
                out.push(b'"');
                code.push_json(out);
                out.push(b'"');
            }
            (None, Some(status)) => push_number(u64::from(status), out),
            (None, None) => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b"}}\n\n");
    }

    pub(super) fn settle(&mut self) {
        self.joints.settle();
    }
}
