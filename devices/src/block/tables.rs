//! Whether a qcow2 image has all of its tables (QEMU's docs/interop/qcow2.rst): one that is cut short would read zeros
//! where they are missing.

use std::io;
use std::os::unix::fs::FileExt;

use super::file::{OpenFile, QCOW2_MAGIC};

/// Bytes of the head that is looked at.
const HEAD_BYTES: usize = 72;
/// Least and most bits of a cluster's size.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Most bytes of an L1 table, as QEMU has it.
const L1_BYTES_MAX: u64 = 32 << 20;
/// In an entry of an L1 table: where the L2 table is.
const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn word(bytes: &[u8; HEAD_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8; HEAD_BYTES], at: usize) -> u64 {
    u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Checks that it is a qcow2 image and that its tables are inside its file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(open: &OpenFile) -> io::Result<()> {
    let mut head = [0; HEAD_BYTES];
    open.file.read_exact_at(&mut head, 0)?;
    if head[..4] != QCOW2_MAGIC {
        return Err(wrong("it is no qcow2 image"));
    }
    let cluster_bits = word(&head, 20);
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Err(wrong("its clusters have a size that cannot be"));
    }
    let cluster = 1u64 << cluster_bits;
    let inside = |offset: u64, bytes: u64| offset.checked_add(bytes).is_some_and(|end| end <= open.bytes);
    let l1 = (long(&head, 40), u64::from(word(&head, 36)) * 8);
    let references = (long(&head, 48), u64::from(word(&head, 56)) * cluster);
    if l1.1 > L1_BYTES_MAX {
        return Err(wrong("its table of tables is longer than one may be"));
    }
    if !inside(l1.0, l1.1) || !inside(references.0, references.1) {
        return Err(wrong("it is cut short"));
    }
    let mut table = vec![0; l1.1 as usize];
    open.file.read_exact_at(&mut table, l1.0)?;
    let (entries, _) = table.as_chunks::<8>();
    let mut tables = entries.iter().map(|entry| u64::from_be_bytes(*entry) & L2_OFFSET).filter(|&at| at != 0);
    match tables.all(|at| inside(at, cluster)) {
        true => Ok(()),
        false => Err(wrong("it is cut short")),
    }
}
