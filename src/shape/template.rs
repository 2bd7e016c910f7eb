//! The events of [`tokens`](super::tokens) as a configuration words them: a name, and data with
//! placeholders in double braces.
//!
//! | placeholder | stands for | in |
//! |---|---|---|
//! | `{{text}}` | the text as it is; its lines become lines of data | token, reasoning, refusal, error, timeout |
//! | `{{json}}` | the text as a JSON string; of a tool call an object of `index`, `id`, `name`, `arguments` | the same, tool_call |
//! | `{{escaped}}` | the same string without its quotes | as `{{text}}` |
//! | `{{index}}` | the choice's number; of a tool call its own | token, reasoning, refusal, tool_call |
//! | `{{id}}`, `{{name}}`, `{{arguments}}` | the parts of a tool call, empty where one brings none | tool_call |
//! | `{{finish}}` | why the model stopped, in OpenAI's words; empty where it did not say | done |
//! | `{{usage}}` | tokens used, as OpenAI's object, or `null` | done |
//! | `{{code}}`, `{{status}}`, `{{request_id}}` | the error's word, its HTTP status (0 if none), the exchange | error, timeout |

use std::fmt;

use memchr::{memchr2, memmem};

use crate::dialect::read::Usage;
use crate::dialect::text::push_plain;

/// An event that can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Told {
    /// The stream begins; sent with the head.
    Start,
    /// Text of the answer.
    Token,
    /// Text of the model's reasoning.
    Reasoning,
    /// Why the model does not answer.
    Refusal,
    /// A part of a tool call.
    ToolCall,
    /// The provider is done.
    Done,
    /// It failed, or the relay did.
    Error,
    /// A limit ran out.
    Timeout,
}

impl Told {
    /// Every event.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Token,
        Self::Reasoning,
        Self::Refusal,
        Self::ToolCall,
        Self::Done,
        Self::Error,
        Self::Timeout,
    ];

    /// The word in configuration, and the event's name by default.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Token => "token",
            Self::Reasoning => "reasoning",
            Self::Refusal => "refusal",
            Self::ToolCall => "tool_call",
            Self::Done => "done",
            Self::Error => "error",
            Self::Timeout => "timeout",
        }
    }

    /// The event of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|told| told.as_str() == word)
    }

    /// The placeholders its data may have.
    pub const fn placeholders(self) -> &'static [&'static str] {
        match self {
            Self::Start => &[],
            Self::Token | Self::Reasoning | Self::Refusal => &["text", "json", "escaped", "index"],
            Self::ToolCall => &["json", "index", "id", "name", "arguments"],
            Self::Done => &["finish", "usage"],
            Self::Error | Self::Timeout => {
                &["text", "json", "escaped", "code", "status", "request_id"]
            }
        }
    }
}

/// Why an event cannot be told so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// The name holds a line end.
    LineEndInName,
    /// There is no such placeholder for this event.
    Placeholder {
        /// What stands between the braces.
        found: String,
        /// What may.
        known: &'static [&'static str],
    },
    /// Two braces open and none close.
    Unclosed,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineEndInName => f.write_str("an event's name cannot hold a line end"),
            Self::Unclosed => f.write_str("`{{` without `}}`"),
            Self::Placeholder { found, known: [] } => {
                write!(f, "`{{{{{found}}}}}`: this event's data has no placeholders")
            }
            Self::Placeholder { found, known } => {
                write!(f, "`{{{{{found}}}}}` is none of {{{{{}}}}}", known.join("}}, {{"))
            }
        }
    }
}

impl std::error::Error for TemplateError {}

/// How one event is written.
#[derive(Clone, Debug)]
pub struct EventRule {
    /// The lines before the data: `event: name`, or nothing.
    head: Box<[u8]>,
    parts: Box<[Part]>,
    /// Whatever stands in, the data is one line.
    single_line: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<[u8]>),
    Slot(Slot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Text,
    Json,
    Escaped,
    Index,
    Id,
    Name,
    Arguments,
    Finish,
    Usage,
    Code,
    Status,
    RequestId,
}

impl Slot {
    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "text" => Self::Text,
            "json" => Self::Json,
            "escaped" => Self::Escaped,
            "index" => Self::Index,
            "id" => Self::Id,
            "name" => Self::Name,
            "arguments" => Self::Arguments,
            "finish" => Self::Finish,
            "usage" => Self::Usage,
            "code" => Self::Code,
            "status" => Self::Status,
            "request_id" => Self::RequestId,
            _ => return None,
        })
    }

    /// Whether it never holds a line end.
    const fn is_single_line(self) -> bool {
        matches!(self, Self::Json | Self::Escaped | Self::Index | Self::Usage | Self::Status)
    }
}

