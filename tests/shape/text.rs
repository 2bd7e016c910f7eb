//! Text out is text in, whatever the text, its pieces, its escapes, its dialect and its shaping.

use millstream::dialect::Dialect;
use millstream::dialect::read::Increments;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixtures::End;
use crate::told::{
    collected, full_tokens, openai, raw_tokens, read_collected, read_openai, read_tokens, shaped,
    shaper,
};

/// Which escapes the provider's JSON has.
#[derive(Clone, Copy, Debug)]
enum Escapes {
    Few,
    /// All but ASCII, in surrogates that may be cut in two.
    Ascii,
}

/// The frames of a stream that says `pieces`; a piece is UTF-16, so that it may end in half a
/// character.
fn stream(
    dialect: Dialect,
    increments: Increments,
    pieces: &[Vec<u16>],
    escapes: Escapes,
) -> Vec<u8> {
    let mut out = String::new();
    let mut so_far = Vec::new();
    for (n, piece) in (1..).zip(pieces) {
        let text = if increments == Increments::SoFar {
            so_far.extend_from_slice(piece);
            &so_far
        } else {
            piece
        };
        let value = match dialect {
            Dialect::OpenAiChat => {
                json!({"id": "c", "object": "chat.completion.chunk", "created": 1,
                "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "@"}}]})
            }
            Dialect::OpenAiResponses => json!({"type": "response.output_text.delta", "delta": "@"}),
            Dialect::Anthropic => json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": "@"}}),
            Dialect::Gemini => json!({"candidates": [{"content": {"parts": [{"text": "@"}]}}]}),
            Dialect::DashScope if n % 2 == 0 => json!({"output": {"text": "@"}, "request_id": "r"}),
            Dialect::DashScope => json!({"output": {"choices": [{"message": {"content": "@"}}]},
                "request_id": "r"}),
            Dialect::Generic => Value::Null,
        };
        let frame = if dialect == Dialect::Generic {
            String::from_utf16(text)
                .expect("whole")
                .split('\n')
                .fold(String::new(), |frame, line| frame + "data: " + line + "\n")
        } else {
            format!("data: {}\n", value.to_string().replace('@', &escaped(text, escapes)))
        };
        out.push_str(&frame);
        out.push('\n');
    }
    out.push_str(match dialect {
        Dialect::OpenAiChat | Dialect::Generic => "data: [DONE]\n\n",
        Dialect::OpenAiResponses => {
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n"
        }
        Dialect::Anthropic => "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        Dialect::Gemini => "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n",
        Dialect::DashScope => "data:{\"output\":{\"finish_reason\":\"stop\"}}\n\n",
    });
    out.into_bytes()
}

fn escaped(text: &[u16], escapes: Escapes) -> String {
    let mut out = String::new();
    for character in char::decode_utf16(text.iter().copied()) {
        match (character, escapes) {
            (Ok(character), Escapes::Ascii) if !character.is_ascii() => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            (Ok(character), _) => {
                let text = serde_json::to_string(&character).expect("JSON");
                out.push_str(&text[1..text.len() - 1]);
            }
            (Err(half), _) => out.push_str(&format!("\\u{:04x}", half.unpaired_surrogate())),
        }
    }
    out
}

fn dialects() -> impl Strategy<Value = (Dialect, Increments)> {
    let all = Dialect::ALL.iter().map(|dialect| (*dialect, Increments::New));
    proptest::sample::select(
        all.chain([(Dialect::DashScope, Increments::SoFar)]).collect::<Vec<_>>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn text_out_is_text_in(
        (dialect, increments) in dialects(),
        text in "[a-c \"\\\\/\n\t\u{1}\u{7f}éß你好\u{2028}\u{feff}\u{fffd}😀𝄞🏔️]{1,40}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        step in 1_usize..200,
        ascii in any::<bool>(),
    ) {
        // Data lines carry no NUL and no escape: plain text comes in whole characters.
        let units: Vec<u16> = text.encode_utf16().collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(units.len())).collect();
        at.extend([0, units.len()]);
        at.sort_unstable();
        at.dedup();
        if dialect == Dialect::Generic || increments == Increments::SoFar && !ascii {
            at.retain(|&at| at == units.len() || !(0xDC00..0xE000).contains(&units[at]));
        }
        let pieces: Vec<Vec<u16>> = at.windows(2).map(|pair| units[pair[0]..pair[1]].to_vec()).collect();
        prop_assume!(dialect != Dialect::Generic || pieces[0] != "[DONE]".encode_utf16().collect::<Vec<_>>());
        let escapes = if ascii { Escapes::Ascii } else { Escapes::Few };
        let stream = stream(dialect, increments, &pieces, escapes);
        let parts = || stream.chunks(step);
        let make = |shaping| shaper(&shaping, dialect, increments);
        let told = [
            read_tokens(&shaped(make(full_tokens()), parts(), true), true),
            read_tokens(&shaped(make(raw_tokens()), parts(), true), false),
            read_openai(&shaped(make(openai(false)), parts(), true)),
            read_collected(&collected(dialect, increments, parts(), true)),
        ];
        for (n, told) in told.into_iter().enumerate() {
            prop_assert_eq!(told.end, End::Done, "shaping {}", n);
            prop_assert_eq!(told.text, text.clone(), "shaping {}", n);
        }
    }

    /// Whatever a provider sends, nothing panics, and what goes out is whole frames of text.
    #[test]
    fn no_bytes_do_harm(
        dialect in proptest::sample::select(Dialect::ALL.to_vec()),
        words in prop::collection::vec(proptest::sample::select(vec![
            "data:", "data: ", "event: ", "error", "\n", "\n\n", "\r\n\r\n", "{", "}", "[", "]", "\"", ":", ",",
            "{\"choices\":[{\"delta\":{\"content\":\"", "\\ud83d", "\\", "\\u12", "\"}}]}", "{\"type\":\"",
            "content_block_delta", "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"x\"", "null", "1e9",
            "{\"output\":{\"text\":\"", "[DONE]", "\"tool_calls\":[{\"index\":4294967295,\"function\":{\"arguments\":\"",
            ":HTTP_STATUS/500\n", "status:", "{\"error\":", "\u{0}", "你", "data: {\"error\":{\"message\":{}}}\n\n",
        ]), 0..40),
    ) {
        let stream = words.concat();
        for shaping in [full_tokens(), raw_tokens(), openai(true)] {
            let mut shaper = shaper(&shaping, dialect, Increments::Unknown);
            let mut out = Vec::new();
            let mut frames = millstream::sse::Frames::new(1 << 20);
            let _ = frames.feed(stream.as_bytes(), |frame| {
                let _ = shaper.frame(frame, &mut out);
                Ok::<_, millstream::sse::FrameTooLarge>(())
            });
            shaper.finish(frames.rest(), true, &mut out);
            prop_assert!(std::str::from_utf8(&out).is_ok());
            let mut scanner = millstream::sse::Scanner::new();
            scanner.scan(&out);
            prop_assert!(scanner.at_boundary());
        }
        let _ = collected(dialect, Increments::Unknown, [stream.as_bytes()], true);
    }
}
