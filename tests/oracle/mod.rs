//! The HTML Standard's event-stream rules written down as slowly and as plainly as possible, to
//! check the real code against. Whole streams only: nothing here can be split.

/// An event as the standard dispatches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dispatched {
    /// Its type.
    pub event: Vec<u8>,
    /// Its data.
    pub data: Vec<u8>,
    /// The last event id.
    pub id: Vec<u8>,
}

/// What a stream comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The events in order.
    pub events: Vec<Dispatched>,
    /// The reconnection time last set.
    pub retry: Option<u64>,
}

/// The lines of a stream without their ends, and the unfinished last one.
fn split_lines(stream: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        match stream[at] {
            b'\r' => {
                lines.push(std::mem::take(&mut line));
                if stream.get(at + 1) == Some(&b'\n') {
                    at += 1;
                }
            }
            b'\n' => lines.push(std::mem::take(&mut line)),
            byte => line.push(byte),
        }
        at += 1;
    }
    (lines, line)
}

fn without_mark(stream: &[u8]) -> &[u8] {
    if stream.len() >= 3 && stream[..3] == [0xEF, 0xBB, 0xBF] { &stream[3..] } else { stream }
}

/// Interprets a whole stream, as sections 9.2.5 and 9.2.6 say.
pub(crate) fn interpret(stream: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut data, mut event, mut id) = (Vec::new(), Vec::new(), Vec::new());
    for line in split_lines(without_mark(stream)).0 {
        if line.is_empty() {
            // Dispatch the event.
            if !data.is_empty() {
                if data.last() == Some(&b'\n') {
                    data.pop();
                }
                let event = if event.is_empty() { b"message".to_vec() } else { event.clone() };
                outcome.events.push(Dispatched { event, data: data.clone(), id: id.clone() });
            }
            data.clear();
            event.clear();
        } else if line[0] != b':' {
            let colon = line.iter().position(|byte| *byte == b':');
            let name = &line[..colon.unwrap_or(line.len())];
            let mut value = colon.map_or(&[][..], |colon| &line[colon + 1..]);
            if value.first() == Some(&b' ') {
                value = &value[1..];
            }
            if name == b"event" {
                event = value.to_vec();
            } else if name == b"data" {
                data.extend_from_slice(value);
                data.push(b'\n');
            } else if name == b"id" {
                if !value.contains(&0) {
                    id = value.to_vec();
                }
            } else if name == b"retry" && !value.is_empty() && value.iter().all(u8::is_ascii_digit)
            {
                let text = String::from_utf8(value.to_vec()).unwrap();
                outcome.retry = Some(text.parse().unwrap_or(u64::MAX));
            }
        }
    }
    outcome
}

/// The frames that have ended once `prefix` has come, and whether it ends between frames.
pub(crate) fn position(prefix: &[u8]) -> (u32, bool) {
    if !prefix.is_empty() && prefix.len() < 3 && [0xEF, 0xBB, 0xBF].starts_with(prefix) {
        return (0, false);
    }
    let (lines, unfinished) = split_lines(without_mark(prefix));
    let mut frames = 0;
    let mut between = true;
    for line in lines {
        if line.is_empty() && !between {
            frames += 1;
        }
        between = line.is_empty();
    }
    (frames, between && unfinished.is_empty())
}
