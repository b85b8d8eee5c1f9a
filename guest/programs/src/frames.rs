//! What the guest's kernel knows of its memory: words of its own, and what it uses page frames for. So that whoever
//! measures from outside can say what a page is.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::trouble::Trouble;

/// The kernel's memory as a core file (`fs/proc/kcore.c`).
const CORE: &str = "/proc/kcore";
/// One word of flags for each page frame (Documentation/admin-guide/mm/pagemap.rst).
const FLAGS: &str = "/proc/kpageflags";
/// Bytes of an ELF file header and of a program header (ELF-64 Object File Format).
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
/// A segment that is memory.
const PT_LOAD: u32 = 1;
/// The most that is asked for at once.
const ASKED_MAX: usize = 512;

/// A line of the shell: `ADDRESS COUNT`, the address in hexadecimal. The answer has as many words, in hexadecimal.
///
/// # Errors
/// When the line makes no sense, or the kernel does not show that memory.
pub fn words(line: &str) -> Result<String, Trouble> {
    let (address, count) = line.split_once(' ').ok_or_else(|| Trouble::order(line, "ADDRESS COUNT"))?;
    let address = hex(address)?;
    let count = count.trim().parse().ok().filter(|count| (1..=ASKED_MAX).contains(count));
    let count: usize = count.ok_or_else(|| Trouble::order(line, format!("1 to {ASKED_MAX} words")))?;
    let core = File::open(CORE).map_err(Trouble::os(CORE))?;
    let offset = place(&core, address)?;
    let mut bytes = vec![0; 8 * count];
    core.read_exact_at(&mut bytes, offset).map_err(Trouble::os(format!("{CORE} at {address:#x}")))?;
    Ok(listed(&bytes))
}

/// A line of the shell: page frame numbers in hexadecimal. The answer has the flags of each, in hexadecimal.
///
/// # Errors
/// When the line makes no sense, or there is no such frame.
pub fn flags(line: &str) -> Result<String, Trouble> {
    let frames: Vec<u64> = line.split_whitespace().take(ASKED_MAX).map(hex).collect::<Result<_, _>>()?;
    let file = File::open(FLAGS).map_err(Trouble::os(FLAGS))?;
    let mut bytes = Vec::new();
    for frame in frames {
        let mut word = [0; 8];
        let at = frame.checked_mul(8).ok_or_else(|| Trouble::order(line, "no page frame"))?;
        file.read_exact_at(&mut word, at).map_err(Trouble::os(format!("{FLAGS} of {frame:#x}")))?;
        // (A vector takes all that it is given.)
        let _ = bytes.write_all(&word);
    }
    Ok(listed(&bytes))
}

fn hex(text: &str) -> Result<u64, Trouble> {
    let digits = text.trim().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).map_err(|_| Trouble::order(text, "not a hexadecimal number"))
}

fn listed(bytes: &[u8]) -> String {
    let words = bytes.chunks_exact(8).map(|word| format!("{:x}", number(word, 0)));
    format!("{}\n", words.collect::<Vec<_>>().join(" "))
}

/// Where in the core file an address of the kernel is.
fn place(core: &File, address: u64) -> Result<u64, Trouble> {
    let mut header = [0; HEADER_BYTES];
    core.read_exact_at(&mut header, 0).map_err(Trouble::os(CORE))?;
    let (table, count) = (number(&header, 32), number(&header[..58], 56));
    let mut segments = vec![0; count as usize * SEGMENT_BYTES];
    core.read_exact_at(&mut segments, table).map_err(Trouble::os(format!("segments of {CORE}")))?;
    offset_in(&segments, address)
        .ok_or_else(|| Trouble::order(format!("{address:#x}"), "no memory of the kernel"))
}

/// Of a table of program headers: where the segment with this address has it.
fn offset_in(segments: &[u8], address: u64) -> Option<u64> {
    segments.chunks_exact(SEGMENT_BYTES).find_map(|segment| {
        let (offset, start, bytes) = (number(segment, 8), number(segment, 16), number(segment, 40));
        let inside = address.checked_sub(start).filter(|&inside| inside < bytes)?;
        (number(&segment[..4], 0) as u32 == PT_LOAD).then(|| offset.checked_add(inside)).flatten()
    })
}

/// The little-endian number of at most eight bytes that starts here.
fn number(bytes: &[u8], at: usize) -> u64 {
    let digits = bytes.iter().skip(at).take(8);
    digits.rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(kind: u32, offset: u64, start: u64, bytes: u64) -> Vec<u8> {
        let mut segment = vec![0; SEGMENT_BYTES];
        segment[..4].copy_from_slice(&kind.to_le_bytes());
        for (at, value) in [(8, offset), (16, start), (40, bytes)] {
            segment[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        segment
    }

    #[test]
    fn an_address_is_found_in_the_segment_that_has_it() {
        let text = 0xffff_ffff_8100_0000;
        let segments =
            [segment(4, 9, text, 100), segment(1, 0x2000, 0x1000, 0x100), segment(1, 0x5000, text, 0x100)];
        let segments = segments.concat();
        assert_eq!(offset_in(&segments, text + 8), Some(0x5008));
        assert_eq!(offset_in(&segments, 0x10ff), Some(0x20ff));
        assert_eq!(offset_in(&segments, 0x1100), None);
        assert_eq!(offset_in(&segments, 0xfff), None);
    }

    #[test]
    fn words_are_listed_in_hexadecimal() {
        assert_eq!(listed(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0, 0, 0, 0, 0, 0]), "1 ab00\n");
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        for line in ["", "x 1", "10", "10 0", "10 513"] {
            assert!(words(line).is_err(), "{line:?}");
        }
        assert!(flags("xyz").is_err());
    }
}
