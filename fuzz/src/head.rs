//! Heads against a naive reading of their lines, at every prefix; and what is sent on in their
//! place must be read as one message by the same rules.

use std::net::IpAddr;

use millstream::http1::forward::{
    ForwardRequest, ForwardResponse, encode_interim, encode_request, encode_response,
};
use millstream::http1::head::{
    BodyFraming, HeadError, RequestHead, ResponseHead, parse_request, parse_response,
};
use millstream::http1::{Status, Version};

use super::Choices;

/// See the module's description.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let kind = choices.byte();
    let bytes = choices.all();
    if kind & 1 == 0 {
        check_prefixes(bytes, parse_request);
        if let Ok(Status::Complete((head, consumed))) = parse_request(bytes, &mut 0) {
            check_request(&head, &bytes[..consumed]);
        }
    } else {
        check_prefixes(bytes, parse_response);
        if let Ok(Status::Complete((head, consumed))) = parse_response(bytes, &mut 0) {
            check_response(&head, &bytes[..consumed], kind >> 1);
        }
    }
}

type Parsed<H> = Result<Status<(H, usize)>, HeadError>;

/// Arriving byte by byte, a head says the same as at once, and no sooner than it is whole.
fn check_prefixes<H>(bytes: &[u8], parse: impl Fn(&[u8], &mut usize) -> Parsed<H>) {
    let whole = parse(bytes, &mut 0);
    let mut searched = 0;
    // Long heads in longer steps, or it would take quadratic time.
    let step = bytes.len() / 2048 + 1;
    let mut lens = (0..bytes.len()).step_by(step).chain([bytes.len()]);
    let first = lens.find_map(|len| match parse(&bytes[..len], &mut searched) {
        Ok(Status::Partial) => None,
        Ok(Status::Complete((_, consumed))) => Some((len, Ok(consumed))),
        Err(error) => Some((len, Err(error))),
    });
    match (whole, first) {
        (Ok(Status::Partial), None) => {}
        (Ok(Status::Complete((_, consumed))), Some((len, Ok(found)))) => {
            assert_eq!(found, consumed);
            assert!(found <= len && len < found + step, "{found} bytes noticed at {len}");
        }
        (Err(_), Some((_, Err(_)))) => {}
        (_, first) => panic!("at once and byte by byte differ: {first:?}"),
    }
}

/// The fields of a head by its lines alone.
fn naive_fields(head: &[u8]) -> Vec<(String, Vec<u8>)> {
    let text: Vec<char> = head.iter().map(|byte| *byte as char).collect();
    let text: String = text.into_iter().collect();
    let lines = text.trim_start_matches("\r\n").strip_suffix("\r\n\r\n").expect("its empty line");
    let mut lines = lines.split("\r\n");
    lines.next().expect("a start line");
    let field = |line: &str| {
        let (name, value) = line.split_once(':').expect("a colon");
        let value = value.trim_matches([' ', '\t']);
        (name.to_owned(), value.chars().map(|c| c as u8).collect())
    };
    lines.map(field).collect()
}

fn check_fields<'a>(head: &[u8], fields: impl Iterator<Item = (&'a str, &'a [u8])>) {
    let fields: Vec<(String, Vec<u8>)> =
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(fields, naive_fields(head));
    for (name, value) in &fields {
        assert!(!name.is_empty() && !name.contains([' ', '\t', '\r', '\n', ':']));
        assert!(!value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
    }
}

fn count<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>, wanted: &str) -> usize {
    fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).count()
}

/// What the framing fields of an accepted head must mean.
fn check_framing(
    values: impl Fn(&str) -> Vec<Vec<u8>>,
    version: Version,
    framing: Option<BodyFraming>,
) {
    let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
    match framing {
        Some(BodyFraming::Chunked) => {
            assert!(version == Version::Http11 && lengths.is_empty());
            // Empty items of a list mean nothing (RFC 9110, section 5.6.1).
            let items = codings.iter().flat_map(|value| value.split(|byte| *byte == b','));
            let items = items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty());
            let items: Vec<_> = items.map(<[u8]>::to_ascii_lowercase).collect();
            assert_eq!(items, [b"chunked"]);
        }
        Some(BodyFraming::Length(length)) => {
            assert!(codings.is_empty() && lengths.len() == 1);
            let digits = String::from_utf8(lengths[0].clone()).expect("digits");
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit()));
            assert_eq!(digits.parse(), Ok(length));
        }
        _ => assert!(codings.is_empty() && lengths.is_empty()),
    }
}

