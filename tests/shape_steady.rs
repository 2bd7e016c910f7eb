//! A stream told in other words allocates nothing per frame in its steady state: where frames come
//! whole, whatever they hold.
//!
//! The test's thread counts its own allocations.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;

use millstream::dialect::Dialect;
use millstream::dialect::read::Increments;
use millstream::flow::stream::{Marks, Outgoing, Stream};
use millstream::http1::body::BodyDecoder;
use millstream::http1::head::BodyFraming;
use millstream::limits::WRITE_SLICES_MAX;
use millstream::shape::chunks::OpenAiRule;
use millstream::shape::template::Told;
use millstream::shape::tokens::TokensRule;
use millstream::shape::{Naming, Shaping};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the cell needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MARKS: Marks = Marks { high: 256 << 10, low: 128 << 10, frame_max: 1 << 20 };

fn frames(dialect: Dialect) -> [&'static str; 3] {
    match dialect {
        Dialect::OpenAiChat => [
            "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"plain\"},\"finish_reason\":null}]}\n\n",
            "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\u4f60 \\ud83d\\ude00 \\n\"}}]}\n\n",
            "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\"\"}}]}}]}\n\n",
        ],
        Dialect::OpenAiResponses => [
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":7,\"item_id\":\"i\",\"output_index\":0,\"content_index\":0,\"delta\":\"plain\",\"logprobs\":[]}\n\n",
            "event: response.reasoning_summary_text.delta\ndata: {\"type\":\"response.reasoning_summary_text.delta\",\"delta\":\"think\\n\"}\n\n",
            ": comment\n\n",
        ],
        Dialect::Anthropic => [
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"plain 你好\"}}   \n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"\\ud83d\\ude00\"}}\n\n",
            "event: ping\ndata: {\"type\": \"ping\"}\n\n",
        ],
        Dialect::Gemini => [
            "data: {\"candidates\": [{\"content\": {\"parts\": [{\"text\": \"plain\"}],\"role\": \"model\"},\"index\": 0}],\"usageMetadata\": {\"promptTokenCount\": 8}}\r\n\r\n",
            "data: {\"candidates\": [{\"content\": {\"parts\": [{\"text\": \"a\\n\",\"thought\": true}]}}]}\r\n\r\n",
            "data: {\"usageMetadata\": {\"promptTokenCount\": 8,\"candidatesTokenCount\": 9}}\r\n\r\n",
        ],
        Dialect::DashScope => [
            "id:7\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":\"plain\",\"role\":\"assistant\"},\"finish_reason\":\"null\"}]},\"usage\":{\"input_tokens\":1},\"request_id\":\"r\"}\n\n",
            "id:8\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"text\":\"\\u4f60\",\"finish_reason\":\"null\"},\"request_id\":\"r\"}\n\n",
            ":keepalive\n\n",
        ],
        Dialect::Generic => {
            ["data: plain\n\n", "data: two \"quoted\"\ndata: lines\n\n", "data: 你\n\n"]
        }
    }
}

/// Puts a frame through as the relay does; returns the bytes that came out.
fn put(stream: &mut Stream, frame: &str) -> usize {
    let unit = frame.as_bytes();
    let room = stream.room();
    room[..unit.len()].copy_from_slice(unit);
    assert_eq!(stream.received(unit.len()).expect("in order"), 0);
    let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
    let used = stream.buffer().gather(&mut slices);
    let n = slices[..used].iter().map(|slice| slice.len()).sum();
    stream.sent(n);
    stream.settle();
    n
}

#[test]
fn a_steady_stream_in_other_words_allocates_nothing_per_frame() {
    let mut raw = TokensRule::chat();
    raw.tell(Told::Token, Some("token"), "{{text}}").expect("right");
    let shapings = [
        Shaping::Tokens(Arc::new(TokensRule::chat())),
        Shaping::Tokens(Arc::new(raw)),
        Shaping::OpenAi(Arc::new(OpenAiRule { include_usage: true, ..OpenAiRule::default() })),
    ];
    for &dialect in Dialect::ALL {
        for shaping in &shapings {
            let naming = Naming { id: "r", model: "m", created: 1 };
            let shaper = shaping.shaper(dialect, Increments::New, naming).expect("a shaping");
            let decoder = BodyDecoder::new(BodyFraming::Close);
            let mut stream =
                Stream::events(decoder, Outgoing::Chunked, MARKS, dialect).shaped(shaper);
            let mut told = 0;
            let mut before = 0;
            for round in 0..300 {
                if round == 50 {
                    before = ALLOCATIONS.get();
                }
                told += frames(dialect).map(|frame| put(&mut stream, frame)).iter().sum::<usize>();
            }
            let allocated = ALLOCATIONS.get() - before;
            assert!(told > 300 * 20, "{dialect}");
            assert_eq!(allocated, 0, "{dialect} {shaping:?}");
        }
    }
}
