//! One vCPU on this node: resident (it runs here) or proxy (it runs elsewhere, and this one stands in for it).
//!
//! - [`thread`](self): the loop of the vCPU's thread: mail, then one step as resident or as proxy.
//! - `resident`: one KVM_RUN of the guest and what its exit asks for.
//! - `proxy`: parked in KVM_RUN until something arrives, then drained by the [`stub`] and relayed.
//! - `moves`: carries out what [`tessera_migration::handover`] decides.
//! - [`mailbox`]: how other threads reach the vCPU's thread.

mod core;
pub mod mailbox;
mod moves;
mod proxy;
mod resident;
pub mod stub;
mod surroundings;
mod thread;

pub use core::{VcpuCore, VcpuError};
pub use mailbox::{Mail, Mailbox, Transit, VcpuMove};
pub use surroundings::{DeviceAccess, Interrupt, Surroundings};
pub use thread::{spawn, VcpuPlace};
