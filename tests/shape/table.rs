//! What each shaping makes of each fixture, against what the fixture says; and the table of it.
//!
//! ```text
//! cargo test --test shape table -- --nocapture
//! ```

use std::collections::BTreeMap;

use millstream::dialect::Dialect;

use crate::fixtures::{End, Fixture, Told, all};
use crate::told::{
    collected, full_tokens, openai, read_collected, read_openai, read_tokens, shaped, shaper,
};

/// What a reader of OpenAI's shape sees of `truth`: calls have ids.
fn with_ids(truth: &Told, told: &Told) -> Told {
    let mut truth = truth.clone();
    for (wanted, call) in truth.calls.iter_mut().zip(&told.calls) {
        if wanted.0.is_none() {
            assert!(call.0.as_ref().is_some_and(|id| id.starts_with("call_")));
            wanted.0.clone_from(&call.0);
        }
    }
    truth
}

fn tokens(fixture: &Fixture) -> Told {
    let shaper = shaper(&full_tokens(), fixture.dialect, fixture.increments);
    read_tokens(&shaped(shaper, [&*fixture.bytes], true), true)
}

fn chunks(fixture: &Fixture) -> Told {
    let shaper = shaper(&openai(true), fixture.dialect, fixture.increments);
    read_openai(&shaped(shaper, [&*fixture.bytes], true))
}

fn answer(fixture: &Fixture) -> Told {
    read_collected(&collected(fixture.dialect, fixture.increments, [&*fixture.bytes], true))
}

#[test]
fn table_of_dialects_and_shapings_is_true() {
    let mut cells: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for fixture in all() {
        let name = &fixture.name;
        // Plain text has no reasons to finish; only OpenAI's shape must name one.
        let plain = fixture.dialect == Dialect::Generic;
        let mut truth = fixture.truth.clone();
        truth.finish = truth.finish.filter(|_| !plain);
        assert_eq!(tokens(&fixture), truth_of_tokens(&truth), "{name} as tokens");

        let told = chunks(&fixture);
        let mut wanted = with_ids(&fixture.truth, &told);
        if matches!(wanted.end, End::Error(_)) {
            wanted.usage = told.usage;
        }
        assert_eq!(told, wanted, "{name} as chunks");

        let told = answer(&fixture);
        let wanted = match &fixture.truth.end {
            End::Error(message) => Told { end: End::Error(message.clone()), ..Told::default() },
            _ => with_ids(&fixture.truth, &told),
        };
        assert_eq!(told, wanted, "{name} collected");
        for cell in cells.entry(fixture.dialect.as_str()).or_default() {
            *cell += 1;
        }
    }
    println!(
        "{:<18}{:>8}{:>8}{:>11}   fixtures told right",
        "dialect", "tokens", "openai", "collected"
    );
    for (dialect, [tokens, openai, collected]) in &cells {
        println!("{dialect:<18}{tokens:>8}{openai:>8}{collected:>11}");
    }
    assert_eq!(cells.len(), Dialect::ALL.len());
}

/// Tokens used are told with the end, so not behind an error.
fn truth_of_tokens(truth: &Told) -> Told {
    let mut truth = truth.clone();
    if truth.end != End::Done {
        (truth.usage, truth.finish) = (None, None);
    }
    truth
}

#[test]
fn the_dialect_is_found_out_where_the_request_did_not_tell() {
    for fixture in all() {
        // Nothing in its first frame says who speaks.
        if ["gemini-blocked"].contains(&&*fixture.name) {
            continue;
        }
        let shaper = shaper(&full_tokens(), Dialect::Generic, fixture.increments);
        let told = read_tokens(&shaped(shaper, [&*fixture.bytes], true), true);
        let known = tokens(&fixture);
        assert_eq!(told, known, "{}", fixture.name);
    }
}

/// Cut anywhere before its last event, a stream is never told as done: not by events, not by
/// `[DONE]`, not as an answer.
#[test]
fn no_end_is_told_that_was_not_reached() {
    for fixture in all() {
        if fixture.truth.end != End::Done {
            continue;
        }
        let whole = |delimited: bool, cut: usize| {
            let parts = || [&fixture.bytes[..cut]];
            let make = |shaping| shaper(&shaping, fixture.dialect, fixture.increments);
            let tokens = read_tokens(&shaped(make(full_tokens()), parts(), delimited), true);
            let chunks = read_openai(&shaped(make(openai(true)), parts(), delimited));
            let answer =
                read_collected(&collected(fixture.dialect, fixture.increments, parts(), delimited));
            [tokens.end, chunks.end, answer.end]
        };
        // Bytes after which the provider has said that it is done, or why it stopped.
        let said = |marks: &[&[u8]]| {
            let ends = marks.iter().filter_map(|mark| {
                memchr::memmem::find(&fixture.bytes, mark).map(|at| at + mark.len())
            });
            ends.min().unwrap_or(fixture.bytes.len())
        };
        let reached = match fixture.dialect {
            Dialect::Generic => continue,
            Dialect::OpenAiChat => said(&[
                b"\"finish_reason\":\"stop\"",
                b"\"finish_reason\": \"stop\"",
                b"\"finish_reason\":\"length\"",
                b"\"finish_reason\":\"tool_calls\"",
            ]),
            Dialect::OpenAiResponses => {
                said(&[b"event: response.completed", b"event: response.incomplete"])
            }
            Dialect::Anthropic => {
                said(&[b"\"stop_reason\":\"end_turn\"", b"\"stop_reason\":\"tool_use\""])
            }
            Dialect::Gemini => said(&[b"\"finishReason\"", b"\"blockReason\""]),
            Dialect::DashScope => {
                said(&[b"\"finish_reason\":\"stop\"", b"\"finish_reason\":\"tool_calls\""])
            }
        };
        for cut in 0..reached {
            for delimited in [true, false] {
                if !delimited && cut % 8 != 0 {
                    continue;
                }
                for end in whole(delimited, cut) {
                    assert_ne!(end, End::Done, "{} cut at {cut}", fixture.name);
                }
            }
        }
        for end in whole(true, fixture.bytes.len()) {
            assert_eq!(end, End::Done, "{}", fixture.name);
        }
    }
}

/// A close is no sure end of plain text.
#[test]
fn plain_text_that_only_a_close_ends_is_not_done() {
    for (delimited, end) in [(true, End::Done), (false, End::Unfinished)] {
        let body = || [&b"data: all of it\n\n"[..]];
        let make = |shaping| shaper(&shaping, Dialect::Generic, Default::default());
        let tokens = read_tokens(&shaped(make(full_tokens()), body(), delimited), true);
        let chunks = read_openai(&shaped(make(openai(false)), body(), delimited));
        let answer =
            read_collected(&collected(Dialect::Generic, Default::default(), body(), delimited));
        assert_eq!([tokens.end, chunks.end, answer.end], [end.clone(), end.clone(), end]);
    }
}
