//! Shapings, run as the relay runs them, and what their readers understand.

use std::sync::Arc;

use millstream::dialect::Dialect;
use millstream::dialect::read::Increments;
use millstream::shape::chunks::OpenAiRule;
use millstream::shape::collect::{CollectError, Collector};
use millstream::shape::template::Told as Event;
use millstream::shape::tokens::TokensRule;
use millstream::shape::{Naming, Shaper, Shaping};
use millstream::sse::frames::{FrameTooLarge, Frames};
use millstream::sse::{Message, Parser};
use serde_json::Value;

use crate::fixtures::{End, Told};

pub(crate) const NAMING: Naming<'static> =
    Naming { id: "r-1", model: "asked-for", created: 1_700_000_000 };

/// Tokens as a page would ask for all there is.
pub(crate) fn full_tokens() -> Shaping {
    let mut rule = TokensRule::chat();
    rule.tell(Event::Refusal, Some("refusal"), "{{json}}").expect("right");
    rule.tell(Event::Done, Some("done"), r#"{"finish":"{{finish}}","usage":{{usage}}}"#)
        .expect("right");
    Shaping::Tokens(Arc::new(rule))
}

/// Tokens whose text is not escaped.
pub(crate) fn raw_tokens() -> Shaping {
    let mut rule = TokensRule::chat();
    for (event, name) in
        [(Event::Token, ""), (Event::Reasoning, "reasoning"), (Event::Refusal, "refusal")]
    {
        rule.tell(event, Some(name), "{{text}}").expect("right");
    }
    Shaping::Tokens(Arc::new(rule))
}

pub(crate) fn openai(include_usage: bool) -> Shaping {
    Shaping::OpenAi(Arc::new(OpenAiRule { include_usage, ..OpenAiRule::default() }))
}

pub(crate) fn shaper(shaping: &Shaping, dialect: Dialect, increments: Increments) -> Box<Shaper> {
    shaping.shaper(dialect, increments, NAMING).expect("a shaping")
}

/// What a body in these parts is told as; `delimited` as it ends.
pub(crate) fn shaped<'a>(
    mut shaper: Box<Shaper>,
    parts: impl IntoIterator<Item = &'a [u8]>,
    delimited: bool,
) -> Vec<u8> {
    let (mut frames, mut out) = (Frames::new(1 << 20), Vec::new());
    shaper.begin(&mut out);
    for part in parts {
        frames
            .feed(part, |frame| {
                shaper.frame(frame, &mut out).expect("read");
                Ok::<_, FrameTooLarge>(())
            })
            .expect("short frames");
    }
    shaper.finish(frames.rest(), delimited, &mut out);
    out
}

pub(crate) fn collected<'a>(
    dialect: Dialect,
    increments: Increments,
    parts: impl IntoIterator<Item = &'a [u8]>,
    delimited: bool,
) -> Result<Vec<u8>, CollectError> {
    let mut collector = Collector::new(dialect, increments, NAMING, 1 << 20, 1 << 20);
    for part in parts {
        collector.feed(part)?;
    }
    collector.finish(delimited)
}

