//! A new JSON body, made of a request's fields.

use crate::json::{EditError, Object, Path};

/// A value of the new body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// This JSON.
    Text(Box<str>),
    /// A field of the request, as it was written there; where it is missing or `null` the default,
    /// and nothing where there is none.
    Field {
        /// The field.
        from: Path,
        /// JSON.
        default: Option<Box<str>>,
    },
    /// Members, in order.
    Object(Vec<(Box<str>, Self)>),
    /// Items.
    Array(Vec<Self>),
}

impl Template {
    /// Appends the value for `request`; nothing, and false, for a field that is not there.
    ///
    /// # Errors
    /// A field that is wanted is there twice.
    pub fn render(&self, request: &Object<'_>, out: &mut String) -> Result<bool, EditError> {
        match self {
            Self::Text(text) => out.push_str(text),
            Self::Field { from, default } => match (request.given(from)?, default) {
                (Some(value), _) => out.push_str(&value),
                (None, Some(default)) => out.push_str(default),
                (None, None) => return Ok(false),
            },
            Self::Object(members) => {
                out.push('{');
                let mut first = true;
                for (name, value) in members {
                    let before = out.len();
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::from(&**name).to_string());
                    out.push(':');
                    if !value.render(request, out)? {
                        out.truncate(before);
                        first = out.ends_with('{');
                    }
                }
                out.push('}');
            }
            Self::Array(items) => {
                out.push('[');
                let mut first = true;
                for item in items {
                    let before = out.len();
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    if !item.render(request, out)? {
                        out.truncate(before);
                        first = out.ends_with('[');
                    }
                }
                out.push(']');
            }
        }
        Ok(true)
    }

    /// The fields it is made of.
    pub fn fields(&self) -> Vec<&Path> {
        match self {
            Self::Text(_) => Vec::new(),
            Self::Field { from, .. } => vec![from],
            Self::Object(members) => members.iter().flat_map(|(_, value)| value.fields()).collect(),
            Self::Array(items) => items.iter().flat_map(Self::fields).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_as_they_are_written() {
        let field = |name: &str, default: Option<&str>| Template::Field {
            from: Path::read(name).expect("a path"),
            default: default.map(Into::into),
        };
        let template = Template::Object(vec![
            ("none".into(), field("missing", None)),
            ("prompt".into(), field("prompt", None)),
            ("type".into(), field("type", Some("\"优化\""))),
            ("model".into(), field("model", Some("\"qwen-max\""))),
            ("list".into(), Template::Array(vec![field("missing", None), field("n.m", None)])),
            ("stream".into(), Template::Text("true".into())),
            ("end".into(), field("missing", None)),
        ]);
        let rendered = |request: &str| {
            let object = Object::read(request.as_bytes()).expect("an object");
            let mut out = String::new();
            assert_eq!(template.render(&object, &mut out), Ok(true));
            out
        };
        assert_eq!(
            rendered(r#"{"prompt" : "\u00e9 \"x\"", "type":null, "model":"m", "n":{"m":1e400}}"#),
            r#"{"prompt":"\u00e9 \"x\"","type":"优化","model":"m","list":[1e400],"stream":true}"#
        );
        assert_eq!(rendered("{}"), r#"{"type":"优化","model":"qwen-max","list":[],"stream":true}"#);
    }
}
