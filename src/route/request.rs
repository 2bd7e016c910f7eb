//! What a route checks and changes in a request's body. The body is JSON text; what is not
//! changed keeps its bytes.
//!
//! In this order: fields are taken from the query, fields are checked, a new body is made of
//! them, members are renamed, removed, given defaults, set, system messages lifted; then `stream`
//! and `include_usage`.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::lift;
use super::template::Template;
use crate::dialect::Dialect;
use crate::dialect::read::Increments;
use crate::http1::query;
use crate::json::{EditError, JsonError, Kind, Object, Path, scan};

/// Where a request asks for a stream, in most dialects.
static STREAM: LazyLock<Path> = LazyLock::new(|| Path::of(["stream"]));
/// Where a conversation is, and instructions that are no part of it.
static MESSAGES: LazyLock<Path> = LazyLock::new(|| Path::of(["messages"]));
static SYSTEM: LazyLock<Path> = LazyLock::new(|| Path::of(["system"]));
/// Where it asks for the stream's usage, in OpenAI's.
static USAGE: LazyLock<Path> = LazyLock::new(|| Path::of(["stream_options", "include_usage"]));
/// Where it asks for what is new alone, in DashScope's.
static INCREMENTAL: LazyLock<Path> =
    LazyLock::new(|| Path::of(["parameters", "incremental_output"]));

/// What a field must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Of this kind.
    Json(Kind),
    /// A number without fraction and exponent.
    Integer,
}

impl FieldKind {
    /// Every kind a field can have, by its word.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("string", Self::Json(Kind::String)),
        ("number", Self::Json(Kind::Number)),
        ("integer", Self::Integer),
        ("boolean", Self::Json(Kind::Boolean)),
        ("object", Self::Json(Kind::Object)),
        ("array", Self::Json(Kind::Array)),
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    fn fits(self, value: &str) -> bool {
        match self {
            Self::Json(kind) => Kind::of(value) == kind,
            Self::Integer => Kind::of(value) == Kind::Number && !value.contains(['.', 'e', 'E']),
        }
    }
}

/// What is asked of one field. `null` counts as missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRule {
    /// The field.
    pub path: Path,
    /// It must be there.
    pub required: bool,
    /// What it must be.
    pub kind: Option<FieldKind>,
    /// Bytes it must have at least: of a string its text in UTF-8, else of its JSON.
    pub bytes_min: usize,
    /// Bytes it may have.
    pub bytes_max: usize,
}

/// A change of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Another name, beside the old one.
    Rename(Path, Box<str>),
    /// Away with it.
    Remove(Path),
    /// This JSON where it is missing or `null`.
    Default(Path, Box<str>),
    /// This JSON, whatever stands there.
    Set(Path, Box<str>),
}

/// What becomes of `stream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRule {
    /// It is set to true.
    Force,
    /// A request that has it true is refused.
    Forbid,
}

/// See the module's description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyRules {
    /// Fields taken from the query.
    pub query: Vec<Box<str>>,
    /// Checks.
    pub fields: Vec<FieldRule>,
    /// A new body.
    pub template: Option<Template>,
    /// Changes.
    pub edits: Vec<Edit>,
    /// Messages of the role `system` go to the member `system`, where Anthropic wants them.
    pub lift_system: bool,
    /// What becomes of `stream`.
    pub stream: Option<StreamRule>,
    /// Streams are to end with their usage, where the dialect can be asked for it.
    pub include_usage: bool,
    /// Clients that ask for no stream get the whole of one as an OpenAI `chat.completion`.
    pub collect: Collect,
}

/// Which of the requests without `stream` are answered by collecting one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collect {
    /// None.
    #[default]
    Off,
    /// Those of Chat Completions, whose clients know such an answer.
    Chat,
    /// All: the route's clients speak OpenAI, whatever the upstream does.
    All,
}

impl Collect {
    fn takes(self, path: &str, dialect: Dialect) -> bool {
        // Completions, without chat, have answers of another shape.
        let legacy = path.ends_with("/completions") && !path.ends_with("/chat/completions");
        match self {
            Self::Off => false,
            Self::Chat => dialect == Dialect::OpenAiChat && !legacy,
            Self::All => !legacy,
        }
    }
}

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// With this status.
    pub status: u16,
    /// Why; names the field.
    pub message: String,
}

impl Refused {
    fn new(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }
}

