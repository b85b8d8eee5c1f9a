//! What was built, read back.

use std::collections::BTreeMap;

use tessera_dsm::ids::NodeId;

use super::super::memory::layout_with_shares;
use super::*;

const BASE: u64 = at::ACPI;
const GIB: u64 = 1 << 30;

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn at_address(blob: &[u8], address: u64) -> &[u8] {
    &blob[(address - BASE) as usize..]
}

/// Follows the pointers from the RSDP and gives the tables by signature, each checked.
fn tables(blob: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(&blob[..8], b"RSD PTR ");
    assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0), "RSDP checksums");
    let mut found = BTreeMap::new();
    let mut places = Vec::new();
    let mut take = |address: u64| {
        assert_eq!(address % 16, 0);
        let start = at_address(blob, address);
        let table = start[..word(start, 4) as usize].to_vec();
        assert_eq!(sum(&table), 0, "checksum of {:?}", &table[..4]);
        places.push((address, address + table.len() as u64));
        found.insert(String::from_utf8(table[..4].to_vec()).unwrap(), table.clone());
        table
    };
    let xsdt = take(long(blob, 24));
    for entry in xsdt[36..].chunks_exact(8) {
        let table = take(long(entry, 0));
        if &table[..4] == b"FACP" {
            take(long(&table, 140));
        }
    }
    places.sort_unstable();
    assert!(places[0].0 >= BASE + 36, "the RSDP is not overlapped");
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no overlap: {places:x?}");
    found
}

/// Type-length records.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = bytes.split_at(usize::from(bytes[1]));
        records.push(record);
        bytes = rest;
    }
    records
}

fn vcpus(ids: &[(u32, u8)]) -> Vec<BootVcpu> {
    ids.iter().map(|&(apic_id, node)| BootVcpu { apic_id, node: NodeId(node) }).collect()
}

fn built(ids: &[(u32, u8)], shares: &[u64]) -> BTreeMap<String, Vec<u8>> {
    tables(&build(BASE, &layout_with_shares(shares).unwrap(), &vcpus(ids), *b"0123456789abcdef"))
}

#[test]
fn all_tables_are_there_and_check_out() {
    let tables = built(&[(0, 0), (1, 0), (2, 1)], &[GIB; 2]);
    let names: Vec<&str> = tables.keys().map(String::as_str).collect();
    assert_eq!(names, ["APIC", "DSDT", "FACP", "MCFG", "SLIT", "SRAT", "WDAT", "XSDT"]);
}

#[test]
fn the_fadt_describes_a_hardware_reduced_platform() {
    let tables = built(&[(0, 0)], &[GIB]);
    let fadt = &tables["FACP"];
    assert_eq!(fadt.len(), 276, "ACPI 6.5 size");
    let flags = word(fadt, 112);
    assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10, "hardware-reduced, reset register");
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0x24, "no VGA, no CMOS clock, no i8042");
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0x02, 0x06, 0, 0, 0, 0, 0, 0], "reset register");
    assert_eq!(fadt[128], 6, "reset value");
    assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x00, 0x06, 0, 0, 0, 0, 0, 0], "sleep control");
    assert_eq!(fadt[256..268], [1, 8, 0, 1, 0x01, 0x06, 0, 0, 0, 0, 0, 0], "sleep status");
    assert_eq!(fadt[56..92], [0; 36], "no fixed hardware");
}

#[test]
fn the_madt_has_every_vcpu_in_the_structure_its_id_asks_for() {
    let tables = built(&[(0, 0), (1, 0), (254, 1), (255, 1), (0x1234, 2)], &[GIB; 3]);
    let madt = &tables["APIC"];
    assert_eq!(word(madt, 36), 0xfee0_0000);
    assert_eq!(word(madt, 40), 0, "no PC/AT interrupt controllers");
    let records = records(&madt[44..]);
    let kinds: Vec<(u8, usize)> = records.iter().map(|record| (record[0], record.len())).collect();
    assert_eq!(kinds, [(0, 8), (0, 8), (0, 8), (9, 16), (9, 16), (1, 12)]);
    assert_eq!(records[2], [0, 8, 2, 254, 1, 0, 0, 0]);
    assert_eq!((word(records[3], 4), word(records[3], 8), word(records[3], 12)), (255, 1, 3));
    assert_eq!((word(records[4], 4), word(records[4], 8), word(records[4], 12)), (0x1234, 1, 4));
    assert_eq!((word(records[5], 4), word(records[5], 8)), (0xfec0_0000, 0));
}

#[test]
fn the_srat_puts_cpus_and_memory_on_their_nodes() {
    let tables = built(&[(0, 0), (4, 1), (5, 1)], &[4 * GIB, GIB]);
    let srat = &tables["SRAT"];
    assert_eq!(word(srat, 36), 1);
    let records = records(&srat[48..]);
    let cpus: Vec<_> = records
        .iter()
        .filter(|record| record[0] == 2)
        .map(|record| (word(record, 8), word(record, 4), word(record, 12), record.len()))
        .collect();
    assert_eq!(cpus, [(0, 0, 1, 24), (4, 1, 1, 24), (5, 1, 1, 24)]);
    let memory: Vec<_> = records
        .iter()
        .filter(|record| record[0] == 1)
        .map(|record| (long(record, 8) / GIB, long(record, 16) / GIB, word(record, 2), word(record, 28)))
        .collect();
    assert_eq!(memory, [(0, 3, 0, 1), (4, 1, 0, 1), (5, 1, 1, 1)], "node 0 on both sides of the hole");
}

