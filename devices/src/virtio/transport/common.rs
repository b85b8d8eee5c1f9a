//! The common configuration (virtio 1.2, 4.1.4.3) as a plain state machine.
//!
//! The driver's way (3.1.1): reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues, DRIVER_OK. What is written out of turn
//! is ignored: features after FEATURES_OK, a queue after it is enabled, queues after DRIVER_OK. So what the device
//! was activated with does not change under it.

use std::sync::Arc;

use virtio_bindings::virtio_config as bits;

use super::layout::COMMON_BYTES;
use crate::virtio::interrupts::VirtioInterrupts;
use crate::virtio::model::{feature, Model};
use crate::virtio::queue::QueueSetup;

const FEATURES_OK: u8 = bits::VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = bits::VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = bits::VIRTIO_CONFIG_S_NEEDS_RESET as u8;

/// Fields, by offset.
mod at {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub const QUEUE_AVAILABLE: u64 = 0x28;
    pub const QUEUE_USED: u64 = 0x30;
}

/// What a write asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing but what it wrote.
    None,
    /// The driver is ready.
    Activate,
    /// The driver wants the device as it was in the beginning.
    Reset,
}

/// What the device's thread has to say to the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThreadState {
    /// A reset is under way.
    pub resetting: bool,
    /// The device cannot go on until it is reset.
    pub needs_reset: bool,
}

/// A queue as the driver sets it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueRegisters {
    /// Where it is.
    pub setup: QueueSetup,
    /// It is complete.
    pub enabled: bool,
}

