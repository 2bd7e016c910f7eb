//! `model` and `stream` of a request body, without parsing the rest.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Characters of `model` that are kept: it goes to logs and labels.
pub const MODEL_CHARS_MAX: usize = 128;

/// What a request says at the top level of its JSON body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peek {
    /// The string under `model`, cut at [`MODEL_CHARS_MAX`] characters.
    pub model: Option<String>,
    /// The boolean under `stream`.
    pub stream: Option<bool>,
}

/// Reads `model` and `stream` of the JSON object in `body`, and stops once it has both.
///
/// It never fails: of a body that is cut off, not JSON or not an object it returns what stood
/// before the fault. A member of another type counts as absent. Of members that repeat the first
/// counts, while most parsers take the last: use it for logs and choices that need no trust.
///
/// A caller bounds the time by what it passes in
/// ([`PEEK_BODY_BYTES_MAX`](crate::limits::PEEK_BODY_BYTES_MAX)).
pub fn peek(body: &[u8]) -> Peek {
    let mut found = Peek::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    // An error is a fault in the body or our own stop; `found` holds what came before either.
    let _ = json.deserialize_map(TopLevel { found: &mut found });
    found
}

struct TopLevel<'p> {
    found: &'p mut Peek,
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(key) = members.next_key_seed(KeySeed)? {
            match key {
                Key::Model => {
                    if let Scalar::Text(model) = members.next_value_seed(ScalarSeed)? {
                        self.found.model.get_or_insert(model);
                    }
                }
                Key::Stream => {
                    if let Scalar::Bool(stream) = members.next_value_seed(ScalarSeed)? {
                        self.found.stream.get_or_insert(stream);
                    }
                }
                Key::Other => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            if self.found.model.is_some() && self.found.stream.is_some() {
                // That more may follow is a fault to the parser, of the kind that costs least.
                return Ok(());
            }
        }
        Ok(())
    }
}

enum Key {
    Model,
    Stream,
    Other,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Key, D::Error> {
        json.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        Ok(match name {
            "model" => Key::Model,
            "stream" => Key::Stream,
            _ => Key::Other,
        })
    }
}

/// A member's value as far as it matters here. Strings are cut before they are copied.
enum Scalar {
    Text(String),
    Bool(bool),
    Other,
}

struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Scalar, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        let end = text.char_indices().nth(MODEL_CHARS_MAX).map_or(text.len(), |(at, _)| at);
        Ok(Scalar::Text(text[..end].to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Scalar, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peeked(body: &str) -> (Option<String>, Option<bool>) {
        let found = peek(body.as_bytes());
        (found.model, found.stream)
    }

    fn some(model: &str, stream: bool) -> (Option<String>, Option<bool>) {
        (Some(model.to_owned()), Some(stream))
    }

    #[test]
    fn both_are_found_in_any_order_and_place() {
        assert_eq!(peeked(r#"{"model":"m","stream":true}"#), some("m", true));
        assert_eq!(peeked(r#" { "stream" : false , "model" : "m" } "#), some("m", false));
        let nested = r#"{"messages":[{"model":"no","stream":true}],"x":{"model":"no"},
            "model":"yes","n":1.5e9,"z":null,"stream":false}"#;
        assert_eq!(peeked(nested), some("yes", false));
        assert_eq!(peeked(r#"{"\u006dodel":"a\"b\n","stream":true}"#), some("a\"b\n", true));
    }

    #[test]
    fn other_types_count_as_absent() {
        for value in ["null", "1", "-1", "1.5", "[1,[2]]", r#"{"model":"no"}"#, "true"] {
            let body = format!(r#"{{"model":{value},"stream":true}}"#);
            assert_eq!(peeked(&body), (None, Some(true)), "{body}");
        }
        assert_eq!(peeked(r#"{"stream":"true","model":"m"}"#), (Some("m".into()), None));
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(peeked(r#"{"model":"a","model":"b","stream":true}"#), some("a", true));
        assert_eq!(peeked(r#"{"model":1,"model":"b","stream":true}"#), some("b", true));
    }

    #[test]
    fn it_stops_once_it_has_both() {
        assert_eq!(peeked("{\"model\":\"m\",\"stream\":true,\u{1} not json"), some("m", true));
    }

    #[test]
    fn every_cut_body_gives_what_stood_before_the_cut() {
        let body = r#"{"model":"gpt-5","messages":[{"content":"hi"}],"stream":true}"#;
        let model_end = r#"{"model":"gpt-5""#.len();
        for cut in 0..body.len() {
            let (model, stream) = peeked(&body[..cut]);
            assert_eq!(model.is_some(), cut >= model_end, "{cut}");
            assert_eq!(stream.is_some(), cut == body.len() - 1, "{cut}");
        }
    }

    #[test]
    fn what_is_no_object_gives_nothing() {
        for body in ["", " ", "null", "[]", "7", "\"model\"", "model=m&stream=true", "{", "}"] {
            assert_eq!(peek(body.as_bytes()), Peek::default(), "{body:?}");
        }
        assert_eq!(peek(b"{\"model\":\"\xFF\",\"stream\":true}"), Peek::default());
        assert_eq!(peek(b"\xEF\xBB\xBF{\"model\":\"m\"}"), Peek::default());
    }

    #[test]
    fn deep_nesting_and_huge_strings_do_no_harm() {
        let deep = "[".repeat(1 << 20);
        assert_eq!(peeked(&format!(r#"{{"x":{deep}"#)), (None, None));
        assert_eq!(peeked(&format!(r#"{{"model":{deep}"#)), (None, None));
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(
            peeked(&format!(r#"{{"x":{deep},"model":"m","stream":true}}"#)),
            some("m", true)
        );
        let huge = "é".repeat(1 << 20);
        let (model, stream) =
            peeked(&format!(r#"{{"x":"{huge}","model":"{huge}","stream":true}}"#));
        assert_eq!(model.map(|model| model.chars().count()), Some(MODEL_CHARS_MAX));
        assert_eq!(stream, Some(true));
    }
}
