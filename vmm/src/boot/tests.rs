//! Whole loads, with kernels made here.

use std::fs::File;
use std::io::Write;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use tessera_dsm::ids::PAGE_BYTES;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::*;

const MIB: u64 = 1 << 20;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn memory(layout: &Layout) -> GuestMemoryMmap {
    let ranges: Vec<(GuestAddress, usize)> = layout
        .regions()
        .iter()
        .map(|region| (GuestAddress(region.start.gpa()), region.pages as usize * PAGE_BYTES))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

/// A bzImage with nothing but its headers and a recognisable body.
fn bzimage(body: usize) -> Vec<u8> {
    let header = setup_header {
        setup_sects: 1,
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x20f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        xloadflags: 0b11,
        cmdline_size: 2047,
        pref_address: 16 * MIB,
        init_size: 20 * MIB as u32,
        relocatable_kernel: 1,
        ..Default::default()
    };
    let mut image = vec![0; 1024];
    image[0x1f1..0x1f1 + header.as_slice().len()].copy_from_slice(header.as_slice());
    image.resize(1024 + body, 0x5a);
    image
}

/// A static ELF64 executable of one segment.
pub(super) fn elf(address: u64, code: &[u8], memory_bytes: u64) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for value in [address, 64, 0] {
        image.extend(value.to_le_bytes());
    }
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    image.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for value in [120, address, address, code.len() as u64, memory_bytes, 0x1000] {
        image.extend(value.to_le_bytes());
    }
    image.extend(code);
    image
}

fn spec(kernel: &[u8], initramfs: Option<&[u8]>) -> BootSpec {
    let vcpu = |apic_id, node| BootVcpu { apic_id, node: NodeId(node) };
    BootSpec {
        kernel: file(kernel),
        initramfs: initramfs.map(file),
        cmdline: "console=ttyS0 panic=-1".to_owned(),
        vcpus: vec![vcpu(0, 0), vcpu(1, 1)],
    }
}

fn zero_page(memory: &GuestMemoryMmap) -> boot_params {
    let mut page = boot_params::default();
    memory.read_slice(page.as_mut_slice(), GuestAddress(at::ZERO_PAGE)).unwrap();
    page
}

#[test]
fn a_bzimage_is_loaded_by_the_64_bit_protocol() {
    let layout = layout_for(256 * MIB, 2).unwrap();
    let memory = memory(&layout);
    let initramfs: Vec<u8> = (0..100_000u32).map(|i| i as u8 | 1).collect();
    let image = load(&memory, &layout, &spec(&bzimage(5000), Some(&initramfs))).unwrap();
    assert_eq!(image.entry.rip, 16 * MIB + 0x200);
    assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(16 * MIB)).unwrap(), [0x5a; 4]);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(16 * MIB + 4999)).unwrap(), 0x5a);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(16 * MIB + 5000)).unwrap(), 0);

    let page = zero_page(&memory);
    assert_eq!({ page.hdr.type_of_loader }, 0xff);
    assert_eq!({ page.hdr.init_size }, 20 * MIB as u32, "the kernel's own header is kept");
    assert_eq!({ page.acpi_rsdp_addr }, 0xe0000);
    let (start, bytes) = (u64::from(page.hdr.ramdisk_image), page.hdr.ramdisk_size as usize);
    assert_eq!(bytes, initramfs.len());
    assert_eq!(start % 4096, 0);
    assert!(start + bytes as u64 <= 128 * MIB, "in node 0's memory");
    assert!(start + bytes as u64 > 128 * MIB - 4096, "at its top");
    let mut loaded = vec![0; bytes];
    memory.read_slice(&mut loaded, GuestAddress(start)).unwrap();
    assert_eq!(loaded, initramfs);
    let mut line = vec![0; 23];
    memory.read_slice(&mut line, GuestAddress(page.hdr.cmd_line_ptr.into())).unwrap();
    assert_eq!(line, b"console=ttyS0 panic=-1\0");
    assert_eq!(
        memory.read_obj::<[u8; 4]>(GuestAddress(0xf_fff0)).unwrap(),
        [0xb0, 0xfe, 0xe6, 0x64],
        "reset vector"
    );
    assert_eq!(page.e820_entries, 6);
    assert_eq!({ page.e820_table[2].addr }, MIB);
    assert_eq!({ page.e820_table[2].size }, 255 * MIB, "both nodes' RAM in one run");
}

