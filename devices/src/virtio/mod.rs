//! Virtio devices (virtio 1.2), modern only, on PCI.
//!
//! Three layers. The [transport] is what a driver sees: registers in a BAR. It is called by vCPUs, on whichever host
//! they run, and never waits. An [`Engine`] does a device's work, on a [thread] of its own on the
//! home node, where waiting for a page is fine. [Queues](queue) are what driver and engine share in guest memory.
//!
//! A kick is a bit and a bell: the vCPU that wrote it does not wait for what comes of it. A reset is asked for by the driver
//! and done by the engine when nothing is under way any more; until then the status does not read zero.

pub mod bell;
pub mod engine;
#[cfg(test)]
pub(crate) mod fuzzing;
pub mod interrupts;
pub mod model;
pub mod queue;
#[cfg(test)]
pub(crate) mod testing;
pub mod thread;
pub mod transport;

pub use engine::{Device, Driver, Engine, EngineError, Interest, Readiness, Reset, Watcher};
pub use model::{DeviceKind, Model};
pub use thread::DeviceThread;
pub use transport::{VirtioError, VirtioParts, VirtioPci};
