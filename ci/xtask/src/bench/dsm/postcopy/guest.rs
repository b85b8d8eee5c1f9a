//! The guest that QEMU migrates: a program of a few instructions that touches its memory at random and tells how long it had
//! to wait. Plain 32-bit code without paging, started by QEMU as a multiboot kernel (Multiboot Specification 0.6.96), so that
//! it runs wherever QEMU runs at all.
//!
//! It writes the number of each page, plus one, to the page; says [`READY`]; and then loads from all pages again and again, in an order
//! that no asking ahead follows (a linear congruential generator that comes to each page once a round). Of each load that took
//! longer than a threshold it prints [`WAITED`] and the time in ticks of the time-stamp counter, four bytes, lowest first, and then pauses, as
//! the payload does whose faults are measured beside it. It prints to port 0xe9. A page that does not hold what was written is [`WRONG`].

use std::time::Duration;

/// It has written all its pages.
pub const READY: u8 = b'R';
/// A load that waited: four bytes follow.
pub const WAITED: u8 = b'S';
/// A load saw a wrong value.
pub const WRONG: u8 = b'X';
/// Pages that are touched: 256 MiB. A power of two.
pub const PAGES: u32 = 1 << 16;
/// Memory that the guest needs, in MiB: the pages, what lies before them, and some more.
pub const MEMORY_MIB: u64 = 288;
/// Where the threshold and the pause stand in the image: behind the multiboot header.
const THRESHOLD_AT: usize = 32;
const PAUSE_AT: usize = 36;

std::arch::global_asm!(
    r#"
    .pushsection .rodata.postcopy_guest, "a", @progbits
    .balign 4
    .global postcopy_guest_start
    .global postcopy_guest_end
    .set postcopy_base, 0x100000
postcopy_guest_start:
    // Magic; flags: addresses follow; checksum; where the header is, load, end of load (all), end of bss (none), entry.
    .long 0x1badb002
    .long 0x00010000
    .long -(0x1badb002 + 0x00010000)
    .long postcopy_base
    .long postcopy_base
    .long 0
    .long 0
    .long postcopy_base + (20f - postcopy_guest_start)
    // The threshold and the pause, to be put in.
    .long 0
    .long 0
    .code32
20:
    cli
    cld
    // Every page gets its number plus one, from 16 MiB on.
    mov edi, 0x1000000
    xor ecx, ecx
21: inc ecx
    mov [edi], ecx
    add edi, 4096
    cmp ecx, {pages}
    jne 21b
    mov al, {ready}
    out 0xe9, al
    xor esi, esi
22: // The next page: each once in a round, since the factor is one more than a multiple of four and the summand is odd.
    imul esi, esi, 1664525
    add esi, 12345
    and esi, {pages} - 1
    mov edi, esi
    shl edi, 12
    add edi, 0x1000000
    rdtsc
    mov ebx, eax
    mov ebp, [edi]
    rdtsc
    sub eax, ebx
    dec ebp
    cmp ebp, esi
    jne 24f
    cmp eax, dword ptr [postcopy_base + {threshold}]
    jbe 22b
    mov ebx, eax
    mov al, {waited}
    out 0xe9, al
    mov ecx, 4
23: mov al, bl
    out 0xe9, al
    shr ebx, 8
    dec ecx
    jnz 23b
    rdtsc
    mov ebx, eax
26: rdtsc
    sub eax, ebx
    cmp eax, dword ptr [postcopy_base + {pause}]
    jb 26b
    jmp 22b
24: mov al, {wrong}
    out 0xe9, al
25: hlt
    jmp 25b
postcopy_guest_end:
    .code64
    .popsection
    "#,
    pages = const PAGES,
    ready = const READY,
    waited = const WAITED,
    wrong = const WRONG,
    threshold = const THRESHOLD_AT,
    pause = const PAUSE_AT,
);

extern "C" {
    static postcopy_guest_start: u8;
    static postcopy_guest_end: u8;
}

/// The kernel image; loads that take longer than `threshold` are told, and `pause` follows them. `tsc_khz` is the frequency of
/// the time-stamp counter.
pub fn image(threshold: Duration, pause: Duration, tsc_khz: u64) -> Vec<u8> {
    // SAFETY: both symbols are in one section of constants, the end not before the start; nothing writes there.
    let code = unsafe {
        let start: *const u8 = &raw const postcopy_guest_start;
        let bytes = (&raw const postcopy_guest_end).offset_from_unsigned(start);
        std::slice::from_raw_parts(start, bytes)
    };
    let mut image = code.to_vec();
    for (at, span) in [(THRESHOLD_AT, threshold), (PAUSE_AT, pause)] {
        let ticks = u32::try_from(span.as_micros() as u64 * tsc_khz / 1000).unwrap_or(u32::MAX);
        image[at..at + 4].copy_from_slice(&ticks.to_le_bytes());
    }
    image
}

/// What the guest has printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Waits in nanoseconds.
    pub waits_ns: Vec<u64>,
    /// Whether it saw a wrong value.
    pub wrong: bool,
}

/// Reads what a guest has printed since the start or since a migration; an incomplete end is left out.
pub fn read(printed: &[u8], tsc_khz: u64) -> Said {
    let mut said = Said::default();
    let mut rest = printed;
    while let Some((&word, more)) = rest.split_first() {
        rest = match (word, more.split_first_chunk::<4>()) {
            (WAITED, Some((ticks, after))) => {
                let ticks = u64::from(u32::from_le_bytes(*ticks));
                said.waits_ns.push(ticks * 1_000_000 / tsc_khz.max(1));
                after
            }
            (WAITED, None) => break,
            (WRONG, _) => {
                said.wrong = true;
                break;
            }
            _ => more,
        };
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_a_multiboot_kernel_with_the_threshold() {
        let image = image(Duration::from_micros(20), Duration::from_micros(100), 2_000_000);
        let word = |at: usize| u32::from_le_bytes(*image[at..].first_chunk().unwrap());
        assert_eq!(word(0), 0x1bad_b002);
        assert_eq!(word(0).wrapping_add(word(4)).wrapping_add(word(8)), 0);
        assert_eq!((word(12), word(28)), (0x10_0000, 0x10_0000 + PAUSE_AT as u32 + 4));
        assert_eq!((word(THRESHOLD_AT), word(PAUSE_AT)), (40_000, 200_000));
        assert!(image.len() > 100 && image.len() < 512, "{} bytes", image.len());
    }

    #[test]
    fn every_page_is_touched_once_in_a_round() {
        let mut seen = vec![false; PAGES as usize];
        let mut page = 0_u32;
        for _ in 0..PAGES {
            page = page.wrapping_mul(1_664_525).wrapping_add(12_345) & (PAGES - 1);
            assert!(!std::mem::replace(&mut seen[page as usize], true), "page {page} comes twice");
        }
    }

    #[test]
    fn what_a_guest_prints_is_read_and_a_wrong_value_is_seen() {
        // A time of 0x58 looks like the word for a wrong value.
        let printed = [b'R', b'S', 0x58, 0, 0, 0, b'S', 0, 1, 0, 0, b'S', 9];
        assert_eq!(read(&printed, 1_000_000), Said { waits_ns: vec![0x58, 256], wrong: false });
        assert!(read(b"SabcdX", 1_000_000).wrong);
        assert_eq!(read(b"", 0), Said::default());
    }
}
