//! An allocator that counts the current and the peak memory of each thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counted.
pub(crate) struct Counting;

thread_local! {
    /// Bytes allocated less bytes freed by this thread; below 0 in one that frees for others.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The highest value of `HELD` since the last reset.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn grow(bytes: usize) {
    // The counters are gone while a thread ends; nothing is measured then.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add_unsigned(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

fn shrink(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().saturating_sub_unsigned(bytes)));
}

#[expect(unsafe_code, reason = "an allocator can be counted only by being one")]
// SAFETY: every call goes to `System` with the arguments it came with, and counting allocates
// nothing: the counters are constant-initialised and need no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    /// Counts the old and the new block together, as if it were copied.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        shrink(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `work` and returns its result with the peak memory of this thread above the level before, in bytes.
pub(crate) fn peak_bytes<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_counts_for_the_peak() {
        let (len, peak) = peak_bytes(|| {
            drop(std::hint::black_box(vec![1u8; 100_000]));
            std::hint::black_box(vec![1u8; 1_000]).len()
        });
        assert_eq!(len, 1_000);
        assert!((100_000..110_000).contains(&peak), "{peak}");
    }

    #[test]
    fn memory_held_before_is_not_counted() {
        let held = std::hint::black_box(vec![1u8; 1 << 20]);
        let (_, peak) = peak_bytes(|| std::hint::black_box(7));
        assert_eq!((peak, held.len()), (0, 1 << 20));
    }
}
