//! Descriptor chains, copied out of the ring and checked.

use std::ops::Deref;

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryBackend, GuestMemoryMmap};

use super::copy::Write;

/// A run of guest memory, all of it RAM; not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Where it starts.
    pub gpa: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ChainFault {
    /// It makes a loop, leaves the descriptor table, is longer than 4 GiB, or has indirect descriptors.
    #[error("it does not come to an end")]
    Endless,
    /// A descriptor for reading follows one for writing (virtio 1.2, 2.7.4.2).
    #[error("it has something to be read behind something to be written")]
    Order,
    /// A descriptor has no bytes.
    #[error("it has an empty buffer at {0:#x}")]
    Empty(u64),
    /// A descriptor's bytes are not all RAM.
    #[error("it has a buffer of {len:#x} bytes at {gpa:#x}, which is not all RAM")]
    NotRam {
        /// Where it starts.
        gpa: u64,
        /// Its length.
        len: u32,
    },
}

/// One thing that the driver asks for: buffers to be read, then buffers to be written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Its first descriptor, by which the driver knows it.
    pub head: u16,
    /// What the device may read.
    pub readable: Vec<Buffer>,
    /// What the device may write.
    pub writable: Vec<Buffer>,
}

impl Chain {
    /// Copies a chain out of the ring.
    pub(super) fn walk<M>(chain: DescriptorChain<M>, ram: &GuestMemoryMmap) -> Result<Chain, ChainFault>
    where
        M: Deref + Clone,
        M::Target: GuestMemory,
    {
        let mut copy = Chain { head: chain.head_index(), ..Chain::default() };
        // The iterator ends in silence where a chain is broken: one that is whole ends with a descriptor that has no next.
        let mut is_whole = false;
        for descriptor in chain {
            copy.push(descriptor, ram)?;
            is_whole = !descriptor.has_next();
        }
        is_whole.then_some(copy).ok_or(ChainFault::Endless)
    }

    fn push(&mut self, descriptor: Descriptor, ram: &GuestMemoryMmap) -> Result<(), ChainFault> {
        let (start, len) = (descriptor.addr(), descriptor.len());
        if len == 0 {
            return Err(ChainFault::Empty(start.0));
        }
        if !GuestMemoryBackend::check_range(ram, start, len as usize) {
            return Err(ChainFault::NotRam { gpa: start.0, len });
        }
        let buffer = Buffer { gpa: start.0, len };
        match (descriptor.is_write_only(), self.writable.is_empty()) {
            (true, _) => self.writable.push(buffer),
            (false, true) => self.readable.push(buffer),
            (false, false) => return Err(ChainFault::Order),
        }
        Ok(())
    }

    /// Bytes to be read.
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|buffer| u64::from(buffer.len)).sum()
    }

    /// Bytes to be written.
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|buffer| u64::from(buffer.len)).sum()
    }

    /// Where `bytes` go that belong at `offset` of what is to be written. What does not fit is left out.
    pub(super) fn writes<'b>(&self, mut offset: u64, mut bytes: &'b [u8]) -> Vec<Write<'b>> {
        let mut writes = Vec::new();
        for buffer in &self.writable {
            let len = u64::from(buffer.len);
            if offset >= len {
                offset -= len;
                continue;
            }
            let count = bytes.len().min((len - offset) as usize);
            let (here, rest) = bytes.split_at(count);
            if !here.is_empty() {
                writes.push(Write { gpa: buffer.gpa + offset, bytes: here });
            }
            (offset, bytes) = (0, rest);
        }
        writes
    }
}
