//! A provider's stream in the words its reader wants.
//!
//! - [`Shaping::Passthrough`], the default: the provider's bytes;
//! - [`Shaping::Tokens`]: small events for a page: start, token, done, error, timeout ([`tokens`]);
//! - [`Shaping::OpenAi`]: OpenAI chat chunks, whatever the provider speaks ([`chunks`]);
//! - [`collect`]: the whole stream as one JSON answer.
//!
//! Frames go in, bytes come out; [`Stream`](crate::flow::stream::Stream) queues them. A terminal
//! event is told only where the provider said that it is done: by its dialect's last event, or by a
//! reason to finish in a stream that ends in order. A body of plain text says so by its end alone,
//! and only where that end is not the connection's close.
//!
//! # What is told of what
//!
//! | dialect | tokens | openai | collected |
//! |---|---|---|---|
//! | openai-chat | yes | as it came (see below) | yes |
//! | openai-responses | yes | yes | yes |
//! | anthropic | yes | yes | yes |
//! | gemini | yes | yes | yes |
//! | dashscope | yes | yes, the model's name is the request's | yes |
//! | generic | text only, since there is no more in it | text only, `stop` at its end | text only |
//!
//! `cargo test --test shape table` checks every cell, and prints how many fixtures stand behind it.
//!
//! What cannot be told, and why: signatures of reasoning and redacted reasoning (bound to their
//! provider's own requests), citations, log probabilities and audio (the words of `tokens` and of
//! OpenAI's chunks have no place for another provider's), calls of tools the provider runs itself
//! (a client would try to run them), inline images. `tokens` tells choice 0 unless its template asks
//! for `{{index}}`. In `openai`, frames of a provider that speaks OpenAI chat stay as they are, log
//! probabilities and all; only those of Completions, and those that cut a character in two, are
//! told anew.

pub mod chunks;
pub mod collect;
pub mod template;
pub mod tokens;

use std::sync::Arc;

use crate::dialect::read::{Delta, Increments, Reader};
use crate::dialect::{Dialect, ErrorText};
use crate::sse::event::skip_gap;
use chunks::{Chunks, OpenAiRule};
use tokens::{Tokens, TokensRule};

/// How a route's streams are told. Cheap to clone; shared by a route's streams.
#[derive(Clone, Debug, Default)]
pub enum Shaping {
    /// The provider's bytes.
    #[default]
    Passthrough,
    /// Events for a page.
    Tokens(Arc<TokensRule>),
    /// OpenAI chat chunks.
    OpenAi(Arc<OpenAiRule>),
}

impl Shaping {
    /// Whether what the upstream says beside a status is told in other words too.
    pub fn retells_errors(&self) -> bool {
        match self {
            Self::Passthrough => false,
            Self::Tokens(rule) => !rule.forward || rule.early,
            Self::OpenAi(_) => true,
        }
    }

    /// A whole stream that tells a failure which came before the answer had begun, where the route
    /// has an event for it and its readers know no status; `timeout` says that a limit ran out.
    pub fn early_error(&self, text: &ErrorText<'_>, timeout: bool) -> Option<Vec<u8>> {
        let Self::Tokens(rule) = self else { return None };
        let mut out = Vec::new();
        if rule.early {
            let mut tokens = Tokens::new(Arc::clone(rule));
            if !rule.forward {
                tokens.start(&mut out);
            }
            tokens.error(text, timeout, &mut out);
            return tokens.has_told_failure().then_some(out);
        }
        None
    }

    /// The dialect that a failure before the head is told in, as a JSON body
    /// ([`Dialect::error_body`]), on a route to a provider that speaks `dialect`.
    pub const fn error_dialect(&self, dialect: Dialect) -> Dialect {
        match self {
            Self::Passthrough => dialect,
            Self::Tokens(_) => Dialect::Generic,
            Self::OpenAi(_) => Dialect::OpenAiChat,
        }
    }
}

/// What one stream is about, for the words that name it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Naming<'a> {
    /// An id for the answer, where the provider gives none: the exchange's.
    pub id: &'a str,
    /// The model asked for, where the provider does not name one.
    pub model: &'a str,
    /// Unix seconds now, where the provider does not say.
    pub created: u64,
}

impl Shaping {
    /// What tells one stream of `dialect`; `None` where its bytes go as they are, errors too.
    pub fn shaper(
        &self,
        dialect: Dialect,
        increments: Increments,
        naming: Naming<'_>,
    ) -> Option<Box<Shaper>> {
        let teller = match self {
            Self::Passthrough => return None,
            Self::Tokens(rule) => Teller::Tokens(Tokens::new(Arc::clone(rule))),
            Self::OpenAi(rule) => Teller::Chunks(Chunks::new(Arc::clone(rule), naming)),
        };
        let reader = Reader::new(dialect, increments);
        Some(Box::new(Shaper { reader, teller, progress: Progress::default() }))
    }
}

/// A frame cannot be read, so the stream cannot be told as whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMalformed;

impl std::fmt::Display for FrameMalformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an event's data is broken JSON")
    }
}

impl std::error::Error for FrameMalformed {}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// A choice has said why it is over.
    finish: bool,
    /// The end has been told.
    ended: bool,
    /// An error has been told.
    failed: bool,
}

impl Progress {
    /// Notes a delta; whether it is still to be told.
    fn takes(&mut self, delta: &Delta<'_>) -> bool {
        if self.ended || self.failed {
            return false;
        }
        match delta {
            Delta::Finish { .. } => self.finish = true,
            Delta::End => self.ended = true,
            Delta::Error(_) => self.failed = true,
            _ => {}
        }
        true
    }

