//! The kernel file: of which kind it is, where it goes, how it is entered.

use std::fs::File;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use tessera_abi::boot as at;
use tessera_abi::mmio;
use vm_memory::{ByteValued, GuestAddress};

use super::place::GuestWriter;
use super::BootError;

/// Where the setup header is in a bzImage (boot protocol, "The Real-Mode Kernel Header").
const SETUP_HEADER: u64 = 0x1f1;
/// "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
/// First protocol with xloadflags, hence with a 64-bit entry.
const PROTOCOL_64: u16 = 0x20c;
/// xloadflags: the kernel has the 64-bit entry at offset 0x200.
const XLF_KERNEL_64: u16 = 1 << 0;
/// xloadflags: kernel, command line and initramfs may lie above 4 GiB (so certainly above `initrd_addr_max`).
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
const ENTRY_64: u64 = 0x200;
const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// More than any linker writes; bounds what a strange file makes us read.
const PROGRAM_HEADERS_MAX: usize = 64;
const PT_LOAD: u32 = 1;

/// A kernel file that was looked at and can be loaded.
pub(super) enum Image {
    BzImage(Box<setup_header>),
    Elf(ElfFile),
}

/// What an ELF kernel's headers say.
pub(super) struct ElfFile {
    entry: u64,
    segments: Vec<Segment>,
}

struct Segment {
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.address + self.memory_bytes
    }
}

/// A kernel in guest memory.
pub(super) struct Kernel {
    /// The first instruction, in long mode.
    pub(super) entry: u64,
    /// One past what it needs for itself before it has read its memory map.
    pub(super) end: u64,
    /// One past the highest address where it takes an initramfs.
    pub(super) initramfs_end: u64,
    /// A bzImage's own header, to be handed back to it in the zero page.
    pub(super) header: Option<Box<setup_header>>,
}

impl Image {
    /// Looks at the headers of `file`.
    pub(super) fn inspect(file: &File) -> Result<Image, BootError> {
        let mut head = [0; ELF_HEADER_BYTES];
        let size = file.metadata().map_err(read_error)?.len();
        if size >= ELF_HEADER_BYTES as u64 {
            file.read_exact_at(&mut head, 0).map_err(read_error)?;
        }
        if head.starts_with(&ELF_MAGIC) {
            return Ok(Image::Elf(ElfFile::parse(file, &head, size)?));
        }
        let mut header = setup_header::default();
        if size < SETUP_HEADER + header.as_slice().len() as u64 {
            return Err(BootError::NotAKernel);
        }
        file.read_exact_at(header.as_mut_slice(), SETUP_HEADER).map_err(read_error)?;
        if header.header != HEADER_MAGIC {
            return Err(BootError::NotAKernel);
        }
        let [minor, major] = header.version.to_le_bytes();
        if header.version < PROTOCOL_64 || header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BootError::No64BitEntry { major, minor });
        }
        Ok(Image::BzImage(Box::new(header)))
    }

    /// The longest command line, without its NUL, that the kernel and our place for it take.
    pub(super) fn cmdline_max(&self) -> usize {
        match self {
            Image::BzImage(header) => at::CMDLINE_MAX.min(header.cmdline_size as usize),
            Image::Elf(_) => at::CMDLINE_MAX,
        }
    }

    /// Loads the kernel from `file`, the one that was inspected.
    pub(super) fn load(&self, guest: &mut GuestWriter<'_>, file: &File) -> Result<Kernel, BootError> {
        match self {
            Image::BzImage(header) => load_bzimage(guest, file, header),
            Image::Elf(elf) => elf.load(guest, file),
        }
    }
}

fn read_error(source: std::io::Error) -> BootError {
    BootError::Read { what: "kernel", source }
}

fn need(guest: &GuestWriter<'_>, end: u64) -> Result<(), BootError> {
    if end <= guest.end() {
        return Ok(());
    }
    Err(BootError::MemoryTooSmall { needed_mib: end.div_ceil(MIB), room_mib: guest.end() / MIB })
}

