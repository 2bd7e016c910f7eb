//! DashScope native: `output` with the text in two places, so far or new.

use super::openai_chat::{read_finish, tell_call};
use super::{Delta, Each, Parts, Reader, Start, Usage, choice_of, fault};
use crate::dialect::json::{Malformed, Value};
use crate::dialect::text::{Strand, StrandKind, Text};
use crate::limits::CHOICES_MAX;

impl Reader {
    pub(super) fn dashscope(&mut self, parts: &Parts<'_>, each: Each<'_>) -> Result<(), Malformed> {
        if parts.is_done() {
            each(Delta::End);
            return Ok(());
        }
        let failed = parts.event == b"error" || parts.status.is_some_and(|status| status >= 400);
        let Some(data) = parts.json()? else {
            if let Some(data) = parts.data.filter(|_| failed) {
                let mut told = fault(Value::default(), parts.status)?;
                told.message = Text::Plain(data);
                each(Delta::Error(told));
            }
            return Ok(());
        };
        let [output, usage, id, code] =
            data.members([b"output", b"usage", b"request_id", b"code"])?;
        if failed || !output.is_some() && code.text().is_some() {
            let status = parts.status.filter(|status| *status >= 400);
            each(Delta::Error(fault(data, status)?));
            return Ok(());
        }
        if !self.started
            && let Some(id) = id.text()
        {
            // The native interface does not repeat the model's name.
            self.started = true;
            each(Delta::Start(Start { id: Some(Text::Json(id)), ..Start::default() }));
        }
        let [text, choices, finish] = output.members([b"text", b"choices", b"finish_reason"])?;
        self.dashscope_text(StrandKind::Answer, 0, text, each)?;
        for (position, choice) in (0..).zip(choices.items()) {
            self.dashscope_choice(position, choice?, each)?;
        }
        tell_finish(0, finish, each);
        if usage.is_object() {
            each(Delta::Usage(read_usage(usage)?));
        }
        Ok(())
    }

    fn dashscope_choice(
        &mut self,
        position: u32,
        choice: Value<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let [index, message, finish] = choice.members([b"index", b"message", b"finish_reason"])?;
        let choice = match index.number() {
            Some(_) => choice_of(index)?,
            None => position.min(CHOICES_MAX - 1),
        };
        let [content, reasoning, calls] =
            message.members([b"content", b"reasoning_content", b"tool_calls"])?;
        self.dashscope_text(StrandKind::Reasoning, choice, reasoning, each)?;
        self.dashscope_text(StrandKind::Answer, choice, content, each)?;
        for part in content.items() {
            // Multimodal models answer with a list.
            let [text] = part?.members([b"text"])?;
            self.dashscope_text(StrandKind::Answer, choice, text, each)?;
        }
        for (position, part) in (0..).zip(calls.items()) {
            self.dashscope_call(choice, position, part?, each)?;
        }
        tell_finish(choice, finish, each);
        Ok(())
    }

    fn dashscope_text(
        &mut self,
        kind: StrandKind,
        choice: u32,
        text: Value<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let Some(text) = text.text() else { return Ok(()) };
        let strand = Strand { kind, choice, call: 0 };
        let text = Text::Json(self.so_far.new_of(strand, text)?);
        if !text.is_empty() {
            each(match kind {
                StrandKind::Reasoning => Delta::Reasoning { choice, text },
                _ => Delta::Text { choice, text },
            });
        }
        Ok(())
    }

    fn dashscope_call(
        &mut self,
        choice: u32,
        position: u32,
        part: Value<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let mut call = self.openai_call(choice, position, part)?;
        let strand = Strand { kind: StrandKind::Arguments, choice, call: call.call };
        if let Some(Text::Json(text)) = call.arguments {
            call.arguments = Some(Text::Json(self.so_far.new_of(strand, text)?));
        }
        call.arguments = call.arguments.filter(|text| !text.is_empty());
        tell_call(call, each);
        Ok(())
    }
}

/// While it goes on, the reason is the word `null`.
fn tell_finish(choice: u32, finish: Value<'_>, each: Each<'_>) {
    if let Some(reason) = finish.text().filter(|reason| *reason != b"null") {
        each(Delta::Finish { choice, reason: read_finish(reason) });
    }
}

fn read_usage(usage: Value<'_>) -> Result<Usage, Malformed> {
    Usage::of_openai(
        usage,
        [
            b"input_tokens",
            b"output_tokens",
            b"total_tokens",
            b"prompt_tokens_details",
            b"output_tokens_details",
        ],
    )
}
