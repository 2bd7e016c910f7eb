//! The members of an object as pieces of the text they came from.

use std::borrow::Cow;
use std::fmt;

use super::scan::{self, JsonError, Kind};
use crate::limits::{JSON_DEPTH_MAX, JSON_MEMBERS_MAX};

/// Where a member is: the names that lead to it, the outermost first. Written `a.b`; a name that
/// has a dot itself is written with `\.` for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path(Vec<Box<str>>);

impl Path {
    /// Reads a written path; `None` where a name in it is empty.
    pub fn read(text: &str) -> Option<Self> {
        let mut names = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if chars.peek() == Some(&'.') => {
                    chars.next();
                    names.last_mut()?.push('.');
                }
                '.' => names.push(String::new()),
                c => names.last_mut()?.push(c),
            }
        }
        let fits = names.iter().all(|name| !name.is_empty()) && names.len() <= JSON_DEPTH_MAX / 2;
        fits.then(|| Self(names.into_iter().map(String::into_boxed_str).collect()))
    }

    /// The path of these names, none of which is empty.
    pub fn of<const N: usize>(names: [&str; N]) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// The member's own name.
    pub fn name(&self) -> &str {
        self.0.last().map_or("", |name| name)
    }

    /// The path of a member beside it.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        let mut names = self.0.clone();
        names.pop();
        names.push(name.into());
        Self(names)
    }

    /// The names, the outermost first.
    pub fn names(&self) -> &[Box<str>] {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            write!(f, "{dot}{}", name.replace('.', "\\."))?;
        }
        Ok(())
    }
}

/// Why an edit is refused. Names the member as it is written in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The member is there more than once: readers differ in which one counts.
    Repeated(String),
    /// Something else than an object stands where its members are wanted.
    NotAnObject(String),
    /// The new name is taken already.
    Taken(String),
}

impl EditError {
    /// The member.
    pub fn field(&self) -> &str {
        match self {
            Self::Repeated(field) | Self::NotAnObject(field) | Self::Taken(field) => field,
        }
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated(field) => write!(f, "field {field:?} is given more than once"),
            Self::NotAnObject(field) => write!(f, "field {field:?} must be an object"),
            Self::Taken(field) => write!(f, "field {field:?} may not be given here"),
        }
    }
}

impl std::error::Error for EditError {}

/// An object, taken apart: `{ lead name colon value trail , … }`.
#[derive(Clone, Debug, Default)]
pub struct Object<'a> {
    /// Around the braces.
    before: &'a str,
    after: &'a str,
    /// Between the braces of an object that came without members.
    inner: &'a str,
    members: Vec<Member<'a>>,
}

#[derive(Clone, Debug)]
struct Member<'a> {
    lead: &'a str,
    /// With its quotes, as it is written.
    name: Cow<'a, str>,
    /// The colon with the space around it.
    colon: &'a str,
    value: Value<'a>,
    trail: &'a str,
}

#[derive(Clone, Debug)]
enum Value<'a> {
    Text(Cow<'a, str>),
    Object(Object<'a>),
}

fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

/// The text of a checked string value, without its quotes and escapes; `None` where an escape
/// stands for half a character.
fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(text).ok().map(Cow::Owned)
}

/// The size of a checked value in bytes: of a string that of its text, else that of its JSON.
pub fn text_bytes(value: &str) -> usize {
    unquoted(value).map_or(value.len(), |text| text.len())
}

impl<'a> Object<'a> {
    /// Takes the object in `bytes` apart.
    ///
    /// # Errors
    /// The bytes are no JSON object.
    pub fn read(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let text = scan::check(bytes)?;
        let start = scan::skip_space(bytes, 0);
        if bytes.get(start) != Some(&b'{') {
            return Err(JsonError::NotAnObject);
        }
        Self::apart(text)
    }

