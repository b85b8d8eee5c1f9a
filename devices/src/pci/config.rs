//! One function's configuration space: 256 bytes, and which of their bits a guest can write.

use thiserror::Error;

use super::register::{self as at, Command, CONFIG_BYTES};

/// What a function says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Who made it.
    pub vendor: u16,
    /// What it is among the vendor's devices.
    pub device: u16,
    /// Its revision.
    pub revision: u8,
    /// Class, subclass, interface (PCI Code and ID Assignment).
    pub class: [u8; 3],
    /// Who made the board.
    pub subsystem_vendor: u16,
    /// What it is among the vendor's boards.
    pub subsystem: u16,
}

/// Why something has no place in a configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ConfigError {
    /// A 64-bit BAR takes two registers, and is a power of two of at least 16 bytes at a multiple of its size.
    #[error("no 64-bit BAR {index} of {bytes:#x} bytes at {address:#x} can be")]
    Bar {
        /// The first of its two registers.
        index: usize,
        /// Its size.
        bytes: u64,
        /// Where it is to be.
        address: u64,
    },
    /// The capabilities fill the space.
    #[error("there is no room for a capability of {0} bytes")]
    Full(usize),
}

/// Configuration space of one function. Reads and writes of any size and place are fine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    /// Where the next capability goes.
    end: usize,
    /// Where the offset of the next capability is to be written.
    link: usize,
}

impl ConfigSpace {
    /// A type 0 header, without BARs and capabilities.
    pub fn new(identity: &Identity) -> Self {
        let mut config = ConfigSpace {
            bytes: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            end: at::FIRST_CAPABILITY,
            link: at::CAPABILITIES,
        };
        let [class, subclass, interface] = identity.class;
        config.set(at::VENDOR, &identity.vendor.to_le_bytes());
        config.set(at::DEVICE, &identity.device.to_le_bytes());
        config.set(at::REVISION, &[identity.revision]);
        config.set(at::CLASS, &[interface, subclass, class]);
        config.set(at::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        config.set(at::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        config.allow(at::COMMAND, &Command::WRITABLE.to_le_bytes());
        config.allow(at::CACHE_LINE, &[0xff]);
        config.allow(at::INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Adds a 64-bit memory BAR in the registers `index` and `index + 1`.
    ///
    /// # Errors
    /// [`ConfigError::Bar`].
    pub fn add_memory_bar(&mut self, index: usize, bytes: u64, address: u64) -> Result<(), ConfigError> {
        let whole = bytes.is_power_of_two() && bytes > u64::from(at::BAR_FLAGS);
        if index + 1 >= at::BARS || !whole || !address.is_multiple_of(bytes) {
            return Err(ConfigError::Bar { index, bytes, address });
        }
        let register = at::BAR_0 + 4 * index;
        // A guest learns the size by writing ones: the bits below it stay zero.
        self.set(register, &(address | u64::from(at::BAR_MEMORY_64)).to_le_bytes());
        self.allow(register, &(!(bytes - 1)).to_le_bytes());
        Ok(())
    }

    /// Adds a capability; `body` is what follows its id and its link. Gives its offset.
    ///
    /// # Errors
    /// [`ConfigError::Full`].
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> Result<usize, ConfigError> {
        let (start, bytes) = (self.end, body.len() + 2);
        let end = (start + bytes).next_multiple_of(4);
        if end > CONFIG_BYTES {
            return Err(ConfigError::Full(bytes));
        }
        self.set(start, &[id, 0]);
        self.set(start + 2, body);
        // (Offsets below 256 fit.)
        self.set(self.link, &[start as u8]);
        self.set(at::STATUS, &at::STATUS_CAPABILITIES.to_le_bytes());
        (self.link, self.end) = (start + 1, end);
        Ok(start)
    }

    /// Lets a guest write the bits that are set in `mask`, from `offset` on.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable.iter_mut().skip(offset).zip(mask).for_each(|(writable, mask)| *writable |= mask);
    }

    /// Sets bytes as the function itself does, writable or not.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    /// Reads as a guest does. Where no register is, zeros.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        self.bytes.iter().skip(offset).zip(data).for_each(|(from, to)| *to = *from);
    }

    /// Writes as a guest does: only what can be written changes.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let registers = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        registers.zip(data).for_each(|((byte, mask), new)| *byte = *byte & !mask | new & mask);
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command(self.half(at::COMMAND))
    }

    /// A 16-bit register; zero where none is.
    pub fn half(&self, offset: usize) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// A 32-bit register; zero where none is.
    pub fn word(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The address in the 64-bit BAR of which `index` is the first register.
    pub fn bar_address(&self, index: usize) -> u64 {
        let register = at::BAR_0 + 4 * index;
        u64::from(self.word(register) & !at::BAR_FLAGS) | u64::from(self.word(register + 4)) << 32
    }
}

/// Whether a write of `bytes` bytes at `offset` touches the `len` bytes at `register`.
pub fn touches(offset: usize, bytes: usize, register: usize, len: usize) -> bool {
    offset < register + len && register < offset.saturating_add(bytes)
}
