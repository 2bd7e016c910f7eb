//! An event stream's frames as they pass: how many, where they end, whether one was the last.

use crate::dialect::{Dialect, is_ordinary_frame};
use crate::limits::DIALECT_GUESSES_MAX;
use crate::sse::scanner::Scanner;

#[derive(Debug)]
pub(super) struct Events {
    pub scanner: Scanner,
    pub dialect: Dialect,
    /// The first bytes of the frame in progress, for telling the dialect's last event.
    prefix: [u8; Dialect::TERMINAL_PREFIX_BYTES],
    prefix_len: usize,
    /// Frames that may still be asked for their dialect.
    guesses: u8,
    /// The dialect's last event has passed.
    pub terminal: bool,
    /// A frame above the limit is on its way in pieces; nothing may be inserted until it ends.
    pub overlong: bool,
    /// A frame of our own went out before any payload.
    pub own_first: bool,
}

impl Events {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            scanner: Scanner::default(),
            dialect,
            prefix: [0; Dialect::TERMINAL_PREFIX_BYTES],
            prefix_len: 0,
            guesses: if matches!(dialect, Dialect::Generic) { DIALECT_GUESSES_MAX } else { 0 },
            terminal: false,
            overlong: false,
            own_first: false,
        }
    }

    /// Whether `payload`, which follows a boundary, is one frame of the kind that nearly all are: it
    /// leaves nothing to be noted.
    #[inline]
    pub(super) fn is_ordinary(&self, payload: &[u8]) -> bool {
        self.guesses == 0 && is_ordinary_frame(payload)
    }

    /// Scans payload; returns the frames that ended in it and the offset after the last.
    pub(super) fn take(&mut self, payload: &[u8]) -> (u64, usize) {
        let scan = self.scanner.scan(payload);
        if scan.frames > 0 {
            let start = if scan.last_continued { 0 } else { scan.last };
            // Of one that began in earlier bytes only its beginning is there.
            let frame = if scan.last_continued {
                self.keep_prefix(&payload[start..scan.end]);
                &self.prefix[..self.prefix_len]
            } else {
                &payload[start..scan.end]
            };
            if self.guesses > 0 {
                self.guesses -= 1;
                if let Some(dialect) = Dialect::from_first_frame(frame) {
                    self.dialect = dialect;
                    self.guesses = 0;
                }
            }
            self.terminal |= self.dialect.is_terminal(frame);
        }
        if scan.end > 0 {
            self.prefix_len = 0;
            self.overlong = false;
        }
        if scan.end < payload.len() {
            self.keep_prefix(&payload[scan.end..]);
        }
        (u64::from(scan.frames), scan.end)
    }

    fn keep_prefix(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(self.prefix.len() - self.prefix_len);
        self.prefix[self.prefix_len..self.prefix_len + n].copy_from_slice(&bytes[..n]);
        self.prefix_len += n;
    }
}
