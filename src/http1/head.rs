//! Request and response heads.
//!
//! `httparse` reads the tokens; on top of it stand the rules that make framing unambiguous
//! (RFC 9112, sections 2.2, 3.2, 5, 6.1 and 6.3): what two parsers could read differently is
//! refused, in requests and in responses alike.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::name::Name;
use super::{Status, Version};
use crate::limits::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX};

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none.
    None,
    /// By its length in bytes.
    Length(u64),
    /// By the chunked coding.
    Chunked,
    /// By the connection's close (responses only).
    Close,
}

macro_rules! head_errors {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $text:literal;)*) => {
        /// Why a head is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum HeadError { $($(#[$doc])* $name,)* }

        impl HeadError {
            /// The status that tells a client so.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

head_errors! {
    /// The start line is no HTTP/1 start line.
    StartLine = 400, "the start line is malformed";
    /// A field's name or value has a byte that may not be there.
    Field = 400, "a field is malformed";
    /// A line ends in a bare CR or LF.
    LineEnd = 400, "a line of the head does not end in CRLF";
    /// A field goes on in the next line.
    Folded = 400, "a field is folded over two lines";
    /// More fields than [`HEAD_FIELDS_MAX`].
    TooManyFields = 431, "the head has too many fields";
    /// More bytes than [`HEAD_BYTES_MAX`].
    TooLarge = 431, "the head is too large";
    /// A version other than 1.0 and 1.1.
    Version = 505, "only HTTP/1.0 and HTTP/1.1 are spoken here";
    /// The request line alone is larger than [`HEAD_BYTES_MAX`].
    TargetTooLong = 414, "the request target is too long";
    /// The request target has no form that goes with the method.
    Target = 400, "the request target is malformed";
    /// HTTP/1.1 without Host.
    HostMissing = 400, "the Host field is missing";
    /// Host twice, or not a host.
    Host = 400, "the Host field is malformed or repeated";
    /// Transfer-Encoding together with Content-Length.
    TwoFramings = 400, "both Transfer-Encoding and Content-Length are given";
    /// Content-Length is no number, too large, or given twice.
    ContentLength = 400, "the Content-Length field is malformed or repeated";
    /// A transfer coding other than `chunked` alone.
    TransferEncoding = 501, "the only transfer coding spoken here is chunked";
    /// The last transfer coding is not `chunked`, or one before it is.
    ChunkedNotLast = 400, "chunked is not the last transfer coding, and only that";
    /// Transfer-Encoding in HTTP/1.0.
    OldTransferEncoding = 400, "HTTP/1.0 has no Transfer-Encoding";
    /// A status below 100 or above 999, or 101, which was not asked for.
    Status = 502, "the response status is not one that may come here";
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for HeadError {}

#[derive(Clone, Debug)]
struct FieldAt {
    known: Name,
    name: Range<u16>,
    value: Range<u16>,
}

/// One field of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// Its name, where the relay deals with it.
    pub known: Name,
    /// Its name as sent.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// The fields of a head, over its own copy of the bytes.
#[derive(Clone, Debug)]
struct Fields {
    bytes: Box<[u8]>,
    at: Box<[FieldAt]>,
}

const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize, "offsets are 16 bits");

fn range(whole: &[u8], part: &[u8]) -> Range<u16> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start as u16..(start + part.len()) as u16
}

impl Fields {
    fn new(bytes: &[u8], parsed: &[httparse::Header<'_>]) -> Self {
        let at = parsed.iter().map(|field| FieldAt {
            known: Name::of(field.name.as_bytes()),
            name: range(bytes, field.name.as_bytes()),
            value: range(bytes, field.value),
        });
        Self { at: at.collect(), bytes: bytes.into() }
    }

    fn slice(&self, range: &Range<u16>) -> &[u8] {
        &self.bytes[usize::from(range.start)..usize::from(range.end)]
    }

    fn text(&self, range: &Range<u16>) -> &str {
        std::str::from_utf8(self.slice(range)).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.at.iter().map(|field| Field {
            known: field.known,
            name: self.slice(&field.name),
            value: self.slice(&field.value),
        })
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.at.iter().map(|field| (self.text(&field.name), self.slice(&field.value)))
    }

    fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let wanted = self.at.iter().filter(move |field| field.known == name);
        wanted.map(|field| self.slice(&field.value))
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        let known = Name::of(name.as_bytes());
        if known != Name::Other {
            return self.all(known).next();
        }
        let named = |field: &Field<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
        self.iter().find(named).map(|field| field.value)
    }

    /// Whether a list field of this name has `token`.
    fn has_token(&self, name: Name, token: &str) -> bool {
        self.all(name).flat_map(list).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
    }

    fn content_length(&self) -> Result<Option<u64>, HeadError> {
        let mut values = self.all(Name::ContentLength);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        // Repeated lengths are refused even where they agree (RFC 9112, section 6.3 allows
        // either): nobody honest sends them.
        if values.next().is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(HeadError::ContentLength);
        }
        let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        length.map(Some).ok_or(HeadError::ContentLength)
    }

    /// `Ok(None)` where no field frames the body.
    fn framing(&self, version: Version) -> Result<Option<BodyFraming>, HeadError> {
        let length = self.content_length()?;
        let mut fields = self.all(Name::TransferEncoding).peekable();
        if fields.peek().is_none() {
            return Ok(length.map(BodyFraming::Length));
        }
        if version == Version::Http10 {
            return Err(HeadError::OldTransferEncoding);
        }
        if length.is_some() {
            return Err(HeadError::TwoFramings);
        }
        let mut last_chunked = false;
        let mut codings = 0;
        for coding in fields.flat_map(list) {
            // Behind chunked nothing may stand, not even chunked again (RFC 9112, section 6.1).
            if last_chunked {
                return Err(HeadError::ChunkedNotLast);
            }
            last_chunked = coding.eq_ignore_ascii_case(b"chunked");
            codings += 1;
        }
        match (last_chunked, codings) {
            (false, _) => Err(HeadError::ChunkedNotLast),
            (true, 1) => Ok(Some(BodyFraming::Chunked)),
            (true, _) => Err(HeadError::TransferEncoding),
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.has_token(Name::Connection, "close"),
            Version::Http10 => {
                self.has_token(Name::Connection, "keep-alive")
                    && !self.has_token(Name::Connection, "close")
            }
        }
    }
}

