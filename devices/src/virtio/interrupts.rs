//! How a virtio device calls its driver: by the MSI-X vectors that the driver has chosen.

use std::sync::atomic::{AtomicU16, AtomicU8, Ordering};
use std::sync::Arc;

use crate::pci::Msix;

/// No vector (virtio 1.2, 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;
/// In the ISR status: a queue has news.
const ISR_QUEUE: u8 = 1 << 0;
/// In the ISR status: the device's configuration has changed.
const ISR_CONFIG: u8 = 1 << 1;

/// The interrupts of one device; used by its thread and by its registers.
pub struct VirtioInterrupts {
    msix: Arc<Msix>,
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    /// What a driver without MSI-X may ask for; there is no pin that would tell it to.
    isr: AtomicU8,
}

impl VirtioInterrupts {
    /// No vector is chosen.
    pub fn new(msix: Arc<Msix>, queues: usize) -> Self {
        VirtioInterrupts {
            msix,
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
        }
    }

    /// The queue has news for its driver.
    pub fn queue(&self, index: u16) {
        self.isr.fetch_or(ISR_QUEUE, Ordering::SeqCst);
        if let Some(vector) = self.queues.get(usize::from(index)) {
            self.msix.signal(vector.load(Ordering::SeqCst));
        }
    }

    /// The device's configuration or status has changed.
    pub fn config_changed(&self) {
        self.isr.fetch_or(ISR_CONFIG, Ordering::SeqCst);
        self.msix.signal(self.config.load(Ordering::SeqCst));
    }

    /// Reads the ISR status, which clears it.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::SeqCst)
    }

    /// The vector for changes of the configuration.
    pub fn config_vector(&self) -> u16 {
        self.config.load(Ordering::SeqCst)
    }

    /// The vector of a queue.
    pub fn queue_vector(&self, index: u16) -> u16 {
        self.queues.get(usize::from(index)).map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    /// Chooses the vector for changes of the configuration; one that does not exist becomes none.
    pub fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::SeqCst);
    }

    /// Chooses the vector of a queue; one that does not exist becomes none.
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(chosen) = self.queues.get(usize::from(index)) {
            chosen.store(self.existing(vector), Ordering::SeqCst);
        }
    }

    /// As after a reset of the device.
    pub fn reset(&self) {
        let vectors = self.queues.iter().chain([&self.config]);
        vectors.for_each(|vector| vector.store(NO_VECTOR, Ordering::SeqCst));
        self.isr.store(0, Ordering::SeqCst);
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() {
            vector
        } else {
            NO_VECTOR
        }
    }
}
