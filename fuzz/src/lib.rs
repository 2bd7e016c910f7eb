//! What each fuzz target checks. The targets (`fuzz_targets/`) and the corpus replay of
//! `cargo test` (`tests/fuzz_corpus.rs`) share it, so nothing here needs a fuzzer.
//!
//! Every check is against something written a second time, plainly and without resumable state.
#![allow(unreachable_pub, dead_code)] // included by a test as a module, too

pub mod chunked;
pub mod exchange;
pub mod head;
pub mod json;
pub mod kept;
pub mod naive;
pub mod records;
pub mod scanner;
pub mod shape;

/// The input taken byte by byte as choices; zeros once it is used up.
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// Choices from `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether any are left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((byte, rest)) => {
                self.rest = rest;
                *byte
            }
            None => 0,
        }
    }

    /// Two bytes as a number.
    pub fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// Up to `n` bytes.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Up to seven cuts of what is left behind them, ascending.
    pub fn cuts(&mut self) -> Vec<usize> {
        let count = self.byte() % 8;
        let raw: Vec<usize> = (0..count).map(|_| self.number()).collect();
        let mut cuts: Vec<usize> = raw.into_iter().map(|cut| cut % (self.rest.len() + 1)).collect();
        cuts.sort_unstable();
        cuts
    }

    /// All that is left.
    pub fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}