    /// Whether a stream of `dialect` that ends now, in order, is one the provider finished.
    fn is_whole(self, dialect: Dialect, delimited: bool) -> bool {
        self.ended || self.finish || dialect == Dialect::Generic && delimited
    }
}

/// Tells one stream.
#[derive(Debug)]
pub struct Shaper {
    reader: Reader,
    teller: Teller,
    progress: Progress,
}

#[derive(Debug)]
enum Teller {
    Tokens(Tokens),
    Chunks(Chunks),
}

impl Teller {
    fn tell(&mut self, delta: Delta<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Tokens(tokens) => tokens.tell(delta, out),
            Self::Chunks(chunks) => chunks.tell(delta, out),
        }
    }

    fn error(&mut self, text: &ErrorText<'_>, timeout: bool, out: &mut Vec<u8>) {
        match self {
            Self::Tokens(tokens) => tokens.error(text, timeout, out),
            Self::Chunks(_) => Dialect::OpenAiChat.error_frame(text, out),
        }
    }
}

impl Shaper {
    /// Whether frames go on as they are, and only what the relay says itself is in other words:
    /// then [`frame`](Self::frame) and [`finish`](Self::finish) need not be asked.
    pub fn forwards(&self) -> bool {
        matches!(&self.teller, Teller::Tokens(tokens) if tokens.rule().forward)
    }

    /// Appends what goes before the first frame. It may go with the head.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Teller::Tokens(tokens) = &mut self.teller
            && !tokens.rule().forward
        {
            tokens.start(out);
        }
    }

    /// Appends what one whole frame of the provider is told as: nothing, or whole frames.
    ///
    /// # Errors
    /// The frame is broken. What it did say before the fault is told.
    pub fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), FrameMalformed> {
        self.tell(frame, false, out)
    }

    /// Tells a frame; one that is the unfinished rest only if it says anything.
    fn tell(&mut self, frame: &[u8], rest: bool, out: &mut Vec<u8>) -> Result<(), FrameMalformed> {
        let Self { reader, teller, progress } = self;
        reader.recognise(frame);
        let as_it_came = match teller {
            Teller::Chunks(chunks) if reader.dialect() == Dialect::OpenAiChat => {
                chunks.keeps(frame) && !progress.ended && !progress.failed
            }
            _ => false,
        };
        let (mut malformed, mut said) = (false, false);
        reader.read(frame, &mut |delta| {
            said = true;
            malformed |= delta == Delta::Malformed;
            if progress.takes(&delta) {
                match &mut *teller {
                    Teller::Chunks(chunks) if as_it_came => chunks.note(&delta),
                    teller => teller.tell(delta, out),
                }
            }
        });
        if malformed {
            return Err(FrameMalformed);
        }
        if as_it_came && (said || !rest) {
            out.extend_from_slice(skip_gap(frame, true));
            // The LF of a closing CRLF may have come too late to be part of it.
            if frame.ends_with(b"\r") {
                out.push(b'\n');
            }
        }
        Ok(())
    }

    /// Appends the end of a body that ended in order. `rest` is what it left of an unfinished
    /// frame, read as a frame where that end is a sure one; `delimited` says that: the body's
    /// length or last chunk has come, not merely the connection's close.
    pub fn finish(&mut self, rest: &[u8], delimited: bool, out: &mut Vec<u8>) {
        if !rest.is_empty() && delimited {
            let rest = [rest, b"\n\n"].concat();
            if self.tell(&rest, true, out).is_err() {
                self.error(&UNFINISHED, false, out);
            }
        }
        if self.progress.ended || self.progress.failed {
            return;
        }
        let dialect = self.reader.dialect();
        if self.progress.is_whole(dialect, delimited) {
            self.progress.ended = true;
            self.teller.tell(Delta::End, out);
        } else if dialect != Dialect::Generic {
            self.error(&UNFINISHED, false, out);
        }
    }

    /// Appends a failure of the relay's own telling, as [`Dialect::error_frame`] does for the
    /// dialects; `timeout` says that a limit ran out. Nothing, where the provider's own error has
    /// been told.
    pub fn error(&mut self, text: &ErrorText<'_>, timeout: bool, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.progress.failed, true) {
            self.teller.error(text, timeout, out);
        }
    }

    /// A frame that keeps a silent stream alive and means nothing.
    pub fn heartbeat(&self) -> &'static [u8] {
        b": keepalive\n\n"
    }

    /// Whether what has been told ends with an event of the route's that names a failure. To its
    /// reader that is an end, and none that could be taken for a whole answer.
    pub fn has_told_failure(&self) -> bool {
        matches!(&self.teller, Teller::Tokens(tokens) if tokens.has_told_failure())
    }

    /// Whether the end has been told.
    pub fn is_finished(&self) -> bool {
        self.progress.ended
    }

    /// The dialect read, as known by now.
    pub fn dialect(&self) -> Dialect {
        self.reader.dialect()
    }

    /// Gives memory back.
    pub fn settle(&mut self) {
        self.reader.settle_memory();
        match &mut self.teller {
            Teller::Tokens(tokens) => tokens.settle(),
            Teller::Chunks(chunks) => chunks.settle(),
        }
    }
}

/// Told where a body ends in order before its provider was done.
const UNFINISHED: ErrorText<'static> = ErrorText {
    status: 502,
    code: "upstream_closed",
    message: "the upstream ended its stream before it was finished",
    request_id: "",
    sequence: 0,
};
