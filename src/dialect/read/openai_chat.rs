//! OpenAI Chat Completions and Completions, and all that copies them.

use super::{
    Delta, Each, Fault, Finish, Parts, Reader, Start, ToolCall, Usage, choice_of, fault, text_of,
};
use crate::dialect::json::{Malformed, Value};
use crate::dialect::text::Text;

impl Reader {
    pub(super) fn openai_chat(
        &mut self,
        parts: &Parts<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        if parts.is_done() {
            each(Delta::End);
            return Ok(());
        }
        let Some(data) = parts.json()? else { return self.bare_error(parts, each) };
        let [id, model, created, choices, usage, error, object] =
            data.members([b"id", b"model", b"created", b"choices", b"usage", b"error", b"object"])?;
        if error.is_some() {
            each(Delta::Error(fault(error, None)?));
            return Ok(());
        }
        if parts.event == b"error" || object.string() == Some(b"error") {
            each(Delta::Error(fault(data, None)?));
            return Ok(());
        }
        if !self.started {
            let [id, model] = [id, model].map(|value| value.text().map(Text::Json));
            self.start(Start { id, model, created: created.number() }, each);
        }
        let mut choices = choices.items();
        while let Some(choice) =
            choices.next_members([b"index", b"delta", b"text", b"finish_reason"])
        {
            self.openai_choice(choice?, each)?;
        }
        if usage.is_object() {
            each(Delta::Usage(read_usage(usage)?));
        }
        Ok(())
    }

    fn bare_error(&mut self, parts: &Parts<'_>, each: Each<'_>) -> Result<(), Malformed> {
        if let Some(data) = parts.data.filter(|_| parts.event == b"error") {
            let message = Text::Plain(data);
            each(Delta::Error(Fault { message, kind: None, code: None, status: None }));
        }
        Ok(())
    }

    fn openai_choice(
        &mut self,
        [index, delta, text, finish]: [Value<'_>; 4],
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let choice = choice_of(index)?;
        let [content, reasoning, renamed, refusal, calls, function] = delta.members([
            b"content",
            b"reasoning_content",
            b"reasoning",
            b"refusal",
            b"tool_calls",
            b"function_call",
        ])?;
        // Some services send the reasoning under both names.
        if let Some(text) = reasoning.text().or_else(|| renamed.text()) {
            each(Delta::Reasoning { choice, text: Text::Json(text) });
        }
        if let Some(text) = content.text().or_else(|| text.text()) {
            each(Delta::Text { choice, text: Text::Json(text) });
        }
        for part in content.items() {
            read_part(part?, choice, each)?;
        }
        if let Some(text) = refusal.text() {
            each(Delta::Refusal { choice, text: Text::Json(text) });
        }
        for (position, call) in (0..).zip(calls.items()) {
            tell_call(self.openai_call(choice, position, call?)?, each);
        }
        if function.is_object() {
            tell_call(self.openai_function(choice, 0, Value::default(), function)?, each);
        }
        if let Some(reason) = finish.text() {
            each(Delta::Finish { choice, reason: read_finish(reason) });
        }
        Ok(())
    }

    /// The call in the list of a choice's calls that stands at `position`.
    pub(super) fn openai_call<'a>(
        &mut self,
        choice: u32,
        position: u32,
        call: Value<'a>,
    ) -> Result<ToolCall<'a>, Malformed> {
        let [index, id, function] = call.members([b"index", b"id", b"function"])?;
        let key = index.number().map_or(position, |_| index.index());
        self.openai_function(choice, key, id, function)
    }

    fn openai_function<'a>(
        &mut self,
        choice: u32,
        key: u32,
        id: Value<'a>,
        function: Value<'a>,
    ) -> Result<ToolCall<'a>, Malformed> {
        let [name, arguments] = function.members([b"name", b"arguments"])?;
        let (call, new) = self.call(choice, key)?;
        let [id, name] = [id, name].map(|value| value.text().map(Text::Json));
        let arguments = text_of(arguments);
        // Some services repeat id and name with every part.
        let (id, name) = if new { (id, name) } else { (None, None) };
        Ok(ToolCall { choice, call, id, name, arguments })
    }
}

/// Tells a part of a call that says something.
pub(super) fn tell_call(call: ToolCall<'_>, each: Each<'_>) {
    if call.id.is_some() || call.name.is_some() || call.arguments.is_some() {
        each(Delta::ToolCall(call));
    }
}

/// A part of content that is a list (Mistral): text, or thinking, which is a list again.
fn read_part(part: Value<'_>, choice: u32, each: Each<'_>) -> Result<(), Malformed> {
    let [text, thinking] = part.members([b"text", b"thinking"])?;
    if let Some(text) = text.text() {
        each(Delta::Text { choice, text: Text::Json(text) });
    }
    for thought in thinking.items() {
        let [text] = thought?.members([b"text"])?;
        if let Some(text) = text.text() {
            each(Delta::Reasoning { choice, text: Text::Json(text) });
        }
    }
    Ok(())
}

pub(super) fn read_finish(reason: &[u8]) -> Finish<'_> {
    match reason {
        b"stop" => Finish::Stop,
        b"length" => Finish::Length,
        b"tool_calls" | b"function_call" => Finish::ToolCalls,
        b"content_filter" => Finish::ContentFilter,
        _ => Finish::Other(Text::Json(reason)),
    }
}

fn read_usage(usage: Value<'_>) -> Result<Usage, Malformed> {
    Usage::of_openai(
        usage,
        [
            b"prompt_tokens",
            b"completion_tokens",
            b"total_tokens",
            b"prompt_tokens_details",
            b"completion_tokens_details",
        ],
    )
}
