//! `[[upstream]]`: a group of endpoints.

use std::ops::Range;

use toml::de::DeTable;

use super::super::layer::{Layer, Takes};
use super::super::plan::Key;
use super::source::{Source, Value};

/// Keys that stand for flags here, by the flag.
const FLAGS: &[(&str, &str, Takes)] = &[
    ("connect_timeout", "connect-timeout", Takes::One),
    ("first_byte_timeout", "first-byte-timeout", Takes::One),
    ("idle_timeout", "idle-timeout", Takes::One),
    ("stream_timeout", "stream-timeout", Takes::One),
    ("retries", "retries", Takes::One),
    ("retry_backoff", "retry-backoff", Takes::One),
    ("retry_status", "retry-status", Takes::Many),
    ("retry_posts", "retry-posts", Takes::Switch),
    ("pool_max_idle", "pool-max-idle", Takes::One),
    ("pool_idle_timeout", "pool-idle-timeout", Takes::One),
    ("resolve", "resolve", Takes::Many),
    ("tls_ca", "upstream-ca", Takes::One),
    ("tls_cert", "upstream-cert", Takes::One),
    ("tls_key", "upstream-key", Takes::One),
    ("tls_name", "upstream-tls-name", Takes::One),
    ("tls_insecure", "upstream-insecure", Takes::Switch),
];

/// A group as it is written.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Its name, and where it begins.
    pub(super) name: Box<str>,
    pub(super) at: Range<usize>,
    /// A layer for each endpoint, with its URL; all with the settings of the group.
    pub(super) endpoints: Vec<Layer>,
    /// The settings.
    pub(super) settings: Layer,
    pub(super) key: Option<Key>,
}

/// Reads one group.
pub(super) fn read<'t>(source: &Source<'t>, table: &DeTable<'t>, at: Range<usize>) -> Group {
    let mut group = Group { at: at.clone(), ..Group::default() };
    let (mut urls, mut key, mut key_header) = (Vec::new(), None, None);
    let mut url_key: Option<(&str, Range<usize>)> = None;
    for (name, value) in table {
        let (name, name_at) = (&**name.get_ref(), name.span());
        match name {
            "name" => {
                group.name =
                    source.text(name, value).map(|text| text.value).unwrap_or_default().into();
            }
            "url" | "urls" => {
                if let Some((other, _)) = &url_key {
                    source.refuse(
                        &name_at,
                        format!("{name}: {other} says it already; leave one out"),
                    );
                }
                url_key = Some((name, name_at));
                urls = match value.get_ref() {
                    toml::de::DeValue::Array(items) => items.iter().collect::<Vec<&Value<'t>>>(),
                    _ => vec![value],
                };
            }
            "key" => key = source.secret(name, value).map(|text| (text, value.span())),
            "key_header" => {
                key_header = source.read(name, value, super::route::field_name);
            }
            _ => match FLAGS.iter().find(|(known, ..)| *known == name) {
                Some((_, flag, takes)) => {
                    source.flag(&mut group.settings, (flag, *takes), (name, &name_at), value);
                }
                None => {
                    let mut known = vec!["name", "url", "urls", "key", "key_header"];
                    known.extend(FLAGS.iter().map(|(known, ..)| *known));
                    source.unknown(name, &name_at, "[[upstream]]", &known);
                }
            },
        }
    }
    match url_key {
        Some((name, name_at)) if !urls.is_empty() => {
            for url in urls {
                let mut layer = group.settings.clone();
                source.flag(&mut layer, ("upstream", Takes::One), (name, &url.span()), url);
                group.endpoints.push(layer);
            }
            if group.endpoints.len() > crate::limits::ENDPOINTS_MAX {
                let max = crate::limits::ENDPOINTS_MAX;
                source.refuse(
                    &name_at,
                    format!("{name}: more than {max} endpoints; make two groups"),
                );
            }
        }
        _ => source.refuse(&at, "the upstream has no url; write url = \"http://127.0.0.1:9000\""),
    }
    if let Some((key, key_at)) = key {
        let fits = |c: char| c.is_ascii_graphic() || c == ' ';
        if key.value.trim().is_empty() || !key.value.chars().all(fits) {
            source.refuse(
                &key_at,
                "key: is empty, or has characters that no key has; write e.g. \
                 \"${OPENAI_API_KEY}\" or \"file:/run/secrets/key\"",
            );
        }
        group.key = Some(Key::new(key.value.trim(), key_header.as_deref()));
    } else if key_header.is_some() {
        source.refuse(&at, "key_header: there is no key; write one, or leave this out");
    }
    group
}
