//! The log of a stream that is kept, against the event parser: what readers are sent says what the
//! stream said, in numbered frames, from any of them on; and ids, read or refused.

use std::io::IoSlice;

use millstream::flow::replay::{FRAMES_PER_GATHER, Limits, Lines, Log, ReaderKey, UpstreamIds};
use millstream::flow::stream::Outgoing;
use millstream::sse::sequence::{Epoch, EventId, StreamId, StreamText};
use millstream::sse::{Message, Parser};

use super::Choices;

const BYTES_MAX: usize = 1 << 20;

fn messages(stream: &[u8]) -> Vec<Message> {
    let (mut parser, mut messages) = (Parser::new(BYTES_MAX), Vec::new());
    parser.feed(stream, &mut messages).expect("short");
    messages
}

fn said(messages: &[Message]) -> Vec<(&[u8], &[u8])> {
    messages.iter().map(|message| (&*message.event, &*message.data)).collect()
}

/// All a reader is to be sent, `step` bytes at a time.
fn drained(log: &mut Log, reader: ReaderKey, name: &StreamText, step: usize) -> Vec<u8> {
    let (how, mut all) = ((name, Outgoing::Plain), Vec::new());
    loop {
        let mut lines = Lines::<FRAMES_PER_GATHER>::default();
        let mut slices = [IoSlice::new(&[]); 2 * FRAMES_PER_GATHER + 1];
        let used = log.gather(reader, how, &mut lines, &mut slices);
        let bytes: Vec<u8> =
            slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        if bytes.is_empty() {
            assert!(log.is_caught_up(reader));
            return all;
        }
        let n = bytes.len().min(step);
        all.extend_from_slice(&bytes[..n]);
        log.sent(reader, how, n);
    }
}

/// See the module's description.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let step = usize::from(choices.byte()) + 1;
    let ids =
        if choices.byte().is_multiple_of(2) { UpstreamIds::Comment } else { UpstreamIds::Drop };
    let cuts = choices.cuts();
    let stream = choices.all();
    if let Some(id) = EventId::read(stream) {
        assert!(stream.starts_with(id.stream.text().as_bytes()));
    }
    let name = StreamId { slot: 3, secret: [5; 14], core: 1, epoch: Epoch::new([9; 6]) }.text();
    let limits = Limits { bytes_max: BYTES_MAX, high: BYTES_MAX, low: 0, frame_max: BYTES_MAX / 2 };
    let mut log = Log::new(limits, ids);
    let reader = log.attach(0).expect("from the start");
    let (mut from, mut sent) = (0, Vec::new());
    for to in cuts.iter().copied().chain([stream.len()]) {
        log.feed(&stream[from..to]).expect("short");
        sent.extend(drained(&mut log, reader, &name, step));
        from = to;
    }
    log.finish(true);
    sent.extend(drained(&mut log, reader, &name, step));
    let (original, numbered) = (messages(stream), messages(&sent));
    assert_eq!(said(&numbered), said(&original));
    let mut last = 0;
    for (at, message) in numbered.iter().enumerate() {
        let id = EventId::read(&message.last_event_id).expect("every event has an id");
        assert!(id.sequence > last && id.sequence <= log.last());
        last = id.sequence;
        let again = log.attach(last).expect("kept");
        let rest = messages(&drained(&mut log, again, &name, 4096));
        assert_eq!(said(&rest), said(&original)[at + 1..], "behind {last}");
        log.detach(again);
    }
}