    /// Takes a checked text apart whose first byte behind white space is a brace.
    fn apart(text: &'a str) -> Result<Self, JsonError> {
        let bytes = text.as_bytes();
        let start = scan::skip_space(bytes, 0);
        let mut object = Self { before: &text[..start], ..Self::default() };
        let mut at = start + 1;
        loop {
            let lead = at;
            at = scan::skip_space(bytes, at);
            if bytes.get(at) == Some(&b'}') {
                object.inner = &text[lead..at];
                break;
            }
            let name = at;
            let colon = scan::string(bytes, name)?;
            let value = scan::skip_space(bytes, scan::skip_space(bytes, colon) + 1);
            let trail = scan::value(bytes, value)?;
            at = scan::skip_space(bytes, trail);
            if object.members.len() == JSON_MEMBERS_MAX {
                return Err(JsonError::TooManyMembers);
            }
            object.members.push(Member {
                lead: &text[lead..name],
                name: Cow::Borrowed(&text[name..colon]),
                colon: &text[colon..value],
                value: Value::Text(Cow::Borrowed(&text[value..trail])),
                trail: &text[trail..at],
            });
            if bytes.get(at) != Some(&b',') {
                break;
            }
            at += 1;
        }
        object.after = text.get(at + 1..).unwrap_or_default();
        Ok(object)
    }

    /// The place of the member `name`. `path` is for messages.
    fn find(&self, name: &str, path: &[Box<str>]) -> Result<Option<usize>, EditError> {
        let named = |member: &Member<'_>| unquoted(&member.name).is_some_and(|own| own == name);
        let mut places = self.members.iter().enumerate().filter(|(_, member)| named(member));
        let first = places.next().map(|(at, _)| at);
        if places.next().is_some() {
            return Err(EditError::Repeated(Path(path.to_vec()).to_string()));
        }
        Ok(first)
    }