pub(crate) fn messages(stream: &[u8]) -> Vec<Message> {
    let (mut parser, mut messages) = (Parser::new(1 << 22), Vec::new());
    parser.feed(stream, &mut messages).expect("short frames");
    messages
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn usage(usage: &Value) -> Option<[u64; 3]> {
    let number = |name: &str| usage[name].as_u64().expect("a number");
    usage
        .is_object()
        .then(|| [number("prompt_tokens"), number("completion_tokens"), number("total_tokens")])
}

/// Reads events as a page does.
pub(crate) fn read_tokens(stream: &[u8], json: bool) -> Told {
    let mut told = Told::default();
    let messages = messages(stream);
    assert_eq!((&*messages[0].event, &*messages[0].data), (&b"start"[..], &b""[..]));
    for message in &messages[1..] {
        assert_eq!(told.end, End::Unfinished, "nothing follows the end");
        let data = string(&message.data);
        let text = || {
            if json { serde_json::from_str(&data).expect("a JSON string") } else { data.clone() }
        };
        match &*message.event {
            b"message" => told.text.push_str(&text()),
            b"reasoning" => told.reasoning.push_str(&text()),
            b"refusal" => told.refusal.push_str(&text()),
            b"tool_call" => {
                let part: Value = serde_json::from_str(&data).expect("JSON");
                let at = part["index"].as_u64().expect("a number") as usize;
                if told.calls.len() <= at {
                    told.calls.resize_with(at + 1, Default::default);
                }
                let call = &mut told.calls[at];
                let word = |name: &str| part[name].as_str().unwrap_or_default().to_owned();
                call.0 = part["id"].as_str().map(str::to_owned).or_else(|| call.0.take());
                call.1.push_str(&word("name"));
                call.2.push_str(&word("arguments"));
            }
            b"done" => {
                told.end = End::Done;
                let done: Value = serde_json::from_str(&data).unwrap_or_default();
                let finish = done["finish"].as_str().filter(|finish| !finish.is_empty());
                told.finish = finish.map(str::to_owned);
                told.usage = usage(&done["usage"]);
            }
            b"error" => told.end = End::Error(data),
            other => panic!("what is {:?}?", string(other)),
        }
    }
    told
}

/// Reads chunks as OpenAI's clients do, strictly.
pub(crate) fn read_openai(stream: &[u8]) -> Told {
    let mut told = Told::default();
    let mut names: Option<(Value, Value, Value)> = None;
    let mut role = false;
    for message in messages(stream) {
        assert_eq!(message.event, b"message");
        // Not even `[DONE]` behind an error, which vLLM sends.
        assert_eq!(told.end, End::Unfinished, "nothing follows the end");
        if message.data == b"[DONE]" {
            told.end = End::Done;
            continue;
        }
        let chunk: Value = serde_json::from_slice(&message.data).expect("JSON");
        if chunk["error"].is_object() {
            told.end = End::Error(chunk["error"]["message"].as_str().expect("said").to_owned());
            continue;
        }
        assert_eq!(chunk["object"], "chat.completion.chunk");
        let name = (chunk["id"].clone(), chunk["created"].clone(), chunk["model"].clone());
        assert!(name.0.is_string() && name.1.is_u64() && name.2.is_string());
        assert_eq!(*names.get_or_insert_with(|| name.clone()), name, "every chunk names the same");
        if chunk["usage"].is_object() {
            told.usage = usage(&chunk["usage"]);
        }
        for choice in chunk["choices"].as_array().expect("choices") {
            assert_eq!(choice["index"], 0);
            assert!(role || choice["delta"]["role"] == "assistant", "the role goes first");
            role = true;
            read_delta(&choice["delta"], &mut told);
            if let Some(finish) = choice["finish_reason"].as_str() {
                assert_eq!(told.finish.replace(finish.to_owned()), None, "one finish");
            }
        }
    }
    told
}

fn read_delta(delta: &Value, told: &mut Told) {
    let text = |name: &str| delta[name].as_str().unwrap_or_default();
    told.text.push_str(text("content"));
    told.reasoning.push_str(text("reasoning_content"));
    told.refusal.push_str(text("refusal"));
    for part in delta["tool_calls"].as_array().into_iter().flatten() {
        let at = part["index"].as_u64().expect("an index") as usize;
        if at == told.calls.len() {
            assert_eq!(part["type"], "function");
            let id = part["id"].as_str().expect("an id").to_owned();
            told.calls.push((Some(id), String::new(), String::new()));
        }
        let call = &mut told.calls[at];
        call.1.push_str(part["function"]["name"].as_str().unwrap_or_default());
        call.2.push_str(part["function"]["arguments"].as_str().expect("arguments"));
    }
}

/// Reads one answer as OpenAI's clients do.
pub(crate) fn read_collected(answer: &Result<Vec<u8>, CollectError>) -> Told {
    let body = match answer {
        Ok(body) => body,
        Err(CollectError::Unfinished) => return Told::default(),
        Err(error) => return Told { end: End::Error(error.to_string()), ..Told::default() },
    };
    let answer: Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["id"].is_string() && answer["created"].is_u64() && answer["model"].is_string());
    let mut told = Told { end: End::Done, usage: usage(&answer["usage"]), ..Told::default() };
    let [choice] = answer["choices"].as_array().expect("choices").as_slice() else {
        panic!("one choice")
    };
    let message = &choice["message"];
    assert_eq!(message["role"], "assistant");
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    told.text = text("content");
    told.reasoning = text("reasoning_content");
    told.refusal = text("refusal");
    told.finish = choice["finish_reason"].as_str().map(str::to_owned);
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let part = |name: &str| call["function"][name].as_str().expect("said").to_owned();
        let id = call["id"].as_str().map(str::to_owned);
        told.calls.push((id, part("name"), part("arguments")));
    }
    told
}