/// What stands in for the placeholders. Texts are contents of JSON strings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values<'a> {
    pub(super) text: &'a [u8],
    pub(super) index: u32,
    pub(super) call: Option<CallValues<'a>>,
    pub(super) finish: &'a [u8],
    pub(super) usage: Usage,
    pub(super) code: &'a [u8],
    pub(super) status: u16,
    pub(super) request_id: &'a [u8],
}

/// The parts of a tool call, empty where absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CallValues<'a> {
    pub(super) id: &'a [u8],
    pub(super) name: &'a [u8],
    pub(super) arguments: &'a [u8],
}

impl EventRule {
    /// An event `told` with this name (none: the reader's default, `message`) and this data, see
    /// the [module](self).
    ///
    /// # Errors
    /// The name holds a line end, or the data a placeholder that this event has not.
    pub fn new(told: Told, name: Option<&str>, data: &str) -> Result<Self, TemplateError> {
        let mut head = Vec::new();
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            if memchr2(b'\n', b'\r', name.as_bytes()).is_some() {
                return Err(TemplateError::LineEndInName);
            }
            head.extend_from_slice(b"event: ");
            head.extend_from_slice(name.as_bytes());
            head.push(b'\n');
        }
        let (mut parts, mut rest) = (Vec::new(), data);
        while let Some((literal, behind)) = rest.split_once("{{") {
            let Some((word, behind)) = behind.split_once("}}") else {
                return Err(TemplateError::Unclosed);
            };
            // Of three braces the first is the text's: `{"a":{{{json}}}}`.
            let (brace, word) = match word.strip_prefix('{') {
                Some(word) => ("{", word),
                None => ("", word),
            };
            let known = told.placeholders();
            let slot = Slot::from_word(word.trim()).filter(|_| known.contains(&word.trim()));
            let Some(slot) = slot else {
                return Err(TemplateError::Placeholder { found: word.to_owned(), known });
            };
            push_literal(&mut parts, literal);
            push_literal(&mut parts, brace);
            parts.push(Part::Slot(slot));
            rest = behind;
        }
        push_literal(&mut parts, rest);
        let single_line = parts.iter().all(|part| match part {
            Part::Literal(literal) => memchr2(b'\n', b'\r', literal).is_none(),
            Part::Slot(slot) => slot.is_single_line(),
        });
        Ok(Self { head: head.into(), parts: parts.into(), single_line })
    }

    /// Whether its data names the choice.
    pub(super) fn names_index(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Slot(Slot::Index)))
    }

    /// Appends the event with these values. `buffer` is for data of several lines.
    pub(super) fn push(&self, values: &Values<'_>, buffer: &mut Vec<u8>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        if self.single_line {
            out.extend_from_slice(b"data: ");
            self.push_data(values, out);
            out.extend_from_slice(b"\n\n");
            return;
        }
        buffer.clear();
        self.push_data(values, buffer);
        let mut rest = buffer.as_slice();
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            push_line(&rest[..end], out);
            let pair = rest[end..].starts_with(b"\r\n");
            rest = &rest[end + 1 + usize::from(pair)..];
        }
        push_line(rest, out);
        out.push(b'\n');
    }

    fn push_data(&self, values: &Values<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Literal(literal) => out.extend_from_slice(literal),
                Part::Slot(slot) => push_slot(*slot, values, out),
            }
        }
    }
}

fn push_literal(parts: &mut Vec<Part>, literal: &str) {
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.as_bytes().into()));
    }
}

fn push_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

fn push_slot(slot: Slot, values: &Values<'_>, out: &mut Vec<u8>) {
    let call = values.call.unwrap_or_default();
    match slot {
        Slot::Text => push_plain(values.text, out),
        Slot::Json => match values.call {
            Some(call) => push_call(values.index, &call, out),
            None => push_string(values.text, out),
        },
        Slot::Escaped => out.extend_from_slice(values.text),
        Slot::Index => push_number(u64::from(values.index), out),
        Slot::Id => push_plain(call.id, out),
        Slot::Name => push_plain(call.name, out),
        Slot::Arguments => push_plain(call.arguments, out),
        Slot::Finish => push_plain(values.finish, out),
        Slot::Usage if values.usage.is_empty() => out.extend_from_slice(b"null"),
        Slot::Usage => push_usage(values.usage, out),
        Slot::Code => push_plain(values.code, out),
        Slot::Status => push_number(u64::from(values.status), out),
        Slot::RequestId => push_plain(values.request_id, out),
    }
}

