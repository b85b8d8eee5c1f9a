//! The Linux zero page: command line and memory map (Documentation/arch/x86/zero-page.rst).

/// Offset of the 32-bit pointer to the command line.
const COMMAND_LINE: u64 = 0x228;
/// Offsets of the initramfs's address and size, 32 bits each, and of their upper halves.
const RAMDISK: [u64; 2] = [0x218, 0x0c0];
const RAMDISK_BYTES: [u64; 2] = [0x21c, 0x0c4];
/// Offset of the number of memory map entries, one byte.
const E820_COUNT: u64 = 0x1e8;
/// Offset of the memory map, 20 bytes an entry: start, bytes, kind.
const E820_TABLE: u64 = 0x2d0;
/// Entries that the zero page has room for.
const E820_ROOM: usize = 128;
/// The command line is read up to this length.
const COMMAND_LINE_BYTES: usize = 2048;
/// E820 kind: usable memory.
const USABLE: u32 = 1;

/// A range of physical memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// The zero page at the address that RSI held.
#[derive(Clone, Copy)]
pub struct ZeroPage(u64);

impl ZeroPage {
    /// Takes the address from the boot loader.
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The command line up to its first zero byte; empty where there is none or it is not ASCII.
    pub fn command_line(self) -> &'static str {
        let start = u64::from(self.read::<u32>(COMMAND_LINE)) as *const u8;
        if start.is_null() {
            return "";
        }
        // SAFETY: the loader's text lies in memory below 4 GiB, which is mapped and which nobody changes.
        let bytes = unsafe { core::slice::from_raw_parts(start, COMMAND_LINE_BYTES) };
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
        match core::str::from_utf8(&bytes[..length]) {
            Ok(text) if text.is_ascii() => text,
            _ => "",
        }
    }

    /// Where the initramfs is; empty where there is none. The memory map says nothing of it.
    pub fn initramfs(self) -> Range {
        let word =
            |at: [u64; 2]| u64::from(self.read::<u32>(at[0])) | u64::from(self.read::<u32>(at[1])) << 32;
        let (start, bytes) = (word(RAMDISK), word(RAMDISK_BYTES));
        Range { start, end: start.saturating_add(bytes) }
    }

    /// The initramfs.
    pub fn initramfs_bytes(self) -> &'static [u8] {
        let Range { start, end } = self.initramfs();
        if start == end || end > 4 << 30 {
            return &[];
        }
        // SAFETY: the loader's bytes lie in memory below 4 GiB, which is mapped and which the arena leaves alone.
        unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
    }

    /// The usable ranges of memory, in the order of the map.
    pub fn memory(self) -> impl Iterator<Item = Range> {
        let count = usize::from(self.read::<u8>(E820_COUNT)).min(E820_ROOM);
        (0..count as u64)
            .map(move |entry| E820_TABLE + entry * 20)
            .filter(move |&at| self.read::<u32>(at + 16) == USABLE)
            .map(move |at| {
                let start = self.read::<u64>(at);
                Range { start, end: start.saturating_add(self.read::<u64>(at + 8)) }
            })
    }

    fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: the zero page is 4 KiB of mapped memory, the offsets above lie inside it, and T is an
        // integer.
        unsafe { core::ptr::read_unaligned((self.0 + offset) as *const T) }
    }
}
