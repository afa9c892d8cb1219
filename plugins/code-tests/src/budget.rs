//! What one completion may use: steps and bytes.
//!
//! The interpreter has a limit of time, for which it reads a clock, and one of memory, for which it trusts a count that the
//! allocator keeps. In the sandbox the clock counts its readings, a microsecond each, and the interpreter reads it every
//! 256 instructions, or 64 elements of a longer operation. There a time is a number of steps, and the same code stops at
//! the same place everywhere.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use monty_types::{BASELINE_MEMORY, LIVE_MEMORY, ResourceLimits, ResourceTracker};

/// What one completion may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) steps: u64,
    pub(crate) bytes: usize,
    pub(crate) recursion: usize,
}

/// Steps from one reading of the clock to the next.
const STEPS_PER_READING: u64 = 256;
/// Time from one reading to the next. Outside the sandbox, in unit tests, time is time: enough of it for their programs.
const READING: Duration = Duration::from_micros(if cfg!(target_family = "wasm") { 1 } else { 4 });
/// Bytes that may be allocated for each step, all together: one instruction can fill megabytes.
const BYTES_PER_STEP: u64 = 16;
/// More bytes than any limit: added to the count, they stop the interpreter where it looks next.
const STOP: usize = 1 << 30;

/// The counts of the interpreter are of the process, so one completion runs at a time.
static RUNNING: Mutex<()> = Mutex::new(());
/// Bytes that may still be allocated.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// There were no bytes left.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// The budget of one completion; ends with it.
pub(crate) struct Budget {
    limits: Limits,
    time: Duration,
    start: Instant,
    _running: MutexGuard<'static, ()>,
}

impl Budget {
    /// From here on, what is done counts.
    pub(crate) fn start(limits: &Limits) -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let readings = u32::try_from(limits.steps / STEPS_PER_READING).unwrap_or(u32::MAX);
        let bytes = limits.steps.saturating_mul(BYTES_PER_STEP);
        BASELINE_MEMORY.store(LIVE_MEMORY.load(Relaxed), Relaxed);
        LEFT.store(usize::try_from(bytes).unwrap_or(usize::MAX - 1).min(usize::MAX - 1), Relaxed);
        Self { limits: *limits, time: READING * readings, start: Instant::now(), _running: running }
    }

    /// The limits of one interpreter: what is left.
    pub(crate) fn tracker(&self) -> ResourceTracker {
        let limits = ResourceLimits::default().max_duration(self.time.saturating_sub(self.start.elapsed()));
        ResourceTracker::new(limits.max_memory(self.limits.bytes).max_recursion_depth(self.limits.recursion))
    }

    /// Whether nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        has_no_bytes_left() || self.start.elapsed() > self.time
    }
}

/// Whether the completion that runs allocated more than its steps stand for.
pub(crate) fn has_no_bytes_left() -> bool {
    STOPPED.load(Relaxed)
}

impl Drop for Budget {
    fn drop(&mut self) {
        LEFT.store(usize::MAX, Relaxed);
        if STOPPED.swap(false, Relaxed) {
            LIVE_MEMORY.fetch_sub(STOP, Relaxed);
        }
    }
}

struct Counting;

fn allocated(bytes: usize) {
    LIVE_MEMORY.fetch_add(bytes, Relaxed);
    let left = LEFT.load(Relaxed);
    if left == usize::MAX {
        return;
    }
    LEFT.store(left.saturating_sub(bytes), Relaxed);
    if left < bytes && !STOPPED.swap(true, Relaxed) {
        LIVE_MEMORY.fetch_add(STOP, Relaxed);
    }
}

fn freed(bytes: usize) {
    LIVE_MEMORY.fetch_sub(bytes, Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; beside that, it only counts.
#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        freed(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        freed(layout.size());
        allocated(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
