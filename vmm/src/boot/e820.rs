//! What a kernel is told at entry: the memory map and the zero page.

use std::ops::Range;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use tessera_abi::boot as at;
use tessera_abi::mmio;
use tessera_dsm::layout::Layout;

use super::image::{Kernel, HEADER_MAGIC};

/// "Undefined boot loader" (boot protocol, type_of_loader).
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
/// What an ELF kernel's zero page claims: the newest protocol whose fields are filled here.
const PROTOCOL: u16 = 0x20f;
/// CONFIG_PHYSICAL_ALIGN's usual value; a kernel that was entered by its ELF entry does not move any more.
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;

/// What a range of addresses is (e820 types, ACPI 6.5, 15.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Usable RAM.
    Ram = 1,
    /// To be left alone.
    Reserved = 2,
}

/// One range of the memory map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEntry {
    /// Guest-physical addresses.
    pub range: Range<u64>,
    /// What is there.
    pub kind: Kind,
}

/// The memory map of a guest: ascending, without overlap, neighbouring RAM of different nodes in one entry.
///
/// Reserved: the legacy area with the ACPI tables below 1 MiB, and in the hole below 4 GiB PCI's configuration
/// space and what KVM and the VMM keep for themselves.
pub fn map(layout: &Layout) -> Vec<MapEntry> {
    let mut ram: Vec<Range<u64>> = Vec::new();
    for region in layout.regions() {
        let (start, end) = (region.start.gpa(), region.end().gpa());
        match ram.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ram.push(start..end),
        }
    }
    let reserved = [
        at::LOW_RAM_END..at::LEGACY_END,
        mmio::ECAM..mmio::ECAM + mmio::ECAM_BYTES,
        mmio::PRIVATE..mmio::PRIVATE_END,
        mmio::IDENTITY_MAP..mmio::HOLE_END,
    ];
    let mut map: Vec<MapEntry> =
        reserved.iter().map(|range| MapEntry { range: range.clone(), kind: Kind::Reserved }).collect();
    for range in ram.into_iter().flat_map(|range| without_legacy(&range)) {
        map.push(MapEntry { range, kind: Kind::Ram });
    }
    map.sort_by_key(|entry| entry.range.start);
    map
}

/// `range` less the legacy area below 1 MiB.
fn without_legacy(range: &Range<u64>) -> Vec<Range<u64>> {
    let below = range.start..range.end.min(at::LOW_RAM_END);
    let above = range.start.max(at::LEGACY_END)..range.end;
    [below, above].into_iter().filter(|range| !range.is_empty()).collect()
}

/// The zero page for `kernel` (boot protocol, "struct boot_params"), with its command line of `cmdline_bytes`
/// bytes at its place.
pub(super) fn zero_page(
    layout: &Layout,
    kernel: &Kernel,
    initramfs: Option<&Range<u64>>,
    cmdline_bytes: usize,
) -> boot_params {
    let mut page = boot_params::default();
    match &kernel.header {
        Some(header) => page.hdr = **header,
        None => {
            page.hdr.boot_flag = BOOT_FLAG;
            page.hdr.header = HEADER_MAGIC;
            page.hdr.version = PROTOCOL;
            page.hdr.kernel_alignment = KERNEL_ALIGNMENT;
            page.hdr.cmdline_size = cmdline_bytes as u32;
        }
    }
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    (page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr) = halves(at::CMDLINE);
    if let Some(initramfs) = initramfs {
        (page.hdr.ramdisk_image, page.ext_ramdisk_image) = halves(initramfs.start);
        (page.hdr.ramdisk_size, page.ext_ramdisk_size) = halves(initramfs.end - initramfs.start);
    }
    page.acpi_rsdp_addr = at::ACPI;
    // At most 33 regions make at most 40 entries: the page has room for 128.
    let map = map(layout);
    let mut table = [boot_e820_entry { addr: 0, size: 0, r#type: 0 }; 128];
    for (slot, entry) in table.iter_mut().zip(&map) {
        let MapEntry { range, kind } = entry;
        *slot = boot_e820_entry { addr: range.start, size: range.end - range.start, r#type: *kind as u32 };
    }
    page.e820_table = table;
    page.e820_entries = map.len() as u8;
    page
}

/// The low and the high half.
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::super::memory::layout_with_shares;
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn check(layout: &Layout) -> Vec<MapEntry> {
        let map = map(layout);
        for pair in map.windows(2) {
            assert!(pair[0].range.end <= pair[1].range.start, "{pair:x?}");
        }
        assert!(map.iter().all(|entry| !entry.range.is_empty()));
        assert!(map.len() <= 128);
        let ram = map.iter().filter(|entry| entry.kind == Kind::Ram);
        let bytes: u64 = ram.map(|entry| entry.range.end - entry.range.start).sum();
        assert_eq!(bytes, layout.bytes() - (at::LEGACY_END - at::LOW_RAM_END), "all RAM but the legacy area");
        map
    }

    #[test]
    fn the_map_is_sorted_without_overlap_and_has_all_ram() {
        for shares in [&[2 * MIB][..], &[512 * MIB; 4], &[3 * GIB, GIB], &[GIB; 32], &[8 * GIB; 3]] {
            check(&layout_with_shares(shares).unwrap());
        }
    }

    #[test]
    fn the_map_of_a_guest_with_a_hole() {
        let map = check(&layout_with_shares(&[2 * GIB, 2 * GIB]).unwrap());
        let lines: Vec<(u64, u64, u32)> =
            map.iter().map(|entry| (entry.range.start, entry.range.end, entry.kind as u32)).collect();
        assert_eq!(
            lines,
            [
                (0, 0x9_fc00, 1),
                (0x9_fc00, 0x10_0000, 2),
                (0x10_0000, 3 * GIB, 1),
                (0xe000_0000, 0xe010_0000, 2),
                (0xfef0_0000, 0xff00_0000, 2),
                (0xfffb_c000, 4 * GIB, 2),
                (4 * GIB, 5 * GIB, 1),
            ]
        );
    }
}
