//! One guest's node: KVM, boot, interrupts, time, the node process, the command line, the API.

pub mod api;
pub mod boot;
pub mod cli;
pub mod control;
pub mod cpuid;
pub mod daemon;
pub mod host;
pub mod kvm;
pub mod launch;
pub mod machine;
pub mod time;
pub mod vcpu;
pub mod worker;
