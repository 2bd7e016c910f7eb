//! OpenAI Responses: named, numbered events.

use super::{Delta, Each, Finish, Parts, Reader, Start, ToolCall, Usage, fault};
use crate::dialect::json::{Malformed, Value};
use crate::dialect::text::Text;

impl Reader {
    pub(super) fn openai_responses(
        &mut self,
        parts: &Parts<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        if parts.is_done() {
            each(Delta::End);
            return Ok(());
        }
        let Some(data) = parts.json()? else { return Ok(()) };
        let [kind, delta, output, item, response] =
            data.members([b"type", b"delta", b"output_index", b"item", b"response"])?;
        let text = delta.text().map(Text::Json);
        match kind.string().unwrap_or(parts.event) {
            b"response.output_text.delta" => {
                text.into_iter().for_each(|text| each(Delta::Text { choice: 0, text }));
            }
            b"response.reasoning_text.delta" | b"response.reasoning_summary_text.delta" => {
                text.into_iter().for_each(|text| each(Delta::Reasoning { choice: 0, text }));
            }
            b"response.refusal.delta" => {
                text.into_iter().for_each(|text| each(Delta::Refusal { choice: 0, text }));
            }
            b"response.function_call_arguments.delta"
            | b"response.custom_tool_call_input.delta" => {
                self.responses_arguments(output.index(), text, true, each);
            }
            b"response.output_item.added" => self.responses_call(output.index(), item, each)?,
            b"response.function_call_arguments.done" | b"response.custom_tool_call_input.done" => {
                let [arguments, input] = data.members([b"arguments", b"input"])?;
                let whole = arguments.text().or_else(|| input.text()).map(Text::Json);
                self.responses_arguments(output.index(), whole, false, each);
            }
            b"response.output_item.done" => {
                // A call that was not announced piece by piece.
                self.responses_call(output.index(), item, each)?;
                let [arguments, input] = item.members([b"arguments", b"input"])?;
                let whole = arguments.text().or_else(|| input.text()).map(Text::Json);
                self.responses_arguments(output.index(), whole, false, each);
            }
            b"response.created" | b"response.in_progress" | b"response.queued" => {
                let [id, model, created] = response.members([b"id", b"model", b"created_at"])?;
                let [id, model] = [id, model].map(|value| value.text().map(Text::Json));
                self.start(Start { id, model, created: created.number() }, each);
            }
            b"error" => {
                let [error] = data.members([b"error"])?;
                each(Delta::Error(fault(if error.is_some() { error } else { data }, None)?));
            }
            kind @ (b"response.completed"
            | b"response.incomplete"
            | b"response.failed"
            | b"response.cancelled"
            | b"response.done") => {
                self.responses_end(kind, response, each)?;
            }
            b"done" => each(Delta::End),
            _ => {}
        }
        Ok(())
    }

    /// A tool call that the client is to make.
    fn responses_call(
        &mut self,
        output: u32,
        item: Value<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let [kind, call_id, name] = item.members([b"type", b"call_id", b"name"])?;
        if !matches!(kind.string(), Some(b"function_call" | b"custom_tool_call")) {
            return Ok(());
        }
        let (call, new) = self.call(0, output)?;
        if new {
            let [id, name] = [call_id, name].map(|value| value.text().map(Text::Json));
            each(Delta::ToolCall(ToolCall { choice: 0, call, id, name, arguments: None }));
        }
        Ok(())
    }

    /// More of a call's arguments, or all of them, which count only where no part was told.
    fn responses_arguments(
        &mut self,
        output: u32,
        text: Option<Text<'_>>,
        part: bool,
        each: Each<'_>,
    ) {
        let Some((call, known)) = self.known_call(0, output) else { return };
        if text.is_none() || known.argued && !part {
            return;
        }
        known.argued = true;
        let told = ToolCall { choice: 0, call, id: None, name: None, arguments: text };
        each(Delta::ToolCall(told));
    }

    fn responses_end(
        &mut self,
        kind: &[u8],
        response: Value<'_>,
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let [usage, error, status, details] =
            response.members([b"usage", b"error", b"status", b"incomplete_details"])?;
        if usage.is_object() {
            each(Delta::Usage(read_usage(usage)?));
        }
        let by_kind = kind.strip_prefix(b"response.").unwrap_or(kind);
        let status = status.string().unwrap_or(by_kind);
        match status {
            b"failed" => {
                let error = if error.is_some() { error } else { status_value(FAILED) };
                each(Delta::Error(fault(error, None)?));
            }
            b"cancelled" => each(Delta::Error(fault(status_value(CANCELLED), None)?)),
            b"incomplete" => {
                let [reason] = details.members([b"reason"])?;
                let reason = match reason.text() {
                    Some(b"content_filter") => Finish::ContentFilter,
                    Some(b"max_output_tokens") | None => Finish::Length,
                    Some(other) => Finish::Other(Text::Json(other)),
                };
                each(Delta::Finish { choice: 0, reason });
                each(Delta::End);
            }
            _ => {
                let reason = if self.has_calls(0) { Finish::ToolCalls } else { Finish::Stop };
                each(Delta::Finish { choice: 0, reason });
                each(Delta::End);
            }
        }
        Ok(())
    }
}

const FAILED: &[u8] = br#"{"message":"the response failed","code":"failed"}"#;
const CANCELLED: &[u8] = br#"{"message":"the response was cancelled","code":"cancelled"}"#;

fn status_value(text: &'static [u8]) -> Value<'static> {
    Value::of(text).unwrap_or_default()
}

fn read_usage(usage: Value<'_>) -> Result<Usage, Malformed> {
    Usage::of_openai(
        usage,
        [
            b"input_tokens",
            b"output_tokens",
            b"total_tokens",
            b"input_tokens_details",
            b"output_tokens_details",
        ],
    )
}
