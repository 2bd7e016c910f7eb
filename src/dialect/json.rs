//! JSON read in place: members of objects and items of arrays as spans of the text, and no more.
//!
//! A frame of a stream is some 200 bytes of which a handful matter. Nothing is built of the rest:
//! it is stepped over, a word of a string at a time. What is stepped over is checked as far as
//! finding its end needs it (strings, balance); [`Malformed`] says where that fails, and where what
//! is looked into has another grammar than JSON's.
//!
//! # Speed
//!
//! One frame of some 200 bytes, read to its text (`cargo bench --bench shape -- reading`; one core
//! of a shared virtual Xeon on which other programs ran, so take the ratios; sonic-rs 0.5 was
//! measured once and is not in the tree):
//!
//! | | ns |
//! |---|---|
//! | all that [`read`](super::read) takes from a frame of OpenAI chat | 381 |
//! | of Anthropic | 158 |
//! | of DashScope | 469 |
//! | serde_json into borrowed structs of three members (a list allocated) | 348 |
//! | sonic-rs, `get_many` of three paths | 532 |
//! | sonic-rs into the same structs | 557 |
//! | sonic-rs, lazy iterators down to the text | 903 |
//! | serde_json into a `Value` | 1,400 |
//!
//! Derived structs are as fast for so few members, but one member of a type that was not expected
//! fails the whole frame, and a text with an escape is copied.

/// The text is not JSON where it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A value as it stands in the text, without white space around it. Absent members are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// The one value that `text` holds, white space around it allowed. An object or a list is only
    /// looked at when it is asked for its [members](Self::members) or [items](Self::items), which
    /// say then if it is none, or if something stands behind it.
    ///
    /// # Errors
    /// There is no value, or something stands behind it.
    pub fn of(text: &'a [u8]) -> Result<Self, Malformed> {
        let text = text.trim_ascii();
        if matches!(text.first(), Some(b'{' | b'[')) || skip_value(text, 0)? == text.len() {
            Ok(Self(text))
        } else {
            Err(Malformed)
        }
    }

    /// Its bytes.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is a value, and it is not `null`.
    pub fn is_some(self) -> bool {
        !self.0.is_empty() && self.0 != b"null"
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.first() == Some(&b'{')
    }

    /// Whether it is an array.
    pub fn is_array(self) -> bool {
        self.0.first() == Some(&b'[')
    }

    /// What stands between a string's quotes, escapes as they are; `None` for other values.
    pub fn string(self) -> Option<&'a [u8]> {
        self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")
    }

    /// The same, where it is not empty.
    pub fn text(self) -> Option<&'a [u8]> {
        self.string().filter(|text| !text.is_empty())
    }

    /// A whole number that is not negative; `None` for other values.
    pub fn number(self) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        self.0.iter().try_fold(0_u64, |sum, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            sum.checked_mul(10)?.checked_add(digit)
        })
    }

    /// An index: absent, negative or huge ones count as 0.
    pub fn index(self) -> u32 {
        self.number().and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
    }

    /// The values of an object's members by name: of members that repeat the last, as most readers
    /// take them; empty where there is none. All are empty if this is no object.
    ///
    /// # Errors
    /// The object is malformed.
    #[inline(always)] // so that the names are constants where they are compared
    pub fn members<const N: usize>(self, names: [&[u8]; N]) -> Result<[Self; N], Malformed> {
        if !self.is_object() {
            return Ok([Self::default(); N]);
        }
        let (found, end) = members_at(self.0, 0, names)?;
        if end == self.0.len() { Ok(found) } else { Err(Malformed) }
    }

    /// The items of an array; none if this is no array.
    pub fn items(self) -> Items<'a> {
        Items { text: if self.is_array() { self.0 } else { &[] }, at: 1, first: true }
    }
}

/// The members of the object that begins at `at`, and the offset behind it.
#[inline(always)]
fn members_at<'a, const N: usize>(
    text: &'a [u8],
    at: usize,
    names: [&[u8]; N],
) -> Result<([Value<'a>; N], usize), Malformed> {
    let mut found = [Value::default(); N];
    let mut at = skip_space(text, at + 1);
    if text.get(at) == Some(&b'}') {
        return Ok((found, at + 1));
    }
    loop {
        let (key, start) = skip_key(text, at)?;
        let end = skip_value(text, start)?;
        if let Some(n) = position(&names, key) {
            found[n] = Value(&text[start..end]);
        }
        at = skip_space(text, end);
        match text.get(at) {
            Some(b',') => at = skip_space(text, at + 1),
            Some(b'}') => return Ok((found, at + 1)),
            _ => return Err(Malformed),
        }
    }
}

/// The name of the member that begins at `at`, and the offset of its value.
#[inline]
fn skip_key(text: &[u8], at: usize) -> Result<(&[u8], usize), Malformed> {
    if text.get(at) != Some(&b'"') {
        return Err(Malformed);
    }
    let end = skip_string(text, at + 1)?;
    let key = &text[at + 1..end - 1];
    let at = skip_space(text, end);
    if text.get(at) != Some(&b':') {
        return Err(Malformed);
    }
    Ok((key, skip_space(text, at + 1)))
}

/// The iterator of [`Value::items`].
#[derive(Debug)]
pub struct Items<'a> {
    /// The array; empty when all is told.
    text: &'a [u8],
    at: usize,
    first: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Value<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = match self.begin()? {
            Ok(start) => start,
            Err(error) => return Some(Err(error)),
        };
        Some(
            self.take(skip_value(self.text, start).map(|end| (Value(&self.text[start..end]), end))),
        )
    }
}

