//! A folder of the host in the guest: virtio-9p (virtio 1.2, 5.14 by reference), with the protocol 9P2000.L as Linux speaks it.
//!
//! The driver puts a message into a queue, with room for the answer. [`wire`] takes messages apart and puts answers together,
//! [`request`] has the messages, [`fids`] what the guest has names for, [`folder`] what is done on the host, and [`server`]
//! brings them together.
//!
//! Nothing outside the folder can be reached: every path is opened anew from the folder's own descriptor, with openat2 and
//! RESOLVE_BENEATH, no symbolic link is followed (the guest's kernel does that itself, inside the guest), and no file system
//! that is mounted below is entered. Only regular files and folders are opened. Files belong to the user that Tessera runs as;
//! the guest cannot change owners, and cannot make devices or files that run as somebody else.

mod config;
mod device;
mod error;
mod fids;
mod folder;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use config::TAG_BYTES_MAX;
pub use device::device;
pub use error::P9Error;
pub use folder::{Changes, Folder};
