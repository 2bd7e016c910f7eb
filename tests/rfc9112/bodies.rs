//! Where bodies end, as the codec reads them.

use millstream::http1::body::{BodyDecoder, BodyError, Eof, Step};
use millstream::http1::head::{BodyFraming, HeadError};
use millstream::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

use crate::heads::{request, response, with_fields};

#[test]
fn rfc9112_6_1_chunked_is_the_last_transfer_coding_or_400() {
    for (lines, error) in [
        ("Transfer-Encoding: gzip", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: identity", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: chunked, gzip", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: chunked, chunked", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: xchunked", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: \"chunked\"", HeadError::ChunkedNotLast),
        ("Transfer-Encoding: chunked;a=b", HeadError::ChunkedNotLast),
        ("Transfer-Encoding:", HeadError::ChunkedNotLast),
        // Well framed, but in a coding that is not spoken here.
        ("Transfer-Encoding: gzip, chunked", HeadError::TransferEncoding),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", HeadError::TransferEncoding),
    ] {
        assert_eq!(with_fields(lines).err(), Some(error), "{lines:?}");
        assert!(response(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")).is_err(), "{lines:?}");
    }
    assert_eq!(HeadError::ChunkedNotLast.status(), 400);
    assert_eq!(HeadError::TransferEncoding.status(), 501);
    for lines in ["Transfer-Encoding: chunked", "transfer-encoding: \t, CHUNKED ,"] {
        let head = with_fields(lines).expect(lines);
        assert_eq!(head.framing(), BodyFraming::Chunked, "{lines:?}");
    }
}

#[test]
fn rfc9112_6_1_transfer_encoding_beside_content_length_is_refused() {
    for lines in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\ntransfer-encoding: identity",
    ] {
        assert_eq!(with_fields(lines).err(), Some(HeadError::TwoFramings), "{lines:?}");
        let answer = response(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n"));
        assert_eq!(answer.err(), Some(HeadError::TwoFramings), "{lines:?}");
    }
}

#[test]
fn rfc9112_6_1_transfer_encoding_in_http_1_0_is_faulty_framing() {
    let error = Some(HeadError::OldTransferEncoding);
    assert_eq!(request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").err(), error);
    assert_eq!(response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").err(), error);
}

#[test]
fn rfc9112_6_3_a_content_length_is_one_number_given_once() {
    for value in
        ["", "-1", "+5", "5 5", "5, 5", "5,6", "0x5", "5.0", "5\u{b}", "18446744073709551616", "１"]
    {
        let lines = format!("Content-Length: {value}");
        let refused = with_fields(&lines).expect_err(value);
        assert!(matches!(refused, HeadError::ContentLength | HeadError::Field), "{value:?}");
        assert!(response(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")).is_err(), "{value:?}");
    }
    for twice in
        ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\ncontent-length: 5"]
    {
        assert_eq!(with_fields(twice).err(), Some(HeadError::ContentLength), "{twice:?}");
    }
    let head = with_fields("Content-Length: \t 0005 ").expect("a number");
    assert_eq!(head.framing(), BodyFraming::Length(5));
}

#[test]
fn rfc9112_6_3_without_framing_a_request_has_no_body_and_a_response_runs_to_the_close() {
    assert_eq!(with_fields("A: b").expect("accepted").framing(), BodyFraming::None);
    let head = response("HTTP/1.1 200 OK\r\n\r\n").expect("accepted");
    assert_eq!(head.framing("GET"), BodyFraming::Close);
}

#[test]
fn rfc9112_6_3_answers_to_head_and_1xx_204_304_have_no_body_whatever_they_say() {
    for lines in ["Content-Length: 5", "Transfer-Encoding: chunked", "A: b"] {
        for (status, method) in
            [(200, "HEAD"), (204, "GET"), (304, "GET"), (100, "POST"), (103, "GET")]
        {
            let head = response(format!("HTTP/1.1 {status} x\r\n{lines}\r\n\r\n"));
            let framing = head.expect("accepted").framing(method);
            assert_eq!(framing, BodyFraming::None, "{status} {method} {lines}");
        }
    }
}

#[test]
fn rfc9110_15_2_2_a_switch_of_protocols_that_nobody_asked_for_is_refused() {
    let answer = response("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
    assert_eq!(answer.err(), Some(HeadError::Status));
}

/// The payload of a chunked body, whether it is over, and how much of `bytes` it took.
fn decode(bytes: &[u8]) -> Result<(Vec<u8>, bool, usize), BodyError> {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        match decoder.step(&bytes[at..])? {
            Step::Framing(n) => at += n,
            Step::Data(n) => {
                payload.extend_from_slice(&bytes[at..at + n]);
                at += n;
            }
            Step::End(n) => return Ok((payload, true, at + n)),
            Step::NeedMore => return Ok((payload, decoder.is_done(), at)),
        }
    }
}

#[test]
fn rfc9112_7_1_chunk_sizes_are_hexadecimal_digits_alone() {
    let good = b"A\r\n0123456789\r\n00a\r\n0123456789\r\n0\r\n\r\nGET";
    let (payload, whole, taken) = decode(good).expect("a body");
    assert_eq!((payload.len(), whole, taken), (20, true, good.len() - 3));
    for bad in
        ["\r\n", " 5\r\n", "+5\r\n", "-5\r\n", "0x5\r\n", "5g\r\n", "5_0\r\n", ";a\r\n", "5,6\r\n"]
    {
        assert_eq!(decode(bad.as_bytes()), Err(BodyError::ChunkSize), "{bad:?}");
    }
    for bad in ["5\nhello", "5\rhello", "5\r\nhello\n0\r\n", "5\r\nhelloo\r\n", "3\r\nhello\r\n"] {
        assert!(decode(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn rfc9112_7_1_a_chunk_size_that_overflows_is_refused() {
    for bad in ["20000000000001", "ffffffffffffffff", "10000000000000005", "fffffffffffffffffffff"]
    {
        let bytes = format!("{bad}\r\nhello\r\n");
        assert_eq!(decode(bytes.as_bytes()), Err(BodyError::ChunkSizeTooLarge), "{bad}");
    }
}

#[test]
fn rfc9112_7_1_1_chunk_extensions_are_ignored_and_bounded() {
    let (payload, whole, _) =
        decode(b"5;a\r\nhello\r\n1;b=\"c;d\"\r\n!\r\n1 ;e\r\n?\r\n0;f\r\n\r\n").expect("a body");
    assert_eq!((payload.as_slice(), whole), (&b"hello!?"[..], true));
    let long = format!("5;{}\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX));
    assert_eq!(decode(long.as_bytes()), Err(BodyError::ChunkLineTooLong));
    assert_eq!(decode(b"5;a\nhello"), Err(BodyError::ChunkEnd), "a bare LF ends no line");
}

#[test]
fn rfc9112_7_1_2_trailers_are_read_by_the_rules_of_fields_and_bounded() {
    let (payload, whole, _) = decode(b"1\r\n!\r\n0\r\nA: b\r\nC:\r\n\r\n").expect("a body");
    assert_eq!((payload.as_slice(), whole), (&b"!"[..], true));
    for bad in [
        "0\r\nno colon\r\n\r\n",
        "0\r\nA: b\r\n folded\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA : b\r\n\r\n",
    ] {
        assert_eq!(decode(bad.as_bytes()), Err(BodyError::Trailer), "{bad:?}");
    }
    let long = format!("0\r\nA: {}", "x".repeat(TRAILER_BYTES_MAX));
    assert_eq!(decode(long.as_bytes()), Err(BodyError::TrailersTooLong));
}

#[test]
fn rfc9112_8_a_close_before_the_end_leaves_a_body_incomplete() {
    for (framing, bytes, expected) in [
        (BodyFraming::Length(5), "hell", Eof::Truncated),
        (BodyFraming::Length(5), "hello", Eof::Complete),
        (BodyFraming::Chunked, "5\r\nhello\r\n", Eof::Truncated),
        (BodyFraming::Chunked, "5\r\nhello\r\n0\r\n", Eof::Truncated),
        (BodyFraming::Chunked, "5\r\nhello\r\n0\r\nA: b\r\n", Eof::Truncated),
        (BodyFraming::Chunked, "5\r\nhello\r\n0\r\n\r\n", Eof::Complete),
        (BodyFraming::Close, "hell", Eof::Complete),
    ] {
        let mut decoder = BodyDecoder::new(framing);
        let mut at = 0;
        while at < bytes.len() {
            match decoder.step(&bytes.as_bytes()[at..]).expect("in order") {
                Step::Framing(n) | Step::Data(n) | Step::End(n) => at += n,
                Step::NeedMore => break,
            }
        }
        assert_eq!(decoder.at_eof(), expected, "{framing:?} {bytes:?}");
    }
}
