//! The matrix unit itself: permission, configuration, and the one inner loop. Rust has no stable intrinsics for AMX, so
//! this is assembly.
//!
//! Eight tiles: 0 to 3 hold a 32 x 32 block of C, 4 and 5 two tiles of A, 6 and 7 two of B.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
use std::cell::UnsafeCell;

use super::pack::{PANEL, Step};

/// Inner elements of one tile.
pub(super) const KC: usize = 32;

/// `XFEATURE_XTILEDATA` of Linux.
const TILE_DATA: libc::c_long = 18;
const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;

/// Looks for the instructions, and asks Linux to let this process use the tiles.
pub(super) fn ask_for_permission() -> bool {
    if !std::arch::is_x86_feature_detected!("avx512bf16")
        || !std::arch::is_x86_feature_detected!("avx512bw")
        || !std::arch::is_x86_feature_detected!("avx512vl")
        || !std::arch::is_x86_feature_detected!("avx512dq")
        || __get_cpuid_max(0).0 < 7
    {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    let (bf16, tile) = (features >> 22 & 1 == 1, features >> 24 & 1 == 1);
    if !(bf16 && tile) {
        return false;
    }
    // SAFETY: the call only changes what this process may use.
    cfg!(target_os = "linux") && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0
}

/// What `ldtilecfg` reads (Intel SDM, volume 1, chapter 18).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    columns: [u16; 16],
    rows: [u8; 16],
}

/// The unit, configured for this thread until dropped.
pub(super) struct Tiles {
    /// Where stores go that only keep the unit's way to memory open.
    idle: UnsafeCell<Tile>,
}

/// A tile in memory.
#[repr(align(64))]
struct Tile(#[expect(dead_code, reason = "written to, never read")] [u8; 1024]);

impl Tiles {
    /// # Safety
    /// [`ask_for_permission`] was granted.
    pub(super) unsafe fn configure() -> Self {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], columns: [0; 16], rows: [0; 16] };
        configuration.columns[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: the configuration is one that the unit has.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Self { idle: UnsafeCell::new(Tile([0; 1024])) }
    }

    /// `C = A * B + beta * C` for `height` x `width` elements of C, and as many steps of B as there are of A.
    /// `next` is the block of C that comes next: it is fetched meanwhile, and any address will do.
    ///
    /// # Safety
    /// `c` is valid for `height` rows of `width`, `ldc` apart.
    pub(super) unsafe fn multiply(
        &self,
        a: &[Step],
        b: &[Step],
        c: *mut f32,
        ldc: usize,
        height: usize,
        width: usize,
        beta: f32,
        next: *const f32,
    ) {
        assert_eq!(a.len(), b.len(), "both have the same inner length");
        #[expect(clippy::float_cmp, reason = "0 and 1 are exact settings, not computed values")]
        let in_place = height == PANEL && width == PANEL && (beta == 0.0 || beta == 1.0);
        if in_place {
            // SAFETY: all of the block is there.
            unsafe { self.whole(a, b, c, 4 * ldc, beta != 0.0, next) };
            return;
        }
        let mut whole = Whole([0.0; PANEL * PANEL]);
        // SAFETY: the block in memory of our own is whole.
        unsafe { self.whole(a, b, whole.0.as_mut_ptr(), 4 * PANEL, false, next) };
        for row in 0..height {
            // SAFETY: a row of the width that the caller promises.
            let target = unsafe { std::slice::from_raw_parts_mut(c.add(row * ldc), width) };
            let source = &whole.0[row * PANEL..][..width];
            if beta == 0.0 {
                // What C held is not looked at where it counts nothing: it may be NaN.
                target.copy_from_slice(source);
            } else {
                for (target, source) in target.iter_mut().zip(source) {
                    *target = beta * *target + source;
                }
            }
        }
    }

    /// # Safety
    /// As for [`multiply`](Self::multiply), with all 32 rows of 32 elements of C there, and the unit configured.
    unsafe fn whole(&self, a: &[Step], b: &[Step], c: *mut f32, ldc_bytes: usize, load: bool, next: *const f32) {
        // SAFETY: tiles are configured; the loop reads `count` steps of six tiles from `a` and `b`, and reads and writes
        // 32 rows of 128 bytes from `c`, as the caller promises.
        unsafe {
            asm!(
                "test {load:e}, {load:e}",
                "jz 2f",
                "tileloadd tmm0, [{c} + {ldc} * 1]",
                "tileloadd tmm1, [{c} + {ldc} * 1 + 64]",
                "tileloadd tmm2, [{c2} + {ldc} * 1]",
                "tileloadd tmm3, [{c2} + {ldc} * 1 + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                // Two rows of the next block of C a step.
                "prefetchw [{next}]",
                "prefetchw [{next} + 64]",
                "prefetchw [{next} + {ldc} * 1]",
                "prefetchw [{next} + {ldc} * 1 + 64]",
                "lea {next}, [{next} + {ldc} * 2]",
                // First parts of A against all three parts of B.
                "tileloadd tmm4, [{a} + {s} * 1]",
                "tileloadd tmm6, [{b} + {s} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {s} * 1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {s} * 1 + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {s} * 1 + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {s} * 1 + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {s} * 1 + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {s} * 1 + 5120]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // Second parts of A against the first two of B.
                "tileloadd tmm4, [{a} + {s} * 1 + 2048]",
                "tileloadd tmm6, [{b} + {s} * 1 + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {s} * 1 + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {s} * 1 + 3072]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm6, [{b} + {s} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {s} * 1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // Third parts of A against the first of B.
                "tileloadd tmm4, [{a} + {s} * 1 + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {s} * 1 + 5120]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, {step}",
                "add {b}, {step}",
                "dec {count}",
                "jz 4f",
                "test {count}, 3",
                "jnz 3b",
                // Any tile, to nowhere. Where the last store of a tile is 0.8 microseconds ago, the next one takes 0.25
                // longer (measured on Granite Rapids): it would be paid for each block of C.
                "tilestored [{idle} + {s} * 1], tmm4",
                "jmp 3b",
                "4:",
                "tilestored [{c} + {ldc} * 1], tmm0",
                "tilestored [{c} + {ldc} * 1 + 64], tmm1",
                "tilestored [{c2} + {ldc} * 1], tmm2",
                "tilestored [{c2} + {ldc} * 1 + 64], tmm3",
                load = in(reg) u32::from(load),
                c = in(reg) c,
                c2 = in(reg) c.cast::<u8>().add(16 * ldc_bytes),
                ldc = in(reg) ldc_bytes,
                next = inout(reg) next => _,
                s = in(reg) 64usize,
                step = const size_of::<Step>(),
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                count = inout(reg) a.len() => _,
                idle = in(reg) self.idle.get(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: releases what `configure` set; nothing of this thread is in the tiles any more.
        unsafe { asm!("tilerelease", out("tmm0") _, options(nostack, nomem)) };
    }
}

/// A block of C of our own.
#[repr(align(64))]
struct Whole([f32; PANEL * PANEL]);
