//! Ways to store that the language has no words for: one instruction of microcode, stores that go
//! past the caches, and the write-back of lines that were written in place.
//!
//! For `laneway-bench copies` only. Where the processor has none of them, there is no function.

/// Copies `source` over `target`; of different lengths, as much as the shorter one has.
pub(crate) type Copy = fn(target: &mut [u8], source: &[u8]);

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __cpuid_count, __get_cpuid_max, __m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128,
    };

    /// Bytes of a store that goes past the caches, which must lie at a multiple of it.
    const STORE: usize = 16;
    /// Bytes of a cache line.
    const LINE: usize = 64;
    /// The bit of leaf 7 in EBX that stands for `clwb`.
    const CLWB: u32 = 1 << 24;

    pub(super) fn rep_movsb(target: &mut [u8], source: &[u8]) {
        let count = target.len().min(source.len());
        // SAFETY: both regions have `count` bytes at least, the one may be written and the other
        // read for as long as the borrows last, and they do not overlap, because one of them is
        // borrowed for writing. The direction flag is clear whenever Rust code runs. The
        // instruction leaves all three registers changed, which the operands say, and touches
        // neither stack nor flags.
        unsafe {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") target.as_mut_ptr() => _,
                inout("rsi") source.as_ptr() => _, options(nostack, preserves_flags));
        }
    }

    pub(super) fn non_temporal(target: &mut [u8], source: &[u8]) {
        let count = target.len().min(source.len());
        let (target, source) = (&mut target[..count], &source[..count]);
        let head = target.as_ptr().align_offset(STORE).min(count);
        let (front, target) = target.split_at_mut(head);
        let (first, source) = source.split_at(head);
        front.copy_from_slice(first);
        let (stores, rest) = target.as_chunks_mut::<STORE>();
        let (loads, last) = source.as_chunks::<STORE>();
        for (store, load) in stores.iter_mut().zip(loads) {
            // SAFETY: every x86-64 processor has SSE2. `load` has 16 bytes that may be read at any
            // alignment. `store` has 16 bytes that may be written, and lies at a multiple of 16:
            // the first does because `head` bytes were split off, or there is none, and the others
            // follow it without a gap.
            unsafe {
                let bytes = _mm_loadu_si128(load.as_ptr().cast::<__m128i>());
                _mm_stream_si128(store.as_mut_ptr().cast::<__m128i>(), bytes);
            }
        }
        rest.copy_from_slice(last);
        fence();
    }

    /// Whether this processor can write a line back and keep it.
    pub(super) fn can_write_back() -> bool {
        __get_cpuid_max(0).0 >= 7 && __cpuid_count(7, 0).ebx & CLWB != 0
    }

    /// Wants [`can_write_back`].
    pub(super) fn write_back(bytes: &[u8]) {
        // The first byte of every line but the first is a multiple of a line away from its start.
        let lead = bytes.as_ptr().align_offset(LINE);
        let rest = bytes.get(lead..).unwrap_or_default();
        let first = bytes.first().into_iter();
        for byte in first.chain(rest.iter().step_by(LINE)) {
            // SAFETY: the only caller has asked `can_write_back`. The address is that of a byte
            // that may be read, and the instruction changes no byte, no flag and no stack.
            unsafe {
                asm!("clwb [{}]", in(reg) byte, options(nostack, preserves_flags));
            }
        }
        fence();
    }

    /// Lets what was stored past the order of stores be seen before whatever follows.
    fn fence() {
        // SAFETY: every x86-64 processor has SSE, and the instruction changes nothing.
        unsafe { _mm_sfence() }
    }
}

/// A copy by `rep movsb`.
pub(crate) fn rep_movsb() -> Option<Copy> {
    #[cfg(target_arch = "x86_64")]
    return Some(x86_64::rep_movsb);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// A copy by stores that go past the caches.
pub(crate) fn non_temporal() -> Option<Copy> {
    #[cfg(target_arch = "x86_64")]
    return Some(x86_64::non_temporal);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Writes every line of what was written back to memory, and keeps it.
pub(crate) fn write_back() -> Option<fn(&[u8])> {
    #[cfg(target_arch = "x86_64")]
    return x86_64::can_write_back().then_some(x86_64::write_back);
    #[cfg(not(target_arch = "x86_64"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_copies_every_byte_at_every_alignment_and_no_other() {
        let copies = [rep_movsb(), non_temporal()].into_iter().flatten();
        let source: Vec<u8> = (0..=255).cycle().take(300).collect();
        for copy in copies {
            for start in 0..20 {
                for len in [0, 1, 15, 16, 17, 64, 200] {
                    let mut target = vec![0xEE; 300];
                    copy(&mut target[start..start + len], &source[7..7 + len]);
                    let (before, rest) = target.split_at(start);
                    let (inside, after) = rest.split_at(len);
                    assert_eq!(inside, &source[7..7 + len], "{start} {len}");
                    assert!(before.iter().chain(after).all(|byte| *byte == 0xEE));
                }
            }
        }
    }

    #[test]
    fn of_two_lengths_the_shorter_one_is_copied() {
        for copy in [rep_movsb(), non_temporal()].into_iter().flatten() {
            let mut target = [0; 40];
            copy(&mut target, &[1; 33]);
            assert_eq!((target[32], target[33]), (1, 0));
            copy(&mut target[..2], &[2; 33]);
            assert_eq!(target[..3], [2, 2, 1]);
        }
    }

    #[test]
    fn lines_that_are_written_back_keep_their_bytes() {
        let Some(write_back) = write_back() else {
            println!("SKIPPED: this processor cannot write a line back and keep it");
            return;
        };
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for range in [0..1000, 3..4, 5..5, 1..999] {
            write_back(&bytes[range]);
        }
        assert!(bytes.iter().zip((0..=255).cycle()).all(|(found, expected)| *found == expected));
    }
}
