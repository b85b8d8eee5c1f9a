//! The ACPI tables: how a kernel without firmware learns of CPUs, nodes, interrupts, console and power.
//!
//! A hardware-reduced platform (ACPI 6.5, 4.1): no fixed hardware, so no SCI, no PM timer, and sleep and reset
//! by plain registers. Layout: RSDP at [`at::ACPI`], behind it the guest's generation, DSDT, FADT, MADT, SRAT, SLIT, MCFG,
//! WDAT and XSDT.
//! Every proximity domain is a node of the guest, so Linux allocates memory on the host that runs it. Linux numbers
//! its NUMA nodes in the order in which it meets the domains: as long as each node has vCPUs, or none behind it
//! has, its numbers are ours.

mod cpus;
mod generation;
mod namespace;
mod pci;
#[cfg(test)]
mod tests;
mod watchdog;

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::slit::SLIT;
use acpi_tables::xsdt::XSDT;
use acpi_tables::Aml;
use tessera_abi::boot as at;
use tessera_abi::port;
use tessera_dsm::layout::Layout;

use self::generation::Generation;
use super::memory::pci_window;
use super::place::GuestWriter;
use super::{BootError, BootVcpu};

const OEM: [u8; 6] = *b"TESSRA";
const OEM_TABLE: [u8; 8] = *b"TESSERA ";
const OEM_REVISION: u32 = 1;
/// Tables begin at multiples of this.
const ALIGNMENT: u64 = 64;

/// Distance of a node to itself and to any other, as the SLIT counts it (ACPI 6.5, 5.2.17).
const LOCAL: u8 = 10;
const REMOTE: u8 = 20;

/// FADT, IA-PC boot architecture flags (ACPI 6.5, 5.2.9.3): VGA not present, CMOS clock not present. The bits for
/// legacy devices and the keyboard controller are clear: not present either.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// Writes the tables of a guest.
pub(super) fn write(
    guest: &mut GuestWriter<'_>,
    layout: &Layout,
    vcpus: &[BootVcpu],
) -> Result<(), BootError> {
    let generation = generation::new().map_err(|source| BootError::Read { what: "/dev/urandom", source })?;
    let tables = build(at::ACPI, layout, vcpus, generation);
    let room = (at::ACPI_END - at::ACPI) as usize;
    if tables.len() > room {
        return Err(BootError::AcpiTooBig { vcpus: vcpus.len(), bytes: tables.len(), room });
    }
    guest.write("ACPI tables", at::ACPI, &tables)
}

/// All tables in one run of bytes that belongs at address `base`, the RSDP first.
fn build(base: u64, layout: &Layout, vcpus: &[BootVcpu], generation: Generation) -> Vec<u8> {
    let rsdp_room = (Rsdp::len() as u64).next_multiple_of(ALIGNMENT);
    let mut blob = Blob { base: base + rsdp_room, bytes: Vec::new() };
    let generation = blob.add_bytes(&generation);
    let dsdt = blob.add(&namespace::dsdt(&pci_window(layout), generation));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(blob.add(&fadt(dsdt)));
    xsdt.add_entry(blob.add(&cpus::madt(vcpus)));
    xsdt.add_entry(blob.add(&cpus::srat(layout, vcpus)));
    xsdt.add_entry(blob.add(&slit(layout, vcpus)));
    xsdt.add_entry(blob.add(&pci::mcfg()));
    xsdt.add_entry(blob.add(&watchdog::wdat()));
    let xsdt = blob.add(&xsdt);
    let mut tables = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut tables);
    tables.resize(rsdp_room as usize, 0);
    tables.append(&mut blob.bytes);
    tables
}

/// Tables one behind the other.
struct Blob {
    base: u64,
    bytes: Vec<u8>,
}

impl Blob {
    /// Adds a table and says at which address it is.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.add_bytes(&bytes)
    }

    /// As [`Blob::add`], of what is no table.
    fn add_bytes(&mut self, bytes: &[u8]) -> u64 {
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        self.bytes.resize((self.bytes.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
        address
    }
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let register = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        .flag(Flags::ResetRegSup)
        // Set means: no fixed-hardware button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        // One interrupt goes to one vCPU: a logical destination may name vCPUs of several hosts.
        .flag(Flags::ForceApicPhysicalDestinationMode);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = register(port::RESET);
    fadt.reset_value = port::RESET_VALUE;
    fadt.sleep_control_reg = register(port::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(port::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Tessera\0").into();
    fadt.finalize()
}

fn slit(layout: &Layout, vcpus: &[BootVcpu]) -> SLIT {
    let homes = layout.regions().iter().map(|region| region.home.index());
    let nodes = homes.chain(vcpus.iter().map(|vcpu| vcpu.node.index())).max().unwrap_or(0) + 1;
    let mut slit = SLIT::new(OEM, OEM_TABLE, OEM_REVISION, nodes as u32);
    for a in 0..nodes {
        for b in 0..nodes {
            // The crate adjusts its checksum as for two different cells, so the diagonal stays as it is made: 10.
            if a != b {
                slit.set_distance(a, b, REMOTE);
            }
        }
    }
    debug_assert_eq!(LOCAL, 10);
    slit
}

/// An empty table with room for `fixed` bytes behind its header.
fn table(signature: [u8; 4], revision: u8, fixed: u32) -> Sdt {
    const HEADER_BYTES: u32 = 36;
    Sdt::new(signature, HEADER_BYTES + fixed, revision, OEM, OEM_TABLE, OEM_REVISION)
}
