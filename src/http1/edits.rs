//! What a route changes in the fields of a head.

use super::forward::put;

/// What a route changes in the fields of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// Written by the relay, with these values.
    pub set: Vec<(Box<str>, Secret)>,
    /// Not passed on.
    pub remove: Vec<Box<str>>,
    /// Where it is given, nothing else is passed on.
    pub pass: Option<Vec<Box<str>>>,
}

impl FieldEdits {
    /// Whether a field of this name is kept from going on.
    pub(super) fn stops(&self, name: &[u8]) -> bool {
        let named = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        // What says how to read the body goes with it.
        let of_body = || ["content-type", "content-encoding"].into_iter().any(named);
        self.remove.iter().any(|other| named(other))
            || self.set.iter().any(|(other, _)| named(other))
            || self
                .pass
                .as_ref()
                .is_some_and(|pass| !pass.iter().any(|other| named(other)) && !of_body())
    }

    pub(super) fn sets(&self, name: &str) -> bool {
        self.set.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.set {
            put(out, name.as_bytes(), value.expose().as_bytes());
        }
    }
}

/// A field's value that may be a key: it goes on the wire and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: Box<str>,
    hidden: bool,
}

impl Secret {
    /// A value that anyone may see.
    pub fn open(value: impl Into<Box<str>>) -> Self {
        Self { value: value.into(), hidden: false }
    }

    /// A value that is shown to nobody.
    pub fn hidden(value: impl Into<Box<str>>) -> Self {
        Self { value: value.into(), hidden: true }
    }

    /// The value itself, for the wire.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.hidden { "[hidden]" } else { &self.value })
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