/// Appends a JSON string of that content.
pub(super) fn push_string(content: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(content);
    out.push(b'"');
}

pub(super) fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_call(index: u32, call: &CallValues<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"index\":");
    push_number(u64::from(index), out);
    for (name, value) in
        [(&b"id"[..], call.id), (b"name", call.name), (b"arguments", call.arguments)]
    {
        if !value.is_empty() {
            out.push(b',');
            push_string(name, out);
            out.push(b':');
            push_string(value, out);
        }
    }
    out.push(b'}');
}

/// Appends OpenAI's object of tokens used.
pub(super) fn push_usage(usage: Usage, out: &mut Vec<u8>) {
    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
    let total = usage.total.unwrap_or_else(|| input.saturating_add(output));
    for (name, value) in [
        (&b"{\"prompt_tokens\":"[..], input),
        (b",\"completion_tokens\":", output),
        (b",\"total_tokens\":", total),
    ] {
        out.extend_from_slice(name);
        push_number(value, out);
    }
    if let Some(cached) = usage.cached {
        out.extend_from_slice(b",\"prompt_tokens_details\":{\"cached_tokens\":");
        push_number(cached, out);
        out.push(b'}');
    }
    if let Some(reasoning) = usage.reasoning {
        out.extend_from_slice(b",\"completion_tokens_details\":{\"reasoning_tokens\":");
        push_number(reasoning, out);
        out.push(b'}');
    }
    out.push(b'}');
}

/// Whether `frame` holds `word`.
pub(super) fn holds(frame: &[u8], word: &[u8]) -> bool {
    memmem::find(frame, word).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(told: Told, name: Option<&str>, data: &str, values: &Values<'_>) -> String {
        let mut out = Vec::new();
        let rule = EventRule::new(told, name, data).expect("a rule");
        rule.push(values, &mut Vec::new(), &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn placeholders_stand_where_they_are_put() {
        let values = Values { text: br#"a\"\nb"#, index: 7, ..Values::default() };
        let token = |data: &str| told(Told::Token, None, data, &values);
        assert_eq!(token("{{json}}"), "data: \"a\\\"\\nb\"\n\n");
        assert_eq!(token("{{text}}"), "data: a\"\ndata: b\n\n");
        assert_eq!(
            token(r#"{"t":"{{escaped}}","i":{{index}}}"#),
            "data: {\"t\":\"a\\\"\\nb\",\"i\":7}\n\n"
        );
        assert_eq!(token(r#"{"a":{"t":{{json}}}}"#), "data: {\"a\":{\"t\":\"a\\\"\\nb\"}}\n\n");
        assert_eq!(token(r#"{"a":{{{ json }}}}"#), "data: {\"a\":{\"a\\\"\\nb\"}}\n\n");
        assert_eq!(token("x\ny"), "data: x\ndata: y\n\n");
        assert_eq!(token(""), "data: \n\n");
        assert_eq!(told(Told::Start, Some("start"), "", &values), "event: start\ndata: \n\n");
    }

    #[test]
    fn what_cannot_be_told_is_refused_with_what_can() {
        let refused = |told, name, data| EventRule::new(told, name, data).expect_err("refused");
        assert_eq!(refused(Told::Token, Some("a\nb"), ""), TemplateError::LineEndInName);
        assert_eq!(refused(Told::Token, None, "{{json"), TemplateError::Unclosed);
        let error = refused(Told::Done, None, "{{json}}");
        assert_eq!(error.to_string(), "`{{json}}` is none of {{finish}}, {{usage}}");
        let error = refused(Told::Start, None, "{{text}}");
        assert_eq!(error.to_string(), "`{{text}}`: this event's data has no placeholders");
    }

    #[test]
    fn every_placeholder_that_is_named_exists() {
        for told in Told::ALL {
            assert_eq!(Told::from_word(told.as_str()), Some(told));
            for word in told.placeholders() {
                EventRule::new(told, None, &format!("{{{{{word}}}}}")).expect("known");
            }
        }
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, 1_700_000_000, u64::MAX] {
            let mut out = Vec::new();
            push_number(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
