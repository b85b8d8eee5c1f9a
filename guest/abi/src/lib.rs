#![no_std]
#![forbid(unsafe_code)]
//! What host and guest agree on: port numbers, guest-physical addresses and the bits behind them.
//!
//! The ground of the workspace: devices, boot path and bare-metal payloads all take these numbers from
//! here, so that they cannot disagree.
//!
//! - the modules below: constants only;
//! - [`paravirt`]: the device by which a guest sees where its vCPUs and its memory are, and asks for them to be elsewhere;
//! - [`seqlock`]: records in shared memory that one writes and many read.

pub mod paravirt;
pub mod seqlock;

/// Port numbers in the I/O space, and the values written to them.
pub mod port {
    /// First of the [`COM1_PORTS`] ports of the 16550 serial console.
    pub const COM1: u16 = 0x3f8;
    /// How many ports the serial console has.
    pub const COM1_PORTS: u16 = 8;

    /// Console of bare-metal payloads: each byte written is printed; a read gives [`CONSOLE_MAGIC`].
    pub const CONSOLE: u16 = 0xe9;
    /// What a read of [`CONSOLE`] gives: the port's own number, so that a payload can tell it is there.
    pub const CONSOLE_MAGIC: u8 = 0xe9;

    /// A bare-metal payload ends the guest by a 32-bit write of its exit status here; 0 = passed.
    pub const EXIT: u16 = 0xf4;
    /// Width of [`EXIT`] in ports (bytes).
    pub const EXIT_PORTS: u16 = 4;

    /// ACPI sleep control register (ACPI 6.5, 4.8.3.7), hardware-reduced.
    pub const SLEEP_CONTROL: u16 = 0x600;
    /// ACPI sleep status register (ACPI 6.5, 4.8.3.7).
    pub const SLEEP_STATUS: u16 = 0x601;
    /// ACPI reset register (ACPI 6.5, 4.8.3.6): a write of [`RESET_VALUE`] resets the guest.
    pub const RESET: u16 = 0x602;
    /// The value that resets when it is written to [`RESET`].
    pub const RESET_VALUE: u8 = 0x06;
    /// Sleep type of S5 (soft off), as the `\_S5` package says it.
    pub const SLEEP_TYPE_S5: u8 = 5;
    /// Where the sleep type stands in [`SLEEP_CONTROL`] (SLP_TYPx, three bits).
    pub const SLEEP_TYPE_SHIFT: u8 = 2;
    /// SLP_EN in [`SLEEP_CONTROL`]: do it now.
    pub const SLEEP_ENABLE: u8 = 1 << 5;

    /// Events of the platform (ACPI 6.5, 5.6.9): a read gives a bit for each since the last read.
    pub const EVENTS: u16 = 0x604;
    /// In [`EVENTS`]: the power button was pressed.
    pub const EVENT_POWER_BUTTON: u8 = 1 << 0;

    /// First of the [`watchdog::PORTS`] ports of the watchdog.
    pub const WATCHDOG: u16 = 0x610;

    /// Registers of the watchdog, 32 bits wide, counted from [`WATCHDOG`].
    pub mod watchdog {
        /// For how long the guest may be silent, in tenths of a second.
        pub const COUNT: u16 = 0;
        /// How much of that is left.
        pub const LEFT: u16 = 4;
        /// 1: it runs.
        pub const CONTROL: u16 = 8;
        /// A write of 1: the guest is well.
        pub const KICK: u16 = 12;
        /// Ports.
        pub const PORTS: u16 = 16;
    }

    /// The keyboard controller's data port: nothing is behind it.
    pub const I8042_DATA: u16 = 0x60;
    /// The keyboard controller's command port: [`I8042_RESET`] resets the guest.
    pub const I8042_COMMAND: u16 = 0x64;
    /// "Pulse the reset line", the oldest way of resetting a PC.
    pub const I8042_RESET: u8 = 0xfe;

    /// pvpanic: a read gives the events understood, a write reports one.
    pub const PVPANIC: u16 = 0x505;
    /// pvpanic event: the guest panicked.
    pub const PVPANIC_PANICKED: u8 = 1 << 0;
    /// pvpanic event: the guest panicked and its own crash kernel takes over.
    pub const PVPANIC_CRASH_LOADED: u8 = 1 << 1;

    /// CMOS clock: selects a register. Its data port is the next one.
    pub const CMOS_INDEX: u16 = 0x70;
    /// Ports of the CMOS clock.
    pub const CMOS_PORTS: u16 = 2;