/// The items of a comma-separated field value (RFC 9110, section 5.6.1), trimmed.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// A request's head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    fields: Fields,
    /// Method and target, one behind the other.
    line: Box<str>,
    method_len: u16,
    version: Version,
    framing: BodyFraming,
}

/// A response's head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    fields: Fields,
    status: u16,
    reason: Range<u16>,
    version: Version,
    framing: Option<BodyFraming>,
}

/// The length of the head at the start of `buf`, its empty line included, if it is all there: each
/// of its lines ends in CRLF, and none goes on in the next. `searched` remembers how far earlier
/// calls have looked.
fn head_len(buf: &[u8], searched: &mut usize) -> Result<Option<usize>, HeadError> {
    let within = &buf[..buf.len().min(HEAD_BYTES_MAX)];
    // The last line end seen is looked at again: what stands behind it may have come since.
    let from = searched.saturating_sub(1).min(within.len());
    *searched = within.len();
    for lf in memchr::memchr_iter(b'\n', &within[from..]) {
        let lf = from + lf;
        match (&within[..lf], within.get(lf + 1)) {
            ([.., b'\r', b'\n', b'\r'], _) => return Ok(Some(lf + 1)),
            ([.., b'\r'], Some(b' ' | b'\t')) => return Err(HeadError::Folded),
            ([.., b'\r'], _) => {}
            _ => return Err(HeadError::LineEnd),
        }
    }
    if buf.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(HeadError::TooLarge) }
}

