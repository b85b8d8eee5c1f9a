//! Why a queue cannot be used any more.

use tessera_dsm::pager::BorrowError;
use thiserror::Error;
use vm_memory::GuestMemoryError;

use super::chain::ChainFault;

/// Why a queue cannot be used any more.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The ring's place, size or indices make no sense.
    #[error("queue {queue}: {source}")]
    Ring {
        /// Its index.
        queue: u16,
        /// What is wrong.
        source: virtio_queue::Error,
    },
    /// A descriptor chain makes no sense.
    #[error("queue {queue}: the chain at descriptor {head}: {fault}")]
    Chain {
        /// The queue's index.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
        /// What is wrong.
        fault: ChainFault,
    },
    /// The driver offers more chains than there are descriptors.
    #[error("queue {queue}: more than {size} chains are offered at a time")]
    Flooded {
        /// Its index.
        queue: u16,
        /// Its size.
        size: u16,
    },
    /// Guest memory was not lent.
    #[error("guest memory cannot be borrowed: {0}")]
    Borrow(#[from] BorrowError),
    /// Guest memory that was lent could not be accessed.
    #[error("guest memory cannot be accessed: {0}")]
    Memory(#[from] GuestMemoryError),
}

impl QueueError {
    /// Whether the cause is the guest's end, and not the guest.
    pub fn is_end(&self) -> bool {
        matches!(self, QueueError::Borrow(BorrowError::Stopped))
    }
}