impl<'a> Items<'a> {
    /// The next item's members, as [`Value::members`] gives them, in one pass over it.
    #[inline(always)]
    pub fn next_members<const N: usize>(
        &mut self,
        names: [&[u8]; N],
    ) -> Option<Result<[Value<'a>; N], Malformed>> {
        let start = match self.begin()? {
            Ok(start) => start,
            Err(error) => return Some(Err(error)),
        };
        let taken = if self.text.get(start) == Some(&b'{') {
            members_at(self.text, start, names)
        } else {
            skip_value(self.text, start).map(|end| ([Value::default(); N], end))
        };
        Some(self.take(taken))
    }

    /// The offset of the next item.
    fn begin(&mut self) -> Option<Result<usize, Malformed>> {
        if self.text.is_empty() {
            return None;
        }
        let first = std::mem::take(&mut self.first);
        let start = skip_space(self.text, self.at);
        match self.text.get(start) {
            Some(b']') => {
                let whole = start + 1 == std::mem::take(&mut self.text).len();
                (!whole).then_some(Err(Malformed))
            }
            Some(b',') if !first => Some(Ok(skip_space(self.text, start + 1))),
            Some(_) if first => Some(Ok(start)),
            _ => Some(self.take(Err(Malformed))),
        }
    }

    fn take<T>(&mut self, taken: Result<(T, usize), Malformed>) -> Result<T, Malformed> {
        let (item, end) = taken.inspect_err(|_| self.text = &[])?;
        self.at = end;
        Ok(item)
    }
}

/// Which of `names` a member's name is.
#[inline(always)]
fn position<const N: usize>(names: &[&[u8]; N], key: &[u8]) -> Option<usize> {
    if let Some(n) = names.iter().position(|name| *name == key) {
        return Some(n);
    }
    if key.contains(&b'\\') { position_of_escaped(names, key) } else { None }
}

/// Nobody writes a member's name with escapes, but it is the same name.
#[cold]
fn position_of_escaped(names: &[&[u8]], key: &[u8]) -> Option<usize> {
    let mut plain = Vec::new();
    super::text::push_plain(key, &mut plain);
    names.iter().position(|name| *name == plain)
}

#[inline]
fn skip_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(at) {
        at += 1;
    }
    at
}

/// The offset behind the value that begins at `at`.
fn skip_value(text: &[u8], at: usize) -> Result<usize, Malformed> {
    match text.get(at) {
        Some(b'"') => skip_string(text, at + 1),
        Some(b'{' | b'[') => skip_nested(text, at + 1),
        _ => {
            let mut end = at;
            while let Some(byte) = text.get(end)
                && matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.')
            {
                end += 1;
            }
            if end > at { Ok(end) } else { Err(Malformed) }
        }
    }
}

/// The offset behind the bracket that closes what was opened just before `at`. Counts, does not
/// recurse: depth costs nothing.
fn skip_nested(text: &[u8], mut at: usize) -> Result<usize, Malformed> {
    let mut depth = 1_usize;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = skip_string(text, at)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Ok(at);
                }
            }
            _ => {}
        }
    }
    Err(Malformed)
}

/// The offset behind the quote that closes the string whose content begins at `at`.
#[inline]
fn skip_string(text: &[u8], mut at: usize) -> Result<usize, Malformed> {
    loop {
        at += plain_bytes(&text[at..]);
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') if at + 1 < text.len() => at += 2,
            // The text's end, or a control character, which JSON does not allow here.
            _ => return Err(Malformed),
        }
    }
}

