//! A target's query as fields (URL Standard, section 5.1, "application/x-www-form-urlencoded
//! parsing"), without losing how it was written.

use std::borrow::Cow;

/// One field of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// As it is written.
    pub raw: &'a str,
    /// Its name; `None` where that is not UTF-8.
    pub name: Option<Cow<'a, str>>,
    /// Its value; `None` where that is not UTF-8.
    pub value: Option<Cow<'a, str>>,
}

/// Path and query of a target; the query without its question mark.
pub fn split(target: &str) -> (&str, Option<&str>) {
    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
}

/// The fields of a query, in order.
pub fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    query.split('&').filter(|raw| !raw.is_empty()).map(|raw| {
        let (name, value) = raw.split_once('=').unwrap_or((raw, ""));
        Pair { raw, name: decode(name), value: decode(value) }
    })
}

/// Replaces `+` and percent escapes; a percent sign without two digits stands for itself.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'+' || byte == b'%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = || {
            let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
            u8::try_from(digit(at + 1)? * 16 + digit(at + 2)?).ok()
        };
        match bytes[at] {
            b'+' => decoded.push(b' '),
            b'%' => match escape() {
                Some(byte) => {
                    decoded.push(byte);
                    at += 2;
                }
                None => decoded.push(b'%'),
            },
            byte => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_and_kept_as_written() {
        let read = |query: &'static str| -> Vec<(&str, Option<String>, Option<String>)> {
            let own = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
            pairs(query).map(|pair| (pair.raw, own(pair.name), own(pair.value))).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            read("a=1+2&&b=%E4%BC%98%E5%8C%96&c&=d&e=f=g&%61=%&x=%zz%4"),
            [
                ("a=1+2", some("a"), some("1 2")),
                ("b=%E4%BC%98%E5%8C%96", some("b"), some("优化")),
                ("c", some("c"), some("")),
                ("=d", some(""), some("d")),
                ("e=f=g", some("e"), some("f=g")),
                ("%61=%", some("a"), some("%")),
                ("x=%zz%4", some("x"), some("%zz%4")),
            ]
        );
        assert_eq!(read("a=%ff"), [("a=%ff", some("a"), None)]);
        assert_eq!(read(""), []);
        assert_eq!(split("/a?b?c"), ("/a", Some("b?c")));
        assert_eq!(split("/a"), ("/a", None));
    }
}
