//! What makes a machine out of bare vCPUs: a few instructions of ring 0, and in ring 3 the console, memory,
//! the other CPUs, time and waiting. After `ring0.s` has entered ring 3, everything is ordinary Rust.

pub mod arena;
pub mod block;
pub mod boot;
pub mod clock;
pub mod console;
pub mod exit;
pub mod gates;
pub mod interrupts;
pub mod intrinsics;
pub mod machine;
pub mod paging;
pub mod pci;
pub mod registers;
pub mod sync;
pub mod virtio;
