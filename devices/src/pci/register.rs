//! Registers of a type 0 configuration header (PCI Local Bus 3.0, 6.1), by offset, and the bits in them.

/// Bytes of configuration space that have registers; the rest of a function's 4 KiB reads zero.
pub const CONFIG_BYTES: usize = 256;

/// Vendor, 16 bits.
pub const VENDOR: usize = 0x00;
/// Device, 16 bits.
pub const DEVICE: usize = 0x02;
/// Command, 16 bits: see [`Command`].
pub const COMMAND: usize = 0x04;
/// Status, 16 bits.
pub const STATUS: usize = 0x06;
/// Revision, 8 bits; the class code follows it.
pub const REVISION: usize = 0x08;
/// Class code, 24 bits: interface, subclass, class.
pub const CLASS: usize = 0x09;
/// Cache line size, 8 bits: without a meaning here, but to be kept.
pub const CACHE_LINE: usize = 0x0c;
/// First of six base address registers, 32 bits each.
pub const BAR_0: usize = 0x10;
/// How many base address registers there are.
pub const BARS: usize = 6;
/// Subsystem vendor, 16 bits.
pub const SUBSYSTEM_VENDOR: usize = 0x2c;
/// Subsystem, 16 bits.
pub const SUBSYSTEM: usize = 0x2e;
/// Offset of the first capability, 8 bits.
pub const CAPABILITIES: usize = 0x34;
/// Interrupt line, 8 bits: a note of the guest to itself.
pub const INTERRUPT_LINE: usize = 0x3c;
/// Capabilities begin here.
pub const FIRST_CAPABILITY: usize = 0x40;

/// In [`STATUS`]: there is a list of capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Low bits of a BAR: memory, 64 bits wide, not prefetchable.
pub const BAR_MEMORY_64: u32 = 0b0100;
/// Bits of a memory BAR that are no address.
pub const BAR_FLAGS: u32 = 0b1111;

/// The command register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(pub u16);

impl Command {
    const MEMORY: u16 = 1 << 1;
    const BUS_MASTER: u16 = 1 << 2;
    const PARITY: u16 = 1 << 6;
    const SERR: u16 = 1 << 8;
    const NO_INTX: u16 = 1 << 10;
    /// Bits that can be written. I/O space is not among them: no function here has any.
    pub const WRITABLE: u16 =
        Command::MEMORY | Command::BUS_MASTER | Command::PARITY | Command::SERR | Command::NO_INTX;

    /// Whether the function answers to the addresses in its BARs.
    pub fn decodes_memory(self) -> bool {
        self.0 & Command::MEMORY != 0
    }

    /// Whether the function may touch guest memory and interrupt.
    pub fn is_bus_master(self) -> bool {
        self.0 & Command::BUS_MASTER != 0
    }
}
