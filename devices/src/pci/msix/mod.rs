//! MSI-X (PCI Local Bus 3.0, 6.8.2): a table of messages in a function's memory, one for each vector.
//!
//! A vector that is signalled while it or the function is masked becomes pending, and is sent when it may be. A message
//! is an interrupt only if its address is one ([`message`]); any other would be a write to memory and is dropped.

mod device;
pub mod message;
mod table;
#[cfg(test)]
mod tests;

pub use device::{Msix, MsixPlace, CAPABILITY_ID, VECTORS_MAX};
