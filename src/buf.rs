//! Core-local pool of byte blocks.
//!
//! A block is taken when bytes are about to arrive and goes back when the last of them has left,
//! so a stream that waits holds none. The pool belongs to the thread: taking and returning are a
//! push and a pop, without lock or reference count, and the block that was used last (its lines
//! still in cache) is used next.
//!
//! Read buffers are mappings of their own, not heap memory: what a rush of slow readers took is
//! given back to the system by [`trim`] when it is over. (From the heap it never came back while
//! nothing else was allocated: 64 stalled readers left 18 MB behind, now 2 MB.)

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::limits::READ_BUFFER_BYTES;

/// Sizes of blocks in bytes. Small ones hold what a slow stream has left over, so that a hundred
/// bytes do not pin a read buffer.
const CLASSES: [usize; 4] = [1024, 4 * 1024, 16 * 1024, READ_BUFFER_BYTES];
/// Bytes of free blocks kept per class and core; what is returned beyond goes to the system. Wide
/// enough for a burst to come and go without a mapping made; [`trim`] takes back what lies unused.
const FREE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A block of bytes, returned to its core's pool when dropped.
///
/// Invariant: its length is one of the pool's class sizes. Its content is whatever was there
/// before: the holder knows which part it has filled.
#[derive(Debug)]
pub struct Block {
    data: Data,
    // The pool is the thread's; a block must not wander.
    _core_local: PhantomData<*const ()>,
}

/// A block's memory.
#[derive(Debug)]
enum Data {
    /// A mapping of its own.
    Mapped(MmapMut),
    /// From the heap: small classes, and read buffers where the system grants no more mappings.
    Heap(Box<[u8]>),
}

impl Data {
    fn new(size: usize) -> Self {
        if size == READ_BUFFER_BYTES
            && let Ok(mapped) = MmapMut::map_anon(size)
        {
            return Self::Mapped(mapped);
        }
        Self::Heap(vec![0; size].into_boxed_slice())
    }
}

impl Deref for Data {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Heap(heap) => heap,
        }
    }
}

impl DerefMut for Data {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Heap(heap) => heap,
        }
    }
}

/// What one core's pool holds and has handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Blocks in use now.
    pub blocks: usize,
    /// Bytes of the blocks in use now.
    pub bytes: usize,
    /// Bytes of the blocks kept free.
    pub free_bytes: usize,
}

#[derive(Default)]
struct Pool {
    free: [Vec<Data>; CLASSES.len()],
    /// The fewest free blocks of each class since the last trim: so many were of no use.
    unused: [usize; CLASSES.len()],
    usage: PoolUsage,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Block {
    /// Bytes of the smallest block.
    pub const SMALLEST: usize = CLASSES[0];

    /// A block of at least `bytes` bytes, the smallest that fits; requests above
    /// [`READ_BUFFER_BYTES`] get that size.
    pub fn with_room(bytes: usize) -> Self {
        let class = CLASSES.iter().position(|&size| size >= bytes).unwrap_or(CLASSES.len() - 1);
        let size = CLASSES[class];
        let data = POOL.with_borrow_mut(|pool| {
            pool.usage.blocks += 1;
            pool.usage.bytes += size;
            let reused = pool.free[class].pop();
            if reused.is_some() {
                pool.usage.free_bytes -= size;
                pool.unused[class] = pool.unused[class].min(pool.free[class].len());
            }
            reused
        });
        Self { data: data.unwrap_or_else(|| Data::new(size)), _core_local: PhantomData }
    }

    /// A block to receive into while data flows.
    pub fn for_reading() -> Self {
        Self::with_room(READ_BUFFER_BYTES)
    }

    /// Its bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Its bytes, to be written.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Its size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.data.len()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let data = std::mem::replace(&mut self.data, Data::Heap(Box::default()));
        let size = data.len();
        // While a thread ends its pool may be gone already; then the allocator takes the block.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.usage.blocks -= 1;
            pool.usage.bytes -= size;
            let class = CLASSES.iter().position(|&class| class == size);
            if let Some(class) = class
                && (pool.free[class].len() + 1) * size <= FREE_BYTES_MAX
            {
                pool.usage.free_bytes += size;
                pool.free[class].push(data);
            }
        });
    }
}

/// Asks for the memory of `value` ahead of its use, without waiting for it.
#[inline]
pub fn prefetch<T>(value: &T) {
    let start: *const T = value;
    prefetch_from(start.cast(), size_of::<T>());
}

/// [`prefetch`] of the `bytes` bytes from `start` on, whatever is there, or is not.
#[inline]
#[allow(unsafe_code)]
pub fn prefetch_from(start: *const (), bytes: usize) {
    for line in (0..bytes).step_by(64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; it reads nothing and never faults, whatever the address.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(start.cast::<i8>().wrapping_add(line));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, line);
    }
}

/// Gives back the free blocks that nobody wanted since the last call, and what this thread has
/// freed of the allocator's memory; to be called now and then.
///
/// The allocator gives memory back by itself only while it is busy: after a rush, a quiet core
/// would keep that of its busiest moment. Where a rush is `over`, it is asked to look at all of it:
/// pages that many streams had shared come back only so (of 10,000 streams that were kept 9.5 MB
/// stayed, now 1.5), and it takes milliseconds.
#[allow(unsafe_code)]
pub fn trim(over: bool) {
    POOL.with_borrow_mut(|pool| {
        for (class, size) in CLASSES.iter().enumerate() {
            // The least recently used lie at the front.
            let unused = pool.unused[class].min(pool.free[class].len());
            pool.free[class].drain(..unused);
            pool.usage.free_bytes -= unused * size;
            pool.unused[class] = pool.free[class].len();
        }
    });
    // SAFETY: takes no pointer, may be called by any thread at any time, and touches only memory
    // that is free.
    unsafe { libmimalloc_sys::mi_collect(over) }
}

/// What this core's pool holds and has handed out.
pub fn pool_usage() -> PoolUsage {
    POOL.with_borrow(|pool| pool.usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_fitting_class_is_taken_and_comes_back() {
        let before = pool_usage();
        for (asked, size) in
            [(0, 1024), (1024, 1024), (1025, 4096), (65536, 65536), (1 << 20, 65536)]
        {
            let block = Block::with_room(asked);
            assert_eq!(block.size(), size);
            assert_eq!(pool_usage().bytes, before.bytes + size);
        }
        assert_eq!(pool_usage().blocks, before.blocks);
    }

    #[test]
    fn the_last_block_returned_is_the_next_one_taken() {
        let mut block = Block::for_reading();
        block.bytes_mut()[0] = 42;
        drop(block);
        assert_eq!(Block::for_reading().bytes()[0], 42);
    }

    #[test]
    fn free_blocks_are_bounded_and_given_back_when_nobody_wants_them() {
        let many: Vec<Block> = (0..400).map(|_| Block::for_reading()).collect();
        drop(many);
        assert_eq!(pool_usage().free_bytes, FREE_BYTES_MAX);
        assert_eq!(pool_usage().blocks, 0);
        trim(false);
        // Two in use at a time: the rest was not wanted.
        drop((Block::for_reading(), Block::for_reading()));
        trim(false);
        assert_eq!(pool_usage().free_bytes, 2 * READ_BUFFER_BYTES);
        trim(false);
        assert_eq!(pool_usage().free_bytes, 0);
    }
}