    /// The text of a value; `None` where there is none, or something else than an object on the
    /// way.
    ///
    /// # Errors
    /// A member on the way is there twice.
    pub fn value(&self, path: &Path) -> Result<Option<Cow<'_, str>>, EditError> {
        self.value_at(path.names(), 0)
    }

    fn value_at(
        &self,
        names: &[Box<str>],
        depth: usize,
    ) -> Result<Option<Cow<'_, str>>, EditError> {
        let Some(at) = self.find(&names[depth], &names[..=depth])? else { return Ok(None) };
        let last = depth + 1 == names.len();
        match &self.members[at].value {
            Value::Text(text) if last => Ok(Some(Cow::Borrowed(text))),
            Value::Object(object) if last => Ok(Some(Cow::Owned(object.to_string()))),
            Value::Object(object) => object.value_at(names, depth + 1),
            Value::Text(text) if Kind::of(text) == Kind::Object => {
                let Ok(object) = Object::apart(text) else { return Ok(None) };
                let found = object.value_at(names, depth + 1)?;
                Ok(found.map(|found| Cow::Owned(found.into_owned())))
            }
            Value::Text(_) => Ok(None),
        }
    }

    /// The text of a value that is there and not `null`.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    pub fn given(&self, path: &Path) -> Result<Option<Cow<'_, str>>, EditError> {
        Ok(self.value(path)?.filter(|value| Kind::of(value) != Kind::Null))
    }

    /// The object that holds the last name of `names`: made where it is missing or `null` if
    /// `make`, else `None`.
    fn parent(&mut self, names: &[Box<str>], make: bool) -> Result<Option<&mut Self>, EditError> {
        let mut object = self;
        for depth in 0..names.len() - 1 {
            let way = &names[..=depth];
            let at = match object.find(&names[depth], way)? {
                Some(at) => at,
                None if make => object.push(&names[depth], Value::Object(Self::default())),
                None => return Ok(None),
            };
            let value = &mut object.members[at].value;
            if let Value::Text(text) = value {
                let no_object = || EditError::NotAnObject(Path(way.to_vec()).to_string());
                *value = match Kind::of(text) {
                    Kind::Object => Value::Object(match text {
                        Cow::Borrowed(text) => Object::apart(text).map_err(|_| no_object())?,
                        Cow::Owned(text) => Object::owned(text).map_err(|_| no_object())?,
                    }),
                    Kind::Null if make => Value::Object(Self::default()),
                    _ if make => return Err(no_object()),
                    _ => return Ok(None),
                };
            }
            let Value::Object(next) = &mut object.members[at].value else { return Ok(None) };
            object = next;
        }
        Ok(Some(object))
    }

    /// The object in a checked text that goes away.
    fn owned(text: &str) -> Result<Object<'static>, JsonError> {
        let members = Object::apart(text)?.members.into_iter().map(|member| {
            let value = match member.value {
                Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
                Value::Object(object) => Value::Text(Cow::Owned(object.to_string())),
            };
            let name = Cow::Owned(member.name.into_owned());
            Member { lead: "", name, colon: ":", value, trail: "" }
        });
        Ok(Object { members: members.collect(), ..Object::default() })
    }

    fn push(&mut self, name: &str, value: Value<'a>) -> usize {
        let name = Cow::Owned(quoted(name));
        // Written like its neighbour.
        let (lead, colon) = self.members.last().map_or(("", ":"), |last| (last.lead, last.colon));
        self.members.push(Member { lead, name, colon, value, trail: "" });
        let count = self.members.len();
        if let [.., before, last] = &mut self.members[..] {
            last.trail = std::mem::take(&mut before.trail);
        }
        count - 1
    }

    /// Gives the member at `path` the value `text`, which is JSON; it is put last where there is
    /// none, with the objects that lead to it.
    ///
    /// # Errors
    /// A member on the way is there twice, or no object.
    pub fn set(&mut self, path: &Path, text: impl Into<Cow<'a, str>>) -> Result<(), EditError> {
        let names = path.names();
        let Some(object) = self.parent(names, true)? else { return Ok(()) };
        let value = Value::Text(text.into());
        match object.find(path.name(), names)? {
            Some(at) => object.members[at].value = value,
            None => {
                object.push(path.name(), value);
            }
        }
        Ok(())
    }

    /// Sets the member where it is missing or `null`.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_default(
        &mut self,
        path: &Path,
        text: impl Into<Cow<'a, str>>,
    ) -> Result<(), EditError> {
        if self.given(path)?.is_some() { Ok(()) } else { self.set(path, text) }
    }

    /// Takes the member away, where it is there; true if it was.
    ///
    /// # Errors
    /// A member on the way is there twice.
    pub fn remove(&mut self, path: &Path) -> Result<bool, EditError> {
        let names = path.names();
        if self.value(path)?.is_none() {
            return Ok(false);
        }
        let Some(object) = self.parent(names, false)? else { return Ok(false) };
        let Some(at) = object.find(path.name(), names)? else { return Ok(false) };
        object.members.remove(at);
        Ok(true)
    }

    /// Gives the member another name, where it is there; its value and its place stay.
    ///
    /// # Errors
    /// A member on the way is there twice, or one of that name is there already.
    pub fn rename(&mut self, path: &Path, name: &str) -> Result<(), EditError> {
        let names = path.names();
        if self.value(path)?.is_none() {
            return Ok(());
        }
        let Some(object) = self.parent(names, false)? else { return Ok(()) };
        let Some(at) = object.find(path.name(), names)? else { return Ok(()) };
        let beside = path.beside(name);
        match object.find(name, beside.names())? {
            Some(other) if other != at => return Err(EditError::Taken(beside.to_string())),
            _ => object.members[at].name = Cow::Owned(quoted(name)),
        }
        Ok(())
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{", self.before)?;
        if self.members.is_empty() {
            f.write_str(self.inner)?;
        }
        for (index, member) in self.members.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}{}{}", member.lead, member.name, member.colon)?;
            match &member.value {
                Value::Text(text) => f.write_str(text)?,
                Value::Object(object) => write!(f, "{object}")?,
            }
            f.write_str(member.trail)?;
        }
        write!(f, "}}{}", self.after)
    }
}

#[cfg(test)]
mod tests;
