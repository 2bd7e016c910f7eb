//! A file's values, read with their places: every fault is noted with its line and its mend, and
//! reading goes on, so that all of them are told at once.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::layer::{Layer, Place, Takes};

/// A value where it stands.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// Masks shorter than this would hide letters of the message itself.
const MASKED_BYTES_MIN: usize = 4;

/// A string with its variables filled in.
#[derive(Clone, Debug)]
pub(super) struct Text {
    /// The value.
    pub(super) value: String,
    /// As it is written, where that differs: then the value is not to be shown.
    pub(super) written: Option<String>,
}

impl Text {
    fn masks(&self) -> Option<(String, String)> {
        let written = self.written.clone()?;
        (self.value.len() >= MASKED_BYTES_MIN).then(|| (self.value.clone(), written))
    }
}

/// Where values of the environment come from.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The file.
pub(super) struct Source<'t> {
    /// Its name.
    pub(super) file: Arc<str>,
    text: &'t str,
    environment: Environment<'t>,
    errors: RefCell<Vec<(usize, String)>>,
}

/// One of several words.
pub(super) type Words<'w, T> = &'w [(&'w str, T)];

impl<'t> Source<'t> {
    pub(super) fn new(file: &str, text: &'t str, environment: Environment<'t>) -> Self {
        Self { file: file.into(), text, environment, errors: RefCell::default() }
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        memchr::memchr_iter(b'\n', before).count() + 1
    }

    /// Notes a fault.
    pub(super) fn refuse(&self, at: &Range<usize>, message: impl Into<String>) {
        self.errors.borrow_mut().push((self.line(at.start), message.into()));
    }

    /// Notes a fault that has its place in it already.
    pub(super) fn refuse_as_told(&self, message: String) {
        self.errors.borrow_mut().push((0, message));
    }

    /// All faults, one a line, in the order of the file.
    pub(super) fn faults(&self) -> Option<String> {
        let mut errors = self.errors.borrow_mut();
        if errors.is_empty() {
            return None;
        }
        errors.sort_by_key(|(line, _)| *line);
        // Of endpoints that share a setting each finds the same fault.
        errors.dedup();
        let told = |(line, message): &(usize, String)| match line {
            0 => message.clone(),
            line => format!("{}:{line}: {message}", self.file),
        };
        Some(errors.iter().map(told).collect::<Vec<_>>().join("\n"))
    }

    /// Notes a key that nothing knows.
    pub(super) fn unknown(&self, key: &str, at: &Range<usize>, within: &str, known: &[&str]) {
        let dashed = key.replace('-', "_");
        let near = |other: &&&str| strsim::jaro_winkler(&dashed, other);
        let nearest = known.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
        let mend = match nearest {
            Some(other) if near(&other) > 0.75 => format!("did you mean {other:?}?"),
            _ => format!("known are {}", known.join(", ")),
        };
        self.refuse(at, format!("{key:?} is no key of {within}; {mend}"));
    }

    fn wrong(&self, key: &str, value: &Value<'_>, wanted: &str) {
        let kind = value.get_ref().type_str();
        let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
        self.refuse(&value.span(), format!("{key}: is {article} {kind}; write {wanted}"));
    }

    /// A string, `${NAME}` replaced by the environment's value.
    pub(super) fn text(&self, key: &str, value: &Value<'_>) -> Option<Text> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong(key, value, "a string in quotes");
            return None;
        };
        match self.filled(text) {
            Ok(filled) => {
                let written = (filled != text && text.contains("${")).then(|| text.to_owned());
                Some(Text { value: filled, written })
            }
            Err(why) => {
                self.refuse(&value.span(), format!("{key}: {why}"));
                None
            }
        }
    }

    fn filled(&self, text: &str) -> Result<String, String> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            // `$${` stands for `${`.
            if rest[..at].ends_with('$') {
                filled.push_str(&rest[..at - 1]);
                filled.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            filled.push_str(&rest[..at]);
            let Some((name, behind)) = rest[at + 2..].split_once('}') else {
                return Err("has a ${ without its }; write e.g. ${UPSTREAM}".to_owned());
            };
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(fits) {
                return Err(format!("${{{name}}} names no variable; write e.g. ${{UPSTREAM}}"));
            }
            match (self.environment)(name) {
                Some(value) => filled.push_str(&value),
                None => {
                    return Err(format!(
                        "{name} is not set in the environment; export {name}=…, or write the \
                         value here"
                    ));
                }
            }
            rest = behind;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// A string that may be a secret: `file:PATH` is what the file holds, without the white space
    /// at its ends.
    pub(super) fn secret(&self, key: &str, value: &Value<'_>) -> Option<Text> {
        let text = self.text(key, value)?;
        let Some(path) = text.value.strip_prefix("file:") else { return Some(text) };
        match std::fs::read_to_string(path) {
            Ok(held) => {
                Some(Text { value: held.trim().to_owned(), written: Some(format!("file:{path}")) })
            }
            Err(error) => {
                self.refuse(&value.span(), format!("{key}: {path} cannot be read: {error}"));
                None
            }
        }
    }

    /// One string, or several.
    pub(super) fn texts(&self, key: &str, value: &Value<'_>) -> Vec<(Text, Range<usize>)> {
        match value.get_ref() {
            DeValue::Array(items) => {
                let text = |item: &Value<'_>| Some((self.text(key, item)?, item.span()));
                items.iter().filter_map(text).collect()
            }
            _ => self.text(key, value).map(|text| (text, value.span())).into_iter().collect(),
        }
    }

    /// One string, or several, without their places.
    pub(super) fn names(&self, key: &str, value: &Value<'_>) -> Vec<Box<str>> {
        self.texts(key, value).into_iter().map(|(text, _)| text.value.into()).collect()
    }

    pub(super) fn switch(&self, key: &str, value: &Value<'_>) -> Option<bool> {
        let switch = value.get_ref().as_bool();
        if switch.is_none() {
            self.wrong(key, value, "true or false");
        }
        switch
    }

    pub(super) fn number(&self, key: &str, value: &Value<'_>) -> Option<usize> {
        let integer = value.get_ref().as_integer();
        let number = integer
            .and_then(|integer| usize::from_str_radix(integer.as_str(), integer.radix()).ok());
        if number.is_none() {
            self.wrong(key, value, "a whole number, e.g. 100");
        }
        number
    }

    /// A string that `read` makes something of.
    pub(super) fn read<T>(
        &self,
        key: &str,
        value: &Value<'_>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key, value)?;
        match read(&text.value) {
            Ok(made) => Some(made),
            Err(why) => {
                let shown = text.written.unwrap_or(text.value);
                self.refuse(&value.span(), format!("{key}: {shown:?} {why}"));
                None
            }
        }
    }

    /// A size, as a string with its unit or as a number of bytes.
    pub(super) fn size(&self, key: &str, value: &Value<'_>) -> Option<usize> {
        if value.get_ref().is_integer() {
            return self.number(key, value);
        }
        let size = self.read(key, value, super::super::units::size)?;
        Some(usize::try_from(size).unwrap_or(usize::MAX))
    }

    /// One of the known words.
    pub(super) fn word<T: Copy>(
        &self,
        key: &str,
        value: &Value<'_>,
        words: Words<'_, T>,
    ) -> Option<T> {
        self.read(key, value, |text| {
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, made)| *made);
            let list: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            found.ok_or_else(|| format!("is not known; write one of {}", list.join(", ")))
        })
    }

    pub(super) fn table<'v>(&self, key: &str, value: &'v Value<'t>) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong(key, value, "a table");
        }
        table
    }

    /// A value as JSON text.
    pub(super) fn json(&self, key: &str, value: &Value<'t>) -> Option<String> {
        let written = match value.get_ref() {
            DeValue::String(_) => serde_json::Value::from(self.text(key, value)?.value).to_string(),
            DeValue::Boolean(switch) => switch.to_string(),
            DeValue::Integer(integer) if integer.radix() == 10 => {
                integer.as_str().trim_start_matches('+').to_owned()
            }
            DeValue::Integer(integer) => {
                match u64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => number.to_string(),
                    Err(_) => {
                        self.refuse(
                            &value.span(),
                            format!("{key}: is too large; write it in tens"),
                        );
                        return None;
                    }
                }
            }
            DeValue::Float(float) => {
                let text = float.as_str().trim_start_matches('+');
                if crate::json::scan::check(text.as_bytes()).is_err() {
                    self.refuse(&value.span(), format!("{key}: {text} is no number in JSON"));
                    return None;
                }
                text.to_owned()
            }
            DeValue::Datetime(_) => {
                self.wrong(key, value, "it as a string in quotes: JSON has no dates");
                return None;
            }
            DeValue::Array(items) => {
                let items: Option<Vec<_>> = items.iter().map(|item| self.json(key, item)).collect();
                format!("[{}]", items?.join(","))
            }
            DeValue::Table(members) => {
                let member = |(name, value): (&Spanned<_>, &Value<'t>)| {
                    let name: &str = AsRef::<str>::as_ref(name.get_ref());
                    let text = self.json(key, value)?;
                    Some(format!("{}:{text}", serde_json::Value::from(name)))
                };
                let members: Option<Vec<_>> = members.iter().map(member).collect();
                format!("{{{}}}", members?.join(","))
            }
        };
        Some(written)
    }

    /// A key that stands for a flag: its values go to `layer`, where they are checked as the flag's.
    pub(super) fn flag(
        &self,
        layer: &mut Layer,
        (flag, takes): (&str, Takes),
        (key, at): (&str, &Range<usize>),
        value: &Value<'_>,
    ) {
        let mut masks = Vec::new();
        let mut word = |item: &Value<'_>| match item.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.as_str().to_owned()),
            DeValue::String(_) => {
                let text = self.text(key, item)?;
                masks.extend(text.masks());
                Some(text.value)
            }
            _ => {
                self.wrong(key, item, "a string in quotes, or a whole number");
                None
            }
        };
        let values = match (takes, value.get_ref()) {
            (Takes::Switch, _) => match self.switch(key, value) {
                Some(true) => Some(Some(Vec::new())),
                Some(false) => Some(None),
                None => None,
            },
            (Takes::Many, DeValue::Array(items)) => {
                let words: Option<Vec<_>> = items.iter().map(&mut word).collect();
                // None of it is as good as not said.
                words.map(|words| (!words.is_empty()).then_some(words))
            }
            _ => word(value).map(|word| Some(vec![word])),
        };
        let Some(values) = values else { return };
        let place = Place {
            file: Arc::clone(&self.file),
            line: self.line(at.start),
            key: key.to_owned(),
            masks,
        };
        layer.set(flag, values, place);
    }
}
