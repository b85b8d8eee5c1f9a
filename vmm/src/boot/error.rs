//! Why a guest cannot be loaded, and what to do about it.

use std::io;
use std::path::PathBuf;

use tessera_dsm::layout::LayoutError;
use thiserror::Error;

/// Why a guest cannot be loaded.
#[derive(Debug, Error)]
pub enum BootError {
    /// A file cannot be opened.
    #[error("cannot open the {what} {path:?}")]
    Open {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read the {what}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The kernel is of no kind that can be loaded.
    #[error("the kernel is neither a bzImage nor an ELF file: give a distribution's vmlinuz or a static ELF64 executable")]
    NotAKernel,
    /// The bzImage has no 64-bit entry.
    #[error("the kernel speaks boot protocol {major}.{minor} without a 64-bit entry: a 64-bit kernel of Linux 3.8 or later is needed")]
    No64BitEntry {
        /// Protocol version, major.
        major: u8,
        /// Protocol version, minor.
        minor: u8,
    },
    /// The ELF file cannot be loaded as it is.
    #[error(
        "the ELF kernel {0}: build it as a static x86-64 executable (not position-independent) above 1 MiB"
    )]
    BadElf(&'static str),
    /// The crate that copies kernels found a fault.
    #[error("the kernel cannot be loaded")]
    Loader(#[source] linux_loader::loader::Error),
    /// Node 0 has not enough memory for the kernel.
    #[error("the kernel needs node 0 to have {needed_mib} MiB of memory below 3 GiB, but it has {room_mib} MiB: give the guest more memory or fewer nodes")]
    MemoryTooSmall {
        /// MiB from address 0 that the kernel needs.
        needed_mib: u64,
        /// MiB that there are.
        room_mib: u64,
    },
    /// The initramfs does not fit above the kernel.
    #[error("the initramfs has {bytes} bytes and node 0 has room for {room} above the kernel: give the guest more memory or a smaller initramfs")]
    InitramfsTooBig {
        /// Its size.
        bytes: u64,
        /// The room there is.
        room: u64,
    },
    /// The kernel would cut the command line.
    #[error("the command line has {bytes} bytes and the kernel takes {max}: shorten it")]
    CmdlineTooLong {
        /// Its length.
        bytes: usize,
        /// What the kernel takes.
        max: usize,
    },
    /// The command line has a byte that cannot be in one.
    #[error("the command line has a NUL or a line break at byte {0}")]
    CmdlineBytes(usize),
    /// The ACPI tables do not fit into their place.
    #[error("the ACPI tables of {vcpus} vCPUs have {bytes} bytes and there is room for {room}: give the guest fewer vCPUs")]
    AcpiTooBig {
        /// vCPUs of the guest.
        vcpus: usize,
        /// Size of all tables.
        bytes: usize,
        /// The room there is.
        room: usize,
    },
    /// A guest has at least one vCPU.
    #[error("a guest needs at least one vCPU")]
    NoVcpu,
    /// Two vCPUs have the same APIC id.
    #[error("two vCPUs have APIC id {0}")]
    DuplicateApicId(u32),
    /// The first region is not RAM of node 0 at address 0.
    #[error("guest memory must begin at address 0 with memory of node 0")]
    NoLowMemory,
    /// Memory cannot be divided so.
    #[error("{bytes} bytes of memory cannot be divided over {nodes} nodes: give each a multiple of 2 MiB, at least 2 MiB")]
    Shares {
        /// Memory asked for.
        bytes: u64,
        /// Nodes asked for.
        nodes: usize,
    },
    /// The regions make no layout.
    #[error("the memory layout is wrong")]
    Layout(#[from] LayoutError),
    /// Something lies outside node 0's memory.
    #[error(
        "the {what} at {start:#x} ({bytes} bytes) does not lie in node 0's memory, which ends at {end:#x}"
    )]
    Outside {
        /// What does not fit.
        what: &'static str,
        /// Its address.
        start: u64,
        /// Its size.
        bytes: u64,
        /// End of node 0's low memory.
        end: u64,
    },
    /// Guest memory cannot be written.
    #[error("cannot write the {what} into guest memory at {start:#x}")]
    Memory {
        /// What was being written.
        what: &'static str,
        /// Where.
        start: u64,
        /// The reason.
        source: vm_memory::GuestMemoryError,
    },
}
