//! Copying into shared memory, and out of it while a foreign process may be changing it.
//!
//! A plain `memcpy` promises the compiler that nobody else writes the source; here somebody may.
//! On x86-64 the loads are inline assembly, opaque to the optimiser, so the shared bytes are
//! never part of the abstract machine; elsewhere they are volatile loads. The source may be torn
//! and that is the caller's business; it is never undefined behaviour.
//! The thresholds come from `docs/measurements.md` (hostile-safe copy, best of nine rounds).

/// Up to this size a loop of 32-byte loads beats microcode (`rep movsb`), in bytes: by a tenth to a
/// quarter where the lines come from another core, by nothing at its end where they are in this
/// one's cache. Beyond it the loop loses a quarter in this core's cache.
#[cfg(target_arch = "x86_64")]
const BY_32_MAX: usize = 8192;
/// The same against a loop of 16-byte loads, for processors without AVX.
#[cfg(target_arch = "x86_64")]
const REP_MOVSB_FROM_WITHOUT_AVX: usize = 1280;
/// A cache line, in bytes.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;
/// Up to this size, straight code of which only the loads are assembly, in bytes.
#[cfg(target_arch = "x86_64")]
const SHORT_MAX: usize = 64;

/// From this size on, a copy into shared memory is microcode as well, in bytes.
///
/// It does not fetch the lines that it overwrites whole, which between cores without a common cache
/// is nearly all of the time: there 1 MiB streams at 29 GB/s instead of 6 (`docs/measurements.md`).
#[cfg(target_arch = "x86_64")]
const REP_MOVSB_INTO_FROM: usize = 4096;

/// Copies `len` bytes from private memory to shared memory of which this process is the writer.
///
/// # Safety
/// - `source..source + len` is valid for reads, and nobody writes it during the call.
/// - `target..target + len` is mapped writable, no reference to it exists, and does not overlap.
#[inline(always)]
pub(crate) unsafe fn copy_to_shared(source: *const u8, target: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= REP_MOVSB_INTO_FROM {
        // SAFETY: as in `copy_from_shared`; both ranges are the caller's promise.
        unsafe {
            std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") source => _,
                inout("rdi") target => _, options(nostack, preserves_flags));
        }
        return;
    }
    // SAFETY: the caller's promise, handed on unchanged.
    unsafe { std::ptr::copy_nonoverlapping(source, target, len) }
}

/// As [`copy_to_shared`], past this core's caches to where a far reader fetches from. Other stores
/// of this thread may be seen before or after these, whatever their order: [`drain`] is the border.
///
/// # Safety
/// As [`copy_to_shared`].
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn copy_past_caches(source: *const u8, target: *mut u8, len: usize) {
    // Stores past the caches fill whole lines, or are slow.
    let head = target.align_offset(LINE).min(len);
    let body = (len - head) / LINE * LINE;
    // SAFETY:
    // - head, body and tail divide `len`, so that all of them lie in the caller's ranges;
    // - `movntdq` wants its target at a multiple of 16: the body starts at a multiple of 64, and
    //   the loop, which is not entered for an empty body, goes on by 64;
    // - loads are unaligned, so the source's alignment is no precondition;
    // - every x86-64 processor has SSE2.
    unsafe {
        std::ptr::copy_nonoverlapping(source, target, head);
        if body > 0 {
            std::arch::asm!(
                "2:",
                "movups {a}, [{s} + {i}]",
                "movups {b}, [{s} + {i} + 16]",
                "movups {c}, [{s} + {i} + 32]",
                "movups {d}, [{s} + {i} + 48]",
                "movntdq [{t} + {i}], {a}",
                "movntdq [{t} + {i} + 16], {b}",
                "movntdq [{t} + {i} + 32], {c}",
                "movntdq [{t} + {i} + 48], {d}",
                "add {i}, 64",
                "jnz 2b",
                i = inout(reg) body.wrapping_neg() => _,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                s = in(reg) source.add(head + body), t = in(reg) target.add(head + body),
                options(nostack)
            );
        }
        let done = head + body;
        std::ptr::copy_nonoverlapping(source.add(done), target.add(done), len - done);
    }
}

