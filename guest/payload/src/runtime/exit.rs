//! The ways out: a status to port 0xf4, always after a line that says why.

use core::sync::atomic::{AtomicBool, Ordering};

use tessera_abi::port;

use super::block::Block;
use super::gates;
use crate::say;

/// Why the payload ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// All tests passed.
    Passed = 0,
    /// A test found what must not be.
    Failed = 1,
    /// The command line asks for something that cannot be done.
    Usage = 2,
    /// Something did not happen in time.
    Hang = 3,
    /// A CPU took an exception.
    Exception = 4,
    /// The payload itself is wrong.
    Panic = 5,
}

/// Ends the run.
pub fn exit(status: Status) -> ! {
    loop {
        gates::exit(port::EXIT, status as u32);
    }
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// Says why and ends the run; of several CPUs that fail at once the first is heard.
pub fn fail(status: Status, why: core::fmt::Arguments<'_>) -> ! {
    if ENDING.swap(true, Ordering::AcqRel) {
        loop {
            core::hint::spin_loop();
        }
    }
    say!("TESSERA-FAILED {status:?}: {why}");
    exit(status)
}

/// Where `ring0.s` leads a CPU that took an exception.
#[unsafe(no_mangle)]
extern "C" fn exception_main(block: &'static Block) -> ! {
    let e = &block.exception;
    let word = |word: &core::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
    fail(
        Status::Exception,
        format_args!(
            "cpu {} (apic id {}): vector {} error {:#x} rip {:#x} cs {:#x} rsp {:#x} cr2 {:#x}",
            block.index(),
            block.apic_id(),
            word(&e.vector),
            word(&e.error),
            word(&e.rip),
            word(&e.cs),
            word(&e.rsp),
            word(&e.cr2)
        ),
    )
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fail(Status::Panic, format_args!("{info}"))
}