impl From<EditError> for Refused {
    fn from(error: EditError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<JsonError> for Refused {
    fn from(error: JsonError) -> Self {
        Self::new(format!("the request's body must be a JSON object: {error}"))
    }
}

/// The request as it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The body.
    pub body: Vec<u8>,
    /// What is left of path and query.
    pub target: String,
    /// The answer is to be collected.
    pub collects: bool,
    /// What the answer's telling depends on.
    pub asked: Asked,
}

impl BodyRules {
    /// Whether bodies pass as they come.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a body is made or changed for a request; one that has none and needs none (a GET)
    /// passes as it came.
    pub fn apply_to(&self, method: &str, has_body: bool, dialect: Dialect) -> bool {
        if self.is_empty() {
            return false;
        }
        let Self { query, fields, template, edits, lift_system, stream, .. } = self;
        // These alone concern one dialect, and nothing else on the same route.
        let of_dialect = query.is_empty()
            && fields.is_empty()
            && template.is_none()
            && edits.is_empty()
            && !lift_system
            && stream.is_none();
        let concerned = self.include_usage && asks_usage(dialect)
            || self.collect == Collect::All
            || self.collect == Collect::Chat && dialect == Dialect::OpenAiChat;
        if of_dialect && !concerned {
            return false;
        }
        has_body || !query.is_empty() || matches!(method, "POST" | "PUT" | "PATCH")
    }

    /// Checks `body` and changes it; `target` is the path and query asked for.
    ///
    /// # Errors
    /// The request is refused: with which status, and why.
    pub fn apply(&self, body: &[u8], target: &str, dialect: Dialect) -> Result<Made, Refused> {
        let empty = body.iter().all(u8::is_ascii_whitespace);
        let mut object = Object::read(if empty { b"{}" } else { body })?;
        let target = self.take_query(&mut object, target)?;
        for rule in &self.fields {
            rule.check(&object)?;
        }
        // What the client asked for, whatever of it goes on.
        let wish = if self.collect == Collect::Off { None } else { object.value(&STREAM)? };
        let wish = wish.and_then(|value| value.parse().ok());
        let include_usage = is_true(&object, &USAGE);
        let mut made = String::new();
        if let Some(template) = &self.template {
            template.render(&object, &mut made)?;
            object = Object::read(made.as_bytes())?;
        }
        for edit in &self.edits {
            match edit {
                Edit::Rename(path, name) => object.rename(path, name)?,
                Edit::Remove(path) => drop(object.remove(path)?),
                Edit::Default(path, text) => object.set_default(path, &**text)?,
                Edit::Set(path, text) => object.set(path, &**text)?,
            }
        }
        if self.lift_system {
            lift::system(&mut object, &MESSAGES, &SYSTEM)?;
        }
        let path = query::split(&target).0;
        let collects = self.collect.takes(path, dialect) && self.stream != Some(StreamRule::Force);
        let collects = self.stream(&mut object, dialect, (collects, wish))?;
        let asked = Asked { include_usage, ..Asked::of(&object) };
        Ok(Made { body: object.to_string().into_bytes(), target, collects, asked })
    }

    /// Moves the fields that are wanted from the query to the body.
    fn take_query(&self, object: &mut Object<'_>, target: &str) -> Result<String, Refused> {
        let (path, Some(asked)) = query::split(target) else { return Ok(target.to_owned()) };
        let mut left = Vec::new();
        for pair in query::pairs(asked) {
            let asked = pair.name.as_deref().unwrap_or_default();
            let Some(name) = self.query.iter().find(|name| ***name == *asked) else {
                left.push(pair.raw);
                continue;
            };
            let Some(path) = Path::read(&name.replace('.', "\\.")) else { continue };
            let Some(value) = pair.value else {
                return Err(Refused::new(format!("field {name:?} of the query is not UTF-8")));
            };
            if object.value(&path)?.is_some() {
                return Err(Refused::new(format!("field {name:?} is given more than once")));
            }
            let text = self.query_value(&path, &value)?;
            object.set(&path, text)?;
        }
        let left = left.join("&");
        Ok(if left.is_empty() { path.to_owned() } else { format!("{path}?{left}") })
    }