/// As [`copy_to_shared`]: this processor has one way.
///
/// # Safety
/// As [`copy_to_shared`].
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn copy_past_caches(source: *const u8, target: *mut u8, len: usize) {
    // SAFETY: the caller's promise, handed on unchanged.
    unsafe { copy_to_shared(source, target, len) }
}

/// Orders all earlier stores, those of [`copy_past_caches`] as well, before all later ones.
pub(crate) fn drain() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE, and the instruction changes nothing.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Copies `len` bytes from shared memory to private memory.
///
/// # Safety
/// - `source..source + len` is mapped readable, and stays so during the call, whatever others do.
/// - `target..target + len` is valid for writes, private to the caller, and does not overlap.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn copy_from_shared(source: *const u8, target: *mut u8, len: usize) {
    use std::arch::asm;
    if len <= SHORT_MAX {
        // SAFETY: the caller's promise, handed on unchanged; `len <= SHORT_MAX` holds here.
        unsafe { copy_short(source, target, len) }
    } else if len <= BY_32_MAX && is_x86_feature_detected!("avx") {
        // SAFETY: the caller's promise; there are more than 64 bytes, and the processor has AVX.
        unsafe { copy_by_32(source, target, len) }
    } else if len >= REP_MOVSB_FROM_WITHOUT_AVX {
        // SAFETY:
        // - both ranges are valid for `len` bytes and do not overlap: the caller's promise;
        // - the direction flag is clear at function boundaries by the platform's ABI;
        // - the three registers are declared as changed, memory is assumed changed by default.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rsi") source => _,
                inout("rdi") target => _, options(nostack, preserves_flags));
        }
    } else {
        // SAFETY:
        // - the loop touches 16 bytes at 0, 16, … below `len - 16`, then the last 16 bytes; with
        //   `len >= 16` both lie inside the ranges that the caller vouched for;
        // - unaligned moves are used, so alignment is no precondition.
        unsafe {
            asm!(
                "xor {i:e}, {i:e}",
                "2:",
                "movups {x}, [{s} + {i}]",
                "movups [{t} + {i}], {x}",
                "add {i}, 16",
                "cmp {i}, {last}",
                "jb 2b",
                "movups {x}, [{s} + {last}]",
                "movups [{t} + {last}], {x}",
                i = out(reg) _, x = out(xmm_reg) _,
                s = in(reg) source, t = in(reg) target, last = in(reg) len - 16,
                options(nostack)
            );
        }
    }
}

/// Copies more than 64 bytes by 128 at a time.
///
/// # Safety
/// As [`copy_from_shared`], and `len > 64`; the processor has AVX.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_by_32(source: *const u8, target: *mut u8, len: usize) {
    // SAFETY:
    // - up to 128 bytes are the first 64 and the last 64, which with `len > 64` lie inside the
    //   ranges that the caller vouched for;
    // - of more, the loop touches 128 bytes at 0, 128, … below `len - 128`, then the last 128: they
    //   lie inside, too;
    // - unaligned moves are used, so alignment is no precondition;
    // - the processor has AVX, by the caller's promise; the upper halves of the registers are
    //   cleared at the end, as code without AVX expects them.
    unsafe {
        std::arch::asm!(
            "sub {last}, 128",
            "jbe 3f",
            "xor {i:e}, {i:e}",
            "2:",
            "vmovups ymm0, [{s} + {i}]",
            "vmovups ymm1, [{s} + {i} + 32]",
            "vmovups ymm2, [{s} + {i} + 64]",
            "vmovups ymm3, [{s} + {i} + 96]",
            "vmovups [{t} + {i}], ymm0",
            "vmovups [{t} + {i} + 32], ymm1",
            "vmovups [{t} + {i} + 64], ymm2",
            "vmovups [{t} + {i} + 96], ymm3",
            "add {i}, 128",
            "cmp {i}, {last}",
            "jb 2b",
            "vmovups ymm0, [{s} + {last}]",
            "vmovups ymm1, [{s} + {last} + 32]",
            "vmovups [{t} + {last}], ymm0",
            "vmovups [{t} + {last} + 32], ymm1",
            "jmp 4f",
            "3:",
            "vmovups ymm0, [{s}]",
            "vmovups ymm1, [{s} + 32]",
            "vmovups [{t}], ymm0",
            "vmovups [{t} + 32], ymm1",
            "4:",
            "vmovups ymm0, [{s} + {last} + 64]",
            "vmovups ymm1, [{s} + {last} + 96]",
            "vmovups [{t} + {last} + 64], ymm0",
            "vmovups [{t} + {last} + 96], ymm1",
            "vzeroupper",
            i = out(reg) _, s = in(reg) source, t = in(reg) target, last = inout(reg) len => _,
            // All vector registers: `vzeroupper` changes the upper halves of each.
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
            out("xmm15") _,
            options(nostack)
        );
    }
}

