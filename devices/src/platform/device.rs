//! The assembly.

use std::ops::Range;
use std::sync::Arc;

use tessera_abi::{mmio, port};

use crate::absent::Absent;
use crate::bus::{Bus, BusDevice, BusError};
use crate::cmos::{system_time, CmosClock};
use crate::console::ConsoleInput;
use crate::events::{MsiSink, PlatformEvents};
use crate::ged::{Event, EventDevice};
use crate::ioapic::IoApic;
use crate::payload::{PayloadConsole, PayloadExit};
use crate::pci::root::{ConfigPorts, Ecam, PciMemory};
use crate::pci::{FunctionReport, PciRoot};
use crate::power::{AcpiPower, PvPanic, I8042};
use crate::serial::SerialConsole;
use crate::watchdog::Watchdog;

/// The devices of the home node. Every method may be called by any thread at any time.
///
/// `data` is one access of one, two, four or (memory only) eight bytes. For a string instruction (`rep outsb`)
/// call once for each element: KVM gives all of them in one slice.
pub struct Platform {
    ports: Bus,
    memory: Bus,
    ioapic: Arc<IoApic>,
    serial: Arc<SerialConsole>,
    happenings: Arc<EventDevice>,
    watchdog: Arc<Watchdog>,
    pci: Option<Arc<PciRoot>>,
    /// Where input goes instead of to the serial console.
    console: Option<Arc<ConsoleInput>>,
}

impl Platform {
    /// Devices as after a reset, which interrupt through `msi` and report to `events`.
    pub fn new(msi: Arc<dyn MsiSink>, events: Arc<dyn PlatformEvents>) -> Self {
        let ioapic = Arc::new(IoApic::new(msi));
        let serial = Arc::new(SerialConsole::new(ioapic.clone(), events.clone()));
        let happenings = Arc::new(EventDevice::new(ioapic.clone()));
        let watchdog = Arc::new(Watchdog::new(events.clone()));
        let ports = [
            ports(port::PIT, port::PIT_PORTS, Absent),
            ports(port::PIT_GATE, 1, Absent),
            ports(port::I8042_DATA, 1, I8042::new(port::I8042_DATA, events.clone())),
            ports(port::I8042_COMMAND, 1, I8042::new(port::I8042_COMMAND, events.clone())),
            ports(port::CMOS_INDEX, port::CMOS_PORTS, CmosClock::new(system_time)),
            ports(port::CONSOLE, 1, PayloadConsole::new(events.clone())),
            ports(port::EXIT, port::EXIT_PORTS, PayloadExit::new(events.clone())),
            (range(port::COM1, port::COM1_PORTS), serial.clone()),
            ports(port::PVPANIC, 1, PvPanic::new(events.clone())),
            ports(port::SLEEP_CONTROL, AcpiPower::PORTS, AcpiPower::new(events)),
            (range(port::EVENTS, 1), happenings.clone()),
            (range(port::WATCHDOG, port::watchdog::PORTS), watchdog.clone()),
        ];
        let memory =
            [(mmio::IOAPIC..mmio::IOAPIC + mmio::IOAPIC_BYTES, ioapic.clone() as Arc<dyn BusDevice>)];
        Platform {
            ports: assemble(ports),
            memory: assemble(memory),
            ioapic,
            serial,
            happenings,
            watchdog,
            pci: None,
            console: None,
        }
    }

    /// Adds a PCI bus, whose devices may decode memory in `high`, above all RAM, and in the window below 4 GiB.
    ///
    /// # Errors
    /// When something else is in its place.
    pub fn with_pci(mut self, root: PciRoot, high: Range<u64>) -> Result<Self, BusError> {
        let root = Arc::new(root);
        let ports = range(port::PCI_CONFIG, port::PCI_CONFIG_PORTS);
        self.ports.insert(ports, Arc::new(ConfigPorts(root.clone())))?;
        let ecam = mmio::ECAM..mmio::ECAM + mmio::ECAM_BYTES;
        self.memory.insert(ecam, Arc::new(Ecam(root.clone())))?;
        for window in [mmio::PCI_LOW..mmio::PCI_LOW_END, high] {
            self.memory.insert(window.clone(), Arc::new(PciMemory::new(root.clone(), window.start)))?;
        }
        self.pci = Some(root);
        Ok(self)
    }

    /// A read of `port`. Where no device is, all ones.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) {
        self.ports.read(u64::from(port), data);
    }

    /// A write to `port`. Where no device is, nothing happens.
    pub fn pio_write(&self, port: u16, data: &[u8]) {
        self.ports.write(u64::from(port), data);
    }

    /// A read at guest-physical address `gpa`. Where no device is, all ones.
    pub fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        self.memory.read(gpa, data);
    }

    /// A write at guest-physical address `gpa`. Where no device is, nothing happens.
    pub fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.memory.write(gpa, data);
    }

    /// An access to memory at `gpa` came from a vCPU of another node: it counts for the device there.
    pub fn remote_access(&self, gpa: u64, bytes: usize) {
        self.pci.iter().for_each(|pci| pci.remote_access(gpa, bytes));
    }

    /// The devices on the PCI bus: their places, and what they say of themselves.
    pub fn reports(&self) -> Vec<(usize, FunctionReport)> {
        self.pci.iter().flat_map(|pci| pci.reports()).collect()
    }

    /// A vCPU's end-of-interrupt for `vector` (KVM_EXIT_IOAPIC_EOI).
    pub fn ioapic_eoi(&self, vector: u8) {
        self.ioapic.eoi(vector);
    }

    /// From now on what is typed goes to this console instead of to the serial one.
    pub fn with_console(mut self, input: Arc<ConsoleInput>) -> Self {
        self.console = Some(input);
        self
    }

    /// Offers `bytes` to the guest's console and says how many were taken: offer the rest later.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        match &self.console {
            Some(console) => console.offer(bytes),
            None => self.serial.input(bytes),
        }
    }

    /// Presses the power button: the guest is asked to switch itself off.
    pub fn press_power_button(&self) {
        self.happenings.raise(Event::PowerButton);
    }

    /// The guest stands still from now on: what counts its time stands still with it.
    pub fn hold(&self) {
        self.watchdog.hold();
    }

    /// The guest goes on.
    pub fn go_on(&self) {
        self.watchdog.go_on();
    }

    /// Tells the devices' own threads to end.
    pub fn quit(&self) {
        self.watchdog.quit();
        self.pci.iter().for_each(|pci| pci.quit());
    }

    /// Waits for their end; after [`Platform::quit`], and when guest memory is not served any more.
    pub fn join(&self) {
        self.watchdog.join();
        self.pci.iter().for_each(|pci| pci.join());
    }

    /// The interrupt controller, for further devices.
    pub fn ioapic(&self) -> &Arc<IoApic> {
        &self.ioapic
    }
}

type Placed = (Range<u64>, Arc<dyn BusDevice>);

fn range(first: u16, count: u16) -> Range<u64> {
    u64::from(first)..u64::from(first) + u64::from(count)
}

fn ports(first: u16, count: u16, device: impl BusDevice + 'static) -> Placed {
    (range(first, count), Arc::new(device))
}

/// A bus of `devices`.
///
/// # Panics
/// If two of them overlap: they are constants, so every test that builds a platform would see it.
fn assemble(devices: impl IntoIterator<Item = Placed>) -> Bus {
    let mut bus = Bus::new();
    for (range, device) in devices {
        bus.insert(range, device).expect("the platform's own ranges do not overlap");
    }
    bus
}