    /// A query's text as JSON: a string, where the field is not to be something else.
    fn query_value(&self, path: &Path, text: &str) -> Result<Cow<'static, str>, Refused> {
        let kind = self.fields.iter().find(|rule| rule.path == *path).and_then(|rule| rule.kind);
        match kind {
            None | Some(FieldKind::Json(Kind::String)) => {
                Ok(Cow::Owned(serde_json::Value::from(text).to_string()))
            }
            Some(kind) => match scan::check(text.as_bytes()) {
                Ok(_) if kind.fits(text.trim()) => Ok(Cow::Owned(text.trim().to_owned())),
                _ => Err(wrong_kind(path, kind)),
            },
        }
    }

    /// Sees to `stream` and to usage; true where a stream is `wanted` that the client has not asked
    /// for: by its own `wish`, where it has said one, else by what the route makes of the request.
    fn stream(
        &self,
        object: &mut Object<'_>,
        dialect: Dialect,
        (wanted, wish): (bool, Option<bool>),
    ) -> Result<bool, Refused> {
        let streams = object.value(&STREAM)?.as_deref() == Some("true");
        match self.stream {
            Some(StreamRule::Force) => object.set(&STREAM, "true")?,
            Some(StreamRule::Forbid) if streams => {
                let message = "field \"stream\" must not be true: streams are not given here";
                return Err(Refused::new(message));
            }
            _ => {}
        }
        let collects = wanted && !wish.unwrap_or(streams);
        if collects && has_stream_member(dialect) {
            object.set(&STREAM, "true")?;
        }
        let streams = streams || collects || self.stream == Some(StreamRule::Force);
        // An answer that is no stream always tells its usage.
        if (self.include_usage || collects) && streams && asks_usage(dialect) {
            object.set(&USAGE, "true")?;
        }
        Ok(collects)
    }
}

/// What of a request the telling of its answer depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whether each frame of a DashScope stream repeats the text so far.
    pub increments: Increments,
    /// The client asked for the stream's usage, in OpenAI's words.
    pub include_usage: bool,
}

impl Asked {
    /// Reads it from a body; one that is no JSON object asks for nothing.
    pub fn read(body: &[u8]) -> Self {
        Object::read(body).map_or_else(|_| Self::default(), |object| Self::of(&object))
    }

    fn of(object: &Object<'_>) -> Self {
        let new = is_true(object, &INCREMENTAL);
        Self {
            increments: if new { Increments::New } else { Increments::SoFar },
            include_usage: is_true(object, &USAGE),
        }
    }
}

fn is_true(object: &Object<'_>, path: &Path) -> bool {
    object.value(path).ok().flatten().as_deref() == Some("true")
}

/// Whether a stream of this dialect ends with its usage only where it is asked for
/// (`stream_options.include_usage` of OpenAI's Chat Completions). The others send it anyway.
pub const fn asks_usage(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::OpenAiChat)
}

/// Whether requests of this dialect ask for a stream by their member `stream`.
const fn has_stream_member(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::OpenAiChat | Dialect::OpenAiResponses | Dialect::Anthropic)
}

fn wrong_kind(path: &Path, kind: FieldKind) -> Refused {
    let article =
        if matches!(kind.as_str().as_bytes()[0], b'a' | b'i' | b'o') { "an" } else { "a" };
    Refused::new(format!("field \"{path}\" must be {article} {}", kind.as_str()))
}

