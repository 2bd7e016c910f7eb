//! Start lines and fields, as the codec reads them.

use millstream::http1::head::{
    HeadError, RequestHead, ResponseHead, parse_request, parse_response,
};
use millstream::http1::{Status, Version};
use millstream::limits::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX};

pub(crate) fn request(bytes: impl AsRef<[u8]>) -> Result<RequestHead, HeadError> {
    let bytes = bytes.as_ref();
    match parse_request(bytes, &mut 0)? {
        Status::Complete((head, consumed)) => {
            assert_eq!(consumed, bytes.len(), "all of {}", String::from_utf8_lossy(bytes));
            Ok(head)
        }
        Status::Partial => panic!("partial: {}", String::from_utf8_lossy(bytes)),
    }
}

pub(crate) fn response(bytes: impl AsRef<[u8]>) -> Result<ResponseHead, HeadError> {
    match parse_response(bytes.as_ref(), &mut 0)? {
        Status::Complete((head, _)) => Ok(head),
        Status::Partial => panic!("partial: {}", String::from_utf8_lossy(bytes.as_ref())),
    }
}

/// A request with these lines between its Host and its end.
pub(crate) fn with_fields(lines: &str) -> Result<RequestHead, HeadError> {
    request(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"))
}

fn target(method: &str, target: &str) -> Result<RequestHead, HeadError> {
    request(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

#[test]
fn rfc9112_2_2_empty_lines_before_a_request_line_are_skipped() {
    let head = request("\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n").expect("accepted");
    assert_eq!((head.method(), head.target()), ("GET", "/x"));
}

#[test]
fn rfc9112_2_2_a_bare_cr_or_lf_is_never_a_line_end() {
    for bytes in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\nB: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\rB: c\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
    ] {
        assert_eq!(request(bytes).err(), Some(HeadError::LineEnd), "{bytes:?}");
    }
    for bytes in ["HTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n"] {
        assert_eq!(response(bytes).err(), Some(HeadError::LineEnd), "{bytes:?}");
    }
    assert_eq!(HeadError::LineEnd.status(), 400);
}

#[test]
fn rfc9112_2_2_whitespace_between_start_line_and_fields_is_refused() {
    for space in [" ", "\t", "  \t"] {
        let bytes = format!("GET / HTTP/1.1\r\n{space}Host: a\r\nHost: b\r\n\r\n");
        assert_eq!(request(bytes).err(), Some(HeadError::Folded));
    }
}

#[test]
fn rfc9112_2_3_versions_are_case_sensitive_and_of_one_major() {
    for (version, expected) in [
        ("HTTP/1.1", Ok(Version::Http11)),
        ("HTTP/1.0", Ok(Version::Http10)),
        ("HTTP/2.0", Err(HeadError::Version)),
        ("HTTP/0.9", Err(HeadError::Version)),
        ("http/1.1", Err(HeadError::Version)),
        ("HTTP/1.10", Err(HeadError::LineEnd)),
        ("HTTP/11", Err(HeadError::Version)),
        ("HTTPS/1.1", Err(HeadError::Version)),
        // RFC 9110, section 2.5 would have 1.2 read as 1.1; nobody speaks it, and 505 is honest.
        ("HTTP/1.2", Err(HeadError::Version)),
    ] {
        let head = request(format!("GET / {version}\r\nHost: a\r\n\r\n"));
        assert_eq!(head.map(|head| head.version()), expected, "{version}");
    }
    assert_eq!(HeadError::Version.status(), 505);
}

#[test]
fn rfc9112_3_a_request_line_has_three_parts_and_single_spaces() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / x HTTP/1.1",
        "GET /",
        "GET",
        "/ HTTP/1.1",
        "G(T / HTTP/1.1",
    ] {
        let error = request(format!("{line}\r\nHost: a\r\n\r\n")).expect_err(line);
        assert!(error.status() == 400 || error == HeadError::Version, "{line:?}: {error}");
    }
}