#[test]
fn an_elf_payload_is_loaded_at_its_addresses_and_entered_at_its_entry() {
    let layout = layout_for(64 * MIB, 1).unwrap();
    let memory = memory(&layout);
    let mut spec = spec(&elf(2 * MIB, &[0xf4; 16], 0x3000), None);
    spec.vcpus.truncate(1);
    let image = load(&memory, &layout, &spec).unwrap();
    assert_eq!((image.entry.rip, image.entry.zero_page), (2 * MIB, at::ZERO_PAGE));
    assert_eq!(memory.read_obj::<[u8; 16]>(GuestAddress(2 * MIB)).unwrap(), [0xf4; 16]);
    let page = zero_page(&memory);
    assert_eq!(({ page.hdr.header }, { page.hdr.cmd_line_ptr }), (0x5372_6448, 0x20000));
    assert_eq!({ page.hdr.ramdisk_size }, 0);
}

#[test]
fn everything_written_is_listed_and_nothing_else_is_touched() {
    let layout = layout_for(128 * MIB, 2).unwrap();
    let memory = memory(&layout);
    let image = load(&memory, &layout, &spec(&bzimage(300_000), Some(&[7; 70_000]))).unwrap();
    let listed = |gfn: u64| image.written.iter().any(|&(start, n)| (start.0..start.0 + n).contains(&gfn));
    let mut page = [0; PAGE_BYTES];
    for gfn in 0..layout.bytes() / PAGE_BYTES as u64 {
        memory.read_slice(&mut page, GuestAddress(gfn * PAGE_BYTES as u64)).unwrap();
        if page.iter().any(|&byte| byte != 0) {
            assert!(listed(gfn), "page {gfn:#x} was written in secret");
        }
    }
    for pair in image.written.windows(2) {
        assert!(pair[0].0 .0 + pair[0].1 < pair[1].0 .0, "ascending, merged: {pair:?}");
    }
    let end = image.written.last().map(|&(start, n)| start.0 + n).unwrap();
    assert!(end * PAGE_BYTES as u64 <= 64 * MIB, "all in node 0's share");
}

#[test]
fn the_first_4_gib_are_mapped_one_to_one() {
    let layout = layout_for(64 * MIB, 1).unwrap();
    let memory = memory(&layout);
    let image = load(&memory, &layout, &spec(&elf(2 * MIB, &[0xf4], 1), None)).unwrap();
    let entry = |table: u64, index: u64| memory.read_obj::<u64>(GuestAddress(table + index * 8)).unwrap();
    for address in [0, 2 * MIB, 0x1234_5678, 0xfec0_0000, 0xffff_ffff] {
        let pointers = entry(image.entry.cr3, 0) & !0xfff;
        let directory = entry(pointers, address >> 30) & !0xfff;
        let page = entry(directory, address >> 21 & 511);
        assert_eq!(page & 0x83, 0x83, "present, writable, large");
        assert_eq!(page & !0x1f_ffff | address & 0x1f_ffff, address);
    }
    assert_eq!(entry(entry(image.entry.cr3, 0) & !0xfff, 4), 0, "nothing above");
    let sregs = entry::initial_sregs(Default::default(), &image.entry);
    assert_eq!(sregs.apic_base & 0xd00, 0xd00, "boot processor, x2APIC, enabled");
    // What the registers say must be what the descriptor table says, or the first reload changes it.
    for segment in [sregs.cs, sregs.ds] {
        let descriptor = entry(image.entry.gdt, u64::from(segment.selector) / 8);
        assert_eq!(descriptor >> 40 & 0xf, u64::from(segment.type_));
        assert_eq!(descriptor >> 53 & 1, u64::from(segment.l));
        assert_eq!(descriptor >> 54 & 1, u64::from(segment.db));
    }
}

