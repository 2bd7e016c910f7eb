//! A ring of buffers that the kernel picks from on receiving.
#![allow(unsafe_code)] // the kernel writes into memory it has been told of

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Buffers of one group, their ring shared with the kernel.
pub(super) struct Buffers {
    ring: NonNull<BufRingEntry>,
    data: NonNull<u8>,
    count: u16,
    size: usize,
    tail: u16,
}

const PAGE: usize = 4096;

impl Buffers {
    /// `count` (a power of two) buffers of `size` bytes, registered as `group`.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        size: usize,
    ) -> io::Result<Self> {
        let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let [ring_layout, data_layout] = Self::layouts(count, size).ok_or_else(no_memory)?;
        // SAFETY: both layouts have a size above nought.
        let (ring, data) = unsafe { (alloc_zeroed(ring_layout), alloc_zeroed(data_layout)) };
        let ring = NonNull::new(ring.cast::<BufRingEntry>()).ok_or_else(no_memory)?;
        let data = NonNull::new(data).ok_or_else(no_memory)?;
        let mut buffers = Self { ring, data, count, size, tail: 0 };
        let address = ring.as_ptr() as u64;
        // SAFETY: the ring is page-aligned, zeroed and lives as long as `buffers`, which its
        // owner drops after the io_uring.
        unsafe { submitter.register_buf_ring_with_flags(address, count, group, 0)? };
        (0..count).for_each(|id| buffers.give(id));
        Ok(buffers)
    }

    fn layouts(count: u16, size: usize) -> Option<[Layout; 2]> {
        let ring = size_of::<BufRingEntry>() * usize::from(count);
        Some([
            Layout::from_size_align(ring, PAGE).ok()?,
            Layout::from_size_align(size.checked_mul(count.into())?, PAGE).ok()?,
        ])
    }

    /// Gives a buffer (back) to the kernel.
    pub(super) fn give(&mut self, id: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        let data = self.at(id, 0) as u64;
        // SAFETY: `slot` is below `count`; the kernel reads an entry only after the tail has
        // passed it. Only address, length and id are written: the first entry's last field is
        // the ring's tail.
        unsafe {
            let entry = &mut *self.ring.as_ptr().add(slot);
            entry.set_addr(data);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the ring's first entry, aligned to two bytes, and is shared
        // with the kernel alone.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// The address of byte `offset` of buffer `id`.
    pub(super) fn at(&self, id: u16, offset: usize) -> *const u8 {
        assert!(id < self.count && offset < self.size);
        // SAFETY: within the allocation, as asserted.
        unsafe { self.data.as_ptr().add(usize::from(id) * self.size + offset) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if let Some([ring, data]) = Self::layouts(self.count, self.size) {
            // SAFETY: allocated with these layouts.
            unsafe {
                dealloc(self.ring.as_ptr().cast(), ring);
                dealloc(self.data.as_ptr(), data);
            }
        }
    }
}