/// Whether not even the start line fits a head (RFC 9112, section 3: that has its own status).
fn first_line_is_endless(buf: &[u8]) -> bool {
    let within = &buf[..buf.len().min(HEAD_BYTES_MAX)];
    memchr::memchr(b'\n', within).is_none()
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

fn from_httparse(error: httparse::Error, start: HeadError, head: &[u8]) -> HeadError {
    // It takes no CR without its LF, and calls it what it stands in.
    if memchr::memchr_iter(b'\r', head).any(|cr| head.get(cr + 1) != Some(&b'\n')) {
        return HeadError::LineEnd;
    }
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::Token | httparse::Error::Status => start,
        httparse::Error::NewLine => HeadError::LineEnd,
        _ => HeadError::Field,
    }
}

/// Parses the request head at the start of `buf`; gives it and the bytes it took. A few empty
/// lines before it are skipped (RFC 9112, section 2.2). `searched` is 0 for a new head, and is
/// kept between calls with a growing `buf`.
///
/// # Errors
/// The head is malformed, too large, or ambiguous: answer with its status and close.
pub fn parse_request(
    buf: &[u8],
    searched: &mut usize,
) -> Result<Status<(RequestHead, usize)>, HeadError> {
    let mut skipped = 0;
    while skipped < 8 && buf[skipped..].starts_with(b"\r\n") {
        skipped += 2;
    }
    let buf = &buf[skipped..];
    let mut looked = searched.saturating_sub(skipped);
    let found = head_len(buf, &mut looked).map_err(|error| match error {
        HeadError::TooLarge if first_line_is_endless(buf) => HeadError::TargetTooLong,
        error => error,
    })?;
    *searched = looked + skipped;
    let Some(len) = found else {
        return Ok(Status::Partial);
    };
    let head = &buf[..len];
    let mut fields = [const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(head, &mut fields);
    let status = status.map_err(|e| from_httparse(e, HeadError::StartLine, head))?;
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(HeadError::StartLine);
    };
    if status != httparse::Status::Complete(len) {
        return Err(HeadError::StartLine);
    }
    let version = version(parsed.version);
    let line = [method, target].concat().into_boxed_str();
    let method_len = method.len() as u16;
    let fields = Fields::new(head, parsed.headers);
    let framing = fields.framing(version)?.unwrap_or(BodyFraming::None);
    let request = RequestHead { fields, line, method_len, version, framing };
    request.check_target()?;
    request.check_host()?;
    Ok(Status::Complete((request, skipped + len)))
}

