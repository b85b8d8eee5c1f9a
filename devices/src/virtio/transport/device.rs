//! The PCI function: registers, interrupts and thread of one device.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tracing::warn;

use super::common::{CommonConfig, Effect, ThreadState};
use super::layout::{self, Part};
use super::window::Window;
use crate::events::MsiSink;
use crate::pci::config::{touches, ConfigError};
use crate::pci::register as at;
use crate::pci::{ConfigSpace, Decoding, FunctionReport, Identity, Msix, PciFunction, Region};
use crate::ram::GuestRam;
use crate::traffic::{CountedRam, TrafficCounters};
use crate::virtio::engine::{Device, Driver};
use crate::virtio::interrupts::VirtioInterrupts;
use crate::virtio::model::{feature, Model, QUEUES_MAX};
use crate::virtio::queue::{DeviceQueue, EventIdx, QueueError};
use crate::virtio::thread::DeviceThread;

/// PCI vendor of all virtio devices, and what is added to a device's number (virtio 1.2, 4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// Modern devices have at least this revision.
const REVISION: u8 = 1;

/// Why a device cannot be made.
#[derive(Debug, Error)]
pub enum VirtioError {
    /// It has no queue or too many.
    #[error("a virtio device has 1 to {QUEUES_MAX} queues, not {0}")]
    Queues(usize),
    /// Its registers do not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its thread cannot be made.
    #[error("no thread for virtio device {name}: {source}")]
    Thread {
        /// Which device.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// What a device is made of, besides its model and its engine.
pub struct VirtioParts {
    /// Guest memory.
    pub ram: Arc<dyn GuestRam>,
    /// Where its interrupts go.
    pub msi: Arc<dyn MsiSink>,
    /// Where its BAR is at first: a multiple of [`layout::BAR_BYTES`].
    pub bar_address: u64,
}

/// A virtio device on the PCI bus.
pub struct VirtioPci {
    name: String,
    model: Model,
    ram: Arc<dyn GuestRam>,
    pci: Mutex<ConfigSpace>,
    /// Where message control of MSI-X is.
    msix_control: usize,
    window: Window,
    common: Mutex<CommonConfig>,
    msix: Arc<Msix>,
    interrupts: Arc<VirtioInterrupts>,
    thread: DeviceThread,
    counters: Arc<TrafficCounters>,
}

impl VirtioPci {
    /// Makes a device, called `name` in messages, and starts its thread.
    ///
    /// # Errors
    /// [`VirtioError`].
    pub fn new(name: &str, device: Device, parts: VirtioParts) -> Result<Arc<Self>, VirtioError> {
        let Device { model, engine } = device;
        let queues = model.queue_sizes.len();
        if queues == 0 || queues > QUEUES_MAX {
            return Err(VirtioError::Queues(queues));
        }
        let mut pci = ConfigSpace::new(&identity(&model));
        pci.add_memory_bar(layout::BAR, layout::BAR_BYTES, parts.bar_address)?;
        for body in layout::capabilities(queues as u32, model.config.len() as u32) {
            pci.add_capability(layout::VENDOR_CAPABILITY, &body)?;
        }
        let window = Window::add_capability(&mut pci)?;
        // One vector for each queue, and one for changes of the configuration.
        let msix = Arc::new(Msix::new(queues as u16 + 1, parts.msi));
        let msix_control = msix.add_capability(&mut pci, layout::MSIX)?;
        let interrupts = Arc::new(VirtioInterrupts::new(msix.clone(), queues));
        let common = CommonConfig::new(&model, interrupts.clone());
        let thread = DeviceThread::start(name, engine, interrupts.clone())
            .map_err(|source| VirtioError::Thread { name: name.into(), source })?;
        let counters = Arc::new(TrafficCounters::default());
        Ok(Arc::new(VirtioPci {
            name: name.into(),
            model,
            ram: Arc::new(CountedRam::new(parts.ram, counters.clone())),
            pci: Mutex::new(pci),
            msix_control,
            window,
            common: Mutex::new(common),
            msix,
            interrupts,
            thread,
            counters,
        }))
    }

    fn thread_state(&self) -> ThreadState {
        ThreadState { resetting: self.thread.is_resetting(), needs_reset: self.thread.needs_reset() }
    }

    fn common(&self) -> MutexGuard<'_, CommonConfig> {
        // Each write is whole before anything can panic, so a poisoned lock holds good registers.
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pci(&self) -> MutexGuard<'_, ConfigSpace> {
        // As above.
        self.pci.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut common = self.common();
        match common.write(offset, self.thread_state(), data) {
            Effect::None => {}
            // Under the lock: of two vCPUs' writes to the status the thread hears in the order of the registers. It is told
            // and not waited for.
            Effect::Activate => self.activate(&common),
            Effect::Reset => self.thread.reset(),
        }
    }

    /// Hands the driver over to the device's thread.
    fn activate(&self, common: &CommonConfig) {
        let features = common.accepted();
        let event_idx = if features & feature::EVENT_IDX != 0 { EventIdx::On } else { EventIdx::Off };
        let queue = |index: usize| -> Result<Option<DeviceQueue>, QueueError> {
            let Some(registers) = common.queues().get(index).filter(|queue| queue.enabled) else {
                return Ok(None);
            };
            let most = self.model.queue_sizes[index];
            DeviceQueue::new(index as u16, most, &registers.setup, event_idx, self.interrupts.clone())
                .map(Some)
        };
        match (0..self.model.queue_sizes.len()).map(queue).collect::<Result<Vec<_>, _>>() {
            Ok(queues) => self.thread.activate(Driver { features, queues, ram: self.ram.clone() }),
            Err(error) => {
                warn!("virtio device {}: it cannot work for its driver: {error}", self.name);
                self.thread.refuse();
                self.interrupts.config_changed();
            }
        }
    }

    fn read_device(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.model.config.len());
        data.fill(0);
        data.iter_mut().zip(&self.model.config[start..]).for_each(|(to, from)| *to = *from);
    }
}

