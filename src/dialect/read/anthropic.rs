//! Anthropic Messages: content blocks between `message_start` and `message_stop`.

use super::{Delta, Each, Finish, Parts, Reader, Start, ToolCall, Usage, fault};
use crate::dialect::json::{Malformed, Value};
use crate::dialect::text::Text;

impl Reader {
    pub(super) fn anthropic(&mut self, parts: &Parts<'_>, each: Each<'_>) -> Result<(), Malformed> {
        let Some(data) = parts.json()? else { return Ok(()) };
        let [kind, index, delta, block, message, usage, error] = data.members([
            b"type",
            b"index",
            b"delta",
            b"content_block",
            b"message",
            b"usage",
            b"error",
        ])?;
        match kind.string().unwrap_or(parts.event) {
            b"content_block_delta" => self.anthropic_delta(index.index(), delta, each)?,
            b"content_block_start" => self.anthropic_block(index.index(), block, each)?,
            b"content_block_stop" => self.anthropic_stop(index.index(), each),
            b"message_start" => {
                let [id, model, usage] = message.members([b"id", b"model", b"usage"])?;
                let [id, model] = [id, model].map(|value| value.text().map(Text::Json));
                self.start(Start { id, model, created: None }, each);
                tell_usage(usage, each)?;
            }
            b"message_delta" => {
                let [reason] = delta.members([b"stop_reason"])?;
                if let Some(reason) = reason.text() {
                    each(Delta::Finish { choice: 0, reason: read_finish(reason) });
                }
                tell_usage(usage, each)?;
            }
            b"message_stop" => each(Delta::End),
            b"error" => each(Delta::Error(anthropic_fault(error, data)?)),
            _ => {}
        }
        Ok(())
    }

    fn anthropic_delta(
        &mut self,
        block: u32,
        delta: Value<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let [text, thinking, json] = delta.members([b"text", b"thinking", b"partial_json"])?;
        if let Some(text) = text.text() {
            each(Delta::Text { choice: 0, text: Text::Json(text) });
        }
        if let Some(text) = thinking.text() {
            each(Delta::Reasoning { choice: 0, text: Text::Json(text) });
        }
        if let Some(text) = json.text()
            && let Some((call, known)) = self.known_call(0, block)
        {
            known.argued = true;
            let arguments = Some(Text::Json(text));
            each(Delta::ToolCall(ToolCall { choice: 0, call, id: None, name: None, arguments }));
        }
        Ok(())
    }

    fn anthropic_block(
        &mut self,
        index: u32,
        block: Value<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let [kind, text, thinking, id, name, input] =
            block.members([b"type", b"text", b"thinking", b"id", b"name", b"input"])?;
        match kind.string() {
            Some(b"text") => {
                if let Some(text) = text.text() {
                    each(Delta::Text { choice: 0, text: Text::Json(text) });
                }
            }
            Some(b"thinking") => {
                if let Some(text) = thinking.text() {
                    each(Delta::Reasoning { choice: 0, text: Text::Json(text) });
                }
            }
            Some(b"tool_use") => {
                let (call, _) = self.call(0, index)?;
                let [id, name] = [id, name].map(|value| value.text().map(Text::Json));
                let empty = !input.is_object()
                    || input.raw()[1..input.raw().len() - 1].trim_ascii().is_empty();
                let arguments = (!empty).then_some(Text::Plain(input.raw()));
                if let Some((_, known)) = self.known_call(0, index) {
                    known.argued = !empty;
                }
                each(Delta::ToolCall(ToolCall { choice: 0, call, id, name, arguments }));
            }
            _ => {}
        }
        Ok(())
    }

    /// A tool without arguments gets an empty object, which is what no part of one means here.
    fn anthropic_stop(&mut self, index: u32, each: Each<'_>) {
        if let Some((call, known)) = self.known_call(0, index)
            && !known.argued
        {
            known.argued = true;
            let arguments = Some(Text::Plain(b"{}"));
            each(Delta::ToolCall(ToolCall { choice: 0, call, id: None, name: None, arguments }));
        }
    }
}

fn anthropic_fault<'a>(error: Value<'a>, data: Value<'a>) -> Result<super::Fault<'a>, Malformed> {
    let mut told = fault(if error.is_some() { error } else { data }, None)?;
    let by_kind = match told.kind.map(Text::raw) {
        Some(b"invalid_request_error") => Some(400),
        Some(b"authentication_error") => Some(401),
        Some(b"permission_error") => Some(403),
        Some(b"not_found_error") => Some(404),
        Some(b"request_too_large") => Some(413),
        Some(b"rate_limit_error") => Some(429),
        Some(b"api_error") => Some(500),
        Some(b"timeout_error") => Some(504),
        Some(b"overloaded_error") => Some(529),
        _ => None,
    };
    told.status = told.status.or(by_kind);
    Ok(told)
}

fn read_finish(reason: &[u8]) -> Finish<'_> {
    match reason {
        b"end_turn" | b"stop_sequence" | b"pause_turn" => Finish::Stop,
        b"max_tokens" | b"model_context_window_exceeded" => Finish::Length,
        b"tool_use" => Finish::ToolCalls,
        b"refusal" => Finish::ContentFilter,
        _ => Finish::Other(Text::Json(reason)),
    }
}

/// Usage is cumulative. What came from or went into a cache is not in `input_tokens`.
fn tell_usage(usage: Value<'_>, each: Each<'_>) -> Result<(), Malformed> {
    let [input, output, read, written] = usage.members([
        b"input_tokens",
        b"output_tokens",
        b"cache_read_input_tokens",
        b"cache_creation_input_tokens",
    ])?;
    let cache = read.number().unwrap_or(0).saturating_add(written.number().unwrap_or(0));
    let usage = Usage {
        input: input.number().map(|input| input.saturating_add(cache)),
        output: output.number(),
        total: None,
        cached: read.number(),
        reasoning: None,
    };
    if !usage.is_empty() {
        each(Delta::Usage(usage));
    }
    Ok(())
}
