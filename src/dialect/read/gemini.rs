//! Gemini `streamGenerateContent?alt=sse`: each event a `GenerateContentResponse`.

use super::{Delta, Each, Finish, Parts, Reader, Start, ToolCall, Usage, choice_of, fault};
use crate::dialect::json::{Malformed, Value};
use crate::dialect::text::Text;

impl Reader {
    pub(super) fn gemini(
        &mut self,
        parts: &Parts<'_>,
        frame: &[u8],
        each: Each<'_>,
    ) -> Result<(), Malformed> {
        let data = match parts.json()? {
            Some(data) => data,
            // An error in the middle of a stream may come as bare lines of JSON.
            None if parts.data.is_none() => match bare(frame) {
                Some(data) => data,
                None => return Ok(()),
            },
            None => return Ok(()),
        };
        let [candidates, usage, error, feedback, id, model] = data.members([
            b"candidates",
            b"usageMetadata",
            b"error",
            b"promptFeedback",
            b"responseId",
            b"modelVersion",
        ])?;
        if error.is_some() {
            each(Delta::Error(fault(error, None)?));
            return Ok(());
        }
        if !self.started {
            let [id, model] = [id, model].map(|value| value.text().map(Text::Json));
            self.start(Start { id, model, created: None }, each);
        }
        let [blocked] = feedback.members([b"blockReason"])?;
        if blocked.text().is_some() {
            each(Delta::Finish { choice: 0, reason: Finish::ContentFilter });
        }
        for candidate in candidates.items() {
            self.gemini_candidate(candidate?, each)?;
        }
        if usage.is_object() {
            each(Delta::Usage(read_usage(usage)?));
        }
        Ok(())
    }

    fn gemini_candidate(&mut self, candidate: Value<'_>, each: Each<'_>) -> Result<(), Malformed> {
        let [index, content, finish] =
            candidate.members([b"index", b"content", b"finishReason"])?;
        let choice = choice_of(index)?;
        let [parts] = content.members([b"parts"])?;
        for part in parts.items() {
            let [text, thought, function] =
                part?.members([b"text", b"thought", b"functionCall"])?;
            if let Some(text) = text.text().map(Text::Json) {
                each(match thought.raw() {
                    b"true" => Delta::Reasoning { choice, text },
                    _ => Delta::Text { choice, text },
                });
            }
            if function.is_object() {
                // A call comes whole, and every one is another.
                let key = self.calls.len() as u32;
                let (call, _) = self.call(choice, key)?;
                let [id, name, args] = function.members([b"id", b"name", b"args"])?;
                let [id, name] = [id, name].map(|value| value.text().map(Text::Json));
                let args = if args.is_some() { args.raw() } else { b"{}" };
                let arguments = Some(Text::Plain(args));
                each(Delta::ToolCall(ToolCall { choice, call, id, name, arguments }));
            }
        }
        if let Some(reason) = finish.text()
            && reason != b"FINISH_REASON_UNSPECIFIED"
        {
            let reason = match reason {
                b"STOP" if self.has_calls(choice) => Finish::ToolCalls,
                reason => read_finish(reason),
            };
            each(Delta::Finish { choice, reason });
        }
        Ok(())
    }
}

/// The object that a frame without `data` is, or the first of a list of them.
fn bare(frame: &[u8]) -> Option<Value<'_>> {
    let value = Value::of(frame.trim_ascii()).ok()?;
    let value = if value.is_array() { value.items().next()?.ok()? } else { value };
    value.is_object().then_some(value)
}

fn read_finish(reason: &[u8]) -> Finish<'_> {
    match reason {
        b"STOP" => Finish::Stop,
        b"MAX_TOKENS" => Finish::Length,
        b"SAFETY"
        | b"RECITATION"
        | b"LANGUAGE"
        | b"BLOCKLIST"
        | b"PROHIBITED_CONTENT"
        | b"SPII"
        | b"IMAGE_SAFETY" => Finish::ContentFilter,
        _ => Finish::Other(Text::Json(reason)),
    }
}

/// Thoughts are not in `candidatesTokenCount`.
fn read_usage(usage: Value<'_>) -> Result<Usage, Malformed> {
    let [input, output, thoughts, total, cached] = usage.members([
        b"promptTokenCount",
        b"candidatesTokenCount",
        b"thoughtsTokenCount",
        b"totalTokenCount",
        b"cachedContentTokenCount",
    ])?;
    let thoughts = thoughts.number();
    Ok(Usage {
        input: input.number(),
        output: match (output.number(), thoughts) {
            (Some(output), Some(thoughts)) => Some(output.saturating_add(thoughts)),
            (output, thoughts) => output.or(thoughts),
        },
        total: total.number(),
        cached: cached.number(),
        reasoning: thoughts,
    })
}
