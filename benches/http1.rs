//! The HTTP/1.1 codecs: heads in, heads out, chunked bodies.
//!
//! ```text
//! cargo bench --bench http1
//! ```
//!
//! The request is what a browser's `fetch` sends, the response what an LLM provider behind a CDN
//! answers; the chunked body is 64 KiB of 214-byte chunks, a frame each. Every pass asserts what
//! it found.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream::http1::body::Step;
use millstream::http1::chunked::{ChunkedDecoder, encode_chunk_line};
use millstream::http1::forward::{
    ForwardRequest, ForwardResponse, encode_request, encode_response,
};
use millstream::http1::head::{
    BodyFraming, RequestHead, ResponseHead, parse_request, parse_response,
};
use millstream::http1::{Status, Version};

const REQUEST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: chat.example.com\r\n\
Connection: keep-alive\r\nContent-Length: 86\r\nsec-ch-ua-platform: \"Linux\"\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140 Safari/537.36\r\n\
Accept: text/event-stream\r\nContent-Type: application/json\r\n\
Authorization: Bearer 0123456789abcdef0123456789abcdef\r\nsec-ch-ua-mobile: ?0\r\n\
Origin: https://chat.example.com\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n\
Sec-Fetch-Dest: empty\r\nReferer: https://chat.example.com/\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\n\
Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\
Connection: keep-alive\r\nx-ratelimit-limit-requests: 10000\r\n\
x-ratelimit-remaining-requests: 9999\r\nx-request-id: req_0123456789abcdef\r\n\
openai-processing-ms: 311\r\nstrict-transport-security: max-age=31536000\r\n\
Server: cloudflare\r\nCF-RAY: 0123456789abcdef-FRA\r\n\r\n";

fn request() -> RequestHead {
    match parse_request(black_box(REQUEST), &mut 0) {
        Ok(Status::Complete((head, consumed))) => {
            assert_eq!(consumed, REQUEST.len());
            head
        }
        other => panic!("{other:?}"),
    }
}

fn response() -> ResponseHead {
    match parse_response(black_box(RESPONSE), &mut 0) {
        Ok(Status::Complete((head, consumed))) => {
            assert_eq!(consumed, RESPONSE.len());
            head
        }
        other => panic!("{other:?}"),
    }
}

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http1/head");
    group.bench_function("parse request", |b| b.iter(request));
    group.bench_function("parse response", |b| b.iter(response));
    let (request, response) = (request(), response());
    group.bench_function("encode request", |b| {
        let forward = ForwardRequest {
            authority: "llm.internal:8000",
            base_path: "",
            target: "/v1/chat/completions",
            client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            scheme: "http",
            request_id: "0123456789abcdef0123456789abcdef",
            identity: true,
            framing: BodyFraming::Length(86),
            changes: Default::default(),
        };
        b.iter(|| {
            let mut out = Vec::with_capacity(request.bytes_len() + 256);
            encode_request(black_box(&request), &forward, &mut out);
            assert!(out.ends_with(b"\r\n\r\n") && out.len() > 512);
            out
        });
    });
    group.bench_function("encode response", |b| {
        let forward = ForwardResponse {
            framing: BodyFraming::Chunked,
            close: false,
            stream: true,
            stream_id: None,
            request_id: "0123456789abcdef0123456789abcdef",
            version: Version::Http11,
            head_only_length: None,
            received: None,
            changes: Default::default(),
        };
        b.iter(|| {
            let mut out = Vec::with_capacity(1024);
            encode_response(black_box(&response), &forward, &mut out);
            assert!(out.ends_with(b"\r\n\r\n") && out.len() > 256);
            out
        });
    });
    group.finish();
}

fn chunked(criterion: &mut Criterion) {
    let chunk = ["d0\r\n", &"x".repeat(208), "\r\n"].concat();
    let chunks = 64 * 1024 / chunk.len();
    let body = [chunk.repeat(chunks), "0\r\n\r\n".to_owned()].concat().into_bytes();
    let mut group = criterion.benchmark_group("http1/chunked");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function(format!("decode {chunks} chunks of 208 bytes"), |b| {
        b.iter(|| {
            let mut decoder = ChunkedDecoder::default();
            let (mut at, mut payload) = (0, 0);
            loop {
                match decoder.step(black_box(&body[at..])).expect("well-formed") {
                    Step::Data(n) => (at, payload) = (at + n, payload + n),
                    Step::Framing(n) => at += n,
                    Step::End(_) => break,
                    Step::NeedMore => panic!("cut"),
                }
            }
            assert_eq!(payload, chunks * 208);
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode a chunk's line", |b| {
        b.iter(|| {
            let mut line = [0; 20];
            let len = encode_chunk_line(black_box(208), &mut line);
            assert_eq!(&line[..len], b"d0\r\n");
        });
    });
    group.finish();
}

criterion_group!(benches, heads, chunked);
criterion_main!(benches);
