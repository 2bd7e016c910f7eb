//! What telling a stream in other words costs.
//!
//! ```text
//! cargo bench --bench shape
//! ```
//!
//! `reading`: one frame of some 200 bytes read down to its text, by our reader and by others.
//! `told`: the same frame put through a stream's whole flow, a frame a read and a burst a read,
//! beside passthrough and a bare copy of its bytes.

mod queue;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream::dialect::Dialect;
use millstream::dialect::read::{Delta, Increments, Reader};
use millstream::flow::stream::{Marks, Outgoing, Stream};
use millstream::http1::body::BodyDecoder;
use millstream::http1::head::BodyFraming;
use millstream::shape::chunks::OpenAiRule;
use millstream::shape::tokens::TokensRule;
use millstream::shape::{Naming, Shaping};
use queue::put;
use serde::Deserialize;

const MARKS: Marks = Marks { high: 16 << 20, low: 8 << 20, frame_max: 1 << 20 };

/// Frames of 200 bytes or a little more, with 8 bytes of text.
fn frame(dialect: Dialect) -> Vec<u8> {
    match dialect {
        Dialect::OpenAiChat => {
            let chunk = "data: {\"id\":\"chatcmpl-9Qzx\",\"object\":\"chat.completion.chunk\",\
                \"created\":1730000001,\"model\":\"gpt-x-mini\",\"choices\":[{\"index\":0,\"delta\":\
                {\"content\":\" carries\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
            chunk.as_bytes().to_vec()
        }
        Dialect::Anthropic => "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\
            \"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" carries\"},\
            \"padding\":\"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrst\"}     \n\n"
            .as_bytes()
            .to_vec(),
        Dialect::DashScope => "id:7\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[\
            {\"message\":{\"content\":\" carries\",\"role\":\"assistant\"},\"finish_reason\":\"null\"}]},\
            \"usage\":{\"total_tokens\":12,\"output_tokens\":7,\"input_tokens\":5},\
            \"request_id\":\"4f1a\"}\n\n"
            .as_bytes()
            .to_vec(),
        _ => unreachable!("not measured"),
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    usage: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Content<'a>,
    #[serde(borrow)]
    finish_reason: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    content: Option<std::borrow::Cow<'a, str>>,
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reading");
    let bytes = frame(Dialect::OpenAiChat);
    for dialect in [Dialect::OpenAiChat, Dialect::Anthropic, Dialect::DashScope] {
        let bytes = frame(dialect);
        group.bench_function(format!("reader/{dialect}"), |b| {
            let mut reader = Reader::new(dialect, Increments::New);
            b.iter(|| {
                let mut len = 0;
                reader.read(black_box(&bytes), &mut |delta| {
                    if let Delta::Text { text, .. } = delta {
                        len += text.raw().len();
                    }
                });
                assert_eq!(len, 8);
            });
        });
    }
    group.bench_function("serde_json into borrowed structs/openai-chat", |b| {
        b.iter(|| {
            let data = &black_box(&bytes)[6..];
            let chunk: Chunk<'_> = serde_json::from_slice(data).expect("JSON");
            let choice = &chunk.choices[0];
            assert!(chunk.usage.is_none() && choice.finish_reason.is_none());
            assert_eq!(choice.delta.content.as_deref().map(str::len), Some(8));
        });
    });
    group.bench_function("serde_json into a Value/openai-chat", |b| {
        b.iter(|| {
            let data = &black_box(&bytes)[6..];
            let chunk: serde_json::Value = serde_json::from_slice(data).expect("JSON");
            let text = chunk.pointer("/choices/0/delta/content").and_then(|text| text.as_str());
            assert_eq!(text.map(str::len), Some(8));
        });
    });
    group.finish();
}

fn stream(dialect: Dialect, shaping: &Shaping) -> Stream {
    let decoder = BodyDecoder::new(BodyFraming::Chunked);
    let stream = Stream::events(decoder, Outgoing::Chunked, MARKS, dialect);
    let naming = Naming { id: "r-1", model: "m", created: 1_700_000_000 };
    match shaping.shaper(dialect, Increments::New, naming) {
        Some(shaper) => stream.shaped(shaper),
        None => stream,
    }
}

fn told(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("told");
    let tokens = Shaping::Tokens(Arc::new(TokensRule::chat()));
    let forward = Shaping::Tokens(Arc::new(TokensRule::forward()));
    let openai = Shaping::OpenAi(Arc::new(OpenAiRule::default()));
    for (name, dialect, shaping) in [
        ("passthrough/openai-chat", Dialect::OpenAiChat, &Shaping::Passthrough),
        ("tokens, forwarded/openai-chat", Dialect::OpenAiChat, &forward),
        ("tokens/openai-chat", Dialect::OpenAiChat, &tokens),
        ("tokens/anthropic", Dialect::Anthropic, &tokens),
        ("tokens/dashscope", Dialect::DashScope, &tokens),
        ("openai/openai-chat", Dialect::OpenAiChat, &openai),
        ("openai/anthropic", Dialect::Anthropic, &openai),
        ("openai/dashscope", Dialect::DashScope, &openai),
    ] {
        let payload = frame(dialect);
        let mut unit = format!("{:x}\r\n", payload.len()).into_bytes();
        unit.extend_from_slice(&payload);
        unit.extend_from_slice(b"\r\n");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{name}/a frame a read"), |b| {
            let mut stream = stream(dialect, shaping);
            b.iter(|| assert!(put(&mut stream, black_box(&unit)) > 0));
        });
        let frames = 64 * 1024 / unit.len();
        let burst = unit.repeat(frames);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(format!("{name}/64 KiB"), |b| {
            let mut stream = stream(dialect, shaping);
            b.iter(|| assert!(put(&mut stream, black_box(&burst)) > 0));
        });
    }
    let bytes = frame(Dialect::OpenAiChat);
    let mut copy = vec![0; bytes.len()];
    group.throughput(Throughput::Elements(1));
    group.bench_function("a bare copy", |b| {
        b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)));
    });
    group.finish();
}

criterion_group!(benches, reading, told);
criterion_main!(benches);