fn identity(model: &Model) -> Identity {
    let device = FIRST_DEVICE + model.kind.id();
    Identity {
        vendor: VENDOR,
        device,
        revision: REVISION,
        class: model.kind.class(),
        subsystem_vendor: VENDOR,
        subsystem: device,
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let target = {
            let pci = self.pci();
            pci.read(offset, data);
            self.window.target(&pci, offset, data.len())
        };
        if let Some((place, bytes)) = target {
            self.read_memory(layout::BAR, place, &mut data[..bytes]);
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) -> Decoding {
        let (target, control) = {
            let mut pci = self.pci();
            pci.write(offset, data);
            let written = touches(offset, data.len(), self.msix_control, 2);
            (self.window.target(&pci, offset, data.len()), written.then(|| pci.half(self.msix_control)))
        };
        if let Some(control) = control {
            self.msix.set_control(control);
        }
        if let Some((place, bytes)) = target {
            self.write_memory(layout::BAR, place, &data[..bytes]);
        }
        let decoding = touches(offset, data.len(), at::COMMAND, 2)
            || touches(offset, data.len(), at::BAR_0, 4 * at::BARS);
        if decoding {
            Decoding::Changed
        } else {
            Decoding::Unchanged
        }
    }

    fn regions(&self) -> Vec<Region> {
        let pci = self.pci();
        let start = pci.bar_address(layout::BAR);
        match start.checked_add(layout::BAR_BYTES) {
            Some(end) if pci.command().decodes_memory() => {
                vec![Region { bar: layout::BAR, range: start..end }]
            }
            _ => Vec::new(),
        }
    }

    fn read_memory(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        match layout::part(offset) {
            Some((Part::Common, offset)) => {
                let thread = self.thread_state();
                self.common().read(offset, thread, data);
            }
            Some((Part::Isr, offset)) => {
                data.fill(0);
                if let (0, Some(status)) = (offset, data.first_mut()) {
                    *status = self.interrupts.take_isr();
                }
            }
            Some((Part::Device, offset)) => self.read_device(offset, data),
            Some((Part::MsixTable, offset)) => self.msix.read_table(offset, data),
            Some((Part::MsixPending, offset)) => self.msix.read_pending(offset, data),
            Some((Part::Doorbells, _)) | None => data.fill(0),
        }
    }

    fn write_memory(&self, _bar: usize, offset: u64, data: &[u8]) {
        match layout::part(offset) {
            Some((Part::Common, offset)) => self.write_common(offset, data),
            Some((Part::Doorbells, offset)) => {
                // Which word says which queue; what is written repeats it.
                let queue = offset / u64::from(layout::DOORBELL_BYTES);
                if queue < self.model.queue_sizes.len() as u64 {
                    self.thread.kick(queue as u16);
                }
            }
            Some((Part::MsixTable, offset)) => self.msix.write_table(offset, data),
            Some((Part::Isr | Part::Device | Part::MsixPending, _)) | None => {}
        }
    }

    fn remote_access(&self) {
        self.counters.remote_access();
    }

    fn report(&self) -> Option<FunctionReport> {
        let (name, kind) = (self.name.clone(), self.model.kind.name());
        Some(FunctionReport { name, kind, traffic: self.counters.read() })
    }

    fn quit(&self) {
        self.thread.quit();
    }

    fn join(&self) {
        self.thread.join();
    }
}
