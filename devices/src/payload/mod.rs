//! Two ports for bare-metal payloads, which have neither ACPI nor a serial driver.
//!
//! - [`port::CONSOLE`](tessera_abi::port::CONSOLE): every byte written goes to the guest's console; a read gives
//!   the port's number.
//! - [`port::EXIT`](tessera_abi::port::EXIT): a 32-bit write ends the guest with that status, 0 = passed. Narrower
//!   writes are ignored: a status cut in half must not look like a pass.

mod device;
#[cfg(test)]
mod tests;

pub use device::{PayloadConsole, PayloadExit};