#[test]
fn rfc9112_3_a_target_longer_than_any_we_read_is_414() {
    let long = "x".repeat(HEAD_BYTES_MAX);
    for bytes in [format!("GET /{long}"), format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")] {
        let error = parse_request(bytes.as_bytes(), &mut 0).expect_err("refused");
        assert_eq!((error, error.status()), (HeadError::TargetTooLong, 414));
    }
}

#[test]
fn rfc9110_5_4_too_many_or_too_large_fields_are_431() {
    let many = "A: b\r\n".repeat(HEAD_FIELDS_MAX);
    assert_eq!(with_fields(many.trim_end()).err(), Some(HeadError::TooManyFields));
    let large = format!("A: {}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(with_fields(&large).err(), Some(HeadError::TooLarge));
    assert_eq!((HeadError::TooManyFields.status(), HeadError::TooLarge.status()), (431, 431));
}

#[test]
fn rfc9110_9_1_methods_are_case_sensitive_tokens() {
    for method in ["get", "PATCH", "M-SEARCH", "x!#$%&'*+.^_`|~9"] {
        assert_eq!(target(method, "/").expect("a token").method(), method);
    }
    assert!(target("connect", "a:1").is_err(), "only CONNECT is CONNECT");
    for method in ["G@T", "G/T", "\"GET\"", "G\u{0}T", "GÄT"] {
        assert!(target(method, "/").is_err(), "{method}");
    }
}

#[test]
fn rfc9112_3_2_1_origin_form_is_kept_as_it_is() {
    for path in ["/", "/a/../b//c", "/%2e%2E/x?y=/z&a=%00", "/?", "/a?b?c", "//host/x"] {
        let head = target("GET", path).expect(path);
        assert_eq!((head.path_and_query().as_ref(), head.host()), (path, Some("a")));
    }
    for bad in ["a", "a/b", "?x", ""] {
        assert!(target("GET", bad).is_err(), "{bad}");
    }
}

#[test]
fn rfc9112_3_2_2_absolute_form_wins_over_host() {
    for (absolute, path, host) in [
        ("http://b/x?y", "/x?y", "b"),
        ("http://b:8080", "/", "b:8080"),
        ("HTTP://b?q", "/?q", "b"),
        ("https://[::1]:1/x", "/x", "[::1]:1"),
    ] {
        let head = target("GET", absolute).expect(absolute);
        assert_eq!((head.path_and_query().as_ref(), head.host()), (path, Some(host)));
    }
    for bad in ["ftp://b/", "http:///x", "http:/b", "//b:x@/"] {
        assert!(target("GET", bad).is_err() || bad.starts_with('/'), "{bad}");
    }
}

#[test]
fn rfc9110_4_2_4_userinfo_in_a_target_is_refused() {
    for bad in ["http://user@b/", "http://user:word@b/", "http://b@c/x"] {
        assert_eq!(target("GET", bad).err(), Some(HeadError::Target), "{bad}");
    }
}

#[test]
fn rfc9112_3_2_3_authority_form_is_for_connect_alone() {
    assert!(target("CONNECT", "b:443").is_ok());
    for method in ["GET", "POST", "OPTIONS"] {
        assert_eq!(target(method, "b:443").err(), Some(HeadError::Target), "{method}");
    }
    for bad in ["/", "http://b:1/", "b/x"] {
        assert_eq!(target("CONNECT", bad).err(), Some(HeadError::Target), "{bad}");
    }
}

#[test]
fn rfc9112_3_2_4_asterisk_form_is_for_options_alone() {
    assert_eq!(target("OPTIONS", "*").expect("accepted").path_and_query(), "*");
    assert_eq!(target("OPTIONS", "http://b").expect("accepted").path_and_query(), "*");
    assert_eq!(target("OPTIONS", "http://b/").expect("accepted").path_and_query(), "/");
    assert_eq!(target("GET", "*").err(), Some(HeadError::Target));
    assert_eq!(target("OPTIONS", "*x").err(), Some(HeadError::Target));
}

#[test]
fn rfc9112_3_2_a_fragment_is_no_part_of_a_target() {
    for bad in ["/#", "/a#b", "/a?b#c", "http://b/#x", "http://b#x"] {
        assert_eq!(target("GET", bad).err(), Some(HeadError::Target), "{bad}");
    }
}

#[test]
fn rfc9112_3_2_exactly_one_valid_host() {
    for (fields, expected) in [
        ("Host: a", None),
        ("Host: a.b-c:80", None),
        ("Host: [::1]:80", None),
        ("Host:", None),
        ("A: b", Some(HeadError::HostMissing)),
        ("Host: a\r\nHost: a", Some(HeadError::Host)),
        ("Host: a\r\nhOST: b", Some(HeadError::Host)),
        ("Host: a b", Some(HeadError::Host)),
        ("Host: a/b", Some(HeadError::Host)),
        ("Host: a@b", Some(HeadError::Host)),
        ("Host: a?b", Some(HeadError::Host)),
        ("Host: a#b", Some(HeadError::Host)),
    ] {
        let head = request(format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"));
        assert_eq!(head.err(), expected, "{fields:?}");
        assert_eq!(expected.map_or(400, HeadError::status), 400);
    }
    assert!(request("GET / HTTP/1.0\r\n\r\n").is_ok(), "HTTP/1.0 had none");
    assert!(request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n").is_err());
}

#[test]
fn rfc9112_5_1_no_whitespace_before_the_colon_and_no_empty_name() {
    for line in ["A : b", "A\t: b", "Transfer-Encoding : chunked", ": b", "A", "A b: c", "(A): b"] {
        assert_eq!(with_fields(line).err(), Some(HeadError::Field), "{line:?}");
    }
    for line in ["A : b", "Content-Length : 5", ": b"] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
        assert_eq!(response(bytes).err(), Some(HeadError::Field), "{line:?}");
    }
}

#[test]
fn rfc9112_5_2_a_folded_field_is_refused_in_requests_and_responses() {
    for fold in ["A: b\r\n c", "A: b\r\n\tc", "A:\r\n b", "Transfer-Encoding:\r\n chunked"] {
        assert_eq!(with_fields(fold).err(), Some(HeadError::Folded), "{fold:?}");
        let bytes = format!("HTTP/1.1 200 OK\r\n{fold}\r\n\r\n");
        assert_eq!(response(bytes).err(), Some(HeadError::Folded), "{fold:?}");
    }
}

#[test]
fn rfc9110_5_5_values_are_trimmed_and_hold_no_control_byte() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nA: \t b\tc \xc3\xa4\x80 \t\r\nE:\r\n\r\n";
    let head = request(bytes).expect("accepted");
    assert_eq!(head.field("a"), Some(&b"b\tc \xc3\xa4\x80"[..]));
    assert_eq!(head.field("e"), Some(&b""[..]));
    for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        let line = format!("A: x{}y", byte as char);
        assert_eq!(with_fields(&line).err(), Some(HeadError::Field), "{byte:#x}");
    }
}

#[test]
fn rfc9110_5_3_fields_keep_their_order() {
    let head = with_fields("A: 1\r\nB: 2\r\na: 3").expect("accepted");
    let fields: Vec<_> = head.fields().map(|(name, value)| (name, value.to_vec())).collect();
    let expected = [("Host", "a"), ("A", "1"), ("B", "2"), ("a", "3")];
    assert_eq!(fields, expected.map(|(name, value)| (name, value.as_bytes().to_vec())));
}

#[test]
fn rfc9112_4_a_status_line_has_three_digits_and_an_optional_reason() {
    for (line, status) in [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.1 200 ", 200),
        ("HTTP/1.1 200", 200),
        ("HTTP/1.0 404 Not here \u{e4}", 404),
        ("HTTP/1.1 599 x", 599),
    ] {
        assert_eq!(response(format!("{line}\r\n\r\n")).map(|head| head.status()), Ok(status));
    }
    for line in [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 abc OK",
        "HTTP/1.1  200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.1 099 x",
        "HTTP/1.1 000 x",
        "200 OK",
    ] {
        assert!(response(format!("{line}\r\n\r\n")).is_err(), "{line}");
    }
}