/// Parses the response head at the start of `buf`, like [`parse_request`].
///
/// # Errors
/// The head is malformed, too large, or ambiguous: the connection cannot be used any more.
pub fn parse_response(
    buf: &[u8],
    searched: &mut usize,
) -> Result<Status<(ResponseHead, usize)>, HeadError> {
    let Some(len) = head_len(buf, searched)? else {
        return Ok(Status::Partial);
    };
    let head = &buf[..len];
    let mut fields = [const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let status = parser.parse_response_with_uninit_headers(&mut parsed, head, &mut fields);
    let status = status.map_err(|e| from_httparse(e, HeadError::StartLine, head))?;
    if status != httparse::Status::Complete(len) {
        return Err(HeadError::StartLine);
    }
    let status = parsed.code.unwrap_or(0);
    if !(100..=999).contains(&status) || status == 101 {
        return Err(HeadError::Status);
    }
    let version = version(parsed.version);
    let reason = match parsed.reason {
        Some(reason) if !reason.is_empty() => range(head, reason.as_bytes()),
        _ => 0..0,
    };
    let fields = Fields::new(head, parsed.headers);
    let framing = fields.framing(version)?;
    Ok(Status::Complete((ResponseHead { fields, status, reason, version, framing }, len)))
}

impl RequestHead {
    fn check_target(&self) -> Result<(), HeadError> {
        let target = self.target();
        let fits = match self.method() {
            // A fragment never travels (RFC 9112, section 3.2): where it does, one reader cuts it
            // off and another does not.
            _ if memchr::memchr(b'#', target.as_bytes()).is_some() => false,
            "CONNECT" => !target.is_empty() && !target.contains('/'),
            "OPTIONS" if target == "*" => true,
            _ => target.starts_with('/') || self.absolute().is_some(),
        };
        if fits { Ok(()) } else { Err(HeadError::Target) }
    }

    fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.fields.all(Name::Host);
        let Some(host) = hosts.next() else {
            let needed = self.version == Version::Http11;
            return if needed { Err(HeadError::HostMissing) } else { Ok(()) };
        };
        let fits =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(byte);
        if hosts.next().is_some() || !host.iter().all(fits) {
            return Err(HeadError::Host);
        }
        Ok(())
    }

    /// Authority and the rest of a target in absolute form.
    fn absolute(&self) -> Option<(&str, &str)> {
        let target = self.target();
        if target.starts_with('/') {
            return None;
        }
        let (scheme, rest) = target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        (!authority.is_empty() && !authority.contains('@')).then_some((authority, path))
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.line[..usize::from(self.method_len)]
    }

    /// The target as sent.
    pub fn target(&self) -> &str {
        &self.line[usize::from(self.method_len)..]
    }

    /// Path and query in origin form, or `*`.
    pub fn path_and_query(&self) -> std::borrow::Cow<'_, str> {
        match self.absolute() {
            // RFC 9112, section 3.2.4.
            Some((_, "")) if self.method() == "OPTIONS" => "*".into(),
            Some((_, "")) => "/".into(),
            Some((_, query)) if query.starts_with('?') => format!("/{query}").into(),
            Some((_, path)) => path.into(),
            None => self.target().into(),
        }
    }

    /// The path alone.
    pub fn path(&self) -> &str {
        let path = self.absolute().map_or_else(|| self.target(), |(_, path)| path);
        let end = memchr::memchr(b'?', path.as_bytes()).unwrap_or(path.len());
        if end == 0 { "/" } else { &path[..end] }
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.pairs()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter()
    }

    /// The first field of this name, whatever its case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name)
    }

    /// Whether bytes of a body may follow.
    pub fn has_body(&self) -> bool {
        !matches!(self.framing, BodyFraming::None | BodyFraming::Length(0))
    }

    /// The values of a field, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |field: &Field<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
        self.entries().filter(named).map(|field| field.value)
    }

    /// The host asked for; that of an absolute target wins (RFC 9112, section 3.2.2).
    pub fn host(&self) -> Option<&str> {
        match self.absolute() {
            Some((authority, _)) => Some(authority),
            None => self.field("host").and_then(|host| std::str::from_utf8(host).ok()),
        }
    }

    /// How its body is delimited.
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Whether the client would send another request on this connection.
    pub fn keep_alive(&self) -> bool {
        self.fields.keep_alive(self.version)
    }

    /// Whether it waits for `100 Continue`.
    pub fn expects_continue(&self) -> bool {
        self.version == Version::Http11 && self.fields.has_token(Name::Expect, "100-continue")
    }

    /// Whether it asks for an event stream by its Accept field.
    pub fn accepts_event_stream(&self) -> bool {
        self.fields.all(Name::Accept).flat_map(list).any(is_event_stream)
    }

    /// Its size in bytes.
    pub fn bytes_len(&self) -> usize {
        self.fields.bytes.len()
    }
}

