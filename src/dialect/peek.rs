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
                return Err(A::Error::custom("both found"));
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
        Ok(Scalar::Text(text.chars().take(MODEL_CHARS_MAX).collect()))
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