#[test]
fn the_slit_is_10_at_home_and_20_abroad() {
    let tables = built(&[(0, 0)], &[GIB; 3]);
    let slit = &tables["SLIT"];
    assert_eq!(long(slit, 36), 3);
    assert_eq!(slit[44..], [10, 20, 20, 20, 10, 20, 20, 20, 10]);
}

#[test]
fn the_dsdt_names_console_pvpanic_and_soft_off() {
    let tables = built(&[(0, 0)], &[GIB]);
    let dsdt = &tables["DSDT"];
    let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"COM1") && has(&[0x0c, 0x41, 0xd0, 0x05, 0x01]), "EISA id PNP0501");
    assert!(has(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]), "I/O ports 0x3f8, 8 of them");
    assert!(has(&[0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]), "GSI 4, edge, active high, exclusive, consumer");
    assert!(has(b"QEMU0001") && has(&[0x47, 1, 5, 5, 5, 5, 1, 1]));
    assert!(has(&[0x08, b'_', b'S', b'5', b'_', 0x12, 4, 1, 0x0a, 5]), "_S5 = Package {{5}}");
}

#[test]
fn pci_is_announced_with_its_configuration_space_and_its_windows() {
    let tables = built(&[(0, 0)], &[4 * GIB]);
    let mcfg = &tables["MCFG"];
    assert_eq!((mcfg.len(), long(mcfg, 44)), (60, 0xe000_0000));
    assert_eq!(mcfg[52..60], [0; 8], "segment 0, bus 0 to 0");
    let dsdt = &tables["DSDT"];
    let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"PCI0") && has(&[0x0c, 0x41, 0xd0, 0x0a, 0x08]), "EISA id PNP0A08");
    assert!(has(&[0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), "bus 0 alone");
    let low = [0u32, 0xc000_0000, 0xdfff_ffff, 0, 0x2000_0000].map(u32::to_le_bytes).concat();
    assert!(has(&[&[0x87, 23, 0, 0, 0x0c, 1][..], &low].concat()), "memory below 4 GiB");
    let high = [0, 5 * GIB, 6 * GIB - 1, 0, GIB].map(u64::to_le_bytes).concat();
    assert!(has(&[&[0x8a, 43, 0, 0, 0x0c, 1][..], &high].concat()), "memory above RAM");
    assert!(has(&[0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0]), "ECAM is claimed");
    assert!(has(b"_OSC"));
}

#[test]
fn the_power_button_is_heard_of_by_the_event_device() {
    let tables = built(&[(0, 0)], &[GIB]);
    let dsdt = &tables["DSDT"];
    let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"PWRB") && has(&[0x0c, 0x41, 0xd0, 0x0c, 0x0c]), "EISA id PNP0C0C");
    assert!(has(b"ACPI0013") && has(&[0x89, 6, 0, 0b0011, 1, 5, 0, 0, 0]), "GSI 5, edge, active high");
    assert!(has(b"\x5b\x80EVTR\x01\x0b\x04\x06\x01"), "OperationRegion (EVTR, SystemIO, 0x604, 1)");
    assert!(has(b"\x86PWRB\x0a\x80"), "Notify (PWRB, 0x80)");
}

#[test]
fn the_generation_is_where_its_device_says() {
    let number = *b"0123456789abcdef";
    let blob = build(BASE, &layout_with_shares(&[GIB]).unwrap(), &vcpus(&[(0, 0)]), number);
    let dsdt = &tables(&blob)["DSDT"];
    let place = |text: &[u8]| dsdt.windows(text.len()).position(|window| window == text);
    assert!(place(b"VM_Gen_Counter").is_some());
    // Name (ADDR, Package {DWord, 0})
    let package = place(b"\x08ADDR\x12").unwrap() + 6;
    assert_eq!(dsdt[package + 1..package + 3], [2, 0x0c], "two numbers, the first of 32 bits");
    let address = word(dsdt, package + 3);
    assert_eq!(at_address(&blob, address)[..16], number);
    assert_eq!(address % 8, 0);
}

#[test]
fn the_wdat_says_how_the_watchdog_is_driven() {
    let tables = built(&[(0, 0)], &[GIB]);
    let wdat = &tables["WDAT"];
    assert_eq!(word(wdat, 36), 32, "bytes of the head");
    assert_eq!(wdat[40..45], [0xff; 5], "no PCI device");
    assert_eq!([word(wdat, 48), word(wdat, 52), word(wdat, 56)], [100, 36_000, 10]);
    assert_eq!((wdat[60], word(wdat, 64)), (1, 8), "usable, eight entries");
    assert_eq!(wdat.len(), 68 + 8 * 24);
    // The guest is well: write 1 to 0x61c.
    assert_eq!(wdat[68..72], [1, 2, 0, 0]);
    assert_eq!(wdat[72..84], [1, 32, 0, 3, 0x1c, 0x06, 0, 0, 0, 0, 0, 0]);
    assert_eq!((word(wdat, 84), word(wdat, 88)), (1, 0xffff_ffff));
}

#[test]
fn many_vcpus_fit_and_too_many_are_refused() {
    let memory = vm_memory::GuestMemoryMmap::from_ranges(&[(vm_memory::GuestAddress(0), 2 << 20)]).unwrap();
    let layout = layout_with_shares(&[2 << 20]).unwrap();
    let load = |count: u32| {
        let ids: Vec<(u32, u8)> = (0..count).map(|id| (id, 0)).collect();
        write(&mut GuestWriter::new(&memory, 2 << 20), &layout, &vcpus(&ids))
    };
    load(1024).unwrap();
    assert!(matches!(load(8192), Err(BootError::AcpiTooBig { vcpus: 8192, .. })));
}