/// Bytes before the first quote, backslash or control character, or all of them.
#[inline]
fn plain_bytes(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The lowest marked byte is right; only above it may a borrow mark others.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(bytes) = text[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*bytes);
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let slashes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let marked = (quotes | slashes | controls) & HIGH;
        if marked != 0 {
            return at + (marked.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = &text[at..];
    let end = tail.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    at + end.unwrap_or(tail.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Result<[String; 2], Malformed> {
        let found = Value::of(text.as_bytes())?.members([b"a", b"b"])?;
        Ok(found.map(|value| String::from_utf8_lossy(value.raw()).into_owned()))
    }

    #[test]
    fn members_are_found_wherever_they_stand() {
        let cases = [
            (r#"{"a":1,"b":"x"}"#, ["1", r#""x""#]),
            (r#" { "b" : [1,{"a":2}] , "c":{"a":3}, "a" : null } "#, ["null", r#"[1,{"a":2}]"#]),
            (r#"{"c":"}{\"a\":1","b":"\\"}"#, ["", r#""\\""#]),
            (r#"{"a":1,"a":2}"#, ["2", ""]),
            (r#"{"\u0061":7}"#, ["7", ""]),
            ("{}", ["", ""]),
            ("{ }", ["", ""]),
            ("[1]", ["", ""]),
            ("7", ["", ""]),
        ];
        for (text, expected) in cases {
            assert_eq!(members(text).as_ref().map(|m| [&*m[0], &*m[1]]), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        let cases = [
            "",
            " ",
            "{",
            "}",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "{\"a\":1}}",
            "{\"a\":1} x",
            "{\"a\":\"x}",
            "{\"a\":\"x\\",
            "{\"a\":\"x\\\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\u{0}\"}",
            "{,}",
            "{\"a\":,}",
            "{\"a\":[}",
            "\"",
            "'a'",
        ];
        for text in cases {
            assert_eq!(members(text), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn items_come_in_order() {
        let items = |text: &'static str| {
            let items = Value::of(text.as_bytes()).expect("a value").items();
            items.map(|item| item.map(|value| value.raw())).collect::<Vec<_>>()
        };
        assert_eq!(
            items("[ 1 , \"a,]\" ,[2,3], {} ]"),
            [&b"1"[..], b"\"a,]\"", b"[2,3]", b"{}"].map(Ok)
        );
        assert_eq!(items("[]"), []);
        assert_eq!(items("[ ]"), []);
        assert_eq!(items("{}"), []);
        for broken in ["[,1]", "[1 2]", "[1,]", "[1,,2]", "[1]]", "[1", "["] {
            assert_eq!(items(broken).last(), Some(&Err(Malformed)), "{broken}");
        }
    }

    #[test]
    fn scalars_are_read_by_their_kind() {
        let value = |text: &'static str| Value::of(text.as_bytes()).expect("a value");
        assert_eq!(value("12").number(), Some(12));
        assert_eq!(value("18446744073709551616").number(), None);
        assert_eq!(value("-1").number(), None);
        assert_eq!(value("1.5").number(), None);
        assert_eq!(value("4294967296").index(), 0);
        assert_eq!(value("\"\"").text(), None);
        assert_eq!(value("\"a\\\"\"").string(), Some(&b"a\\\""[..]));
        assert!(!value("null").is_some() && value("0").is_some() && !Value::default().is_some());
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{{\"c\":{}{},\"a\":1}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(members(&deep).map(|m| m[0].clone()), Ok("1".to_owned()));
        assert_eq!(members(&format!("{{\"c\":{}", "[".repeat(1 << 20))), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn the_end_of_plain_bytes_is_the_first_special_one(
            text in proptest::collection::vec(proptest::sample::select(
                vec![b'a', b'"', b'\\', 0x1f, 0x20, 0x21, 0x23, 0x7f, 0x80, 0xa2, 0xdc, 0xff, 0]), 0..40),
            pad in 0..40_usize,
        ) {
            let text = [vec![b'z'; pad], text].concat();
            let naive = text.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\');
            proptest::prop_assert_eq!(plain_bytes(&text), naive.unwrap_or(text.len()));
        }

        #[test]
        fn serde_json_agrees_on_members(
            a in "\\PC{0,20}", b in proptest::collection::vec("\\PC{0,9}", 0..4), c in ".{0,9}",
        ) {
            let document = serde_json::json!({"c": {"a": c, "x": [c]}, "a": a, "z": 1, "b": b});
            let text = serde_json::to_string_pretty(&document).expect("JSON");
            let [a, b] = members(&text).expect("found");
            let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            proptest::prop_assert_eq!(read(&a), document["a"].clone());
            proptest::prop_assert_eq!(read(&b), document["b"].clone());
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(proptest::sample::select(
            b"{}[]\",:\\u0 \nax1".to_vec()), 0..60)) {
            if let Ok(value) = Value::of(&text) {
                let _ = value.members([b"a", b""]);
                let _ = value.items().count();
            }
        }
    }
}