/// Copies a few bytes in pieces of 16, 8, 4, 2 and 1 that do not overlap.
///
/// The stores are the compiler's, so that a copy of a known length may stay in registers, and a
/// later load of what one store wrote is forwarded from it.
///
/// # Safety
/// As [`copy_from_shared`], and `len <= SHORT_MAX`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_short(source: *const u8, target: *mut u8, len: usize) {
    use std::arch::asm;
    use std::arch::x86_64::__m128i;
    let mut at = 0;
    // SAFETY:
    // - each piece is taken only where `len` has that many bytes left from `at` on, so that both
    //   addresses stay inside their ranges;
    // - loads and stores are unaligned, so alignment is no precondition.
    unsafe {
        while len - at >= 16 {
            let piece: __m128i;
            asm!("movups {x}, [{s}]", x = out(xmm_reg) piece, s = in(reg) source.add(at),
                options(nostack, preserves_flags, readonly));
            target.add(at).cast::<__m128i>().write_unaligned(piece);
            at += 16;
        }
        if len & 8 != 0 {
            let piece: u64;
            asm!("mov {x}, qword ptr [{s}]", x = out(reg) piece, s = in(reg) source.add(at),
                options(nostack, preserves_flags, readonly));
            target.add(at).cast::<u64>().write_unaligned(piece);
            at += 8;
        }
        if len & 4 != 0 {
            let piece: u32;
            asm!("mov {x:e}, dword ptr [{s}]", x = out(reg) piece, s = in(reg) source.add(at),
                options(nostack, preserves_flags, readonly));
            target.add(at).cast::<u32>().write_unaligned(piece);
            at += 4;
        }
        if len & 2 != 0 {
            let piece: u16;
            asm!("mov {x:x}, word ptr [{s}]", x = out(reg) piece, s = in(reg) source.add(at),
                options(nostack, preserves_flags, readonly));
            target.add(at).cast::<u16>().write_unaligned(piece);
            at += 2;
        }
        if len & 1 != 0 {
            let piece: u8;
            asm!("mov {x}, byte ptr [{s}]", x = out(reg_byte) piece, s = in(reg) source.add(at),
                options(nostack, preserves_flags, readonly));
            target.add(at).write(piece);
        }
    }
}

/// Loads 16 bytes into a register, in the encoding of the code around it: where that is compiled
/// for AVX, older encodings among it wait for the upper halves of registers.
#[cfg(all(target_arch = "x86_64", target_feature = "avx"))]
macro_rules! load_16 {
    () => {
        "vmovups"
    };
}
#[cfg(all(target_arch = "x86_64", not(target_feature = "avx")))]
macro_rules! load_16 {
    () => {
        "movups"
    };
}