#[test]
fn faults_are_named_with_their_remedy() {
    let layout = layout_for(64 * MIB, 1).unwrap();
    let fault = |layout: &Layout, spec: &BootSpec| load(&memory(layout), layout, spec).unwrap_err();
    let kernel = bzimage(100);

    let error = open("kernel", Path::new("/nonexistent/vmlinuz")).unwrap_err();
    assert_eq!(error.to_string(), "cannot open the kernel \"/nonexistent/vmlinuz\"");
    for text in [&b""[..], b"#!/bin/sh\n", &[0; 4096]] {
        assert!(matches!(fault(&layout, &spec(text, None)), BootError::NotAKernel));
    }
    let mut old = kernel.clone();
    old[0x206] = 0x05;
    assert!(matches!(fault(&layout, &spec(&old, None)), BootError::No64BitEntry { major: 2, minor: 5 }));
    let small = layout_for(32 * MIB, 1).unwrap();
    let error = fault(&small, &spec(&kernel, None));
    assert!(matches!(error, BootError::MemoryTooSmall { needed_mib: 36, room_mib: 32 }), "{error}");
    let error = fault(&layout, &spec(&kernel, Some(&vec![1; 29 * MIB as usize])));
    assert!(matches!(error, BootError::InitramfsTooBig { .. }), "{error}");
    let mut long = spec(&kernel, None);
    long.cmdline = "x".repeat(2048);
    assert!(matches!(fault(&layout, &long), BootError::CmdlineTooLong { bytes: 2048, max: 2047 }));
    let mut none = spec(&kernel, None);
    none.vcpus.clear();
    assert!(matches!(fault(&layout, &none), BootError::NoVcpu));
    let mut twice = spec(&kernel, None);
    twice.vcpus[1].apic_id = 0;
    assert!(matches!(fault(&layout, &twice), BootError::DuplicateApicId(0)));
}

#[test]
fn strange_elf_files_are_refused() {
    let layout = layout_for(64 * MIB, 1).unwrap();
    let good = elf(2 * MIB, &[0xf4; 16], 16);
    let fault = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(&mut image);
        load(&memory(&layout), &layout, &spec(&image, None)).unwrap_err().to_string()
    };
    assert!(fault(&|image| image[18] = 3).contains("not for x86-64"));
    assert!(fault(&|image| image[16] = 3).contains("fixed addresses"));
    assert!(fault(&|image| image[24] = 0xff).contains("entry outside"));
    assert!(fault(&|image| image[56] = 65).contains("program header"));
    assert!(fault(&|image| image.truncate(70)).contains("cut short"));
    assert!(fault(&|image| image.truncate(130)).contains("cut short"));
    assert!(fault(&|image| image[88..96].copy_from_slice(&0x7000u64.to_le_bytes())).contains("below 1 MiB"));
    assert!(fault(&|image| image[88..96].copy_from_slice(&u64::MAX.to_le_bytes())).contains("below 1 MiB"));
    assert!(
        fault(&|image| image[104..112].copy_from_slice(&(1u64 << 40).to_le_bytes())).contains("needs node 0")
    );
}

proptest::proptest! {
    #[test]
    fn no_file_panics_the_loader(
        position in 0usize..1200,
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..16),
        is_elf in proptest::prelude::any::<bool>(),
    ) {
        let layout = layout_for(64 * MIB, 1).unwrap();
        let mut image = if is_elf { elf(2 * MIB, &[0xf4; 16], 16) } else { bzimage(100) };
        let start = position % image.len();
        let end = (start + bytes.len()).min(image.len());
        image[start..end].copy_from_slice(&bytes[..end - start]);
        let _ = load(&memory(&layout), &layout, &spec(&image, None));
    }
}