    /// First of the [`PIT_PORTS`] ports where a PC has its interval timer; absent here.
    pub const PIT: u16 = 0x40;
    /// Ports of the absent interval timer.
    pub const PIT_PORTS: u16 = 4;
    /// Where a PC gates its interval timer's channel 2; absent here.
    pub const PIT_GATE: u16 = 0x61;

    /// PCI configuration mechanism 1: selects a register. Its data ports are the four behind it.
    pub const PCI_CONFIG: u16 = 0xcf8;
    /// Ports of PCI configuration mechanism 1.
    pub const PCI_CONFIG_PORTS: u16 = 8;
}

/// Global system interrupts: IOAPIC pins.
pub mod gsi {
    /// The serial console, edge triggered, active high.
    pub const COM1: u32 = 4;
    /// Events of the platform, edge triggered, active high.
    pub const EVENTS: u32 = 5;
}

/// Guest-physical addresses outside RAM.
pub mod mmio {
    /// Start of the hole below 4 GiB in which no RAM lies.
    pub const HOLE: u64 = 3 << 30;
    /// One past the hole: RAM goes on here.
    pub const HOLE_END: u64 = 4 << 30;
    /// Start of the window below 4 GiB in which PCI devices may decode memory.
    pub const PCI_LOW: u64 = HOLE;
    /// One past [`PCI_LOW`]'s window.
    pub const PCI_LOW_END: u64 = ECAM;
    /// The memory-mapped configuration space (ECAM) of PCI bus 0.
    pub const ECAM: u64 = 0xe000_0000;
    /// Bytes of configuration space of one bus: 32 devices of 8 functions of 4 KiB.
    pub const ECAM_BYTES: u64 = 1 << 20;
    /// The window above RAM in which PCI devices decode memory begins at a multiple of this.
    pub const PCI_HIGH_ALIGNMENT: u64 = 1 << 30;
    /// Bytes of the window above RAM.
    pub const PCI_HIGH_BYTES: u64 = 1 << 30;
    /// The IOAPIC's page.
    pub const IOAPIC: u64 = 0xfec0_0000;
    /// Bytes of the IOAPIC's window.
    pub const IOAPIC_BYTES: u64 = 0x1000;
    /// The local APICs' page. Unused: every vCPU is in x2APIC mode from its first instruction.
    pub const LAPIC: u64 = 0xfee0_0000;
    /// Start of the memory slot that belongs to the VMM of each node alone (proxy stubs). Never shared.
    pub const PRIVATE: u64 = 0xfef0_0000;
    /// One past the largest extent of the private slot.
    pub const PRIVATE_END: u64 = 0xff00_0000;
    /// KVM_SET_IDENTITY_MAP_ADDR: one page that KVM uses on old Intel processors.
    pub const IDENTITY_MAP: u64 = 0xfffb_c000;
    /// KVM_SET_TSS_ADDR: three pages that KVM uses on old Intel processors.
    pub const TSS: u64 = 0xfffb_d000;
}

/// Where the loader puts what the boot vCPU needs, below 1 MiB.
pub mod boot {
    /// The boot GDT: null, unused, code (0x10), data (0x18), and a task state segment of two slots (0x20).
    pub const GDT: u64 = 0x500;
    /// Linux boot protocol: the zero page (`struct boot_params`). RSI at entry.
    pub const ZERO_PAGE: u64 = 0x7000;
    /// RSP at entry: the top of a page that nothing else uses.
    pub const STACK_TOP: u64 = 0x8ff0;
    /// Boot page tables: PML4, PDPT, then one directory for each GiB mapped.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// Bytes mapped one to one at entry, in 2 MiB pages.
    pub const IDENTITY_MAPPED: u64 = 4 << 30;
    /// The kernel command line, NUL-terminated.
    pub const CMDLINE: u64 = 0x2_0000;
    /// Longest command line that is loaded, without its NUL (COMMAND_LINE_SIZE of x86 Linux less one).
    pub const CMDLINE_MAX: usize = 2047;
    /// One past the RAM below the first megabyte's legacy area.
    pub const LOW_RAM_END: u64 = 0x9_fc00;
    /// The ACPI root pointer (RSDP); the other tables follow it.
    pub const ACPI: u64 = 0xe_0000;
    /// One past the space for ACPI tables.
    pub const ACPI_END: u64 = RESET_VECTOR;
    /// Where a processor starts after a reset, and where a kernel jumps that knows no other way to reset: code that
    /// asks for a reset is there.
    pub const RESET_VECTOR: u64 = 0xf_fff0;
    /// One past what a kernel must leave alone below 1 MiB.
    pub const LEGACY_END: u64 = 0x10_0000;
    /// Where the first byte of a kernel may be loaded.
    pub const KERNEL_MIN: u64 = 0x10_0000;
}
