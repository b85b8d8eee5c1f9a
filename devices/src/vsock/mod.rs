//! Sockets between guest and host: virtio-vsock (virtio 1.2, 5.10), streams only.
//!
//! On the host's side every port is a Unix socket, in the way of Firecracker:
//! - a guest that connects to port P of the host (CID 2) reaches the socket `PATH_P`, if somebody listens there;
//! - who connects to the socket `PATH` and writes `CONNECT P\n` reaches port P of the guest, and reads `OK N\n` when
//!   the guest has accepted; N is the port that the guest sees.
//!
//! - `packet`: a packet's head. `flow`: how much each side may still send; plain arithmetic.
//! - `host`: the Unix sockets. `link`: one connection. `switch`: all of them, and what each packet does.
//! - `device`: the engine between the queues and the switch.
//!
//! Bounds: [`LINKS_MAX`] connections, [`CALLERS_MAX`] that have not said yet what they want, [`BUFFER_BYTES`] in each that the
//! host has not taken, and as many answers to a guest's packets as fit in [`OUTBOX_MAX`]; then its packets wait.
//! Not: datagrams, seqpackets, connections between guests.

mod config;
mod device;
mod error;
mod flow;
mod host;
mod link;
mod packet;
mod switch;
#[cfg(test)]
mod tests;

pub use config::{BUFFER_BYTES, CALLERS_MAX, CID_MAX, CID_MIN, LINKS_MAX, OUTBOX_MAX, PATH_BYTES_MAX};
pub use device::device;
pub use error::VsockError;
pub use host::HostSockets;
