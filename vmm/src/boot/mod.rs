//! From files to a guest that can take its first instruction.
//!
//! [`layout_for`] says where RAM is and which node's it is. [`load`] puts a kernel, its initramfs, its command
//! line, the ACPI tables and what long mode needs into node 0's share, and says where to enter and which pages
//! it wrote. [`entry`] has the registers of that entry.
//!
//! Two kinds of kernel:
//! - a **bzImage** (what distributions call `vmlinuz`), by the
//!   [64-bit boot protocol](https://docs.kernel.org/arch/x86/boot.html#id1): the protected-mode part at its
//!   preferred address, entered at offset 0x200;
//! - a static **ELF64** executable (`vmlinux`, or a bare-metal payload), entered at its ELF entry.
//!
//! Both are entered in long mode with the first 4 GiB mapped one to one and RSI pointing to the zero page. There
//! is no firmware: the platform is ACPI hardware-reduced, without PIC, PIT, HPET and PM timer.

pub mod acpi;
pub mod cmdline;
pub mod e820;
pub mod entry;
mod error;
mod image;
mod memory;
mod place;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;

use tessera_abi::boot as at;
use tessera_dsm::ids::{Gfn, NodeId};
use tessera_dsm::layout::Layout;
use vm_memory::GuestMemoryMmap;

pub use entry::Entry;
pub use error::BootError;
pub use memory::{layout_for, layout_with_shares, pci_window};

use image::{Image, Kernel};
use place::GuestWriter;

/// One vCPU as the guest's tables show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootVcpu {
    /// Its x2APIC id, which with KVM is also its vCPU id.
    pub apic_id: u32,
    /// The node, hence the guest's NUMA node, to which it belongs.
    pub node: NodeId,
}

/// What to boot.
#[derive(Debug)]
pub struct BootSpec {
    /// A bzImage or a static ELF64 executable.
    pub kernel: File,
    /// The initial RAM file system, or none.
    pub initramfs: Option<File>,
    /// The whole command line; see [`cmdline::compose`] for the parameters that a guest here needs.
    pub cmdline: String,
    /// All vCPUs of the guest. The first is the boot processor.
    pub vcpus: Vec<BootVcpu>,
}

/// A guest that is ready to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootImage {
    /// Where and how the boot vCPU starts.
    pub entry: Entry,
    /// Runs of pages that hold something now, ascending, none adjacent to the next: first page, pages.
    pub written: Vec<(Gfn, u64)>,
}

/// Opens a file that is to be booted.
///
/// # Errors
/// [`BootError::Open`] with `what` the file is for and its path.
pub fn open(what: &'static str, path: &Path) -> Result<File, BootError> {
    File::open(path).map_err(|source| BootError::Open { what, path: path.to_owned(), source })
}

/// Loads a guest into memory that is all zeros.
///
/// The files are read straight into `view`: no page of it may be tracked yet.
///
/// # Errors
/// When a file is not what it should be, something does not fit, or the layout does not begin with RAM of
/// node 0; see [`BootError`]. Memory may have been written by then.
pub fn load(view: &GuestMemoryMmap, layout: &Layout, spec: &BootSpec) -> Result<BootImage, BootError> {
    check_vcpus(&spec.vcpus)?;
    let low_end = memory::low_end(layout)?;
    let image = Image::inspect(&spec.kernel)?;
    cmdline::check(&spec.cmdline, image.cmdline_max())?;
    let mut guest = GuestWriter::new(view, low_end);

    let kernel = image.load(&mut guest, &spec.kernel)?;
    let initramfs = match &spec.initramfs {
        Some(file) => Some(load_initramfs(&mut guest, &kernel, file)?),
        None => None,
    };
    guest.write("command line", at::CMDLINE, spec.cmdline.as_bytes())?;
    // The terminating NUL is there: memory is all zeros and the length was checked.
    acpi::write(&mut guest, layout, &spec.vcpus)?;
    let zero_page = e820::zero_page(layout, &kernel, initramfs.as_ref(), spec.cmdline.len());
    guest.write("zero page", at::ZERO_PAGE, vm_memory::ByteValued::as_slice(&zero_page))?;
    let entry = entry::write(&mut guest, kernel.entry)?;
    guest.write("reset vector", at::RESET_VECTOR, &entry::RESET_CODE)?;
    Ok(BootImage { entry, written: guest.written() })
}

/// Puts the initramfs as high as node 0's low memory and the kernel allow.
fn load_initramfs(
    guest: &mut GuestWriter<'_>,
    kernel: &Kernel,
    file: &File,
) -> Result<std::ops::Range<u64>, BootError> {
    let bytes = file.metadata().map_err(|source| BootError::Read { what: "initramfs", source })?.len();
    let top = guest.end().min(kernel.initramfs_end);
    let room = top.saturating_sub(kernel.end);
    // Rounded down to a page, it may begin up to a page lower.
    let start = top.checked_sub(bytes).map(|start| start & !0xfff).filter(|&start| start >= kernel.end);
    let Some(start) = start else {
        return Err(BootError::InitramfsTooBig { bytes, room });
    };
    guest.copy_file("initramfs", start, file, 0, bytes)?;
    Ok(start..start + bytes)
}

fn check_vcpus(vcpus: &[BootVcpu]) -> Result<(), BootError> {
    if vcpus.is_empty() {
        return Err(BootError::NoVcpu);
    }
    let mut ids: Vec<u32> = vcpus.iter().map(|vcpu| vcpu.apic_id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(BootError::DuplicateApicId(pair[0])),
        None => Ok(()),
    }
}