fn check_request(head: &RequestHead, bytes: &[u8]) {
    check_fields(bytes, head.fields());
    let values = |name: &str| {
        let fields = head.fields().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.to_vec()).collect::<Vec<_>>()
    };
    let framing = Some(head.framing()).filter(|framing| *framing != BodyFraming::None);
    check_framing(values, head.version(), framing);
    assert_ne!(head.framing(), BodyFraming::Close);
    assert!(values("host").len() <= 1);
    assert!(head.path().starts_with('/') || head.path() == "*" || head.method() == "CONNECT");
    if head.method() != "CONNECT" {
        check_forwarded(head);
    }
}

/// The head sent on is one head by the same rules, and frames its body in the same way.
fn check_forwarded(head: &RequestHead) {
    let target = head.path_and_query();
    let forward = ForwardRequest {
        authority: "up:1",
        base_path: "",
        target: &target,
        client_ip: IpAddr::from([127, 0, 0, 9]),
        scheme: "http",
        request_id: "id-1",
        identity: head.method() == "POST",
        framing: head.framing(),
        changes: Default::default(),
    };
    let mut out = Vec::new();
    encode_request(head, &forward, &mut out);
    let (sent, consumed) = match parse_request(&out, &mut 0) {
        Ok(Status::Complete(complete)) => complete,
        // Ours come on top of what may have been as much as is allowed.
        Err(HeadError::TooLarge | HeadError::TooManyFields) => return,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&out)),
    };
    assert_eq!(consumed, out.len(), "{}", String::from_utf8_lossy(&out));
    assert_eq!((sent.method(), sent.target()), (head.method(), target.as_ref()));
    assert_eq!((sent.framing(), sent.version()), (head.framing(), Version::Http11));
    assert_eq!(sent.field("host"), Some(&b"up:1"[..]));
    for name in ["connection", "te", "trailer", "upgrade", "keep-alive", "proxy-authorization"] {
        assert_eq!(count(sent.fields(), name), 0, "{name}");
    }
    for name in ["via", "x-forwarded-for", "x-request-id"] {
        assert_eq!(count(sent.fields(), name), 1, "{name}");
    }
    assert_eq!(sent.expects_continue(), {
        head.expects_continue() && head.framing() != BodyFraming::None
    });
}

fn check_response(head: &ResponseHead, bytes: &[u8], how: u8) {
    check_fields(bytes, head.fields());
    assert!((100..1000).contains(&head.status()) && head.status() != 101);
    let values = |name: &str| {
        let fields = head.fields().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.to_vec()).collect::<Vec<_>>()
    };
    let bodiless = head.is_interim() || matches!(head.status(), 204 | 304);
    let framing = head.framing("GET");
    if bodiless {
        assert_eq!(framing, BodyFraming::None);
    } else {
        check_framing(values, head.version(), Some(framing).filter(|f| *f != BodyFraming::Close));
    }
    assert_eq!(head.framing("HEAD"), BodyFraming::None);
    let mut out = Vec::new();
    let forward = ForwardResponse {
        framing: if framing == BodyFraming::Close { BodyFraming::Chunked } else { framing },
        close: how & 1 != 0,
        stream: head.is_event_stream() && how & 2 != 0,
        stream_id: None,
        request_id: "id-1",
        version: if how & 4 == 0 { Version::Http11 } else { Version::Http10 },
        head_only_length: None,
        received: head.field("date").is_none().then_some(std::time::SystemTime::UNIX_EPOCH),
        changes: Default::default(),
    };
    if head.is_interim() {
        encode_interim(head, &mut out);
    } else {
        encode_response(head, &forward, &mut out);
    }
    let (sent, consumed) = match parse_response(&out, &mut 0) {
        Ok(Status::Complete(complete)) => complete,
        Err(HeadError::TooLarge | HeadError::TooManyFields) => return,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&out)),
    };
    assert_eq!((consumed, sent.status()), (out.len(), head.status()));
    if !head.is_interim() {
        assert_eq!(sent.framing("GET"), forward.framing);
        assert_eq!(sent.keep_alive(), !forward.close);
    }
    for name in ["te", "trailer", "upgrade", "keep-alive", "proxy-authenticate"] {
        assert_eq!(count(sent.fields(), name), 0, "{name}");
    }
    assert!(count(sent.fields(), "content-length") <= usize::from(!head.is_interim()));
}
