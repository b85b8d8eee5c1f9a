//! The payload console: one byte a write to port 0xe9.

use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use tessera_abi::port;

use super::gates;

/// Writes whole pieces of text; several CPUs may.
pub struct Console;

static TURN: AtomicU64 = AtomicU64::new(0);

impl Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        gates::print(port::CONSOLE, text.as_bytes());
        Ok(())
    }
}

/// Prints text as one piece. A CPU that cannot get its turn for a while (the holder may have been restarted
/// by INIT) prints anyway.
pub fn print(text: core::fmt::Arguments<'_>) {
    for _ in 0..1_000_000 {
        if TURN.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            break;
        }
        core::hint::spin_loop();
    }
    let _ = Console.write_fmt(text);
    TURN.store(0, Ordering::Release);
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::runtime::console::print(format_args!("{}\n", format_args!($($text)*)))
    };
}
