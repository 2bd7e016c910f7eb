//! Bytes that came from a peer and have not been taken yet: the rest of a read behind a head, a
//! body's beginning, a pipelined request. Holds no memory while it is empty.

use std::io;

use crate::buf::Block;
use crate::http1::body::{BodyDecoder, BodyError, Step};
use crate::limits::READ_BUFFER_BYTES;
use crate::net::stream::Transport;

/// See the module's description.
#[derive(Debug, Default)]
pub struct Inbox {
    block: Option<Block>,
    /// What is held of the block. A block has at most 64 KiB.
    start: u32,
    end: u32,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// More bytes.
    More,
    /// Nothing there yet.
    Nothing,
    /// The peer has closed its side.
    Closed,
    /// No room left: the bytes held must be taken first.
    Full,
}

impl Inbox {
    /// One with a copy of these bytes, of which a read buffer's can be held.
    pub fn holding(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        let mut block = Block::with_room(bytes.len());
        let len = bytes.len().min(block.size());
        debug_assert_eq!(len, bytes.len());
        block.bytes_mut()[..len].copy_from_slice(&bytes[..len]);
        Self { block: Some(block), start: 0, end: len as u32 }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.block
            .as_ref()
            .map_or(&[], |block| &block.bytes()[self.start as usize..self.end as usize])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes `n` bytes away; memory goes back with the last.
    pub fn consume(&mut self, n: usize) {
        self.start += (n as u32).min(self.end - self.start);
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Reads what is there, never waiting.
    ///
    /// # Errors
    /// The connection was reset or has failed.
    pub fn fill(&mut self, transport: &Transport) -> io::Result<Filled> {
        let block = self.block.get_or_insert_with(Block::for_reading);
        let mut end = self.end as usize;
        if end == block.size() {
            if self.start == 0 {
                return Ok(Filled::Full);
            }
            block.bytes_mut().copy_within(self.start as usize..end, 0);
            end -= self.start as usize;
            self.start = 0;
        }
        let received = transport.try_recv(&mut block.bytes_mut()[end..]);
        if let Ok(Some(n)) = received {
            end += n;
        }
        self.end = end as u32;
        if self.is_empty() {
            *self = Self::default();
        }
        Ok(match received? {
            Some(0) => Filled::Closed,
            Some(_) => Filled::More,
            None => Filled::Nothing,
        })
    }

    /// Takes what is there of a body and lends `each` its payload; true when the body is whole.
    ///
    /// # Errors
    /// What `malformed` makes of broken framing, or the first error of `each`.
    pub fn decode<E>(
        &mut self,
        decoder: &mut BodyDecoder,
        malformed: impl FnOnce(BodyError) -> E,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        loop {
            match decoder.step(self.bytes()) {
                Ok(Step::Framing(n)) => self.consume(n),
                Ok(Step::Data(n)) => {
                    each(&self.bytes()[..n])?;
                    self.consume(n);
                }
                Ok(Step::End(n)) => {
                    self.consume(n);
                    return Ok(true);
                }
                Ok(Step::NeedMore) => return Ok(false),
                Err(error) => return Err(malformed(error)),
            }
        }
    }

    /// Moves few bytes out of a large block, before a long wait.
    pub fn settle(&mut self) {
        let len = (self.end - self.start) as usize;
        if let Some(block) = &self.block
            && block.size() == READ_BUFFER_BYTES
            && len <= READ_BUFFER_BYTES / 8
        {
            let mut small = Block::with_room(len);
            small.bytes_mut()[..len].copy_from_slice(self.bytes());
            (self.start, self.end) = (0, len as u32);
            self.block = Some(small);
        }
    }
}
