//! What a device's thread is told.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::virtio::bell::Bell;
use crate::virtio::engine::Driver;

/// What a device's thread is to do.
pub(super) enum Order {
    /// Work for this driver.
    Activate(Box<Driver>),
    /// Let go of the driver.
    Reset,
    /// End.
    Quit,
}

/// Orders and kicks on their way to a device's thread.
pub(super) struct Inbox {
    bell: Bell,
    /// A bit for each queue that was kicked.
    kicks: AtomicU64,
    /// Few: the registers give no second driver before the first is let go.
    orders: Mutex<VecDeque<Order>>,
    resetting: AtomicBool,
    needs_reset: AtomicBool,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Inbox {
            bell: Bell::new()?,
            kicks: AtomicU64::new(0),
            orders: Mutex::default(),
            resetting: AtomicBool::new(false),
            needs_reset: AtomicBool::new(false),
        })
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        self.bell.ring();
    }

    pub(super) fn kick(&self, queue: u16) {
        if u32::from(queue) < u64::BITS {
            self.kicks.fetch_or(1 << queue, Ordering::SeqCst);
            self.bell.ring();
        }
    }

    pub(super) fn begin_reset(&self) {
        if !self.resetting.swap(true, Ordering::SeqCst) {
            self.order(Order::Reset);
        }
    }

    pub(super) fn is_resetting(&self) -> bool {
        self.resetting.load(Ordering::SeqCst)
    }

    pub(super) fn end_reset(&self) {
        self.needs_reset.store(false, Ordering::SeqCst);
        self.resetting.store(false, Ordering::SeqCst);
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(super) fn set_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
    }

    pub(super) fn next_order(&self) -> Option<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The queues that were kicked since the last call.
    pub(super) fn take_kicks(&self) -> impl Iterator<Item = u16> {
        let kicks = self.kicks.swap(0, Ordering::SeqCst);
        (0..64).filter(move |queue| kicks >> queue & 1 != 0)
    }
}
