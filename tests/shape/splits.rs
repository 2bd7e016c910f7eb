//! However a body is split, it is told as the same bytes.

use millstream::shape::Shaping;

use crate::fixtures::{Fixture, all};
use crate::told::{collected, full_tokens, openai, raw_tokens, shaped, shaper};

fn shapings() -> [Shaping; 3] {
    [full_tokens(), raw_tokens(), openai(true)]
}

/// Everything the body in these parts is told as.
fn told(fixture: &Fixture, shaping: Option<&Shaping>, parts: &[&[u8]]) -> Vec<u8> {
    let parts = parts.iter().copied();
    match shaping {
        Some(shaping) => {
            let shaper = shaper(shaping, fixture.dialect, fixture.increments);
            shaped(shaper, parts, true)
        }
        None => collected(fixture.dialect, fixture.increments, parts, true)
            .unwrap_or_else(|error| error.to_string().into_bytes()),
    }
}

fn each(mut check: impl FnMut(&Fixture, &mut dyn FnMut(&[&[u8]]))) {
    let shapings = shapings();
    for fixture in all() {
        for shaping in shapings.iter().map(Some).chain([None]) {
            let whole = told(&fixture, shaping, &[&fixture.bytes]);
            check(&fixture, &mut |parts: &[&[u8]]| {
                assert_eq!(
                    String::from_utf8_lossy(&told(&fixture, shaping, parts)),
                    String::from_utf8_lossy(&whole),
                    "{} in {:?}",
                    fixture.name,
                    parts.iter().map(|part| part.len()).collect::<Vec<_>>()
                );
            });
        }
    }
}

#[test]
fn byte_by_byte_and_in_steps() {
    each(|fixture, same| {
        for step in [1, 2, 3, 7, 64, 1000] {
            same(&fixture.bytes.chunks(step).collect::<Vec<_>>());
        }
    });
}

/// Every cut, and every second cut close behind it: what a cut can change, a line end, an escape,
/// a character or a frame's two ends, is nearer than that. Of short streams every pair.
#[test]
fn cut_at_every_place_and_at_every_second_one() {
    each(|fixture, same| {
        let bytes = &fixture.bytes[..];
        let short = bytes.len() < 200;
        for a in 0..=bytes.len() {
            for b in a..=bytes.len() {
                if short || matches!(b - a, 0 | 3) {
                    same(&[&bytes[..a], &bytes[a..b], &bytes[b..]]);
                }
            }
        }
    });
}