impl FieldRule {
    fn check(&self, object: &Object<'_>) -> Result<(), Refused> {
        let path = &self.path;
        let Some(value) = object.given(path)? else {
            return if self.required {
                Err(Refused::new(format!("field \"{path}\" is required")))
            } else {
                Ok(())
            };
        };
        if let Some(kind) = self.kind
            && !kind.fits(&value)
        {
            return Err(wrong_kind(path, kind));
        }
        let bytes = crate::json::text_bytes(&value);
        if bytes > self.bytes_max {
            let max = self.bytes_max;
            return Err(Refused::new(format!("field \"{path}\" is larger than {max} bytes")));
        }
        if bytes < self.bytes_min {
            let min = self.bytes_min;
            return Err(Refused::new(format!("field \"{path}\" is smaller than {min} bytes")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::read(text).expect("a path")
    }

    fn applied(rules: &BodyRules, body: &str, target: &str) -> Result<(String, String), String> {
        let made = rules.apply(body.as_bytes(), target, Dialect::OpenAiChat);
        let made = made.map_err(|refused| {
            assert_eq!(refused.status, 400);
            refused.message
        })?;
        Ok((String::from_utf8(made.body).expect("UTF-8"), made.target))
    }

    fn field(name: &str, required: bool, kind: Option<FieldKind>) -> FieldRule {
        FieldRule { path: path(name), required, kind, bytes_min: 0, bytes_max: 8 }
    }

    #[test]
    fn edits_are_made_in_order_and_the_rest_keeps_its_bytes() {
        let rules = BodyRules {
            edits: vec![
                Edit::Rename(path("opening"), "system".into()),
                Edit::Remove(path("debug")),
                Edit::Default(path("model"), "\"m\"".into()),
                Edit::Set(path("n"), "1".into()),
            ],
            stream: Some(StreamRule::Force),
            include_usage: true,
            ..BodyRules::default()
        };
        let body = r#"{ "opening" : "\u00e9", "x":1e999, "debug":true, "x":[ ] }"#;
        let wanted = concat!(
            r#"{ "system" : "\u00e9", "x":1e999, "x":[ ], "model":"m", "n":1, "stream":true, "#,
            r#""stream_options":{"include_usage":true} }"#
        );
        assert_eq!(applied(&rules, body, "/c?a=1"), Ok((wanted.into(), "/c?a=1".into())));
        let none = applied(&rules, "", "/c").expect("an empty body is an empty object").0;
        assert!(none.starts_with(r#"{"model":"m","n":1,"stream":true"#), "{none}");
    }

    #[test]
    fn usage_is_asked_for_where_there_is_a_stream_and_a_dialect_to_ask_in() {
        let rules = BodyRules { include_usage: true, ..BodyRules::default() };
        let plain = r#"{"stream": false}"#;
        assert_eq!(applied(&rules, plain, "/").expect("applies").0, plain);
        assert!(applied(&rules, r#"{"stream": true}"#, "/").expect("applies").0.contains("usage"));
        let body = br#"{"stream": true}"#;
        let made = rules.apply(body, "/", Dialect::Anthropic).expect("applies");
        assert_eq!(made.body, body);
        assert!(rules.apply_to("POST", true, Dialect::OpenAiChat));
        assert!(!rules.apply_to("POST", true, Dialect::Anthropic));
        assert!(!rules.apply_to("GET", false, Dialect::OpenAiChat));
        assert!(!BodyRules::default().apply_to("POST", true, Dialect::OpenAiChat));
        let options = r#"{"stream": true, "stream_options": 1}"#;
        assert!(applied(&rules, options, "/").expect_err("refused").contains("\"stream_options\""));
    }

    #[test]
    fn a_stream_is_asked_for_where_it_is_to_be_collected() {
        let applied = |collect, body: &str, path: &str, dialect| {
            let rules = BodyRules { collect, ..BodyRules::default() };
            let made = rules.apply(body.as_bytes(), path, dialect).expect("applies");
            (String::from_utf8(made.body).expect("UTF-8"), made.collects)
        };
        let (chat, open_ai) = ("/v1/chat/completions", Dialect::OpenAiChat);
        let wanted = r#"{"stream":true,"stream_options":{"include_usage":true}}"#;
        for body in ["{}", r#"{"stream":false}"#, r#"{"stream":null}"#] {
            assert_eq!(applied(Collect::Chat, body, chat, open_ai), (wanted.to_owned(), true));
        }
        let streams = r#"{"stream":true}"#.to_owned();
        assert_eq!(applied(Collect::Chat, &streams, chat, open_ai), (streams.clone(), false));
        let none = ("{}".to_owned(), false);
        assert_eq!(applied(Collect::Off, "{}", chat, open_ai), none);
        assert_eq!(applied(Collect::Chat, "{}", "/v1/completions", open_ai), none);
        assert_eq!(applied(Collect::Chat, "{}", "/v1/messages", Dialect::Anthropic), none);
        let anthropic = applied(Collect::All, "{}", "/v1/messages", Dialect::Anthropic);
        assert_eq!(anthropic, (streams, true));
        assert_eq!(applied(Collect::All, "{}", "/x", Dialect::DashScope), ("{}".to_owned(), true));
    }

    #[test]
    fn what_the_client_asked_for_counts_where_its_body_is_made_anew() {
        let template = Template::Object(vec![(
            "input".into(),
            Template::Field { from: path("messages"), default: None },
        )]);
        let rules = BodyRules {
            template: Some(template),
            edits: vec![Edit::Set(path("parameters.incremental_output"), "true".into())],
            collect: Collect::All,
            ..BodyRules::default()
        };
        let made =
            |body: &str| rules.apply(body.as_bytes(), "/x", Dialect::DashScope).expect("applies");
        let streams =
            made(r#"{"messages":[],"stream":true,"stream_options":{"include_usage":true}}"#);
        let wanted = r#"{"input":[],"parameters":{"incremental_output":true}}"#;
        assert_eq!((streams.body.as_slice(), streams.collects), (wanted.as_bytes(), false));
        assert_eq!(streams.asked, Asked { increments: Increments::New, include_usage: true });
        for body in [r#"{"messages":[],"stream":false}"#, r#"{"messages":[]}"#] {
            let made = made(body);
            assert_eq!((made.collects, made.asked.include_usage), (true, false), "{body}");
        }
        // What the route asks for counts where the client says nothing.
        let rules = BodyRules {
            edits: vec![Edit::Default(path("stream"), "true".into())],
            collect: Collect::All,
            ..BodyRules::default()
        };
        let collects = |body: &str| {
            rules.apply(body.as_bytes(), "/x", Dialect::OpenAiChat).expect("applies").collects
        };
        assert!(!collects("{}") && collects(r#"{"stream":false}"#));
    }

    #[test]
    fn checks_name_the_field() {
        let kinds = |name: &str| {
            FieldKind::ALL.iter().find(|(word, _)| *word == name).map(|(_, kind)| *kind)
        };
        let rules = BodyRules {
            fields: vec![
                field("prompt", true, kinds("string")),
                field("n", false, kinds("integer")),
                field("a.b", false, kinds("boolean")),
            ],
            stream: Some(StreamRule::Forbid),
            ..BodyRules::default()
        };
        for (body, says) in [
            ("{}", Err("field \"prompt\" is required")),
            (r#"{"prompt":null}"#, Err("field \"prompt\" is required")),
            (r#"{"prompt":7}"#, Err("field \"prompt\" must be a string")),
            (r#"{"prompt":"123456789"}"#, Err("field \"prompt\" is larger than 8 bytes")),
            (r#"{"prompt":"\u0031234567\n"}"#, Ok(())),
            (r#"{"prompt":"优化化"}"#, Err("field \"prompt\" is larger than 8 bytes")),
            (r#"{"prompt":"","n":1.0}"#, Err("field \"n\" must be an integer")),
            (r#"{"prompt":"","n":-1,"a":{"b":true}}"#, Ok(())),
            (r#"{"prompt":"","a":{"b":0}}"#, Err("field \"a.b\" must be a boolean")),
            (r#"{"prompt":"","prompt":""}"#, Err("field \"prompt\" is given more than once")),
            (r#"{"prompt":"","stream":true}"#, Err("field \"stream\" must not be true")),
            ("[1]", Err("the request's body must be a JSON object")),
            ("{\"prompt\":\"\u{1}\"}", Err("not JSON at byte 11")),
        ] {
            match (applied(&rules, body, "/"), says) {
                (Ok((made, _)), Ok(())) => assert_eq!(made, body),
                (Err(message), Err(part)) => assert!(message.contains(part), "{body}: {message}"),
                (got, _) => panic!("{body}: {got:?}"),
            }
        }
    }

    #[test]
    fn fields_come_from_the_query() {
        let integer = Some(FieldKind::Integer);
        let rules = BodyRules {
            query: vec!["prompt".into(), "n".into(), "a.b".into()],
            fields: vec![field("n", false, integer)],
            ..BodyRules::default()
        };
        let target = "/s?prompt=%E4%BC%98+%22&x=%31&n=7&a.b=&y";
        let made = applied(&rules, "", target).expect("applies");
        assert_eq!(made.0, r#"{"prompt":"优 \"","n":7,"a.b":""}"#);
        assert_eq!(made.1, "/s?x=%31&y");
        let both = applied(&rules, r#"{"prompt":"a"}"#, "/s?prompt=b").expect_err("refused");
        assert!(both.contains("\"prompt\" is given more than once"));
        assert!(applied(&rules, "", "/s?n=x").expect_err("refused").contains("an integer"));
        assert!(applied(&rules, "", "/s?prompt=%ff").expect_err("refused").contains("UTF-8"));
        assert!(rules.apply_to("GET", false, Dialect::Generic));
    }
}