fn load_bzimage(
    guest: &mut GuestWriter<'_>,
    file: &File,
    header: &setup_header,
) -> Result<Kernel, BootError> {
    let start = header.pref_address.max(at::KERNEL_MIN);
    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let size = file.metadata().map_err(read_error)?.len();
    let bytes = size.checked_sub((setup_sectors + 1) * SECTOR).ok_or(BootError::NotAKernel)?;
    // The kernel unpacks itself over its own load address and needs init_size bytes there, more than it loads.
    let needed = bytes.max(u64::from(header.init_size));
    let end = start.checked_add(needed).ok_or(BootError::NotAKernel)?;
    need(guest, end)?;
    guest.note("kernel", start, bytes)?;
    let mut file = file;
    let loaded = BzImage::load(guest.memory(), Some(GuestAddress(start)), &mut file, None)
        .map_err(BootError::Loader)?;
    let above_4g = header.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0;
    let initramfs_end = if above_4g { mmio::HOLE } else { u64::from(header.initrd_addr_max) + 1 };
    Ok(Kernel { entry: start + ENTRY_64, end, initramfs_end, header: loaded.setup_header.map(Box::new) })
}

/// Reads little-endian fields of a header that is known to be long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn number(&self, offset: usize, bytes: usize) -> u64 {
        self.0[offset..offset + bytes].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }
}

impl ElfFile {
    /// Reads and checks the headers, as far as they decide where bytes go.
    fn parse(file: &File, head: &[u8; ELF_HEADER_BYTES], size: u64) -> Result<ElfFile, BootError> {
        let field = Fields(head);
        let (class, data) = (head[4], head[5]);
        let (kind, machine) = (field.number(16, 2), field.number(18, 2));
        if class != 2 || data != 1 || machine != 62 {
            return Err(BootError::BadElf("is not for x86-64"));
        }
        if kind != 2 {
            return Err(BootError::BadElf("is not an executable with fixed addresses"));
        }
        let (table, entry_bytes, count) = (field.number(32, 8), field.number(54, 2), field.number(56, 2));
        let count = count as usize;
        if entry_bytes != PROGRAM_HEADER_BYTES as u64 || count > PROGRAM_HEADERS_MAX {
            return Err(BootError::BadElf("has a strange program header table"));
        }
        let mut headers = vec![0; count * PROGRAM_HEADER_BYTES];
        if table.checked_add(headers.len() as u64).is_none_or(|end| end > size) {
            return Err(BootError::BadElf("is cut short"));
        }
        file.read_exact_at(&mut headers, table).map_err(read_error)?;
        let mut segments = Vec::new();
        for header in headers.chunks_exact(PROGRAM_HEADER_BYTES).map(Fields) {
            if header.number(0, 4) == u64::from(PT_LOAD) && header.number(40, 8) > 0 {
                segments.push(Segment::parse(&header, size)?);
            }
        }
        let entry = field.number(24, 8);
        if !segments.iter().any(|segment| (segment.address..segment.end()).contains(&entry)) {
            return Err(BootError::BadElf("has its entry outside its segments"));
        }
        Ok(ElfFile { entry, segments })
    }

    fn load(&self, guest: &mut GuestWriter<'_>, file: &File) -> Result<Kernel, BootError> {
        let end = self.segments.iter().map(Segment::end).max().unwrap_or(0);
        need(guest, end)?;
        for segment in &self.segments {
            guest.note("kernel", segment.address, segment.file_bytes)?;
        }
        let mut file = file;
        // What a segment has in memory beyond its file is left as it is: zero.
        Elf::load(guest.memory(), None, &mut file, None).map_err(BootError::Loader)?;
        Ok(Kernel { entry: self.entry, end, initramfs_end: mmio::HOLE, header: None })
    }
}

impl Segment {
    fn parse(header: &Fields<'_>, size: u64) -> Result<Segment, BootError> {
        let (offset, address) = (header.number(8, 8), header.number(24, 8));
        let (file_bytes, memory_bytes) = (header.number(32, 8), header.number(40, 8));
        let ends = offset.checked_add(file_bytes).filter(|&end| end <= size);
        if ends.is_none() || file_bytes > memory_bytes {
            return Err(BootError::BadElf("is cut short"));
        }
        if address < at::KERNEL_MIN || address.checked_add(memory_bytes).is_none() {
            return Err(BootError::BadElf("has a segment below 1 MiB"));
        }
        Ok(Segment { address, file_bytes, memory_bytes })
    }
}