/// The little-endian words of 64 bytes of shared memory, from registers: where they are looked at
/// once, nothing waits for a store, and whoever looks at all of them alike does so by vectors.
///
/// # Safety
/// `source..source + 64` is mapped readable, and stays so during the call, whatever others do.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn line_from_shared(source: *const u8) -> [u64; 8] {
    use std::arch::x86_64::__m128i;
    let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
    // SAFETY:
    // - four loads of 16 bytes are the 64 that the caller vouched for;
    // - they are unaligned, so alignment is no precondition; every x86-64 processor has SSE2, and
    //   those that a program is compiled for with AVX have that;
    // - integers of either size have no padding and no bit pattern that they must not have.
    unsafe {
        std::arch::asm!(
            concat!(load_16!(), " {a}, [{s}]"),
            concat!(load_16!(), " {b}, [{s} + 16]"),
            concat!(load_16!(), " {c}, [{s} + 32]"),
            concat!(load_16!(), " {d}, [{s} + 48]"),
            a = out(xmm_reg) a, b = out(xmm_reg) b, c = out(xmm_reg) c, d = out(xmm_reg) d,
            s = in(reg) source, options(nostack, preserves_flags, readonly)
        );
        std::mem::transmute([a, b, c, d])
    }
}

/// The little-endian words of 64 bytes of shared memory.
///
/// # Safety
/// `source..source + 64` is mapped readable, and stays so during the call, whatever others do.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn line_from_shared(source: *const u8) -> [u64; 8] {
    let mut line = [0; 64];
    // SAFETY: 64 bytes are what the caller vouched for; the target is private.
    unsafe { copy_from_shared(source, line.as_mut_ptr(), line.len()) };
    crate::memory::words(line)
}

/// Copies `len` bytes from shared memory to private memory, by volatile loads.
///
/// # Safety
/// - `source..source + len` is mapped readable, and stays so during the call, whatever others do.
/// - `target..target + len` is valid for writes, private to the caller, and does not overlap.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn copy_from_shared(source: *const u8, target: *mut u8, len: usize) {
    let mut done = 0;
    while done < len {
        // SAFETY: `done < len`, so each pointer stays inside its range; a word is only read where
        // the source is aligned for it and eight bytes are left.
        unsafe {
            let (from, to) = (source.add(done), target.add(done));
            if from.addr() % 8 == 0 && len - done >= 8 {
                to.cast::<u64>().write_unaligned(from.cast::<u64>().read_volatile());
                done += 8;
            } else {
                to.write(from.read_volatile());
                done += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_copies_exactly_its_bytes() {
        let source: Vec<u8> = (0..8300u32).map(|i| (i * 31 % 251) as u8).collect();
        for len in (0..520).chain([1000, 1024, 1279, 1280, 1281, 4095, 4096, 5001, 8192, 8193]) {
            for shift in [0, 1, 7, 8, 13] {
                let mut target = vec![0xa5u8; len + 32];
                // SAFETY: both ranges lie inside their vectors and the vectors are distinct.
                unsafe {
                    copy_from_shared(source[shift..].as_ptr(), target[16..].as_mut_ptr(), len)
                };
                assert_eq!(target[16..16 + len], source[shift..shift + len]);
                assert!(target[..16].iter().chain(&target[16 + len..]).all(|&b| b == 0xa5));
                for at in (0..len).step_by(64).filter(|at| at + 64 <= len) {
                    // SAFETY: the line lies inside the source.
                    let line = unsafe { line_from_shared(source[shift + at..].as_ptr()) };
                    assert_eq!(line.map(u64::to_le_bytes).concat(), target[16 + at..][..64]);
                }
                let mut target = vec![0xa5u8; len + 32];
                // SAFETY: likewise.
                unsafe { copy_to_shared(source[shift..].as_ptr(), target[16..].as_mut_ptr(), len) };
                assert_eq!(target[16..16 + len], source[shift..shift + len]);
                assert!(target[..16].iter().chain(&target[16 + len..]).all(|&b| b == 0xa5));
                let mut target = vec![0xa5u8; len + 100];
                let at = 16 + shift;
                // SAFETY: likewise.
                unsafe { copy_past_caches(source.as_ptr(), target[at..].as_mut_ptr(), len) };
                drain();
                assert_eq!(target[at..at + len], source[..len]);
                assert!(target[..at].iter().chain(&target[at + len..]).all(|&b| b == 0xa5));
            }
        }
    }
}
