//! What runs inside a stock Linux guest: a first process that needs no other user space, and the programs
//! that it runs to find out whether the machine under it is one machine.
//!
//! `tessera-guest-init` is static. As process 1 it takes its orders from the kernel's command line (see
//! [`init`]); elsewhere `tessera-guest-init --program mgs:m=500:n=500` runs one program.

pub mod cpus;
pub mod frames;
pub mod init;
pub mod json;
pub mod kmsg;
pub mod memory;
pub mod modules;
pub mod orders;
pub mod programs;
pub mod random;
pub mod shell;
pub mod spin;
pub mod trouble;
