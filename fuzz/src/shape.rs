//! Streams told in other words, at any splits: nothing panics, what goes out is whole frames of
//! text, it is the same however the bytes came, and every `data` of OpenAI's shape is JSON.

use std::sync::Arc;

use millstream::dialect::Dialect;
use millstream::dialect::read::Increments;
use millstream::shape::chunks::OpenAiRule;
use millstream::shape::collect::Collector;
use millstream::shape::template::Told;
use millstream::shape::tokens::TokensRule;
use millstream::shape::{Naming, Shaping};
use millstream::sse::{FrameTooLarge, Frames, Parser, Scanner};

use super::Choices;

const NAMING: Naming<'static> = Naming { id: "r", model: "m", created: 1 };
const FRAME_MAX: usize = 4096;

/// See the module's description.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let dialect = Dialect::ALL[usize::from(choices.byte()) % Dialect::ALL.len()];
    let increments = match choices.byte() % 3 {
        0 => Increments::Unknown,
        1 => Increments::New,
        _ => Increments::SoFar,
    };
    let cuts = choices.cuts();
    let stream = choices.all();
    let mut raw = TokensRule::chat();
    raw.tell(Told::Token, None, "{{text}}").expect("right");
    for shaping in [
        Shaping::Tokens(Arc::new(TokensRule::chat())),
        Shaping::Tokens(Arc::new(raw)),
        Shaping::OpenAi(Arc::new(OpenAiRule { include_usage: true, ..OpenAiRule::default() })),
    ] {
        let whole = told(&shaping, dialect, increments, stream, &[]);
        assert_eq!(told(&shaping, dialect, increments, stream, &cuts), whole);
        assert!(std::str::from_utf8(&whole).is_ok(), "text goes out");
        let mut scanner = Scanner::new();
        scanner.scan(&whole);
        assert!(scanner.at_boundary(), "whole frames go out");
        if matches!(shaping, Shaping::OpenAi(_)) && dialect != Dialect::OpenAiChat {
            check_json(&whole);
        }
    }
    let mut collector = Collector::new(dialect, increments, NAMING, FRAME_MAX, 1 << 16);
    if collector.feed(stream).is_ok()
        && let Ok(answer) = collector.finish(true)
    {
        serde_json::from_slice::<serde_json::Value>(&answer).expect("an answer is JSON");
    }
}

fn told(
    shaping: &Shaping,
    dialect: Dialect,
    increments: Increments,
    stream: &[u8],
    cuts: &[usize],
) -> Vec<u8> {
    let mut shaper = shaping.shaper(dialect, increments, NAMING).expect("a shaping");
    let (mut frames, mut out) = (Frames::new(FRAME_MAX), Vec::new());
    shaper.begin(&mut out);
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let mut malformed = false;
        let fed = frames.feed(&stream[from..to], |frame| {
            malformed = shaper.frame(frame, &mut out).is_err();
            if malformed { Err(FrameTooLarge { frame_bytes_max: 0 }) } else { Ok(()) }
        });
        if fed.is_err() {
            return out;
        }
        from = to;
    }
    shaper.finish(frames.rest(), true, &mut out);
    out
}

/// Frames of OpenAI chat stay as they are; all others are ours to write.
fn check_json(told: &[u8]) {
    let (mut parser, mut messages) = (Parser::new(1 << 24), Vec::new());
    parser.feed(told, &mut messages).expect("short frames");
    for message in messages.iter().filter(|message| message.data != b"[DONE]") {
        // A stream of unknown dialect may turn out to be OpenAI's, whose frames stay.
        let json = serde_json::from_slice::<serde_json::Value>(&message.data);
        assert!(json.is_ok() || !message.data.starts_with(b"{\"id\":\"r\""), "{message:?}");
    }
}
