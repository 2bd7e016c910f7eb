//! Bytes that a session keeps between two calls: an unfinished record, payload nobody had room
//! for, records the socket did not take. Holds no memory while it is empty, and otherwise the
//! smallest block that fits.

use crate::buf::Block;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Held {
    block: Option<Block>,
    start: usize,
    end: usize,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block.bytes()[self.start..self.end])
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, end) = (self.start, self.end);
        self.block.as_mut().map_or(&mut [], |block| &mut block.bytes_mut()[start..end])
    }

    /// Drops `n` bytes at the front; memory goes back with the last.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Moves as much as fits into `room`.
    pub(super) fn move_to(&mut self, room: &mut [u8]) -> usize {
        let n = self.len().min(room.len());
        room[..n].copy_from_slice(&self.bytes()[..n]);
        self.consume(n);
        n
    }

    /// Keeps `block[start..end]` instead of what was held.
    pub(super) fn set(&mut self, block: Block, start: usize, end: usize) {
        let block = (start < end).then_some(block);
        *self = Self { block, start, end };
        self.consume(0);
    }

    /// Keeps `block[start..end]` for longer: in a smaller block where that fits.
    pub(super) fn keep(&mut self, block: Block, start: usize, end: usize) {
        self.set(block, start, end);
        self.shrink();
    }

    /// Adds a copy of `bytes` at the end.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let room = self.room(bytes.len());
        let n = bytes.len().min(room.len());
        debug_assert_eq!(n, bytes.len(), "more than a block is held");
        room[..n].copy_from_slice(&bytes[..n]);
        self.end += n;
    }

    /// At least `n` bytes of room behind those held, as far as a block goes; to be followed by
    /// [`grew`](Self::grew).
    pub(super) fn room(&mut self, n: usize) -> &mut [u8] {
        let len = self.len();
        if self.block.as_ref().is_none_or(|block| block.size() - self.end < n) {
            let mut block = Block::with_room(len + n);
            block.bytes_mut()[..len].copy_from_slice(self.bytes());
            *self = Self { block: Some(block), start: 0, end: len };
        }
        let end = self.end;
        self.block.as_mut().map_or(&mut [], |block| &mut block.bytes_mut()[end..])
    }

    /// Says that `n` bytes were written to the start of [`room`](Self::room).
    pub(super) fn grew(&mut self, n: usize) {
        self.end += n;
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Moves the bytes to the smallest block that holds them.
    pub(super) fn shrink(&mut self) {
        let Some(block) = &self.block else { return };
        let len = self.len();
        if block.size() <= Block::SMALLEST || len > block.size() / 4 {
            return;
        }
        let mut small = Block::with_room(len);
        if small.size() < block.size() {
            small.bytes_mut()[..len].copy_from_slice(self.bytes());
            *self = Self { block: Some(small), start: 0, end: len };
        }
    }
}
