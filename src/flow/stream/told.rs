//! A failure within the stream: told between two frames, and whether that is an end.

use super::{Outgoing, Stream};
use crate::dialect::ErrorText;

impl Stream {
    /// Queues the frame that tells a failure in the stream's words, as [`insert`](Self::insert)
    /// does; `timeout` says that a limit ran out. False where nothing was queued: no event stream,
    /// no room for a frame, or an error of the provider's was told already.
    pub fn tell(&mut self, text: &ErrorText<'_>, timeout: bool) -> bool {
        let frame = self.error_frame(text, timeout);
        self.insert(&frame)
    }

    /// The frame that tells a failure in the stream's words; empty where there is none.
    pub fn error_frame(&mut self, text: &ErrorText<'_>, timeout: bool) -> Vec<u8> {
        let mut frame = Vec::new();
        match (&mut self.shaped, &self.events) {
            (Some(shaped), _) => shaped.error(text, timeout, &mut frame),
            (None, Some(events)) => events.dialect.error_frame(text, &mut frame),
            (None, None) => {}
        }
        frame
    }

    /// Ends the body in order behind the event that named its failure; `told` is what
    /// [`tell`](Self::tell) said. False where no such event went out: then only an abort shows that
    /// the stream was not whole.
    pub fn end_told(&mut self, told: bool) -> bool {
        let named = self.shaped.as_ref().is_some_and(|shaped| {
            shaped.shaper().has_told_failure() && (told || shaped.rewrites())
        });
        if !named || self.finished {
            return false;
        }
        (self.ended, self.finished) = (true, true);
        if self.outgoing == Outgoing::Chunked {
            self.buffer.push_static(b"0\r\n\r\n");
        }
        true
    }
}
