//! A stream as small events for a page.
//!
//! ```text
//! event: start        the stream begins
//! data: ""
//!
//! data: "Hel"         a token, as a JSON string
//!
//! event: done         the provider is done; never told where it is not
//! data: ""
//! ```
//!
//! Each event's name, data and presence are the route's to say ([`EventRule`]). Reasoning and tool
//! calls go in events of their own, so that a page that knows tokens alone shows the answer alone.

use std::sync::Arc;

use super::template::{CallValues, EventRule, TemplateError, Told, Values};
use crate::dialect::ErrorText;
use crate::dialect::read::{Delta, Fault, Finish, Usage};
use crate::dialect::text::{Joints, Strand, StrandKind, Text};

/// What a route tells, and how.
#[derive(Clone, Debug)]
pub struct TokensRule {
    /// The provider's frames go on as they are, and only errors and timeouts are told in events:
    /// for a page that reads the provider's lines itself.
    pub forward: bool,
    /// Failures of the upstream before its answer has begun are events too, in a 200 stream, for a
    /// page that knows no status.
    pub early: bool,
    events: [Option<EventRule>; Told::ALL.len()],
}

impl Default for TokensRule {
    fn default() -> Self {
        Self::chat()
    }
}

impl TokensRule {
    /// Start and done with empty data, tokens as unnamed JSON strings, reasoning and tool calls
    /// under their names, errors and timeouts with their message.
    pub fn chat() -> Self {
        let mut rule = Self { forward: false, early: false, events: Default::default() };
        for told in Told::ALL {
            let name = (!matches!(told, Told::Token | Told::Refusal)).then(|| told.as_str());
            let data = match told {
                Told::Start | Told::Done => "",
                Told::Token | Told::Refusal | Told::Reasoning | Told::ToolCall => "{{json}}",
                Told::Error | Told::Timeout => "{{text}}",
            };
            // Its own templates are right; a test says so.
            rule.events[told as usize] = EventRule::new(told, name, data).ok();
        }
        rule
    }

    /// The provider's frames as they are; errors with their message, a timeout as `请求超时`.
    pub fn forward() -> Self {
        let mut rule = Self { forward: true, ..Self::chat() };
        rule.events[Told::Timeout as usize] =
            EventRule::new(Told::Timeout, Some(Told::Timeout.as_str()), "请求超时").ok();
        rule
    }

    /// Tells this event so; `name` of `None` or `""` leaves it unnamed.
    ///
    /// # Errors
    /// As for [`EventRule::new`].
    pub fn tell(
        &mut self,
        told: Told,
        name: Option<&str>,
        data: &str,
    ) -> Result<(), TemplateError> {
        self.events[told as usize] = Some(EventRule::new(told, name, data)?);
        Ok(())
    }

    /// Does not tell this event.
    pub fn leave_out(&mut self, told: Told) {
        self.events[told as usize] = None;
    }

    fn event(&self, told: Told) -> Option<&EventRule> {
        self.events[told as usize].as_ref()
    }
}

/// Tells one stream.
#[derive(Debug)]
pub(super) struct Tokens {
    rule: Arc<TokensRule>,
    joints: Joints,
    /// Data of several lines on its way.
    buffer: Vec<u8>,
    /// Why choice 0 is over, as the content of a JSON string.
    finish: Vec<u8>,
    usage: Usage,
    /// A failure has been told in an event of its own.
    failed: bool,
}

impl Tokens {
    pub(super) fn new(rule: Arc<TokensRule>) -> Self {
        Self {
            rule,
            joints: Joints::default(),
            buffer: Vec::new(),
            finish: Vec::new(),
            usage: Usage::default(),
            failed: false,
        }
    }

    /// Whether a failure has been told in an event, which is how such a stream ends by name.
    pub(super) fn has_told_failure(&self) -> bool {
        self.failed
    }

    pub(super) fn rule(&self) -> &TokensRule {
        &self.rule
    }

    pub(super) fn start(&mut self, out: &mut Vec<u8>) {
        self.push(Told::Start, &Values::default(), out);
    }

    pub(super) fn tell(&mut self, delta: Delta<'_>, out: &mut Vec<u8>) {
        match delta {
            Delta::Text { choice, text } => self.text(StrandKind::Answer, choice, text, out),
            Delta::Reasoning { choice, text } => {
                self.text(StrandKind::Reasoning, choice, text, out);
            }
            Delta::Refusal { choice, text } => self.text(StrandKind::Refusal, choice, text, out),
            Delta::ToolCall(part) => {
                let (mut id, mut name) = (Vec::new(), Vec::new());
                part.id.into_iter().for_each(|text| text.push_json(&mut id));
                part.name.into_iter().for_each(|text| text.push_json(&mut name));
                let strand =
                    Strand { kind: StrandKind::Arguments, choice: part.choice, call: part.call };
                self.call(strand, (&id, &name), part.arguments, out);
            }
            Delta::Finish { choice: 0, reason } => {
                self.finish.clear();
                push_finish(reason, &mut self.finish);
            }
            Delta::Usage(usage) => self.usage.update(usage),
            Delta::Error(fault) => self.fault(&fault, out),
            Delta::End => self.done(out),
            Delta::Start(_) | Delta::Finish { .. } | Delta::Malformed => {}
        }
    }