fn is_event_stream(media_type: &[u8]) -> bool {
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

impl ResponseHead {
    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase.
    pub fn reason(&self) -> &str {
        self.fields.text(&self.reason)
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.pairs()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter()
    }

    /// The first field of this name, whatever its case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name)
    }

    /// How its body is delimited, as the answer to a request with `method` (RFC 9112,
    /// section 6.3).
    pub fn framing(&self, method: &str) -> BodyFraming {
        if method == "HEAD" || self.is_interim() || matches!(self.status, 204 | 304) {
            return BodyFraming::None;
        }
        self.framing.unwrap_or(BodyFraming::Close)
    }

    /// Whether the upstream would take another request on this connection.
    pub fn keep_alive(&self) -> bool {
        self.fields.keep_alive(self.version)
    }

    /// Whether its body is an event stream.
    pub fn is_event_stream(&self) -> bool {
        self.field("content-type").is_some_and(is_event_stream)
    }

    /// Its size in bytes.
    pub fn bytes_len(&self) -> usize {
        self.fields.bytes.len()
    }

    /// Whether another response follows (1xx).
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bytes: &[u8]) -> Result<Status<(RequestHead, usize)>, HeadError> {
        parse_request(bytes, &mut 0)
    }

    fn refused(bytes: &str) -> HeadError {
        match request(bytes.as_bytes()) {
            Err(error) => error,
            Ok(other) => panic!("{bytes:?} gave {other:?}"),
        }
    }

    const POST: &[u8] =
        b"POST /v1/chat?x=1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn every_prefix_is_partial_and_the_whole_is_complete() {
        let end = POST.len() - 5;
        let mut searched = 0;
        for len in 0..end {
            let prefix = parse_request(&POST[..len], &mut searched);
            assert!(matches!(prefix, Ok(Status::Partial)), "{len}");
        }
        let Ok(Status::Complete((head, consumed))) = parse_request(POST, &mut searched) else {
            panic!("not complete");
        };
        assert_eq!((consumed, head.method(), head.path()), (end, "POST", "/v1/chat"));
        assert_eq!((head.framing(), head.keep_alive()), (BodyFraming::Length(5), true));
        assert_eq!((head.host(), head.path_and_query().as_ref()), (Some("a:1"), "/v1/chat?x=1"));
    }

    #[test]
    fn smuggling_shapes_are_refused() {
        let with =
            |fields: &str| refused(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        for (fields, error) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", HeadError::TwoFramings),
            ("Content-Length: 5\r\nContent-Length: 6", HeadError::ContentLength),
            ("Content-Length: 5\r\nContent-Length: 5", HeadError::ContentLength),
            ("Content-Length: 5, 5", HeadError::ContentLength),
            ("Content-Length: +5", HeadError::ContentLength),
            ("Content-Length: 5x", HeadError::ContentLength),
            ("Content-Length:", HeadError::ContentLength),
            ("Content-Length: 18446744073709551616", HeadError::ContentLength),
            ("Transfer-Encoding: gzip", HeadError::ChunkedNotLast),
            ("Transfer-Encoding: gzip, chunked", HeadError::TransferEncoding),
            ("Transfer-Encoding: chunked, gzip", HeadError::ChunkedNotLast),
            ("Transfer-Encoding:", HeadError::ChunkedNotLast),
            ("Transfer-Encoding: chunked, chunked", HeadError::ChunkedNotLast),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", HeadError::ChunkedNotLast),
            ("Transfer-Encoding: xchunked", HeadError::ChunkedNotLast),
            ("Transfer-Encoding : chunked", HeadError::Field),
            ("A: b\r\n folded", HeadError::Folded),
            ("A: b\r\n\tfolded", HeadError::Folded),
            ("A: b\nB: c", HeadError::LineEnd),
            ("A: b\rB: c", HeadError::LineEnd),
            ("A: \0", HeadError::Field),
            (": b", HeadError::Field),
            ("Host: b", HeadError::Host),
        ] {
            assert_eq!(with(fields), error, "{fields:?}");
        }
        for (whole, error) in [
            ("GET / HTTP/1.1\r\n\r\n", HeadError::HostMissing),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HeadError::Host),
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::OldTransferEncoding,
            ),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", HeadError::Version),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target),
            ("GET / HTTP/1.1\nHost: a\n\n", HeadError::LineEnd),
            ("G@T\x01 / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::StartLine),
        ] {
            assert_eq!(refused(whole), error, "{whole:?}");
        }
    }

    /// What `httparse` has to refuse for us, wherever its vectors begin and end.
    #[test]
    fn no_control_byte_passes_anywhere() {
        let request =
            b"POST /a?b HTTP/1.1\r\nHost: a\r\nX-A: 0123456789012345678901234567890123\r\n\r\n";
        let response = b"HTTP/1.1 200 Fine\r\nServer: 012345678901234567890123456789012\r\n\r\n";
        for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\t\n".contains(byte)) {
            for at in 1..request.len() - 3 {
                let (before, behind) = request.split_at(at);
                let bytes = [before, &[byte], behind].concat();
                let parsed = parse_request(&bytes, &mut 0);
                assert!(parsed.is_err(), "{byte} at {at}: {parsed:?}");
                let bare = byte == b'\r' && behind[0] != b'\n';
                assert!(!bare || parsed.is_err_and(|e| e == HeadError::LineEnd), "CR at {at}");
            }
            for at in 1..response.len() - 3 {
                let (before, behind) = response.split_at(at);
                let bytes = [before, &[byte], behind].concat();
                assert!(parse_response(&bytes, &mut 0).is_err(), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn limits_hold() {
        let long =
            format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(refused(&long), HeadError::TooLarge);
        assert_eq!(refused(&long[..HEAD_BYTES_MAX]), HeadError::TooLarge, "without its end");
        let many = "A: b\r\n".repeat(HEAD_FIELDS_MAX);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
        assert_eq!(refused(&many), HeadError::TooManyFields);
    }

    #[test]
    fn target_forms() {
        for (target, path, host) in [
            ("http://b/x?y", "/x?y", "b"),
            ("http://b", "/", "b"),
            ("HTTP://b?q", "/?q", "b"),
            ("/x", "/x", "a"),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let Ok(Status::Complete((head, _))) = request(bytes.as_bytes()) else {
                panic!("{target}");
            };
            assert_eq!((head.path_and_query().as_ref(), head.host()), (path, Some(host)));
        }
        assert!(request(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
        assert!(request(b"\r\n\r\nCONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
    }

    #[test]
    fn response_framing() {
        let parse = |bytes: &str| match parse_response(bytes.as_bytes(), &mut 0) {
            Ok(Status::Complete((head, _))) => Ok(head),
            Ok(Status::Partial) => panic!("partial"),
            Err(error) => Err(error),
        };
        let head = parse("HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=x\r\n\r\n");
        let head = head.expect("parses");
        assert!(head.is_event_stream() && head.keep_alive());
        assert_eq!(head.framing("GET"), BodyFraming::Close);
        assert_eq!(head.framing("HEAD"), BodyFraming::None);
        let head = parse("HTTP/1.1 204\r\nContent-Length: 5\r\n\r\n").expect("parses");
        assert_eq!(head.framing("GET"), BodyFraming::None);
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(both).err(), Some(HeadError::TwoFramings));
        assert_eq!(parse("HTTP/1.1 101 S\r\n\r\n").err(), Some(HeadError::Status));
        assert!(!parse("HTTP/1.0 200 OK\r\n\r\n").expect("parses").keep_alive());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes: Vec<u8>) {
            let _ = parse_request(&bytes, &mut 0);
            let _ = parse_response(&bytes, &mut 0);
        }

        #[test]
        fn mutated_heads_end_without_panic(at in 0_usize..60, byte: u8) {
            let mut bytes = POST.to_vec();
            bytes[at] = byte;
            if let Ok(Status::Complete((head, consumed))) = parse_request(&bytes, &mut 0) {
                proptest::prop_assert!(consumed <= bytes.len());
                proptest::prop_assert!(!head.method().is_empty());
            }
        }
    }
}