/// The registers of one device.
pub struct CommonConfig {
    offered: u64,
    queue_sizes: Vec<u16>,
    interrupts: Arc<VirtioInterrupts>,
    device_feature_select: u32,
    driver_feature_select: u32,
    accepted: u64,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl CommonConfig {
    /// The registers of a device that was just made.
    pub fn new(model: &Model, interrupts: Arc<VirtioInterrupts>) -> Self {
        let mut config = CommonConfig {
            offered: model.features | feature::COMMON,
            queue_sizes: model.queue_sizes.clone(),
            interrupts,
            device_feature_select: 0,
            driver_feature_select: 0,
            accepted: 0,
            status: 0,
            queue_select: 0,
            queues: Vec::new(),
        };
        config.reset();
        config
    }

    /// The features that both sides have.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// All queues.
    pub fn queues(&self) -> &[QueueRegisters] {
        &self.queues
    }

    /// Whether the device works for a driver.
    pub fn is_active(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// Reads bytes of the registers. What lies beyond them reads zero.
    pub fn read(&self, offset: u64, thread: ThreadState, data: &mut [u8]) {
        let registers = self.registers(thread);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(registers.len());
        data.fill(0);
        data.iter_mut().zip(&registers[start..]).for_each(|(to, from)| *to = *from);
    }

    /// All registers as the driver sees them.
    fn registers(&self, thread: ThreadState) -> [u8; COMMON_BYTES as usize] {
        let mut all = [0; COMMON_BYTES as usize];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = at as usize;
            all[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(at::DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(0x04, &half_of(self.offered, self.device_feature_select).to_le_bytes());
        put(at::DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(at::DRIVER_FEATURE, &half_of(self.accepted, self.driver_feature_select).to_le_bytes());
        put(at::CONFIG_VECTOR, &self.interrupts.config_vector().to_le_bytes());
        put(0x12, &(self.queue_sizes.len() as u16).to_le_bytes());
        // (The generation at 0x15 stays 0: no device's configuration changes.)
        put(at::STATUS, &[self.visible_status(thread)]);
        put(at::QUEUE_SELECT, &self.queue_select.to_le_bytes());
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(at::QUEUE_SIZE, &queue.setup.size.to_le_bytes());
            put(at::QUEUE_VECTOR, &self.interrupts.queue_vector(self.queue_select).to_le_bytes());
            put(at::QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            // Each queue has a doorbell of its own.
            put(0x1e, &self.queue_select.to_le_bytes());
            put(at::QUEUE_DESCRIPTORS, &queue.setup.descriptors.to_le_bytes());
            put(at::QUEUE_AVAILABLE, &queue.setup.available.to_le_bytes());
            put(at::QUEUE_USED, &queue.setup.used.to_le_bytes());
        }
        all
    }

    /// Zero only when nothing is under way any more.
    fn visible_status(&self, thread: ThreadState) -> u8 {
        match thread {
            ThreadState { resetting: true, .. } => self.status | DRIVER_OK,
            ThreadState { needs_reset: true, .. } if self.is_active() => self.status | NEEDS_RESET,
            _ => self.status,
        }
    }

    /// Writes a register: whole, or one half of a 64-bit one. Anything else is ignored, and everything while a reset is
    /// under way.
    pub fn write(&mut self, offset: u64, thread: ThreadState, data: &[u8]) -> Effect {
        if thread.resetting {
            return Effect::None;
        }
        match (offset, data) {
            (at::STATUS, &[status]) => return self.write_status(status),
            (at::QUEUE_DESCRIPTORS..0x38, &[a, b, c, d, e, f, g, h]) if offset.is_multiple_of(8) => {
                self.write_address(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_address(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            (_, &[a, b]) => self.write_half(offset, u16::from_le_bytes([a, b])),
            (_, &[a, b, c, d]) => self.write_word(offset, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
        Effect::None
    }

    fn write_word(&mut self, offset: u64, value: u32) {
        match offset {
            at::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            at::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            at::DRIVER_FEATURE if self.status & FEATURES_OK == 0 => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                let kept = self.accepted & !(u64::from(u32::MAX) << shift);
                self.accepted = kept | u64::from(value) << shift;
            }
            at::QUEUE_DESCRIPTORS.. if offset.is_multiple_of(4) => self.write_address(offset, value),
            _ => {}
        }
    }

    fn write_half(&mut self, offset: u64, value: u16) {
        match offset {
            at::CONFIG_VECTOR => self.interrupts.set_config_vector(value),
            at::QUEUE_SELECT => self.queue_select = value,
            at::QUEUE_VECTOR => self.interrupts.set_queue_vector(self.queue_select, value),
            at::QUEUE_SIZE => {
                let most = self.queue_sizes.get(usize::from(self.queue_select)).copied().unwrap_or(0);
                if let Some(queue) = self.open_queue().filter(|_| value.is_power_of_two() && value <= most) {
                    queue.setup.size = value;
                }
            }
            // A queue is only disabled by a reset.
            at::QUEUE_ENABLE if value == 1 => {
                if let Some(queue) = self.open_queue() {
                    queue.enabled = true;
                }
            }
            _ => {}
        }
    }

    /// One half of a queue's address.
    fn write_address(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.open_queue() else { return };
        let address = match offset & !7 {
            at::QUEUE_DESCRIPTORS => &mut queue.setup.descriptors,
            at::QUEUE_AVAILABLE => &mut queue.setup.available,
            at::QUEUE_USED => &mut queue.setup.used,
            _ => return,
        };
        let shift = if offset & 4 == 0 { 0 } else { 32 };
        *address = *address & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
    }

    /// The selected queue, if it may still be set up.
    fn open_queue(&mut self) -> Option<&mut QueueRegisters> {
        let is_time = self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK;
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| is_time && !queue.enabled)
    }

    fn write_status(&mut self, status: u8) -> Effect {
        if status == 0 {
            let was_used = self.is_active();
            self.reset();
            return if was_used { Effect::Reset } else { Effect::None };
        }
        let news = status & !self.status;
        // Bits are never taken back (2.1.1), and the device alone sets NEEDS_RESET.
        self.status |= status & !(FEATURES_OK | DRIVER_OK | NEEDS_RESET);
        if news & FEATURES_OK != 0 && self.features_are_fine() {
            self.status |= FEATURES_OK;
        }
        if news & DRIVER_OK != 0 && self.status & FEATURES_OK != 0 {
            self.status |= DRIVER_OK;
            return Effect::Activate;
        }
        Effect::None
    }

    /// Whether the driver accepts no more than what is offered, and what it must.
    fn features_are_fine(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & feature::VERSION_1 != 0
    }

    fn reset(&mut self) {
        (self.device_feature_select, self.driver_feature_select) = (0, 0);
        (self.accepted, self.status, self.queue_select) = (0, 0, 0);
        let fresh = |&size: &u16| QueueRegisters {
            setup: QueueSetup { size, ..QueueSetup::default() },
            enabled: false,
        };
        self.queues = self.queue_sizes.iter().map(fresh).collect();
        self.interrupts.reset();
    }
}

/// The half of the feature bits that is selected; there are two.
fn half_of(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