    fn text(&mut self, kind: StrandKind, choice: u32, text: Text<'_>, out: &mut Vec<u8>) {
        let told = match kind {
            StrandKind::Answer => Told::Token,
            StrandKind::Reasoning => Told::Reasoning,
            StrandKind::Refusal => Told::Refusal,
            StrandKind::Arguments => Told::ToolCall,
        };
        let Some(event) = self.rule.event(told) else { return };
        if choice != 0 && !event.names_index() {
            return;
        }
        let text = self.joints.join(Strand { kind, choice, call: 0 }, text);
        if !text.is_empty() {
            let values = Values { text, index: choice, ..Values::default() };
            event.push(&values, &mut self.buffer, out);
        }
    }

    fn call(
        &mut self,
        strand: Strand,
        (id, name): (&[u8], &[u8]),
        arguments: Option<Text<'_>>,
        out: &mut Vec<u8>,
    ) {
        let Some(event) = self.rule.event(Told::ToolCall) else { return };
        if strand.choice != 0 {
            return;
        }
        let arguments = self.joints.join(strand, arguments.unwrap_or(Text::Json(b"")));
        if !(id.is_empty() && name.is_empty() && arguments.is_empty()) {
            let call = Some(CallValues { id, name, arguments });
            let values = Values { index: strand.call, call, ..Values::default() };
            event.push(&values, &mut self.buffer, out);
        }
    }

    fn done(&mut self, out: &mut Vec<u8>) {
        self.flush(out);
        let finish = std::mem::take(&mut self.finish);
        let values = Values { finish: &finish, usage: self.usage, ..Values::default() };
        self.push(Told::Done, &values, out);
    }

    /// Tells what was held back for a half that did not come.
    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some((strand, text)) = self.joints.give_up() {
            match strand.kind {
                StrandKind::Arguments => self.call(strand, (b"", b""), Some(text), out),
                kind => self.text(kind, strand.choice, text, out),
            }
        }
    }

    /// The provider's own error.
    fn fault(&mut self, fault: &Fault<'_>, out: &mut Vec<u8>) {
        self.flush(out);
        let [mut text, mut code] = [Vec::new(), Vec::new()];
        fault.message.push_json(&mut text);
        fault.code.or(fault.kind).into_iter().for_each(|word| word.push_json(&mut code));
        let status = fault.status.unwrap_or(0);
        let values = Values { text: &text, code: &code, status, ..Values::default() };
        self.failed |= self.push(Told::Error, &values, out);
    }

    /// The relay's error. Where timeouts are not told, one is an error like others.
    pub(super) fn error(&mut self, error: &ErrorText<'_>, timeout: bool, out: &mut Vec<u8>) {
        self.flush(out);
        let [mut text, mut code, mut request_id] = [Vec::new(), Vec::new(), Vec::new()];
        Text::Plain(error.message.as_bytes()).push_json(&mut text);
        Text::Plain(error.code.as_bytes()).push_json(&mut code);
        Text::Plain(error.request_id.as_bytes()).push_json(&mut request_id);
        let values = Values {
            text: &text,
            code: &code,
            status: error.status,
            request_id: &request_id,
            ..Values::default()
        };
        let timeout = timeout && self.rule.event(Told::Timeout).is_some();
        self.failed |= self.push(if timeout { Told::Timeout } else { Told::Error }, &values, out);
    }

    /// Tells an event; false where the route leaves it out.
    fn push(&mut self, told: Told, values: &Values<'_>, out: &mut Vec<u8>) -> bool {
        let Some(event) = self.rule.event(told) else { return false };
        event.push(values, &mut self.buffer, out);
        true
    }

    pub(super) fn settle(&mut self) {
        self.joints.settle();
        if self.buffer.capacity() > 1024 {
            self.buffer = Vec::new();
        }
    }
}

/// Appends why a choice is over in OpenAI's words, as the content of a JSON string.
pub(super) fn push_finish(reason: Finish<'_>, out: &mut Vec<u8>) {
    match reason {
        Finish::Stop => out.extend_from_slice(b"stop"),
        Finish::Length => out.extend_from_slice(b"length"),
        Finish::ToolCalls => out.extend_from_slice(b"tool_calls"),
        Finish::ContentFilter => out.extend_from_slice(b"content_filter"),
        Finish::Other(word) => word.push_json(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_told_by_default() {
        for rule in [TokensRule::chat(), TokensRule::forward()] {
            assert!(Told::ALL.into_iter().all(|told| rule.event(told).is_some()));
        }
    }
}
