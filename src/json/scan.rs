//! Where JSON values begin and end. The whole grammar of RFC 8259 is checked, once; nothing is
//! built.

use std::fmt;

use crate::limits::{JSON_DEPTH_MAX, JSON_MEMBERS_MAX};

/// Why a text is no JSON that is taken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// It is not UTF-8 from this byte on.
    Utf8(usize),
    /// A byte that may not stand here, or the end of the text.
    Syntax(usize),
    /// Values are nested deeper than [`JSON_DEPTH_MAX`].
    TooDeep(usize),
    /// An object that is looked into has more than [`JSON_MEMBERS_MAX`] members.
    TooManyMembers,
    /// It is no object.
    NotAnObject,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf8(at) => write!(f, "it is not UTF-8 at byte {at}"),
            Self::Syntax(at) => write!(f, "it is not JSON at byte {at}"),
            Self::TooDeep(at) => {
                write!(f, "it is nested deeper than {JSON_DEPTH_MAX} levels at byte {at}")
            }
            Self::TooManyMembers => write!(f, "it has more than {JSON_MEMBERS_MAX} members"),
            Self::NotAnObject => f.write_str("it is not a JSON object"),
        }
    }
}

impl std::error::Error for JsonError {}

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// A number of any size.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `null`.
    Null,
    /// Members.
    Object,
    /// Items.
    Array,
}

impl Kind {
    /// The kind of a checked value, by its first byte.
    pub fn of(value: &str) -> Self {
        match value.as_bytes().first() {
            Some(b'"') => Self::String,
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'n') => Self::Null,
            _ => Self::Number,
        }
    }

    /// Its word in messages and in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Null => "null",
            Self::Object => "object",
            Self::Array => "array",
        }
    }
}

/// Checks that `bytes` are one JSON value, and nothing but white space around it.
///
/// # Errors
/// What is wrong, and where.
pub fn check(bytes: &[u8]) -> Result<&str, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::Utf8(error.valid_up_to()))?;
    let start = skip_space(bytes, 0);
    let end = skip_space(bytes, value(bytes, start)?);
    if end == bytes.len() { Ok(text) } else { Err(JsonError::Syntax(end)) }
}

/// The first place at or after `at` that is no white space.
pub fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of the value that begins at `at`.
///
/// # Errors
/// It is no value.
pub fn value(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    // The open objects (true) and arrays, innermost last; no recursion, so no stack to overflow.
    let mut open: Vec<bool> = Vec::new();
    let mut at = at;
    loop {
        at = match bytes.get(at) {
            Some(b'"') => string(bytes, at)?,
            Some(b't') => word(bytes, at, b"true")?,
            Some(b'f') => word(bytes, at, b"false")?,
            Some(b'n') => word(bytes, at, b"null")?,
            Some(b'-' | b'0'..=b'9') => number(bytes, at)?,
            Some(&bracket @ (b'{' | b'[')) => {
                if open.len() == JSON_DEPTH_MAX {
                    return Err(JsonError::TooDeep(at));
                }
                let object = bracket == b'{';
                at = skip_space(bytes, at + 1);
                let closing = if object { b'}' } else { b']' };
                if bytes.get(at) != Some(&closing) {
                    open.push(object);
                    at = if object { name(bytes, at)? } else { at };
                    continue;
                }
                at + 1
            }
            _ => return Err(JsonError::Syntax(at)),
        };
        // Behind a value: the next one of its parent, or the parents' ends.
        loop {
            let Some(&object) = open.last() else { return Ok(at) };
            at = skip_space(bytes, at);
            match bytes.get(at) {
                Some(b',') => {
                    at = skip_space(bytes, at + 1);
                    at = if object { name(bytes, at)? } else { at };
                    break;
                }
                Some(b'}') if object => at += 1,
                Some(b']') if !object => at += 1,
                _ => return Err(JsonError::Syntax(at)),
            }
            open.pop();
        }
    }
}

/// Behind a member's name and its colon.
fn name(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    if bytes.get(at) != Some(&b'"') {
        return Err(JsonError::Syntax(at));
    }
    let at = skip_space(bytes, string(bytes, at)?);
    if bytes.get(at) != Some(&b':') {
        return Err(JsonError::Syntax(at));
    }
    Ok(skip_space(bytes, at + 1))
}

/// The end of the string whose quote is at `at`.
///
/// # Errors
/// It does not end, or has a byte that must be escaped, or an escape there is not.
pub fn string(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let mut at = at + 1;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(found) = memchr::memchr2(b'"', b'\\', rest) else {
            return Err(JsonError::Syntax(bytes.len()));
        };
        if let Some(control) = rest[..found].iter().position(|byte| *byte < 0x20) {
            return Err(JsonError::Syntax(at + control));
        }
        at += found;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at = match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
            Some(b'u')
                if bytes
                    .get(at + 2..at + 6)
                    .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) =>
            {
                at + 6
            }
            _ => return Err(JsonError::Syntax(at)),
        };
    }
}

fn word(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, JsonError> {
    if bytes[at..].starts_with(word) { Ok(at + word.len()) } else { Err(JsonError::Syntax(at)) }
}

fn digits(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let count =
        bytes[at.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 { Err(JsonError::Syntax(at)) } else { Ok(at + count) }
}

fn number(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let mut at = if bytes[at] == b'-' { at + 1 } else { at };
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(bytes, at)? };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let signed = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = digits(bytes, at + 1 + usize::from(signed))?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `serde_json` as the oracle; it has no limit of depth for values it ignores.
    fn oracle(text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok()
            && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    #[test]
    fn the_grammar_is_that_of_serde_json() {
        for text in [
            "{}",
            " [ ] ",
            "[1,2]",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{\"a\" : [ { } , null ] }",
            "{\"a\":1 \"b\":2}",
            "{a:1}",
            "{1:2}",
            "01",
            "-0",
            "-",
            "1.",
            ".5",
            "1.5e+9",
            "1e",
            "1E-",
            "1e5x",
            "true",
            "tru",
            "truex",
            "nul",
            "false",
            "\"\\u00e9\"",
            "\"\\u00g9\"",
            "\"\\x\"",
            "\"a\nb\"",
            "\"a",
            "\"\\",
            "",
            " ",
            "1 2",
            "{} {}",
            "[1",
            "{\"a\"",
            "{\"a\":",
            "[}",
            "{]",
            "123456789012345678901234567890.123456789e-400",
            "\u{feff}{}",
            "\"\\ud800\"",
            "[[[]]]",
        ] {
            assert_eq!(check(text.as_bytes()).is_ok(), oracle(text.as_bytes()), "{text:?}");
        }
        assert_eq!(check(b"{\"a\":\"\xff\"}"), Err(JsonError::Utf8(6)));
    }

    #[test]
    fn deep_nesting_is_refused_where_it_begins() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        let deeper = nested(JSON_DEPTH_MAX + 1);
        assert_eq!(check(deeper.as_bytes()), Err(JsonError::TooDeep(JSON_DEPTH_MAX)));
        let objects = "{\"a\":".repeat(1 << 20);
        assert!(matches!(check(objects.as_bytes()), Err(JsonError::TooDeep(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged_as_serde_json_does(text in r#"[\[\]{}:,"\\ a1e.\-tfn0u\n]{0,24}"#) {
            proptest::prop_assert_eq!(check(text.as_bytes()).is_ok(), oracle(text.as_bytes()));
        }
    }
}
